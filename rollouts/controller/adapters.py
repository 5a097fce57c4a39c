"""Which pods serve which LoRA adapters: asked of the pods themselves, and loaded there where a source is given.

Protocol (vLLM's OpenAI-compatible server): ``GET /v1/models`` lists the base model and every adapter that is loaded;
``POST /v1/load_lora_adapter`` ``{lora_name, lora_path}`` and ``POST /v1/unload_lora_adapter`` ``{lora_name}`` change
the list at run time. A load that succeeds proves little (an adapter of the wrong shape loads and fails later), so an
adapter counts as served by a pod only after a short request was answered. The base is asked the same, at temperature 0:
an adapter that answers alike may have no effect. What a name stands for is ``adapter_content``'s to say.

What is known lives in memory only: after a restart the pods are asked again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import structlog

from rollouts.controller.adapter_content import (
    AdapterOnPod,
    Model,
    Serving,
    answer_text,
    has_requests,
    read_models,
)
from rollouts.controller.model_server_calls import ModelServerCalls, ServerAnswer
from rollouts.objects.pods import Pod
from rollouts.runtime.clock import Clock, Monotonic
from rollouts.runtime.modelservers import ModelServerBook
from rollouts.runtime.objects import ObjectKey

__all__ = ["AdapterOnPod", "AdapterSettings", "AdapterWatch", "Serving"]

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
_PROBE_TOKENS = 16
"""Enough for two models to part ways, and nothing to a pod."""
_QUIET = 3.0
"""Seconds without a request before an adapter is taken off: those on their way from the gateway arrive in between."""
_NEVER = Monotonic(float("-inf"))


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSettings:
    """What the administrator allows. ``prefixes``: folders that adapters may be loaded from."""

    prefixes: tuple[str, ...] = ()

    def allows(self, path: str) -> bool:
        """Whether a path lies under an allowed prefix, whatever tricks it is written with."""
        parts = path.split("/")
        if "" in parts[1:] or "." in parts or ".." in parts or any(not c.isprintable() for c in path):
            return False
        return any(path.startswith(prefix.rstrip("/") + "/") for prefix in self.prefixes)


@dataclass(slots=True)
class _Pod:
    namespace: str
    endpoint: Pod
    port: int
    models: dict[str, Model] | None = None
    error: str = ""
    looked: Monotonic = _NEVER
    read: Monotonic = _NEVER
    """When the list that ``models`` holds was asked for."""
    sent: dict[tuple[str, str], Monotonic] = field(default_factory=dict)
    """(what, adapter) -> when a load or unload ended: before another the list is read once more."""
    proven: dict[str, Model] = field(default_factory=dict)
    """What answered a probe, as it was listed then: other content under the name has to show itself again."""
    differs: dict[str, bool] = field(default_factory=dict)
    quiet: dict[str, Monotonic] = field(default_factory=dict)
    """Since when an adapter that is to be taken off has had no request."""
    failed: dict[tuple[str, str], tuple[Monotonic, str]] = field(default_factory=dict)
    """(what, adapter) -> when it failed last, and why."""
    busy: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Want:
    pods: tuple[tuple[str, ...], ...]
    prove: frozenset[str]
    drain: frozenset[str]


class AdapterWatch:
    """Looks at the pods that somebody follows. ``run`` works until cancelled.

    ``on_change`` is called with the key of every follower whose pods' answers changed.
    """

    def __init__(
        self, clock: Clock, settings: AdapterSettings, model_servers: ModelServerBook | None = None
    ) -> None:
        self.settings = settings
        self.on_change: Callable[[ObjectKey], None] = lambda _: None
        self._clock = clock
        self._pods: dict[tuple[str, ...], _Pod] = {}
        self._wants: dict[ObjectKey, _Want] = {}
        self._calls = ModelServerCalls(model_servers or ModelServerBook())
        self._tasks: set[asyncio.Task[None]] = set()

    # --- what callers ask ---

    def follow(
        self,
        follower: ObjectKey,
        endpoints: Iterable[Pod],
        port: int,
        prove: Iterable[str],
        drain: Iterable[str] = (),
    ) -> None:
        """Keep asking these Ready pods for their models, and prove these adapters where they are listed.

        ``drain``: adapters that get no more traffic; whether requests for them still run is asked, too.
        """
        keys = []
        for endpoint in endpoints:
            # Another start of the pod is another process: nothing that was loaded is there any more.
            key = (follower.namespace, endpoint.pool, endpoint.name, endpoint.ip, str(port), endpoint.started)
            keys.append(key)
            if key not in self._pods:
                self._pods[key] = _Pod(namespace=follower.namespace, endpoint=endpoint, port=port)
        self._wants[follower] = _Want(pods=tuple(keys), prove=frozenset(prove), drain=frozenset(drain))
        self._forget_unwanted()

    def drop(self, follower: ObjectKey) -> None:
        """The follower needs nothing any more."""
        if self._wants.pop(follower, None) is not None:
            self._forget_unwanted()

    def serving(self, follower: ObjectKey, adapter: str) -> Serving:
        """What is known of an adapter on the pods that ``follower`` follows."""
        want = self._wants.get(follower)
        pods = [self._pods[key] for key in want.pods] if want is not None else []
        now = self._clock.monotonic()
        return Serving(tuple(_state(pod, adapter, now) for pod in pods))

    def load(self, follower: ObjectKey, adapter: str, path: str) -> None:
        """Load the adapter on the pods that lack it, in the background; refused paths are the caller's duty."""
        self._change(follower, adapter, "load", {"lora_name": adapter, "lora_path": path}, listed=False)

    def unload(self, follower: ObjectKey, adapter: str, pods: Iterable[str] | None = None) -> None:
        """Take the adapter off the pods that list it, or those of ``pods`` that do, in the background."""
        only = None if pods is None else frozenset(pods)
        self._change(follower, adapter, "unload", {"lora_name": adapter}, listed=True, only=only)

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
        await self._calls.close()

    def _interval(self, key: tuple[str, ...], pod: _Pod) -> float:
        if pod.models is None or self._wanted(key, lambda want: want.prove) - pod.proven.keys():
            return _BUSY_INTERVAL
        now = self._clock.monotonic()
        ends = self._wanted(key, lambda want: want.drain) & pod.models.keys()
        return _IDLE_INTERVAL if all(_is_quiet(pod, name, now) for name in ends) else _BUSY_INTERVAL

    def _wanted(self, key: tuple[str, ...], names: Callable[[_Want], frozenset[str]]) -> set[str]:
        return {name for want in self._wants.values() if key in want.pods for name in names(want)}

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
                _log.error("adapter_task_failed", what=what, pod=pod.endpoint.name, exc_info=done.exception())

        task.add_done_callback(ended)

    def _changed(self, key: tuple[str, ...]) -> None:
        for follower, want in self._wants.items():
            if key in want.pods:
                self.on_change(follower)

    async def _look(self, key: tuple[str, ...], pod: _Pod) -> None:
        before = self._known(pod)
        begun = self._clock.monotonic()
        answer = await self._ask(pod, "GET", "/v1/models", None, _LIST_TIMEOUT)
        pod.looked = self._clock.monotonic()
        models = read_models(answer.body) if answer.ok else None
        if models is None:
            # The last answer stands: a pod that does not answer us may still answer the gateway.
            pod.error = answer.problem or "/v1/models answers no list of models"
        else:
            pod.models, pod.error, pod.read = models, "", begun
            for adapter in [name for name, shown in pod.proven.items() if models.get(name) != shown]:
                del pod.proven[adapter]
                pod.differs.pop(adapter, None)
            for adapter in sorted(self._wanted(key, lambda want: want.prove) & models.keys()):
                await self._prove(pod, adapter, models[adapter])
            await self._drain(pod, self._wanted(key, lambda want: want.drain) & models.keys())
        if before != self._known(pod):
            self._changed(key)

    def _known(self, pod: _Pod) -> tuple[object, ...]:
        now = self._clock.monotonic()
        quiet = frozenset(name for name in pod.quiet if _is_quiet(pod, name, now))
        told = tuple((what, why) for what, (_, why) in sorted(pod.failed.items()))
        return dict(pod.models or {}), pod.error, frozenset(pod.proven), dict(pod.differs), told, quiet

    async def _prove(self, pod: _Pod, adapter: str, model: Model) -> None:
        """One short request; then the same to its base, to see whether the adapter makes a difference."""
        base = model.parent or _base_of(pod, adapter)
        compared = adapter in pod.differs or not base
        what = "compare" if adapter in pod.proven else "probe"
        if (adapter in pod.proven and compared) or self._recently_failed(pod, what, adapter):
            return
        answer, path, problem = await self._probe(pod, adapter)
        if answer is None:
            pod.failed[what, adapter] = (self._clock.monotonic(), problem)
            return
        if adapter not in pod.proven:
            _log.info("adapter_proven", pod=pod.endpoint.name, adapter=adapter, root=model.root)
        pod.proven[adapter] = model
        pod.failed.pop(("probe", adapter), None)
        other, _, problem = (
            (None, "", "no base model is listed") if not base else await self._probe(pod, base, path)
        )
        if other is None or not (answer or other):
            problem = problem or "neither answer has any text"
            pod.failed["compare", adapter] = (self._clock.monotonic(), problem)
            return
        pod.failed.pop(("compare", adapter), None)
        pod.differs[adapter] = answer != other

    async def _probe(self, pod: _Pod, model: str, only: str = "") -> tuple[str | None, str, str]:
        """Text, path and problem: of completions, else of chat completions; ``only`` asks this path alone."""
        short = {"model": model, "max_tokens": _PROBE_TOKENS, "temperature": 0}
        chat = {**short, "messages": [{"role": "user", "content": "Hi"}]}
        problems = []
        for path, request in (("/v1/completions", {**short, "prompt": "Hi"}), ("/v1/chat/completions", chat)):
            if only in ("", path):
                answer = await self._ask(pod, "POST", path, request, _PROBE_TIMEOUT)
                if answer.ok:
                    return answer_text(answer.body), path, ""
                problems.append(answer.problem)
        return None, "", problems[0]

    async def _drain(self, pod: _Pod, adapters: set[str]) -> None:
        """Note since when the adapters that are to be taken off have had no request."""
        for adapter in [name for name in pod.quiet if name not in adapters]:
            del pod.quiet[adapter]
        if not adapters:
            return
        page = await self._ask(pod, "GET", "/metrics", None, _LIST_TIMEOUT)
        for adapter in adapters:
            # A server without metrics counts nothing: only the time for requests on their way is waited for.
            busy = page.status != 404 and (not page.ok or has_requests(page.body.encode(), adapter))
            if busy:
                pod.quiet.pop(adapter, None)
            else:
                pod.quiet.setdefault(adapter, self._clock.monotonic())

    def _recently_failed(self, pod: _Pod, what: str, adapter: str) -> bool:
        last = pod.failed.get((what, adapter))
        return last is not None and self._clock.monotonic() - last[0] < _RETRY

    # --- loading ---

    def _change(
        self,
        follower: ObjectKey,
        adapter: str,
        what: str,
        request: dict[str, str],
        *,
        listed: bool,
        only: frozenset[str] | None = None,
    ) -> None:
        want = self._wants.get(follower)
        for key in want.pods if want is not None else ():
            pod = self._pods[key]
            due = pod.models is not None and (adapter in pod.models) is listed
            due = due and (only is None or pod.endpoint.name in only)
            # A call without an answer may have had its effect: what the pod lists since then says so.
            due = due and pod.read > pod.sent.get((what, adapter), _NEVER)
            if due and f"{what} {adapter}" not in pod.busy and not self._recently_failed(pod, what, adapter):
                self._spawn(pod, f"{what} {adapter}", self._send(key, pod, adapter, what, request))

    async def _send(
        self, key: tuple[str, ...], pod: _Pod, adapter: str, what: str, request: dict[str, str]
    ) -> None:
        path = f"/v1/{what}_lora_adapter"
        answer = await self._ask(pod, "POST", path, request, _LOAD_TIMEOUT)
        _log.info("adapter_changed", what=what, pod=pod.endpoint.name, adapter=adapter, status=answer.status)
        pod.sent[what, adapter] = self._clock.monotonic()
        if answer.ok or (what == "unload" and answer.status == 404):
            pod.failed.pop((what, adapter), None)
        else:
            pod.failed[what, adapter] = (self._clock.monotonic(), _with_path(answer.problem, request))
        pod.looked = _NEVER
        self._changed(key)

    async def _ask(self, pod: _Pod, method: str, path: str, request: Any, timeout: float) -> ServerAnswer:
        return await self._calls.ask(pod.namespace, pod.endpoint, pod.port, method, path, request, timeout)


