"""The way back: once it is due, the stored traffic object gives everything to stable within seconds.

A way back is due by what is stored, whatever the Rollout's spec says then: an abort on record, an AnalysisRun of the
attempt that failed, an ``abort`` command that names the running revision, a spec that asks for another target, a
Rollout that is deleted. Who edits the route afterwards, a stable version without Ready pods, and a server that refuses
the write start the clock anew; a refused write must be tried again within seconds and be told of in the server's words.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rollouts.api.parsing import COMMAND_ANNOTATION
from rollouts.objects import kinds
from tests.kit.faults.endstate import CARRIERS, is_carrier, weights_of
from tests.kit.faults.groups import PARTS
from tests.kit.faults.history import Record
from tests.kit.faults.objects import RELEASES, STABLE
from tests.kit.faults.replay import Replay
from tests.kit.faults.simulation import RESTART, Run
from tests.kit.faults.transport import WriteFault
from tests.kit.faults.truth import ROLLOUT, lag_of, shares_of, stored_traffic

__all__ = ["hushed_refusals", "open_ways_back"]

Object = dict[str, Any]

WITHIN = 15.0
"""Seconds to the stored 100 %: the design says seconds, the wire's back-off may take five of them."""
RETRIED_WITHIN = 15.0
"""Seconds between two tries of a way back that the server refuses."""
RAISED_WITHIN = 90.0
"""Seconds between two tries of any other refused write."""

_WORDS = {
    WriteFault.REFUSED_FIELD: "Unsupported value",
    WriteFault.REFUSED_POLICY: "routes are frozen",
    WriteFault.REFUSED_WEBHOOK: "routes are frozen",
    WriteFault.REFUSED_RBAC: "cannot patch resource",
    WriteFault.REFUSED_UNDECLARED: "field not declared in schema",
}


@dataclass(frozen=True, slots=True)
class _Due:
    """From ``seconds`` on nothing may go to ``arm``; ``attempt`` is the one that gave it weight."""

    seconds: float
    why: str
    arm: str
    attempt: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Moment:
    """The Rollout and the number of stable's Ready pods from ``seconds`` on."""

    seconds: float
    rollout: Object
    stable_ready: int


