"""What a person or a test can change on a running pod: ``POST /lab/knobs`` with a JSON object.

Values may be written as people do, ``"+50%"``, ``"5%"``, ``0.05``: ``{"ttft": "+50%", "errors": "5%"}``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any

__all__ = ["ErrorKind", "Hang", "KnobError", "Knobs", "LoraLoad", "apply_knobs", "knobs_to_json", "seconds"]


class KnobError(ValueError):
    """A knob that does not exist or a value out of range. The message names what is allowed."""


class ErrorKind(Enum):
    """How an injected failure looks to the client."""

    HTTP_500 = "500"
    SSE = "sse"
    """An error event inside a stream that began with 200; requests without streaming get a 500."""


class Hang(Enum):
    """Whether requests end. ``/health`` answers 200 all the while, and the pod is Ready."""

    OFF = "off"
    REQUESTS = "requests"
    """What is in flight and what comes never ends; the gauges tell how many there are."""
    ENGINE = "engine"
    """The engine's process stopped: nothing of it is counted any more, so that its gauges stay as they were."""


class LoraLoad(Enum):
    """What ``/v1/load_lora_adapter`` does."""

    OK = "ok"
    FAIL = "fail"
    """500, as for a rank above the server's limit; the adapter is not listed."""
    MISSING = "missing"
    """404, as for a path without an adapter."""
    NO_EFFECT = "noeffect"
    """Loaded, and it answers as its base does: one that was never trained, its B matrices zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """State of the knobs. Factors multiply; ``queue_seconds`` is added before a request is scheduled.

    With ``model`` only requests of that model or adapter are slower, fail, hang or are refused. ``refuse`` is the
    share that is refused at the queue limit: 503, of a stream 200 and an error event. Of the tokens of a stream
    ``merge`` come together with the next, and ``empty_text`` have no text yet, which comes with the next.
    """

    model: str = ""
    ttft: float = 1.0
    tpot: float = 1.0
    errors: float = 0.0
    error_kind: ErrorKind = ErrorKind.HTTP_500
    refuse: float = 0.0
    hang: Hang = Hang.OFF
    merge: float = 0.0
    empty_text: float = 0.0
    queue_seconds: float = 0.0
    waiting: int = 0
    kv_cache: float = 0.0
    ready: bool = True
    lora_load: LoraLoad = LoraLoad.OK
    lora_load_seconds: float = 0.01

    def concerns(self, model: str) -> bool:
        """Whether requests of this model or adapter are touched."""
        return not self.model or self.model == model


def _factor(value: Any) -> float:
    if isinstance(value, str) and value.strip()[:1] in {"+", "-"}:
        return _bounded(1.0 + _number(value), 0.0, 1000.0)
    return _bounded(_number(value), 0.0, 1000.0)


def _share(value: Any) -> float:
    return _bounded(_number(value), 0.0, 1.0)


def seconds(value: Any) -> float:
    """A duration such as ``0.2``, ``"5s"`` or ``"20ms"``, in seconds. Raises KnobError."""
    text = value.strip() if isinstance(value, str) else value
    if isinstance(text, str) and text.endswith("ms"):
        return _bounded(_number(text[:-2]) / 1000.0, 0.0, 3600.0)
    return _bounded(_number(text.removesuffix("s") if isinstance(text, str) else text), 0.0, 3600.0)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise KnobError(f"{value!r} is not a number")
    try:
        if isinstance(value, str) and value.strip().endswith("%"):
            return float(value.strip()[:-1]) / 100.0
        return float(value)
    except (ValueError, OverflowError):
        raise KnobError(f"{value!r} is not a number") from None


def _bounded(value: float, low: float, high: float) -> float:
    if not (math.isfinite(value) and low <= value <= high):
        raise KnobError(f"{value} is outside {low:g}..{high:g}")
    return value


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return bool(value == "true")
    raise KnobError(f"{value!r} is not true or false")


def _name(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 253:
        raise KnobError(f"{value!r} is not a model name")
    return value


def _error_kind(value: Any) -> ErrorKind:
    try:
        return ErrorKind(str(value).lower())
    except ValueError:
        raise KnobError(f"{value!r} is not one of 500, sse") from None


def _hang(value: Any) -> Hang:
    text = {"true": "requests", "false": "off"}.get(str(value).lower(), str(value).lower())
    try:
        return Hang(text)
    except ValueError:
        raise KnobError(f"{value!r} is not one of off, requests, engine") from None


def _lora_load(value: Any) -> LoraLoad:
    try:
        return LoraLoad(str(value).lower())
    except ValueError:
        raise KnobError(f"{value!r} is not one of ok, fail, missing, noEffect") from None


_READERS = {
    "model": ("model", _name),
    "ttft": ("ttft", _factor),
    "tpot": ("tpot", _factor),
    "errors": ("errors", _share),
    "errorKind": ("error_kind", _error_kind),
    "refuse": ("refuse", _share),
    "hang": ("hang", _hang),
    "merge": ("merge", _share),
    "emptyText": ("empty_text", _share),
    "queue": ("queue_seconds", seconds),
    "waiting": ("waiting", lambda value: int(_bounded(_number(value), 0, 100_000))),
    "kvCache": ("kv_cache", _share),
    "ready": ("ready", _flag),
    "loraLoad": ("lora_load", _lora_load),
    "loraLoadTime": ("lora_load_seconds", seconds),
}


def apply_knobs(knobs: Knobs, changes: Mapping[str, Any]) -> Knobs:
    """The knobs with ``changes`` applied. Raises KnobError, and then nothing has changed."""
    fields: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in _READERS:
            raise KnobError(f"no knob {name!r}; there are {', '.join(_READERS)}")
        field, read = _READERS[name]
        try:
            fields[field] = read(value)
        except KnobError as error:
            raise KnobError(f"{name}: {error}") from None
    return replace(knobs, **fields)


def knobs_to_json(knobs: Knobs) -> dict[str, Any]:
    """The knobs under the names that ``apply_knobs`` takes."""
    values = asdict(knobs)
    out = {name: values[field] for name, (field, _) in _READERS.items()}
    return {name: value.value if isinstance(value, Enum) else value for name, value in out.items()}
