"""What Argo CD and Flux settings do to weights that the controller writes: checks over raw objects.

Sources: Argo CD documentation "Diffing Customization", "Sync Options" and "Resource Health"; the documentation of
Flux's kustomize-controller (``kustomize.toolkit.fluxcd.io/ssa``, ``/reconcile`` and ``/prune``) and helm-controller
("Drift detection"); Helm's of ``helm.sh/resource-policy``. Lists of traffic objects are atomic, so two writers cannot
share one by field ownership.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rollouts.cli.findings import Check, bad, fine, warn
from rollouts.cli.gitops_ignored import IGNORED, IgnoredWeights, ignore_key, rules_for
from rollouts.cli.waves import WAVE_ANNOTATION, wave_of
from rollouts.objects.fields import map_of, metadata_of
from rollouts.objects.kinds import GROUP

__all__ = [
    "Adopted",
    "application_checks",
    "configmap_checks",
    "live_wave_checks",
    "object_checks",
    "operation_checks",
    "pool_checks",
]

_TRACKING = ("argocd.argoproj.io/tracking-id", "argocd.argoproj.io/installation-id")
_FLUX_NAME = "kustomize.toolkit.fluxcd.io/name"
_FLUX_SSA = "kustomize.toolkit.fluxcd.io/ssa"
_FLUX_PRUNE = "kustomize.toolkit.fluxcd.io/prune"
_FLUX_RECONCILE = "kustomize.toolkit.fluxcd.io/reconcile"
_HELM_RELEASE = "meta.helm.sh/release-name"
_HELM_POLICY = "helm.sh/resource-policy"
_FLUX_HELM_NAME = "helm.toolkit.fluxcd.io/name"
_FLUX_DRIFT = "helm.toolkit.fluxcd.io/driftDetection"
_SYNC_OPTIONS = "argocd.argoproj.io/sync-options"
_HEALTH_KEY = "resource.customizations.health.inferencerollouts.dev_Rollout"

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """A traffic object of somebody else's whose weights a Rollout moves."""

    group: str
    kind: str
    namespace: str
    name: str


def _meta(obj: Object, field: str) -> Mapping[str, Any]:
    return map_of(metadata_of(obj).get(field))


def _by_argocd(obj: Object) -> bool:
    return any(key in _meta(obj, "annotations") for key in _TRACKING)


def _by_flux(obj: Object) -> bool:
    return _FLUX_NAME in _meta(obj, "labels")


def _by_helm(obj: Object) -> bool:
    return _HELM_RELEASE in _meta(obj, "annotations")


def _kept_from_flux(annotations: Mapping[str, Any]) -> bool:
    """Whether kustomize-controller leaves the object alone, once it is there."""
    return (
        str(annotations.get(_FLUX_SSA)).lower() in ("ifnotpresent", "ignore")
        or str(annotations.get(_FLUX_RECONCILE)).lower() == "disabled"
    )


def object_checks(where: str, obj: Object, *, managed: bool) -> Iterator[Check]:
    """The traffic object itself: does a GitOps tool apply it too?"""
    annotations = _meta(obj, "annotations")
    if managed:
        yield from _twice_owned(where, obj)
    elif _by_flux(obj) and not _kept_from_flux(annotations):
        yield bad(
            f"{where}: Flux undoes the weights at each reconciliation",
            f"annotate it with {_FLUX_SSA}: IfNotPresent, or let the Rollout make it (Managed)",
        )
    elif _FLUX_HELM_NAME in _meta(obj, "labels") and annotations.get(_FLUX_DRIFT) != "disabled":
        yield warn(
            f"{where}: a HelmRelease of Flux with driftDetection.mode: enabled undoes the weights",
            f"annotate it with {_FLUX_DRIFT}: disabled, or let the Rollout make it (Managed)",
        )


def _twice_owned(where: str, obj: Object) -> Iterator[Check]:
    """A Managed object that stands in Git as well."""
    for tool, applies, keep in (
        ("Argo CD", _by_argocd(obj), "Prune=false"),
        ("Flux", _by_flux(obj), f"{_FLUX_PRUNE}: disabled"),
        ("Helm", _by_helm(obj), f"{_HELM_POLICY}: keep"),
    ):
        if applies:
            yield bad(
                f"{where}: the controller owns it, yet {tool} applies it too",
                f"take it out of Git, after a commit that keeps it from being pruned ({keep})",
            )
            return


