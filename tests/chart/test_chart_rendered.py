"""What an installation makes: rights one by one, restricted pods, the controller's own options and settings."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from rollouts.api.crds import crd_files
from rollouts.cli.controller import controller
from rollouts.cli.main import main
from rollouts.controller.adapters import AdapterSettings
from rollouts.controller.app import lease_name
from rollouts.controller.caches import Caches
from rollouts.controller.gateway_address import ProbeSettings
from rollouts.controller.metrics import ControllerMetrics
from rollouts.controller.settings import Settings, read_config
from rollouts.lab.memoryapi.store import MemoryApi
from rollouts.objects.workloads import AUTOSCALERS
from rollouts.picker.watching import RESOURCES
from rollouts.runtime.clock import SystemClock
from rollouts.runtime.health import HttpServer, metrics_routes, parse_address
from rollouts.runtime.modelservers import ModelServers
from tests.kit.memory_client import MemoryKubeClient

CHART = Path(__file__).resolve().parents[2] / "charts" / "inference-rollouts"

Objects = list[dict[str, Any]]
Render = Callable[[dict[str, Any]], Objects]
Attempt = Callable[[dict[str, Any]], subprocess.CompletedProcess[str]]

EVERYTHING = {
    "replicas": 2,
    "clusterTemplates": True,
    "kserve": True,
    "jobs": {"enabled": True},
    "queriesPerMinute": 3_000_000,
    "networkPolicy": {"enabled": True, "metricsFrom": [{"podSelector": {}}]},
    "image": {"pullSecrets": ["registry"]},
    "sources": {
        "default": {
            "url": "https://prometheus.monitoring:9090",
            "timeout": "5s",
            "podLabel": "pod_name",
            "secret": {"name": "prometheus", "bearerTokenKey": "token", "caKey": "ca.crt"},
        },
        "eu": {"url": "http://thanos:9090"},
    },
    "pickers": [
        {"pool": "mymodel-pool-v1", "service": "mymodel-v1-ext-proc"},
        {"pool": "mymodel-pool-v2", "service": "mymodel-v2-ext-proc", "replicas": 3, "port": 9005},
    ],
}

CONTROLLER_RIGHTS = """
analysisruns.inferencerollouts.dev: create delete list patch watch
analysisruns/status.inferencerollouts.dev: patch
analysistemplates.inferencerollouts.dev: list watch
events: create
gateways.gateway.networking.k8s.io: get
httproutes.gateway.networking.k8s.io: create delete get list patch watch
inferencemodelrewrites.inference.networking.x-k8s.io: create delete get list patch watch
inferencemodelrewrites.llm-d.ai: create delete get list patch watch
inferencemodels.inference.networking.x-k8s.io: create delete get list patch watch
inferencepools.inference.networking.k8s.io: list watch
inferencepools.inference.networking.x-k8s.io: list watch
jobs.batch: list watch
pods: list watch
poolsplits.inferencerollouts.dev: create delete get list patch watch
rollouts.inferencerollouts.dev: get list patch watch
rollouts/status.inferencerollouts.dev: patch
rolloutstrategies.inferencerollouts.dev: list watch
services: list watch
"""

PICKER_RIGHTS = """
inferencemodelrewrites.inference.networking.x-k8s.io: list watch
inferencemodelrewrites.llm-d.ai: list watch
inferencemodels.inference.networking.x-k8s.io: list watch
inferencepools.inference.networking.k8s.io: list watch
inferencepools.inference.networking.x-k8s.io: list watch
pods: list watch
poolsplits.inferencerollouts.dev: list watch
rollouts.inferencerollouts.dev: list watch
"""


def one(objects: Objects, kind: str, name: str) -> dict[str, Any]:
    (found,) = (item for item in objects if item["kind"] == kind and item["metadata"]["name"] == name)
    return found


def kinds(objects: Objects, kind: str) -> list[str]:
    return sorted(item["metadata"]["name"] for item in objects if item["kind"] == kind)


def rights(role: dict[str, Any]) -> str:
    lines = []
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                names = f" [{' '.join(rule['resourceNames'])}]" if "resourceNames" in rule else ""
                title = f"{resource}.{group}" if group else resource
                lines.append(f"{title}{names}: {' '.join(sorted(rule['verbs']))}")
    return "\n" + "\n".join(sorted(lines)) + "\n"


def roles(objects: Objects) -> Objects:
    return [item for item in objects if item["kind"] in ("Role", "ClusterRole")]


def test_the_default_rights_are_a_role_in_the_own_namespace(render: Render) -> None:
    objects = render({})
    role = one(objects, "Role", "r-inference-rollouts")
    assert rights(role) == CONTROLLER_RIGHTS
    assert role["metadata"]["namespace"] == "serving"
    assert kinds(objects, "ClusterRole") == []
    assert kinds(objects, "ClusterRoleBinding") == []


def watched_by_controller(*, cluster_templates: bool) -> set[tuple[str, str]]:
    caches = Caches(
        MemoryKubeClient(MemoryApi()),
        SystemClock(),
        namespaces=("serving",),
        cluster_templates=cluster_templates,
    )
    return {(item.resource.group, item.resource.plural) for item in caches.reflectors}


def allowed(role: dict[str, Any]) -> set[tuple[str, str]]:
    """What the role lets its subject list and watch."""
    return {
        (group, resource)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        if {"list", "watch"} <= set(rule["verbs"])
    }


def test_controller_and_picker_may_watch_just_what_they_watch(render: Render) -> None:
    objects = render(EVERYTHING)
    role = allowed(one(objects, "Role", "r-inference-rollouts"))
    assert role == watched_by_controller(cluster_templates=False)
    more = allowed(one(objects, "ClusterRole", "serving-r-inference-rollouts-cluster-templates"))
    assert role | more == watched_by_controller(cluster_templates=True)
    picker = allowed(one(objects, "Role", "r-inference-rollouts-picker"))
    assert picker == {(item.group, item.plural) for item in RESOURCES}


@pytest.mark.parametrize(
    ("watch", "watched"),
    [({}, ("serving",)), ({"namespace": "models"}, ("models",)), ({"allNamespaces": True}, ())],
    ids=["its own namespace", "another", "all"],
)
def test_the_lease_is_written_by_the_name_that_the_controller_uses(
    render: Render, watch: dict[str, Any], watched: tuple[str, ...]
) -> None:
    role = one(render({"watch": watch}), "Role", "r-inference-rollouts-lease")
    name = lease_name(Settings(namespaces=watched, lease_namespace="serving"))
    assert rights(role) == (
        f"\nleases.coordination.k8s.io [{name}]: get patch\nleases.coordination.k8s.io: create\n"
    )
    assert role["metadata"]["namespace"] == "serving"


def test_a_list_of_namespaces_makes_a_role_in_each_and_one_lease_of_the_release(render: Render) -> None:
    def of(*namespaces: str) -> Objects:
        return render({"watch": {"namespaces": list(namespaces)}})

    objects = of("a", "b")
    found = [role for role in roles(objects) if role["metadata"]["name"] == "r-inference-rollouts"]

    assert [role["metadata"]["namespace"] for role in found] == ["a", "b"]
    assert [rights(role) for role in found] == [CONTROLLER_RIGHTS] * 2
    assert kinds(objects, "ClusterRole") == []
    bindings = [item for item in objects if item["kind"] == "RoleBinding"]
    assert {item["metadata"]["namespace"] for item in bindings} == {"a", "b", "serving"}
    assert {item["subjects"][0]["namespace"] for item in bindings} == {"serving"}

    def lease(objects: Objects) -> str:
        (container,) = one(objects, "Deployment", "r-inference-rollouts")["spec"]["template"]["spec"][
            "containers"
        ]
        context = controller.make_context("controller", list(container["args"][1:]))
        watched, name = tuple(context.params["namespaces"]), str(context.params["lease_name"])
        assert watched == ("a", "b")[: len(watched)]
        assert f"[{name}]: get patch" in rights(one(objects, "Role", "r-inference-rollouts-lease"))
        return name

    assert lease(objects) == lease(of("a")) == "r-inference-rollouts.namespaces"


def test_a_picker_of_a_list_is_in_the_namespace_that_it_names(render: Render) -> None:
    pickers = [{"pool": "p", "service": "epp", "namespace": namespace} for namespace in ("a", "b")]
    values = {"watch": {"namespaces": ["a", "b", "c"]}, "pickers": pickers, "podMonitor": {"enabled": True}}
    objects = render(values)

    for kind in ("ServiceAccount", "Role", "RoleBinding"):
        places = [
            item["metadata"]["namespace"]
            for item in objects
            if item["kind"] == kind and item["metadata"]["name"] == "r-inference-rollouts-picker"
        ]
        assert places == ["a", "b"], kind
    made = [item for item in objects if item["kind"] == "Deployment" and item["metadata"]["name"] == "epp"]
    assert [item["metadata"]["namespace"] for item in made] == ["a", "b"]
    arguments = [item["spec"]["template"]["spec"]["containers"][0]["args"] for item in made]
    assert [words[1] for words in arguments] == ["--pool=a/p", "--pool=b/p"]
    (monitor,) = [item for item in objects if item["kind"] == "PodMonitor"]
    assert monitor["spec"]["namespaceSelector"] == {"matchNames": ["a", "b"]}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"watch": {"namespace": "a", "namespaces": ["b"]}}, "exclude each other"),
        ({"watch": {"allNamespaces": True, "namespaces": ["b"]}}, "exclude each other"),
        ({"watch": {"namespaces": ["a", "b"]}, "pickers": [{"pool": "p", "service": "s"}]}, "say in which"),
        (
            {"watch": {"namespaces": ["a"]}, "pickers": [{"pool": "p", "service": "s", "namespace": "b"}]},
            "is not watched",
        ),
        ({"watch": {"namespaces": ["a", "b"]}, "adapters": {"apiKeySecret": {"name": "s"}}}, "modelServers"),
    ],
)
def test_namespaces_that_contradict_each_other_are_refused(
    attempt: Attempt, values: dict[str, Any], words: str
) -> None:
    done = attempt(values)

    assert done.returncode != 0
    assert words in done.stderr


@pytest.mark.parametrize(
    ("values", "kind", "namespace"),
    [
        ({"watch": {"namespace": "models"}}, "Role", "models"),
        ({"watch": {"allNamespaces": True}}, "ClusterRole", None),
    ],
)
def test_the_watched_namespaces_decide_where_the_rights_hold(
    render: Render, values: dict[str, Any], kind: str, namespace: str | None
) -> None:
    objects = render(values)
    name = "r-inference-rollouts" if kind == "Role" else "serving-r-inference-rollouts"
    role, binding = one(objects, kind, name), one(objects, f"{kind}Binding", name)
    assert rights(role) == CONTROLLER_RIGHTS
    assert role["metadata"].get("namespace") == namespace == binding["metadata"].get("namespace")
    assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": "r-inference-rollouts", "namespace": "serving"}
    ]


def test_freezes_add_a_role_that_reads_them_and_namespaces(render: Render) -> None:
    role = one(render({"freezes": True}), "ClusterRole", "serving-r-inference-rollouts-freezes")
    without = Caches(MemoryKubeClient(MemoryApi()), SystemClock(), namespaces=("serving",))
    obeying = Caches(MemoryKubeClient(MemoryApi()), SystemClock(), namespaces=("serving",), freezes=True)
    watched = [{item.resource.plural for item in caches.reflectors} for caches in (without, obeying)]
    assert {plural for _, plural in allowed(role)} == watched[1] - watched[0]
    assert all(set(rule["verbs"]) == {"list", "watch"} for rule in role["rules"])


def test_jobs_kserve_and_cluster_templates_add_just_their_rights(render: Render) -> None:
    objects = render(EVERYTHING)
    more = (
        "jobs.batch: create delete list watch\nllminferenceservices.serving.kserve.io: get list patch watch"
    )
    wanted = CONTROLLER_RIGHTS.replace("jobs.batch: list watch", more)
    assert rights(one(objects, "Role", "r-inference-rollouts")) == wanted
    cluster = one(objects, "ClusterRole", "serving-r-inference-rollouts-cluster-templates")
    assert rights(cluster) == (
        "\nclusteranalysistemplates.inferencerollouts.dev: list watch\n"
        "clusterrolloutstrategies.inferencerollouts.dev: list watch\n"
    )
    assert rights(one(objects, "Role", "r-inference-rollouts-picker")) == PICKER_RIGHTS


@pytest.mark.parametrize("values", [{}, EVERYTHING, {**EVERYTHING, "watch": {"allNamespaces": True}}])
def test_no_right_reaches_secrets_wildcards_or_roles(render: Render, values: dict[str, Any]) -> None:
    found = roles(render(values))
    assert found
    for role in found:
        for rule in role["rules"]:
            words = {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
            assert not words & {"*", "secrets", "escalate", "bind", "impersonate", "roles", "pods/exec"}
            assert set(rule) <= {"apiGroups", "resources", "verbs", "resourceNames"}


@pytest.mark.parametrize("values", [{}, EVERYTHING])
def test_every_pod_meets_the_restricted_pod_security_standard(render: Render, values: dict[str, Any]) -> None:
    deployments = [item for item in render(values) if item["kind"] == "Deployment"]
    assert deployments
    for deployment in deployments:
        spec = deployment["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        for volume in spec["volumes"]:
            assert set(volume) - {"name"} <= {"configMap", "emptyDir", "secret"}
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert not any("hostPort" in port for port in container["ports"])
            assert container["resources"]["limits"]["memory"]


def test_names_do_not_repeat_and_selectors_meet_their_own_pods_only(render: Render) -> None:
    objects = render(EVERYTHING)
    names = [(item["kind"], item["metadata"]["name"]) for item in objects]
    assert len(names) == len(set(names))
    pods = {
        item["metadata"]["name"]: item["spec"]["template"]["metadata"]["labels"]
        for item in objects
        if item["kind"] == "Deployment"
    }
    selectors = {
        "r-inference-rollouts-metrics": "r-inference-rollouts",
        "mymodel-v1-ext-proc": "mymodel-v1-ext-proc",
        "mymodel-v2-ext-proc": "mymodel-v2-ext-proc",
    }
    assert kinds(objects, "Service") == sorted(selectors)
    for service, wanted in selectors.items():
        selector = one(objects, "Service", service)["spec"]["selector"]
        assert [name for name, labels in pods.items() if selector.items() <= labels.items()] == [wanted]


def options_of(command: str) -> set[str]:
    parameters = main.get_command(None, command).params  # type: ignore[arg-type, union-attr]  # no context is needed
    return {name for parameter in parameters for name in (*parameter.opts, *parameter.secondary_opts)}


def test_the_options_of_the_pods_are_options_of_the_commands(render: Render) -> None:
    seen = set()
    for values in ({}, EVERYTHING, {"watch": {"allNamespaces": True}}):
        for deployment in (item for item in render(values) if item["kind"] == "Deployment"):
            (container,) = deployment["spec"]["template"]["spec"]["containers"]
            command, *options = container["args"]
            names = {option.split("=")[0] for option in options}
            assert names <= options_of(command)
            seen.add(command)
    assert seen == {"controller", "picker"}


def test_the_controller_starts_with_the_arguments_of_the_chart(
    render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parsed by the real command, up to the first contact with a cluster that is not there."""
    objects = render(EVERYTHING)
    args = one(objects, "Deployment", "r-inference-rollouts")["spec"]["template"]["spec"]["containers"][0][
        "args"
    ]
    config = tmp_path / "config.yaml"
    config.write_text(one(objects, "ConfigMap", "r-inference-rollouts")["data"]["config.yaml"])
    started: list[Settings] = []

    async def run(settings: Settings) -> int:
        started.append(settings)
        return 0

    monkeypatch.setattr("rollouts.cli.controller._run", run)
    args = [f"--config={config}" if arg.startswith("--config=") else arg for arg in args]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0, result.output
    (settings,) = started
    assert (settings.namespaces, settings.lease_namespace) == (("serving",), "serving")
    assert settings.cluster_templates is True
    assert settings.leader_elect is True
    assert set(settings.sources) == {"default", "eu"}
    assert settings.queries_per_minute == 3_000_000


