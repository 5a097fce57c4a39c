"""The objects that run our endpoint picker for one InferencePool, as plain dicts: what the chart's ``pickers`` make.

Pure; a test holds them against the rendered chart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rollouts.picker.watching import RESOURCES

__all__ = [
    "GRPC_PORT",
    "HEALTH_PORT",
    "METRICS_PORT",
    "ModelServerAccess",
    "PickerInstallation",
    "picker_objects",
]

Object = dict[str, Any]

_SERVERS = "/etc/inference-rollouts/model-servers"
GRPC_PORT = 9002
"""Of the pods. The Service has the port that the pool names, which may be a privileged one."""

METRICS_PORT = 9090
HEALTH_PORT = 9003
"""gRPC health without TLS: the kubelet's gRPC probe speaks none."""

_METRICS_ANNOTATION = "inferencerollouts.dev/metrics-port"
_RBAC = "rbac.authorization.k8s.io"
_USER = 65532


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelServerAccess:
    """How the picker calls the pods. ``ca_key`` and ``api_key_key`` are entries of ``secret``, which is mounted."""

    scheme: str = "http"
    server_name: str = ""
    verify: bool = True
    secret: str = ""
    ca_key: str = ""
    api_key_key: str = ""

    @property
    def arguments(self) -> list[str]:
        """What differs from plain HTTP without a key."""
        found = ["--model-server-scheme=https"] if self.scheme == "https" else []
        found += [f"--model-server-name={self.server_name}"] if self.server_name else []
        found += [] if self.verify else ["--model-server-insecure-skip-verify"]
        found += [f"--model-server-ca={_SERVERS}/{self.ca_key}"] if self.ca_key else []
        found += [f"--model-server-api-key-file={_SERVERS}/{self.api_key_key}"] if self.api_key_key else []
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class PickerInstallation:
    """What to install: ``service`` and ``port`` are the ones that the pool names.

    ``destination_rule``: Istio's object that makes it take the picker's own certificate, where there is one.
    """

    namespace: str
    pool: str
    service: str
    port: int
    image: str
    replicas: int = 2
    unready: str = "spill"
    keep_streams: bool = False
    secure_serving: bool = True
    destination_rule: bool = False
    servers: ModelServerAccess = ModelServerAccess()  # frozen, one default for all

    @property
    def selector(self) -> dict[str, str]:
        """Labels by which Service, Deployment and disruption budget find the pods."""
        return {
            "app.kubernetes.io/name": "inference-rollouts",
            "app.kubernetes.io/component": "picker",
            "inferencerollouts.dev/pool": self.pool,
        }


def picker_objects(what: PickerInstallation) -> list[Object]:
    """ServiceAccount, Role, RoleBinding, Service, Deployment; a PodDisruptionBudget for several replicas."""
    role = {"apiGroup": _RBAC, "kind": "Role", "name": what.service}
    account = {"kind": "ServiceAccount", "name": what.service, "namespace": what.namespace}
    budget = {"maxUnavailable": 1, "selector": {"matchLabels": what.selector}}
    found = [
        _object(what, "v1", "ServiceAccount", automountServiceAccountToken=False),
        _object(what, f"{_RBAC}/v1", "Role", rules=_rules()),
        _object(what, f"{_RBAC}/v1", "RoleBinding", roleRef=role, subjects=[account]),
        _service(what),
        _object(what, "apps/v1", "Deployment", spec=_deployment(what)),
    ]
    if what.destination_rule and what.secure_serving:
        # The picker's certificate is its own, signed by nobody.
        trust = {"tls": {"mode": "SIMPLE", "insecureSkipVerify": True}}
        rule = {"host": what.service, "trafficPolicy": trust}
        found.append(_object(what, "networking.istio.io/v1", "DestinationRule", spec=rule))
    if what.replicas > 1:
        found.append(_object(what, "policy/v1", "PodDisruptionBudget", spec=budget))
    return found


