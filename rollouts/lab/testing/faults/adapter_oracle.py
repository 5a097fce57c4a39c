"""The oracle's part about adapters: what pods really serve, against what is written and unloaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

from rollouts.controller import kinds
from rollouts.kube.client import WatchType
from rollouts.lab.testing.faults.endstate import is_carrier, weights_of
from rollouts.lab.testing.faults.history import AdapterCall, History, Record
from rollouts.lab.testing.faults.replay import Replay, ready_pictures, share

__all__ = ["early_unloads", "remade_objects", "unproven_weights"]

Object = dict[str, Any]
_UNITS = {"s": 1, "m": 60, "h": 3600}


def unproven_weights(history: History, writes: Iterable[tuple[Replay, Record]]) -> Iterator[str]:
    """First weights of adapters that a Ready pod did not serve, in every picture that the plan allows."""
    for replay, record in writes:
        name = replay.canary_name
        first = not (replay.restored_up_to or _carries(record.before, name)) and _carries(record.after, name)
        if not first or record.of(kinds.HTTP_ROUTE):
            continue
        serving = record.proven.get(name, frozenset())
        pictures = ready_pictures(history, replay, record.seconds)
        if not any(ready and ready <= serving for ready in pictures):
            missing = ", ".join(sorted(pictures[-1] - serving)) or "no Ready pod"
            yield f"first weight of {name} at {record.seconds:g} s, not served on {missing}"


def _carries(traffic: Object, name: str) -> bool:
    return any(share(dict(rule), name) > 0 for rule in weights_of(traffic))


def early_unloads(history: History) -> Iterator[str]:
    """Unloads of what the stored record still names, sends requests to, or may go back to."""
    rollout: Object = {}
    traffic: dict[tuple[str, str], Object] = {}
    taken = 0
    for call in history.calls:
        for record in history.records[taken : call.records]:
            if record.of(kinds.ROLLOUT) and record.change.name == "mymodel":
                rollout = record.after
            elif is_carrier(record):
                traffic[record.change.plural, record.change.name] = record.after
        taken = call.records
        why = _needed(call, rollout, traffic.values()) if call.what == "unload" and rollout else ""
        if why:
            yield f"{call.adapter} unloaded from {call.pod} at {call.seconds:g} s: {why}"


def remade_objects(history: History) -> Iterator[str]:
    """Traffic objects of others that the controller made again after they were deleted."""
    theirs = set[str]()
    for record in history.records:
        if record.change.type is not WatchType.ADDED or not is_carrier(record):
            continue
        if record.ours and record.change.plural in theirs:
            yield f"{record.change.plural} {record.change.name} made again at {record.seconds:g} s"
        if not record.ours:
            theirs.add(record.change.plural)


def _needed(call: AdapterCall, rollout: Object, traffic: Iterable[Object]) -> str:
    status = rollout.get("status") or {}
    for role in ("stable", "canary"):
        if (status.get(role) or {}).get("name") == call.adapter:
            return f"it is {role}"
    if any(_carries(obj, call.adapter) for obj in traffic):
        return "it carries weight"
    window = _window(rollout)
    for entry in status.get("history") or []:
        end = datetime.fromisoformat(entry.get("stableUntil") or entry["at"]) + window
        if entry.get("name") == call.adapter and call.now < end:
            return f"it may come back for another {(end - call.now).total_seconds():g} s"
    return ""


def _window(rollout: Object) -> timedelta:
    text = (rollout["spec"].get("rollbackWindow") or {}).get("duration", "0s")
    return timedelta(seconds=float(text[:-1]) * _UNITS[text[-1]])
