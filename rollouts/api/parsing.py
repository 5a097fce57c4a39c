"""A raw Rollout object into the engine's values. Never raises, whatever the object holds."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from rollouts.api.base import shape_errors
from rollouts.api.rollout_models import RolloutSpecModel, StepModel
from rollouts.api.scalars import parse_duration, parse_weight
from rollouts.api.spec_rules import check_spec, read_capacity, read_window
from rollouts.api.spelling import in_one_spelling
from rollouts.api.status import read_status
from rollouts.api.strategies import StrategyRef, effective_spec, strategy_ref
from rollouts.carriers import asked, given, stopped_targets
from rollouts.engine.attempt import PinnedStrategy
from rollouts.engine.finalizing import RELEASE_ANNOTATION
from rollouts.engine.observation import Problem
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import (
    AnalysisStep,
    ApproveStep,
    BackgroundAnalysis,
    CanaryStrategy,
    Dependency,
    HeaderMatch,
    HeaderMatchType,
    HeaderRouteStep,
    JobStep,
    OnDeadline,
    OnDelete,
    PathProbe,
    PauseStep,
    RolloutSpec,
    Step,
    Sticky,
    WeightStep,
)
from rollouts.engine.rollout_status import RolloutStatus
from rollouts.objects.fields import list_of, map_of, metadata_of, nested_deeper, text_of

__all__ = [
    "COMMAND_ANNOTATION",
    "COMMIT_ANNOTATION",
    "FINALIZER",
    "ParsedRollout",
    "SpecCache",
    "parse_rollout",
]

COMMAND_ANNOTATION = "inferencerollouts.dev/command"
COMMIT_ANNOTATION = "inferencerollouts.dev/commit"
"""Set by CI beside the change, in the same commit or patch: which commit of which repository asks for it."""
FINALIZER = "inferencerollouts.dev/restore-traffic"

_SPEC_BYTES = 3 * 1024 * 1024
"""JSON of a spec that is looked at: what an API server takes in one request, so that none of its objects is larger."""
_DEEPEST = 64
"""Nesting of what a spec holds for others (a Job's spec, a route's template): twice that of any of their fields."""

_MAX_PROBLEMS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedRollout:
    """What the controller needs of one Rollout.

    ``spec`` is None when the spec has the wrong shape; ``problems`` then says where. With problems of meaning
    only, ``spec`` is there as well, so that traffic can still be brought back to stable. ``model`` gives the
    parts that the engine does not look into (metrics, job and route templates).

    With ``strategy_ref`` both are of the effective strategy: the Rollout's own fields over ``strategy``. Where that is
    None it is not known, and a strategy that moves no weight stands in its place.
    """

    namespace: str
    name: str
    uid: str
    generation: int
    resource_version: str
    deleting: bool
    has_finalizer: bool
    command: str
    on_delete: OnDelete
    """As far as it can be read, where ``spec`` is None."""
    release_now: bool
    model: RolloutSpecModel | None
    spec: RolloutSpec | None
    problems: tuple[Problem, ...]
    status: RolloutStatus
    unreadable_status: tuple[str, ...]
    strategy_ref: StrategyRef | None = None
    strategy: PinnedStrategy | None = None

    @property
    def known_steps(self) -> tuple[Step, ...]:
        """The steps where it is known which those are: people are not to see what stands in their place."""
        if self.spec is None or (self.strategy_ref is not None and self.strategy is None):
            return ()
        return self.spec.canary.steps


Spec = tuple[RolloutSpecModel | None, RolloutSpec | None, tuple[Problem, ...]]


class SpecCache:
    """Parsed specs by UID and generation: a spec never changes within one generation, but for its shared strategy.

    Bounded; an object without UID or generation is parsed each time.
    """

    def __init__(self, limit: int = 10_000) -> None:
        self._limit = limit
        self._specs: OrderedDict[str, tuple[tuple[int, str], Spec]] = OrderedDict()

    def spec(self, meta: Mapping[str, Any], spec: Any, strategy: PinnedStrategy | None = None) -> Spec:
        """The parsed spec of an object with this metadata, with this shared strategy."""
        uid, generation = meta.get("uid"), meta.get("generation")
        if not isinstance(uid, str) or not uid or not isinstance(generation, int):
            return _parse_spec(spec, strategy)
        known, mark = self._specs.get(uid), (generation, strategy.content if strategy is not None else "")
        if known is not None and known[0] == mark:
            return known[1]
        parsed = _parse_spec(spec, strategy)
        self._specs[uid] = (mark, parsed)
        if len(self._specs) > self._limit:
            self._specs.popitem(last=False)
        return parsed


def _parse_spec(spec: Any, strategy: PinnedStrategy | None) -> Spec:
    model, problems = _read_model(effective_spec(spec, strategy))
    return model, _convert(model) if model is not None else None, problems


def parse_rollout(
    obj: Mapping[str, Any], cache: SpecCache | None = None, *, strategy: PinnedStrategy | None = None
) -> ParsedRollout:
    """Parse a Rollout as the API server gave it; ``cache`` saves parsing a known spec again.

    ``strategy``: the shared one that it names; without, what its attempt has pinned of that.
    """
    meta = metadata_of(obj)
    annotations, finalizers = map_of(meta.get("annotations")), list_of(meta.get("finalizers"))
    status, unreadable = read_status(obj.get("status"))
    named = strategy_ref(obj.get("spec"))
    if strategy is None and named is not None and status.current is not None:
        strategy = status.current.strategy if named.fits(status.current.strategy) else None
    if cache is not None:
        model, spec, problems = cache.spec(meta, obj.get("spec"), strategy)
    else:
        model, spec, problems = _parse_spec(obj.get("spec"), strategy)
    generation = meta.get("generation")
    return ParsedRollout(
        namespace=str(meta.get("namespace", "")),
        name=str(meta.get("name", "")),
        uid=str(meta.get("uid", "")),
        generation=generation if isinstance(generation, int) else 0,
        resource_version=str(meta.get("resourceVersion", "")),
        deleting=bool(meta.get("deletionTimestamp")),
        has_finalizer=FINALIZER in finalizers,
        command=text_of(annotations.get(COMMAND_ANNOTATION)),
        on_delete=spec.on_delete if spec is not None else _on_delete(obj.get("spec")),
        release_now=annotations.get(RELEASE_ANNOTATION) == "now",
        model=model,
        spec=spec,
        problems=problems,
        status=status,
        unreadable_status=unreadable,
        strategy_ref=named,
        strategy=strategy,
    )


def _on_delete(spec: Any) -> OnDelete:
    """What deleting a Rollout does whose spec cannot be read: what it says of that, else back to stable."""
    try:
        return OnDelete(map_of(spec).get("onDelete"))
    except ValueError:
        return OnDelete.RESTORE_STABLE


def _convert(model: RolloutSpecModel) -> RolloutSpec | None:
    """The engine's spec; None where a broken rule leaves nothing that the engine's types could say."""
    if len(asked(model.target)) != 1 or len(given(model.traffic)) != 1:
        return None
    try:
        return _engine_spec(model)
    except (ValueError, AssertionError):
        return None


def _invalid(message: str) -> Problem:
    return Problem(reason=Reason.SPEC_INVALID, message=message)


def _read_model(spec: Any) -> tuple[RolloutSpecModel | None, tuple[Problem, ...]]:
    if not isinstance(spec, Mapping):
        return None, (_invalid("spec is missing or not an object: write one"),)
    deep = nested_deeper(spec, _DEEPEST)
    try:
        if not deep and len(json.dumps(spec)) > _SPEC_BYTES:
            return None, (_invalid(f"spec is larger than {_SPEC_BYTES} bytes"),)
        model = RolloutSpecModel.model_validate(dict(spec))
    except ValidationError as error:
        return None, _shape_problems(error)
    except (ValueError, TypeError, RecursionError):
        return None, (_invalid("spec cannot be read: it is nested too deeply"),)
    found = [_invalid(f"{path} {text}") for path, text in check_spec(model)]
    if deep:
        message = (
            f"spec is nested deeper than {_DEEPEST} levels, which nothing that it may hold is: check its Jobs"
        )
        found.append(_invalid(f"{message} and the route's template"))
    return model, tuple(found[:_MAX_PROBLEMS])


def _shape_problems(error: ValidationError) -> tuple[Problem, ...]:
    return tuple(map(_invalid, shape_errors(error, "spec", _MAX_PROBLEMS)))


# --- model to engine -------------------------------------------------------------------------------


def _fingerprint(value: Any) -> str:
    """Of a form as the user wrote it; what is nested too deeply to be written out is told by its kind alone."""
    if nested_deeper(value, _DEEPEST):
        return "too-deep"
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _engine_spec(model: RolloutSpecModel) -> RolloutSpec:
    canary = model.strategy.canary
    background = canary.analysis
    ((kind, traffic),), ((version, target),) = given(model.traffic), asked(model.target)
    return RolloutSpec(
        target=version.read(target, model.target.revision),
        traffic=kind.read(traffic, _fingerprint),
        canary=CanaryStrategy(
            steps=tuple(_step(step) for step in canary.steps),
            analysis=None
            if background is None
            else BackgroundAnalysis(
                fingerprint=_fingerprint(in_one_spelling(background)), starting_step=background.starting_step
            ),
            sticky=None
            if canary.sticky is None
            else Sticky(
                header=canary.sticky.header,
                cookie=canary.sticky.cookie,
                body_field=canary.sticky.body_field,
                pin_header=canary.sticky.pin_header,
            ),
            endpoint_ratio=float(canary.endpoint_ratio),
            bake=parse_duration(canary.bake),
            progress_deadline=parse_duration(canary.progress_deadline),
            on_deadline=OnDeadline(canary.on_deadline),
            target_deadline=parse_duration(canary.target_deadline or "0s") or None,
            path_probe=PathProbe(canary.path_probe),
            allow_no_traffic=canary.allow_no_traffic,
            windows=tuple(map(read_window, canary.windows)),
            **_losers(model),
        ),
        rollback_window=parse_duration(model.rollback_window.duration if model.rollback_window else "0s"),
        stable_hint=model.stable_hint,
        allow_missing_models=model.allow_missing_models,
        depends_on=tuple(
            Dependency(name=one.name, namespace=one.namespace, soak=parse_duration(one.soak))
            for one in model.depends_on
        ),
        paused=model.paused,
        on_delete=OnDelete(model.on_delete),
    )


def _losers(model: RolloutSpecModel) -> dict[str, Any]:
    """``capacity``: of versions that are stopped as a whole it says who is stopped, of all else who is scaled."""
    capacity = model.strategy.canary.capacity
    if capacity is None:
        return {}
    read = read_capacity(capacity)
    stops = stopped_targets(kind for kind, _ in asked(model.target))
    return {"stop": read.loser} if stops else {"capacity": read}


def _step(step: StepModel) -> Step:
    if step.set_weight is not None:
        return WeightStep(weight=parse_weight(step.set_weight))
    if step.pause is not None:
        duration = step.pause.duration
        return PauseStep(
            duration=None if duration is None else parse_duration(duration),
            approve=step.pause.approve.webhook if step.pause.approve is not None else "",
        )
    if step.approve is not None:
        return ApproveStep(webhook=step.approve.webhook)
    if step.analysis is not None:
        return AnalysisStep(fingerprint=_fingerprint(in_one_spelling(step.analysis)))
    if step.job is not None:
        return JobStep(fingerprint=_fingerprint(step.job.spec))
    assert step.set_header_route is not None
    matches = []
    for match in step.set_header_route.match:
        value = match.header_value
        if value.exact is not None:
            kind, text = HeaderMatchType.EXACT, value.exact
        elif value.prefix is not None:
            kind, text = HeaderMatchType.PREFIX, value.prefix
        else:
            kind, text = HeaderMatchType.REGEX, value.regex or ""
        matches.append(HeaderMatch(name=match.header_name, value=text, type=kind))
    return HeaderRouteStep(name=step.set_header_route.name, match=tuple(matches))
