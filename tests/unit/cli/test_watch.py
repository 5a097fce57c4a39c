"""``watch`` and the verbs that wait: by watches, through outages of the API server, until interrupted."""

from __future__ import annotations

import asyncio
import io
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.live import Live

from rollouts.api.crds import all_crds
from rollouts.api.parsing import COMMAND_ANNOTATION, parse_rollout
from rollouts.cli.connect import Missing
from rollouts.cli.watch import show
from rollouts.engine.naming import Owner, background_run, renewed_background
from rollouts.kube.client import PatchKind
from rollouts.kube.counting import CountingClient, RequestRecord
from rollouts.lab.controlplane.upstream import CRDS
from rollouts.lab.memoryapi.store import MemoryApi
from rollouts.objects import kinds
from tests.kit.memory_client import MemoryKubeClient
from tests.kit.polling import eventually
from tests.kit.served import ROLLOUT, Server, stored_status, typed

STATUS = stored_status()


def run_of(rollout: dict[str, Any], name: str, uid: str) -> dict[str, Any]:
    owner = {
        "apiVersion": ROLLOUT["apiVersion"],
        "kind": "Rollout",
        "name": "demo",
        "uid": uid,
        "controller": True,
    }
    labels = {"inferencerollouts.dev/rollout-name": rollout["metadata"]["name"]}
    return {
        "apiVersion": ROLLOUT["apiVersion"],
        "kind": "AnalysisRun",
        "metadata": {"name": name, "labels": labels, "ownerReferences": [owner]},
        "spec": {"rollout": "demo", "attempt": 1, "metrics": []},
    }


class Cluster:
    """A memory API server with ``demo``, and a client that counts what is asked."""

    def __init__(self) -> None:
        self.api, self.asked = MemoryApi(), list[RequestRecord]()
        for crd in all_crds():
            self.api.create(CRDS, None, crd, manager="test")
        self.rollout = self.api.create(kinds.ROLLOUT, "default", ROLLOUT, manager="test")
        self.client = CountingClient(MemoryKubeClient(self.api), self.asked.append)
        self.live = Live(console=Console(file=io.StringIO()), auto_refresh=False)

    def patch(self, resource: Any, name: str, status: dict[str, Any]) -> None:
        how = {"content_type": PatchKind.MERGE.value, "subresource": "status", "manager": "test"}
        self.api.patch(resource, "default", name, {"status": status}, **how)

    def shown(self, words: str) -> bool:
        page = Console(file=io.StringIO(), width=200)
        page.print(self.live.renderable)
        assert isinstance(page.file, io.StringIO)
        return words in page.file.getvalue()

    async def shows(self, words: str) -> None:
        await eventually(lambda: self.shown(words), timeout=60)


async def test_a_rollout_and_its_runs_are_shown_by_one_list_and_one_watch_each():
    cluster = Cluster()
    task = asyncio.create_task(show(cluster.client, cluster.live, "default", "demo", 60.0))
    await cluster.shows("default/demo")
    cluster.patch(kinds.ROLLOUT, "demo", {**STATUS, "message": "waits for a person"})
    await cluster.shows("waits for a person")
    uid = cluster.rollout["metadata"]["uid"]
    owner = Owner(name="demo", uid=uid)
    status = parse_rollout(cluster.api.get(kinds.ROLLOUT, "default", "demo")).status
    ours, of_a_namesake = background_run(owner, status), renewed_background(owner, status, 9)
    for name, whose in ((ours, uid), (of_a_namesake, "other")):
        cluster.api.create(kinds.ANALYSIS_RUN, "default", run_of(ROLLOUT, name, whose), manager="test")
    cluster.patch(kinds.ROLLOUT, "demo", {**STATUS, "message": "goes on"})
    await cluster.shows("goes on")
    await cluster.shows(ours)
    assert not cluster.shown(of_a_namesake)

    asked = sorted((one.verb, one.plural) for one in cluster.asked)
    assert asked == [("list", "analysisruns"), ("list", "rollouts")]  # a watch counts when it ends
    cluster.api.close_watches()
    cluster.api.compact()
    cluster.patch(kinds.ROLLOUT, "demo", {**STATUS, "message": "after the history was forgotten"})
    await cluster.shows("after the history was forgotten")
    cluster.api.delete(kinds.ROLLOUT, "default", "demo")
    with pytest.raises(Missing, match="there is no Rollout demo"):
        await task


# --- processes -------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path)
    running.within(lambda api: api.create(kinds.ROLLOUT, "default", ROLLOUT, manager="test"))
    running.patch_status(STATUS)
    yield running
    running.stop()


def until_written(server: Server) -> dict[str, Any]:
    """The command that was written to the Rollout, as the controller would record it."""

    def raw() -> str:
        meta = server.within(lambda api: api.get(kinds.ROLLOUT, "default", "demo"))["metadata"]
        return str((meta.get("annotations") or {}).get(COMMAND_ANNOTATION, ""))

    async def wait() -> str:
        return await eventually(raw, timeout=60)

    text = asyncio.run(wait())
    action = json.loads(text)["action"]
    return {"raw": text, "action": action, "result": "Done", "message": "m", "at": "2026-01-01T00:00:00Z"}


def test_a_verb_waits_through_an_outage_and_says_so(server):
    with typed(server, "pause", "demo") as command:
        record = until_written(server)
        server.go_away()
        reason = command.until("pause was sent; the API server cannot be asked", err=True)
        server.come_back()
        server.patch_status({"lastCommand": record})

        code, out, err = command.ended()
    assert (code, out) == (0, "default/demo: pause done: m\n")
    assert "answers again" in err
    assert "<" not in reason


@pytest.mark.parametrize(
    ("words", "said"), [(["abort", "demo"], "`rollouts get demo` says whether abort was taken up")]
)
def test_ctrl_c_is_130_and_says_what_is_not_known(server, words, said):
    with typed(server, *words) as command:
        until_written(server)
        command.process.send_signal(signal.SIGINT)

        code, _, err = command.ended()
    assert code == 130
    assert said in err


def test_a_pipe_gets_an_outage_once_and_no_state_twice(server):
    """Two watches lose the server and find it again, each at a moment and for a reason of its own."""
    with typed(server, "watch", "demo") as seen:
        lines = list[str]()

        def read_until(words: str) -> None:
            while not lines or words not in lines[-1]:
                lines.append(seen.process.stdout.readline())
                assert lines[-1], "it ended"

        read_until("Paused")
        server.go_away()
        read_until("the API server cannot be asked")
        server.come_back()
        server.patch_status({"message": "all is well"})
        read_until("all is well")
        server.within(lambda api: api.delete(kinds.ROLLOUT, "default", "demo"))
        lines += seen.process.stdout.readlines()

    assert [line.split()[0] for line in lines if line.startswith(("Name", "⚠"))] == ["Name", "⚠", "Name"]


def test_a_pipe_gets_each_state_at_once(server):
    """`watch | tee log`: nothing came before the end."""
    with typed(server, "watch", "demo") as seen:
        seen.until("Paused")
        server.patch_status({"message": "all is well"})
        seen.until("all is well")
