"""A tiny API server and the network to it, for simulations of several processes.

The server knows Leases and one write (of anything else), which it records: who wrote, in which epoch, when
sent and when stored. The network delays, loses and cuts; each process has its own path through it.

One law holds: a request once sent arrives within ``transit`` seconds or never. It is what the fence assumes;
answers may take any time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Unpack

from rollouts.kube.client import CreateOptions, PatchKind, Resource
from rollouts.kube.errors import AlreadyExists, ApiTimeout, ApiUnavailable, Conflict, KubeError, NotFound
from tests.kit.processes import Process, World

__all__ = ["FakeApiServer", "Network", "SimulatedClient", "Write"]

Object = dict[str, Any]
LEASES = "leases"


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One stored write. Times in virtual seconds."""

    writer: str
    epoch: int
    sent: float
    stored: float


class FakeApiServer:
    """Leases with resourceVersions, and a record of all other writes."""

    def __init__(self) -> None:
        self.version = 0
        self.leases: dict[str, Object] = {}
        self.writes: list[Write] = []

    def get(self, name: str) -> Object:
        """Raises NotFound."""
        if name not in self.leases:
            raise NotFound(f"leases {name!r} not found", status=404)
        return self.leases[name]

    def create(self, name: str, obj: Mapping[str, Any]) -> Object:
        """Raises AlreadyExists."""
        if name in self.leases:
            raise AlreadyExists(f"leases {name!r} already exists", status=409)
        return self._store(name, obj["spec"])

    def patch(self, name: str, patch: Mapping[str, Any]) -> Object:
        """A merge patch with its precondition. Raises NotFound, Conflict."""
        stored = self.get(name)
        expected = patch["metadata"].get("resourceVersion")
        if expected is not None and expected != stored["metadata"]["resourceVersion"]:
            raise Conflict("the object has been modified", status=409)
        return self._store(name, {**stored["spec"], **patch.get("spec", {})})

    def delete(self, name: str) -> None:
        """As an operator, or a tidy GitOps tool, would."""
        self.leases.pop(name, None)

    def _store(self, name: str, spec: Mapping[str, Any]) -> Object:
        self.version += 1
        self.leases[name] = {"metadata": {"resourceVersion": str(self.version)}, "spec": dict(spec)}
        return self.leases[name]


@dataclass(slots=True, kw_only=True)
class Network:
    """What happens to requests. Probabilities in [0, 1], times in seconds.

    The maps say until when something is wrong for one process: it is cut off, its requests are slow, or
    those about Leases get lost while others pass (they are another flow for the server's fair queueing).
    """

    rng: random.Random
    transit: float
    fast: tuple[float, float] = (0.001, 0.02)
    hung_until: float = 0.0
    partitioned: dict[str, float] = field(default_factory=dict)
    slow_requests: dict[str, float] = field(default_factory=dict)
    starved_leases: dict[str, float] = field(default_factory=dict)
    resets: float = 0.0
    slow_answers: float = 0.0

    def connect_delay(self, process: str, now: float) -> float:
        """Seconds from the decision to send to the sending."""
        slow = now < self.slow_requests.get(process, 0.0)
        return self.rng.uniform(0.0, self.transit) if slow else self.rng.uniform(*self.fast)

    def request_delay(self, process: str, now: float, *, lease: bool) -> float | None:
        """Seconds to the server, None when it never gets there."""
        if self._cut_off(process, now) and self.rng.random() < 0.6:
            return None
        if lease and now < self.starved_leases.get(process, 0.0):
            return None
        if now < self.slow_requests.get(process, 0.0):
            return self.rng.uniform(0.0, self.transit)
        return self.rng.uniform(*self.fast)

    def answer_delay(self, process: str, now: float) -> float | None:
        """Seconds back, None when it never comes."""
        if self._cut_off(process, now):
            return None
        return self.rng.uniform(*self.fast) + self.rng.uniform(0.0, self.slow_answers)

    def _cut_off(self, process: str, now: float) -> bool:
        return now < max(self.hung_until, self.partitioned.get(process, 0.0))

    def cut(self) -> bool:
        """Whether the connection is reset now."""
        return self.rng.random() < self.resets


class SimulatedClient:
    """The part of ``KubeClient`` that the lease and a writer use, for one process."""

    def __init__(
        self,
        world: World,
        server: FakeApiServer,
        network: Network,
        process: Process,
        *,
        write_timeout: float = 30.0,
    ) -> None:
        self._write_timeout = write_timeout
        self._world = world
        self._server = server
        self._network = network
        self._process = process

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        """Read a Lease."""
        return await self._call(True, lambda sent: self._server.get(name))

    async def create(
        self,
        resource: Resource,
        namespace: str | None,
        obj: Mapping[str, Any],
        **options: Unpack[CreateOptions],
    ) -> Object:
        """Create a Lease."""
        return await self._call(True, lambda sent: self._server.create(obj["metadata"]["name"], obj))

    async def patch(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        patch: Any,
        *,
        kind: PatchKind,
        subresource: str = "",
        force: bool = False,
        dry_run: bool = False,
    ) -> Object:
        """Patch a Lease, or write anything else: ``patch`` is then the epoch."""
        if resource.plural == LEASES:
            return await self._call(True, lambda sent: self._server.patch(name, patch))
        try:
            async with asyncio.timeout(self._write_timeout):
                return await self._call(False, lambda sent: self._write(int(patch), sent))
        except TimeoutError as error:
            raise ApiTimeout("no answer; the write may have been stored, or be stored later") from error

    def _write(self, epoch: int, sent: float) -> Object:
        write = Write(writer=self._process.name, epoch=epoch, sent=sent, stored=self._world.now)
        self._server.writes.append(write)
        return {}

    async def _call(self, lease: bool, handle: Callable[[float], Object]) -> Object:
        """One request: connect, send, be handled, be answered; any of it may fail."""
        network, process = self._network, self._process
        if process.alive:
            await asyncio.sleep(network.connect_delay(process.name, self._world.now))
        if not process.alive:
            raise ApiUnavailable("the process is dead")
        if network.cut():
            raise ApiUnavailable("connection reset before the request was sent")
        answer: asyncio.Future[Object] = asyncio.get_running_loop().create_future()
        sent = self._world.now
        delay = network.request_delay(process.name, sent, lease=lease)
        if delay is not None:
            self._world.after(delay, lambda: self._arrive(handle, sent, answer))
        return await answer

    def _arrive(self, handle: Callable[[float], Object], sent: float, answer: asyncio.Future[Object]) -> None:
        """At the server. Runs whatever became of the sender meanwhile: the request is out of its hands."""
        result: Object | KubeError
        try:
            result = handle(sent)
        except KubeError as error:
            result = error
        if self._network.cut():
            result = ApiUnavailable("connection reset after the request was handled")
        delay = self._network.answer_delay(self._process.name, self._world.now)
        if delay is not None:
            self._world.after(delay, lambda: self._process.deliver(lambda: _settle(answer, result)))


def _settle(answer: asyncio.Future[Object], result: Object | KubeError) -> None:
    if answer.done():
        return
    if isinstance(result, KubeError):
        answer.set_exception(result)
    else:
        answer.set_result(result)
