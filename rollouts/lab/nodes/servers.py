"""Simulated vLLM servers for the Pods of a Deployment: what their containers' arguments say, they serve."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import aiohttp
import structlog

from rollouts.lab.loopback import loopback
from rollouts.lab.nodes.runtime import PodRuntime, PodState, PretendRuntime
from rollouts.lab.vllm.latency import LatencyProfile
from rollouts.lab.vllm.pod import SimulatedPod
from rollouts.lab.vllm.spec import PodSpec

__all__ = ["SimulatedServers", "server_arguments"]

log = structlog.get_logger(__name__)

Object = Mapping[str, Any]
_PROBE_TIMEOUT = 2.0
_DEFAULT_PORT = 8000


def server_arguments(pod: Object) -> dict[str, list[str]] | None:
    """Flags of the first container that runs vLLM, by name without dashes, model under ``model``; None without one.

    A container runs vLLM when its words are ``vllm serve MODEL`` or name ``--model`` or ``--served-model-name``.
    """
    for container in pod["spec"]["containers"]:
        words = [*(container.get("command") or ()), *(container.get("args") or ())]
        flags = _flags(words)
        if "serve" in words and words.index("serve") + 1 < len(words):
            flags.setdefault("model", [words[words.index("serve") + 1]])
        if "model" in flags or "served-model-name" in flags:
            return flags
    return None


def _flags(words: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for word in words:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            current = found.setdefault(name, [])
            current += [value] if value else []
        else:
            current.append(word)
    return found


def _adapters(values: Sequence[str]) -> dict[str, str]:
    """``--lora-modules``: ``name=path`` or a JSON object, as vLLM takes both."""
    found = {}
    for value in values:
        if value.startswith("{"):
            document = json.loads(value)
            found[str(document["name"])] = str(document["path"])
        else:
            name, _, path = value.partition("=")
            found[name] = path
    return found


def _spec(pod: Object, flags: Mapping[str, list[str]], address: str, seed: int) -> PodSpec:
    meta = pod["metadata"]
    model = (flags.get("model") or ["lab/simulated"])[0]
    return PodSpec(
        name=meta["name"],
        namespace=meta["namespace"],
        address=address,
        port=int((flags.get("port") or [str(_DEFAULT_PORT)])[0]),
        labels=meta.get("labels") or {},
        model=model,
        served_model=(flags.get("served-model-name") or [model])[0],
        adapters=_adapters(flags.get("lora-modules") or ()),
        seed=seed,
    )


class SimulatedServers:
    """A ``PodRuntime``: a simulated server on an address of ``block`` for each Pod that runs vLLM, else ``others``.

    Its port opens ``startup`` seconds after the Pod began, as when weights are loaded first. A Pod that is deleted
    closes its port at once, and what it is answering has the rest of its grace (vLLM on SIGTERM).
    """

    def __init__(
        self,
        *,
        block: int,
        others: PodRuntime | None = None,
        startup: float = 0.0,
        latency: LatencyProfile | None = None,
    ) -> None:
        self._block = block
        self._others = others or PretendRuntime()
        self._startup = startup
        self._latency = latency or LatencyProfile()
        self._numbers = itertools.count(1)
        self._servers: dict[str, SimulatedPod] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}

    @property
    def servers(self) -> Mapping[str, SimulatedPod]:
        """The servers that run, by the name of their Pod."""
        return {server.spec.name: server for server in self._servers.values()}

    async def start(self, pod: Object) -> str:
        """See ``PodRuntime.start``."""
        flags = server_arguments(pod)
        if flags is None:
            return await self._others.start(pod)
        number = next(self._numbers)
        address, uid = loopback(self._block, 1 + (number - 1) % 254), pod["metadata"]["uid"]
        server = SimulatedPod(replace(_spec(pod, flags, address, number), latency=self._latency))
        if self._startup:
            self._loading[uid] = asyncio.create_task(self._load(server))
        else:
            await server.start()
        self._servers[uid] = server
        return address

    async def _load(self, server: SimulatedPod) -> None:
        await asyncio.sleep(self._startup)
        try:
            await server.start()
        except OSError as error:
            log.warning("pod_not_started", pod=server.spec.name, reason=str(error))

    async def state(self, pod: Object) -> PodState:
        """See ``PodRuntime.state``: Ready while ``/health`` answers 200."""
        server = self._servers.get(pod["metadata"]["uid"])
        if server is None:
            return await self._others.state(pod)
        timeout = aiohttp.ClientTimeout(total=_PROBE_TIMEOUT)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
                session.get(f"{server.url}/health") as answer,
            ):
                return PodState.READY if answer.status == 200 else PodState.STARTING
        except (aiohttp.ClientError, TimeoutError, OSError):
            return PodState.STARTING

    async def stop(self, pod: Object, grace: float) -> None:
        """See ``PodRuntime.stop``."""
        uid = pod["metadata"]["uid"]
        loading = self._loading.pop(uid, None)
        if loading is not None:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
        server = self._servers.get(uid)
        if server is None:
            await self._others.stop(pod, grace)
            return
        await server.drain(grace)
        self._servers.pop(uid, None)
