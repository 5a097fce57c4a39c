"""The cluster's state folded from the records, as a checker needs it just before a write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from math import floor
from typing import Any

from rollouts.objects import kinds
from rollouts.objects.pods import WARMED_ANNOTATION
from tests.kit.faults.endstate import is_carrier, weights_of
from tests.kit.faults.history import History, Record

__all__ = ["Replay", "ready_pictures", "share"]

Object = dict[str, Any]
_ROLLOUT = "mymodel"


def share(weights: Mapping[str, int], name: str) -> Fraction:
    """The share of one backend among all entries of a rule."""
    total = sum(weights.values())
    return Fraction(weights.get(name, 0), total) if total else Fraction(0)


class Replay:
    """State of the Rollout ``mymodel``, its runs and pods after the records taken so far."""

    def __init__(self) -> None:
        self.rollout: Object = {}
        self.runs: dict[str, Object] = {}
        self.restored_up_to = Fraction(0)
        """The highest share that the present attempt's controller writes ever reached: going back is no rise."""
        self._landing: tuple[Any, int] = (None, 0)
        self._attempt: Any = None
        self._skipped_in_time = False

    def take(self, record: Record) -> None:
        """Fold one record in."""
        name = record.change.name
        if record.of(kinds.ROLLOUT) and name == _ROLLOUT:
            skipped = self.status.get("skipGates")
            self.rollout = record.after
            self._follow_attempt()
            if not skipped and self.status.get("skipGates"):
                self._skipped_in_time = self._commanded_now()
        elif record.of(kinds.ANALYSIS_RUN):
            self.runs[name] = record.after
        elif is_carrier(record) and record.ours and self.canary_name:
            reached = [share(dict(rule), self.canary_name) for rule in weights_of(record.after, marked=False)]
            self.restored_up_to = max([self.restored_up_to, *reached])

    def _follow_attempt(self) -> None:
        attempt = ((self.status.get("canary") or {}).get("hash"), self.status.get("attempt"))
        steps_hash = self.status.get("stepsHash")
        if attempt != self._attempt:
            self._attempt = attempt
            self.restored_up_to = Fraction(0)
            self._landing = (steps_hash, 0)
        elif steps_hash != self._landing[0]:
            # The steps were edited: gates behind the place where it goes on are those of a list that is gone.
            self._landing = (steps_hash, self.status.get("currentStep", 0))

    def _commanded_now(self) -> bool:
        """Whether the last command names the present attempt, or was given after it began."""
        raw = json.loads((self.status.get("lastCommand") or {}).get("raw") or "{}")
        began = str(self.status.get("startedAt") or "")
        if raw.get("action") != "promoteFull":  # `promote` in the bake
            return True
        return raw.get("attempt", 0) == self.status.get("attempt") or str(raw.get("at")) > began > ""

    @property
    def status(self) -> Object:
        """Status of the Rollout."""
        found: Object = self.rollout.get("status") or {}
        return found

    @property
    def canary_name(self) -> str:
        """Name of the canary, a pool or an adapter; empty without one."""
        return str((self.status.get("canary") or {}).get("name", ""))

    @property
    def canary_source(self) -> str:
        """Where the canary was loaded from; empty for pools, variants, and adapters that were there."""
        canary = self.status.get("canary") or {}
        return "" if canary.get("kind") == "Variant" else str(canary.get("source", ""))

    @property
    def variant_release(self) -> str:
        """Of a variant the release that its labels name; else empty."""
        canary = self.status.get("canary") or {}
        return (
            str(canary.get("source", "")).removeprefix("release=") if canary.get("kind") == "Variant" else ""
        )

    @property
    def canary_pool(self) -> str:
        """The pool whose pods serve the canary."""
        model = (self.rollout.get("spec") or {}).get("traffic", {})
        for kind in ("inferenceModel", "inferenceModelRewrite"):
            if kind in model:
                return str(model[kind]["poolRef"]["name"])
        return self.canary_name

    def canary_field(self, name: str, default: Any) -> Any:
        """A field of ``spec.strategy.canary``, or of the shared strategy that the attempt keeps."""
        strategy = self.rollout["spec"]["strategy"]
        own = strategy.get("canary", {})
        if name in own or "canaryFrom" not in strategy:
            return own.get(name, default)
        kept = (self.rollout.get("status") or {}).get("strategy")
        return json.loads(kept["content"]).get(name, default) if kept else default

    def allowed_shares(self) -> set[Fraction]:
        """Shares that a route write may set: those of the steps, of caps and holds, 0 and 1."""
        allowed = {Fraction(0), Fraction(1)}
        if self.rollout:
            steps = self.canary_field("steps", [])
            allowed |= {_percent(step["setWeight"]) for step in steps if "setWeight" in step}
        weight = self.status.get("weight") or {}
        ceiling = (self.status.get("capacity") or {}).get("ceiling")
        kept = [self.status.get("weightCap"), weight.get("desired"), weight.get("applied"), ceiling]
        allowed |= {_percent(value) for value in kept if value is not None}
        return allowed | self._shares_while_pods_come_back()

    def _shares_while_pods_come_back(self) -> set[Fraction]:
        """Of a canary that is over: what stable has no pods for yet, and at most what its own carry.

        Stable is what it was with N Ready pods, or with those that it had at the start where some were not Ready.
        """
        scale = self.status.get("stableScale") or {}
        headroom = Fraction(str(self.canary_field("capacity", {}).get("headroom", 1)))
        found = set[Fraction]()
        for part in (scale, *scale.get("companions", ())):
            full = part.get("full", 0)
            whole = min(full, part.get("readyAtStart") or full)
            found |= {Fraction(10_000 - 10_000 * ready // whole, 10_000) for ready in range(whole)}
            carried = (
                {floor(10_000 * pods / (full * headroom)) for pods in range(full + 1)} if full else set()
            )
            found |= {min(Fraction(1), Fraction(weight, 10_000)) for weight in carried}
        return found

    def gates_before_current_step(self) -> list[int]:
        """Indices of analysis steps that must have been passed by now."""
        steps, current = self.canary_field("steps", []), self.status.get("currentStep", 0)
        first = self._landing[1]
        return [i for i, step in enumerate(steps[:current]) if "analysis" in step and i >= first]

    def gate_passed(self, index: int) -> bool:
        """Whether the step's run is Successful for this revision, attempt and step list, or was overridden."""
        names = self._gate_names(index)
        overridden = any(name in self.status.get("overrides", ()) for name in names)
        passed = any(_phase(self.runs.get(name, {})) == "Successful" for name in names)
        return overridden or passed

    def _gate_names(self, index: int) -> list[str]:
        revision, attempt = self.status["canary"]["hash"], self.status["attempt"]
        return [
            name
            for name, run in self.runs.items()
            if (run.get("spec") or {}).get("step") == index
            and (run.get("spec") or {}).get("attempt") == attempt
            and self._owns(run)
            and f"-{revision[:8]}-" in name
            and f"-{str(self.status.get('stepsHash', '')).split(':')[-1][:6]}-" in name
        ]

    def guard_failed(self) -> bool:
        """Whether the background run of the present attempt has failed and nobody overrode it."""
        if not self.canary_name:
            return False
        return any(
            _phase(run) == "Failed" and name not in self.status.get("overrides", ())
            for name, run in self.runs.items()
            if self._accompanies(run)
        )

    def _accompanies(self, run: Object) -> bool:
        spec = run.get("spec") or {}
        canary = (spec.get("canary") or {}).get("name")
        return (
            self._owns(run)
            and "step" not in spec
            and (spec.get("attempt"), canary) == (self.status.get("attempt"), self.canary_name)
        )

    def _owns(self, run: Object) -> bool:
        """A namesake's run says nothing about this Rollout."""
        owners = (run.get("metadata") or {}).get("ownerReferences") or []
        uid = (self.rollout.get("metadata") or {}).get("uid")
        return any(owner.get("uid") == uid for owner in owners if isinstance(owner, dict))

    def skips_gates(self) -> bool:
        """Whether a person asked, of this very attempt, to skip its gates."""
        return bool(self.status.get("skipGates")) and self._skipped_in_time

    def abort_decided(self) -> bool:
        """Whether the present revision is recorded as aborted, or one of its gates failed with that effect."""
        if self.status.get("aborted"):
            return True
        if not self.canary_name or self.status.get("skipGates"):
            return False
        return self.guard_failed() or any(
            _phase(self.runs.get(name, {})) == "Failed" and name not in self.status.get("overrides", ())
            for name in self._gate_names(self.status.get("currentStep", 0))
        )


def _percent(value: Any) -> Fraction:
    if isinstance(value, str):
        return Fraction(value.rstrip("%")) / 100
    return Fraction(str(value)) / 100


def _phase(run: Object) -> str:
    return str((run.get("status") or {}).get("phase", ""))


def ready_pictures(
    history: History, replay: Replay, seconds: float, pool: str = "", *, warm: bool = False
) -> list[frozenset[str]]:
    """The Ready pods of a pool, the canary's, at every moment that a picture of the allowed staleness may show.

    ``warm``: those alone that were warmed up. Not the moments before the first process, when the pods were being made.
    """
    release = (
        _release(history, pool) if pool else replay.variant_release or _release(history, replay.canary_pool)
    )
    ready: set[str] = set()
    pictures: list[frozenset[str]] = []
    for record in history.records:
        if record.seconds > seconds:
            break
        if not record.of(kinds.POD):
            continue
        if record.epoch and record.seconds >= seconds - history.staleness:
            pictures.append(frozenset(ready))
        conditions = (record.after.get("status") or {}).get("conditions") or []
        up = any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)
        annotations = (record.after.get("metadata") or {}).get("annotations") or {}
        up = up and (not warm or WARMED_ANNOTATION in annotations)
        if up and (record.after["metadata"].get("labels") or {}).get("release") == release:
            ready.add(record.change.name)
        else:
            ready.discard(record.change.name)
    return [*pictures, frozenset(ready)]


def _release(history: History, pool: str) -> str:
    for record in history.records:
        if record.change.plural == "inferencepools" and record.change.name == pool and record.after:
            return str(record.after["spec"]["selector"]["release"])
    return ""
