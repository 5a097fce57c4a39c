"""A real istiod, with upstream Envoy as its data plane, in place of the lab's gateway.

istiod runs beside a kube-apiserver and programs an Envoy that asks it as Istio's own proxy does; filters that only
Istio's build of Envoy has are switched off. What a kube-controller-manager would do is done by ``slices``.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.peers.slices import EndpointSlices
from rollouts.api.crds import all_crds
from rollouts.kube.client import Resource
from rollouts.kube.http import HttpKubeClient, open_client
from rollouts.lab.controlplane import Upstream, create_ready_pod, install_crds, install_upstream_crds
from rollouts.lab.environment import Lab
from rollouts.lab.gateway.envoy import find_envoy
from rollouts.lab.kubelet import Kubelet
from rollouts.lab.loopback import loopback
from rollouts.lab.processes import ChildProcess
from rollouts.objects import kinds

__all__ = ["IstioGateway", "IstioLab"]

Object = dict[str, Any]

_NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
_SYSTEM, _NAMESPACE, _GATEWAY, _CLASS = "istio-system", "default", "inference-gateway", "istio"
_PORT, _XDS = 8080, 15010
_STARTED = 90.0
_SETTINGS = {
    "ENABLE_GATEWAY_API_INFERENCE_EXTENSION": "true",
    # No kube-controller-manager would make pods of its Deployments.
    "PILOT_ENABLE_GATEWAY_API_DEPLOYMENT_CONTROLLER": "false",
    "PILOT_ENABLE_ALPN_FILTER": "false",
    "PILOT_ENABLE_METADATA_EXCHANGE": "false",
    "ENABLE_CA_SERVER": "false",
    "POD_NAMESPACE": _SYSTEM,
    "POD_NAME": "istiod-0",
}


class IstioGateway:
    """istiod and one Envoy. ``wait_for_gateway`` answers the URL of the Gateway's listener."""

    def __init__(self, client: HttpKubeClient, binary: Path, directory: Path, kubeconfig: Path) -> None:
        self._client = client
        self._directory = directory
        self._address = loopback(0, 2)
        mesh = directory / "mesh.yaml"
        mesh.parent.mkdir(parents=True, exist_ok=True)
        mesh.write_text(
            "enableAutoMtls: false\ndefaultProviders: {}\nenableTracing: false\naccessLogFile: ''\n"
        )
        istiod = [str(binary), "discovery", "--kubeconfig", str(kubeconfig), "--meshConfig", str(mesh)]
        istiod += ["--grpcAddr", f"127.0.0.1:{_XDS}", "--httpAddr", "127.0.0.1:15080", "--secureGRPCAddr", ""]
        istiod += ["--httpsAddr", "", "--monitoringAddr", "127.0.0.1:15014", "--ctrlz_port", "0"]
        command = ["/usr/bin/env", *(f"{name}={value}" for name, value in _SETTINGS.items()), *istiod]
        self._istiod = ChildProcess("istiod", command, log_path=directory / "istiod.log")
        bootstrap = directory / "envoy.json"
        bootstrap.write_text(json.dumps(_bootstrap(self._address), indent=1))
        envoy = [str(find_envoy()), "-c", str(bootstrap), "--disable-hot-restart", "--concurrency", "1"]
        self._envoy = ChildProcess(
            "envoy", [*envoy, "--log-level", "warning"], log_path=directory / "envoy.log"
        )

    async def start(self) -> None:
        """Start both. Raises ProcessStartError."""
        await self._client.create(_NAMESPACES, None, {"metadata": {"name": _SYSTEM}})
        labels = {"gateway.networking.k8s.io/gateway-name": _GATEWAY}
        await create_ready_pod(self._client, _NAMESPACE, "gateway-0", labels=labels, ip=self._address)
        service = {
            "metadata": {"name": f"{_GATEWAY}-{_CLASS}"},
            "spec": {"selector": labels, "ports": [{"name": "http", "port": _PORT}]},
        }
        await self._client.create(
            kinds.SERVICE, _NAMESPACE, {"apiVersion": "v1", "kind": "Service", **service}
        )
        await self._istiod.start()
        await _until_open(_XDS)
        await self._envoy.start()

    async def wait_for_gateway(self) -> str:
        """Until the listener is there. Raises TimeoutError."""
        await _until_open(_PORT)
        return f"http://127.0.0.1:{_PORT}"

    async def stop(self) -> None:
        """End both."""
        await self._envoy.stop()
        await self._istiod.stop()


