"""What the scripted stories share: a clock in front of each line, the Rollout's progress, kubectl."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from rich.console import Console
from rich.text import Text

from rollouts.api.status import read_status
from rollouts.controller import kinds
from rollouts.engine.types import Phase, RolloutStatus, format_weight
from rollouts.kube.errors import KubeError
from rollouts.lab.environment import Lab

__all__ = [
    "LONGEST",
    "NAMESPACE",
    "StoryFailed",
    "Teller",
    "follow",
    "kubectl",
    "rollout_status",
    "set_knobs",
    "story_directory",
]

NAMESPACE = "default"
LONGEST = 150.0
"""Seconds that one part of a story may take."""

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
    """Prints lines with the seconds since the story began."""

    console: Console
    began: float = field(default_factory=time.monotonic)

    def line(self, text: str, style: str = "") -> None:
        """One line."""
        stamp = Text(f"{time.monotonic() - self.began:6.1f}s  ", style="dim")
        self.console.print(stamp + Text(text, style=style), soft_wrap=True)

    def heading(self, text: str) -> None:
        """A rule with a title."""
        self.console.rule(text, style="cyan", align="left")


async def follow(
    lab: Lab,
    teller: Teller,
    name: str,
    *,
    until: Callable[[RolloutStatus], bool],
    seen: Callable[[float], str],
) -> RolloutStatus:
    """Tell every change of the Rollout's status until the end, and its last status.

    ``seen(since)`` words what clients saw since then, by the monotonic clock; it is told when the weight
    changes. Raises StoryFailed after ``LONGEST`` seconds.
    """
    told, weight, since = "", None, time.monotonic()
    deadline = time.monotonic() + LONGEST
    while time.monotonic() < deadline:
        status = await rollout_status(lab, name)
        if status.weight.applied != weight:
            if weight is not None:
                teller.line(f"             clients saw {seen(since)} answered by v2", "cyan")
            weight, since = status.weight.applied, time.monotonic()
        shown = format_weight(status.weight.applied)
        text = f"{status.phase.value:<16} {_step(status):>4} {shown:>5}  {status.message}"
        if text != told and status.phase is not Phase.NEW:
            teller.line(text, _STYLES.get(status.phase, ""))
            told = text
        if until(status):
            return status
        await asyncio.sleep(_POLL)
    raise StoryFailed(f"not over after {LONGEST:g} s: {told}; logs in {lab.directory}")


async def rollout_status(lab: Lab, name: str) -> RolloutStatus:
    """The status of a Rollout. Raises StoryFailed."""
    try:
        found = await lab.client.get(kinds.ROLLOUT, NAMESPACE, name)
    except KubeError as error:
        raise StoryFailed(f"the Rollout cannot be read: {error}; logs in {lab.directory}") from None
    return read_status(found.get("status"))[0]


def _step(status: RolloutStatus) -> str:
    if not status.step_count:
        return "-"
    return f"{min(status.current_step + 1, status.step_count)}/{status.step_count}"


async def set_knobs(lab: Lab, pod: str, knobs: Mapping[str, object]) -> None:
    """Turn knobs of a simulated pod, as ``rollouts lab set`` does. Raises StoryFailed."""
    url = f"{lab.fleet.pods[pod].url}/lab/knobs"
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
