"""CEL rules of the CRDs, by model. ``rules`` holds the same rules in Python, for servers that evaluate no CEL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from rollouts.analysis.catalogue import COMPARED, MEASURED
from rollouts.api.target_models import LABEL_KEY, LABEL_VALUE, NO_LABEL
from rollouts.carriers import (
    TRAFFIC_KINDS,
    StoppedTargetKind,
    TargetKind,
    kinds_for,
    listed,
    stopped_targets,
    target_kinds,
)
from rollouts.units import POD_COUNT

__all__ = ["CEL_RULES", "CelRule"]


@dataclass(frozen=True, slots=True)
class CelRule:
    """One ``x-kubernetes-validations`` entry."""

    rule: str
    message: str

    def json(self) -> dict[str, Any]:
        """The entry."""
        return {"rule": self.rule, "message": self.message}


def _one(*fields: str, owner: str = "self") -> str:
    return "[" + ", ".join(f"has({owner}.{field})" for field in fields) + "].exists_one(x, x)"


def _any(owner: str, *fields: str) -> str:
    return "(" + " || ".join(f"has({owner}.{field})" for field in fields) + ")"


def _kept_apart(fields: Iterable[str]) -> str:
    """The same fields are set as before."""
    return " && ".join(f"has(self.{field}) == has(oldSelf.{field})" for field in fields)


def needed_traffic(kind: TargetKind) -> str:
    """What a target needs that has no traffic of a kind that splits it."""
    fields = [f"traffic.{one.field}" for one in kinds_for(kind)]
    return f"{kind.called} target needs {listed(fields, 'or')}{kind.why}"


def _one_text(*fields: str) -> str:
    """Exactly one of these is set and not empty (strings) or set (objects, ending in *)."""
    parts = [
        f"has(self.{field.rstrip('*')})" + ("" if field.endswith("*") else f" && self.{field} != ''")
        for field in fields
    ]
    return "[" + ", ".join(parts) + "].exists_one(x, x)"


def _spelled(condition: str) -> str:
    """The condition is none of the commonest slips; everything else of it only its parser can tell."""
    number = "(^|[^a-zA-Z0-9_.])[0-9]+([.][0-9]+)?(ms|s|m|%)[ )]*$"
    slips = f"self.{condition}.contains('=<') || self.{condition}.contains('=>')"
    return f"(!has(self.{condition}) || !({slips} || self.{condition}.matches('{number}')))"


def _known(presets: Iterable[str]) -> str:
    """The preset is one that there is; a template's argument may name it."""
    names = "|".join(sorted(presets))
    return f"!has(self.preset) || self.preset.contains('{{{{') || self.preset.matches('^({names})?$')"


def _looks(condition: str) -> str:
    """The condition, where there is one, reads the result."""
    return f"(!has(self.{condition}) || self.{condition}.contains('result'))"


def _at_most_count(limit: str) -> str:
    """The limit is within the measurements that are taken; count 0 is none given."""
    return f"(!has(self.count) || self.count == 0 || !has(self.{limit}) || self.{limit} <= self.count)"


_WEIGHT = (
    "!has(self.setWeight) || (type(self.setWeight) == int ? self.setWeight >= 0 && self.setWeight <= 100 : "
    "string(self.setWeight).matches('^(100(\\\\.0{1,2})?|[0-9]{1,2}(\\\\.[0-9]{1,2})?)%$'))"
)

_DURATION = "string(self.duration).matches('^([0-9]+|([0-9]{1,7}(\\\\.[0-9]{1,3})?(ms|s|m|h|d))+)$')"

_SHARE = (
    "type(self.weight) == int ? self.weight >= 0 && self.weight <= 100 : "
    "string(self.weight).matches('^(100(\\\\.0{1,2})?|[0-9]{1,2}(\\\\.[0-9]{1,2})?)%$')"
)


def _kept(field: str, *, unless: str = "false") -> str:
    new, old = f"self.{field}", f"oldSelf.{field}"
    return f"{unless} || (has({new}) ? has({old}) && {new} == {old} : !has({old}))"


