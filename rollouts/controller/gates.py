"""Gates of a Rollout: what is wrong with them before they run, and the AnalysisRuns and Jobs they become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rollouts.analysis.comparisons import comparisons_of, too_many
from rollouts.analysis.offers import Offer
from rollouts.analysis.templates import Gate, ResolvedGate, Template, resolve
from rollouts.analysis.types import (
    ArmRef,
    CompareSpec,
    Comparison,
    RunMark,
    RunSpec,
)
from rollouts.api.analysis_models import GateModel
from rollouts.api.parsing import ParsedRollout
from rollouts.api.runs import gate_of, gates_of, parse_template, rate_of, run_spec_json
from rollouts.carriers.adapters import ADAPTER_TARGET
from rollouts.controller.caches import Caches
from rollouts.controller.conditions import UNCHECKED, Conditions, InlineConditions
from rollouts.controller.gathered import ComparedGates, Gathered
from rollouts.engine.actions import CreateJob, CreateRun
from rollouts.engine.attempt import Attempt
from rollouts.engine.observation import Problem
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import PickerTraffic
from rollouts.engine.variants import selector_of
from rollouts.engine.versions import VARIANT_KIND, Identity, Revision
from rollouts.objects import kinds
from rollouts.runtime.objects import ObjectKey
from rollouts.traffic.writes import label_value
from rollouts.units import FULL, ZERO, Weight

__all__ = ["NAME_LABEL", "UNCHECKED_REASON", "Gates", "arm_ref", "compared_of", "problems_of"]

StepGate = tuple[int | None, ResolvedGate]
"""A gate and the index of its step; None: the background's."""

UNCHECKED_REASON = Reason.CONDITION_UNCHECKED
"""A problem that ends by itself within a moment: nothing is shown of it."""

NAME_LABEL = "inferencerollouts.dev/rollout-name"
"""On the runs and Jobs that a Rollout makes, beside their ownerReference."""
_STEP_LABEL = "inferencerollouts.dev/step"
_NOT_WATCHED = (
    "ClusterAnalysisTemplate {name}: this controller does not read ClusterAnalysisTemplates: start it with "
    "--cluster-templates (chart: clusterTemplates), or use an AnalysisTemplate of the namespace"
)


def problems_of(resolved: Sequence[StepGate]) -> tuple[Problem, ...]:
    """What keeps any of these gates from being started."""
    found: dict[tuple[str, str], None] = {}
    for _, gate in resolved:
        found.update(dict.fromkeys(gate.problems))
    found.update(((Reason.TOO_MANY_METRICS, text), None) for text in too_many(_comparisons(resolved)))
    # What is not known yet comes first: it must not be cut off.
    ordered = sorted(found, key=lambda item: not item[1].endswith(UNCHECKED))
    return tuple(
        Problem(reason=UNCHECKED_REASON if message.endswith(UNCHECKED) else Reason(reason), message=message)
        for reason, message in ordered[:8]
    )


def compared_of(resolved: Sequence[StepGate]) -> ComparedGates:
    """Which of these gates read the attempt's evidence."""
    steps, only, background = set[int](), set[int](), False
    for step, gate in resolved:
        kinds_of = {isinstance(metric.what, CompareSpec) for metric in gate.metrics}
        background |= step is None and True in kinds_of
        if step is not None and True in kinds_of:
            steps.add(step)
            if kinds_of == {True}:
                only.add(step)
    return ComparedGates(steps=frozenset(steps), only=frozenset(only), background=background)


def _comparisons(resolved: Sequence[StepGate]) -> tuple[Comparison, ...]:
    return comparisons_of((step, gate.metrics) for step, gate in resolved)


