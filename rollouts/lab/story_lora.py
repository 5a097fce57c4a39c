"""The scripted story of the LoRA scenario: what ``rollouts lab demo lora`` shows."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from rollouts.engine.rollout_status import Phase, RolloutStatus
from rollouts.kube.client import Resource
from rollouts.lab.environment import ADAPTERS, EXAMPLES, Lab, read_objects
from rollouts.lab.loraclients import SteadyClient, count_sessions, exact_share
from rollouts.lab.telling import NAMESPACE, StoryFailed, Teller, answered, follow, kubectl, set_knobs
from rollouts.lab.telling import over as ended
from rollouts.lab.traffic import Traffic, TrafficSpec
from rollouts.objects import kinds
from rollouts.runtime.clock import SystemClock
from rollouts.runtime.reflector import Reflector
from rollouts.runtime.store import Store

__all__ = ["tell_lora"]

NAME = MODEL = "travelhelper"
STABLE, CANARY = ADAPTERS
_CARRIER = "loramodel"
_SERVICE = "mymodel-v1-ext-proc"
_RATE = 40.0
_SESSIONS = 200
_BAD = {"model": CANARY, "errors": "40%", "ttft": "+60%"}
_LONGEST = 150.0
_ABORT_SECONDS = 2.0
_BEFORE = 3.0
_MARGIN = 0.3
"""Seconds around a change of the weights in which a request may have met either."""
_OFF = 2.0
"""A prefix of the requests is at most one off, so a stretch, the difference of two prefixes, at most two."""


@dataclass(slots=True)
class _Stage:
    """The running scenario, and since when which weights held."""

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
        sessions = count_sessions(self.traffic.results, self.sticky_since, canary=CANARY)
        return f"{self.share(since, until, weight)}, {sessions.canary} of {sessions.total} sessions on v2"

    def share(self, since: float, until: float, weight: float) -> str:
        """The share among requests without a session in words. Keeps the largest deviation in ``worst``."""
        count = exact_share(
            self.steady.answers, since + _MARGIN, until - _MARGIN, weight=weight, stable=STABLE
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
    teller = Teller(console, time.monotonic())
    teller.heading("LoRA adapter, bad canary" if bad else "LoRA adapter, good canary")
    url = await _set_the_stage(lab, teller)
    async with _clients(url) as (traffic, steady):
        stage = _Stage(lab=lab, teller=teller, traffic=traffic, steady=steady, bad=bad)
        async with _watching(stage):
            await _before(stage)
            await lab.apply(read_objects(EXAMPLES / "lora" / "rollout-demo.yaml"))
            if bad:
                await _spoil(stage)
            status = await follow(lab, teller, NAME, seen=stage.seen, until=_is_over(stage), longest=_LONGEST)
            await _close(stage, status)


async def _set_the_stage(lab: Lab, teller: Teller) -> str:
    base, lora = EXAMPLES / "base-model", EXAMPLES / "lora"
    await lab.apply(
        read_objects(base / "pools.yaml", base / "gateway.yaml", base / "route.yaml", lora / "model.yaml")
    )
    url = await lab.gateway.wait_for_gateway()
    await asyncio.gather(lab.start_pickers(), lab.start_controller("--no-leader-elect"))
    await answered(url, MODEL)
    teller.stage(lab, url, f"{len(lab.pods)} simulated vLLM pods, each with {' and '.join(ADAPTERS)}")
    teller.line(f"picker       Envoy ext_proc, metrics at {lab.pickers.metrics_urls[_SERVICE]}")
    teller.line(
        f"clients      {_RATE:g} requests/s of {_SESSIONS} sessions (x-session-id), one more client without"
    )
    return url


@contextlib.asynccontextmanager
async def _clients(url: str) -> AsyncIterator[tuple[Traffic, SteadyClient]]:
    spec = TrafficSpec(
        url=url, model=MODEL, rate=_RATE, seconds=_LONGEST + 60, streamed=0.3, sessions=_SESSIONS
    )
    traffic = Traffic(spec)
    try:
        async with SteadyClient(url, MODEL) as steady:
            yield traffic, steady
    finally:
        await traffic.stop()


@contextlib.asynccontextmanager
async def _watching(stage: _Stage) -> AsyncIterator[None]:
    """Keep the times of what moves traffic: the weights as written, and the gate's verdict."""

    def weights_changed(carrier: dict[str, Any]) -> None:
        targets = {one["name"]: one.get("weight", 1) for one in carrier["spec"].get("targetModels", ())}
        weight = targets.get(CANARY, 0) / sum(targets.values())
        if not stage.weights or stage.weights[-1][1] != weight:
            stage.weights.append((time.monotonic(), weight))

    def run_changed(run: dict[str, Any]) -> None:
        if (run.get("status") or {}).get("phase") == "Failed":
            stage.failed_at = min(stage.failed_at, time.monotonic())

    tasks = []
    for resource, react in ((kinds.INFERENCE_MODEL, weights_changed), (kinds.ANALYSIS_RUN, run_changed)):
        tasks.append(asyncio.create_task(_watch(stage.lab, resource, react)))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _watch(lab: Lab, resource: Resource, react: Callable[[dict[str, Any]], None]) -> None:
    store = Store()

    def changed(key: Any) -> None:
        found = store.get(key)
        if found is not None and (resource is not kinds.INFERENCE_MODEL or key.name == _CARRIER):
            react(found)

    store.subscribe(changed)
    await Reflector(lab.client, resource, store, SystemClock(), namespace=NAMESPACE).run()


