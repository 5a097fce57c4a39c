"""Pods of the chart's Deployment as processes: the controller, under its ServiceAccount's own token and rights."""

from __future__ import annotations

import itertools
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from rollouts.lab.kubeconfig import write_kubeconfig
from rollouts.lab.loopback import loopback
from rollouts.lab.nodes import PodRuntime, PodState, PretendRuntime
from rollouts.lab.processes import ChildProcess

__all__ = ["ControllerPods"]

Object = Mapping[str, Any]
_BLOCK = 43
_CONTAINER = "controller"


class ControllerPods:
    """A ``PodRuntime``: a Pod with a container ``controller`` is a process of ours; SIGTERM, its grace, SIGKILL.

    Nothing is mounted: the configuration is the default one. Other Pods go to ``others``.
    """

    def __init__(self, directory: Path, kubeconfig: Path, *, others: PodRuntime | None = None) -> None:
        self._directory = directory
        self._kubeconfig = kubeconfig
        self._others = others or PretendRuntime()
        self._numbers = itertools.cycle(range(1, 255))
        self._running: dict[str, tuple[ChildProcess, str]] = {}

    async def start(self, pod: Object) -> str:
        """See ``PodRuntime.start``."""
        container = next((one for one in pod["spec"]["containers"] if one["name"] == _CONTAINER), None)
        if container is None:
            return await self._others.start(pod)
        address = loopback(_BLOCK, next(self._numbers))
        uid = pod["metadata"]["uid"]
        account = self._directory / f"{uid}.kubeconfig"
        await self._write_account(pod, account)
        arguments = [
            word.replace("0.0.0.0", address) for word in container["args"] if not word.startswith("--config=")
        ]
        command = [sys.executable, "-m", "rollouts.cli", *arguments, f"--kubeconfig={account}"]
        process = ChildProcess(
            pod["metadata"]["name"], command, log_path=self._directory / f"{pod['metadata']['name']}.log"
        )
        await process.start()
        health = next(word for word in arguments if word.startswith("--health-address="))
        self._running[uid] = process, f"http://{health.partition('=')[2]}/readyz"
        return address

    async def state(self, pod: Object) -> PodState:
        """See ``PodRuntime.state``: Ready while ``/readyz`` answers 200. One that ended is not started again."""
        found = self._running.get(pod["metadata"]["uid"])
        if found is None:
            return await self._others.state(pod)
        process, url = found
        if process.returncode is not None:
            return PodState.FAILED
        try:
            async with aiohttp.ClientSession(trust_env=False) as session, session.get(url) as answer:
                return PodState.READY if answer.status == 200 else PodState.STARTING
        except (aiohttp.ClientError, OSError):
            return PodState.STARTING

    async def stop(self, pod: Object, grace: float) -> None:
        """See ``PodRuntime.stop``."""
        found = self._running.pop(pod["metadata"]["uid"], None)
        if found is None:
            await self._others.stop(pod, grace)
            return
        await found[0].stop(grace=grace)

    async def _write_account(self, pod: Object, path: Path) -> None:
        """A kubeconfig with a token of the Pod's ServiceAccount, from the TokenRequest API as a kubelet asks for it."""
        document = yaml.safe_load(self._kubeconfig.read_text(encoding="utf-8"))
        cluster = document["clusters"][0]["cluster"]
        headers = {"Authorization": f"Bearer {document['users'][0]['user']['token']}"}
        name = pod["spec"].get("serviceAccountName", "default")
        place = f"/api/v1/namespaces/{pod['metadata']['namespace']}/serviceaccounts/{name}/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        context = ssl.create_default_context(cafile=cluster["certificate-authority"])
        async with (
            aiohttp.ClientSession(trust_env=False) as session,
            session.post(cluster["server"] + place, json=body, headers=headers, ssl=context) as answer,
        ):
            if answer.status != 201:
                raise OSError(f"no token for ServiceAccount {name}: {(await answer.text())[:300]}")
            token = (await answer.json())["status"]["token"]
        write_kubeconfig(
            path, server=cluster["server"], token=token, ca_file=cluster["certificate-authority"]
        )
