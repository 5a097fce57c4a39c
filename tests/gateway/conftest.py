"""A data plane with a real Envoy per test, skipped loudly where Envoy is not installed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from importlib.util import find_spec
from pathlib import Path

import aiohttp
import grpc
import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc as ext_proc_grpc

from rollouts.lab.gateway.envoy import EnvoyNotInstalledError, find_envoy
from rollouts.picker.datapath import MODULE, DataPath
from tests.kit.dataplane import DataPlane
from tests.kit.fakepicker import FakePicker


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.gateway)


@pytest.fixture
async def dataplane(tmp_path: Path) -> AsyncIterator[DataPlane]:
    try:
        find_envoy()
    except EnvoyNotInstalledError as error:
        pytest.skip(str(error))
    async with DataPlane(tmp_path / "gateway") as plane:
        yield plane


@pytest.fixture(params=[DataPath.PYTHON, DataPath.NATIVE])
def data_path(request: pytest.FixtureRequest) -> DataPath:
    """Of our picker: a test with it runs on both."""
    path: DataPath = request.param
    if path is DataPath.NATIVE and find_spec(MODULE) is None:
        pytest.skip("the native data path is not built here: `make setup` does it where cargo is")
    return path


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=32)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


@pytest.fixture
async def start_picker() -> AsyncIterator[Callable[[FakePicker], object]]:
    servers: list[grpc.aio.Server] = []

    async def start(picker: FakePicker) -> str:
        server = grpc.aio.server()
        ext_proc_grpc.add_ExternalProcessorServicer_to_server(picker, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        await server.stop(grace=0)
