"""Whose an object is: ours, meant to be ours, or of a tool that people come from. Lists are taken apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rollouts.cli.lint_findings import Finding, hint, problem
from rollouts.cli.lint_schema import kinds
from rollouts.cli.lint_words import ARGO_GROUP, FLAGGER_GROUP, foreign_fields, nearest
from rollouts.cli.yaml_source import Path
from rollouts.objects.fields import map_of
from rollouts.objects.kinds import GROUP, VERSION

__all__ = [
    "API_VERSION",
    "foreign_findings",
    "group_of",
    "is_bare_list",
    "is_ours",
    "name_of",
    "objects_in",
    "unknown_kind",
]

API_VERSION = f"{GROUP}/{VERSION}"
_DEEPEST_LIST = 4
_MAX_LISTED = 100_000
_TOOLS = {ARGO_GROUP: "Argo Rollouts", FLAGGER_GROUP: "Flagger"}
_OTHERS = "rollouts.kruise.io"
"""The group of OpenKruise Rollouts, near ours in name alone: for web servers, in the same cluster."""
_OF_TOOLS = frozenset(
    {"Rollout", "AnalysisTemplate", "ClusterAnalysisTemplate", "AnalysisRun", "Experiment"}
    | {"Canary", "MetricTemplate", "AlertProvider"}
)


def objects_in(value: Any, path: Path = ()) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The objects of a document with their paths in it: the items of a List, else the document itself."""
    if not isinstance(value, Mapping):
        return
    items = value.get("items")
    if (
        not isinstance(items, list)
        or not str(value.get("kind", "")).endswith("List")
        or len(path) >= 2 * _DEEPEST_LIST
    ):
        yield path, value
        return
    for index, item in enumerate(items[:_MAX_LISTED]):
        if isinstance(item, Mapping) and group_of(value) == GROUP and "kind" not in item:
            # Clients of typed lists leave both out of the items.
            item = {"apiVersion": value["apiVersion"], "kind": str(value["kind"])[:-4], **item}
        yield from objects_in(item, (*path, "items", index))


def group_of(obj: Mapping[str, Any]) -> str:
    """The API group; empty where there is none."""
    group, slash, _ = str(obj.get("apiVersion", "")).partition("/")
    return group if slash or group == GROUP else ""


def is_bare_list(value: Any) -> bool:
    """Whether a document is a list of objects, which no client takes."""
    return isinstance(value, list) and any(isinstance(one, Mapping) and "kind" in one for one in value[:64])


def is_ours(obj: Mapping[str, Any]) -> bool:
    """Whether it says that it is of our API group."""
    return group_of(obj) == GROUP


def name_of(obj: Mapping[str, Any]) -> str:
    """``Kind/name``."""
    meta = obj.get("metadata")
    name = meta.get("name") if isinstance(meta, Mapping) else None
    return f"{obj.get('kind') or '(no kind)'}/{name or '(no name)'}"


def _looks_ours(obj: Mapping[str, Any]) -> bool:
    """Whether its fields are those of a Rollout of ours."""
    spec = map_of(obj.get("spec"))
    return len({"target", "traffic", "strategy"} & spec.keys()) >= 2


def foreign_findings(obj: Mapping[str, Any], *, alone: bool) -> Iterator[Finding]:
    """What is said of an object that is none of ours. ``alone``: nothing of ours is in the files."""
    where, group, kind = name_of(obj), group_of(obj), str(obj.get("kind") or "")
    near = nearest(kind, kinds())
    if group in _TOOLS and kind in _OF_TOOLS:
        yield from _of_tool(obj, where, _TOOLS[group], alone=alone)
    elif _looks_ours(obj) or (_nearly_ours(group) and near):
        text = f"{_said_version(obj)}, but it is a {near or 'Rollout'} of ours: write {API_VERSION}"
        yield problem(where, text, rule="kind", path=("apiVersion",))
        if near != kind:
            yield problem(where, unknown_kind(kind), rule="kind", path=("kind",))


def _said_version(obj: Mapping[str, Any]) -> str:
    written = next((str(name) for name in obj if str(name).lower() == "apiversion"), "")
    if not obj.get("apiVersion"):
        return f"{written} is no field (it is apiVersion)" if written else "apiVersion is missing"
    return f"apiVersion is {obj['apiVersion']!r:.80}"


def _nearly_ours(group: str) -> bool:
    return group != _OTHERS and (bool(nearest(group, [GROUP], cutoff=0.85)) or "rollout" in group.lower())


def _of_tool(obj: Mapping[str, Any], where: str, tool: str, *, alone: bool) -> Iterator[Finding]:
    if _looks_ours(obj):
        text = f"apiVersion is of {tool}, but its fields are ours: write {API_VERSION}"
        yield problem(where, text, rule="kind", path=("apiVersion",))
        return
    told = "; ".join(foreign_fields(obj.get("spec")))
    same = nearest(str(obj.get("kind")), kinds()) or "Rollout"
    text = f"an object of {tool}, which this controller does not read; here it is a {same} of {API_VERSION}"
    make = problem if alone else hint
    yield make(where, f"{text}. {told}" if told else text, rule="foreign", path=("apiVersion",))


def unknown_kind(kind: str) -> str:
    """A kind that our group does not have."""
    if not kind:
        return "kind is missing: write kind: Rollout, say"
    near = nearest(kind, kinds(), cutoff=0.6)
    told = f"did you mean {near}?" if near else f"there are {', '.join(kinds())}"
    return f"there is no kind {kind!r:.60} of {GROUP}: {told}"
