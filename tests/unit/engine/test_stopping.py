"""Versions that are stopped and started as a whole: what lost is stopped, and what serves again is started."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from rollouts.engine.observation import Blocker, Refused
from rollouts.engine.planning import plan
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import LoserPolicy
from rollouts.engine.rollout_status import Phase, RolloutStatus
from tests.kit.fleet import Fleet
from tests.kit.world import World, spec
from tests.unit.engine.test_capacity import STEPS, V1, V2, come, to

STOP = LoserPolicy(delay=timedelta(minutes=1))


def settled() -> World:
    made = World(
        spec=spec(*STEPS, target="v1", stop=STOP),
        fleets={V1: Fleet.of("v1", 1), V2: Fleet.of("v2", 1)},
    )
    for fleet in made.fleets.values():
        fleet.stops = True
    made.settle()
    return made


def promoted() -> World:
    made = settled()
    to(made, "v2")
    made.say("promoteFull")
    for _ in range(3):
        come(made, V2)
    assert made.status.reason == Reason.PROMOTED
    return made


def test_what_lost_is_stopped_after_its_delay_and_again_when_somebody_starts_it() -> None:
    made = promoted()
    assert made.fleets[V1].scales == []
    made.advance(70)
    assert made.fleets[V1].scales == [0]

    made.fleets[V1].replicas, made.fleets[V1].version = 1, made.fleets[V1].version + 1
    made.fleets[V1].follow()
    made.advance(10)

    assert made.fleets[V1].scales == [0, 0]
    said = [event.message for event in made.events if event.reason == Reason.REPLICAS_RESTORED]
    assert said == ["somebody started Service v1 again; it lost, and is stopped"]


def test_stable_is_started_where_it_was_stopped_by_us() -> None:
    made = promoted()
    made.fleets[V2].scale(0)
    made.step()

    assert made.fleets[V2].scales == [0, 1]


@pytest.mark.parametrize(
    ("refused", "problem", "words"),
    [
        ("quota exceeded", None, "the API server refuses to start it: quota exceeded"),
        (
            "",
            Blocker(reason=Reason.CAPACITY_UNKNOWN, message="its group is not known"),
            "it is not started: its group is not known",
        ),
        ("", None, "HAS NO READY ENDPOINT: NOBODY SERVES until it has one"),
    ],
)
def test_what_keeps_stable_from_its_start_is_in_the_status(
    refused: str, problem: Blocker | None, words: str
) -> None:
    made = promoted()
    made.fleets[V2].scale(0)
    made.fleets[V2].settle()
    made.fleets[V2].refused = refused
    shown = made.observe()
    view = replace(shown.workloads[V2], problem=problem)
    decided = plan(replace(shown, workloads={**shown.workloads, V2: view}), made.now)

    assert words in decided.status.message


@pytest.mark.parametrize("readable", [True, False])
def test_a_canary_whose_rollout_is_deleted_is_owed_a_stop(readable: bool) -> None:
    made = settled()
    to(made, "v2")
    come(made, V2)
    assert made.status.phase is Phase.PAUSED
    made.deleting = True
    if not readable:
        made.spec = None
    made.advance(1)
    made.advance(40)

    assert made.fleets[V2].scales == ([0] if readable else [])


def test_a_rollout_that_is_deleted_with_nothing_in_progress_still_stops_what_lost() -> None:
    made = promoted()
    made.deleting = True
    made.advance(40)

    assert made.fleets[V1].scales == [0]
    assert not made.finalizer


def test_a_stop_that_is_not_asked_for_any_more_is_left() -> None:
    made = promoted()
    assert made.spec is not None
    made.edit(replace(made.spec, canary=replace(made.spec.canary, stop=None)))
    made.advance(100)

    assert made.fleets[V1].scales == []
    assert made.status.scale_downs == ()


STARTING = Blocker(reason=Reason.SERVICE_STARTING, message="v2 was stopped, and is started again")


def stopped_canary() -> World:
    """Aborted, and stopped for it; its retry waits for nothing but its start."""
    made = settled()
    to(made, "v2")
    come(made, V2)
    made.say("abort")
    made.advance(70)
    assert made.fleets[V2].scales == [0]
    made.blockers = (STARTING,)
    return made


def test_a_stopped_canary_that_somebody_gave_weight_starts_when_that_is_taken_away() -> None:
    made = stopped_canary()
    made.rules = [{V1: 100, V2: 100}]
    made.refuses = Refused(reason=Reason.TRAFFIC_REFUSED, message="a policy says no")
    made.say("retry")
    made.advance(60)
    assert made.fleets[V2].scales == [0]

    made.refuses = None
    made.advance(60)

    assert (made.share_of(V2), made.fleets[V2].scales) == (0, [0, 1])


def test_what_the_api_server_says_to_a_start_is_in_the_status() -> None:
    made = stopped_canary()
    made.fleets[V2].refused = "quota exceeded"
    made.say("retry")

    assert made.status.reason == Reason.SERVICE_STARTING
    assert "is started again; the API server refuses that: quota exceeded" in made.status.message


def test_a_split_that_a_rollout_was_made_with_keeps_nobody_from_starting() -> None:
    made = settled()
    made.status = RolloutStatus()
    made.rules = [{V1: 90, V2: 10}]
    made.fleets[V2].scale(0)
    made.blockers = (STARTING,)
    assert made.spec is not None
    made.spec = replace(made.spec, stable_hint="v1", target=replace(made.spec.target, name="v2"))
    made.settle()
    made.say("resume")
    made.advance(10)

    assert (made.status.reason, made.fleets[V2].scales) == (Reason.SERVICE_STARTING, [0, 1])
