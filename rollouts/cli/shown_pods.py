"""Pods of the arms as a status tells them, where ``strategy.canary.capacity`` is set: read raw, as tables are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rollouts.objects.fields import items_at, map_of, seconds_at, text_at, text_of

__all__ = ["ArmCount", "GpuHours", "arm_counts", "gpu_hours", "pods_brief"]

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmCount:
    """Pods of one arm. ``role`` is canary, stable, lost, or what works for one of them, as ``canary's prefill``; None:
    the status does not say."""

    role: str
    name: str
    wanted: int | None = None
    ready: int | None = None
    pending: int = 0
    warming: int = 0
    draining: int = 0
    note: str = ""
    """What it waits for."""

    @property
    def unready(self) -> str:
        """``2 Pending, 1 draining``; empty where there are none."""
        counts = ((self.pending, "Pending"), (self.warming, "warming up"), (self.draining, "draining"))
        return ", ".join(f"{count} {state}" for count, state in counts if count)

    @property
    def words(self) -> str:
        """``2 of 4 Ready, 2 Pending``."""
        ready = f"{self.ready} of {self.wanted} Ready" if self.wanted is not None else ""
        return "; ".join(filter(None, [", ".join(filter(None, [ready, self.unready])), self.note]))


def arm_counts(status: Object) -> Iterator[ArmCount]:
    """The canary's, stable's, and those of versions that lost and still have pods; nothing where nobody scales."""
    capacity, lent = map_of(status.get("capacity")), map_of(status.get("stableScale"))
    drains = {text_of(one.get("name")): one for one in items_at(status, "drains")}
    if capacity and not map_of(status.get("aborted")):
        yield _arm("canary", text_at(status, "canary", "name"), capacity, drains)
    elif (
        capacity
    ):  # what its attempt wanted is wanted no more; what is still to go stands among those that lost
        yield ArmCount(role="canary", name=text_at(status, "canary", "name"), note="aborted, wants no pods")
    stable = text_at(status, "stable", "name")
    if lent:
        yield _arm("stable", text_of(lent.get("name")), lent, drains)
    elif capacity:
        yield ArmCount(role="stable", name=stable, note=f"{_number(capacity, 'stableAtStart')} at the start")
    gave = {text_of(one.get("name")): one for one in items_at(lent, "companions")}
    if not map_of(status.get("aborted")):
        for one in items_at(capacity, "companions"):
            yield from _companion(one, gave.pop(text_at(one, "stable", "name"), {}), drains)
    for name, one in gave.items():
        yield _arm(f"stable's {text_of(one.get('role')) or 'companion'}", name, one, drains)
    for one in items_at(status, "scaleDowns"):
        yield ArmCount(role="lost", name=text_of(one.get("name")), note=text_of(one.get("message")))


def _companion(one: Object, gave: Object, drains: Mapping[str, Object]) -> Iterator[ArmCount]:
    """The canary's and stable's companions of one role; ``gave``: what stable's has while it gives pods."""
    what = text_of(one.get("role")) or "companion"
    yield _arm(f"canary's {what}", text_at(one, "canary", "name"), one, drains)
    if gave:
        yield _arm(f"stable's {what}", text_at(one, "stable", "name"), gave, drains)
        return
    note = f"{_number(one, 'stableAtStart')} at the start"
    yield ArmCount(role=f"stable's {what}", name=text_at(one, "stable", "name"), note=note)


def _arm(role: str, name: str, counts: Object, drains: Mapping[str, Object]) -> ArmCount:
    going = drains.get(name, {})
    return ArmCount(
        role=role,
        name=name,
        wanted=_number(counts, "wanted"),
        ready=_number(counts, "ready"),
        pending=_number(counts, "pending"),
        warming=_number(counts, "warming"),
        draining=max(_number(going, "replicas") - _number(going, "to"), 0),
        note=text_of(going.get("message")),
    )


def _number(holder: Object, name: str) -> int:
    value = holder.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def pods_brief(status: Object) -> str:
    """For a column: ``2/4 (2 Pending)`` of the canary, ``-`` where nobody scales."""
    canary = next((one for one in arm_counts(status) if one.role == "canary"), None)
    if canary is None or canary.wanted is None:
        return "-"
    return f"{canary.ready}/{canary.wanted}" + (f" ({canary.unready})" if canary.unready else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuHours:
    """What an attempt has cost until now. ``held``: accelerators that are still counted, 0 when that is over."""

    attempt: int
    spent: float
    extra: float
    """Those beyond what stable held at the start."""
    held: int

    @property
    def words(self) -> str:
        """``12.5 in attempt 3, 0.5 of them beyond stable's own; 9 GPUs are held``."""
        holds = f"; {self.held} GPU{' is' if self.held == 1 else 's are'} held" if self.held else ""
        return (
            f"{self.spent:.2f} in attempt {self.attempt}, {self.extra:.2f} of them beyond stable's own{holds}"
        )


def gpu_hours(status: Object, now: datetime) -> GpuHours | None:
    """Of the last attempt that scaled pods with accelerators; None where there is none."""
    use = map_of(status.get("accelerators"))
    if not use:
        return None
    held, own = _number(use, "held"), _number(use, "own")
    since = seconds_at(use, "since")
    passed = max(now.timestamp() - since, 0.0) if held and since else 0.0
    return GpuHours(
        attempt=_number(use, "attempt"),
        spent=(_number(use, "seconds") + held * passed) / 3600.0,
        extra=(_number(use, "extraSeconds") + max(held - own, 0) * passed) / 3600.0,
        held=held,
    )
