"""Deployment controller, scheduler and kubelet in virtual time: pods come late, wait for GPUs, and end slowly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rollouts.objects import kinds
from rollouts.objects.workloads import AUTOSCALER, WORKLOADS

if TYPE_CHECKING:
    from tests.kit.faults.cluster import Cluster

__all__ = ["DEPLOYMENT", "Deployments", "autoscaler_object", "deployment_object"]

Object = dict[str, Any]

DEPLOYMENT = WORKLOADS["Deployment"]
_KUBELET = "kubelet"
_HASH = "5d9c7b6f4"
_COST = "controller.kubernetes.io/pod-deletion-cost"
_HOLD = "example.com/kubelet"
"""Finalizer of the pods: the in-memory API server takes a Pod away at once, a kubelet needs its grace period."""
_NO_ROOM = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. preemption: 0/1 nodes are available."


def deployment_object(name: str, replicas: int) -> Object:
    """A Deployment whose pods are those of the pool with the release ``name``."""
    labels = {"app": "custom-serving", "release": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "vllm"}]}},
        },
    }


def autoscaler_object(name: str) -> Object:
    """A HorizontalPodAutoscaler of a Deployment."""
    return {
        "apiVersion": "autoscaling/v2",
        "kind": AUTOSCALER.kind,
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": 1,
            "maxReplicas": 8,
        },
    }


class Deployments:
    """Pods of all Deployments. ``gpus``: as many pods find a node, one each; the rest is Pending.

    ``lag``: seconds until a ReplicaSet's controller deletes pods that are too many; it goes by what they are like then.
    """

    def __init__(self, cluster: Cluster, *, gpus: int, starts: float = 20.0, ends: float = 15.0) -> None:
        self.gpus = gpus
        self.lag = 0.0
        self._cluster = cluster
        self._lowered: dict[str, float] = {}
        """By release: when its pods that are too many are deleted."""
        self._starts = starts
        self._ends = ends
        self._due: dict[str, float] = {}
        """By pod: when it is Ready, or gone."""
        self._made = 0

    def next_due(self) -> float | None:
        """When the next pod starts or ends."""
        return min([*self._due.values(), *self._lowered.values()], default=None)

    def react(self, *, at_once: bool = False) -> None:
        """What the present state asks for; ``at_once``: pods are Ready without a start-up time."""
        for deployment in self._cluster.all(DEPLOYMENT):
            self._follow(deployment)
        self._schedule()
        now = self._cluster.clock.monotonic()
        for name, due in sorted(self._due.items()):
            if now >= due or at_once:
                del self._due[name]
                self._finish(name)

    def kill(self, release: str) -> None:
        """One Ready pod of a release dies at once, as with its node."""
        for pod in self._pods(release):
            if "deletionTimestamp" not in pod["metadata"] and _is(pod, "Ready", "True"):
                self._cluster.delete(kinds.POD, pod["metadata"]["name"], manager=_KUBELET)
                self._remove(pod["metadata"]["name"])
                return

    def _pods(self, release: str | None = None) -> list[Object]:
        pods = self._cluster.all(kinds.POD)
        return [
            pod
            for pod in pods
            if _HOLD in (pod["metadata"].get("finalizers") or ())
            and release in (None, (pod["metadata"].get("labels") or {}).get("release"))
        ]

    def _follow(self, deployment: Object) -> None:
        release = deployment["metadata"]["name"]
        alive = [pod for pod in self._pods(release) if "deletionTimestamp" not in pod["metadata"]]
        alive.sort(key=_stays)
        wanted = deployment["spec"].get("replicas", 1)
        for pod in alive[wanted:] if self._sees(release, too_many=len(alive) > wanted) else ():
            name = pod["metadata"]["name"]
            self._cluster.delete(kinds.POD, name, manager="replicaset-controller")
            started = _is(pod, "PodScheduled", "True")
            self._due[name] = self._cluster.clock.monotonic() + (self._ends if started else 0.0)
        for _ in range(wanted - len(alive)):
            self._make(release)

    def _sees(self, release: str, *, too_many: bool) -> bool:
        """Whether the ReplicaSet's controller has heard by now that there are too many pods."""
        now = self._cluster.clock.monotonic()
        if not too_many:
            self._lowered.pop(release, None)
        elif now >= self._lowered.setdefault(release, now + self.lag):
            del self._lowered[release]
            return True
        return False

    def _make(self, release: str) -> None:
        self._made += 1
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{release}-{self._made:03}",
                "namespace": "default",
                "labels": {"app": "custom-serving", "release": release, "pod-template-hash": _HASH},
                "finalizers": [_HOLD],
                "ownerReferences": [_owner(release)],
            },
            "spec": {"containers": [{"name": "vllm", "image": "vllm"}]},
        }
        self._cluster.create(kinds.POD, pod, manager="replicaset-controller")

    def _schedule(self) -> None:
        pods = self._pods()
        free = self.gpus - sum(_is(pod, "PodScheduled", "True") for pod in pods)
        for pod in pods:
            name = pod["metadata"]["name"]
            if _is(pod, "PodScheduled", "True") or "deletionTimestamp" in pod["metadata"]:
                continue
            if free > 0:
                free -= 1
                self._conditions(name, PodScheduled=("True", ""), ip=f"127.0.1.{int(name[-3:])}")
                self._due[name] = self._cluster.clock.monotonic() + self._starts
            elif not _is(pod, "PodScheduled", "False"):
                self._conditions(name, PodScheduled=("False", _NO_ROOM))

    def _conditions(self, pod: str, *, ip: str = "", **conditions: tuple[str, str]) -> None:
        stated = [
            {"type": kind, "status": said, "message": words} for kind, (said, words) in conditions.items()
        ]
        status: Object = {"conditions": stated} | ({"podIP": ip} if ip else {})
        self._cluster.write_status(kinds.POD, pod, status, manager=_KUBELET)

    def _finish(self, name: str) -> None:
        pod = self._cluster.get(kinds.POD, name)
        if pod is None:
            return
        if "deletionTimestamp" in pod["metadata"]:
            self._remove(name)
        else:
            self._conditions(name, PodScheduled=("True", ""), Ready=("True", ""))

    def _remove(self, name: str) -> None:
        self._due.pop(name, None)
        self._cluster.merge(kinds.POD, name, {"metadata": {"finalizers": None}}, manager=_KUBELET)


def _owner(release: str) -> Object:
    name = f"{release}-{_HASH}"
    return {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": name, "controller": True}


def _stays(pod: Object) -> tuple[bool, int, str]:
    """As a ReplicaSet's controller keeps pods: Ready ones before others, then those of the highest deletion cost."""
    cost = (pod["metadata"].get("annotations") or {}).get(_COST, "0")
    return not _is(pod, "Ready", "True"), -int(cost), pod["metadata"]["name"]


def _is(pod: Object, kind: str, status: str) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any((one.get("type"), one.get("status")) == (kind, status) for one in conditions)