def test_the_default_query_budget_is_that_of_the_command() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert values["queriesPerMinute"] == Settings().queries_per_minute


def test_sources_become_the_configuration_file_and_mounted_secrets(render: Render, tmp_path: Path) -> None:
    objects = render(EVERYTHING)
    file = tmp_path / "config.yaml"
    file.write_text(one(objects, "ConfigMap", "r-inference-rollouts")["data"]["config.yaml"])
    settings = read_config(str(file), Settings())
    source = settings.sources["default"]
    assert (source.url, source.timeout, source.pod_label) == (
        "https://prometheus.monitoring:9090",
        5.0,
        "pod_name",
    )
    pod = one(objects, "Deployment", "r-inference-rollouts")["spec"]["template"]["spec"]
    mounts = {item["name"]: item["mountPath"] for item in pod["containers"][0]["volumeMounts"]}
    assert source.bearer_token_file == f"{mounts['source-default']}/token"
    assert source.ca_file == f"{mounts['source-default']}/ca.crt"
    assert source.password_file == ""
    secrets = {item["name"]: item["secret"]["secretName"] for item in pod["volumes"] if "secret" in item}
    assert secrets == {"source-default": "prometheus"}


def mounted(objects: Objects) -> dict[str, str]:
    """Secrets by the folder in which the controller has them."""
    pod = one(objects, "Deployment", "r-inference-rollouts")["spec"]["template"]["spec"]
    paths = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    return {paths[v["name"]]: v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v}