def _appended(field: str, *, after: str = "") -> str:
    """Nothing of the old list is missing; ``after``: what is new is not before what is old, by this field."""
    kept = f"oldSelf.{field}.all(x, x in self.{field})"
    late = f"!oldSelf.{field}.exists(y, y.{after} > x.{after})"
    if after:
        kept += f" && self.{field}.all(x, x in oldSelf.{field} || {late})"
    return f"!has(oldSelf.{field}) || (has(self.{field}) && size(self.{field}) >= size(oldSelf.{field}) && {kept})"


_FIXED = ("rollout", "attempt", "step", "canary", "stable", "since")
_GATES = ("metrics", "metricsFrom", "comparisons", "falseAbortRate")
_OTHER_STEPS = (
    "(has(self.stepsHash) && has(oldSelf.stepsHash) && self.stepsHash != '' && "
    "self.stepsHash != oldSelf.stepsHash)"
)

_TRAFFIC = [kind.field for kind in TRAFFIC_KINDS]
_TARGETS = [kind.field for kind in target_kinds()]
ONE_KIND = f"exactly one of {listed(_TRAFFIC)} must be set"
ONE_TARGET = f"exactly one of {listed(_TARGETS)} must be set"

_STARTING_STEP = CelRule(
    "!has(self.analysis) || !has(self.analysis.startingStep) || !has(self.steps) || "
    "self.analysis.startingStep < size(self.steps)",
    "analysis.startingStep is past the last step: they are counted from 0",
)
LESS_THAN_RATIO = "is below endpointRatio, which every weight needs as well: lower that, too"
MORE_THAN_REQUESTS = "is more than requests: lower it"
_SCALED = [kind.field for kind in target_kinds() if not kind.unscaled]
_UNSCALED = dict.fromkeys(kind.unscaled for kind in target_kinds() if kind.unscaled)
COMPANION_IS_TARGET = "is the target: name the pools whose pods work for it"
COMPANION_TWICE = "stands there twice: it belongs to one version"
OWN_COMPANION = "is the pool itself: name the pool of the version whose pods it works for"
CAPACITY_NEEDS_POOL = (
    f"needs {listed([f'target.{field}' for field in _SCALED], 'or')}: {', and '.join(_UNSCALED)}"
)
STOPPED_KINDS = stopped_targets(target_kinds())
_BY_GATEWAY = [kind.field for kind in target_kinds() if not kind.by_picker]
STICKY_WITHOUT_POOL = "is for adapters and variants: all else is split by the gateway"

_HEADROOM = CelRule(
    "!has(self.capacity) || !has(self.capacity.headroom) || !has(self.endpointRatio) || "
    "self.capacity.headroom >= self.endpointRatio",
    f"capacity.headroom {LESS_THAN_RATIO}",
)


def _pods(field: str) -> CelRule:
    return CelRule(
        f"!has(self.{field}) || (type(self.{field}) == int ? self.{field} >= 0 && self.{field} <= 100000 : "
        f"string(self.{field}).matches('^[0-9]{{1,4}}%$'))",
        f"{field} {POD_COUNT}",
    )


_CAPACITY = "self.strategy.canary.capacity"


def needs_scale_down(kind: StoppedTargetKind) -> str:
    """Why ``capacity`` of such a version says nothing without ``scaleDown``, and what to write."""
    return f"of {kind.called} needs scaleDown, which stops what lost: write {_STOP}"


def not_of_stopped(kind: StoppedTargetKind) -> str:
    """Why a field of ``capacity`` is not for such a version, and what to write."""
    return f"is not for {kind.called}, which {kind.scaled_by} scales: write {_STOP}"


def stopped_whole(kind: StoppedTargetKind) -> str:
    """Why such a version cannot keep pods when it has lost."""
    return f"of {kind.called} is 0: it is stopped as a whole; leave it out"


_STOP = "capacity: {scaleDown: {delay: 10m}}"


def _only(field: str, default: str) -> str:
    """The field of ``capacity`` is as the API server fills it in."""
    return f"!has({_CAPACITY}.{field}) || {_CAPACITY}.{field} == {default}"


_UNUSED_BY_STOPPED = {
    "maxSurge": f"!has({_CAPACITY}.maxSurge)",
    "minStable": f"!has({_CAPACITY}.minStable) || string({_CAPACITY}.minStable) == '100%'",
    "abort": _only("abort", "'AsCapacityAllows'"),
    "headroom": _only("headroom", "1.0"),
    "minReplicas": _only("minReplicas", "1"),
    "warmUp": f"!has({_CAPACITY}.warmUp)",
    "with": f"!has({_CAPACITY}.with) || size({_CAPACITY}.with) == 0",
}


