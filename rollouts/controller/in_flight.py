"""Requests that pods answer or hold, by their own gauges and by what our pickers sent them.

What lost keeps its pods while there are any. A pod that is to go in mid-rollout has to be spared by every picker first,
and the figures that count are those from after that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from rollouts.analysis.logical import read
from rollouts.analysis.offers import POD_OFFER
from rollouts.controller.caches import Caches
from rollouts.controller.pages import metrics_pages
from rollouts.objects.picker_pages import DRAINING, IN_FLIGHT, TO_DRAINING
from rollouts.objects.pods import PickerPod, Pod
from rollouts.objects.pools import Pool
from rollouts.runtime.clock import Clock, Monotonic
from rollouts.runtime.objects import ObjectKey
from rollouts.sources.base import ScrapeTarget
from rollouts.sources.scraper import PodHistory, PodScraper

__all__ = ["NAMES", "ON_THE_WAY", "PodsInFlight"]

_GROUPS = POD_OFFER.groups("in_flight")
NAMES = frozenset(selector.name for group in _GROUPS for selector in group)
_KNOWS_DRAINS = f"{TO_DRAINING}_total"
_PICKED = frozenset({DRAINING, IN_FLIGHT, _KNOWS_DRAINS})

_FRESH = 10.0
"""Seconds that a sample may be old: pods are sampled every five while somebody looks."""
_PACE = 5.0
_HURRY = 30.0
_LEAVING_PACE = 2.0
"""Between the samples of pods that are to go, and of their pickers: each is waited for."""
ON_THE_WAY = 5.0
"""Seconds from a picker's choice until a page that was read to its end shows the request: two for gateway and server
to take it, and three that reading the page may take."""
_UNLISTED = 15.0
"""Seconds that a picker's page may be without pods that are Ready: it is open before the picker has its list, and a
pod that has just become Ready is on it a moment later."""
_EVER = Monotonic(float("-inf"))


@dataclass(slots=True)
class _Pool:
    """Since when every picker has spared a pod, by the pod's name and start."""

    spared: dict[tuple[str, str], Monotonic] = field(default_factory=dict)
    unlisted: Monotonic | None = None
    """Since when a picker has listed none of its pods."""


