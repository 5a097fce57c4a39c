"""A real Prometheus over simulated vLLM pods; skipped loudly where it cannot be had, required where CI=true.

In `make test-full` those of ``any_server`` run over a real VictoriaMetrics, too, where one is built (`make peers`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from benchmarks.peers.victoriametrics import VICTORIA_METRICS, VictoriaMetrics
from rollouts.lab.loopback import loopback
from rollouts.lab.prometheus import Prometheus, PrometheusMissingError, find_prometheus
from rollouts.lab.vllm.pod import Fleet
from rollouts.lab.vllm.spec import PodSpec
from tools.gopickers.build import built

BODY = {"model": "mymodel", "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
Ask = Callable[..., Awaitable[None]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.prometheus)


@pytest.fixture(scope="session")
def program() -> Path:
    try:
        return find_prometheus()
    except PrometheusMissingError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI needs a real Prometheus: {error}")
        pytest.skip(str(error))


@pytest.fixture
async def prometheus(program: Path, tmp_path: Path) -> AsyncIterator[Prometheus]:
    """Started by the test, once it knows what to scrape."""
    server = Prometheus(tmp_path / "prometheus")
    yield server
    await server.stop()


@pytest.fixture
async def victoria_metrics(tmp_path: Path) -> AsyncIterator[VictoriaMetrics]:
    """As ``prometheus``."""
    if built(VICTORIA_METRICS) is None:
        pytest.skip(f"{VICTORIA_METRICS.name} is not built: `python -m benchmarks.peers.victoriametrics`")
    server = VictoriaMetrics(tmp_path / "victoriametrics")
    yield server
    await server.stop()


@pytest.fixture(params=["prometheus", pytest.param("victoria_metrics", marks=pytest.mark.full)])
def any_server(request: pytest.FixtureRequest) -> Prometheus:
    """Each of them."""
    server = request.getfixturevalue(request.param)
    assert isinstance(server, Prometheus)
    return server


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    """Two stable pods and one canary pod."""
    names = ("stable-0", "stable-1", "canary-0")
    specs = [
        PodSpec(name=name, address=loopback(9, 10 + number), speed=20.0, seed=number)
        for number, name in enumerate(names)
    ]
    async with Fleet(specs) as running:
        yield running


@pytest.fixture
async def ask() -> AsyncIterator[Ask]:
    """Sends requests to a pod at once and waits for their ends."""
    async with aiohttp.ClientSession() as session:

        async def one(url: str) -> None:
            async with session.post(f"{url}/v1/chat/completions", json=BODY) as answer:
                await answer.read()

        async def many(url: str, count: int) -> None:
            await asyncio.gather(*(one(url) for _ in range(count)))

        yield many
