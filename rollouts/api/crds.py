"""CustomResourceDefinitions from the models: structural schemas, CEL rules, printer columns.

The pydantic models are the one source. What a structural schema forbids (``$ref``, ``anyOf``, nested defaults of
null) is taken apart here; every rule across fields becomes an ``x-kubernetes-validations`` entry, with bounded
lists and strings so that the API server's cost estimate stays within its budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel

from rollouts.api.analysis_models import AnalysisRunSpec, AnalysisTemplateSpec
from rollouts.api.cel import CEL_RULES
from rollouts.api.freeze_models import RolloutFreezeSpec
from rollouts.api.pool_split_models import PoolSplitSpec
from rollouts.api.rollout_models import RolloutSpecModel, SharedStrategySpec
from rollouts.api.run_status_models import AnalysisRunStatusModel
from rollouts.api.status_models import RolloutStatusModel
from rollouts.objects import kinds
from rollouts.objects.kinds import GROUP, VERSION
from rollouts.objects.resource import Resource

__all__ = ["all_crds", "crd_files", "structural_schema"]

Json = dict[str, Any]

_KEPT = (
    "type",
    "description",
    "default",
    "enum",
    "format",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "pattern",
    "nullable",
)
_MAP_KEYS = {"conditions": ["type"]}


def structural_schema(model: type[BaseModel]) -> Json:
    """The structural schema of a model, references resolved, CEL rules attached."""
    schema = model.model_json_schema(by_alias=True, mode="validation")
    return _convert(schema, schema.get("$defs", {}))


def _convert(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Json:
    name, node = _resolve(node, definitions)
    if node.get("x-number-or-string"):
        return _number_or_string(node)
    if node.get("x-kubernetes-int-or-string"):
        return _int_or_string(node)
    result: Json = {key: node[key] for key in _KEPT if key in node and node[key] is not None}
    if "const" in node:
        result["enum"] = [node["const"]]
    for bound, exclusive in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if bound in node:
            result[exclusive], result[bound] = node[bound], True
    if "default" in result and result["default"] in ("", [], {}, None):
        del result["default"]
    if node.get("x-kubernetes-preserve-unknown-fields"):
        kept = {key: result[key] for key in ("description",) if key in result}
        return {"type": "object", "x-kubernetes-preserve-unknown-fields": True, **kept}
    if node.get("type") == "object":
        result |= _object(node, definitions)
    if node.get("type") == "array":
        result["items"] = _convert(node["items"], definitions)
    if node.get("x-unfilled"):
        result["properties"] = {
            field: _said(value) if "default" in value else value
            for field, value in result["properties"].items()
        }
    rules = CEL_RULES.get(name or str(node.get("title", "")))
    if rules:
        result["x-kubernetes-validations"] = [rule.json() for rule in rules]
    return result


def _object(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Json:
    properties = {}
    for field, value in node.get("properties", {}).items():
        properties[field] = _convert(value, definitions)
        if field in _MAP_KEYS:
            properties[field] |= {
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": _MAP_KEYS[field],
            }
        elif properties[field].get("type") == "array":
            properties[field]["x-kubernetes-list-type"] = "atomic"
    result: Json = {"properties": properties} if properties else {}
    if isinstance(node.get("additionalProperties"), Mapping):
        # Without it an API server would drop every entry of a map.
        result["additionalProperties"] = _convert(node["additionalProperties"], definitions)
    required = sorted(set(node.get("required", ())) - set(node.get("x-optional", ())))
    if required:
        result["required"] = required
    return result


def _resolve(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Follow ``$ref`` and "X or null"; outer keys (description, default) win. Also the definition's name."""
    name, merged = "", dict(node)
    while True:
        if "$ref" in merged:
            name = merged.pop("$ref").rsplit("/", 1)[1]
            merged = {**definitions[name], **merged}
            continue
        options = merged.pop("anyOf", None)
        if options is None:
            return name, merged
        real = [option for option in options if option.get("type") != "null"]
        chosen = _one_of(real, definitions)
        if chosen.get("default", 0) is None:
            chosen.pop("default")
        if merged.get("default", 0) is None:
            merged.pop("default")
        merged = {**chosen, **merged}


def _one_of(options: list[Mapping[str, Any]], definitions: Mapping[str, Any]) -> Json:
    """One schema for several: int or string, a number, or, failing that, anything."""
    if len(options) == 1:
        return dict(options[0])
    types = {_resolve(option, definitions)[1].get("type") for option in options}
    if any(option.get("x-kubernetes-int-or-string") for option in options) or types == {"integer", "string"}:
        return {"x-kubernetes-int-or-string": True}
    if types == {"number", "integer"}:
        bounds = {key: option[key] for option in options for key in option}
        return {**bounds, "type": "number"}
    if types <= {"number", "integer", "string"}:
        return {"x-kubernetes-int-or-string": True}
    # An object or a short form of it: only the object has a type that CEL can look into.
    return next(
        dict(option) for option in options if _resolve(option, definitions)[1].get("type") == "object"
    )


def _int_or_string(node: Mapping[str, Any]) -> Json:
    kept = {key: node[key] for key in ("description", "default") if node.get(key) is not None}
    return {"x-kubernetes-int-or-string": True, "maxLength": 32, **kept}


def _number_or_string(node: Mapping[str, Any]) -> Json:
    """OpenAPI has no "number or string" that a CRD may name a type for; bounds without a type judge each its own."""
    kept = ("description", "pattern", "maxLength", "minimum", "maximum")
    neither = {"maxItems": 0, "maxProperties": 0, "not": {"enum": [True, False, [], {}]}}
    bounds = {key: node[key] for key in kept if node.get(key) is not None}
    return {"x-kubernetes-preserve-unknown-fields": True, **bounds, **neither}


