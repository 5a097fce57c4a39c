"""Which pod gets a request: the highest weighted score, as in the Gateway API Inference Extension.

Scores lie in 0..1. Weights follow that project's default profile (queue 2, KV cache 2, prefix 3), with LoRA
affinity and own in-flight requests added. In flight are the requests that the last scrape saw running or
waiting plus those dispatched since, so nothing has to be counted down and nothing can leak. Equal scores take
turns: the pod that was chosen longest ago comes next, whatever the others do.

A cached prefix saves a pod the more of its work the longer it is, but not its queue: what it counts shrinks with the
requests that the pod has in flight beyond the least loaded one, so that a prefix which every request has in common,
a system prompt, fills one pod only until load outweighs it, and is then cached on the next one, too.

A pod that is about to go gets nothing new while another can serve: it is no candidate then, so that neither a cached
prefix nor an empty queue speaks for it. Which target a request belongs to was decided before, and stays.

A new pod is not the emptiest and hence the best pod for everyone at once: during its slow start only a
growing part of the requests may choose it at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from rollouts.picker.core.endpoints import Endpoint, Subset
from rollouts.picker.core.prefix import PrefixIndex

__all__ = ["Load", "ScheduleConfig", "ScheduledPod", "Scheduler"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a pod's metrics and model list said. ``kv_usage`` is 0..1; ``models`` None: not known.

    ``adapters``: those of ``models`` that the list calls adapters, by their ``parent``.
    """

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    active_adapters: frozenset[str] = frozenset()
    max_adapters: int = 0
    models: frozenset[str] | None = None
    adapters: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    """Weights of the scores, and thresholds. Times in seconds.

    ``saturated_waiting`` and ``saturated_kv`` are the shedding thresholds of the Inference Extension;
    ``stale_after`` is the age at which a pod's figures say nothing any more. ``prefix_room`` is how many requests
    more than the least loaded pod one may have in flight until its cached prefix counts nothing: with the weights
    here an idle pod wins from a third of it on, which are 8, a small batch that costs a model server next to no time.
    """

    queue: float = 2.0
    kv_cache: float = 2.0
    prefix: float = 3.0
    adapter: float = 1.0
    in_flight: float = 2.0
    prefix_room: float = 24.0
    slow_start: float = 30.0
    saturated_waiting: int = 5
    saturated_kv: float = 0.8
    stale_after: float = 10.0


@dataclass(slots=True, eq=False)
class ScheduledPod:
    """One endpoint with what is known about it. Made and changed by the ``Scheduler`` alone."""

    endpoint: Endpoint
    first_seen: float
    load: Load = field(default_factory=Load)
    scraped_at: float = -1e9
    dispatched: int = 0  # since the last scrape began
    credit: float = 0.0  # of the slow start
    turn: int = 0  # number of the last dispatch, among those of all pods
    listed: bool = False  # whether it has ever said which models it serves
    recent: dict[str, float] = field(default_factory=dict)  # adapter -> when it was last at work

    @property
    def in_flight(self) -> int:
        """Requests that the last scrape saw, and those dispatched since."""
        return self.load.running + self.load.waiting + self.dispatched

    def work_on(self, adapter: str, now: float) -> None:
        """The adapter is at work here, and so loaded for a while."""
        if len(self.recent) > _MAX_ADAPTERS:
            self.recent.clear()
        self.recent[adapter] = now


_RESIDENT = 60.0
"""Seconds for which an adapter counts as loaded after it was last at work: the metric hides idle adapters."""

_MAX_ADAPTERS = 64
"""More than any server holds."""


