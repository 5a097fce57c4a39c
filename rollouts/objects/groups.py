"""Groups of a LeaderWorkerSet: a leader and its workers serve together, come together and go together.

Source: leaderworkerset.x-k8s.io/v1 (sigs.k8s.io/lws 0.7), labels and annotations of its pods. The leader is worker 0;
the size counts it. Leaders are pods of a StatefulSet with the set's name, so that the highest group goes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rollouts.objects.fields import map_of, metadata_of, text_of
from rollouts.objects.pods import is_ready

__all__ = [
    "GROUP_INDEX",
    "GROUP_KEY",
    "LEADER",
    "REVISION",
    "SET_NAME",
    "SIZE_ANNOTATION",
    "WORKER_INDEX",
    "group_of",
    "group_size",
    "is_whole",
    "is_worker",
    "units",
]

SET_NAME = "leaderworkerset.sigs.k8s.io/name"
GROUP_INDEX = "leaderworkerset.sigs.k8s.io/group-index"
WORKER_INDEX = "leaderworkerset.sigs.k8s.io/worker-index"
GROUP_KEY = "leaderworkerset.sigs.k8s.io/group-key"
REVISION = "leaderworkerset.sigs.k8s.io/template-revision-hash"
SIZE_ANNOTATION = "leaderworkerset.sigs.k8s.io/size"

LEADER = "0"
"""The index of a group's leader among its workers."""

_MOST = 4
"""Digits of a size: no group spans more nodes."""

Object = Mapping[str, Any]


def _label(pod: Object, name: str) -> str:
    return text_of(map_of(metadata_of(pod).get("labels")).get(name))


def group_of(pod: Object) -> tuple[str, str] | None:
    """The set and the index of its group; None for a pod that belongs to no group."""
    found = (_label(pod, SET_NAME), _label(pod, GROUP_INDEX))
    return found if all(found) else None


def is_worker(pod: Object) -> bool:
    """Whether a pod only works for a leader: it is no unit by itself."""
    return group_of(pod) is not None and _label(pod, WORKER_INDEX) not in ("", LEADER)


def group_size(leader: Object) -> int:
    """Pods of the leader's group, itself included; 1 where nobody says."""
    text = text_of(map_of(metadata_of(leader).get("annotations")).get(SIZE_ANNOTATION))
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _MOST else 1


def is_whole(leader: Object, pods: Iterable[Object]) -> bool:
    """Whether as many workers of a leader as its group has are Ready among ``pods``."""
    group = group_of(leader)
    ready = {
        _label(pod, WORKER_INDEX)
        for pod in pods
        if is_worker(pod) and group_of(pod) == group and is_ready(pod)
    }
    return len(ready) >= group_size(leader) - 1


def units(pods: Iterable[Object]) -> int:
    """How many these pods are where a group counts as one."""
    found: set[object] = set()
    for number, pod in enumerate(pods):
        found.add(group_of(pod) or number)
    return len(found)
