"""Warm-up of fresh pods: which are cold, the annotation that keeps requests from them, and requests of our own.

Marks are read off the pods, as those of drains are. How far a pod is lives in memory: a new process begins its requests
anew, which costs seconds, and finds the mark to take off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from rollouts.analysis.exposition import ScrapedPage
from rollouts.api.parsing import ParsedRollout
from rollouts.api.scalars import format_time
from rollouts.controller.caches import Caches
from rollouts.controller.marking import Change, Marking, PodMarks
from rollouts.controller.model_server_calls import ServerAnswer
from rollouts.controller.pages import metrics_pages
from rollouts.controller.warm_prompts import LENGTH_NAMES, lengths_of, made_up
from rollouts.engine.actions import Plan, WarmPods
from rollouts.engine.rollout_spec import WarmUp
from rollouts.engine.versions import Identity
from rollouts.kube.client import KubeClient
from rollouts.kube.errors import KubeError
from rollouts.objects import kinds
from rollouts.objects.leaving import is_active
from rollouts.objects.pods import Pod, is_draining, is_ready, read_pod, warmed_for
from rollouts.objects.pools import Pool
from rollouts.objects.served import listed_models
from rollouts.objects.warming import begins, ends, is_warm, read_prompts, stops
from rollouts.runtime.clock import Clock
from rollouts.runtime.objects import ObjectKey, uid_of
from rollouts.sources.base import ScrapeTarget
from rollouts.units import ZERO

__all__ = ["AT_ONCE", "OF_ONE_NAMESPACE", "AsksServers", "ReadsPages", "WarmUps", "Warmth"]

_log = structlog.get_logger(__name__)

Object = Mapping[str, Any]

_ANSWER_TOKENS = 16
"""Of each answer: decoding is warm after a few, and users wait for the pod."""
_LIST_TIMEOUT = 5.0
_TIMEOUT = 120.0
"""Seconds for one answer: the first one captures graphs."""
_AGAIN = 10.0
"""Seconds after a failure."""
_ASKED_FOR_LENGTHS = 4
"""Pods of stable whose histograms are read."""
AT_ONCE, OF_ONE_NAMESPACE = 256, 64
"""Requests under way, of all pods and of one namespace's: no pod is asked while its share is taken."""
_ROOM = 64
"""Tokens of a context that are left beside prompt and answer, for what a chat template adds."""


@dataclass(frozen=True, slots=True)
class Warmth:
    """``cold``: pods that are not warm; ``warming``: the Ready ones of them; ``problem``: what keeps one from it."""

    cold: int = 0
    warming: int = 0
    problem: str = ""


@dataclass(slots=True)
class _Pod:
    """How far a pod is. ``answered`` counts over all of its processes."""

    owner: ObjectKey
    task: asyncio.Task[None] | None = None
    takes: int = 0
    """Requests at a time, while it is asked."""
    answered: int = 0
    problem: str = ""
    done: bool = False


@dataclass(slots=True)
class _Job:
    """What one pod is asked."""

    pod: Pod
    uid: str
    pool: Pool
    lengths_from: Pool | None
    warm_up: WarmUp
    prompts: tuple[str, ...] = field(default=())
    lengths: tuple[int, ...] = field(default=())


