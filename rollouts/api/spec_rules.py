"""Cross-field rules of the spec, in words: what the CRDs enforce by CEL and the parser checks again.

Objects may reach the controller through a server that evaluates no CEL, or may have been stored before a rule
existed; so every rule has both a CEL form (used by the CRD generator) and a Python form, with one message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pydantic.alias_generators import to_camel

from rollouts.api.analysis_models import GateModel, MetricModel
from rollouts.api.cel import (
    CAPACITY_NEEDS_POOL,
    COMPANION_IS_TARGET,
    COMPANION_TWICE,
    LESS_THAN_RATIO,
    MORE_THAN_REQUESTS,
    ONE_KIND,
    ONE_TARGET,
    OWN_COMPANION,
    STICKY_WITHOUT_POOL,
    needed_traffic,
    needs_scale_down,
    not_of_stopped,
    stopped_whole,
)
from rollouts.api.rollout_models import (
    CanaryModel,
    CapacityModel,
    RolloutSpecModel,
    ScaleDownPolicyModel,
    StepModel,
    WarmUpModel,
    WindowModel,
)
from rollouts.api.scalars import parse_duration, parse_weight
from rollouts.api.schedule import check_window
from rollouts.carriers import asked, given, stopped_targets
from rollouts.engine.rollout_spec import AbortSpeed, Capacity, CompanionPool, PodCount, WarmUp, Window
from rollouts.units import parse_pod_count

__all__ = ["check_canary", "check_gate", "check_metric", "check_spec", "read_capacity", "read_window"]


_CANARY = "spec.strategy.canary"

Finding = tuple[str, str]
"""Field path, and what is wrong and what to do."""


def _count(*values: object) -> int:
    return sum(value is not None and value not in ("", []) for value in values)


def check_spec(spec: RolloutSpecModel) -> Iterator[Finding]:
    """Every rule that the spec breaks."""
    yield from _check_target(spec)
    yield from _check_traffic(spec)
    managed = any(kind.managed(value) for kind, value in given(spec.traffic))
    yield from check_canary(spec.strategy.canary, _CANARY, managed=managed)
    yield from _check_not_companion(spec)
    yield from _check_stop(spec)
    window = spec.rollback_window.duration if spec.rollback_window else "0s"
    yield from _check_duration(window, "spec.rollbackWindow.duration")
    for index, one in enumerate(spec.depends_on):
        yield from _check_duration(one.soak, f"spec.dependsOn[{index}].soak")


def _check_not_companion(spec: RolloutSpecModel) -> Iterator[Finding]:
    capacity = spec.strategy.canary.capacity
    targets = {value.name for kind, value in asked(spec.target) if not kind.unscaled}
    for index, one in enumerate(capacity.with_ if capacity is not None else ()):
        if one.pool in targets:
            yield f"{_CANARY}.capacity.with[{index}].pool", COMPANION_IS_TARGET


def check_canary(canary: CanaryModel, path: str, *, managed: bool = True) -> Iterator[Finding]:
    """Rules of the strategy at ``path``, whatever the target; ``managed``: the route gets rules of ours."""
    steps = canary.steps
    for index, step in enumerate(steps):
        yield from _check_step(step, f"{path}.steps[{index}]", managed=managed)
    yield from _check_order(steps, path)
    if canary.path_probe == "Require" and not managed:
        yield (
            f"{path}.pathProbe",
            "Require needs a Managed route (traffic.httpRoutes[0].template): an Adopted one gets no rules of ours",
        )
    if canary.capacity is not None:
        yield from _check_capacity(canary.capacity, canary.endpoint_ratio, f"{path}.capacity")
    for index, window in enumerate(canary.windows):
        yield from _check_window(window, f"{path}.windows[{index}]")
    sticky = canary.sticky
    if sticky is not None and _count(sticky.header, sticky.cookie, sticky.body_field) != 1:
        yield f"{path}.sticky", "exactly one of header, cookie and bodyField must be set"
    background = canary.analysis
    if background is not None:
        if background.starting_step >= len(steps):
            yield (
                f"{path}.analysis.startingStep",
                f"is past the last step: there are {len(steps)}, counted from 0",
            )
        yield from check_gate(background, f"{path}.analysis")
    for name, value in (
        ("bake", canary.bake),
        ("progressDeadline", canary.progress_deadline),
        ("targetDeadline", canary.target_deadline or "0s"),
    ):
        yield from _check_duration(value, f"{path}.{name}")


def read_window(window: WindowModel) -> Window:
    """The engine's window. Raises ValueError."""
    return Window(
        schedule=window.schedule, duration=parse_duration(window.duration), time_zone=window.time_zone
    )


