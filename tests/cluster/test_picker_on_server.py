"""What installs a picker, on a real API server: valid, restricted, and rights that just suffice for the picker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from rollouts.api.crds import all_crds
from rollouts.cli.main import main
from rollouts.kube.client import PatchKind, Resource
from rollouts.kube.errors import Forbidden
from rollouts.lab.controlplane import Upstream, create_ready_pod, install_crds, install_upstream_crds
from rollouts.lab.loopback import loopback
from rollouts.objects import kinds
from rollouts.picker.core.objects import PoolName
from rollouts.picker.main import Picker, PickerConfig
from rollouts.traffic.fields import covers
from tests.kit.helm import built_helm, render_chart
from tests.kit.polling import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

Object = dict[str, Any]
RBAC = "rbac.authorization.k8s.io"
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NAMESPACE = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
ROLE = Resource(RBAC, "v1", "roles", "Role")
RESOURCES = {
    resource.kind: resource
    for resource in (
        Resource("", "v1", "serviceaccounts", "ServiceAccount"),
        kinds.SERVICE,
        Resource("apps", "v1", "deployments", "Deployment"),
        Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget"),
        ROLE,
        Resource(RBAC, "v1", "rolebindings", "RoleBinding"),
        Resource("networking.istio.io", "v1", "destinationrules", "DestinationRule"),
    )
}
EVERYTHING = {
    "destinationRule": True,
    "keepStreams": True,
    "modelServers": {
        "scheme": "https",
        "serverName": "vllm",
        "secret": {"name": "vllm", "caKey": "ca.crt", "apiKeyKey": "token"},
    },
}


def from_manifest(namespace: str, *options: str) -> list[Object]:
    pools = str(EXAMPLES / "base-model" / "pools.yaml")
    command = ["picker-manifest", "mymodel-pool-v1", "-n", namespace, "--objects", pools]
    return list(yaml.safe_load_all(CliRunner().invoke(main, [*command, *options]).stdout))


def from_manifest_with_everything(namespace: str) -> list[Object]:
    servers = ("--model-server-scheme", "https", "--model-server-name", "vllm")
    secret = ("--model-server-secret", "vllm,ca=ca.crt,api-key=token")
    return from_manifest(namespace, "--gateway", "istio", "--keep-streams", *servers, *secret)


def from_chart_with_everything(namespace: str) -> list[Object]:
    return from_chart(namespace, EVERYTHING)


def from_chart(namespace: str, more: Object | None = None) -> list[Object]:
    helm = built_helm()
    if helm is None:
        pytest.skip("no helm: `python -m tests.kit.helm` builds one (Go, three minutes once)")
    values = {"pickers": [{"pool": "mymodel-pool-v1", "service": "mymodel-v1-ext-proc", **(more or {})}]}
    names = {"mymodel-v1-ext-proc", "r-inference-rollouts-picker"}
    rendered = render_chart(helm, values, namespace=namespace)
    return [item for item in rendered if item["metadata"]["name"] in names]


SOURCES = pytest.mark.parametrize("source", [from_manifest, from_chart], ids=["manifest", "chart"])


async def install(kube, namespace: str, objects: list[Object]) -> str:
    """Create all of them; the name of the service account. What the server does not know it drops."""
    for item in objects:
        stored = await kube.create(RESOURCES[item["kind"]], namespace, item)
        assert covers(stored, item)
    (account,) = (item for item in objects if item["kind"] == "ServiceAccount")
    return str(account["metadata"]["name"])


@pytest.mark.parametrize(
    "source",
    [from_manifest, from_chart, from_manifest_with_everything, from_chart_with_everything],
    ids=["manifest", "chart", "manifest with everything", "chart with everything"],
)
async def test_everything_is_accepted_and_the_pods_meet_the_restricted_standard(kube, namespace, source):
    await install_upstream_crds(kube, [Upstream.ISTIO])
    label = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    await kube.patch(NAMESPACE, None, namespace, label, kind=PatchKind.MERGE)
    objects = source(namespace)
    await install(kube, namespace, objects)

    (deployment,) = (item for item in objects if item["kind"] == "Deployment")
    pod = {**deployment["spec"]["template"], "apiVersion": "v1", "kind": "Pod"}
    pod["metadata"] = {**pod["metadata"], "name": "picker"}
    assert await kube.create(kinds.POD, namespace, pod)


async def scenario(kube, namespace: str) -> None:
    await install_upstream_crds(kube)
    await install_crds(kube, all_crds())
    files = (EXAMPLES / "base-model" / "pools.yaml", EXAMPLES / "lora" / "model.yaml")
    resources = {"InferencePool": kinds.POOL_X, "InferenceModel": kinds.INFERENCE_MODEL}
    for file in (*files, EXAMPLES / "lora" / "rollout.yaml"):
        for item in yaml.safe_load_all(file.read_text()):
            resource = resources.get(item["kind"], kinds.ROLLOUT)
            await kube.create(resource, namespace, item)
    labels = {"app": "custom-serving", "release": "qwen"}
    await create_ready_pod(kube, namespace, "qwen-0", labels=labels, ip=loopback(23, 1))


def config(namespace: str) -> PickerConfig:
    return PickerConfig(
        pools=(PoolName(namespace, "mymodel-pool-v1"),),
        grpc_address="127.0.0.1:0",
        metrics_address="127.0.0.1:0",
        secure_serving=False,
        scrape=False,
        drain_grace=0.0,
    )


@SOURCES
async def test_the_rights_just_suffice_to_serve_the_pool(kube, namespace, source, as_service_account):
    await scenario(kube, namespace)
    account = await install(kube, namespace, source(namespace))
    client = as_service_account(namespace, account)
    for secret in (Resource("", "v1", "secrets", "Secret"), kinds.SERVICE, kinds.HTTP_ROUTE):
        with pytest.raises(Forbidden):
            await client.list_page(secret, namespace)
    with pytest.raises(Forbidden):
        await client.patch(kinds.INFERENCE_MODEL, namespace, "loramodel", {}, kind=PatchKind.MERGE)
    picker = Picker(config(namespace), client=client)
    await picker.start()
    try:
        await eventually(lambda: picker.ready, timeout=20)
        snapshot = picker.router.snapshot
        rule = snapshot.rules.find("travelhelper")
        assert [endpoint.pod for endpoint in snapshot.endpoints] == ["qwen-0"]
        assert rule is not None
        assert {t.name: t.weight for t in rule.targets} == {"travel-helper-v1": 90, "travel-helper-v2": 10}
        assert snapshot.policies["travelhelper"].sticky is not None
        assert picker.reads_pool_splits()

        targets = {"spec": {"targetModels": [{"name": "travel-helper-v1", "weight": 100}]}}
        await kube.patch(kinds.INFERENCE_MODEL, namespace, "loramodel", targets, kind=PatchKind.MERGE)

        def followed() -> bool:
            found = picker.router.snapshot.rules.find("travelhelper")
            return found is not None and len(found.targets) == 1

        await eventually(followed, timeout=10)
    finally:
        await picker.stop()


async def test_with_one_right_less_it_does_not_become_ready(kube, namespace, as_service_account):
    """So the test above cannot pass by accident: without the rewrites, say, the picker knows that it is blind."""
    await scenario(kube, namespace)
    account = await install(kube, namespace, from_manifest(namespace))
    role = await kube.get(ROLE, namespace, "mymodel-v1-ext-proc")
    rules = [rule for rule in role["rules"] if rule["resources"] != ["inferencemodelrewrites"]]
    await kube.patch(ROLE, namespace, "mymodel-v1-ext-proc", {"rules": rules}, kind=PatchKind.MERGE)
    picker = Picker(config(namespace), client=as_service_account(namespace, account))
    await picker.start()
    try:
        with pytest.raises(TimeoutError):
            await eventually(lambda: picker.ready, timeout=2)
    finally:
        await picker.stop()
