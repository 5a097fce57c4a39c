"""What must hold over the history of a kill-and-edit run. Reads stored objects only; shares no code with the engine.

A history is what watches delivered: objects of all kinds in the order of their resourceVersions, which on a real API
server is the order in which they were stored, with the second at which we heard of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

__all__ = ["CONTROLLER", "Event", "History", "WayBack", "judge", "ways_back"]

Object = dict[str, Any]

CONTROLLER = "inference-rollouts"
COMMAND = "inferencerollouts.dev/command"
WITHIN = 60.0
"""Seconds to a stored 100 %, calm given: two leases of 15 s, where a leader dies and its successor is frozen."""
STALE = 10.0
"""Seconds by which a status may follow the object that it speaks of: a request and its retries."""
_GRAIN = Fraction(1, 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One object as it was stored, or, ``gone``, as it was last."""

    version: int
    seconds: float
    kind: str
    name: str
    obj: Object
    gone: bool = False


@dataclass(slots=True)
class History:
    """Events, and when the run itself stood in the way: (from, to) of frozen processes, kills and refusals."""

    events: list[Event] = field(default_factory=list)
    outages: list[tuple[float, float]] = field(default_factory=list)
    blocked: set[str] = field(default_factory=set)
    """Names of routes that somebody gave to another Rollout that exists: they must not be written."""
    edits: dict[str, str] = field(default_factory=dict)
    """What was edited of which Rollout: for people who read violations."""
    end: float = 0.0

    def of(self, name: str) -> list[Event]:
        """What happened to one Rollout, its traffic object and its runs; all are named after the Rollout."""
        mine = [e for e in self.events if e.name == name or e.name.startswith(f"{name}-")]
        return sorted(mine, key=lambda event: event.version)


@dataclass(frozen=True, slots=True, kw_only=True)
class WayBack:
    """Something that takes all weight off ``arm``; ``after`` seconds later it had none (None: it never was so)."""

    rollout: str
    why: str
    arm: str
    due: float
    after: float | None


def judge(history: History) -> list[str]:
    """Every violation, in words."""
    found: list[str] = []
    for name in sorted({event.name for event in history.events if event.kind == "Rollout"}):
        events = history.of(name)
        found += [f"{name}: {text}" for text in _weights(events)]
        found += [f"{name}: {text}" for text in _raised_again(events)]
        found += [f"{name}: {text}" for text in _untrue(history, events)]
    for way in ways_back(history):
        patience = WITHIN + _held_up(history, way.due)
        if way.after is None and history.end - way.due > patience:
            found.append(f"{way.rollout}: {way.why} at {way.due:.1f} s, and {way.arm} carries to the end")
        elif way.after is not None and way.after > patience:
            found.append(f"{way.rollout}: {way.why} at {way.due:.1f} s, {way.after:.1f} s to 0 %")
    return found


def _held_up(history: History, due: float) -> float:
    """Seconds of outages that follow ``due`` without a calm of ``WITHIN`` between them."""
    until = due
    for begin, end in sorted(history.outages):
        if end >= due and begin <= until + WITHIN:
            until = max(until, end)
    return until - due


# --- weights ---------------------------------------------------------------------------------------


def entries(carrier: Object) -> list[dict[str, int]]:
    """Weights by name, per rule; backends of other namespaces are nobody's arms."""
    spec = carrier.get("spec") or {}
    if "targetModels" in spec:
        return [{item["name"]: item.get("weight", 1) for item in spec["targetModels"]}]
    namespace = carrier["metadata"].get("namespace")
    return [
        {
            ref["name"]: ref.get("weight", 1)
            for ref in rule.get("backendRefs") or []
            if ref.get("namespace", namespace) == namespace
        }
        for rule in spec.get("rules") or []
    ]


def share(carrier: Object, arm: str) -> list[Fraction]:
    """The arm's share in each rule with weights."""
    return [Fraction(rule.get(arm, 0), sum(rule.values())) for rule in entries(carrier) if sum(rule.values())]


def _carriers(events: Iterable[Event]) -> Iterator[tuple[Event, Object]]:
    """Each stored traffic object with the one before it."""
    before: Object = {}
    for event in events:
        if event.kind in ("HTTPRoute", "InferenceModel"):
            yield event, before
            before = {} if event.gone else event.obj


def _ours(event: Event, before: Object) -> bool:
    """Whether the controller stored it, by the newest entry of managedFields that is not of the status."""
    if entries(event.obj) == (entries(before) if before else None):
        return False
    fields = [
        item for item in event.obj["metadata"].get("managedFields") or [] if not item.get("subresource")
    ]
    newest = max((item.get("time", "") for item in fields), default="")
    return {item["manager"] for item in fields if item.get("time", "") == newest} == {CONTROLLER}


def _weights(events: list[Event]) -> Iterator[str]:
    for event, before in _carriers(events):
        if event.gone or not _ours(event, before):
            continue
        for rule in entries(event.obj):
            if rule and not sum(rule.values()):
                yield f"nobody serves a rule of {event.kind} at {event.seconds:.1f} s"


# --- aborts ----------------------------------------------------------------------------------------


def _status(event: Event) -> Object:
    return event.obj.get("status") or {}


def _canary(status: Object) -> Object:
    return status.get("canary") or {}


