"""An arm is ready when its pods and its picker are; a carrying canary that cannot serve loses its weight."""

from __future__ import annotations

from datetime import timedelta
from fractions import Fraction

import pytest

from rollouts.engine.carrying import LAST_DELAY, return_delay
from rollouts.engine.crashes import ODDS, RATE, crash_evidence
from rollouts.engine.observation import Blocker, Claim, CrashView, PathView
from rollouts.engine.rollout_spec import TrafficMode
from rollouts.engine.rollout_status import Phase
from tests.kit.world import World, pause, pool, spec, weight

V1, V2 = pool("v1"), pool("v2")
DOWN = Blocker(reason="PickerNotReady", message="no pod behind Service v2-epp is Ready")
OWN = PathView(problems=(DOWN,), picker_down=True)
SHARED = PathView(problems=(DOWN,))
TENTH = Fraction(1, 10)


def running(*steps, **fields):
    world = World(spec=spec(*(steps or (weight(10), pause(), weight(50))), **fields))
    world.settle()
    assert world.share_of(V2) > 0
    return world


def said(world, kind):
    return next(item for item in world.status.conditions if item.type == kind)


# --- the picker ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [OWN, SHARED], ids=["own picker", "shared picker"])
def test_no_attempt_starts_towards_a_picker_without_a_ready_pod(path):
    world = World(spec=spec(weight(1), pause()), paths={V2: path})
    world.advance(60)

    assert (world.status.phase, world.status.reason) == (Phase.WAITING, "PickerNotReady")
    assert world.weights == []
    assert (said(world, "TargetReady").status, said(world, "TargetReady").reason) == ("False", DOWN.reason)

    world.paths.clear()
    world.settle()

    assert (world.share_of(V2), world.status.reason) == (
        0,
        "TargetSettling",
    )  # gateways hear later than we do

    world.advance(3)

    assert world.share_of(V2) == Fraction(1, 100)


def test_a_target_that_never_lacked_anything_starts_at_once():
    world = World(spec=spec(weight(1), pause()))
    world.settle()

    assert world.share_of(V2) == Fraction(1, 100)


@pytest.mark.parametrize("trouble", ["picker", "pods"])
def test_what_comes_and_goes_while_a_target_is_waited_for_begins_the_seconds_anew(trouble):
    world = World(spec=spec(weight(1), pause()))

    def down(is_down):
        if trouble == "pods":
            world.pools[V2] = 0 if is_down else 4
        else:
            world.paths = {V2: OWN} if is_down else {}

    for _ in range(3):
        down(True)
        world.settle()
        world.advance(1)
        down(False)
        world.settle()
        world.advance(2)

        assert world.weights == []

    world.advance(1)

    assert world.share_of(V2) == Fraction(1, 100)


@pytest.mark.parametrize("down_for", [1, 30])
def test_after_an_outage_no_step_rises_before_gateways_can_have_heard(down_for):
    """Also where it was shorter than its grace, so that nothing was pulled, and a person goes on meanwhile."""
    world = running(weight(10), pause(), weight(50), pause())
    world.paths[V2] = OWN
    world.advance(down_for)
    world.paths.clear()
    world.say("promote")
    world.advance(2)

    assert world.share_of(V2) <= TENTH

    world.advance(2)

    assert world.share_of(V2) == Fraction(1, 2)


def test_no_weight_rises_while_the_shared_picker_is_down_and_none_is_pulled():
    world = running()
    world.paths[V2] = SHARED
    world.say("promote")
    world.advance(600)

    assert (world.status.current_step, world.status.reason) == (2, "PickerNotReady")
    assert world.share_of(V2) == TENTH

    world.paths.clear()
    world.settle()

    assert Fraction(1, 2) in {Fraction(value, 10_000) for value in world.weights}


def test_a_canary_whose_own_picker_is_down_goes_to_zero_after_two_seconds_and_keeps_its_step():
    world = running()
    world.paths[V2] = OWN
    world.advance(1)

    assert world.share_of(V2) == TENTH

    world.advance(2)

    assert world.share_of(V2) == 0
    assert (world.status.current_step, world.status.reason) == (1, "PickerNotReady")
    assert "PickerNotReady" in {event.reason for event in world.events}

    world.paths.clear()
    world.settle()

    assert world.share_of(V2) == 0

    world.advance(3)

    assert world.share_of(V2) == TENTH


def test_a_picker_that_stays_down_aborts_at_the_deadline():
    world = running(progress_deadline=timedelta(minutes=5))
    world.paths[V2] = OWN
    world.advance(3)
    world.advance(301)

    assert (world.status.phase, world.status.current.aborted.reason) == (
        Phase.ABORTED,
        "ProgressDeadlineExceeded",
    )
    assert "endpoint picker without a Ready pod" in world.status.current.aborted.message


