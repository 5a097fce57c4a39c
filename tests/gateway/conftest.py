"""A data plane with a real Envoy per test, skipped loudly where Envoy is not installed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from rollouts.lab.gateway.envoy import EnvoyNotInstalledError, find_envoy
from rollouts.lab.testing.dataplane import DataPlane


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


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=32)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session
