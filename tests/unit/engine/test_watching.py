"""The watch over the share and the path: what waits, what aborts, what is undone (design rule 4)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from math import inf
from typing import Any

import pytest

from rollouts.engine.draft import Draft
from rollouts.engine.observation import GateOutcome, PickersView, RiseView, ShareCount, ShareView
from rollouts.engine.rollout_spec import AdapterTraffic, HeaderMatch, HeaderRouteStep
from rollouts.engine.rollout_status import HoldReason, Phase
from rollouts.engine.share import came_back, fell, recent_window, refuted_side
from rollouts.engine.watching import path_alarm, says_new, share_problem
from rollouts.objects.models import MODEL_KIND
from rollouts.units import FULL, ZERO, Weight
from tests.kit.world import Honest, World, analysis, pause, pool, spec, weight

V1, V2 = pool("v1"), pool("v2")
TEN = Weight(1000)
GONE = RiseView(
    weight_before=Weight(100),
    before=6000,
    canary_before=60,
    before_seconds=600.0,
    recent=3,
    canary_recent=0,
    recent_seconds=5.0,
)
"""Ten requests a second before, three in five seconds now."""


def shared(canary: int, stable: int, seconds: float = 200.0, **fields: Any) -> ShareView:
    return ShareView(canary=canary, stable=stable, seconds=seconds, **fields)


def at_ten(*, share: ShareView | Honest | None = None, **fields: Any) -> World:
    """At 10 %, in a pause before 50 %; nothing was counted yet."""
    world = World(
        spec=spec(weight(10), pause(60), weight(50), pause(), **fields), share=shared(0, 9, seconds=6.0)
    )
    world.settle()
    world.share = share
    return world


# --- a request is waited for -----------------------------------------------------------------------


def test_no_weight_rises_before_a_request_was_counted_since_the_last_rise() -> None:
    world = at_ten(share=shared(0, 9))
    world.advance(61)

    assert (world.share_of(V2), world.status.reason) == (Fraction(1, 10), "NoTraffic")
    assert "weight stays 10% and rises to 50%" in world.status.message
    assert "allowNoTraffic" in world.status.message

    world.share = shared(1, 9)
    world.advance(5)
    assert world.share_of(V2) == Fraction(1, 2)


def test_it_says_how_long_a_request_takes_at_todays_rate_and_does_not_say_it_anew_each_time() -> None:
    world = at_ten(share=shared(0, 9, seconds=450.0))
    world.advance(61)
    message = world.status.message
    world.share = shared(0, 10, seconds=495.0)
    world.advance(5)

    assert "one comes in about 8m20s" in message
    assert world.status.message == message


def test_a_weight_that_came_back_by_a_write_that_was_not_noted_is_no_rate() -> None:
    """The status says 0 of a canary that was taken out; the write that gave it back its weight is newer."""
    world = at_ten(share=shared(0, 9))
    world.advance(61)
    weights = world.status.weight
    world.status = replace(world.status, weight=replace(weights, desired=ZERO, applied=ZERO))
    world.step()

    assert world.status.reason == "NoTraffic"
    assert world.status.weight.applied == TEN


@pytest.mark.parametrize(
    ("share", "said"), [(shared(0, 0), "there is no traffic"), (shared(0, 0, seconds=1.0), "none came yet")]
)
def test_without_traffic_it_says_so(share: ShareView, said: str) -> None:
    world = at_ten(share=share)
    world.advance(61)

    assert world.status.reason == "NoTraffic"
    assert said in world.status.message


def test_the_deadline_stands_while_there_is_no_traffic_and_runs_anew_when_there_is() -> None:
    world = at_ten(share=shared(0, 9), progress_deadline=timedelta(minutes=5))
    world.advance(61)
    world.advance(86_400)
    assert world.status.reason == "NoTraffic"

    world.share, world.pools[V2] = shared(1, 9), 0
    world.advance(5)
    world.pools[V2] = 4
    world.advance(5)
    world.advance(3)
    assert (world.status.phase, world.share_of(V2)) == (Phase.PAUSED, Fraction(1, 2))


def test_with_traffic_and_no_request_at_the_canary_the_deadline_runs() -> None:
    world = at_ten(share=shared(0, 9), progress_deadline=timedelta(minutes=5))
    world.advance(61)
    world.advance(7200)
    world.share = shared(0, 80, seconds=60.0)
    world.advance(5)
    assert world.status.reason == "ShareMismatch"
    assert "does the gateway honour weights" in world.status.message

    world.advance(200)
    assert world.status.phase is Phase.PROGRESSING
    world.advance(101)
    assert (world.status.phase, world.status.reason) == (Phase.ABORTED, "ProgressDeadlineExceeded")


def test_where_nobody_can_count_it_waits_and_says_who_should() -> None:
    world = at_ten(share=None)
    world.advance(61)

    assert (world.share_of(V2), world.status.reason) == (Fraction(1, 10), "ShareUnmeasured")
    assert "Prometheus" in world.status.message


def test_a_lower_bound_of_nothing_is_not_a_count() -> None:
    world = at_ten(share=shared(0, 500, complete=False))
    world.advance(61)
    assert world.status.reason == "ShareUnmeasured"

    world.share = shared(1, 500, complete=False)
    world.advance(5)
    assert world.share_of(V2) == Fraction(1, 2)


@pytest.mark.parametrize("share", [None, shared(0, 9)])
def test_allow_no_traffic_waives_both(share: ShareView | None) -> None:
    world = at_ten(share=share, allow_no_traffic=True)
    world.advance(61)

    assert world.share_of(V2) == Fraction(1, 2)


def test_allow_no_traffic_given_later_lets_it_go_on() -> None:
    world = at_ten(share=None)
    world.advance(61)
    assert world.spec is not None
    world.edit(replace(world.spec, canary=replace(world.spec.canary, allow_no_traffic=True)))
    world.advance(5)

    assert world.share_of(V2) == Fraction(1, 2)


def test_promote_full_waits_for_no_request() -> None:
    world = at_ten(share=None)
    world.say("promoteFull")
    world.advance(5)

    assert world.status.stable is not None
    assert world.status.stable.identity == V2


def test_the_jump_after_the_last_step_waits_as_well() -> None:
    world = World(spec=spec(weight(10)), share=shared(0, 9, seconds=6.0))
    world.advance(30)

    assert (world.share_of(V2), world.status.reason) == (Fraction(1, 10), "NoTraffic")


def test_a_pull_and_its_end_need_no_new_request_to_come_back_to_where_it_was() -> None:
    world = at_ten(share=shared(0, 0))
    world.pools[V2] = 0
    world.settle()
    world.advance(11)
    assert world.share_of(V2) == 0

    world.pools[V2] = 4
    world.settle()
    world.advance(3)
    assert world.share_of(V2) == Fraction(1, 10)


def test_a_gitops_reset_is_restored_while_a_request_is_waited_for() -> None:
    world = at_ten(share=shared(0, 9))
    world.advance(61)
    world.overwrite({V1: 100, V2: 0}, manager="argocd-controller", gitops=True)
    world.advance(5)

    assert (world.share_of(V2), world.status.reason) == (Fraction(1, 10), "NoTraffic")


def test_what_is_waited_for_survives_a_restart() -> None:
    world = at_ten(share=shared(0, 9))
    world.advance(61)
    assert world.status.current.path.ceiling == TEN

    world.share = shared(0, 0, seconds=0.0)  # a new process has counted nothing
    world.advance(5)
    assert (world.share_of(V2), world.status.reason) == (Fraction(1, 10), "NoTraffic")


# --- the share is watched to the end ---------------------------------------------------------------


def test_a_share_that_is_refuted_in_a_pause_lets_nothing_rise() -> None:
    world = at_ten(share=shared(900, 100))
    world.settle()
    assert world.status.reason == "PauseStep"
    assert [event.reason for event in world.events].count("ShareMismatch") == 1

    world.advance(61)
    assert (world.share_of(V2), world.status.reason) == (Fraction(1, 10), "ShareMismatch")

    world.share = shared(1000, 9000)
    world.advance(5)
    assert world.share_of(V2) == Fraction(1, 2)


def test_a_gate_that_passed_does_not_raise_a_refuted_share() -> None:
    world = World(spec=spec(weight(10), analysis(), weight(50)))
    world.settle()
    world.share = shared(900, 100)
    world.settle()
    world.judge(GateOutcome.PASSED)

    assert (world.share_of(V2), world.status.reason) == (Fraction(1, 10), "ShareMismatch")


def test_testers_of_a_header_route_refute_nothing() -> None:
    route = HeaderRouteStep(name="testers", match=(HeaderMatch(name="x-test", value="yes"),))
    world = World(spec=spec(route, weight(10), pause()), share=shared(900, 100))
    world.settle()

    assert (world.status.current_step, world.status.reason) == (2, "PauseStep")


@pytest.mark.parametrize("fields", [{"sessions": True}, {"share": shared(900, 100, complete=False)}])
def test_sessions_and_half_of_the_pods_refute_nothing(fields: dict[str, Any]) -> None:
    world = World(**{"spec": spec(weight(10), pause()), "share": shared(900, 100), **fields})
    world.settle()

    assert world.status.reason == "PauseStep"


def test_a_write_whose_answer_was_lost_is_not_undone_by_the_older_status() -> None:
    """The live object says 10 % already, and so do the requests; the status still says 1 %."""
    world = World(spec=spec(weight(1), pause(0), weight(10), pause()))
    while world.share_of(V2) != Fraction(1, 10):
        before = world.status
        world.step()
    world.status, world.share = before, shared(100, 900)
    writes = len(world.writes)
    world.settle()

    assert (len(world.writes), world.share_of(V2)) == (writes, Fraction(1, 10))


def test_no_traffic_object_contradicts_nothing() -> None:
    world = at_ten(share=shared(900, 100))
    world.served = False
    world.step()

    assert world.status.current.path.ceiling is None
    assert "ShareMismatch" not in [event.reason for event in world.events]


def test_the_shares_of_earlier_weights_count_by_their_own_weights() -> None:
    earlier = (ShareCount(weight=Weight(100), canary=10, stable=990),)
    world = World(spec=spec(weight(10), pause()), share=shared(12, 88, earlier=earlier))
    world.settle()

    assert world.status.reason == "PauseStep"


# --- a split that is not programmed ----------------------------------------------------------------


def test_a_split_that_is_not_programmed_aborts_and_never_rises() -> None:
    world = World(spec=spec(weight(10), weight(50)), share=shared(0, 199, seconds=119.0))
    world.settle()
    assert world.status.phase is Phase.PROGRESSING

    world.share = shared(0, 200, seconds=120.0)
    world.advance(1)
    assert (world.status.phase, world.status.reason) == (Phase.ABORTED, "ShareNotProgrammed")
    assert max(world.weights) == TEN
    assert "none of 200 requests reached v2 (20 expected)" in world.status.message


def test_it_aborts_in_a_pause_and_under_a_hold_as_well() -> None:
    world = at_ten(share=shared(0, 9))
    world.say("pause")
    world.share = shared(0, 400)
    world.advance(1)

    assert (world.status.phase, world.status.reason) == (Phase.ABORTED, "ShareNotProgrammed")


@pytest.mark.parametrize(
    "change",
    [
        {"share": shared(1, 400)},
        {"share": shared(0, 199)},
        {"share": shared(0, 400, complete=False)},
        {"share": shared(0, 400, seconds=119.0)},
        {"share": shared(0, 400, propagation=300.0)},
        {"sessions": True},
        {"mirrored": frozenset({V2})},
        {"by_others": frozenset({V1})},
        {"programmed": False},
        {"pools": {V1: 4, V2: 0}},
        {"rules": [{V1: 100, V2: 0}]},
        {"rules": []},
        {"served": False},
    ],
    ids=repr,
)
def test_it_takes_all_of_it_to_call_a_split_not_programmed(change: dict[str, Any]) -> None:
    world = at_ten(share=shared(0, 400))
    for name, value in change.items():
        setattr(world, name, value)
    world.step()
    world.step()

    assert world.status.phase is not Phase.ABORTED


def test_the_reason_is_stored_before_it_aborts() -> None:
    """A crash after the abort's write must not forget it: a new process has counted nothing."""
    world = at_ten(share=shared(0, 400))
    writes = len(world.writes)
    world.step()
    assert (len(world.writes), world.status.phase) == (writes, Phase.PAUSED)

    world.share = None
    world.step()
    assert (world.status.phase, world.status.reason, world.share_of(V2)) == (
        Phase.ABORTED,
        "ShareNotProgrammed",
        0,
    )


