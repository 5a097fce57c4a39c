"""Time from an abort's decision to the last request that the canary answers, at a real Envoy.

``python -m benchmarks.controller.aborts [--count 50]``. The Rollout's background analysis asks a Prometheus that is
down, so the figure holds with Prometheus dead. Decision: the moment before the abort command is sent, which is earlier
than the controller knows of it. End: the moment at which the last request that the canary answered was sent.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from rollouts.api.parsing import COMMAND_ANNOTATION
from rollouts.api.status import read_status
from rollouts.engine.rollout_status import Phase, RolloutStatus
from rollouts.kube.client import PatchKind
from rollouts.lab.checkout import EXAMPLES
from rollouts.lab.controlplane import Choice
from rollouts.lab.environment import Lab, base_model_pods, read_objects
from rollouts.lab.traffic import Traffic, TrafficSpec
from rollouts.objects import kinds
from tests.kit.polling import eventually

RATE = 100.0


def rollout(target: str) -> dict[str, Any]:
    """One step at 50 %, then a pause; background analysis on a dead source."""
    steps = [{"setWeight": 50}, {"pause": {}}]
    background = {
        "metrics": [
            {"name": "dead", "source": "dead", "query": "vector(0)", "interval": "5s", "onFail": "Abort"},
        ]
    }
    return {
        "apiVersion": "inferencerollouts.dev/v1alpha1",
        "kind": "Rollout",
        "metadata": {"name": "mymodel"},
        "spec": {
            "target": {"pool": {"name": target}},
            "traffic": {"httpRoutes": [{"name": "inference-route"}]},
            "allowMissingModels": True,
            "strategy": {"canary": {"steps": steps, "analysis": background}},
        },
    }


async def status(lab: Lab) -> RolloutStatus:
    """The Rollout's status."""
    found = await lab.client.get(kinds.ROLLOUT, "default", "mymodel")
    return read_status(found.get("status"))[0]


async def command(lab: Lab, action: str) -> None:
    """Write a command annotation."""
    now = await status(lab)
    assert now.canary is not None
    raw = json.dumps({"action": action, "revision": now.canary.hash, "at": uuid.uuid4().hex})
    body = {"metadata": {"annotations": {COMMAND_ANNOTATION: raw}}}
    await lab.client.patch(kinds.ROLLOUT, "default", "mymodel", body, kind=PatchKind.MERGE)


async def measure(count: int) -> list[float]:
    """Seconds from decision to 0 % canary, one per abort."""
    folder, seconds = EXAMPLES / "base-model", []
    with tempfile.TemporaryDirectory() as directory:
        async with Lab(Path(directory), choice=Choice.MEMORY, pods=base_model_pods()) as lab:
            await lab.apply(
                read_objects(folder / "pools.yaml", folder / "gateway.yaml", folder / "route.yaml")
            )
            await lab.add_picker_services()
            url = await lab.gateway.wait_for_gateway()
            await lab.start_controller("--no-leader-elect", "--source", "dead=http://127.0.0.1:1")
            await lab.apply([rollout("mymodel-pool-v2")])
            for number in range(count):
                await eventually(lambda: carrying(lab), timeout=60)
                seconds.append(await one_abort(lab, url))
                print(f"  abort {number + 1}/{count}: {seconds[-1]:.3f} s", flush=True)
                await command(lab, "retry")
    return seconds


async def carrying(lab: Lab) -> bool:
    """Whether half of the traffic goes to the canary and the rollout waits there."""
    now = await status(lab)
    return now.phase is Phase.PAUSED and now.weight.applied == 5000


async def one_abort(lab: Lab, url: str) -> float:
    """Abort under traffic."""
    async with Traffic(TrafficSpec(url=url, rate=RATE, seconds=30, streamed=0.3)) as traffic:
        await asyncio.sleep(0.5)
        decided = time.monotonic()
        await command(lab, "abort")
        await asyncio.sleep(2.5)
        results = traffic.window(decided).results
    last = max((r.sent_at for r in results if r.pod.startswith("deepseek")), default=decided)
    return max(0.0, last - decided)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=50)
    count = parser.parse_args().count
    figures = sorted(asyncio.run(measure(count)))
    p99 = figures[min(len(figures) - 1, int(0.99 * len(figures)))]
    print(
        f"{count} aborts, Prometheus dead: median {statistics.median(figures):.3f} s, p99 {p99:.3f} s, "
        f"max {figures[-1]:.3f} s (target: p99 <= 2 s)"
    )


if __name__ == "__main__":
    main()
