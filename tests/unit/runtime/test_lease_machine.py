from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rollouts.runtime.clock import Monotonic
from rollouts.runtime.lease import (
    VACANT,
    LeaseAction,
    LeaseConfig,
    LeaseMachine,
    LeaseRecord,
    LeaseStep,
    Role,
)
from tests.kit.clock import EPOCH

CONFIG = LeaseConfig(namespace="ns", name="controller")


def lease(
    holder: str = "other", *, rv: str = "7", duration: Any = 15, renewed: str = "t1", **spec: Any
) -> Any:
    return {
        "metadata": {"resourceVersion": rv},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": duration, "renewTime": renewed, **spec},
    }


class Driver:
    """A machine and the time, without any I/O."""

    def __init__(self, config: LeaseConfig = CONFIG) -> None:
        self.machine = LeaseMachine(config, "me", random.Random(1))
        self.now = 100.0
        self.wall = EPOCH

    def step(self) -> LeaseStep:
        """The next step that is not a wait."""
        while (step := self.machine.next(Monotonic(self.now), self.wall)).action is LeaseAction.WAIT:
            self.now += step.seconds
        return step

    def read(self, obj: Any) -> None:
        assert self.step().action is LeaseAction.READ
        self.machine.on_read(obj, Monotonic(self.now))

    def missing(self) -> None:
        assert self.step().action is LeaseAction.READ
        self.machine.on_missing(Monotonic(self.now))

    def stored(self, *, rv: str = "8", took: float = 0.0, want: LeaseAction = LeaseAction.UPDATE) -> Any:
        """Answer the create or update that is due, after ``took`` seconds."""
        step, sent = self.step(), self.now
        assert step.action is want
        assert step.body is not None
        self.now += took
        self.machine.on_written(
            {**step.body, "metadata": {"resourceVersion": rv}}, Monotonic(sent), Monotonic(self.now)
        )
        return step.body

    def lead(self) -> Driver:
        self.read(lease(""))
        self.stored()
        assert self.machine.role is Role.LEADER
        return self


@pytest.fixture
def it() -> Driver:
    return Driver()


def test_a_free_lease_is_taken_at_once_with_the_version_that_was_read(it: Driver) -> None:
    it.read(lease("", rv="41", leaseTransitions=6))

    body = it.stored()

    assert it.now == 100.0
    assert body["metadata"] == {"resourceVersion": "41"}
    assert body["spec"]["holderIdentity"] == "me"
    assert (it.machine.role, it.machine.epoch) == (Role.LEADER, 7)


def test_stamps_are_rfc3339_with_microseconds_and_z_even_when_these_are_zero(it: Driver) -> None:
    it.wall = datetime(2030, 1, 1, 2, 0, 0, 0, tzinfo=UTC).astimezone()
    it.read(lease(""))

    body = it.stored()

    assert body["spec"]["renewTime"] == body["spec"]["acquireTime"] == "2030-01-01T02:00:00.000000Z"


def test_another_s_lease_is_awaited_from_when_we_saw_it_change_for_its_own_duration(it: Driver) -> None:
    it.read(lease(duration=40))
    seen = it.now
    changes = 0
    while it.step().action is LeaseAction.READ:
        changed = changes == 0 and it.now > seen + 39
        if changed:
            changes, seen = 1, it.now
        it.machine.on_read(lease(duration=40, renewed=f"t{changes}"), Monotonic(it.now))

    assert changes == 1
    assert 40 <= it.now - seen < 40.6


def test_an_annotation_on_the_lease_is_no_renewal(it: Driver) -> None:
    it.read(lease(rv="7"))
    begun = it.now
    version = 7
    while it.step().action is LeaseAction.READ:
        version += 1
        it.machine.on_read(lease(rv=str(version)), Monotonic(it.now))

    assert 15 <= it.now - begun < 15.6
    assert it.step().body["metadata"] == {"resourceVersion": str(version)}  # type: ignore[index]


def test_the_wall_clock_decides_nothing(it: Driver) -> None:
    it.read(lease(renewed="1999-01-01T00:00:00Z"))
    it.wall += timedelta(hours=5)

    it.read(lease(renewed="1999-01-01T00:00:00Z"))

    assert it.machine.role is Role.CANDIDATE
    it.lead()
    it.wall -= timedelta(hours=9)
    assert it.step().action is LeaseAction.UPDATE


def test_our_lease_counts_from_when_the_request_was_sent(it: Driver) -> None:
    it.read(lease(""))
    sent = it.now

    it.stored(took=4)

    assert it.machine.write_until() == sent + 10
    assert it.machine.held_until() == sent + 15


