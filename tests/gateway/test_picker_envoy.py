"""Our picker behind a real Envoy, over simulated pods with adapters, fed by watches."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest

from rollouts.kube.client import PatchKind
from rollouts.picker.conformance.report import check_picker
from rollouts.picker.core.objects import PoolName
from rollouts.picker.datapath import DataPath
from rollouts.picker.main import Picker, PickerConfig
from tests.kit.dataplane import MODELS, NAMESPACE, DataPlane, adapter_rollout, backend
from tests.kit.polling import eventually

ROLLOUT = adapter_rollout(sticky={"header": "x-session-id"})


class Lab:
    """A pool with two pods and two adapters, our picker, and a client that counts answers."""

    def __init__(self, plane: DataPlane, picker: Picker, http: aiohttp.ClientSession) -> None:
        self.plane, self.picker, self.http = plane, picker, http

    async def weights(self, **weights: int) -> None:
        """Write the weights and wait until the picker has them."""
        targets = [{"name": name, "weight": weight} for name, weight in weights.items() if weight]
        patch = {"spec": {"targetModels": targets}}
        await self.plane.client.patch(MODELS, NAMESPACE, "loramodel", patch, kind=PatchKind.MERGE)

        def seen() -> bool:
            rule = self.picker.router.snapshot.rules.find("travelhelper")
            return rule is not None and {t.name: t.weight for t in rule.targets} == {
                name: weight for name, weight in weights.items() if weight
            }

        await eventually(seen)

    async def ask(self, *, stream: bool = False, size: int = 100, **headers: str) -> tuple[int, str]:
        """(status, model that answered); a stream must be whole."""
        document = {"prompt": "a" * size, "model": "travelhelper", "max_tokens": 3, "stream": stream}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named["content-type"] = "application/json"
        data = io.BytesIO(json.dumps(document).encode())
        async with self.http.post(f"{self.plane.url}/v1/completions", data=data, headers=named) as answer:
            text = await answer.text()
            if answer.status != 200:
                return answer.status, text
            if stream:
                assert text.endswith("data: [DONE]\n\n")
                text = text.partition("data: ")[2].partition("\n")[0]
            return answer.status, json.loads(text)["model"]

    async def count(self, number: int, **how: Any) -> Counter[tuple[int, str]]:
        """Answers to ``number`` requests at once."""
        return Counter(await asyncio.gather(*(self.ask(**how) for _ in range(number))))

    def figure(self, name: str, **labels: str) -> float:
        """Sum of a metric over the pods."""
        total = 0.0
        for family in self.picker.metrics.registry.collect():
            for sample in family.samples:
                if sample.name == f"inference_picker_{name}" and labels.items() <= sample.labels.items():
                    total += sample.value
        return total


@pytest.fixture
async def start(
    dataplane: DataPlane, http: aiohttp.ClientSession, data_path: DataPath
) -> AsyncIterator[Callable[..., Any]]:
    async with AsyncExitStack() as stack:

        async def started(*extra: dict[str, Any]) -> Lab:
            config = PickerConfig(
                pools=(PoolName(NAMESPACE, "pool"),),
                grpc_address="127.0.0.1:0",
                metrics_address="127.0.0.1:0",
                secure_serving=False,
                drain_grace=0.5,
                data_path=data_path,
            )
            picker = Picker(config, client=dataplane.client)
            take = picker.take
            picker.take = lambda objects: take([*objects, *extra])  # type: ignore[method-assign]  # adds a Rollout
            await picker.start()
            stack.push_async_callback(picker.stop)
            await dataplane.add_pool(
                "pool",
                pods=2,
                picker=f"127.0.0.1:{picker.server.port}",
                adapters={"v1": "/v1", "v2": "/v2"},
                max_model_len=10_000_000,
            )
            targets = [{"name": "v1", "weight": 90}, {"name": "v2", "weight": 10}]
            spec = {"modelName": "travelhelper", "poolRef": {"name": "pool"}, "targetModels": targets}
            await dataplane.create(MODELS, "loramodel", {"spec": spec})
            await dataplane.route(backend("pool", 1))
            await eventually(lambda: len(picker.router.snapshot.endpoints) == 2)
            lab = Lab(dataplane, picker, http)
            await lab.weights(v1=90, v2=10)
            return lab

        yield started


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("measured", [False, True], ids=["unmeasured", "measured"])
async def test_the_split_is_exact_behind_envoy(start: Any, stream: bool, measured: bool) -> None:
    lab = await start(*([ROLLOUT] if measured else []))

    seen = await lab.count(100, stream=stream)

    assert seen == {(200, "v1"): 90, (200, "v2"): 10}
    assert lab.picker.server.failures == 0
    if measured:
        assert lab.figure("requests_total", code="200", target_model="v2") == 10
        assert lab.figure("e2e_seconds_count", target_model="v1") == 90
        assert lab.figure("tokens_total", target_model="v2", kind="completion") == 30
        assert lab.figure("ttft_seconds_count", target_model="v1") == (90 if stream else 0)


async def test_weights_change_at_once_and_zero_is_zero(start: Any) -> None:
    lab = await start()
    seen = []
    for share in (50, 100, 0):
        await lab.weights(v1=100 - share, v2=share)
        seen.append((await lab.count(40))[200, "v2"])

    assert seen == [20, 40, 0]


async def test_a_session_keeps_its_version_and_moves_only_towards_the_canary(start: Any) -> None:
    lab = await start(ROLLOUT)
    sessions = [f"session-{number}" for number in range(40)]
    before: set[str] = set()
    for share in (10, 30, 60, 100):
        await lab.weights(v1=100 - share, v2=share)
        answers = await asyncio.gather(*(lab.ask(x_session_id=name) for name in sessions * 2))
        moved = {name for name, answer in zip(sessions * 2, answers, strict=True) if answer == (200, "v2")}
        stayed = {name for name, answer in zip(sessions * 2, answers, strict=True) if answer == (200, "v1")}

        assert moved >= before
        assert not moved & stayed
        before = moved


@pytest.mark.parametrize("size", [100_000, 3_000_000])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_large_bodies_pass(start: Any, size: int, stream: bool) -> None:
    lab = await start(*([ROLLOUT] if stream else []))

    assert (await lab.count(3, size=size, stream=stream)).total() == 3
    assert set(await lab.count(3, size=size, stream=stream)) <= {(200, "v1"), (200, "v2")}


async def test_refusals_and_bodyless_requests(start: Any) -> None:
    lab = await start()
    url = f"{lab.plane.url}/v1/completions"
    codes = []
    for data in (b"hello", b'{"prompt":"x"', b'{"model":4}'):
        async with lab.http.post(url, data=data, headers={"content-type": "application/json"}) as answer:
            codes.append((answer.status, (await answer.json())["error"]["code"]))
    async with lab.http.get(f"{lab.plane.url}/v1/models") as answer:
        models = {entry["id"] for entry in (await answer.json())["data"]}
    for name in ("pool-0", "pool-1"):
        await lab.plane.set_ready(name, False)
    await eventually(lambda: not lab.picker.router.snapshot.endpoints)

    assert codes == [(400, 400)] * 3
    assert {"v1", "v2"} <= models
    assert (await lab.ask())[0] == 503


async def test_a_pod_that_loses_the_canary_takes_none_of_its_requests(start: Any) -> None:
    lab = await start()
    first = lab.plane.fleet.pods["pool-0"].spec.address
    async with lab.http.post(
        f"http://{first}:8000/v1/unload_lora_adapter", json={"lora_name": "v2"}
    ) as answer:
        assert answer.status == 200

    def noticed() -> bool:
        scheduler = lab.picker.router.scheduler
        able = scheduler.serving(scheduler.candidates(None), "v2")
        return [pod.endpoint.pod for pod in able] == ["pool-1"]

    await eventually(noticed, timeout=15.0)
    assert await lab.count(100) == {(200, "v1"): 90, (200, "v2"): 10}
    assert lab.figure("requests_total", target_model="v2", pod="pool-0") == 0


async def test_a_client_that_leaves_counts_as_an_abort(start: Any) -> None:
    lab = await start(ROLLOUT)
    document = {"model": "travelhelper", "prompt": "a", "max_tokens": 5000, "stream": True}
    answer = await lab.http.post(f"{lab.plane.url}/v1/completions", json=document)
    await answer.content.readany()

    answer.close()

    await eventually(lambda: lab.figure("aborts_total") == 1)
    assert lab.figure("requests_total", code="499") == 1
    assert lab.picker.server.failures == 0


async def test_the_kit_passes_the_picker_of_the_lab(start: Any) -> None:
    lab = await start(ROLLOUT)

    results = await check_picker(f"127.0.0.1:{lab.picker.server.port}", model="travelhelper")

    assert [result.name for result in results if not result.passed] == []


@pytest.mark.slow
@pytest.mark.parametrize("size", [100, 60_000])
async def test_no_response_is_lost_when_its_stream_is_left_early(start: Any, size: int) -> None:
    lab = await start()
    seen: Counter[tuple[int, str]] = Counter()
    for _ in range(15):
        seen += await lab.count(100, size=size)

    assert seen == {(200, "v1"): 1350, (200, "v2"): 150}
