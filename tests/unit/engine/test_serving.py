"""Adapters on the pods: what is loaded, what is taken off and when, and which pods are named."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rollouts.engine.actions import EmitEvent, LoadAdapter, Plan, UnloadAdapter
from rollouts.engine.attempt import AbortRecord, Attempt
from rollouts.engine.observation import Claim, Observation, PoolView, Problem, RuleView, TrafficView
from rollouts.engine.planning import plan
from rollouts.engine.revision import revision_of
from rollouts.engine.rollout_spec import AdapterTraffic, CanaryStrategy, RolloutSpec, TrafficMode, WeightStep
from rollouts.engine.rollout_status import (
    HistoryEntry,
    Outcome,
    Phase,
    RolloutStatus,
    SettledBy,
    WeightStatus,
)
from rollouts.engine.steps import steps_hash
from rollouts.engine.versions import Identity, Target
from rollouts.objects.models import MODEL_KIND
from rollouts.units import FULL, Weight
from tests.kit.world import START, changed


def adapter(name: str, source: str = "") -> Identity:
    return Identity(kind="Adapter", group="", name=name, source=source)


STEPS = (WeightStep(weight=Weight(1000)),)
OLD, NEW = adapter("v1", "/adapters/v1"), adapter("v2", "/adapters/v2")


def observe(*views: PoolView, status: RolloutStatus | None = None, **fields: Any) -> Observation:
    spec = RolloutSpec(
        target=Target(kind="adapter", name="v2", source="/adapters/v2"),
        traffic=AdapterTraffic(kind=MODEL_KIND, name="m", model_name="m", pool_name="pool"),
        canary=CanaryStrategy(steps=STEPS),
        rollback_window=timedelta(hours=1),
    )
    found = {view.identity: view for view in views}
    return Observation(
        namespace="default",
        name="demo",
        generation=1,
        status=status or RolloutStatus(),
        spec=fields.pop("spec", spec),
        target=NEW,
        traffic=TrafficView(
            kind="InferenceModel",
            name="m",
            mode=TrafficMode.ADOPTED,
            exists=True,
            claim=Claim.CONSENTED,
            rules=(RuleView(name="0", entries={OLD.arm: 100}),),
            resource_version="1",
        ),
        pools={**{view.identity.arm: view for view in views}, **found},
        **fields,
    )


def view(
    identity: Identity,
    *,
    ready: int = 3,
    lacking: tuple[str, ...] = (),
    loaded: bool = True,
    confirmed: bool | None = True,
    **fields: Any,
) -> PoolView:
    return PoolView(
        identity=identity,
        exists=True,
        ready_endpoints=ready,
        lacking=lacking,
        loaded=loaded,
        confirmed=confirmed,
        **fields,
    )


def of(kind: type, decided: Plan) -> list[Any]:
    return [action for action in decided.actions if isinstance(action, kind)]


def running(**fields: Any) -> RolloutStatus:
    old, new = revision_of(OLD, ""), revision_of(NEW, "")
    return RolloutStatus(
        phase=Phase.PROGRESSING,
        stable=old,
        current=Attempt(canary=new, started_at=START, step_started_at=START, steps_hash=steps_hash(STEPS)),
        attempt=1,
        step_count=1,
        **fields,
    )


def test_the_candidate_is_loaded_where_it_is_missing_and_so_is_what_is_stable():
    decided = plan(observe(view(OLD, lacking=("a",)), view(NEW, lacking=("a", "b")), status=running()), START)
    assert [action.identity for action in of(LoadAdapter, decided)] == [OLD, NEW]


def test_an_adapter_without_a_source_is_nobodys_to_load():
    plain = adapter("v2")
    status = changed(running(), canary=revision_of(plain, ""))
    spec = replace(observe().spec, target=Target(kind="adapter", name="v2"))  # type: ignore[type-var]
    observed = replace(
        observe(view(OLD), view(plain, lacking=("a",)), status=status, spec=spec), target=plain
    )
    assert of(LoadAdapter, plan(observed, START)) == []


def test_a_spec_with_problems_loads_nothing():
    problem = Problem(reason="SourceNotAllowed", message="no")
    observed = observe(view(OLD), view(NEW, lacking=("a",)), status=running(), problems=(problem,))
    assert of(LoadAdapter, plan(observed, START)) == []


ENDED = HistoryEntry(
    revision=revision_of(adapter("v0", "/adapters/v0"), ""),
    attempt=1,
    outcome=Outcome.PROMOTED,
    at=START - timedelta(hours=3),
    stable_until=START - timedelta(minutes=30),
)


@pytest.mark.parametrize(
    ("entry", "loaded", "unloads"),
    [
        (ENDED, True, False),
        (replace(ENDED, stable_until=START - timedelta(hours=2)), True, True),
        (replace(ENDED, stable_until=START - timedelta(hours=2)), False, False),
        (replace(ENDED, stable_until=None, outcome=Outcome.ABORTED), True, True),
        (replace(ENDED, revision=revision_of(adapter("v0"), "")), True, False),
    ],
    ids=["within the window", "after it", "no longer there", "an abort counts from its end", "no source"],
)
def test_what_lost_is_taken_off_after_the_rollback_window(entry, loaded, unloads):
    gone = entry.revision.identity
    status = replace(running(), history=(entry, entry))
    decided = plan(observe(view(OLD), view(NEW), view(gone, loaded=loaded), status=status), START)
    assert [action.identity for action in of(UnloadAdapter, decided)] == ([gone] if unloads else [])


def test_nothing_is_taken_off_before_its_end_is_stored():
    """Were the plan's intent enough, a crash before the record is written would leave the arm without its adapter."""
    left = changed(running(), canary=revision_of(adapter("v0", "/adapters/v0"), ""))
    gone = adapter("v0", "/adapters/v0")
    observed = observe(view(OLD), view(NEW), view(gone, loaded=True), status=left)
    assert observed.spec is not None
    observed = replace(observed, spec=replace(observed.spec, rollback_window=timedelta(0)))

    dropped = plan(observed, START)
    assert gone not in {
        revision.identity for revision in (dropped.status.stable, dropped.status.canary) if revision
    }
    assert of(UnloadAdapter, dropped) == []

    stored = plan(replace(observed, status=dropped.status), START)
    assert [action.identity for action in of(UnloadAdapter, stored)] == [gone]


