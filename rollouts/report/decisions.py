"""What was decided in an attempt, and when: of runs, the status, and Events. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rollouts.api.parsing import ParsedRollout
from rollouts.api.runs import ParsedRun
from rollouts.api.scalars import parse_time
from rollouts.engine.rollout_status import HistoryEntry, Outcome
from rollouts.objects.fields import metadata_of, text_at

__all__ = ["RecordedDecision", "decisions_of", "marks_of"]

_EVENTS = 64
"""Of a Rollout that the cluster still has, the newest: Events live an hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedDecision:
    """Something that was decided, with its figures in words."""

    at: datetime
    what: str
    why: str = ""


def marks_of(evidence: ParsedRun | None) -> tuple[tuple[datetime, int, float], ...]:
    """From when on which step (from 0) asked for which share."""
    if evidence is None or evidence.spec is None:
        return ()
    return tuple((mark.at, mark.step, mark.weight) for mark in evidence.spec.marks)


def decisions_of(
    parsed: ParsedRollout,
    runs: Sequence[ParsedRun],
    evidence: ParsedRun | None,
    entry: HistoryEntry | None,
    events: Sequence[Mapping[str, Any]] | None,
    began: datetime | None,
    ended: datetime | None,
) -> list[RecordedDecision]:
    """In the order of time; within one second causes come before what they cause."""
    found: list[RecordedDecision] = []
    for gate in evidence.status.gates if evidence is not None else ():
        if gate.since is not None and gate.verdict in ("Pass", "Fail", "Inconclusive"):
            where = "background gate" if gate.step is None else f"gate of step {gate.step + 1}"
            found.append(RecordedDecision(at=gate.since, what=f"{gate.verdict}: {where}", why=gate.message))
    weight: float | None = None
    for at, step, share in marks_of(evidence):
        if share != weight:
            found.append(RecordedDecision(at=at, what=f"Weight {share * 100:.4g} %", why=f"step {step + 1}"))
        weight = share
    for run in runs:
        if run.status.completed_at is not None:
            about = f"{run.status.phase.value}: run {run.name}"
            found.append(RecordedDecision(at=run.status.completed_at, what=about, why=run.status.message))
    if entry is not None:
        found.append(RecordedDecision(at=entry.at, what=entry.outcome.value, why=entry.message))
    elif ended is not None and parsed.status.aborted is not None:
        found.append(
            RecordedDecision(at=ended, what=Outcome.ABORTED.value, why=parsed.status.aborted.message)
        )
    if began is not None:
        found += _of_events(events or (), began, ended)
    return sorted(found, key=lambda one: one.at)


def _of_events(
    events: Sequence[Mapping[str, Any]], began: datetime, ended: datetime | None
) -> Iterator[RecordedDecision]:
    for event in list(events)[-_EVENTS:]:
        raw = (
            event.get("lastTimestamp")
            or event.get("eventTime")
            or metadata_of(event).get("creationTimestamp")
        )
        try:
            at = parse_time(raw)
        except (ValueError, TypeError):
            continue
        # An Event is stored a moment after what it tells of.
        late = 0.0 if ended is None else (at - ended).total_seconds()
        if (began - at).total_seconds() <= 60 and late <= 60:
            what = f"Event {text_at(event, 'reason')}"
            yield RecordedDecision(at=at, what=what, why=text_at(event, "message"))
