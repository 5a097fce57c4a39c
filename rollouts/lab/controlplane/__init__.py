"""API servers for the lab and the tests: a real kube-apiserver where one can be had, else in memory.

``ControlPlane`` starts and stops one, and with ``start_controllers`` kube-controller-manager and kube-scheduler beside
it; ``install_upstream_crds`` adds the Gateway API and the Inference Extension to it; ``create_ready_pod`` and its
neighbours stand in for a kubelet (``rollouts.lab.nodes`` is one). ``python -m rollouts.lab.controlplane build`` builds
all four programs once.
"""

from __future__ import annotations

from rollouts.lab.controlplane.errors import ControlPlaneError
from rollouts.lab.controlplane.pods import create_ready_pod, remove_pod, set_pod_ready
from rollouts.lab.controlplane.select import Choice, ControlPlane, Source
from rollouts.lab.controlplane.upstream import EVERYTHING, Upstream, install_crds, install_upstream_crds

__all__ = [
    "EVERYTHING",
    "Choice",
    "ControlPlane",
    "ControlPlaneError",
    "Source",
    "Upstream",
    "create_ready_pod",
    "install_crds",
    "install_upstream_crds",
    "remove_pod",
    "set_pod_ready",
]