# --- a path that broke -----------------------------------------------------------------------------


def broken() -> World:
    """From 1 to 10 %, after which the requests of both arms are gone."""
    world = World(spec=spec(weight(1), weight(10), pause()))
    world.settle()
    world.share = shared(0, 3, seconds=6.0, path=GONE)
    return world


def test_a_rise_that_stops_all_requests_is_undone_and_their_return_aborts() -> None:
    world = broken()
    world.settle()
    assert (world.share_of(V2), world.status.reason) == (Fraction(1, 100), "WriteUndone")
    assert world.status.current.path.requests_before == 6000

    world.share = shared(1, 99, seconds=10.0)
    world.advance(10)
    assert (world.status.phase, world.status.reason) == (Phase.ABORTED, "PathBroken")
    assert world.share_of(V2) == 0


def test_it_is_stored_before_it_is_undone() -> None:
    world = broken()
    writes = len(world.writes)
    decided = world.step()

    assert len(world.writes) == writes
    assert decided.status.current.path.ceiling == Weight(100)
    assert decided.requeue_after == timedelta(seconds=1)


def test_requests_that_do_not_come_back_are_not_its_doing_and_it_is_tried_again_once() -> None:
    world = broken()
    world.settle()
    world.share = shared(0, 0, seconds=100.0)
    world.advance(121)
    assert world.status.current.path.undone_at is None

    world.share = shared(3, 97, seconds=100.0)
    world.advance(5)
    assert world.share_of(V2) == Fraction(1, 10)

    world.share = shared(0, 3, seconds=6.0, path=GONE)
    world.advance(5)
    assert world.share_of(V2) == Fraction(1, 10)