def _of_stopped(kind: StoppedTargetKind) -> Iterator[CelRule]:
    others = f"!has(self.target.{kind.field}) || !has(self.strategy.canary) || !has({_CAPACITY})"
    yield CelRule(f"{others} || has({_CAPACITY}.scaleDown)", f"capacity {needs_scale_down(kind)}")
    yield CelRule(
        f"{others} || !has({_CAPACITY}.scaleDown) || !has({_CAPACITY}.scaleDown.to) || "
        f"{_CAPACITY}.scaleDown.to == 0",
        f"capacity.scaleDown.to {stopped_whole(kind)}",
    )
    for field, rule in _UNUSED_BY_STOPPED.items():
        yield CelRule(f"{others} || {rule}", f"capacity.{field} {not_of_stopped(kind)}")


CEL_RULES: dict[str, tuple[CelRule, ...]] = {
    "TargetModel": (
        CelRule(_one(*_TARGETS), ONE_TARGET),
        CelRule(_kept_apart(_TARGETS), f"{listed(_TARGETS)} never turn into each other: make a new Rollout"),
    ),
    "VariantTargetModel": (
        CelRule(
            f"self.labels.all(k, k.matches('^{LABEL_KEY}$') && self.labels[k].matches('^{LABEL_VALUE}$'))",
            f"a label of a variant {NO_LABEL}",
        ),
    ),
    "VariantTrafficModel": (
        CelRule(
            "(has(self.modelName) ? self.modelName : '') == (has(oldSelf.modelName) ? oldSelf.modelName : '')",
            "modelName cannot be changed: it names the PoolSplit; make a new Rollout",
        ),
    ),
    "TrafficModel": (
        CelRule(_one(*_TRAFFIC), ONE_KIND),
        CelRule(_kept_apart(_TRAFFIC), "the kind of traffic cannot be changed: make a new Rollout"),
        *(
            CelRule(
                f"!has(self.{kind.field}) || !has(oldSelf.{kind.field}) || self.{kind.named} == oldSelf.{kind.named}",
                "the name of the traffic object cannot be changed: make a new Rollout",
            )
            for kind in TRAFFIC_KINDS
        ),
    ),
    "HttpRouteModel": (
        CelRule(
            "!has(self.template) || !has(self.addBackend) || !self.addBackend",
            "addBackend is for Adopted routes: leave it out with a template",
        ),
    ),
    "StepModel": (
        CelRule(
            _one("setWeight", "pause", "approve", "analysis", "job", "setHeaderRoute"),
            "exactly one of setWeight, pause, approve, analysis, job and setHeaderRoute must be set",
        ),
        CelRule(_WEIGHT, 'setWeight must be a whole number from 0 to 100, or a percentage as "0.5%"'),
    ),
    "RolloutFreezeSpec": (
        CelRule(
            "!has(self.windows) || size(self.windows) == 0 || (!has(self.start) && !has(self.end))",
            "windows stand beside start or end: write one or the other",
        ),
        CelRule("!has(self.start) || !has(self.end) || self.end > self.start", "end must be after start"),
    ),
    "PoolSplitSpec": (
        CelRule("self.poolRef == oldSelf.poolRef", "poolRef cannot be changed: make a new PoolSplit"),
        CelRule(
            "self.variants.all(a, self.variants.exists_one(b, b.name == a.name))",
            "two variants have the same name",
        ),
        CelRule("self.variants.exists(v, v.weight > 0)", "no variant has a weight: give one its share"),
        CelRule(
            "self.variants.all(a, self.variants.all(b, a.name == b.name || "
            "a.labels.exists(k, k in b.labels && a.labels[k] != b.labels[k])))",
            "a pod could have the labels of two variants: give one of their labels another value",
        ),
    ),
    "RequirementModel": (
        CelRule(
            "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
            "In and NotIn take values, Exists and DoesNotExist take none",
        ),
    ),
    "WindowModel": (
        CelRule(
            "self.schedule.matches('^\\\\S+ +\\\\S+ +\\\\S+ +\\\\S+ +\\\\S+$')",
            "a schedule has five fields: minute, hour, day of the month, month, day of the week",
        ),
        CelRule(
            "self.schedule.matches('^\\\\S+ +\\\\S+ +([*] +\\\\S+ +\\\\S+|\\\\S+ +\\\\S+ +[*])$') || "
            "!self.schedule.matches('^\\\\S+ +\\\\S+ +\\\\S+ +\\\\S+ +\\\\S+$')",
            "day of the month and day of the week are both set: cron takes either, people mean both; leave one *",
        ),
    ),
    "PauseModel": (
        CelRule(
            f"!has(self.duration) || {_DURATION}",
            "duration must be seconds, or a text such as 90s, 10m or 1h30m",
        ),
    ),
    "HeaderValueModel": (
        CelRule(_one("exact", "prefix", "regex"), "exactly one of exact, prefix and regex must be set"),
    ),
    "StickyModel": (
        CelRule(
            _one_text("header", "cookie", "bodyField"),
            "exactly one of header, cookie and bodyField must be set",
        ),
    ),
    "CanaryModel": (_STARTING_STEP, _HEADROOM),
    "OwnCanaryModel": (_STARTING_STEP, _HEADROOM),
    "CapacityModel": (
        _pods("maxSurge"),
        _pods("minStable"),
        CelRule(
            "!has(self.with) || self.with.all(x, self.with.exists_one(y, y.pool == x.pool))",
            f"with: a pool {COMPANION_TWICE}",
        ),
    ),
    "CompanionPoolModel": (CelRule("!has(self.of) || self.of != self.pool", f"of {OWN_COMPANION}"),),
    "WarmUpModel": (
        CelRule(
            "(has(self.concurrency) ? self.concurrency : 2) <= (has(self.requests) ? self.requests : 20)",
            f"concurrency {MORE_THAN_REQUESTS}",
        ),
    ),
    "StrategyModel": (
        CelRule(
            "has(self.canaryFrom) || (has(self.canary) && has(self.canary.steps))",
            "canary.steps is needed, or canaryFrom with the name of a shared strategy",
        ),
    ),
    "GateModel": (
        CelRule(
            "(has(self.templates) && size(self.templates) > 0) || (has(self.metrics) && size(self.metrics) > 0) || "
            "(has(self.preset) && self.preset != '')",
            "measures nothing: set templates, metrics or preset",
        ),
    ),
    "BackgroundModel": (
        CelRule(
            "(has(self.templates) && size(self.templates) > 0) || (has(self.metrics) && size(self.metrics) > 0) || "
            "(has(self.preset) && self.preset != '')",
            "measures nothing: set templates, metrics or preset",
        ),
    ),
    "MetricModel": (
        CelRule(_one("query", "measure", "compare"), "exactly one of query, measure and compare must be set"),
        CelRule(
            "!has(self.count) || self.count < 2 || has(self.interval)",
            "interval is needed with a count above 1",
        ),
        CelRule(
            "!has(self.query) || !has(self.source) || self.source != 'pods'",
            "source pods knows no PromQL: use measure, or a Prometheus source",
        ),
        CelRule(
            "!has(self.compare) || (!has(self.successCondition) && !has(self.failureCondition))",
            "compare takes no conditions: it has verdicts of its own",
        ),
        CelRule(
            "has(self.compare) || has(self.successCondition) || has(self.failureCondition)",
            "a query or measure needs successCondition or failureCondition: without one every value would pass",
        ),
        CelRule(
            f"{_spelled('successCondition')} && {_spelled('failureCondition')}",
            "a condition is CEL: <= and >= for at most and at least, and plain numbers, 2.0 for 2000ms and 0.05 for 5%",
        ),
        CelRule(
            f"{_looks('successCondition')} && {_looks('failureCondition')}",
            "a condition must look at result, as in result < 2.0: this one says the same of every value",
        ),
        CelRule(
            "!has(self.successCondition) || !has(self.failureCondition) || "
            "self.successCondition != self.failureCondition",
            "successCondition and failureCondition are the same: no value could pass",
        ),
        CelRule(
            f"{_at_most_count('failureLimit')} && {_at_most_count('inconclusiveLimit')}",
            "failureLimit and inconclusiveLimit must not be above count; -1 is without limit",
        ),
        CelRule(
            _at_most_count("consecutiveSuccessLimit"),
            "consecutiveSuccessLimit is above count: the metric could never pass",
        ),
        CelRule(
            "!has(self.consecutiveSuccessLimit) || self.consecutiveSuccessLimit < 2 || has(self.interval)",
            "interval is needed with a consecutiveSuccessLimit above 1",
        ),
    ),
    "MeasureModel": (
        CelRule(_known(MEASURED), f"there is no such preset; there are {', '.join(MEASURED)}"),
        CelRule(
            _one_text("preset", "histogram", "counter*", "gauge"),
            "exactly one of preset, histogram, counter and gauge must be set",
        ),
    ),
    "CompareModel": (
        CelRule(_known(COMPARED), f"there is no such preset; there are {', '.join(COMPARED)}"),
        CelRule(
            _one_text("preset", "histogram", "counter*", "gauge"),
            "exactly one of preset, histogram, counter and gauge must be set",
        ),
    ),
    "RunMarkModel": (
        CelRule(_SHARE, 'weight must be a whole number from 0 to 100, or a percentage as "0.5%"'),
        CelRule("timestamp(self.at) == timestamp(self.at)", "at must be a time"),
    ),
    "RunExclude": (
        CelRule(
            "timestamp(self.from) <= timestamp(self.to) || timestamp(self.from) > timestamp(self.to)",
            "from and to must be times",
        ),
    ),
    "AnalysisRunSpec": (
        *(CelRule(_kept(field), f"{field} of a run cannot be changed") for field in _FIXED),
        *(
            CelRule(
                _kept(field, unless=_OTHER_STEPS),
                f"{field} of a run can only be changed with stepsHash, by the Rollout whose steps were edited",
            )
            for field in _GATES
        ),
        CelRule("!has(self.since) || timestamp(self.since) == timestamp(self.since)", "since must be a time"),
        CelRule(_appended("marks", after="at"), "marks of a run can only be appended to"),
        CelRule(_appended("exclude"), "exclude of a run can only be appended to"),
        CelRule(
            "!has(oldSelf.terminate) || !oldSelf.terminate || (has(self.terminate) && self.terminate)",
            "a run that was told to end cannot be told to go on",
        ),
        CelRule("has(self.stepsHash) || !has(oldSelf.stepsHash)", "stepsHash of a run cannot be taken away"),
    ),
    "RolloutSpecModel": (
        *(
            CelRule(
                f"!has(self.target.{kind.field}) || "
                f"{_any('self.traffic', *(one.field for one in kinds_for(kind)))}",
                needed_traffic(kind),
            )
            for kind in target_kinds()
        ),
        CelRule(
            f"!{_any('self.target', *_BY_GATEWAY)} || !has(self.strategy.canary) || "
            "!has(self.strategy.canary.sticky)",
            f"sticky {STICKY_WITHOUT_POOL}",
        ),
        CelRule(
            f"{_any('self.target', *_SCALED)} || !has(self.strategy.canary) || !has(self.strategy.canary.capacity)",
            f"capacity {CAPACITY_NEEDS_POOL}",
        ),
        CelRule(
            "!has(self.target.pool) || !has(self.strategy.canary) || !has(self.strategy.canary.capacity) || "
            "!has(self.strategy.canary.capacity.with) || "
            "self.strategy.canary.capacity.with.all(x, x.pool != self.target.pool.name)",
            f"capacity.with: a pool {COMPANION_IS_TARGET}",
        ),
        *(rule for kind in STOPPED_KINDS for rule in _of_stopped(kind)),
        CelRule(
            "!has(self.strategy.canary) || !has(self.strategy.canary.steps) || "
            "!self.strategy.canary.steps.exists(s, has(s.setHeaderRoute)) || (has(self.traffic.httpRoutes) && "
            "has(self.traffic.httpRoutes[0].template))",
            "setHeaderRoute needs a Managed route (traffic.httpRoutes[0].template)",
        ),
        CelRule(
            "!has(self.strategy.canary) || !has(self.strategy.canary.pathProbe) || "
            "self.strategy.canary.pathProbe != 'Require' || "
            "(has(self.traffic.httpRoutes) && has(self.traffic.httpRoutes[0].template))",
            "pathProbe Require needs a Managed route (traffic.httpRoutes[0].template)",
        ),
    ),
}
