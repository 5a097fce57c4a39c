"""Bounded history: finished AnalysisRuns and Jobs of past attempts are deleted, newest kept."""

from __future__ import annotations

from typing import Any

import structlog

from rollouts.api.parsing import parse_rollout
from rollouts.controller.caches import Caches
from rollouts.engine.naming import Owner, is_of_attempt
from rollouts.kube.client import KubeClient, Resource
from rollouts.kube.errors import KubeError, NotFound
from rollouts.objects import kinds

__all__ = ["KEPT_RUNS", "prune_runs"]

_log = structlog.get_logger(__name__)

KEPT_RUNS = 10
"""Finished runs kept per Rollout, besides those of the current attempt."""


async def prune_runs(client: KubeClient, caches: Caches) -> int:
    """Delete what is over the limit; answers how many objects went. Errors are logged, the next time tries again."""
    deleted = 0
    for key in list(caches.rollouts):
        rollout = caches.rollouts.get(key)
        if rollout is None:
            continue
        parsed = parse_rollout(rollout)
        owner = Owner(name=parsed.name, uid=parsed.uid)
        for resource, owned in (
            (kinds.ANALYSIS_RUN, caches.owned_runs(key, parsed.uid)),
            (kinds.JOB, caches.owned_jobs(key, parsed.uid)),
        ):
            old = [obj for obj in owned if not is_of_attempt(obj["metadata"]["name"], owner, parsed.status)]
            old.sort(key=lambda obj: str(obj["metadata"].get("creationTimestamp", "")))
            for obj in old[: max(0, len(old) - KEPT_RUNS)]:
                deleted += await _delete(client, resource, obj)
    return deleted


async def _delete(client: KubeClient, resource: Resource, obj: dict[str, Any]) -> int:
    meta = obj["metadata"]
    try:
        await client.delete(resource, meta["namespace"], meta["name"], uid=str(meta.get("uid", "")))
    except NotFound:
        return 0
    except KubeError as error:
        _log.info("prune_failed", kind=resource.kind, name=meta["name"], error=type(error).__name__)
        return 0
    return 1
