"""The oracle's part about adapters: what pods really serve, against what is written and unloaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from rollouts.kube.client import WatchType
from rollouts.objects import kinds
from tests.kit.faults.endstate import is_carrier, weights_of
from tests.kit.faults.groups import is_part
from tests.kit.faults.history import AdapterCall, History, Record
from tests.kit.faults.replay import Replay, ready_pictures, share

__all__ = ["early_unloads", "remade_objects", "unconfirmed_sources", "unproven_weights"]

Object = dict[str, Any]
_UNITS = {"s": 1, "m": 60, "h": 3600}


def unproven_weights(history: History, writes: Iterable[tuple[Replay, Record]]) -> Iterator[str]:
    """First weights of adapters that a Ready pod did not serve, in every picture that the plan allows."""
    for replay, record in writes:
        name = replay.canary_name
        first = not (replay.restored_up_to or _carries(record.before, name)) and _carries(record.after, name)
        unasked = record.of(kinds.HTTP_ROUTE) or record.of(kinds.POOL_SPLIT) or is_part(record.change)
        if not first or unasked:
            continue
        serving = record.serving(name, replay.canary_source) or frozenset()
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
    """Traffic objects of others that the controller made again after they were deleted; PoolSplits are its own."""
    theirs = set[str]()
    for record in history.records:
        made = record.change.type is WatchType.ADDED and is_carrier(record)
        if not made or record.of(kinds.POOL_SPLIT):
            continue
        if record.ours and record.change.plural in theirs:
            yield f"{record.change.plural} {record.change.name} made again at {record.seconds:g} s"
        if not record.ours:
            theirs.add(record.change.plural)


def _needed(call: AdapterCall, rollout: Object, traffic: Iterable[Object]) -> str:
    status = rollout.get("status") or {}
    arms = {role: status.get(role) or {} for role in ("stable", "canary")}
    for role, arm in arms.items():
        if _is(arm, call):
            return f"it is {role}"
    if any(_carries(obj, call.adapter) for obj in traffic):
        return "it carries weight"
    if call.in_flight:
        return "it answers requests"
    if any(arm.get("name") == call.adapter for arm in arms.values()):
        return ""  # other content of the name is wanted: nothing can come back under it
    window = _window(rollout)
    for entry in status.get("history") or []:
        end = datetime.fromisoformat(entry.get("stableUntil") or entry["at"]) + window
        if _is(entry, call) and call.now < end:
            return f"it may come back for another {(end - call.now).total_seconds():g} s"
    return ""


def _is(arm: Object, call: AdapterCall) -> bool:
    """Whether a version is what the call took away: the name, and the content where the version says it."""
    return arm.get("name") == call.adapter and arm.get("source", "") in ("", call.root)


def unconfirmed_sources(history: History) -> Iterator[str]:
    """Raises of weight, and new stable versions, whose source the Ready pods' lists did not confirm at that moment.

    A raise needs every Ready pod that has the name to have this content of it: traffic cannot tell them apart.
    """
    replay = Replay()
    for record in history.records:
        if record.ours and record.after and is_carrier(record):
            yield from _unconfirmed_raise(history, replay, record)
        if record.ours and record.of(kinds.ROLLOUT) and record.change.name == "mymodel":
            yield from _unconfirmed_stable(history, replay, record)
        replay.take(record)


def _unconfirmed_raise(history: History, replay: Replay, record: Record) -> Iterator[str]:
    name, source = replay.canary_name, replay.canary_source
    if not source or _share_of(record.after, name) <= _share_of(record.before, name):
        return
    roots = record.contents.get(name, {})
    for ready in ready_pictures(history, replay, record.seconds):
        held = {roots[pod] for pod in ready if pod in roots}
        if held == {source}:
            return
    yield f"weight of {name} from {source} raised at {record.seconds:g} s, the pods have {sorted(set(roots.values()))}"


def _unconfirmed_stable(history: History, replay: Replay, record: Record) -> Iterator[str]:
    before, after = ((obj.get("status") or {}).get("stable") or {} for obj in (record.before, record.after))
    name, source = after.get("name", ""), after.get("source", "")
    if (
        not source
        or after.get("kind") == "Variant"
        or (before.get("name"), before.get("source")) == (name, source)
    ):
        return
    serving = record.serving(name, source) or frozenset()
    if not any(ready & serving for ready in ready_pictures(history, replay, record.seconds)):
        yield f"{name} from {source} is stable at {record.seconds:g} s, and no Ready pod has it"


def _share_of(traffic: Object, name: str) -> Fraction:
    return max((share(dict(rule), name) for rule in weights_of(traffic)), default=Fraction(0))


def _window(rollout: Object) -> timedelta:
    text = (rollout["spec"].get("rollbackWindow") or {}).get("duration", "0s")
    return timedelta(seconds=float(text[:-1]) * _UNITS[text[-1]])
