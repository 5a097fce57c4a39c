"""PoolSplits whose Rollout is gone: they serve stable until nothing depends on them, and are then taken away.

Without its split a pool's picker gives requests to all of its pods. That is the same as with it once every pod is of
one variant, and not before: then the split is what keeps users from a version that lost.
A pod that is not Ready counts: it restarts, and is Ready again when nobody looks.
"""

from __future__ import annotations

import structlog

from rollouts.controller.caches import Caches
from rollouts.controller.picked_pools import pool_named
from rollouts.kube.client import KubeClient
from rollouts.kube.errors import KubeError, NotFound
from rollouts.objects import kinds
from rollouts.objects.fields import map_of, metadata_of, text_of
from rollouts.objects.pool_splits import PoolSplit, read_pool_split
from rollouts.objects.pools import Pool
from rollouts.runtime.objects import Object, ObjectKey, version_of
from rollouts.traffic.writes import CONSENT_ANNOTATION, ROLLOUT_LABEL, label_value

__all__ = ["remove_orphaned_splits"]

_log = structlog.get_logger(__name__)


async def remove_orphaned_splits(client: KubeClient, caches: Caches) -> int:
    """Delete them; answers how many went. Errors are logged, the next time tries again."""
    deleted = 0
    for obj in list(caches.traffic[kinds.POOL_SPLIT].values()):
        split = read_pool_split(obj)
        if _is_orphan(caches, split, obj) and _is_settled(caches, split):
            deleted += await _delete(client, split, obj)
    return deleted


def _is_orphan(caches: Caches, split: PoolSplit, obj: Object) -> bool:
    """Whether it was a Rollout's, and none of that name is there. Others' objects name none."""
    meta = metadata_of(obj)
    named = text_of(map_of(meta.get("labels")).get(ROLLOUT_LABEL)) or text_of(
        map_of(meta.get("annotations")).get(CONSENT_ANNOTATION)
    )
    names = [key.name for key in caches.rollouts if key.namespace == split.namespace]
    return bool(named) and not any(named in (name, label_value(name)) for name in names)


def _is_settled(caches: Caches, split: PoolSplit) -> bool:
    """Whether the pool serves the same without it: its pods are all of one variant, or of none, and one is Ready.

    A pool that is gone may be made again, as GitOps tools do: without it what is left of the variants' pods counts.
    """
    pool = pool_named(caches, split.namespace, split.pool, "")
    if pool is None:
        return not any(caches.has_pod(split.namespace, variant.labels) for variant in split.variants)
    pods = caches.endpoints(pool)
    return (
        any(pod.ready for pod in pods) and len({_variant(caches, split, pool, pod.name) for pod in pods}) == 1
    )


def _variant(caches: Caches, split: PoolSplit, pool: Pool, pod: str) -> str:
    variant = split.variant_of(caches.labels_of_pod(ObjectKey(pool.namespace, pod)))
    return variant.name if variant is not None else ""


async def _delete(client: KubeClient, split: PoolSplit, obj: Object) -> int:
    uid = str(metadata_of(obj).get("uid", ""))
    try:
        await client.delete(
            kinds.POOL_SPLIT, split.namespace, split.name, uid=uid, resource_version=version_of(obj)
        )
    except NotFound:
        return 0
    except KubeError as error:
        _log.info(
            "orphaned_split_kept", namespace=split.namespace, name=split.name, error=type(error).__name__
        )
        return 0
    _log.info("orphaned_split_deleted", namespace=split.namespace, name=split.name)
    return 1
