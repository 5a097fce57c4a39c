"""Pods are asked over HTTP which adapters they serve; adapters are loaded, proven and taken off."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
import pytest

from rollouts.controller.adapters import AdapterSettings, AdapterWatch
from rollouts.lab.loopback import loopback
from rollouts.lab.vllm import Fleet, Knobs, LoraLoad, PodSpec
from rollouts.objects.pods import Pod
from rollouts.runtime.clock import SystemClock
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
async def watching(settings: AdapterSettings = AdapterSettings()) -> AsyncIterator[AdapterWatch]:  # noqa: B008
    watch = AdapterWatch(SystemClock(), settings)
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
        assert state.problem == "/v1/completions answers 500"


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
    ("outcome", "status"),
    [(LoraLoad.FAIL, 500), (LoraLoad.MISSING, 404)],
    ids=["rank too high", "no such path"],
)
async def test_a_load_that_fails_is_told_and_not_hammered(outcome, status):
    pod = spec(0, knobs=Knobs(lora_load=outcome))
    async with Fleet([pod]), watching() as watch:
        watch.follow(ROLLOUT, endpoints(pod), PORT, ["v2"])
        await eventually(lambda: watch.serving(ROLLOUT, "v2").lacking == ("pod-0",))
        watch.load(ROLLOUT, "v2", "/adapters/v2")
        await eventually(lambda: watch.serving(ROLLOUT, "v2").states[0].problem != "")

        assert watch.serving(ROLLOUT, "v2").states[0].problem == f"/v1/load_lora_adapter answers {status}"


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
    async with Fleet([pod]), watching(AdapterSettings(api_key_file=str(key))) as watch:
        watch.follow(ROLLOUT, endpoints(pod), PORT, ["v2"])
        await eventually(lambda: watch.serving(ROLLOUT, "v2").states[0].problem != "")
        assert watch.serving(ROLLOUT, "v2").states[0].problem == "/v1/models answers 401"
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
        assert watch.serving(ROLLOUT, "v2").states[0].problem == "/v1/load_lora_adapter answers 404"


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
