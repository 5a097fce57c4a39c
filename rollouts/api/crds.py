"""The CustomResourceDefinitions of our kinds: names, printer columns, and schemas of the models (``structural``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel

from rollouts.api.analysis_models import AnalysisRunSpec, AnalysisTemplateSpec
from rollouts.api.freeze_models import RolloutFreezeSpec
from rollouts.api.pool_split_models import PoolSplitSpec
from rollouts.api.rollout_models import RolloutSpecModel, SharedStrategySpec
from rollouts.api.run_status_models import AnalysisRunStatusModel
from rollouts.api.status_models import RolloutStatusModel
from rollouts.api.structural import structural_schema, without_defaults, without_defaults_in_lists
from rollouts.objects import kinds
from rollouts.objects.kinds import GROUP, VERSION
from rollouts.objects.resource import Resource

__all__ = ["all_crds", "crd_files"]

Json = dict[str, Any]


def _column(name: str, path: str, *, kind: str = "string", priority: int = 0, about: str = "") -> Json:
    column: Json = {"name": name, "type": kind, "jsonPath": path}
    if priority:
        column["priority"] = priority
    if about:
        column["description"] = about
    return column


_AGE = _column("Age", ".metadata.creationTimestamp", kind="date")

_ROLLOUT_COLUMNS = [
    _column("Phase", ".status.phase"),
    _column("Step", ".status.step", about="Step, counted from 1."),
    _column("Weight", ".status.weightText", about="Share of the target."),
    _column("Stable", ".status.stable.name"),
    _column("Canary", ".status.canary.name"),
    _column(
        "Message", ".status.messageLine", about="What, why, and what now; all of it is in status.message."
    ),
    _AGE,
    _column("Observed", ".status.weight.observed", priority=1),
    _column("Attempt", ".status.attempt", kind="integer", priority=1),
    _column("Target-Hash", ".status.canary.hash", priority=1),
]

_RUN_COLUMNS = [
    _column("Phase", ".status.phase"),
    _column("Rollout", ".spec.rollout"),
    _column("Step", ".spec.step", kind="integer", about="0-based; empty for background analysis."),
    _column("Message", ".status.message"),
    _AGE,
]

_TEMPLATE_COLUMNS = [_AGE]

_STRATEGY_COLUMNS = [
    _column("Bake", ".spec.canary.bake", about="Time at 100 % before the canary becomes stable."),
    _column("Deadline", ".spec.canary.progressDeadline", about="Time that one step may take."),
    _AGE,
]

_FREEZE_COLUMNS = [
    _column("Reason", ".spec.reason"),
    _column("Start", ".spec.start", about="Empty: from its creation, or by windows."),
    _column("End", ".spec.end", about="Empty: until it is deleted, or by windows."),
    _AGE,
]

_SPLIT_COLUMNS = [
    _column("Pool", ".spec.poolRef.name"),
    _column("Model", ".spec.modelName", about="Empty: all requests of the pool."),
    _column("Variant", ".spec.variants[0].name"),
    _column("Weight", ".spec.variants[0].weight", kind="integer"),
    _column("Variant-2", ".spec.variants[1].name"),
    _column("Weight-2", ".spec.variants[1].weight", kind="integer"),
    _AGE,
]


_UNSEEN: Json = {"observedGeneration": 0}
"""Status of what no controller has looked at: no generation is 0. Without it kstatus (Flux's ``wait`` and health
checks, Helm 4's ``--wait``) takes an object without conditions for Ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _OwnKind:
    """A kind of ours; ``status`` None: it has none."""

    resource: Resource
    short: str
    spec: type[BaseModel]
    status: type[BaseModel] | None = None
    columns: list[Json]
    about: str


_KINDS = (
    _OwnKind(
        resource=kinds.ROLLOUT,
        short="iro",
        spec=RolloutSpecModel,
        status=RolloutStatusModel,
        columns=_ROLLOUT_COLUMNS,
        about="Moves the traffic of a model step by step from one version to the next, while metrics pass.",
    ),
    _OwnKind(
        resource=kinds.ANALYSIS_RUN,
        short="iar",
        spec=AnalysisRunSpec,
        status=AnalysisRunStatusModel,
        columns=_RUN_COLUMNS,
        about="One running or finished analysis of a Rollout's attempt.",
    ),
    _OwnKind(
        resource=kinds.ANALYSIS_TEMPLATE,
        short="iat",
        spec=AnalysisTemplateSpec,
        columns=_TEMPLATE_COLUMNS,
        about="Metrics that Rollouts of the namespace use by name.",
    ),
    _OwnKind(
        resource=kinds.CLUSTER_ANALYSIS_TEMPLATE,
        short="icat",
        spec=AnalysisTemplateSpec,
        columns=_TEMPLATE_COLUMNS,
        about="Metrics that Rollouts of all namespaces use by name.",
    ),
    _OwnKind(
        resource=kinds.ROLLOUT_STRATEGY,
        short="irs",
        spec=SharedStrategySpec,
        columns=_STRATEGY_COLUMNS,
        about="A canary strategy that Rollouts of the namespace share: strategy.canaryFrom names it.",
    ),
    _OwnKind(
        resource=kinds.CLUSTER_ROLLOUT_STRATEGY,
        short="icrs",
        spec=SharedStrategySpec,
        columns=_STRATEGY_COLUMNS,
        about="A canary strategy that Rollouts of all namespaces share: strategy.canaryFrom names it.",
    ),
    _OwnKind(
        resource=kinds.ROLLOUT_FREEZE,
        short="irf",
        spec=RolloutFreezeSpec,
        columns=_FREEZE_COLUMNS,
        about="A time in which no weight rises and no attempt begins in the Rollouts that it selects.",
    ),
    _OwnKind(
        resource=kinds.POOL_SPLIT,
        short="ips",
        spec=PoolSplitSpec,
        columns=_SPLIT_COLUMNS,
        about="Shares the requests of one InferencePool among versions of its pods, by label. Rollouts write it; "
        "keep it out of Git.",
    ),
)


def all_crds() -> list[Json]:
    """The CRDs of all kinds."""
    return [_crd(one) for one in _KINDS]


def _crd(own: _OwnKind) -> Json:
    kind, plural = own.resource.kind, own.resource.plural
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced" if own.resource.namespaced else "Cluster",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [own.short],
                "categories": ["inference-rollouts"],
            },
            "versions": [_version(own)],
        },
    }


def _version(own: _OwnKind) -> Json:
    """The one version, with the status as a subresource where there is a status."""
    properties: Json = {
        "apiVersion": {"type": "string", "description": "Version of this schema."},
        "kind": {"type": "string", "description": f"Always {own.resource.kind}."},
        "metadata": {"type": "object"},
        "spec": without_defaults_in_lists(structural_schema(own.spec)),
    }
    if own.status is not None:
        properties["status"] = without_defaults(structural_schema(own.status))
        if "observedGeneration" in properties["status"]["properties"]:
            properties["status"]["default"] = _UNSEEN
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": own.columns,
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "description": own.about,
                "required": ["spec"],
                "properties": properties,
            }
        },
        **({} if own.status is None else {"subresources": {"status": {}}}),
    }


def crd_files() -> Iterator[tuple[str, str]]:
    """(file name, YAML text) of each CRD."""
    for crd in all_crds():
        text = yaml.safe_dump(crd, sort_keys=False, width=110, allow_unicode=True)
        yield f"{crd['metadata']['name']}.yaml", "# Generated by `make generate`; do not edit.\n" + text
