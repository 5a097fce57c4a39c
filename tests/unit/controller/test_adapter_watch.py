"""Pods are asked over HTTP which adapters they serve; adapters are loaded, proven and taken off."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from rollouts.controller.adapters import AdapterSettings, AdapterWatch
from rollouts.lab.loopback import loopback
from rollouts.lab.vllm.knobs import Knobs, LoraLoad
from rollouts.lab.vllm.pod import Fleet
from rollouts.lab.vllm.spec import PodSpec
from rollouts.objects.pods import Pod
from rollouts.runtime.clock import Monotonic, SystemClock
from rollouts.runtime.modelservers import ModelServerBook, ModelServers
from rollouts.runtime.objects import ObjectKey
from tests.kit.polling import eventually

ROLLOUT = ObjectKey("default", "travelhelper")
PORT = 8000


def spec(index: int, *adapters: str, **fields: object) -> PodSpec:
    return PodSpec(
        name=f"pod-{index}",
        address=loopback(9, index + 1),
        port=PORT,
        adapters={name: f"/adapters/{name}" for name in adapters},
        **fields,  # type: ignore[arg-type]
    )


def endpoints(*specs: PodSpec, started: str = "") -> list[Pod]:
    return [Pod(name=item.name, ip=item.address, ready=True, started=started) for item in specs]


@contextlib.asynccontextmanager
async def watching(servers: ModelServers | None = None) -> AsyncIterator[AdapterWatch]:
    book = ModelServerBook({("", ""): servers} if servers else {})
    watch = AdapterWatch(SystemClock(), AdapterSettings(), book)
    task = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_listed_adapter_counts_once_it_answered_a_request_and_the_follower_is_told():
    pods = [spec(0, "v2"), spec(1)]
    told: list[ObjectKey] = []
    async with Fleet(pods), watching() as watch:
        watch.on_change = told.append
        watch.follow(ROLLOUT, endpoints(*pods), PORT, ["v2"])
        await eventually(lambda: watch.serving(ROLLOUT, "v2").proven == 1)

        serving = watch.serving(ROLLOUT, "v2")
        assert serving.lacking == ("pod-1",)
        assert serving.possible == 1
        assert told[0] == ROLLOUT


async def test_a_listed_adapter_that_answers_no_request_is_not_proven_and_says_why():
    pod = spec(0, "v2", knobs=Knobs(errors=1.0))
    async with Fleet([pod]), watching() as watch:
        watch.follow(ROLLOUT, endpoints(pod), PORT, ["v2"])
        await eventually(lambda: watch.serving(ROLLOUT, "v2").states[0].problem != "")

        (state,) = watch.serving(ROLLOUT, "v2").states
        assert (state.listed, state.proven) == (True, False)
        assert state.problem.startswith("/v1/completions answers 500: ")


async def test_an_adapter_is_loaded_where_it_is_missing_and_taken_off_again():
    pods = [spec(0, "v2"), spec(1)]
    async with Fleet(pods), watching() as watch:
        watch.follow(ROLLOUT, endpoints(*pods), PORT, ["v2"])
        await eventually(lambda: watch.serving(ROLLOUT, "v2").lacking == ("pod-1",))
        watch.load(ROLLOUT, "v2", "/adapters/v2")
        watch.load(ROLLOUT, "v2", "/adapters/v2")  # every plan asks again
        await eventually(lambda: watch.serving(ROLLOUT, "v2").proven == 2)

        watch.unload(ROLLOUT, "v2")
        await eventually(lambda: watch.serving(ROLLOUT, "v2").lacking == ("pod-0", "pod-1"))


@pytest.mark.parametrize(
    ("outcome", "says"),
    [
        (
            LoraLoad.FAIL,
            "500: Call to add_lora method failed: Worker failed with error 'LoRA rank 16 is greater than max_lora_rank "
            "8.', please check the stack trace above for the root cause (lora_path /adapters/v2)",
        ),
        # vLLM hides the path.
        (
            LoraLoad.MISSING,
            "404: Loading lora v2 failed: No adapter found for <path> (lora_path /adapters/v2)",
        ),
    ],
    ids=["rank too high", "no such path"],
)
async def test_a_load_that_fails_is_told_in_the_servers_own_words(outcome, says):
    pod = spec(0, knobs=Knobs(lora_load=outcome))
    async with Fleet([pod]), watching() as watch:
        watch.follow(ROLLOUT, endpoints(pod), PORT, ["v2"])
        await eventually(lambda: watch.serving(ROLLOUT, "v2").lacking == ("pod-0",))
        watch.load(ROLLOUT, "v2", "/adapters/v2")
        await eventually(lambda: watch.serving(ROLLOUT, "v2").states[0].problem != "")

        assert watch.serving(ROLLOUT, "v2").states[0].problem == f"/v1/load_lora_adapter answers {says}"


async def test_an_adapter_that_a_pod_lost_is_lacking_and_has_to_prove_itself_again():
    pod = spec(0, "v2")
    async with Fleet([pod]) as fleet, watching() as watch:
        watch.follow(ROLLOUT, endpoints(pod), PORT, ["v2", "other"])
        await eventually(lambda: watch.serving(ROLLOUT, "v2").proven == 1)
        server = fleet.pods["pod-0"].server
        assert server is not None
        server.adapters.drop("v2")
        await eventually(lambda: watch.serving(ROLLOUT, "v2").lacking == ("pod-0",))


async def test_a_pod_that_is_silent_keeps_its_last_answer_and_a_new_start_of_it_forgets():
    pod = spec(0, "v2")
    async with Fleet([pod]) as fleet, watching() as watch:
        watch.follow(ROLLOUT, endpoints(pod, started="t1"), PORT, ["v2", "other"])
        await eventually(lambda: watch.serving(ROLLOUT, "v2").proven == 1)
        await fleet.remove("pod-0")
        await eventually(lambda: watch.serving(ROLLOUT, "v2").states[0].problem != "")
        assert watch.serving(ROLLOUT, "v2").proven == 1

        watch.follow(ROLLOUT, endpoints(pod, started="t2"), PORT, ["v2"])
        (state,) = watch.serving(ROLLOUT, "v2").states
        assert (state.listed, state.proven) == (None, False)


async def test_the_pods_key_is_read_from_its_file_for_each_request(tmp_path):
    key = tmp_path / "key"
    key.write_text("wrong\n")
    pod = spec(0, "v2", api_key="right")
    async with Fleet([pod]), watching(ModelServers(api_key_file=key)) as watch:
        watch.follow(ROLLOUT, endpoints(pod), PORT, ["v2"])
        await eventually(lambda: watch.serving(ROLLOUT, "v2").states[0].problem != "")
        assert watch.serving(ROLLOUT, "v2").states[0].problem.startswith("/v1/models answers 401: ")
        key.write_text("right\n")
        await eventually(lambda: watch.serving(ROLLOUT, "v2").proven == 1)


async def test_what_nobody_follows_is_forgotten():
    pod = spec(0, "v2")
    watch = AdapterWatch(SystemClock(), AdapterSettings())
    watch.follow(ROLLOUT, endpoints(pod), PORT, ["v2"])
    watch.drop(ROLLOUT)
    assert watch.serving(ROLLOUT, "v2").states == ()


PATHS = {
    "/adapters/travel/v2": True,
    "/adapters/../etc/passwd": False,
    "/adapters/./v2": False,
    "/adapters//v2": False,
    "/adaptersevil/v2": False,
    "/adapters": False,
    "/adapters/v2\n": False,
    "adapters/v2": False,
    "": False,
}


@pytest.mark.parametrize("path", PATHS)
def test_only_paths_under_an_allowed_prefix_may_be_loaded(path):
    assert AdapterSettings(prefixes=("/adapters/",)).allows(path) is PATHS[path]
    assert not AdapterSettings().allows(path)


# --- content ---------------------------------------------------------------------------------------


async def test_the_path_behind_a_name_is_known_and_other_content_has_to_prove_itself_again():
    pod = spec(0, "v2")
    async with Fleet([pod]) as fleet, watching() as watch:
        watch.follow(ROLLOUT, endpoints(pod), PORT, ["v2", "other"])
        await eventually(lambda: watch.serving(ROLLOUT, "v2").of("/adapters/v2").proven == 1)
        assert watch.serving(ROLLOUT, "v2").of("/adapters/v2-fixed").mismatched[0].root == "/adapters/v2"

        watch.unload(ROLLOUT, "v2", [])
        assert watch.serving(ROLLOUT, "v2").lacking == ()
        server = fleet.pods["pod-0"].server
        assert server is not None
        server.adapters.drop("v2")
        await eventually(lambda: watch.serving(ROLLOUT, "v2").lacking == ("pod-0",))
        watch.load(ROLLOUT, "v2", "/adapters/v2-fixed")
        await eventually(lambda: watch.serving(ROLLOUT, "v2").of("/adapters/v2-fixed").proven == 1)


async def test_a_path_without_an_adapter_is_told_apart_from_one_with_it():
    pod = spec(0, adapter_paths=("/adapters/v2",))
    async with Fleet([pod]), watching() as watch:
        watch.follow(ROLLOUT, endpoints(pod), PORT, ["v2"])
        await eventually(lambda: watch.serving(ROLLOUT, "v2").lacking == ("pod-0",))
        watch.load(ROLLOUT, "v2", "/adapters/typo")
        await eventually(lambda: watch.serving(ROLLOUT, "v2").states[0].problem != "")
        problem = watch.serving(ROLLOUT, "v2").states[0].problem
        assert problem.endswith("No adapter found for <path> (lora_path /adapters/typo)")


@pytest.mark.parametrize(
    ("outcome", "differs"), [(LoraLoad.OK, True), (LoraLoad.NO_EFFECT, False)], ids=["trained", "B is zero"]
)
async def test_the_base_is_asked_the_same_and_equal_answers_are_seen(outcome, differs):
    pod = spec(0, knobs=Knobs(lora_load=outcome))
    async with Fleet([pod]), watching() as watch:
        watch.follow(ROLLOUT, endpoints(pod), PORT, ["v2"])
        await eventually(lambda: watch.serving(ROLLOUT, "v2").lacking == ("pod-0",))
        watch.load(ROLLOUT, "v2", "/adapters/v2")
        await eventually(lambda: watch.serving(ROLLOUT, "v2").states[0].differs is not None)
        assert watch.serving(ROLLOUT, "v2").states[0].differs is differs


async def test_an_adapter_is_in_flight_until_its_last_request_ended_a_few_seconds_ago():
    pod = spec(0, "v2", speed=0.05)
    url = f"http://{pod.address}:{PORT}/v1/completions"
    request = {"model": "v2", "prompt": "a", "max_tokens": 200, "ignore_eos": True}

    async def ask() -> int:
        async with aiohttp.ClientSession() as client, client.post(url, json=request) as answer:
            await answer.read()
            return answer.status

    async with Fleet([pod]), watching() as watch:
        running = asyncio.create_task(ask())
        watch.follow(ROLLOUT, endpoints(pod), PORT, [], ["v2"])
        await eventually(lambda: watch.serving(ROLLOUT, "v2").states[0].listed is True)
        assert watch.serving(ROLLOUT, "v2").states[0].in_flight
        await eventually(lambda: not watch.serving(ROLLOUT, "v2").states[0].in_flight, timeout=30)
        assert running.done()
        assert running.result() == 200


# --- calls whose answer is lost --------------------------------------------------------------------


class Quick(SystemClock):
    """Thirty seconds pass in one: the pause between two attempts is over soon."""

    def monotonic(self) -> Monotonic:
        return Monotonic(super().monotonic() * 30)


class Forgetful:
    """A pod that hangs up on every load, and whose list of models can be out of order meanwhile."""

    def __init__(self) -> None:
        self.models = ["base"]
        self.loads = 0
        self.lists = 0
        self.readable = True

    async def list(self, request: web.Request) -> web.Response:
        self.lists += 1
        data = [{"id": name, "parent": None if name == "base" else "base"} for name in self.models]
        return web.json_response({"data": data}, status=200 if self.readable else 503)

    async def load(self, request: web.Request) -> web.Response:
        self.loads += 1
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        app = web.Application()
        app.router.add_get("/v1/models", self.list)
        app.router.add_post("/v1/load_lora_adapter", self.load)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield runner.addresses[0][1]
        finally:
            await runner.cleanup()


@pytest.mark.parametrize("took_effect", [True, False])
async def test_a_load_without_an_answer_is_repeated_only_once_the_list_says_that_it_is_missing(took_effect):
    pod = Forgetful()
    watch = AdapterWatch(Quick(), AdapterSettings())
    task = asyncio.create_task(watch.run())
    async with pod.serving() as port:
        watch.follow(ROLLOUT, [Pod(name="p", ip="127.0.0.1", ready=True)], port, ["v2"])
        await eventually(lambda: watch.serving(ROLLOUT, "v2").lacking == ("p",))
        pod.readable = False

        def asked_while_unreadable() -> bool:
            """Every plan asks again; six lists are more than half a minute of the clock."""
            watch.load(ROLLOUT, "v2", "/adapters/v2")
            return pod.loads > 1 or pod.lists > 6

        await eventually(asked_while_unreadable, timeout=40)
        assert pod.loads == 1
        assert "/v1/load_lora_adapter gives no answer" in watch.serving(ROLLOUT, "v2").states[0].problem

        pod.models += ["v2"] if took_effect else []
        pod.readable, seen = True, pod.lists

        def asked_since() -> bool:
            watch.load(ROLLOUT, "v2", "/adapters/v2")
            return pod.loads > 1 or pod.lists > seen + 4

        await eventually(asked_since, timeout=40)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert pod.loads == (1 if took_effect else 2)