def _with_path(problem: str, request: dict[str, str]) -> str:
    """vLLM 0.32 hides paths in its errors (``No adapter found for <path>``): which one it was is ours to say."""
    path = request.get("lora_path", "")
    return problem if path in problem else f"{problem} (lora_path {path})"


def _is_quiet(pod: _Pod, adapter: str, now: Monotonic) -> bool:
    since = pod.quiet.get(adapter)
    return since is not None and now - since >= _QUIET


def _base_of(pod: _Pod, adapter: str) -> str:
    """The base model where an adapter's entry does not name it: the first one without a parent."""
    models = pod.models or {}
    return next((name for name, model in models.items() if not model.parent and name != adapter), "")


def _state(pod: _Pod, adapter: str, now: Monotonic) -> AdapterOnPod:
    listed = None if pod.models is None else adapter in pod.models
    problems = [pod.failed[what, adapter][1] for what in ("load", "probe") if (what, adapter) in pod.failed]
    if listed and problems:
        problems = [pod.failed["probe", adapter][1]] if ("probe", adapter) in pod.failed else []
    return AdapterOnPod(
        pod=pod.endpoint.name,
        listed=listed,
        proven=bool(listed) and adapter in pod.proven,
        problem=(problems or [pod.error])[0],
        root=pod.models[adapter].root if pod.models is not None and listed else "",
        in_flight=not _is_quiet(pod, adapter, now),
        differs=pod.differs.get(adapter),
    )
