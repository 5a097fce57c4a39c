"""How many accelerators a pod asks for: extended resources of device plugins, which count whole devices.

Names: nvidia.com/gpu and nvidia.com/mig-*, amd.com/gpu, gpu.intel.com/*, google.com/tpu, habana.ai/gaudi. Extended
resources are asked for by limits; a request, where one is written, equals it (Kubernetes, "Manage resources").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rollouts.objects.fields import dict_at, items_at

__all__ = ["accelerators"]

_NAMES = re.compile(
    r"nvidia\.com/(gpu|mig-[a-z0-9.-]{1,32})|amd\.com/gpu|gpu\.intel\.com/[a-z0-9]{1,16}|google\.com/tpu|habana\.ai/gaudi"
)


def accelerators(template: Mapping[str, Any]) -> int:
    """Devices that one pod of a Pod template takes; 0 where it asks for none, or nothing that can be read."""
    containers = [items_at(template, "spec", kind) for kind in ("containers", "initContainers")]
    totals = [sum(map(_of_container, containers[0])), *map(_of_container, containers[1])]
    return max(totals)  # init containers run before, and give back what they had


def _of_container(container: Mapping[str, Any]) -> int:
    asked = {**dict_at(container, "resources", "requests"), **dict_at(container, "resources", "limits")}
    return sum(_count(value) for name, value in asked.items() if _NAMES.fullmatch(str(name)))


def _count(value: Any) -> int:
    text = str(value) if not isinstance(value, bool) else ""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 4 else 0