def test_the_first_weight_is_undone_to_nothing_and_tried_again() -> None:
    world = World(spec=spec(weight(10), pause()))
    world.settle()
    world.share = shared(0, 3, seconds=6.0, path=replace(GONE, weight_before=Weight(0)))
    world.settle()
    assert (world.share_of(V2), world.status.current.path.undone) == (0, True)

    world.share = None
    world.advance(121)
    world.share = Honest.SPLIT
    world.settle()
    assert world.share_of(V2) == Fraction(1, 10)


@pytest.mark.parametrize(
    "change",
    [
        {"share": shared(0, 3, seconds=126.0, path=GONE)},
        {"share": shared(0, 3, seconds=6.0, complete=False, path=GONE)},
        {"share": shared(0, 3, seconds=6.0, path=replace(GONE, weight_before=TEN))},
        {"mirrored": frozenset({V1})},
    ],
    ids=repr,
)
def test_it_takes_all_of_it_to_undo_a_rise(change: dict[str, Any]) -> None:
    world = broken()
    for name, value in change.items():
        setattr(world, name, value)
    world.step()

    assert world.status.current.path.undone is False


@pytest.mark.parametrize(
    ("change", "is_fall"),
    [
        ({}, True),
        ({"before": 99}, False),
        ({"before_seconds": 0.0}, False),
        ({"recent_seconds": 1.0}, False),
        ({"recent": 6}, False),
        ({"canary_before": 0}, True),
        ({"canary_before": 600, "recent": 5, "canary_recent": 4}, False),
        ({"canary_before": 5900, "recent": 5, "canary_recent": 0}, False),
    ],
)
def test_a_fall_is_one_of_both_arms(change: dict[str, Any], is_fall: bool) -> None:
    assert fell(replace(GONE, **change)) is is_fall


