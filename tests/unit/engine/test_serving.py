"""Adapters on the pods: what is loaded, what is taken off and when, and which pods are named."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rollouts.engine.actions import EmitEvent, LoadAdapter, Plan, UnloadAdapter
from rollouts.engine.observation import Claim, Observation, PoolView, Problem, RuleView, TrafficView
from rollouts.engine.planning import plan
from rollouts.engine.revision import revision_of
from rollouts.engine.steps import steps_hash
from rollouts.engine.types import (
    AdapterTraffic,
    AdapterTrafficKind,
    CanaryStrategy,
    HistoryEntry,
    Identity,
    Outcome,
    Phase,
    RolloutSpec,
    RolloutStatus,
    Target,
    TargetKind,
    TrafficMode,
    Weight,
    WeightStep,
)
from rollouts.lab.testing.world import START


def adapter(name: str, source: str = "") -> Identity:
    return Identity(kind="Adapter", group="", name=name, source=source)


STEPS = (WeightStep(weight=Weight(1000)),)
OLD, NEW = adapter("v1", "/adapters/v1"), adapter("v2", "/adapters/v2")


def observe(*views: PoolView, status: RolloutStatus | None = None, **fields: Any) -> Observation:
    spec = RolloutSpec(
        target=Target(kind=TargetKind.ADAPTER, name="v2", source="/adapters/v2"),
        traffic=AdapterTraffic(
            kind=AdapterTrafficKind.INFERENCE_MODEL, name="m", model_name="m", pool_name="pool"
        ),
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
    identity: Identity, *, ready: int = 3, lacking: tuple[str, ...] = (), loaded: bool = True
) -> PoolView:
    return PoolView(identity=identity, exists=True, ready_endpoints=ready, lacking=lacking, loaded=loaded)


def of(kind: type, decided: Plan) -> list[Any]:
    return [action for action in decided.actions if isinstance(action, kind)]


def running(**fields: Any) -> RolloutStatus:
    old, new = revision_of(OLD, ""), revision_of(NEW, "")
    return RolloutStatus(
        phase=Phase.PROGRESSING,
        stable=old,
        canary=new,
        attempt=1,
        started_at=START,
        step_started_at=START,
        step_count=1,
        steps_hash=steps_hash(STEPS),
        **fields,
    )


def test_the_candidate_is_loaded_where_it_is_missing_and_so_is_what_is_stable():
    decided = plan(observe(view(OLD, lacking=("a",)), view(NEW, lacking=("a", "b")), status=running()), START)
    assert [action.identity for action in of(LoadAdapter, decided)] == [OLD, NEW]


def test_an_adapter_without_a_source_is_nobodys_to_load():
    plain = adapter("v2")
    status = replace(running(), canary=revision_of(plain, ""))
    spec = replace(observe().spec, target=Target(kind=TargetKind.ADAPTER, name="v2"))  # type: ignore[type-var]
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
    left = replace(running(), canary=revision_of(adapter("v0", "/adapters/v0"), ""))
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