def test_a_managed_route_that_is_made_again_gives_nothing_to_a_dead_picker():
    world = World(
        spec=spec(weight(10), pause(), mode=TrafficMode.MANAGED), rules=[{V1: 100}], claim=Claim.OURS
    )
    world.settle()
    world.rules = None
    world.paths[V2] = SHARED
    world.settle()

    assert world.rules is not None
    assert world.share_of(V2) == 0


def test_what_is_taken_on_trust_is_said():
    world = World(spec=spec(weight(10), pause()), paths={V2: PathView(note="a WasmPlugin is taken on trust")})
    world.settle()

    assert (said(world, "TargetReady").status, said(world, "TargetReady").message) == (
        "True",
        "a WasmPlugin is taken on trust",
    )


# --- refused connections, and flapping -------------------------------------------------------------


def test_refused_connections_pull_at_once():
    world = running()
    world.crashes[V2] = CrashView(pods=1, refusing=True)
    world.settle()

    assert world.share_of(V2) == 0
    assert world.status.reason == "CanaryRefusesConnections"


def test_each_return_needs_longer():
    world = running(weight(10), pause())
    waited = []
    for _ in range(4):
        world.pools[V2] = 0
        world.settle()
        world.advance(10)
        assert world.share_of(V2) == 0
        world.pools[V2] = 4
        world.settle()
        seconds = 0
        while world.share_of(V2) == 0:
            world.advance(5)
            seconds += 5
        waited.append(seconds)

    assert waited == [5, 30, 60, 120]  # in looks of 5 s; the first is SETTLE
    assert return_delay(40) == LAST_DELAY


def test_trouble_during_the_delay_begins_it_anew():
    world = running(weight(10), pause())
    for _ in range(2):
        world.pools[V2] = 0
        world.settle()
        world.advance(10)
        world.pools[V2] = 4
        world.settle()
        world.advance(3)
    world.advance(20)
    world.pools[V2] = 0
    world.settle()
    world.pools[V2] = 4
    world.settle()
    world.advance(20)

    assert world.share_of(V2) == 0
    assert "without trouble" in world.status.message

    world.advance(10)

    assert world.share_of(V2) == TENTH


# --- crashes ---------------------------------------------------------------------------------------


def crash(world, arm, restarts, *, pods=2, after=15.0):
    world.crashes[arm] = CrashView(pods=pods, restarts=restarts)
    world.advance(after)


def test_a_canary_that_crash_loops_is_aborted_with_stable_as_the_control():
    world = running(weight(10), pause())
    world.crashes[V1] = CrashView(pods=6)
    for restarts in (1, 2):
        crash(world, V2, restarts)

    assert world.status.phase is Phase.PAUSED

    crash(world, V2, 3)

    assert (world.status.phase, world.status.current.aborted.reason) == (Phase.ABORTED, "CanaryCrashed")
    assert "crashed 3 times" in world.status.current.aborted.message
    assert world.share_of(V2) == 0


def test_a_canary_that_crashes_as_stable_does_is_kept():
    world = running(weight(10), pause())
    for restarts in range(1, 12):
        crash(world, V1, restarts, after=15)
        crash(world, V2, restarts, after=15)

    assert world.status.phase is Phase.PAUSED


def test_restarts_of_before_the_attempt_and_pods_that_die_together_do_not_add_up():
    world = World(spec=spec(weight(10), pause()), crashes={V2: CrashView(pods=2, restarts=50)})
    world.settle()
    world.crashes[V2] = CrashView(pods=2, restarts=52)
    world.settle()
    crash(world, V2, 60, after=5)
    crash(world, V2, 10, after=60)  # pods went away with their counts

    assert world.status.current.canary_crashes.count == 1
    assert world.status.phase is Phase.PAUSED


@pytest.mark.parametrize(("canary", "stable"), [(1, 1), (1, 4), (2, 18), (0, 0), (7, 3)])
def test_the_evidence_is_a_fair_bet_while_both_versions_are_alike(canary, stable):
    """Its mean after one more crash is what it was before, so Ville's inequality holds at every look."""
    share = max(1, canary) / (max(1, canary) + max(1, stable))
    for ours, theirs in ((0, 0), (2, 1), (5, 0)):
        now = crash_evidence(ours, theirs, canary, stable)
        mean = share * crash_evidence(ours + 1, theirs, canary, stable)
        mean += (1 - share) * crash_evidence(ours, theirs + 1, canary, stable)
        assert mean == pytest.approx(now)


@pytest.mark.parametrize(("canary", "stable", "crashes"), [(1, 1, 5), (1, 4, 3), (2, 18, 2), (1, 500, 2)])
def test_how_many_crashes_end_an_attempt(canary, stable, crashes):
    assert (
        crash_evidence(crashes - 1, 0, canary, stable)
        < 1 / RATE
        <= crash_evidence(crashes, 0, canary, stable)
    )
    assert crash_evidence(10_000, 10_000, canary, stable) < ODDS**64
