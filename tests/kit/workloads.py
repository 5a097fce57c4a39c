"""Deployments that are scaled, step by step, on any control plane: what is seen after each step, without names.

``STEPS`` is played on the real control plane once (``python -m tests.kit.workloads``, which writes ``RECORDING``), and
by tests on the in-memory one, which must come to the same. The kubelet is the lab's on both.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from rollouts.kube.client import KubeClient, PatchKind, Resource
from rollouts.kube.http import open_client
from rollouts.lab.controlplane import Choice, ControlPlane
from rollouts.lab.controlplane.pods import PODS
from rollouts.lab.memorycontrollers.deletion import DELETION_COST, is_active, is_ready
from rollouts.lab.nodes import Node, Nodes, PodState, PretendRuntime
from rollouts.objects.workloads import WORKLOADS
from tests.kit.polling import eventually

__all__ = ["NODES", "RECORDING", "STEPS", "HeldRuntime", "Stage", "looks", "played", "started"]

Object = dict[str, Any]
DEPLOYMENTS = WORKLOADS["Deployment"]
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
RECORDING = Path(__file__).resolve().parent.parent / "recordings" / "workloads.json"
NODES = (Node(name="gpus", gpus=4), Node(name="closed", gpus=4, schedulable=False))
_NAMESPACE = "workloads"
_GRACE = 40
_COUNTS = ("replicas", "readyReplicas", "availableReplicas", "unavailableReplicas", "updatedReplicas")
_LONGEST = 60.0
_QUIET_SECONDS = 4.0
"""While recording: how long nothing may change before it counts as seen. The scheduler backs off for up to a second."""


class HeldRuntime(PretendRuntime):
    """Pods end when ``ends`` is set, and those named in ``asleep`` are not Ready."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = asyncio.Event()
        self.ends.set()
        self.asleep: set[str] = set()

    async def state(self, pod: Any) -> PodState:
        """See ``PodRuntime.state``."""
        return PodState.STARTING if pod["metadata"]["name"] in self.asleep else await super().state(pod)

    async def stop(self, pod: Any, grace: float) -> None:
        """See ``PodRuntime.stop``."""
        await self.ends.wait()


class Stage:
    """One control plane, its client and its runtime, as the steps use them."""

    def __init__(self, client: KubeClient, runtime: HeldRuntime) -> None:
        self.client = client
        self.runtime = runtime

    async def pods(self, app: str = "") -> list[Object]:
        """Pods, all or those of one Deployment, by name."""
        selector = f"app={app}" if app else ""
        return list((await self.client.list_page(PODS, _NAMESPACE, label_selector=selector)).items)

    async def active(self, app: str) -> list[Object]:
        """Pods of a Deployment that are not going, by name."""
        return [pod for pod in await self.pods(app) if is_active(pod)]

    async def create(self, app: str, *, replicas: int, gpus: int = 1) -> None:
        """A Deployment."""
        container: Object = {"name": "c", "image": "i"}
        if gpus:
            container["resources"] = {"limits": {"nvidia.com/gpu": str(gpus)}}
        template = {
            "metadata": {"labels": {"app": app}},
            "spec": {"containers": [container], "terminationGracePeriodSeconds": _GRACE},
        }
        spec = {"replicas": replicas, "selector": {"matchLabels": {"app": app}}, "template": template}
        body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": app}, "spec": spec}
        await self.client.create(DEPLOYMENTS, _NAMESPACE, body)

    async def scale(self, app: str, replicas: int) -> None:
        """By the scale subresource, as the controller does."""
        patch = {"spec": {"replicas": replicas}}
        await self.client.patch(
            DEPLOYMENTS, _NAMESPACE, app, patch, kind=PatchKind.MERGE, subresource="scale"
        )

    async def cost(self, app: str, *costs: int) -> None:
        """Deletion costs of the Deployment's Pods, by name."""
        for pod, cost in zip(await self.active(app), costs, strict=True):
            patch = {"metadata": {"annotations": {DELETION_COST: str(cost)}}}
            await self.client.patch(PODS, _NAMESPACE, pod["metadata"]["name"], patch, kind=PatchKind.MERGE)

    async def seen(self) -> Object:
        """What there is now, without names, times and addresses."""
        deployments = (await self.client.list_page(DEPLOYMENTS, _NAMESPACE)).items
        counts = {
            one["metadata"]["name"]: {name: (one.get("status") or {}).get(name, 0) for name in _COUNTS}
            for one in deployments
        }
        return {"deployments": counts, "pods": sorted(map(_seen, await self.pods()), key=json.dumps)}