def test_requests_count_as_back_by_the_newest_ones_too() -> None:
    recent = replace(GONE, recent=90, recent_seconds=10.0)

    assert came_back(shared(0, 90, seconds=100.0, path=recent), 6000)
    assert not came_back(shared(0, 90, seconds=100.0, path=GONE), 6000)
    assert not came_back(shared(0, 5, seconds=0.5), 6000)


# --- copies of requests ----------------------------------------------------------------------------


def test_a_mirrored_arm_has_no_share_and_says_why_nothing_rises() -> None:
    world = at_ten(share=shared(900, 100))
    world.mirrored = frozenset({V2})
    world.settle()
    assert (world.status.reason, world.status.weight.observed) == ("PauseStep", Weight(0))

    world.advance(61)
    assert (world.share_of(V2), world.status.reason) == (Fraction(1, 10), "ShareUnmeasured")
    assert "RequestMirror filter copies requests to v2" in world.status.message


@pytest.mark.parametrize(
    ("counted", "others", "refuted"),
    [
        (shared(400, 600), {V2}, False),  # testers, by a rule of their own
        (shared(400, 600), {V1}, True),
        (shared(10, 9990), {V1}, False),  # another host name's route, which stays with stable
        (shared(10, 9990), {V2}, True),
        (shared(400, 600), set(), True),
    ],
    ids=repr,
)
def test_requests_by_other_rules_come_on_top_of_the_split(counted, others, refuted) -> None:
    world = at_ten(share=counted)
    world.by_others = frozenset(others)
    world.advance(61)

    assert (world.status.reason == "ShareMismatch") is refuted, world.status.message


def test_a_failed_gate_of_a_mirrored_arm_asks_a_person() -> None:
    world = World(spec=spec(weight(10), analysis(), weight(50)), mirrored=frozenset({V2}))
    world.settle()
    world.judge(GateOutcome.ABORT)
    assert (world.status.phase, world.status.hold) == (Phase.PAUSED, HoldReason.GATE_FAILED)
    assert "RequestMirror" in world.status.message

    world.say("promote")
    assert world.status.hold is None
    assert world.status.current_step == 2


