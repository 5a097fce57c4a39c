"""``rollouts lab load``: clients for a running lab, and what they saw."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING

import click

from rollouts.terminal import say

if TYPE_CHECKING:
    from rollouts.lab.traffic import TrafficSpec, TrafficWindow

__all__ = ["load", "told"]

_EVERY = 5.0
"""Seconds between two lines: short enough to see an abort, long enough for a share of 100 requests."""


@click.command()
@click.option("--model", default="mymodel", show_default=True, help="The model that clients ask for.")
@click.option(
    "--rate", default=20.0, show_default=True, type=click.FloatRange(0.1, 500), help="Requests a second."
)
@click.option(
    "--seconds", default=120.0, show_default=True, type=click.FloatRange(1, 3600), help="Then it ends."
)
@click.option(
    "--sessions",
    default=0,
    show_default=True,
    type=click.IntRange(0, 100_000),
    help="Spread the requests over so many sessions, named in the header x-session-id.",
)
def load(model: str, rate: float, seconds: float, sessions: int) -> None:
    """Send requests through the lab's gateway, and say every five seconds who answered, while the lab runs.

    Exit status 0 when no request failed, 1 when some did.
    """
    from rollouts.cli.lab import require_lab
    from rollouts.lab.traffic import TrafficSpec

    gateway = str(require_lab()["gateway"])
    spec = TrafficSpec(url=gateway, model=model, rate=rate, seconds=seconds, sessions=sessions)
    failed = asyncio.run(_send(spec))
    raise SystemExit(1 if failed else 0)


def told(window: TrafficWindow, asked: str) -> str:
    """One line of the requests that have ended: the share of each version among the answers, by name, and failures.

    A version is the model in the answer where that is not the one ``asked`` for, as of adapters; else the pods' name
    without its number.
    """
    versions = Counter(
        result.model if result.model != asked else result.pod.rpartition("-")[0]
        for result in window.results
        if result.model
    )
    answered = sum(versions.values())
    shares = (f"{name} {100 * count / answered:.1f}%" for name, count in sorted(versions.items()))
    return ", ".join([f"{answered} answered", *shares, f"{window.failed} failed"])


async def _send(spec: TrafficSpec) -> int:
    from rollouts.cli.lab import running_lab
    from rollouts.lab.traffic import Traffic

    began = since = time.monotonic()
    async with Traffic(spec) as traffic:
        ended = asyncio.create_task(traffic.wait())
        while traffic.running and running_lab() is not None:
            until = since + _EVERY
            await asyncio.wait({ended}, timeout=until - time.monotonic())
            window = traffic.window(since, until)
            if window.results:
                say(f"{time.monotonic() - began:5.0f} s  {told(window, spec.model)}")
            since = until
        whole = traffic.window(began)
        say(f"in all   {told(whole, spec.model)}")
        return whole.failed
