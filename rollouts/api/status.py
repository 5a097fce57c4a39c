"""``Rollout.status``: JSON to the engine's value and back.

Reading is forgiving field by field: a status that somebody scribbled on must not stop a rollout, so whatever
cannot be read is as if it had never been written, and is reported. ``write_status`` and ``read_status`` are
inverse to each other on every value that the engine makes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from enum import Enum
from typing import Any, TypeVar

from rollouts.api.former import understood
from rollouts.api.scalars import format_time, parse_time, parse_weight, weight_json
from rollouts.api.way_back import read_way_back, write_way_back
from rollouts.engine.types import (
    AbortRecord,
    ArmCrashes,
    CommandRecord,
    CommandResult,
    Condition,
    GateSummary,
    HistoryEntry,
    HoldReason,
    Identity,
    Outcome,
    PathAlarm,
    PathStatus,
    Phase,
    ProbeRecord,
    ProbeVerdict,
    Revision,
    RevisionHash,
    RolloutStatus,
    SettledBy,
    TargetWait,
    WaitingFor,
    WeightStatus,
    format_weight,
)
from rollouts.engine.wayback import RECORDS

__all__ = ["read_status", "write_status"]

MESSAGE_LIMIT = 1024
"""Characters of any message: a status must stay readable, and far below etcd's limit."""

T = TypeVar("T")
E = TypeVar("E", bound=Enum)
Json = dict[str, Any]


# --- writing ---------------------------------------------------------------------------------------


def write_status(status: RolloutStatus) -> Json:
    """The JSON of a status; empty fields are left out. Always the same for equal values."""
    full: Json = {
        "phase": status.phase.value,
        "reason": status.reason,
        "message": status.message[:MESSAGE_LIMIT],
        "waitingFor": status.waiting_for.value if status.waiting_for is not None else None,
        "settledBy": status.settled_by.value if status.settled_by is not None else None,
        "observedGeneration": status.observed_generation,
        "stable": _write_revision(status.stable),
        "canary": _write_revision(status.canary),
        "attempt": status.attempt,
        "currentStep": status.current_step if status.step_count else None,
        "stepCount": status.step_count,
        "step": _step_text(status),
        "stepsHash": status.steps_hash,
        "stepStartedAt": _write_time(status.step_started_at),
        "startedAt": _write_time(status.started_at),
        "bakeStartedAt": _write_time(status.bake_started_at),
        "weight": _write_weight(status.weight),
        "weightText": format_weight(status.weight.applied),
        "weightCap": None if status.weight_cap is None else weight_json(status.weight_cap),
        "path": _write_path(status.path),
        "stableEndpointsAtStart": status.stable_endpoints_at_start,
        "unreadySince": _write_time(status.unready_since),
        "targetWait": _write_wait(status.target_wait),
        "standingSince": _write_time(status.standing_since),
        "pulled": status.pulled,
        "pulls": status.pulls,
        "readySince": _write_time(status.ready_since),
        "probe": _write_probe(status.probe),
        "crashes": _compact(
            {"canary": _write_crashes(status.canary_crashes), "stable": _write_crashes(status.stable_crashes)}
        ),
        "hold": _write_hold(status),
        "overrides": list(status.overrides),
        "skipGates": status.skip_gates,
        "adoptedSplit": status.adopted_split,
        "wayBack": [write_way_back(record) for record in status.way_back],
        "trafficUID": status.traffic_uid,
        "trafficAdopted": status.traffic_adopted,
        "restores": [format_time(moment) for moment in status.restores],
        "analysis": [_write_summary(item) for item in status.analysis],
        "aborted": _write_abort(status.aborted),
        "lastCommand": _write_command(status.last_command),
        "history": [_write_history(entry) for entry in status.history],
        "conditions": [_write_condition(item) for item in status.conditions],
    }
    return _compact(full, keep=("attempt", "weight", "currentStep", "weightCap"))


def _compact(full: Json, keep: tuple[str, ...] = ()) -> Json:
    empty: tuple[Any, ...] = (None, "", [], {}, False)
    return {
        name: value
        for name, value in full.items()
        if (value not in empty and value != 0) or (name in keep and value is not None)
    }


