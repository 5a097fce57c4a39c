"""Every value of the chart does something, is spelt in the schema, and installs beside the others."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from rollouts.controller.settings import Settings, read_config
from tests.chart.conftest import Attempt, Objects, Render
from tests.kit.chart_values import MATRIX
from tests.kit.helm import CHART
from tools.chart_values import rows

Values = dict[str, Any]
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())


def merged(left: Values, right: Values) -> Values:
    result = dict(left)
    for name, value in right.items():
        known = result.get(name)
        result[name] = merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return result


PEER = [{"podSelector": {"matchLabels": {"a": "b"}}}]
NAMED = [{"name": "more"}]
HTTPS = {"modelServers": {"scheme": "https", "secret": {"name": "s", "apiKeyKey": "k"}}}

BASE: Values = {
    "pickers": [{"pool": "v1", "service": "v1-picker"}],
    "replicas": 2,
    "sources": {"default": {"url": "http://p:9090", "secret": {"name": "s"}}},
    "modelServers": [{"namespace": "a", "scheme": "https", "secret": {"name": "s"}}],
    "adapters": {"apiKeys": [{"namespace": "b", "secret": {"name": "s", "key": "k"}}]},
    "networkPolicy": {
        "enabled": True,
        "egress": {"enabled": True, "metricSources": PEER, "gateways": PEER},
        "pickers": {"enabled": True, "gatewaysFrom": PEER},
    },
    **{name: {"enabled": True} for name in ("serviceMonitor", "podMonitor", "prometheusRule", "dashboards")},
    "pickerDefaults": {"modelServers": HTTPS["modelServers"]},
}
"""Where most values have something to change."""

POD: Values = {
    "podAnnotations": {"a": "b"},
    "podLabels": {"a": "b"},
    "nodeSelector": {"a": "b"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
    "topologySpreadConstraints": [{"maxSkew": 3, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}],
    "extraArgs": ["--more"],
    "extraEnv": NAMED,
    "extraVolumes": NAMED,
    "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
    "resources": {"limits": {"memory": "1Gi"}},
}
PICKER: Values = {
    **POD,
    "replicas": 3,
    "port": 9005,
    "metricsPort": 9100,
    "unready": "shed",
    "keepStreams": True,
    "dataPath": "native",
    "secureServing": False,
    "destinationRule": True,
    "modelServers": {
        "scheme": "https",
        "serverName": "vllm",
        "insecureSkipVerify": True,
        "secret": {"name": "other", "apiKeyKey": "other"},
    },
    "clientCaSecret": {"name": "gateways", "key": "ca"},
}
MONITOR: Values = {
    "enabled": False,
    "labels": {"a": "b"},
    "annotations": {"a": "b"},
    "interval": "15s",
    "scrapeTimeout": "5s",
    "relabelings": [{"action": "labeldrop"}],
    "metricRelabelings": [{"action": "labeldrop"}],
}
SHOWN = {name: MONITOR[name] for name in ("enabled", "labels", "annotations")}
SERVERS: Values = {
    "namespace": "z",
    "pool": "p",
    "scheme": "http",
    "serverName": "vllm",
    "insecureSkipVerify": True,
    "secret": {"name": "other", "caKey": "ca", "apiKeyKey": "key"},
}

OTHER: Values = {
    **POD,
    "nameOverride": "other",
    "fullnameOverride": "other",
    "image": {
        "repository": "other",
        "tag": "other",
        "digest": f"sha256:{'1' * 64}",
        "pullPolicy": "Always",
        "pullSecrets": ["other"],
    },
    "crds": {"upgradeJob": {"enabled": True}},
    "replicas": 3,
    "watch": {"namespace": "other", "namespaces": ["serving", "other"], "allNamespaces": True},
    "clusterTemplates": True,
    "freezes": True,
    "kserve": True,
    "jobs": {"enabled": True},
    "sources": {
        "*": {
            "url": "http://other",
            "timeout": "3s",
            "podLabel": "other",
            "enforcedLabel": "other",
            "namespaceLabel": "other",
            "secret": {
                "name": "other",
                **dict.fromkeys(("caKey", "certKey", "keyKey", "bearerTokenKey"), "other"),
                **dict.fromkeys(("usernameKey", "passwordKey"), "other"),
            },
        }
    },
    "queriesPerMinute": 7,
    "adapters": {
        "prefixes": ["/other"],
        "apiKeySecret": {"name": "other", "key": "other"},
        "apiKeys": {"*": {"namespace": "z", "pool": "p", "secret": {"name": "other", "key": "other"}}},
    },
    "modelServers": {"*": SERVERS},
    "pathProbe": {"enabled": False, "allow": ["10.0.0.0/8"]},
    "parallelism": {"pool": 1, "namespace": 2, "controller": 3},
    "capacity": {"enabled": True, "kinds": ["StatefulSet"], "promptConfigMaps": True},
    "gitopsManagers": ["other"],
    "workers": 7,
    "logFormat": "text",
    "serviceAccount": {"create": False, "name": "other", "annotations": {"a": "b"}},
    "ports": {"health": 9999, "metrics": 9999},
    "metrics": {"annotations": {"a": "b"}},
    "serviceMonitor": MONITOR,
    "podMonitor": MONITOR,
    "prometheusRule": SHOWN,
    "dashboards": SHOWN,
    "dashboard": {"enabled": True, "hosts": ["other.example"], "resources": {"limits": {"memory": "1Gi"}}},
    "notifications": {
        "config": {"receivers": {"other": {"url": "https://other.example"}}},
        "secret": "other",
    },
    "podDisruptionBudget": {"enabled": False, "maxUnavailable": 2},
    "rbac": {"aggregateClusterRoles": True},
    "networkPolicy": {
        "enabled": False,
        "metricsFrom": PEER,
        "egress": {
            "enabled": False,
            "apiServer": PEER,
            "apiServerPorts": [9999],
            "metricSources": [*PEER, *PEER],
            "gateways": [*PEER, *PEER],
            "extra": [{"to": PEER}],
        },
        "pickers": {"enabled": False, "gatewaysFrom": [*PEER, *PEER]},
    },
    # Apart, since a certificate authority and insecureSkipVerify exclude each other.
    "pickerDefaults": merged(PICKER, {"modelServers": {"secret": {"caKey": "other"}}}),
    "pickers": {"*": {"pool": "other", "service": "other", "namespace": "other"}},
}
"""Another value for each, as the schema has them; ``*`` is an entry of a list or of a map."""

BESIDE: dict[str, Values] = {
    "adapters.apiKeySecret.key": {"adapters": {"apiKeySecret": {"name": "s"}}},
    "pickerDefaults.modelServers.scheme": {"pickerDefaults": {"modelServers": {"scheme": "http"}}},
    "pickerDefaults.clientCaSecret.key": {"pickerDefaults": {"clientCaSecret": {"name": "s"}}},
    "capacity.promptConfigMaps": {"capacity": {"enabled": True}},
    "dashboard.hosts": {"dashboard": {"enabled": True}},
    "dashboard.resources": {"dashboard": {"enabled": True}},
    "watch.namespaces": {"pickers": [{"pool": "v1", "service": "v1-picker", "namespace": "serving"}]},
    "pickers.*.namespace": {"watch": {"allNamespaces": True}},
    "sources.*.secret.usernameKey": {"sources": {"default": {"secret": {"passwordKey": "p"}}}},
}
"""What a value needs beside it to mean anything."""


def resolved(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in schema:
        return schema
    found: Any = SCHEMA
    for name in schema["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return resolved(found)


def leaves(schema: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of the schema that have no properties of their own."""
    schema = resolved(schema)
    inner = dict(schema.get("properties", {}))
    items = schema.get("items")
    entries = items if isinstance(items, Mapping) else schema.get("additionalProperties")
    if isinstance(entries, Mapping) and resolved(entries).get("properties"):
        inner["*"] = entries
    if not inner:
        yield path
    for name, found in inner.items():
        yield from leaves(found, (*path, name))


