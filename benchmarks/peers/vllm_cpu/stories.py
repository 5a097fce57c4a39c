"""Rollouts over real vLLM servers, through the lab's Envoy and our endpoint pickers.

Each story raises StoryFailed where it does not end as promised.
"""

from __future__ import annotations

import copy
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import yaml
from rich.console import Console

from benchmarks.peers.vllm_cpu.server import RealFleet
from rollouts.engine.rollout_status import Phase, RolloutStatus
from rollouts.lab.checkout import EXAMPLES
from rollouts.lab.environment import Lab, read_objects
from rollouts.lab.story import NAME, answered_by_v2, is_canary, open_base_model
from rollouts.lab.telling import StoryFailed, Teller, follow, over, own_command, until
from rollouts.lab.traffic import Traffic, TrafficSpec

__all__ = [
    "CANARY",
    "STABLE",
    "tell_abort",
    "tell_crash",
    "tell_good",
    "tell_hang",
    "tell_load_fails",
    "tell_refusals",
]

STABLE, CANARY = "qwen-0", "deepseek-r1-0"
_RATE = 16.0
_LONGEST = 420.0
_BEFORE_HARM = 20
_CRASH_SEEN = 10.0
"""Seconds: two looks at a pod, and the writing of the weights, on a machine that has other work."""
_ADAPTERS = ("travel-helper-v1", "travel-helper-v2")
_LORA, _POOL = "travelhelper", "mymodel-pool-v1"


def _fleet(lab: Lab) -> RealFleet:
    assert isinstance(lab.fleet, RealFleet)  # the caller put it there
    return lab.fleet


# --- a base model --------------------------------------------------------------------------------------------


async def tell_good(lab: Lab, console: Console) -> None:
    """Two servers of the same: promoted."""
    status, _ = await _base_model(lab, console)
    _check(status, Phase.HEALTHY, "")


async def tell_hang(lab: Lab, console: Console) -> None:
    """The canary's engine core is stopped in mid-canary, behind an API server that goes on: aborted."""

    async def stop(teller: Teller) -> None:
        _fleet(lab).pods[CANARY].signal_engine(signal.SIGSTOP)
        teller.line(f"$ kill -STOP <engine core of {CANARY}>", "red")
        async with aiohttp.ClientSession() as http:
            for path in ("/health", "/metrics"):
                async with http.get(_fleet(lab).pods[CANARY].url + path) as answer:
                    teller.line(f"             {path} answers {answer.status}")
                    if answer.status != 200:
                        raise StoryFailed(f"{path} of a server with a stopped engine answers {answer.status}")

    try:
        status, _ = await _base_model(lab, console, harm=stop)
    finally:
        _fleet(lab).pods[CANARY].signal_engine(signal.SIGCONT)
    _check(status, Phase.ABORTED, "lost-rate")


async def tell_refusals(lab: Lab, console: Console) -> None:
    """The canary takes one request at a time and lets one wait: the others are refused as 503, and it is aborted."""
    status, _ = await _base_model(lab, console)
    _check(status, Phase.ABORTED, "error-rate")


async def tell_crash(lab: Lab, console: Console) -> None:
    """The canary's engine core is killed, and its API server ends with it: it gets nothing until it is back."""

    async def kill(teller: Teller) -> None:
        _fleet(lab).pods[CANARY].signal_engine(signal.SIGKILL)
        teller.line(f"$ kill -KILL <engine core of {CANARY}>", "red")

    # Those that were in flight are answered with 500: where they suffice for a verdict it is aborted at once.
    status, took = await _base_model(lab, console, harm=kill, ending=lambda status: not status.weight.applied)
    refused = "its weight is 0 until" in status.message
    if took > _CRASH_SEEN or not (refused or status.phase is Phase.ABORTED):
        raise StoryFailed(f"{status.phase.value} ({status.message}) {took:.1f} s after its engine was killed")


async def _base_model(
    lab: Lab,
    console: Console,
    *,
    harm: Callable[[Teller], Awaitable[None]] | None = None,
    ending: Callable[[RolloutStatus], bool] = over,
) -> tuple[RolloutStatus, float]:
    """How it ended, and how many seconds after the harm, or else after the start."""
    teller = Teller(console, time.monotonic())
    url = await open_base_model(lab)
    async with _traffic(url, NAME) as traffic:
        seen = answered_by_v2(traffic)
        await lab.apply([_rollout(_POOL)])
        await follow(lab, teller, NAME, seen=seen, until=lambda s: s.phase is Phase.HEALTHY, longest=_LONGEST)
        await lab.apply([_rollout("mymodel-pool-v2")])
        if harm is not None:
            await _answers_of_the_canary(lab, teller, traffic)
            await harm(teller)
        harmed = time.monotonic()
        status = await follow(lab, teller, NAME, seen=seen, until=ending, longest=_LONGEST)
        took = time.monotonic() - harmed
        teller.line(f"             {status.phase.value} {took:.1f} s later")
        codes = Counter(result.status for result in traffic.results)
        teller.line(f"             clients saw {dict(sorted(codes.items()))} (0: gave up)")
    return status, took