def _step_text(status: RolloutStatus) -> str:
    """What people read: ``2/6``, counted from 1."""
    if not status.step_count:
        return ""
    return f"{min(status.current_step + 1, status.step_count)}/{status.step_count}"


def _write_time(moment: datetime | None) -> str | None:
    return None if moment is None else format_time(moment)


def _write_identity(identity: Identity) -> Json:
    return _compact(
        {"kind": identity.kind, "group": identity.group, "name": identity.name, "source": identity.source}
    )


def _write_revision(revision: Revision | None) -> Json | None:
    if revision is None:
        return None
    text = f"{revision.identity.name} ({revision.short})"
    return _compact(
        {
            **_write_identity(revision.identity),
            "revision": revision.revision,
            "hash": revision.hash,
            "text": text,
        }
    )


def _write_weight(weight: WeightStatus) -> Json:
    values = {
        "desired": weight.desired,
        "applied": weight.applied,
        "observed": weight.observed,
        "written": weight.written,
    }
    found: Json = {name: weight_json(value) for name, value in values.items() if value is not None}
    return found if weight.since is None else {**found, "since": format_time(weight.since)}


def _write_wait(wait: TargetWait | None) -> Json | None:
    return None if wait is None else {"target": wait.target, "since": format_time(wait.since)}


def _write_crashes(crashes: ArmCrashes) -> Json:
    return _compact({"count": crashes.count, "restarts": crashes.restarts, "at": _write_time(crashes.at)})


def _write_probe(probe: ProbeRecord | None) -> Json | None:
    if probe is None:
        return None
    return _compact(
        {
            "since": format_time(probe.since),
            "token": probe.token,
            "verdict": probe.verdict.value if probe.verdict is not None else None,
            "message": probe.message[:MESSAGE_LIMIT],
        }
    )


def _write_hold(status: RolloutStatus) -> Json | None:
    if status.hold is None:
        return None
    return {"reason": status.hold.value, "message": status.hold_message[:MESSAGE_LIMIT]}


def _write_summary(item: GateSummary) -> Json:
    return _compact(
        {
            "run": item.run,
            "metric": item.metric,
            "verdict": item.verdict,
            "effect": item.effect,
            "evidence": item.evidence,
        }
    )


def _write_path(path: PathStatus) -> Json:
    ceiling = None if path.ceiling is None else weight_json(path.ceiling)
    full = {
        "ceiling": ceiling,
        "undoneAt": _write_time(path.undone_at),
        "requestsBefore": path.requests_before,
        "undone": path.undone,
        "alarm": path.alarm[:MESSAGE_LIMIT],
        "alarmKind": path.alarm_kind.value if path.alarm_kind is not None else None,
        "refuted": path.refuted,
    }
    return _compact(full, keep=("ceiling",))


def _write_abort(record: AbortRecord | None) -> Json | None:
    if record is None:
        return None
    return {
        "hash": record.hash,
        "step": record.step,
        "at": format_time(record.at),
        "reason": record.reason,
        "message": record.message[:MESSAGE_LIMIT],
    }


def _write_command(record: CommandRecord | None) -> Json | None:
    if record is None:
        return None
    return _compact(
        {
            "raw": record.raw,
            "action": record.action,
            "result": record.result.value,
            "message": record.message[:MESSAGE_LIMIT],
            "at": format_time(record.at),
            "by": record.by,
        }
    )


def _write_history(entry: HistoryEntry) -> Json:
    return _compact(
        {
            **(_write_revision(entry.revision) or {}),
            "attempt": entry.attempt,
            "outcome": entry.outcome.value,
            "at": format_time(entry.at),
            "message": entry.message[:MESSAGE_LIMIT],
            "stableUntil": _write_time(entry.stable_until),
        }
    )


def _write_condition(item: Condition) -> Json:
    return {
        "type": item.type,
        "status": item.status,
        "reason": item.reason,
        "message": item.message[:MESSAGE_LIMIT],
        "observedGeneration": item.observed_generation,
        "lastTransitionTime": format_time(item.last_transition),
    }


# --- reading ---------------------------------------------------------------------------------------


