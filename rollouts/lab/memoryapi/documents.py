"""Discovery and OpenAPI v3 documents, made from the served kinds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rollouts.lab.memoryapi.kinds import ServedKind

__all__ = [
    "aggregated",
    "group",
    "group_list",
    "legacy_versions",
    "openapi_document",
    "openapi_index",
    "resource_list",
]

Object = dict[str, Any]
_VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]
_STATUS_VERBS = ["get", "patch", "update"]
_METADATA = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"


def _groups(kinds: Iterable[ServedKind]) -> dict[str, dict[str, list[ServedKind]]]:
    """Kinds by group and version; versions in the order of preference."""
    groups: dict[str, dict[str, list[ServedKind]]] = {}
    for kind in kinds:
        for version in kind.versions:
            groups.setdefault(kind.group, {}).setdefault(version, []).append(kind)
    return groups


def _gvk(kind: ServedKind, version: str) -> Object:
    return {"group": kind.group, "version": version, "kind": kind.name}


def _aggregated_resource(kind: ServedKind, version: str) -> Object:
    resource: Object = {
        "resource": kind.plural,
        "responseKind": _gvk(kind, version),
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": kind.singular,
        "verbs": _VERBS,
        "shortNames": list(kind.short_names),
        "categories": list(kind.categories),
    }
    if kind.status_subresource:
        resource["subresources"] = [
            {"subresource": "status", "responseKind": _gvk(kind, version), "verbs": _STATUS_VERBS}
        ]
    return resource


def aggregated(kinds: Iterable[ServedKind], *, core: bool) -> Object:
    """APIGroupDiscoveryList of ``/api`` (``core``) or ``/apis``."""
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": [
            {
                "metadata": {"name": name, "creationTimestamp": None},
                "versions": [
                    {
                        "version": version,
                        "freshness": "Current",
                        "resources": [_aggregated_resource(kind, version) for kind in members],
                    }
                    for version, members in versions.items()
                ],
            }
            for name, versions in _groups(kinds).items()
            if (name == "") == core
        ],
    }


def legacy_versions() -> Object:
    """APIVersions of ``/api``."""
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def _group(name: str, versions: Iterable[str]) -> Object:
    entries = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": entries, "preferredVersion": entries[0]}


def group_list(kinds: Iterable[ServedKind]) -> Object:
    """APIGroupList of ``/apis``."""
    groups = [_group(name, versions) for name, versions in _groups(kinds).items() if name]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def group(kinds: Iterable[ServedKind], name: str) -> Object | None:
    """APIGroup of ``/apis/GROUP``; None when it is not served."""
    versions = _groups(kinds).get(name)
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(name, versions)} if versions else None


def resource_list(kinds: Iterable[ServedKind], name: str, version: str) -> Object | None:
    """APIResourceList of one group and version; None when it is not served."""
    members = _groups(kinds).get(name, {}).get(version)
    if not members:
        return None
    resources: list[Object] = []
    for kind in members:
        base = {"namespaced": kind.namespaced, "kind": kind.name, "singularName": kind.singular}
        resources.append(
            {
                **base,
                "name": kind.plural,
                "verbs": _VERBS,
                "shortNames": list(kind.short_names),
                "categories": list(kind.categories),
            }
        )
        if kind.status_subresource:
            resources.append({**base, "name": f"{kind.plural}/status", "verbs": _STATUS_VERBS})
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{name}/{version}" if name else version,
        "resources": resources,
    }


def _prefix(name: str, version: str) -> str:
    return f"apis/{name}/{version}" if name else f"api/{version}"


def openapi_index(kinds: Iterable[ServedKind], revision: int) -> Object:
    """``/openapi/v3``: where the document of each group and version is."""
    paths = [_prefix(name, version) for name, versions in _groups(kinds).items() for version in versions]
    return {"paths": {path: {"serverRelativeURL": f"/openapi/v3/{path}?hash={revision}"} for path in paths}}


def _schema_name(kind: ServedKind, version: str) -> str:
    parts = [*reversed(kind.group.split(".")), version, kind.name]
    return ".".join(part for part in parts if part)


def _schema(kind: ServedKind, version: str) -> Object:
    schema: Object = {"type": "object", **(kind.schemas.get(version) or {})}
    schema["properties"] = {
        "apiVersion": {"type": "string", "description": "Version of the schema of this object."},
        "kind": {"type": "string", "description": "What this object is."},
        **(schema.get("properties") or {}),
        "metadata": {"allOf": [{"$ref": f"#/components/schemas/{_METADATA}"}]},
    }
    schema["x-kubernetes-group-version-kind"] = [_gvk(kind, version)]
    return schema


def _operations(kind: ServedKind, version: str) -> Iterator[tuple[str, Object]]:
    """The operations of a kind: kubectl looks here whether PATCH takes ``fieldValidation``."""
    base = f"/{_prefix(kind.group, version)}" + ("/namespaces/{namespace}" if kind.namespaced else "")
    names = ("dryRun", "fieldManager", "fieldValidation", "force")
    parameters = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in names]
    reference = {"schema": {"$ref": f"#/components/schemas/{_schema_name(kind, version)}"}}
    answer = {"200": {"description": "OK", "content": {"application/json": reference}}}
    common = {"x-kubernetes-group-version-kind": _gvk(kind, version), "responses": answer}
    one = {
        "get": {**common, "x-kubernetes-action": "get"},
        "patch": {**common, "x-kubernetes-action": "patch", "parameters": parameters},
        "put": {**common, "x-kubernetes-action": "put", "parameters": parameters},
    }
    yield (
        f"{base}/{kind.plural}",
        {
            "get": {**common, "x-kubernetes-action": "list"},
            "post": {**common, "x-kubernetes-action": "post", "parameters": parameters},
        },
    )
    yield f"{base}/{kind.plural}/{{name}}", one


def openapi_document(kinds: Iterable[ServedKind], name: str, version: str) -> Object | None:
    """OpenAPI v3 of one group and version; None when it is not served."""
    members = _groups(kinds).get(name, {}).get(version)
    if not members:
        return None
    schemas: Object = {
        _METADATA: {"type": "object", "description": "Standard object metadata.", "properties": {}}
    }
    paths: Object = {}
    for kind in members:
        schemas[_schema_name(kind, version)] = _schema(kind, version)
        paths.update(_operations(kind, version))
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": paths,
        "components": {"schemas": schemas},
    }
