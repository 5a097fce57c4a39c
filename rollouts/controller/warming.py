"""Warm-up of fresh pods: which are cold, the annotation that keeps requests from them, and requests of our own.

Marks are read off the pods, as those of drains are. How far a pod is lives in memory: a new process begins its requests
anew, which costs seconds, and finds the mark to take off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from rollouts.analysis.exposition import ScrapedPage
from rollouts.api.parsing import ParsedRollout
from rollouts.api.scalars import format_time
from rollouts.controller.caches import Caches
from rollouts.controller.marking import PATIENCE, Change, Marking, PodMarks
from rollouts.controller.model_server_calls import ServerAnswer
from rollouts.controller.pages import metrics_pages
from rollouts.controller.warm_prompts import ANSWER_TOKENS, FORMS, LENGTH_NAMES, lengths_of, made_up
from rollouts.engine.actions import Plan, WarmPods
from rollouts.engine.rollout_spec import WarmUp
from rollouts.engine.versions import Identity
from rollouts.kube.client import KubeClient
from rollouts.kube.errors import Forbidden, KubeError
from rollouts.objects import kinds
from rollouts.objects.leaving import is_active
from rollouts.objects.pods import Pod, is_draining, is_ready, read_pod, warmed_for
from rollouts.objects.pools import Pool
from rollouts.objects.served import listed_models
from rollouts.objects.warming import begins, ends, is_warm, read_prompts, stops
from rollouts.runtime.clock import Clock
from rollouts.runtime.fairness import FairShares, FairSlots
from rollouts.runtime.objects import ObjectKey, key_of, uid_of
from rollouts.sources.base import ScrapeTarget
from rollouts.units import ZERO

__all__ = ["AT_ONCE", "OF_ONE_NAMESPACE", "AsksServers", "ReadsPages", "WarmUps", "Warmth"]

_log = structlog.get_logger(__name__)

Object = dict[str, Any]

_LIST_TIMEOUT = 5.0
_TIMEOUT = 120.0
"""Seconds for one answer: the first one captures graphs."""
_AGAIN = 10.0
"""Seconds after a failure."""
_ASKED_FOR_LENGTHS = 4
"""Pods of stable whose histograms are read."""
AT_ONCE, OF_ONE_NAMESPACE = 256, 64
"""Requests under way, of all pods and of one namespace's: who finds no room for as many as he sends waits his turn."""
_READ_AT_ONCE, _READ_OF_ONE_NAMESPACE = 8, 2
"""ConfigMaps, which may have a megabyte each, most of it something else."""
_KEPT, _LISTED = 4096, 1024 * 1024
"""Bytes of an answer, and of a list of models: of an answer nobody reads more than the sentence of an error."""
_RIGHT = "the chart value capacity.promptConfigMaps gives the right to read it"
_NO_FORM, _TOO_LONG = (404, 405, 501), (400, 413, 422)
_SHORTEST = 16
"""Tokens: a server that refuses so short a prompt does so for another reason."""
_ROOM = 64
"""Tokens of a context that are left beside prompt and answer, for what a chat template adds."""


@dataclass(frozen=True, slots=True)
class Warmth:
    """``cold``: pods that are not warm; ``warming``: the Ready ones of them; ``waiting``: of these, those that wait for
    their turn; ``problem``: what keeps one from it.
    """

    cold: int = 0
    warming: int = 0
    waiting: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Job:
    """What one pod is asked, as its Rollout and the caches say: where that changes, whatever was asked is void."""

    key: ObjectKey
    uid: str
    pod: Pod
    pool: Pool
    warm_up: WarmUp
    users: Identity | None
    """The version whose users' prompts are imitated."""

    @property
    def matter(self) -> tuple[Any, ...]:
        """What decides whether answers count: which processes at which address, and what they are asked."""
        return self.pod.ip, self.pod.restarts, self.pool.name, self.pool.processes, self.warm_up


@dataclass(frozen=True, slots=True)
class _Prompts:
    """What is asked in one round: the lines that somebody wrote, or else made up ones of these lengths."""

    lines: tuple[bytes, ...] = ()
    """In UTF-8: one character of another script makes a whole text four times as large in memory."""
    lengths: tuple[int, ...] = ()

    def length(self, number: int) -> int:
        """Tokens of a made up prompt."""
        return self.lengths[number % len(self.lengths)] if self.lengths else 0

    def text(self, number: int, tokens: int, seed: str) -> str:
        """What is asked; one that is made up has about so many tokens."""
        if self.lines:
            return self.lines[number % len(self.lines)].decode()
        return made_up(tokens, number, seed)


