"""What a GitOps tool must not compare: the weights that the controller writes into adopted objects, by kind.

One table for the settings that the chart ships (``tools/argocd_snippets.py``) and for what ``doctor`` asks for.
Argo CD compiles each expression as ``del(EXPRESSION)`` and applies it to the live object and to Git's alike (Argo CD
documentation, "Diffing Customization"). Each one holds only where the object names its Rollout, so that other objects
of the kind are compared as ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from rollouts.carriers import TRAFFIC_KINDS
from rollouts.kube.client import Resource
from rollouts.traffic.writes import CONSENT_ANNOTATION

__all__ = ["IGNORED", "IgnoredWeights", "ignore_key", "rules_for"]

_CONSENT = f'select(.metadata.annotations["{CONSENT_ANNOTATION}"] != null)'
_PREFIX = "resource.customizations.ignoreDifferences"
_WHOSE = ("group", "kind", "name", "namespace")
"""What a rule of an Application is for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IgnoredWeights:
    """The weights of one kind, by jq paths."""

    resource: Resource
    paths: tuple[str, ...]

    @property
    def fields(self) -> tuple[str, ...]:
        """What a rule has to name to cover them: any of them will do."""
        return tuple(path.rsplit(".", 1)[1] for path in self.paths)

    @property
    def expressions(self) -> tuple[str, ...]:
        """``jqPathExpressions``, one per path."""
        return tuple(f"{_CONSENT} | {path}" for path in self.paths)


IGNORED: tuple[IgnoredWeights, ...] = tuple(
    IgnoredWeights(resource=resource, paths=kind.weights)
    for kind in TRAFFIC_KINDS
    for resource in kind.resources
    if kind.weights
)
"""Every kind whose weights a Rollout moves in an object of somebody else's."""


def ignore_key(resource: Resource) -> str:
    """Key of a kind's rule in ``argocd-cm``."""
    return f"{_PREFIX}.{resource.group}_{resource.kind}"


def rules_for(
    ignored: IgnoredWeights,
    configmap: Mapping[str, Any] | None,
    application: Mapping[str, Any],
    *,
    namespace: str,
    name: str,
) -> Iterator[tuple[str, str]]:
    """(where it is written, text) of each rule for an object of the kind: in ``argocd-cm``, and in one Application."""
    data = (configmap or {}).get("data") or {}
    for key in (ignore_key(ignored.resource), f"{_PREFIX}.all"):
        if key in data:
            yield "argocd-cm", str(data[key])
    where = f"Application {(application.get('metadata') or {}).get('name')}"
    for rule in (application.get("spec") or {}).get("ignoreDifferences") or []:
        if isinstance(rule, Mapping) and _is_for(rule, ignored.resource, namespace, name):
            yield where, str({key: value for key, value in rule.items() if key not in _WHOSE})


def _is_for(rule: Mapping[str, Any], resource: Resource, namespace: str, name: str) -> bool:
    """Group and kind are patterns, and a group that is left out is the core one; name and namespace narrow it."""
    said = {key: str(rule.get(key) or "") for key in _WHOSE}
    return (
        fnmatchcase(resource.group, said["group"])
        and fnmatchcase(resource.kind, said["kind"])
        and said["name"] in ("", name)
        and said["namespace"] in ("", namespace)
    )