def read_capacity(capacity: CapacityModel) -> Capacity:
    """The engine's form of ``capacity``. Raises ValueError."""
    surge, down = capacity.max_surge, capacity.scale_down or ScaleDownPolicyModel()
    return Capacity(
        max_surge=None if surge is None else _pods(surge),
        min_stable=_pods(capacity.min_stable),
        abort=AbortSpeed(capacity.abort),
        headroom=float(capacity.headroom),
        min_replicas=capacity.min_replicas,
        drain_timeout=parse_duration(capacity.drain_timeout),
        scale_down_delay=parse_duration(down.delay),
        scale_down_to=down.to,
        warm_up=None if capacity.warm_up is None else _warm_up(capacity.warm_up),
        companions=tuple(CompanionPool(pool=one.pool, of=one.of, role=one.role) for one in capacity.with_),
    )


def _warm_up(asked: WarmUpModel) -> WarmUp:
    prompts = asked.prompts
    return WarmUp(
        requests=asked.requests,
        concurrency=asked.concurrency,
        config_map=prompts.config_map if prompts is not None else "",
        key=prompts.key if prompts is not None else "",
    )


def _pods(value: int | str) -> PodCount:
    number, percent = parse_pod_count(value)
    return PodCount(number=number, percent=percent)


def _check_capacity(capacity: CapacityModel, ratio: float, path: str) -> Iterator[Finding]:
    surge = capacity.max_surge
    if surge is not None:
        yield from _attempt(lambda: _pods(surge), f"{path}.maxSurge")
    yield from _attempt(lambda: _pods(capacity.min_stable), f"{path}.minStable")
    if capacity.headroom < ratio:
        yield f"{path}.headroom", LESS_THAN_RATIO
    yield from _check_duration(capacity.drain_timeout, f"{path}.drainTimeout")
    if capacity.warm_up is not None and capacity.warm_up.concurrency > capacity.warm_up.requests:
        yield f"{path}.warmUp.concurrency", MORE_THAN_REQUESTS
    if capacity.scale_down is not None:
        yield from _check_duration(capacity.scale_down.delay, f"{path}.scaleDown.delay")
    named = [one.pool for one in capacity.with_]
    for index, one in enumerate(capacity.with_):
        if one.pool in named[:index]:
            yield f"{path}.with[{index}].pool", COMPANION_TWICE
        if one.of == one.pool:
            yield f"{path}.with[{index}].of", OWN_COMPANION


def _check_stop(spec: RolloutSpecModel) -> Iterator[Finding]:
    """Of versions that are stopped as a whole; fields with their defaults may have been filled in by the API server."""
    capacity, plain, path = spec.strategy.canary.capacity, CapacityModel(), f"{_CANARY}.capacity"
    for kind in stopped_targets(kind for kind, _ in asked(spec.target)):
        if capacity is None:
            continue
        for name, field in type(capacity).model_fields.items():
            ours = name in ("scale_down", "drain_timeout")
            if not ours and getattr(capacity, name) != getattr(plain, name):
                yield f"{path}.{field.alias or to_camel(name)}", not_of_stopped(kind)
        if capacity.scale_down is None:
            yield path, needs_scale_down(kind)
        elif capacity.scale_down.to:
            yield f"{path}.scaleDown.to", stopped_whole(kind)


def _check_window(window: WindowModel, path: str) -> Iterator[Finding]:
    try:
        wrong = check_window(read_window(window))
    except ValueError as error:
        wrong = f"duration: {error}"
    if wrong:
        yield path, wrong


def _check_target(spec: RolloutSpecModel) -> Iterator[Finding]:
    found, canary = asked(spec.target), spec.strategy.canary
    if len(found) != 1:
        yield "spec.target", ONE_TARGET
    for kind, value in found:
        for path, text in kind.findings(value):
            yield f"spec.target.{path}", text
    if canary.sticky is not None and not all(kind.by_picker for kind, _ in found):
        yield f"{_CANARY}.sticky", STICKY_WITHOUT_POOL
    if canary.capacity is not None and all(kind.unscaled for kind, _ in found):
        yield f"{_CANARY}.capacity", CAPACITY_NEEDS_POOL


def _check_traffic(spec: RolloutSpecModel) -> Iterator[Finding]:
    found = given(spec.traffic)
    if len(found) != 1:
        yield "spec.traffic", ONE_KIND
        return
    ((kind, value),) = found
    for target, _ in asked(spec.target):
        if kind.target is not target:
            yield "spec.traffic", needed_traffic(target)
    for path, text in kind.findings(value):
        yield f"spec.traffic.{path}", text


def _check_step(step: StepModel, path: str, *, managed: bool) -> Iterator[Finding]:
    fields = (step.set_weight, step.pause, step.approve, step.analysis, step.job, step.set_header_route)
    if sum(field is not None for field in fields) != 1:
        yield path, "exactly one of setWeight, pause, approve, analysis, job and setHeaderRoute must be set"
        return
    if step.set_weight is not None:
        yield from _attempt(lambda: parse_weight(step.set_weight), f"{path}.setWeight")
    if step.pause is not None and step.pause.duration is not None:
        yield from _check_duration(step.pause.duration, f"{path}.pause.duration")
    if step.analysis is not None:
        yield from check_gate(step.analysis, f"{path}.analysis")
    if step.set_header_route is not None:
        if not managed:
            yield (
                f"{path}.setHeaderRoute",
                "needs a Managed route (traffic.httpRoutes[0].template): an Adopted one gets no rules of ours",
            )
        for number, match in enumerate(step.set_header_route.match):
            value = match.header_value
            if _count(value.exact, value.prefix, value.regex) != 1:
                yield (
                    f"{path}.setHeaderRoute.match[{number}].headerValue",
                    "exactly one of exact, prefix and regex must be set",
                )


