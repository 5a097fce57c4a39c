"""Two real controller processes: the leader is stopped past its lease, and wakes when another one leads."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from rollouts.controller.app import LEASE_NAME
from rollouts.lab.kubeconfig import write_kubeconfig
from rollouts.lab.memoryapi.server import MemoryApiServer
from rollouts.lab.processes import ChildProcess, free_port
from rollouts.objects import kinds
from rollouts.runtime.clock import SystemClock
from rollouts.runtime.lease import LEASES, VACANT
from tests.kit.faults.cluster import Cluster
from tests.kit.faults.objects import base_objects, rollout_object
from tests.kit.polling import eventually

# Two real processes and a real lease of 15 s: as fast as the machine lets them.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

PATIENCE = 60.0

# Each pause is over while the leader stands still, so that it wakes with a weight to write.
STEPS = [
    item for share in range(10, 100, 10) for item in ({"setWeight": share}, {"pause": {"duration": "2s"}})
]


@dataclass
class Audit:
    """Who wrote what, in the order of arrival. A process is known by the token in its kubeconfig."""

    writes: list[tuple[str, str]] = field(default_factory=list)

    def note(self, request: web.Request) -> None:
        if request.method != "GET":
            who = request.headers.get("Authorization", "").removeprefix("Bearer ")
            self.writes.append((who, f"{request.method} {request.path}"))

    def of(self, who: str, since: int = 0) -> list[str]:
        return [what for writer, what in self.writes[since:] if writer == who]


@dataclass
class Stage:
    """The API server, and a way to start controllers on it."""

    cluster: Cluster
    audit: Audit
    server: MemoryApiServer
    directory: Path
    started: list[ChildProcess] = field(default_factory=list)

    async def start(self, name: str) -> ChildProcess:
        config = self.directory / f"{name}.kubeconfig"
        write_kubeconfig(config, server=self.server.url, token=name)
        command = [sys.executable, "-m", "rollouts.cli", "controller", "--kubeconfig", str(config)]
        for option in ("--health-address", "--metrics-address"):
            command += [option, f"127.0.0.1:{free_port()}"]
        process = ChildProcess(name, command, log_path=self.directory / f"{name}.log")
        self.started.append(process)
        await process.start()
        return process

    def logged(self, process: ChildProcess, event: str) -> bool:
        return event in process.log_path.read_text()

    def holder(self) -> str:
        lease = self.cluster.get(LEASES, LEASE_NAME) or {}
        holder = str((lease.get("spec") or {}).get("holderIdentity") or "")
        return "" if holder == VACANT else holder


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as made:
        yield made


@asynccontextmanager
async def staged(directory: Path) -> AsyncIterator[Stage]:
    cluster, audit = Cluster(SystemClock()), Audit()
    loop = asyncio.get_running_loop()
    cluster.api.observers.append(lambda _: loop.call_soon(cluster.react))
    async with MemoryApiServer(cluster.api, on_request=audit.note) as server:
        made = Stage(cluster, audit, server, directory)
        try:
            yield made
        finally:
            for process in made.started:
                if process.returncode is None:
                    os.kill(process.pid, signal.SIGCONT)
                await process.stop()


async def test_a_leader_that_was_stopped_past_its_lease_wakes_and_writes_nothing(stage: Stage) -> None:
    # As a leader leaves it that stops cleanly: who comes next need not wait.
    released = {"holderIdentity": "", "leaseDurationSeconds": 1, "leaseTransitions": 0}
    lease = {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": {"name": LEASE_NAME}}
    stage.cluster.create(LEASES, {**lease, "spec": released})
    old = await stage.start("old")
    first = await eventually(stage.holder, timeout=PATIENCE)
    new = await stage.start("new")
    await eventually(lambda: stage.logged(new, "caches_synced"), timeout=PATIENCE)
    base_objects(stage.cluster, rollout_object(STEPS, canary={"allowNoTraffic": True}))
    route = f"/{kinds.HTTP_ROUTE.plural}/"
    await eventually(lambda: any(route in what for what in stage.audit.of("old")), timeout=PATIENCE)

    os.kill(old.pid, signal.SIGSTOP)
    await eventually(lambda: stage.holder() not in ("", first), timeout=PATIENCE)
    taken_over = next(i for i, (who, _) in enumerate(stage.audit.writes) if who == "new")
    await eventually(lambda: any(route in what for what in stage.audit.of("new")), timeout=PATIENCE)
    os.kill(old.pid, signal.SIGCONT)
    woken = len(stage.audit.writes)
    await eventually(lambda: old.returncode is not None, timeout=PATIENCE)
    await eventually(lambda: any(route in what for what in stage.audit.of("new", woken)), timeout=PATIENCE)

    assert stage.audit.of("new")[0].endswith("/leases/inference-rollouts")
    assert stage.audit.of("old", taken_over) == []
    assert old.returncode == 1, "it ends, so that it starts again with an empty memory"
    assert new.returncode is None
