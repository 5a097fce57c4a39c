"""Which Pods of a ReplicaSet go first: the order of Kubernetes' ``controller.ActivePodsWithRanks``."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

__all__ = ["DELETION_COST", "first_to_go", "is_active", "is_ready"]

Object = Mapping[str, Any]

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
"""Annotation of Pods: an int32; those with less go first. What is no number counts as 0."""
_PHASES = {"Pending": 0, "Unknown": 1, "Running": 2}
_ENDED = ("Succeeded", "Failed")
_NANOSECONDS = 1e9
_MAX_COST = 2**31


def is_active(pod: Object) -> bool:
    """Whether a controller counts it: neither ended nor being deleted."""
    return "deletionTimestamp" not in pod["metadata"] and _phase(pod) not in _ENDED


def is_ready(pod: Object) -> bool:
    """Whether its Ready condition holds."""
    return _ready_since(pod) is not None


def first_to_go(pods: Iterable[Object], related: Iterable[Object], now: datetime) -> list[Object]:
    """``pods``, those that are deleted first in front.

    In turn: without a node; of an earlier phase; not Ready; of less deletion cost; with more of ``related`` (Pods of
    all ReplicaSets of the Deployment) on their node; Ready for less time, restarted more often, younger. Ages are told
    apart by their binary logarithm alone (LogarithmicScaleDown), and those of one size by UID.
    """
    on_node = Counter(_node(pod) for pod in related if is_active(pod))

    def compare(one: Object, other: Object) -> int:
        first = (
            bool(_node(one)),
            _PHASES.get(_phase(one), 0),
            is_ready(one),
            _cost(one),
            -on_node[_node(one)],
        )
        second = (
            bool(_node(other)),
            _PHASES.get(_phase(other), 0),
            is_ready(other),
            _cost(other),
            -on_node[_node(other)],
        )
        if first != second:
            return -1 if first < second else 1
        return _by_age(one, other, now)

    return sorted(pods, key=functools.cmp_to_key(compare))


def _by_age(one: Object, other: Object, now: datetime) -> int:
    since, others = _ready_since(one), _ready_since(other)
    if since is not None and others is not None and since != others:
        return _rank(since, now) - _rank(others, now) or _by_uid(one, other)
    if restarts := _restarts(other) - _restarts(one):
        return restarts
    made, others_made = (_time(pod["metadata"].get("creationTimestamp")) for pod in (one, other))
    if made == others_made:
        return 0
    return _rank(made, now) - _rank(others_made, now) or _by_uid(one, other)


def _by_uid(one: Object, other: Object) -> int:
    return -1 if one["metadata"]["uid"] < other["metadata"]["uid"] else 1


def _rank(since: datetime, now: datetime) -> int:
    """Kubernetes' ``logarithmicRankDiff``: whole binary logarithms of nanoseconds."""
    age = (now - since).total_seconds() * _NANOSECONDS
    return int(math.log2(age)) if age > 0 else -1


def _cost(pod: Object) -> int:
    text = str((pod["metadata"].get("annotations") or {}).get(DELETION_COST, "0"))
    try:
        cost = int(text)
    except ValueError:
        return 0
    return cost if -_MAX_COST <= cost < _MAX_COST else 0


def _restarts(pod: Object) -> int:
    statuses: Sequence[Object] = (pod.get("status") or {}).get("containerStatuses") or ()
    return max((int(one.get("restartCount") or 0) for one in statuses), default=0)


def _ready_since(pod: Object) -> datetime | None:
    for one in (pod.get("status") or {}).get("conditions") or ():
        if one.get("type") == "Ready" and one.get("status") == "True":
            return _time(one.get("lastTransitionTime"))
    return None


def _time(text: Any) -> datetime:
    return datetime.fromisoformat(text) if text else datetime.min.replace(tzinfo=UTC)


def _phase(pod: Object) -> str:
    return str((pod.get("status") or {}).get("phase", ""))


def _node(pod: Object) -> str:
    return str(pod["spec"].get("nodeName") or "")