def settings_of(objects: Objects, tmp_path: Path, *namespaces: str) -> Settings:
    file = tmp_path / "config.yaml"
    file.write_text(one(objects, "ConfigMap", "r-inference-rollouts")["data"]["config.yaml"])
    return read_config(str(file), Settings(namespaces=namespaces))


def test_adapters_become_the_configuration_file_and_a_mounted_key(render: Render, tmp_path: Path) -> None:
    objects = render(
        {"adapters": {"prefixes": ["/adapters"], "apiKeySecret": {"name": "vllm", "key": "token"}}}
    )
    settings = settings_of(objects, tmp_path, "serving")
    key = settings.model_servers["", ""].api_key_file

    assert settings.adapters == AdapterSettings(prefixes=("/adapters",))
    assert key is not None
    assert (mounted(objects)[str(key.parent)], key.name) == ("vllm", "token")


def test_how_model_servers_are_called_is_mounted_and_bound_to_its_place(
    render: Render, tmp_path: Path
) -> None:
    entries = [
        {
            "namespace": "a",
            "scheme": "https",
            "serverName": "vllm.a",
            "secret": {"name": "a-vllm", "caKey": "ca.crt", "apiKeyKey": "token"},
        },
        {"namespace": "b", "pool": "p", "scheme": "https", "insecureSkipVerify": True},
        {"namespace": "b", "secret": {"name": "b-vllm", "apiKeyKey": "key"}},
    ]
    objects = render({"modelServers": entries, "watch": {"allNamespaces": True}})
    found = settings_of(objects, tmp_path).model_servers
    first, wide = found["a", ""], found["b", ""]

    assert (first.scheme, first.server_name, first.verify) == ("https", "vllm.a", True)
    assert first.ca is not None
    assert first.api_key_file is not None
    assert [mounted(objects)[str(path.parent)] for path in (first.ca, first.api_key_file)] == ["a-vllm"] * 2
    assert (first.ca.name, first.api_key_file.name) == ("ca.crt", "token")
    assert found["b", "p"] == ModelServers(scheme="https", verify=False)
    assert wide.api_key_file is not None
    assert (wide.scheme, mounted(objects)[str(wide.api_key_file.parent)]) == ("http", "b-vllm")
    assert "secrets" not in " ".join(map(rights, roles(objects)))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"scheme": "https"}, "namespace"),
        ({"namespace": "a", "serverName": "vllm"}, "needs scheme: https"),
        ({"namespace": "a", "scheme": "ftp"}, "scheme"),
    ],
)
def test_an_entry_that_the_controller_would_refuse_is_refused_by_the_chart(
    attempt: Attempt, entry: dict[str, Any], words: str
) -> None:
    done = attempt({"modelServers": [entry]})

    assert done.returncode != 0
    assert words in done.stderr


