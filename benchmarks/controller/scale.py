"""Many Rollouts mid-canary against a real kube-apiserver: memory, CPU, reconcile time, API requests, restart.

``python -m benchmarks.controller.scale [--rollouts 100 1000] [--finished 10]``; ``--finished`` adds runs of earlier
attempts to each. Each Rollout has a route of its own over two shared
pools of two simulated pods each, and stands in a pause at 10 %. The gateway is a small loop that reports the routes as
programmed. All figures are of the controller's process alone.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.controller.finished import add_finished_runs
from rollouts.lab.checkout import EXAMPLES
from rollouts.lab.controlplane import Choice
from rollouts.lab.environment import Lab, base_model_pods, read_objects
from rollouts.objects import kinds
from tests.kit.polling import eventually
from tests.kit.stubgateway import stub_gateway

TICKS = os.sysconf("SC_CLK_TCK")
REST_SECONDS = 60.0
FRESH_SECONDS = 130.0
"""For two minutes after its write a weight is watched closely: what is measured before that is no rest."""


def objects(index: int) -> list[dict[str, Any]]:
    """A route and a Rollout."""
    name = f"model-{index:04d}"
    refs = [
        {
            "group": kinds.POOL_X.group,
            "kind": "InferencePool",
            "name": f"mymodel-pool-{version}",
            "port": 8000,
            "weight": weight,
        }
        for version, weight in (("v1", 100), ("v2", 0))
    ]
    return [
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": name, "annotations": {"inferencerollouts.dev/managed-by": name}},
            "spec": {
                "parentRefs": [{"name": "inference-gateway"}],
                "rules": [
                    {
                        "matches": [{"path": {"type": "PathPrefix", "value": f"/{name}"}}],
                        "backendRefs": refs,
                    }
                ],
            },
        },
        {
            "apiVersion": "inferencerollouts.dev/v1alpha1",
            "kind": "Rollout",
            "metadata": {"name": name},
            "spec": {
                "target": {"pool": {"name": "mymodel-pool-v2"}},
                "traffic": {"httpRoutes": [{"name": name}]},
                "allowMissingModels": True,
                "strategy": {
                    "canary": {
                        "allowNoTraffic": True,
                        "steps": [{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}, {"pause": {}}],
                    }
                },
            },
        },
    ]


class Process:
    """Figures of the controller's process."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    @property
    def pid(self) -> int:
        """Process id."""
        assert self._lab._controller is not None
        return self._lab._controller.pid

    def cpu(self) -> float:
        """CPU seconds so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory(self) -> float:
        """Resident megabytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        return 0.0

    async def samples(self) -> dict[str, list[tuple[dict[str, str], float]]]:
        """Its metrics by name."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self._lab.metrics_url}/metrics") as answer,
        ):
            text = await answer.text()
        found: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, []).append((sample.labels, sample.value))
        return found

    async def requests(self) -> float:
        """API requests so far."""
        return sum(value for _, value in (await self.samples()).get("rollouts_api_requests_total", []))

    async def reconcile_quantile(self, q: float) -> float:
        """Upper bound of the bucket that holds the quantile of the Rollout reconciler."""
        buckets: dict[float, float] = {}
        for labels, value in (await self.samples()).get("rollouts_reconcile_seconds_bucket", []):
            if labels["controller"] == "rollout":
                bound = float(labels["le"])
                buckets[bound] = buckets.get(bound, 0.0) + value
        total = max(buckets.values(), default=0.0)
        return min((bound for bound, count in buckets.items() if count >= q * total), default=0.0)


async def paused(lab: Lab, count: int) -> bool:
    """Whether all Rollouts stand in their pause."""
    found, token = 0, ""
    while True:
        page = await lab.client.list_page(kinds.ROLLOUT, "default", continue_token=token)
        found += sum((item.get("status") or {}).get("phase") == "Paused" for item in page.items)
        token = page.continue_token
        if not token:
            return found == count


async def measure(count: int, finished: int) -> None:
    """One size, start to end."""
    folder = EXAMPLES / "base-model"
    with tempfile.TemporaryDirectory() as directory:
        lab = Lab(Path(directory), choice=Choice.REAL, pods=base_model_pods(2, 2), nodes=())
        async with lab, stub_gateway(lab.client.with_field_manager("bench-gateway"), "default"):
            await lab.apply(read_objects(folder / "pools.yaml"))
            await lab.add_picker_services()
            await lab.start_controller("--no-leader-elect")
            process = Process(lab)
            cpu, requests, began = process.cpu(), await process.requests(), time.monotonic()
            for start in range(0, count, 50):
                batch = [obj for index in range(start, min(count, start + 50)) for obj in objects(index)]
                await lab.apply(batch)
            await eventually(lambda: paused(lab, count), timeout=600)
            taken = time.monotonic() - began
            print(f"{count} Rollouts taken in and paused at 10 %: {taken:.0f} s")
            print(f"  CPU to take them in      {process.cpu() - cpu:.1f} s (target for 1,000: < 25)")
            print(
                f"  API requests             {(await process.requests() - requests) / count:.1f} per Rollout"
            )
            print(f"  resident memory          {process.memory():.0f} MB (target for 1,000: < 200)")
            p50, p99 = await process.reconcile_quantile(0.5), await process.reconcile_quantile(0.99)
            print(
                f"  reconcile p50 / p99      <= {p50 * 1000:g} ms / <= {p99 * 1000:g} ms (target: p99 < 1 s)"
            )
            cpu = process.cpu()
            await asyncio.sleep(FRESH_SECONDS)
            print(f"  CPU watching the writes  {process.cpu() - cpu:.1f} s in {FRESH_SECONDS:g} s")
            cpu, requests = process.cpu(), await process.requests()
            await asyncio.sleep(REST_SECONDS)
            print(f"  CPU at rest              {process.cpu() - cpu:.1f} s a minute (target for 1,000: < 2)")
            print(
                f"  API requests at rest     {await process.requests() - requests:.0f} a minute, watches included"
            )
            if finished:
                made, before = await add_finished_runs(lab.client, finished), process.memory()
                print(f"  {made} finished runs added    {before:.0f} MB (untrimmed garbage included)")
            await lab.stop_controller()
            began = time.monotonic()
            await lab.start_controller("--no-leader-elect")
            await eventually(lambda: planned(process), timeout=60)
            print(f"  restart to first plan    {time.monotonic() - began:.1f} s (target: < 10)", flush=True)
            await eventually(lambda: planned(process, count), timeout=120)
            print(
                f"  memory after the restart {process.memory():.0f} MB (target for 1,000: < 200)", flush=True
            )


async def planned(process: Process, least: int = 1) -> bool:
    """Whether the restarted controller has finished so many reconciles."""
    samples = (await process.samples()).get("rollouts_reconcile_seconds_count", [])
    return sum(value for labels, value in samples if labels["controller"] == "rollout") >= least


def main() -> None:
    """Print the figures for each size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rollouts", type=int, nargs="+", default=[100, 1000])
    parser.add_argument(
        "--finished", type=int, default=0, help="finished runs of earlier attempts per Rollout"
    )
    arguments = parser.parse_args()
    for count in arguments.rollouts:
        asyncio.run(measure(count, arguments.finished))


if __name__ == "__main__":
    main()
