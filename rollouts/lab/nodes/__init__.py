"""Nodes for a control plane with a scheduler: objects that stay Ready, and what runs the Pods that are bound to them.

The scheduler, the controllers and the garbage collector are Kubernetes' own (``ControlPlane.start_controllers``);
only the kubelet is the lab's. ``Nodes`` is that kubelet, a ``PodRuntime`` is what it starts for a Pod:
``PretendRuntime`` nothing, ``SimulatedServers`` a simulated vLLM server, by the container's own arguments.
"""

from __future__ import annotations

from rollouts.lab.nodes.node import Node
from rollouts.lab.nodes.runtime import PodRuntime, PodState, PretendRuntime
from rollouts.lab.nodes.servers import SimulatedServers
from rollouts.lab.nodes.service import Nodes

__all__ = ["Node", "Nodes", "PodRuntime", "PodState", "PretendRuntime", "SimulatedServers"]
