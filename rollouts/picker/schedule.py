"""Which pod gets a request: the highest weighted score, as in the Gateway API Inference Extension.

Scores lie in 0..1. Weights follow that project's default profile (queue 2, KV cache 2, prefix 3), with LoRA
affinity and own in-flight requests added. In flight are the requests that the last scrape saw running or
waiting plus those dispatched since, so nothing has to be counted down and nothing can leak.

A new pod is not the emptiest and hence the best pod for everyone at once: during its slow start only a
growing part of the requests may choose it at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rollouts.picker.endpoints import Endpoint
from rollouts.picker.prefix import PrefixIndex

__all__ = ["Load", "ScheduleConfig", "Scheduler"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a pod's metrics and model list said. ``kv_usage`` is 0..1; ``models`` None: not known."""

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    active_adapters: frozenset[str] = frozenset()
    max_adapters: int = 0
    models: frozenset[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    """Weights of the scores, and thresholds. Times in seconds.

    ``saturated_waiting`` and ``saturated_kv`` are the shedding thresholds of the Inference Extension;
    ``stale_after`` is the age at which a pod's figures say nothing any more.
    """

    queue: float = 2.0
    kv_cache: float = 2.0
    prefix: float = 3.0
    adapter: float = 1.0
    in_flight: float = 2.0
    slow_start: float = 30.0
    saturated_waiting: int = 5
    saturated_kv: float = 0.8
    stale_after: float = 10.0


@dataclass(slots=True)
class _Pod:
    """One endpoint with what is known about it."""

    endpoint: Endpoint
    first_seen: float
    load: Load = field(default_factory=Load)
    scraped_at: float = -1e9
    dispatched: int = 0  # since the last scrape began
    credit: float = 0.0  # of the slow start
    recent: dict[str, float] = field(default_factory=dict)  # adapter -> time of the last dispatch

    @property
    def in_flight(self) -> int:
        return self.load.running + self.load.waiting + self.dispatched


_RESIDENT = 60.0
"""Seconds for which an adapter counts as loaded after our last request: the metric hides idle adapters."""


class Scheduler:
    """Holds the pods' state and chooses among them. ``now`` is always monotonic seconds."""

    __slots__ = ("_config", "_pods", "_started", "_turn", "prefixes")

    def __init__(self, config: ScheduleConfig | None = None) -> None:
        self._config = config or ScheduleConfig()
        self._pods: dict[str, _Pod] = {}
        self._turn = 0
        self._started = False
        self.prefixes = PrefixIndex()

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
                pods[endpoint.address] = _Pod(endpoint, now - max(0.0, age))
        self._pods = pods
        self._started = self._started or bool(pods)

    def observe(self, address: str, load: Load, now: float, *, missed: int = 0) -> None:
        """A scrape succeeded; ``missed`` requests were dispatched to the pod after it was sent."""
        pod = self._pods.get(address)
        if pod is not None:
            pod.load, pod.scraped_at, pod.dispatched = load, now, missed

    def dispatched(self, address: str) -> int:
        """Requests sent to a pod since its last scrape began."""
        pod = self._pods.get(address)
        return 0 if pod is None else pod.dispatched

    def busy(self, address: str) -> bool:
        """Whether a pod has, or may have, work in flight."""
        pod = self._pods.get(address)
        return pod is not None and pod.in_flight > 0

    def endpoints(self) -> list[Endpoint]:
        """All endpoints, by address."""
        return [pod.endpoint for pod in self._pods.values()]

    def serving(self, candidates: Iterable[Endpoint], model: str) -> list[Endpoint]:
        """The candidates that list ``model``, or whose model list is not known."""
        found = []
        for endpoint in candidates:
            pod = self._pods.get(endpoint.address)
            models = None if pod is None else pod.load.models
            if models is None or model in models:
                found.append(endpoint)
        return found

    def saturated(self, candidates: Iterable[Endpoint], now: float) -> bool:
        """Whether every candidate is known to be over the thresholds."""
        config = self._config
        pods = [self._pods[e.address] for e in candidates if e.address in self._pods]
        return bool(pods) and all(
            now - pod.scraped_at <= config.stale_after
            and (pod.load.waiting > config.saturated_waiting or pod.load.kv_usage > config.saturated_kv)
            for pod in pods
        )

    def choose(
        self, candidates: Sequence[Endpoint], model: str, hashes: tuple[int, ...], now: float
    ) -> Endpoint:
        """The best of one or more candidates; it counts as dispatched to. Ties take turns."""
        pods = [self._pods[e.address] for e in candidates if e.address in self._pods]
        if not pods:
            raise ValueError("no candidate is a known endpoint")
        pod = pods[0] if len(pods) == 1 else self._best(self._grown(pods, now), model, hashes, now)
        pod.dispatched += 1
        if len(pod.recent) > 64:  # more adapters than any server holds
            pod.recent.clear()
        pod.recent[model] = now
        if hashes:
            self.prefixes.add(pod.endpoint.address, hashes)
        return pod.endpoint

    def _grown(self, pods: list[_Pod], now: float) -> list[_Pod]:
        """Pods without those whose slow start leaves them out this time."""
        window = self._config.slow_start
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

    def _best(self, pods: list[_Pod], model: str, hashes: tuple[int, ...], now: float) -> _Pod:
        config = self._config
        matched = self.prefixes.match(hashes) if hashes else {}
        queues = [pod.load.waiting for pod in pods]
        flights = [pod.in_flight for pod in pods]
        queue_top, queue_span = max(queues), (max(queues) - min(queues)) or 1
        flight_top, flight_span = max(flights), (max(flights) - min(flights)) or 1
        self._turn += 1
        count = len(pods)
        best, chosen = -1.0, pods[0]
        for step in range(count):
            pod = pods[(step + self._turn) % count]
            score = (
                config.queue * (queue_top - pod.load.waiting) / queue_span
                + config.kv_cache * (1.0 - pod.load.kv_usage)
                + config.in_flight * (flight_top - pod.in_flight) / flight_span
                + config.adapter * _adapter_score(pod, model, now)
            )
            if matched:
                score += config.prefix * matched.get(pod.endpoint.address, 0) / len(hashes)
            if score > best + 1e-9:
                best, chosen = score, pod
        return chosen


def _adapter_score(pod: _Pod, model: str, now: float) -> float:
    """1 for a pod that has the adapter at work, 0.8 for one with a free slot, else 0."""
    if model in pod.load.active_adapters or now - pod.recent.get(model, -1e9) < _RESIDENT:
        return 1.0
    return 0.8 if len(pod.load.active_adapters) < pod.load.max_adapters else 0.0
