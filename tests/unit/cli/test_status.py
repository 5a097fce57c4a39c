"""What CI waits for: the right change, through outages, by a watch; and how it is told."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from rollouts.api.crds import all_crds
from rollouts.cli.following import follow
from rollouts.cli.outcomes import WaitedFor, WaitOutcome, outcome_of
from rollouts.kube.client import PatchKind
from rollouts.kube.counting import CountingClient, RequestRecord
from rollouts.lab.controlplane.upstream import CRDS
from rollouts.lab.memoryapi.store import MemoryApi
from rollouts.objects import kinds
from tests.kit.memory_client import MemoryKubeClient
from tests.kit.served import ROLLOUT, Server, stored_status, typed
from tests.kit.world import pause

SHA = "6f1ed002ab5595859014ebf0951522d9a1f3a1ce"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path)
    yield running
    running.stop()


PAUSED, TIMED = stored_status(), stored_status(pause(600.0))
ABORTED, HEALTHY = stored_status(saying="abort"), stored_status(saying="promoteFull")
PROGRESSING = {**PAUSED, "phase": "Progressing", "hold": None}
INVALID = {**PAUSED, "phase": "Invalid"}


def at_rest(server: Server, name: str = "v1") -> None:
    """A Rollout that asks for ``name`` and serves it."""
    server.within(lambda api: api.create(kinds.ROLLOUT, "default", ROLLOUT, manager="test"))
    server.patch({"spec": {"target": {"pool": {"name": name}}}})
    stable = {**PAUSED["stable"], "name": name}
    server.patch_status({**HEALTHY, "stable": {**HEALTHY["stable"], **stable}, "observedGeneration": 2})


def test_it_waits_until_the_change_is_asked_for_seen_and_over(server):
    at_rest(server)
    with typed(server, "status", "demo", "--for-target", "v2", "--timeout", "60s") as command:
        command.until("waiting until target v2 is asked for: now it is target v1")
        server.patch({"spec": {"target": {"pool": {"name": "v2"}}}})
        command.until("waiting for the controller to look at it")
        server.patch_status({**PROGRESSING, "observedGeneration": 3})
        command.until("Progressing: ")
        server.patch_status({**HEALTHY, "observedGeneration": 3})

        assert command.ended() == (0, f"Healthy: {HEALTHY['message']}\n", "")


def test_a_rollout_that_is_not_there_yet_and_a_server_that_is_away_are_waited_for(server):
    with typed(server, "status", "demo", "--for-commit", SHA, "--timeout", "60s") as command:
        command.until("default/demo does not exist yet")
        server.go_away()
        reason = command.until("the API server cannot be asked, and is tried again", err=True)
        asked = {
            **ROLLOUT,
            "metadata": {"name": "demo", "annotations": {"inferencerollouts.dev/commit": SHA[:10]}},
        }
        server.api.create(kinds.ROLLOUT, "default", asked, manager="test")
        server.come_back()
        command.until("answers again", err=True)
        server.patch_status({**ABORTED, "observedGeneration": 1})

        code, out, _ = command.ended()
    assert code == 1
    assert out.endswith(f"Aborted: {ABORTED['message']}\n")
    assert "<" not in reason


def test_a_server_that_stays_away_is_said_at_the_timeout(server):
    server.go_away()

    result = server.call("status", "demo", "--watch", "--timeout", "1s")

    assert result.exit_code == 3
    assert "the API server could not be asked" in result.stderr
    server.come_back()


def test_ctrl_c_says_that_the_rollout_goes_on(server):
    at_rest(server)
    with typed(server, "status", "demo", "--for-revision", "r7") as command:
        command.until("waiting until revision r7")
        command.process.send_signal(signal.SIGINT)

        code, _, err = command.ended()
    assert code == 130
    assert "rollout default/demo goes on without us" in err


def test_a_reader_that_leaves_is_no_verdict(server):
    """`rollouts status --watch | head -1`: 1 would be an abort."""
    server.within(lambda api: api.create(kinds.ROLLOUT, "default", ROLLOUT, manager="test"))
    server.patch_status(PROGRESSING)
    with typed(server, "status", "demo", "--watch") as command:
        command.until("Progressing")
        command.process.stdout.close()
        server.patch_status(PAUSED)

        assert (command.process.wait(60), command.process.stderr.read()) == (141, "")


def test_whoever_is_overtaken_hears_of_it(server):
    at_rest(server, "v2")
    server.patch_status({**PROGRESSING, "observedGeneration": 2})
    with typed(server, "status", "demo", "--for-target", "v2", "--timeout", "60s") as command:
        command.until("Progressing")
        server.patch({"spec": {"target": {"pool": {"name": "v3"}}}})

        assert command.ended()[:2] == (6, "overtaken: not target v2 is asked for any more, but target v3\n")


def test_a_moment_of_invalid_is_not_the_end(server):
    at_rest(server, "v2")
    server.patch_status({**INVALID, "observedGeneration": 2})
    with typed(server, "status", "demo", "--watch", "--timeout", "60s") as command:
        command.until("Invalid")
        server.patch_status({**HEALTHY, "observedGeneration": 2})

        assert command.ended()[0] == 0


@pytest.mark.parametrize(
    ("status", "words", "code"),
    [
        (PAUSED, ["--on-pause", "succeed"], 0),
        (PAUSED, ["--on-pause", "fail"], 5),
        (PAUSED, ["--on-pause", "wait", "--timeout", "300ms"], 4),
        (TIMED, ["--on-pause", "fail", "--timeout", "300ms"], 4),
        (INVALID, ["--watch", "--timeout", "300ms"], 1),
        (PAUSED, [], 0),
    ],
)
def test_the_exit_status_says_how_it_stands(server, status, words, code):
    at_rest(server, "v2")
    steps = [{"setWeight": 10}, {"pause": {"duration": "10m"} if status is TIMED else {}}]
    server.patch({"spec": {"strategy": {"canary": {"steps": steps}}}})
    server.patch_status({**status, "observedGeneration": 3})

    result = server.call("status", "demo", "-o", "json", *words)

    assert result.exit_code == code
    assert json.loads(result.stdout)["name"] == "demo"


def test_without_a_change_to_wait_for_a_missing_rollout_is_an_error(server):
    assert server.call("status", "demo", "--watch").exit_code == 2


def obj(status: dict[str, Any], *, generation: int = 1, target: str = "v2") -> dict[str, Any]:
    meta = {**ROLLOUT["metadata"], "generation": generation}
    asked = {**ROLLOUT["spec"], "target": {"pool": {"name": target}}}
    return {**ROLLOUT, "metadata": meta, "spec": asked, "status": {**status, "observedGeneration": 1}}


@pytest.mark.parametrize(
    ("found", "want"),
    [
        (obj(HEALTHY), WaitOutcome.HEALTHY),
        (obj(HEALTHY, generation=2), WaitOutcome.RUNNING),
        (obj(HEALTHY, target="v3"), WaitOutcome.RUNNING),  # a status that speaks of another target
        (obj(ABORTED), WaitOutcome.STOPPED),
        (obj(ABORTED, generation=2), WaitOutcome.RUNNING),
        (obj(PAUSED), WaitOutcome.PAUSED),
        (obj(PAUSED, generation=2), WaitOutcome.RUNNING),
        (obj(PROGRESSING), WaitOutcome.RUNNING),
        ({**ROLLOUT}, WaitOutcome.RUNNING),
    ],
)
def test_only_what_the_controller_has_seen_is_an_outcome(found, want):
    assert outcome_of(found) is want


@pytest.mark.parametrize(
    ("asked", "found", "same"),
    [
        (SHA, SHA, True),
        (SHA[:7], SHA, True),
        (SHA, SHA[:12].upper(), True),
        (SHA[:6], SHA, False),
        (SHA, "", False),
    ],
)
def test_a_commit_may_be_abbreviated_as_git_does(asked, found, same):
    rollout = {"metadata": {"annotations": {"inferencerollouts.dev/commit": found}}}

    assert WaitedFor(commit=asked).asked_for(rollout) is same


async def test_a_rollout_is_followed_by_one_list_and_one_watch():
    api, asked = MemoryApi(), list[RequestRecord]()
    for crd in all_crds():
        api.create(CRDS, None, crd, manager="test")
    for name in ("demo", "other"):
        api.create(kinds.ROLLOUT, "default", {**ROLLOUT, "metadata": {"name": name}}, manager="test")
    client = CountingClient(MemoryKubeClient(api), asked.append)

    def patch(name: str, step: int) -> None:
        where, how = (kinds.ROLLOUT, "default", name), PatchKind.MERGE.value
        api.patch(*where, {"metadata": {"labels": {"n": str(step)}}}, content_type=how, manager="test")

    seen = list[str]()
    states = follow(client, "default", "demo", away=seen.append, back=lambda: seen.append("back"))
    async with aclosing(states) as changes:
        async for found in changes:
            assert found is not None
            seen.append((found["metadata"].get("labels") or {}).get("n", "-"))
            if len(seen) == 6:
                break
            await asyncio.sleep(0)
            patch("other", len(seen))
            patch("demo", len(seen))

    assert seen == ["-", "1", "2", "3", "4", "5"]
    assert [record.verb for record in asked] == ["list", "watch"]
