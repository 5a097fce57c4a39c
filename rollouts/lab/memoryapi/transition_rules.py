"""CEL rules about what may change: those of ``x-kubernetes-validations`` that speak of ``oldSelf``.

Rules of one object alone are not evaluated here: our own parser knows ours, and upstream's are upstream's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import celpy
from celpy.adapter import json_to_cel
from celpy.evaluation import CELEvalError

__all__ = ["has_rules", "transition_errors"]

Schema = Mapping[str, Any]
_RULES = "x-kubernetes-validations"


@lru_cache(maxsize=256)
def _program(rule: str) -> Any:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule))


def has_rules(schema: Any) -> bool:
    """Whether any node of a schema has a CEL rule."""
    if isinstance(schema, Mapping):
        return _RULES in schema or any(has_rules(item) for item in schema.values())
    return isinstance(schema, list) and any(has_rules(item) for item in schema)


def transition_errors(value: Any, old: Any, schema: Schema, path: str = "") -> Iterator[str]:
    """Messages for changes that a rule forbids. A list whose items have no key has no old items."""
    if value == old or value is None or old is None:
        return
    for rule in schema.get(_RULES) or ():
        if "oldSelf" in rule["rule"] and not _holds(rule["rule"], value, old):
            shown = f'"{value}"' if isinstance(value, str) else _shown(value)
            yield f"{path}: Invalid value: {shown}: {rule.get('message') or 'failed rule: ' + rule['rule']}"
    properties = schema.get("properties") or {}
    if isinstance(value, dict) and isinstance(old, dict):
        for name, sub in properties.items():
            if name in value and name in old and not (not path and name == "metadata"):
                yield from transition_errors(value[name], old[name], sub, f"{path}.{name}" if path else name)


def _shown(value: Any) -> str:
    return '"object"' if isinstance(value, dict) else str(value)


def _holds(rule: str, value: Any, old: Any) -> bool:
    names = {"self": json_to_cel(value), "oldSelf": json_to_cel(old)}
    try:
        return bool(_program(rule).evaluate(names))
    except CELEvalError:
        return True  # a function that Kubernetes adds to CEL
