"""The whole lab on one machine: API server, Envoy gateway, simulated vLLM pods, controller.

``Lab`` runs it inside the calling process, but for Envoy, the API server and the controller, which are processes of
their own and end with it. The same lab serves demos, tests and ``rollouts lab up``.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog
import yaml

from rollouts.api.crds import all_crds
from rollouts.kube.client import KubeClient, PatchKind
from rollouts.kube.errors import AlreadyExists, KindNotServed, KubeError
from rollouts.kube.http import HttpKubeClient, open_client
from rollouts.lab.checkout import EXAMPLES
from rollouts.lab.controlplane import Choice, ControlPlane, install_crds, install_upstream_crds
from rollouts.lab.controlplane.pods import PODS
from rollouts.lab.gateway.likeness import GatewayLike
from rollouts.lab.gateway.service import POOLS_V1, POOLS_V1ALPHA2, LabGateway
from rollouts.lab.kubelet import Kubelet
from rollouts.lab.loopback import loopback
from rollouts.lab.nodes import Node, Nodes, SimulatedServers
from rollouts.lab.pickers import SERVICES, Pickers, picker_service, wanted_pickers
from rollouts.lab.processes import ChildProcess, free_port
from rollouts.lab.prometheus import Job, Prometheus
from rollouts.lab.vllm.latency import LatencyProfile
from rollouts.lab.vllm.pod import Fleet
from rollouts.lab.vllm.spec import PodSpec
from rollouts.objects.pods import read_pod

__all__ = [
    "ADAPTERS",
    "Lab",
    "LabError",
    "apply_objects",
    "base_model_pods",
    "deployments",
    "gpu_node",
    "read_objects",
]

_log = structlog.get_logger(__name__)

Object = dict[str, Any]

_NAMESPACE = "default"
_NODES = (Node(name="lab-1", gpus=8), Node(name="lab-2", gpus=8))
# Where Pods stand that the lab makes itself (``Kubelet``): theirs only.
_OWN_NODE = Node(name="lab", schedulable=False)
_BLOCK = 4


class LabError(Exception):
    """The lab cannot do what was asked; the text says what to do."""


ADAPTERS = {"travel-helper-v1": "/adapters/travel-v1", "travel-helper-v2": "/adapters/travel-v2"}
"""The adapters of ``examples/lora``, on every stable pod."""


def base_model_pods(stable: int = 3, canary: int = 2) -> list[PodSpec]:
    """Simulated pods of the pools of ``examples/base-model``; those of v1 have the adapters of ``examples/lora``."""
    specs = []
    for release, model, count, block in (
        ("qwen", "Qwen/Qwen2.5-7B-Instruct", stable, 1),
        ("deepseek-r1", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", canary, 2),
    ):
        for index in range(count):
            specs.append(
                PodSpec(
                    name=f"{release}-{index}",
                    address=loopback(block, 10 + index),
                    labels={"app": "custom-serving", "release": release},
                    model=model,
                    adapters=ADAPTERS if release == "qwen" else {},
                    seed=block * 100 + index,
                )
            )
    return specs


def gpu_node(gpus: int) -> tuple[Node, ...]:
    """One node with so many GPUs, for ``Lab(nodes=...)``."""
    return (Node(name="lab-1", gpus=gpus),)


def deployments(replicas: Mapping[str, int]) -> list[Object]:
    """The Deployments of ``examples/base-model-capacity``, with replicas by name."""
    found = read_objects(EXAMPLES / "base-model-capacity" / "deployments.yaml")
    return [{**one, "spec": {**one["spec"], "replicas": replicas[one["metadata"]["name"]]}} for one in found]


def _scrape_job(pods: Iterable[PodSpec]) -> Job:
    """As a PodMonitor would label them."""
    return Job(
        name="vllm",
        targets=tuple(
            (f"{p.address}:{port}", {"pod": p.name, "namespace": _NAMESPACE})
            for p in pods
            for port in (p.port, *p.more_ports)
        ),
    )


def read_objects(*paths: Path) -> list[Object]:
    """All objects of YAML files. Raises LabError where one is missing."""
    found: list[Object] = []
    for path in paths:
        if not path.is_file():
            raise LabError(f"{path} does not exist: the lab runs from a checkout of the project")
        found += [item for item in yaml.safe_load_all(path.read_text(encoding="utf-8")) if item]
    return found


async def apply_objects(
    client: KubeClient, objects: Iterable[Object], *, namespace: str = _NAMESPACE
) -> None:
    """Server-side apply, into ``namespace`` where an object names none; kinds are found by discovery.

    Raises KubeError, LabError for a kind that is not served.
    """
    served = {(resource.api_version, resource.kind): resource for resource in await client.discover()}
    for obj in objects:
        resource = served.get((obj["apiVersion"], obj["kind"]))
        if resource is None:
            raise LabError(f"{obj['kind']} of {obj['apiVersion']} is not served: install its CRD")
        where = obj["metadata"].get("namespace", namespace) if resource.namespaced else None
        await client.patch(resource, where, obj["metadata"]["name"], obj, kind=PatchKind.APPLY, force=True)


class Lab:
    """A running lab. Use as an async context manager; ``directory`` takes logs, data and the kubeconfig.

    With ``nodes`` it has controllers and a scheduler as well, Kubernetes' own where ``choice`` is REAL: Deployments
    make Pods, which the controller may scale; those that run vLLM are simulated servers (``servers``), Ready
    ``pod_startup`` seconds after they began. By default REAL has two nodes, MEMORY none.
    """

    def __init__(
        self,
        directory: Path,
        *,
        choice: Choice = Choice.MEMORY,
        pods: Iterable[PodSpec] = (),
        pickers: bool = True,
        gateway_like: GatewayLike = GatewayLike.STANDARD,
        prometheus: bool = False,
        nodes: Sequence[Node] | None = None,
        pod_startup: float = 0.0,
        latency: LatencyProfile | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.directory = directory
        self.pods = list(pods)
        self.with_pickers = pickers
        self.gateway_like = gateway_like
        self.picker_options: tuple[str, ...] = gateway_like.picker_options
        """More of ``rollouts picker``."""
        self.fleet = Fleet(self.pods)
        self.control_plane = ControlPlane(directory, choice=choice, say=say)
        self._say = say
        self._client: HttpKubeClient | None = None
        self._gateway: LabGateway | None = None
        self._kubelet: Kubelet | None = None
        default = _NODES if choice is Choice.REAL else ()
        self._offered = tuple(default if nodes is None else nodes)
        self._nodes: Nodes | None = None
        self.servers = SimulatedServers(block=_BLOCK, startup=pod_startup, latency=latency)
        self._controller: ChildProcess | None = None
        self._pickers: Pickers | None = None
        self.prometheus = Prometheus(directory / "prometheus") if prometheus else None
        """Scrapes the pods, and is the controller's source ``default``."""
        self.health_url = ""
        self.metrics_url = ""

    @property
    def client(self) -> HttpKubeClient:
        """A client with the field manager ``kubectl``: the lab is a person here."""
        assert self._client is not None, "the lab was not started"
        return self._client

    @property
    def gateway(self) -> LabGateway:
        """The gateway."""
        assert self._gateway is not None, "the lab was not started"
        return self._gateway

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig of the API server."""
        return self.control_plane.kubeconfig

    async def __aenter__(self) -> Lab:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start everything but the controller; pods are Ready and the gateway routes when this returns."""
        self.directory.mkdir(parents=True, exist_ok=True)
        await self.control_plane.start()
        self._client = await open_client(str(self.kubeconfig), field_manager="kubectl")
        await install_upstream_crds(self.client)
        await install_crds(self.client, all_crds())
        if self._offered:
            await self.control_plane.start_controllers()
            self._nodes = Nodes(
                self.client.with_field_manager("kubelet"), (_OWN_NODE, *self._offered), self.servers
            )
            await self._nodes.start()
        await self.fleet.start()
        self._kubelet = Kubelet(self.client)
        await self._kubelet.add_all(self.pods)
        self._gateway = LabGateway(
            self.client.with_field_manager("lab-gateway"),
            directory=self.directory / "envoy",
            namespace=_NAMESPACE,
            like=self.gateway_like,
        )
        await self._gateway.start()
        if self.prometheus is not None:
            self.prometheus.scrape([_scrape_job(self.pods)])
            await self.prometheus.start()

    async def start_controller(self, *arguments: str) -> None:
        """Start ``rollouts controller`` as a process and wait until it is ready. Raises ProcessStartError."""
        health, metrics = free_port(), free_port()
        self.health_url, self.metrics_url = (f"http://127.0.0.1:{port}" for port in (health, metrics))
        command = [sys.executable, "-m", "rollouts.cli", "controller", "--kubeconfig", str(self.kubeconfig)]
        command += ["--namespace", _NAMESPACE, "--health-address", f"127.0.0.1:{health}"]
        command += ["--metrics-address", f"127.0.0.1:{metrics}", *arguments]
        if self.prometheus is not None:
            command += ["--source", f"default={self.prometheus.url}"]
        if self._offered:
            command += ["--config", str(self._write_config())]
        self._controller = ChildProcess("controller", command, log_path=self.directory / "controller.log")
        await self._controller.start()
        await self._wait_ready(self._controller)

    def _write_config(self) -> Path:
        """The controller's configuration: what the chart's ``capacity.enabled`` makes of it."""
        path = self.directory / "controller.yaml"
        path.write_text(yaml.safe_dump({"capacity": {"enabled": True}}), encoding="utf-8")
        return path

    async def wait_for_pods(self, labels: str, count: int, *, timeout: float) -> None:
        """Wait until so many Pods that a label selector chooses are Ready. Raises LabError."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    pods = (await self.client.list_page(PODS, _NAMESPACE, label_selector=labels)).items
                    if sum(pod.ready for pod in map(read_pod, pods) if pod is not None) >= count:
                        return
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise LabError(
                f"no {count} Pods of {labels} were Ready within {timeout:g} s; see {self.directory}"
            ) from None

    async def _wait_ready(self, process: ChildProcess) -> None:
        import aiohttp

        async with asyncio.timeout(30), aiohttp.ClientSession() as session:
            while True:
                if process.returncode is not None:
                    raise process.failure("the controller ended at once")
                try:
                    async with session.get(f"{self.health_url}/readyz") as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.1)

    async def stop_controller(self) -> None:
        """SIGTERM, and wait for the clean end."""
        if self._controller is not None:
            await self._controller.stop(grace=10)
            self._controller = None

    async def apply(self, objects: Iterable[Object]) -> None:
        """Server-side apply into the lab's namespace."""
        await apply_objects(self.client, objects)

    async def add_picker_services(self) -> None:
        """A Service under the name that each pool gives, without a picker behind it.

        Some gateways choose pods by themselves, and the lab's does then: enough where one model is replaced
        by another, and cheaper. Adapters need ``start_pickers``.
        """
        pools: list[Object] = []
        for resource in (POOLS_V1, POOLS_V1ALPHA2):
            with contextlib.suppress(KindNotServed):
                found = (await self.client.list_page(resource, _NAMESPACE)).items
                pools += [{**pool, "apiVersion": resource.api_version} for pool in found]
        for wanted in wanted_pickers(pools).values():
            with contextlib.suppress(AlreadyExists):
                await self.client.create(SERVICES, wanted.namespace, picker_service(wanted, selector={}))

    async def start_pickers(self) -> None:
        """Start our endpoint pickers for the pools that are there and those that come; wait for the former.

        A lab made with ``pickers=False`` gets ``add_picker_services`` instead. Raises ProcessStartError.
        """
        if not self.with_pickers:
            await self.add_picker_services()
            return
        assert self._kubelet is not None, "the lab was not started"
        self._pickers = Pickers(
            self.client,
            self._kubelet,
            kubeconfig=self.kubeconfig,
            directory=self.directory,
            namespace=_NAMESPACE,
            options=self.picker_options,
        )
        await self._pickers.start()
        await self._pickers.wait_ready()

    @property
    def pickers(self) -> Pickers:
        """The endpoint pickers. Raises LookupError when none were started."""
        if self._pickers is None:
            raise LookupError("no pickers run: make the lab with pickers, and call start_pickers()")
        return self._pickers

    async def stop(self) -> None:
        """Stop everything, in reverse order. Never raises for a part that is already gone."""
        await self.stop_controller()
        if self._pickers is not None:
            await self._pickers.stop()
        if self.prometheus is not None:
            await self.prometheus.stop()
        if self._gateway is not None:
            await self._gateway.stop()
        if self._kubelet is not None:
            await self._kubelet.stop()
        if self._nodes is not None:
            await self._nodes.stop()
        await self.fleet.stop()
        if self._client is not None:
            try:
                await self._client.close()
            except (OSError, KubeError) as error:
                _log.info("client_not_closed", reason=type(error).__name__)
        await self.control_plane.stop()
