"""CRDs of kinds that only tests have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rollouts.kube.client import Resource

__all__ = ["OPEN", "crd"]

OPEN: dict[str, Any] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
"""The schema of an object that may hold anything."""


def crd(resource: Resource, spec: Mapping[str, Any] = OPEN) -> dict[str, Any]:
    """One served version of a namespaced kind, with a status subresource; ``spec`` is the schema of its spec."""
    properties = {"spec": dict(spec), "status": OPEN}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{resource.group}"},
        "spec": {
            "group": resource.group,
            "scope": "Namespaced",
            "names": {"plural": resource.plural, "kind": resource.kind},
            "versions": [
                {
                    "name": resource.version,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}},
                }
            ],
        },
    }
