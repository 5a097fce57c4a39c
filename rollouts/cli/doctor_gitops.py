"""What Argo CD and Flux settings do to weights that the controller writes: checks over raw objects.

Sources: Argo CD documentation "Diffing Customization", "Sync Options" and "Resource Health"; the documentation of
Flux's kustomize-controller (``kustomize.toolkit.fluxcd.io/ssa`` and ``/prune``). Lists of an HTTPRoute are atomic, so
two writers cannot share one by field ownership.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rollouts.cli.findings import Check, Level, bad, fine, warn

__all__ = ["application_checks", "configmap_checks", "object_checks", "pool_checks"]

_TRACKING = ("argocd.argoproj.io/tracking-id", "argocd.argoproj.io/installation-id")
_FLUX_NAME = "kustomize.toolkit.fluxcd.io/name"
_FLUX_SSA = "kustomize.toolkit.fluxcd.io/ssa"
_FLUX_PRUNE = "kustomize.toolkit.fluxcd.io/prune"
_SYNC_OPTIONS = "argocd.argoproj.io/sync-options"
_HEALTH_KEY = "resource.customizations.health.inferencerollouts.dev_Rollout"

Object = Mapping[str, Any]


def _meta(obj: Object, field: str) -> Mapping[str, Any]:
    value = (obj.get("metadata") or {}).get(field)
    return value if isinstance(value, Mapping) else {}


def _by_argocd(obj: Object) -> bool:
    return any(key in _meta(obj, "annotations") for key in _TRACKING)


def _by_flux(obj: Object) -> bool:
    return _FLUX_NAME in _meta(obj, "labels")


def object_checks(where: str, obj: Object, *, managed: bool, model_object: bool) -> Iterator[Check]:
    """The traffic object itself: does a GitOps tool apply it too?"""
    if not (_by_argocd(obj) or _by_flux(obj)):
        return
    tool = "Argo CD" if _by_argocd(obj) else "Flux"
    if managed:
        yield bad(
            f"{where}: the controller owns it, yet {tool} applies it too",
            "take it out of Git, after a commit that keeps it from being pruned (Prune=false)",
        )
    elif model_object:
        yield warn(
            f"{where}: {tool} applies it; self-heal on a list of targets that we own is unsupported",
            "take it out of Git and let the Rollout manage it, or turn self-heal off for it",
        )
    elif _by_flux(obj) and _meta(obj, "annotations").get(_FLUX_SSA) not in ("IfNotPresent", "Ignore"):
        yield bad(
            f"{where}: Flux undoes the weights at each reconciliation",
            f"annotate it with {_FLUX_SSA}: IfNotPresent, or give the Rollout a template (Managed)",
        )


def pool_checks(where: str, obj: Object) -> Iterator[Check]:
    """A pool in use must not vanish with a commit that names the next one."""
    annotations = _meta(obj, "annotations")
    if _by_argocd(obj) and "Prune=false" not in str(annotations.get(_SYNC_OPTIONS, "")):
        yield warn(
            f"{where}: a commit that removes it makes Argo CD delete it while it serves",
            f"annotate it with {_SYNC_OPTIONS}: Prune=false",
        )
    if _by_flux(obj) and annotations.get(_FLUX_PRUNE) != "disabled":
        yield warn(
            f"{where}: a commit that removes it makes Flux delete it while it serves",
            f"annotate it with {_FLUX_PRUNE}: disabled",
        )


def application_checks(application: Object, adopted: frozenset[tuple[str, str]]) -> Iterator[Check]:
    """An Argo CD Application; ``adopted`` are (namespace, name) of HTTPRoutes whose weights we write."""
    resources = (application.get("status") or {}).get("resources") or []
    held = {
        (str(one.get("namespace", "")), str(one.get("name", "")))
        for one in resources
        if isinstance(one, Mapping) and one.get("kind") == "HTTPRoute"
    }
    if not held & adopted:
        return
    where = f"Application {(application.get('metadata') or {}).get('name')}"
    policy = (application.get("spec") or {}).get("syncPolicy") or {}
    options = [str(option) for option in policy.get("syncOptions") or []]
    if "ApplyOutOfSyncOnly=true" not in options:
        yield bad(
            f"{where}: any sync resets the weights of a canary in flight",
            "add ApplyOutOfSyncOnly=true to spec.syncPolicy.syncOptions",
        )
    if "RespectIgnoreDifferences=true" in options:
        yield bad(
            f"{where}: RespectIgnoreDifferences freezes all later edits of the route in Git",
            "remove it; ignoreDifferences with ApplyOutOfSyncOnly=true is enough",
        )
    for rule in (application.get("spec") or {}).get("ignoreDifferences") or []:
        if (
            isinstance(rule, Mapping)
            and rule.get("kind") == "HTTPRoute"
            and rule.get("managedFieldsManagers")
        ):
            yield bad(
                f"{where}: managedFieldsManagers silently freezes all later edits of the route in Git",
                "use the jqPathExpressions of argocd-cm-snippet.yaml",
            )


def configmap_checks(configmap: Object, *, adopted: bool) -> Iterator[Check]:
    """``argocd-cm``: health of Rollouts, and ignored weights where a route in Git is adopted."""
    data = configmap.get("data") or {}
    if _HEALTH_KEY in data:
        yield fine("Argo CD knows the health of Rollouts")
    else:
        yield warn(
            "Argo CD does not know the health of Rollouts: it shows them Healthy at once",
            "merge argocd/argocd-cm-snippet.yaml of the chart into argocd-cm",
        )
    key = "resource.customizations.ignoreDifferences.gateway.networking.k8s.io_HTTPRoute"
    if adopted and key not in data:
        yield warn(
            "Argo CD compares the weights of adopted routes: they show OutOfSync, and self-heal resets them",
            "merge the ignoreDifferences of argocd/argocd-cm-snippet.yaml into argocd-cm",
        )
    if adopted and "managedFieldsManagers" in str(data.get(key, "")):
        yield Check(
            level=Level.BAD,
            text="argocd-cm: managedFieldsManagers silently freezes all later edits of routes in Git",
            fix="use the jqPathExpressions of argocd-cm-snippet.yaml",
        )
