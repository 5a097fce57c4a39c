"""What every scripted story needs: a teller with a clock, a look at the Rollout, kubectl as people type it."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.text import Text

from rollouts.api.status import read_status
from rollouts.engine.rollout_status import Phase, RolloutStatus
from rollouts.kube.errors import KubeError
from rollouts.lab.environment import Lab
from rollouts.objects import kinds
from rollouts.units import format_weight

__all__ = [
    "NAMESPACE",
    "StoryFailed",
    "Teller",
    "answered",
    "follow",
    "kubectl",
    "over",
    "own_command",
    "set_knobs",
    "story_directory",
]

NAMESPACE = "default"
_POLL = 0.15

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
class Teller:
    """Lines with the seconds since the story began."""

    console: Console
    began: float

    def line(self, text: str, style: str = "") -> None:
        """One line."""
        stamp = Text(f"{time.monotonic() - self.began:6.1f}s  ", style="dim")
        self.console.print(stamp + Text(text, style=style), soft_wrap=True)

    def heading(self, text: str) -> None:
        """A rule with a title."""
        self.console.rule(text, style="cyan", align="left")

    def stage(self, lab: Lab, url: str, what: str) -> None:
        """Where everything is."""
        self.line(f"API server   {lab.control_plane.description}")
        self.line(f"kubeconfig   {lab.kubeconfig}")
        self.line(f"gateway      {url} (Envoy), {what}")
        self.line(f"logs         {lab.directory}")


async def until(look: Callable[[], bool], *, longest: float, every: float, what: str) -> None:
    """Come back when ``look`` is true. Raises StoryFailed with ``what`` after ``longest`` seconds."""
    deadline = time.monotonic() + longest
    while not look():
        if time.monotonic() > deadline:
            raise StoryFailed(what)
        await asyncio.sleep(every)


def over(status: RolloutStatus) -> bool:
    """Whether the attempt has ended."""
    return status.attempt > 0 and status.phase in (Phase.HEALTHY, Phase.ABORTED)


async def follow(
    lab: Lab,
    teller: Teller,
    name: str,
    *,
    seen: Callable[[float], str],
    until: Callable[[RolloutStatus], bool],
    longest: float,
) -> RolloutStatus:
    """Tell every change of the Rollout's status until the end.

    When its weight changes, also what ``seen`` says of the time since the last change (monotonic seconds).
    """
    told, weight, since = "", None, time.monotonic()
    deadline = time.monotonic() + longest
    while time.monotonic() < deadline:
        status = await _status(lab, name)
        if status.weight.applied != weight:
            if weight is not None:
                teller.line(f"             clients saw {seen(since)}", "cyan")
            weight, since = status.weight.applied, time.monotonic()
        shown = format_weight(status.weight.applied)
        text = f"{status.phase.value:<16} {status.step_text or '-':>4} {shown:>5}  {status.message}"
        if text != told and status.phase is not Phase.NEW:
            teller.line(text, _STYLES.get(status.phase, ""))
            told = text
        if until(status):
            return status
        await asyncio.sleep(_POLL)
    raise StoryFailed(f"not over after {longest:g} s: {told}; logs in {lab.directory}")


async def _status(lab: Lab, name: str) -> RolloutStatus:
    try:
        found = await lab.client.get(kinds.ROLLOUT, NAMESPACE, name)
    except KubeError as error:
        raise StoryFailed(f"the Rollout cannot be read: {error}; logs in {lab.directory}") from None
    return read_status(found.get("status"))[0]


async def answered(url: str, model: str) -> None:
    """Wait until a request gets through gateway and picker. Raises StoryFailed."""
    body = {"model": model, "max_tokens": 1, "prompt": "hello"}
    deadline, said = time.monotonic() + 15, ""
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline:
            async with session.post(f"{url}/v1/completions", json=body) as answer:
                said = f"HTTP {answer.status}: {(await answer.text())[:200]}"
                if answer.status == 200:
                    return
            await asyncio.sleep(0.1)
    raise StoryFailed(f"nobody serves {model}: {said}")


async def set_knobs(lab: Lab, pod: str, knobs: Mapping[str, Any]) -> None:
    """Turn knobs of a simulated pod. Raises StoryFailed."""
    url = f"{(lab.fleet.pods.get(pod) or lab.servers.servers[pod]).url}/lab/knobs"
    async with aiohttp.ClientSession() as session, session.post(url, json=dict(knobs)) as answer:
        if answer.status != 200:
            raise StoryFailed(f"pod {pod} did not take its knobs: HTTP {answer.status}")


async def kubectl(lab: Lab, teller: Teller, command: str) -> None:
    """Run kubectl where it is installed, else say what to run."""
    teller.line(f"$ kubectl {command}")
    binary = shutil.which("kubectl")
    if binary is None:
        teller.line("(kubectl is not installed here)", "dim")
        return
    await _run(lab, teller, binary, *command.split())


async def own_command(lab: Lab, teller: Teller, command: str) -> None:
    """Run one of our own commands."""
    teller.line(f"$ kubectl rollouts {command}")
    await _run(lab, teller, sys.executable, "-m", "rollouts.cli", *command.split())


async def _run(lab: Lab, teller: Teller, *command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, "KUBECONFIG": str(lab.kubeconfig)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    teller.console.print(output.decode().rstrip(), highlight=False, markup=False, soft_wrap=True)


def story_directory(base: Path | None = None) -> Path:
    """A fresh folder for one story's logs."""
    root = base or Path.cwd() / "build" / "lab"
    return root / time.strftime("demo-%Y%m%d-%H%M%S")
