"""Which pods serve which LoRA adapters: asked of the pods themselves, and loaded there where a source is given.

Protocol (vLLM's OpenAI-compatible server): ``GET /v1/models`` lists the base model and every adapter that is loaded;
``POST /v1/load_lora_adapter`` ``{lora_name, lora_path}`` and ``POST /v1/unload_lora_adapter`` ``{lora_name}`` change
the list at run time. A load that succeeds proves little (an adapter of the wrong shape loads and fails later), so an
adapter counts as served by a pod only after one request of one token was answered.

What is known lives in memory only: after a restart the pods are asked again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import structlog

from rollouts.controller.adapter_keys import ModelServerKey, authorization
from rollouts.controller.pools import Endpoint
from rollouts.runtime.clock import Clock, Monotonic
from rollouts.runtime.fairness import FairSlots
from rollouts.runtime.objects import ObjectKey

__all__ = ["AdapterSettings", "AdapterWatch", "PodState", "Serving"]

_log = structlog.get_logger(__name__)

_TICK = 0.25
_BUSY_INTERVAL = 1.0
"""Seconds between two looks at a pod on which something is awaited."""
_IDLE_INTERVAL = 5.0
_RETRY = 10.0
"""Seconds between two attempts to load, unload or probe on one pod."""
_LIST_TIMEOUT = 5.0
_PROBE_TIMEOUT = 30.0
_LOAD_TIMEOUT = 120.0
_BODY_LIMIT = 1024 * 1024
_PARALLEL = 32
_OF_ONE_NAMESPACE = 8
_NEVER = Monotonic(float("-inf"))


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSettings:
    """What the administrator allows. ``prefixes``: folders that adapters may be loaded from.

    ``api_keys`` are the keys that model servers ask for, by namespace and pool; ``api_key_file`` is the one of all,
    where one namespace is watched.
    """

    prefixes: tuple[str, ...] = ()
    api_key_file: str = ""
    api_keys: tuple[ModelServerKey, ...] = ()

    def allows(self, path: str) -> bool:
        """Whether a path lies under an allowed prefix, whatever tricks it is written with."""
        parts = path.split("/")
        if "" in parts[1:] or "." in parts or ".." in parts or any(not c.isprintable() for c in path):
            return False
        return any(path.startswith(prefix.rstrip("/") + "/") for prefix in self.prefixes)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodState:
    """One pod and one adapter. ``listed`` None: the pod has not said yet; ``problem`` says why, if known."""

    pod: str
    listed: bool | None
    proven: bool
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Serving:
    """One adapter on all Ready pods of a pool."""

    states: tuple[PodState, ...]

    @property
    def lacking(self) -> tuple[str, ...]:
        """Pods that answered and do not list the adapter."""
        return tuple(state.pod for state in self.states if state.listed is False)

    @property
    def unproven(self) -> tuple[PodState, ...]:
        """Pods that may serve it but have not shown it."""
        return tuple(s for s in self.states if s.listed is not False and not s.proven)

    @property
    def proven(self) -> int:
        """Pods that list it and answered a probe."""
        return sum(state.proven for state in self.states)

    @property
    def possible(self) -> int:
        """Pods that are not known to lack it."""
        return sum(state.listed is not False for state in self.states)

    @property
    def loaded(self) -> bool:
        """Whether any pod lists it."""
        return any(state.listed for state in self.states)


@dataclass(slots=True)
class _Pod:
    namespace: str
    endpoint: Endpoint
    port: int
    models: frozenset[str] | None = None
    error: str = ""
    looked: Monotonic = _NEVER
    proven: set[str] = field(default_factory=set)
    failed: dict[tuple[str, str], tuple[Monotonic, str]] = field(default_factory=dict)
    """(what, adapter) -> when it failed last, and why."""
    busy: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Want:
    pods: tuple[tuple[str, ...], ...]
    prove: frozenset[str]


class AdapterWatch:
    """Looks at the pods that somebody follows. ``run`` works until cancelled.

    ``on_change`` is called with the key of every follower whose pods' answers changed.
    """

    def __init__(self, clock: Clock, settings: AdapterSettings) -> None:
        self.settings = settings
        self.on_change: Callable[[ObjectKey], None] = lambda _: None
        self._clock = clock
        self._pods: dict[tuple[str, ...], _Pod] = {}
        self._wants: dict[ObjectKey, _Want] = {}
        self._session: aiohttp.ClientSession | None = None
        self._slots = FairSlots(_PARALLEL, _OF_ONE_NAMESPACE)
        self._tasks: set[asyncio.Task[None]] = set()

    # --- what callers ask ---

    def follow(
        self, follower: ObjectKey, endpoints: Iterable[Endpoint], port: int, prove: Iterable[str]
    ) -> None:
        """Keep asking these Ready pods for their models, and prove these adapters where they are listed."""
        keys = []
        for endpoint in endpoints:
            # Another start of the pod is another process: nothing that was loaded is there any more.
            key = (follower.namespace, endpoint.pool, endpoint.pod, endpoint.ip, str(port), endpoint.started)
            keys.append(key)
            if key not in self._pods:
                self._pods[key] = _Pod(namespace=follower.namespace, endpoint=endpoint, port=port)
        self._wants[follower] = _Want(pods=tuple(keys), prove=frozenset(prove))
        self._forget_unwanted()

    def drop(self, follower: ObjectKey) -> None:
        """The follower needs nothing any more."""
        if self._wants.pop(follower, None) is not None:
            self._forget_unwanted()

    def serving(self, follower: ObjectKey, adapter: str) -> Serving:
        """What is known of an adapter on the pods that ``follower`` follows."""
        want = self._wants.get(follower)
        pods = [self._pods[key] for key in want.pods] if want is not None else []
        return Serving(tuple(_state(pod, adapter) for pod in pods))

    def load(self, follower: ObjectKey, adapter: str, path: str) -> None:
        """Load the adapter on the pods that lack it, in the background; refused paths are the caller's duty."""
        self._change(follower, adapter, "load", {"lora_name": adapter, "lora_path": path}, listed=False)

    def unload(self, follower: ObjectKey, adapter: str) -> None:
        """Take the adapter off the pods that list it, in the background."""
        self._change(follower, adapter, "unload", {"lora_name": adapter}, listed=True)

    # --- the loop ---

    async def run(self) -> None:
        """Look at every followed pod when it is due."""
        try:
            while True:
                now = self._clock.monotonic()
                for key, pod in self._pods.items():
                    if "look" not in pod.busy and now - pod.looked >= self._interval(key, pod):
                        self._spawn(pod, "look", self._look(key, pod))
                await self._clock.sleep(_TICK)
        finally:
            for task in self._tasks:
                task.cancel()
            await self.close()

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _interval(self, key: tuple[str, ...], pod: _Pod) -> float:
        wanted = self._to_prove(key)
        return _BUSY_INTERVAL if pod.models is None or wanted - pod.proven else _IDLE_INTERVAL

    def _to_prove(self, key: tuple[str, ...]) -> set[str]:
        return {name for want in self._wants.values() if key in want.pods for name in want.prove}

    def _forget_unwanted(self) -> None:
        wanted = {key for want in self._wants.values() for key in want.pods}
        for key in [key for key in self._pods if key not in wanted]:
            del self._pods[key]

    def _spawn(self, pod: _Pod, what: str, work: Any) -> None:
        pod.busy.add(what)
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)

        def ended(done: asyncio.Task[None]) -> None:
            self._tasks.discard(done)
            pod.busy.discard(what)
            if not done.cancelled() and done.exception() is not None:
                _log.error("adapter_task_failed", what=what, pod=pod.endpoint.pod, exc_info=done.exception())

        task.add_done_callback(ended)

    def _changed(self, key: tuple[str, ...]) -> None:
        for follower, want in self._wants.items():
            if key in want.pods:
                self.on_change(follower)

    async def _look(self, key: tuple[str, ...], pod: _Pod) -> None:
        before = (pod.models, pod.error, frozenset(pod.proven), tuple(pod.failed))
        status, body = await self._ask(pod, "GET", "/v1/models", None, _LIST_TIMEOUT)
        pod.looked = self._clock.monotonic()
        models = _model_names(body) if status == 200 else None
        if models is None:
            # The last answer stands: a pod that does not answer us may still answer the gateway.
            pod.error = body if status is None else f"/v1/models answers {status}"
        else:
            pod.models, pod.error = models, ""
            pod.proven &= models
            for adapter in sorted((self._to_prove(key) & models) - pod.proven):
                await self._prove(pod, adapter)
        if before != (pod.models, pod.error, frozenset(pod.proven), tuple(pod.failed)):
            self._changed(key)

    async def _prove(self, pod: _Pod, adapter: str) -> None:
        if self._recently_failed(pod, "probe", adapter):
            return
        one = {"model": adapter, "max_tokens": 1}
        chat = {**one, "messages": [{"role": "user", "content": "Hi"}]}
        answers = []
        for path, request in (("/v1/completions", {**one, "prompt": "Hi"}), ("/v1/chat/completions", chat)):
            status, text = await self._ask(pod, "POST", path, request, _PROBE_TIMEOUT)
            if status == 200:
                pod.proven.add(adapter)
                pod.failed.pop(("probe", adapter), None)
                _log.info("adapter_proven", pod=pod.endpoint.pod, adapter=adapter)
                return
            answers.append(f"{path} answers {status}" if status is not None else text)
        pod.failed["probe", adapter] = (self._clock.monotonic(), answers[0])

    def _recently_failed(self, pod: _Pod, what: str, adapter: str) -> bool:
        last = pod.failed.get((what, adapter))
        return last is not None and self._clock.monotonic() - last[0] < _RETRY

    # --- loading ---

    def _change(
        self, follower: ObjectKey, adapter: str, what: str, request: dict[str, str], *, listed: bool
    ) -> None:
        want = self._wants.get(follower)
        for key in want.pods if want is not None else ():
            pod = self._pods[key]
            due = pod.models is not None and (adapter in pod.models) is listed
            if due and f"{what} {adapter}" not in pod.busy and not self._recently_failed(pod, what, adapter):
                self._spawn(pod, f"{what} {adapter}", self._send(key, pod, adapter, what, request))

    async def _send(
        self, key: tuple[str, ...], pod: _Pod, adapter: str, what: str, request: dict[str, str]
    ) -> None:
        path = f"/v1/{what}_lora_adapter"
        status, text = await self._ask(pod, "POST", path, request, _LOAD_TIMEOUT)
        _log.info("adapter_changed", what=what, pod=pod.endpoint.pod, adapter=adapter, status=status)
        if status == 200 or (what == "unload" and status == 404):
            pod.failed.pop((what, adapter), None)
        else:
            problem = f"{path} answers {status}" if status is not None else text
            pod.failed[what, adapter] = (self._clock.monotonic(), problem)
        pod.looked = _NEVER
        self._changed(key)

    # --- transport ---

    async def _ask(
        self, pod: _Pod, method: str, path: str, request: Any, timeout: float
    ) -> tuple[int | None, str]:
        """Status and body; without an answer None and why. The body of an error is not passed on."""
        host = f"[{pod.endpoint.ip}]" if ":" in pod.endpoint.ip else pod.endpoint.ip
        url = f"http://{host}:{pod.port}{path}"
        try:
            async with (
                asyncio.timeout(timeout),
                self._slots.hold(pod.namespace),
                self._open().request(
                    method, url, json=request, headers=self._headers(pod), allow_redirects=False
                ) as response,
            ):
                body = b""
                async for chunk in response.content.iter_chunked(65_536):
                    body += chunk
                    if len(body) > _BODY_LIMIT:
                        return None, f"{path} answers more than {_BODY_LIMIT} bytes"
                return response.status, body.decode("utf-8", "replace")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return None, f"{path} gives no answer ({type(error).__name__})"

    def _headers(self, pod: _Pod) -> dict[str, str]:
        settings = self.settings
        return authorization(settings.api_keys, settings.api_key_file, pod.namespace, pod.endpoint.pool)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=_PARALLEL, keepalive_timeout=15)
            self._session = aiohttp.ClientSession(connector=connector, trust_env=False)
        return self._session


def _state(pod: _Pod, adapter: str) -> PodState:
    listed = None if pod.models is None else adapter in pod.models
    problems = [pod.failed[what, adapter][1] for what in ("load", "probe") if (what, adapter) in pod.failed]
    if listed and problems:
        problems = [pod.failed["probe", adapter][1]] if ("probe", adapter) in pod.failed else []
    return PodState(
        pod=pod.endpoint.pod,
        listed=listed,
        proven=bool(listed) and adapter in pod.proven,
        problem=(problems or [pod.error])[0],
    )


def _model_names(body: str) -> frozenset[str] | None:
    """Names in an answer of ``/v1/models``; None when it is not one."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return None
    entries = data.get("data") if isinstance(data, dict) else None
    if not isinstance(entries, list):
        return None
    names = (entry.get("id") for entry in entries if isinstance(entry, dict))
    return frozenset(name for name in names if isinstance(name, str))
