"""What a status may say: only what the stored traffic object says.

A status is stored after the write that it tells of, so at each stored status the figures must be those of an object
that was stored at that moment, or that was replaced no longer ago than the plan lets the controller's picture lag. A
crash between write and status leaves an older status behind; that one was true when it was stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from rollouts.objects import kinds
from tests.kit.faults.endstate import is_carrier, weights_of
from tests.kit.faults.history import History, Record
from tests.kit.faults.simulation import RESYNC, Run

__all__ = ["ROLLOUT", "condition", "lag_of", "shares_of", "untrue_statuses"]

Object = dict[str, Any]
Shares = tuple[Fraction, ...]

ROLLOUT = "mymodel"
_GRAIN = Fraction(1, 10_000)
"""Statuses round shares to a hundredth of a percent."""


def shares_of(carrier: Object, names: Iterable[str]) -> Shares:
    """In each rule with a weight: the joint share of ``names`` among entries of the own namespace."""
    wanted = frozenset(names)
    found = []
    for rule in weights_of(carrier):
        joint = sum(weight for name, weight in rule if "/" not in name)
        if joint:
            found.append(Fraction(sum(weight for name, weight in rule if name in wanted), joint))
    return tuple(found)


def condition(rollout: Object, kind: str) -> Object:
    """One condition of a stored Rollout; empty when it has none."""
    for item in (rollout.get("status") or {}).get("conditions") or []:
        if item.get("type") == kind:
            return dict(item)
    return {}


def lag_of(run: Run) -> float:
    """Seconds by which the plan lets the controller's picture of other objects lag."""
    dropped = RESYNC if run.plan.delivery.dropped else 0.0  # healed by the next list only
    return run.history.staleness + dropped


@dataclass(slots=True)
class _Picture:
    """A traffic object as it was stored until ``until`` (None: it still is)."""

    carrier: Object
    until: float | None = None


def untrue_statuses(run: Run) -> Iterator[str]:
    """Every stored status of the Rollout that says what no traffic object said."""
    pictures: list[_Picture] = []
    last: Record | None = None
    for record in run.history.records:
        if is_carrier(record):
            if pictures:
                pictures[-1].until = record.seconds
            pictures.append(_Picture(record.after))
        elif record.of(kinds.ROLLOUT) and record.change.name == ROLLOUT:
            last = record
            if record.ours and record.before.get("status") != record.after.get("status"):
                oldest = record.seconds - lag_of(run)
                seen = [item.carrier for item in pictures if item.until is None or item.until >= oldest]
                yield from _untrue(record.before, record.after, seen, f"at {record.seconds:g} s")
    if last is not None and run.converged and pictures:
        yield from _untrue(last.after, last.after, [pictures[-1].carrier], "at rest")


def _untrue(before: Object, after: Object, seen: list[Object], when: str) -> Iterator[str]:
    status = after.get("status") or {}
    arm = (status.get("canary") or status.get("stable") or {}).get("name", "")
    version = status.get("canary") or status.get("stable") or {}
    told = [_for_everybody(carrier) for carrier in seen]
    pictures = [
        shares_of(carrier, [arm]) for carrier in (*told, *(_of_version(one, version) for one in told))
    ]
    if not arm or not any(pictures):
        return  # nothing is stored that one could be wrong about
    applied = (status.get("weight") or {}).get("applied")
    if applied is not None and not any(_agrees(_fraction(applied), shares) for shares in pictures):
        yield f"weight.applied {applied} {when}, stored: {_text(pictures)}"
    refused = condition(after, "TrafficApplied").get("status") == "False"
    for says, share in _claims(before, after):
        if not refused and not any(_agrees(share, shares) for shares in pictures):
            yield f"{says} {when}, stored: {_text(pictures)}"


def _for_everybody(carrier: Object) -> Object:
    """The object without rules that ask for a header: testers are no share of the traffic."""
    spec = carrier.get("spec") or {}
    rules = [
        rule
        for rule in spec.get("rules") or []
        if not any("headers" in match for match in rule.get("matches") or [])
    ]
    return {**carrier, "spec": {**spec, "rules": rules}}


def _of_version(carrier: Object, version: Object) -> Object:
    """The object with entries under another name that have the version's, and send to other pods. Both are true."""
    spec = carrier.get("spec") or {}
    if version.get("kind") != "Variant" or "variants" not in spec:
        return carrier
    entries = []
    for entry in spec["variants"]:
        labels = ",".join(f"{key}={value}" for key, value in sorted((entry.get("labels") or {}).items()))
        own = labels == str(version.get("source")).partition(" model=")[0]
        entries.append(entry if own else {**entry, "name": f"{entry['name']} of {labels}"})
    return {**carrier, "spec": {**spec, "variants": entries}}


def _claims(before: Object, after: Object) -> Iterator[tuple[str, Fraction]]:
    """What phase and command say of the share of the canary (of stable where there is none)."""
    status = after.get("status") or {}
    phase = status.get("phase")
    if phase == "Healthy" and not status.get("canary"):
        yield "phase Healthy", Fraction(1)
    if phase == "Aborted" and status.get("canary"):
        yield "phase Aborted, TrafficApplied", Fraction(0)
    command, was = status.get("lastCommand") or {}, (before.get("status") or {}).get("lastCommand") or {}
    done = command.get("action") == "abort" and command.get("result") == "Done"
    if done and command.get("raw") != was.get("raw") and status.get("canary"):
        yield "abort Done", Fraction(0)


def _agrees(said: Fraction, shares: Shares) -> bool:
    """Whether a share is that of the rules: of one of them where they differ, but nothing and all mean each."""
    if said in (0, 1):
        return all(share == said for share in shares)
    return any(abs(share - said) <= _GRAIN for share in shares)


def _fraction(value: Any) -> Fraction:
    return Fraction(str(value).rstrip("%")) / 100


def _text(pictures: list[Shares]) -> str:
    return " or ".join("/".join(f"{float(share):.2%}" for share in shares) for shares in pictures[-3:])


def stored_traffic(history: History, seconds: float) -> list[Object]:
    """The traffic objects as they were stored at a moment."""
    found: dict[tuple[str, str], Object] = {}
    for record in history.records:
        if record.seconds > seconds:
            break
        if is_carrier(record):
            found[record.change.plural, record.change.name] = record.after
    return list(found.values())
