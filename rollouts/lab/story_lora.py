"""The scripted story of what a picker splits: ``rollouts lab demo lora``, and by another plot that of variants."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from rollouts.engine.rollout_status import Phase, RolloutStatus
from rollouts.kube.client import Resource
from rollouts.lab.checkout import EXAMPLES
from rollouts.lab.environment import ADAPTERS, Lab, read_objects
from rollouts.lab.loraclients import SteadyClient, count_sessions, exact_share
from rollouts.lab.telling import NAMESPACE, StoryFailed, Teller, answered, follow, kubectl, set_knobs
from rollouts.lab.telling import over as ended
from rollouts.lab.traffic import Traffic, TrafficSpec
from rollouts.lab.vllm.spec import PodSpec
from rollouts.objects import kinds
from rollouts.runtime.clock import SystemClock
from rollouts.runtime.reflector import Reflector
from rollouts.runtime.store import Store

__all__ = ["Plot", "tell_lora", "tell_plot"]

_RATE = 40.0
_SESSIONS = 200
_LONGEST = 150.0
_ABORT_SECONDS = 2.0
_BEFORE = 3.0
_MARGIN = 0.3
"""Seconds around a change of the weights in which a request may have met either."""
_OFF = 2.0
"""A prefix of the requests is at most one off, so a stretch, the difference of two prefixes, at most two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """What differs between two stories. ``stable`` and ``canary`` are the model names that answers carry.

    ``objects`` are applied before ``rollout``; the list ``listed`` of ``carrier`` has the weights, by name.
    ``knobs`` make the pods of a bad canary worse. ``lead``: what clients see before there is a Rollout is told, too.
    """

    title: str
    name: str
    model: str
    stable: str
    canary: str
    entry: str
    """Name of the canary's entry in the list."""
    resource: Resource
    carrier: str
    listed: str
    objects: tuple[Path, ...]
    rollout: Path
    service: str
    """The picker's Service."""
    pods: str
    """What pods there are, in words."""
    knobs: Mapping[str, str]
    spoiled: Callable[[PodSpec], bool]
    """Whether a bad canary's knobs are turned on this pod."""
    lead: bool


_V1, _V2 = ADAPTERS
_LORA, _BASE = EXAMPLES / "lora", EXAMPLES / "base-model"
_ADAPTERS = Plot(
    title="LoRA adapter",
    name="travelhelper",
    model="travelhelper",
    stable=_V1,
    canary=_V2,
    entry=_V2,
    resource=kinds.INFERENCE_MODEL,
    carrier="loramodel",
    listed="targetModels",
    objects=(_BASE / "pools.yaml", _BASE / "gateway.yaml", _BASE / "route.yaml", _LORA / "model.yaml"),
    rollout=_LORA / "rollout-demo.yaml",
    service="mymodel-v1-ext-proc",
    pods=f"simulated vLLM pods, each with {' and '.join(ADAPTERS)}",
    knobs={"model": _V2, "errors": "40%", "ttft": "+60%"},
    spoiled=lambda pod: bool(pod.adapters),
    lead=True,
)


@dataclass(slots=True)
class _Stage:
    """The running scenario, and since when which weights held."""

    plot: Plot
    lab: Lab
    teller: Teller
    traffic: Traffic
    steady: SteadyClient
    bad: bool
    weights: list[tuple[float, float]] = field(default_factory=list)  # monotonic time, canary's fraction
    failed_at: float = math.inf  # when the first AnalysisRun failed
    sticky_since: float = math.inf
    worst: float = 0.0

    def seen(self, _: float) -> str:
        """What clients saw at the weight that has just ended."""
        if len(self.weights) < 2:
            return "no change of the weights yet"  # the status was faster than our watch
        (since, weight), (until, _next) = self.weights[-2:]
        # Until the key was known, requests of sessions were split in the same sequence.
        since = max(since, self.sticky_since)
        if self.bad and math.isfinite(self.failed_at):
            until = min(until, self.failed_at)
        sessions = count_sessions(self.traffic.results, self.sticky_since, canary=self.plot.canary)
        return f"{self.share(since, until, weight)}, {sessions.canary} of {sessions.total} sessions on the canary"

    def share(self, since: float, until: float, weight: float) -> str:
        """The share among requests without a session in words. Keeps the largest deviation in ``worst``."""
        count = exact_share(
            self.steady.answers, since + _MARGIN, until - _MARGIN, weight=weight, stable=self.plot.stable
        )
        if not count.total:
            return "no request without a session"
        self.worst = max(self.worst, count.off)
        percent = 100 * count.canary / count.total
        return f"{count.canary} of {count.total} requests without a session ({percent:.1f}%, {count.off:.1f} off)"