class _Reader:
    """Reads fields of one JSON object; what cannot be read is noted in ``bad`` and defaulted."""

    def __init__(self, data: Any, path: str, bad: list[str]) -> None:
        self.data: Mapping[str, Any] = data if isinstance(data, Mapping) else {}
        self.path = path
        self.bad = bad
        if data is not None and not isinstance(data, Mapping):
            bad.append(path)

    def take(self, name: str, parse: Callable[[Any], T], default: T) -> T:
        value = self.data.get(name)
        if value is None:
            return default
        try:
            return parse(value)
        except (ValueError, TypeError, KeyError, OverflowError):
            self.bad.append(f"{self.path}.{name}")
            return default

    def text(self, name: str) -> str:
        return self.take(name, _text, "")

    def number(self, name: str) -> int:
        return self.take(name, _number, 0)

    def flag(self, name: str) -> bool:
        return self.take(name, _flag, False)

    def time(self, name: str) -> datetime | None:
        return self.take(name, parse_time, None)

    def items(self, name: str, parse: Callable[[Any], T], limit: int = 64) -> tuple[T, ...]:
        value = self.data.get(name)
        if value is None:
            return ()
        if not isinstance(value, list):
            self.bad.append(f"{self.path}.{name}")
            return ()
        found = []
        for index, item in enumerate(value[-limit:]):
            try:
                found.append(parse(item))
            except (ValueError, TypeError, KeyError, OverflowError):
                self.bad.append(f"{self.path}.{name}[{index}]")
        return tuple(found)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise ValueError
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def read_status(data: Any) -> tuple[RolloutStatus, tuple[str, ...]]:
    """The status and the paths that could not be read. Never raises."""
    bad: list[str] = []
    r = _Reader(data, "status", bad)
    hold = _Reader(r.data.get("hold"), "status.hold", bad)
    weight = _Reader(r.data.get("weight"), "status.weight", bad)
    crashes = _Reader(r.data.get("crashes"), "status.crashes", bad)
    path = _Reader(r.data.get("path"), "status.path", bad)
    status = RolloutStatus(
        phase=_read_phase(r),
        reason=r.text("reason"),
        message=r.text("message"),
        waiting_for=r.take("waitingFor", WaitingFor, None),
        settled_by=r.take("settledBy", SettledBy, None),
        observed_generation=r.number("observedGeneration"),
        stable=r.take("stable", _read_revision, None),
        canary=r.take("canary", _read_revision, None),
        attempt=r.number("attempt"),
        current_step=r.number("currentStep"),
        step_count=r.number("stepCount"),
        steps_hash=r.text("stepsHash"),
        step_started_at=r.time("stepStartedAt"),
        started_at=r.time("startedAt"),
        bake_started_at=r.time("bakeStartedAt"),
        weight=WeightStatus(
            desired=weight.take("desired", parse_weight, None),
            applied=weight.take("applied", parse_weight, None),
            observed=weight.take("observed", parse_weight, None),
            written=weight.take("written", parse_weight, None),
            since=weight.time("since"),
        ),
        weight_cap=r.take("weightCap", parse_weight, None),
        path=PathStatus(
            ceiling=path.take("ceiling", parse_weight, None),
            undone_at=path.time("undoneAt"),
            requests_before=path.number("requestsBefore"),
            undone=path.flag("undone"),
            alarm=path.text("alarm"),
            alarm_kind=path.take("alarmKind", PathAlarm, None),
            refuted=path.flag("refuted"),
        ),
        stable_endpoints_at_start=r.number("stableEndpointsAtStart"),
        unready_since=r.time("unreadySince"),
        target_wait=r.take("targetWait", _read_wait, None),
        standing_since=r.time("standingSince"),
        pulled=r.flag("pulled"),
        pulls=r.number("pulls"),
        ready_since=r.time("readySince"),
        probe=r.take("probe", _read_probe, None),
        canary_crashes=crashes.take("canary", _read_crashes, ArmCrashes()),
        stable_crashes=crashes.take("stable", _read_crashes, ArmCrashes()),
        hold=hold.take("reason", HoldReason, None),
        hold_message=hold.text("message"),
        overrides=r.items("overrides", _text),
        skip_gates=r.flag("skipGates"),
        adopted_split=r.flag("adoptedSplit"),
        way_back=r.items("wayBack", read_way_back, limit=RECORDS),
        traffic_uid=r.text("trafficUID"),
        traffic_adopted=r.flag("trafficAdopted"),
        restores=r.items("restores", parse_time),
        analysis=r.items("analysis", _read_summary),
        aborted=r.take("aborted", _read_abort, None),
        last_command=r.take("lastCommand", _read_command, None),
        history=r.items("history", _read_history),
        conditions=r.items("conditions", _read_condition),
    )
    return understood(status), tuple(bad)


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError
    return value


