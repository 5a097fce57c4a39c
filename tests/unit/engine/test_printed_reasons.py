"""No state is read back from a printed reason: with other words in its place the same is decided."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rollouts.engine.actions import EmitEvent, Plan
from rollouts.engine.attempt import PathAlarm
from rollouts.engine.observation import GateOutcome, ShareView
from rollouts.engine.planning import plan
from rollouts.engine.rollout_status import HoldReason, RolloutStatus, SettledBy, WaitingFor
from tests.kit.world import Honest, World, analysis, background, changed, pause, spec, weight

STEPS = (weight(10), pause(30), weight(50))


def paused_by_spec() -> World:
    world = World(spec=spec(weight(10), weight(50), paused=True))
    world.settle()
    world.advance(300)
    world.spec = spec(weight(10), weight(50))
    return world


def paused_in_a_step() -> World:
    world = World(spec=spec(*STEPS), programmed=False)
    world.settle()
    world.advance(60)
    world.edit(spec(*STEPS, paused=True))
    world.settle()
    world.advance(300)
    world.spec = spec(*STEPS)
    return world


def without_traffic(share: ShareView | None) -> World:
    world = World(spec=spec(weight(10), weight(50)), share=share)
    world.settle()
    world.advance(2400)
    return world


def nobody_asks() -> World:
    return without_traffic(ShareView(canary=0, stable=3, seconds=60.0))


def nobody_counts() -> World:
    return without_traffic(None)


def somebody_asks_at_last() -> World:
    """The step has had a minute of its own, with a canary that could not serve, before nobody asked for it."""
    world = without_traffic(ShareView(canary=0, stable=3, seconds=60.0))
    world.change(step_started_at=world.current.step_started_at - timedelta(minutes=1))
    world.share = Honest.SPLIT
    return world


def unearned() -> World:
    world = World(spec=spec(weight(10), analysis=background(), progress_deadline=timedelta(minutes=5)))
    while not world.gates:
        world.step()
    world.gates = {name: replace(gate, may_pass=False) for name, gate in world.gates.items()}
    world.settle()
    world.advance(900)
    return world


def uncompared() -> World:
    world = World(spec=spec(weight(10), analysis=background()), background_compares=True)
    world.settle()
    world.advance(4000)
    return world


def refuted() -> World:
    world = World(spec=spec(weight(10), pause()))
    world.settle()
    world.share = ShareView(canary=500, stable=500, seconds=600.0)
    world.settle()
    return world


def promoted() -> World:
    world = World(spec=spec(weight(10)))
    world.settle()
    world.advance(60)
    return world


def initialized() -> World:
    world = World(spec=spec(weight(10), target="v1"))
    world.settle()
    return world


def alarmed() -> World:
    world = World(spec=spec(weight(50), pause()))
    world.settle()
    world.share = ShareView(canary=0, stable=5000, seconds=600.0)
    world.step()
    return world


def held() -> World:
    world = World(spec=spec(weight(10), analysis(), weight(50)))
    world.settle()
    world.judge(GateOutcome.PAUSE)
    world.advance(3600)
    return world


STATES: dict[Callable[[], World], Callable[[RolloutStatus], Any]] = {
    paused_by_spec: lambda status: status.waiting_for is WaitingFor.SPEC,
    paused_in_a_step: lambda status: status.waiting_for is WaitingFor.SPEC,
    nobody_asks: lambda status: status.waiting_for is WaitingFor.REQUESTS,
    nobody_counts: lambda status: status.waiting_for is WaitingFor.COUNTS,
    somebody_asks_at_last: lambda status: status.waiting_for is WaitingFor.REQUESTS,
    uncompared: lambda status: status.waiting_for is WaitingFor.ANALYSIS,
    unearned: lambda status: status.waiting_for is WaitingFor.ANALYSIS,
    refuted: lambda status: status.current.path.refuted,
    promoted: lambda status: status.settled_by is SettledBy.PROMOTED,
    initialized: lambda status: status.settled_by is SettledBy.INITIALIZED,
    alarmed: lambda status: status.current.path.alarm_kind is PathAlarm.NOT_PROGRAMMED,
    held: lambda status: status.hold is HoldReason.GATE_FAILED,
}


def garbled(status: RolloutStatus) -> RolloutStatus:
    conditions = tuple(replace(item, reason="Garbled") for item in status.conditions)
    status = replace(status, reason="Garbled", conditions=conditions)
    return status if status.current is None else alarmed_as(status, f"Garbled{status.current.path.alarm}")


def alarmed_as(status: RolloutStatus, alarm: str) -> RolloutStatus:
    assert status.current is not None
    return changed(status, path=replace(status.current.path, alarm=alarm))


def told(decided: Plan) -> tuple[Any, ...]:
    """A plan without the Event that repeats the status's own words, and without words about words."""
    said = decided.status.message
    actions = [item for item in decided.actions if not (isinstance(item, EmitEvent) and item.message == said)]
    plain = replace(decided.status, conditions=())
    return actions, decided.requeue_after, alarmed_as(plain, "") if plain.current is not None else plain


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_other_words_change_no_decision(state):
    world = state()
    assert STATES[state](world.status)
    seen = world.observe()

    for seconds in (0, 400, 4000):
        now = world.now + timedelta(seconds=seconds)
        assert told(plan(replace(seen, status=garbled(seen.status)), now)) == told(plan(seen, now))


def test_an_event_is_told_again_when_other_words_were_said():
    """The one thing that looks at what was printed: it is about printing."""
    world = nobody_asks()
    seen = world.observe()
    events = [
        [action.reason for action in plan(replace(seen, status=status), world.now).actions]
        for status in (seen.status, garbled(seen.status))
    ]

    assert events == [[], ["NoTraffic"]]
    assert all(isinstance(action, EmitEvent) for action in plan(seen, world.now).actions)
