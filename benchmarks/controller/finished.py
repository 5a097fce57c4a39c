"""Finished AnalysisRuns, as full as they get: what `scale --finished` adds to each Rollout.

``python -m benchmarks.controller.finished`` prints what 10,000 of them take in the controller's cache.
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rollouts.analysis.timeline import FINISHED_LIMIT, MetricPoint, TimePoint, thinned, write_timeline
from rollouts.analysis.types import ComparisonResult, GateState, RunPhase, RunStatus
from rollouts.api.run_results import write_run_status
from rollouts.controller.caches import Caches
from rollouts.kube.client import KubeClient, PatchKind
from rollouts.lab.memoryapi.store import MemoryApi
from rollouts.objects import kinds
from rollouts.runtime.clock import SystemClock
from tests.kit.memory_client import MemoryKubeClient

__all__ = ["add_finished_runs"]

_NAMES = ("error-rate", "ttft", "e2e", "queue-time")
_AT_ONCE = 16


def _status() -> dict[str, Any]:
    """Four comparisons over two hours, and a time line as long as it may be."""
    begun = datetime(2026, 1, 1, tzinfo=UTC)
    metric = MetricPoint(effect=0.0123, low=-0.123, high=0.234, harm=1.23, proof=45.6)
    points = [
        TimePoint(
            at=int(begun.timestamp()) + 30 * n, weight=0.1, canary_requests=60 * n, metrics=(metric,) * 4
        )
        for n in range(240)
    ]
    words = "within tolerance: the canary is shown to be less than 25 % worse than stable " * 4
    figures = dict.fromkeys(("effect", "effectLow", "effectHigh", "harm", "harmTotal", "proof"), 1.234567)
    return write_run_status(
        RunStatus(
            phase=RunPhase.SUCCESSFUL,
            message=words,
            started_at=begun,
            completed_at=begun + timedelta(hours=2),
            earned=True,
            comparisons=tuple(
                ComparisonResult(
                    name=name,
                    verdict="Pass",
                    reason="WithinTolerance",
                    words=words,
                    effect="+1.2 % (-12 % to +23 %)",
                    evidence="harm 1.23 of 20, within tolerance 45.6 of 20",
                    figures=figures,
                )
                for name in _NAMES
            ),
            gates=tuple(GateState(step=step, verdict="Pass", message=words, since=begun) for step in (1, 3)),
            judged_at=begun + timedelta(hours=2),
            timeline=write_timeline(thinned(points, FINISHED_LIMIT)),
        )
    )


async def add_finished_runs(client: KubeClient, count: int) -> int:
    """``count`` runs for each Rollout of the namespace ``default``; answers how many there are."""
    status, slots, made = _status(), asyncio.Semaphore(_AT_ONCE), 0

    async def add(rollout: dict[str, Any], number: int) -> None:
        meta = rollout["metadata"]
        owner = {
            "apiVersion": rollout["apiVersion"],
            "kind": "Rollout",
            "name": meta["name"],
            "uid": meta["uid"],
            "controller": True,
        }
        name = f"{meta['name']}-00000000-0-{number}-{meta['uid'][:5]}"
        run = {
            "apiVersion": f"{kinds.GROUP}/{kinds.VERSION}",
            "kind": "AnalysisRun",
            "metadata": {"name": name, "ownerReferences": [owner]},
            "spec": {
                "rollout": meta["name"],
                "attempt": 0,
                "terminate": True,
                "comparisons": [{"name": one, "compare": {"preset": "ttft"}, "steps": [1]} for one in _NAMES],
            },
        }
        async with slots:
            await client.create(kinds.ANALYSIS_RUN, "default", run)
            await client.patch(
                kinds.ANALYSIS_RUN,
                "default",
                name,
                {"status": status},
                kind=PatchKind.MERGE,
                subresource="status",
            )

    token = ""
    while True:
        page = await client.list_page(kinds.ROLLOUT, "default", continue_token=token)
        async with asyncio.TaskGroup() as group:
            for rollout in page.items:
                for number in range(count):
                    group.create_task(add(rollout, number))
                    made += 1
        token = page.continue_token
        if not token:
            return made


# --- the cache alone -------------------------------------------------------------------------------

_ROLLOUTS, _EACH, _ATTEMPT = 1000, 10, 11


def _resident() -> float:
    """Megabytes of this process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def _meta(name: str, uid: str, version: int) -> dict[str, Any]:
    return {"name": name, "namespace": "default", "uid": uid, "resourceVersion": str(version)}


def _cached(sort: str) -> float:
    """Megabytes that the runs take: kept ``whole``, of the ``current`` attempt, or of ``earlier`` ones."""
    caches = Caches(MemoryKubeClient(MemoryApi()), SystemClock(), whole_runs=sort == "whole")
    for index in range(_ROLLOUTS):
        meta = _meta(f"model-{index:04d}", f"{index:08d}-rollout", 1)
        caches.rollouts.apply({"metadata": meta, "spec": {}, "status": {"attempt": _ATTEMPT}})
    text = json.dumps(_status())
    gc.collect()
    before = _resident()
    for index in range(_ROLLOUTS * _EACH):
        rollout, number = divmod(index, _EACH)
        owner = {"apiVersion": f"{kinds.GROUP}/{kinds.VERSION}", "kind": "Rollout", "controller": True}
        owner |= {"name": f"model-{rollout:04d}", "uid": f"{rollout:08d}-rollout"}
        meta = _meta(f"model-{rollout:04d}-00000000-{number}-{rollout:08d}", f"{index:08d}-run", index + 2)
        attempt = _ATTEMPT if sort == "current" else number + 1
        caches.runs.apply(
            {
                "metadata": {**meta, "ownerReferences": [owner], "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {
                    "rollout": f"model-{rollout:04d}",
                    "attempt": attempt,
                    "terminate": True,
                    "comparisons": [{"name": name, "compare": {"preset": "ttft"}} for name in _NAMES],
                },
                "status": json.loads(text),
            }
        )
    gc.collect()
    return _resident() - before


def main() -> None:
    """Each sort in a process of its own, so that none has another's memory."""
    if len(sys.argv) > 1:
        print(
            f"{_ROLLOUTS * _EACH} finished runs, {sys.argv[1]:8} {_cached(sys.argv[1]):4.0f} MB", flush=True
        )
        return
    for sort in ("whole", "current", "earlier"):
        subprocess.run([sys.executable, "-m", "benchmarks.controller.finished", sort], check=True)


if __name__ == "__main__":
    main()