def test_nothing_is_taken_off_while_the_live_object_sends_it_requests():
    gone = ENDED.revision.identity
    status = replace(running(), history=(replace(ENDED, stable_until=START - timedelta(hours=2)),))
    observed = observe(view(OLD), view(NEW), view(gone, loaded=True), status=status)
    entries = {OLD.arm: 80, NEW.arm: 10, gone.arm: 10}
    foreign = replace(observed.traffic, rules=(RuleView(name="0", entries=entries),))  # type: ignore[type-var]
    assert of(UnloadAdapter, plan(replace(observed, traffic=foreign), START)) == []
    assert [action.identity for action in of(UnloadAdapter, plan(observed, START))] == [gone]


def test_what_lost_within_the_window_wakes_the_rollout_at_its_end():
    gone = ENDED.revision.identity
    status = RolloutStatus(
        phase=Phase.HEALTHY,
        reason="Promoted",
        stable=revision_of(NEW, ""),
        history=(ENDED,),
    )
    observed = observe(view(NEW), view(gone), status=status)
    traffic = replace(observed.traffic, rules=(RuleView(name="0", entries={NEW.arm: 100}),))  # type: ignore[type-var]
    decided = plan(replace(observed, traffic=traffic), START)
    assert decided.requeue_after == timedelta(minutes=30)


def test_pods_that_lack_a_running_candidate_are_named_once():
    lacking = tuple(f"pod-{index}" for index in range(6))
    observed = observe(view(OLD), view(NEW, lacking=lacking), status=running())
    decided = plan(observed, START)
    told = [event.message for event in of(EmitEvent, decided) if event.reason == "AdapterMissing"]
    words = "v2 is not loaded on pod-0, pod-1, pod-2, pod-3 and 2 more: they take none of its requests"
    assert told == [words]
    condition = next(item for item in decided.status.conditions if item.type == "TargetReady")
    assert (condition.status, condition.message) == ("False", words)

    again = plan(replace(observed, status=decided.status), START)
    assert [e for e in of(EmitEvent, again) if e.reason == "AdapterMissing"] == []


def test_a_worse_problem_of_the_target_is_what_the_condition_says():
    observed = observe(view(OLD), view(NEW, ready=0, lacking=("pod-0",)), status=running())
    decided = plan(observed, START)
    condition = next(item for item in decided.status.conditions if item.type == "TargetReady")
    assert condition.reason == "NotEnoughEndpoints"


# --- one name, several contents --------------------------------------------------------------------

BAD, FIXED = adapter("v9", "/adapters/v9-bad"), adapter("v9", "/adapters/v9-fixed")
ABORTED = HistoryEntry(revision=revision_of(BAD, ""), attempt=1, outcome=Outcome.ABORTED, at=START)
STRANGERS = ("pod-0 has /adapters/v9-bad",)


