"""``watch``: one Rollout live, its runs with it, each by one watch."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from typing import Any, Protocol

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from rollouts.cli.connect import (
    EXIT_CODES,
    Missing,
    connection_options,
    default_namespace,
    limit_of,
    owned_runs,
    with_client,
)
from rollouts.cli.following import Followed, follow, follow_all
from rollouts.cli.render import rollout_view
from rollouts.cli.rollout_argument import rollout_argument
from rollouts.controller.gates import NAME_LABEL
from rollouts.kube.client import KubeClient
from rollouts.kube.kubeconfig import ContextChoice
from rollouts.objects import kinds
from rollouts.terminal import console
from rollouts.traffic.writes import label_value

__all__ = ["show", "watch"]


class _Screen(Protocol):
    """Where the newest state goes."""

    def update(self, renderable: Group, /) -> None:
        """Show it in place of the one before, or after it what is new in it."""


class _Pipe:
    """One state after the other, each at once: a pipe has no screen, and a reader who waits for none."""

    def __init__(self) -> None:
        self._console = console()
        self._last: list[RenderableType] = []

    def update(self, renderable: Group, /) -> None:
        """Print the parts of it that were not in the one before."""
        for part in renderable.renderables:
            if not any(part is old for old in self._last):
                self._console.print(part)
        self._last = renderable.renderables
        sys.stdout.flush()


class _View:
    """What is shown: the newest states of both watches, and that the API server is away."""

    def __init__(self, live: _Screen, where: str, name: str) -> None:
        self._live = live
        self._where = where
        self._name = name
        self._rollout: dict[str, Any] | None = None
        self._runs: list[dict[str, Any]] = []
        self._away: set[str] = set()
        self._page: RenderableType | None = None
        self._warning: RenderableType | None = None

    async def rollout(self, client: KubeClient) -> None:
        """Show the Rollout until it is gone."""
        away, back = self._outage(kinds.ROLLOUT.plural)
        async with aclosing(follow(client, self._where, self._name, away=away, back=back)) as states:
            async for obj in states:
                if obj is None:
                    raise Missing(f"there is no Rollout {self._name} in namespace {self._where}")
                self._look(obj, self._runs)

    async def runs(self, client: KubeClient) -> None:
        """Show its runs, for ever."""
        what = Followed(
            resource=kinds.ANALYSIS_RUN,
            namespace=self._where,
            labels=f"{NAME_LABEL}={label_value(self._name)}",
        )
        away, back = self._outage(kinds.ANALYSIS_RUN.plural)
        async with aclosing(follow_all(client, what, away=away, back=back)) as states:
            async for found in states:
                self._look(self._rollout, list(found.values()))

    def _outage(self, kind: str) -> tuple[Any, Any]:
        def away(reason: str) -> None:
            self._away.add(kind)
            if self._warning is None:  # one outage, whichever watch meets it first
                words = f"⚠ the API server cannot be asked, and is tried again: {reason}"
                self._warning = Text(words, style="yellow")
            self._show()

        def back() -> None:
            self._away.discard(kind)
            if not self._away:
                self._warning = None
            self._show()

        return away, back

    def _look(self, rollout: dict[str, Any] | None, runs: list[dict[str, Any]]) -> None:
        """Take both in, and make a page of them where they are others than before."""
        if (rollout, runs) != (self._rollout, self._runs) and rollout is not None:
            self._page = rollout_view(rollout, owned_runs(rollout, runs))
        self._rollout, self._runs = rollout, runs
        self._show()

    def _show(self) -> None:
        self._live.update(Group(*(part for part in (self._page, self._warning) if part is not None)))


async def show(client: KubeClient, live: _Screen, where: str, name: str, seconds: float) -> None:
    """Keep ``live`` up to date, for so many seconds. Raises Missing when there is no such Rollout, and KubeError."""
    view = _View(live, where, name)
    tasks = [asyncio.create_task(view.rollout(client)), asyncio.create_task(view.runs(client))]
    limit = None if seconds == float("inf") else seconds
    try:
        ended, _ = await asyncio.wait(tasks, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@click.command(epilog=f"{EXIT_CODES}  130  interrupted; the rollout goes on\n")
@rollout_argument()
@connection_options
@click.option("--timeout", metavar="DURATION", help="Stop watching after this time.")
def watch(
    name: str, namespace: str | None, kubeconfig: str | None, context: ContextChoice, timeout: str | None
) -> None:
    """Show one Rollout live, until interrupted."""
    where = namespace or default_namespace(kubeconfig, context)
    limit = limit_of(timeout)

    async def work(client: KubeClient) -> None:
        if not sys.stdout.isatty():
            await show(client, _Pipe(), where, name, limit)
            return
        with Live(console=console(), refresh_per_second=4) as live:
            await show(client, live, where, name, limit)

    try:
        with_client(kubeconfig, context, work, doing="")
    except KeyboardInterrupt:
        sys.exit(130)
