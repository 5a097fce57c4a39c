"""Our endpoint pickers in the lab: a process for every picker Service that an InferencePool names.

What a Deployment and the endpoints controller do in a cluster: the Service exists under the name that the pool
gives, and a Pod behind it has an address, a named gRPC port and the annotation that says where the metrics are.
Pools come and go while it runs.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from rollouts.kube.client import Resource
from rollouts.kube.errors import AlreadyExists, KubeError, NotFound
from rollouts.lab.controlplane.pods import PODS
from rollouts.lab.gateway.service import POOLS_V1, POOLS_V1ALPHA2
from rollouts.lab.kubelet import Kubelet, LabPod, PodClient
from rollouts.lab.loopback import loopback
from rollouts.lab.processes import ChildProcess, ProcessStartError, free_port
from rollouts.objects.pods import METRICS_PORT_ANNOTATION
from rollouts.objects.pools import read_pool
from rollouts.runtime.clock import SystemClock
from rollouts.runtime.reflector import Reflector, ReflectorConfig
from rollouts.runtime.store import Store

__all__ = ["SERVICES", "Pickers", "WantedPicker", "picker_service", "wanted_pickers"]

log = structlog.get_logger(__name__)

Object = dict[str, Any]
Key = tuple[str, str]
"""Namespace and name of a picker's Service."""

SERVICES = Resource("", "v1", "services", "Service")
_BLOCK = 3
_GRACE = 5.0
_RESTART_SECONDS = 0.5
_POLL = 0.05
_REFLECTOR = ReflectorConfig(not_served_retry=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedPicker:
    """The picker behind one Service, for all ``pools`` (names in the same namespace) that name it."""

    namespace: str
    service: str
    port: int
    pools: tuple[str, ...]


def wanted_pickers(pools: Iterable[Mapping[str, Any]]) -> dict[Key, WantedPicker]:
    """The pickers that InferencePools of either API group name. Pools that share a Service share the picker."""
    found: dict[Key, WantedPicker] = {}
    for pool in sorted(map(read_pool, pools), key=lambda one: (one.namespace, one.name)):
        if pool.picker is None:
            continue
        key = (pool.namespace, pool.picker.name)
        others = found[key].pools if key in found else ()
        found[key] = WantedPicker(
            namespace=pool.namespace,
            service=pool.picker.name,
            port=found[key].port if key in found else pool.picker.port,
            pools=tuple(dict.fromkeys((*others, pool.name))),
        )
    return found


def picker_service(wanted: WantedPicker, *, selector: Mapping[str, str]) -> Object:
    """The Service. Without ``selector`` it only exists: the lab's gateway then balances by itself."""
    port = {"name": "grpc", "port": wanted.port, "targetPort": "grpc", "protocol": "TCP"}
    chosen = {"selector": dict(selector)} if selector else {}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": wanted.service, "namespace": wanted.namespace},
        "spec": {"ports": [port], **chosen},
    }


class _Running:
    """One picker: its process, which is started again when it ends, and its Pod."""

    def __init__(self, wanted: WantedPicker, pod: LabPod, command: list[str], log_path: Path) -> None:
        self.wanted = wanted
        self.pod = pod
        self.process = ChildProcess(pod.name, command, log_path=log_path)
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.process.start()
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await self.process.stop(grace=_GRACE)

    async def _keep(self) -> None:
        while True:
            code = await self.process.wait()
            log.error("picker_ended", picker=self.pod.name, code=code, log=str(self.process.log_path))
            await asyncio.sleep(_RESTART_SECONDS)
            await self.process.start()