class AsksServers(Protocol):
    """Who calls model servers: ``ModelServerCalls``."""

    async def ask(
        self, namespace: str, pod: Pod, port: int, method: str, path: str, request: Any, timeout: float
    ) -> ServerAnswer:
        """One call of at most ``timeout`` seconds."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class ReadsPages(Protocol):
    """Who reads the metrics pages of pods: ``PodScraper``."""

    async def read(self, endpoint: ScrapeTarget, names: Collection[str]) -> Mapping[str, ScrapedPage] | None:
        """One page, now; None: no usable answer."""
        ...


class WarmUps:
    """Warms pods up. ``on_change`` is called with the key of a Rollout when one of its pods is warm, or fails.

    Requests are sent by tasks of the present event loop, which ``close`` ends.
    """

    def __init__(
        self, client: KubeClient, caches: Caches, clock: Clock, scraper: ReadsPages, calls: AsksServers
    ) -> None:
        self.on_change: Callable[[ObjectKey], None] = lambda _: None
        self._client = client
        self._caches = caches
        self._clock = clock
        self._scraper = scraper
        self._calls = calls
        self._marks = PodMarks(client, caches, clock)
        self._pods: dict[str, _Pod] = {}
        """By UID."""

    # --- which pods are cold ---

    def warmth(self, parsed: ParsedRollout, arm: Identity, pool: Pool) -> Warmth:
        """Of the version that is being rolled out, or is about to be; nothing of others."""
        cold = self._cold(parsed, arm, pool)
        told = (self._pods[uid_of(pod)].problem for pod in cold if uid_of(pod) in self._pods)
        refused = self._marks.refusal(parsed.namespace, parsed.name)
        return Warmth(
            cold=len(cold),
            warming=sum(is_ready(pod) and read_pod(pod) is not None for pod in cold),
            problem=f"the API server refuses to annotate pods: {refused}"
            if refused
            else next(filter(None, told), ""),
        )

    def _cold(self, parsed: ParsedRollout, arm: Identity, pool: Pool) -> list[Object]:
        """Pods of ours that nobody else keeps requests from: those that we warm, are not Ready, or have no weight yet.

        A pod that was Ready before anybody marked it, and gets requests, is as warm as users made it.
        """
        status, policy = parsed.status, parsed.spec.canary.capacity if parsed.spec is not None else None
        if (
            policy is None
            or policy.warm_up is None
            or (status.stable is not None and status.stable.identity == arm)
        ):
            return []
        current = status.current
        if current is not None and (
            current.canary.identity != arm or current.skip_gates or current.aborted is not None
        ):
            return []
        fresh = current is None or not current.may_carry or (status.weight.applied or ZERO) == ZERO
        pods = filter(is_active, self._caches.holding_pods(pool))
        return [pod for pod in pods if not is_warm(pod) and self._is_ours(pod, parsed.name, fresh=fresh)]

    @staticmethod
    def _is_ours(pod: Object, rollout: str, *, fresh: bool) -> bool:
        return warmed_for(pod) == rollout or (not is_draining(pod) and (fresh or not is_ready(pod)))

    # --- what is done about it ---

    def owes(self, parsed: ParsedRollout, plan: Plan) -> bool:
        """Whether a pod has our mark, and the plan warms none."""
        return _asked(plan) is None and bool(self._caches.warming_pods(parsed.namespace, parsed.name))

    async def carry_out(self, parsed: ParsedRollout, plan: Plan) -> Marking:
        """Mark cold pods, ask those that are Ready, and let requests to all others. Raises NotLeading."""
        action, key = _asked(plan), ObjectKey(parsed.namespace, parsed.name)
        pool = (
            self._caches.pool(action.identity.group, parsed.namespace, action.identity.name)
            if action is not None
            else None
        )
        if action is None or pool is None:
            return await self.release(key)
        cold = {uid_of(pod): pod for pod in self._cold(parsed, action.identity, pool)}
        changes: list[Change] = []
        for uid, pod in cold.items():
            known = self._pods.setdefault(uid, _Pod(owner=key))
            if not warmed_for(pod):
                changes.append((pod, begins(parsed.name)))
            elif known.done:
                changes.append((pod, ends(format_time(self._clock.now()))))
            elif is_ready(pod):
                self._begin(known, self._job(parsed, pod, pool, action.warm_up))
        for pod in self._caches.warming_pods(*key):
            if uid_of(pod) not in cold and not pod["metadata"].get("deletionTimestamp"):
                changes.append((pod, stops()))
        self._forget(key, cold.keys())
        return await self._marks.write(*key, changes)

    async def release(self, key: ObjectKey) -> Marking:
        """Take all marks of a Rollout off. Raises NotLeading."""
        self._forget(key, ())
        left = (
            pod for pod in self._caches.warming_pods(*key) if not pod["metadata"].get("deletionTimestamp")
        )
        return await self._marks.write(*key, [(pod, stops()) for pod in left])

    async def close(self) -> None:
        """End all requests, and the connections."""
        for known in self._pods.values():
            if known.task is not None:
                known.task.cancel()
        self._pods.clear()
        await self._calls.close()

    def _forget(self, key: ObjectKey, kept: Any) -> None:
        for uid in [uid for uid, known in self._pods.items() if known.owner == key and uid not in kept]:
            task = self._pods.pop(uid).task
            if task is not None:
                task.cancel()

    def _job(self, parsed: ParsedRollout, pod: Object, pool: Pool, warm_up: WarmUp) -> _Job | None:
        found, stable = read_pod(pod, pool.name), parsed.status.stable
        users = (
            self._caches.pool(stable.identity.group, parsed.namespace, stable.identity.name)
            if stable is not None
            else None
        )
        return None if found is None else _Job(found, uid_of(pod), pool, users, warm_up)

    # --- requests ---

    def _begin(self, known: _Pod, job: _Job | None) -> None:
        if job is None or known.task is not None:
            return
        takes, running = job.warm_up.concurrency, [one for one in self._pods.values() if one.takes]
        mine = sum(one.takes for one in running if one.owner.namespace == known.owner.namespace)
        if mine + takes <= OF_ONE_NAMESPACE and sum(one.takes for one in running) + takes <= AT_ONCE:
            known.takes = takes
            known.task = asyncio.get_running_loop().create_task(self._warm(known, job))

    async def _warm(self, known: _Pod, job: _Job) -> None:
        """Ask until all is answered; what fails is said, and tried again."""
        while not known.done:
            before = known.problem
            try:
                known.problem = await self._prepare(job) or await self._ask_all(known, job)
            except Exception:  # a bug of ours keeps no pod from users for ever in silence
                _log.exception("warm_up_failed", pod=job.pod.name)
                known.problem = "the controller failed, see its log"
            known.done = not known.problem
            if known.done:
                known.takes = 0
                _log.info("pod_warm", namespace=job.pool.namespace, pod=job.pod.name, requests=known.answered)
            if known.done or known.problem != before:
                self.on_change(known.owner)
            if not known.done:
                await self._clock.sleep(_AGAIN)

    async def _prepare(self, job: _Job) -> str:
        """What is to be asked; a problem in words, empty where there is none."""
        if job.prompts or job.lengths:
            return ""
        where, asked = job.pool.namespace, job.warm_up
        if not asked.config_map:
            job.lengths = await self._lengths(job.lengths_from)
            return ""
        try:
            found = await self._client.get(kinds.CONFIG_MAP, where, asked.config_map)
            job.prompts = read_prompts(found, asked.key)
        except (KubeError, ValueError) as error:
            return f"ConfigMap {asked.config_map} gives no prompts: {error}"
        return ""

    async def _lengths(self, users: Pool | None) -> tuple[int, ...]:
        """Of stable's pods, as far as they answer."""
        if users is None:
            return lengths_of(())
        ready = [pod for pod in self._caches.endpoints(users) if pod.ready][:_ASKED_FOR_LENGTHS]
        pages = metrics_pages(ready, users.processes, users.namespace)
        read = await asyncio.gather(*(self._scraper.read(page, LENGTH_NAMES) for page in pages))
        return lengths_of(found[""] for found in read if found and "" in found)

    async def _ask_all(self, known: _Pod, job: _Job) -> str:
        """As many requests as are missing at each process; the first problem in words."""
        known.answered = 0
        for port in job.pool.processes:
            problem = await self._ask_process(known, job, port)
            if problem:
                return f"pod {job.pod.name}: {problem}"
        return ""

    async def _ask_process(self, known: _Pod, job: _Job, port: int) -> str:
        answer = await self._ask(job, port, "GET", "/v1/models", None, _LIST_TIMEOUT)
        models = listed_models(answer.body) if answer.ok else None
        base = next((one for one in models or () if not one.get("parent")), None)
        if base is None:
            return answer.problem or "/v1/models lists no model"
        limit, chat = base.get("max_model_len"), False
        most = max(1, limit - _ANSWER_TOKENS - _ROOM) if isinstance(limit, int) else 2**31
        numbers, problems = iter(range(job.warm_up.requests)), list[str]()

        async def ask_on() -> None:
            nonlocal chat
            for number in numbers:
                prompt = (
                    job.prompts[number % len(job.prompts)]
                    if job.prompts
                    else made_up(job.lengths, number, job.uid, at_most=most)
                )
                said = await self._complete(job, port, str(base["id"]), prompt, chat=chat)
                if said.status in (404, 405) and not chat:
                    chat = True
                    said = await self._complete(job, port, str(base["id"]), prompt, chat=chat)
                if not said.ok:
                    problems.append(said.problem)
                if problems:
                    return
                known.answered += 1

        await asyncio.gather(*(ask_on() for _ in range(job.warm_up.concurrency)))
        return problems[0] if problems else ""

    async def _complete(self, job: _Job, port: int, model: str, prompt: str, *, chat: bool) -> ServerAnswer:
        short = {"model": model, "max_tokens": _ANSWER_TOKENS, "temperature": 0}
        if chat:
            messages = [{"role": "user", "content": prompt}]
            return await self._ask(
                job, port, "POST", "/v1/chat/completions", {**short, "messages": messages}, _TIMEOUT
            )
        return await self._ask(job, port, "POST", "/v1/completions", {**short, "prompt": prompt}, _TIMEOUT)

    async def _ask(
        self, job: _Job, port: int, method: str, path: str, request: Any, timeout: float
    ) -> ServerAnswer:
        return await self._calls.ask(job.pool.namespace, job.pod, port, method, path, request, timeout)


def _asked(plan: Plan) -> WarmPods | None:
    return next((action for action in plan.actions if isinstance(action, WarmPods)), None)
