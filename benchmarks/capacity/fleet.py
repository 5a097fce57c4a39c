"""Deployments on the lab's own controllers and scheduler in virtual time, with a kubelet that takes its time."""

from __future__ import annotations

from typing import Any

from rollouts.kube.client import PatchKind
from rollouts.lab.memorycontrollers import MemoryControllers
from rollouts.lab.memorycontrollers.deletion import is_ready
from rollouts.lab.memorycontrollers.replicas import owner_uid
from rollouts.lab.nodes.node import NODES, Node, node_object, node_status
from rollouts.objects import kinds
from tests.kit.faults.cluster import NAMESPACE, Cluster
from tests.kit.faults.deployments import Deployments

__all__ = ["TimedFleet"]

Object = dict[str, Any]
_KUBELET = "kubelet"
_HOSTS_PER_NET = 250


class TimedFleet(Deployments):
    """Pods are Ready ``starts`` seconds after they have a node, and gone ``ends`` seconds after they were deleted.

    ``gpu_seconds`` are those of Pods that have a node, Terminating ones included.
    """

    def __init__(self, cluster: Cluster, *, gpus: int, starts: float, ends: float) -> None:
        super().__init__(cluster, gpus=gpus, starts=starts, ends=ends)
        self.cluster = cluster
        self.gpu_seconds = 0.0
        self.held = self.most_held = 0
        self._starts_after, self._ends_after = starts, ends
        self._begins: dict[str, float] = {}
        self._finishes: dict[str, float] = {}
        self._seen = -1
        self._last = 0.0
        self._hosts = 0
        self._controllers = MemoryControllers(cluster.api, clock=cluster.clock)
        cluster.api.has_kubelet = True
        node = Node(name="gpus", gpus=gpus, pods=10 * gpus + 10)
        cluster.create(NODES, node_object(node))
        cluster.write_status(NODES, "gpus", node_status(node))

    def next_due(self) -> float | None:
        """See ``Deployments.next_due``."""
        return min((*self._begins.values(), *self._finishes.values()), default=None)

    def react(self, *, at_once: bool = False) -> None:
        """See ``Deployments.react``."""
        now = self.cluster.clock.monotonic()
        self.gpu_seconds += self.held * (now - self._last)
        self._last = now
        due = self.next_due()
        if self._seen == self.cluster.api.revision and (due is None or due > now):
            return
        while self._seen != self.cluster.api.revision or self._is_due(now):
            self._controllers.react()
            self._run(now, at_once=at_once)
            self._controllers.react()
            self._seen = self.cluster.api.revision
        self.held = sum(bool(pod["spec"].get("nodeName")) for pod in self._owned())
        self.most_held = max(self.most_held, self.held)

    def _is_due(self, now: float) -> bool:
        due = self.next_due()
        return due is not None and due <= now

    def _owned(self) -> list[Object]:
        return [pod for pod in self.cluster.all(kinds.POD) if owner_uid(pod)]

    def _run(self, now: float, *, at_once: bool) -> None:
        """What a kubelet does with Pods that have a node."""
        pods = {pod["metadata"]["name"]: pod for pod in self._owned() if pod["spec"].get("nodeName")}
        self._begins = {name: due for name, due in self._begins.items() if name in pods}
        for name, pod in pods.items():
            if "deletionTimestamp" in pod["metadata"]:
                self._begins.pop(name, None)
                if now >= self._finishes.setdefault(name, now + self._ends_after):
                    del self._finishes[name]
                    self.cluster.api.delete(
                        kinds.POD, NAMESPACE, name, manager=_KUBELET, grace_period_seconds=0
                    )
            elif not is_ready(pod):
                due = self._begins.setdefault(name, now if at_once else now + self._starts_after)
                self._report(pod, ready=now >= due)
                if now >= due:
                    del self._begins[name]

    def _report(self, pod: Object, *, ready: bool) -> None:
        status = pod.get("status") or {}
        if status.get("phase") == "Running" and not ready:
            return
        kept = [one for one in status.get("conditions") or () if one["type"] != "Ready"]
        word = {"type": "Ready", "status": str(ready), "lastTransitionTime": self._now()}
        address = status.get("podIP") or self._address()
        body = {"status": {"phase": "Running", "podIP": address, "conditions": [*kept, word]}}
        merge = PatchKind.MERGE.value
        self.cluster.api.patch(
            kinds.POD,
            NAMESPACE,
            pod["metadata"]["name"],
            body,
            content_type=merge,
            subresource="status",
            manager=_KUBELET,
        )

    def _address(self) -> str:
        self._hosts += 1
        net, host = divmod(self._hosts, _HOSTS_PER_NET)
        return f"127.0.{10 + net % 200}.{host + 1}"

    def _now(self) -> str:
        return f"{self.cluster.clock.now():%Y-%m-%dT%H:%M:%SZ}"
