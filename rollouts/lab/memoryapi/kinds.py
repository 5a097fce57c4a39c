"""What is served: the built-in kinds, and those that CustomResourceDefinitions add."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rollouts.kube.client import Resource
from rollouts.kube.errors import Invalid, KindNotServed

__all__ = ["CRD_RESOURCE", "Column", "KindRegistry", "ServedKind", "kind_from_crd"]

StorageKey = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One printer column: ``kubectl get`` shows it, those with priority > 0 only with ``-o wide``."""

    name: str
    type: str
    path: str
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedKind:
    """One kind in all its versions. ``versions`` starts with the preferred one."""

    group: str
    plural: str
    singular: str
    name: str
    versions: tuple[str, ...]
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    status_subresource: bool = False
    counts_generations: bool = False
    scale_subresource: bool = False
    custom: bool = False
    schemas: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    columns: Mapping[str, tuple[Column, ...]] = field(default_factory=dict)
    storage: StorageKey = ("", "")

    @property
    def storage_key(self) -> StorageKey:
        """Where the objects are kept; two groups may share them, as those of Event do."""
        return self.storage if self.storage[1] else (self.group, self.plural)

    def resource(self, version: str) -> Resource:
        """The kind in one version."""
        return Resource(
            group=self.group,
            version=version,
            plural=self.plural,
            kind=self.name,
            namespaced=self.namespaced,
        )


def _builtin(
    group: str, version: str, name: str, plural: str, *, short: str = "", cluster: bool = False, **more: Any
) -> ServedKind:
    return ServedKind(
        group=group,
        plural=plural,
        singular=name.lower(),
        name=name,
        versions=(version,),
        namespaced=not cluster,
        short_names=tuple(short.split()),
        **more,
    )


