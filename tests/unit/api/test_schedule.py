"""Windows: what a schedule means, by cron's rules and across changes of the clocks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollouts.api.schedule import check_window, window_view
from rollouts.engine.rollout_spec import Window

HOUR = timedelta(hours=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"{text}+00:00")


def window(schedule: str, duration: timedelta = HOUR, zone: str = "UTC") -> Window:
    return Window(schedule=schedule, duration=duration, time_zone=zone)


def opens(schedule: str, now: str, *, duration: timedelta = HOUR, zone: str = "UTC") -> str:
    view = window_view([window(schedule, duration, zone)], at(now))
    assert view is not None
    assert view.opens_at > at(now)
    return f"{view.opens_at:%a %Y-%m-%dT%H:%M}"


@pytest.mark.parametrize(
    ("schedule", "now", "says"),
    [
        # 2026-03-02 is a Monday. Cron's 0 and 7 are Sunday, 1 is Monday.
        ("0 9 * * 1", "2026-03-01T12:00", "Mon 2026-03-02T09:00"),
        ("0 9 * * 0", "2026-03-02T12:00", "Sun 2026-03-08T09:00"),
        ("0 9 * * 7", "2026-03-02T12:00", "Sun 2026-03-08T09:00"),
        ("0 9 * * mon-fri", "2026-03-06T12:00", "Mon 2026-03-09T09:00"),
        ("0 9 * * 1-5", "2026-03-06T12:00", "Mon 2026-03-09T09:00"),
        ("0 9 * * 0-2", "2026-03-03T12:00", "Sun 2026-03-08T09:00"),
        ("0 9 * * 5-7", "2026-03-06T12:00", "Sat 2026-03-07T09:00"),
        ("0 9 * * Tue,THU", "2026-03-03T12:00", "Thu 2026-03-05T09:00"),
        ("0 9 * * */2", "2026-03-01T12:00", "Tue 2026-03-03T09:00"),  # Sun, Tue, Thu, Sat as cron has it
        ("0 9 15 * *", "2026-03-02T12:00", "Sun 2026-03-15T09:00"),
        ("0 9 */10 * *", "2026-03-02T12:00", "Wed 2026-03-11T09:00"),
        ("0 9 31 * *", "2026-04-01T12:00", "Sun 2026-05-31T09:00"),
        ("0 9 29 feb *", "2026-03-02T12:00", "Tue 2028-02-29T09:00"),
        ("*/45 22-23 * 3 *", "2026-03-02T12:00", "Mon 2026-03-02T22:00"),
        ("30 2 1,15 jan,jul *", "2026-03-02T12:00", "Wed 2026-07-01T02:30"),
    ],
)
def test_the_next_window_is_cron_s(schedule, now, says):
    assert opens(schedule, now) == says


def meant(field: str, low: int, high: int) -> set[int]:
    """The values of a field by crontab(5): the reference, without a trigger."""
    found: set[int] = set()
    for part in field.split(","):
        base, _, step = part.partition("/")
        first, _, last = (str(low), "-", str(high)) if base == "*" else base.partition("-")
        found |= set(range(int(first), int(last or first) + 1, int(step or 1)))
    return found


def fields(low: int, high: int) -> st.SearchStrategy[str]:
    value = st.integers(low, high)
    ranges = st.tuples(value, value, st.integers(1, 3)).map(
        lambda parts: f"{min(parts[:2])}-{max(parts[:2])}/{parts[2]}"
    )
    return st.one_of(st.just("*"), value.map(str), st.integers(1, 9).map(lambda step: f"*/{step}"), ranges)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(fields(0, 59), fields(0, 23), fields(0, 7), st.integers(0, 365 * 24 * 60))
def test_it_opens_at_the_first_minute_that_cron_would_take(minute, hour, weekday, passed):
    now = at("2026-01-01T00:00") + timedelta(minutes=passed, seconds=30)
    view = window_view([window(f"{minute} {hour} * * {weekday}", timedelta(minutes=1))], now)
    minutes, hours, days = meant(minute, 0, 59), meant(hour, 0, 23), meant(weekday, 0, 7)
    today = now.replace(hour=0, minute=0, second=0)
    # A window of a minute that began at this minute's beginning is open now; else the next one.
    moments = (
        moment
        for day in range(9)
        if {(today + timedelta(days=day)).isoweekday(), (today + timedelta(days=day)).isoweekday() % 7} & days
        for one in sorted(hours)
        for other in sorted(minutes)
        if (moment := today + timedelta(days=day, hours=one, minutes=other)) > now - timedelta(minutes=1)
    )
    assert view is not None
    assert view.opens_at == next(moments)


@pytest.mark.parametrize(
    ("schedule", "duration", "zone", "says"),
    [
        ("0 9 * *", HOUR, "UTC", "has five fields"),
        ("0 9 * * * *", HOUR, "UTC", "has five fields"),
        ("0 9 1 * 1", HOUR, "UTC", "both set: cron takes either, people mean both; leave one *"),
        ("0 9 * * 8", HOUR, "UTC", "day of the week '8' is not one of 0 to 7 or sun to sat"),
        ("0 9 * * fri-mon", HOUR, "UTC", "'fri-mon' is empty: a range goes up"),
        ("60 9 * * *", HOUR, "UTC", "minute '60' is not one of 0 to 59"),
        ("0 24 * * *", HOUR, "UTC", "hour '24' is not one of 0 to 23"),
        ("0 9 * 13 *", HOUR, "UTC", "month '13' is not one of 1 to 12 or jan to dec"),
        ("0 9 0 * *", HOUR, "UTC", "day of the month '0' is not one of 1 to 31"),
        ("0 9 last * *", HOUR, "UTC", "day of the month"),
        ("0 9 2nd * *", HOUR, "UTC", "day of the month"),
        ("*/0 9 * * *", HOUR, "UTC", "'*/0' is empty"),
        ("5/10 9 * * *", HOUR, "UTC", "neither *, a value, nor a range"),
        ("@daily", HOUR, "UTC", "has five fields"),
        ("0 9 31 2 *", HOUR, "UTC", "never comes"),
        ("0 9 30 feb *", HOUR, "UTC", "never comes"),
        ("0 9 * * *", timedelta(0), "UTC", "duration must be from 1m to 7d"),
        ("0 9 * * *", timedelta(days=8), "UTC", "duration must be from 1m to 7d"),
        ("0 9 * * *", HOUR, "Europe/Bärlin", "timeZone 'Europe/Bärlin' is not in the time zone database"),
        ("0 9 * * *", HOUR, "../../etc/passwd", "is not in the time zone database"),
        ("0 9 * * *", HOUR, "", "is not in the time zone database"),
        ("0 9 * * *", HOUR, "Europe", "is not in the time zone database"),
        ("9" * 200, HOUR, "UTC", "has five fields"),
    ],
)
def test_what_is_wrong_is_named(schedule, duration, zone, says):
    assert says in check_window(window(schedule, duration, zone))


@given(st.text(max_size=40), st.text(max_size=20))
@settings(max_examples=50, deadline=None)
def test_whatever_is_written_gets_an_answer(schedule, zone):
    assert isinstance(check_window(window(schedule, zone=zone)), str)


def test_a_window_is_open_from_its_first_moment_to_before_its_last():
    nine = [window("0 9 * * *", 8 * HOUR)]
    for moment, is_open in (
        ("2026-03-02T08:59:59.999999", False),
        ("2026-03-02T09:00:00", True),
        ("2026-03-02T16:59:59.999999", True),
        ("2026-03-02T17:00:00", False),
    ):
        view = window_view(nine, at(moment))
        assert view is not None
        assert (view.opens_at <= at(moment) < view.closes_at) is is_open, moment


def test_windows_that_overlap_or_adjoin_are_one():
    view = window_view([window("0 * * * *", HOUR)], at("2026-03-02T12:30"))
    assert view is not None
    assert view.closes_at - view.opens_at > 4 * HOUR  # as far as was looked: it is open, and stays so
    two = [window("0 9 * * *", 2 * HOUR), window("0 10 * * *", 3 * HOUR)]
    view = window_view(two, at("2026-03-02T10:30"))
    assert view is not None
    assert (view.opens_at, view.closes_at) == (at("2026-03-02T09:00"), at("2026-03-02T13:00"))


def test_of_several_the_next_counts_and_says_its_own_time():
    found = window_view(
        [window("0 9 * * *", zone="America/New_York"), window("0 9 * * *", zone="Europe/Berlin")],
        at("2026-01-05T12:00"),
    )
    assert found is not None
    assert found.opens_at == at("2026-01-05T14:00")
    assert found.local == "Mon 09:00 America/New_York"


# --- clocks that are turned ------------------------------------------------------------------------

BERLIN = "Europe/Berlin"


def test_a_window_keeps_its_local_time_across_the_turn_of_the_clocks():
    """Clocks go forward on 29 March 2026 and back on 25 October."""
    assert opens("0 9 * * *", "2026-03-28T12:00", zone=BERLIN) == "Sun 2026-03-29T07:00"  # 9:00 CEST
    assert opens("0 9 * * *", "2026-03-27T12:00", zone=BERLIN) == "Sat 2026-03-28T08:00"  # 9:00 CET
    assert opens("0 9 * * *", "2026-10-24T12:00", zone=BERLIN) == "Sun 2026-10-25T08:00"
    assert opens("0 9 * * *", "2026-10-23T12:00", zone=BERLIN) == "Sat 2026-10-24T07:00"


def test_an_hour_that_is_left_out_opens_the_window_when_it_would_have_come():
    assert opens("30 2 * * *", "2026-03-28T12:00", zone=BERLIN) == "Sun 2026-03-29T01:30"  # 3:30 CEST
    assert opens("30 2 * * *", "2026-03-29T12:00", zone=BERLIN) == "Mon 2026-03-30T00:30"


def test_an_hour_that_comes_twice_opens_it_at_the_first():
    assert opens("30 2 * * *", "2026-10-24T12:00", zone=BERLIN) == "Sun 2026-10-25T00:30"  # 2:30 CEST
    view = window_view([window("30 2 * * *", HOUR, BERLIN)], at("2026-10-25T00:45"))
    assert view is not None
    assert view.opens_at == at("2026-10-25T00:30")


def test_a_duration_is_elapsed_time_whatever_the_clocks_do():
    for evening, closes in (
        ("2026-03-28T22:00", "2026-03-29T06:00"),
        ("2026-10-24T22:00", "2026-10-25T06:00"),
    ):
        view = window_view([window("0 22 * * *", 8 * HOUR)], at(evening))
        assert view is not None
        assert view.closes_at == at(closes)
    spring = window_view([window("0 22 * * *", 8 * HOUR, BERLIN)], at("2026-03-28T21:30"))
    assert spring is not None
    assert spring.closes_at - spring.opens_at == 8 * HOUR  # 22:00 CET to 07:00 CEST


@pytest.mark.parametrize("zone", ["UTC", BERLIN, "Australia/Lord_Howe", "Asia/Kathmandu", "America/Santiago"])
def test_no_moment_of_a_year_is_without_an_answer(zone):
    every = window("15 */6 * * *", timedelta(hours=2), zone)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    opened = timedelta(0)
    while now < datetime(2027, 1, 1, tzinfo=UTC):
        view = window_view([every], now)
        assert view is not None
        assert view.closes_at > now
        # Where the clocks go forward at midnight, the window of that midnight is left out.
        assert view.opens_at - now < 14 * HOUR
        opened += 5 * HOUR if view.opens_at <= now else timedelta(0)
        now += 5 * HOUR
    assert abs(opened / HOUR - 365 * 24 / 3) < 25  # two hours of six