class Pickers:
    """Runs the pickers that the pools of one namespace ask for. Logs go to ``directory``."""

    def __init__(
        self,
        client: PodClient,
        kubelet: Kubelet,
        *,
        kubeconfig: Path,
        directory: Path,
        namespace: str,
        options: Sequence[str] = (),
    ) -> None:
        """``options``: more of ``rollouts picker``, for all of them."""
        self._client = client
        self._kubelet = kubelet
        self._kubeconfig = kubeconfig
        self._directory = directory
        self._options = options
        self._stores = [Store(), Store()]
        self._reflectors = [
            Reflector(client, resource, store, SystemClock(), namespace=namespace, config=_REFLECTOR)
            for resource, store in zip((POOLS_V1, POOLS_V1ALPHA2), self._stores, strict=True)
        ]
        self._running: dict[Key, _Running] = {}
        self._ours: set[Key] = set()  # Services that were made here
        self._dirty = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._numbers = itertools.cycle(range(1, 255))

    @property
    def processes(self) -> Mapping[str, ChildProcess]:
        """The processes, by the name of their Service."""
        return {service: running.process for (_, service), running in self._running.items()}

    @property
    def metrics_urls(self) -> dict[str, str]:
        """Metrics pages, by the name of the picker's Service."""
        return {
            service: f"http://{running.pod.address}:{running.pod.ports['metrics']}/metrics"
            for (_, service), running in self._running.items()
        }

    async def start(self) -> None:
        """Follow the pools. Raises ProcessStartError or KubeError for those that are there already."""
        for store in self._stores:
            store.subscribe(lambda _: self._dirty.set())
        self._tasks = [asyncio.create_task(reflector.run()) for reflector in self._reflectors]
        for reflector in self._reflectors:
            await reflector.wait_for_sync()
        await self._reconcile()
        self._tasks.append(asyncio.create_task(self._run()))

    async def wait_ready(self, *, timeout: float = 30.0) -> None:
        """Wait until every picker's Pod is Ready. Raises ProcessStartError, with the end of its log."""
        for running in list(self._running.values()):
            try:
                await self._until(running, ready=True, timeout=timeout)
            except TimeoutError:
                raise running.process.failure(f"not Ready after {timeout:g} s") from None

    async def _until(self, running: _Running, *, ready: bool, timeout: float) -> None:
        async with asyncio.timeout(timeout):
            while True:
                if await self._is_ready(running.pod) is ready:
                    return
                await asyncio.sleep(_POLL)

    async def put_down(self, service: str) -> None:
        """End one picker's process and leave it down, until its Pod, which stays, says so.

        Raises LookupError for a Service that has no picker, TimeoutError when the Pod stays Ready.
        """
        running = self._of(service)
        await running.stop()
        await self._until(running, ready=False, timeout=30.0)

    async def bring_back(self, service: str) -> None:
        """Start the process of a picker that was put down. Raises LookupError."""
        await self._of(service).start()

    def _of(self, service: str) -> _Running:
        found = [running for (_, name), running in self._running.items() if name == service]
        if not found:
            raise LookupError(f"no picker behind Service {service}: there are {', '.join(self.processes)}")
        return found[0]

    async def stop(self) -> None:
        """Stop following and end all processes; the objects stay."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await asyncio.gather(*(running.stop() for running in self._running.values()))
        self._running.clear()

    async def _run(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                await self._reconcile()
            except (KubeError, ProcessStartError, OSError) as error:
                log.warning("pickers_retry", error=type(error).__name__, reason=str(error)[:300])
                await asyncio.sleep(_RESTART_SECONDS)
                self._dirty.set()

    async def _reconcile(self) -> None:
        wanted = wanted_pickers(pool for store in self._stores for pool in store.values())
        for key, running in list(self._running.items()):
            if wanted.get(key) != running.wanted:
                await self._remove(key, running, service=key not in wanted)
        await asyncio.gather(*(self._add(key, wanted[key]) for key in wanted.keys() - self._running.keys()))

    async def _add(self, key: Key, wanted: WantedPicker) -> None:
        labels = await self._labels_of_service(key, wanted)
        if not labels:
            log.info("picker_not_started", service=wanted.service, reason="its Service selects no pods")
            return
        address = loopback(_BLOCK, next(self._numbers))
        ports = {"grpc": free_port(address), "metrics": free_port(address)}
        pod = LabPod(
            namespace=wanted.namespace,
            name=f"{wanted.service}-0",
            address=address,
            ports=ports,
            probe=f"http://{address}:{ports['metrics']}/readyz",
            labels=labels,
            annotations={METRICS_PORT_ANNOTATION: str(ports["metrics"])},
            failure_threshold=3,
        )
        running = _Running(wanted, pod, self._command(wanted, pod), self._directory / f"{pod.name}.log")
        self._running[key] = running
        await running.start()
        await self._kubelet.add(pod)

    def _command(self, wanted: WantedPicker, pod: LabPod) -> list[str]:
        command = [sys.executable, "-m", "rollouts.cli", "picker", "--kubeconfig", str(self._kubeconfig)]
        for pool in wanted.pools:
            command += ["--pool", f"{wanted.namespace}/{pool}"]
        command += ["--grpc-address", f"{pod.address}:{pod.ports['grpc']}", "--no-secure-serving"]
        command += ["--metrics-address", f"{pod.address}:{pod.ports['metrics']}", "--drain-grace", "1"]
        return [*command, *self._options]

    async def _labels_of_service(self, key: Key, wanted: WantedPicker) -> dict[str, str]:
        """Labels that put a pod behind the Service, which is made where it is missing."""
        labels = {"app.kubernetes.io/component": "picker", "inferencerollouts.dev/picker": wanted.service}
        try:
            await self._client.create(SERVICES, wanted.namespace, picker_service(wanted, selector=labels))
        except AlreadyExists:
            found = await self._client.get(SERVICES, wanted.namespace, wanted.service)
            return dict(found["spec"].get("selector") or {})
        self._ours.add(key)
        return labels

    async def _remove(self, key: Key, running: _Running, *, service: bool) -> None:
        del self._running[key]
        await running.stop()
        await self._kubelet.remove(running.pod)
        if service and key in self._ours:
            self._ours.discard(key)
            try:
                await self._client.delete(SERVICES, key[0], key[1])
            except NotFound:
                log.info("picker_service_already_deleted", service=key[1])

    async def _is_ready(self, pod: LabPod) -> bool:
        try:
            found = await self._client.get(PODS, pod.namespace, pod.name)
        except NotFound:
            return False
        conditions = (found.get("status") or {}).get("conditions") or ()
        return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)
