"""Figures of gates as series: from the AnalysisRuns of attempts in progress, and of nothing else."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from rollouts.controller.gate_metrics import GATES_PER_NAMESPACE, GateCollector
from rollouts.controller.metrics import ControllerMetrics
from rollouts.lab.prometheus import find_prometheus
from rollouts.objects import kinds
from rollouts.runtime.objects import ObjectKey
from tests.kit.clock import virtual_time
from tests.kit.faults.cluster import NAMESPACE
from tests.kit.faults.moves import delete, gone, healthy_on, phase, retarget
from tests.kit.faults.objects import CANARY, STABLE, base_objects, rollout_object
from tests.kit.faults.process import Assembler
from tests.kit.faults.simulation import CLEAN, Condition, Move, Scenario, Simulation
from tests.kit.faults.source import Answer

Object = dict[str, Any]
LABELS = {"namespace": NAMESPACE, "rollout": "mymodel"}


class Kept(Assembler):
    """The controller whose metrics can be looked at, with the gates' as the process registers them."""

    def __call__(self, client: Any, clock: Any, caches: Any, source: Any) -> Any:
        parts = super().__call__(client, clock, caches, source)
        self.registry = parts.metrics.registry
        self.registry.register(GateCollector(caches, lambda: True))
        return parts

    def read(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, {**LABELS, **labels})

    def named(self, prefix: str) -> list[str]:
        """Series of the Rollout whose names begin so."""
        found = [sample for family in self.registry.collect() for sample in family.samples]
        return [one.name for one in found if one.name.startswith(prefix) and one.labels.get("rollout")]


def run(kept: Kept, goal: Condition, *moves: Move, steps: list[Object] | None = None) -> Simulation:
    rollout = rollout_object(steps) if steps is not None else rollout_object()
    scenario = Scenario(
        name="exported", setup=lambda cluster: base_objects(cluster, rollout), moves=moves, goal=goal
    )
    made: list[Simulation] = []

    async def whole() -> bool:
        made.append(Simulation(scenario, CLEAN, kept))
        return (await made[0].run()).converged

    with virtual_time() as loop:
        assert loop.run_until_complete(whole()), made[0].status
    assert made[0].history.problems == []
    return made[0]


def measured(kept: Kept) -> Condition:
    """The step's gate has a value."""
    return lambda _: kept.read("rollouts_gate_value", scope="step", metric="errors") is not None


def test_a_gate_s_value_is_exported_while_its_attempt_runs_and_not_after_its_promotion():
    kept, seen = Kept(), {}

    def look(_: Simulation) -> None:
        seen["value"] = kept.read("rollouts_gate_value", scope="step", metric="errors")
        seen["start"] = kept.read("rollouts_rollout_step_start_time_seconds")

    run(
        kept,
        healthy_on(CANARY),
        Move(when=measured(kept), act=look),
    )
    assert seen["value"] == pytest.approx(0.01, abs=0.05)
    assert seen["start"] is not None
    assert kept.named("rollouts_gate_") == []
    assert kept.named("rollouts_rollout_step_start") == []
    assert kept.read("rollouts_rollout_reason", reason="Promoted") == 1
    assert kept.read("rollouts_attempts_total", outcome="Promoted") == 1
    assert kept.read("rollouts_attempts_total", outcome="Aborted") == 0


def test_steps_are_timed_by_their_kind():
    kept = Kept()
    steps = [{"setWeight": 10}, {"pause": {"duration": "40s"}}, {"setWeight": 50}]
    run(kept, healthy_on(CANARY), steps=steps)

    def total(kind: str) -> tuple[float | None, float | None]:
        get = kept.registry.get_sample_value
        return (
            get("rollouts_step_seconds_count", {"kind": kind}),
            get("rollouts_step_seconds_sum", {"kind": kind}),
        )

    assert total("pause") == (1, pytest.approx(40, abs=2))
    assert total("setWeight")[0] == 2


def test_what_aborted_stays_until_the_spec_leaves_that_version():
    kept, seen = Kept(), {}

    def look(_: Simulation) -> None:
        seen["value"] = kept.read("rollouts_gate_value", scope="step", metric="errors")
        seen["start"] = kept.named("rollouts_rollout_step_start")
        retarget(STABLE)(_)

    run(
        kept,
        healthy_on(STABLE),
        Move(when=phase("Progressing"), act=lambda sim: sim.say(Answer.BAD)),
        Move(when=phase("Aborted"), act=look),
    )
    assert seen["value"] is not None
    assert seen["value"] > 0.5
    assert seen["start"] == []
    assert kept.named("rollouts_gate_") == []
    assert kept.read("rollouts_attempts_total", outcome="Aborted") == 1
    assert kept.read("rollouts_attempts_total", outcome="Withdrawn") == 0


