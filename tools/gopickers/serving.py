"""Runs the Go pickers: an API server with one pool, four pods and a 90/10 rewrite, and the programs on it.

They know no other source than an API server, and it must be a real one: the in-memory one of the lab speaks too
little of what Go clients ask for.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rollouts.kube.client import KubeClient, Resource
from rollouts.kube.errors import KubeError
from rollouts.kube.http import open_client
from rollouts.lab.controlplane import Choice, ControlPlane, install_upstream_crds
from rollouts.lab.controlplane.pods import create_ready_pod
from rollouts.lab.controlplane.upstream import Upstream
from rollouts.lab.processes import ChildProcess, free_port
from rollouts.picker.conformance.cases import load_cases
from rollouts.picker.conformance.report import check_picker
from tools.gopickers.build import GoPicker, GoPickerError, built

__all__ = ["MODEL", "TARGETS", "Served", "serve_beside", "start_on"]

MODEL = "travelhelper"
TARGETS = {"travel-helper-v1": 90, "travel-helper-v2": 10}
_POOL = "mymodel-pool-v1"
_LABELS = {"app": "custom-serving", "release": "qwen"}
_PODS = 4
_START_SECONDS = 30.0
_ROUTED_BY_ALL = "routes a request without a body"
_SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
_NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
_POOLS = Resource("inference.networking.k8s.io", "v1", "inferencepools", "InferencePool")
_REWRITES = Resource(
    "inference.networking.x-k8s.io", "v1alpha2", "inferencemodelrewrites", "InferenceModelRewrite"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A running picker: plaintext HTTP/2 at ``address``."""

    picker: GoPicker
    address: str
    pid: int


@asynccontextmanager
async def serve_beside(pickers: Iterable[GoPicker], directory: Path) -> AsyncIterator[list[Served]]:
    """All of ``pickers`` on an API server of their own; logs and data are in ``directory``.

    Raises GoPickerError for one that is not built or where there is no API server to be had, and
    ProcessStartError for one that does not start.
    """
    async with ControlPlane(directory / "control-plane", choice=Choice.AUTO, say=_ignore) as plane:
        if not plane.real:
            raise GoPickerError(
                "Go pickers need a real API server: run `make controlplane`, or set KUBEBUILDER_ASSETS"
            )
        async with (
            await open_client(str(plane.kubeconfig), field_manager="gopickers") as client,
            start_on(client, plane.kubeconfig, pickers, directory) as served,
        ):
            yield served


def _ignore(_: str) -> None:
    """Progress that nobody needs to see."""


@asynccontextmanager
async def start_on(
    client: KubeClient, kubeconfig: Path, pickers: Iterable[GoPicker], directory: Path, namespace: str = "go"
) -> AsyncIterator[list[Served]]:
    """The same on an API server that is there already; the objects go into ``namespace``, which is made."""
    await _create_objects(client, namespace)
    async with AsyncExitStack() as stack:
        yield [await _start(stack, picker, kubeconfig, namespace, directory) for picker in pickers]


async def _create_objects(client: KubeClient, namespace: str) -> None:
    await install_upstream_crds(client, (Upstream.INFERENCE_V1,))
    body: dict[str, Any] = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    await client.create(_NAMESPACES, None, body)
    for index in range(_PODS):
        address = f"127.0.0.{11 + index}"  # nothing listens there: a picker only names it
        await create_ready_pod(client, namespace, f"qwen-{index}", labels=_LABELS, ip=address)
    body = {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": _POOL},
        "spec": {
            "selector": {"matchLabels": _LABELS},
            "targetPorts": [{"number": 8000}],
            "endpointPickerRef": {"name": "mymodel-v1-ext-proc", "port": {"number": 9002}},
        },
    }
    await client.create(_POOLS, namespace, body)
    targets = [{"modelRewrite": name, "weight": weight} for name, weight in TARGETS.items()]
    body = {
        "apiVersion": "inference.networking.x-k8s.io/v1alpha2",
        "kind": "InferenceModelRewrite",
        "metadata": {"name": MODEL},
        "spec": {
            "poolRef": {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": _POOL},
            "rules": [{"matches": [{"model": {"type": "Exact", "value": MODEL}}], "targets": targets}],
        },
    }
    try:
        await client.create(_REWRITES, namespace, body)
    except KubeError as error:
        raise GoPickerError(f"the API server does not take the rewrite: {error}") from error


async def _start(
    stack: AsyncExitStack, picker: GoPicker, kubeconfig: Path, namespace: str, directory: Path
) -> Served:
    program = built(picker)
    if program is None:
        raise GoPickerError(f"{picker.name} is not built: run `python -m tools.gopickers build`")
    port = free_port()
    command = [str(program), f"--pool-name={_POOL}", f"--pool-namespace={namespace}"]
    command += [f"--grpc-port={port}", f"--grpc-health-port={free_port()}", f"--metrics-port={free_port()}"]
    command += ["--secure-serving=false", "--health-checking", "--zap-encoder=json"]
    if picker.name == "epp":
        # As its chart runs it: little logging, no tracing. Pods that do not exist are not worth scraping.
        command += ["--v=1", "--tracing=false", "--metrics-endpoint-auth=false"]
        command += ["--refresh-metrics-interval=1h"]
    else:
        command += ["--zap-log-level=error"]
    child = ChildProcess(picker.name, command, log_path=directory / f"{picker.name}.log")
    await child.start(env={**os.environ, "KUBECONFIG": str(kubeconfig)})
    stack.push_async_callback(child.stop)
    await _wait_serving(child, f"127.0.0.1:{port}")
    await _wait_routing(child, f"127.0.0.1:{port}")
    return Served(picker=picker, address=f"127.0.0.1:{port}", pid=child.pid)


async def _wait_serving(child: ChildProcess, address: str) -> None:
    """Until its health says SERVING. Raises ProcessStartError with the end of its log."""
    deadline = time.monotonic() + _START_SECONDS
    request = health_pb2.HealthCheckRequest(service=_SERVICE)
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while time.monotonic() < deadline:
            if child.returncode is not None:
                raise child.failure(f"it ended with {child.returncode}")
            try:
                answer = await stub.Check(request, timeout=2.0, wait_for_ready=True)
            except grpc.aio.AioRpcError:
                answer = None
            if answer is not None and answer.status == health_pb2.HealthCheckResponse.SERVING:
                return
            await asyncio.sleep(0.1)
    raise child.failure(f"it was not serving within {_START_SECONDS:g} s")


async def _wait_routing(child: ChildProcess, address: str) -> None:
    """Until it knows the pods, which comes after its health says SERVING. Raises ProcessStartError.

    Asked by a request without a body, the one kind that both pickers route.
    """
    case = [case for case in load_cases() if case.name == _ROUTED_BY_ALL]
    deadline = time.monotonic() + _START_SECONDS
    problem = ""
    while time.monotonic() < deadline:
        (result,) = await check_picker(address, model=MODEL, timeout=2.0, cases=case)
        if result.passed:
            return
        problem = result.problem
        await asyncio.sleep(0.1)
    raise child.failure(f"it did not route within {_START_SECONDS:g} s: {problem}")
