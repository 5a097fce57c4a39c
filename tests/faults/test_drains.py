"""Drains in whole rollouts: whose pods are deleted, and that marks end with what asked for them, also after crashes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from rollouts.controller.draining import PodDrains
from rollouts.controller.marking import Marking
from rollouts.kube.errors import Forbidden
from rollouts.lab.memoryapi.store import MemoryApi
from rollouts.objects import kinds
from rollouts.objects.leaving import marked_by
from rollouts.objects.pods import DRAINING_ANNOTATION
from tests.kit.faults.capacity_scenarios import PODS, _scenario, autoscaler, busy, kill_pod, settled
from tests.kit.faults.cluster import Cluster
from tests.kit.faults.moves import at_step, both, command, delete, gone, healthy_on, phase, reason
from tests.kit.faults.objects import CANARY, RELEASES, STABLE
from tests.kit.faults.plans import FaultPlan
from tests.kit.faults.simulation import Condition, Move, Run, Scenario, Simulation, simulate
from tests.kit.faults.transport import WriteFault

pytestmark = pytest.mark.timeout(280)
"""Seconds: some of these are a dozen runs of a whole rollout, on a machine that does other things as well."""

ROLLOUT = "mymodel"
_ROOM = {"maxSurge": 1, "minStable": 1, "gpus": PODS + 1}


def draining(sim: Simulation) -> bool:
    """Somebody's pods are marked, and still answer."""
    return any(marked_by(pod) for pod in sim.cluster.all(kinds.POD))


def unmarked(sim: Simulation) -> bool:
    """Nobody's pods are marked."""
    return not draining(sim)


def take_away(sim: Simulation) -> None:
    """Somebody takes the finalizer off and the Rollout away."""
    sim.cluster.merge(kinds.ROLLOUT, ROLLOUT, {"metadata": {"finalizers": None}}, manager="kubectl")
    delete(kinds.ROLLOUT, ROLLOUT)(sim)


def scenario(name: str, *moves: Move, goal: Condition) -> Scenario:
    begin = [
        Move(when=at_step(1), act=busy(STABLE, 3), after=2),
        Move(when=at_step(1), act=command("promote"), after=5),
    ]
    made = _scenario(name, [*begin, *moves], goal, **_ROOM)

    def setup(cluster: Cluster) -> None:
        made.setup(cluster)
        assert cluster.deployments is not None
        cluster.deployments.lag = 1.0  # the controller that deletes has a cache of its own

    return replace(made, setup=setup)


SCENARIOS = {
    one.name: one
    for one in (
        scenario(
            "drained, and promoted",
            Move(when=draining, act=busy(STABLE, 0), after=20),
            goal=both(healthy_on(CANARY), settled(stable=0, canary=PODS)),
        ),
        scenario(
            "aborted in the middle of a drain",
            Move(when=draining, act=command("abort", tag="t2"), after=7),
            Move(when=phase("Aborted"), act=busy(STABLE, 0), after=1),
            goal=both(phase("Aborted"), settled(stable=PODS, canary=0)),
        ),
        scenario(
            "a pod dies in the middle of a drain",
            Move(when=draining, act=kill_pod(STABLE), after=5),
            Move(when=at_step(2), act=busy(STABLE, 0), after=60),
            goal=both(healthy_on(CANARY), settled(stable=0, canary=PODS)),
        ),
        scenario(
            "an autoscaler comes in the middle of a drain",
            Move(when=draining, act=autoscaler(STABLE), after=5),
            Move(when=reason("CapacityManagedElsewhere"), act=command("abort", tag="t2"), after=20),
            goal=both(phase("Aborted"), unmarked),
        ),
        scenario(
            "taken away in the middle of a drain",
            Move(when=draining, act=take_away, after=7),
            goal=both(gone, unmarked),
        ),
        scenario(
            "deleted in the middle of a drain",
            Move(when=draining, act=delete(kinds.ROLLOUT, ROLLOUT), after=7),
            goal=gone,
        ),
    )
}


def ends(run: Run) -> dict[str, Any]:
    """Stable's pods as they are in the end."""
    pods: dict[str, Any] = {}
    for record in run.history.of(kinds.POD):
        pods[record.change.name] = record.after
    return {name: pod for name, pod in pods.items() if pod and name.startswith(RELEASES[STABLE])}


