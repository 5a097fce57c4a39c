"""Failovers by the thousand: candidates on one virtual time line, an unkind environment, and a checker.

Each candidate is a process of its own (``tests.kit.processes``) that runs a ``LeaderElector`` and,
while it leads, writes through a ``FencedClient`` as fast as it may. Something bad happens every few seconds.
``violations`` is the judge: it reads the record of what the server stored and knows nothing of leases.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

from rollouts.kube.client import KubeClient, PatchKind, Resource
from rollouts.kube.errors import KubeError
from rollouts.runtime.election import LeaderElector, Leadership
from rollouts.runtime.fencing import FencedClient, WriteFence
from rollouts.runtime.lease import LeaseConfig
from tests.kit.network import FakeApiServer, Network, SimulatedClient, Write
from tests.kit.processes import Process, World

__all__ = ["FailoverReport", "Failovers", "Parts", "violations"]

ROUTES = Resource(group="gateway.networking.k8s.io", version="v1", plural="httproutes", kind="HTTPRoute")
# Short, to fit more failovers into an hour, and with a small margin between the last write of a leader and
# the first chance of the next, to give mistakes less room.
CONFIG = LeaseConfig(
    namespace="ns",
    name="controller",
    duration=6,
    renew_deadline=4.8,
    renew_period=1.0,
    retry_period=1.0,
    request_timeout=2.4,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The classes under test; mutants replace one."""

    elector: type[LeaderElector] = LeaderElector
    fence: type[WriteFence] = WriteFence


@dataclass(frozen=True, slots=True, kw_only=True)
class FailoverReport:
    """What a simulation did. ``violations`` is empty when all is well."""

    failovers: int
    writes: int
    virtual_seconds: float
    faults: Counter[str]
    violations: tuple[str, ...]


def violations(writes: list[Write]) -> list[str]:
    """Pairs of writers whose windows overlap, a window being from first sent to last stored write."""
    windows: dict[str, tuple[float, float]] = {}
    for write in writes:
        first, last = windows.get(write.writer, (write.sent, write.stored))
        windows[write.writer] = (min(first, write.sent), max(last, write.stored))
    ordered = sorted(windows.items(), key=lambda item: item[1])
    found = []
    latest = -1.0
    holder = ""
    for writer, (first, last) in ordered:
        if first < latest:
            found.append(f"{writer} wrote from {first:.3f} while {holder} wrote until {latest:.3f}")
        if last > latest:
            latest, holder = last, writer
    return found


class _Candidate:
    """One process that stands for election and writes while it leads."""

    def __init__(self, failovers: Failovers, name: str, config: LeaseConfig) -> None:
        world, rng = failovers.world, failovers.rng
        self.process = world.spawn(name)
        self.fence = failovers.parts.fence(self.process.clock)
        client = cast("KubeClient", SimulatedClient(world, failovers.server, failovers.network, self.process))
        self._writer = FencedClient(client, self.fence)
        self._rng = random.Random(rng.random())
        self._lingers = rng.random() < 0.3
        self.elector = failovers.parts.elector(
            client,
            config,
            name,
            self.process.clock,
            self.fence,
            drain=2.0,
            rng=random.Random(rng.random()),
            on_stuck=self.process.kill,
        )
        self.process.start(self.elector.run(self._work))

    async def _work(self, leadership: Leadership) -> None:
        try:
            while not leadership.stopping.is_set():
                await self._write(leadership.epoch)
                await self.process.clock.sleep(self._rng.uniform(0.02, 0.6))
        finally:
            if self._lingers:
                # Work that takes its time to end, and tries to write once more.
                await self.process.clock.sleep(self._rng.uniform(0.0, 1.5))
                await self._write(leadership.epoch)

    async def _write(self, epoch: int) -> None:
        try:
            await self._writer.patch(ROUTES, "ns", "route", epoch, kind=PatchKind.MERGE)
        except KubeError:
            return


