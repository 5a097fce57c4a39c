"""Cron schedules of windows: five fields as crontab(5) has them, times by APScheduler's trigger. Pure.

APScheduler counts weekdays from Monday and reads its day fields together where cron reads either. So each field is
expanded here, by cron's rules, to the values that it means; weekdays go on by their names; and a schedule that sets
both day fields is refused, since people mean "and" by it and cron does "or".
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger

from rollouts.engine.observation import WindowView
from rollouts.engine.rollout_spec import Window

__all__ = ["LONGEST_WINDOW", "SHORTEST_WINDOW", "check_window", "window_view"]

SHORTEST_WINDOW, LONGEST_WINDOW = timedelta(minutes=1), timedelta(days=7)
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
_HORIZON = timedelta(days=8 * 366)
"""29 February comes within eight years, 1900 and 2100 considered; what does not come by then never does."""
_LONGEST_TEXT = 128
_JOINED = 8
"""Windows that adjoin and are looked through for where they end; further ones are found when that has come."""

_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_PART = re.compile(
    r"(?P<any>\*)(/(?P<every>\d{1,2}))?|(?P<first>\w{1,3})(-(?P<last>\w{1,3})(/(?P<step>\d{1,2}))?)?"
)


def _values(text: str, what: str, low: int, high: int, names: Sequence[str] = ()) -> list[int]:
    """The values that a field means. ``high`` 7 of weekdays is Sunday, too. Raises ValueError."""

    def number(word: str) -> int:
        named = [names.index(word) + low] if word in names else []
        value = int(word) if word.isdigit() else next(iter(named), -1)
        if not low <= value <= high:
            among = f"{low} to {high}" + (f" or {names[0]} to {names[-1]}" if names else "")
            raise ValueError(f"{what} {word!r} is not one of {among}")
        return value

    found: set[int] = set()
    for part in text.lower().split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(f"{what} {part!r} is neither *, a value, nor a range such as 1-5 or */15")
        if match["any"]:
            first, last, step = low, high, int(match["every"] or 1)
        else:
            first = number(match["first"])
            last, step = number(match["last"]) if match["last"] else first, int(match["step"] or 1)
        if step == 0 or last < first:
            raise ValueError(f"{what} {part!r} is empty: a range goes up, by 1 at least")
        found |= set(range(first, last + 1, step))
    return sorted(found)


def _fields(schedule: str) -> dict[str, str]:
    """The trigger's fields. Raises ValueError with what is wrong."""
    fields = schedule.split()
    if len(schedule) > _LONGEST_TEXT or len(fields) != 5:
        raise ValueError("a schedule has five fields: minute, hour, day of the month, month, day of the week")
    minute, hour, day, month, weekday = fields
    if day != "*" and weekday != "*":
        raise ValueError(
            "day of the month and day of the week are both set: cron takes either, people mean both; leave one *"
        )
    weekdays = sorted({(value - 1) % 7 for value in _values(weekday, "day of the week", 0, 7, _DAYS)})
    return {
        "minute": _compact(_values(minute, "minute", 0, 59), 60),
        "hour": _compact(_values(hour, "hour", 0, 23), 24),
        "day": _compact(_values(day, "day of the month", 1, 31), 31),
        "month": _compact(_values(month, "month", 1, 12, _MONTHS), 12),
        # The trigger's Monday is 0: by name nobody has to know.
        "day_of_week": "*" if len(weekdays) == 7 else ",".join(_DAYS[(value + 1) % 7] for value in weekdays),
    }


def _compact(values: list[int], whole: int) -> str:
    """The values in the trigger's words, few of them: it looks at each one at each step."""
    step = values[1] - values[0] if len(values) > 1 else 1
    if len(values) == whole:
        return "*"
    if len(values) > 2 and values == list(range(values[0], values[-1] + 1, step)):
        return f"{values[0]}-{values[-1]}/{step}"
    return ",".join(map(str, values))


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        raise ValueError(
            f"timeZone {name!r} is not in the time zone database; write one as Europe/Berlin"
        ) from None


@functools.lru_cache(maxsize=1024)
def _trigger(schedule: str, zone: str) -> CronTrigger:
    return CronTrigger(**_fields(schedule), timezone=_zone(zone))


def _next(trigger: CronTrigger, after: datetime) -> datetime | None:
    """The first moment of the schedule at ``after`` or later, in UTC; None when none comes."""
    found: datetime | None = trigger.get_next_fire_time(None, after.astimezone(trigger.timezone))
    return None if found is None else found.astimezone(UTC)


def check_window(window: Window) -> str:
    """What is wrong with a window; empty for nothing."""
    if not SHORTEST_WINDOW <= window.duration <= LONGEST_WINDOW:
        return "duration must be from 1m to 7d"
    try:
        fields, zone = _fields(window.schedule), _zone(window.time_zone)
    except ValueError as error:
        return str(error)
    # Without an end the search for 31 February would go on to the year 9999.
    limited = CronTrigger(**fields, timezone=zone, end_date=_EPOCH + _HORIZON)
    return "" if _next(limited, _EPOCH) is not None else f"schedule {window.schedule!r} never comes"


def window_view(windows: Sequence[Window], now: datetime) -> WindowView | None:
    """The window that is open at ``now``, else the next one; None without windows. All must be sound.

    A window is open for its duration in elapsed time, whatever clocks are turned meanwhile.
    """
    spans = [span for window in windows if (span := _span(window, now)) is not None]
    if not spans:
        return None
    open_now = [span for span in spans if span[0] <= now]
    if open_now:
        return WindowView(
            opens_at=min(span[0] for span in open_now), closes_at=max(span[1] for span in open_now)
        )
    opens, closes, zone = min(spans)
    return WindowView(
        opens_at=opens, closes_at=closes, local=f"{opens.astimezone(_zone(zone)):%a %H:%M} {zone}"
    )


def _span(window: Window, now: datetime) -> tuple[datetime, datetime, str] | None:
    """When the window opens, or did, and closes, and in whose time it was written."""
    trigger = _trigger(window.schedule, window.time_zone)
    # Open now is what began less than its duration ago.
    opens = _next(trigger, now - window.duration + timedelta(microseconds=1))
    if opens is None:
        return None
    last, closes = opens, opens + window.duration
    for _ in range(_JOINED if opens <= now else 0):
        following = _next(trigger, last + timedelta(seconds=1))
        if following is None or following > closes:
            break
        last, closes = following, following + window.duration
    return opens, closes, window.time_zone