async def _before(stage: _Stage) -> None:
    """Without a Rollout there are weights, but no key: each request is split by itself."""
    teller, since = stage.teller, time.monotonic()
    await asyncio.sleep(_BEFORE)
    weight = stage.weights[-1][1]
    teller.line(f"before       {stage.share(since, time.monotonic(), weight)} answered by {CANARY}", "cyan")
    stage.traffic.start()
    since = time.monotonic()
    await asyncio.sleep(_BEFORE)
    sessions = count_sessions(stage.traffic.results, since, canary=CANARY)
    teller.line(
        f"             {sessions.returned} of {sessions.total} sessions went back: no Rollout, no key"
    )
    teller.line("$ kubectl apply -f examples/lora/rollout-demo.yaml")


async def _spoil(stage: _Stage) -> None:
    """Make the canary worse once it carries traffic: one that fails its first probe gets none."""
    over = _is_over(stage)

    def carries(status: RolloutStatus) -> bool:
        return over(status) or status.phase is Phase.PROGRESSING

    await follow(stage.lab, stage.teller, NAME, seen=stage.seen, until=carries, longest=_LONGEST)
    for pod in stage.lab.pods:
        if pod.adapters:
            await set_knobs(stage.lab, pod.name, _BAD)
    stage.teller.line(f"knobs        {CANARY}: errors {_BAD['errors']}, TTFT {_BAD['ttft']}", "red")


def _is_over(stage: _Stage) -> Callable[[RolloutStatus], bool]:
    def over(status: RolloutStatus) -> bool:
        if math.isinf(stage.sticky_since) and status.phase is not Phase.NEW:
            # The picker heard of the Rollout when the controller did.
            stage.sticky_since = time.monotonic() + _MARGIN
        return ended(status)

    return over


async def _close(stage: _Stage, status: RolloutStatus) -> None:
    """What people see at the end, and whether it is the promised end."""
    teller, settled = stage.teller, time.monotonic()
    await asyncio.sleep(_ABORT_SECONDS + 1.0)
    for command in (
        "get rollouts",
        "get analysisruns",
        f"get inferencemodels {_CARRIER} -o jsonpath={{.spec.targetModels}}",
    ):
        await kubectl(stage.lab, teller, command)
    wanted = Phase.ABORTED if stage.bad else Phase.HEALTHY
    if status.phase is not wanted:
        raise StoryFailed(f"the rollout ended {status.phase.value}, not {wanted.value}: {status.message}")
    if stage.worst > _OFF:
        raise StoryFailed(f"a share was {stage.worst:.1f} requests off; error diffusion promises {_OFF:g}")
    end = stage.failed_at if stage.bad else math.inf
    growing = [result for result in stage.traffic.results if result.sent_at < end]
    sessions = count_sessions(growing, stage.sticky_since, canary=CANARY)
    teller.line(
        f"sessions     {sessions.returned} of {sessions.total} went back to {STABLE} while the share grew",
        "cyan",
    )
    if sessions.returned:
        raise StoryFailed(f"{sessions.returned} sessions went back to {STABLE}")
    (_back if stage.bad else _promoted)(stage, settled)


def _promoted(stage: _Stage, settled: float) -> None:
    seen = stage.traffic.window(settled + _MARGIN).by_model()
    if set(seen) != {CANARY}:
        raise StoryFailed(f"after the promotion clients saw {dict(seen)}")
    stage.teller.line(f"             clients now see {seen[CANARY]} of {seen.total()} answered by v2", "cyan")
    stage.teller.line("the canary was promoted", "bold green")


def _back(stage: _Stage, _: float) -> None:
    """How long after the verdict the last request still went to the canary, with or without a session."""
    results = [result.sent_at for result in stage.traffic.results if result.model != STABLE]
    results += [answer.at for answer in stage.steady.answers if answer.model != STABLE]
    last = max((sent for sent in results if sent >= stage.failed_at), default=stage.failed_at)
    took = last - stage.failed_at
    count = len(stage.traffic.window(stage.failed_at + _ABORT_SECONDS))
    stage.teller.line(
        f"             the last request that reached {CANARY} was sent {took:.2f} s after the gate's verdict; "
        f"{count} requests sent later than {_ABORT_SECONDS:g} s after it all went to {STABLE}",
        "cyan",
    )
    if not math.isfinite(stage.failed_at) or took > _ABORT_SECONDS or not count:
        raise StoryFailed(f"the way back took {took:.2f} s; {_ABORT_SECONDS:g} s were promised")
    stage.teller.line("the bad canary was aborted", "bold green")