def wrongs(run: Run) -> Iterator[str]:
    """Pods of stable that were deleted while it served and were not chosen, and marks that nobody asks for any more."""
    share = 100
    for record in run.history.records:
        after, name = record.after or {}, record.change.name
        if record.change.plural == "rollouts" and after:
            share = 100 - ((after.get("status") or {}).get("weight") or {}).get("applied", 0)
        ends_now = "deletionTimestamp" in (after.get("metadata") or {})
        began = ends_now and "deletionTimestamp" not in ((record.before or {}).get("metadata") or {})
        mine = record.change.plural == "pods" and name.startswith(RELEASES[STABLE])
        if mine and began and share > 0 and marked_by(after) != ROLLOUT:
            yield f"{name} was deleted, and was not drained"
    for name, pod in ends(run).items():
        if marked_by(pod) and "deletionTimestamp" not in pod["metadata"]:
            yield f"{name} has our mark in the end"


@pytest.mark.parametrize("name", SCENARIOS)
def test_only_drained_pods_go_and_no_mark_stays(name: str) -> None:
    run = simulate(SCENARIOS[name])

    assert run.converged
    assert list(wrongs(run)) == []
    assert run.history.problems == []
    assert any(marked_by(record.after or {}) for record in run.history.of(kinds.POD))


@pytest.mark.parametrize("name", ["deleted in the middle of a drain", "taken away in the middle of a drain"])
def test_marks_that_the_api_server_does_not_let_go_hold_up_no_deletion_and_end_later(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A policy lets pods be marked, and for a while not unmarked."""
    real, refused = MemoryApi.patch, list[str]()

    def patch(self: MemoryApi, resource: Any, namespace: str, pod: str, body: Any, **how: Any) -> Any:
        annotations = body.get("metadata", {}).get("annotations", {}) if resource == kinds.POD else {}
        if annotations.get(DRAINING_ANNOTATION, "") is None and len(refused) < 3:
            refused.append(pod)
            raise Forbidden("a policy denies it", status=403)
        return real(self, resource, namespace, pod, body, **how)

    monkeypatch.setattr(MemoryApi, "patch", patch)
    scenario = SCENARIOS[f"capacity: {name}"]
    run = simulate(replace(scenario, goal=both(gone, unmarked)))

    assert len(refused) == 3
    assert run.converged
    assert list(wrongs(run)) == []


CRASHES = (WriteFault.CRASH_BEFORE, WriteFault.CRASH_AFTER)
ABORTED = "capacity: aborted in the middle of a drain"


def _after_a_crash(name: str, fault: WriteFault, number: int) -> list[str]:
    plan = FaultPlan(name=f"{fault.value}, write {number}", writes={number: fault})
    run = simulate(SCENARIOS[name], plan)
    found = [f"{plan.name}: {wrong}" for wrong in wrongs(run)]
    return found if run.converged else [*found, f"{plan.name}: does not end"]


@pytest.mark.parametrize("fault", CRASHES)
@pytest.mark.parametrize("number", range(20, 29, 3))
def test_marks_end_after_a_crash_in_the_middle_of_a_drain(number: int, fault: WriteFault) -> None:
    assert _after_a_crash(ABORTED, fault, number) == []


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("fault", CRASHES)
@pytest.mark.parametrize("name", SCENARIOS)
def test_marks_end_after_a_crash_around_every_write(name: str, fault: WriteFault) -> None:
    writes = simulate(SCENARIOS[name]).writes
    found = [wrong for number in range(writes) for wrong in _after_a_crash(name, fault, number)]

    assert writes > 20
    assert found == []


async def _nothing() -> Marking:
    return Marking.DONE


_BUGS = {
    "what goes anyway loses its mark": ("_going_anyway", lambda self, parsed: set()),
    "nobody marks": ("carry_out", lambda self, *_: _nothing()),
}


@pytest.mark.parametrize("bug", _BUGS)
def test_pods_that_go_undrained_would_be_seen(monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    monkeypatch.setattr(PodDrains, *_BUGS[bug])
    run = simulate(SCENARIOS["capacity: drained, and promoted"])

    assert any("was not drained" in wrong for wrong in wrongs(run))


def test_marks_that_stay_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rollouts.controller.draining.unmarking", lambda pod: {})
    run = simulate(SCENARIOS["capacity: aborted in the middle of a drain"])

    assert any("has our mark in the end" in wrong for wrong in wrongs(run))
