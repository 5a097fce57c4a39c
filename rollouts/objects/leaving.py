"""Which pods go when a workload is scaled down, and the annotations by which we say so.

A ReplicaSet deletes pods without a node first, then by phase (Pending, Unknown, Running), those that are not Ready, and
only among pods that are alike in all of that the one with the lowest ``controller.kubernetes.io/pod-deletion-cost``
(kubernetes v1.36, ``pkg/controller/controller_utils.go: ActivePodsWithRanks.Less``). StatefulSets, and the leaders of
a LeaderWorkerSet, which are pods of one, lose the highest ordinals.

Our mark is the value of the annotation ``inferencerollouts.dev/draining``: it names the Rollout, and what the pod's
deletion cost was before, so that whoever undoes it needs to remember nothing. Marks of others are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rollouts.objects.fields import map_of, metadata_of, text_of
from rollouts.objects.groups import is_worker
from rollouts.objects.owners import controller_of
from rollouts.objects.pods import DRAINING_ANNOTATION, holds_resources, is_draining, is_ready
from rollouts.objects.workloads import ORDINAL_KINDS, TEMPLATE_HASH, Workload

__all__ = [
    "BUSY",
    "COST_ANNOTATION",
    "IDLE",
    "LeavingPod",
    "cost_of",
    "is_active",
    "is_mixed",
    "leaving",
    "marked_by",
    "marking",
    "members",
    "serves",
    "unmarking",
]

COST_ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"

IDLE, BUSY = -(2**31), -(2**31) + 1
"""Deletion costs of pods that are about to go: the lowest of all for those that answer nothing any more."""

_NUMBER = re.compile("-?[0-9]{1,10}", re.ASCII)
_WAS = "pod-deletion-cost was"
_MARK = re.compile(f"Rollout (?P<rollout>[a-z0-9.-]+)(?:; {_WAS} (?P<cost>{_NUMBER.pattern}))?", re.ASCII)
_PHASES = ("Pending", "Unknown", "Running")
"""As a ReplicaSet's controller ranks them; others come last."""
_DIGITS = 9

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeavingPod:
    """A pod that is to go. ``rank`` orders pods as the workload's controller deletes them: equal ones in any order."""

    name: str
    rank: tuple[int, ...]
    serves: bool
    pod: Object


def _annotations(pod: Object) -> Object:
    return map_of(metadata_of(pod).get("annotations"))


def members(pods: Iterable[Object], workload: Workload) -> list[Object]:
    """Those pods that the workload made and would count: no foreign one, none that has ended or is being deleted.

    Of a group the leader: it is the unit.
    """
    return [pod for pod in pods if is_active(pod) and _is_of(pod, workload)]


def is_active(pod: Object) -> bool:
    """Whether a pod counts as one of a workload's: it has not ended, is not being deleted, and is no mere worker."""
    return holds_resources(pod) and not metadata_of(pod).get("deletionTimestamp") and not is_worker(pod)


def _is_of(pod: Object, workload: Workload) -> bool:
    kind, name = controller_of(pod)
    if workload.resource.kind in ORDINAL_KINDS:
        return (kind, name) == ("StatefulSet", workload.name)
    template = text_of(map_of(metadata_of(pod).get("labels")).get(TEMPLATE_HASH))
    return bool(template) and (kind, name) == ("ReplicaSet", f"{workload.name}-{template}")


def is_mixed(pods: Iterable[Object], workload: Workload) -> bool:
    """Whether the pods are of several ReplicaSets, as while a template is changed: which loses pods nobody can say."""
    ordinal = workload.resource.kind in ORDINAL_KINDS
    return not ordinal and len({controller_of(pod) for pod in pods}) > 1