class _Story:
    """One pass over the history: what fell due, and what could hold it up for a while."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.dues: list[_Due] = []
        self.moments: list[_Moment] = []
        self.pushes: list[float] = []
        self._replay = Replay()
        self._ready: set[str] = set()
        self._seen: set[tuple[str, str, tuple[Any, ...]]] = set()
        epoch = 0
        for record in run.history.records:
            before = self._replay.rollout
            self._replay.take(record)
            if record.epoch > max(epoch, 1):
                self.pushes.append(record.seconds + RESTART)
            epoch = record.epoch
            self._note(record)
            self._fall_due(record, before)
        self.pushes.sort()
        self.end = self._end()

    def _end(self) -> float:
        history = self.run.history
        last = max((record.seconds for record in history.records), default=0.0)
        asked = max((request.seconds for request in history.requests), default=0.0)
        return max(last, asked, history.quiet_from or 0.0)

    def _note(self, record: Record) -> None:
        rollout = self._replay.rollout
        made_by_people = any(record.of(pool) for pool in kinds.POOLS) or is_carrier(record)
        if made_by_people and not record.ours:
            self.pushes.append(record.seconds)
        elif record.of(kinds.POD):
            self._count(record)
            if not self._ready or len(self._ready) == 1:
                self.pushes.append(record.seconds)
        elif not record.of(kinds.ROLLOUT) or record.change.name != ROLLOUT:
            return
        self.moments.append(_Moment(record.seconds, rollout, len(self._ready)))

    def _count(self, record: Record) -> None:
        conditions = (record.after.get("status") or {}).get("conditions") or []
        up = any(item.get("type") == "Ready" and item.get("status") == "True" for item in conditions)
        labels = (record.after.get("metadata") or {}).get("labels") or {}
        if up and labels.get("release") == self._stable_release():
            self._ready.add(record.change.name)
        else:
            self._ready.discard(record.change.name)

    def _stable_release(self) -> str:
        pool = (self._replay.status.get("stable") or {}).get("name", STABLE)
        return RELEASES.get(pool, RELEASES[STABLE])  # adapters are on the pods of one pool

    def _fall_due(self, record: Record, before: Object) -> None:
        was, now = before.get("status") or {}, self._replay.status
        arm, attempt = _running(before)
        if not arm:
            return
        rollout = self._replay.rollout
        if not rollout or (rollout["metadata"].get("deletionTimestamp") and was.get("startedAt")):
            if (before.get("spec") or {}).get("onDelete", "RestoreStable") == "RestoreStable":
                self._due(record, "the Rollout is deleted", arm, attempt)
            return
        name = (now.get("canary") or {}).get("name", "")
        if now.get("aborted") and name == arm:
            self._due(record, "status.aborted", arm, attempt)
        elif name != arm and (now.get("stable") or {}).get("name") != arm:
            self._due(record, "the canary was dropped", arm, attempt)
        elif record.of(kinds.ANALYSIS_RUN) and self._replay.abort_decided():
            self._due(record, "an AnalysisRun failed", arm, attempt)
        elif record.of(kinds.ROLLOUT) and _asks_to_abort(rollout, before):
            self._due(record, "abort was asked for", arm, attempt)
        elif record.of(kinds.ROLLOUT) and _target(rollout) not in ("", arm):
            self._due(record, "the spec has another target", arm, attempt)

    def _due(self, record: Record, why: str, arm: str, attempt: tuple[Any, ...]) -> None:
        if (why, arm, attempt) not in self._seen:
            self._seen.add((why, arm, attempt))
            self.dues.append(_Due(record.seconds, why, arm, attempt))

    def moment(self, seconds: float) -> _Moment:
        """What held at a time."""
        found = _Moment(0.0, {}, 0)
        for moment in self.moments:
            if moment.seconds > seconds:
                break
            found = moment
        return found

    def refused(self) -> list[float]:
        """When the plan's own refusal met a write to a traffic object."""
        return [item.seconds for item in self._asked() if item.refused] if self.run.plan.refusal else []

    def asked(self) -> list[float]:
        """When the controller asked to change a traffic object."""
        return [item.seconds for item in self._asked()]

    def _asked(self) -> list[Any]:
        places = {(resource.plural, name) for resource, name in CARRIERS}
        asked = self.run.history.requests
        parts = {resource.plural for resource, _ in PARTS}
        return [
            item
            for item in asked
            if ((item.plural, item.name) in places or item.plural in parts) and item.verb != "get"
        ]

    def void(self, due: _Due, until: float) -> bool:
        """Whether the arm may carry again: it was promoted, or a new attempt with it began."""
        for moment in self.moments:
            if not due.seconds <= moment.seconds <= until or not moment.rollout:
                continue
            status = moment.rollout.get("status") or {}
            if (status.get("stable") or {}).get("name") == due.arm:
                return True
            if _running(moment.rollout)[0] == due.arm and _running(moment.rollout)[1] != due.attempt:
                return True
        return False

    def closes(self, due: _Due) -> float:
        """By when the way back must have been gone: ``WITHIN`` after the last thing that held it up."""
        storm = self.run.plan.storm
        patience = WITHIN + lag_of(self.run) + (storm.seconds if storm is not None else 0.0)
        base = due.seconds
        for push in self.pushes:
            if base <= push <= base + patience:
                base = push
        return base + patience


def _running(rollout: Object) -> tuple[str, tuple[Any, ...]]:
    """The arm that gets weight by the attempt that runs, and what tells this attempt from others."""
    status = rollout.get("status") or {}
    canary = status.get("canary") or {}
    if not canary or not status.get("startedAt"):
        return "", ()
    return str(canary.get("name", "")), (canary.get("hash"), status.get("attempt"))


def _target(rollout: Object) -> str:
    target = (rollout.get("spec") or {}).get("target") or {}
    for kind in ("pool", "adapter", "variant"):
        if isinstance(target.get(kind), dict):
            return str(target[kind].get("name", ""))
    return ""


def _asks_to_abort(rollout: Object, before: Object) -> bool:
    raw = (rollout["metadata"].get("annotations") or {}).get(COMMAND_ANNOTATION, "")
    status = rollout.get("status") or {}
    if raw == (before["metadata"].get("annotations") or {}).get(COMMAND_ANNOTATION, ""):
        return False
    asked = json.loads(raw or "{}")
    return bool(
        asked.get("action") == "abort"
        and asked.get("revision") == (status.get("canary") or {}).get("hash")
        and status.get("phase") in ("Progressing", "Paused", "Invalid")
    )


# --- what must hold --------------------------------------------------------------------------------


def open_ways_back(run: Run) -> Iterator[str]:
    """Ways back that were due and not gone, and for which nothing is said that excuses it."""
    story = _Story(run)
    for due in story.dues:
        closes = story.closes(due)
        if story.void(due, closes) or (closes > story.end and not run.converged):
            continue
        left = _left(run, due, closes)
        if left and not _excused(story, due, closes):
            yield f"{due.why} at {due.seconds:g} s; at {min(closes, story.end):g} s stored: {left}"


