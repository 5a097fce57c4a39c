"""From evidence to decisions: harm of the whole, pass of a gate, and what keeps either back."""

import enum
import math
from dataclasses import dataclass

from rollouts.analysis.evidence.counts import CountTest
from rollouts.analysis.evidence.effect import Effect, detectable, provable, smallest_provable
from rollouts.analysis.evidence.gauges import GaugeTest
from rollouts.analysis.evidence.model import (
    CompareMetric,
    OnUndecided,
    Require,
    comparable,
    judged_with_one_pod,
)
from rollouts.analysis.evidence.process import EvidenceProcess

__all__ = [
    "GateReason",
    "GateVerdict",
    "Harm",
    "MetricReport",
    "Verdict",
    "harm",
    "judge",
    "report",
    "silent",
]

NO_HARM_BELOW = 5.0
"""A healthy canary reaches it in one rollout of five at most (Ville): doubtful enough to wait, not to abort."""
_HOLD_MISSING = 0.3
"""Part of the pods: one of three that is away holds a pass; those that answer may be the fast ones."""
_STOP_MISSING = 0.5
"""Part of the pods from which on the few that are left say nothing of the arm: no abort on them either."""
_MIX_DIFFERS = 20.0
"""Evidence that prompts differ, at the default level of an abort: as sure of that as of harm."""
_SILENT_INTERVALS = 10
"""Five minutes at the default interval: longer than the warm-up and a scrape outage, shorter than most steps."""
_SILENT_REQUESTS = 20.0
"""Canary requests expected without one: by chance that happens once in 5e8 (Poisson, exp(-20))."""
_DISPLAY_ALPHA = 0.05
"""Of the interval shown with the effect: 95 %, as readers expect; no decision reads it."""


class Verdict(enum.StrEnum):
    """The outcome of a gate."""

    PASS = "Pass"
    FAIL = "Fail"
    INCONCLUSIVE = "Inconclusive"
    UNDECIDED = "Undecided"


class GateReason(enum.StrEnum):
    """Why a gate has its verdict, one CamelCase word for status and conditions."""

    HARM_SHOWN = "HarmShown"
    WITHIN_TOLERANCE = "WithinTolerance"
    NO_HARM = "NoHarm"
    ADVISORY = "Advisory"
    COLLECTING = "Collecting"
    DWELLING = "Dwelling"
    FEW_REQUESTS = "FewRequests"
    HARM_SUSPECTED = "HarmSuspected"
    CANNOT_PROVE = "CannotProve"
    MAX_DURATION = "MaxDuration"
    NO_DATA = "NoData"
    SCRAPES_MISSING = "ScrapesMissing"
    PROMPT_MIX_DIFFERS = "PromptMixDiffers"
    FEW_STABLE_PODS = "FewStablePods"
    STANDS_STILL = "StandsStill"
    SILENT = "Silent"
    UNUSABLE = "Unusable"
    OTHER_METRIC = "OtherMetric"


@dataclass(frozen=True, slots=True, kw_only=True)
class Harm:
    """The rollout is shown to be harmed, by the metrics `blame` (indices). `held` keeps it from acting."""

    blame: tuple[int, ...]
    held: GateReason | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GateVerdict:
    """One gate at one time. A Pass or Fail is for good; the others may change with more data."""

    verdict: Verdict
    reason: GateReason


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricReport:
    """Everything shown about one metric.

    `harm` is its part of the whole evidence, `harm_total` that evidence (abort at `abort_at`); `proof` is the
    evidence of being within tolerance (pass at `pass_at`). `effect_since` is where the shown effect begins.
    Minutes are forecasts at the present pace, infinite when it leads nowhere. `smallest_ever` is the smallest
    regression that these pods can prove, `smallest_in_an_hour` with an hour of this traffic,
    `smallest_with_twice_the_pods` with twice the canary pods.
    """

    name: str
    harm: float
    harm_total: float
    abort_at: float
    proof: float
    pass_at: float
    effect: Effect | None
    effect_since: float | None
    canary_requests: float
    stable_requests: float
    minutes_to_abort: float
    minutes_to_pass: float
    smallest_ever: float
    smallest_in_an_hour: float
    smallest_with_twice_the_pods: float
    limited_by: str
    part: str
    phi: float
    pod_sd: float
    cautions: tuple[str, ...]


def harm(process: EvidenceProcess) -> Harm | None:
    """Blame when the evidence of the whole has reached the abort level, else None.

    Blamed are the metrics with at least half of the evidence, or the largest when none has that much.
    """
    total = process.evidence
    if total < process.spec.abort_at:
        return None
    parts = [process.contribution(index) for index in range(len(process.tests))]
    blame = tuple(i for i, part in enumerate(parts) if part >= 0.5 * total) or (parts.index(max(parts)),)
    guards = process.guards
    held: GateReason | None = None
    if guards.missing > _STOP_MISSING:
        held = GateReason.SCRAPES_MISSING
    elif guards.mix_evidence >= _MIX_DIFFERS and not any(
        isinstance(process.tests[i], CountTest) for i in blame
    ):
        held = GateReason.PROMPT_MIX_DIFFERS
    return Harm(blame=blame, held=held)


