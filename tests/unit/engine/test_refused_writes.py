"""What a plan says of a write that the API server has just refused: its words, once as an Event, and no other try."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from rollouts.engine.actions import (
    CreateRun,
    EmitEvent,
    Plan,
    ReleaseTraffic,
    ReturnTraffic,
    SetFinalizer,
)
from rollouts.engine.observation import Claim, Problem, Refused
from rollouts.engine.planning import plan
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import OnDelete, TrafficMode
from rollouts.engine.rollout_status import WaitingFor
from tests.kit.world import World, analysis, background, pause, pool, spec, weight

V1, V2 = pool("v1"), pool("v2")
GATE = Refused(reason=Reason.GATE_INVALID, message="AnalysisRun x: exceeded quota")
TRAFFIC = Refused(reason=Reason.TRAFFIC_REFUSED, message="the API server refuses the write: frozen")


def again(world: World, **refused: Refused) -> Plan:
    """The plan with the refusal, and the status that it stores."""
    decided = plan(replace(world.observe(), **refused), world.now)
    world.status = decided.status
    return decided


def told(decided: Plan, reason: Reason) -> int:
    return sum(isinstance(one, EmitEvent) and one.reason == reason for one in decided.actions)


def at_its_gate() -> World:
    world = World(spec=spec(weight(50), analysis(), weight(80)))
    for _ in range(30):
        if any(isinstance(one, CreateRun) for one in plan(world.observe(), world.now).actions):
            return world
        world.step()
    raise AssertionError("no gate")


def test_a_gate_that_is_not_made_is_told_once_in_the_phase_that_it_holds_up() -> None:
    world = at_its_gate()
    first, second = again(world, gate_refused=GATE), again(world, gate_refused=GATE)

    for decided in (first, second):
        assert not any(isinstance(one, CreateRun) for one in decided.actions)
        assert (decided.status.phase.value, decided.status.reason) == ("Progressing", "GateInvalid")
        assert "exceeded quota" in decided.status.message
    assert (told(first, Reason.GATE_INVALID), told(second, Reason.GATE_INVALID)) == (1, 0)


def test_beside_a_refused_route_the_words_of_that_are_shown() -> None:
    decided = again(at_its_gate(), gate_refused=GATE, refused=TRAFFIC)

    assert not any(isinstance(one, CreateRun) for one in decided.actions)
    assert decided.status.reason != Reason.GATE_INVALID
    assert told(decided, Reason.GATE_INVALID) == 0


def test_no_step_ends_without_the_background_run_that_is_not_made() -> None:
    world = World(spec=spec(weight(10), pause(5), weight(50), target="v1", analysis=background()))
    world.settle()
    assert world.spec is not None
    world.edit(replace(world.spec, target=replace(world.spec.target, name="v2")))
    world.gates.clear()
    for _ in range(20):
        for action in again(world, gate_refused=GATE).actions:
            world.perform(action)
        world.now += timedelta(seconds=10)

    assert world.share_of(V2) * 100 == 10
    assert world.status.reason == Reason.GATE_INVALID


def test_a_weight_waits_for_the_background_run_that_is_not_made_and_has_no_deadline() -> None:
    """A person ended the pause, after somebody had deleted the run."""
    world = World(spec=spec(weight(10), pause(), weight(50), pause(), target="v1", analysis=background()))
    world.settle()
    assert world.spec is not None
    world.edit(replace(world.spec, target=replace(world.spec.target, name="v2")))
    world.settle()
    world.gates.clear()
    world.tell("promote")
    for _ in range(20):
        for action in again(world, gate_refused=GATE).actions:
            world.perform(action)
        world.now += timedelta(minutes=10)

    assert world.share_of(V2) * 100 == 10
    assert (world.status.waiting_for, world.status.reason) == (WaitingFor.ANALYSIS, Reason.GATE_INVALID)

    world.settle()
    assert world.share_of(V2) * 100 == 50


def test_a_refused_gate_changes_no_plan_that_makes_none() -> None:
    world = World(spec=spec(weight(50), pause()))
    world.settle()

    assert plan(replace(world.observe(), gate_refused=GATE), world.now) == plan(world.observe(), world.now)


@pytest.mark.parametrize("readable", [True, False])
def test_a_route_that_may_not_be_let_go_is_told_once(readable: bool) -> None:
    world = World(
        spec=spec(weight(50), pause(), mode=TrafficMode.MANAGED, on_delete=OnDelete.DELETE_TRAFFIC),
        rules=[{V1: 100, V2: 0}],
        claim=Claim.OURS,
    )
    world.settle()
    if not readable:
        world.spec, world.problems = None, (Problem(reason=Reason.SPEC_INVALID, message="no duration"),)
        world.served = False
    world.on_delete, world.deleting = OnDelete.DELETE_TRAFFIC, True
    assert any(isinstance(one, ReleaseTraffic) for one in plan(world.observe(), world.now).actions)
    first, second = again(world, refused=TRAFFIC), again(world, refused=TRAFFIC)

    for decided in (first, second):
        assert not any(isinstance(one, ReleaseTraffic | SetFinalizer) for one in decided.actions)
        assert decided.status.reason == Reason.TRAFFIC_REFUSED
        assert "frozen. It is tried again; annotate" in decided.status.message
    assert (told(first, Reason.TRAFFIC_REFUSED), told(second, Reason.TRAFFIC_REFUSED)) == (1, 0)


def test_a_finalizer_that_may_not_be_taken_off_is_told() -> None:
    world = World(spec=spec(weight(50), pause()))
    world.settle()
    world.deleting = True
    for _ in range(5):
        if SetFinalizer(present=False) in plan(world.observe(), world.now).actions:
            break
        world.step()
    decided = again(world, refused=TRAFFIC)

    assert not any(isinstance(one, SetFinalizer) for one in decided.actions)
    assert decided.status.message == TRAFFIC.message
    assert told(decided, Reason.TRAFFIC_REFUSED) == 1


def test_what_goes_back_to_stable_comes_before_the_finalizer() -> None:
    world = World(spec=spec(weight(50), pause()))
    world.settle()
    world.finalizer = False
    world.tell("abort")
    kinds = [type(one) for one in plan(world.observe(), world.now).actions]

    assert kinds.index(ReturnTraffic) < kinds.index(SetFinalizer)
