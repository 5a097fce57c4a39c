"""What is kept of attempts: a time line in each run, ten attempts per Rollout, and little of them in the cache."""

from __future__ import annotations

import copy
import json
from itertools import pairwise
from typing import Any

import pytest

from rollouts.analysis.timeline import FINISHED_LIMIT, read_timeline
from rollouts.api.run_status import attempt_of, gate_summaries, gate_view
from rollouts.controller.caches import Caches
from rollouts.controller.housekeeping import KEPT_ATTEMPTS, prune_runs
from rollouts.lab.memoryapi.store import MemoryApi
from rollouts.objects import kinds
from rollouts.runtime.objects import ObjectKey
from tests.kit.attempts import bad_attempt, evidence_run, good_attempt
from tests.kit.clock import VirtualClock
from tests.kit.faults.cluster import Cluster
from tests.kit.faults.simulation import Simulation
from tests.kit.memory_client import MemoryKubeClient

Object = dict[str, Any]


@pytest.fixture(scope="module")
def good() -> Simulation:
    return good_attempt()


@pytest.fixture(scope="module")
def bad() -> Simulation:
    return bad_attempt()


def versions_of_the_run(simulation: Simulation) -> list[Object]:
    return [
        record.change.obj["status"]
        for record in simulation.history.records
        if record.of(kinds.ANALYSIS_RUN) and "comparisons" in (record.change.obj.get("status") or {})
    ]


def test_a_promotion_can_be_drawn_from_its_run(good: Simulation) -> None:
    found = evidence_run(good)
    points = read_timeline(found["status"]["timeline"])
    assert len(found["status"]["timeline"]) <= FINISHED_LIMIT
    assert found["status"]["checkpoint"] == ""

    weights = [point.weight for point in points]
    assert weights == sorted(weights)
    assert {0.1, 0.5} <= set(weights)
    assert sum(point.decision for point in points) == 2
    since = {gate["step"]: gate["since"] for gate in found["status"]["gates"]}
    assert since[1] < since[3]
    last = points[-1]
    assert last.canary_requests > 0
    assert all(one.canary_requests <= other.canary_requests for one, other in pairwise(points))
    names = [item["name"] for item in found["status"]["comparisons"]]
    ttft = last.metrics[names.index("ttft-step-4")]
    assert ttft is not None
    assert ttft.low is not None
    assert ttft.effect is not None
    assert ttft.low < ttft.effect


def test_an_abort_ends_with_the_point_that_decided(bad: Simulation) -> None:
    found = evidence_run(bad)
    points = read_timeline(found["status"]["timeline"])
    abort_at = found["status"]["comparisons"][0]["figures"]["abortAt"]
    assert points[-1].decision
    assert points[-1].harm is not None
    assert points[-1].harm >= abort_at
    assert all((point.harm or 0.0) < abort_at for point in points[:-1])


def test_every_look_is_in_the_time_line_though_only_some_are_stored(good: Simulation) -> None:
    """Thirty seconds apart, while statuses are stored every two minutes; none is lost between them."""
    stored = [status for status in versions_of_the_run(good) if status["phase"] == "Running"]
    points = read_timeline(stored[-1]["timeline"])
    gaps = {other.at - one.at for one, other in pairwise(points)}
    assert len(points) > 1.5 * len({status["judgedAt"] for status in stored})
    assert gaps <= {29, 30, 31}


def test_the_time_line_is_no_reason_for_a_write(good: Simulation) -> None:
    """Whatever is stored with another time line has another checkpoint, too."""
    stored = [(status["timeline"], status["checkpoint"]) for status in versions_of_the_run(good)]
    changes = [(one, other) for one, other in pairwise(stored) if one[0] != other[0]]
    assert len(changes) > 4
    assert all(one[1] != other[1] for one, other in changes)


def test_what_is_stored_before_is_in_what_is_stored_later(good: Simulation) -> None:
    running = [read_timeline(status["timeline"]) for status in versions_of_the_run(good)][:-1]
    assert len(running) > 4
    assert all(later[: len(one)] == one for one, later in pairwise(running))


# --- what the controller keeps of it ---------------------------------------------------------------


