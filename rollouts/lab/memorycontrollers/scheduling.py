"""Where Pods run, by GPUs and the number of Pods, and what the scheduler says of those that no node takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["GPU", "Placement", "gpus_of", "place"]

Object = Mapping[str, Any]

GPU = "nvidia.com/gpu"
"""The extended resource of NVIDIA's device plugin: whole numbers, requests equal limits."""
_ENDED = ("Succeeded", "Failed")
_NO_GPU = f"Insufficient {GPU}"
_NO_PLACE = "Too many pods"
_OTHER_LABELS = "node(s) didn't match Pod's node affinity/selector"
_CORDONED = "node(s) were unschedulable"
_NO_VICTIMS = "No preemption victims found for incoming pod"
_NO_HELP = "Preemption is not helpful for scheduling"
"""Of nodes that no eviction would make fit (``UnschedulableAndUnresolvable``)."""
_NO_CLAIMS = "no new claims to deallocate"
"""What the plugin of dynamic resources adds (Kubernetes 1.36), which the lab has none of."""


@dataclass(frozen=True, slots=True)
class Placement:
    """By UID: the nodes of Pods that have found one now, and the words for those that have not."""

    nodes: Mapping[str, str] = field(default_factory=dict)
    refusals: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Unfit:
    """Why a node does not take a Pod, and whether it would if all others left it."""

    reason: str
    helped: bool


def gpus_of(pod: Object) -> int:
    """GPUs that its containers ask for."""
    total = 0
    for container in pod["spec"]["containers"]:
        resources = container.get("resources") or {}
        asked = (resources.get("requests") or {}).get(GPU, (resources.get("limits") or {}).get(GPU, 0))
        total += int(asked)
    return total


def place(pods: Iterable[Object], nodes: Iterable[Object]) -> Placement:
    """Nodes for the Pods that have none, the oldest first; each to where the fewest Pods are.

    Pods that are being deleted hold what they have until they are gone; those that have ended hold nothing.
    """
    known = sorted(nodes, key=lambda node: str(node["metadata"]["name"]))
    holding = [pod for pod in pods if (pod.get("status") or {}).get("phase") not in _ENDED]
    gpus: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for pod in holding:
        if name := pod["spec"].get("nodeName"):
            gpus[name] += gpus_of(pod)
            count[name] += 1
    found, refused = {}, {}
    waiting = [
        pod
        for pod in holding
        if not pod["spec"].get("nodeName") and "deletionTimestamp" not in pod["metadata"]
    ]
    for pod in sorted(waiting, key=lambda pod: (_made(pod), pod["metadata"]["name"])):
        looked = {node["metadata"]["name"]: _unfit(pod, node, gpus, count) for node in known}
        fitting = [name for name, unfit in looked.items() if unfit is None]
        if fitting:
            name = min(fitting, key=lambda name: (count[name], name))
            found[pod["metadata"]["uid"]] = name
            gpus[name] += gpus_of(pod)
            count[name] += 1
        else:
            refused[pod["metadata"]["uid"]] = _words(
                [unfit for unfit in looked.values() if unfit is not None]
            )
    return Placement(nodes=found, refusals=refused)


def _made(pod: Object) -> str:
    return str(pod["metadata"].get("creationTimestamp", ""))


def _unfit(pod: Object, node: Object, gpus: Counter[str], count: Counter[str]) -> _Unfit | None:
    name, spec = node["metadata"]["name"], node.get("spec") or {}
    offered = (node.get("status") or {}).get("allocatable") or {}
    if spec.get("unschedulable"):
        return _Unfit(_CORDONED, helped=False)
    labels = node["metadata"].get("labels") or {}
    if not (pod["spec"].get("nodeSelector") or {}).items() <= labels.items():
        return _Unfit(_OTHER_LABELS, helped=False)
    if count[name] + 1 > int(offered.get("pods", 0)):
        return _Unfit(_NO_PLACE, helped=True)
    wanted, there = gpus_of(pod), int(offered.get(GPU, 0))
    if wanted and gpus[name] + wanted > there:
        return _Unfit(_NO_GPU, helped=wanted <= there)
    return None


def _words(unfit: list[_Unfit]) -> str:
    """``FitError.Error`` with what the plugins add that look for Pods to evict; no Pod of the lab may be."""
    if not unfit:
        return "no nodes available to schedule pods"
    reasons = Counter(one.reason for one in unfit)
    helped = Counter(_NO_VICTIMS if one.helped else _NO_HELP for one in unfit)
    none = f"0/{len(unfit)} nodes are available:"
    return f"{none} {_histogram(reasons)}. {_NO_CLAIMS}, preemption: {none} {_histogram(helped)}."


def _histogram(reasons: Counter[str]) -> str:
    return ", ".join(sorted(f"{number} {reason}" for reason, number in reasons.items()))
