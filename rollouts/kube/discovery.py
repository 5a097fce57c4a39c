"""Discovery: what the server serves, from the aggregated documents or the classic ones. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rollouts.kube.client import Resource

__all__ = [
    "AGGREGATED",
    "group_versions",
    "is_aggregated",
    "resources_of_aggregated",
    "resources_of_list",
]

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


def _items(value: Any, key: str) -> Iterator[dict[str, Any]]:
    """The dicts in a list field; a broken document has none."""
    found = value.get(key) if isinstance(value, dict) else None
    yield from (item for item in found if isinstance(item, dict)) if isinstance(found, list) else ()


def is_aggregated(document: Any) -> bool:
    """Whether the server answered with the aggregated form."""
    return isinstance(document, dict) and document.get("kind") == "APIGroupDiscoveryList"


def resources_of_aggregated(document: Any) -> Iterator[Resource]:
    """Resources of an APIGroupDiscoveryList (v2 or v2beta1); stale groups keep what they had."""
    for group in _items(document, "items"):
        metadata = group.get("metadata")
        name = str(metadata.get("name") or "") if isinstance(metadata, dict) else ""
        for version in _items(group, "versions"):
            for item in _items(version, "resources"):
                kind = item.get("responseKind")
                if isinstance(kind, dict) and item.get("resource") and kind.get("kind"):
                    yield Resource(
                        group=name,
                        version=str(version.get("version")),
                        plural=str(item["resource"]),
                        kind=str(kind["kind"]),
                        namespaced=item.get("scope") == "Namespaced",
                    )


def group_versions(document: Any) -> Iterator[tuple[str, str]]:
    """``(group, version)`` pairs of a classic APIGroupList."""
    for group in _items(document, "groups"):
        for version in _items(group, "versions"):
            yield str(group.get("name", "")), str(version.get("version", ""))


def resources_of_list(document: Any, group: str, version: str) -> Iterator[Resource]:
    """Resources of a classic APIResourceList, without subresources."""
    for item in _items(document, "resources"):
        name, kind = str(item.get("name", "")), str(item.get("kind", ""))
        if name and kind and "/" not in name:
            yield Resource(
                group=group, version=version, plural=name, kind=kind, namespaced=bool(item.get("namespaced"))
            )
