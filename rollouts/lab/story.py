"""The scripted story of the base-model scenario: what ``rollouts lab demo base-model`` shows."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import shutil
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from rollouts.api.status import read_status
from rollouts.controller import kinds
from rollouts.engine.types import Phase, RolloutStatus, format_weight
from rollouts.kube.errors import KubeError
from rollouts.lab.environment import EXAMPLES, Lab, read_objects
from rollouts.lab.traffic import Result, Traffic, TrafficSpec

__all__ = ["StoryFailed", "tell_base_model"]

NAMESPACE = "default"
NAME = "mymodel"
_RATE = 50.0
_LONGEST = 150.0
_POLL = 0.15
_BAD = {"errors": "30%", "ttft": "+60%"}

_STYLES = {
    Phase.HEALTHY: "bold green",
    Phase.ABORTED: "bold red",
    Phase.INVALID: "bold red",
    Phase.PAUSED: "yellow",
    Phase.WAITING: "yellow",
}


class StoryFailed(Exception):
    """The story did not end as it should; the text says what was seen."""


@dataclass(slots=True)
class _Teller:
    console: Console
    began: float

    def line(self, text: str, style: str = "") -> None:
        stamp = Text(f"{time.monotonic() - self.began:6.1f}s  ", style="dim")
        self.console.print(stamp + Text(text, style=style), soft_wrap=True)

    def heading(self, text: str) -> None:
        self.console.rule(text, style="cyan", align="left")


async def tell_base_model(lab: Lab, console: Console, *, bad: bool) -> None:
    """Roll mymodel-pool-v2 out over real traffic; with ``bad`` its pods fail, and it is aborted.

    Raises StoryFailed when the end is not the promised one.
    """
    teller = _Teller(console, time.monotonic())
    teller.heading("base model, bad canary" if bad else "base model, good canary")
    url = await _set_the_stage(lab, teller, bad=bad)
    async with _traffic(url) as traffic:
        rollout = _rollout("mymodel-pool-v1")
        await lab.apply([rollout])
        await _follow(lab, teller, traffic, until=lambda s: s.phase is Phase.HEALTHY)
        teller.line("$ git diff")
        teller.line("-     pool: {name: mymodel-pool-v1}", "red")
        teller.line("+     pool: {name: mymodel-pool-v2}", "green")
        await lab.apply([_rollout("mymodel-pool-v2")])
        status = await _follow(
            lab, teller, traffic, until=lambda s: s.attempt > 0 and s.phase in (Phase.HEALTHY, Phase.ABORTED)
        )
        await _close(lab, teller, traffic, status, bad=bad)


async def _set_the_stage(lab: Lab, teller: _Teller, *, bad: bool) -> str:
    folder = EXAMPLES / "base-model"
    await lab.apply(read_objects(folder / "pools.yaml", folder / "gateway.yaml", folder / "route.yaml"))
    await lab.add_picker_services()
    url = await lab.gateway.wait_for_gateway()
    await lab.start_controller("--no-leader-elect")
    teller.line(f"API server   {lab.control_plane.description}")
    teller.line(f"kubeconfig   {lab.kubeconfig}")
    teller.line(f"gateway      {url} (Envoy), {len(lab.pods)} simulated vLLM pods, {_RATE:g} requests/s")
    teller.line(f"logs         {lab.directory}")
    for pod in lab.pods:
        if pod.labels["release"] == "deepseek-r1" and bad:
            await _set_knobs(lab, pod.name)
    if bad:
        teller.line(f"knobs        v2 pods: errors {_BAD['errors']}, TTFT {_BAD['ttft']}", "red")
    return url


async def _set_knobs(lab: Lab, pod: str) -> None:
    import aiohttp

    url = f"{lab.fleet.pods[pod].url}/lab/knobs"
    async with aiohttp.ClientSession() as session, session.post(url, json=_BAD) as answer:
        if answer.status != 200:
            raise StoryFailed(f"pod {pod} did not take its knobs: HTTP {answer.status}")


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


def _seen(traffic: Traffic, since: float) -> str:
    canary, total = traffic.window(since).share(_is_canary)
    return f"{100 * canary / total:.1f}% of {total}" if total else "no traffic"


async def _follow(
    lab: Lab, teller: _Teller, traffic: Traffic, *, until: Callable[[RolloutStatus], bool]
) -> RolloutStatus:
    """Tell every change of the status until the end; also what clients saw at each weight."""
    told, weight, since = "", None, time.monotonic()
    deadline = time.monotonic() + _LONGEST
    while time.monotonic() < deadline:
        status = await _status(lab)
        if status.weight.applied != weight:
            if weight is not None:
                teller.line(f"             clients saw {_seen(traffic, since)} answered by v2", "cyan")
            weight, since = status.weight.applied, time.monotonic()
        shown = format_weight(status.weight.applied)
        text = f"{status.phase.value:<16} {_step(status):>4} {shown:>5}  {status.message}"
        if text != told and status.phase is not Phase.NEW:
            teller.line(text, _STYLES.get(status.phase, ""))
            told = text
        if until(status):
            return status
        await asyncio.sleep(_POLL)
    raise StoryFailed(f"not over after {_LONGEST:g} s: {told}; logs in {lab.directory}")


async def _status(lab: Lab) -> RolloutStatus:
    try:
        found = await lab.client.get(kinds.ROLLOUT, NAMESPACE, NAME)
    except KubeError as error:
        raise StoryFailed(f"the Rollout cannot be read: {error}; logs in {lab.directory}") from None
    return read_status(found.get("status"))[0]


def _step(status: RolloutStatus) -> str:
    if not status.step_count:
        return "-"
    return f"{min(status.current_step + 1, status.step_count)}/{status.step_count}"


async def _close(lab: Lab, teller: _Teller, traffic: Traffic, status: RolloutStatus, *, bad: bool) -> None:
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
        await _kubectl(lab, teller, command)
    wanted = Phase.ABORTED if bad else Phase.HEALTHY
    if status.phase is not wanted:
        raise StoryFailed(f"the rollout ended {status.phase.value}, not {wanted.value}: {status.message}")
    if (canary != 0) if bad else (canary != total):
        raise StoryFailed(f"clients still saw {canary} of {total} answered by v2")
    teller.line("the bad canary was aborted" if bad else "the canary was promoted", "bold green")


async def _kubectl(lab: Lab, teller: _Teller, command: str) -> None:
    """Run kubectl where it is installed, else say what to run."""
    teller.line(f"$ kubectl {command}")
    binary = shutil.which("kubectl")
    if binary is None:
        teller.line("(kubectl is not installed here)", "dim")
        return
    process = await asyncio.create_subprocess_exec(
        binary,
        "--kubeconfig",
        str(lab.kubeconfig),
        *command.split(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    teller.console.print(output.decode().rstrip(), highlight=False, markup=False, soft_wrap=True)


def story_directory(base: Path | None = None) -> Path:
    """A fresh folder for one story's logs."""
    root = base or Path.cwd() / "build" / "lab"
    return root / time.strftime("demo-%Y%m%d-%H%M%S")