@dataclass(slots=True)
class _Process:
    """What has been learned of one process: the model that it serves, the longest prompt that it may take (tokens), and
    which of ``FORMS`` it has; ``problem`` is its answer to the first one, where it has not that.
    """

    port: int
    model: str
    most: int
    form: int = 0
    problem: str = ""


@dataclass(slots=True)
class _Pod:
    """How far a pod is. ``answered`` counts over all of its processes."""

    owner: ObjectKey
    job: _Job | None = None
    task: asyncio.Task[None] | None = None
    waits: bool = False
    answered: int = 0
    problem: str = ""
    done: bool = False

    def stop(self) -> None:
        """Ask it nothing more; what it answered counts for nothing."""
        if self.task is not None:
            self.task.cancel()
        self.job, self.task, self.waits, self.problem, self.done = None, None, False, "", False


class AsksServers(Protocol):
    """Who calls model servers: ``ModelServerCalls``."""

    async def ask(
        self,
        namespace: str,
        pod: Pod,
        port: int,
        method: str,
        path: str,
        request: Any,
        timeout: float,
        keep: int = ...,
    ) -> ServerAnswer:
        """One call of at most ``timeout`` seconds; of the answer ``keep`` bytes are kept."""
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
        self._shares = FairShares(AT_ONCE, OF_ONE_NAMESPACE)
        self._reading = FairSlots(_READ_AT_ONCE, _READ_OF_ONE_NAMESPACE)
        self._pods: dict[str, _Pod] = {}
        """By UID."""

    # --- which pods are cold ---

    def warmth(
        self, parsed: ParsedRollout, arm: Identity, pool: Pool, carrying: Collection[Identity] = ()
    ) -> Warmth:
        """Of the version that is being rolled out, or is about to be; nothing of others.

        ``carrying``: arms that the live traffic object sends requests to.
        """
        cold = self._cold(parsed, arm, pool, carrying)
        known = [self._pods[uid_of(pod)] for pod in cold if uid_of(pod) in self._pods]
        refused = self._marks.refusal(parsed.namespace, parsed.name)
        return Warmth(
            cold=len(cold),
            warming=sum(map(self._caches.is_ready_unit, cold)),
            waiting=sum(one.waits for one in known),
            problem=f"the API server refuses to annotate pods: {refused}"
            if refused
            else next((one.problem for one in known if one.problem), ""),
        )

    def _cold(
        self, parsed: ParsedRollout, arm: Identity, pool: Pool, carrying: Collection[Identity]
    ) -> list[Object]:
        """Pods of ours that nobody else keeps requests from: those that we warm, are not Ready, or have no weight yet.

        A pod that was Ready before anybody marked it, and gets requests, is as warm as users made it.
        """
        status, spec = parsed.status, parsed.spec
        policy = spec.canary.capacity if spec is not None else None
        if spec is None or policy is None or policy.warm_up is None:
            return []
        if status.stable is None or status.stable.identity == arm:
            return []  # before the arms are known, any pod may be stable's
        current = status.current
        if current is None and status.was_stable(arm, spec.rollback_window, self._clock.now()):
            return []  # it goes back at once
        if current is not None and (
            current.canary.identity != arm or current.skip_gates or current.aborted is not None
        ):
            return []
        taken_over = current is not None and current.adopted_split and current.started_at is None
        weight = (
            ZERO
            if current is None or not current.may_carry or status.weight.applied is None
            else status.weight.applied
        )
        fresh = not taken_over and weight == ZERO and arm.arm not in carrying
        pods = filter(is_active, self._caches.unit_pods(pool))
        return [pod for pod in pods if not is_warm(pod) and self._is_ours(pod, parsed.name, fresh=fresh)]

    @staticmethod
    def _is_ours(pod: Object, rollout: str, *, fresh: bool) -> bool:
        return warmed_for(pod) == rollout or (not is_draining(pod) and (fresh or not is_ready(pod)))

    # --- what is done about it ---

    def owes(self, parsed: ParsedRollout, plan: Plan) -> bool:
        """Whether a pod has our mark, and the plan warms none."""
        return _asked(plan) is None and bool(self._caches.warming_pods(parsed.namespace, parsed.name))

    async def carry_out(
        self,
        parsed: ParsedRollout,
        plan: Plan,
        carrying: Collection[Identity] = (),
        patience: float = PATIENCE,
    ) -> Marking:
        """Mark cold pods, ask those that are Ready, and let requests to all others.

        ``patience``: seconds for the marks. Raises NotLeading.
        """
        action, key = _asked(plan), ObjectKey(parsed.namespace, parsed.name)
        pool = (
            self._caches.pool(action.identity.group, parsed.namespace, action.identity.name)
            if action is not None
            else None
        )
        if action is None or pool is None:
            return await self.release(key, patience)
        cold = {uid_of(pod): pod for pod in self._cold(parsed, action.identity, pool, carrying)}
        changes: list[Change] = []
        for uid, pod in cold.items():
            known = self._pods.setdefault(uid, _Pod(owner=key))
            if not warmed_for(pod):
                changes.append((pod, begins(parsed.name)))
            else:
                self._see_to(known, self._job(parsed, pod, pool, action.warm_up))
                if known.done and known.job is not None:
                    changes.append((pod, ends(format_time(self._clock.now()), known.job.pod.restarts)))
        for pod in self._caches.warming_pods(*key):
            if uid_of(pod) not in cold and not pod["metadata"].get("deletionTimestamp"):
                changes.append((pod, stops()))
        self._forget(key, cold.keys())
        return await self._marks.write(*key, changes, patience)

    async def release(self, key: ObjectKey, patience: float = PATIENCE) -> Marking:
        """Take all marks of a Rollout off, in so many seconds. Raises NotLeading."""
        self._forget(key, ())
        left = (
            pod for pod in self._caches.warming_pods(*key) if not pod["metadata"].get("deletionTimestamp")
        )
        return await self._marks.write(*key, [(pod, stops()) for pod in left], patience)

    async def close(self) -> None:
        """End all requests, and the connections."""
        for known in self._pods.values():
            known.stop()
        self._pods.clear()
        await self._calls.close()

    def _forget(self, key: ObjectKey, kept: Any) -> None:
        for uid in [uid for uid, known in self._pods.items() if known.owner == key and uid not in kept]:
            self._pods.pop(uid).stop()

    def _job(self, parsed: ParsedRollout, pod: Object, pool: Pool, warm_up: WarmUp) -> _Job | None:
        """What a pod is to be asked; None while it cannot be."""
        found, stable = read_pod(pod, pool.name), parsed.status.stable
        if found is None or not self._caches.is_ready_unit(pod):
            return None
        users = stable.identity if stable is not None else None
        return _Job(key_of(pod), uid_of(pod), found, pool, warm_up, users)

    def _see_to(self, known: _Pod, job: _Job | None) -> None:
        """Ask a pod what it is to be asked, and nothing else any more."""
        if job is None or (known.job is not None and known.job.matter != job.matter):
            known.stop()
        if job is not None and known.task is None:
            known.job = job
            known.task = asyncio.get_running_loop().create_task(self._warm(known, job))

    # --- requests ---

    async def _warm(self, known: _Pod, job: _Job) -> None:
        """Ask until all is answered, in turns; what fails is said, and tried again after others had theirs."""
        while not known.done:
            before = known.problem
            await self._take_turn(known, job)
            if known.done:
                _log.info("pod_warm", namespace=job.key.namespace, pod=job.pod.name, requests=known.answered)
            if known.done or known.problem != before:
                self.on_change(known.owner)
            if not known.done:
                await self._clock.sleep(_AGAIN)

    async def _take_turn(self, known: _Pod, job: _Job) -> None:
        share = self._shares.join(known.owner.namespace, known.owner, job.warm_up.concurrency)
        try:
            if not share.turn.done():
                known.waits = True
                self.on_change(known.owner)
                await share.turn
                known.waits = False
                self.on_change(known.owner)
            known.problem = await self._try(known, job)
            known.done = not known.problem
        except Exception:  # a bug of ours keeps no pod from users for ever in silence
            _log.exception("warm_up_failed", pod=job.pod.name)
            known.problem = "the controller failed, see its log"
        finally:
            self._shares.leave(share)

    async def _try(self, known: _Pod, job: _Job) -> str:
        """One round; a problem in words, empty where there is none."""
        try:
            prompts = await self._prompts(job)
        except (KubeError, ValueError) as error:
            way_out = f"; {_RIGHT}" if isinstance(error, Forbidden) else ""
            return f"ConfigMap {job.warm_up.config_map} gives no prompts: {error}{way_out}"
        return await self._ask_all(known, job, prompts)

    async def _prompts(self, job: _Job) -> _Prompts:
        """As they are now: a corrected ConfigMap counts in the next round. Raises KubeError and ValueError."""
        asked = job.warm_up
        if not asked.config_map:
            return _Prompts(lengths=await self._lengths(job))
        async with self._reading.hold(job.key.namespace):
            found = await self._client.get(kinds.CONFIG_MAP, job.key.namespace, asked.config_map)
            lines = read_prompts(found, asked.key)
        return _Prompts(lines=tuple(line.encode("utf-8", "replace") for line in lines))

    async def _lengths(self, job: _Job) -> tuple[int, ...]:
        """Of stable's pods, as far as they answer."""
        named = job.users
        users = self._caches.pool(named.group, job.key.namespace, named.name) if named is not None else None
        if users is None:
            return lengths_of(())
        ready = [pod for pod in self._caches.endpoints(users) if pod.ready][:_ASKED_FOR_LENGTHS]
        pages = metrics_pages(ready, users.processes, users.namespace)
        read = await asyncio.gather(*(self._scraper.read(page, LENGTH_NAMES) for page in pages))
        return lengths_of(found[""] for found in read if found and "" in found)

    async def _ask_all(self, known: _Pod, job: _Job, prompts: _Prompts) -> str:
        """As many requests as are missing at each process; the first problem in words."""
        known.answered = 0
        for port in job.pool.processes:
            problem = await self._ask_process(known, job, prompts, port)
            if problem:
                return f"pod {job.pod.name}: {problem}"
        return ""

    async def _ask_process(self, known: _Pod, job: _Job, asked: _Prompts, port: int) -> str:
        answer = await self._ask(job, port, "GET", "/v1/models", None, _LIST_TIMEOUT)
        models = listed_models(answer.body) if answer.ok else None
        base = next((one for one in models or () if not one.get("parent")), None)
        if base is None:
            return answer.problem or "/v1/models lists no model"
        limit = base.get("max_model_len")
        most = max(1, limit - ANSWER_TOKENS - _ROOM) if isinstance(limit, int) else 2**31
        process = _Process(port, str(base["id"]), most)
        numbers, problems = iter(range(job.warm_up.requests)), list[str]()

        async def ask_on() -> None:
            for number in numbers:
                problem = await self._ask_one(job, process, asked, number)
                if problem:
                    problems.append(problem)
                if problems:
                    return
                known.answered += 1

        await asyncio.gather(*(ask_on() for _ in range(job.warm_up.concurrency)))
        return problems[0] if problems else ""

    async def _ask_one(self, job: _Job, process: _Process, asked: _Prompts, number: int) -> str:
        """One request in a form that the process has, no longer than it takes: of either it may say nothing before."""
        while True:
            tokens, form = min(asked.length(number), process.most), process.form
            prompt = asked.text(number, tokens, job.uid)
            request = {"model": process.model, **FORMS[form].body(prompt)}
            said = await self._ask(job, process.port, "POST", FORMS[form].path, request, _TIMEOUT, keep=_KEPT)
            if said.ok:
                return ""
            if _lacks_form(said):
                process.problem = process.problem or said.problem
                if form + 1 == len(FORMS):
                    return (
                        f"{process.problem}; nor does it answer {' or '.join(one.path for one in FORMS[1:])}"
                    )
                process.form = max(process.form, form + 1)
            elif said.status in _TOO_LONG and not asked.lines and tokens > _SHORTEST:
                process.most = min(process.most, tokens // 2)
            else:
                return said.problem

    async def _ask(
        self, job: _Job, port: int, method: str, path: str, request: Any, timeout: float, keep: int = _LISTED
    ) -> ServerAnswer:
        """Where the pod is still the one that is meant: an address goes to somebody else's pod in seconds."""
        if not self._is_there(job):
            return ServerAnswer(status=None, problem="it is not Ready any more, or has started anew")
        return await self._calls.ask(
            job.key.namespace, job.pod, port, method, path, request, timeout, keep=keep
        )

    def _is_there(self, job: _Job) -> bool:
        pod = self._caches.pods.get(job.key)
        found = read_pod(pod) if pod is not None and uid_of(pod) == job.uid else None
        same = found is not None and (found.ip, found.restarts) == (job.pod.ip, job.pod.restarts)
        return same and pod is not None and self._caches.is_ready_unit(pod)


def _lacks_form(said: ServerAnswer) -> bool:
    """As servers of other models answer: no such path, or (vLLM) a 400 ``does not support Completions API``."""
    return said.status in _NO_FORM or (said.status == 400 and "does not support" in said.problem)


def _asked(plan: Plan) -> WarmPods | None:
    return next((action for action in plan.actions if isinstance(action, WarmPods)), None)
