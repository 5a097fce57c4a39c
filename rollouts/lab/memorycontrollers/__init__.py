"""Deployment and ReplicaSet controller, garbage collector and scheduler for the in-memory API server.

They do what capacity is built on as Kubernetes' own do it, in the same words: how many Pods there are, which of them
go first, where they run, and what is said of those that no node takes. What the real ones did is recorded
(``tests/recordings/workloads.json``), and both are held against it.

Left out: rolling updates (a changed template replaces all Pods at once, as ``Recreate`` does), adoption of orphans,
quotas, affinity, resources other than GPUs and the number of Pods.
"""

from __future__ import annotations

from rollouts.lab.memorycontrollers.service import MemoryControllers

__all__ = ["MemoryControllers"]
