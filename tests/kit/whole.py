"""A whole control plane for tests: API server, controllers, scheduler, and nodes whose kubelet is the lab's."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from rollouts.api.crds import all_crds
from rollouts.kube.http import open_client
from rollouts.lab.controlplane import Choice, ControlPlane, install_crds, install_upstream_crds
from rollouts.lab.nodes import Node, Nodes, SimulatedServers
from tests.kit.controllerpods import ControllerPods

__all__ = ["WholePlane"]

# Of the blocks of loopback addresses (rollouts.lab.loopback) that tests use, one that nobody else takes.
_BLOCK = 41


class WholePlane:
    """``start`` and ``stop`` it. Two nodes of eight GPUs each; Pods of vLLM serve, those of the chart control."""

    def __init__(self, directory: Path, *, nodes: Sequence[Node] = ()) -> None:
        self.plane = ControlPlane(directory, choice=Choice.REAL)
        pods = ControllerPods(directory, directory / "kubeconfig")
        self.servers = SimulatedServers(block=_BLOCK, others=pods)
        self._nodes = nodes or [Node(name=f"node-{number}", gpus=8) for number in (1, 2)]
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """API server, CRDs, controllers, nodes. Raises ControlPlaneError."""
        await self._stack.enter_async_context(self.plane)
        client = await self._stack.enter_async_context(
            await open_client(str(self.plane.kubeconfig), field_manager="kubelet")
        )
        await install_upstream_crds(client)
        await install_crds(client, all_crds())
        await self.plane.start_controllers()
        nodes = Nodes(client, self._nodes, self.servers)
        self._stack.push_async_callback(nodes.stop)
        await nodes.start()

    async def stop(self) -> None:
        """All of it, in reverse order."""
        await self._stack.aclose()