def _seen(pod: Object) -> Object:
    meta, status = pod["metadata"], pod.get("status") or {}
    scheduled = [one for one in status.get("conditions") or () if one["type"] == "PodScheduled"]
    return {
        "app": meta["labels"]["app"],
        "cost": (meta.get("annotations") or {}).get(DELETION_COST, ""),
        "owner": meta["ownerReferences"][0]["kind"],
        "node": pod["spec"].get("nodeName", ""),
        "phase": status.get("phase"),
        "ready": is_ready(pod),
        "grace": meta.get("deletionGracePeriodSeconds"),
        "scheduled": [
            {name: one[name] for name in ("status", "reason", "message") if one.get(name)}
            for one in scheduled
        ],
    }


async def _sleepy(stage: Stage) -> None:
    """The Pod of ``b`` whose deletion is the dearest is not Ready any more."""
    dearest = (await stage.active("b"))[-1]
    stage.runtime.asleep.add(dearest["metadata"]["name"])


async def _held(stage: Stage, app: str, replicas: int) -> None:
    stage.runtime.ends.clear()
    await stage.scale(app, replicas)


async def _let_go(stage: Stage) -> None:
    stage.runtime.ends.set()


async def _delete_pending(stage: Stage) -> None:
    pending = next(pod for pod in await stage.active("b") if not pod["spec"].get("nodeName"))
    await stage.client.delete(PODS, _NAMESPACE, pod_name(pending))


def pod_name(pod: Object) -> str:
    """Its name."""
    return str(pod["metadata"]["name"])


STEPS: dict[str, Callable[[Stage], Awaitable[None]]] = {
    "three pods find their GPUs": lambda stage: stage.create("a", replicas=3),
    "of three more one finds a GPU": lambda stage: stage.create("b", replicas=3),
    "one that asks for more than a node has": lambda stage: stage.create("big", replicas=1, gpus=5),
    "one that asks for none": lambda stage: stage.create("small", replicas=1, gpus=0),
    "what is Pending goes first": lambda stage: stage.scale("b", 2),
    "one that is deleted while Pending is replaced": _delete_pending,
    "costs": lambda stage: stage.cost("a", 5, -5, 0),
    "the cheapest ends, and keeps its GPU": lambda stage: _held(stage, "a", 2),
    "its GPU is taken when it is gone": _let_go,
    "costs of b": lambda stage: stage.cost("b", 1, 10),
    "the dearest is not Ready": _sleepy,
    "what is not Ready goes before what is cheap": lambda stage: stage.scale("b", 1),
    "all of one go": lambda stage: stage.scale("a", 0),
    "and come back": lambda stage: stage.scale("a", 2),
    "an owner that is gone takes its pods along": lambda stage: stage.client.delete(
        DEPLOYMENTS, _NAMESPACE, "a"
    ),
}
"""What is done, in turn."""


def looks() -> dict[str, Object]:
    """What was seen on the real control plane after each step."""
    return dict(json.loads(RECORDING.read_text(encoding="utf-8"))["seen"])


async def started(client: KubeClient, stack: AsyncExitStack) -> Stage:
    """Nodes and a namespace on a control plane whose controllers run."""
    runtime = HeldRuntime()
    nodes = Nodes(client, NODES, runtime)
    stack.push_async_callback(nodes.stop)
    stack.callback(runtime.ends.set)  # before the nodes stop, also where a step came to something else
    await nodes.start()
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": _NAMESPACE}}
    await client.create(NAMESPACES, None, body)
    return Stage(client, runtime)


async def played(stage: Stage) -> dict[str, Object]:
    """What is seen after each step: what was recorded where it comes to that, else what it came to."""
    seen: dict[str, Object] = {}
    for (name, act), recorded in zip(STEPS.items(), looks().values(), strict=True):
        await act(stage)
        if not await _comes_to(stage, recorded):
            return {**seen, name: await stage.seen()}
        seen[name] = recorded
    return seen


async def _comes_to(stage: Stage, recorded: Object) -> bool:
    async def is_so() -> bool:
        return await stage.seen() == recorded

    try:
        return await eventually(is_so, timeout=_LONGEST)
    except TimeoutError:
        return False


async def _quiet(stage: Stage) -> Object:
    """What is seen when nothing has changed for a while."""
    loop = asyncio.get_running_loop()
    last, since = await stage.seen(), loop.time()
    while loop.time() - since < _QUIET_SECONDS:
        await asyncio.sleep(0.2)
        now = await stage.seen()
        if now != last:
            last, since = now, loop.time()
    return last


async def _record() -> None:
    seen: dict[str, Object] = {}
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        plane = await stack.enter_async_context(ControlPlane(directory, choice=Choice.REAL))
        client = await stack.enter_async_context(await open_client(str(plane.kubeconfig)))
        await plane.start_controllers()
        version = (await client.server_version())["gitVersion"]
        stage = await started(client, stack)
        for name, act in STEPS.items():
            await act(stage)
            seen[name] = await _quiet(stage)
    text = json.dumps({"kubernetes": version, "seen": seen}, indent=1)
    RECORDING.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(_record())