async def tell_lora(lab: Lab, console: Console, *, bad: bool) -> None:
    """Roll travel-helper-v2 out on the pods of v1 over real traffic; with ``bad`` it fails, and is aborted.

    Raises StoryFailed when the end is not the promised one.
    """
    await tell_plot(lab, console, _ADAPTERS, bad=bad)


async def tell_plot(lab: Lab, console: Console, plot: Plot, *, bad: bool) -> None:
    """Tell one story. Raises StoryFailed when the end is not the promised one."""
    teller = Teller(console, time.monotonic())
    teller.heading(f"{plot.title}, {'bad' if bad else 'good'} canary")
    url = await _set_the_stage(lab, teller, plot)
    async with _clients(url, plot.model) as (traffic, steady):
        stage = _Stage(plot=plot, lab=lab, teller=teller, traffic=traffic, steady=steady, bad=bad)
        async with _watching(stage):
            if plot.lead:
                await _before(stage)
            else:
                traffic.start()
            teller.line(f"$ kubectl apply -f {plot.rollout.relative_to(EXAMPLES.parent)}")
            await lab.apply(read_objects(plot.rollout))
            if bad:
                await _spoil(stage)
            status = await follow(
                lab, teller, plot.name, seen=stage.seen, until=_is_over(stage), longest=_LONGEST
            )
            await _close(stage, status)


async def _set_the_stage(lab: Lab, teller: Teller, plot: Plot) -> str:
    await lab.apply(read_objects(*plot.objects))
    url = await lab.gateway.wait_for_gateway()
    await asyncio.gather(lab.start_pickers(), lab.start_controller("--no-leader-elect"))
    await answered(url, plot.model)
    teller.stage(lab, url, f"{len(lab.pods)} {plot.pods}")
    teller.line(f"picker       Envoy ext_proc, metrics at {lab.pickers.metrics_urls[plot.service]}")
    teller.line(
        f"clients      {_RATE:g} requests/s of {_SESSIONS} sessions (x-session-id), one more client without"
    )
    return url


@contextlib.asynccontextmanager
async def _clients(url: str, model: str) -> AsyncIterator[tuple[Traffic, SteadyClient]]:
    spec = TrafficSpec(
        url=url, model=model, rate=_RATE, seconds=_LONGEST + 60, streamed=0.3, sessions=_SESSIONS
    )
    traffic = Traffic(spec)
    try:
        async with SteadyClient(url, model) as steady:
            yield traffic, steady
    finally:
        await traffic.stop()


@contextlib.asynccontextmanager
async def _watching(stage: _Stage) -> AsyncIterator[None]:
    """Keep the times of what moves traffic: the weights as written, and the gate's verdict."""

    plot = stage.plot

    def weights_changed(carrier: dict[str, Any]) -> None:
        targets = {one["name"]: one.get("weight", 1) for one in carrier["spec"].get(plot.listed, ())}
        weight = targets.get(plot.entry, 0) / sum(targets.values())
        if not stage.weights or stage.weights[-1][1] != weight:
            stage.weights.append((time.monotonic(), weight))

    def run_changed(run: dict[str, Any]) -> None:
        if (run.get("status") or {}).get("phase") == "Failed":
            stage.failed_at = min(stage.failed_at, time.monotonic())

    tasks = []
    for resource, name, react in (
        (plot.resource, plot.carrier, weights_changed),
        (kinds.ANALYSIS_RUN, "", run_changed),
    ):
        tasks.append(asyncio.create_task(_watch(stage.lab, resource, name, react)))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _watch(lab: Lab, resource: Resource, name: str, react: Callable[[dict[str, Any]], None]) -> None:
    store = Store()

    def changed(key: Any) -> None:
        found = store.get(key)
        if found is not None and name in ("", key.name):
            react(found)

    store.subscribe(changed)
    await Reflector(lab.client, resource, store, SystemClock(), namespace=NAMESPACE).run()