def _left(run: Run, due: _Due, seconds: float) -> str:
    """What the stored objects still give to the arm, or take from everybody; empty when all is stable's."""
    found = []
    for carrier in stored_traffic(run.history, seconds):
        if any(share for share in shares_of(carrier, [due.arm])):
            found.append(_text(carrier))
        elif any(rule and not sum(weight for _, weight in rule) for rule in weights_of(carrier)):
            found.append(f"nobody serves: {_text(carrier)}")
    return "; ".join(found)


def _text(carrier: Object) -> str:
    rules = (" ".join(f"{name}={weight}" for name, weight in rule) for rule in weights_of(carrier))
    return " | ".join(rules)


def _excused(story: _Story, due: _Due, seconds: float) -> bool:
    moment, plan = story.moment(seconds), story.run.plan
    if not moment.stable_ready:
        return True  # rule 6: weights are kept until one is Ready
    if not moment.rollout:
        return False
    lent = (moment.rollout.get("status") or {}).get("stableScale") or {}
    if lent.get("returning") and not lent.get("immediate"):
        return True  # as capacity allows; that it ends is another invariant
    if plan.blocked and plan.blocked in _alarms(story.run, moment.rollout, due.seconds):
        return True
    return any(seconds - RETRIED_WITHIN <= at <= seconds for at in story.refused())


def _alarms(run: Run, rollout: Object, since: float) -> set[str]:
    """Reasons that the status gives now, and those of Events since then."""
    status = rollout.get("status") or {}
    events = [item for item in run.history.of(kinds.EVENT) if item.seconds >= since]
    return {
        str(status.get("reason")),
        *(str(item.get("reason")) for item in status.get("conditions") or []),
        *(str(item.after.get("reason")) for item in events),
    }


def hushed_refusals(run: Run) -> Iterator[str]:
    """Refused writes that are not told of in the server's words, or not tried again within seconds."""
    refusal = run.plan.refusal
    story = _Story(run)
    refused, asked = story.refused(), story.asked()
    if refusal is None or not refused:
        return
    if refused[-1] - refused[0] > RETRIED_WITHIN and not _told(run, _WORDS[refusal.fault], refused[0]):
        yield f"refused from {refused[0]:g} to {refused[-1]:g} s, and nobody was told {_WORDS[refusal.fault]!r}"
    for moment in refused:
        due = next((item for item in story.dues if item.seconds <= moment), None)
        back = due is not None and not story.void(due, moment) and bool(_left(run, due, moment))
        patience = (RETRIED_WITHIN if back else RAISED_WITHIN) + lag_of(run)
        if moment + patience > story.end or _tried_again(moment, patience, refused, asked):
            continue
        if back or _still_wanted(story, run, moment + patience):
            yield f"refused at {moment:g} s and not tried again within {patience:g} s"


def _tried_again(moment: float, patience: float, refused: list[float], asked: list[float]) -> bool:
    """Whether more was asked than refused at this very moment, or anything within ``patience`` seconds."""
    return asked.count(moment) > refused.count(moment) or any(
        moment < later <= moment + patience for later in asked
    )


def _still_wanted(story: _Story, run: Run, seconds: float) -> bool:
    """Whether the status asks for a weight that the stored objects do not have."""
    status = story.moment(seconds).rollout.get("status") or {}
    desired, arm = (status.get("weight") or {}).get("desired"), (status.get("canary") or {}).get("name")
    if desired is None or arm is None or status.get("phase") not in ("Progressing", "Aborted"):
        return False
    wanted = float(str(desired).rstrip("%")) / 100
    carriers = stored_traffic(run.history, seconds)
    return any(abs(float(share) - wanted) > 1e-4 for item in carriers for share in shares_of(item, [arm]))


def _told(run: Run, words: str, since: float) -> bool:
    """Whether a condition of the Rollout or an Event carries the server's words."""
    for record in run.history.records:
        if not record.ours or not since <= record.seconds <= since + 2 * RETRIED_WITHIN + lag_of(run):
            continue
        if record.of(kinds.EVENT) and words in str(record.after.get("message") or record.after.get("note")):
            return True
        status = record.after.get("status") or {}
        said = [status.get("message"), *(item.get("message") for item in status.get("conditions") or [])]
        if record.of(kinds.ROLLOUT) and any(words in str(text) for text in said):
            return True
    return False