def _read_phase(r: _Reader) -> Phase:
    """The phase; where it was lost and the rest was not, Invalid: every phase can follow that one."""
    known = r.data.get("stable") or r.data.get("canary")
    phase = r.take("phase", Phase, Phase.INVALID if known or "phase" in r.data else Phase.NEW)
    return Phase.INVALID if phase is Phase.NEW and known else phase


def _optional(data: Mapping[str, Any], name: str) -> str:
    return _text(data.get(name, ""))


def _read_identity(data: Mapping[str, Any]) -> Identity:
    name = _text(data["name"])
    if not name:
        raise ValueError
    return Identity(
        kind=_text(data["kind"]), group=_optional(data, "group"), name=name, source=_optional(data, "source")
    )


def _read_revision(value: Any) -> Revision:
    data = _object(value)
    digest = _text(data["hash"])
    if len(digest) != 64:
        raise ValueError
    return Revision(
        identity=_read_identity(data), revision=_optional(data, "revision"), hash=RevisionHash(digest)
    )


def _read_wait(value: Any) -> TargetWait:
    data = _object(value)
    return TargetWait(target=_text(data["target"]), since=parse_time(data["since"]))


def _read_summary(value: Any) -> GateSummary:
    data = _object(value)
    return GateSummary(
        run=_optional(data, "run"),
        metric=_optional(data, "metric"),
        verdict=_optional(data, "verdict"),
        effect=_optional(data, "effect"),
        evidence=_optional(data, "evidence"),
    )


def _read_abort(value: Any) -> AbortRecord:
    data = _object(value)
    return AbortRecord(
        hash=RevisionHash(_text(data["hash"])),
        step=_number(data.get("step", 0)),
        at=parse_time(data["at"]),
        reason=_optional(data, "reason"),
        message=_optional(data, "message"),
    )


def _read_command(value: Any) -> CommandRecord:
    data = _object(value)
    return CommandRecord(
        raw=_text(data["raw"]),
        action=_optional(data, "action"),
        result=CommandResult(data["result"]),
        message=_optional(data, "message"),
        at=parse_time(data["at"]),
        by=_optional(data, "by"),
    )


def _read_history(value: Any) -> HistoryEntry:
    data = _object(value)
    until = data.get("stableUntil")
    return HistoryEntry(
        revision=_read_revision(data),
        attempt=_number(data.get("attempt", 0)),
        outcome=Outcome(data["outcome"]),
        at=parse_time(data["at"]),
        message=_optional(data, "message"),
        stable_until=None if until is None else parse_time(until),
    )


def _read_probe(value: Any) -> ProbeRecord:
    data = _object(value)
    verdict = data.get("verdict")
    return ProbeRecord(
        since=parse_time(data["since"]),
        token=_optional(data, "token"),
        verdict=None if verdict is None else ProbeVerdict(verdict),
        message=_optional(data, "message"),
    )


def _read_crashes(value: Any) -> ArmCrashes:
    data = _object(value)
    at = data.get("at")
    return ArmCrashes(
        count=_number(data.get("count", 0)),
        restarts=_number(data.get("restarts", 0)),
        at=None if at is None else parse_time(at),
    )


def _read_condition(value: Any) -> Condition:
    data = _object(value)
    return Condition(
        type=_text(data["type"]),
        status=_text(data["status"]),
        reason=_optional(data, "reason"),
        message=_optional(data, "message"),
        observed_generation=_number(data.get("observedGeneration", 0)),
        last_transition=parse_time(data["lastTransitionTime"]),
    )
