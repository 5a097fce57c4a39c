"""Verdicts as sentences: words first, figures after."""

import math

from rollouts.analysis.evidence.effect import Effect
from rollouts.analysis.evidence.gates import GateReason, GateVerdict, MetricReport, Verdict
from rollouts.analysis.evidence.model import CompareMetric, Direction
from rollouts.units import percent

__all__ = ["SILENT_CANARY", "SINGLE_POD", "brief", "describe", "describe_effect"]

SINGLE_POD = (
    "with a single stable pod a slow version cannot be told from a slow pod: run a second stable pod, give a limit of "
    "your own (measure with a successCondition), or let errors and what was lost decide alone (onUndecided: "
    "PromoteIfNoHarm beside error-rate and lost-rate)"
)
"""What a first trial with one GPU per pool is told."""

SILENT_CANARY = (
    "by the weight twenty canary requests and more were due, and none was counted: its engines stand still, or the "
    "gateway sends it nothing; ask one of its pods, and `abort` if it does not answer"
)
"""What is said of a canary that is not heard of."""

_WAITING = {
    GateReason.COLLECTING: "not decided yet",
    GateReason.DWELLING: "no harm so far; the minimum time of the gate is not over",
    GateReason.FEW_REQUESTS: "no harm so far; too few canary requests",
    GateReason.HARM_SUSPECTED: "harm is suspected, not shown",
    GateReason.NO_DATA: "no usable figures: nothing passes on silence",
    GateReason.SCRAPES_MISSING: "held: too many scrapes are missing",
    GateReason.PROMPT_MIX_DIFFERS: "held: the arms receive different prompts",
    GateReason.FEW_STABLE_PODS: f"held: {SINGLE_POD}",
    GateReason.STANDS_STILL: "held: requests are in flight on the canary, and its engines generate no token",
    GateReason.SILENT: f"held: {SILENT_CANARY}",
    GateReason.UNUSABLE: "held: this metric cannot be compared",
    GateReason.OTHER_METRIC: "judging ended: another metric is harmed",
    GateReason.MAX_DURATION: "undecided at the end of its time",
}

_KNOWS_NOTHING = math.log(25.0)
"""Width of an interval, upper over lower end: from a fifth to five times is no knowledge of a canary."""
_TINY = 1e-9
"""Keeps the logarithm of an end at -100 % finite; far below any change that is shown."""


def describe_effect(effect: Effect | None) -> str:
    """The change with its interval; in words where that is so wide that it says nothing."""
    if effect is None:
        return "not seen yet"
    if math.log1p(max(effect.high, -1 + _TINY)) - math.log1p(max(effect.low, -1 + _TINY)) > _KNOWS_NOTHING:
        return "nothing known yet"
    return f"{percent(effect.estimate)} (between {percent(effect.low)} and {percent(effect.high)})"


def describe(metric: CompareMetric, report: MetricReport, gate: GateVerdict) -> str:
    """One metric in a few sentences: what holds, the figures, the outlook, what weakens it."""
    parts = (brief(metric, report, gate), _outlook(report, gate), *_sentences(report))
    return " ".join(part for part in parts if part)


def brief(metric: CompareMetric, report: MetricReport, gate: GateVerdict) -> str:
    """One metric in two sentences: what holds, and the figures."""
    lead = f"{metric.name}: {_headline(metric, report, gate)}"
    seen = f"{report.canary_requests:,.0f} canary and {report.stable_requests:,.0f} stable requests"
    figures = (
        f"Change {describe_effect(report.effect)}; "
        f"evidence of harm {_evidence(report.harm)} ({_of_all(report)}abort at {report.abort_at:.3g}), "
        f"of being within {percent(metric.tolerance)} {_evidence(report.proof)} "
        f"(pass at {report.pass_at:.3g}); {seen}."
    )
    return f"{lead} {figures}"


def _headline(metric: CompareMetric, report: MetricReport, gate: GateVerdict) -> str:
    worse = "worse" if metric.direction is Direction.LOWER else "lower"
    where = f", most of all the {report.part}" if report.part and report.part != "body" else ""
    match gate.reason:
        case GateReason.HARM_SHOWN:
            return f"the canary is shown to be {worse} than stable{where}."
        case GateReason.WITHIN_TOLERANCE:
            return f"the canary is shown to be within {percent(metric.tolerance)} of stable."
        case GateReason.NO_HARM:
            return "no sign of harm."
        case GateReason.ADVISORY:
            return "shown for information; it decides nothing."
        case GateReason.CANNOT_PROVE:
            return _cannot_prove(metric, report)
        case GateReason.FEW_STABLE_PODS if gate.verdict is Verdict.PASS:
            return "not compared, with a single stable pod: errors and what was lost show no harm, as the gate asks."
        case _ if gate.verdict is Verdict.PASS:
            return "undecided, and no harm: promoted as the gate asks."
        case _:
            return _WAITING[gate.reason] + "."


def _cannot_prove(metric: CompareMetric, report: MetricReport) -> str:
    return (
        f"with these pods {percent(metric.tolerance)} can never be proven, however long it runs, because "
        f"pods differ by {report.pod_sd:.1%} among themselves; set tolerance to at least "
        f"{percent(_least_tolerance(report))}, or add canary pods."
    )


def _least_tolerance(report: MetricReport) -> float:
    """The tolerance at which proof becomes possible, with a tenth to spare (smallest_ever mixes 16 bets)."""
    from_abort = math.log(report.abort_at) + math.log(16.0)
    ratio = math.sqrt(math.log(report.pass_at) / from_abort)
    return math.expm1(math.log1p(report.smallest_ever) * ratio) * 1.1


def _evidence(value: float) -> str:
    if value >= 1e6:
        return "over a million"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _of_all(report: MetricReport) -> str:
    """What decides is the evidence of all metrics together, told where it differs from this one's."""
    if abs(report.harm_total - report.harm) <= 0.01 * report.harm_total:
        return ""
    return f"{_evidence(report.harm_total)} with the other metrics; "


def _outlook(report: MetricReport, gate: GateVerdict) -> str:
    if gate.verdict in (Verdict.PASS, Verdict.FAIL) or gate.reason is GateReason.OTHER_METRIC:
        return ""
    parts = []
    if report.minutes_to_abort < math.inf:
        parts.append(f"an abort would take about {max(report.minutes_to_abort, 1):.0f} more minutes")
    if report.minutes_to_pass < math.inf:
        parts.append(f"a pass would take about {max(report.minutes_to_pass, 1):.0f} more minutes")
    if not parts:
        parts.append("more time alone leads to no decision")
    return f"At this pace {' and '.join(parts)}."


def _sentences(report: MetricReport) -> tuple[str, ...]:
    smallest = ""
    if report.canary_requests > 0 and report.smallest_in_an_hour < math.inf:
        smallest = (
            f"The smallest regression an hour can prove is {percent(report.smallest_in_an_hour)}, limited by "
            f"{report.limited_by}; these pods never prove less than {percent(report.smallest_ever)}, "
            f"twice the canary pods {percent(report.smallest_with_twice_the_pods)}."
        )
    cautions = f"Note: {'; '.join(report.cautions)}." if report.cautions else ""
    return smallest, cautions
