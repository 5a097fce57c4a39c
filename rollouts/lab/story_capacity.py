"""The scripted story of a rollout that fits the GPUs one has: what ``rollouts lab demo capacity`` shows.

Eight pods of the old model, one GPU to spare, streams of twenty seconds all the while. The GPUs are counted from
outside (``GpuMeter``), and the streams at the client, as are those that met a server while it was cold.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console

from rollouts.engine.rollout_status import Phase, RolloutStatus
from rollouts.lab.checkout import EXAMPLES
from rollouts.lab.environment import Lab, deployments, read_objects
from rollouts.lab.gpumeter import GpuMeter, GpuUse
from rollouts.lab.story import NAME, open_base_model
from rollouts.lab.telling import (
    NAMESPACE,
    StoryFailed,
    Teller,
    answered,
    follow,
    kubectl,
    over,
    own_command,
    set_knobs,
    until,
)
from rollouts.lab.traffic import Result, Traffic, TrafficSpec
from rollouts.lab.vllm.latency import LatencyProfile
from rollouts.units import ZERO

__all__ = ["GPUS", "LATENCY", "POD_STARTUP", "tell_capacity"]

STABLE_PODS = 8
GPUS = STABLE_PODS + 1
"""One more than the old model has."""
POD_STARTUP = 2.0
LATENCY = LatencyProfile(per_token=0.04, cold_requests=3, cold=1.5)
"""Twenty-five tokens a second, so that a stream of twenty seconds is one of 500 tokens and costs little to play.