def leaving(
    pods: Sequence[Object], workload: Workload, to: int, rollout: str, requests: Mapping[str, int]
) -> list[LeavingPod]:
    """Of a workload's ``members`` those that go when it is scaled to ``to``, in the order in which they are deleted.

    Of a Deployment's they are chosen: what its ReplicaSet deletes before it looks at costs, then those that the Rollout
    chose before, then the idlest by ``requests`` (by name; a pod that is not in there counts as the busiest).
    """
    if workload.resource.kind in ORDINAL_KINDS:
        kept = workload.first_ordinal + to
        found = [_leaving(pod, (-_ordinal(pod),)) for pod in pods if _ordinal(pod) >= kept]
    else:
        preferred = sorted(pods, key=lambda pod: _preference(pod, rollout, requests))
        found = [_leaving(pod, (*_class(pod), cost_of(pod))) for pod in preferred[: max(0, len(pods) - to)]]
    return sorted(found, key=lambda one: (one.rank, one.name))


def _leaving(pod: Object, rank: tuple[int, ...]) -> LeavingPod:
    return LeavingPod(name=_name(pod), rank=rank, serves=serves(pod), pod=pod)


def serves(pod: Object) -> bool:
    """Whether a pod may answer requests: one without an address cannot."""
    return bool(text_of(map_of(pod.get("status")).get("podIP")))


def _name(pod: Object) -> str:
    return text_of(metadata_of(pod).get("name"))


def _ordinal(pod: Object) -> int:
    digits = _name(pod).rpartition("-")[2]
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) <= _DIGITS else -1


def _class(pod: Object) -> tuple[int, int, int]:
    """What a ReplicaSet looks at before costs: lower goes first."""
    phase = text_of(map_of(pod.get("status")).get("phase"))
    return (
        int(bool(text_of(map_of(pod.get("spec")).get("nodeName")))),
        _PHASES.index(phase) if phase in _PHASES else len(_PHASES),
        int(is_ready(pod)),
    )


def _preference(pod: Object, rollout: str, requests: Mapping[str, int]) -> tuple[Any, ...]:
    mine = marked_by(pod) == rollout
    busy = requests.get(_name(pod))
    return (
        _class(pod),
        not mine,
        is_draining(pod) and not mine,  # somebody else's: not ours to mark
        busy is None,
        busy or 0,
        cost_of(pod),
        _name(pod),
    )


def cost_of(pod: Object) -> int:
    """The deletion cost as the ReplicaSet's controller reads it: 0 for what is no 32-bit number."""
    text = text_of(_annotations(pod).get(COST_ANNOTATION))
    found = int(text) if _NUMBER.fullmatch(text) else 0
    return found if IDLE <= found < 2**31 else 0


# --- marks ---


def marked_by(pod: Object) -> str:
    """The Rollout that marked a pod; empty where nobody, or somebody else, did."""
    found = _MARK.fullmatch(text_of(_annotations(pod).get(DRAINING_ANNOTATION)))
    return found["rollout"] if found else ""


def marking(pod: Object, rollout: str, cost: int | None) -> dict[str, str]:
    """The annotations that a pod about to go lacks; ``cost`` None where the workload's controller looks at none.

    Nothing for a pod that somebody else keeps requests from: there is no room for what it was like before.
    """
    now = _annotations(pod)
    if is_draining(pod) and marked_by(pod) != rollout:
        return {}
    wanted = {} if cost is None else {COST_ANNOTATION: str(cost)}
    if not is_draining(pod):
        before = text_of(now.get(COST_ANNOTATION))
        kept = f"; {_WAS} {before}" if cost is not None and _NUMBER.fullmatch(before) else ""
        wanted[DRAINING_ANNOTATION] = f"Rollout {rollout}{kept}"
    return {name: value for name, value in wanted.items() if now.get(name) != value}


def unmarking(pod: Object) -> dict[str, str | None]:
    """The annotations that take our mark off again, as they were before. Only of a pod that has one."""
    found = _MARK.fullmatch(text_of(_annotations(pod).get(DRAINING_ANNOTATION)))
    back: dict[str, str | None] = {DRAINING_ANNOTATION: None}
    if text_of(_annotations(pod).get(COST_ANNOTATION)) in (str(IDLE), str(BUSY)):
        back[COST_ANNOTATION] = found["cost"] if found else None
    return back
