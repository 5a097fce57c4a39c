"""`rollouts record` against an API server and model servers over HTTP; what it writes can be replayed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner

from rollouts.api.crds import all_crds
from rollouts.api.scalars import format_time
from rollouts.cli.main import main
from rollouts.kube.client import PatchKind
from rollouts.lab.controlplane import minimal
from rollouts.lab.controlplane.upstream import CRDS
from rollouts.lab.kubeconfig import write_kubeconfig
from rollouts.lab.loopback import loopback
from rollouts.lab.memoryapi.server import MemoryApiServer
from rollouts.lab.memoryapi.store import MemoryApi
from rollouts.lab.vllm.pod import Fleet
from rollouts.lab.vllm.spec import PodSpec
from rollouts.objects import kinds
from tests.kit.modelserver import GuardedPods

GROUP = kinds.POOL_X.group
STATUS: dict[str, Any] = {
    "phase": "Progressing",
    "observedGeneration": 1,
    "stable": {"kind": "InferencePool", "group": GROUP, "name": "v1", "hash": "1" * 64},
    "canary": {"kind": "InferencePool", "group": GROUP, "name": "v2", "hash": "2" * 64},
    "attempt": 1,
    "currentStep": 1,
    "stepCount": 2,
    "startedAt": "2026-01-01T00:00:00Z",
    "stepStartedAt": "2026-01-01T00:01:00Z",
    "weight": {"desired": 10, "applied": 10},
}


class Stage:
    """A memory API server and two pools of simulated pods, in a thread of their own."""

    def __init__(self, directory: Path) -> None:
        self.api = MemoryApi()
        for crd in (*all_crds(), *minimal.GATEWAY, *minimal.INFERENCE_ALPHA):
            self.api.create(CRDS, None, crd, manager="test")
        self.kubeconfig = directory / "kubeconfig"
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.fleet = Fleet(
            PodSpec(name=f"{pool}-0", address=loopback(11, number)) for number, pool in ((1, "v1"), (2, "v2"))
        )
        self.server = MemoryApiServer(self.api)
        self.run(self.server.start())
        self.run(self.fleet.start())
        write_kubeconfig(self.kubeconfig, server=self.server.url)
        for number, pool in ((1, "v1"), (2, "v2")):
            self.pool(pool, loopback(11, number))
        self.rollout()

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def stop(self) -> None:
        self.run(self.fleet.stop())
        self.run(self.server.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def pool(self, name: str, address: str) -> None:
        pool = {
            "apiVersion": kinds.POOL_X.api_version,
            "kind": "InferencePool",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"targetPortNumber": 8000, "selector": {"release": name}, "extensionRef": {"name": "p"}},
        }
        self.api.create(kinds.POOL_X, "default", pool, manager="test")
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"{name}-0", "namespace": "default", "labels": {"release": name}},
            "spec": {"containers": [{"name": "vllm", "image": "vllm"}]},
        }
        self.api.create(kinds.POD, "default", pod, manager="test")
        ready = {"podIP": address, "conditions": [{"type": "Ready", "status": "True"}]}
        self.status(kinds.POD, f"{name}-0", ready)

    def rollout(self) -> None:
        rollout = {
            "apiVersion": "inferencerollouts.dev/v1alpha1",
            "kind": "Rollout",
            "metadata": {"name": "demo", "namespace": "default"},
            "spec": {
                "target": {"pool": {"name": "v2"}},
                "traffic": {"httpRoutes": [{"name": "route"}]},
                "strategy": {"canary": {"steps": [{"setWeight": 10}, {"pause": {}}]}},
            },
        }
        self.api.create(kinds.ROLLOUT, "default", rollout, manager="test")
        self.status(kinds.ROLLOUT, "demo", STATUS)

    def status(self, resource: Any, name: str, status: dict[str, Any]) -> None:
        self.api.patch(
            resource,
            "default",
            name,
            {"status": status},
            content_type=PatchKind.MERGE.value,
            subresource="status",
            manager="test",
        )


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.stop()


def invoke(stage: Stage, *arguments: str) -> Any:
    options = ["--kubeconfig", str(stage.kubeconfig), "-n", "default"]
    return CliRunner().invoke(main, ["record", *arguments, *options])


def test_a_live_rollout_is_recorded_and_can_be_replayed(stage: Stage, tmp_path: Path) -> None:
    file, gates = tmp_path / "live.jsonl", tmp_path / "gates.yaml"
    result = invoke(stage, "demo", "-f", str(file), "--interval", "1s", "--duration", "2s")
    assert result.exit_code == 0, result.output

    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines[0] == {"kind": "Recording", "version": 1, "interval": 1.0}
    steps = [line for line in lines if line.get("event") == "step"]
    assert [(line["t"], line["step"], line["weight"]) for line in steps] == [(60, 1, 10)]
    samples = [line for line in lines if "arm" in line]
    assert {(line["arm"], line["pod"]) for line in samples} == {("stable", "v1-0"), ("canary", "v2-0")}
    assert all("requests" in line["counters"] and "ttft" in line["histograms"] for line in samples)
    assert [line["t"] for line in samples] == sorted(line["t"] for line in samples)

    gates.write_text("metrics: [{name: ttft, compare: {preset: ttft}}]\n")
    replayed = CliRunner().invoke(main, ["backtest", str(file), "--gates", str(gates), "-o", "json"])
    piped = CliRunner().invoke(
        main, ["backtest", "-", "--gates", str(gates), "-o", "json"], input=file.read_text()
    )
    assert replayed.exit_code == 0, replayed.output
    assert [gate["name"] for gate in json.loads(replayed.output)["gates"]] == ["ttft"]
    assert (piped.exit_code, json.loads(piped.output)) == (0, json.loads(replayed.output))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nothing", "-f", "x.jsonl"], 2, "there is no Rollout nothing"),
        (["demo", "-f", "x.jsonl", "--since", "1h"], 2, "name a Prometheus"),
        (["demo", "-f", "x.jsonl", "--interval", "10ms"], 2, "take a longer --interval"),
        (["demo", "-f", "x.jsonl", "--interval", "soon"], 2, "soon"),
        (["demo", "-f", "x.jsonl", "--source", "thanos"], 2, "write NAME=URL"),
        (["demo", "-f", "nowhere/x.jsonl"], 2, "nowhere/x.jsonl cannot be written"),
        (["demo", "--model-server-name", "x"], 1, "needs --model-server-scheme https"),
        (["demo", "--source", "a=http://b", "--model-server-scheme", "https"], 2, "leave one out"),
    ],
    ids=[
        "no such Rollout",
        "the past without a source",
        "too often",
        "no duration",
        "no URL",
        "no place for it",
        "a name and no TLS",
        "pods and a server",
    ],
)
def test_wrong_usage_is_told(stage: Stage, arguments, code, words) -> None:
    result = invoke(stage, *arguments)
    assert result.exit_code == code
    assert words in result.output


def guarded(stage: Stage, tmp_path: Path) -> GuardedPods:
    """Both arms' pods are one that speaks TLS and asks for the key "right"."""
    pods = GuardedPods(tmp_path)
    address = stage.run(pods.start(key="right", metrics_too=True))
    host, _, port = address.rpartition(":")
    for name in ("v1", "v2"):
        how = {"content_type": PatchKind.MERGE.value, "manager": "test"}
        stage.api.patch(kinds.POOL_X, "default", name, {"spec": {"targetPortNumber": int(port)}}, **how)
        stage.status(kinds.POD, f"{name}-0", {"podIP": host})
    (tmp_path / "api-key").write_text("right\n")
    return pods


