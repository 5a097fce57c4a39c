"""Dashboards and alert rules: every query on a real Prometheus that scrapes a controller and a picker, every rule by
promtool."""

from __future__ import annotations

import asyncio
import copy
import json
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from rollouts.controller.app import Controller
from rollouts.controller.notification_settings import parse_notifications
from rollouts.controller.settings import Settings
from rollouts.engine.turns import LimitScope
from rollouts.lab.processes import free_port
from rollouts.lab.prometheus import Job, Prometheus, find_prometheus
from rollouts.objects import kinds
from rollouts.picker.datapath import DataPath, choose
from rollouts.picker.main import Picker, PickerConfig
from rollouts.runtime.clock import SystemClock
from tests.kit.faults.cluster import NAMESPACE, Cluster
from tests.kit.faults.deployments import DEPLOYMENT, deployment_object
from tests.kit.faults.objects import (
    CANARY,
    RELEASES,
    ROUTE,
    STABLE,
    THIRD,
    backend_ref,
    base_objects,
    rollout_object,
)
from tests.kit.memory_client import MemoryKubeClient
from tests.kit.polling import eventually
from tools.alerts import ALERTS
from tools.dashboards import DASHBOARDS
from tools.monitoring import exported, exported_by_pickers

CHART = Path(__file__).resolve().parents[2] / "charts" / "inference-rollouts" / "monitoring"
FIGURES = {
    "effect": 0.2,
    "effectLow": -0.1,
    "effectHigh": 0.4,
    "harm": 3.0,
    "harmTotal": 4.0,
    "abortAt": 20.0,
    "proof": 0.5,
    "passAt": 20.0,
}