async def _answers_of_the_canary(lab: Lab, teller: Teller, traffic: Traffic) -> None:
    """Until the canary has answered some requests well."""
    await follow(lab, teller, NAME, seen=answered_by_v2(traffic), until=_carries, longest=_LONGEST)
    since = time.monotonic()
    await until(
        lambda: traffic.window(since).share(is_canary)[0] >= _BEFORE_HARM,
        longest=120.0,
        every=0.2,
        what="the canary answers nobody",
    )


def _rollout(pool: str) -> dict[str, Any]:
    """The demo's comparisons of errors and of what was lost: latency cannot be judged with one stable pod, and says so.

    The deadline is longer: the machine that runs the models runs all the rest, too.
    """
    rollout = copy.deepcopy(read_objects(EXAMPLES / "base-model" / "rollout-hang-demo.yaml")[0])
    rollout["spec"]["target"]["pool"]["name"] = pool
    canary = rollout["spec"]["strategy"]["canary"]
    canary["progressDeadline"] = "6m"
    for step in canary["steps"]:
        if "analysis" in step:
            metrics = step["analysis"]["metrics"]
            step["analysis"] = {
                "metrics": [one for one in metrics if one["name"] in ("error-rate", "lost-rate")]
            }
    return rollout


def _carries(status: RolloutStatus) -> bool:
    return status.attempt > 0 and bool(status.weight.applied) and status.phase is Phase.PROGRESSING


def _check(status: RolloutStatus, end: Phase, why: str) -> None:
    if status.phase is not end or why not in status.message:
        raise StoryFailed(
            f"it ended {status.phase.value} ({status.message}), not {end.value} for {why or 'any reason'}"
        )


@asynccontextmanager
async def _traffic(url: str, model: str) -> AsyncIterator[Traffic]:
    spec = TrafficSpec(
        url=url, model=model, rate=_RATE, seconds=2 * _LONGEST, streamed=0.3, max_tokens=8, timeout=20.0,
        prompt_tokens=15.0,
    )  # fmt: skip
    async with Traffic(spec) as traffic:
        yield traffic


# --- adapters ------------------------------------------------------------------------------------------------


async def tell_abort(lab: Lab, console: Console) -> None:
    """The second adapter is loaded at run time, gets a tenth of the requests, is given up, reverted and taken off."""
    teller = Teller(console, time.monotonic())
    url = await _stage(lab)
    async with _traffic(url, _LORA) as traffic:
        seen = _by_model(traffic)
        await lab.apply([_adapter_rollout(lab, "v2")])
        await follow(lab, teller, _LORA, seen=seen, until=_carries, longest=_LONGEST)
        since = time.monotonic()
        await until(
            lambda: len(traffic.window(since)) >= 200, longest=120.0, every=0.2, what="too few answers"
        )
        models = traffic.window(since).by_model()
        teller.line(f"             at 10 % clients saw {dict(models)}", "cyan")
        await own_command(lab, teller, f"abort {_LORA}")
        status = await follow(lab, teller, _LORA, seen=seen, until=over, longest=_LONGEST)
        since = time.monotonic() + 2.0
        await until(
            lambda: len(traffic.window(since)) >= 100, longest=60.0, every=0.2, what="too few answers"
        )
        after = traffic.window(since).by_model()
        teller.line(f"             two seconds after the abort clients saw {dict(after)}", "cyan")
        _check(status, Phase.ABORTED, "")
        # As long as it is asked for it stays loaded. What was found serving was loaded by somebody else: no source.
        reverted = _adapter_rollout(lab, "v1")
        reverted["spec"]["target"]["adapter"] = {"name": _ADAPTERS[0]}
        await lab.apply([reverted])
        await _until_unloaded(lab, teller)
    loads = _calls(lab, "load"), _calls(lab, "unload")
    teller.line(f"             calls to load and unload: {loads}")
    share = models[_ADAPTERS[1]] / max(models.total() - models[""], 1)  # "": no answer in time
    if after[_ADAPTERS[1]] or not 0.08 < share < 0.12 or loads != (2, 1):
        raise StoryFailed(
            f"share {share:.2f} of 0.10, then {dict(after)}; loads and unloads {loads}, not (2, 1)"
        )