def pool_checks(where: str, obj: Object) -> Iterator[Check]:
    """A pool in use must not vanish with a commit that names the next one."""
    annotations = _meta(obj, "annotations")
    options = str(annotations.get(_SYNC_OPTIONS, ""))
    for tool, applies, kept, how in (
        (
            "Argo CD",
            _by_argocd(obj),
            "Prune=false" in options or "Prune=confirm" in options or annotations.get(_HELM_POLICY) == "keep",
            f"{_SYNC_OPTIONS}: Prune=false",
        ),
        ("Flux", _by_flux(obj), annotations.get(_FLUX_PRUNE) == "disabled", f"{_FLUX_PRUNE}: disabled"),
        ("Helm", _by_helm(obj), annotations.get(_HELM_POLICY) == "keep", f"{_HELM_POLICY}: keep"),
    ):
        if applies and not kept:
            yield warn(
                f"{where}: a commit that removes it makes {tool} delete it while it serves",
                f"annotate it with {how}",
            )


def application_checks(
    application: Object, adopted: frozenset[Adopted], configmap: Object | None
) -> Iterator[Check]:
    """An Argo CD Application that applies objects whose weights we write. ``configmap`` is ``argocd-cm``."""
    held = [one for one in sorted(adopted, key=str) if _holds(application, one)]
    if not held:
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
            f"{where}: RespectIgnoreDifferences freezes all later edits of lists of weights in Git",
            "remove it; ignoreDifferences with ApplyOutOfSyncOnly=true is enough",
        )
    for one in held:
        for ignored in IGNORED:
            if (ignored.resource.group, ignored.resource.kind) == (one.group, one.kind):
                yield from _ignore_checks(where, one, ignored, application, configmap)


_WAITING = "waiting for healthy state of"
"""How Argo CD begins the message of an operation that waits between waves (gitops-engine, pkg/sync)."""


def operation_checks(application: Object, rollouts: frozenset[tuple[str, str]]) -> Iterator[Check]:
    """A sync that waits for a Rollout, (namespace, name): it blocks every later commit, the reverting one, too."""
    status = application.get("status") or {}
    state = status.get("operationState") or {}
    held = {
        (item.get("namespace", ""), item.get("name"))
        for item in status.get("resources") or []
        if isinstance(item, Mapping) and (item.get("group"), item.get("kind")) == (GROUP, "Rollout")
    }
    message, name = str(state.get("message", "")), (application.get("metadata") or {}).get("name")
    if state.get("phase") != "Running" or not held & rollouts or _WAITING not in message:
        return
    if f"{GROUP}/Rollout/" in message or " more " in message:
        yield bad(
            f"Application {name}: its sync has been open since {state.get('startedAt')}: {message}; newer commits "
            "wait behind it, the one that reverts, too",
            f"argocd app terminate-op {name}; give the Rollout the last sync wave (`rollouts lint DIR` finds it)",
        )


def live_wave_checks(rollout: Object, needed: Iterable[tuple[str, Object]]) -> Iterator[Check]:
    """Waves of live objects: what a Rollout needs, with how it is called, in a later wave than the Rollout's."""
    wave = wave_of(rollout)
    for where, obj in needed:
        if wave_of(obj) > wave:
            yield bad(
                f"{where} is in sync wave {wave_of(obj)}, after its Rollout {_meta_name(rollout)} in {wave}: a sync of "
                "both never ends",
                f'annotate the Rollout with {WAVE_ANNOTATION}: "{wave_of(obj) + 1}" in Git',
            )


def _meta_name(obj: Object) -> str:
    return str((obj.get("metadata") or {}).get("name"))


def _holds(application: Object, one: Adopted) -> bool:
    resources = (application.get("status") or {}).get("resources") or []
    return any(
        isinstance(item, Mapping)
        and (item.get("kind"), item.get("namespace", ""), item.get("name"))
        == (one.kind, one.namespace, one.name)
        and item.get("group", one.group) == one.group
        for item in resources
    )


def _ignore_checks(
    where: str, one: Adopted, ignored: IgnoredWeights, application: Object, configmap: Object | None
) -> Iterator[Check]:
    """Whether a rule covers the weights, and none freezes Git's own edits."""
    rules = list(rules_for(ignored, configmap, application, namespace=one.namespace, name=one.name))
    for place, text in rules:
        if "managedFieldsManagers" in text:
            yield bad(
                f"{place}: managedFieldsManagers silently freezes all later edits of {one.kind}s in Git",
                "use the jqPathExpressions of argocd-cm-snippet.yaml",
            )
    if not any(field in text for _, text in rules for field in ignored.fields):
        yield bad(
            f"{where} compares the weights of {one.kind} {one.name}: it shows OutOfSync, and self-heal resets them",
            f"merge {ignore_key(ignored.resource)} of the chart's argocd/argocd-cm-snippet.yaml into argocd-cm",
        )


def configmap_checks(configmap: Object) -> Iterator[Check]:
    """``argocd-cm``: health of Rollouts."""
    if _HEALTH_KEY in (configmap.get("data") or {}):
        yield fine("Argo CD knows the health of Rollouts")
    else:
        yield warn(
            "Argo CD does not know the health of Rollouts: it shows them Healthy at once",
            "merge argocd/argocd-cm-snippet.yaml of the chart into argocd-cm",
        )