@pytest.mark.parametrize("enabled", [True, False])
def test_probes_of_the_path_are_configured_and_cost_one_right(
    render: Render, tmp_path: Path, enabled: bool
) -> None:
    objects = render({"pathProbe": {"enabled": enabled, "allow": ["10.0.0.0/8"]}})
    file = tmp_path / "config.yaml"
    file.write_text(one(objects, "ConfigMap", "r-inference-rollouts")["data"]["config.yaml"])
    settings = read_config(str(file), Settings())

    assert settings.path_probe == ProbeSettings(enabled=enabled, allow=(ip_network("10.0.0.0/8"),))
    assert ("gateways" in rights(one(objects, "Role", "r-inference-rollouts"))) is enabled


@pytest.mark.parametrize(
    ("values", "kinds", "granted"),
    [
        ({}, (), ""),
        (
            {"enabled": True},
            ("Deployment", "StatefulSet"),
            "deployments.apps: get list watch\ndeployments/scale.apps: patch\n",
        ),
        (
            {"enabled": True, "kinds": ["StatefulSet"]},
            ("StatefulSet",),
            "statefulsets.apps: get list watch\nstatefulsets/scale.apps: patch\n",
        ),
        (
            {"enabled": True, "kinds": ["LeaderWorkerSet", "Deployment"]},
            ("LeaderWorkerSet", "Deployment"),
            "leaderworkersets.leaderworkerset.x-k8s.io: get list watch\n"
            "leaderworkersets/scale.leaderworkerset.x-k8s.io: patch\n",
        ),
    ],
)
def test_the_right_to_scale_comes_with_capacity_only(
    render: Render, tmp_path: Path, values: dict[str, Any], kinds: tuple[str, ...], granted: str
) -> None:
    objects = render({"capacity": values})
    role = rights(one(objects, "Role", "r-inference-rollouts"))

    assert settings_of(objects, tmp_path).capacity_kinds == kinds
    assert granted in role
    assert ("scale" in role) is bool(kinds)
    for autoscaler in AUTOSCALERS:
        assert (f"{autoscaler.plural}.{autoscaler.group}: list watch" in role) is bool(kinds)
    assert ("pods: patch" in role.splitlines()) is bool(kinds)
    assert "configmaps" not in role


