"""The oracle's eye on the path: pods behind the canary's picker, from stored objects only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

from rollouts.objects import kinds
from tests.kit.faults.endstate import is_carrier, weights_of
from tests.kit.faults.history import History, Record
from tests.kit.faults.replay import Replay, share

__all__ = ["dead_ends", "left_on_dead_ends", "probe_rules"]

Object = dict[str, Any]

_HEARD = 2.0
"""Seconds after which a gateway sends requests to a picker that came back: on a real one it took up to a second
(14 of 787 requests failed in it)."""


def _picker_of(history: History, pool: str) -> str:
    for record in history.records:
        if record.change.plural == "inferencepools" and record.change.name == pool and record.after:
            return str(record.after["spec"]["extensionRef"]["name"])
    return ""


def _serving(history: History, service: str) -> list[tuple[float, int, bool]]:
    """(seconds, epoch, whether the Service exists and a pod behind it is Ready), at each change."""
    selector: Object = {}
    ready: set[str] = set()
    exists = False
    found = []
    for record in history.records:
        if record.of(kinds.SERVICE) and record.change.name == service:
            exists = bool(record.after)
            selector = (record.after.get("spec") or {}).get("selector") or selector
        elif record.of(kinds.POD):
            labels = (record.after.get("metadata") or {}).get("labels") or {}
            conditions = (record.after.get("status") or {}).get("conditions") or []
            up = any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)
            if up and selector and selector.items() <= labels.items():
                ready.add(record.change.name)
            else:
                ready.discard(record.change.name)
        else:
            continue
        found.append((record.seconds, record.epoch, exists and bool(ready)))
    return found


def dead_ends(history: History, rises: Iterable[tuple[Replay, Record, Fraction]]) -> Iterator[str]:
    """Weights that rose towards a pool whose picker had no Ready pod in any picture of the allowed staleness."""
    for replay, record, raised in rises:
        states = _serving(history, _picker_of(history, replay.canary_pool))
        before = [serves for seconds, _, serves in states if seconds <= record.seconds]
        shown = [
            serves
            for (seconds, _, _), (_, _, serves) in zip(states[1:], states, strict=False)
            if record.seconds - history.staleness <= seconds <= record.seconds
        ]
        if before and not before[-1] and not any(shown):
            yield f"raised to {float(raised):.2%} at {record.seconds:g} s without a Ready picker pod"
        back, gone = _last_outage(states, record.seconds)
        if back - gone > history.staleness and record.seconds - back < _HEARD:
            yield (
                f"raised to {float(raised):.2%} at {record.seconds:g} s, {record.seconds - back:g} s after its picker "
                "came back: gateways had not heard of it"
            )


def _last_outage(states: list[tuple[float, int, bool]], until: float) -> tuple[float, float]:
    """Seconds at which the last outage ended and began that was over at ``until``; an end before time for none."""
    back, gone, began = float("-inf"), float("-inf"), None
    for seconds, _, serves in states:
        if seconds > until:
            break
        if not serves:
            began = seconds if began is None else began
        elif began is not None:
            back, gone, began = seconds, began, None
    return (back, gone) if began is None else (float("-inf"), float("-inf"))


def left_on_dead_ends(history: History, *, held: bool) -> Iterator[str]:
    """At the end no canary has weight whose picker has no Ready pod, unless a person's weights are being kept."""
    replay, last = Replay(), None
    for record in history.records:
        replay.take(record)
        if is_carrier(record) and record.after:
            last = record
    if last is None or not replay.canary_name or held:
        return
    states = _serving(history, _picker_of(history, replay.canary_pool))
    shares = [share(dict(rule), replay.canary_name) for rule in weights_of(last.after)]
    if states and not states[-1][2] and any(shares):
        yield f"{replay.canary_name} is left with weight, and its picker has no Ready pod"


def probe_rules(history: History, *, waits: bool) -> Iterator[str]:
    """Routes in which a probe's rule stands beside weight of the canary, or is left when nothing moves any more."""
    replay, last = Replay(), None
    for record in history.records:
        if is_carrier(record):
            last = record
            shares = [
                share(dict(rule), replay.canary_name) for rule in weights_of(record.after, marked=False)
            ]
            if record.ours and _probes(record.after) and replay.canary_name and any(shares):
                yield f"a probe's rule beside weight at {record.seconds:g} s"
        replay.take(record)
    if last is not None and _probes(last.after) and not waits:
        yield "a probe's rule is left in the route"


def _probes(route: Object) -> bool:
    rules = (route.get("spec") or {}).get("rules") or []
    return any("inference-rollouts-probe" in str(rule.get("name", "")) for rule in rules)