_WORKLOAD: dict[str, Any] = {"status_subresource": True, "counts_generations": True, "categories": ("all",)}
_SCALED: dict[str, Any] = {**_WORKLOAD, "scale_subresource": True}
_CRD_GROUP = "apiextensions.k8s.io"
CRD_RESOURCE = Resource(
    _CRD_GROUP, "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
_RBAC = "rbac.authorization.k8s.io"
_BUILTINS = (
    _builtin("", "v1", "Namespace", "namespaces", short="ns", cluster=True, status_subresource=True),
    _builtin("", "v1", "Node", "nodes", short="no", cluster=True, status_subresource=True),
    _builtin("", "v1", "Pod", "pods", short="po", **_WORKLOAD),
    _builtin("", "v1", "Service", "services", short="svc", status_subresource=True, categories=("all",)),
    _builtin("", "v1", "ConfigMap", "configmaps", short="cm"),
    _builtin("", "v1", "Secret", "secrets"),
    _builtin("", "v1", "ServiceAccount", "serviceaccounts", short="sa"),
    _builtin("", "v1", "Endpoints", "endpoints", short="ep"),
    _builtin("", "v1", "Event", "events", short="ev"),
    _builtin("events.k8s.io", "v1", "Event", "events", short="ev", storage=("", "events")),
    _builtin("apps", "v1", "Deployment", "deployments", short="deploy", **_SCALED),
    _builtin("apps", "v1", "ReplicaSet", "replicasets", short="rs", **_SCALED),
    _builtin("apps", "v1", "StatefulSet", "statefulsets", short="sts", **_SCALED),
    _builtin(
        "autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", short="hpa", **_WORKLOAD
    ),
    _builtin("batch", "v1", "Job", "jobs", **_WORKLOAD),
    _builtin("coordination.k8s.io", "v1", "Lease", "leases"),
    _builtin("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", counts_generations=True),
    _builtin("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", short="pdb", **_WORKLOAD),
    _builtin(_RBAC, "v1", "Role", "roles"),
    _builtin(_RBAC, "v1", "RoleBinding", "rolebindings"),
    _builtin(_RBAC, "v1", "ClusterRole", "clusterroles", cluster=True),
    _builtin(_RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings", cluster=True),
    _builtin(
        _CRD_GROUP,
        "v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        short="crd crds",
        cluster=True,
        status_subresource=True,
        counts_generations=True,
    ),
)


class KindRegistry:
    """The served kinds, by group and plural."""

    def __init__(self) -> None:
        self._kinds: dict[StorageKey, ServedKind] = {(kind.group, kind.plural): kind for kind in _BUILTINS}

    def add(self, kind: ServedKind) -> None:
        """Serve ``kind``, replacing what had its group and plural."""
        self._kinds[kind.group, kind.plural] = kind

    def remove(self, group: str, plural: str) -> ServedKind | None:
        """Stop serving a kind; answers what was served."""
        return self._kinds.pop((group, plural), None)

    def find(self, group: str, version: str, plural: str) -> ServedKind:
        """The kind behind a URL. Raises KindNotServed."""
        kind = self._kinds.get((group, plural))
        if kind is None or version not in kind.versions:
            name = f"{plural}.{version}.{group}" if group else f"{plural}.{version}"
            raise KindNotServed(f"the server could not find the requested resource ({name})", status=404)
        return kind

    def __iter__(self) -> Iterator[ServedKind]:
        return iter(tuple(self._kinds.values()))

    def copy(self) -> KindRegistry:
        """A registry that serves the same kinds, and goes its own way from here on."""
        other = KindRegistry()
        other._kinds = dict(self._kinds)
        return other


def _columns(version: Mapping[str, Any]) -> tuple[Column, ...]:
    return tuple(
        Column(
            name=str(item.get("name", "")),
            type=str(item.get("type", "string")),
            path=str(item.get("jsonPath", "")),
            priority=int(item.get("priority", 0)),
        )
        for item in version.get("additionalPrinterColumns") or ()
    )


def _served(crd: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    versions = [item for item in crd["spec"].get("versions") or () if item.get("served")]
    return sorted(versions, key=lambda item: _priority(str(item["name"])), reverse=True)


def _priority(version: str) -> tuple[int, int, int]:
    """Order of versions in discovery: v2 > v1 > v1beta2 > v1beta1 > v1alpha1."""
    for rank, word in ((1, "beta"), (0, "alpha")):
        major, found, minor = version.removeprefix("v").partition(word)
        if found and major.isdigit():
            return rank, int(major), int(minor or 0)
    number = version.removeprefix("v")
    return (2, int(number), 0) if number.isdigit() else (-1, 0, 0)


def kind_from_crd(crd: Mapping[str, Any]) -> ServedKind:
    """The kind that a CustomResourceDefinition makes served. Raises Invalid."""
    try:
        spec, names = crd["spec"], crd["spec"]["names"]
        expected = f"{names['plural']}.{spec['group']}"
        if crd["metadata"]["name"] != expected:
            raise Invalid(f'metadata.name: must be spec.names.plural+"."+spec.group: {expected}', status=422)
        served = _served(crd)
        return ServedKind(
            group=spec["group"],
            plural=names["plural"],
            singular=names.get("singular") or names["kind"].lower(),
            name=names["kind"],
            versions=tuple(str(item["name"]) for item in served),
            namespaced=spec.get("scope") == "Namespaced",
            short_names=tuple(names.get("shortNames") or ()),
            categories=tuple(names.get("categories") or ()),
            status_subresource=any("status" in (item.get("subresources") or {}) for item in served),
            scale_subresource=any("scale" in (item.get("subresources") or {}) for item in served),
            counts_generations=True,
            custom=True,
            schemas={
                item["name"]: (item.get("schema") or {}).get("openAPIV3Schema") or {} for item in served
            },
            columns={item["name"]: _columns(item) for item in served},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise Invalid(f"the CustomResourceDefinition is malformed near {error}", status=422) from None
