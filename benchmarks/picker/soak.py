"""Soak the endpoint picker behind a real Envoy: ``python -m benchmarks.picker.soak --minutes 20 [--data-path native]``.

Mixed load while clients leave, pods are killed and restarted, and the weights move each minute. It ends with
status 1 when an answer came from a wrong model, a session has no threshold, an error was of our making, or the
picker's memory grew.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import structlog

from benchmarks.picker.serving import PATHS
from benchmarks.picker.soakchecks import (
    LAG,
    SPLIT,
    Epoch,
    Window,
    flipped_sessions,
    our_errors,
    share_without_session,
    slope,
    wrong_models,
)
from benchmarks.picker.soakload import Load
from rollouts.kube.client import PatchKind
from rollouts.lab.checkout import EXAMPLES
from rollouts.lab.environment import ADAPTERS, Lab, read_objects
from rollouts.lab.loopback import loopback
from rollouts.lab.vllm.spec import PodSpec
from rollouts.objects import kinds

STABLE, CANARY = ADAPTERS
SERVICE = "mymodel-v1-ext-proc"
WEIGHTS = (10, 25, 50, 90, 100, 50, 0, 5, 75, 25)
"""Percent of the canary in turn; down as well as up, and both ends."""

EPOCH = 60.0
POD_EVERY = 20.0
POD_DOWN = 3.0
READY_LAG = 2.0
"""Seconds after a restart until the pod is Ready again and everybody knows."""

SAMPLE = 10.0
GROWTH = 0.03
"""Largest growth of the picker's memory, as a fraction, over the second half of the run; in the first one heaps
and caches fill."""


class Soak:
    """The lab, what is done to it, and what was seen."""

    def __init__(self, lab: Lab, load: Load, *, seed: int) -> None:
        self.lab, self.load = lab, load
        self.epochs: list[Epoch] = []
        self.killed: list[Window] = []
        self.restarts = 0
        self.memory: list[tuple[float, float]] = []  # (monotonic seconds, MB)
        self._random = random.Random(seed)

    async def set_weight(self, percent: int) -> None:
        """Write the weights; an entry of 0 leaves the list."""
        weights = {STABLE: 100 - percent, CANARY: percent}
        targets = [{"name": name, "weight": weight} for name, weight in weights.items() if weight]
        patch = {"spec": {"targetModels": targets}}
        self.epochs.append(Epoch(time.monotonic(), percent / 100))
        await self.lab.client.patch(
            kinds.INFERENCE_MODEL, "default", "loramodel", patch, kind=PatchKind.MERGE
        )

    async def set_phase(self, phase: str) -> None:
        """What the controller's status says: while a canary is judged, every response is measured."""
        arm = {"kind": "Adapter", "name": CANARY, "hash": "0" * 64}
        patch = {"status": {"phase": phase, "canary": arm if phase == "Progressing" else None}}
        await self.lab.client.patch(
            kinds.ROLLOUT, "default", SPLIT, patch, kind=PatchKind.MERGE, subresource="status"
        )

    async def move_weights(self) -> None:
        """New weights each minute; measured fully in every other one."""
        for turn in range(10**6):
            await self.set_weight(WEIGHTS[turn % len(WEIGHTS)])
            await self.set_phase("Healthy" if turn % 2 else "Progressing")
            await asyncio.sleep(EPOCH)
            self.tell(turn)

    def tell(self, turn: int) -> None:
        """One line about the minute that has ended."""
        epoch, end = self.epochs[-1], time.monotonic()
        canary, total = share_without_session(self.load.seen, epoch, end, canary=CANARY)
        share = f"{100 * canary / total:5.1f}%" if total else "    -"
        print(
            f"minute {turn + 1:3}  weight {100 * epoch.weight:3.0f}%  without a session {share} of {total:4}"
            f" ({abs(canary - epoch.weight * total):.1f} off)  requests {len(self.load.seen):6}"
            f"  picker {self.memory[-1][1]:6.1f} MB"
            if self.memory
            else "",
            flush=True,
        )

    async def restart_pods(self) -> None:
        """One pod at a time: in turns killed, and taken out of service first as a rolling update does."""
        names = sorted(self.lab.fleet.pods)
        while True:
            await asyncio.sleep(POD_EVERY)
            pod = self.lab.fleet.pods[self._random.choice(names)]
            if pod.server is None:
                continue
            self.restarts += 1
            if self.restarts % 2:
                began = time.monotonic()
                pod.crash(restart_after=POD_DOWN)
                self.killed.append(Window(began, began + POD_DOWN + READY_LAG))
            else:
                pod.server.engine.knobs = replace(pod.server.engine.knobs, ready=False)
                await asyncio.sleep(2 * READY_LAG)
                pod.crash(restart_after=POD_DOWN)
            await asyncio.sleep(POD_DOWN + READY_LAG)

    async def sample_memory(self) -> None:
        """Resident memory of the picker's process."""
        pid = self.lab.pickers.processes[SERVICE].pid
        while True:
            self.memory.append((time.monotonic(), resident_mb(pid)))
            await asyncio.sleep(SAMPLE)


