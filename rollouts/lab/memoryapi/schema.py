"""Structural schemas of CRDs: defaults, pruning, validation (Kubernetes docs, "CustomResourceDefinitions").

CEL rules (``x-kubernetes-validations``) are those of ``transition_rules``; formats are not judged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any

from rollouts.lab.memoryapi.json_copies import wire_copy

__all__ = ["apply_defaults", "prune", "validate"]

Schema = Mapping[str, Any]
_PRESERVE = "x-kubernetes-preserve-unknown-fields"
_EMBEDDED = "x-kubernetes-embedded-resource"
_INT_OR_STRING = "x-kubernetes-int-or-string"
_ROOT_FIELDS = frozenset({"apiVersion", "kind", "metadata"})
# Equal to no value.
_NEW: Any = object()
# A broken object can break a schema at every node; a person reads the first few.
_MAX_ERRORS = 10
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}


def _before(old: Any, key: str | int) -> Any:
    """The member of the old value under ``key``: where it is equal, nothing needs to be looked at."""
    if isinstance(old, dict):
        return old.get(key, _NEW)
    if isinstance(old, list) and isinstance(key, int) and key < len(old):
        return old[key]
    return _NEW


def apply_defaults(value: Any, schema: Schema, old: Any = _NEW) -> None:
    """Fill in defaults, in place, outermost first; what is equal to ``old`` has them."""
    if value == old:
        return
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        for name, sub in properties.items():
            missing = name not in value or (value[name] is None and not sub.get("nullable"))
            if "default" in sub and missing:
                value[name] = wire_copy(sub["default"])
            if name in value:
                apply_defaults(value[name], sub, _before(old, name))
        extra = schema.get("additionalProperties")
        if isinstance(extra, dict):
            for name, item in value.items():
                if name not in properties:
                    apply_defaults(item, extra, _before(old, name))
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for index, item in enumerate(value):
            apply_defaults(item, schema["items"], _before(old, index))


def prune(value: Any, schema: Schema, path: str = "", *, old: Any = _NEW) -> list[str]:
    """Drop what the schema does not name, in place; answers the paths that were dropped.

    What is equal to ``old`` was pruned before. The root, whose path is empty, keeps its metadata.
    """
    dropped: list[str] = []
    if value == old:
        return dropped
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        for index, item in enumerate(value):
            dropped += prune(item, schema["items"], f"{path}[{index}]", old=_before(old, index))
    if not isinstance(value, dict):
        return dropped
    keep = _ROOT_FIELDS if not path or schema.get(_EMBEDDED) else frozenset[str]()
    properties = schema.get("properties") or {}
    extra = schema.get("additionalProperties")
    for name in list(value):
        where = f"{path}.{name}" if path else name
        if name in properties and name not in keep:
            dropped += prune(value[name], properties[name], where, old=_before(old, name))
        elif isinstance(extra, dict):
            dropped += prune(value[name], extra, where, old=_before(old, name))
        elif name not in properties and name not in keep and not extra and not schema.get(_PRESERVE):
            del value[name]
            dropped.append(where)
    return dropped


@lru_cache(maxsize=1024)
def _pattern(text: str) -> re.Pattern[str]:
    # RE2's $ is the end of the text; Python's also matches before a last line feed.
    return re.compile(
        text.removesuffix("$") + r"\Z" if text.endswith("$") and not text.endswith(r"\$") else text
    )


def _type_ok(value: Any, schema: Schema) -> bool:
    if schema.get(_INT_OR_STRING):
        return isinstance(value, int | str) and not isinstance(value, bool)
    kind = str(schema.get("type") or "")
    if not kind or kind not in _TYPES:
        return True
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[kind])


def _json_type(value: Any) -> str:
    names = ((bool, "boolean"), (str, "string"), (int, "integer"), (float, "number"), (list, "array"))
    return next((name for kind, name in names if isinstance(value, kind)), "object")


def _scalar_errors(value: Any, schema: Schema, path: str) -> Iterator[str]:
    # True equals 1 in Python, and not in JSON.
    if "enum" in schema and (type(value), value) not in [(type(item), item) for item in schema["enum"]]:
        wanted = ", ".join(f'"{item}"' for item in schema["enum"])
        yield f'{path}: Unsupported value: "{value}": supported values: {wanted}'
    if isinstance(value, str):
        if len(value) < schema.get("minLength", 0):
            least = f"should be at least {schema['minLength']} chars long"
            yield f'{path}: Invalid value: "{value}": {path} in body {least}'
        if len(value) > schema.get("maxLength", len(value)):
            yield f"{path}: Too long: may not be more than {schema['maxLength']} bytes"
        if "pattern" in schema and not _pattern(schema["pattern"]).search(value):
            yield f"{path}: Invalid value: \"{value}\": {path} in body should match '{schema['pattern']}'"
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _number_errors(value, schema, path)


def _number_errors(value: float, schema: Schema, path: str) -> Iterator[str]:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and (value < low or (value == low and schema.get("exclusiveMinimum"))):
        yield f"{path}: Invalid value: {value}: {path} in body should be greater than or equal to {low}"
    if high is not None and (value > high or (value == high and schema.get("exclusiveMaximum"))):
        yield f"{path}: Invalid value: {value}: {path} in body should be less than or equal to {high}"


def _object_errors(value: dict[str, Any], schema: Schema, path: str, old: Any) -> Iterator[str]:
    for name in schema.get("required") or ():
        if name not in value:
            yield f"{path}.{name}: Required value" if path else f"{name}: Required value"
    if len(value) < schema.get("minProperties", 0):
        yield f"{path}: Invalid value: should have at least {schema['minProperties']} properties"
    if len(value) > schema.get("maxProperties", len(value)):
        yield f"{path}: Too many: must have at most {schema['maxProperties']} items"
    properties = schema.get("properties") or {}
    extra = schema.get("additionalProperties")
    for name, item in value.items():
        sub = properties.get(name, extra)
        if isinstance(sub, dict) and not (not path and name == "metadata"):
            yield from _errors(item, sub, f"{path}.{name}" if path else name, _before(old, name))


def _list_errors(value: list[Any], schema: Schema, path: str, old: Any) -> Iterator[str]:
    if len(value) < schema.get("minItems", 0):
        yield f"{path}: Invalid value: {len(value)}: {path} in body should have at least {schema['minItems']} items"
    if len(value) > schema.get("maxItems", len(value)):
        yield f"{path}: Too many: {len(value)}: must have at most {schema['maxItems']} items"
    keys = schema.get("x-kubernetes-list-map-keys")
    if schema.get("x-kubernetes-list-type") == "map" and keys:
        seen: set[str] = set()
        for index, item in enumerate(value):
            key = str([item.get(name) for name in keys]) if isinstance(item, dict) else ""
            if key in seen:
                yield f"{path}[{index}]: Duplicate value"
            seen.add(key)
    if isinstance(schema.get("items"), dict):
        for index, item in enumerate(value):
            yield from _errors(item, schema["items"], f"{path}[{index}]", _before(old, index))


def _combination_errors(value: Any, schema: Schema, path: str) -> Iterator[str]:
    for sub in schema.get("allOf") or ():
        yield from _errors(value, sub, path)
    if schema.get("anyOf") and not any(_valid(value, sub) for sub in schema["anyOf"]):
        yield f'{path}: Invalid value: "" must validate at least one schema (anyOf)'
    if schema.get("oneOf") and sum(_valid(value, sub) for sub in schema["oneOf"]) != 1:
        yield f'{path}: Invalid value: "" must validate one and only one schema (oneOf)'
    if schema.get("not") and _valid(value, schema["not"]):
        yield f'{path}: Invalid value: "" must not validate the schema (not)'


def _valid(value: Any, schema: Schema) -> bool:
    return next(_errors(value, schema, "x"), None) is None


def _errors(value: Any, schema: Schema, path: str, old: Any = _NEW) -> Iterator[str]:
    if value == old:
        return
    if value is None:
        if not schema.get("nullable") and "type" in schema:
            yield f'{path}: Invalid value: "null": {path} in body must be of type {schema["type"]}: "null"'
        return
    if not _type_ok(value, schema):
        wanted, got = schema.get("type", "integer or string"), _json_type(value)
        yield f'{path}: Invalid value: "{got}": {path} in body must be of type {wanted}: "{got}"'
        return
    if isinstance(value, dict):
        yield from _object_errors(value, schema, path, old)
    elif isinstance(value, list):
        yield from _list_errors(value, schema, path, old)
    else:
        yield from _scalar_errors(value, schema, path)
    if not schema.get(_INT_OR_STRING):
        yield from _combination_errors(value, schema, path)


def validate(value: Mapping[str, Any], schema: Schema, old: Any = _NEW) -> list[str]:
    """Messages with field paths, as the API server words them; empty when valid. At most ten.

    What is equal to ``old`` is not judged again, as the real server's ratcheting does not.
    """
    return list(islice(_errors(value, schema, "", old), _MAX_ERRORS))
