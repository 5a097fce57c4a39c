"""Bounded history: AnalysisRuns and Jobs of past attempts are deleted, newest kept."""

from __future__ import annotations

import structlog

from rollouts.api.parsing import ParsedRollout, parse_rollout
from rollouts.api.run_status import attempt_of
from rollouts.controller.caches import Caches
from rollouts.engine.naming import Owner, is_of_attempt
from rollouts.kube.client import KubeClient, Resource
from rollouts.kube.errors import KubeError, NotFound
from rollouts.objects import kinds
from rollouts.runtime.objects import Object, ObjectKey

__all__ = ["KEPT_ATTEMPTS", "KEPT_JOBS", "prune_runs"]

_log = structlog.get_logger(__name__)

KEPT_ATTEMPTS = 10
"""Attempts per Rollout whose runs are kept, the current one included: what `rollouts report` can tell of."""
KEPT_JOBS = 10
"""Jobs kept per Rollout, besides those of the current attempt."""


async def prune_runs(client: KubeClient, caches: Caches) -> int:
    """Delete what is over the limit; answers how many objects went. Errors are logged, the next time tries again."""
    deleted = 0
    for key in list(caches.rollouts):
        rollout = caches.rollouts.get(key)
        if rollout is not None and _owns(caches, key, rollout):
            deleted += await _prune(client, caches, key, parse_rollout(rollout))
    return deleted


def _owns(caches: Caches, key: ObjectKey, rollout: Object) -> bool:
    """Most own nothing most of the time, and reading a thousand of them takes a second."""
    uid = str(rollout["metadata"].get("uid", ""))
    return bool(caches.owned_runs(key, uid) or caches.owned_jobs(key, uid))


async def _prune(client: KubeClient, caches: Caches, key: ObjectKey, parsed: ParsedRollout) -> int:
    owner = Owner(name=parsed.name, uid=parsed.uid)

    def past(owned: list[Object]) -> list[Object]:
        return [obj for obj in owned if not is_of_attempt(obj["metadata"]["name"], owner, parsed.status)]

    runs, jobs = past(caches.owned_runs(key, parsed.uid)), past(caches.owned_jobs(key, parsed.uid))
    kept = sorted({attempt_of(run) for run in runs}, reverse=True)[: KEPT_ATTEMPTS - 1]
    caches.trim_runs(run for run in runs if attempt_of(run) in kept)
    over = [(kinds.ANALYSIS_RUN, run) for run in runs if attempt_of(run) not in kept]
    over += [(kinds.JOB, job) for job in sorted(jobs, key=_created)[: max(0, len(jobs) - KEPT_JOBS)]]
    return sum([await _delete(client, resource, obj) for resource, obj in over])


def _created(obj: Object) -> str:
    return str(obj["metadata"].get("creationTimestamp", ""))


async def _delete(client: KubeClient, resource: Resource, obj: Object) -> int:
    meta = obj["metadata"]
    try:
        await client.delete(resource, meta["namespace"], meta["name"], uid=str(meta.get("uid", "")))
    except NotFound:
        return 0
    except KubeError as error:
        _log.info("prune_failed", kind=resource.kind, name=meta["name"], error=type(error).__name__)
        return 0
    return 1
