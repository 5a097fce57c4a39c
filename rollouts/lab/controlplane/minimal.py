"""Small CRDs of our own, for where the upstream ones cannot be fetched: names and shapes, few rules.

Sources: the API references of the Gateway API and of its Inference Extension. Everything below ``spec``
and ``status`` that is not named here is kept as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "GATEWAY",
    "INFERENCE_ALPHA",
    "INFERENCE_V1",
    "ISTIO",
    "KSERVE",
    "LEADER_WORKER_SET",
    "LLM_D",
    "REWRITE_SPLIT",
    "rewrite_crd",
]

Object = dict[str, Any]
_OPEN: Object = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_STRING: Object = {"type": "string"}
_WEIGHT: Object = {"type": "integer", "minimum": 1, "maximum": 1_000_000}
_SCALE: Object = {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}


def _spec(properties: Mapping[str, Any], *required: str) -> Object:
    return {**_OPEN, "properties": dict(properties), "required": list(required)}


def _list(item: Object) -> Object:
    return {"type": "array", "items": item}


def _crd(
    group: str,
    kind: str,
    spec: Object,
    *,
    versions: tuple[str, ...],
    plural: str = "",
    namespaced: bool = True,
    columns: tuple[tuple[str, str], ...] = (),
    scaled: bool = False,
) -> Object:
    plural = plural or f"{kind.lower()}s"
    schema = {"type": "object", "properties": {"spec": spec, "status": _OPEN}}
    printed = [{"name": name, "type": "string", "jsonPath": path} for name, path in columns]
    printed.append({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"})
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{group}",
            # Groups under k8s.io must say whether they were reviewed; these are stand-ins.
            "annotations": {"api-approved.kubernetes.io": "unapproved, a minimal stand-in for tests"},
        },
        "spec": {
            "group": group,
            "scope": "Namespaced" if namespaced else "Cluster",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": version == versions[0],
                    "subresources": {"status": {}, **({"scale": _SCALE} if scaled else {})},
                    "additionalPrinterColumns": printed,
                    "schema": {"openAPIV3Schema": schema},
                }
                for version in versions
            ],
        },
    }


def rewrite_crd(group: str, targets: str) -> Object:
    """InferenceModelRewrite whose rules call their list ``targets`` or ``split``."""
    target = {**_OPEN, "properties": {"modelRewrite": _STRING, "weight": _WEIGHT}}
    rule = {**_OPEN, "properties": {"matches": _list(_OPEN), targets: _list(target)}}
    # Only one spelling of the list is known to each version; the other one is pruned.
    del rule["x-kubernetes-preserve-unknown-fields"]
    spec = _spec({"poolRef": _OPEN, "rules": _list(rule)}, "poolRef", "rules")
    return _crd(group, "InferenceModelRewrite", spec, versions=("v1alpha2",))


_GATEWAY_GROUP = "gateway.networking.k8s.io"
_ALPHA_GROUP = "inference.networking.x-k8s.io"
_V1_GROUP = "inference.networking.k8s.io"
_LLM_D_GROUP = "llm-d.ai"
_HOSTS = ("Hostnames", ".spec.hostnames")
_OBJECTIVE = _spec({"priority": {"type": "integer"}, "poolRef": _OPEN}, "poolRef")

_BACKEND = {
    "name": _STRING,
    "group": _STRING,
    "kind": _STRING,
    "namespace": _STRING,
    "port": {"type": "integer", "minimum": 1, "maximum": 65535},
    "weight": {"type": "integer", "minimum": 0, "maximum": 1_000_000, "default": 1},
    "filters": _list(_OPEN),
}
_PATH = {"type": {"type": "string", "enum": ["Exact", "PathPrefix", "RegularExpression"]}, "value": _STRING}
# Rules are closed, as upstream's are: people put fields of newer channels there, and a real server refuses them.
_ROUTE_RULE: Object = {
    "type": "object",
    "properties": {
        "name": _STRING,
        "matches": _list({**_OPEN, "properties": {"path": {"type": "object", "properties": _PATH}}}),
        "filters": _list(_OPEN),
        "backendRefs": _list({"type": "object", "properties": _BACKEND, "required": ["name"]}),
        "timeouts": {"type": "object", "properties": {"request": _STRING, "backendRequest": _STRING}},
    },
}

GATEWAY: tuple[Object, ...] = (
    _crd(_GATEWAY_GROUP, "GatewayClass", _OPEN, versions=("v1",), plural="gatewayclasses", namespaced=False),
    _crd(_GATEWAY_GROUP, "Gateway", _OPEN, versions=("v1", "v1beta1")),
    _crd(
        _GATEWAY_GROUP,
        "HTTPRoute",
        _spec({"parentRefs": _list(_OPEN), "hostnames": _list(_STRING), "rules": _list(_ROUTE_RULE)}),
        versions=("v1", "v1beta1"),
        columns=(_HOSTS,),
    ),
    _crd(_GATEWAY_GROUP, "ReferenceGrant", _OPEN, versions=("v1beta1",)),
)
INFERENCE_ALPHA: tuple[Object, ...] = (
    _crd(
        _ALPHA_GROUP,
        "InferencePool",
        _spec(
            {
                "selector": {"type": "object", "additionalProperties": _STRING},
                "targetPortNumber": {"type": "integer", "minimum": 1, "maximum": 65535},
                "extensionRef": _OPEN,
            },
            "selector",
            "targetPortNumber",
            "extensionRef",
        ),
        versions=("v1alpha2",),
    ),
    _crd(
        _ALPHA_GROUP,
        "InferenceModel",
        _spec(
            {
                "modelName": _STRING,
                "criticality": {"type": "string", "enum": ["Critical", "Standard", "Sheddable"]},
                "targetModels": {
                    **_list({**_OPEN, "properties": {"name": _STRING, "weight": _WEIGHT}}),
                    "maxItems": 10,
                },
                "poolRef": _OPEN,
            },
            "modelName",
            "poolRef",
        ),
        versions=("v1alpha2",),
        columns=(("Model Name", ".spec.modelName"), ("Inference Pool", ".spec.poolRef.name")),
    ),
)
INFERENCE_V1: tuple[Object, ...] = (
    _crd(
        _V1_GROUP,
        "InferencePool",
        _spec(
            {"selector": _OPEN, "targetPorts": _list(_OPEN), "endpointPickerRef": _OPEN},
            "selector",
            "targetPorts",
        ),
        versions=("v1",),
    ),
    rewrite_crd(_ALPHA_GROUP, "targets"),
    _crd(_ALPHA_GROUP, "InferenceObjective", _OBJECTIVE, versions=("v1alpha2",)),
)
REWRITE_SPLIT: tuple[Object, ...] = (rewrite_crd(_ALPHA_GROUP, "split"),)
LLM_D: tuple[Object, ...] = (
    rewrite_crd(_LLM_D_GROUP, "targets"),
    _crd(_LLM_D_GROUP, "InferenceObjective", _OBJECTIVE, versions=("v1alpha2",)),
)
ISTIO: tuple[Object, ...] = (
    _crd(
        "networking.istio.io",
        "DestinationRule",
        _spec({"host": _STRING, "trafficPolicy": _OPEN}, "host"),
        versions=("v1",),
    ),
)
_GROUPED: Object = {
    **_OPEN,
    "properties": {
        "group": {
            "type": "string",
            "minLength": 1,
            "maxLength": 63,
            "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$",
        },
        "weight": {"type": "integer", "format": "int32", "minimum": 0, "maximum": 1_000_000},
    },
}
KSERVE: tuple[Object, ...] = (
    _crd(
        "serving.kserve.io",
        "LLMInferenceService",
        _spec({"model": _OPEN, "router": {**_OPEN, "properties": {"route": _GROUPED}}}),
        versions=("v1alpha2", "v1alpha1"),
        columns=(("Ready", ".status.conditions[?(@.type=='Ready')].status"),),
    ),
)
LEADER_WORKER_SET: tuple[Object, ...] = (
    _crd(
        "leaderworkerset.x-k8s.io",
        "LeaderWorkerSet",
        _spec({"replicas": {"type": "integer", "minimum": 0, "default": 1}, "leaderWorkerTemplate": _OPEN}),
        versions=("v1",),
        scaled=True,
    ),
)
