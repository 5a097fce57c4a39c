"""What metadata of a Rollout in Git makes of it: fields for one moment, and settings that undo or end it at each sync.

Sources: Argo CD documentation, "Resource Hooks" and "Sync Options"; Helm documentation, "Chart Hooks"; Flux,
kustomize-controller, "Controlling the apply behavior of resources".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rollouts.api.parsing import COMMAND_ANNOTATION, FINALIZER
from rollouts.cli.lint_findings import Finding, hint, problem
from rollouts.cli.waves import HOOK_ANNOTATION
from rollouts.engine.finalizing import RELEASE_ANNOTATION
from rollouts.objects.fields import list_of, map_of, metadata_of, text_of

__all__ = ["gitops_findings"]

_HELM_HOOK = "helm.sh/hook"
_SYNC_OPTIONS = "argocd.argoproj.io/sync-options"
_SSA = "kustomize.toolkit.fluxcd.io/ssa"
_RECONCILE = "kustomize.toolkit.fluxcd.io/reconcile"
_FROZEN = ("ifnotpresent", "ignore")
_ANNOTATIONS = ("metadata", "annotations")

Object = Mapping[str, Any]


def gitops_findings(obj: Object, where: str) -> Iterator[Finding]:
    """Of one Rollout's metadata; the order of a sync is judged elsewhere (``waves``)."""
    meta = metadata_of(obj)
    annotations = map_of(meta.get("annotations"))
    if not meta.get("name"):
        text = (
            "metadata.name is missing: apply, and so each GitOps tool, needs it; its attempts are told by it"
        )
        yield problem(where, text, rule="no-name", path=("metadata",))
    yield from _hooks(annotations, where)
    yield from _syncs(annotations, where)
    yield from _moments(meta, annotations, where)


def _hooks(annotations: Object, where: str) -> Iterator[Finding]:
    for name in (_HELM_HOOK, HOOK_ANNOTATION):
        if text_of(annotations.get(name)).strip() not in ("", "Skip"):
            text = (
                f"{name}: a hook is deleted and made anew by each sync or upgrade, and waited for: it ends an attempt "
                "that is under way. Take the annotation off"
            )
            yield problem(where, text, rule="gitops", path=(*_ANNOTATIONS, name), named=True)


def _syncs(annotations: Object, where: str) -> Iterator[Finding]:
    options = {one.strip() for one in text_of(annotations.get(_SYNC_OPTIONS)).split(",")}
    if {"Force=true", "Replace=true"} <= options:
        text = (
            "Force=true with Replace=true: each sync deletes the Rollout and makes it anew: traffic goes back to "
            "stable, and the attempt begins at its first step. Leave both out"
        )
        yield problem(where, text, rule="gitops", path=(*_ANNOTATIONS, _SYNC_OPTIONS))
    frozen = text_of(annotations.get(_SSA))
    if frozen.lower() in _FROZEN:
        text = f"{_SSA}: {frozen}: once it is there, Flux applies no commit to it: the line that changes never lands"
        yield problem(where, text, rule="gitops", path=(*_ANNOTATIONS, _SSA))
    if text_of(annotations.get(_RECONCILE)).lower() == "disabled":
        text = f"{_RECONCILE}: disabled: Flux applies no commit to it for as long as this stands here"
        yield hint(where, text, rule="gitops", path=(*_ANNOTATIONS, _RECONCILE))


def _moments(meta: Object, annotations: Object, where: str) -> Iterator[Finding]:
    """What belongs to one moment of an object of the cluster. Files written by ``kubectl get -o yaml`` have it."""
    said = {
        COMMAND_ANNOTATION: "a command is for one moment: from Git it comes back at each sync, over a newer one",
        RELEASE_ANNOTATION: "in Git it lets every deletion leave the canary the share that it has",
    }
    for name, text in said.items():
        if name in annotations:
            found = f"{name}: {text}. Leave it out of files"
            yield hint(where, found, rule="gitops", path=(*_ANNOTATIONS, name), named=True)
    if FINALIZER in list_of(meta.get("finalizers")):
        text = "metadata.finalizers: the controller's own: from Git it comes back again, and no deletion ends"
        yield hint(where, text, rule="gitops", path=("metadata", "finalizers"), named=True)
    if meta.get("resourceVersion"):
        text = "metadata.resourceVersion is that of one moment: an apply of the file is refused after the next write"
        yield hint(where, text, rule="gitops", path=("metadata", "resourceVersion"), named=True)