def judge(process: EvidenceProcess, index: int, started: float, now: float) -> GateVerdict:
    """The gate of metric `index` that opened at `started`; the harm of the whole is not its business.

    `minDwell` and `minRequests` hold back only a pass; `maxDuration`, CannotProve, and a single stable pod once the
    dwell is over, apply `onUndecided`.
    """
    metric = process.spec.metrics[index]
    if metric.advisory or metric.weight == 0.0:
        return GateVerdict(verdict=Verdict.PASS, reason=GateReason.ADVISORY)
    obstacle = _obstacle(process, index, started, now)
    if obstacle is None:
        reason = GateReason.NO_HARM if metric.require is Require.NO_HARM else GateReason.WITHIN_TOLERANCE
        return GateVerdict(verdict=Verdict.PASS, reason=reason)
    expired = metric.max_duration is not None and now - started >= metric.max_duration
    # Only where it was never compared: a second stable pod that is away for a moment comes back.
    alone = (
        obstacle is GateReason.FEW_STABLE_PODS
        and now - started >= metric.min_dwell
        and not process.tests[index].exposure.intervals
    )
    if not (expired or alone or obstacle is GateReason.CANNOT_PROVE):
        return GateVerdict(verdict=Verdict.UNDECIDED, reason=obstacle)
    return _undecided(process, index, started, now, GateReason.MAX_DURATION if expired else obstacle)


def _undecided(
    process: EvidenceProcess, index: int, started: float, now: float, reason: GateReason
) -> GateVerdict:
    metric = process.spec.metrics[index]
    if metric.on_undecided is OnUndecided.FAIL:
        return GateVerdict(verdict=Verdict.FAIL, reason=reason)
    if metric.on_undecided is OnUndecided.PROMOTE_IF_NO_HARM and reason is GateReason.FEW_STABLE_PODS:
        passed = process.evidence < 1.0 and _counts_are_good(process, started, now)
        verdict = Verdict.PASS if passed else Verdict.UNDECIDED
        return GateVerdict(verdict=verdict, reason=reason)
    if metric.on_undecided is OnUndecided.PROMOTE_IF_NO_HARM:
        waiting = _waiting(process, index, started, now)
        if waiting is None and process.evidence < 1.0:
            return GateVerdict(verdict=Verdict.PASS, reason=reason)
        if reason is GateReason.CANNOT_PROVE:
            return GateVerdict(verdict=Verdict.UNDECIDED, reason=reason)
    return GateVerdict(verdict=Verdict.INCONCLUSIVE, reason=reason)


def _counts_are_good(process: EvidenceProcess, started: float, now: float) -> bool:
    """What can be judged beside a single stable pod, errors and what was lost, shows no harm: the weaker answer."""
    judged = judged_with_one_pod(process.spec.metrics)
    return bool(judged) and all(_waiting(process, index, started, now) is None for index in judged)


def _obstacle(process: EvidenceProcess, index: int, started: float, now: float) -> GateReason | None:
    """What keeps the gate from passing, None when nothing does."""
    metric, test = process.spec.metrics[index], process.tests[index]
    waiting = _waiting(process, index, started, now)
    if metric.require is Require.NO_HARM:
        return waiting
    if test.proof() >= process.spec.pass_at:
        return waiting
    if _impossible(process, index):
        return GateReason.CANNOT_PROVE
    return waiting if waiting is not None else GateReason.COLLECTING


def silent(process: EvidenceProcess) -> bool:
    """Whether requests of the canary were due by its weight, and none was counted."""
    return process.unheard >= _SILENT_REQUESTS


def _waiting(process: EvidenceProcess, index: int, started: float, now: float) -> GateReason | None:
    """Everything a pass needs besides proof of tolerance."""
    metric, test, guards = process.spec.metrics[index], process.tests[index], process.guards
    canary, stable = test.requests
    until = process.heard_until
    enough = comparable(metric.series, guards.stable_pods, coupled=test.exposure.coupled)
    if silent(process):
        return GateReason.SILENT
    if until is None or canary <= 0 or stable <= 0:
        few = guards.canary_pods > 0 and not enough
        return GateReason.FEW_STABLE_PODS if few else GateReason.NO_DATA
    if guards.canary_stands:
        return GateReason.STANDS_STILL
    if now - until > _SILENT_INTERVALS * process.spec.interval:
        return GateReason.NO_DATA
    if guards.missing > _HOLD_MISSING:
        return GateReason.SCRAPES_MISSING
    if test.warning:
        return GateReason.UNUSABLE
    if not enough:
        return GateReason.FEW_STABLE_PODS
    if not isinstance(test, CountTest) and guards.mix_evidence >= _MIX_DIFFERS:
        return GateReason.PROMPT_MIX_DIFFERS
    if process.evidence >= NO_HARM_BELOW:
        return GateReason.HARM_SUSPECTED
    if now - started < metric.min_dwell:
        return GateReason.DWELLING
    if (
        not isinstance(test, GaugeTest)
        and canary - _requests_before(process, index, started) < metric.min_requests
    ):
        return GateReason.FEW_REQUESTS
    return None