@pytest.mark.parametrize("enabled", [False, True])
def test_config_maps_are_read_where_a_value_of_its_own_says_so(render: Render, enabled: bool) -> None:
    objects = render({"capacity": {"enabled": enabled, "promptConfigMaps": True}})

    role = rights(one(objects, "Role", "r-inference-rollouts")).splitlines()
    assert ("configmaps: get" in role) is enabled


def test_keys_of_model_servers_are_mounted_and_bound_to_their_place(render: Render, tmp_path: Path) -> None:
    entries = [
        {"namespace": "a", "secret": {"name": "a-vllm", "key": "token"}},
        {"namespace": "b", "pool": "p", "secret": {"name": "b-vllm", "key": "key"}},
    ]
    objects = render({"adapters": {"apiKeys": entries}, "watch": {"allNamespaces": True}})
    keys = settings_of(objects, tmp_path).model_servers

    assert list(keys) == [("a", ""), ("b", "p")]
    files = [servers.api_key_file for servers in keys.values()]
    assert [(mounted(objects)[str(file.parent)], file.name) for file in files if file] == [
        ("a-vllm", "token"),
        ("b-vllm", "key"),
    ]


def test_one_key_for_every_namespace_is_refused(attempt: Any) -> None:
    done = attempt({"adapters": {"apiKeySecret": {"name": "vllm"}}, "watch": {"allNamespaces": True}})

    assert done.returncode != 0
    assert "modelServers" in done.stderr