def dashboard_queries() -> list[str]:
    """As the files have them, with Grafana's variables filled in."""
    found = []
    for path in sorted((CHART / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            found += [target["expr"] for target in panel["targets"]]
    filled = []
    for text in found:
        for name, value in (("namespace", NAMESPACE), ("rollout", "mymodel"), ("__rate_interval", "10s")):
            text = text.replace(f"${name}", value)
        filled.append(text)
    return filled


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((CHART / "alerts.yaml").read_text())["groups"]
    return list(group["rules"])


QUERIES = dashboard_queries()
NAME = r"(?:rollouts|inference_picker)_[a-z_]+"
EXPRESSIONS = [rule["expr"] for rule in rules()]


# --- names -----------------------------------------------------------------------------------------


def test_every_metric_and_label_of_a_query_is_exported():
    known = {series: one for one in (*exported(), *exported_by_pickers()) for series in one.series}
    for text in (*QUERIES, *EXPRESSIONS):
        names = re.findall(NAME, text)
        assert names, text
        assert set(names) <= set(known), text
        for name, matchers in re.findall(rf"({NAME})\{{([^}}]*)\}}", text):
            asked = set(re.findall(r"([a-z_]+)\s*(?:=|!=|=~|!~)\s*\"", matchers))
            assert asked <= set(known[name].labels), text


def test_every_exported_metric_of_rollouts_and_gates_is_in_a_dashboard_or_an_alert():
    asked = {name for text in (*QUERIES, *EXPRESSIONS) for name in re.findall(NAME, text)}
    unused = [one.name for one in (*exported(), *exported_by_pickers()) if not asked & set(one.series)]
    assert unused == []


def test_every_alert_has_a_runbook_in_the_docs():
    page = (CHART.parents[2] / "docs" / "monitoring.md").read_text()
    for rule in rules():
        anchor = rule["annotations"]["runbook"].removeprefix("docs/monitoring.md#")
        assert f"### {rule['alert']}" in page
        assert anchor == rule["alert"].lower()
        assert rule["annotations"]["description"] in page


# --- on a server -----------------------------------------------------------------------------------


@pytest.fixture
async def scraped(any_server: Prometheus, tmp_path: Path) -> AsyncIterator[Prometheus]:
    """A controller in this process with a Rollout at its first weight, and comparisons that an earlier one stored; and
    an endpoint picker."""
    cluster = Cluster(SystemClock())
    rollout = rollout_object([{"setWeight": 10}, {"approve": {"webhook": "ops"}}])
    rollout["spec"]["strategy"]["canary"] |= {"allowNoTraffic": True, "capacity": {}}
    for name, replicas in ((STABLE, 4), (CANARY, 2)):
        cluster.create(DEPLOYMENT, deployment_object(RELEASES[name], replicas))
    base_objects(cluster, rollout)
    container = {"name": "vllm", "image": "vllm", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
    for pod in cluster.all(kinds.POD):
        spec = {"spec": {"nodeName": "node", "containers": [container]}}
        cluster.merge(kinds.POD, pod["metadata"]["name"], spec)
    port = free_port()
    settings = Settings(
        namespaces=(NAMESPACE,),
        health_address="127.0.0.1:0",
        metrics_address=f"127.0.0.1:{port}",
        leader_elect=False,
        notifications=parse_notifications({"receivers": {"ops": {"url": "http://127.0.0.1:1/"}}}),
        parallelism={LimitScope.NAMESPACE: 1},
        capacity_kinds=("Deployment",),
    )
    controller = Controller(MemoryKubeClient(cluster.api), settings, SystemClock())
    task = asyncio.create_task(controller.run())
    picker = _picker(tmp_path)
    await picker.start()
    any_server.scrape(
        [
            Job(name="controller", targets=((f"127.0.0.1:{port}", {}),)),
            Job(name="picker", targets=((f"127.0.0.1:{picker.exposition.port}", {}),)),
        ]
    )
    await any_server.start()

    async def carrying() -> bool:
        cluster.react()
        status = (cluster.get(kinds.ROLLOUT, "mymodel") or {}).get("status") or {}
        return (status.get("weight") or {}).get("applied") == 10

    try:
        await eventually(carrying, timeout=30)
        _store_comparison(cluster)
        _come_second(cluster)
        yield any_server
    finally:
        controller.stop()
        await task
        await picker.stop()


def _picker(folder: Path) -> Picker:
    pool = {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": "pool"},
        "spec": {"selector": {"matchLabels": {"app": "pool"}}, "targetPorts": [{"number": 8000}]},
    }
    file = folder / "objects.yaml"
    file.write_text(yaml.safe_dump(pool))
    return Picker(
        PickerConfig(
            pools=(), objects=file, grpc_address="127.0.0.1:0", metrics_address="127.0.0.1:0", drain_grace=0.0
        )
    )


def _come_second(cluster: Cluster) -> None:
    """A second Rollout, on a route of its own, that has to wait for its turn."""
    route = copy.deepcopy(cluster.get(kinds.HTTP_ROUTE, ROUTE) or {})
    name = {"name": "second", "annotations": {"inferencerollouts.dev/managed-by": "second"}}
    refs = [backend_ref(STABLE, 1), backend_ref(THIRD, 0)]
    parents = {"parentRefs": route["spec"]["parentRefs"], "rules": [{"backendRefs": refs}]}
    cluster.create(kinds.HTTP_ROUTE, {**route, "metadata": {"namespace": NAMESPACE, **name}, "spec": parents})
    second = rollout_object([{"setWeight": 10}], target=THIRD, name="second", stableHint=STABLE)
    second["spec"]["traffic"] = {"httpRoutes": [{"name": "second"}]}
    cluster.create(kinds.ROLLOUT, second)


def _store_comparison(cluster: Cluster) -> None:
    rollout = cluster.get(kinds.ROLLOUT, "mymodel")
    assert rollout is not None
    owner = {
        "apiVersion": rollout["apiVersion"],
        "kind": "Rollout",
        "name": "mymodel",
        "uid": rollout["metadata"]["uid"],
        "controller": True,
    }
    run = {
        "apiVersion": rollout["apiVersion"],
        "kind": "AnalysisRun",
        "metadata": {"name": "stored", "ownerReferences": [owner]},
        "spec": {"rollout": "mymodel", "attempt": 1},
    }
    cluster.create(kinds.ANALYSIS_RUN, run)
    taken = {"phase": "Successful", "at": "2026-01-01T00:00:00Z", "value": "0.01"}
    measured = {"name": "errors", "phase": "Successful", "measurements": [taken]}
    told = {
        "phase": "Successful",
        "metricResults": [measured],
        "comparisons": [{"name": "ttft", "verdict": "Undecided", "figures": FIGURES}],
    }
    cluster.write_status(kinds.ANALYSIS_RUN, "stored", told)


async def ask(session: aiohttp.ClientSession, server: Prometheus, query: str) -> list[Any]:
    words = {"query": query, "nocache": "1"}
    async with session.get(f"{server.url}/api/v1/query", params=words) as answer:
        body = await answer.json()
        assert body["status"] == "success", (query, body)
        return list(body["data"]["result"])


async def test_each_query_of_a_dashboard_answers_and_no_alert_fires(scraped: Prometheus):
    silent = set(QUERIES)
    if choose(DataPath.AUTO) is DataPath.PYTHON:  # knows no connections
        silent = {query for query in QUERIES if "inference_picker_connections" not in query}

    async with aiohttp.ClientSession() as session:

        async def all_answer() -> bool:
            for query in sorted(silent):
                # A subquery looks at whole minutes, the first of which may be a minute away.
                if await ask(session, scraped, query.replace(":1m]", ":1s]")):
                    silent.discard(query)
            return not silent

        await eventually(all_answer, timeout=40, every=0.5)
        loud = {rule["alert"]: await ask(session, scraped, rule["expr"]) for rule in rules()}
    assert {name: found for name, found in loud.items() if found} == {}


# --- rules -----------------------------------------------------------------------------------------

R = 'namespace="a", rollout="r"'


def phase(name: str) -> dict[str, str]:
    return {f'rollouts_rollout_phase{{{R}, phase="{name}"}}': "1x200"}


def reason(name: str) -> dict[str, str]:
    return {f'rollouts_rollout_reason{{{R}, reason="{name}"}}': "1x200"}


FIRES: dict[str, tuple[dict[str, str], str, str]] = {
    "InferenceRolloutAborted": (phase("Aborted"), "1m", "Healthy"),
    "InferenceRolloutNeedsAPerson": (reason("GateInconclusive"), "6m", "PausedByCommand"),
    "InferenceRolloutInvalid": (phase("Invalid"), "11m", "Healthy"),
    "InferenceRolloutNobodyServes": (reason("StableNotReady"), "2m", "TargetIsStable"),
    "InferenceRolloutTrafficRefused": ({f"rollouts_traffic_refused{{{R}}}": "1x200"}, "3m", ""),
    "InferenceRolloutAbortBlocked": (reason("AbortBlockedByClaim"), "2m", "GateFailed"),
    "InferenceRolloutContended": ({f"rollouts_traffic_overwrites_total{{{R}}}": "0+1x200"}, "20m", ""),
    "InferenceRolloutStepTakesLong": (
        phase("Progressing") | {f"rollouts_rollout_step_start_time_seconds{{{R}}}": "0x200"},
        "135m",
        "Paused",
    ),
    "InferenceRolloutTargetNotReady": (phase("WaitingForTarget"), "61m", "Healthy"),
    "InferenceRolloutInLine": ({f"rollouts_rollout_queue_start_time_seconds{{{R}}}": "0x400"}, "245m", ""),
    "InferenceRolloutBehindOthers": (reason("DependencyAborted"), "16m", "WaitingForDependency"),
    "InferenceRolloutPodsPending": (
        {f'rollouts_rollout_pods{{{R}, arm="canary/prefill", state="pending"}}': "2x200"},
        "16m",
        "",
    ),
    "InferenceRolloutHarmGrows": (
        {
            f'rollouts_gate_evidence{{{R}, metric="ttft", kind="harm_total"}}': "12x200",
            f'rollouts_gate_evidence_limit{{{R}, metric="ttft", kind="harm_total"}}': "20x200",
        },
        "1m",
        "",
    ),
    "InferenceRolloutsNoLeader": ({"rollouts_leader": "0x200"}, "3m", ""),
    "InferenceRolloutsQueueStands": (
        {'rollouts_queue_oldest_seconds{controller="rollout"}': "90x200"},
        "6m",
        "",
    ),
    "InferenceRolloutsReconcilesFail": (
        {'rollouts_reconcile_seconds_count{controller="rollout", outcome="bug"}': "0+1x200"},
        "30m",
        "",
    ),
    "InferenceRolloutsNotificationsFail": (
        {
            'rollouts_notifications_total{receiver="ops", outcome="failed"}': "0+1x200",
            'rollouts_notifications_total{receiver="ops", outcome="delivered"}': "7x200",
        },
        "60m",
        "",
    ),
    "InferenceRolloutsGatesUnexported": ({'rollouts_gates_unexported{namespace="a"}': "3x200"}, "16m", ""),
    "InferencePickerFull": (
        {'inference_picker_connections_closed_total{instance="p", port="grpc", reason="full"}': "0+1x200"},
        "3m",
        "",
    ),
    "InferencePickerCrowded": (
        {
            'inference_picker_connections_closed_total{instance="p", port="grpc", reason="displaced_idle"}': "0+9x200",
            'inference_picker_connections_closed_total{instance="p", port="grpc", reason="client"}': "0+9x200",
        },
        "16m",
        "",
    ),
    "InferencePickerFails": ({'inference_picker_failures_total{instance="p"}': "0+1x200"}, "3m", ""),
}
"""For each alert: series of a minute that fire it, when, and the phase or reason that does not, where it reads one."""


def quiet(series: dict[str, str], other: str) -> dict[str, str]:
    """The same series in a calm world: another phase or reason, or no growth and nothing wrong."""
    if other:
        words = "|".join(re.findall(r'(?:phase|reason)="(\w+)"', " ".join(series)))
        return {re.sub(f'"({words})"', f'"{other}"', name): values for name, values in series.items()}
    calm = {"rollouts_leader": "1x200", "evidence_limit": "20x200", "queue_start": "12000x400"}
    return {name: next((v for word, v in calm.items() if word in name), "0x200") for name in series}


def unit(alert: str, series: dict[str, str], at: str, *, fires: bool) -> dict[str, Any]:
    alive = {} if alert == "InferenceRolloutsNoLeader" else {"rollouts_leader": "1x400"}
    wanted = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})'
    loud = 'count(ALERTS{alertstate="firing"})'
    samples = [{"labels": "{}", "value": 1}] if fires else []
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in (series | alive).items()],
        "promql_expr_test": [
            {"expr": expr, "eval_time": at, "exp_samples": samples} for expr in (wanted, loud)
        ],
    }