LEAVES = [path for path in leaves(SCHEMA) if path[0] != "global"]
INHERITED = [
    path for path in LEAVES if path[0] == "pickers" and path[2] not in ("pool", "service", "namespace")
]
"""What an entry of `pickers` may set of pickerDefaults: shown all at once, below."""


def at(values: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        values = values[name]
    return values


def with_value(values: Values, path: tuple[str, ...], value: Any) -> Values:
    """A copy of ``values`` with the first entry of each ``*`` changed."""
    changed = copy.deepcopy(values)
    where: Any = changed
    for name in path[:-1]:
        if name == "*":
            where = where[0] if isinstance(where, list) else where["default"]
        else:
            where = where.setdefault(name, {})
    where[path[-1]] = value
    return changed


@pytest.mark.parametrize("path", [path for path in LEAVES if path not in INHERITED], ids=".".join)
def test_each_value_changes_what_is_installed(attempt: Attempt, path: tuple[str, ...]) -> None:
    before = merged(BASE, BESIDE.get(".".join(path), {}))
    after = with_value(before, path, at(OTHER, path))
    old, new = attempt(before), attempt(after)

    assert old.returncode == 0, old.stderr
    assert new.returncode == 0, new.stderr
    assert old.stdout != new.stdout


def test_an_entry_of_pickers_may_set_whatever_the_defaults_may(attempt: Attempt) -> None:
    names = {path[2] for path in INHERITED}
    entry = {"pool": "v1", "service": "v1-picker"}
    plain = {name: value for name, value in BASE.items() if name != "pickerDefaults"}
    by_default = attempt({**plain, "pickers": [entry], "pickerDefaults": PICKER})
    by_entry = attempt({**plain, "pickers": [{**entry, **PICKER}]})

    assert names == set(PICKER) == set(VALUES["pickerDefaults"])
    assert by_default.returncode == 0, by_default.stderr
    assert by_entry.stdout == by_default.stdout


def test_the_schema_has_the_values_of_values_yaml_and_no_more() -> None:
    """A value that only one of them knows is refused, or documented nowhere."""

    def documented(values: Any, schema: Mapping[str, Any], path: tuple[str, ...]) -> None:
        properties = resolved(schema).get("properties")
        if properties is not None and isinstance(values, dict):
            assert set(values) == set(properties) - {"global"}, path
            for name, value in values.items():
                documented(value, properties[name], (*path, name))

    documented(VALUES, SCHEMA, ())


def test_the_readme_has_a_row_for_each_value() -> None:
    def paths(values: Values, path: str = "") -> Iterator[str]:
        for name, value in values.items():
            if isinstance(value, dict) and value:
                yield from paths(value, f"{path}{name}.")
            else:
                yield f"{path}{name}"

    shown = {name for name, default, _ in rows((CHART / "values.yaml").read_text()) if default}
    readme = (CHART / "README.md").read_text()

    assert all(f"| `{name}` |" in readme for name in shown)
    for path in paths(VALUES):
        # A value that is written in one line, `{enabled: false}`, has one row.
        assert any(path == name or path.startswith(f"{name}.") for name in shown), path


FREE = {"global", "affinity", "resources", "config"}
"""Objects of Kubernetes' own, whose fields the API server checks, and one that the controller reads strictly."""


def test_the_schema_is_closed_wherever_the_chart_names_the_fields() -> None:
    def closed(schema: Mapping[str, Any], name: str) -> None:
        schema = resolved(schema)
        if schema.get("type") == "object" and name not in FREE:
            assert "additionalProperties" in schema, name
            assert schema["additionalProperties"] is False or "properties" not in schema, name
        for inner, found in schema.get("properties", {}).items():
            closed(found, inner)
        if isinstance(schema.get("items"), Mapping) and resolved(schema["items"]).get("properties"):
            closed(schema["items"], f"{name}[]")
        if isinstance(schema.get("additionalProperties"), Mapping):
            closed(schema["additionalProperties"], f"{name}.*")

    closed(SCHEMA, "values")


OPTIONAL = sorted(set(VALUES) - set(SCHEMA["required"]))
"""What may be left out: by ``key:`` alone, or as ``--reuse-values`` has none of a newer chart's values."""


def test_values_of_an_older_chart_are_refused_by_what_they_lack() -> None:
    """What is left out of these would be another behaviour, or an option without a value."""
    assert set(SCHEMA["required"]) == {
        *("image", "replicas", "watch", "queriesPerMinute", "pathProbe", "gitopsManagers", "workers"),
        *("logFormat", "serviceAccount", "ports", "podDisruptionBudget", "pickerDefaults"),
    }


def the_same(objects: Objects, tmp_path: Path) -> tuple[Any, Settings]:
    """What an installation is, its configuration as the controller reads it."""
    file = tmp_path / "config.yaml"
    rest = list[Any]()
    for item in copy.deepcopy(objects):
        if item["kind"] == "ConfigMap":
            file.write_text(item["data"].pop("config.yaml"))
        if item["kind"] == "Deployment":
            item["spec"]["template"]["metadata"].pop("annotations", None)  # a checksum of its text
        rest.append(item)
    return rest, read_config(str(file), Settings(namespaces=("serving",)))


@pytest.mark.parametrize("name", [name for name in OPTIONAL if name != "resources"])
def test_a_part_that_is_optional_may_be_written_with_nothing_behind_it(
    render: Render, tmp_path: Path, name: str
) -> None:
    beside = {} if name == "pickers" else {"pickers": [{"pool": "v1", "service": "epp"}]}
    without = render({**beside, name: None})

    assert the_same(without, tmp_path) == the_same(render(beside), tmp_path)


@pytest.mark.parametrize(
    "values",
    [
        {"crds": {"upgradeJob": None}},
        {"adapters": {"apiKeySecret": None}},
        {"capacity": {"kinds": None}},
        {"networkPolicy": {"enabled": True, "egress": None, "pickers": None}},
    ],
    ids=lambda values: next(iter(values)),
)
def test_so_may_what_is_within_them(render: Render, tmp_path: Path, values: Values) -> None:
    kept = {"networkPolicy": {"enabled": True}} if "networkPolicy" in values else {}

    assert the_same(render(values), tmp_path) == the_same(render(kept), tmp_path)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"workers": None, "logFormat": None}, "missing properties 'workers', 'logFormat'"),
        ({"gitopsManagers": None}, "missing property 'gitopsManagers'"),
        ({"ports": {"health": 8080}}, "two ports"),
        (
            {"pickers": [{"pool": "v1", "service": "epp"}, {"pool": "v2", "service": "epp"}]},
            "pools v1 and v2 name the same service epp",
        ),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(attempt: Attempt, values: Values, said: str) -> None:
    done = attempt(values)

    assert done.returncode != 0
    assert said in done.stderr


def test_what_is_empty_by_default_may_be_written_with_nothing_behind_it(attempt: Attempt) -> None:
    empty = {name: None for name, value in VALUES.items() if value in ("", [], {})}
    picker = {"pool": "v1", "service": "epp"}

    done = attempt({**empty, "pickers": [picker], "pickerDefaults": {"podLabels": None}})
    assert done.returncode == 0, done.stderr
    assert done.stdout == attempt({"pickers": [picker]}).stdout


@pytest.mark.parametrize("what", MATRIX)
def test_every_combination_passes_lint(helm: Path, what: str) -> None:
    command = [str(helm), "lint", "--strict", "--kube-version", "1.33.0", "--values", "-", str(CHART)]
    text = yaml.safe_dump(MATRIX[what])
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=50)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("what", MATRIX)
def test_every_combination_renders_names_that_do_not_repeat(render: Render, what: str) -> None:
    objects = render(MATRIX[what])
    names = [(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in objects]

    assert len(names) == len(set(names))
    assert ("Deployment", "serving") in {name[:2] for name in names}
