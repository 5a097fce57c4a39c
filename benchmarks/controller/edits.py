"""Kills and edits against a real kube-apiserver: real controllers, many Rollouts, and nothing may go wrong.

``python -m benchmarks.controller.edits [--minutes 10] [--rollouts 50] [--seed N]``. Two replicas of the controller with
a lease are killed (SIGKILL) and frozen (SIGSTOP); Rollouts of Managed and Adopted routes and of adapters are edited in
their pauses; a ValidatingAdmissionPolicy freezes the traffic objects for a while; then a gate fails, somebody aborts,
or the Rollout is deleted. What the API server stored is recorded by watches of its own
and judged by ``judging``. Prints seed, counts, times and violations; exit status 1 when there is one.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import logging
import random
import sys
import tempfile
import time
from pathlib import Path

import structlog

from benchmarks.controller.disturbing import Controllers, Freezer, Verdicts
from benchmarks.controller.editing import Actor, Workload
from benchmarks.controller.judging import History, judge, ways_back
from benchmarks.controller.recording import recorded
from rollouts.lab.checkout import EXAMPLES
from rollouts.lab.controlplane import Choice
from rollouts.lab.environment import Lab, base_model_pods, read_objects
from tests.kit.stubgateway import stub_gateway

__all__ = ["run"]

CALM = 75.0
"""Seconds at the end without kills, freezes and new edits, for what is still under way."""


async def run(*, seconds: float, rollouts: int, seed: int) -> tuple[History, dict[str, int]]:
    """One run: its history, and how often what was done."""
    chance = random.Random(seed)
    counts: collections.Counter[str] = collections.Counter()
    history, began = History(), time.monotonic()

    def now() -> float:
        return time.monotonic() - began

    with tempfile.TemporaryDirectory() as directory:
        lab = Lab(Path(directory), choice=Choice.REAL, pods=base_model_pods(2, 2), nodes=())
        async with (
            lab,
            Verdicts() as verdicts,
            stub_gateway(lab.client.with_field_manager("gateway"), "default"),
        ):
            await lab.apply(read_objects(EXAMPLES / "base-model" / "pools.yaml"))
            await lab.add_picker_services()
            async with (
                recorded(lab.client, history, now),
                Controllers(lab, verdicts.url, history, now) as both,
            ):
                actors = [
                    Actor(
                        lab.client,
                        Workload.of(index),
                        random.Random(chance.random()),
                        history,
                        verdicts,
                        counts,
                    )
                    for index in range(rollouts)
                ]
                freezer = Freezer(lab.client, history, now)
                until = now() + seconds
                await asyncio.gather(
                    both.disturb(random.Random(chance.random()), until, now, counts),
                    freezer.disturb(random.Random(chance.random()), until, now, counts),
                    *(actor.act(until, now) for actor in actors),
                )
                await asyncio.sleep(CALM)
                history.end = now()
    return history, dict(counts)


def report(history: History, counts: dict[str, int]) -> list[str]:
    """Print what happened; the violations."""
    violations = judge(history)
    print("  " + ", ".join(f"{count} {what}" for what, count in sorted(counts.items())))
    times = sorted(way.after for way in ways_back(history) if way.after is not None)
    if times:
        p99 = times[min(len(times) - 1, int(0.99 * len(times)))]
        print(
            f"  {len(times)} ways back: median {times[len(times) // 2]:.1f} s, p99 {p99:.1f} s, max {times[-1]:.1f} s"
        )
    print(f"  {len(history.events)} stored objects judged, {len(violations)} violations")
    for text in violations:
        print(f"  VIOLATION {text} (edit: {history.edits.get(text.partition(':')[0], 'none')})")
    return violations


def main() -> None:
    """Run and judge."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rollouts", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    print(f"seed {given.seed}, {given.rollouts} Rollouts, {given.minutes:g} minutes", flush=True)
    found = asyncio.run(run(seconds=given.minutes * 60, rollouts=given.rollouts, seed=given.seed))
    sys.exit(1 if report(*found) else 0)


if __name__ == "__main__":
    main()