# --- adapters: the picker is asked -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("loaded", "served", "fits"),
    [
        (TEN, True, True),
        (Weight(1001), True, True),
        (None, True, True),
        (Weight(500), True, False),
        (Weight(500), False, True),
    ],
)
def test_the_split_of_our_picker_is_what_it_says_it_has_loaded(
    loaded: Weight | None, served: bool, fits: bool
) -> None:
    """Sticky sessions may all be stable's: requests that the canary did not get say nothing."""
    traffic = AdapterTraffic(kind=MODEL_KIND, name="route", model_name="m", pool_name="p")
    world = at_ten(share=shared(0, 5000, loaded=loaded))
    world.served = served
    assert world.spec is not None
    draft = Draft(replace(world.observe(), spec=replace(world.spec, traffic=traffic)), world.now)

    assert (share_problem(draft) is None) is fits
    assert path_alarm(draft) is None
    assert draft.status.current.path.alarm == ""


def test_a_replica_that_goes_by_others_is_named_where_one_says_what_it_loaded() -> None:
    traffic = AdapterTraffic(kind=MODEL_KIND, name="route", model_name="m", pool_name="p")
    world = at_ten(share=shared(0, 5000, loaded=Weight(500)))
    world.pickers = PickersView(replicas=("epp-0",), stored="v1 90%", behind=(("epp-0", "goes by v1 95%"),))
    assert world.spec is not None
    draft = Draft(replace(world.observe(), spec=replace(world.spec, traffic=traffic)), world.now)

    assert str(share_problem(draft)).startswith("epp-0 goes by v1 95%, and HTTPRoute route says v1 90%")


# --- arithmetic ------------------------------------------------------------------------------------


def test_the_window_in_which_a_fall_shows_depends_on_the_rate_before() -> None:
    assert recent_window(0, 600.0) == inf
    assert recent_window(100, 600.0) == pytest.approx(120.0)
    assert recent_window(60_000, 600.0) == pytest.approx(5.0)


def test_what_was_counted_before_speaks_alone_against_nothing() -> None:
    """Counted under 10 % by a controller that had not heard of 100 % yet: now it is as it should be."""
    late = (ShareCount(weight=TEN, canary=60, stable=0),)

    assert refuted_side(shared(500, 0, earlier=late), FULL) == 0
    assert refuted_side(shared(0, 0, earlier=late), TEN) == 0
    assert refuted_side(shared(30, 70, earlier=late), TEN) == 1


def test_a_weight_of_which_nothing_is_too_much_adds_nothing_to_the_evidence() -> None:
    earlier = (
        ShareCount(weight=Weight(5000), canary=50, stable=50),
        ShareCount(weight=TEN, canary=900, stable=100),
    )

    assert refuted_side(shared(1, 1, earlier=earlier), TEN) == 1


# --- between looks ---------------------------------------------------------------------------------

SEEN = shared(100, 900)


@pytest.mark.parametrize(
    ("before", "now", "shown"),
    [
        (None, SEEN, TEN),
        (SEEN, None, TEN),
        (SEEN, replace(SEEN, complete=False), TEN),
        (replace(SEEN, seconds=4.0), SEEN, TEN),
        (shared(0, 30), shared(1, 30), Weight(300)),
        (shared(0, 30), shared(0, 55), ZERO),
        (SEEN, shared(100, 2000), TEN),
        (SEEN, shared(100, 900), None),
        (SEEN, replace(SEEN, path=GONE), TEN),
        (shared(10, 9000), SEEN, TEN),
    ],
    ids=[
        "counted for the first time",
        "counted no more",
        "a pod is silent",
        "counted for long enough",
        "the first request",
        "none where five were expected",
        "another share",
        "a share to be shown",
        "the path broke",
        "no more refuted",
    ],
)
def test_a_look_is_due_when_the_counts_may_decide_otherwise(
    before: ShareView | None, now: ShareView | None, shown: Weight | None
) -> None:
    assert says_new(before, now, TEN, shown, by_picker=False)


def test_no_look_is_due_for_more_requests_of_the_same_share() -> None:
    assert not says_new(SEEN, shared(205, 1803, seconds=400.0), TEN, TEN, by_picker=False)


def test_what_our_picker_splits_is_asked_and_not_counted() -> None:
    loaded = replace(shared(10, 9000), loaded=TEN)
    same = replace(shared(10, 9900), loaded=TEN)

    assert says_new(loaded, same, TEN, Weight(10), by_picker=False)
    assert not says_new(loaded, same, TEN, Weight(10), by_picker=True)
    assert says_new(loaded, replace(same, loaded=Weight(500)), TEN, Weight(10), by_picker=True)
    assert says_new(loaded, replace(same, path=GONE), TEN, Weight(10), by_picker=True)