def _without_defaults(schema: Json, *, said: bool = False) -> Json:
    """A schema that fills nothing in; ``said``: descriptions tell what an absent field means instead.

    In a status: what the server filled in, the controller would take out again, for ever.
    """
    result = {key: value for key, value in schema.items() if key != "default"}
    if said and "default" in schema:
        result = _said(schema)
    if "properties" in result:
        result["properties"] = {
            name: _without_defaults(field, said=said) for name, field in result["properties"].items()
        }
    if "items" in result:
        result["items"] = _without_defaults(result["items"], said=said)
    return result


def _said(schema: Json) -> Json:
    """A field that is not filled in: its description tells its default."""
    shown = schema["default"]
    text = str(shown).lower() if isinstance(shown, bool) else shown
    result = {key: value for key, value in schema.items() if key != "default"}
    return result | {"description": f"{result.get('description', '')} Default: {text}.".strip()}


def _without_defaults_in_lists(schema: Json, *, inside: bool = False) -> Json:
    """A spec's schema. Lists are atomic, so that whoever applies one owns all of it: a field that the server added to
    an item is a difference to Git that nobody made, each further apply writes the object again, and another
    manager's conflicts. Such defaults are the models'."""
    if inside:
        return _without_defaults(schema, said=True)
    result = dict(schema)
    if "properties" in result:
        fields = result["properties"].items()
        result["properties"] = {name: _without_defaults_in_lists(field) for name, field in fields}
    if "items" in result:
        result["items"] = _without_defaults_in_lists(result["items"], inside=True)
    return result


# --- the kinds -------------------------------------------------------------------------------------


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


def _kind(
    resource: Resource,
    short: str,
    spec: type[BaseModel],
    status: type[BaseModel] | None,
    columns: list[Json],
    *,
    about: str,
) -> Json:
    kind, plural = resource.kind, resource.plural
    properties: Json = {
        "apiVersion": {"type": "string", "description": "Version of this schema."},
        "kind": {"type": "string", "description": f"Always {kind}."},
        "metadata": {"type": "object"},
        "spec": _without_defaults_in_lists(structural_schema(spec)),
    }
    version: Json = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": columns,
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "description": about,
                "required": ["spec"],
                "properties": properties,
            }
        },
    }
    if status is not None:
        properties["status"] = _without_defaults(structural_schema(status))
        if "observedGeneration" in properties["status"]["properties"]:
            properties["status"]["default"] = _UNSEEN
        version["subresources"] = {"status": {}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced" if resource.namespaced else "Cluster",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short],
                "categories": ["inference-rollouts"],
            },
            "versions": [version],
        },
    }


def all_crds() -> list[Json]:
    """The CRDs of all kinds."""
    template_columns = [_AGE]
    strategy_columns = [
        _column("Bake", ".spec.canary.bake", about="Time at 100 % before the canary becomes stable."),
        _column("Deadline", ".spec.canary.progressDeadline", about="Time that one step may take."),
        _AGE,
    ]
    return [
        _kind(
            kinds.ROLLOUT,
            "iro",
            RolloutSpecModel,
            RolloutStatusModel,
            _ROLLOUT_COLUMNS,
            about="Moves the traffic of a model step by step from one version to the next, while metrics pass.",
        ),
        _kind(
            kinds.ANALYSIS_RUN,
            "iar",
            AnalysisRunSpec,
            AnalysisRunStatusModel,
            _RUN_COLUMNS,
            about="One running or finished analysis of a Rollout's attempt.",
        ),
        _kind(
            kinds.ANALYSIS_TEMPLATE,
            "iat",
            AnalysisTemplateSpec,
            None,
            template_columns,
            about="Metrics that Rollouts of the namespace use by name.",
        ),
        _kind(
            kinds.CLUSTER_ANALYSIS_TEMPLATE,
            "icat",
            AnalysisTemplateSpec,
            None,
            template_columns,
            about="Metrics that Rollouts of all namespaces use by name.",
        ),
        _kind(
            kinds.ROLLOUT_STRATEGY,
            "irs",
            SharedStrategySpec,
            None,
            strategy_columns,
            about="A canary strategy that Rollouts of the namespace share: strategy.canaryFrom names it.",
        ),
        _kind(
            kinds.CLUSTER_ROLLOUT_STRATEGY,
            "icrs",
            SharedStrategySpec,
            None,
            strategy_columns,
            about="A canary strategy that Rollouts of all namespaces share: strategy.canaryFrom names it.",
        ),
        _kind(
            kinds.ROLLOUT_FREEZE,
            "irf",
            RolloutFreezeSpec,
            None,
            _FREEZE_COLUMNS,
            about="A time in which no weight rises and no attempt begins in the Rollouts that it selects.",
        ),
        _kind(
            kinds.POOL_SPLIT,
            "ips",
            PoolSplitSpec,
            None,
            _SPLIT_COLUMNS,
            about="Shares the requests of one InferencePool among versions of its pods, by label. Rollouts write it; "
            "keep it out of Git.",
        ),
    ]


def crd_files() -> Iterator[tuple[str, str]]:
    """(file name, YAML text) of each CRD."""
    for crd in all_crds():
        text = yaml.safe_dump(crd, sort_keys=False, width=110, allow_unicode=True)
        yield f"{crd['metadata']['name']}.yaml", "# Generated by `make generate`; do not edit.\n" + text
