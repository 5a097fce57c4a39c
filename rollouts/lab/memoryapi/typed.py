"""What server-side apply says of a body that does not fit the schema, before it prunes or judges anything.

A real server makes a typed value of the body first (structured-merge-diff, ``typed.AsTyped``); what cannot be made one
is answered 500, without a reason, in words of its own. Seen on kube-apiserver 1.36.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["typed_errors"]

Schema = Mapping[str, Any]
_PRESERVE = "x-kubernetes-preserve-unknown-fields"
_EXPECTED = {"object": "map", "array": "list", "string": "string", "boolean": "boolean"}
_NUMBERS = ("integer", "number")
_ROOT_FIELDS = ("apiVersion", "kind", "metadata")


def typed_errors(value: Any, schema: Schema, path: str = "") -> Iterator[str]:
    """Messages, each with its path; the root's metadata is not looked at."""
    if value is None or schema.get("x-kubernetes-int-or-string"):
        return
    wrong = _wrong_type(value, str(schema.get("type") or ""))
    if wrong:
        yield f"{path}: {wrong}"
    elif isinstance(value, dict):
        yield from _of_map(value, schema, path)
    elif isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        yield from _of_list(value, schema, path)


def _wrong_type(value: Any, kind: str) -> str:
    got = _name_of(value)
    if kind in _NUMBERS:
        return "" if got in ("int", "float") else f"expected numeric (int or float), got {got}"
    expected = _EXPECTED.get(kind, got)
    return "" if expected == got else f"expected {expected}, got &"  # and how Go prints the value


def _name_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = ((dict, "map"), (list, "list"), (str, "string"), (int, "int"))
    return next((name for kind, name in names if isinstance(value, kind)), "float")


def _of_map(value: Mapping[str, Any], schema: Schema, path: str) -> Iterator[str]:
    properties, extra = schema.get("properties") or {}, schema.get("additionalProperties")
    for name, item in value.items():
        if not path and name in _ROOT_FIELDS:
            continue
        sub = properties.get(name, extra)
        if isinstance(sub, Mapping):
            yield from typed_errors(item, sub, f"{path}.{name}")
        elif sub is None and not schema.get(_PRESERVE):
            yield f"{path}.{name}: field not declared in schema"


def _of_list(value: list[Any], schema: Schema, path: str) -> Iterator[str]:
    keys = schema.get("x-kubernetes-list-map-keys") if schema.get("x-kubernetes-list-type") == "map" else None
    seen = set()
    for index, item in enumerate(value):
        place = f"[{index}]"
        if keys and isinstance(item, dict):
            place = "[" + ",".join(f"{key}={_quoted(item.get(key))}" for key in keys) + "]"
            if place in seen:
                yield f"{path}: duplicate entries for key {place}"
                return
            seen.add(place)
        yield from typed_errors(item, schema["items"], f"{path}{place}")


def _quoted(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
