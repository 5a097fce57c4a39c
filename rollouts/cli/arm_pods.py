"""Pods of a Rollout's pools as the cluster has them now: how many are Ready, and why the others are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rollouts.carriers import pods_of
from rollouts.engine.versions import Identity
from rollouts.kube.client import KubeClient
from rollouts.kube.errors import KubeError, NotFound
from rollouts.kube.paging import list_all
from rollouts.objects import kinds
from rollouts.objects.fields import items_at, map_of, metadata_of, seconds_at
from rollouts.objects.pods import holds_resources, pending_words, ready_since

__all__ = ["PodsSeen", "fetch_pods", "pods_line", "pods_seen"]

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PodsSeen:
    """``pending`` are those that no node takes: ``words`` why, in the scheduler's, ``since`` when the first waits."""

    ready: int
    pending: int = 0
    starting: int = 0
    ending: int = 0
    words: str = ""
    since: datetime | None = None


async def fetch_pods(client: KubeClient, namespace: str, pool: Identity) -> list[Object] | None:
    """The pods of an arm that has some of its own; None where they cannot be read, or it does not exist."""
    for resource, read in pods_of(pool):
        try:
            selector = read(await client.get(resource, namespace, pool.name)).selector
            pods = await list_all(client, kinds.POD, namespace) if selector else []
        except NotFound:
            continue
        except KubeError:
            return None
        labels = [(pod, map_of(metadata_of(pod).get("labels"))) for pod in pods]
        return [pod for pod, has in labels if all(has.get(key) == value for key, value in selector)]
    return None


def pods_seen(pods: Sequence[Object]) -> PodsSeen:
    """Each pod counts once; those that have ended do not."""
    held = [pod for pod in pods if holds_resources(pod)]
    ending = [pod for pod in held if metadata_of(pod).get("deletionTimestamp")]
    here = [pod for pod in held if pod not in ending]
    waiting = [pod for pod in here if pending_words(pod) is not None]
    ready = sum(ready_since(pod) is not None for pod in here)
    told = Counter(pending_words(pod) or "" for pod in waiting)
    begun = [at for pod in waiting for at in _unscheduled(pod)]
    return PodsSeen(
        ready=ready,
        pending=len(waiting),
        starting=len(here) - ready - len(waiting),
        ending=len(ending),
        words=told.most_common(1)[0][0] if told else "",
        since=datetime.fromtimestamp(min(begun), UTC) if begun else None,
    )


def _unscheduled(pod: Object) -> Iterator[float]:
    for condition in items_at(pod, "status", "conditions"):
        if condition.get("type") == "PodScheduled" and (at := seconds_at(condition, "lastTransitionTime")):
            yield at


def pods_line(name: str, seen: PodsSeen, wanted: int | None, now: datetime) -> str:
    """``v2 waits for 2 of 4 pods: 2 Pending, 3 Insufficient nvidia.com/gpu, for 6 minutes``."""
    parts = []
    if seen.pending:
        words = seen.words.rpartition("nodes are available: ")[2].rstrip(". ")
        parts.append(", ".join(filter(None, [f"{seen.pending} Pending", words, _for(seen.since, now)])))
    parts += [
        f"{count} {state}" for count, state in ((seen.starting, "starting"), (seen.ending, "ending")) if count
    ]
    why = f": {'; '.join(parts)}" if parts else ""
    if wanted is not None and seen.ready < wanted:
        return f"{name} waits for {wanted - seen.ready} of {wanted} pods{why}."
    return f"{name} has {seen.ready} Ready pod{'' if seen.ready == 1 else 's'}{why}."


def _for(since: datetime | None, now: datetime) -> str:
    minutes = 0 if since is None else int((now - since).total_seconds()) // 60
    return f"for {minutes} minute{'' if minutes == 1 else 's'}" if minutes > 0 else ""
