"""Replay a recording through compare gates with the production engine, beside what simpler rules would do."""

import math
from dataclasses import dataclass, replace

from rollouts.analysis.evidence.effect import Effect
from rollouts.analysis.evidence.gates import (
    GateReason,
    GateVerdict,
    MetricReport,
    Verdict,
    harm,
    judge,
    report,
)
from rollouts.analysis.evidence.model import CountSeries, EvidenceSpec, Series
from rollouts.analysis.evidence.process import EvidenceProcess
from rollouts.analysis.evidence.words import describe
from rollouts.analysis.recording import Recording
from rollouts.analysis.rivals import RivalDecision, Rivals

__all__ = ["BacktestResult", "GateResult", "Replayed", "backtest", "finite"]

_HELD = frozenset(
    {
        GateReason.SCRAPES_MISSING,
        GateReason.PROMPT_MIX_DIFFERS,
        GateReason.FEW_STABLE_PODS,
        GateReason.UNUSABLE,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What is replayed, and the names of metrics of other forms, which cannot be."""

    spec: EvidenceSpec
    skipped: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()
    """Metrics of `preset: default`: left out where neither arm exposes them, or they cannot be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """One gate: its verdict, when (end of the deciding interval, seconds from t = 0), what is shown."""

    gate: GateVerdict
    decided_at: float | None
    report: MetricReport
    words: str

    def to_json(self) -> dict[str, object]:
        """The gate in the output format; infinite figures become null."""
        shown = self.report
        return {
            "name": shown.name,
            "verdict": self.gate.verdict.value,
            "decidedAt": self.decided_at,
            "effect": _effect(shown.effect),
            "evidence": {
                "reason": self.gate.reason.value,
                "words": self.words,
                "harm": finite(shown.harm),
                "harmTotal": finite(shown.harm_total),
                "abortAt": shown.abort_at,
                "proof": finite(shown.proof),
                "passAt": shown.pass_at,
                "requests": {"canary": shown.canary_requests, "stable": shown.stable_requests},
                "effectSince": shown.effect_since,
                "part": shown.part,
                "minutesToAbort": finite(shown.minutes_to_abort),
                "minutesToPass": finite(shown.minutes_to_pass),
                "smallestProvable": finite(shown.smallest_ever),
                "smallestInAnHour": finite(shown.smallest_in_an_hour),
                "limitedBy": shown.limited_by,
                "overdispersion": finite(shown.phi),
                "podDeviation": finite(shown.pod_sd),
                "cautions": list(shown.cautions),
            },
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class BacktestResult:
    """All gates, what other rules would have decided, and metrics that could not be replayed."""

    gates: tuple[GateResult, ...]
    rivals: tuple[RivalDecision, ...]
    skipped: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """The output format of `rollouts backtest -o json`."""
        gates = [gate.to_json() for gate in self.gates]
        unplayed: list[dict[str, object]] = [
            {
                "name": name,
                "verdict": Verdict.UNDECIDED.value,
                "decidedAt": None,
                "effect": None,
                "evidence": {"reason": "NotReplayed", "words": "only compare gates are replayed"},
            }
            for name in self.skipped
        ]
        rivals = {
            rival.rule: {
                "verdict": "Pass" if rival.aborted_at is None else "Fail",
                "decidedAt": rival.aborted_at,
            }
            for rival in self.rivals
        }
        return {"gates": gates + unplayed, "rivals": rivals}


def backtest(recording: Recording, gates: Replayed) -> BacktestResult:
    """Judge the recording as a live rollout would have been, one interval after the other.

    The first Fail of the whole, or the Pass of every gate, ends judging. Fail names each gate with at least
    half of the evidence, the others are Inconclusive. Exclusions count wherever they stand in the recording.
    """
    gates = _exposed(recording, gates)
    judge_all = _Replay(gates)
    rivals = Rivals(gates.spec, recording.exclusions)
    process = judge_all.process
    process.schedule(recording.marks, recording.exclusions)
    for scrape in recording.scrapes:
        rivals.observe(scrape)
        if not judge_all.ended and process.observe(scrape):
            judge_all.step()
    if not judge_all.ended and process.finish():
        judge_all.step()
    return BacktestResult(
        gates=judge_all.results(),
        rivals=rivals.decisions(),
        skipped=gates.skipped,
    )


def _exposed(recording: Recording, gates: Replayed) -> Replayed:
    """Without what `preset: default` asks for and the recording never says: what was lost, in most of them."""
    pods = [pod for scrape in recording.scrapes for pod in scrape.pods]
    spoken = {name for pod in pods for name in (*pod.counters, *pod.gauges, *pod.histograms)}
    metrics = tuple(
        metric
        for metric in gates.spec.metrics
        if metric.name not in gates.optional or not spoken.isdisjoint(_told_by(metric.series))
    )
    return replace(gates, spec=replace(gates.spec, metrics=metrics)) if metrics else gates


def _told_by(series: Series) -> tuple[str, ...]:
    return (series.of,) if isinstance(series, CountSeries) else (series.name,)


class _Replay:
    """Judging state of a backtest."""

    def __init__(self, gates: Replayed) -> None:
        self.process = EvidenceProcess(gates.spec)
        self.ended = False
        count = len(gates.spec.metrics)
        self._done: list[GateResult | None] = [None] * count
        self._tentative: list[tuple[GateVerdict, float] | None] = [None] * count

    def step(self) -> None:
        """Decide what can be decided after one more interval."""
        process = self.process
        now, began = process.judged_until, process.began
        if now is None or began is None:
            return
        harmed = harm(process)
        if harmed is not None and harmed.held is None:
            self._fail(harmed.blame, GateReason.HARM_SHOWN, now)
            return
        for index, done in enumerate(self._done):
            if done is not None:
                continue
            gate = judge(process, index, began, now)
            if gate.verdict is Verdict.FAIL:
                self._fail((index,), gate.reason, now)
                return
            if gate.verdict is Verdict.PASS or gate.reason is GateReason.MAX_DURATION:
                if gate.verdict is not Verdict.UNDECIDED:
                    self._done[index] = self._result(index, gate, now)
            elif gate.verdict is Verdict.INCONCLUSIVE and self._tentative[index] is None:
                self._tentative[index] = (gate, now)
        self.ended = all(done is not None for done in self._done)

    def _fail(self, blame: tuple[int, ...], reason: GateReason, now: float) -> None:
        for index in range(len(self._done)):
            gate = (
                GateVerdict(verdict=Verdict.FAIL, reason=reason)
                if index in blame
                else GateVerdict(verdict=Verdict.INCONCLUSIVE, reason=GateReason.OTHER_METRIC)
            )
            self._done[index] = self._result(index, gate, now)
        self.ended = True

    def results(self) -> tuple[GateResult, ...]:
        """Every gate, those without a decision as they stand at the end."""
        return tuple(done if done is not None else self._open(index) for index, done in enumerate(self._done))

    def _open(self, index: int) -> GateResult:
        tentative = self._tentative[index]
        if tentative is not None:
            return self._result(index, *tentative)
        process = self.process
        if process.judged_until is None or process.began is None:
            return self._result(
                index, GateVerdict(verdict=Verdict.UNDECIDED, reason=GateReason.NO_DATA), None
            )
        gate = judge(process, index, process.began, process.judged_until)
        harmed = harm(process)
        reason = harmed.held if harmed is not None and harmed.held is not None else gate.reason
        verdict = Verdict.INCONCLUSIVE if reason in _HELD else Verdict.UNDECIDED
        return self._result(index, GateVerdict(verdict=verdict, reason=reason), None)

    def _result(self, index: int, gate: GateVerdict, at: float | None) -> GateResult:
        shown = report(self.process, index)
        words = describe(self.process.spec.metrics[index], shown, gate)
        return GateResult(gate=gate, decided_at=at, report=shown, words=words)


def _effect(effect: Effect | None) -> dict[str, float | None] | None:
    if effect is None:
        return None
    return {"estimate": finite(effect.estimate), "low": finite(effect.low), "high": finite(effect.high)}


def finite(value: float) -> float | None:
    """What JSON can hold of a figure."""
    return value if math.isfinite(value) else None
