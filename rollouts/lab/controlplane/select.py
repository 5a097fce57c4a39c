"""ControlPlane: the first API server that works, behind one start and stop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Protocol

import structlog

from rollouts.kube.errors import KubeError
from rollouts.kube.http import open_client
from rollouts.lab.controlplane.build import API_SERVER, CONTROLLERS, build, built_binaries
from rollouts.lab.controlplane.errors import ControlPlaneError
from rollouts.lab.controlplane.k3s import K3sControlPlane, docker_runs
from rollouts.lab.controlplane.real import RealControlPlane
from rollouts.lab.kubeconfig import write_kubeconfig
from rollouts.lab.memoryapi.server import MemoryApiServer
from rollouts.lab.memoryapi.store import LIMITS, MemoryApi
from rollouts.lab.memorycontrollers import MemoryControllers

__all__ = ["Choice", "ControlPlane", "Source"]

_log = structlog.get_logger(__name__)


class Choice(Enum):
    """What the user asks for: anything that is there, a real one (built if need be), the memory one."""

    AUTO = "auto"
    REAL = "real"
    MEMORY = "memory"


class Source(Enum):
    """Where the running API server comes from."""

    GIVEN = "the given kubeconfig"
    ASSETS = "KUBEBUILDER_ASSETS"
    K3S = "K3s in Docker"
    BUILT = "kube-apiserver and etcd built from Go modules"
    MEMORY = "memory"


class _Backend(Protocol):
    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class _Given:
    """A cluster that the user names: only looked at, never stopped."""

    def __init__(self, kubeconfig: Path) -> None:
        self._kubeconfig = kubeconfig

    async def start(self) -> None:
        try:
            async with await open_client(str(self._kubeconfig)) as client:
                await client.server_version()
        except KubeError as error:
            raise ControlPlaneError(
                f"the API server of {self._kubeconfig} cannot be used: {error}"
            ) from error

    async def stop(self) -> None:
        """It was there before us."""


class _Memory:
    """The in-memory server, in this process."""

    def __init__(self, kubeconfig: Path) -> None:
        self._kubeconfig = kubeconfig
        self.api = MemoryApi()
        self._server = MemoryApiServer(self.api)
        self._controllers: MemoryControllers | None = None

    async def start(self) -> None:
        await self._server.start()
        write_kubeconfig(self._kubeconfig, server=self._server.url)

    async def start_controllers(self) -> None:
        self._controllers = MemoryControllers(self.api)
        await self._controllers.start()

    async def stop(self) -> None:
        if self._controllers is not None:
            await self._controllers.stop()
        await self._server.stop()


class ControlPlane:
    """One API server for the lab or the tests. An async context manager.

    After ``start``: ``kubeconfig`` (path), ``source``, ``real`` (whether it enforces CEL and RBAC). Logs,
    data and the kubeconfig are in ``directory``. The order of choice is: ``kubeconfig`` given, the
    binaries in KUBEBUILDER_ASSETS, K3s where Docker runs, the built binaries, memory. REAL builds the
    binaries when nothing else is there, which takes minutes once; AUTO never does.
    """

    def __init__(
        self,
        directory: Path,
        *,
        choice: Choice = Choice.AUTO,
        kubeconfig: Path | None = None,
        users: Mapping[str, tuple[str, ...]] | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.directory = directory
        self.kubeconfig = kubeconfig or directory / "kubeconfig"
        self.source: Source | None = None
        self._choice = choice
        self._given = kubeconfig
        self._users = users
        self._say = say
        self._backend: _Backend | None = None

    async def __aenter__(self) -> ControlPlane:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def real(self) -> bool:
        """Whether CEL rules, RBAC and admission are enforced."""
        return self.source not in (None, Source.MEMORY)

    @property
    def description(self) -> str:
        """One sentence for people: what is running, and what it does not do."""
        if self.source is Source.MEMORY:
            return LIMITS
        return f"API server from {self.source.value}" if self.source else "not started"

    async def start(self) -> None:
        """Start the first that works. Raises ControlPlaneError, naming all that was tried."""
        self.directory.mkdir(parents=True, exist_ok=True)
        failures: list[str] = []
        for source, backend in await self._candidates():
            try:
                await backend.start()
            except ControlPlaneError as error:
                await backend.stop()
                failures.append(f"{source.value}: {error}")
                _log.warning("control_plane_failed", source=source.value, reason=str(error))
                if source is Source.GIVEN:
                    break
                continue
            self.source, self._backend = source, backend
            _log.info("control_plane_started", source=source.value, kubeconfig=str(self.kubeconfig))
            return
        raise ControlPlaneError("no API server could be started:\n" + "\n".join(failures))

    async def stop(self) -> None:
        """Stop what was started; a given cluster is left alone."""
        if self._backend:
            await self._backend.stop()
            self._backend = None

    async def start_controllers(self) -> None:
        """Let kube-controller-manager and kube-scheduler run; once CRDs are installed, see ``RealControlPlane``.

        A given cluster and K3s have their own; beside the in-memory one run those of ``memorycontrollers``. From then
        on somebody has to be the kubelet. Raises ControlPlaneError where there are none to be had.
        """
        if self.source in (Source.GIVEN, Source.K3S):
            return
        if isinstance(self._backend, _Memory):
            await self._backend.start_controllers()
            return
        if not isinstance(self._backend, RealControlPlane):
            raise ControlPlaneError("the control plane was not started: call start() first")
        if self.source is Source.BUILT:
            await asyncio.to_thread(build, self._say)
        elif missing := [name for name in CONTROLLERS if not _runs(_assets(), name)]:
            raise ControlPlaneError(
                f"KUBEBUILDER_ASSETS has no {' and no '.join(missing)}: put them there, of the version of its "
                "kube-apiserver, or unset it, and all four are built"
            )
        await self._backend.start_controllers()

    async def compact(self) -> None:
        """Compact the history: old list pages and watches get 410. Raises ControlPlaneError."""
        if isinstance(self._backend, RealControlPlane):
            await self._backend.compact()
        elif isinstance(self._backend, _Memory):
            self._backend.api.compact()
        else:
            raise ControlPlaneError(f"the history of {self.description} cannot be compacted")

    def write_user_kubeconfig(self, user: str, path: Path) -> None:
        """A kubeconfig for one of ``users``. Raises ControlPlaneError where there are no users."""
        if not isinstance(self._backend, RealControlPlane):
            raise ControlPlaneError(f"{self.description} has no users of its own; impersonate instead")
        self._backend.write_user_kubeconfig(user, path)

    async def _candidates(self) -> list[tuple[Source, _Backend]]:
        if self._given:
            return [(Source.GIVEN, _Given(self._given))]
        memory: tuple[Source, _Backend] = (Source.MEMORY, _Memory(self.kubeconfig))
        if self._choice is Choice.MEMORY:
            return [memory]
        found: list[tuple[Source, _Backend]] = []
        if assets := _assets():
            found.append((Source.ASSETS, self._from_binaries(assets)))
        if await asyncio.to_thread(docker_runs):
            found.append((Source.K3S, K3sControlPlane(self.directory)))
        built = built_binaries()
        if built is None and self._choice is Choice.REAL and not found:
            built = await asyncio.to_thread(build, self._say, API_SERVER)
        if built:
            found.append((Source.BUILT, self._from_binaries(built)))
        return [*found, memory] if self._choice is Choice.AUTO else found

    def _from_binaries(self, folder: Path) -> RealControlPlane:
        return RealControlPlane(folder, self.directory, users=self._users)


def _runs(folder: Path | None, program: str) -> bool:
    return folder is not None and os.access(folder / program, os.X_OK)


def _assets() -> Path | None:
    """KUBEBUILDER_ASSETS, when kube-apiserver and etcd are in it."""
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    found = Path(folder) if folder else None
    return found if all(_runs(found, name) for name in API_SERVER) else None
