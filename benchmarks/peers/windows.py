"""What measures of a Prometheus source are off, and what they cost: against requests that are known one by one.

    python -m benchmarks.peers.windows [--server victoria-metrics]

The first table has the worst of all windows and places of the scrapes. The second one has 40 pods with a histogram of
24 buckets, scraped every 15 s, over half an hour: requests and CPU seconds of the server for a p95 and an error rate.
"""

from __future__ import annotations

import asyncio
import math
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import click

from benchmarks.peers.arrivals import SCENARIOS, Line, Scene, import_samples, scenes
from benchmarks.peers.victoriametrics import VictoriaMetrics
from rollouts.analysis.types import ArmRef, MeasureKind, MeasureSpec
from rollouts.lab.prometheus import Prometheus
from rollouts.sources.base import Place, ScrapeTarget
from rollouts.sources.prometheus import PrometheusConfig, PrometheusSource

__all__ = ["misses"]

_SERVERS = {"prometheus": Prometheus, "victoria-metrics": VictoriaMetrics}
_PODS, _EVERY, _HALF_AN_HOUR = 40, 15, 1800
_BOUNDS = ("0.001", *(f"{2**power / 1000:g}" for power in range(1, 23)), "+Inf")
_PAGE_IS_OLD = 6.0
"""Seconds for which VictoriaMetrics may answer what it has said of itself before."""
_CAME = {"there all the time": None, "came within the window": -900.0}


def _spec(name: str, window: int) -> MeasureSpec:
    return MeasureSpec(kind=MeasureKind.PRESET, name=name, window=timedelta(seconds=window))


async def _measured(
    server: Prometheus, targets: Sequence[ScrapeTarget], namespace: str, spec: MeasureSpec, zero: float
) -> float:
    source = PrometheusSource("p", PrometheusConfig(url=server.url), lambda *_: list(targets))
    place = Place(namespace=namespace, arm=ArmRef(kind="InferencePool", group="g", name="canary"))
    try:
        told = await source.measure(spec, place, datetime.fromtimestamp(zero, UTC))
    finally:
        await source.close()
    return told if isinstance(told, float) else math.nan


async def misses(server: Prometheus, scene: Scene, zero: float) -> tuple[float, float]:
    """By which fractions the rate of requests and the share of errors are off."""
    targets, truth = scene.targets(zero), scene.truth
    rate, share = [
        await _measured(server, targets, scene.namespace, _spec(name, scene.window), zero)
        for name in ("requests", "error-rate")
    ]
    return rate * scene.window / truth.requests - 1, share * truth.requests / truth.errors - 1


def _fleet(namespace: str, zero: float, came: float | None) -> Iterator[Line]:
    """A pod that was there all the time, and others that were, too, or came."""
    for number in range(_PODS):
        since = came if came is not None and number else -_HALF_AN_HOUR - 900
        own = f'pod="pod-{number}",namespace="{namespace}",job="pods",instance="10.0.0.{number}:8000"'
        for at in range(int(since), -7, _EVERY):
            count, when = at - since, zero + at + number % _EVERY
            yield Line("process_start_time_seconds", own, 1.0, when)
            yield Line("vllm:request_success_total", f'{own},finished_reason="stop"', count, when)
            for status, share in (("2xx", 0.9), ("5xx", 0.1)):
                http = f'{own},handler="/v1/completions",method="POST",status="{status}"'
                yield Line("http_requests_total", http, math.floor(count * share), when)
            for place, bound in enumerate(_BOUNDS, 1):
                share = place / len(_BOUNDS)
                bucket = f'{own},model_name="m",engine="0",le="{bound}"'
                yield Line("vllm:time_to_first_token_seconds_bucket", bucket, count * share, when)


async def _spent(server: Prometheus) -> Mapping[str, float]:
    """CPU seconds of the server so far, and queries that it was asked."""
    await asyncio.sleep(_PAGE_IS_OLD)
    async with aiohttp.ClientSession() as session, session.get(f"{server.url}/metrics") as answer:
        page = await answer.text()
    asked = r'^(?:prometheus|vm)_http_requests_total\{.*"/api/v1/query".*\} (\S+)$'
    cpu = r"^process_cpu_seconds_total (\S+)$"
    return {
        name: sum(map(float, re.findall(text, page, re.M))) for name, text in (("cpu", cpu), ("asked", asked))
    }


async def _cost(server: Prometheus, namespace: str, came: float | None, preset: str, zero: float) -> str:
    targets = [
        ScrapeTarget(
            pod=f"pod-{number}",
            ip=f"10.0.0.{number}",
            port=8000,
            started=zero + came if came is not None and number else zero - 90_000,
        )
        for number in range(_PODS)
    ]
    turns = 5
    before = await _spent(server)
    begun = time.monotonic()
    for _ in range(turns):
        await _measured(server, targets, namespace, _spec(preset, _HALF_AN_HOUR), zero)
    seconds = (time.monotonic() - begun) / turns
    after = await _spent(server)
    cpu, asked = ((after[name] - before[name]) / turns for name in ("cpu", "asked"))
    return f"{asked:.0f} requests, {cpu:.2f} s of the server's CPU, {seconds:.2f} s in all"


async def _tables(kind: type[Prometheus]) -> None:
    zero = math.floor(time.time() / 60) * 60 - 597.0
    known = scenes()
    with tempfile.TemporaryDirectory() as folder:
        server = kind(Path(folder) / "server")
        lines = [line for scene in known for line in scene.lines(zero)]
        for number, came in enumerate(_CAME.values()):
            lines += _fleet(f"fleet-{number}", zero, came)
        await import_samples(server, Path(folder), lines)
        try:
            worst: dict[str, list[tuple[float, float]]] = defaultdict(list)
            for scene in known:
                worst[scene.scenario].append(await misses(server, scene, zero))
            for scenario in SCENARIOS:
                rate, share = (max(column, key=abs) for column in zip(*worst[scenario], strict=True))
                click.echo(f"| {scenario} | {rate:+.1%} | {share:+.1%} |")
            for number, (name, came) in enumerate(_CAME.items()):
                for preset in ("ttft", "error-rate"):
                    told = await _cost(server, f"fleet-{number}", came, preset, zero)
                    click.echo(f"40 pods, half an hour, {name}, {preset}: {told}")
        finally:
            await server.stop()


@click.command()
@click.option("--server", default="prometheus", type=click.Choice(sorted(_SERVERS)))
def main(server: str) -> None:
    """Print both."""
    asyncio.run(_tables(_SERVERS[server]))


if __name__ == "__main__":
    main()