class Scheduler:
    """Holds the pods' state and chooses among them. ``now`` is always monotonic seconds."""

    __slots__ = (
        "_adapters",
        "_all",
        "_bases",
        "_config",
        "_draining",
        "_pods",
        "_started",
        "_turn",
        "_youngest",
        "prefixes",
        "to_draining",
    )

    def __init__(self, config: ScheduleConfig | None = None) -> None:
        self._config = config or ScheduleConfig()
        self._pods: dict[str, ScheduledPod] = {}
        self._all: list[ScheduledPod] = []
        self._youngest = 0.0  # when the newest pod was first seen
        self._turn = 0
        self._bases: frozenset[str] = frozenset()
        self._adapters: frozenset[str] = frozenset()
        self._started = False
        self._draining = False  # whether any pod is
        self.prefixes = PrefixIndex()
        self.to_draining: Counter[str] = Counter()
        """By pool: requests that a pod about to go got all the same, since no other could serve them."""

    def sync(self, endpoints: Iterable[Endpoint], now: float, wall: float) -> None:
        """Take over the list of endpoints. Pods known before keep their state.

        The age of a new pod is that of its Ready condition, where that is known, so that a restarted
        picker does not take the whole pool for new.
        """
        pods = {}
        for endpoint in endpoints:
            known = self._pods.get(endpoint.address)
            if known is not None and known.endpoint.pod == endpoint.pod:
                known.endpoint = endpoint
                pods[endpoint.address] = known
            else:
                age = wall - endpoint.ready_since if endpoint.ready_since else 0.0
                if not self._started and not endpoint.ready_since:
                    age = self._config.slow_start
                pods[endpoint.address] = ScheduledPod(endpoint, now - max(0.0, age))
        self._pods = pods
        self._all = list(pods.values())
        self._youngest = max((pod.first_seen for pod in self._all), default=now)
        self._started = self._started or bool(pods)
        self._draining = any(pod.endpoint.draining for pod in self._all)

    def observe(self, address: str, load: Load, now: float, *, before: int | None = None) -> None:
        """A scrape succeeded. ``before``: what ``dispatched`` said when it was sent, and so is in it; None: all."""
        pod = self._pods.get(address)
        if pod is None:
            return
        names = pod.load.models
        pod.load, pod.scraped_at = load, now
        # Not "set to what came since": on the native path requests come between two calls.
        pod.dispatched = 0 if before is None else max(0, pod.dispatched - before)
        pod.listed = pod.listed or load.models is not None
        for adapter in load.active_adapters:
            pod.work_on(adapter, now)
        if load.models is not names:
            loads = [pod.load for pod in self._all]
            self._bases = frozenset().union(*(load.models - load.adapters for load in loads if load.models))
            self._adapters = frozenset().union(*(load.adapters for load in loads))

    def is_adapter(self, model: str) -> bool:
        """Whether some pod lists ``model`` as an adapter."""
        return model in self._adapters

    def is_model(self, name: str) -> bool:
        """Whether some pod lists ``name``, and not as an adapter."""
        return name in self._bases

    def dispatched(self, address: str) -> int:
        """Requests sent to a pod since its last scrape began."""
        pod = self._pods.get(address)
        return 0 if pod is None else pod.dispatched

    def busy(self, address: str) -> bool:
        """Whether a pod has, or may have, work in flight."""
        pod = self._pods.get(address)
        return pod is not None and pod.in_flight > 0

    def pods(self) -> list[ScheduledPod]:
        """All pods with what is known of them. Do not change the list."""
        return self._all

    def is_fresh(self, pod: ScheduledPod, now: float) -> bool:
        """Whether what the pod said last is recent enough to mean something."""
        return now - pod.scraped_at <= self._config.stale_after

    def endpoints(self) -> list[Endpoint]:
        """All endpoints, by address."""
        return [pod.endpoint for pod in self._pods.values()]

    def candidates(self, subset: Subset | None) -> list[ScheduledPod]:
        """All pods, or those that a subset hint allows. Do not change the list."""
        if subset is None:
            return self._all
        return [pod for pod in self._all if subset.allows(pod.endpoint)]

    def serving(self, candidates: list[ScheduledPod], model: str) -> list[ScheduledPod]:
        """The candidates that list ``model``, or whose model list is not known."""
        found = []
        for pod in candidates:
            models = pod.load.models
            if models is None or model in models:
                found.append(pod)
        return found

    def staying(self, candidates: list[ScheduledPod], model: str) -> list[ScheduledPod]:
        """The candidates that are not about to go; all of them where only those that are can serve ``model``.

        Where no pod lists the model, one that stays says so as well as any. An empty model is whatever a pod has.
        """
        if not self._draining:
            return candidates
        stay = [pod for pod in candidates if not pod.endpoint.draining]
        if not stay or not model or len(stay) == len(candidates):
            return stay or candidates
        alone = any(model in (pod.load.models or ()) for pod in candidates)
        return candidates if alone and not self.serving(stay, model) else stay

    def saturated(self, candidates: list[ScheduledPod], now: float) -> bool:
        """Whether every candidate is known to be over the thresholds."""
        config = self._config
        return bool(candidates) and all(
            self.is_fresh(pod, now)
            and (pod.load.waiting > config.saturated_waiting or pod.load.kv_usage > config.saturated_kv)
            for pod in candidates
        )

    def choose(
        self, candidates: list[ScheduledPod], model: str, hashes: tuple[int, ...], now: float
    ) -> Endpoint:
        """The best of one or more candidates; it counts as dispatched to. Ties take turns."""
        pod = candidates[0]
        if len(candidates) > 1:
            pod = self._best(self._grown(candidates, now), model, hashes, now)
        self._turn += 1
        pod.turn = self._turn
        pod.dispatched += 1
        if pod.endpoint.draining:
            self.to_draining[pod.endpoint.pool] += 1
        if model in pod.load.adapters:
            pod.work_on(model, now)
        if hashes:
            self.prefixes.add(pod.endpoint.address, hashes)
        return pod.endpoint

    def _grown(self, pods: list[ScheduledPod], now: float) -> list[ScheduledPod]:
        """Pods without those whose slow start leaves them out this time."""
        window = self._config.slow_start
        if now - self._youngest >= window:
            return pods
        young = [pod for pod in pods if now - pod.first_seen < window]
        if not young or len(young) == len(pods):
            return pods
        out = set()
        for pod in young:
            pod.credit += max(0.1, (now - pod.first_seen) / window)
            if pod.credit < 1.0:
                out.add(pod.endpoint.address)
            else:
                pod.credit -= 1.0
        return [pod for pod in pods if pod.endpoint.address not in out]

    def _best(
        self, pods: list[ScheduledPod], model: str, hashes: tuple[int, ...], now: float
    ) -> ScheduledPod:
        config = self._config
        matched = self.prefixes.match(hashes) if hashes else {}
        per_block = config.prefix / len(hashes) if hashes else 0.0
        queues = [pod.load.waiting for pod in pods]
        flights = [pod.load.running + pod.load.waiting + pod.dispatched for pod in pods]
        queue_top, flight_top, flight_low = max(queues), max(flights), min(flights)
        per_waiting = config.queue / ((queue_top - min(queues)) or 1)
        per_flight = config.in_flight / ((flight_top - flight_low) or 1)
        adapter = model if model not in self._bases else ""
        best, chosen = -1.0, pods[0]
        for index, pod in enumerate(pods):
            load = pod.load
            score = (
                per_waiting * (queue_top - queues[index])
                + config.kv_cache * (1.0 - load.kv_usage)
                + per_flight * (flight_top - flights[index])
            )
            if adapter and (load.max_adapters or load.active_adapters):
                score += config.adapter * _adapter_score(pod, adapter, now)
            if matched and (blocks := matched.get(pod.endpoint.address)):
                room = 1.0 - (flights[index] - flight_low) / config.prefix_room
                score += per_block * blocks * max(0.0, room)
            if score > best - _TIE and (score > best + _TIE or pod.turn < chosen.turn):
                best, chosen = score, pod
        return chosen


_TIE = 1e-9
"""Scores closer than this are equal: sums of the same parts in another order differ by less."""


def _adapter_score(pod: ScheduledPod, adapter: str, now: float) -> float:
    """1 for a pod that has the adapter at work, 0.8 for one with a free slot, else 0.

    Not for a base model, which is at work in every pod and takes no slot: whoever had it last would get all of it.
    """
    active = pod.load.active_adapters
    if adapter in active or (adapter in pod.recent and now - pod.recent[adapter] < _RESIDENT):
        return 1.0
    return 0.8 if len(active) < pod.load.max_adapters else 0.0