def test_a_source_may_enforce_a_label(render: Render, tmp_path: Path) -> None:
    objects = render({"sources": {"default": {"url": "http://p:9090", "enforcedLabel": "namespace"}}})
    file = tmp_path / "config.yaml"
    file.write_text(one(objects, "ConfigMap", "r-inference-rollouts")["data"]["config.yaml"])

    assert read_config(str(file), Settings()).sources["default"].enforced_label == "namespace"


def test_a_new_configuration_makes_new_pods(render: Render) -> None:
    def checksum(values: dict[str, Any]) -> str:
        template = one(render(values), "Deployment", "r-inference-rollouts")["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/config"])

    assert checksum({}) == checksum({"replicas": 2})
    assert checksum({}) != checksum({"gitopsManagers": ["flux"]})


@pytest.mark.parametrize(
    ("replicas", "budgets"), [(1, []), (2, ["r-inference-rollouts"]), (9, ["r-inference-rollouts"])]
)
def test_a_disruption_budget_never_blocks_a_single_replica(
    render: Render, replicas: int, budgets: list[str]
) -> None:
    assert kinds(render({"replicas": replicas}), "PodDisruptionBudget") == budgets


async def test_the_test_pod_passes_where_a_controller_answers_and_nowhere_else(render: Render) -> None:
    (script,) = one(render({}), "Pod", "r-inference-rollouts-test")["spec"]["containers"][0]["args"]
    served = "http://r-inference-rollouts-metrics.serving:8080"
    assert script.count(served) == 1

    async def passes(port: int) -> bool:
        there = script.replace(served, f"http://127.0.0.1:{port}")
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", there, stderr=subprocess.DEVNULL)
        return await process.wait() == 0

    for routes, wanted in ((metrics_routes(ControllerMetrics().registry), True), ([], False)):
        server = HttpServer(parse_address("127.0.0.1:0"), routes)
        task = asyncio.create_task(server.run())
        port = await server.started()
        assert await passes(port) is wanted
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert not await passes(port)


