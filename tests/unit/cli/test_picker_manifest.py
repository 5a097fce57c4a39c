"""`rollouts picker-manifest`: which pool it reads, what it takes from it, how it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from rollouts.cli.main import main
from rollouts.cli.picker_objects import PickerInstallation, picker_objects
from rollouts.lab.controlplane import minimal
from rollouts.lab.controlplane.upstream import CRDS
from rollouts.lab.kubeconfig import write_kubeconfig
from rollouts.lab.memoryapi.store import MemoryApi
from rollouts.objects import kinds
from rollouts.objects.workloads import WORKLOADS
from rollouts.picker.watching import RESOURCES
from tests.kit.threads import ApiInThread

X, V1 = kinds.POOL_X.api_version, kinds.POOL_V1.api_version


def pool(api_version: str = X, name: str = "p", namespace: str = "", **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": api_version, "kind": "InferencePool", "metadata": metadata, "spec": spec}


def call(directory: Path, objects: list[dict[str, Any]], *arguments: str) -> Result:
    file = directory / "objects.yaml"
    file.write_text(yaml.safe_dump_all(objects))
    return CliRunner().invoke(main, ["picker-manifest", "p", "--objects", str(file), *arguments])


def printed(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    return {item["kind"]: item for item in yaml.safe_load_all(result.output)}


@pytest.mark.parametrize(
    ("sentence", "objects", "arguments", "service", "port", "namespace"),
    [
        ("v1alpha2, port by convention", [pool(extensionRef={"name": "epp"})], (), "epp", 9002, "default"),
        (
            "v1alpha2 with a port",
            [pool(extensionRef={"name": "epp", "portNumber": 443})],
            ("-n", "ns"),
            "epp",
            443,
            "ns",
        ),
        (
            "v1",
            [pool(V1, endpointPickerRef={"name": "epp", "port": {"number": 9005}})],
            (),
            "epp",
            9005,
            "default",
        ),
        (
            "both groups: v1 wins, as in the picker",
            [pool(extensionRef={"name": "old"}), pool(V1, endpointPickerRef={"name": "new"})],
            (),
            "new",
            9002,
            "default",
        ),
        (
            "the namespace of the file",
            [pool(namespace="team", extensionRef={"name": "epp"})],
            (),
            "epp",
            9002,
            "team",
        ),
        (
            "the namespace that was asked for",
            [
                pool(namespace="a", extensionRef={"name": "in-a"}),
                pool(namespace="b", extensionRef={"name": "in-b"}),
            ],
            ("-n", "b"),
            "in-b",
            9002,
            "b",
        ),
    ],
)
def test_the_pool_decides_name_port_and_namespace(
    tmp_path: Path,
    sentence: str,
    objects: list[dict[str, Any]],
    arguments: tuple[str, ...],
    service: str,
    port: int,
    namespace: str,
) -> None:
    made = printed(call(tmp_path, objects, *arguments))
    (found,) = made["Service"]["spec"]["ports"]

    assert {item["metadata"]["name"] for item in made.values()} == {service}, sentence
    assert {item["metadata"]["namespace"] for item in made.values()} == {namespace}, sentence
    assert found["port"] == port, sentence
    (container,) = made["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert f"--pool={namespace}/p" in container["args"], sentence


@pytest.mark.parametrize(
    ("sentence", "objects", "words"),
    [
        ("no such pool", [pool(name="other", extensionRef={"name": "epp"})], "there is no InferencePool p"),
        ("a pool without picker", [pool()], "names no endpoint picker Service"),
        (
            "another kind of picker",
            [pool(extensionRef={"name": "epp", "kind": "Gateway"})],
            "names no endpoint picker Service",
        ),
        (
            "a pool of a foreign group",
            [pool("example.com/v1", extensionRef={"name": "e"})],
            "there is no InferencePool p",
        ),
    ],
)
def test_what_cannot_have_a_picker_is_refused_with_status_2(
    tmp_path: Path, sentence: str, objects: list[dict[str, Any]], words: str
) -> None:
    result = call(tmp_path, objects)

    assert result.exit_code == 2, sentence
    assert words in result.output, sentence


def test_a_name_that_is_no_label_value_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "objects.yaml"
    file.write_text(yaml.safe_dump(pool(name="p" * 64, extensionRef={"name": "epp"})))
    result = CliRunner().invoke(main, ["picker-manifest", "p" * 64, "--objects", str(file)])

    assert result.exit_code == 2
    assert "at most 63 characters" in result.output


def test_image_replicas_and_policy_are_options(tmp_path: Path) -> None:
    objects = [pool(extensionRef={"name": "epp"})]
    made = printed(
        call(tmp_path, objects, "--image", "r.example/i:1", "--replicas", "1", "--unready", "shed")
    )
    (container,) = made["Deployment"]["spec"]["template"]["spec"]["containers"]

    assert container["image"] == "r.example/i:1"
    assert "--unready=shed" in container["args"]
    assert made["Deployment"]["spec"]["replicas"] == 1
    assert "PodDisruptionBudget" not in made


def test_the_rights_are_those_of_the_watches() -> None:
    what = PickerInstallation(namespace="n", pool="p", service="s", port=9002, image="i")
    (role,) = (item for item in picker_objects(what) if item["kind"] == "Role")
    allowed = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }

    assert allowed == {(item.group, item.plural, verb) for item in RESOURCES for verb in ("list", "watch")}


def test_the_pool_is_read_from_the_cluster(tmp_path: Path) -> None:
    api = MemoryApi()
    for crd in (*minimal.INFERENCE_ALPHA, *minimal.INFERENCE_V1):
        api.create(CRDS, None, crd, manager="test")
    spec = {"selector": {"a": "b"}, "targetPortNumber": 8000, "extensionRef": {"name": "epp"}}
    api.create(kinds.POOL_X, "team", pool(**spec), manager="test")
    with ApiInThread(api) as url:
        kubeconfig = tmp_path / "kubeconfig"
        write_kubeconfig(kubeconfig, server=url)
        command = ["picker-manifest", "p", "--kubeconfig", str(kubeconfig), "-n"]
        found = CliRunner().invoke(main, [*command, "team"])
        missing = CliRunner().invoke(main, [*command, "other"])

    assert printed(found)["Service"]["metadata"]["name"] == "epp"
    assert (missing.exit_code, missing.output) == (
        2,
        "Error: there is no InferencePool p in namespace other\n",
    )


OTHERS = {"app": "epp"}
OURS = PickerInstallation(namespace="team", pool="p", service="epp", port=9002, image="i").selector


def running(
    kind: str, selector: dict[str, str], name: str = "epp", namespace: str = "team"
) -> dict[str, Any]:
    version, spec = ("apps/v1", {"matchLabels": selector}) if kind == "Deployment" else ("v1", selector)
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": {"selector": spec}}


@pytest.mark.parametrize(
    ("there", "what"),
    [
        ([running("Deployment", OTHERS)], "Deployment epp"),
        ([running("Service", OTHERS)], "Service epp"),
        ([running("Deployment", OTHERS), running("Service", OTHERS)], "Deployment epp"),
        ([running("Deployment", OURS), running("Service", OURS)], ""),
        ([running("Deployment", OTHERS, name="other"), running("Service", OTHERS, name="other")], ""),
        ([running("Deployment", OTHERS, namespace="elsewhere")], ""),
    ],
)
def test_another_picker_of_that_name_is_not_written_over(
    tmp_path: Path, there: list[dict[str, Any]], what: str
) -> None:
    named = pool(namespace="team", extensionRef={"name": "epp"}, selector={"a": "b"}, targetPortNumber=8000)
    api = MemoryApi()
    for crd in (*minimal.INFERENCE_ALPHA, *minimal.INFERENCE_V1):
        api.create(CRDS, None, crd, manager="test")
    api.create(kinds.POOL_X, "team", named, manager="test")
    for one in there:
        resource = WORKLOADS["Deployment"] if one["kind"] == "Deployment" else kinds.SERVICE
        api.create(resource, one["metadata"]["namespace"], one, manager="test")
    with ApiInThread(api) as url:
        kubeconfig = tmp_path / "kubeconfig"
        write_kubeconfig(kubeconfig, server=url)
        command = ["picker-manifest", "p", "-n", "team", "--kubeconfig", str(kubeconfig)]
        results = [call(tmp_path, [named, *there]), CliRunner().invoke(main, command)]

    for result in results:
        assert result.exit_code == (2 if what else 0), result.output
        assert (f"{what} is there, and not of our picker" in result.output) is bool(what)
        assert not (what and result.stdout)
