"""A status that contradicts itself is read as far as it makes sense, and the rollout goes on from there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rollouts.engine.attempt import AbortRecord, Attempt
from rollouts.engine.mending import mended
from rollouts.engine.revision import revision_of
from rollouts.engine.rollout_status import HoldReason, Phase, RolloutStatus
from tests.kit.world import START, World, changed, pause, pool, spec, weight

STABLE, CANARY = (revision_of(pool(name), "") for name in ("v1", "v2"))
ABORT = AbortRecord(hash=CANARY.hash, step=0, at=START, reason="GateFailed", message="x")
RUNNING = RolloutStatus(
    phase=Phase.PROGRESSING, stable=STABLE, current=Attempt(canary=CANARY, started_at=START)
)


@pytest.mark.parametrize(
    "status",
    [
        RolloutStatus(),
        RUNNING,
        replace(RUNNING, phase=Phase.PAUSED, hold=HoldReason.COMMAND),
        changed(replace(RUNNING, phase=Phase.ABORTED), aborted=ABORT),
        changed(replace(RUNNING, phase=Phase.WAITING), started_at=None),
        RolloutStatus(phase=Phase.HEALTHY, stable=STABLE),
        RolloutStatus(phase=Phase.WAITING),
        RolloutStatus(phase=Phase.PAUSED, hold=HoldReason.AMBIGUOUS_START),
        RolloutStatus(phase=Phase.PAUSED, stable=STABLE, hold=HoldReason.SPLIT_AT_START),
        RolloutStatus(phase=Phase.INVALID, stable=STABLE),
    ],
)
def test_a_status_that_the_engine_writes_is_left_alone(status: RolloutStatus) -> None:
    assert mended(status) == status


@pytest.mark.parametrize(
    ("scribbled", "phase", "hold"),
    [
        (RolloutStatus(phase=Phase.NEW, stable=STABLE), Phase.INVALID, None),
        (replace(RUNNING, phase=Phase.HEALTHY), Phase.INVALID, None),
        (changed(RUNNING, started_at=None), Phase.INVALID, None),
        (replace(RUNNING, phase=Phase.WAITING), Phase.INVALID, None),
        (replace(RUNNING, phase=Phase.ABORTED), Phase.INVALID, None),
        (replace(RUNNING, stable=None), Phase.INVALID, None),
        (replace(RUNNING, hold=HoldReason.SPLIT_AT_START), Phase.PROGRESSING, None),
        (replace(RUNNING, hold=HoldReason.AMBIGUOUS_START), Phase.PROGRESSING, None),
        (
            RolloutStatus(phase=Phase.HEALTHY, stable=STABLE, hold=HoldReason.SPLIT_AT_START),
            Phase.INVALID,
            HoldReason.SPLIT_AT_START,
        ),
    ],
)
def test_a_status_that_contradicts_itself(
    scribbled: RolloutStatus, phase: Phase, hold: HoldReason | None
) -> None:
    found = mended(scribbled)

    assert (found.phase, found.hold) == (phase, hold)
    assert found.canary is None or found.stable is not None


def test_a_canary_without_a_stable_version_is_looked_at_afresh() -> None:
    world = World(spec=spec(weight(10), pause()), status=replace(RUNNING, stable=None))
    world.settle()

    assert (world.status.stable.identity, world.status.canary.identity) == (pool("v1"), pool("v2"))


def test_a_route_that_goes_while_the_start_is_ambiguous_is_waited_for() -> None:
    world = World(spec=spec(target="v3"), rules=[{pool("v1"): 50, pool("v2"): 50}])
    world.pools[pool("v3")] = 4
    world.settle()

    assert world.status.hold is HoldReason.AMBIGUOUS_START

    world.rules = None
    world.settle()

    assert (world.status.phase, world.status.reason, world.status.hold) == (
        Phase.WAITING,
        "RouteMissing",
        None,
    )