async def _until_open(port: int) -> None:
    async with asyncio.timeout(_STARTED):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.2)
                continue
            writer.close()
            return


def _bootstrap(address: str) -> Object:
    """As Istio's agent writes it, as far as istiod looks at it."""
    metadata = {
        "NAMESPACE": _NAMESPACE,
        "CLUSTER_ID": "Kubernetes",
        "LABELS": {"gateway.networking.k8s.io/gateway-name": _GATEWAY},
        "ISTIO_VERSION": "1.31.0",
        "SERVICE_ACCOUNT": "default",
        "INSTANCE_IPS": address,
    }
    source = {"ads": {}, "resource_api_version": "V3"}
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    endpoint = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": _XDS}}}
    xds = {
        "name": "xds-grpc",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": "xds-grpc",
            "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}],
        },
        "typed_extension_protocol_options": {
            options: {
                "@type": f"type.googleapis.com/{options}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
    }
    return {
        "node": {
            "id": f"router~{address}~gateway-0.{_NAMESPACE}~{_NAMESPACE}.svc.cluster.local",
            "cluster": f"gateway.{_NAMESPACE}",
            "metadata": metadata,
        },
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 15000}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}],
            },
            "cds_config": source,
            "lds_config": source,
        },
        "static_resources": {"clusters": [xds]},
    }


class IstioLab(Lab):
    """The lab, on Istio. Objects of the examples are written for the group and the class that it reads."""

    istiod: Path

    async def start(self) -> None:
        """As the lab's, with another gateway."""
        self.directory.mkdir(parents=True, exist_ok=True)
        await self.control_plane.start()
        self._client = await open_client(str(self.kubeconfig), field_manager="kubectl")
        sets = (Upstream.GATEWAY, Upstream.INFERENCE_ALPHA, Upstream.INFERENCE_V1, Upstream.ISTIO)
        await install_upstream_crds(self.client, sets)
        await install_crds(self.client, all_crds())
        await self.fleet.start()
        self._kubelet = Kubelet(self.client)
        await self._kubelet.add_all(self.pods)
        self._slices = EndpointSlices(self.client, _NAMESPACE)
        await self._slices.start()
        istio = IstioGateway(self.client, self.istiod, self.directory / "istio", self.kubeconfig)
        self._gateway = istio  # type: ignore[assignment]  # what stories use of a gateway it has
        await istio.start()

    async def stop(self) -> None:
        """As the lab's."""
        if hasattr(self, "_slices"):
            await self._slices.stop()
        await super().stop()

    async def apply(self, objects: Iterable[Object]) -> None:
        """Written for Istio: pools of v1, its class."""
        await super().apply([_for_istio(obj) for obj in objects])


def _for_istio(obj: Object) -> Object:
    group = obj["apiVersion"].partition("/")[0]
    if obj["kind"] == "InferencePool" and group == kinds.POOL_X.group:
        spec = obj["spec"]
        picker = {"name": spec["extensionRef"]["name"], "port": {"number": 9002}}
        return {
            **obj,
            "apiVersion": kinds.POOL_V1.api_version,
            "spec": {
                "selector": {"matchLabels": spec["selector"]},
                "targetPorts": [{"number": spec["targetPortNumber"]}],
                "endpointPickerRef": picker,
            },
        }
    if obj["kind"] == "Gateway":
        return {**obj, "spec": {**obj["spec"], "gatewayClassName": _CLASS}}
    if obj["kind"] == "HTTPRoute":
        text = json.dumps(obj["spec"]).replace(kinds.POOL_X.group, kinds.POOL_V1.group)
        return {**obj, "spec": json.loads(text)}
    return _with_pool_ref(obj)


def _with_pool_ref(obj: Object) -> Object:
    """An InferenceModel without a group means pools of its own, and so does a Rollout that adopts it."""
    found = copy.deepcopy(obj)
    model = found["spec"].get("traffic", {}).get("inferenceModel", found["spec"])
    if "poolRef" in model:
        model["poolRef"]["group"] = kinds.POOL_V1.group
    return found
