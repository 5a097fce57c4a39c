"""kube-controller-manager and kube-scheduler beside an API server: how they are started, and which controllers run.

Left out: what needs a cloud, volumes, certificates or metrics, none of which the lab has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from rollouts.lab.controlplane.errors import ControlPlaneError
from rollouts.lab.processes import ChildProcess

__all__ = ["CONTROLLER_MANAGER", "SCHEDULER", "ControllerSettings", "Controllers"]

CONTROLLER_MANAGER = "system:kube-controller-manager"
"""User of kube-controller-manager; its controllers act as ServiceAccounts of kube-system."""
SCHEDULER = "system:kube-scheduler"
"""User of kube-scheduler. The API server's own RBAC binds both."""
_RUN = (
    "clusterrole-aggregation-controller",
    "daemonset-controller",
    "deployment-controller",
    "disruption-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "job-controller",
    "namespace-controller",
    "node-lifecycle-controller",
    "pod-garbage-collector-controller",
    "replicaset-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "statefulset-controller",
    "taint-eviction-controller",
    "ttl-after-finished-controller",
)
_START_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerSettings:
    """Paths and ports. ``kubeconfigs`` by user: ``CONTROLLER_MANAGER`` and ``SCHEDULER``."""

    binaries: Path
    directory: Path
    kubeconfigs: Mapping[str, Path]
    ca_file: str
    service_account_key: Path
    ports: tuple[int, int]


class Controllers:
    """Both programs as child processes of this one."""

    def __init__(self, settings: ControllerSettings) -> None:
        self._settings = settings
        self._children: list[ChildProcess] = []

    async def start(self) -> None:
        """Start both and wait until they say that they are healthy. Raises ControlPlaneError."""
        for name, command in self._commands().items():
            child = ChildProcess(name, command, log_path=self._settings.directory / f"{name}.log")
            self._children.append(child)
            await child.start()
        await self._wait_healthy()

    async def stop(self, *, grace: float) -> None:
        """Stop both."""
        await asyncio.gather(*(child.stop(grace=grace) for child in self._children))
        self._children = []

    def _commands(self) -> dict[str, list[str]]:
        settings = self._settings
        manager, scheduler = settings.kubeconfigs[CONTROLLER_MANAGER], settings.kubeconfigs[SCHEDULER]
        return {
            "kube-controller-manager": [
                *self._common("kube-controller-manager", manager, settings.ports[0]),
                f"--controllers={','.join(_RUN)}",
                "--use-service-account-credentials",
                f"--service-account-private-key-file={settings.service_account_key}",
                f"--root-ca-file={settings.ca_file}",
                f"--cert-dir={settings.directory / 'certs-controllers'}",
                # One second: a node that became Ready is to be used at once.
                "--node-monitor-period=1s",
            ],
            "kube-scheduler": self._common("kube-scheduler", scheduler, settings.ports[1]),
        }

    def _common(self, program: str, kubeconfig: Path, port: int) -> list[str]:
        return [
            str(self._settings.binaries / program),
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            "--leader-elect=false",
            # One process serves tests that make many objects at once; the default is 20 requests a second.
            "--kube-api-qps=200",
            "--kube-api-burst=400",
        ]

    async def _wait_healthy(self) -> None:
        connector = aiohttp.TCPConnector(ssl=False)  # certificates that they signed themselves a moment ago
        try:
            async with (
                asyncio.timeout(_START_SECONDS),
                aiohttp.ClientSession(connector=connector, trust_env=False) as session,
            ):
                for port in self._settings.ports:
                    while not await _healthy(session, port):
                        self._check()
                        await asyncio.sleep(0.1)
        except TimeoutError:
            self._check()
            raise ControlPlaneError(
                f"kube-controller-manager and kube-scheduler were not healthy within {_START_SECONDS:g} s; "
                f"see {self._settings.directory}/*.log"
            ) from None

    def _check(self) -> None:
        for child in self._children:
            if child.returncode is not None:
                raise ControlPlaneError(str(child.failure(f"ended with code {child.returncode}")))


async def _healthy(session: aiohttp.ClientSession, port: int) -> bool:
    try:
        async with session.get(f"https://127.0.0.1:{port}/healthz") as answer:
            return answer.status == 200
    except (aiohttp.ClientError, OSError):
        return False
