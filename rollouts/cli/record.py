"""``rollouts record``: raw counters of a live rollout, or of the past from Prometheus, as a recording."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from rollouts.api.scalars import parse_duration
from rollouts.cli.connect import EXIT_CODES, connection_options, default_namespace, fetch, with_client
from rollouts.cli.logs import configure_logs
from rollouts.cli.recorder import Recorder, Tape
from rollouts.cli.rollout_argument import rollout_argument
from rollouts.controller.assembly import open_sources
from rollouts.controller.caches import Caches
from rollouts.controller.settings import SettingsError, source_option
from rollouts.kube.client import KubeClient
from rollouts.kube.kubeconfig import ContextChoice
from rollouts.picker.modelserver_options import model_server_options
from rollouts.runtime.clock import Clock, SystemClock
from rollouts.runtime.modelservers import OPTIONS, ModelServerBook, ModelServers
from rollouts.runtime.objects import ObjectKey
from rollouts.sources.prometheus import PrometheusConfig
from rollouts.sources.scraper import PodScraper
from rollouts.terminal import document, say

__all__ = ["record"]


_MOST_SCRAPES = 5760
"""Two days at 30 seconds: a recording is a file that people send around."""


def _duration(_: click.Context, parameter: click.Parameter, text: str | None) -> timedelta | None:
    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param=parameter) from None


@click.command("record", epilog=EXIT_CODES)
@rollout_argument()
@connection_options
@click.option("-f", "--file", "path", type=click.Path(dir_okay=False, path_type=Path), help="Else stdout.")
@click.option("--interval", default="30s", show_default=True, callback=_duration, help="Between two scrapes.")
@click.option("--duration", default="1h", show_default=True, callback=_duration, help="At most this long.")
@click.option("--since", callback=_duration, help="The past instead: from this long ago, from --source.")
@click.option("--until", callback=_duration, help="End of the past, this long ago; now, unless said.")
@click.option(
    "--run", "chosen", metavar="NAME", help="With --since: the attempt of this AnalysisRun; else the newest."
)
@click.option(
    "--source", metavar="NAME=URL", help="A Prometheus-compatible server; without it the pods themselves."
)
@model_server_options
def record(
    name: str,
    namespace: str | None,
    kubeconfig: str | None,
    context: ContextChoice,
    path: Path | None,
    interval: timedelta,
    duration: timedelta,
    since: timedelta | None,
    until: timedelta | None,
    chosen: str | None,
    source: str | None,
    servers: ModelServers,
) -> None:
    """Record NAME's raw counters for `rollouts backtest`: until its end, --duration or Ctrl-C.

    t = 0 is the start of the attempt; what was before it is history. Of the past, the AnalysisRuns with comparisons of
    the newest attempt, or of that of --run, tell arms, steps and exclusions, also when it is over; without one, only
    the present step is known. The past comes from the pods of today: what Prometheus knows of pods that are gone is not
    looked for.
    """
    wanted = _Options(interval=interval, duration=duration, since=since, until=until, chosen=chosen)
    wanted.check(source)
    if path is not None and not os.access(path if path.exists() else path.parent, os.W_OK):
        raise click.UsageError(f"--file: {path} cannot be written")  # now, not when the recording is over
    book = _book(servers, source)
    try:
        configured = dict([source_option(source)]) if source else {}
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
    configure_logs()
    key = ObjectKey(namespace or default_namespace(kubeconfig, context), name)

    async def work(client: KubeClient) -> Tape:
        await fetch(client, key.namespace, name)
        gone = _reader_gone if path is None else lambda: False
        return await _taped(client, key, wanted, _Sources(configured=configured, pods=book), gone)

    _write(with_client(kubeconfig, context, work, doing=""), interval, path)


def _book(servers: ModelServers, source: str | None) -> ModelServerBook:
    """How all pods are called. Raises UsageError, and ClickException for files that cannot be used."""
    if servers == ModelServers():
        return ModelServerBook(fields=OPTIONS)
    if source is not None:
        raise click.UsageError("--source asks a server, and --model-server-... is of the pods: leave one out")
    book = ModelServerBook({("", ""): servers}, fields=OPTIONS)
    try:
        book.client("", "")
    except OSError as error:
        raise click.ClickException(str(error)) from None
    return book


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sources:
    """Where counters come from: configured servers by name, and how pods are called."""

    configured: Mapping[str, PrometheusConfig]
    pods: ModelServerBook


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """What is to be recorded: from now on for ``duration``, or the past from ``since`` to ``until`` ago."""

    interval: timedelta
    duration: timedelta
    since: timedelta | None
    until: timedelta | None
    chosen: str | None

    def check(self, source: str | None) -> None:
        """Raise UsageError for options that do not go together."""
        since, until = self.since, self.until
        if since is not None and source is None:
            raise click.UsageError("--since reads the past: name a Prometheus with --source default=URL")
        if self.chosen is not None and since is None:
            raise click.UsageError("--run chooses an attempt of the past: say with --since where to begin")
        if until is not None and (since is None or until >= since):
            raise click.UsageError("--until ends the past that --since begins: it has to be shorter ago")
        if self.interval < timedelta(seconds=1) or (since or self.duration) / self.interval > _MOST_SCRAPES:
            raise click.UsageError(
                f"at most {_MOST_SCRAPES} scrapes, one second apart: take a longer --interval"
            )


async def _taped(
    client: KubeClient,
    key: ObjectKey,
    wanted: _Options,
    where: _Sources,
    given_up: Callable[[], bool],
) -> Tape:
    """Record through the controller's caches and sources."""
    clock = SystemClock()
    async with _watching(client, clock, key.namespace) as caches:
        scraper = PodScraper(clock, model_servers=where.pods)
        sources = open_sources(where.configured, caches, scraper, clock)
        recorder = Recorder(caches, sources, next(iter(where.configured), "pods"), key, wanted.chosen)
        try:
            if wanted.since is not None:
                now = datetime.now(UTC)
                await recorder.past(now - wanted.since, now - (wanted.until or timedelta(0)), wanted.interval)
            else:
                await recorder.live(clock, wanted.interval, wanted.duration, given_up)
        finally:
            for one in sources.values():
                await one.close()
        return recorder.tape


def _write(tape: Tape, interval: timedelta, path: Path | None) -> None:
    """The recording to where it was asked for, and to stderr what is in it. Raises ClickException for an empty one."""
    lines = tape.lines(interval.total_seconds())
    if path is None:
        document("\n".join(lines))
    else:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for text in tape.empty_arms():
        say(text, err=True)
    say(
        f"{path or 'stdout'}: {len(tape.samples)} samples of {tape.scrapes} scrapes, {len(tape.marks)} steps",
        err=True,
    )
    if not tape.samples:
        raise click.ClickException(f"no pod answered: {tape.problem or 'there is none'}")


def _reader_gone() -> bool:
    """Whether whoever read stdout has closed it: nothing is written before the end, so no write would tell."""
    try:
        poller = select.poll()
        poller.register(sys.stdout.fileno(), 0)
        return bool(poller.poll(0))
    except (OSError, ValueError):  # no file, as under a test
        return False


@contextlib.asynccontextmanager
async def _watching(client: KubeClient, clock: Clock, namespace: str) -> AsyncIterator[Caches]:
    """The controller's own caches, filled and kept current."""
    caches = Caches(client, clock, namespaces=(namespace,), cluster_templates=False, whole_runs=True)
    tasks = [asyncio.create_task(reflector.run()) for reflector in caches.reflectors]
    try:
        await caches.wait_for_sync()
        yield caches
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
