"""Records what Envoy says to our picker in tests of tests/gateway, for tests/native/test_recorded_exchanges.py.

    python -m pytest -p tests.kit.exchange_recorder tests/gateway/test_picker_requests_envoy.py

writes tests/recordings/envoy-exchanges.jsonl anew: a line for each thing that reached a picker on the Python path, in
their order, with the time at which it did.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rollouts.picker import server
from rollouts.picker.core.encoding import encode
from rollouts.picker.core.protocol import Exchange
from rollouts.picker.core.schedule import Load, Scheduler
from rollouts.picker.core.wire import decode
from rollouts.picker.main import Picker

__all__ = ["RECORDING"]

RECORDING = Path(__file__).parents[1] / "recordings" / "envoy-exchanges.jsonl"
_MAX_STREAM = 20_000
"""Bytes of the messages of a stream; what is longer is left out: of chunks there are enough in short ones."""

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
        replies = super().receive(message, now)
        line["out"] = _texts(map(encode, replies))
        return replies

    def half_closed(self, now: float) -> list[Any]:
        replies = super().half_closed(now)
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
    pools = picker._config.pools
    seen = {"pools": pools, "objects": objects, "at": time.monotonic(), "wall": time.time()}
    _lines.append({"picker": _name(picker.router), **seen})
    _TAKE(picker, objects)


def _observe(scheduler: Scheduler, address: str, load: Load, now: float, *, before: int | None = None) -> None:
    said = {
        name: sorted(value) if isinstance(value, frozenset) else value
        for name, value in dataclasses.asdict(load).items()
    }
    seen = {"address": address, "load": said, "at": now, "before": before}
    _lines.append({"scheduler": _name(scheduler), **seen})
    _OBSERVE(scheduler, address, load, now, before=before)


_TAKE, _OBSERVE = Picker.take, Scheduler.observe


def pytest_configure() -> None:
    """Look on from now on."""
    server.Exchange, server.decode = _RecordedExchange, _decode  # type: ignore[attr-defined]
    Picker.take, Scheduler.observe = _take, _observe  # type: ignore[method-assign]


def pytest_unconfigure() -> None:
    """Write what was seen, but for streams that are too long to be kept."""
    sizes: Counter[int] = Counter()
    for line in _lines:
        sizes[line.get("stream", -1)] += len(line.get("in", ""))
    schedulers = {_name(thing.scheduler): _name(thing) for thing in _kept if hasattr(thing, "scheduler")}
    with RECORDING.open("w", encoding="utf-8") as file:
        for line in _lines:
            if "scheduler" in line:
                line = {"picker": schedulers[line.pop("scheduler")], **line}
            if sizes[line.get("stream", -1)] <= _MAX_STREAM or "objects" in line or "load" in line:
                file.write(json.dumps(line) + "\n")
