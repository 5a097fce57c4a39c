"""The scripted stories of the base-model scenario: thresholds (``demo base-model``), comparison (``demo analysis``)."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from rollouts.engine.types import Phase, RolloutStatus
from rollouts.lab.environment import EXAMPLES, Lab, read_objects
from rollouts.lab.telling import NAMESPACE, StoryFailed, Teller, follow, kubectl, set_knobs
from rollouts.lab.traffic import Result, Traffic, TrafficSpec
from rollouts.objects import kinds

__all__ = ["tell_analysis", "tell_base_model"]

NAME = "mymodel"
_CANARY_POD = "deepseek-r1"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plot:
    """What differs between two stories of one scenario. ``bad`` are the knobs of a bad canary's pods."""

    title: str
    rollout: str
    bad: Mapping[str, str]
    rate: float
    longest: float


_BASE_MODEL = _Plot(
    title="base model",
    rollout="rollout-demo.yaml",
    bad={"errors": "30%", "ttft": "+60%"},
    rate=50.0,
    longest=150.0,
)
_ANALYSIS = _Plot(
    title="canary against stable",
    rollout="rollout-analysis-demo.yaml",
    bad={"ttft": "+50%"},
    rate=80.0,
    longest=240.0,
)


async def tell_base_model(lab: Lab, console: Console, *, bad: bool) -> None:
    """Roll mymodel-pool-v2 out over real traffic; with ``bad`` its pods fail, and it is aborted.

    Raises StoryFailed when the end is not the promised one.
    """
    await _tell(lab, Teller(console, time.monotonic()), _BASE_MODEL, bad=bad)


async def tell_analysis(lab: Lab, console: Console, *, bad: bool) -> None:
    """The same under compare gates: no limit is set anywhere, and a canary 50 % slower is found.

    Raises StoryFailed when the end is not the promised one.
    """
    await _tell(lab, Teller(console, time.monotonic()), _ANALYSIS, bad=bad)


async def _tell(lab: Lab, teller: Teller, plot: _Plot, *, bad: bool) -> None:
    teller.heading(f"{plot.title}, {'bad' if bad else 'good'} canary")
    url = await _set_the_stage(lab, teller, plot, bad=bad)
    async with _traffic(url, plot) as traffic:

        def seen(since: float) -> str:
            canary, total = traffic.window(since).share(_is_canary)
            return f"{100 * canary / total:.1f}% of {total} answered by v2" if total else "no traffic"

        await lab.apply([_rollout(plot, "mymodel-pool-v1")])
        await follow(
            lab, teller, NAME, seen=seen, until=lambda s: s.phase is Phase.HEALTHY, longest=plot.longest
        )
        teller.line("$ git diff")
        teller.line("-     pool: {name: mymodel-pool-v1}", "red")
        teller.line("+     pool: {name: mymodel-pool-v2}", "green")
        await lab.apply([_rollout(plot, "mymodel-pool-v2")])
        status = await follow(lab, teller, NAME, seen=seen, until=_over, longest=plot.longest)
        await _words(lab, teller)
        await _close(lab, teller, traffic, status, bad=bad)


def _over(status: RolloutStatus) -> bool:
    return status.attempt > 0 and status.phase in (Phase.HEALTHY, Phase.ABORTED)


async def _set_the_stage(lab: Lab, teller: Teller, plot: _Plot, *, bad: bool) -> str:
    folder = EXAMPLES / "base-model"
    await lab.apply(read_objects(folder / "pools.yaml", folder / "gateway.yaml", folder / "route.yaml"))
    url = await lab.gateway.wait_for_gateway()
    await asyncio.gather(lab.start_pickers(), lab.start_controller("--no-leader-elect"))
    behind = "behind endpoint pickers" if lab.with_pickers else "balanced by the gateway"
    teller.stage(lab, url, f"{len(lab.pods)} simulated vLLM pods {behind}, {plot.rate:g} requests/s")
    for pod in lab.pods:
        if pod.labels["release"] == _CANARY_POD and bad:
            await set_knobs(lab, pod.name, plot.bad)
    if bad:
        teller.line(f"knobs        v2 pods: {', '.join(f'{k} {v}' for k, v in plot.bad.items())}", "red")
    return url


async def _words(lab: Lab, teller: Teller) -> None:
    """What the comparisons of the attempt say, as a person reads them."""
    for run in (await lab.client.list_page(kinds.ANALYSIS_RUN, NAMESPACE)).items:
        for item in (run.get("status") or {}).get("comparisons") or []:
            teller.line(f"{item['verdict']:<13}{item['message']}")


def _rollout(plot: _Plot, target: str) -> dict[str, Any]:
    rollout = copy.deepcopy(read_objects(EXAMPLES / "base-model" / plot.rollout)[0])
    rollout["spec"]["target"]["pool"]["name"] = target
    return rollout


@contextlib.asynccontextmanager
async def _traffic(url: str, plot: _Plot) -> AsyncIterator[Traffic]:
    traffic = Traffic(
        TrafficSpec(url=url, model=NAME, rate=plot.rate, seconds=plot.longest + 60, streamed=0.3)
    )
    async with traffic:
        yield traffic


def _is_canary(result: Result) -> bool:
    return result.pod.startswith(_CANARY_POD)


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
