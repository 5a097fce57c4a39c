"""Simulated pods on free ports, and a client to talk to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from rollouts.lab.vllm.pod import Fleet, SimulatedPod
from rollouts.lab.vllm.spec import PodSpec

StartPod = Callable[..., Awaitable[SimulatedPod]]


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


@pytest.fixture
async def start_pod() -> AsyncIterator[StartPod]:
    """Starts pods with the given PodSpec fields, fast ones on free ports unless told otherwise."""
    fleet = Fleet(())

    async def start(**fields: Any) -> SimulatedPod:
        spec = {"name": f"pod-{len(fleet.pods)}", "address": "127.0.0.1", "port": 0, "speed": 20.0, **fields}
        return await fleet.add(PodSpec(**spec))

    yield start
    await fleet.stop()
