"""Design section 3, rule by rule, on a world of plain values."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from fractions import Fraction

import pytest

from rollouts.engine.actions import TerminateRun
from rollouts.engine.observation import Blocker, Claim, GateOutcome, JobOutcome, Problem, ShareView
from rollouts.engine.rollout_spec import HeaderMatch, HeaderRouteStep, OnDeadline, OnDelete, TrafficMode
from rollouts.engine.rollout_status import HoldReason, Outcome, Phase
from tests.kit.world import World, analysis, background, job, pause, pool, spec, weight

V1, V2, V3 = pool("v1"), pool("v2"), pool("v3")


def running(*steps, **fields) -> World:
    """A world whose rollout has started and settled."""
    world = World(spec=spec(*(steps or (weight(10), pause(), weight(50), pause())), **fields))
    world.settle()
    return world


def condition(world: World, name: str):
    return next(item for item in world.status.conditions if item.type == name)


# --- rule 1: identity and revision -----------------------------------------------------------------


def test_a_target_that_equals_stable_is_healthy_without_a_write_whatever_revision_says():
    world = World(spec=spec(target="v1", revision="again"))
    world.settle()

    assert world.status.phase is Phase.HEALTHY
    assert world.writes == []

    world.edit(spec(target="v1", revision="and again"))

    assert world.status.phase is Phase.HEALTHY
    assert world.writes == []


def test_a_new_revision_string_of_an_aborted_target_is_a_new_attempt():
    world = running()
    world.say("abort")
    aborted = world.status.canary

    world.edit(spec(weight(10), pause(), revision="2"))

    assert world.status.canary.hash != aborted.hash
    assert world.status.canary.identity == aborted.identity
    assert (world.status.phase, world.status.attempt) == (Phase.PAUSED, 2)


def test_editing_steps_of_a_healthy_rollout_starts_nothing():
    world = World(spec=spec(target="v1"))
    world.settle()

    world.edit(spec(weight(33), target="v1"))

    assert (world.status.phase, world.writes, world.status.attempt) == (Phase.HEALTHY, [], 0)


# --- rule 2: first install -------------------------------------------------------------------------


def test_managed_without_a_route_makes_the_target_stable_at_once():
    world = World(spec=spec(mode=TrafficMode.MANAGED), rules=None)
    world.settle()

    assert world.status.stable.identity == V2
    assert world.status.phase is Phase.HEALTHY
    assert world.rules == [{V2: 100}]


def test_stable_hint_counts_where_there_is_no_traffic():
    world = World(spec=spec(weight(10), pause(), mode=TrafficMode.MANAGED, stable_hint="v1"), rules=None)
    world.settle()

    assert world.status.stable.identity == V1
    assert world.share_of(V2) == Fraction(1, 10)


def test_the_heaviest_arm_is_stable_and_the_hint_does_not_matter():
    world = World(spec=spec(weight(10), pause(), stable_hint="v3"))
    world.settle()

    assert world.status.stable.identity == V1
    assert world.share_of(V2) == Fraction(1, 10)


def test_a_target_that_leads_a_split_waits_for_promote():
    world = World(spec=spec(), rules=[{V1: 10, V2: 90}])
    world.settle()

    assert (world.status.phase, world.status.hold) == (Phase.PAUSED, HoldReason.SPLIT_AT_START)
    assert world.writes == []

    world.say("promote")

    assert world.status.phase is Phase.HEALTHY
    assert world.rules == [{V1: 0, V2: 100}]


def test_a_tie_waits_for_the_hint():
    world = World(spec=spec(), rules=[{V1: 50, V2: 50}])
    world.settle()

    assert (world.status.phase, world.status.hold) == (Phase.PAUSED, HoldReason.AMBIGUOUS_START)
    assert world.writes == []

    world.edit(spec(weight(10), pause(), stable_hint="v1"))

    assert world.status.stable.identity == V1
    assert world.weights[0] == 1000


def test_a_split_taken_over_gets_the_first_steps_weight_with_the_first_write():
    world = World(spec=spec(weight(1), pause(), weight(50)), rules=[{V1: 90, V2: 10}])
    world.settle()

    assert world.weights == [100]


def test_a_split_taken_over_is_left_alone_while_the_target_is_not_ready():
    world = World(spec=spec(weight(1)), rules=[{V1: 90, V2: 10}], pools={V1: 4, V2: 0})
    world.settle()

    assert world.status.phase is Phase.WAITING
    assert world.writes == []


def test_rules_that_disagree_are_invalid_until_they_agree():
    world = World(spec=spec(), rules=[{V1: 100, V2: 0}, {V1: 0, V2: 100}])
    world.settle()

    assert (world.status.phase, world.status.reason) == (Phase.INVALID, "RulesDisagree")

    world.overwrite({V1: 100, V2: 0}, {V1: 100, V2: 0})
    world.settle()

    assert world.status.phase is Phase.PROGRESSING or world.status.phase is Phase.HEALTHY


@pytest.mark.parametrize(
    ("mode", "claim", "reason"),
    [
        (TrafficMode.ADOPTED, Claim.UNCLAIMED, "RouteNotConsented"),
        (TrafficMode.MANAGED, Claim.UNCLAIMED, "RouteConflict"),
        (TrafficMode.ADOPTED, Claim.OTHER, "ClaimedByOther"),
        (TrafficMode.MANAGED, Claim.OTHER, "ClaimedByOther"),
    ],
)
def test_without_consent_nothing_is_written(mode, claim, reason):
    world = World(spec=spec(mode=mode), claim=claim, claimed_by="another")
    world.settle()

    assert (world.status.phase, world.status.reason, world.writes) == (Phase.INVALID, reason, [])


def test_an_adopted_route_that_does_not_exist_is_waited_for():
    world = World(spec=spec(weight(10), pause()), rules=None)
    world.settle()

    assert (world.status.phase, world.status.reason) == (Phase.WAITING, "RouteMissing")

    world.overwrite({V1: 100, V2: 0})
    world.settle()

    assert world.share_of(V2) == Fraction(1, 10)


def test_a_kind_that_is_not_served_is_waited_for():
    world = World(spec=spec(), served=False)
    world.settle()

    assert (world.status.phase, world.status.reason) == (Phase.WAITING, "RouteMissing")


def test_a_kind_that_the_controller_does_not_watch_names_its_option():
    world = World(spec=spec(), served=False, unwatched="kserve")
    world.settle()

    assert world.status.message == (
        "the controller does not watch the kind of the traffic object: start it with --kserve, "
        "which the chart's kserve: true does"
    )


def test_an_adopted_route_without_the_pool_names_the_entry_to_add():
    world = World(spec=spec(), rules=[{V1: 100}])
    world.settle()

    assert (world.status.phase, world.status.reason) == (Phase.WAITING, "BackendMissing")
    assert "name: v2, weight: 0" in world.status.message
    assert world.writes == []


def test_add_backend_does_without_the_entry():
    world = World(spec=spec(weight(10), pause(), add_backend=True), rules=[{V1: 100}])
    world.settle()

    assert world.share_of(V2) == Fraction(1, 10)


def test_an_adopted_route_without_any_rule_of_ours_says_so():
    world = World(spec=spec(), rules=[])
    world.settle()

    assert (world.status.phase, world.status.reason, world.writes) == (Phase.WAITING, "NoRules", [])


# --- rule 3: readiness -----------------------------------------------------------------------------


def test_a_missing_pool_is_waited_for():
    world = World(spec=spec(weight(10), pause()), pools={V1: 4})
    world.settle()

    assert (world.status.phase, world.status.reason) == (Phase.WAITING, "PoolMissing")

    world.pools[V2] = 4
    world.settle()

    assert world.share_of(V2) == Fraction(1, 10)


def test_a_missing_picker_is_waited_for():
    world = World(spec=spec(), pool_blockers=(Blocker(reason="PickerMissing", message="no Service epp"),))
    world.settle()

    assert (world.status.phase, world.status.reason, world.writes) == (Phase.WAITING, "PickerMissing", [])


def test_blockers_from_outside_hold_the_start():
    world = World(spec=spec(), blockers=(Blocker(reason="MissingModels", message="adapter x is not served"),))
    world.settle()

    assert (world.status.phase, world.status.reason) == (Phase.WAITING, "MissingModels")


def test_weight_waits_for_its_endpoints():
    world = World(spec=spec(weight(10), weight(80), pause()), pools={V1: 10, V2: 1})
    world.settle()

    assert world.share_of(V2) == Fraction(1, 10)
    assert world.status.reason == "NotEnoughEndpoints"
    assert condition(world, "TargetReady").status == "False"

    world.pools[V2] = 4
    world.settle()

    assert world.share_of(V2) == Fraction(8, 10)


def test_a_carrying_canary_without_endpoints_goes_to_zero_after_ten_seconds_and_comes_back():
    world = running()
    world.pools[V2] = 0
    world.settle()
    world.advance(9)

    assert world.share_of(V2) == Fraction(1, 10)

    world.advance(1)

    assert world.share_of(V2) == 0
    assert (world.status.current_step, world.status.reason) == (1, "CanaryNotReady")

    world.pools[V2] = 4
    world.settle()
    world.advance(3)

    assert world.share_of(V2) == Fraction(1, 10)


def test_a_flap_shorter_than_ten_seconds_changes_nothing():
    world = running()
    for _ in range(5):
        world.pools[V2] = 0
        world.advance(6)
        world.pools[V2] = 4
        world.advance(6)

    assert world.weights == [1000]


def test_a_pulled_canary_is_aborted_at_the_deadline():
    world = running(weight(10), pause(), progress_deadline=timedelta(minutes=5))
    world.pools[V2] = 0
    world.settle()
    world.advance(301)

    assert (world.status.phase, world.status.current.aborted.reason) == (
        Phase.ABORTED,
        "ProgressDeadlineExceeded",
    )


# --- rule 4: steps ---------------------------------------------------------------------------------


def test_a_weight_step_waits_for_the_gateway():
    world = World(spec=spec(weight(10), pause()), programmed=False)
    world.settle()

    assert (world.status.current_step, world.status.reason) == (0, "WaitingForGateway")

    world.programmed = True
    world.settle()

    assert world.status.current_step == 1


@pytest.mark.parametrize(
    ("canary", "stable", "done"),
    [(0, 0, True), (100, 900, True), (1, 9, True), (0, 1000, False), (600, 400, False), (70, 930, True)],
)
def test_the_observed_share_holds_a_step_only_when_it_refutes_the_weight(canary, stable, done):
    world = World(spec=spec(weight(10), pause()), share=ShareView(canary=canary, stable=stable, seconds=30))
    world.settle()

    assert (world.status.current_step == 1) is done
    assert (world.status.reason == "ShareMismatch") is not done


def test_a_share_that_was_counted_for_too_short_a_time_is_not_looked_at():
    world = World(spec=spec(weight(10), pause()), share=ShareView(canary=0, stable=9, seconds=1))
    world.settle()

    assert (world.status.current_step, world.status.reason) == (0, "SettingWeight")


def test_a_timed_pause_ends_by_itself_and_not_earlier():
    world = running(weight(10), pause(60), weight(50), pause())
    world.advance(59)

    assert world.share_of(V2) == Fraction(1, 10)

    world.advance(1)

    assert world.share_of(V2) == Fraction(1, 2)


@pytest.mark.parametrize(
    ("edited", "step", "share"),
    [
        ((weight(10), pause(), weight(60), pause()), 1, Fraction(1, 10)),
        ((weight(5), weight(10), analysis()), 2, Fraction(1, 10)),
        ((weight(20), analysis(), weight(50)), 1, Fraction(1, 10)),
        ((weight(5), analysis()), 1, Fraction(1, 20)),
        ((pause(),), 0, Fraction(0)),
    ],
)
def test_edited_steps_go_on_without_raising_the_weight(edited, step, share):
    world = running(weight(10), pause(), weight(50), pause())

    world.edit(spec(*edited))

    assert world.status.current_step == step
    assert world.share_of(V2) == share
    assert all(later <= earlier for earlier, later in zip(world.weights, world.weights[1:], strict=False))


def test_edited_steps_run_their_gates_again():
    world = running(weight(10), analysis(), pause())
    world.judge(GateOutcome.PASSED)
    before = set(world.gates)

    world.edit(spec(weight(10), analysis(), weight(60), pause()))

    assert len(set(world.gates) - before) == 1
    assert world.status.current_step == 1


def test_a_header_route_is_in_force_until_the_end():
    match = (HeaderMatch(name="x-canary", value="yes"),)
    route = HeaderRouteStep(name="testers", match=match)
    steps = (route, pause(), weight(10), pause())
    world = World(spec=spec(*steps, mode=TrafficMode.MANAGED), claim=Claim.OURS)
    world.settle()

    assert (world.header_routes, world.share_of(V2)) == ((route,), 0)

    world.say("promote")

    assert (world.header_routes, world.share_of(V2)) == ((route,), Fraction(1, 10))

    world.say("abort")

    assert world.header_routes == ()


def test_a_header_route_without_match_takes_the_earlier_one_out():
    route = HeaderRouteStep(name="testers", match=(HeaderMatch(name="x-canary", value="yes"),))
    steps = (route, weight(10), HeaderRouteStep(name="testers", match=()), pause())
    world = World(spec=spec(*steps, mode=TrafficMode.MANAGED), claim=Claim.OURS)
    world.settle()

    assert (world.header_routes, world.status.current_step) == ((), 3)


# --- rule 5: promotion -----------------------------------------------------------------------------


def test_the_canary_becomes_stable_after_the_last_step_and_bake():
    world = running(weight(10), bake=timedelta(minutes=5))

    assert world.share_of(V2) == 1
    assert world.status.stable.identity == V1
    assert world.status.reason == "Baking"

    world.advance(300)

    assert world.status.stable.identity == V2
    assert (world.status.phase, world.status.canary) == (Phase.HEALTHY, None)
    assert world.rules == [{V1: 0, V2: 100}]


def test_a_background_run_without_a_good_measurement_never_counts_as_a_pass():
    world = World(spec=spec(weight(10), pause(5), analysis=background()))
    world.settle()
    name = next(iter(world.gates))
    world.gates[name] = replace(world.gates[name], may_pass=False)
    world.advance(10)

    assert world.status.reason == "AwaitingAnalysis"

    world.gates[name] = replace(world.gates[name], may_pass=True)
    world.settle()

    assert world.status.phase is Phase.HEALTHY


def test_an_entry_that_was_added_is_removed_after_the_rollback_window():
    world = World(
        spec=spec(weight(10), add_backend=True, rollback_window=timedelta(hours=1)), rules=[{V1: 100}]
    )
    world.settle()
    assert world.rules == [{V1: 0, V2: 100}]

    world.advance(3601)
    world.settle()
    assert world.rules == [{V2: 100}]


def test_an_entry_that_git_lists_stays_after_the_rollback_window():
    world = World(spec=spec(weight(10), rollback_window=timedelta(hours=1)))
    world.settle()
    world.advance(3601)
    writes = len(world.writes)
    world.settle()
    assert (world.rules, len(world.writes)) == ([{V1: 0, V2: 100}], writes)


def test_the_old_version_leaves_a_managed_route_after_the_rollback_window():
    world = World(
        spec=spec(weight(10), mode=TrafficMode.MANAGED, rollback_window=timedelta(hours=1)), claim=Claim.OURS
    )
    world.settle()

    assert world.rules == [{V1: 0, V2: 100}]

    world.advance(3600)

    assert world.rules == [{V2: 100}]


def test_an_old_version_whose_pool_is_gone_leaves_a_managed_route():
    world = World(
        spec=spec(weight(10), mode=TrafficMode.MANAGED, rollback_window=timedelta(hours=1)), claim=Claim.OURS
    )
    world.settle()
    del world.pools[V1]
    world.settle()

    assert world.rules == [{V2: 100}]


# --- rule 6: abort ---------------------------------------------------------------------------------


def test_a_failed_gate_aborts_with_the_next_write():
    world = running(weight(10), analysis(), weight(50))
    world.judge(GateOutcome.ABORT, message="errors 4 % > 1 %")

    assert world.weights == [1000, 0]
    assert world.status.phase is Phase.ABORTED
    assert "errors 4 % > 1 %" in world.status.message
    assert "v1 (" in world.status.message
    assert "v2" in world.status.message
    assert "retry" in world.status.message


def test_an_abort_writes_traffic_before_anything_else():
    world = running(weight(10), analysis(), weight(50), analysis=background())
    for name in world.gates:
        world.gates[name] = replace(world.gates[name], outcome=GateOutcome.ABORT)
    decided = world.step()

    assert type(decided.actions[0]).__name__ == "ReturnTraffic"
    assert decided.actions[0].limit == 0


def test_an_abort_is_terminal_for_the_hash():
    world = running()
    world.say("abort")
    for _ in range(20):
        world.advance(3600)

    assert world.weights == [1000, 0]
    assert world.status.phase is Phase.ABORTED


def test_without_a_ready_stable_endpoint_an_abort_keeps_the_weights_and_says_so():
    world = running()
    world.pools[V1] = 0
    world.say("abort")

    assert world.weights == [1000]
    assert world.status.phase is Phase.ABORTED
    assert "NO READY ENDPOINT" in world.status.message
    assert condition(world, "TrafficApplied").reason == "StableNotReady"

    world.pools[V1] = 1
    world.settle()

    assert world.weights == [1000, 0]
    assert condition(world, "TrafficApplied").status == "True"


def test_coming_back_to_an_aborted_hash_is_a_new_attempt():
    world = running()
    world.say("abort")
    world.edit(spec(weight(10), pause(), target="v1"))

    assert (world.status.phase, world.status.current) == (Phase.HEALTHY, None)

    world.edit(spec(weight(10), pause()))

    assert (world.status.attempt, world.share_of(V2)) == (2, Fraction(1, 10))


def test_a_failed_job_aborts():
    world = running(weight(10), job(), weight(50))
    name = next(iter(world.jobs))
    world.jobs[name] = JobOutcome.FAILED
    world.settle()

    assert (world.status.phase, world.status.current.aborted.reason) == (Phase.ABORTED, "JobFailed")


def test_a_succeeded_job_goes_on():
    world = running(weight(10), job(), weight(50), pause())
    world.jobs[next(iter(world.jobs))] = JobOutcome.SUCCEEDED
    world.settle()

    assert world.share_of(V2) == Fraction(1, 2)


@pytest.mark.parametrize("on_deadline", list(OnDeadline))
def test_a_missed_deadline_aborts_or_pauses(on_deadline):
    world = World(
        spec=spec(weight(10), progress_deadline=timedelta(minutes=1), on_deadline=on_deadline),
        programmed=False,
    )
    world.settle()
    world.advance(59)

    assert world.status.phase is Phase.PROGRESSING

    world.advance(1)

    want = Phase.ABORTED if on_deadline is OnDeadline.ABORT else Phase.PAUSED
    assert (world.status.phase, world.status.reason) == (want, "ProgressDeadlineExceeded")


@pytest.mark.parametrize("verb", ["promote", "resume"])
def test_a_missed_deadline_that_paused_gets_another_one(verb):
    world = World(
        spec=spec(weight(10), pause(), progress_deadline=timedelta(minutes=1), on_deadline=OnDeadline.PAUSE),
        programmed=False,
    )
    world.settle()
    world.advance(60)
    world.say(verb)

    assert world.status.phase is Phase.PROGRESSING

    world.advance(59)

    assert world.status.phase is Phase.PROGRESSING


def test_pauses_and_analysis_do_not_count_against_the_deadline():
    world = running(
        weight(10), pause(7200), analysis(), weight(50), pause(), progress_deadline=timedelta(minutes=1)
    )
    world.advance(7200)
    world.advance(7200)
    world.judge(GateOutcome.PASSED)

    assert world.share_of(V2) == Fraction(1, 2)


# --- rule 7: back to stable, third target ----------------------------------------------------------


def test_git_revert_is_healthy_at_once_without_analysis():
    world = running(weight(10), analysis(), weight(50))
    gates = set(world.gates)

    world.edit(spec(weight(10), analysis(), weight(50), target="v1"))

    assert (world.status.phase, world.share_of(V2)) == (Phase.HEALTHY, 0)
    assert set(world.gates) == gates
    assert all(gate.outcome is not GateOutcome.RUNNING for gate in world.gates.values())
    assert world.status.history[-1].outcome is Outcome.WITHDRAWN


def test_a_revert_asks_once_for_the_end_of_a_run():
    world = running(weight(10), analysis(), weight(50), analysis=background())
    measuring = sorted(name for name, gate in world.gates.items() if gate.outcome is GateOutcome.RUNNING)
    world.spec = spec(weight(10), analysis(), weight(50), analysis=background(), target="v1")
    world.generation += 1

    decided = world.step()

    assert [action.name for action in decided.actions if isinstance(action, TerminateRun)] == measuring


def test_a_third_target_starts_over_against_the_old_stable():
    world = running(weight(10), pause(), weight(50), pause())
    world.say("promote")
    world.pools[V3] = 4
    world.rules[0][V3] = 0
    world.edit(spec(weight(10), pause(), target="v3"))

    assert world.status.stable.identity == V1
    assert world.share_of(V3) == Fraction(1, 10)
    assert world.share_of(V2) == 0
    assert world.status.history[-1].outcome is Outcome.SUPERSEDED


def test_a_third_target_that_does_not_exist_still_drops_the_canary():
    world = running()
    world.edit(spec(weight(10), pause(), target="v9"))

    assert (world.share_of(V2), world.status.phase, world.status.reason) == (0, Phase.WAITING, "PoolMissing")


def test_within_the_rollback_window_steps_are_skipped_but_not_readiness():
    window = timedelta(hours=1)
    world = running(weight(10), rollback_window=window)
    world.pools[V1] = 0

    world.edit(spec(weight(10), pause(), target="v1", rollback_window=window))

    assert (world.share_of(V1), world.status.phase) == (0, Phase.WAITING)

    world.pools[V1] = 4
    world.settle()
    world.advance(3)

    assert (world.share_of(V1), world.status.phase) == (1, Phase.HEALTHY)


def test_after_the_rollback_window_steps_count_again():
    window = timedelta(hours=1)
    world = running(weight(10), rollback_window=window)
    world.advance(3601)

    world.edit(spec(weight(10), pause(), target="v1", rollback_window=window))

    assert world.share_of(V1) == Fraction(1, 10)


# --- rule 9 ----------------------------------------------------------------------------------------


def test_deleting_the_canary_pool_aborts():
    world = running()
    del world.pools[V2]
    world.settle()

    assert (world.status.phase, world.share_of(V2)) == (Phase.ABORTED, 0)
    assert world.status.current.aborted.reason == "CanaryPoolDeleted"


def test_deleting_the_stable_pool_raises_an_alarm_and_moves_nothing():
    world = World(spec=spec(target="v1"))
    world.settle()
    del world.pools[V1]
    world.settle()

    assert world.writes == []
    assert "DOES NOT EXIST" in world.status.message
    assert condition(world, "TargetReady").status == "False"


# --- rule 12: delete -------------------------------------------------------------------------------


def test_the_finalizer_exists_only_while_both_arms_carry_weight():
    world = running(weight(10), pause())

    assert world.finalizer is True

    world.say("promote")

    assert (world.status.phase, world.finalizer) == (Phase.HEALTHY, False)


@pytest.mark.parametrize(
    ("on_delete", "mode", "share", "exists", "claim"),
    [
        (OnDelete.RESTORE_STABLE, TrafficMode.ADOPTED, 0, True, Claim.CONSENTED),
        (OnDelete.RESTORE_STABLE, TrafficMode.MANAGED, 0, True, Claim.CONSENTED),
        (OnDelete.KEEP_TRAFFIC, TrafficMode.MANAGED, Fraction(1, 10), True, Claim.CONSENTED),
        (OnDelete.DELETE_TRAFFIC, TrafficMode.MANAGED, None, False, Claim.OURS),
    ],
)
def test_deleting_a_rollout_in_progress(on_delete, mode, share, exists, claim):
    world = World(
        spec=spec(weight(10), pause(), mode=mode, on_delete=on_delete),
        claim=Claim.OURS if mode is TrafficMode.MANAGED else Claim.CONSENTED,
    )
    world.settle()
    world.deleting = True
    for _ in range(6):
        world.step()

    assert world.finalizer is False
    assert (world.rules is not None) is exists
    assert world.claim is claim
    if share is not None:
        assert world.share_of(V2) == share


def test_deleting_never_moves_traffic_to_a_stable_pool_without_endpoints():
    world = running()
    world.pools[V1] = 0
    world.deleting = True
    for _ in range(6):
        world.step()

    assert world.share_of(V2) == Fraction(1, 10)
    assert world.finalizer is False


# --- invalid specs ---------------------------------------------------------------------------------


def test_an_invalid_edit_holds_the_weights_and_a_correction_goes_on():
    world = running(weight(10), pause(), weight(50), pause())
    world.problems = (
        Problem(reason="TemplateMissing", message="AnalysisTemplate x does not exist: create it"),
    )
    world.settle()

    assert (world.status.phase, world.share_of(V2)) == (Phase.INVALID, Fraction(1, 10))
    assert condition(world, "SpecValid").status == "False"

    world.problems = ()
    world.settle()

    assert (world.status.phase, world.share_of(V2)) == (Phase.PAUSED, Fraction(1, 10))


def test_an_invalid_spec_does_not_keep_a_failed_gate_from_aborting():
    world = running(weight(10), analysis(), weight(50))
    world.problems = (Problem(reason="TemplateMissing", message="gone"),)
    world.settle()
    world.judge(GateOutcome.ABORT)

    assert (world.status.phase, world.share_of(V2)) == (Phase.ABORTED, 0)
    assert world.status.current.aborted is not None


def test_a_spec_that_cannot_be_read_changes_nothing():
    world = running()
    world.spec, world.problems = None, (Problem(reason="Unreadable", message="spec is a string"),)
    world.settle()

    assert (world.status.phase, world.share_of(V2)) == (Phase.INVALID, Fraction(1, 10))


def test_a_spec_that_becomes_valid_again_after_the_last_step_is_promoted():
    world = World(spec=spec(weight(50)))
    while world.status.current_step < 1:
        world.step()
    while world.status.weight.applied != 10_000:
        world.step()
    world.problems = (Problem(reason="SpecInvalid", message="x"),)
    world.step()

    assert world.status.phase is Phase.INVALID

    world.problems = ()
    world.settle()

    assert (world.status.phase, world.status.stable.identity) == (Phase.HEALTHY, V2)


def test_a_canary_that_got_everything_in_one_write_is_not_left_when_the_rollout_is_deleted() -> None:
    """It bakes, or went back within the rollback window: it is not stable yet."""
    world = World(spec=spec(weight(100), bake=timedelta(hours=1)))
    world.settle()
    assert (world.share_of(V2), world.status.phase) == (1, Phase.PROGRESSING)
    assert world.finalizer

    world.deleting = True
    world.settle()
    assert world.share_of(V2) == 0