def _check_order(steps: list[StepModel], path: str) -> Iterator[Finding]:
    last = 0
    for index, step in enumerate(steps):
        if step.set_weight is None:
            continue
        try:
            weight = parse_weight(step.set_weight)
        except ValueError:
            continue
        if weight < last:
            yield (
                f"{path}.steps[{index}].setWeight",
                "is lower than the weight before it: weights must not fall from step to step",
            )
        last = max(last, weight)


def check_gate(gate: GateModel, path: str) -> Iterator[Finding]:
    """Rules of one gate: something to measure, metric names unique, metrics sound."""
    if not gate.templates and not gate.metrics and not gate.preset:
        yield path, "measures nothing: set templates, metrics or preset"
    names = [metric.name for metric in gate.metrics]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{path}.metrics", f"two metrics are called {name}: give each its own name"
    given = [argument.name for argument in gate.args]
    for name in sorted({name for name in given if given.count(name) > 1}):
        yield f"{path}.args", f"two arguments are called {name}: leave one of them out"
    for index, metric in enumerate(gate.metrics):
        yield from check_metric(metric, f"{path}.metrics[{index}]")


def check_metric(metric: MetricModel, path: str) -> Iterator[Finding]:
    """Rules of one metric."""
    if _count(metric.query, metric.measure, metric.compare) != 1:
        yield path, "exactly one of query, measure and compare must be set"
    if metric.measure is not None:
        measure = metric.measure
        if _count(measure.preset, measure.histogram, measure.counter, measure.gauge) != 1:
            yield f"{path}.measure", "exactly one of preset, histogram, counter and gauge must be set"
        yield from _check_duration(measure.window, f"{path}.measure.window")
    if metric.compare is not None:
        compare = metric.compare
        if _count(compare.preset, compare.histogram, compare.counter, compare.gauge) != 1:
            yield f"{path}.compare", "exactly one of preset, histogram, counter and gauge must be set"
        if metric.success_condition or metric.failure_condition:
            yield f"{path}.compare", "takes no conditions: it has verdicts of its own"
    else:
        yield from _check_conditions(metric, path)
    if metric.count is not None and metric.count > 1 and metric.interval is None:
        yield f"{path}.interval", f"is needed with count {metric.count}"
    yield from _check_limits(metric, path)
    if metric.query is not None and metric.source == "pods":
        yield f"{path}.source", "is pods, which knows no PromQL: use measure, or a Prometheus source"
    for name, value in (
        ("interval", metric.interval),
        ("initialDelay", metric.initial_delay),
        ("errorTimeout", metric.error_timeout),
    ):
        if value is not None:
            yield from _check_duration(value, f"{path}.{name}")


def _check_conditions(metric: MetricModel, path: str) -> Iterator[Finding]:
    """What makes a threshold say the same whatever is measured."""
    given = {"successCondition": metric.success_condition, "failureCondition": metric.failure_condition}
    if not any(given.values()):
        yield path, "needs successCondition or failureCondition: without one every value would pass"
    for name, text in given.items():
        if text and "result" not in text:
            yield f"{path}.{name}", "must look at result, as in result < 2.0: it says the same of every value"
    if metric.success_condition and metric.success_condition == metric.failure_condition:
        yield f"{path}.failureCondition", "is the same as successCondition: no value could pass"


def _check_limits(metric: MetricModel, path: str) -> Iterator[Finding]:
    """Limits that the measurements can never reach, as Argo Rollouts refuses them."""
    if metric.count:
        for name, limit in (
            ("failureLimit", metric.failure_limit),
            ("inconclusiveLimit", metric.inconclusive_limit),
        ):
            if limit > metric.count:
                yield f"{path}.{name}", f"must not be above count {metric.count}; -1 is without limit"
        if metric.consecutive_success_limit > metric.count:
            yield (
                f"{path}.consecutiveSuccessLimit",
                f"is above count {metric.count}: the metric could never pass",
            )
    if metric.consecutive_success_limit > 1 and metric.interval is None:
        yield f"{path}.interval", f"is needed with consecutiveSuccessLimit {metric.consecutive_success_limit}"


def _check_duration(value: str | int, path: str) -> Iterator[Finding]:
    yield from _attempt(lambda: parse_duration(value), path)


def _attempt(check: Callable[[], object], path: str) -> Iterator[Finding]:
    try:
        check()
    except ValueError as error:
        yield path, str(error)