class PodsInFlight:
    """Asks the scraper for the pods' gauges; pods without an IP answer nothing."""

    def __init__(self, scraper: PodScraper, caches: Caches, clock: Clock) -> None:
        self._scraper = scraper
        self._caches = caches
        self._clock = clock
        self._pools: dict[ObjectKey, _Pool] = {}

    def requests(self, pool: Pool) -> int | None:
        """See ``InFlight``."""
        counts = self._counts(pool)
        known = [count for count in counts.values() if count is not None]
        return sum(known) if len(known) == len(counts) else None

    def loads(self, pool: Pool) -> Mapping[str, int]:
        """See ``InFlight``."""
        return {pod: count for pod, count in self._counts(pool).items() if count is not None}

    def uncontrollable(self, pool: Pool) -> str:
        """See ``InFlight``."""
        if pool.picker is None:
            what = pool.picker_kind or "nothing"
            return f"InferencePool {pool.name} names {what} for an endpoint picker, and no Service of ours"
        service = self._caches.services.get(ObjectKey(pool.namespace, pool.picker.name))
        if service is not None and not service["spec"]["selector"]:
            return f"Service {pool.picker.name} of the endpoint picker selects no pods: nobody knows who they are"
        pods = self._caches.picker_pods(pool)
        for pod in pods:
            if pod.metrics_port is None:
                return f"the endpoint picker of {pool.name} (pod {pod.name}) is not ours: it spares no pods"
        for pod, history in zip(pods, self._pickers(pool, pods, hurry=False), strict=True):
            page = history.latest[1] if history.latest is not None else None
            what = f"the endpoint picker of {pool.name} (pod {pod.name})"
            if page is not None and _KNOWS_DRAINS not in page.series:
                return f"{what} is too old to spare pods: update it"
            if history.latest is None and history.error:
                return f"{what} gives {history.error}"
        return ""

    def unlisted(self, pool: Pool) -> str:
        """See ``InFlight``."""
        known = self._pools.setdefault(ObjectKey(pool.namespace, pool.name), _Pool())
        name = self._not_listing(pool)
        if not name:
            known.unlisted = None
            return ""
        now = self._clock.monotonic()
        known.unlisted = now if known.unlisted is None else known.unlisted
        if now - known.unlisted < _UNLISTED:
            return ""
        return f"the endpoint picker of {pool.name} (pod {name}) does not pick among its pods"

    def _not_listing(self, pool: Pool) -> str:
        """The first picker whose page has none of a pool's pods, some of which are Ready; empty where there is none."""
        if not any(pod.ready for pod in self._caches.endpoints(pool)):
            return ""
        pods = self._caches.picker_pods(pool)
        for pod, history in zip(pods, self._pickers(pool, pods, hurry=False), strict=True):
            page = self._fresh(history)
            if page is not None and all(name != pool.name for name, _ in page[1].get(DRAINING, {})):
                return pod.name
        return ""

    def leaving(self, pool: Pool, names: Collection[str], *, hidden: float = 0.0) -> Mapping[str, int | None]:
        """See ``InFlight``."""
        known = self._pools.setdefault(ObjectKey(pool.namespace, pool.name), _Pool())
        pods = {pod.name: pod for pod in self._caches.endpoints(pool) if pod.name in names}
        followed = self._follow(pool, pods.values(), _LEAVING_PACE)
        picked = self._pickers(pool, self._caches.picker_pods(pool), hurry=True)
        present = {(pod.name, pod.started): pod.name for pod in pods.values()}
        known.spared = {key: at for key, at in known.spared.items() if key in present}
        found: dict[str, int | None] = {}
        for key, owner in present.items():
            since, sent = self._spared(picked, pool, owner)
            if since is None:
                known.spared.pop(key, None)
                found[owner] = None
                continue
            after = Monotonic(known.spared.setdefault(key, since) + ON_THE_WAY + hidden)
            histories = followed[owner]
            count = self._count(histories, after)
            if not pods[owner].ready and all(one.refused and one.tried >= after for one in histories):
                count = 0  # its server has not begun to listen, or has ended
            # Each picker's count has the pod's own in it, so that it says more only where that is none.
            found[owner] = None if count is None or sent is None else count or sent
        return found

    def _spared(
        self, picked: Iterable[PodHistory], pool: Pool, pod: str
    ) -> tuple[Monotonic | None, int | None]:
        """When the last picker said that it spares a pod, and what they sent it; None: one does not, or nobody says."""
        said: list[Monotonic] = []
        sent: int | None = 0
        for history in picked:
            page = self._fresh(history)
            if page is None:
                return None, None
            at, series = page
            draining = series.get(DRAINING, {}).get((pool.name, pod))
            if draining == 0.0:
                return None, None
            said.append(at)
            if draining is not None:  # what it does not list is no endpoint of it
                count = series.get(IN_FLIGHT, {}).get((pool.name, pod))
                sent = None if count is None or sent is None else sent + round(count)
        return (max(said), sent) if said else (None, None)

    def _fresh(self, history: PodHistory) -> tuple[Monotonic, dict[str, dict[tuple[str, str], float]]] | None:
        """When a picker's page was read, and its series by pool and pod; None while it does not say."""
        latest = history.latest if not history.error else None
        if latest is None or self._clock.monotonic() - latest[0] > _FRESH:
            return None
        at, page = latest
        named = {
            name: {(labels.get("pool", ""), labels.get("pod", "")): value for labels, value in found}
            for name, found in page.series.items()
        }
        return at, named

    def _pickers(self, pool: Pool, pods: Iterable[PickerPod], *, hurry: bool) -> list[PodHistory]:
        """The pages of pickers; those that are not ours have none."""
        pages = [
            ScrapeTarget(pod=pod.name, ip=pod.ip, port=pod.metrics_port, namespace=pool.namespace)
            for pod in pods
            if pod.metrics_port is not None
        ]
        seconds = _HURRY if hurry else 0.0
        return self._scraper.follow(pages, _PICKED, 0.0, hurry=seconds, pace=_LEAVING_PACE)

    def _follow(self, pool: Pool, pods: Iterable[Pod], pace: float) -> dict[str, list[PodHistory]]:
        """The pages of pods, by pod."""
        targets = metrics_pages(pods, pool.processes, pool.namespace)
        found = defaultdict[str, list[PodHistory]](list)
        for history in self._scraper.follow(targets, NAMES, 0.0, hurry=_HURRY, pace=pace):
            found[history.endpoint.owner].append(history)
        return found

    def _counts(self, pool: Pool) -> dict[str, int | None]:
        """By pod what it answers and holds, as it said last."""
        followed = self._follow(pool, self._caches.endpoints(pool), _PACE)
        return {owner: self._count(histories, _EVER) for owner, histories in followed.items()}

    def _count(self, histories: Iterable[PodHistory], after: Monotonic) -> int | None:
        """What the processes of a pod answer and hold; None while one of them does not say so, or said it too early."""
        now, total = self._clock.monotonic(), 0.0
        for history in histories:
            latest = history.latest
            if latest is None or history.error or now - latest[0] > _FRESH or latest[0] < after:
                return None
            count = read(latest[1], _GROUPS)
            if count is None:
                return None
            total += count
        return round(total)
