"""How many accelerators a pod asks for: extended resources of device plugins, which count whole devices.

Names: nvidia.com/gpu, nvidia.com/gpu.shared (time slices), nvidia.com/mig-*, amd.com/gpu, gpu.intel.com/*,
google.com/tpu, habana.ai/gaudi, aws.amazon.com/neuron (devices; neuroncore are parts of those), huawei.com/Ascend*.
Extended resources are asked for by limits; a request, where one is written, equals it (Kubernetes, "Manage
resources"). Devices of resource claims (DRA) are not counted: a pod does not say how many it gets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rollouts.objects.fields import dict_at, items_at, map_of

__all__ = ["accelerators", "container_with", "of_replica"]

_NAMES = re.compile(
    r"nvidia\.com/(gpu|gpu\.shared|mig-[a-z0-9.-]{1,32})|amd\.com/gpu|gpu\.intel\.com/[a-z0-9]{1,16}|google\.com/tpu"
    r"|habana\.ai/gaudi|aws\.amazon\.com/neuron|huawei\.com/Ascend[0-9A-Za-z-]{1,16}"
)


def accelerators(template: Mapping[str, Any]) -> int:
    """Devices that a pod, or one of a Pod template, takes; 0 where it asks for none, or nothing that can be read."""
    beside, most = 0, 0
    for one in items_at(template, "spec", "initContainers"):  # in their order
        most = max(most, beside + _of_container(one))
        if one.get("restartPolicy") == "Always":  # a sidecar, which stays; others give back what they had
            beside += _of_container(one)
    return max(most, beside + sum(map(_of_container, items_at(template, "spec", "containers"))))


def of_replica(workload: Mapping[str, Any]) -> int:
    """Devices that one replica of a workload takes: of a LeaderWorkerSet's a leader and its workers.

    A size that cannot be read is 1, as the API server defaults it.
    """
    groups = dict_at(workload, "spec", "leaderWorkerTemplate")
    if not groups:
        return accelerators(dict_at(workload, "spec", "template"))
    worker, leader, size = (groups.get(name) for name in ("workerTemplate", "leaderTemplate", "size"))
    each = accelerators(map_of(worker))
    first = accelerators(leader) if isinstance(leader, Mapping) else each
    workers = size - 1 if isinstance(size, int) and not isinstance(size, bool) and size > 0 else 0
    return first + workers * each


def container_with(count: int) -> dict[str, Any]:
    """A container that asks for so many: what is kept of those of a cached pod."""
    return {"resources": {"limits": {"nvidia.com/gpu": str(count)}}}


def _of_container(container: Mapping[str, Any]) -> int:
    asked = {**dict_at(container, "resources", "requests"), **dict_at(container, "resources", "limits")}
    return sum(_count(value) for name, value in asked.items() if _NAMES.fullmatch(str(name)))


def _count(value: Any) -> int:
    text = str(value) if not isinstance(value, bool) else ""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 4 else 0
