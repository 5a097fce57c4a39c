"""Who writes what stands in Git: the field managers of tools that apply it again and again."""

from __future__ import annotations

__all__ = ["GITOPS_MANAGERS"]

GITOPS_MANAGERS = (
    "argocd-controller",
    "argocd-application-controller",
    "kustomize-controller",
    "helm-controller",
    "helm",
)
"""Argo CD applies as the first; with ``Replace=true`` it names no manager, and the API server takes the program's name
(argo-cd, gitops-engine ``pkg/utils/kube/resource_ops.go``). ``helm`` is Helm's own client, as in a pipeline."""
