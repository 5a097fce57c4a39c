"""Requests of every kind through a real Envoy and our picker: the pod reads what the client meant."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import brotli
import pytest
from backports import zstd

from rollouts.picker.core.objects import PoolName
from rollouts.picker.datapath import DataPath
from rollouts.picker.main import Picker, PickerConfig
from tests.kit.dataplane import MODELS, NAMESPACE, DataPlane, adapter_rollout, backend
from tests.kit.polling import eventually

ROLLOUT = adapter_rollout()
CHAT = {"model": "travelhelper", "max_tokens": 2, "messages": [{"role": "user", "content": "é" * 50}]}
Ask = Callable[..., Any]


class Lab:
    """One pod that has the adapter v2, to which all of travelhelper goes, and a client."""

    def __init__(self, plane: DataPlane, picker: Picker, http: aiohttp.ClientSession) -> None:
        self.plane, self.picker, self.http = plane, picker, http

    async def post(self, path: str, data: Any, **headers: str) -> tuple[int, Any]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.http.post(f"{self.plane.url}{path}", data=data, headers=named) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text.startswith("{") else text

    def figure(self, name: str, **labels: str) -> float:
        return sum(
            sample.value
            for family in self.picker.metrics.registry.collect()
            for sample in family.samples
            if sample.name == f"inference_picker_{name}" and labels.items() <= sample.labels.items()
        )


@pytest.fixture(params=["left", "kept", "measured"])
async def lab(
    request: Any, dataplane: DataPlane, http: aiohttp.ClientSession, data_path: DataPath
) -> AsyncIterator[Lab]:
    """The picker leaves each stream after the request, keeps it, or measures the response."""
    async with AsyncExitStack() as stack:
        config = PickerConfig(
            pools=(PoolName(NAMESPACE, "pool"),),
            grpc_address="127.0.0.1:0",
            metrics_address="127.0.0.1:0",
            secure_serving=False,
            drain_grace=0.5,
            data_path=data_path,
            keep_streams=request.param == "kept",
        )
        picker = Picker(config, client=dataplane.client)
        take = picker.take
        extra = [ROLLOUT] if request.param == "measured" else []
        picker.take = lambda objects: take([*objects, *extra])  # type: ignore[method-assign]  # adds a Rollout
        await picker.start()
        stack.push_async_callback(picker.stop)
        address = f"127.0.0.1:{picker.server.port}"
        await dataplane.add_pool("pool", picker=address, adapters={"v2": "/v2"}, max_model_len=1_000_000)
        spec = {
            "modelName": "travelhelper",
            "poolRef": {"name": "pool"},
            "targetModels": [{"name": "v2", "weight": 1}],
        }
        await dataplane.create(MODELS, "loramodel", {"spec": spec})
        await dataplane.route(backend("pool", 1))
        await eventually(lambda: len(picker.router.snapshot.endpoints) == 1)
        await eventually(lambda: picker.router.snapshot.rules.find("travelhelper") is not None)
        yield Lab(dataplane, picker, http)


async def test_requests_of_every_kind_reach_their_model(lab: Lab) -> None:
    text = json.dumps(CHAT, ensure_ascii=False)
    json_type = {"content_type": "application/json"}
    for charset in ("utf-8-sig", "utf-16", "utf-32-be"):
        status, answer = await lab.post("/v1/chat/completions", text.encode(charset), **json_type)
        assert (status, answer["model"]) == (200, "v2"), (charset, answer)
    for coding, compress in (("gzip", gzip.compress), ("br", brotli.compress), ("zstd", zstd.compress)):
        data = compress(text.encode())
        status, answer = await lab.post("/v1/chat/completions", data, **json_type, content_encoding=coding)
        assert (status, answer["model"]) == (200, "v2"), (coding, answer)
    status, answer = await lab.post("/v1/chat/completions", b"x", **json_type, content_encoding="compress")
    assert (status, "compress" in answer["error"]["message"]) == (415, True)
    # Without a model the base answers; a body that is not JSON is for the pod to refuse.
    nameless = json.dumps({**CHAT, "model": None}).encode()
    assert (await lab.post("/v1/chat/completions", nameless, **json_type))[1]["model"] == "mymodel"
    status, answer = await lab.post("/v1/chat/completions", b"x" * 300_000, content_type="text/plain")
    assert (status, "Unsupported Media Type" in answer["error"]["message"]) == (400, True)
    assert lab.picker.server.failures == 0


@pytest.mark.parametrize("size", [100, 3_000_000])
async def test_speech_to_text_goes_by_the_field_of_its_form(lab: Lab, size: int) -> None:
    form = aiohttp.FormData()
    form.add_field(
        "file", io.BytesIO(b"\xff\x00\r\n--" * (size // 6)), filename="a.wav", content_type="audio/wav"
    )
    form.add_field("model", "travelhelper")  # not there: only its target is

    status, answer = await lab.post("/v1/audio/transcriptions", form)

    assert (status, answer["text"]) == (200, f"{size // 6 * 6} bytes of sound")


async def test_a_websocket_goes_through(lab: Lab) -> None:
    for _ in range(3):
        async with lab.http.ws_connect(f"{lab.plane.url}/v1/realtime") as socket:
            first = await socket.receive_json(timeout=10)
            await socket.send_json({"type": "session.update"})
            second = await socket.receive_json(timeout=10)

        assert (first["type"], second["type"]) == ("session.created", "session.updated")
    assert lab.picker.server.failures == 0


@pytest.mark.parametrize("lab", ["measured"], indirect=True)
async def test_a_client_that_leaves_before_the_answer_is_an_abort(lab: Lab) -> None:
    """Envoy then resets the stream; a shim that asks for a destination only half-closes it."""
    pod = lab.plane.fleet.pods["pool-0"]
    async with lab.http.post(f"{pod.url}/lab/knobs", json={"hang": "requests"}) as answer:
        assert answer.status == 200
    short = aiohttp.ClientTimeout(total=0.3)
    with pytest.raises(TimeoutError):
        await lab.http.post(f"{lab.plane.url}/v1/chat/completions", json=CHAT, timeout=short)

    await eventually(lambda: lab.figure("aborts_total") == 1)
    assert lab.figure("requests_total", code="499") == 1
    assert lab.figure("requests_total", code="") == 0