def promtool(*arguments: str) -> str:
    done = subprocess.run(
        [str(find_prometheus("promtool")), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_each_alert_fires_for_what_it_is_for_and_for_nothing_else(program: Path, tmp_path: Path):
    assert (
        sorted(FIRES) == sorted(alert.name for alert in ALERTS) == sorted(rule["alert"] for rule in rules())
    )
    cases = []
    for name, (series, at, other) in FIRES.items():
        cases.append(unit(name, series, at, fires=True))
        cases.append(unit(name, quiet(series, other), at, fires=False))
    test = {"rule_files": [str(CHART / "alerts.yaml")], "evaluation_interval": "1m", "tests": cases}
    file = tmp_path / "alerts_test.yaml"
    file.write_text(yaml.safe_dump(test, sort_keys=False))
    assert "SUCCESS" in promtool("test", "rules", str(file))
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", str(CHART / "alerts.yaml"))


def test_no_controller_at_all_is_an_alert_too(program: Path, tmp_path: Path):
    case = unit("InferenceRolloutsNoLeader", {"up": "1x200"}, "3m", fires=True)
    test = {"rule_files": [str(CHART / "alerts.yaml")], "evaluation_interval": "1m", "tests": [case]}
    file = tmp_path / "alerts_test.yaml"
    file.write_text(yaml.safe_dump(test))
    assert "SUCCESS" in promtool("test", "rules", str(file))


def test_the_dashboards_are_the_ones_that_are_generated():
    files = {json.loads(path.read_text())["uid"] for path in (CHART / "dashboards").glob("*.json")}
    assert files == {dashboard.uid for dashboard in DASHBOARDS}
