"""Records what Envoy says to our picker: ``python -m tests.kit.exchange_recorder`` writes tests/recordings anew.

Clients of many kinds send their requests through a real Envoy to a picker on the Python path, which leaves each stream
after the request, keeps it, or measures the response. A line for each thing that reached the picker, in their order,
with its time and the replies. tests/native/test_recorded_exchanges.py plays it on both data paths.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import gzip
import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import brotli
from backports import zstd

from rollouts.picker import server
from rollouts.picker.core.encoding import encode
from rollouts.picker.core.objects import PoolName
from rollouts.picker.core.protocol import Exchange
from rollouts.picker.core.schedule import Load, Scheduler
from rollouts.picker.core.wire import decode
from rollouts.picker.datapath import DataPath
from rollouts.picker.main import Picker, PickerConfig
from tests.kit.dataplane import MODELS, NAMESPACE, DataPlane, adapter_rollout, backend
from tests.kit.polling import eventually

__all__ = ["RECORDING"]

RECORDING = Path(__file__).parents[1] / "recordings" / "envoy-exchanges.jsonl"
_ROLLOUT = adapter_rollout()
_TRIES = 8
"""Of a request: Envoy gives a picker 200 ms for each message, and a busy machine is slower now and then."""

_lines: list[dict[str, Any]] = []
_names: dict[int, int] = {}
_kept: list[object] = []
_message = [b""]


def _name(thing: object) -> int:
    """A number of its own for what is recorded, which stays: the address of an object may be had again."""
    if id(thing) not in _names:
        _names[id(thing)] = len(_names)
        _kept.append(thing)
    return _names[id(thing)]


def _texts(data: Iterable[bytes]) -> list[str]:
    return [base64.b64encode(one).decode() for one in data]


class _RecordedExchange(Exchange):
    __slots__ = ()

    def __init__(self, routing: Any, *rest: Any, **how: Any) -> None:
        super().__init__(routing, *rest, **how)
        kept = {"keep": how["keep"], "variant_header": how["variant_header"].decode()}
        _lines.append({"picker": _name(routing), "stream": _name(self), **kept})

    def receive(self, message: Any, now: float) -> list[Any]:
        line: dict[str, Any] = {"stream": _name(self), "at": now, "in": _texts(_message)[0]}
        _lines.append(line)
        replies = list(super().receive(message, now))
        line["out"] = _texts(map(encode, replies))
        return replies

    def half_closed(self, now: float) -> list[Any]:
        replies = list(super().half_closed(now))
        _lines.append({"stream": _name(self), "at": now, "half_closed": _texts(map(encode, replies))})
        return replies

    def disconnect(self, now: float) -> None:
        super().disconnect(now)
        _lines.append({"stream": _name(self), "at": now})


def _decode(data: bytes) -> Any:
    _message[0] = data
    return decode(data)


def _take(picker: Picker, objects: Iterable[object]) -> None:
    objects = list(objects)
    pools = [dataclasses.astuple(pool) for pool in picker._config.pools]
    seen = {"pools": pools, "objects": objects, "at": time.monotonic(), "wall": time.time()}
    _lines.append({"picker": _name(picker.router), **seen})
    _TAKE(picker, objects)


def _observe(
    scheduler: Scheduler, address: str, load: Load, now: float, *, before: int | None = None
) -> None:
    said = {
        name: sorted(value) if isinstance(value, frozenset) else value
        for name, value in dataclasses.asdict(load).items()
    }
    seen = {"address": address, "load": said, "at": now, "before": before}
    _lines.append({"scheduler": _name(scheduler), **seen})
    _OBSERVE(scheduler, address, load, now, before=before)


_TAKE, _OBSERVE = Picker.take, Scheduler.observe


def _requests() -> Iterator[tuple[int, str, bytes, dict[str, str]]]:
    """The status that is wanted, path, body, headers."""
    chat = {"model": "travelhelper", "max_tokens": 3, "messages": [{"role": "user", "content": "é" * 30}]}
    text, path = json.dumps(chat, ensure_ascii=False), "/v1/chat/completions"
    kind = {"content-type": "application/json"}
    yield 200, path, text.encode(), {**kind, "cookie": "a=1; b=2", "x-request-id": "first"}
    yield 200, path, json.dumps({**chat, "stream": True}).encode(), kind
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    yield 200, path, json.dumps({**chat, **usage}).encode(), kind
    for charset in ("utf-8-sig", "utf-16", "utf-32-be"):
        yield 200, path, text.encode(charset), kind
    for coding, data in (
        ("gzip", gzip.compress(text.encode(), mtime=0)),
        ("br", brotli.compress(text.encode())),
        ("zstd", zstd.compress(text.encode())),
    ):
        yield 200, path, data, {**kind, "content-encoding": coding}
    yield 415, path, b"x", {**kind, "content-encoding": "compress"}
    yield 200, path, json.dumps({**chat, "model": None}).encode(), kind
    yield 404, path, json.dumps({**chat, "model": "stranger"}).encode(), kind
    yield 400, path, b'{"model": "travelhelper"', kind
    yield 400, path, b"not JSON" * 500, {"content-type": "text/plain"}
    yield 200, path, json.dumps({**chat, "user": "x" * 9000}).encode(), kind
    form = (
        b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\ntravelhelper\r\n--b\r\nContent-Disposition: '
        b'form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n--b--\r\n'
    )
    yield 200, "/v1/audio/transcriptions", form, {"content-type": "multipart/form-data; boundary=b"}


async def _ask(http: aiohttp.ClientSession, plane: DataPlane) -> None:
    for want, path, body, headers in _requests():
        for _ in range(_TRIES):
            async with http.post(f"{plane.url}{path}", data=body, headers=headers) as answer:
                await answer.read()
            if answer.status == want:
                break
        else:
            raise RuntimeError(f"{path} with {body[:80]!r} gets {answer.status} and not {want}")
    async with http.get(f"{plane.url}/v1/models") as answer:
        await answer.read()
    pod = plane.fleet.pods["pool-0"]
    async with http.post(f"{pod.url}/lab/knobs", json={"hang": "requests"}) as answer:
        answer.raise_for_status()
    try:
        _, path, body, headers = next(_requests())
        short = aiohttp.ClientTimeout(total=1.0)
        await http.post(f"{plane.url}{path}", data=body, headers=headers, timeout=short)
    except TimeoutError:
        return
    raise RuntimeError("a request was answered that should have been left")


async def _record(directory: Path, *, keep: bool = False, measured: bool = False) -> None:
    async with AsyncExitStack() as stack:
        plane = await stack.enter_async_context(DataPlane(directory))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        config = PickerConfig(
            pools=(PoolName(NAMESPACE, "pool"),),
            grpc_address="127.0.0.1:0",
            metrics_address="127.0.0.1:0",
            secure_serving=False,
            drain_grace=0.5,
            keep_streams=keep,
            data_path=DataPath.PYTHON,
        )
        picker = Picker(config, client=plane.client)
        take = picker.take
        more = [_ROLLOUT] if measured else []
        picker.take = lambda objects: take([*objects, *more])  # type: ignore[method-assign]  # adds a Rollout
        await picker.start()
        stack.push_async_callback(picker.stop)
        address = f"127.0.0.1:{picker.server.port}"
        await plane.add_pool("pool", picker=address, adapters={"v2": "/v2"}, max_model_len=1_000_000)
        targets = [{"name": "v2", "weight": 1}]
        spec = {"modelName": "travelhelper", "poolRef": {"name": "pool"}, "targetModels": targets}
        await plane.create(MODELS, "loramodel", {"spec": spec})
        await plane.route(backend("pool", 1))
        await eventually(lambda: picker.router.snapshot.rules.find("travelhelper") is not None, timeout=60)
        await eventually(lambda: len(picker.router.snapshot.endpoints) == 1, timeout=60)
        await _ask(http, plane)
        await eventually(lambda: not picker.server.failures)


async def main() -> None:
    """Record, and write the file."""
    server.Exchange, server.decode = _RecordedExchange, _decode  # type: ignore[attr-defined]
    Picker.take, Scheduler.observe = _take, _observe  # type: ignore[method-assign,assignment]
    for how in ({}, {"keep": True}, {"measured": True}):
        with tempfile.TemporaryDirectory() as directory:
            await _record(Path(directory), **how)
    schedulers = {_name(thing.scheduler): _name(thing) for thing in _kept if hasattr(thing, "scheduler")}
    texts = []
    for line in _lines:
        if "scheduler" in line:
            line = {"picker": schedulers[line.pop("scheduler")], **line}
        texts.append(json.dumps(line) + "\n")
    RECORDING.write_text("".join(texts), encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main())
