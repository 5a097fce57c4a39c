"""Simulated pods: each a real HTTP server on its own loopback address, many in one process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace

import structlog

from rollouts.lab.vllm.http_server import PodHttpServer
from rollouts.lab.vllm.server import VllmServer
from rollouts.lab.vllm.spec import PodSpec

__all__ = ["Fleet", "SimulatedPod"]

log = structlog.get_logger(__name__)


class SimulatedPod:
    """One pod: a server process that can crash and come back with empty counters."""

    def __init__(self, spec: PodSpec) -> None:
        self.spec = spec
        self.server: VllmServer | None = None
        self._http: PodHttpServer | None = None
        self._restart: asyncio.TimerHandle | None = None
        self._starting: asyncio.Task[None] | None = None
        self._port = spec.port
        self.ranks = tuple(
            SimulatedPod(replace(spec, port=port, more_ports=(), seed=spec.seed + number))
            for number, port in enumerate(spec.more_ports, start=1)
        )
        """Its further processes, each at a port of its own."""

    @property
    def running(self) -> bool:
        """Whether its port is open."""
        return self._http is not None

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://{self.spec.address}:{self._port}"

    async def start(self) -> None:
        """Open the ports. Raises OSError when an address is taken."""
        server = VllmServer(self.spec, crash=self.crash)
        server.engine.knobs = self.spec.knobs
        http = PodHttpServer(server.handle)
        await http.start(self.spec.address, self._port)
        self.server, self._http, self._port = server, http, http.port
        for rank in self.ranks:
            await rank.start()

    def crash(self, restart_after: float | None = None) -> None:
        """Drop every connection and all state; start again after that many seconds, or never."""
        log.info("pod_crashed", pod=self.spec.name, restart_after=restart_after)
        for rank in self.ranks:
            rank.crash()
        if self.server is not None:
            self.server.stop()
        if self._http is not None:
            self._http.crash()
        self.server = self._http = None
        if restart_after is not None:
            loop = asyncio.get_running_loop()
            self._restart = loop.call_later(restart_after, self._start_again)

    async def drain(self, seconds: float) -> None:
        """SIGTERM: the ports close at once, running requests have so many seconds to end; then ``stop``."""
        servers = [one._http for one in (self, *self.ranks) if one._http is not None]
        await asyncio.gather(*(server.drain(seconds) for server in servers))
        await self.stop()

    async def stop(self) -> None:
        """Close the ports and drop what is in flight."""
        for rank in self.ranks:
            await rank.stop()
        if self._restart is not None:
            self._restart.cancel()
        if self._starting is not None:
            await asyncio.gather(self._starting, return_exceptions=True)
        if self.server is not None:
            self.server.stop()
        if self._http is not None:
            await self._http.stop()
        self.server = self._http = None

    def _start_again(self) -> None:
        self._starting = asyncio.get_running_loop().create_task(self.start())


class Fleet:
    """Pods that start and stop together. Use as an async context manager."""

    def __init__(self, specs: Iterable[PodSpec]) -> None:
        self._pods = {spec.name: SimulatedPod(spec) for spec in specs}

    @property
    def pods(self) -> Mapping[str, SimulatedPod]:
        """Pods by name."""
        return self._pods

    async def start(self) -> None:
        """Start all of them, or none: raises OSError when an address is taken."""
        try:
            for pod in self._pods.values():
                await pod.start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop all of them."""
        for pod in self._pods.values():
            await pod.stop()

    async def add(self, spec: PodSpec) -> SimulatedPod:
        """Start one more pod. Raises OSError when its address is taken."""
        pod = SimulatedPod(spec)
        await pod.start()
        self._pods[spec.name] = pod
        return pod

    async def remove(self, name: str) -> None:
        """Stop one pod. Raises KeyError for an unknown name."""
        await self._pods.pop(name).stop()

    async def __aenter__(self) -> Fleet:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
