"""Real Envoy behind a gateway that plays another one: what clients get where two pools share a rule."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from rollouts.lab.gateway.likeness import GatewayLike
from rollouts.lab.processes import free_port
from tests.kit.dataplane import DataPlane, backend
from tests.kit.fakepicker import FakePicker, ask

StartPicker = Callable[[FakePicker], "asyncio.Future[str]"]
Like = Callable[[GatewayLike], AbstractAsyncContextManager[DataPlane]]


@pytest.fixture
def plane_like(tmp_path: Path) -> Like:
    @asynccontextmanager
    async def made(like: GatewayLike) -> AsyncIterator[DataPlane]:
        async with DataPlane(tmp_path / "gateway", like=like) as plane:
            yield plane

    return made


async def asked(http: aiohttp.ClientSession, plane: DataPlane, count: int = 60) -> Counter[tuple[int, str]]:
    return Counter(await asyncio.gather(*(ask(http, plane.url) for _ in range(count))))


async def test_like_istio_the_last_picker_is_asked_for_all(
    plane_like: Like, http: aiohttp.ClientSession, start_picker: StartPicker
) -> None:
    async with plane_like(GatewayLike.ISTIO) as plane:
        pickers = {}
        for name in ("v1", "v2"):
            picker = pickers[name] = FakePicker(lambda: "")
            (pod,) = await plane.add_pool(name, picker=await start_picker(picker))
            picker.choose = lambda address=pod.spec.address: f"{address}:8000"
        await plane.route(backend("v1", 80), backend("v2", 20))
        seen = await asked(http, plane)

    assert (pickers["v1"].calls, pickers["v2"].calls) == (0, 60)
    assert seen[200, "v1-0"] > seen[200, "v2-0"]
    assert seen[200, "v1-0"] + seen[200, "v2-0"] == 60


async def test_like_istio_a_dead_picker_of_the_canary_fails_every_request(
    plane_like: Like, http: aiohttp.ClientSession, start_picker: StartPicker
) -> None:
    async with plane_like(GatewayLike.ISTIO) as plane:
        picker = FakePicker(lambda: "")
        (pod,) = await plane.add_pool("v1", picker=await start_picker(picker))
        picker.choose = lambda: f"{pod.spec.address}:8000"
        await plane.add_pool("v2", picker=f"127.0.0.1:{free_port()}")
        await plane.route(backend("v1", 100), backend("v2", 0))
        before = await asked(http, plane)
        parent = await plane.route(backend("v1", 99), backend("v2", 1))
        after = await asked(http, plane)

    assert before == {(200, "v1-0"): 60}
    assert after == {(500, ""): 60}
    assert {condition["status"] for condition in parent["conditions"]} == {"True"}


async def test_like_ai_gateway_a_split_changes_nothing_and_the_status_says_all_is_well(
    plane_like: Like, http: aiohttp.ClientSession
) -> None:
    async with plane_like(GatewayLike.AI_GATEWAY) as plane:
        await plane.add_pool("v1")
        await plane.add_pool("v2")
        seen, conditions = [], []
        for stable, canary in ((100, 0), (50, 50), (0, 100)):
            parent = await plane.route(backend("v1", stable), backend("v2", canary))
            conditions += [(item["type"], item["status"]) for item in parent["conditions"]]
            seen.append(await asked(http, plane))

    assert seen == [{(200, "v1-0"): 60}, {(200, "v1-0"): 60}, {(200, "v2-0"): 60}]
    assert Counter(conditions)["Accepted", "True"] == 3


async def test_like_kgateway_a_split_is_answered_503(plane_like: Like, http: aiohttp.ClientSession) -> None:
    async with plane_like(GatewayLike.KGATEWAY) as plane:
        await plane.add_pool("v1")
        await plane.add_pool("v2")
        await plane.route(backend("v1", 90), backend("v2", 10))
        seen = await asked(http, plane)

    assert seen == {(503, ""): 60}
