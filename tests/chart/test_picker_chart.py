"""A picker from the chart and one from `rollouts picker-manifest` differ in names and labels, in nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from rollouts.cli.doctor_pickers import exposure_checks
from rollouts.cli.findings import Level
from rollouts.cli.main import main
from rollouts.peers import GatewayPeer, gateway_peers
from rollouts.picker.credentials import self_signed_pair
from rollouts.picker.server import HEALTH_NAMES, LIVENESS

ROOT = Path(__file__).resolve().parents[2]
POOLS = ROOT / "examples" / "base-model" / "pools.yaml"

Object = dict[str, Any]
Render = Callable[[Object], list[Object]]

# Names, labels and what selects by labels: the chart's carry the release's name.
NAMING = {"name", "labels", "matchLabels", "serviceAccountName", "subjects", "roleRef"}
FIXED = {"picker", "grpc", "metrics", "health", "tmp", "model-servers"}


def manifest(pool: str, *options: str) -> dict[str, Object]:
    """Objects by kind."""
    command = ["picker-manifest", pool, "-n", "serving", "--objects", str(POOLS), *options]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    found = list(yaml.safe_load_all(result.stdout))
    assert len({item["kind"] for item in found}) == len(found)
    return {item["kind"]: item for item in found}


def chart(render: Render, **picker: Any) -> dict[str, Object]:
    """The objects that the chart makes for one picker, by kind."""
    entry = {"pool": "mymodel-pool-v1", "service": "mymodel-v1-ext-proc", **picker}
    objects = render({"pickers": [entry]})
    names = {"mymodel-v1-ext-proc", "r-inference-rollouts-picker"}
    return {item["kind"]: item for item in objects if item["metadata"]["name"] in names}


def nameless(value: Any) -> Any:
    """Without names and labels, but for the names of containers, ports and volumes, which are the same."""
    if isinstance(value, dict):
        return {
            key: nameless(item)
            for key, item in value.items()
            if key not in NAMING or (key == "name" and item in FIXED)
        }
    return [nameless(item) for item in value] if isinstance(value, list) else value


def body(item: Object) -> Object:
    return {key: value for key, value in item.items() if key != "metadata"}


@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize("unready", ["spill", "shed"])
def test_chart_and_manifest_install_the_same(render: Render, replicas: int, unready: str) -> None:
    ours = manifest("mymodel-pool-v1", "--replicas", str(replicas), "--unready", unready)
    theirs = chart(render, replicas=replicas, unready=unready)

    assert ours.keys() == theirs.keys()
    assert ("PodDisruptionBudget" in ours) == (replicas > 1)
    for kind, item in ours.items():
        found = nameless(body(item))
        if kind == "Service":
            # It selects by labels that carry the release's name.
            del found["spec"]["selector"], theirs[kind]["spec"]["selector"]
        assert found == nameless(body(theirs[kind])), kind
    for made in (ours, theirs):
        assert made["Service"]["metadata"]["annotations"] == {"inferencerollouts.dev/metrics-port": "9090"}
        assert made["Service"]["metadata"]["name"] == "mymodel-v1-ext-proc"


GUARDED = {
    "scheme": "https",
    "serverName": "vllm.serving",
    "secret": {"name": "vllm", "caKey": "ca.crt", "apiKeyKey": "token"},
}


@pytest.mark.parametrize(
    ("options", "values"),
    [
        (["--keep-streams"], {"keepStreams": True}),
        (["--no-secure-serving"], {"secureServing": False}),
        (["--gateway", "istio"], {"destinationRule": True}),
        (["--gateway", "istio", "--no-secure-serving"], {"destinationRule": True, "secureServing": False}),
        (
            [
                *("--model-server-scheme", "https", "--model-server-name", "vllm.serving"),
                *("--model-server-secret", "vllm,ca=ca.crt,api-key=token"),
            ],
            {"modelServers": GUARDED},
        ),
        (
            ["--model-server-scheme", "https", "--model-server-insecure-skip-verify"],
            {"modelServers": {"scheme": "https", "insecureSkipVerify": True}},
        ),
        (
            ["--model-server-secret", "vllm,api-key=token"],
            {"modelServers": {"secret": {"name": "vllm", "apiKeyKey": "token"}}},
        ),
    ],
)
def test_options_of_the_command_are_values_of_the_chart(
    render: Render, options: list[str], values: dict[str, Any]
) -> None:
    ours, theirs = manifest("mymodel-pool-v1", *options), chart(render, **values)

    assert ours.keys() == theirs.keys()
    assert ("DestinationRule" in ours) == ("istio" in options and "--no-secure-serving" not in options)
    for kind in ("Deployment", *({"DestinationRule"} & ours.keys())):
        assert nameless(body(ours[kind])) == nameless(body(theirs[kind]))


@pytest.mark.parametrize("peer", gateway_peers(), ids=lambda peer: peer.key)
def test_a_manifest_for_a_gateway_brings_what_its_file_says(render: Render, peer: GatewayPeer) -> None:
    ours = manifest("mymodel-pool-v1", "--gateway", peer.key)
    theirs = chart(render, **peer.needs.values)

    assert ours.keys() == theirs.keys()
    assert nameless(body(ours["Deployment"])) == nameless(body(theirs["Deployment"]))
    arguments = ours["Deployment"]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert ("--keep-streams" in arguments) is peer.needs.keep_streams


def test_the_rule_for_istio_trusts_the_pickers_own_certificate() -> None:
    made = manifest("mymodel-pool-v1", "--gateway", "istio")
    rule, service = made["DestinationRule"], made["Service"]["metadata"]

    assert rule["spec"]["host"] == service["name"]
    assert rule["metadata"]["namespace"] == service["namespace"]
    assert rule["spec"]["trafficPolicy"]["tls"] == {"mode": "SIMPLE", "insecureSkipVerify": True}


@pytest.mark.parametrize(
    "options",
    [
        ["--model-server-secret", "vllm"],
        ["--model-server-secret", "vllm,key=token"],
        ["--model-server-secret", ",ca=ca.crt"],
        ["--model-server-name", "vllm"],
        ["--model-server-secret", "vllm,ca=ca.crt"],
    ],
)
def test_options_that_the_picker_would_refuse_are_refused_here(options: list[str]) -> None:
    command = ["picker-manifest", "mymodel-pool-v1", "--objects", str(POOLS), *options]
    result = CliRunner().invoke(main, command)

    assert result.exit_code == 2
    assert "--model-server-s" in result.output


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"modelServers": {"serverName": "vllm"}}, "needs scheme: https"),
        ({"modelServers": {"secret": {"name": "vllm", "caKey": "ca.crt"}}}, "needs scheme: https"),
        ({"modelServers": {**GUARDED, "insecureSkipVerify": True}}, "everybody"),
    ],
)
def test_values_that_the_picker_would_refuse_are_refused_by_the_chart(
    attempt: Any, values: dict[str, Any], words: str
) -> None:
    done = attempt({"pickers": [{"pool": "p", "service": "epp", **values}]})

    assert done.returncode != 0
    assert words in done.stderr


def test_what_model_servers_need_is_mounted_where_the_arguments_look(
    render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = chart(render, modelServers=GUARDED)["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    (volume,) = (one for one in pod["volumes"] if one["name"] == "model-servers")
    assert volume["secret"]["secretName"] == "vllm"

    _, certificate = self_signed_pair("vllm.serving")
    (tmp_path / "ca.crt").write_bytes(certificate)
    (tmp_path / "token").write_text("secret")
    started: list[dict[str, Any]] = []
    monkeypatch.setattr("rollouts.picker.command.run", lambda **settings: started.append(settings))
    arguments = [
        one.replace(mounts["model-servers"], str(tmp_path)).replace("$(MEMORY_LIMIT)", str(512 << 20))
        for one in container["args"]
    ]
    result = CliRunner().invoke(main, arguments)

    assert result.exit_code == 0, result.output
    servers = started[0]["options"]["servers"]
    assert (servers.scheme, servers.server_name, servers.ca, servers.api_key_file) == (
        "https",
        "vllm.serving",
        tmp_path / "ca.crt",
        tmp_path / "token",
    )


def test_the_defaults_of_both_are_two_replicas_and_the_same_image(render: Render) -> None:
    (ours, theirs) = (made["Deployment"]["spec"] for made in (manifest("mymodel-pool-v1"), chart(render)))

    assert ours["replicas"] == theirs["replicas"] == 2
    images = {spec["template"]["spec"]["containers"][0]["image"] for spec in (ours, theirs)}
    assert len(images) == 1


def everything_selects_the_pods(made: dict[str, Object]) -> None:
    pod = made["Deployment"]["spec"]["template"]
    labels = pod["metadata"]["labels"].items()
    (spread,) = pod["spec"]["topologySpreadConstraints"]
    for selector in (
        made["Service"]["spec"]["selector"],
        made["Deployment"]["spec"]["selector"]["matchLabels"],
        made["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        spread["labelSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels
        assert selector["inferencerollouts.dev/pool"] == "mymodel-pool-v1"
    account = made["ServiceAccount"]["metadata"]
    assert pod["spec"]["serviceAccountName"] == account["name"]
    (subject,) = made["RoleBinding"]["subjects"]
    assert (subject["name"], subject["namespace"]) == (account["name"], account["namespace"])
    assert made["RoleBinding"]["roleRef"]["name"] == made["Role"]["metadata"]["name"]


def test_every_selector_finds_the_pods_and_the_account_has_the_role(render: Render) -> None:
    everything_selects_the_pods(manifest("mymodel-pool-v1"))
    everything_selects_the_pods(chart(render))


def test_the_probes_ask_for_services_that_the_picker_answers() -> None:
    (container,) = manifest("mymodel-pool-v1")["Deployment"]["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}

    assert container["livenessProbe"]["grpc"] == {"port": ports["health"], "service": LIVENESS}
    assert container["readinessProbe"]["grpc"]["port"] == ports["health"]
    assert container["readinessProbe"]["grpc"]["service"] in HEALTH_NAMES
    assert f"--health-address=0.0.0.0:{ports['health']}" in container["args"]
    assert f"--grpc-address=0.0.0.0:{ports['grpc']}" in container["args"]
    assert f"--metrics-address=0.0.0.0:{ports['metrics']}" in container["args"]


def test_the_arguments_of_the_pods_are_taken_by_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, Any]] = []
    monkeypatch.setattr("rollouts.picker.command.run", lambda **settings: started.append(settings))
    (container,) = manifest("mymodel-pool-v1")["Deployment"]["spec"]["template"]["spec"]["containers"]
    (variable,) = container["env"]
    assert variable["valueFrom"]["resourceFieldRef"]["resource"] == "limits.memory"
    # As the kubelet fills it in: the container's limit in bytes.
    arguments = [one.replace(f"$({variable['name']})", str(512 << 20)) for one in container["args"]]
    result = CliRunner().invoke(main, arguments)

    assert result.exit_code == 0, result.output
    assert started[0]["options"]["budget"].total_limit == 192 << 20
    assert started[0]["pools"] == ("serving/mymodel-pool-v1",)
    assert started[0]["options"]["health_address"] == "0.0.0.0:9003"


def test_pickers_ask_for_certificates_where_an_authority_is_given(render: Render) -> None:
    pod = chart(render, clientCaSecret={"name": "gateways", "key": "ca.crt"})["Deployment"]["spec"][
        "template"
    ]["spec"]
    (container,) = pod["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}

    assert f"--client-ca={mounts['client-ca']}/ca.crt" in container["args"]
    assert {"name": "client-ca", "secret": {"secretName": "gateways", "defaultMode": 0o440}} in pod["volumes"]


@pytest.mark.parametrize("keep", [True, False])
def test_streams_are_kept_where_the_gateway_needs_it(render: Render, keep: bool) -> None:
    pod = chart(render, keepStreams=keep)["Deployment"]["spec"]["template"]["spec"]

    assert ("--keep-streams" in pod["containers"][0]["args"]) is keep


def test_a_network_policy_lets_the_named_gateways_and_the_controller_reach_the_pickers(
    render: Render,
) -> None:
    gateways = [{"namespaceSelector": {"matchLabels": {"team": "gateway"}}}]
    values = {
        "pickers": [{"pool": "mymodel-pool-v1", "service": "epp"}],
        "networkPolicy": {
            "metricsFrom": [{"podSelector": {}}],
            "pickers": {"enabled": True, "gatewaysFrom": gateways},
        },
    }
    objects = render(values)
    (policy,) = [item for item in objects if item["kind"] == "NetworkPolicy"]
    (deployment,) = [
        item for item in objects if item["kind"] == "Deployment" and item["metadata"]["name"] == "epp"
    ]
    pod = deployment["spec"]["template"]

    assert policy["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    rules = {rule["ports"][0]["port"]: rule.get("from") for rule in policy["spec"]["ingress"]}
    assert rules["grpc"] == gateways
    assert rules["health"] is None
    assert len(rules["metrics"]) == 2
    (said,) = exposure_checks({"metadata": {"name": "epp"}, "spec": _service_of(objects)}, [pod], [policy])
    assert said.level is Level.FINE


def _service_of(objects: list[Object]) -> Object:
    (service,) = [item for item in objects if item["kind"] == "Service" and item["metadata"]["name"] == "epp"]
    spec: Object = service["spec"]
    return spec