def test_a_win_that_is_learned_too_late_is_none(it: Driver) -> None:
    """The process was stopped between sending and the answer: by now somebody else may lead."""
    it.read(lease(""))

    it.stored(took=11)

    assert it.machine.role is Role.CANDIDATE


def test_a_lease_that_names_us_is_ours_to_renew(it: Driver) -> None:
    """The answer to our own acquisition was lost on the way."""
    it.read(lease(""))
    it.machine.on_failure(Monotonic(it.now))

    it.read(lease("me", rv="8", leaseTransitions=1))
    it.stored()

    assert (it.machine.role, it.machine.epoch) == (Role.LEADER, 2)


def test_renewals_come_every_renew_period_and_keep_epoch_and_acquire_time(it: Driver) -> None:
    it.lead()
    first = it.now
    bodies = []
    times = []
    for number in range(3):
        it.wall += timedelta(seconds=3)
        bodies.append(it.stored(rv=str(10 + number), took=0.5))
        times.append(it.now - 0.5)

    assert times == [first + 3, first + 6, first + 9]
    assert {body["spec"]["leaseTransitions"] for body in bodies} == {it.machine.epoch}
    assert len({body["spec"]["acquireTime"] for body in bodies}) == 1
    assert len({body["spec"]["renewTime"] for body in bodies}) == 3
    assert [body["metadata"]["resourceVersion"] for body in bodies] == ["8", "10", "11"]


def test_a_leader_that_cannot_renew_stops_at_its_deadline_and_for_good(it: Driver) -> None:
    it.lead()
    begun = it.now
    attempts = 0
    while it.step().action is not LeaseAction.STOP:
        attempts += 1
        it.machine.on_failure(Monotonic(it.now))

    assert attempts >= 4
    assert it.now == begun + 10
    assert it.machine.role is Role.LOST
    assert "not renewed for 10.0 seconds" in it.machine.lost_because


def test_no_request_of_a_leader_outlasts_its_deadline(it: Driver) -> None:
    it.lead()
    begun = it.now
    while (step := it.step()).action is not LeaseAction.STOP:
        assert it.now + step.seconds <= begun + 10 + 1e-9
        it.now += step.seconds  # hangs until its time is up
        it.machine.on_failure(Monotonic(it.now))

    assert it.now == begun + 10


def test_a_429_is_waited_for_but_not_beyond_the_deadline(it: Driver) -> None:
    it.lead()
    begun = it.now
    it.step()

    it.machine.on_failure(Monotonic(it.now), at_least=1000)

    assert it.step().action is LeaseAction.STOP
    assert it.now == begun + 10


@pytest.mark.parametrize("holder", ["other", ""])
def test_a_leader_that_sees_another_holder_or_none_has_lost(it: Driver, holder: str) -> None:
    it.lead()
    assert it.step().action is LeaseAction.UPDATE
    it.machine.on_conflict(Monotonic(it.now))

    it.read(lease(holder, rv="9"))

    assert it.machine.role is Role.LOST
    assert "the lease is held by" in it.machine.lost_because


def test_a_conflict_without_another_holder_costs_a_look(it: Driver) -> None:
    it.lead()
    assert it.step().action is LeaseAction.UPDATE
    it.machine.on_conflict(Monotonic(it.now))
    it.read(lease("me", rv="99"))

    body = it.stored()

    assert body["metadata"] == {"resourceVersion": "99"}
    assert it.machine.role is Role.LEADER


def test_a_leader_makes_its_deleted_lease_again_with_its_epoch(it: Driver) -> None:
    it.read(lease("", leaseTransitions=4))
    it.stored()
    assert it.step().action is LeaseAction.UPDATE
    it.machine.on_missing(Monotonic(it.now))

    body = it.stored(want=LeaseAction.CREATE)

    assert body["metadata"] == {"name": "controller", "namespace": "ns"}
    assert body["spec"]["leaseTransitions"] == it.machine.epoch == 5


@pytest.mark.parametrize(
    ("sentence", "seen_duration", "want_wait"),
    [
        ("a fresh candidate waits a whole duration", None, 15),
        ("one that has seen the record waits for the record's", 60, 60),
        ("a shorter one does not shorten the wait", 1, 15),
    ],
)
def test_a_missing_lease_is_made_vacant_and_taken_when_no_leader_can_be_left(
    it: Driver, sentence: str, seen_duration: int | None, want_wait: float
) -> None:
    if seen_duration is not None:
        it.read(lease(duration=seen_duration, leaseTransitions=8))
    it.missing()
    begun = it.now
    body = it.stored(want=LeaseAction.CREATE, rv="20")
    made = {**body, "metadata": {"resourceVersion": "20"}}
    while it.step().action is LeaseAction.READ:
        it.machine.on_read(made, Monotonic(it.now))
    taken = it.stored()

    assert (body["spec"]["holderIdentity"], body["spec"]["leaseDurationSeconds"]) == (VACANT, want_wait)
    assert want_wait <= it.now - begun < want_wait + 0.6, sentence
    assert taken["metadata"] == {"resourceVersion": "20"}
    assert it.machine.role is Role.LEADER
    assert it.machine.epoch == (10 if seen_duration else 1)


