"""GPU-hours of an attempt: what pods hold times how long, whatever happens in between (design section 14, rule 6)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from rollouts.api.status import read_status, write_status
from rollouts.engine.accelerator_use import spent
from rollouts.engine.planning import plan
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_status import AcceleratorUse
from tests.kit.world import START, World
from tests.unit.engine.test_capacity import V1, V2, come, started, to, world


def with_gpus(made: World, each: int = 2) -> World:
    for fleet in made.fleets.values():
        fleet.accelerators = each
    return made


def promoted_with_gpus() -> World:
    made = with_gpus(world())
    come(made, V2)
    made.say("promote")
    for _ in range(3):
        come(made, V2)
    assert made.status.reason == Reason.PROMOTED
    return made


def used(made: World) -> AcceleratorUse:
    use = made.status.accelerators
    assert use is not None
    return use


def test_what_is_held_is_counted_from_the_first_pod_that_is_wanted():
    made = with_gpus(world())
    made.settle()
    assert (used(made).attempt, used(made).held, used(made).own) == (1, 16, 16)

    before = spent(used(made), made.now)
    made.fleets[V2].settle()
    made.settle()
    made.advance(100)
    after = spent(used(made), made.now)

    assert used(made).held == 18
    assert after[0] - before[0] >= 18 * 100
    assert 200 <= after[1] - before[1] <= 2 * 110


def test_no_status_is_written_while_the_number_stays():
    made = with_gpus(started())
    made.settle()
    before = used(made)
    made.advance(500)

    assert used(made) == before
    assert (
        spent(before, made.now)[0] - spent(before, made.now - timedelta(seconds=500))[0] == 500 * before.held
    )


def test_it_ends_when_what_lost_is_gone_and_stays_to_be_read():
    made = promoted_with_gpus()
    made.settle()
    assert used(made).held == 32

    made.advance(60)
    made.advance(40)
    come(made, V1)
    made.settle()
    assert (made.status.scale_downs, used(made).held, used(made).since) == ((), 0, None)
    total = spent(used(made), made.now)
    made.advance(1000)

    assert spent(used(made), made.now) == total


def test_another_attempt_begins_at_nothing():
    made = promoted_with_gpus()
    made.advance(100)
    come(made, V1)
    made.settle()
    assert used(made).attempt == 1

    to(made, "v1")
    made.settle()

    assert (used(made).attempt, used(made).seconds) == (2, 0)


def test_what_nobody_sees_is_held_as_before():
    made = with_gpus(started())
    made.settle()
    before = used(made)
    fleets, made.fleets = made.fleets, {}
    made.settle()
    assert used(made) == before

    made.fleets = fleets
    assert used(made) == before


def test_while_one_arm_is_not_seen_the_others_do_not_stand_for_all():
    made = with_gpus(started())
    made.settle()
    before = used(made)
    gone = made.fleets.pop(V1)
    made.settle()
    assert used(made) == before

    made.fleets[V1] = gone
    made.settle()
    assert used(made).held == before.held


def test_of_a_canary_whose_labels_are_kept_no_view_is_no_pods():
    made = with_gpus(started())
    made.fleets[V2].selector = "app=v2"
    made.settle()
    assert made.status.current is not None
    assert made.status.current.capacity is not None
    assert made.status.current.capacity.selector
    observed = made.observe()
    views = {V1: observed.workloads[V1]}

    status = plan(replace(observed, workloads=views), made.now).status

    assert status.accelerators is not None
    assert status.accelerators.held == 16 < used(made).held


def test_what_stable_holds_is_read_when_it_is_seen():
    made = with_gpus(world())
    hidden = made.fleets.pop(V1)
    made.settle()
    assert made.status.accelerators is None

    made.fleets[V1] = hidden
    made.settle()
    made.fleets[V2].settle()
    made.settle()
    assert used(made).own == 16


def test_pods_without_accelerators_are_not_counted():
    made = started()

    assert made.status.accelerators is None


def test_a_clock_that_goes_back_takes_nothing_away():
    use = AcceleratorUse(attempt=1, seconds=5, held=3, since=START)

    assert spent(use, START - timedelta(seconds=9)) == (5, 0)


def test_it_outlives_the_process():
    use = AcceleratorUse(attempt=2, seconds=7, extra_seconds=1, held=9, own=8, since=START)
    status = replace(started().status, accelerators=use)

    assert read_status(write_status(status))[0].accelerators == use
