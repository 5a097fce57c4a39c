"""Comparisons of one attempt: which gates read them, and what the evidence says to each gate. Pure.

One evidence process serves every gate of an attempt, so that the bound on false aborts holds for the whole: a gate does
not test, it reads. A gate opens with the mark of its step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rollouts.analysis.evidence.gates import (
    GateReason,
    GateVerdict,
    Harm,
    MetricReport,
    Verdict,
    harm,
    judge,
    report,
    silent,
)
from rollouts.analysis.evidence.lost import LostTest
from rollouts.analysis.evidence.model import Mark
from rollouts.analysis.evidence.process import EvidenceProcess
from rollouts.analysis.evidence.words import SILENT_CANARY, brief, describe, describe_effect
from rollouts.analysis.types import Comparison, ComparisonResult, GateState, OnFail

__all__ = ["Compared", "judge_all"]

_OPEN_WORDS = 480
_NOTHING = "nothing that is compared has been exposed yet; silence never passes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Everything after one more interval. ``failure``: shown harm, in words, and what it asks for."""

    results: tuple[ComparisonResult, ...]
    gates: tuple[GateState, ...]
    failure: tuple[str, OnFail] | None = None


def judge_all(
    process: EvidenceProcess,
    comparisons: Sequence[Comparison],
    marks: Sequence[Mark],
    before: Sequence[GateState],
    now: float,
) -> Compared:
    """Verdicts of all gates that have opened. ``now`` and marks are on the process' clock, in seconds."""
    harmed = harm(process)
    shown = harmed if harmed is not None and harmed.held is None else None
    reports = [report(process, index) for index in range(len(comparisons))]
    passed = {state.step: state for state in before if state.verdict == Verdict.PASS}
    steps: list[int | None] = [*sorted({step for item in comparisons for step in item.steps})]
    if any(not item.steps for item in comparisons):
        steps.append(None)
    gates: list[GateState] = []
    latest: dict[int, GateVerdict] = {}
    for step in steps:
        started = _opened(process, marks, step)
        if started is None:
            continue
        mine = [i for i, item in enumerate(comparisons) if _reads(step, item) and _counts(process, i, item)]
        if not mine:
            message = SILENT_CANARY if silent(process) else _NOTHING
            gates.append(GateState(step=step, verdict=Verdict.UNDECIDED.value, message=message))
            continue
        verdicts = {i: judge(process, i, started, now) for i in mine}
        latest |= verdicts
        gates.append(passed.get(step) or _gate(step, process, verdicts, reports))
    results = tuple(
        _result(
            process,
            index,
            item,
            reports[index],
            _verdict(index, latest, harmed, shown, seen=any(process.tests[index].requests)),
        )
        for index, item in enumerate(comparisons)
    )
    return Compared(results=results, gates=tuple(gates), failure=_failure(comparisons, results, gates, shown))


def _reads(step: int | None, item: Comparison) -> bool:
    return step in item.steps if step is not None else not item.steps


def _counts(process: EvidenceProcess, index: int, item: Comparison) -> bool:
    """Optional metrics count once either arm exposes them, and as long as they can be told."""
    test = process.tests[index]
    return not item.optional or (any(test.requests) and not (isinstance(test, LostTest) and test.warning))


def _opened(process: EvidenceProcess, marks: Sequence[Mark], step: int | None) -> float | None:
    if step is None:
        return process.began
    return next((mark.at for mark in marks if mark.step == step), None)


def _verdict(
    index: int, latest: Mapping[int, GateVerdict], harmed: Harm | None, shown: Harm | None, *, seen: bool
) -> GateVerdict:
    if shown is not None:
        if index in shown.blame:
            return GateVerdict(verdict=Verdict.FAIL, reason=GateReason.HARM_SHOWN)
        return GateVerdict(verdict=Verdict.INCONCLUSIVE, reason=GateReason.OTHER_METRIC)
    if harmed is not None and harmed.held is not None and index in harmed.blame:
        return GateVerdict(verdict=Verdict.INCONCLUSIVE, reason=harmed.held)
    silent = GateVerdict(
        verdict=Verdict.UNDECIDED, reason=GateReason.COLLECTING if seen else GateReason.NO_DATA
    )
    return latest.get(index) or silent


def _gate(
    step: int | None,
    process: EvidenceProcess,
    verdicts: Mapping[int, GateVerdict],
    reports: Sequence[MetricReport],
) -> GateState:
    """The worst of the gate's metrics: it passes when all of them do."""
    order = (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.UNDECIDED, Verdict.PASS)
    worst = min((item.verdict for item in verdicts.values()), key=order.index)
    words = [
        brief(process.spec.metrics[index], reports[index], verdict)
        for index, verdict in verdicts.items()
        if verdict.verdict is worst
    ]
    return GateState(step=step, verdict=worst.value, message=" ".join(words)[:_OPEN_WORDS])


def _result(
    process: EvidenceProcess, index: int, item: Comparison, shown: MetricReport, verdict: GateVerdict
) -> ComparisonResult:
    return ComparisonResult(
        name=item.name,
        verdict=verdict.verdict.value,
        reason=verdict.reason.value,
        words=describe(process.spec.metrics[index], shown, verdict),
        brief=brief(process.spec.metrics[index], shown, verdict),
        effect=describe_effect(shown.effect) if shown.effect is not None else "",
        evidence=(
            f"harm {_short(shown.harm)} of {shown.abort_at:g}, "
            f"within tolerance {_short(shown.proof)} of {shown.pass_at:g}"
        ),
        figures=_figures(shown),
    )


def _failure(
    comparisons: Sequence[Comparison],
    results: Sequence[ComparisonResult],
    gates: Sequence[GateState],
    shown: Harm | None,
) -> tuple[str, OnFail] | None:
    """Harm, or a gate that its ``onUndecided: Fail`` ends; an Alert is told and decides nothing."""
    if shown is not None:
        asked = {comparisons[index].on_fail for index in shown.blame}
        text = " ".join(results[index].brief for index in shown.blame)
    else:
        failed = [gate for gate in gates if gate.verdict == Verdict.FAIL]
        if not failed:
            return None
        steps = {gate.step for gate in failed}
        asked = {
            item.on_fail
            for item in comparisons
            if steps & set(item.steps) or (None in steps and not item.steps)
        }
        text = " ".join(gate.message for gate in failed)
    for wanted in (OnFail.ABORT, OnFail.PAUSE):
        if wanted in asked:
            return text, wanted
    return None


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 1e6 else "over a million"


def _finite(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _figures(shown: MetricReport) -> dict[str, float]:
    """The figures for scripts; infinite ones are left out."""
    effect = shown.effect
    figures: dict[str, float | None] = {
        "effect": None if effect is None else _finite(effect.estimate),
        "effectLow": None if effect is None else _finite(effect.low),
        "effectHigh": None if effect is None else _finite(effect.high),
        "harm": _finite(shown.harm),
        "harmTotal": _finite(shown.harm_total),
        "abortAt": _finite(shown.abort_at),
        "proof": _finite(shown.proof),
        "passAt": _finite(shown.pass_at),
        "canaryRequests": _finite(shown.canary_requests),
        "stableRequests": _finite(shown.stable_requests),
        "minutesToAbort": _finite(shown.minutes_to_abort),
        "minutesToPass": _finite(shown.minutes_to_pass),
        "smallestProvable": _finite(shown.smallest_ever),
        "smallestInAnHour": _finite(shown.smallest_in_an_hour),
        "smallestWithTwiceThePods": _finite(shown.smallest_with_twice_the_pods),
    }
    return {name: value for name, value in figures.items() if value is not None}