def test_nothing_is_left_of_a_deleted_rollout():
    kept = Kept()
    run(kept, gone, Move(when=measured(kept), act=delete(kinds.ROLLOUT, "mymodel")))
    assert kept.named("rollouts_") == []


class Stored:
    """Rollouts and runs, as the caches have them."""

    def __init__(self, rollouts: dict[Any, Object], runs: dict[str, list[Object]]) -> None:
        self.rollouts, self.runs = rollouts, runs

    def owned_runs(self, key: Any, _: str) -> list[Object]:
        return self.runs.get(key[1], [])


def collected(names: int, *, leads: bool = True, value: Any = "0.5", **figures: Any) -> CollectorRegistry:
    """One Rollout in progress whose run has this many metrics and one comparison."""
    key = ObjectKey("team-a", "demo")
    status = {"canary": {"name": "v2"}, "attempt": 2, "currentStep": 1}
    rollout = {"metadata": {"namespace": "team-a", "name": "demo", "uid": "u"}, "status": status}
    results = [{"name": f"m{number}", "measurements": [{"value": value}]} for number in range(names)]
    told = {"metricResults": results, "comparisons": [{"name": "ttft", "figures": figures}]}
    runs = [
        {"metadata": {"creationTimestamp": "1"}, "spec": {"attempt": 1}, "status": told},
        {"metadata": {"creationTimestamp": "2"}, "spec": {"attempt": 2}, "status": told},
        {"metadata": {"creationTimestamp": "3"}, "spec": {"attempt": 2, "step": 0}, "status": told},
    ]
    registry = CollectorRegistry()
    caches: Any = Stored({key: rollout}, {"demo": runs})
    registry.register(GateCollector(caches, lambda: leads))
    return registry


def sample(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    base = {"namespace": "team-a", "rollout": "demo", "scope": "attempt"}
    return registry.get_sample_value(name, {**base, **labels})


FIGURES = {
    "effect": 0.25,
    "effectLow": 0.1,
    "effectHigh": 0.4,
    "harm": 12.0,
    "harmTotal": 15.0,
    "abortAt": 20.0,
}


def test_a_comparison_has_its_effect_its_interval_and_its_evidence():
    found = collected(0, **FIGURES)
    assert sample(found, "rollouts_gate_effect_ratio", metric="ttft") == 0.25
    assert sample(found, "rollouts_gate_effect_low_ratio", metric="ttft") == 0.1
    assert sample(found, "rollouts_gate_effect_high_ratio", metric="ttft") == 0.4
    assert sample(found, "rollouts_gate_evidence", metric="ttft", kind="harm") == 12.0
    assert sample(found, "rollouts_gate_evidence", metric="ttft", kind="harm_total") == 15.0
    assert sample(found, "rollouts_gate_evidence_limit", metric="ttft", kind="harm_total") == 20.0
    assert sample(found, "rollouts_gate_evidence", metric="ttft", kind="proof") is None


@pytest.mark.parametrize("value", ["1,2", "nan", "inf", None, True, {"a": 1}, "9" * 10_000, "x"])
def test_what_is_no_finite_number_is_left_out(value):
    found = collected(1, value=value, effect=value)
    assert sample(found, "rollouts_gate_value", metric="m0") is None
    assert sample(found, "rollouts_gate_effect_ratio", metric="ttft") is None


def test_a_namespace_has_so_many_series_and_says_what_it_left_out():
    found = collected(GATES_PER_NAMESPACE + 5)
    families = {family.name: family.samples for family in found.collect()}
    assert len(families["rollouts_gate_value"]) == GATES_PER_NAMESPACE
    assert found.get_sample_value("rollouts_gates_unexported", {"namespace": "team-a"}) == 6


def test_a_replica_that_does_not_lead_exports_no_gates():
    found = collected(3, leads=False)
    assert [one for family in found.collect() for one in family.samples] == []


@pytest.mark.prometheus
def test_names_types_and_help_are_as_prometheus_wants_them():
    metrics = ControllerMetrics()
    page = generate_latest(metrics.registry) + generate_latest(collected(2, **FIGURES))
    done = subprocess.run(
        [str(find_prometheus("promtool")), "check", "metrics"], input=page, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr.decode(), done.stdout.decode()) == (0, "", "")
