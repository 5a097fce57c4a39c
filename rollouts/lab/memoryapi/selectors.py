"""Label and field selectors, as the API server reads them (Kubernetes docs, "Labels and Selectors")."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from rollouts.kube.errors import Invalid

__all__ = ["Matcher", "match_all", "parse_field_selector", "parse_label_selector"]

Matcher = Callable[[Mapping[str, Any]], bool]
_SET = re.compile(r"^([^\s!=,()]+)\s+(in|notin)\s+\(([^()]*)\)$")
_EQUAL = re.compile(r"^([^\s!=,()]+)\s*(==|=|!=)\s*([^\s!=,()]*)$")
_NAME = re.compile(r"^(!?)\s*([^\s!=,()]+)$")
_SPLIT = re.compile(r",(?![^(]*\))")
_COMMON_FIELDS = frozenset({"metadata.name", "metadata.namespace"})
_EXTRA_FIELDS: dict[str, frozenset[str]] = {
    "pods": frozenset({"spec.nodeName", "status.phase", "status.podIP", "spec.serviceAccountName"}),
    "events": frozenset(
        {
            "reason",
            "type",
            "involvedObject.kind",
            "involvedObject.name",
            "involvedObject.namespace",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "regarding.name",
            "regarding.kind",
            "reportingController",
        }
    ),
}


def match_all(_obj: Mapping[str, Any]) -> bool:
    """The empty selector."""
    return True


def _label_requirement(text: str) -> Callable[[Mapping[str, str]], bool]:
    if found := _SET.match(text):
        key, operator, values = found.group(1), found.group(2), found.group(3)
        wanted = frozenset(value.strip() for value in values.split(","))
        if operator == "in":
            return lambda labels: labels.get(key) in wanted
        return lambda labels: labels.get(key) not in wanted
    if found := _EQUAL.match(text):
        key, operator, value = found.group(1), found.group(2), found.group(3)
        if operator == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if found := _NAME.match(text):
        absent, key = bool(found.group(1)), found.group(2)
        return lambda labels: (key in labels) != absent
    raise Invalid(f"unable to parse requirement {text!r} of a label selector", status=400)


@lru_cache(maxsize=256)
def parse_label_selector(selector: str) -> Matcher:
    """Matcher of whole objects. Raises Invalid (400)."""
    if not selector.strip():
        return match_all
    requirements = tuple(_label_requirement(part.strip()) for part in _SPLIT.split(selector))

    def matches(obj: Mapping[str, Any]) -> bool:
        labels = obj.get("metadata", {}).get("labels") or {}
        return all(requirement(labels) for requirement in requirements)

    return matches


def _field(obj: Mapping[str, Any], path: str) -> str:
    value: Any = obj
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return "" if value is None else str(value)


@lru_cache(maxsize=256)
def parse_field_selector(selector: str, plural: str) -> Matcher:
    """Matcher for the few fields a real server supports. Raises Invalid (400) for others."""
    if not selector.strip():
        return match_all
    requirements: list[tuple[str, bool, str]] = []
    for part in selector.split(","):
        found = re.match(r"^\s*([\w.]+)\s*(==|=|!=)\s*(.*?)\s*$", part)
        if not found:
            raise Invalid(f"invalid field selector {part!r}", status=400)
        path = found.group(1)
        if path not in _COMMON_FIELDS and path not in _EXTRA_FIELDS.get(plural, frozenset()):
            raise Invalid(f"field label not supported: {path}", status=400)
        requirements.append((path, found.group(2) != "!=", found.group(3)))

    def matches(obj: Mapping[str, Any]) -> bool:
        return all((_field(obj, path) == value) == equal for path, equal, value in requirements)

    return matches
