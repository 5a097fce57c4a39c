"""Shared strategies in the engine: pinned when an attempt begins, and none begins without one."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from rollouts.engine.attempt import PinnedStrategy
from rollouts.engine.observation import Blocker, StrategyView
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import Step
from rollouts.engine.rollout_status import CommandResult, Phase
from rollouts.units import ZERO
from tests.kit.world import World, pause, pool, spec, weight

MISSING = Blocker(reason=Reason.STRATEGY_MISSING, message="RolloutStrategy careful does not exist: create it")
FIRST: tuple[Step, ...] = (weight(10), pause(), weight(50))
LATER: tuple[Step, ...] = (weight(30), pause())


def pinned(text: str) -> PinnedStrategy:
    return PinnedStrategy(kind="RolloutStrategy", name="careful", hash=text, content="{}")


def world(**fields) -> World:
    made = World(spec(*FIRST), **fields)
    made.settle()
    return made


def view(now: str, *steps: Step, used: str = "a") -> StrategyView:
    return StrategyView(used=pinned(used), next=pinned(now), spec=spec(*steps))


def test_an_attempt_keeps_what_it_began_with():
    found = world(strategy=view("a", *FIRST))
    assert found.status.current is not None
    assert found.status.current.strategy == pinned("a")
    found.strategy = view("b", *LATER)
    found.settle()
    assert found.status.current.strategy == pinned("a")
    assert found.status.step_count == 3


def test_the_next_attempt_begins_with_what_there_is_then():
    found = world(strategy=view("a", *FIRST))
    found.say("abort")
    found.strategy = view("b", *LATER)
    found.command = ""
    found.say("retry")
    assert found.status.attempt == 2
    assert found.status.current is not None
    assert found.status.current.strategy == pinned("b")


def test_none_begins_without_one_and_the_status_says_what_to_do():
    found = world(strategy=StrategyView(used=None, problem=MISSING))
    assert (found.status.phase, found.status.reason) == (Phase.WAITING, "StrategyMissing")
    assert found.status.message == MISSING.message
    assert (found.status.attempt, found.status.current, found.writes) == (0, None, [])
    found.strategy = view("a", *FIRST)
    found.settle()
    assert found.status.attempt == 1


def test_the_next_target_waits_at_stable_however_long():
    found = world(strategy=view("a", *FIRST), pools={pool("v1"): 4, pool("v2"): 4, pool("v3"): 0})
    found.spec = spec(*FIRST, target="v3")
    found.rules = [{**rule, pool("v3"): 0} for rule in found.rules or []]
    found.strategy = StrategyView(used=None, problem=MISSING)
    found.settle()
    found.advance(timedelta(hours=30).total_seconds())
    found.settle()
    assert (found.status.phase, found.status.reason) == (Phase.WAITING, "StrategyMissing")
    assert (found.status.current, found.status.target_wait) == (None, None)
    assert found.share_of(pool("v2")) == ZERO


def test_a_retry_is_rejected_while_there_is_none():
    found = world(strategy=view("a", *FIRST))
    found.say("abort")
    found.strategy = StrategyView(used=pinned("a"), problem=MISSING)
    found.command = ""
    found.say("retry")
    assert found.status.phase is Phase.ABORTED
    last = found.status.last_command
    assert last is not None
    assert (last.result, last.message) == (CommandResult.REJECTED, MISSING.message)


def test_a_reference_that_is_taken_away_is_pinned_no_longer():
    found = world(strategy=view("a", *FIRST))
    found.strategy = None
    found.settle()
    assert found.status.current is not None
    assert found.status.current.strategy is None


def test_a_target_that_never_was_ready_is_given_up_by_what_is_known():
    found = World(spec(*FIRST, target_deadline=timedelta(hours=1)), pools={pool("v1"): 4, pool("v2"): 0})
    found.strategy = replace(view("a", *FIRST), spec=found.spec)
    found.settle()
    found.advance(7200)
    found.settle()
    assert found.status.phase is Phase.ABORTED
    found.strategy = StrategyView(used=None, problem=MISSING)
    found.settle()
    assert found.status.phase is Phase.ABORTED
