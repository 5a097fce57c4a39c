"""Variants in the engine: whom the first split would cut off, who holds a start, and edits of what is ours whole."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rollouts.engine.actions import EmitEvent, Plan, ReturnTraffic, WriteTraffic
from rollouts.engine.attempt import AbortRecord, Attempt
from rollouts.engine.observation import (
    Blocker,
    Claim,
    Observation,
    PathView,
    PoolView,
    Problem,
    Refused,
    RuleView,
    ShareView,
    TrafficView,
    UnmatchedPods,
    WayView,
)
from rollouts.engine.planning import plan
from rollouts.engine.reasons import Reason
from rollouts.engine.revision import revision_of
from rollouts.engine.rollout_spec import (
    CanaryStrategy,
    PauseStep,
    RolloutSpec,
    TrafficMode,
    VariantTraffic,
    WeightStep,
)
from rollouts.engine.rollout_status import (
    EntryRef,
    HoldReason,
    Phase,
    RolloutStatus,
    WayBack,
    WeightStatus,
)
from rollouts.engine.steps import steps_hash
from rollouts.engine.variants import variant_identity
from rollouts.engine.versions import Identity, Target
from rollouts.units import ZERO, Weight
from tests.kit.world import START

OLD, NEW = variant_identity("qwen", {"release": "qwen"}), variant_identity("r1", {"release": "r1"})
OTHER = variant_identity("llama", {"release": "llama"})
STEPS = (WeightStep(weight=Weight(1000)), PauseStep(duration=None))
UNMATCHED = UnmatchedPods(pods=("a", "b", "c", "d", "e"), pool="pool", hint="release=qwen")
SPEC = RolloutSpec(
    target=Target(kind="variant", name=NEW.name, source=NEW.source),
    traffic=VariantTraffic(kind="PoolSplit", name="pool", model_name="", pool_name="pool"),
    canary=CanaryStrategy(steps=STEPS),
)


def entry(identity: Identity) -> EntryRef:
    return EntryRef(kind=identity.kind, name=identity.name, source=identity.source)


WAY = WayBack(
    kind="PoolSplit",
    group="inferencerollouts.dev",
    name="pool",
    mode=TrafficMode.MANAGED,
    stable=entry(OLD),
    canary=entry(NEW),
)


def split(entries: dict[Identity, int] | None, **fields: Any) -> TrafficView:
    view = TrafficView(kind="PoolSplit", name="pool", mode=TrafficMode.MANAGED)
    if entries is None:
        return view
    told = {"claim": Claim.OURS, "last_writer": "inference-rollouts", "written_by_us": True, **fields}
    rules = (RuleView(name="0", entries=entries),)
    return replace(view, exists=True, uid="u", resource_version="1", rules=rules, **told)


def observe(
    entries: dict[Identity, int] | None = None,
    status: RolloutStatus | None = None,
    *,
    spec: RolloutSpec = SPEC,
    blockers: tuple[Blocker, ...] = (),
    command: str = "",
    unmatched: UnmatchedPods | None = None,
    **fields: Any,
) -> Observation:
    carried = (entries or {}).get(NEW, 0)
    way = WayView(exists=entries is not None, share=Weight(carried * 100), claim=Claim.OURS)
    return Observation(
        namespace="default",
        name="demo",
        generation=1,
        status=status or RolloutStatus(),
        spec=spec,
        target=NEW,
        traffic=split(entries, **fields),
        command=command,
        unmatched=unmatched or UnmatchedPods(),
        proposed={(OLD, NEW): WAY},
        ways={WAY: way},
        share=ShareView(canary=100, stable=900, seconds=60.0),
        pools={
            arm: PoolView(
                identity=arm, exists=True, ready_endpoints=4, blockers=blockers if arm == NEW else ()
            )
            for arm in (OLD, NEW, OTHER)
        },
    )


def running(canary: Identity = NEW, **fields: Any) -> RolloutStatus:
    current = Attempt(
        canary=revision_of(canary, ""),
        started_at=START,
        step_started_at=START,
        current_step=1,
        steps_hash=steps_hash(STEPS),
        stable_endpoints_at_start=4,
    )
    made = RolloutStatus(
        phase=Phase.PAUSED,
        stable=revision_of(OLD, ""),
        current=current,
        attempt=1,
        step_count=2,
        traffic_uid="u",
        way_back=(WAY,),
        weight=WeightStatus(desired=Weight(1000), applied=Weight(1000)),
    )
    return replace(made, **fields)


def written(decided: Plan) -> list[tuple[Identity, Identity | None, Weight]]:
    found = [action for action in decided.actions if isinstance(action, WriteTraffic)]
    return [(one.desired.stable, one.desired.canary, one.desired.weight) for one in found]


# --- pods that no variant matches ------------------------------------------------------------------


def test_the_first_split_waits_while_pods_serve_that_it_would_cut_off():
    decided = plan(observe(unmatched=UNMATCHED), START)

    assert written(decided) == []
    assert (decided.status.phase, decided.status.hold) == (Phase.PAUSED, HoldReason.UNMATCHED_PODS)
    assert "a, b, c, d and 1 more of InferencePool pool serve" in decided.status.message
    assert "stableHint: release=qwen" in decided.status.message


def test_no_hint_is_named_where_none_would_do():
    decided = plan(observe(unmatched=replace(UNMATCHED, hint="")), START)

    assert "stableHint" not in decided.status.message


def test_it_is_written_once_they_are_gone():
    held = plan(observe(unmatched=UNMATCHED), START).status
    decided = plan(observe(status=held), START)

    assert written(decided) == [(NEW, None, ZERO)]
    assert (decided.status.phase, decided.status.hold) == (Phase.HEALTHY, None)


@pytest.mark.parametrize("action", ["promote", "promoteFull"])
def test_a_person_may_cut_them_off(action: str) -> None:
    held = plan(observe(unmatched=UNMATCHED), START).status
    assert held.stable is not None
    raw = f'{{"action":"{action}","revision":"{held.stable.hash}","attempt":0,"by":"ann"}}'

    obeyed = plan(observe(status=held, command=raw, unmatched=UNMATCHED), START).status
    assert obeyed.last_command is not None
    assert "serve nothing from then on" in obeyed.last_command.message
    decided = plan(observe(status=obeyed, command=raw, unmatched=UNMATCHED), START)

    assert written(decided) == [(NEW, None, ZERO)]


def test_what_the_hint_names_is_stable_and_gets_all_at_once():
    hinted = replace(SPEC, stable_hint="release=qwen")
    decided = plan(observe(spec=hinted), START)

    assert written(decided) == [(OLD, NEW, ZERO)]
    assert decided.status.stable == revision_of(OLD, "")


def test_pods_beside_those_of_the_hint_still_hold_it():
    hinted = replace(SPEC, stable_hint="release=qwen")
    decided = plan(observe(spec=hinted, unmatched=UNMATCHED), START)

    assert written(decided) == []
    assert decided.status.hold is HoldReason.UNMATCHED_PODS
    assert decided.status.stable == revision_of(OLD, "")


def test_a_hint_that_is_no_selector_names_nobody():
    decided = plan(observe(spec=replace(SPEC, stable_hint="qwen")), START)

    assert decided.status.stable == revision_of(NEW, "")


def test_while_there_is_a_split_they_are_named():
    settled = plan(observe(), START).status
    decided = plan(observe({NEW: 100}, settled, unmatched=UNMATCHED), START)

    (said,) = [one for one in decided.status.conditions if one.type == "TargetReady"]
    assert (said.status, said.reason) == ("True", Reason.UNMATCHED_PODS)
    assert written(decided) == []


# --- who holds a start -----------------------------------------------------------------------------

DEAF = Blocker(reason=Reason.PICKER_DIALECT, message="obeys no PoolSplits")


def ended() -> RolloutStatus:
    """The attempt was aborted, and its weight is back."""
    status = running(phase=Phase.ABORTED, weight=WeightStatus(desired=ZERO, applied=ZERO))
    record = AbortRecord(hash="h", step=1, at=START, reason="AbortedByCommand", message="Aborted r1")
    assert status.current is not None
    return replace(status, current=replace(status.current, aborted=record))


def without(seen: Observation, *arms: Identity) -> Observation:
    """These variants have no Ready pod."""
    pools = {
        arm: replace(view, ready_endpoints=0) if arm in arms else view for arm, view in seen.pools.items()
    }
    return replace(seen, pools=pools)


def ready(decided: Plan) -> str:
    return next(one.message for one in decided.status.conditions if one.type == "Ready")


def test_without_a_ready_pod_of_stable_it_is_said_who_gets_its_requests():
    seen = without(observe({OLD: 100}, ended(), unmatched=UNMATCHED), OLD, OTHER)
    decided = plan(seen, START)

    for said in (ready(decided), decided.status.message):
        assert "qwen" in said
        assert "HAS NO READY ENDPOINT" in said
        assert "ALL READY PODS of the pool, aborted r1, pods of no variant among them" in said
    assert decided.status.phase is Phase.ABORTED
    named = next(one for one in decided.status.conditions if one.type == "TargetReady")
    assert "serve, as all pods do now" in named.message


def test_nobody_serves_where_no_pod_is_ready_and_a_canary_with_weight_does():
    nobody = plan(without(observe({OLD: 100}, ended()), OLD, NEW, OTHER), START)
    assert "NOBODY SERVES" in ready(nobody)

    carried = plan(without(observe({OLD: 90, NEW: 10}, running(), unmatched=UNMATCHED), OLD), START)
    assert "ALL READY PODS" not in ready(carried)


@pytest.mark.parametrize("entries", [None, {OLD: 100}])
def test_a_split_of_one_model_takes_only_its_requests_away(entries: dict[Identity, int] | None) -> None:
    spec = replace(SPEC, traffic=replace(SPEC.traffic, model_name="m"))
    status = None if entries is None else ended()
    decided = plan(observe(entries, status, spec=spec, unmatched=UNMATCHED), START)

    told = [decided.status.message, *(one.message for one in decided.status.conditions)]
    assert any("they serve nothing for model m" in text for text in told)


def test_a_picker_that_does_not_obey_holds_the_first_install_and_is_asked_again_soon():
    decided = plan(observe(blockers=(DEAF,)), START)

    assert written(decided) == []
    assert (decided.status.phase, decided.status.reason) == (Phase.WAITING, Reason.PICKER_DIALECT)
    assert decided.requeue_after is not None
    assert decided.requeue_after <= timedelta(seconds=5)


def test_it_holds_a_new_version_as_well():
    settled = replace(RolloutStatus(), phase=Phase.HEALTHY, stable=revision_of(OLD, ""), traffic_uid="u")
    decided = plan(observe({OLD: 100}, settled, blockers=(DEAF,)), START)

    assert (decided.status.phase, decided.status.reason) == (Phase.WAITING, Reason.PICKER_DIALECT)
    assert decided.requeue_after is not None
    assert decided.requeue_after <= timedelta(seconds=5)


DEAF = Blocker(reason=Reason.PICKER_DIALECT, message="picker-0 obeys no PoolSplits")
SILENT = Blocker(reason=Reason.PICKER_NOT_READY, message="picker-0 has not said")


@pytest.mark.parametrize("why", [DEAF, SILENT])
@pytest.mark.parametrize("entries", [{OLD: 100}, None], ids=["as it was", "gone"])
def test_no_weight_rises_while_the_picker_does_not_say_that_it_obeys(
    why: Blocker, entries: dict[Identity, int] | None
) -> None:
    asks = running(weight=WeightStatus(desired=Weight(1000), applied=ZERO), phase=Phase.PROGRESSING)
    seen = observe(entries, asks)
    assert entries is None or written(plan(seen, START)) == [(OLD, NEW, Weight(1000))]
    arms = {arm: replace(view, path=PathView(problems=(why,))) for arm, view in seen.pools.items()}
    decided = plan(replace(seen, pools=arms), START)

    assert all(weight == ZERO for _, _, weight in written(decided))
    said = {one.type: one for one in decided.status.conditions}
    if entries is not None:
        assert decided.requeue_after is not None
        assert said["TargetReady"].reason == why.reason
        assert (said["TrafficApplied"].status == "False") == (why is DEAF)


def test_another_version_under_the_canarys_name_begins_when_the_first_ones_end_is_stored():
    older = variant_identity(NEW.name, {"release": "older"})
    decided = plan(observe({OLD: 100}, running(older, way_back=())), START)

    assert decided.status.canary == revision_of(NEW, "")
    assert (decided.status.phase, decided.status.reason) == (Phase.WAITING, Reason.TARGET_NOT_READY)
    assert "it has the same name" in decided.status.message


# --- edits -----------------------------------------------------------------------------------------

BY_HAND = {"last_writer": "kubectl-edit", "written_by_us": False}
ALTERED = {**BY_HAND, "structure_current": False}


def test_a_lower_weight_is_obeyed():
    decided = plan(observe({OLD: 95, NEW: 5}, running(), **BY_HAND), START)

    assert written(decided) == []
    assert decided.status.hold is HoldReason.MANUAL_OVERRIDE


@pytest.mark.parametrize(
    "entries",
    [{OLD: 90, NEW: 10, OTHER: 100}, {OLD: 90, OTHER: 10}, {OTHER: 90, NEW: 10}],
    ids=["one more", "the canary's for others", "stable's for others"],
)
def test_other_entries_are_taken_out_and_their_writer_is_named(entries: dict[Identity, int]) -> None:
    decided = plan(observe(entries, running(), **ALTERED), START)

    assert written(decided) == [(OLD, NEW, Weight(1000))]
    assert decided.status.hold is None
    told = [one.message for one in decided.actions if isinstance(one, EmitEvent)]
    assert any("kubectl-edit changed the weights" in message for message in told)


def test_it_stops_after_five_in_ten_minutes_and_keeps_what_is_there():
    restores = tuple(START - timedelta(seconds=number) for number in range(5))
    status = running()
    assert status.current is not None
    status = replace(status, current=replace(status.current, restores=restores))
    held = plan(observe({OLD: 90, OTHER: 10}, status, **ALTERED), START)

    assert written(held) == []
    assert held.status.hold is HoldReason.CONTENDED
    again = plan(observe({OLD: 90, OTHER: 10}, held.status, **ALTERED), START)
    assert written(again) == []


def test_what_an_intruder_gets_is_no_share_of_the_canarys():
    """While a command holds it nothing is raised, and what is said is what there is."""
    held = running(hold=HoldReason.COMMAND, hold_message="held")
    decided = plan(observe({OLD: 45, NEW: 5, OTHER: 50}, held, **ALTERED), START)

    assert written(decided) == []
    assert decided.status.weight.applied == Weight(500)


# --- a split that is gone ----------------------------------------------------------------------------

WRONG = (Problem(reason=Reason.TEMPLATE_MISSING, message="AnalysisTemplate nope does not exist"),)


def unsplit(status: RolloutStatus, **fields: Any) -> Observation:
    """Somebody deleted the PoolSplit, and the picker gives requests to all Ready pods."""
    seen = observe(None, status, claim=Claim.OURS)
    return replace(seen, ways={WAY: WayView(exists=False, unsplit=True)}, **fields)


def returned(decided: Plan) -> list[tuple[Identity, Weight]]:
    found = [action for action in decided.actions if isinstance(action, ReturnTraffic)]
    return [(one.record.canary.arm, one.limit) for one in found]


@pytest.mark.parametrize("spec", [None, SPEC], ids=["unreadable", "not executable"])
@pytest.mark.parametrize("hold", [None, HoldReason.MANUAL_OVERRIDE])
def test_it_is_made_again_with_the_weight_in_status_whatever_the_spec_says(
    spec: RolloutSpec | None, hold: HoldReason | None
) -> None:
    decided = plan(unsplit(running(hold=hold), spec=spec, problems=WRONG), START)

    assert returned(decided) == [(NEW, Weight(1000))]
    assert decided.status.phase is Phase.INVALID


def test_without_a_canary_it_is_made_by_what_can_be_read_of_the_spec():
    stable = RolloutStatus(phase=Phase.HEALTHY, stable=revision_of(OLD, ""), traffic_uid="u")

    decided = plan(unsplit(stable, problems=WRONG), START)
    assert written(decided) == [(OLD, None, ZERO)]

    lost = unsplit(stable, spec=None, problems=WRONG)
    assert written(plan(lost, START)) == [(OLD, None, ZERO)]
    refused = Refused(reason=Reason.TRAFFIC_REFUSED, message="quota")
    assert written(plan(replace(lost, refused=refused), START)) == []
    assert written(plan(unsplit(RolloutStatus(), spec=None, problems=WRONG), START)) == []
    for others in (unsplit(stable, problems=WRONG), lost):
        assert others.traffic is not None
        claimed = replace(others.traffic, claim=Claim.OTHER, claimed_by="other")
        assert written(plan(replace(others, traffic=claimed), START)) == []


def test_an_abort_makes_it_with_stable_alone():
    seen = unsplit(running(), spec=None, problems=WRONG)
    assert seen.status.current is not None
    raw = json.dumps({"action": "abort", "revision": seen.status.current.canary.hash})
    decided = plan(replace(seen, command=raw), START)

    assert returned(decided) == [(NEW, ZERO)]
    assert decided.status.phase is Phase.ABORTED
    # The next look, before the write is heard of, and one after the status forgot nothing.
    again = plan(replace(unsplit(decided.status, problems=WRONG), command=raw), START)
    assert returned(again) == [(NEW, ZERO)]


@pytest.mark.parametrize(
    ("entries", "status", "says"),
    [
        (
            {OLD: 50, NEW: 50},
            RolloutStatus(stable=revision_of(OLD, ""), traffic_uid="u"),
            [(OLD, None, ZERO)],
        ),
        ({OLD: 50, NEW: 10}, running(), []),
    ],
    ids=["stable alone", "a canary at its weight"],
)
def test_others_entries_go_although_the_spec_cannot_be_executed(
    entries: dict[Identity, int], status: RolloutStatus, says: list[Any]
) -> None:
    seen = replace(observe(entries, status, written_by_us=False), problems=WRONG)

    assert written(plan(replace(seen, ways={}), START)) == says
