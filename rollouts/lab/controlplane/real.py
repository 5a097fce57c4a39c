"""A real kube-apiserver on a real etcd, from their binaries, on loopback."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import aiohttp
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from rollouts.kube.client import Resource
from rollouts.kube.errors import KubeError
from rollouts.kube.http import HttpKubeClient, open_client
from rollouts.lab.controlplane.build import CONTROLLERS
from rollouts.lab.controlplane.controllers import (
    CONTROLLER_MANAGER,
    SCHEDULER,
    Controllers,
    ControllerSettings,
)
from rollouts.lab.controlplane.errors import ControlPlaneError
from rollouts.lab.kubeconfig import write_kubeconfig
from rollouts.lab.processes import ChildProcess

__all__ = ["RealControlPlane"]

_NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
_ADMIN = "lab-admin"
_START_SECONDS = 60.0
_STOP_SECONDS = 10.0
# Ports are chosen by binding and releasing; another process may take one in between.
_ATTEMPTS = 3


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [int(item.getsockname()[1]) for item in sockets]


def _write_private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


class RealControlPlane:
    """etcd and kube-apiserver with RBAC and a token per user.

    ``binaries`` holds both programs; data, logs and kubeconfigs go to ``directory``. ``users`` maps more
    user names to their groups; a ServiceAccount is the user ``system:serviceaccount:NS:NAME``.
    kube-controller-manager and kube-scheduler run after ``start_controllers``; without them nothing is
    garbage-collected, namespaces are never finalized, and a Pod is on the node that its author names.
    """

    def __init__(
        self, binaries: Path, directory: Path, *, users: Mapping[str, tuple[str, ...]] | None = None
    ) -> None:
        self.kubeconfig = directory / "kubeconfig"
        self.server = ""
        self._binaries = binaries
        self._directory = directory
        groups = {_ADMIN: ("system:masters",), CONTROLLER_MANAGER: (), SCHEDULER: (), **(users or {})}
        self._users = {name: (secrets.token_urlsafe(24), member_of) for name, member_of in groups.items()}
        self._etcd_url = ""
        self._children: list[ChildProcess] = []
        self._controllers: Controllers | None = None

    async def start(self) -> None:
        """Start both, wait until they are ready. Raises ControlPlaneError; nothing is left running."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self._write_keys()
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                await self._start_once(attempt)
                return
            except ControlPlaneError:
                await self.stop()
                if attempt == _ATTEMPTS:
                    raise
            except BaseException:
                await self.stop()
                raise

    async def start_controllers(self) -> None:
        """Start kube-controller-manager and kube-scheduler. Raises ControlPlaneError; neither is left running.

        Install CRDs before: the garbage collector looks for new kinds every 30 s only.
        """
        kubeconfigs = {
            user: self._directory / f"kubeconfig-{user.rpartition(':')[2]}"
            for user in (CONTROLLER_MANAGER, SCHEDULER)
        }
        for user, path in kubeconfigs.items():
            self.write_user_kubeconfig(user, path)
        for attempt in range(1, _ATTEMPTS + 1):
            manager, scheduler = _free_ports(len(CONTROLLERS))
            self._controllers = Controllers(
                ControllerSettings(
                    binaries=self._binaries,
                    directory=self._directory,
                    kubeconfigs=kubeconfigs,
                    ca_file=self._ca_file,
                    service_account_key=self._directory / "service-account.key",
                    ports=(manager, scheduler),
                )
            )
            try:
                await self._controllers.start()
                return
            except BaseException as error:
                await self._controllers.stop(grace=_STOP_SECONDS)
                if attempt == _ATTEMPTS or not isinstance(error, ControlPlaneError):
                    raise

    async def stop(self) -> None:
        """Stop the controllers, the API server, then etcd."""
        if self._controllers is not None:
            await self._controllers.stop(grace=_STOP_SECONDS)
            self._controllers = None
        while self._children:
            await self._children.pop().stop(grace=_STOP_SECONDS)

    async def compact(self) -> None:
        """Compact etcd's history up to now, over its JSON gateway: old list pages get 410."""
        key = {"key": "AA==", "limit": "1", "keys_only": True}
        async with aiohttp.ClientSession(trust_env=False) as session:
            async with session.post(f"{self._etcd_url}/v3/kv/range", json=key) as answer:
                revision = (await answer.json())["header"]["revision"]
            request = {"revision": revision, "physical": True}
            async with session.post(f"{self._etcd_url}/v3/kv/compaction", json=request) as answer:
                answer.raise_for_status()

    def write_user_kubeconfig(self, user: str, path: Path) -> None:
        """A kubeconfig of one of ``users``."""
        write_kubeconfig(path, server=self.server, token=self._users[user][0], ca_file=self._ca_file)

    @property
    def _ca_file(self) -> str:
        return str(self._directory / "certs" / "apiserver.crt")

    def _write_keys(self) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        _write_private(self._directory / "service-account.key", private)
        rows = [
            f'{token},{name},{name},"{",".join(groups)}"' for name, (token, groups) in self._users.items()
        ]
        _write_private(self._directory / "tokens.csv", "\n".join(rows).encode() + b"\n")

    async def _start_once(self, attempt: int) -> None:
        client_port, peer_port, api_port = _free_ports(3)
        self._etcd_url = f"http://127.0.0.1:{client_port}"
        self.server = f"https://127.0.0.1:{api_port}"
        commands = {
            "etcd": self._etcd_command(attempt, f"http://127.0.0.1:{peer_port}"),
            "kube-apiserver": self._apiserver_command(api_port),
        }
        for name, command in commands.items():
            child = ChildProcess(name, command, log_path=self._directory / f"{name}.log")
            self._children.append(child)
            await child.start()
        await self._wait_ready(api_port)

    def _etcd_command(self, attempt: int, peer: str) -> list[str]:
        return [
            str(self._binaries / "etcd"),
            f"--data-dir={self._directory / f'etcd-{attempt}'}",
            f"--listen-client-urls={self._etcd_url}",
            f"--advertise-client-urls={self._etcd_url}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def _apiserver_command(self, port: int) -> list[str]:
        key = self._directory / "service-account.key"
        return [
            str(self._binaries / "kube-apiserver"),
            f"--etcd-servers={self._etcd_url}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={port}",
            f"--cert-dir={self._directory / 'certs'}",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--token-auth-file={self._directory / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--disable-admission-plugins=ServiceAccount",
            "--endpoint-reconciler-type=none",
        ]

    async def _wait_ready(self, port: int) -> None:
        """Until /readyz says ok and the namespace ``default`` is there."""
        try:
            async with asyncio.timeout(_START_SECONDS):
                while not await _accepts(port):
                    self._check()
                    await asyncio.sleep(0.1)
                self.write_user_kubeconfig(_ADMIN, self.kubeconfig)
                async with await open_client(str(self.kubeconfig), deadline=5.0) as client:
                    while not await _ready(client):
                        self._check()
                        await asyncio.sleep(0.1)
        except TimeoutError:
            self._check()
            raise ControlPlaneError(
                f"kube-apiserver was not ready within {_START_SECONDS:g} s; see {self._directory}/*.log"
            ) from None

    def _check(self) -> None:
        for child in self._children:
            if child.returncode is not None:
                raise ControlPlaneError(str(child.failure(f"ended with code {child.returncode}")))


async def _accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


async def _ready(client: HttpKubeClient) -> bool:
    try:
        await client.get(_NAMESPACES, None, "default")
        return await client.ready()
    except KubeError:
        return False
