"""What runs a Pod on a node of the lab: a protocol, and the runtime that starts nothing."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from enum import Enum
from ipaddress import IPv4Network
from typing import Any, Protocol

__all__ = ["PodRuntime", "PodState", "PretendRuntime"]

Object = Mapping[str, Any]
# Addresses that nobody listens on; kubeadm's usual Pod network. EndpointSlices refuse loopback ones.
_NETWORK = IPv4Network("10.244.0.0/16")


class PodState(Enum):
    """What has become of a Pod's containers."""

    STARTING = "starting"
    READY = "ready"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class PodRuntime(Protocol):
    """Starts and ends what is behind a Pod. Pods are told apart by their UID."""

    async def start(self, pod: Object) -> str:
        """Start it; answers its IP address. Raises OSError where it cannot be started."""
        ...

    async def state(self, pod: Object) -> PodState:
        """How it is."""
        ...

    async def stop(self, pod: Object, grace: float) -> None:
        """End it; what it is doing has ``grace`` seconds. One that does not run is left alone."""
        ...


class PretendRuntime:
    """Runs nothing. A Pod that restarts always is Ready after ``startup`` seconds; others end as their first word says.

    ``false`` fails, ``sleep`` stays until it is deleted, whatever else succeeds. Each takes ``ending`` seconds, or its
    grace, to end.
    """

    def __init__(self, *, startup: float = 0.0, ending: float = 0.0) -> None:
        self._hosts = itertools.cycle(_NETWORK.hosts())
        self._startup = startup
        self._ending = ending
        self._ready_at: dict[str, float] = {}

    async def start(self, pod: Object) -> str:
        """See ``PodRuntime.start``."""
        self._ready_at[pod["metadata"]["uid"]] = asyncio.get_running_loop().time() + self._startup
        return str(next(self._hosts))

    async def state(self, pod: Object) -> PodState:
        """See ``PodRuntime.state``."""
        if asyncio.get_running_loop().time() < self._ready_at.get(pod["metadata"]["uid"], 0.0):
            return PodState.STARTING
        spec = pod["spec"]
        container = spec["containers"][0]
        words = [*(container.get("command") or ()), *(container.get("args") or ())]
        if spec.get("restartPolicy", "Always") == "Always" or words[:1] == ["sleep"]:
            return PodState.READY
        return PodState.FAILED if words[:1] == ["false"] else PodState.SUCCEEDED

    async def stop(self, pod: Object, grace: float) -> None:
        """See ``PodRuntime.stop``."""
        self._ready_at.pop(pod["metadata"]["uid"], None)
        await asyncio.sleep(min(self._ending, grace))
