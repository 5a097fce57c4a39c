"""Finished AnalysisRuns of earlier attempts, as full as they get: what `scale --finished` adds to each Rollout."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from rollouts.analysis.timeline import FINISHED_LIMIT, MetricPoint, TimePoint, thinned, write_timeline
from rollouts.analysis.types import ComparisonResult, GateState, Phase, RunStatus
from rollouts.api.run_results import write_run_status
from rollouts.kube.client import KubeClient, PatchKind
from rollouts.objects import kinds

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
            phase=Phase.SUCCESSFUL,
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