def _requests_before(process: EvidenceProcess, index: int, started: float) -> float:
    """Canary requests counted before the gate opened: at the last weight step up to then."""
    before = 0.0
    for at, counts in process.requests_at_mark:
        if at <= started:
            before = counts[index]
    return before


def _impossible(process: EvidenceProcess, index: int) -> bool:
    """No amount of time can give the proof with these pods."""
    metric, test = process.spec.metrics[index], process.tests[index]
    if not test.exposure.intervals or test.warning:
        return False
    if isinstance(test, CountTest) and _below_floor(test, metric):
        return False
    level = math.log(process.spec.pass_at)
    return not provable(metric.tolerance, level, test.settled_log_tau2, test.exposure.spread)


def _below_floor(test: CountTest, metric: CompareMetric) -> bool:
    """Rates near or below the floor are proven against the floor, not against stable."""
    return sum(test.errors) < metric.floor * sum(test.requests)


def report(process: EvidenceProcess, index: int) -> MetricReport:
    """The figures of one metric, all finite or plain infinity."""
    spec, metric, test = process.spec, process.spec.metrics[index], process.tests[index]
    start, since = process.leading_start(index)
    if harm(process) is None:
        start, since = -1, process.began if process.began is not None else 0.0
    alpha = _DISPLAY_ALPHA if start < 0 else _DISPLAY_ALPHA / (1 + process.restarts)
    effect = test.effect(start, alpha) if test.exposure.intervals else None
    log_abort, log_pass = math.log(spec.abort_at), math.log(spec.pass_at)
    elapsed = process.judged_seconds / 60.0
    abort_multiple, pass_multiple = test.multiples(log_abort, log_pass) if elapsed else (math.inf, math.inf)
    pace, spread, tau2 = test.pace, test.exposure.spread, test.log_tau2
    hour = pace.info * 60.0 / elapsed if elapsed else 0.0
    canary, stable = test.requests
    return MetricReport(
        name=metric.name,
        harm=process.contribution(index),
        harm_total=process.evidence,
        abort_at=spec.abort_at,
        proof=test.proof(),
        pass_at=spec.pass_at,
        effect=effect,
        effect_since=None if effect is None else since,
        canary_requests=canary,
        stable_requests=stable,
        minutes_to_abort=max(abort_multiple - 1.0, 0.0) * elapsed if elapsed else math.inf,
        minutes_to_pass=_minutes_to_pass(test.proof(), log_pass, pass_multiple, elapsed),
        smallest_ever=smallest_provable(log_abort, tau2, spread),
        smallest_in_an_hour=detectable(pace, hour, log_abort),
        smallest_with_twice_the_pods=smallest_provable(
            log_abort, tau2, spread - 0.5 / test.exposure.canary.effective
        ),
        limited_by="pods" if hour > 0 and pace.sigma2 * hour > pace.phi else "time and traffic",
        part=test.part(start),
        phi=test.phi,
        pod_sd=math.sqrt(tau2),
        cautions=_cautions(process, index),
    )


def _minutes_to_pass(proof: float, log_pass: float, multiple: float, elapsed: float) -> float:
    """The forecast of the test, or, where rates below the floor leave it none, the pace of the proof so far."""
    if not elapsed:
        return math.inf
    if math.isinf(multiple) and proof > 1.0:
        multiple = log_pass / math.log(proof)
    return max(multiple - 1.0, 0.0) * elapsed


def _cautions(process: EvidenceProcess, index: int) -> tuple[str, ...]:
    guards, test = process.guards, process.tests[index]
    found = [test.warning] if test.warning else []
    if not guards.history and test.exposure.intervals:
        found.append("no history of the stable pods: noise starts from priors")
    if not isinstance(test, CountTest):
        if guards.load_ratio > 1.2:
            found.append(
                f"a canary pod serves {guards.load_ratio:.1f} times the requests of a stable pod: only what "
                "this load cannot explain counts; add canary pods"
            )
        elif guards.load_ratio < 0.8:
            found.append(
                f"a canary pod serves {guards.load_ratio:.1f} times the requests of a stable pod: a pass "
                "says little about full load"
            )
        if guards.mix_evidence >= _MIX_DIFFERS:
            found.append("prompts differ in length between the arms: latency neither passes nor aborts")
        if guards.stable_pods == 1:
            found.append("a single stable pod: pod differences cannot be seen, so latency is not judged")
    if guards.missing > _HOLD_MISSING:
        found.append(f"{guards.missing:.0%} of the recent scrapes are missing")
    if guards.misrouted:
        found.append(f"{guards.misrouted} intervals left out: realised share over 3 times off")
    if guards.restarts:
        found.append(f"canary counters were reset {guards.restarts} times")
    return tuple(found)
