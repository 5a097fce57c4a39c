"""Two versions in one pool behind a real Envoy: our picker splits them, and the gateway knows nothing of it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from rollouts.api.crds import all_crds
from rollouts.kube.client import PatchKind
from rollouts.lab.controlplane import install_crds
from rollouts.objects import kinds
from rollouts.picker.core.objects import PoolName
from rollouts.picker.datapath import DataPath
from rollouts.picker.main import Picker, PickerConfig
from tests.kit.dataplane import NAMESPACE, DataPlane, backend
from tests.kit.polling import eventually

TOKENS = 30
ROLLOUT = {
    "apiVersion": kinds.ROLLOUT.api_version,
    "kind": "Rollout",
    "metadata": {"name": "mymodel", "namespace": NAMESPACE},
    "spec": {
        "target": {"variant": {"name": "v2", "labels": {"release": "v2"}}},
        "traffic": {"inferencePool": {"name": "pool", "modelName": "mymodel"}},
        "strategy": {"canary": {"sticky": {"header": "x-session-id", "pinHeader": True}}},
    },
}


def split(v1: int, v2: int) -> dict[str, Any]:
    """The stable pods serve under the name that clients ask for, the canary's under another."""
    names = (("v1", v1, ""), ("v2", v2, "mymodel-2"))
    variants = [
        {"name": name, "labels": {"release": name}, "weight": weight, "model": model}
        for name, weight, model in names
    ]
    return {"spec": {"poolRef": {"name": "pool"}, "modelName": "mymodel", "variants": variants}}


@pytest.fixture
async def picker(dataplane: DataPlane, data_path: DataPath) -> AsyncIterator[Picker]:
    await install_crds(dataplane.client, all_crds())
    config = PickerConfig(
        pools=(PoolName(NAMESPACE, "pool"),),
        grpc_address="127.0.0.1:0",
        metrics_address="127.0.0.1:0",
        secure_serving=False,
        drain_grace=0.5,
        data_path=data_path,
        variant_header="x-variant",
    )
    running = Picker(config, client=dataplane.client)
    take = running.take
    running.take = lambda objects: take([*objects, ROLLOUT])  # type: ignore[method-assign]  # adds a Rollout
    await running.start()
    try:
        address = f"127.0.0.1:{running.server.port}"
        await dataplane.add_pool("pool", pods=0, picker=address)
        for name, model in (("v1", "mymodel"), ("v2", "mymodel-2"), ("old", "mymodel-0")):
            labels = {"pool": "pool", "release": name}
            await dataplane.add_pod(f"pool-{name}", labels, served_model=model)
        await dataplane.create(kinds.POOL_SPLIT, "pool", split(90, 10))
        await dataplane.route(backend("pool", 1))
        await eventually(lambda: len(running.router.snapshot.endpoints) == 3 and running.router.variants)
        yield running
    finally:
        await running.stop()


async def ask(plane: DataPlane, http: aiohttp.ClientSession, **headers: str) -> tuple[str, str]:
    """(variant by the header, model that answered); the stream must be whole."""
    body = {"prompt": "a", "model": "mymodel", "max_tokens": TOKENS, "ignore_eos": True, "stream": True}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with http.post(f"{plane.url}/v1/completions", json=body, headers=named) as answer:
        text = await answer.text()
        assert answer.status == 200, text
        assert text.endswith("data: [DONE]\n\n")
        events = [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]
        assert len([event for event in events if event["choices"]]) == TOKENS, text[:200]
        return answer.headers["x-variant"], events[0]["model"]


async def test_a_pool_is_split_by_label_and_no_session_flips_back(
    picker: Picker, dataplane: DataPlane, http: aiohttp.ClientSession
) -> None:
    async def asked(number: int, **headers: str) -> Counter[tuple[str, str]]:
        return Counter(await asyncio.gather(*(ask(dataplane, http, **headers) for _ in range(number))))

    seen = await asked(100)
    moved: set[int] = set()
    for v2 in (10, 50, 90):
        patch = split(100 - v2, v2)
        await dataplane.client.patch(kinds.POOL_SPLIT, NAMESPACE, "pool", patch, kind=PatchKind.MERGE)
        (held,) = picker.router.variants.by_key.values()
        await eventually(lambda held=held, v2=v2: held.rule.split.variants[1].weight == v2)
        sessions = [await ask(dataplane, http, x_session_id=f"user-{n}") for n in range(30)]
        on_canary = {number for number, (variant, _) in enumerate(sessions) if variant == "v2"}
        assert moved <= on_canary
        moved = on_canary
    pinned = await asked(5, x_rollout_pin="v1")

    assert seen == {("v1", "mymodel"): 90, ("v2", "mymodel-2"): 10}
    assert 15 < len(moved) <= 30
    assert pinned == {("v1", "mymodel"): 5}
    assert picker.server.failures == 0