class Failovers:
    """A simulation of ``candidates`` processes. Deterministic for a ``seed``."""

    def __init__(self, seed: int, *, candidates: int = 3, parts: Parts | None = None) -> None:
        self.rng = random.Random(seed)
        self.parts = parts or Parts()
        self.world = World()
        self.server = FakeApiServer()
        self.faults: Counter[str] = Counter()
        # Candidates of different versions may be configured differently, but then nobody deletes the Lease:
        # without the record a candidate can only go by its own duration.
        self._mixed = seed % 3 == 0
        self.network = Network(rng=random.Random(self.rng.random()), transit=CONFIG.settle * 0.95)
        self._menu = self._make_menu(seed)
        self._live: dict[int, _Candidate] = {}
        self._started = 0
        self._open_at_once: list[str] = []
        self._writers: set[str] = set()
        self._seen = 0
        for slot in range(candidates):
            self._start(slot)

    def run(self, failovers: int, *, limit: float = 1e6, stop_on_violation: bool = False) -> FailoverReport:
        """Until so many different processes have written, or ``limit`` virtual seconds."""
        self._schedule_fault()

        def over() -> bool:
            fresh = len(self.server.writes) > self._seen
            self._watch()
            if stop_on_violation and (self._open_at_once or (fresh and self._latest_violations())):
                return True
            return len(self._writers) > failovers

        self.world.run(over, limit=limit)
        report = self._report()
        self.world.dispose()
        return report

    def _report(self) -> FailoverReport:
        return FailoverReport(
            failovers=len({write.writer for write in self.server.writes}) - 1,
            writes=len(self.server.writes),
            virtual_seconds=self.world.now,
            faults=self.faults,
            violations=(*violations(self.server.writes), *self._open_at_once),
        )

    def _latest_violations(self) -> list[str]:
        """Those among the writes of the last minute, cheap enough to ask after each write."""
        recent = itertools.takewhile(
            lambda write: write.stored > self.world.now - 60.0, reversed(self.server.writes)
        )
        return violations(list(recent))

    def _watch(self) -> None:
        """After each instant: count writers, look at the fences, restart what has ended."""
        for write in self.server.writes[self._seen :]:
            self._writers.add(write.writer)
        self._seen = len(self.server.writes)
        may_write = [
            candidate.process.name
            for candidate in self._live.values()
            if candidate.process.alive and candidate.fence.may_write()
        ]
        if len(may_write) > 1 and not self._open_at_once:
            self._open_at_once.append(f"{' and '.join(may_write)} may write at {self.world.now:.3f}")
        for slot, candidate in list(self._live.items()):
            if candidate.process.ended:
                del self._live[slot]
                self.world.after(self.rng.uniform(0.05, 1.5), partial(self._start, slot))

    def _start(self, slot: int) -> None:
        self._started += 1
        config = CONFIG
        if self._mixed and slot:
            deadline = 5.0 * slot - CONFIG.settle
            config = replace(CONFIG, duration=5 * slot, renew_deadline=deadline, request_timeout=deadline / 2)
        self._live[slot] = _Candidate(self, f"process-{self._started}", config)

    # The unkind environment

    def _make_menu(self, seed: int) -> list[Callable[[Process], None]]:
        """Every fault, and in most seeds one of them again and again."""
        menu: list[Callable[[Process], None]] = [
            self._suspend,
            self._kill,
            self._stop,
            self._hang,
            self._partition,
            self._resets,
            self._slow_answers,
            self._slow_requests,
            self._starve_lease,
            self._jump_wall,
            self._annotate,
        ]
        if not self._mixed:
            menu.append(self._delete_lease)
        favourites = {1: self._suspend, 2: self._starve_lease, 3: self._stop}
        if seed % 5 in favourites:
            menu.extend([favourites[seed % 5]] * len(menu) * 2)
        return menu

    def _schedule_fault(self) -> None:
        self.world.after(self.rng.uniform(0.3, 5.0), self._fault)

    def _fault(self) -> None:
        fault = self.rng.choice(self._menu)
        leading = [c for c in self._live.values() if c.fence.may_write()]
        victims = leading if leading and self.rng.random() < 0.8 else list(self._live.values())
        if victims:
            self.faults[fault.__name__.removeprefix("_")] += 1
            fault(self.rng.choice(victims).process)
        self._schedule_fault()

    def _suspend(self, process: Process) -> None:
        process.suspend()
        self.world.after(self.rng.choice((0.5, 2.0, 4.7, 5.0, 6.2, 20.0)), process.resume)

    def _kill(self, process: Process) -> None:
        process.kill()

    def _stop(self, process: Process) -> None:
        """A clean stop, half the time with a slow write still on its way."""
        delay = self.rng.choice((0.0, 0.8))
        self.network.slow_requests[process.name] = self.world.now + delay
        for candidate in self._live.values():
            if candidate.process is process:
                self.world.after(delay, partial(process.deliver, candidate.elector.stop))

    def _hang(self, process: Process) -> None:
        self.network.hung_until = self.world.now + self.rng.uniform(0.5, 15.0)

    def _partition(self, process: Process) -> None:
        self.network.partitioned[process.name] = self.world.now + self.rng.uniform(0.5, 15.0)

    def _resets(self, process: Process) -> None:
        self.network.resets = self.rng.choice((0.1, 0.5, 0.9))
        self.world.after(self.rng.uniform(1.0, 8.0), self._calm)

    def _slow_answers(self, process: Process) -> None:
        self.network.slow_answers = self.rng.uniform(0.5, 4.0)
        self.world.after(self.rng.uniform(1.0, 12.0), self._calm)

    def _slow_requests(self, process: Process) -> None:
        self.network.slow_requests[process.name] = self.world.now + self.rng.uniform(5.0, 15.0)

    def _starve_lease(self, process: Process) -> None:
        """First the answers to its lease requests are slow, then the requests get lost; its writes go through."""
        self.network.slow_answers = self.rng.uniform(1.0, 3.0)
        self.world.after(self.rng.uniform(1.0, 4.0), partial(self._lose_lease_requests, process))
        if self.rng.random() < 0.5:
            self._slow_requests(process)

    def _lose_lease_requests(self, process: Process) -> None:
        self._calm()
        self.network.starved_leases[process.name] = self.world.now + self.rng.uniform(5.0, 12.0)

    def _calm(self) -> None:
        self.network.resets = self.network.slow_answers = 0.0

    def _jump_wall(self, process: Process) -> None:
        process.clock.jump_wall(self.rng.choice((-3600.0, 3600.0)))

    def _annotate(self, process: Process) -> None:
        if CONFIG.name in self.server.leases:
            self.server.patch(CONFIG.name, {"metadata": {}})

    def _delete_lease(self, process: Process) -> None:
        self.server.delete(CONFIG.name)
