"""The oracle's part about replicas of a picker that go by other weights than those that are stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Any

from rollouts.objects import kinds
from tests.kit.faults.history import History, Record
from tests.kit.faults.replay import Replay
from tests.kit.faults.simulation import RESYNC, Run
from tests.kit.faults.truth import condition

__all__ = ["hushed_replicas", "raised_past_replicas", "wrongly_ended"]

Object = dict[str, Any]
Astray = Mapping[str, Mapping[str, Fraction]]

TOLD = 45.0
"""Seconds in which a status says that a replica goes by other weights: pickers are asked every 30 s at the latest."""


def _astray_at(history: History, records: int) -> Astray:
    """Who went astray before a record, by its number."""
    found: Astray = {}
    for number, _, astray in history.astray:
        if number > records:
            break
        found = astray
    return found


def raised_past_replicas(run: Run, rises: Iterable[tuple[Replay, Record, Fraction | None]]) -> Iterator[str]:
    """Weights that rose while a replica went by others than those before."""
    numbers = {id(record): number for number, record in enumerate(run.history.records)}
    moments = [(seconds, astray) for _, seconds, astray in run.history.astray]
    for replay, record, raised in rises:
        if raised is None or replay.skips_gates():
            continue
        for pod in _astray_at(run.history, numbers[id(record)]):
            if not any(pod in astray and seconds < record.seconds for seconds, astray in moments):
                continue  # it is there since this very moment, which no watch has told of
            yield f"raised to {float(raised):.2%} at {record.seconds:g} s while {pod} went by other weights"


def hushed_replicas(run: Run) -> Iterator[str]:
    """Times in which a replica went by other weights, and no status said so."""
    rollout: Object = {}
    changes = [(number, seconds, astray) for number, seconds, astray in run.history.astray]
    since: dict[str, float] = {}
    for index, record in enumerate([*run.history.records, None]):
        for number, seconds, astray in changes:
            if number == index:
                since = {pod: since.get(pod, seconds) for pod in astray}
        now = record.seconds if record is not None else max(run.history.records[-1].seconds, _end(run))
        for pod, start in since.items():
            if now - start > TOLD and not _says(rollout, pod):
                yield f"{pod} has gone by other weights since {start:g} s, and at {now:g} s no status says so"
                return
        if record is not None and record.of(kinds.ROLLOUT) and record.change.name == "mymodel":
            rollout = record.after


def _end(run: Run) -> float:
    """When the run was over: at rest the cluster is watched for some resyncs more."""
    return (run.history.quiet_from or 0.0) + RESYNC


def _says(rollout: Object, pod: str) -> bool:
    if not rollout or "deletionTimestamp" in rollout["metadata"]:
        return True
    if not (rollout.get("status") or {}).get("stable"):
        return True
    said = [condition(rollout, kind).get("message") for kind in ("TrafficApplied", "TargetReady")]
    return any(pod in str(text) for text in (*said, rollout["status"].get("message")))


def wrongly_ended(run: Run) -> Iterator[str]:
    """Statuses that call an abort done, or say that stable serves, while a replica sends requests to the canary."""
    for number, record in enumerate(run.history.records):
        if not (
            record.ours and record.of(kinds.ROLLOUT) and record.after and record.change.name == "mymodel"
        ):
            continue
        status, before = record.after.get("status") or {}, record.before.get("status") or {}
        canary = (status.get("canary") or {}).get("name", "")
        if not canary or not status.get("aborted"):
            continue
        last, was = status.get("lastCommand") or {}, before.get("lastCommand") or {}
        done = last.get("action") == "abort" and last.get("result") == "Done" and last != was
        for pod, split in _astray_at(run.history, number).items():
            if not split.get(canary):
                continue
            message = str(status.get("message"))
            if " serves;" in message and pod not in message:
                yield f"at {record.seconds:g} s {pod} sends requests to {canary}, and the status says: {message}"
            if done and pod not in str(last.get("message")):
                yield f"at {record.seconds:g} s {pod} sends requests to {canary}, and the abort is called done"
