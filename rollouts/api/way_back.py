"""``Rollout.status.wayBack``: JSON to the engine's value and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rollouts.api.scalars import parse_weight, weight_json
from rollouts.engine.types import FULL, EntryRef, TrafficMode, WayBack

__all__ = ["read_way_back", "write_way_back"]

Json = dict[str, Any]

_SPARED = 16


def write_way_back(record: WayBack) -> Json:
    """The JSON of a record; what is empty is left out."""
    full: Json = {
        "kind": record.kind,
        "group": record.group,
        "name": record.name,
        "mode": record.mode.value,
        "stable": _write_entry(record.stable),
        "canary": _write_entry(record.canary),
        "share": weight_json(record.share),
        "spared": list(record.spared),
    }
    return {name: value for name, value in full.items() if value not in ("", [])}


def read_way_back(value: Any) -> WayBack:
    """A record. Raises ValueError, TypeError and KeyError for what is none."""
    data = _object(value)
    spared = data.get("spared", [])
    if not isinstance(spared, list):
        raise TypeError
    return WayBack(
        kind=_name(data["kind"]),
        group=_text(data.get("group", "")),
        name=_name(data["name"]),
        mode=TrafficMode(data["mode"]),
        stable=_read_entry(data["stable"]),
        canary=_read_entry(data["canary"]),
        share=parse_weight(data["share"]) if "share" in data else FULL,
        spared=tuple(map(_text, spared[:_SPARED])),
    )


def _write_entry(entry: EntryRef) -> Json:
    full: Json = {
        "group": entry.group,
        "kind": entry.kind,
        "namespace": entry.namespace,
        "name": entry.name,
        "port": entry.port,
    }
    return {name: value for name, value in full.items() if value not in ("", None)}


def _read_entry(value: Any) -> EntryRef:
    data = _object(value)
    port = data.get("port")
    if port is not None and (not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536):
        raise ValueError
    return EntryRef(
        kind=_name(data["kind"]),
        name=_name(data["name"]),
        group=_text(data.get("group", "")),
        namespace=_text(data.get("namespace", "")),
        port=port,
    )


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _name(value: Any) -> str:
    if not _text(value):
        raise ValueError
    return str(value)