def test_pods_behind_tls_and_a_key_are_recorded(stage: Stage, tmp_path: Path) -> None:
    file, pods = tmp_path / "live.jsonl", guarded(stage, tmp_path)
    short = ["demo", "-f", str(file), "--interval", "1s", "--duration", "1s"]
    tls = ["--model-server-scheme", "https"]
    named = [*tls, "--model-server-ca", str(pods.ca), "--model-server-name", "vllm.example"]
    key = ["--model-server-api-key-file", str(tmp_path / "api-key")]
    try:
        for wrong, words in (
            ([], "give --model-server-scheme https"),
            ([*tls, *key], "see --model-server-ca, --model-server-name"),
            ([*tls, "--model-server-insecure-skip-verify"], "may want a key: --model-server-api-key-file"),
        ):
            refused = invoke(stage, *short, *wrong)
            assert refused.exit_code == 1
            assert words in refused.output
        result = invoke(stage, *short, *named, *key)
        assert result.exit_code == 0, result.output
    finally:
        stage.run(pods.stop())

    samples = [json.loads(line) for line in file.read_text().splitlines() if '"arm"' in line]
    assert {(line["arm"], line["pod"]) for line in samples} == {("stable", "v1-0"), ("canary", "v2-0")}


class Past:
    """A Prometheus that remembers a request counter of each pod: one request a second since 1970."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, str]] = []
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/api/v1/query", self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        asked = {**request.query, **await request.post()}
        at, query = float(str(asked["time"])), str(asked["query"])
        pods = [pod for pod in ("v1-0", "v2-0") if pod in query]
        self.asked += [(at, pod) for pod in pods]
        labels = {"__name__": "vllm:request_success_total", "finished_reason": "stop"}
        result = [{"metric": {**labels, "pod": pod}, "value": [at, str(round(at))]} for pod in pods]
        return web.json_response({"status": "success", "data": {"resultType": "vector", "result": result}})


def evidence_of_an_attempt_that_is_over(
    stage: Stage,
    begun: datetime,
    *,
    name: str = "demo-22222222-1",
    attempt: int = 1,
    steps: tuple[tuple[int, int, int], ...] = ((0, 0, 10), (4, 2, 50)),
) -> None:
    """Its run has two weights and a polluted minute; the Rollout is at rest on the new version."""
    pool = {"kind": "InferencePool", "group": GROUP}
    run = {
        "apiVersion": kinds.ANALYSIS_RUN.api_version,
        "kind": "AnalysisRun",
        "metadata": {
            "name": name,
            "namespace": "default",
            "ownerReferences": [
                {
                    "apiVersion": kinds.ROLLOUT.api_version,
                    "kind": "Rollout",
                    "name": "demo",
                    "uid": stage.api.get(kinds.ROLLOUT, "default", "demo")["metadata"]["uid"],
                    "controller": True,
                }
            ],
        },
        "spec": {
            "rollout": "demo",
            "attempt": attempt,
            "stable": {**pool, "name": "v1"},
            "canary": {**pool, "name": "v2"},
            "metrics": [],
            "comparisons": [{"name": "errors", "source": "default", "compare": {"preset": "error-rate"}}],
            "marks": [
                {"at": format_time(begun + timedelta(minutes=minute)), "step": step, "weight": weight}
                for minute, step, weight in steps
            ],
            "exclude": [
                {
                    "from": format_time(begun + timedelta(minutes=1)),
                    "to": format_time(begun + timedelta(minutes=2)),
                }
            ],
        },
    }
    stage.api.create(kinds.ANALYSIS_RUN, "default", run, manager="test")
    over = {"phase": "Successful", "completedAt": format_time(begun + timedelta(minutes=9))}
    stage.status(kinds.ANALYSIS_RUN, name, over)
    healthy = {"phase": "Healthy", "canary": None, "weight": None, "startedAt": None, "stepStartedAt": None}
    stage.status(
        kinds.ROLLOUT, "demo", {**healthy, "stable": {**STATUS["stable"], "name": "v2", "hash": "2" * 64}}
    )


def test_an_attempt_that_is_over_is_recorded_with_every_step(stage: Stage, tmp_path: Path) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    evidence_of_an_attempt_that_is_over(stage, now - timedelta(minutes=20))
    past, file = Past(), tmp_path / "past.jsonl"
    stage.run(past.start())
    try:
        source = ["--source", f"default={past.url}", "--interval", "60s", "--since", "25m", "--until", "10m"]
        result = invoke(stage, "demo", "-f", str(file), *source)
    finally:
        stage.run(past.stop())
    assert result.exit_code == 0, result.output

    lines = [json.loads(line) for line in file.read_text().splitlines()]
    steps = [line for line in lines if line.get("event") == "step"]
    assert [(line["t"], line["step"], line["weight"]) for line in steps] == [(0, 0, 10), (240, 2, 50)]
    excluded = [(line["from"], line["to"]) for line in lines if line.get("event") == "exclude"]
    assert excluded == [(60, 120)]
    samples = [line for line in lines if "arm" in line]
    assert {(line["arm"], line["pod"]) for line in samples} == {("stable", "v1-0"), ("canary", "v2-0")}
    assert {line["arm"] for line in samples if line["t"] < 0} == {"stable"}
    times = sorted({line["t"] for line in samples})
    assert (len(times), 480 <= times[-1] <= 540) == (14, True)  # what came after it is none of its evidence
    assert all(now.timestamp() - at >= 599 for at, _ in past.asked)


@pytest.mark.parametrize("arguments", [["--until", "1h"], ["--since", "1h", "--until", "2h"]])
def test_an_end_of_the_past_needs_a_beginning_before_it(stage: Stage, arguments: list[str]) -> None:
    result = invoke(stage, "demo", "-f", "x.jsonl", "--source", "default=http://127.0.0.1:9", *arguments)

    assert result.exit_code == 2
    assert "--until ends the past" in result.output


def started(stage: Stage, *arguments: str) -> subprocess.Popen[str]:
    """The command as people run it in a pipe."""
    command = [sys.executable, "-m", "rollouts.cli", "record", "demo", "--kubeconfig", str(stage.kubeconfig)]
    pipe = subprocess.PIPE
    return subprocess.Popen([*command, "-n", "default", *arguments], stdout=pipe, stderr=pipe, text=True)


def test_data_goes_to_stdout_and_everything_else_to_stderr(stage: Stage) -> None:
    stage.api.patch(
        kinds.POD,
        "default",
        "v2-0",
        {"metadata": {"labels": {"release": "none"}}},
        content_type=PatchKind.MERGE.value,
        manager="test",
    )
    out, told = started(stage, "--interval", "1s", "--duration", "1s").communicate(timeout=30)

    lines = [json.loads(line) for line in out.splitlines()]
    assert lines[0]["kind"] == "Recording"
    assert {line["arm"] for line in lines if "arm" in line} == {"stable"}
    assert "the canary arm (v2) is empty: no pod of it was found" in told
    assert "the stable arm" not in told
    assert "kind_not_served" in told  # what is logged on the way


def test_it_ends_when_nobody_reads_any_more(stage: Stage) -> None:
    process = started(stage, "--interval", "1s", "--duration", "10m")
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, told = process.communicate(timeout=30)

    assert "Traceback" not in told


def test_a_promotion_is_followed_with_the_arms_of_its_attempt(stage: Stage, tmp_path: Path) -> None:
    file = tmp_path / "live.jsonl"
    process = started(stage, "-f", str(file), "--interval", "3s", "--duration", "60s")
    assert process.stderr is not None
    assert any("attempt_is_recorded" in line for line in process.stderr)
    promoted = {**STATUS["stable"], "name": "v2", "hash": "2" * 64}
    stage.status(kinds.ROLLOUT, "demo", {"phase": "Healthy", "canary": None, "stable": promoted})
    out, _ = process.communicate(timeout=40)

    assert (process.returncode, out) == (0, "")
    samples = [json.loads(line) for line in file.read_text().splitlines() if '"arm"' in line]
    assert {(line["arm"], line["pod"]) for line in samples} == {("stable", "v1-0"), ("canary", "v2-0")}
    assert len({line["t"] for line in samples}) == 2


def past(stage: Stage, file: Path, *arguments: str) -> tuple[Any, list[dict[str, Any]]]:
    server = Past()
    stage.run(server.start())
    try:
        source = ["--source", f"default={server.url}", "--interval", "60s", "--since", "100m"]
        result = invoke(stage, "demo", "-f", str(file), *source, *arguments)
    finally:
        stage.run(server.stop())
    return result, [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_an_attempt_over_several_runs_has_the_steps_of_all(stage: Stage, tmp_path: Path) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    old, new = now - timedelta(minutes=90), now - timedelta(minutes=30)
    evidence_of_an_attempt_that_is_over(stage, old, name="demo-1")
    evidence_of_an_attempt_that_is_over(stage, new, name="demo-2", attempt=2, steps=((0, 0, 5),))
    later = ((4, 1, 20), (6, 2, 60))
    evidence_of_an_attempt_that_is_over(stage, new, name="demo-2-b", attempt=2, steps=later)

    result, lines = past(stage, tmp_path / "newest.jsonl")
    assert result.exit_code == 0, result.output
    steps = [(line["t"], line["step"], line["weight"]) for line in lines if line.get("event") == "step"]
    assert steps == [(0, 0, 5), (240, 1, 20), (360, 2, 60)]

    result, lines = past(stage, tmp_path / "chosen.jsonl", "--run", "demo-1")
    assert result.exit_code == 0, result.output
    steps = [(line["t"], line["step"], line["weight"]) for line in lines if line.get("event") == "step"]
    assert steps == [(0, 0, 10), (240, 2, 50)]

    result, lines = past(stage, tmp_path / "none.jsonl", "--run", "demo-9")
    assert (result.exit_code, lines) == (2, [])
    assert "there are: demo-1, demo-2, demo-2-b" in result.output
