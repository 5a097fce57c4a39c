"""Structural schemas of the models, as a CRD holds them.

What a structural schema forbids (``$ref``, ``anyOf``, nested defaults of null) is taken apart here; every rule across
fields becomes an ``x-kubernetes-validations`` entry, with bounded lists and strings so that the API server's cost
estimate stays within its budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from rollouts.api.cel import CEL_RULES

__all__ = ["structural_schema", "without_defaults", "without_defaults_in_lists"]

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


def without_defaults(schema: Json, *, said: bool = False) -> Json:
    """A schema that fills nothing in; ``said``: descriptions tell what an absent field means instead.

    In a status: what the server filled in, the controller would take out again, for ever.
    """
    result = {key: value for key, value in schema.items() if key != "default"}
    if said and "default" in schema:
        result = _said(schema)
    if "properties" in result:
        result["properties"] = {
            name: without_defaults(field, said=said) for name, field in result["properties"].items()
        }
    if "items" in result:
        result["items"] = without_defaults(result["items"], said=said)
    return result


def _said(schema: Json) -> Json:
    """A field that is not filled in: its description tells its default."""
    shown = schema["default"]
    text = str(shown).lower() if isinstance(shown, bool) else shown
    result = {key: value for key, value in schema.items() if key != "default"}
    return result | {"description": f"{result.get('description', '')} Default: {text}.".strip()}


def without_defaults_in_lists(schema: Json, *, inside: bool = False) -> Json:
    """A spec's schema. Lists are atomic, so that whoever applies one owns all of it: a field that the server added to
    an item is a difference to Git that nobody made, each further apply writes the object again, and another
    manager's conflicts. Such defaults are the models'."""
    if inside:
        return without_defaults(schema, said=True)
    result = dict(schema)
    if "properties" in result:
        fields = result["properties"].items()
        result["properties"] = {name: without_defaults_in_lists(field) for name, field in fields}
    if "items" in result:
        result["items"] = without_defaults_in_lists(result["items"], inside=True)
    return result