def _object(what: PickerInstallation, api_version: str, kind: str, **fields: Any) -> Object:
    labels = {**what.selector, "app.kubernetes.io/managed-by": "rollouts"}
    metadata = {"name": what.service, "namespace": what.namespace, "labels": labels}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **fields}


def _rules() -> list[Object]:
    """Exactly what the picker watches; a kind that moved between API groups is one rule."""
    groups: dict[str, list[str]] = {}
    for resource in RESOURCES:
        groups.setdefault(resource.plural, []).append(resource.group)
    return [
        {"apiGroups": names, "resources": [plural], "verbs": ["list", "watch"]}
        for plural, names in groups.items()
    ]


def _service(what: PickerInstallation) -> Object:
    port = {"name": "grpc", "port": what.port, "targetPort": "grpc"}
    service = _object(what, "v1", "Service", spec={"selector": what.selector, "ports": [port]})
    service["metadata"]["annotations"] = {_METRICS_ANNOTATION: str(METRICS_PORT)}
    return service


def _deployment(what: PickerInstallation) -> Object:
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": what.selector},
    }
    pod = {
        "serviceAccountName": what.service,
        "automountServiceAccountToken": True,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 60,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [spread],
        "containers": [_container(what)],
        "volumes": _volumes(what.servers),
    }
    return {
        "replicas": what.replicas,
        # A gateway that fails closed answers nothing without a picker.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "selector": {"matchLabels": what.selector},
        "template": {"metadata": {"labels": what.selector}, "spec": pod},
    }


def _container(what: PickerInstallation) -> Object:
    ports = {"grpc": GRPC_PORT, "metrics": METRICS_PORT, "health": HEALTH_PORT}
    return {
        "name": "picker",
        "image": what.image,
        "imagePullPolicy": "IfNotPresent",
        "args": _arguments(what),
        # The kubelet fills in the limit below: what the picker holds of unfinished requests is a part of it.
        "env": [
            {
                "name": "MEMORY_LIMIT",
                # What schemas default inside lists is written out: another tool's apply is no conflict then.
                "valueFrom": {
                    "resourceFieldRef": {
                        "containerName": "picker",
                        "resource": "limits.memory",
                        "divisor": "0",
                    }
                },
            }
        ],
        "ports": [{"name": name, "containerPort": port} for name, port in ports.items()],
        # Gateways hear of the end of an endpoint a little later than the pod does.
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "5"]}}},
        "livenessProbe": _probe("liveness", period=20),
        "readinessProbe": _probe("readiness", period=5),
        "resources": {"requests": {"cpu": "250m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, *_mounts(what.servers)],
    }


def _arguments(what: PickerInstallation) -> list[str]:
    return [
        "picker",
        f"--pool={what.namespace}/{what.pool}",
        f"--grpc-address=0.0.0.0:{GRPC_PORT}",
        f"--metrics-address=0.0.0.0:{METRICS_PORT}",
        f"--health-address=0.0.0.0:{HEALTH_PORT}",
        f"--unready={what.unready}",
        "--memory-limit=$(MEMORY_LIMIT)",
        *(["--keep-streams"] if what.keep_streams else []),
        *([] if what.secure_serving else ["--no-secure-serving"]),
        *what.servers.arguments,
    ]


def _mounts(servers: ModelServerAccess) -> list[Object]:
    mount = {"name": "model-servers", "mountPath": _SERVERS, "readOnly": True}
    return [mount] if servers.secret else []


def _volumes(servers: ModelServerAccess) -> list[Object]:
    secret = {"secretName": servers.secret, "defaultMode": 0o440}
    found: list[Object] = [{"name": "tmp", "emptyDir": {"sizeLimit": "16Mi"}}]
    return found + ([{"name": "model-servers", "secret": secret}] if servers.secret else [])


def _probe(service: str, *, period: int) -> Object:
    return {
        "grpc": {"port": HEALTH_PORT, "service": service},
        "periodSeconds": period,
        "timeoutSeconds": 5,
    }
