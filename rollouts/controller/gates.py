"""Gates of a Rollout: what is wrong with them before they run, and the AnalysisRuns and Jobs they become."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rollouts.analysis.templates import Gate, Resolved, Template, resolve
from rollouts.analysis.types import ArmRef, MetricSpec, QuerySpec, RunSpec
from rollouts.api.analysis_models import GateModel
from rollouts.api.parsing import ParsedRollout
from rollouts.api.runs import gate_of, parse_template, run_spec_json
from rollouts.controller import kinds
from rollouts.controller.caches import Caches
from rollouts.controller.observing import Gathered
from rollouts.engine.actions import CreateJob, CreateRun
from rollouts.engine.observation import Problem
from rollouts.engine.types import AdapterTraffic, Revision, TargetKind
from rollouts.runtime.objects import ObjectKey

__all__ = ["Gates"]

PICKER = "picker"
"""The built-in source of adapter rollouts: what the endpoint pickers measured."""

_LABEL = "inferencerollouts.dev/rollout-name"
_STEP_LABEL = "inferencerollouts.dev/step"
_LABEL_LIMIT = 63
_NOT_WATCHED = (
    "ClusterAnalysisTemplate {name}: this controller does not read ClusterAnalysisTemplates: start it with "
    "--cluster-templates (chart: clusterTemplates), or use an AnalysisTemplate of the namespace"
)


class Gates:
    """Resolves the gates of Rollouts against the templates in the caches. ``sources`` are configured names."""

    def __init__(self, caches: Caches, sources: frozenset[str]) -> None:
        self._caches = caches
        self._sources = sources

    def problems(self, parsed: ParsedRollout) -> tuple[Problem, ...]:
        """What keeps any gate of the spec from being started."""
        if parsed.model is None:
            return ()
        canary = parsed.model.strategy.canary
        models: list[GateModel] = [step.analysis for step in canary.steps if step.analysis is not None]
        if canary.analysis is not None:
            models.append(canary.analysis)
        found: dict[tuple[str, str], None] = {}
        for model in models:
            found.update(dict.fromkeys(self._resolve(parsed, model).problems))
        return tuple(Problem(reason=reason, message=message) for reason, message in list(found)[:8])

    def _resolve(self, parsed: ParsedRollout, model: GateModel) -> Resolved:
        try:
            gate = gate_of(model)
        except ValueError as error:
            return Resolved(metrics=(), problems=(("SpecInvalid", str(error)),))
        templates, broken = self._templates(parsed.namespace, gate)
        resolved = resolve(gate, templates, self._built_in(parsed), self._sources)
        if parsed.spec is not None and parsed.spec.target.kind is TargetKind.ADAPTER:
            # A model server's own figures never carry the adapter.
            resolved = replace(resolved, metrics=tuple(map(_by_picker, resolved.metrics)))
        if not broken:
            return resolved
        # A template that cannot be read is there: its own problem replaces "does not exist".
        others = tuple(item for item in resolved.problems if item[0] != "TemplateMissing")
        return Resolved(metrics=(), problems=(*broken, *others))

    def _templates(
        self, namespace: str, gate: Gate
    ) -> tuple[dict[tuple[bool, str], Template], tuple[tuple[str, str], ...]]:
        found: dict[tuple[bool, str], Template] = {}
        broken: list[tuple[str, str]] = []
        for cluster, name in gate.templates:
            if cluster and not self._caches.watches_cluster_templates:
                broken.append(("TemplateMissing", _NOT_WATCHED.format(name=name)))
                continue
            store = self._caches.cluster_templates if cluster else self._caches.templates
            obj = store.get(ObjectKey("" if cluster else namespace, name))
            if obj is None:
                continue
            template = parse_template(obj)
            if isinstance(template, str):
                broken.append(("TemplateInvalid", template))
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
        """See ``RunBuilder.build_run``."""
        parsed = gathered.parsed
        assert parsed.model is not None
        canary = parsed.model.strategy.canary
        model = canary.analysis if action.step is None else canary.steps[action.step].analysis
        assert model is not None
        stable = parsed.status.stable
        spec = RunSpec(
            rollout=parsed.name,
            attempt=action.attempt,
            step=action.step,
            canary=_arm(gathered, action.revision),
            stable=None if stable is None else _arm(gathered, stable),
            metrics=self._resolve(parsed, model).metrics,
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
        """See ``RunBuilder.build_job``. The end is the verdict, so a Job that says nothing is not retried."""
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
            "labels": {_LABEL: parsed.name[:_LABEL_LIMIT].rstrip("-."), _STEP_LABEL: step},
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


def _by_picker(metric: MetricSpec) -> MetricSpec:
    picked = metric.source == "default" and not isinstance(metric.what, QuerySpec)
    return replace(metric, source=PICKER) if picked else metric


def _arm(gathered: Gathered, revision: Revision) -> ArmRef:
    identity, carrier = revision.identity, gathered.carrier
    spec = carrier.target.spec if carrier is not None else None
    if isinstance(spec, AdapterTraffic):
        return ArmRef(
            kind=identity.kind,
            group=spec.pool_group,
            name=identity.name,
            pool=spec.pool_name,
            model=spec.model_name,
        )
    return ArmRef(kind=identity.kind, group=identity.group, name=identity.name)
