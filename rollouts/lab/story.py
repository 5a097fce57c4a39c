"""The scripted stories of the base-model scenario: thresholds (``demo base-model``), comparison (``demo analysis``).

A third ending of the comparison: the canary's engines stop in mid-canary, as with SIGSTOP, while the pods stay Ready
and their pages go on answering (``demo analysis --hang``).
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from rich.console import Console

from rollouts.engine.rollout_status import Phase, RolloutStatus
from rollouts.lab.checkout import EXAMPLES
from rollouts.lab.environment import Lab, read_objects
from rollouts.lab.telling import (
    NAMESPACE,
    StoryFailed,
    Teller,
    follow,
    kubectl,
    over,
    own_command,
    set_knobs,
    until,
)
from rollouts.lab.traffic import Result, Traffic, TrafficSpec
from rollouts.objects import kinds

__all__ = [
    "NAME",
    "Clients",
    "answered_by_v2",
    "is_canary",
    "open_base_model",
    "tell_analysis",
    "tell_base_model",
    "tell_hang",
]

NAME = "mymodel"
_CANARY_POD = "deepseek-r1"
_BEFORE_HANG = 30
"""Good answers of the canary before its engines stop."""


class Clients(Enum):
    """What clients do who get no answer."""

    LEAVE = "leave"
    """They give up after eight seconds; vLLM counts them as 2xx."""
    STAY = "stay"
    """They wait for ever; nothing of them is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plot:
    """What differs between two stories of one scenario. ``bad`` are the knobs of a bad canary's pods."""

    title: str
    rollout: str
    bad: Mapping[str, str]
    rate: float
    longest: float
    patience: float = 30.0
    """Seconds after which a client leaves."""
    tokens: int = 16
    """Of an answer; a hundred take two seconds."""
    hang: bool = False
    """The canary's engines stop in mid-canary."""


_BASE_MODEL = _Plot(
    title="base model",
    rollout="rollout-demo.yaml",
    bad={"errors": "30%", "ttft": "+60%"},
    rate=100.0,  # with the 30 s of the first step some 35 requests at 1 %: their share is then within a factor of two
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


_HANG = _Plot(
    title="an engine that stops",
    rollout="rollout-hang-demo.yaml",
    bad={"hang": "engine"},
    rate=30.0,
    longest=200.0,
    tokens=96,
    hang=True,
)


async def tell_hang(lab: Lab, console: Console, *, clients: Clients) -> None:
    """The engines of the canary's pods stop while it carries 10 %; nothing answers 5xx, and it is found all the same.

    Raises StoryFailed when the end is not the promised one.
    """
    plot = replace(_HANG, patience=8.0)
    if clients is Clients.STAY:
        # With frozen gauges it is found only if something was in flight when the engines stopped.
        plot = replace(_HANG, patience=3600.0, bad={"hang": "requests"})
    await _tell(lab, Teller(console, time.monotonic()), plot, bad=True)


async def _tell(lab: Lab, teller: Teller, plot: _Plot, *, bad: bool) -> None:
    teller.heading(f"{plot.title}, {'bad' if bad else 'good'} canary")
    plot = replace(plot, rate=lab.gateway_like.pace(plot.rate))
    url = await _set_the_stage(lab, teller, plot, bad=bad)
    async with _traffic(url, plot) as traffic:
        seen = answered_by_v2(traffic)
        await lab.apply([_rollout(plot, "mymodel-pool-v1")])
        await follow(
            lab, teller, NAME, seen=seen, until=lambda s: s.phase is Phase.HEALTHY, longest=plot.longest
        )
        teller.line("$ git diff")
        teller.line("-     pool: {name: mymodel-pool-v1}", "red")
        teller.line("+     pool: {name: mymodel-pool-v2}", "green")
        await lab.apply([_rollout(plot, "mymodel-pool-v2")])
        if plot.hang:
            await follow(lab, teller, NAME, seen=seen, until=_carries, longest=plot.longest)
            await _stop_engines(lab, teller, plot, traffic)
        status = await follow(lab, teller, NAME, seen=seen, until=over, longest=plot.longest)
        await _words(lab, teller)
        if plot.hang:
            await own_command(lab, teller, f"explain {NAME}")
        await _close(lab, teller, traffic, status, bad=bad)


def _carries(status: RolloutStatus) -> bool:
    return status.attempt > 0 and bool(status.weight.applied) and status.phase is Phase.PROGRESSING


async def _stop_engines(lab: Lab, teller: Teller, plot: _Plot, traffic: Traffic) -> None:
    """Once the canary has answered some requests well: a gate that saw nothing would hold for that alone."""
    since = time.monotonic()
    await until(
        lambda: traffic.window(since).share(is_canary)[0] >= _BEFORE_HANG,
        longest=60.0,
        every=0.1,
        what="the canary answers nobody",
    )
    for pod in _canary_pods(lab):
        await set_knobs(lab, pod, plot.bad)
        teller.line(f"$ kill -STOP <engine of {pod}>", "red")
    leave = f"leave after {plot.patience:g} s" if plot.patience < plot.longest else "wait"
    teller.line(
        f"             /health answers 200, /metrics answers, no request ends; clients {leave}", "red"
    )


def _canary_pods(lab: Lab) -> list[str]:
    return [pod.name for pod in lab.pods if pod.labels["release"] == _CANARY_POD]


async def open_base_model(lab: Lab) -> str:
    """Make the pools, the gateway and the route of the example, and start what works on them; the gateway's URL."""
    folder = EXAMPLES / "base-model"
    await lab.apply(read_objects(folder / "pools.yaml", folder / "gateway.yaml", folder / "route.yaml"))
    url = await lab.gateway.wait_for_gateway()
    await asyncio.gather(lab.start_pickers(), lab.start_controller("--no-leader-elect"))
    return url


async def _set_the_stage(lab: Lab, teller: Teller, plot: _Plot, *, bad: bool) -> str:
    url = await open_base_model(lab)
    behind = "behind endpoint pickers" if lab.with_pickers else "balanced by the gateway"
    teller.stage(lab, url, f"{len(lab.pods)} simulated vLLM pods {behind}, {plot.rate:g} requests/s")
    if bad and not plot.hang:
        for pod in _canary_pods(lab):
            await set_knobs(lab, pod, plot.bad)
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
        TrafficSpec(
            url=url,
            model=NAME,
            rate=plot.rate,
            seconds=plot.longest + 60,
            streamed=0.3,
            max_tokens=plot.tokens,
            timeout=plot.patience,
        )
    )
    async with traffic:
        yield traffic


def is_canary(result: Result) -> bool:
    """Whether a pod of v2 answered."""
    return result.pod.startswith(_CANARY_POD)


def answered_by_v2(traffic: Traffic) -> Callable[[float], str]:
    """What clients saw since a moment, in words."""

    def seen(since: float) -> str:
        canary, total = traffic.window(since).share(is_canary)
        return f"{100 * canary / total:.1f}% of {total} answered by v2" if total else "no traffic"

    return seen


async def _close(lab: Lab, teller: Teller, traffic: Traffic, status: RolloutStatus, *, bad: bool) -> None:
    """What people see at the end, and whether it is the promised end."""
    settled = time.monotonic()
    await asyncio.sleep(1.5)
    canary, total = traffic.window(settled + 0.5).share(is_canary)
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
    if not total:
        raise StoryFailed("clients see no answers at all")
    if (canary != 0) if bad else (canary != total):
        raise StoryFailed(f"clients still saw {canary} of {total} answered by v2")
    teller.line("the bad canary was aborted" if bad else "the canary was promoted", "bold green")