async def _before(stage: _Stage) -> None:
    """Without a Rollout there are weights, but no key: each request is split by itself."""
    teller, since = stage.teller, time.monotonic()
    await asyncio.sleep(_BEFORE)
    weight = stage.weights[-1][1]
    teller.line(
        f"before       {stage.share(since, time.monotonic(), weight)} answered by {stage.plot.canary}", "cyan"
    )
    stage.traffic.start()
    since = time.monotonic()
    await asyncio.sleep(_BEFORE)
    sessions = count_sessions(stage.traffic.results, since, canary=stage.plot.canary)
    teller.line(
        f"             {sessions.returned} of {sessions.total} sessions went back: no Rollout, no key"
    )


async def _spoil(stage: _Stage) -> None:
    """Make the canary worse once it carries traffic: one that fails its first probe gets none."""
    over = _is_over(stage)

    def carries(status: RolloutStatus) -> bool:
        return over(status) or status.phase is Phase.PROGRESSING

    await follow(stage.lab, stage.teller, stage.plot.name, seen=stage.seen, until=carries, longest=_LONGEST)
    for pod in stage.lab.pods:
        if stage.plot.spoiled(pod):
            await set_knobs(stage.lab, pod.name, stage.plot.knobs)
    knobs = stage.plot.knobs
    stage.teller.line(
        f"knobs        {stage.plot.canary}: errors {knobs['errors']}, TTFT {knobs['ttft']}", "red"
    )


def _is_over(stage: _Stage) -> Callable[[RolloutStatus], bool]:
    def over(status: RolloutStatus) -> bool:
        if math.isinf(stage.sticky_since) and status.phase is not Phase.NEW:
            # The picker heard of the Rollout when the controller did.
            stage.sticky_since = time.monotonic() + _MARGIN
        return ended(status)

    return over


async def _close(stage: _Stage, status: RolloutStatus) -> None:
    """What people see at the end, and whether it is the promised end."""
    plot, teller, settled = stage.plot, stage.teller, time.monotonic()
    await asyncio.sleep(_ABORT_SECONDS + 1.0)
    for command in (
        "get rollouts",
        "get analysisruns",
        f"get {plot.resource.plural} {plot.carrier} -o jsonpath={{.spec.{plot.listed}}}",
    ):
        await kubectl(stage.lab, teller, command)
    wanted = Phase.ABORTED if stage.bad else Phase.HEALTHY
    if status.phase is not wanted:
        raise StoryFailed(f"the rollout ended {status.phase.value}, not {wanted.value}: {status.message}")
    if stage.worst > _OFF:
        raise StoryFailed(f"a share was {stage.worst:.1f} requests off; error diffusion promises {_OFF:g}")
    end = stage.failed_at if stage.bad else math.inf
    growing = [result for result in stage.traffic.results if result.sent_at < end]
    sessions = count_sessions(growing, stage.sticky_since, canary=plot.canary)
    teller.line(
        f"sessions     {sessions.returned} of {sessions.total} went back to {plot.stable} while the share grew",
        "cyan",
    )
    if sessions.returned:
        raise StoryFailed(f"{sessions.returned} sessions went back to {plot.stable}")
    (_back if stage.bad else _promoted)(stage, settled)


def _promoted(stage: _Stage, settled: float) -> None:
    seen = stage.traffic.window(settled + _MARGIN).by_model()
    if set(seen) != {stage.plot.canary}:
        raise StoryFailed(f"after the promotion clients saw {dict(seen)}")
    stage.teller.line(
        f"             clients now see {seen[stage.plot.canary]} of {seen.total()} answered by {stage.plot.canary}",
        "cyan",
    )
    stage.teller.line("the canary was promoted", "bold green")


def _back(stage: _Stage, _: float) -> None:
    """How long after the verdict the last request still went to the canary, with or without a session."""
    plot = stage.plot
    results = [result.sent_at for result in stage.traffic.results if result.model != plot.stable]
    results += [answer.at for answer in stage.steady.answers if answer.model != plot.stable]
    last = max((sent for sent in results if sent >= stage.failed_at), default=stage.failed_at)
    took = last - stage.failed_at
    count = len(stage.traffic.window(stage.failed_at + _ABORT_SECONDS))
    stage.teller.line(
        f"             the last request that reached {plot.canary} was sent {took:.2f} s after the gate's verdict; "
        f"{count} requests sent later than {_ABORT_SECONDS:g} s after it all went to {plot.stable}",
        "cyan",
    )
    if not math.isfinite(stage.failed_at) or took > _ABORT_SECONDS or not count:
        raise StoryFailed(f"the way back took {took:.2f} s; {_ABORT_SECONDS:g} s were promised")
    stage.teller.line("the bad canary was aborted", "bold green")
