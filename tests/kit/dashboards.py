"""A dashboard over a copy of the objects of an attempt, on a loopback port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from rollouts.dashboard.looking import ClusterView as Watched
from rollouts.dashboard.server import Dashboard
from rollouts.objects import kinds
from rollouts.runtime.clock import SystemClock
from rollouts.runtime.health import ListenAddress
from tests.kit.faults.cluster import Cluster
from tests.kit.faults.simulation import Simulation
from tests.kit.memory_client import MemoryKubeClient

__all__ = ["copy_of", "dashboard_over"]

_COPIED = (kinds.POOL_X, kinds.POOL_V1, kinds.POD, kinds.ROLLOUT, kinds.ANALYSIS_RUN)


def copy_of(simulation: Simulation) -> Cluster:
    """What the simulation has stored, in an API server of its own."""
    cluster, uids = Cluster(SystemClock()), dict[str, str]()
    for resource in _COPIED:
        for obj in simulation.cluster.all(resource):
            meta = {name: value for name, value in obj["metadata"].items() if name not in _SERVERS_OWN}
            for owner in meta.get("ownerReferences", ()):
                owner["uid"] = uids[owner["uid"]]
            stored = cluster.create(resource, {**obj, "metadata": meta})
            uids[obj["metadata"]["uid"]] = stored["metadata"]["uid"]
            if "status" in obj:
                cluster.write_status(resource, meta["name"], obj["status"])
    return cluster


_SERVERS_OWN = ("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields")


@asynccontextmanager
async def dashboard_over(
    cluster: Cluster, *, allow_commands: bool = False, hosts: Collection[str] = ()
) -> AsyncIterator[str]:
    """Serve what is in the cluster; gives the address, without a slash at its end."""
    client, clock = MemoryKubeClient(cluster.api, field_manager="rollouts-cli"), SystemClock()
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    watched = Watched(client, clock, None)
    dashboard = Dashboard(
        client, watched, clock, ListenAddress("127.0.0.1", 0), hosts=hosts, allow_commands=allow_commands
    )
    serving = asyncio.ensure_future(dashboard.run(port.set_result))
    try:
        async with asyncio.timeout(20):
            number = await port
        yield f"http://127.0.0.1:{number}"
    finally:
        serving.cancel()
        await asyncio.wait({serving})
