"""Real Envoy behind a gateway that plays another one: what clients get where two pools share a rule."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from rollouts.kube.client import PatchKind
from rollouts.lab.gateway.hearing import LATE_SECONDS
from rollouts.lab.gateway.likeness import GatewayLike
from rollouts.lab.gateway.service import HTTP_ROUTES
from rollouts.lab.processes import free_port
from rollouts.objects.kinds import INFERENCE_MODEL as MODELS
from rollouts.picker.core.objects import PoolName
from rollouts.picker.datapath import DataPath
from rollouts.picker.main import Picker, PickerConfig
from rollouts.traffic.parents import parents_view
from tests.gateway.test_picker_envoy import ROLLOUT
from tests.kit.dataplane import NAMESPACE, DataPlane, backend
from tests.kit.fakepicker import FakePicker, ask
from tests.kit.polling import eventually

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


# --- gateways that speak to pickers in a way of their own ------------------------------------------


@asynccontextmanager
async def ours(plane: DataPlane, *, keep: bool, data_path: DataPath) -> AsyncIterator[Picker]:
    """Our picker, which measures and splits `travelhelper`, before a pool of two pods with both adapters."""
    config = PickerConfig(
        pools=(PoolName(NAMESPACE, "pool"),),
        grpc_address="127.0.0.1:0",
        metrics_address="127.0.0.1:0",
        secure_serving=False,
        drain_grace=0.5,
        keep_streams=keep,
        data_path=data_path,
    )
    picker = Picker(config, client=plane.client)
    take = picker.take
    picker.take = lambda objects: take([*objects, ROLLOUT])  # type: ignore[method-assign]  # adds a Rollout
    await picker.start()
    try:
        address = f"127.0.0.1:{picker.server.port}"
        await plane.add_pool(
            "pool", pods=2, picker=address, adapters={"v1": "/v1", "v2": "/v2"}, max_model_len=10_000_000
        )
        targets = [{"name": "v1", "weight": 90}, {"name": "v2", "weight": 10}]
        spec = {"modelName": "travelhelper", "poolRef": {"name": "pool"}, "targetModels": targets}
        await plane.create(MODELS, "loramodel", {"spec": spec})
        await plane.route(backend("pool", 1))
        await eventually(lambda: len(picker.router.snapshot.endpoints) == 2)
        await eventually(lambda: picker.router.snapshot.rules.find("travelhelper") is not None)
        yield picker
    finally:
        await picker.stop()


async def models(http: aiohttp.ClientSession, plane: DataPlane, model: str) -> Counter[tuple[int, str]]:
    """Status and the model that answered, of forty requests."""

    async def one() -> tuple[int, str]:
        document = {"model": model, "prompt": "a" * 200_000, "max_tokens": 3}
        async with http.post(f"{plane.url}/v1/completions", json=document) as answer:
            text = await answer.text()
            return answer.status, json.loads(text)["model"] if answer.status == 200 else ""

    return Counter(await asyncio.gather(*(one() for _ in range(40))))


def ended(picker: Picker) -> dict[str, float]:
    """Requests of our picker by code."""
    found: Counter[str] = Counter()
    for family in picker.metrics.registry.collect():
        for sample in family.samples:
            if sample.name == "inference_picker_requests_total":
                found[sample.labels["code"]] += sample.value
    return dict(found)


async def test_like_nginx_destinations_are_right_and_nothing_counts_as_aborted(
    plane_like: Like, http: aiohttp.ClientSession, data_path: DataPath
) -> None:
    async with plane_like(GatewayLike.NGINX) as plane, ours(plane, keep=False, data_path=data_path) as picker:
        base = await models(http, plane, "mymodel")
        split = await models(http, plane, "travelhelper")
        codes = ended(picker)

    assert base == {(200, "mymodel"): 40}
    # The picker's change of the body is lost: no pod knows the name that is to be split.
    assert split == {(404, ""): 40}
    assert "499" not in codes
    assert sum(codes.values()) == 80


@pytest.mark.parametrize("keep", [False, True], ids=["streams are left early", "streams are kept"])
async def test_like_agentgateway_every_request_fails_unless_streams_are_kept(
    plane_like: Like, http: aiohttp.ClientSession, keep: bool, data_path: DataPath
) -> None:
    async with plane_like(GatewayLike.AGENTGATEWAY) as plane, ours(plane, keep=keep, data_path=data_path):
        base = await models(http, plane, "mymodel")
        measured = await models(http, plane, "travelhelper")

    assert base == ({(200, "mymodel"): 40} if keep else {(500, ""): 40})
    # A measured request is seen to its end anyway.
    assert measured == {(200, "v1"): 36, (200, "v2"): 4}


# --- gateways that report otherwise than they should -----------------------------------------------


@pytest.mark.parametrize(
    ("like", "at_once", "in_the_end"),
    [
        (GatewayLike.STANDARD, True, True),
        (GatewayLike.LATE, False, True),
        (GatewayLike.SILENT, False, False),
        (GatewayLike.WITHOUT_GENERATION, True, True),
        (GatewayLike.LEFTOVER, True, True),
    ],
)
async def test_weights_are_in_force_whatever_the_status_says_and_whenever(
    plane_like: Like, http: aiohttp.ClientSession, like: GatewayLike, at_once: bool, in_the_end: bool
) -> None:
    async with plane_like(like) as plane:
        await plane.add_pool("v1")
        await plane.add_pool("v2")
        rule = {"backendRefs": [backend("v1", 100), backend("v2", 0)]}
        spec = {"parentRefs": [{"name": "gw"}], "rules": [rule]}
        await plane.create(HTTP_ROUTES, "route", {"spec": spec})

        async def programmed() -> bool:
            return parents_view(await plane.client.get(HTTP_ROUTES, NAMESPACE, "route")).programmed

        async def served_by(pod: str) -> bool:
            return await ask(http, plane.url) == (200, pod)

        await eventually(lambda: served_by("v1-0"))
        if in_the_end:
            await eventually(programmed)
        turned = {"backendRefs": [backend("v1", 0), backend("v2", 100)]}
        patch = {"spec": {"rules": [turned]}}
        await plane.client.patch(HTTP_ROUTES, NAMESPACE, "route", patch, kind=PatchKind.MERGE)
        await eventually(lambda: served_by("v2-0"))
        settled = plane.gateway.reconciled
        first = await programmed()
        if at_once:
            first = await eventually(programmed, timeout=LATE_SECONDS)
        if in_the_end:
            assert await eventually(programmed)
        else:
            await plane.add_pool("v3")
            await eventually(lambda: plane.gateway.reconciled > settled)
            assert not await programmed()

    assert first is at_once