BAD_VALUES = {
    "a misspelt value": {"replica": 2},
    "a query budget below nothing": {"queriesPerMinute": -1},
    "ten replicas of one leader": {"replicas": 10},
    "a built-in source name": {"sources": {"pods": {"url": "http://p"}}},
    "a source without URL": {"sources": {"default": {}}},
    "credentials in a URL": {"sources": {"default": {"url": "http://me:secret@p"}}},
    "a key that leaves its folder": {
        "sources": {"default": {"url": "http://p", "secret": {"name": "s", "caKey": "../ca"}}}
    },
    "a picker without its service": {"pickers": [{"pool": "p"}]},
    "picker metrics on the port of its health": {"pickerDefaults": {"metricsPort": 9003}},
}


@pytest.mark.parametrize("what", BAD_VALUES)
def test_helm_refuses(attempt: Attempt, what: str) -> None:
    done = attempt(BAD_VALUES[what])
    assert done.returncode != 0
    assert "values don't meet the specifications of the schema" in done.stderr


def test_lint_has_no_complaint(helm: Path, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(EVERYTHING))
    command = [str(helm), "lint", "--strict", "--kube-version", "1.33.0", "--values", str(values), str(CHART)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_chart_brings_the_very_crds_of_the_models(helm: Path) -> None:
    done = subprocess.run(
        [str(helm), "show", "crds", str(CHART)], capture_output=True, text=True, check=True, timeout=50
    )
    shown = [item for item in yaml.safe_load_all(done.stdout) if item]
    wanted = [yaml.safe_load(text) for _, text in crd_files()]
    by_name = {item["metadata"]["name"]: item for item in shown}
    assert by_name == {item["metadata"]["name"]: item for item in wanted}


def test_an_installation_fits_into_the_secret_in_which_helm_keeps_it(helm: Path, tmp_path: Path) -> None:
    """Helm stores chart and values in a Secret, at most 1 MiB after base64 of a gzip."""
    done = subprocess.run(
        [str(helm), "package", str(CHART), "--destination", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    (package,) = tmp_path.glob("*.tgz")
    assert len(base64.b64encode(package.read_bytes())) < 512 * 1024


@pytest.mark.parametrize(
    ("values", "name", "label"),
    [
        ({}, "r-inference-rollouts", "inference-rollouts"),
        ({"nameOverride": "llm"}, "r-llm", "llm"),
        ({"fullnameOverride": "llm"}, "llm", "inference-rollouts"),
        ({"nameOverride": "r"}, "r", "r"),
        ({"fullnameOverride": "x" * 60}, "x" * 52, "inference-rollouts"),
    ],
)
def test_names_are_overridden_as_in_other_charts(
    render: Render, values: dict[str, Any], name: str, label: str
) -> None:
    objects = render({**values, "pickers": [{"pool": "p", "service": "epp"}], "replicas": 2})
    deployment = one(objects, "Deployment", name)
    labels = deployment["spec"]["template"]["metadata"]["labels"]

    assert labels["app.kubernetes.io/name"] == label
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert deployment["spec"]["template"]["spec"]["serviceAccountName"] in kinds(objects, "ServiceAccount")
    named = {item["metadata"]["name"] for item in objects} - {"epp"}
    assert all(found == name or found.startswith(f"{name}-") for found in named)
    assert all(len(found) <= 63 for found in named)


def test_labels_of_people_beside_ours_and_never_in_their_place(render: Render) -> None:
    values = {
        "podLabels": {"team": "a", "app.kubernetes.io/name": "theirs"},
        "podAnnotations": {"team": "a", "checksum/config": "theirs"},
    }
    template = one(render(values), "Deployment", "r-inference-rollouts")["spec"]["template"]["metadata"]

    assert template["labels"]["team"] == template["annotations"]["team"] == "a"
    assert template["labels"]["app.kubernetes.io/name"] == "inference-rollouts"
    assert template["annotations"]["checksum/config"] != "theirs"


def test_constraints_without_a_selector_spread_the_own_pods(render: Render) -> None:
    spread = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
    own = {**spread, "labelSelector": {"matchExpressions": [{"key": "team", "operator": "Exists"}]}}
    values = {
        "topologySpreadConstraints": [spread, own],
        "pickers": [{"pool": pool, "service": f"epp-{pool}"} for pool in ("a", "b")],
        "pickerDefaults": {"topologySpreadConstraints": [spread, own]},
    }
    for deployment in [item for item in render(values) if item["kind"] == "Deployment"]:
        found = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert found == [{**spread, "labelSelector": deployment["spec"]["selector"]}, own]


def test_roles_that_aggregate_give_people_rollouts_and_no_status(render: Render) -> None:
    objects = render({"rbac": {"aggregateClusterRoles": True}})
    label = "rbac.authorization.k8s.io/aggregate-to-"
    made = {
        to: [rights(role) for role in roles(objects) if role["metadata"]["labels"].get(label + to) == "true"]
        for to in ("view", "edit", "admin")
    }

    assert len(made["view"]) == 1
    assert made["view"][0].count("get list watch") == 8
    assert made["edit"] == made["admin"]
    assert set(made["view"]) < set(made["edit"])
    assert "status" not in str(made)
    assert kinds(render({}), "ClusterRole") == []


def test_crds_are_upgraded_before_the_rest_by_an_account_of_their_own(render: Render) -> None:
    objects = render({"crds": {"upgradeJob": {"enabled": True}}})
    hooks = [item for item in objects if "pre-upgrade" in str(item["metadata"].get("annotations"))]
    weights = {
        item["kind"]: int(item["metadata"]["annotations"]["helm.sh/hook-weight"])
        for item in sorted(hooks, key=lambda item: str(item["metadata"]["name"]))
    }
    job, role = (next(item for item in hooks if item["kind"] == kind) for kind in ("Job", "ClusterRole"))
    command, *options = job["spec"]["template"]["spec"]["containers"][0]["args"]

    assert weights["ServiceAccount"] < weights["Job"]
    assert weights["ClusterRole"] < weights["ClusterRoleBinding"] < weights["Job"]
    names = " ".join(sorted(yaml.safe_load(text)["metadata"]["name"] for _, text in crd_files()))
    assert rights(role) == f"\ncustomresourcedefinitions.apiextensions.k8s.io [{names}]: create get patch\n"
    assert job["spec"]["template"]["spec"]["serviceAccountName"] not in kinds(render({}), "ServiceAccount")
    assert set(options) <= options_of(command)
    assert not [item for item in render({}) if item["kind"] in ("Job", "ClusterRole")]


def test_a_test_pod_of_the_release_is_no_pod_of_the_controller(render: Render) -> None:
    objects = render({"networkPolicy": {"enabled": True, "metricsFrom": [{"podSelector": {}}]}})
    pod = one(objects, "Pod", "r-inference-rollouts-test")
    labels = pod["metadata"]["labels"].items()

    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    service = one(objects, "Service", "r-inference-rollouts-metrics")
    assert not service["spec"]["selector"].items() <= labels
    (policy,) = [item["spec"] for item in objects if item["kind"] == "NetworkPolicy"]
    assert not policy["podSelector"]["matchLabels"].items() <= labels
    (allowed_from,) = [rule["from"] for rule in policy["ingress"] if "from" in rule]
    assert any(peer["podSelector"].get("matchLabels", {}).items() <= labels for peer in allowed_from[1:])
    health, command = pod["spec"]["containers"]
    assert (
        f"http://{service['metadata']['name']}.serving:{service['spec']['ports'][0]['port']}/"
        in health["args"][0]
    )
    arguments = main.get_command(None, command["args"][0])  # type: ignore[arg-type]  # no context is needed
    assert arguments is not None
    assert arguments.make_context("get", command["args"][1:]).params["namespace"] == "serving"
