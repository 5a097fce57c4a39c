"""Values of the chart that tests install: a matrix of what people combine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["MATRIX"]

Values = dict[str, Any]

_PLACED: Values = {
    "podAnnotations": {"team": "serving"},
    "podLabels": {"team": "serving"},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "cpu", "operator": "Exists"}]}]
            }
        }
    },
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"},
        {
            "maxSkew": 2,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"team": "serving"}},
        },
    ],
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
    "extraVolumes": [{"name": "more", "configMap": {"name": "more"}}],
    "extraVolumeMounts": [{"name": "more", "mountPath": "/etc/more", "readOnly": True}],
    "resources": {"requests": {"cpu": "1", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
}
_GATEWAYS = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "gateway-system"}}}]
_PICKERS: list[Values] = [
    {"pool": "v1", "service": "v1-picker"},
    {"pool": "v2", "service": "v2-picker", "replicas": 1, "port": 9005, "metricsPort": 9100},
]
_SECRETS: Values = {
    "sources": {"default": {"url": "https://p:9090", "secret": {"name": "s", "caKey": "ca.crt"}}},
    "modelServers": [
        {"namespace": "a", "scheme": "https", "secret": {"name": "a", "caKey": "ca.crt", "apiKeyKey": "key"}}
    ],
    "adapters": {
        "prefixes": ["/adapters"],
        "apiKeys": [{"namespace": "b", "secret": {"name": "b", "key": "k"}}],
    },
}
_SEEN: Values = {
    name: {"enabled": True, "labels": {"release": "prometheus"}, "annotations": {"by": "us"}}
    for name in ("serviceMonitor", "podMonitor", "prometheusRule", "dashboards")
}

MATRIX: Mapping[str, Values] = {
    "nothing": {},
    "a renamed release": {"nameOverride": "llm-rollouts", "pickers": _PICKERS},
    "a name for everything": {"fullnameOverride": "rollouts", "pickers": _PICKERS, "replicas": 3},
    "an image by digest": {
        "image": {
            "repository": "registry/rollouts",
            "digest": f"sha256:{'0' * 64}",
            "pullSecrets": ["registry"],
        }
    },
    "placed": {
        **_PLACED,
        "replicas": 3,
        "extraArgs": ["--no-leader-elect"],
        "podDisruptionBudget": {"maxUnavailable": "34%"},
        "pickers": _PICKERS,
        "pickerDefaults": {**_PLACED, "extraArgs": ["--keep-streams"]},
    },
    "several namespaces": {
        "watch": {"namespaces": ["default", "kube-public"]},
        "pickers": [
            {**_PICKERS[0], "namespace": "default"},
            {**_PICKERS[0], "namespace": "kube-public"},
            {**_PICKERS[1], "namespace": "default"},
        ],
        "podMonitor": {"enabled": True},
        "networkPolicy": {
            "enabled": True,
            "egress": {"enabled": True, "gateways": _GATEWAYS},
            "pickers": {"enabled": True, "gatewaysFrom": _GATEWAYS},
        },
    },
    "closed in": {
        **_SECRETS,
        "pickers": _PICKERS,
        "networkPolicy": {
            "enabled": True,
            "metricsFrom": [{"podSelector": {}}],
            "egress": {
                "enabled": True,
                "apiServer": [{"ipBlock": {"cidr": "10.0.0.1/32"}}],
                "metricSources": [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}],
                "gateways": _GATEWAYS,
                "extra": [{"to": [{"ipBlock": {"cidr": "10.9.0.0/16"}}], "ports": [{"port": 3128}]}],
            },
            "pickers": {"enabled": True, "gatewaysFrom": _GATEWAYS},
        },
    },
    "closed in, for the whole cluster": {
        "watch": {"allNamespaces": True},
        "pathProbe": {"enabled": False},
        "networkPolicy": {"enabled": True, "egress": {"enabled": True}},
    },
    "seen": {**_SEEN, "pickers": _PICKERS},
    "all rights": {
        "crds": {"upgradeJob": {"enabled": True}},
        "watch": {"allNamespaces": True},
        "clusterTemplates": True,
        "jobs": {"enabled": True},
        "rbac": {"aggregateClusterRoles": True},
        "modelServers": _SECRETS["modelServers"],
    },
    "another namespace, another account": {
        "watch": {"namespace": "default"},
        "serviceAccount": {"create": False, "name": "theirs"},
        "pickers": [
            {
                **_PICKERS[0],
                "clientCaSecret": {"name": "gateways", "key": "ca.crt"},
                "modelServers": {"scheme": "https", "secret": {"name": "vllm", "apiKeyKey": "key"}},
            }
        ],
    },
}
"""By what it is. Every combination installs; ``tests/cluster`` asks a real API server."""
