"""Workloads that make the pods of a pool, and the autoscalers that scale them, read from raw objects.

Field names: apps/v1 Deployment and StatefulSet (``spec.replicas`` is 1 where it is left out), autoscaling/v2
HorizontalPodAutoscaler (``spec.scaleTargetRef``). KEDA scales by an autoscaler of that kind that it makes; AIBrix'
PodAutoscaler (autoscaling.aibrix.ai/v1alpha1), which has the same field, only by its strategy HPA, else by itself.
leaderworkerset.x-k8s.io/v1 LeaderWorkerSet has ``spec.leaderWorkerTemplate.leaderTemplate`` and ``workerTemplate``; its
leaders are made from the latter where it has no template of their own. A replica is a group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rollouts.objects.fields import dict_at, map_of, metadata_of, text_at, text_of
from rollouts.objects.groups import GROUP_INDEX, GROUP_KEY, LEADER, REVISION, SET_NAME, WORKER_INDEX
from rollouts.objects.owners import controller_of
from rollouts.objects.pools import Pool
from rollouts.objects.resource import Resource

__all__ = [
    "AUTOSCALER",
    "AUTOSCALERS",
    "AUTOSCALER_KINDS",
    "BUILT_IN",
    "ORDINAL_KINDS",
    "TEMPLATE_HASH",
    "WORKLOADS",
    "WORKLOAD_ANNOTATION",
    "Workload",
    "makes_pods_of",
    "pod_labels",
    "read_workload",
    "scaled_by",
    "template_selector",
]

WORKLOAD_ANNOTATION = "inferencerollouts.dev/workload"
"""On an InferencePool: ``GROUP/VERSION/KIND/NAME`` of the workload that makes its pods, where several could."""

WORKLOADS = {
    "Deployment": Resource("apps", "v1", "deployments", "Deployment"),
    "StatefulSet": Resource("apps", "v1", "statefulsets", "StatefulSet"),
    "LeaderWorkerSet": Resource("leaderworkerset.x-k8s.io", "v1", "leaderworkersets", "LeaderWorkerSet"),
}
"""Kinds that can be scaled, by name. All of them have ``spec.replicas``, a Pod template and the subresource."""

BUILT_IN = ("Deployment", "StatefulSet")
"""Those of them that every API server serves."""

AUTOSCALER = Resource("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")

AUTOSCALERS = (
    AUTOSCALER,
    Resource("autoscaling.aibrix.ai", "v1alpha1", "podautoscalers", "PodAutoscaler"),
)
"""What scales a workload, as a cluster has it; the chart gives the right to read each."""

AUTOSCALER_KINDS = (*(one.kind for one in AUTOSCALERS), "ScaledObject")
"""As files have it: KEDA makes an autoscaler of its ScaledObject in the cluster."""

_PAUSED, _PAUSED_REPLICAS = "autoscaling.keda.sh/paused", "autoscaling.keda.sh/paused-replicas"
"""On a ScaledObject: KEDA takes its autoscaler away, so that nobody scales the workload."""

TEMPLATE_HASH = "pod-template-hash"
"""A Deployment's controller gives it to the pods of each of its ReplicaSets, whose names end in it."""

ORDINAL_KINDS = ("StatefulSet", "LeaderWorkerSet")
"""Kinds whose highest ordinals go first, however busy they are."""

_ADDED = frozenset(
    {
        TEMPLATE_HASH,
        "controller-revision-hash",
        "statefulset.kubernetes.io/pod-name",
        "apps.kubernetes.io/pod-index",
        GROUP_INDEX,
        GROUP_KEY,
        REVISION,
    }
)
"""Labels that no template has: the workload's controller adds them to its pods."""

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What makes pods. ``owner``: ``KIND NAME`` of the controller that owns it and would undo what others write."""

    resource: Resource
    name: str
    replicas: int
    resource_version: str
    owner: str
    first_ordinal: int = 0
    """Of a StatefulSet's pods (``spec.ordinals.start``)."""

    @property
    def what(self) -> str:
        """For people: ``Deployment vllm-v2``."""
        return f"{self.resource.kind} {self.name}"

    @property
    def makes_groups(self) -> bool:
        """Whether a replica is a leader with its workers."""
        return self.resource.kind == "LeaderWorkerSet"

    @property
    def reference(self) -> str:
        """As the annotation names it."""
        return f"{self.resource.group}/{self.resource.version}/{self.resource.kind}/{self.name}"


def read_workload(resource: Resource, obj: Object) -> Workload:
    """Read a workload; wrong types read as absent, never raise."""
    meta, replicas = metadata_of(obj), map_of(obj.get("spec")).get("replicas")
    start = dict_at(obj, "spec", "ordinals").get("start")
    number = replicas if isinstance(replicas, int) and not isinstance(replicas, bool) else 1
    return Workload(
        resource=resource,
        name=text_of(meta.get("name")),
        replicas=max(number, 0),
        resource_version=text_of(meta.get("resourceVersion")),
        owner=" ".join(controller_of(obj)).strip(),
        first_ordinal=start if isinstance(start, int) and not isinstance(start, bool) else 0,
    )


def pod_labels(obj: Object) -> Mapping[str, Any]:
    """Labels of the Pod template; of a LeaderWorkerSet those of leaders, with the two by which they are selected."""
    sets = dict_at(obj, "spec", "leaderWorkerTemplate")
    if not sets:
        return dict_at(obj, "spec", "template", "metadata", "labels")
    leader = sets.get("leaderTemplate")
    template = leader if isinstance(leader, Mapping) else dict_at(sets, "workerTemplate")
    named = {SET_NAME: text_of(metadata_of(obj).get("name")), WORKER_INDEX: LEADER}
    return {**dict_at(template, "metadata", "labels"), **named}


def template_selector(pool: Pool) -> list[tuple[str, str]]:
    """The labels that a template has whose pods are the pool's: its selector less those that only pods have."""
    return [(name, value) for name, value in pool.selector if name not in _ADDED]


def makes_pods_of(labels: Object, pool: Pool) -> bool:
    """Whether pods with the template's labels are the pool's, less those labels that only pods have."""
    wanted = template_selector(pool)
    return bool(wanted) and all(labels.get(name) == value for name, value in wanted)


def scaled_by(autoscaler: Object) -> tuple[str, str]:
    """Kind and name of what an autoscaler scales; empty where it does not say, and of one that KEDA has paused."""
    annotations = map_of(metadata_of(autoscaler).get("annotations"))
    if autoscaler.get("kind") == "ScaledObject" and (
        annotations.get(_PAUSED) == "true" or _PAUSED_REPLICAS in annotations
    ):
        return "", ""
    target = ("spec", "scaleTargetRef")
    kind, name = text_at(autoscaler, *target, "kind"), text_at(autoscaler, *target, "name")
    if not kind and autoscaler.get("kind") == "ScaledObject":
        kind = "Deployment"  # KEDA's default
    return kind, name