def _raised_again(events: list[Event]) -> Iterator[str]:
    """No write of ours raises the canary while its revision is recorded as aborted."""
    status: Object = {}
    before: Object = {}
    for event in events:
        if event.kind == "Rollout":
            status = _status(event)
        elif event.kind in ("HTTPRoute", "InferenceModel") and not event.gone:
            arm = _canary(status).get("name", "")
            raised = (
                max(share(event.obj, arm), default=0) > max(share(before, arm), default=0)
                if before
                else False
            )
            if status.get("aborted") and raised and _ours(event, before):
                yield f"raised after the abort at {event.seconds:.1f} s: {entries(event.obj)}"
            before = event.obj


def ways_back(history: History) -> list[WayBack]:
    """Every way back that fell due, and how long it took."""
    found: list[WayBack] = []
    for name in sorted({event.name for event in history.events if event.kind == "Rollout"}):
        if name not in history.blocked:
            events = history.of(name)
            found += [_measured(name, events, *due) for due in _dues(events)]
    return found


Due = tuple[int, str, str]
"""Index of the event, why, arm."""


def _dues(events: list[Event]) -> Iterator[Due]:
    status: Object = {}
    command = ""
    seen: set[tuple[Any, ...]] = set()
    for index, event in enumerate(events):
        canary, attempt = _canary(status), (_canary(status).get("hash"), status.get("attempt"))
        running = canary and status.get("startedAt")
        for why in _reasons(event, status, command) if running else ():
            if (why, *attempt) not in seen:
                seen.add((why, *attempt))
                yield index, why, canary["name"]
        if event.kind == "Rollout":
            command = _command(event)
            status = _status(event) or status


def _reasons(event: Event, status: Object, command: str) -> Iterator[str]:
    """Why the attempt that ``status`` tells of is over with this event."""
    if event.kind == "AnalysisRun":
        if (
            _status(event).get("phase") == "Failed"
            and (event.obj.get("spec") or {}).get("attempt") == status["attempt"]
        ):
            yield "an AnalysisRun failed"
        return
    if event.kind != "Rollout":
        return
    if event.gone or event.obj["metadata"].get("deletionTimestamp"):
        yield "the Rollout was deleted"
    if _status(event).get("aborted"):
        yield "status.aborted"
    asked = json.loads(_command(event) or "{}") if _command(event) != command else {}
    if asked.get("action") == "abort" and asked.get("revision") == _canary(status).get("hash"):
        yield "abort was asked for"


def _command(event: Event) -> str:
    return str((event.obj["metadata"].get("annotations") or {}).get(COMMAND, ""))


def _measured(name: str, events: list[Event], index: int, why: str, arm: str) -> WayBack:
    """From the event on: when the stored object first gave the arm nothing, or the arm had become stable."""
    due = events[index].seconds
    carrier = next(
        (e for e in reversed(events[: index + 1]) if e.kind in ("HTTPRoute", "InferenceModel")), None
    )
    after = 0.0 if carrier is None or carrier.gone or not any(share(carrier.obj, arm)) else None
    for event in events[index:]:
        if after is not None:
            break
        carries = event.kind in ("HTTPRoute", "InferenceModel")
        promoted = event.kind == "Rollout" and (_status(event).get("stable") or {}).get("name") == arm
        if promoted or (carries and (event.gone or not any(share(event.obj, arm)))):
            after = event.seconds - due
    return WayBack(rollout=name, why=why, arm=arm, due=due, after=after)


# --- statuses --------------------------------------------------------------------------------------


def _untrue(history: History, events: list[Event]) -> Iterator[str]:
    """``weight.applied`` of each stored status is what the traffic object said, then or a moment before."""
    pictures: list[Event] = []
    last: Object = {}
    for event in events:
        if event.kind in ("HTTPRoute", "InferenceModel"):
            pictures.append(event)
        elif event.kind == "Rollout" and not event.gone and _status(event) != last:
            last = _status(event)
            text = _wrong(history, event, pictures)
            if text:
                yield text


def _wrong(history: History, event: Event, pictures: list[Event]) -> str:
    status = _status(event)
    applied = (status.get("weight") or {}).get("applied")
    arm = (_canary(status) or status.get("stable") or {}).get("name", "")
    oldest = event.seconds - STALE - _held_up(history, event.seconds - STALE)
    until = [*(picture.seconds for picture in pictures[1:]), event.seconds]
    # A picture counts as long as it was the stored one at some moment since ``oldest``.
    seen = [picture for picture, end in zip(pictures, until, strict=False) if end >= oldest]
    if applied is None or not arm or not seen or any(picture.gone for picture in seen):
        return ""
    said = Fraction(str(applied).rstrip("%")) / 100
    shares = [share(picture.obj, arm) for picture in seen]
    if any(_agrees(said, rules) for rules in shares):
        return ""
    stored = " or ".join("/".join(f"{float(item):.0%}" for item in rules) for rules in shares[-3:])
    return f"status at {event.seconds:.1f} s says {applied} % of {arm}, stored: {stored}"


def _agrees(said: Fraction, rules: list[Fraction]) -> bool:
    if said in (0, 1):
        return all(item == said for item in rules)
    return any(abs(item - said) <= _GRAIN for item in rules)