def fixing(status: RolloutStatus, *views: PoolView, source: str = FIXED.source, **fields: Any) -> Observation:
    """Git asks for v9 from another path, within the rollback window of the one that was aborted."""
    observed = observe(view(OLD), *views, status=status)
    assert observed.spec is not None
    target = Target(kind="adapter", name="v9", source=source, **fields)
    return replace(observed, target=adapter("v9", source), spec=replace(observed.spec, target=target))


def aborted_status() -> RolloutStatus:
    record = AbortRecord(hash=revision_of(BAD, "").hash, step=0, at=START, reason="GateFailed", message="no")
    status = changed(running(), canary=revision_of(BAD, ""), aborted=record)
    return replace(status, phase=Phase.ABORTED, history=(ABORTED,))


def test_a_fix_under_the_same_name_waits_until_the_end_of_the_first_one_is_stored():
    """Both have one name: what the pods were asked so far was about the aborted one."""
    observed = fixing(aborted_status(), view(BAD), view(FIXED))
    decided = plan(observed, START)
    assert decided.status.phase is Phase.WAITING
    assert decided.status.canary == revision_of(FIXED, "")
    assert "is written down first" in decided.status.message
    assert of(UnloadAdapter, decided) == []

    stored = plan(replace(observed, status=decided.status), START)
    assert stored.status.phase is Phase.PROGRESSING


def waiting_status() -> RolloutStatus:
    return plan(fixing(aborted_status(), view(BAD), view(FIXED)), START).status


def test_the_aborted_content_is_taken_off_within_the_rollback_window_when_another_of_its_name_is_wanted():
    observed = fixing(
        waiting_status(), view(BAD), view(FIXED, ready=0, mismatched=STRANGERS, confirmed=False)
    )
    assert [action.identity for action in of(UnloadAdapter, plan(observed, START))] == [BAD]


def test_content_is_not_taken_off_while_its_name_carries_weight():
    observed = fixing(
        waiting_status(), view(BAD), view(FIXED, ready=0, mismatched=STRANGERS, confirmed=False)
    )
    rules = (RuleView(name="0", entries={OLD.arm: 90, BAD.arm: 10}),)
    observed = replace(observed, traffic=replace(observed.traffic, rules=rules))  # type: ignore[type-var]
    assert of(UnloadAdapter, plan(observed, START)) == []


def condition_of(decided: Plan) -> tuple[str, str, str]:
    found = next(item for item in decided.status.conditions if item.type == "TargetReady")
    return found.status, found.reason, found.message


def test_an_adapter_without_effect_is_a_warning_that_is_told_once():
    observed = observe(view(OLD), view(NEW, without_effect=("pod-0",)), status=running())
    decided = plan(observed, START)
    status, reason, message = condition_of(decided)
    assert (status, reason) == ("True", "AdapterWithoutEffect")
    assert "answers a short prompt as its base does on pod-0" in message
    assert [e.reason for e in of(EmitEvent, decided)].count("AdapterWithoutEffect") == 1

    again = plan(replace(observed, status=decided.status), START)
    assert "AdapterWithoutEffect" not in [e.reason for e in of(EmitEvent, again)]


@pytest.mark.parametrize(
    ("seen", "reason", "words"),
    [
        ({"without_effect": ("pod-0",)}, "AdapterWithoutEffect", "answers a short prompt as its base does"),
        ({"uncompared": ("pod-1",)}, "AdapterUnproven", "has not been compared with its base on pod-1"),
    ],
    ids=["equal answers", "not compared"],
)
def test_must_differ_refuses(seen, reason, words):
    observed = fixing(waiting_status(), view(BAD), view(FIXED, **seen), must_differ=True)
    decided = plan(observed, START)
    assert (decided.status.phase, decided.status.reason) == (Phase.WAITING, reason)
    assert words in decided.status.message


def test_must_differ_passes_what_differs():
    observed = fixing(waiting_status(), view(BAD), view(FIXED), must_differ=True)
    assert plan(observed, START).status.phase is Phase.PROGRESSING