class Gates:
    """Resolves the gates of Rollouts against the templates in the caches. ``sources``: what each of them offers."""

    def __init__(
        self, caches: Caches, sources: Mapping[str, Offer], conditions: Conditions | None = None
    ) -> None:
        self._caches = caches
        self._sources = sources
        self._conditions = conditions or InlineConditions()

    def resolved(self, parsed: ParsedRollout) -> tuple[StepGate, ...]:
        """Every gate of the spec by its step, the background's (None) last; none of a spec that is not valid."""
        if parsed.model is None:
            return ()
        models = gates_of(parsed.model.strategy.canary)
        return tuple((step, self._resolve(parsed, model)) for step, model in models)

    def _resolve(self, parsed: ParsedRollout, model: GateModel) -> ResolvedGate:
        try:
            gate = gate_of(model)
        except ValueError as error:
            return ResolvedGate(metrics=(), problems=((Reason.SPEC_INVALID, str(error)),))
        templates, broken = self._templates(parsed.namespace, gate)
        key = ObjectKey(parsed.namespace, parsed.name)
        adapter = parsed.spec is not None and parsed.spec.target.kind == ADAPTER_TARGET.field

        def check(text: str) -> str | None:
            return self._conditions.problem(key, text)

        resolved = resolve(gate, templates, self._built_in(parsed), self._sources, check, adapter=adapter)
        if not broken:
            return resolved
        # A template that cannot be read is there: its own problem replaces "does not exist".
        others = tuple(item for item in resolved.problems if item[0] != Reason.TEMPLATE_MISSING)
        return ResolvedGate(metrics=(), problems=(*broken, *others))

    def _templates(
        self, namespace: str, gate: Gate
    ) -> tuple[dict[tuple[bool, str], Template], tuple[tuple[str, str], ...]]:
        found: dict[tuple[bool, str], Template] = {}
        broken: list[tuple[str, str]] = []
        for cluster, name in gate.templates:
            if cluster and not self._caches.watches_cluster_templates:
                broken.append((Reason.TEMPLATE_MISSING, _NOT_WATCHED.format(name=name)))
                continue
            store = self._caches.cluster_templates if cluster else self._caches.templates
            obj = store.get(ObjectKey("" if cluster else namespace, name))
            if obj is None:
                continue
            template = parse_template(obj)
            if isinstance(template, str):
                broken.append((Reason.TEMPLATE_INVALID, template))
            else:
                found[cluster, name] = template
        return found, tuple(broken)

    @staticmethod
    def _built_in(parsed: ParsedRollout) -> dict[str, str]:
        """Arguments that every template may use."""
        status = parsed.status
        values = {"namespace": parsed.namespace, "rollout": parsed.name}
        for name, arm in (("stable", status.stable), ("canary", status.canary)):
            values[name] = arm.identity.name if arm is not None else ""
        return values

    # --- objects ---

    def build_run(self, gathered: Gathered, action: CreateRun) -> dict[str, Any]:
        """The AnalysisRun object for a gate."""
        parsed, current = gathered.parsed, gathered.parsed.status.current
        assert parsed.model is not None
        assert current is not None
        canary = parsed.model.strategy.canary
        model = canary.analysis if action.step is None else canary.steps[action.step].analysis
        stable = parsed.status.stable
        metrics = self._resolve(parsed, model).metrics if model is not None else ()
        spec = RunSpec(
            rollout=parsed.name,
            attempt=action.attempt,
            step=action.step,
            canary=_arm(gathered, action.revision),
            stable=None if stable is None else _arm(gathered, stable),
            metrics=tuple(metric for metric in metrics if not isinstance(metric.what, CompareSpec)),
            comparisons=_comparisons(self.resolved(parsed)) if action.step is None else (),
            metrics_from=canary.analysis.starting_step if canary.analysis is not None else 0,
            false_abort_rate=rate_of(canary),
            marks=_first_mark(current, parsed.status.weight.applied or ZERO),
            steps_hash=current.steps_hash,
            since=parsed.status.weight.since or current.step_started_at,
        )
        return {
            "apiVersion": f"{kinds.GROUP}/{kinds.VERSION}",
            "kind": "AnalysisRun",
            "metadata": self._metadata(
                gathered, action.name, "background" if action.step is None else str(action.step)
            ),
            "spec": run_spec_json(spec),
        }

    def build_job(self, gathered: Gathered, action: CreateJob) -> dict[str, Any]:
        """The Job object for a job step. Its end is the verdict, so a Job that says nothing is not retried."""
        parsed = gathered.parsed
        assert parsed.model is not None
        job = parsed.model.strategy.canary.steps[action.step].job
        assert job is not None
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": self._metadata(gathered, action.name, str(action.step)),
            "spec": {"backoffLimit": 0, **job.spec},
        }

    @staticmethod
    def _metadata(gathered: Gathered, name: str, step: str) -> dict[str, Any]:
        parsed = gathered.parsed
        return {
            "name": name,
            "namespace": parsed.namespace,
            "labels": {NAME_LABEL: label_value(parsed.name), _STEP_LABEL: step},
            "ownerReferences": [
                {
                    "apiVersion": f"{kinds.GROUP}/{kinds.VERSION}",
                    "kind": "Rollout",
                    "name": parsed.name,
                    "uid": parsed.uid,
                    "controller": True,
                    "blockOwnerDeletion": False,
                }
            ],
        }


def _first_mark(current: Attempt, weight: Weight) -> tuple[RunMark, ...]:
    """The weight in force when the run is made."""
    if current.step_started_at is None:
        return ()
    return (RunMark(at=current.step_started_at, step=current.current_step, weight=weight / FULL),)


def _arm(gathered: Gathered, revision: Revision) -> ArmRef:
    spec = gathered.carrier.target.spec if gathered.carrier is not None else None
    return arm_ref(revision.identity, spec if isinstance(spec, PickerTraffic) else None)


def arm_ref(identity: Identity, traffic: PickerTraffic | None = None) -> ArmRef:
    """An arm as runs name it; ``traffic`` is where the weights of versions that share a pool live."""
    if traffic is None:
        return ArmRef(kind=identity.kind, group=identity.group, name=identity.name)
    return ArmRef(
        kind=identity.kind,
        group=traffic.pool_group,
        name=identity.name,
        pool=traffic.pool_name,
        model=traffic.model_name,
        labels=selector_of(identity) if identity.kind == VARIANT_KIND else "",
    )
