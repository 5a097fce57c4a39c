"""The source ``prometheus``: statistics from a Prometheus-compatible server.

The administrator names the server, authors of Rollouts only give queries. What pods count is asked for by
``promql``, and what their samples say is read by ``raw_windows``.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from rollouts.analysis.enforced_label import QueryNotRewritten, enforce_label
from rollouts.analysis.exposition import ScrapedPage, add_series
from rollouts.analysis.offers import PROMETHEUS_OFFER, Offer, Statistic
from rollouts.analysis.types import Labelled, MeasureKind, MeasureSpec, Value
from rollouts.sources.answers import measured
from rollouts.sources.asking import Asking, all_of
from rollouts.sources.base import (
    Endpoints,
    Place,
    QueryRefused,
    RawPod,
    ScrapeTarget,
    SourceUnavailable,
    refuse_adapter,
    statistic_of,
)
from rollouts.sources.bounded_session import PrometheusConfig
from rollouts.sources.jobs import Prepared, chosen_jobs, processes, unscraped
from rollouts.sources.prometheus_server import PrometheusServer
from rollouts.sources.promql import (
    ALWAYS,
    LOOKBACK,
    MOST_LATE,
    PodSelection,
    is_last,
    measure_queries,
    preparatory_queries,
    raw_queries,
    series_names,
    users_seconds,
)
from rollouts.sources.raw_windows import process_sums

__all__ = ["PrometheusConfig", "PrometheusSource"]

MAX_SERIES = 1000
_PAGE = 16
"""Pods per raw query: forty of them with the series of `preset: default` are a megabyte."""

_MAX_JOBS = 20_000
_LATE_KNOWN = 60.0
"""Seconds for which it is remembered how late a server answers."""


class BoundedJobs(dict[tuple[str, str], str]):
    """The scrape job that each pod is read from; the pods longest known go first when there are too many."""

    def __setitem__(self, key: tuple[str, str], job: str) -> None:
        super().__setitem__(key, job)
        while len(self) > _MAX_JOBS:
            del self[next(iter(self))]


class _Lateness(NamedTuple):
    """How many seconds before a moment a server answered, when it was asked, and how long ago the moment was."""

    seconds: float
    asked: float
    ago: float


class PrometheusSource:
    """Queries one server. ``charge`` is told of a namespace how many requests a call took beyond the first one."""

    def __init__(
        self,
        name: str,
        config: PrometheusConfig,
        endpoints: Endpoints,
        charge: Callable[[str, int], None] = lambda *_: None,
    ) -> None:
        self._name = name
        self._config = config
        self._endpoints = endpoints
        self._charge = charge
        self._server = PrometheusServer(name, config)
        self._jobs: BoundedJobs = BoundedJobs()
        self._late: _Lateness | None = None

    async def query(self, promql: str, at: datetime, namespace: str = "") -> Value:
        """See ``Source.query``."""
        if self._config.enforced_label:
            promql = self._limited(promql, namespace)
        return await Asking(self._server, at, namespace).value(promql, MAX_SERIES)

    def _limited(self, promql: str, namespace: str) -> str:
        """The query over the namespace's own series. Raises QueryRefused."""
        if not namespace:
            raise QueryRefused(f"source {self._name} answers for a namespace only, and none is known")
        try:
            return enforce_label(promql, self._config.enforced_label, namespace)
        except QueryNotRewritten as error:
            raise QueryRefused(
                f"source {self._name} limits queries to namespace {namespace}, and cannot do so with this one: "
                f"{error}: write it in another way"
            ) from None

    async def measure(self, spec: MeasureSpec, place: Place, at: datetime) -> Value:
        """See ``Source.measure``: the same statistics as the pods source."""
        wanted, endpoints = statistic_of(self.offer, spec), self._endpoints(place.namespace, place.arm)
        if not endpoints:
            return math.nan
        asking = Asking(self._server, at, place.namespace, self._charge)
        return await self._measured(asking, wanted, spec.window, self._where(place, endpoints), at)

    async def _measured(
        self, asking: Asking, wanted: Statistic, window: timedelta, where: PodSelection, at: datetime
    ) -> float:
        endpoints, last = where.endpoints, is_last(wanted)
        told = await asking.series(preparatory_queries(wanted.names, window, where, then=not last))
        known = Prepared(told, where)
        per_job, scraped = chosen_jobs(known.now, where, endpoints)
        self._demand_whole_pods(endpoints, scraped)
        found = processes(per_job, known, where, at.timestamp() - window.total_seconds())
        if not per_job or not (last or found.there):
            return math.nan
        sums, others = await all_of(
            (
                asking.answers(
                    measure_queries(wanted, known.names.keys(), window, where.of_jobs(found.steady))
                ),
                self._of_others(asking, wanted, window, where.of_jobs(found.others), known, at),
            )
        )
        return measured(wanted, window, [*sums, *others])

    async def _of_others(
        self,
        asking: Asking,
        wanted: Statistic,
        window: timedelta,
        where: PodSelection,
        known: Prepared,
        at: datetime,
    ) -> list[list[Labelled]]:
        """The sums of processes that were not there all the time, from their samples."""
        names = {*series_names(wanted), *ALWAYS} & known.names.keys()
        if not names:
            return []
        seconds = window.total_seconds()
        told = await asking.samples(
            names,
            seconds,
            where,
            sum(known.names[name] for name in names) / max(1, known.pods),
            lambda series, pods: process_sums(wanted, seconds, at, where, pods, series),
        )
        return [sums for page in told for sums in page]

    async def requests(self, spec: MeasureSpec, place: Place, since: timedelta, at: datetime) -> float | None:
        """See ``Source.requests``: None where the server does not reach back so far."""
        load = MeasureSpec(kind=MeasureKind.PRESET, name="requests", window=since)
        rate = await self.measure(load, place, at)
        total = rate * since.total_seconds() if isinstance(rate, float) else math.nan
        return total if math.isfinite(total) else None

    async def _answered(self, endpoints: list[ScrapeTarget], at: datetime, asking: Asking) -> datetime:
        """The moment that the server answers for when it is asked for another, where that makes a difference.

        Some answer for an earlier one than asked while samples of the last seconds may still arrive, and say so
        nowhere: what is asked for since a pod's warm-up would begin in it.
        """
        if not any(users_seconds(one, at) < LOOKBACK + MOST_LATE for one in endpoints):
            return at
        now, ago, known = time.monotonic(), time.time() - at.timestamp(), self._late
        if known is None or now - known.asked > _LATE_KNOWN or abs(ago - known.ago) > 1.0:
            told = await asking.value("time()", 1)
            late = at.timestamp() - told if isinstance(told, float) else 0.0
            known = self._late = _Lateness(late, now, ago)
        return at - timedelta(seconds=known.seconds) if 0 < known.seconds <= MOST_LATE else at

    def _where(self, place: Place, endpoints: Sequence[ScrapeTarget]) -> PodSelection:
        return PodSelection(
            namespace=place.namespace,
            pod_label=self._config.pod_label,
            namespace_label=self._config.namespace_label,
            per_job=((None, tuple(endpoints)),),
            enforced_label=self._config.enforced_label,
        )

    def _demand_whole_pods(self, endpoints: Sequence[ScrapeTarget], scraped: Mapping[str, int]) -> None:
        missing = unscraped(endpoints, scraped)
        if missing:
            raise SourceUnavailable(f"source {self._name} holds {missing}")

    @property
    def offer(self) -> Offer:
        """See ``Source.offer``."""
        return PROMETHEUS_OFFER

    @property
    def remembers(self) -> bool:
        """See ``Source.remembers``."""
        return True

    async def raw(self, names: frozenset[str], place: Place, at: datetime) -> Mapping[str, RawPod]:
        """See ``Source.raw``: raw samples by one instant query, no ``rate()``, so that counts stay whole.

        Adapters share their pods, so their series are not told apart by pod. Of a pod that was warmed up the first
        sample is one from after that: until it is there, the pod is not.
        """
        refuse_adapter(place)
        known = self._endpoints(place.namespace, place.arm)
        asking = Asking(self._server, at, place.namespace, self._charge)
        at = await self._answered(known, at, asking)
        asking.at = at
        endpoints = [one for one in known if users_seconds(one, at) >= 1]
        chunks = [endpoints[first : first + _PAGE] for first in range(0, len(endpoints), _PAGE)]
        found = await all_of(self._page(asking, names, place, chunk) for chunk in chunks)
        pages = {pod: page for some in found for pod, page in some.items()}
        if endpoints:
            self._demand_pods(place, endpoints, pages, at)
        return pages

    def _demand_pods(
        self, place: Place, endpoints: list[ScrapeTarget], pages: dict[str, RawPod], at: datetime
    ) -> None:
        """Raise SourceUnavailable where some processes are missing; leave out pods that may be whole in a moment."""
        scraped = Counter(one.owner for one in endpoints if one.pod in pages)
        fresh = [one for one in endpoints if users_seconds(one, at) < LOOKBACK]
        for one in fresh:  # its other ports may be scraped for the first time since in a moment
            if unscraped([other for other in fresh if other.owner == one.owner], scraped):
                pages.pop(one.pod, None)
        endpoints = [one for one in endpoints if one not in fresh]
        self._demand_whole_pods(endpoints, scraped)
        if endpoints and not pages:
            raise SourceUnavailable(
                f"source {self._name} holds nothing of the {len(endpoints)} pods of {place.arm.name}: it does not "
                f"scrape them, or names them by other labels than {self._config.namespace_label or 'no namespace'} "
                f"and {self._config.pod_label} (namespaceLabel, podLabel)"
            )

    async def _page(
        self, asking: Asking, names: frozenset[str], place: Place, endpoints: list[ScrapeTarget]
    ) -> dict[str, RawPod]:
        """Some pods' series. A pod that changed its scrape job is left out once: its counters may stand lower there."""
        where = self._where(place, endpoints)
        series = await asking.series(raw_queries(names, where, asking.at))
        by_name = {where.name(endpoint): endpoint for endpoint in endpoints}
        by_address = {f"{endpoint.ip}:{endpoint.port}": endpoint for endpoint in endpoints}
        held: dict[ScrapeTarget, dict[str, list[tuple[dict[str, str], float]]]] = {}
        for item in series:
            labels = dict(item.labels)
            endpoint = by_name.get(labels.get(where.pod_label, ""))
            if endpoint is not None and endpoint.of:  # one of several processes: told by its address
                endpoint = by_address.get(labels.get("instance", ""))
            if endpoint is not None:
                held.setdefault(endpoint, {}).setdefault(labels.get("job", ""), []).append(
                    (labels, item.value)
                )
        pages = {}
        for endpoint, jobs in held.items():
            key = (place.namespace, endpoint.pod)
            job = self._jobs.get(key)
            if job is None or job not in jobs:
                moved, job = job is not None, min(jobs, key=lambda name: (-len(jobs[name]), name))
                self._jobs[key] = job
                if moved:
                    continue
            sample = ScrapedPage()
            for labels, number in jobs[job]:
                add_series(sample, labels.pop("__name__", ""), labels, number, names)
            # The counters of one that was warmed up did not begin with it: it says nothing of when it started.
            pages[endpoint.pod] = RawPod(sample, endpoint.started if endpoint.warmed is None else None)
        return pages

    async def close(self) -> None:
        """See ``Source.close``."""
        await self._server.close()
