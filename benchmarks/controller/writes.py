"""Writes of the controller for one canary of the example, by kind, leases and Events included.

``python -m benchmarks.controller.writes``: the demo's Rollout on real Envoy traffic, a leader-elected controller of its
own process, counted by its metric ``rollouts_api_requests_total`` from the commit to the promotion.
"""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
import time
from collections import Counter
from pathlib import Path

import aiohttp
import structlog
from prometheus_client.parser import text_string_to_metric_families

from rollouts.api.status import read_status
from rollouts.engine.rollout_status import Phase
from rollouts.lab.checkout import EXAMPLES
from rollouts.lab.environment import Lab, base_model_pods, read_objects
from rollouts.lab.traffic import Traffic, TrafficSpec
from rollouts.objects import kinds
from tests.kit.polling import eventually

RATE = 100.0
_WRITES = ("create", "patch", "delete")


async def written(lab: Lab) -> Counter[str]:
    """Writes so far, by resource."""
    async with (
        aiohttp.ClientSession(trust_env=False) as session,
        session.get(f"{lab.metrics_url}/metrics") as answer,
    ):
        text = await answer.text()
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "rollouts_api_requests_total" and sample.labels["verb"] in _WRITES:
                found[sample.labels["resource"]] += int(sample.value)
    return found


async def healthy(lab: Lab, attempt: int) -> bool:
    """Whether the Rollout is Healthy after so many attempts."""
    found = await lab.client.get(kinds.ROLLOUT, "default", "mymodel")
    status = read_status(found.get("status"))[0]
    return status.phase is Phase.HEALTHY and status.attempt == attempt


async def run(directory: Path) -> dict[str, object]:
    """One canary; seconds and writes by kind."""
    async with Lab(directory, pods=base_model_pods()) as lab:
        folder = EXAMPLES / "base-model"
        await lab.apply(read_objects(folder / "pools.yaml", folder / "gateway.yaml", folder / "route.yaml"))
        url = await lab.gateway.wait_for_gateway()
        await asyncio.gather(lab.start_pickers(), lab.start_controller())
        async with Traffic(TrafficSpec(url=url, rate=RATE, seconds=300)):
            (rollout,) = read_objects(folder / "rollout-demo.yaml")
            rollout["spec"]["target"]["pool"]["name"] = "mymodel-pool-v1"
            await lab.apply([rollout])
            await eventually(lambda: healthy(lab, 0), timeout=90, every=0.2)
            before, begun = await written(lab), time.monotonic()
            rollout["spec"]["target"]["pool"]["name"] = "mymodel-pool-v2"
            await lab.apply([rollout])
            await eventually(lambda: healthy(lab, 1), timeout=200, every=0.2)
            seconds = time.monotonic() - begun
            made = await written(lab) - before
    return {"seconds": round(seconds, 1), "writes": sum(made.values()), "by kind": dict(made.most_common())}


def main() -> None:
    """Print one JSON object."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with tempfile.TemporaryDirectory() as directory:
        print(json.dumps(asyncio.run(run(Path(directory))), indent=2))


if __name__ == "__main__":
    main()
