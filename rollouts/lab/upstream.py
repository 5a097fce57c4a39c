"""Bare CustomResourceDefinitions of the upstream kinds, for the in-memory API server of the lab.

Names, groups, versions and scopes only; the schema keeps whatever it is given. A real API server gets
the real definitions from their projects' releases instead.
"""

from __future__ import annotations

from typing import Any

from rollouts.kube.client import Resource

__all__ = ["UPSTREAM_KINDS", "bare_definition"]

_GATEWAY = "gateway.networking.k8s.io"
_INFERENCE_V1 = "inference.networking.k8s.io"
_INFERENCE_ALPHA = "inference.networking.x-k8s.io"

UPSTREAM_KINDS: tuple[Resource, ...] = (
    Resource(_GATEWAY, "v1", "gatewayclasses", "GatewayClass", namespaced=False),
    Resource(_GATEWAY, "v1", "gateways", "Gateway"),
    Resource(_GATEWAY, "v1", "httproutes", "HTTPRoute"),
    Resource(_INFERENCE_V1, "v1", "inferencepools", "InferencePool"),
    Resource(_INFERENCE_ALPHA, "v1alpha2", "inferencepools", "InferencePool"),
    Resource(_INFERENCE_ALPHA, "v1alpha2", "inferencemodels", "InferenceModel"),
    Resource(_INFERENCE_ALPHA, "v1alpha2", "inferencemodelrewrites", "InferenceModelRewrite"),
)


def bare_definition(resource: Resource) -> dict[str, Any]:
    """A CustomResourceDefinition (apiextensions.k8s.io/v1) that serves ``resource`` without validation."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{resource.group}"},
        "spec": {
            "group": resource.group,
            "scope": "Namespaced" if resource.namespaced else "Cluster",
            "names": {
                "plural": resource.plural,
                "singular": resource.kind.lower(),
                "kind": resource.kind,
                "listKind": f"{resource.kind}List",
            },
            "versions": [
                {
                    "name": resource.version,
                    "served": True,
                    "storage": True,
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "properties": {"spec": schema, "status": schema},
                        }
                    },
                    "subresources": {"status": {}},
                }
            ],
        },
    }