A server's first requests wait for its graphs: no gate of the story lets a canary pass that has its users wait so.
"""

_OLD, _NEW = "qwen", "deepseek-r1"
_SLOW = {"ttft": "100"}
"""A factor: the first token of a bad canary takes more than a second."""
_SHORT_RATE, _SHORT_TOKENS = 3.0, 50
_LONG_RATE, _LONG_TOKENS = 0.4, 500
_LONGEST = 900.0
_PATIENCE = 120.0
_LAST_SECONDS = 6.0
"""In which requests are sent that must all be answered by one version."""
_STREAM_SECONDS = 60.0
"""What the last stream may still take when the story is over."""


def _is_new(result: Result) -> bool:
    return _NEW in result.pod


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clients:
    """Requests of two seconds, by which gates judge, and streams of twenty seconds, which nobody may cut."""

    short: Traffic
    long: Traffic

    def seen(self, since: float) -> str:
        """Who answered since a moment, in words."""
        canary, total = self.short.window(since).share(_is_new)
        return f"{100 * canary / total:.1f}% of {total} answered by v2" if total else "no traffic"

    def cut(self) -> int:
        """Requests that did not get the whole answer."""
        return self.short.window(0.0).failed + self.long.window(0.0).failed

    def cold(self) -> tuple[int, int]:
        """How many answers of the new model came from a server that was cold, of how many."""
        found = [one for one in (*self.short.results, *self.long.results) if _is_new(one)]
        return sum(one.cold for one in found), len(found)

    def why(self, began: float) -> str:
        """What the first of them saw, and when it was sent."""
        failed = [one for one in (*self.short.results, *self.long.results) if one.failed]
        if not failed:
            return ""
        first = min(failed, key=lambda one: one.sent_at)
        words = f"HTTP {first.status} {first.error}".rstrip()
        return f"{words} from {first.pod or 'no pod'}, sent at {first.sent_at - began:.1f}s after {first.seconds:.1f} s"


async def tell_capacity(lab: Lab, console: Console, *, bad: bool, warm: bool = True) -> None:
    """Roll mymodel-pool-v2 out within ``GPUS``; with ``bad`` it is slow, and aborted at half.

    Without ``warm`` nobody but users warms its pods up: some meet cold ones, and it may be aborted for that.

    Raises StoryFailed when the end is not the promised one.
    """
    teller = Teller(console, time.monotonic())
    kind = "bad" if bad else "good" if warm else "good, but cold"
    teller.heading(f"{STABLE_PODS} + {GPUS - STABLE_PODS} GPUs, {kind} canary")
    url = await _set_the_stage(lab, teller)
    async with _traffic(url) as clients, _metering(lab, teller) as meter:
        seen = clients.seen
        await lab.apply([_rollout("mymodel-pool-v1")])
        await follow(lab, teller, NAME, seen=seen, until=lambda s: s.phase is Phase.HEALTHY, longest=_LONGEST)
        if bad:
            await _refused(lab, teller)
        teller.line("$ git diff")
        teller.line("-     pool: {name: mymodel-pool-v1}", "red")
        teller.line("+     pool: {name: mymodel-pool-v2}", "green")
        if not warm:
            teller.line("-     warmUp: {requests: 4, concurrency: 2}", "red")
        await lab.apply([_rollout("mymodel-pool-v2", **({} if warm else {"warmUp": None}))])
        spoiling = asyncio.create_task(_spoil(lab, teller)) if bad else None
        status = await follow(lab, teller, NAME, seen=seen, until=_returned, longest=_LONGEST)
        if spoiling is not None:
            spoiling.cancel()
            await asyncio.gather(spoiling, return_exceptions=True)
        lost = bad or (not warm and status.phase is Phase.ABORTED)
        await _settle(teller, meter, lost=lost)
        await _close(lab, teller, clients, meter, status, lost=lost, warm=warm)


def _returned(status: RolloutStatus) -> bool:
    """Whether the attempt has ended, and nobody waits any more for pods to give traffic back to."""
    return over(status) and (status.phase is not Phase.ABORTED or status.weight.applied == ZERO)


async def _set_the_stage(lab: Lab, teller: Teller) -> str:
    await lab.apply(deployments({"vllm-qwen": STABLE_PODS, "vllm-deepseek-r1": 0}))
    url = await open_base_model(lab)
    await lab.wait_for_pods(f"release={_OLD}", STABLE_PODS, timeout=60.0)
    await answered(url, NAME)
    teller.stage(lab, url, f"{STABLE_PODS} simulated vLLM pods of a Deployment behind endpoint pickers")
    teller.line(f"node         {GPUS} nvidia.com/gpu, one per pod; a pod is Ready after {POD_STARTUP:g} s")
    teller.line(f"clients      {_SHORT_RATE:g} requests/s of 2 s, {_LONG_RATE:g} streams/s of twenty seconds")
    return url


def _rollout(target: str, **capacity: Any) -> dict[str, Any]:
    rollout = copy.deepcopy(read_objects(EXAMPLES / "base-model-capacity" / "rollout-demo.yaml")[0])
    rollout["spec"]["target"]["pool"]["name"] = target
    rollout["spec"]["strategy"]["canary"]["capacity"].update(capacity)
    return rollout


async def _refused(lab: Lab, teller: Teller) -> None:
    """A plan that cannot be met: the status says which numbers would do, and nothing is scaled."""
    teller.line("$ git diff   # first one that cannot be met: half of stable is to stay, and one GPU is free")
    teller.line("+     capacity: {minStable: 50%}", "yellow")
    await lab.apply([_rollout("mymodel-pool-v2", minStable="50%")])
    status = await follow(
        lab,
        teller,
        NAME,
        seen=lambda _: "nothing of it",
        until=lambda s: s.reason == "CapacityInfeasible",
        longest=_LONGEST,
    )
    if "set maxSurge to" not in status.message:
        raise StoryFailed(f"the refusal names no numbers: {status.message}")


async def _spoil(lab: Lab, teller: Teller) -> None:
    """From half on the pods of v2 are slow, also those that come later: slow from the start it would not get there."""
    slow: set[str] = set()
    while True:
        pods = {name for name in lab.servers.servers if _NEW in name}
        if len(pods) >= STABLE_PODS // 2:
            for name in sorted(pods - slow):
                with contextlib.suppress(OSError):
                    await set_knobs(lab, name, _SLOW)
                    slow.add(name)
                    teller.line(f"knobs        {name}: first tokens take a hundred times as long", "red")
        await asyncio.sleep(0.2)


@contextlib.asynccontextmanager
async def _traffic(url: str) -> AsyncIterator[_Clients]:
    short = TrafficSpec(
        url=url,
        model=NAME,
        rate=_SHORT_RATE,
        max_tokens=_SHORT_TOKENS,
        ignore_eos=True,
        streamed=1.0,
        seconds=3 * _LONGEST,
        timeout=_PATIENCE,
    )
    long = replace(short, rate=_LONG_RATE, max_tokens=_LONG_TOKENS, seed=1)
    async with Traffic(short) as shorts, Traffic(long) as longs:
        yield _Clients(short=shorts, long=longs)


@contextlib.asynccontextmanager
async def _metering(lab: Lab, teller: Teller) -> AsyncIterator[GpuMeter]:
    def tell(use: GpuUse) -> None:
        arms = (f"{name} {_stages(use, release)}" for name, release in (("v1", _OLD), ("v2", _NEW)))
        teller.line(f"GPUs         {use.in_use} of {GPUS}   {'   '.join(arms)}", "dim")

    async with GpuMeter(lab.client, NAMESPACE, label="release", on_change=tell) as meter:
        yield meter


def _stages(use: GpuUse, release: str) -> str:
    found = use.stages.get(release, {})
    return ", ".join(f"{count} {stage.value}" for stage, count in found.items()) or "none"


def _pods(meter: GpuMeter, release: str) -> int:
    return sum(meter.now.stages.get(release, {}).values())


async def _settle(teller: Teller, meter: GpuMeter, *, lost: bool) -> None:
    """Until what lost is gone, and what won has all of its pods."""
    loser, winner = (_NEW, _OLD) if lost else (_OLD, _NEW)
    teller.line(f"             waiting until {loser} is gone: its last streams, then its pods", "cyan")
    await until(
        lambda: _pods(meter, loser) == 0 and _pods(meter, winner) == STABLE_PODS,
        longest=_LONGEST,
        every=0.1,
        what=f"{loser} still has {_pods(meter, loser)} pods, {winner} has {_pods(meter, winner)}",
    )


async def _close(
    lab: Lab,
    teller: Teller,
    clients: _Clients,
    meter: GpuMeter,
    status: RolloutStatus,
    *,
    lost: bool,
    warm: bool,
) -> None:
    """What people see at the end, and whether it is the promised end."""
    settled = time.monotonic()
    await asyncio.sleep(_LAST_SECONDS)
    canary, total = clients.short.window(settled).share(_is_new)
    await asyncio.wait_for(asyncio.gather(clients.short.finish(), clients.long.finish()), _STREAM_SECONDS)
    for command in ("get rollouts", "get deployments"):
        await kubectl(lab, teller, command)
    await own_command(lab, teller, f"explain {NAME}")
    streams = len(clients.long.results)
    teller.line(
        f"streams      {streams} of twenty seconds and {len(clients.short.results)} short ones; {clients.cut()} cut",
        "cyan",
    )
    cold, new = clients.cold()
    teller.line(f"cold         {cold} of {new} answers of v2 came from a server that was cold", "cyan")
    counted = f"counted {meter.counts} times, Terminating pods included"
    teller.line(
        f"GPUs         never more than {meter.most_in_use} in use, {meter.most_asked} asked for; {counted}",
        "cyan",
    )
    teller.line(f"             clients now see {canary} of {total} answered by v2", "cyan")
    wanted = Phase.ABORTED if lost else Phase.HEALTHY
    if status.phase is not wanted:
        raise StoryFailed(f"the rollout ended {status.phase.value}, not {wanted.value}: {status.message}")
    if clients.cut() or not streams:
        why = clients.why(teller.began)
        raise StoryFailed(f"{clients.cut()} requests were cut, the first {why}; logs in {lab.directory}")
    if meter.most_asked > GPUS:
        raise StoryFailed(f"{meter.most_asked} GPUs were asked for at once, and there are {GPUS}")
    if not total or (canary != 0 if lost else canary != total):
        raise StoryFailed(f"clients still saw {canary} of {total} answered by v2")
    if bool(cold) is warm:
        raise StoryFailed(
            f"{cold} users met a server of v2 that was cold, {'with' if warm else 'without'} warmUp"
        )
    end = "aborted" if lost else "promoted"
    if not warm:
        teller.line(f"users met cold servers, and the canary was {end}", "bold green")
        return
    teller.line("the bad canary was aborted" if lost else "the canary was promoted", "bold green")
