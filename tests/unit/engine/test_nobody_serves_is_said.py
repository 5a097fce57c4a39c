"""When nobody serves, a Warning says so once, in whichever phase that comes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from rollouts.engine.actions import EventType
from rollouts.engine.observation import Blocker, PathView, PoolView
from rollouts.engine.planning import plan
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_status import Phase
from tests.kit.world import START, World, pause, pool, spec, weight

DOWN = Blocker(reason=Reason.PICKER_NOT_READY, message="no pod behind Service v2-epp is Ready")


def at_pause() -> World:
    world = World(spec=spec(weight(10), pause(), weight(50)))
    world.settle()
    return world


def waiting() -> World:
    world = World(spec=spec(weight(10), pause()))
    world.pools[pool("v2")] = 0
    world.settle()
    return world


def aborted() -> World:
    world = at_pause()
    assert world.status.canary is not None
    world.command = f'{{"action":"abort","revision":"{world.status.canary.hash}"}}'
    world.settle()
    return world


def settled() -> World:
    world = World(spec=spec(weight(10), target="v1"))
    world.settle()
    return world


def warnings(world: World) -> list[str]:
    return [event.reason for event in world.events if event.type is EventType.WARNING]


@pytest.mark.parametrize("make", [at_pause, waiting, aborted, settled])
@pytest.mark.parametrize("gone", ["StablePoolMissing", "StableNotReady"])
def test_one_warning_and_another_when_it_comes_again(make: Callable[[], World], gone: str) -> None:
    world = make()
    world.events.clear()
    before = dict(world.pools)
    for _ in range(2):
        if gone == "StablePoolMissing":
            del world.pools[pool("v1")]
        if pool("v2") in world.pools:
            world.pools[pool("v2")] = 0
        world.pools |= {} if gone == "StablePoolMissing" else {pool("v1"): 0}
        world.settle()
        world.advance(60)
        assert warnings(world).count(gone) == 1, world.events
        world.events.clear()
        world.pools |= before
        world.settle()
        world.events.clear()


def test_a_first_target_without_its_pool_waits_and_is_not_called_stable() -> None:
    world = World(spec=spec(weight(10), target="v1"))
    observed = world.observe()
    blocker = Blocker(reason="PoolMissing", message="InferencePool p does not exist: create it")
    view = PoolView(identity=pool("v1"), exists=False, blockers=(blocker,))
    missing = {**observed.pools, pool("v1"): view}
    planned = plan(replace(observed, pools=missing), START)

    assert planned.status.stable is None
    assert (planned.status.phase, planned.status.reason) == (Phase.WAITING, "PoolMissing")
    assert not [action for action in planned.actions if "Traffic" in type(action).__name__]


@pytest.mark.parametrize("make", [at_pause, waiting, aborted, settled])
def test_a_stable_picker_without_a_ready_pod_is_said_in_every_phase(make: Callable[[], World]) -> None:
    """Its pods are Ready, and the gateway answers with an error all the same."""
    world = make()
    world.events.clear()
    if world.status.weight.applied and world.status.canary is not None:
        world.paths[pool("v2")] = PathView(problems=(DOWN,), picker_down=True)
    world.paths[pool("v1")] = PathView(picker_down=True)
    world.settle()
    ready = next(item for item in world.status.conditions if item.type == "Ready")

    assert (ready.status, ready.reason) == ("False", "StablePickerNotReady")
    assert warnings(world).count("StablePickerNotReady") == 1

    world.paths.clear()
    world.advance(5)

    assert "StablePickerNotReady" not in {item.reason for item in world.status.conditions}


OUT = Blocker(reason=Reason.SERVICE_STOPPED, message="v1 is stopped")


def test_a_stable_that_gets_no_requests_whatever_its_weight_is_said_in_these_words() -> None:
    world = settled()
    world.pools[pool("v1")], world.troubles[pool("v1")] = 0, (OUT,)
    world.settle()

    assert "STABLE v1 GETS NO REQUESTS: v1 is stopped" in [event.message for event in world.events]


def test_nothing_goes_back_to_a_stable_that_gets_no_requests() -> None:
    world = at_pause()
    world.pools[pool("v1")], world.troubles[pool("v1")] = 0, (OUT,)
    writes = len(world.writes)
    assert world.status.canary is not None
    world.command = f'{{"action":"abort","revision":"{world.status.canary.hash}"}}'
    world.settle()

    applied = next(item for item in world.status.conditions if item.type == "TrafficApplied")
    assert len(world.writes) == writes
    assert (applied.reason, applied.message) == (
        "StableNotReady",
        "STABLE v1 GETS NO REQUESTS (v1 is stopped): weights stay as they are until then",
    )


def test_what_keeps_requests_from_a_carrying_canary_is_said_and_holds_every_rise() -> None:
    world, said = at_pause(), Blocker(reason=Reason.GROUP_DIVERGES, message="v2 serves sql and v1 llama")
    world.troubles[pool("v2")] = (said,)
    world.settle()
    ready = next(item for item in world.status.conditions if item.type == "TargetReady")
    assert (ready.status, ready.reason, ready.message) == ("False", "GroupDiverges", said.message)

    weights = list(world.weights)
    assert world.status.canary is not None
    world.command = f'{{"action":"promote","revision":"{world.status.canary.hash}","attempt":1}}'
    world.settle()
    assert world.weights == weights

    world.troubles.clear()
    world.advance(5)
    assert world.weights[-1] > weights[-1]


def test_a_canary_with_a_picker_of_its_own_serves_while_stables_is_down() -> None:
    world = at_pause()
    world.paths[pool("v1")] = PathView(picker_down=True)
    world.settle()

    assert "StablePickerNotReady" not in warnings(world)