async def tell_load_fails(lab: Lab, console: Console) -> None:
    """An adapter that the server cannot take: its words are in the status, nobody gets it, and it is asked seldom."""
    teller = Teller(console, time.monotonic())
    url = await _stage(lab)
    words = "LoRA rank 16 is greater than max_lora_rank 8."
    async with _traffic(url, _LORA) as traffic:
        await lab.apply([_adapter_rollout(lab, "large")])
        seen, said = _by_model(traffic), _says(words)
        await follow(lab, teller, _LORA, seen=seen, until=said, longest=_LONGEST)
        since = time.monotonic()
        await until(lambda: _calls(lab, "load") >= 4, longest=120.0, every=0.2, what="it is not tried again")
        between = (time.monotonic() - since) / 2
        status = await follow(lab, teller, _LORA, seen=seen, until=said, longest=_LONGEST)
        models = traffic.window(0.0).by_model()
    teller.line(f"             tried again after {between:.0f} s each; clients saw {dict(models)}")
    if status.phase is not Phase.WAITING or models[_ADAPTERS[1]] or between < 5.0:
        raise StoryFailed(
            f"{status.phase.value}; clients saw {dict(models)}; tried again after {between:.1f} s"
        )


def _says(words: str) -> Callable[[RolloutStatus], bool]:
    return lambda status: words in status.message


async def _stage(lab: Lab) -> str:
    """The first adapter is there, and all requests are its."""
    folder = _fleet(lab).folder
    async with aiohttp.ClientSession() as http:
        for name in _ADAPTERS:
            body = {"lora_name": name}
            await http.post(f"{_fleet(lab).pods[STABLE].url}/v1/unload_lora_adapter", json=body)
        _fleet(lab).pods[STABLE].log.write_text("")  # counts of calls begin here
        body = {"lora_name": _ADAPTERS[0], "lora_path": str(folder / "adapters" / "v1")}
        async with http.post(f"{_fleet(lab).pods[STABLE].url}/v1/load_lora_adapter", json=body) as answer:
            if answer.status != 200:
                raise StoryFailed(f"{_ADAPTERS[0]} is not loaded: {await answer.text()}")
    base = EXAMPLES / "base-model"
    model = read_objects(EXAMPLES / "lora" / "model.yaml")[0]
    model["spec"]["targetModels"] = [{"name": _ADAPTERS[0], "weight": 100}]
    await lab.apply(read_objects(base / "pools.yaml", base / "gateway.yaml", base / "route.yaml"))
    await lab.apply([model])
    url = await lab.gateway.wait_for_gateway()
    await lab.start_pickers()
    settings = lab.directory / "settings.yaml"
    settings.write_text(yaml.safe_dump({"adapters": {"prefixes": [str(folder / "adapters")]}}))
    await lab.start_controller("--no-leader-elect", "--config", str(settings))
    return url


def _adapter_rollout(lab: Lab, folder: str) -> dict[str, Any]:
    rollout = copy.deepcopy(read_objects(EXAMPLES / "lora" / "rollout-demo.yaml")[0])
    source = {"path": str(_fleet(lab).folder / "adapters" / folder)}
    rollout["spec"]["target"]["adapter"] = {"name": _ADAPTERS[1], "source": source}
    rollout["spec"]["rollbackWindow"] = {"duration": "10s"}  # what lost is taken off after it
    rollout["spec"]["strategy"]["canary"] = {
        "progressDeadline": "4m",
        "steps": [{"setWeight": 10}, {"pause": {}}],
    }
    return rollout


async def _until_unloaded(lab: Lab, teller: Teller) -> None:
    url = f"{_fleet(lab).pods[STABLE].url}/v1/models"
    deadline = time.monotonic() + 90.0
    async with aiohttp.ClientSession() as http:
        while time.monotonic() < deadline:
            async with http.get(url) as answer:
                names = [card["id"] for card in (await answer.json())["data"]]
            if _ADAPTERS[1] not in names:
                teller.line(f"             /v1/models lists {', '.join(names)}")
                return
    raise StoryFailed(f"{_ADAPTERS[1]} is still loaded")


def _calls(lab: Lab, what: str) -> int:
    """How often an adapter was loaded or unloaded, by the server's own log."""
    return _fleet(lab).pods[STABLE].log.read_text(errors="replace").count(f'"POST /v1/{what}_lora_adapter ')


def _by_model(traffic: Traffic) -> Callable[[float], str]:
    return lambda since: f"{dict(traffic.window(since).by_model())}"