def rollout(attempt: int) -> Object:
    return {
        "metadata": {"namespace": "default", "name": "mymodel", "uid": "u-1", "resourceVersion": "7"},
        "spec": {},
        "status": {
            "attempt": attempt,
            "stable": {"kind": "InferencePool", "name": "v1", "hash": "a" * 64},
        },
    }


def of_attempt(source: Object, attempt: int, suffix: str = "", uid: str = "") -> Object:
    made = copy.deepcopy(source)
    made["metadata"] |= {
        "name": f"mymodel-aaaaaaaa-{attempt}{suffix}-u-1",
        "namespace": "default",
        "uid": uid or f"run-{attempt}{suffix}",
        "resourceVersion": "9",
        "creationTimestamp": f"2026-01-{attempt:02d}T00:00:00Z",
        "ownerReferences": [
            {
                "apiVersion": f"{kinds.GROUP}/{kinds.VERSION}",
                "kind": "Rollout",
                "name": "mymodel",
                "uid": "u-1",
                "controller": True,
            }
        ],
    }
    made["spec"]["attempt"] = attempt
    return made


def caches(attempt: int, *runs: Object) -> Caches:
    made = Caches(MemoryKubeClient(MemoryApi()), VirtualClock(), namespace=None)
    made.rollouts.apply(rollout(attempt))
    for one in runs:
        made.runs.apply(one)
    return made


def kept(found: Caches, attempt: int) -> Object:
    obj = found.runs.get(ObjectKey("default", f"mymodel-aaaaaaaa-{attempt}-u-1"))
    assert obj is not None
    return obj


@pytest.mark.parametrize("attempt", [3, 4], ids=["of the attempt", "of one that the cache has not heard of"])
def test_a_finished_run_is_read_as_before(bad: Simulation, attempt: int) -> None:
    finished = of_attempt(evidence_run(bad), attempt)
    found = kept(caches(3, finished), attempt)
    assert gate_view(found) == gate_view(finished)
    assert list(gate_summaries(found)) == list(gate_summaries(finished))
    assert found["spec"]["marks"] == finished["spec"]["marks"]
    assert len(json.dumps(found)) < len(json.dumps(finished)) * 0.6


def test_a_run_that_goes_on_is_kept_whole(bad: Simulation) -> None:
    running = of_attempt(evidence_run(bad), 1)
    running["status"]["phase"] = "Running"
    assert kept(caches(3, running), 1)["status"] == running["status"]


def test_of_an_earlier_attempt_metadata_and_phase_are_kept(bad: Simulation) -> None:
    found = kept(caches(3, of_attempt(evidence_run(bad), 2)), 2)
    assert found["spec"] == {"attempt": 2}
    assert found["status"] == {"phase": "Failed"}


async def test_the_cache_lets_go_of_a_run_whose_attempt_is_over(bad: Simulation) -> None:
    found = caches(2, of_attempt(evidence_run(bad), 2))
    assert len(kept(found, 2)["status"]) > 1
    later = rollout(3)
    later["metadata"]["resourceVersion"] = "8"
    found.rollouts.apply(later)
    assert await prune_runs(MemoryKubeClient(MemoryApi()), found) == 0
    assert kept(found, 2)["status"] == {"phase": "Failed"}


async def test_the_newest_attempts_stay_with_all_of_their_runs(bad: Simulation) -> None:
    cluster, source = Cluster(VirtualClock()), evidence_run(bad)
    runs = [of_attempt(source, attempt, end) for attempt in range(1, 15) for end in ("", "-1-abcdef")]
    for one in runs:
        stored = cluster.create(
            kinds.ANALYSIS_RUN, {**one, "metadata": {**one["metadata"], "resourceVersion": ""}}
        )
        one["metadata"] |= {name: stored["metadata"][name] for name in ("uid", "resourceVersion")}
    deleted = await prune_runs(MemoryKubeClient(cluster.api), caches(14, *runs))
    left = [attempt_of(one) for one in cluster.all(kinds.ANALYSIS_RUN)]
    assert sorted(left) == sorted([*range(15 - KEPT_ATTEMPTS, 15)] * 2)
    assert deleted == len(runs) - len(left)