def resident_mb(pid: int) -> float:
    """VmRSS of a process in MB, from /proc."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(f"process {pid} has ended: see its log")


def pods(count: int = 4) -> list[PodSpec]:
    """Pods on addresses of their own, so that a soak runs beside a lab."""
    return [
        PodSpec(
            name=f"soak-{index}",
            address=loopback(7, 10 + index),
            labels={"app": "custom-serving", "release": "qwen"},
            adapters=ADAPTERS,
            max_model_len=1_000_000,
            kv_tokens=4_000_000,
            seed=index,
        )
        for index in range(count)
    ]


async def stage(lab: Lab) -> str:
    """The objects of the two examples, the pickers, and one answer through them."""
    base, lora = EXAMPLES / "base-model", EXAMPLES / "lora"
    files = (base / "pools.yaml", base / "gateway.yaml", base / "route.yaml", lora / "model.yaml")
    await lab.apply(read_objects(*files, lora / "rollout-demo.yaml"))
    url = await lab.gateway.wait_for_gateway()
    await lab.start_pickers()
    async with asyncio.timeout(15), aiohttp.ClientSession() as session:
        while True:
            async with session.post(
                f"{url}/v1/completions", json={"model": SPLIT, "prompt": "x", "max_tokens": 1}
            ) as answer:
                if answer.status == 200:
                    return url
            await asyncio.sleep(0.1)


async def soak(minutes: float, rate: float, seed: int, data_path: str, directory: Path) -> dict[str, Any]:
    """Run it. Answers the report; its ``failures`` is empty when everything held."""
    async with Lab(directory, pods=pods()) as lab:
        lab.picker_options += ("--data-path", data_path)
        run = Soak(lab, Load(await stage(lab), rate=rate, seed=seed), seed=seed)
        work = (run.move_weights(), run.restart_pods(), run.sample_memory())
        tasks = [asyncio.create_task(task) for task in work]
        try:
            await run.load.run(minutes * 60)
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        broken = [error for error in ended if isinstance(error, Exception)]
        if broken:
            raise ExceptionGroup("the soak itself failed", broken)
        return report(run, await own_refusals(lab), minutes)


async def own_refusals(lab: Lab) -> float:
    """Requests that the picker answered itself with a 5xx, by its own count."""
    async with aiohttp.ClientSession() as session, session.get(lab.pickers.metrics_urls[SERVICE]) as answer:
        lines = (await answer.text()).splitlines()
    ours = (line for line in lines if line.startswith("inference_picker_requests_total") and 'pod=""' in line)
    return sum(float(line.rsplit(" ", 1)[1]) for line in ours if 'code="5' in line)


def minima(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The lowest point of each minute: between two trims (every 30 s) large bodies come and go."""
    each = round(60 / SAMPLE)
    return [min(points[at : at + each], key=lambda point: point[1]) for at in range(0, len(points), each)]


def report(run: Soak, refusals: float, minutes: float) -> dict[str, Any]:
    """Figures and failures of an ended soak."""
    seen = run.load.seen
    wrong = wrong_models(seen, run.epochs, stable=STABLE, canary=CANARY)
    flipped = flipped_sessions(seen, run.epochs, canary=CANARY)
    errors = our_errors(seen, run.killed)
    floors = minima(run.memory)
    settled = floors[len(floors) // 2 :]
    per_minute = 60 * slope(settled)
    grown = per_minute * minutes / 2 / settled[0][1] if math.isfinite(per_minute) else 0.0
    failures = [f"wrong model: {one}" for one in wrong[:5]] + [
        f"session flipped: {name}" for name in flipped[:5]
    ]
    failures += [f"error of ours: {one}" for one in errors[:5]]
    if refusals:
        failures.append(f"the picker refused {refusals:g} requests with a 5xx")
    if grown > GROWTH:
        failures.append(
            f"memory grows by {per_minute:.3f} MB a minute, {100 * grown:.1f} % over half the run"
        )
    excused = Counter(one.status for one in seen if one.status >= 500 or not one.whole)
    return {
        "minutes": minutes,
        "requests": len(seen),
        "load": dict(sorted(run.load.sent.items())),
        "epochs": len(run.epochs),
        "podRestarts": run.restarts,
        "podsKilled": len(run.killed),
        "wrongModel": len(wrong),
        "sessionsFlipped": len(flipped),
        "errorsOfOurs": len(errors),
        "errorsOfKilledPods": {str(status): count for status, count in sorted(excused.items())},
        "pickerRefusals5xx": refusals,
        "lowestMemoryMBOfEachMinute": [round(mb, 1) for _, mb in floors],
        "memorySlopeOfSecondHalfMBPerMinute": round(per_minute, 4),
        "lagSeconds": LAG,
        "failures": failures,
    }


def main() -> None:
    """Parse the arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--data-path", choices=PATHS, default="python")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        run = soak(arguments.minutes, arguments.rate, arguments.seed, arguments.data_path, Path(directory))
        result = {"dataPath": arguments.data_path, **asyncio.run(run)}
    print(json.dumps(result, indent=1))
    sys.exit(1 if result["failures"] else 0)


if __name__ == "__main__":
    main()
