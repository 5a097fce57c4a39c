"""gRPC health on a port of its own, without TLS, as the kubelet asks for it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rollouts.lab.processes import free_port
from rollouts.picker.core.objects import PoolName
from rollouts.picker.datapath import DataPath
from rollouts.picker.main import Picker, PickerConfig

POOL = """
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferencePool
metadata: {name: p, namespace: default}
spec: {selector: {app: a}, targetPortNumber: 8000}
"""


@pytest.fixture
async def picker(tmp_path: Path) -> AsyncIterator[Picker]:
    """One with TLS that has not seen its pool yet."""
    objects = tmp_path / "objects.yaml"
    objects.write_text("")
    config = PickerConfig(
        pools=(PoolName("default", "p"),),
        objects=objects,
        grpc_address="127.0.0.1:0",
        metrics_address="127.0.0.1:0",
        health_address="127.0.0.1:0",
        scrape=False,
        drain_grace=0.0,
    )
    running = Picker(config)
    await running.start()
    yield running
    await running.stop()


async def status(port: int, service: str) -> str:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=service), timeout=5
        )
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def test_it_says_without_tls_what_the_serving_port_says(picker: Picker) -> None:
    port = picker.server.health_port
    before = [await status(port, service) for service in ("liveness", "readiness")]
    picker.take([_pool()])
    await picker.settled()
    after = [await status(port, service) for service in ("liveness", "readiness")]

    assert (before, after) == (["SERVING", "NOT_SERVING"], ["SERVING", "SERVING"])
    assert port != picker.server.port


async def test_the_serving_port_answers_no_plain_text_when_it_speaks_tls(picker: Picker) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await status(picker.server.port, "readiness")

    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_drained_picker_closes_it(picker: Picker) -> None:
    port = picker.server.health_port
    await picker.server.drain()
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await status(port, "readiness")

    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("data_path", ["python", "native"])
@pytest.mark.parametrize(
    ("grpc_address", "health_address", "said"),
    [
        ("{free}", "{free}", "choose another --health-address"),
        ("{taken}", "{free}", "choose another --grpc-address"),
        ("no-such-host.invalid:0", "{free}", "cannot listen on no-such-host.invalid:0"),
        ("{free}", "no-such-host.invalid:0", "cannot listen on no-such-host.invalid:0"),
    ],
)
async def test_an_address_that_cannot_be_had_is_named(
    tmp_path: Path, data_path: str, grpc_address: str, health_address: str, said: str
) -> None:
    if data_path == "native":
        pytest.importorskip("inference_rollouts_native", reason="the native data path is not built here")
    objects = tmp_path / "objects.yaml"
    objects.write_text(POOL)
    blocker = socket.create_server(("127.0.0.1", 0))
    places = {"free": f"127.0.0.1:{free_port()}", "taken": f"127.0.0.1:{blocker.getsockname()[1]}"}
    config = PickerConfig(
        pools=(PoolName("default", "p"),),
        objects=objects,
        grpc_address=grpc_address.format(**places),
        metrics_address="127.0.0.1:0",
        health_address=health_address.format(**places),
        secure_serving=False,
        drain_grace=0.0,
        data_path=DataPath(data_path),
    )
    picker = Picker(config)
    try:
        with blocker, pytest.raises(OSError, match=said):
            await picker.start()
    finally:
        await picker.stop()


def _pool() -> dict[str, Any]:
    import yaml

    return dict(yaml.safe_load(POOL))