def at_the_end(**fields: Any) -> Observation:
    status = replace(running(), weight=WeightStatus(desired=FULL, applied=FULL))
    done = changed(status, current_step=1, bake_started_at=START)
    observed = observe(view(OLD), view(NEW, **fields), status=done)
    traffic = replace(observed.traffic, rules=(RuleView(name="0", entries={NEW.arm: 100}),))  # type: ignore[type-var]
    return replace(observed, traffic=traffic)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"mismatched": STRANGERS, "ready": 0, "confirmed": False}, "AdapterContentMismatch"),
        ({"lacking": ("pod-0",), "ready": 0, "confirmed": False}, "AdapterMissing"),
        ({"ready": 0, "confirmed": None}, "AdapterMissing"),
    ],
    ids=["other content", "nowhere", "nobody says"],
)
def test_nothing_is_promoted_that_no_ready_pod_confirms(fields, reason):
    decided = plan(at_the_end(**fields), START)
    assert decided.status.stable == revision_of(OLD, "")
    assert (decided.status.phase, decided.status.reason) == (Phase.PROGRESSING, reason)
    assert "all steps done, but not promoted" in decided.status.message
    assert plan(at_the_end(), START).status.stable == revision_of(NEW, "")


def healthy(*views: PoolView, **fields: Any) -> Observation:
    status = RolloutStatus(
        phase=Phase.HEALTHY, settled_by=SettledBy.PROMOTED, stable=revision_of(NEW, ""), **fields
    )
    observed = observe(*views, status=status)
    traffic = replace(observed.traffic, rules=(RuleView(name="0", entries={NEW.arm: 100}),))  # type: ignore[type-var]
    return replace(observed, traffic=traffic)


def test_a_stable_version_that_no_pod_confirms_is_not_said_to_serve_and_heals():
    other = tuple(f"pod-{index} has /adapters/else" for index in range(6))
    observed = healthy(view(NEW, ready=0, mismatched=other, confirmed=False))
    decided = plan(observed, START)
    assert decided.status.reason == "AdapterContentMismatch"
    assert decided.status.message.startswith("NO READY POD SERVES STABLE v2")
    assert (
        "pod-3 has /adapters/else and 2 more under the name of v2 from /adapters/v2" in decided.status.message
    )
    assert condition_of(decided)[:2] == ("False", "AdapterContentMismatch")

    healed = plan(replace(healthy(view(NEW)), status=decided.status), START)
    assert (healed.status.reason, healed.status.message) == (
        "TargetIsStable",
        f"{revision_of(NEW, '').label} is stable",
    )
    assert condition_of(healed)[:2] == ("True", "Ready")


def test_one_pod_with_other_content_under_stables_name_is_named_while_the_others_serve():
    decided = plan(healthy(view(NEW, mismatched=("pod-0 has /else",)), message="v2 is stable"), START)
    assert decided.status.message == "v2 is stable"
    assert condition_of(decided)[:2] == ("False", "AdapterContentMismatch")
    assert [e.reason for e in of(EmitEvent, decided)] == ["AdapterContentMismatch"]


def test_content_without_a_source_is_named_by_its_name_alone():
    plain = adapter("v2")
    status = changed(running(), canary=revision_of(plain, ""))
    spec = replace(observe().spec, target=Target(kind="adapter", name="v2"))  # type: ignore[type-var]
    seen = view(plain, mismatched=("pod-0 has /adapters/v2-bad",), ready=0, confirmed=None)
    observed = replace(observe(view(OLD), seen, status=status, spec=spec), target=plain)
    assert "under the name of v2: requests" in condition_of(plan(observed, START))[2]


def test_a_first_target_is_stable_once_a_pod_has_it_and_is_loaded_until_then():
    observed = observe(view(NEW, lacking=("pod-0",), ready=0, confirmed=False))
    traffic = replace(observed.traffic, rules=(RuleView(name="0", entries={NEW.arm: 100}),))  # type: ignore[type-var]
    observed = replace(observed, traffic=traffic)
    decided = plan(observed, START)
    assert (decided.status.phase, decided.status.stable) == (Phase.WAITING, None)
    assert (
        "no Ready pod says that it has v2 from /adapters/v2: it is being loaded on pod-0"
        in decided.status.message
    )
    assert [action.identity for action in of(LoadAdapter, decided)] == [NEW]

    there = replace(observed, status=decided.status, pools={NEW: view(NEW), NEW.arm: view(NEW)})
    assert plan(there, START).status.phase is Phase.HEALTHY


def test_nothing_is_loaded_for_a_rollout_whose_traffic_object_is_anothers():
    observed = observe(view(NEW, lacking=("pod-0",), ready=0, confirmed=False))
    theirs = replace(observed.traffic, claim=Claim.OTHER, claimed_by="other")  # type: ignore[type-var]
    decided = plan(replace(observed, traffic=theirs), START)
    assert decided.status.reason == "ClaimedByOther"
    assert of(LoadAdapter, decided) == []


def test_nobody_loads_anything_for_a_target_that_cannot_be_resolved():
    assert of(LoadAdapter, plan(replace(observe(), target=None), START)) == []