def test_a_lease_deleted_again_starts_the_wait_anew(it: Driver) -> None:
    it.missing()
    it.stored(want=LeaseAction.CREATE)
    it.now += 14
    it.missing()
    body = it.stored(want=LeaseAction.CREATE)
    it.now += 14

    it.read({**body, "metadata": {"resourceVersion": "8"}})

    assert it.step().action is LeaseAction.READ


def test_a_leader_takes_back_what_was_made_vacant_behind_its_back(it: Driver) -> None:
    it.lead()
    epoch = it.machine.epoch
    assert it.step().action is LeaseAction.UPDATE
    it.machine.on_missing(Monotonic(it.now))
    assert it.step().action is LeaseAction.CREATE
    it.machine.on_conflict(Monotonic(it.now))
    it.read(lease(VACANT, rv="31"))

    body = it.stored()

    assert body["metadata"] == {"resourceVersion": "31"}
    assert body["spec"]["leaseTransitions"] == epoch
    assert it.machine.role is Role.LEADER


@pytest.mark.parametrize(
    ("sentence", "spec", "want_holder", "want_duration", "want_transitions"),
    [
        ("no spec at all is a free lease", None, "", 15, 0),
        ("a spec of the wrong type too", [], "", 15, 0),
        ("a holder of the wrong type is somebody", {"holderIdentity": 5}, "(unreadable)", 15, 0),
        ("zero seconds", {"holderIdentity": "a", "leaseDurationSeconds": 0}, "a", 15, 0),
        ("no number", {"holderIdentity": "a", "leaseDurationSeconds": "9"}, "a", 15, 0),
        ("true is no number", {"holderIdentity": "a", "leaseDurationSeconds": True}, "a", 15, 0),
        ("for ever is an hour", {"holderIdentity": "a", "leaseDurationSeconds": 2**31}, "a", 3600, 0),
        ("a negative count", {"holderIdentity": "a", "leaseTransitions": -4}, "a", 15, 0),
    ],
)
def test_records_of_any_content_are_read_cautiously(
    sentence: str, spec: Any, want_holder: str, want_duration: float, want_transitions: int
) -> None:
    record = LeaseRecord.parse({"spec": spec}, default_duration=15)

    assert (record.holder, record.duration, record.transitions) == (
        want_holder,
        want_duration,
        want_transitions,
    ), sentence


def test_an_answer_that_names_somebody_else_is_no_win(it: Driver) -> None:
    it.read(lease(""))
    assert it.step().action is LeaseAction.UPDATE

    it.machine.on_written(lease("webhook"), Monotonic(it.now), Monotonic(it.now))

    assert it.machine.role is Role.CANDIDATE
    assert it.step().action is LeaseAction.READ


def test_a_release_names_nobody_and_keeps_the_epoch(it: Driver) -> None:
    it.lead()

    body = it.machine.release_body(it.wall)

    assert body["metadata"] == {"resourceVersion": "8"}
    assert (body["spec"]["holderIdentity"], body["spec"]["leaseDurationSeconds"]) == ("", 1)
    assert body["spec"]["leaseTransitions"] == it.machine.epoch


@pytest.mark.parametrize(
    "wrong",
    [
        {"renew_deadline": 15.0},
        {"renew_period": 5.0},
        {"renew_period": 0.0},
        {"retry_period": 6.0},
        {"retry_period": 0.0},
        {"request_timeout": 6.0},
        {"request_timeout": 0.0},
        {"poll_period": 0.0},
        {"duration": 7200},
    ],
)
def test_times_that_are_not_safe_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        LeaseConfig(namespace="ns", name="x", **wrong)


def test_an_identity_is_needed() -> None:
    with pytest.raises(ValueError, match="empty identity"):
        LeaseMachine(CONFIG, "", random.Random(1))


def test_who_holds_the_lease_says_so_with_each_write_and_a_vacant_one_says_nothing():
    config = LeaseConfig(namespace="ns", name="controller", annotations={"said": "by me"})
    it = Driver(config)
    it.missing()
    assert "annotations" not in (it.step().body or {})["metadata"]
    it = Driver(config)
    it.read(lease(""))
    taken = it.step().body or {}
    it.stored()
    renewed = it.step().body or {}

    assert it.machine.role is Role.LEADER
    assert [body["metadata"]["annotations"] for body in (taken, renewed)] == [{"said": "by me"}] * 2
