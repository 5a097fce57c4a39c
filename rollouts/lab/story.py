"""The scripted story of the base-model scenario: what ``rollouts lab demo base-model`` shows."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import time
from collections.abc import AsyncIterator
from typing import Any

from rich.console import Console

from rollouts.engine.types import Phase, RolloutStatus
from rollouts.lab.environment import EXAMPLES, Lab, read_objects
from rollouts.lab.telling import StoryFailed, Teller, follow, kubectl, set_knobs
from rollouts.lab.traffic import Result, Traffic, TrafficSpec

__all__ = ["tell_base_model"]

NAME = "mymodel"
_RATE = 50.0
_LONGEST = 150.0
_BAD = {"errors": "30%", "ttft": "+60%"}


async def tell_base_model(lab: Lab, console: Console, *, bad: bool) -> None:
    """Roll mymodel-pool-v2 out over real traffic; with ``bad`` its pods fail, and it is aborted.

    Raises StoryFailed when the end is not the promised one.
    """
    teller = Teller(console, time.monotonic())
    teller.heading("base model, bad canary" if bad else "base model, good canary")
    url = await _set_the_stage(lab, teller, bad=bad)
    async with _traffic(url) as traffic:

        def seen(since: float) -> str:
            canary, total = traffic.window(since).share(_is_canary)
            return f"{100 * canary / total:.1f}% of {total} answered by v2" if total else "no traffic"

        await lab.apply([_rollout("mymodel-pool-v1")])
        await follow(lab, teller, NAME, seen=seen, until=lambda s: s.phase is Phase.HEALTHY, longest=_LONGEST)
        teller.line("$ git diff")
        teller.line("-     pool: {name: mymodel-pool-v1}", "red")
        teller.line("+     pool: {name: mymodel-pool-v2}", "green")
        await lab.apply([_rollout("mymodel-pool-v2")])
        status = await follow(lab, teller, NAME, seen=seen, until=_over, longest=_LONGEST)
        await _close(lab, teller, traffic, status, bad=bad)


def _over(status: RolloutStatus) -> bool:
    return status.attempt > 0 and status.phase in (Phase.HEALTHY, Phase.ABORTED)


async def _set_the_stage(lab: Lab, teller: Teller, *, bad: bool) -> str:
    folder = EXAMPLES / "base-model"
    await lab.apply(read_objects(folder / "pools.yaml", folder / "gateway.yaml", folder / "route.yaml"))
    await lab.start_pickers()
    url = await lab.gateway.wait_for_gateway()
    await lab.start_controller("--no-leader-elect")
    behind = "behind endpoint pickers" if lab.with_pickers else "balanced by the gateway"
    teller.stage(lab, url, f"{len(lab.pods)} simulated vLLM pods {behind}, {_RATE:g} requests/s")
    for pod in lab.pods:
        if pod.labels["release"] == "deepseek-r1" and bad:
            await set_knobs(lab, pod.name, _BAD)
    if bad:
        teller.line(f"knobs        v2 pods: errors {_BAD['errors']}, TTFT {_BAD['ttft']}", "red")
    return url


def _rollout(target: str) -> dict[str, Any]:
    rollout = copy.deepcopy(read_objects(EXAMPLES / "base-model" / "rollout-demo.yaml")[0])
    rollout["spec"]["target"]["pool"]["name"] = target
    return rollout


@contextlib.asynccontextmanager
async def _traffic(url: str) -> AsyncIterator[Traffic]:
    traffic = Traffic(TrafficSpec(url=url, model=NAME, rate=_RATE, seconds=_LONGEST + 60, streamed=0.3))
    async with traffic:
        yield traffic


def _is_canary(result: Result) -> bool:
    return result.pod.startswith("deepseek-r1")


async def _close(lab: Lab, teller: Teller, traffic: Traffic, status: RolloutStatus, *, bad: bool) -> None:
    """What people see at the end, and whether it is the promised end."""
    settled = time.monotonic()
    await asyncio.sleep(1.5)
    canary, total = traffic.window(settled + 0.5).share(_is_canary)
    teller.line(f"             clients now see {canary} of {total} answered by v2", "cyan")
    for command in (
        "get rollouts",
        "get analysisruns",
        "get events --sort-by=.lastTimestamp --field-selector involvedObject.kind=Rollout",
    ):
        await kubectl(lab, teller, command)
    wanted = Phase.ABORTED if bad else Phase.HEALTHY
    if status.phase is not wanted:
        raise StoryFailed(f"the rollout ended {status.phase.value}, not {wanted.value}: {status.message}")
    if (canary != 0) if bad else (canary != total):
        raise StoryFailed(f"clients still saw {canary} of {total} answered by v2")
    teller.line("the bad canary was aborted" if bad else "the canary was promoted", "bold green")
