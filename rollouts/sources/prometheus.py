"""A Prometheus-compatible server, through ``prometheus-api-client`` on a bounded session.

The administrator names the server, authors of Rollouts only give queries. Bounds: time of the whole answer (at its
end the connection is shut down, however slowly the server drips), bytes, no redirects, no proxies from the
environment, no retries inside (the run plan retries), nothing of an answer is quoted in a message. Every call runs in
a thread of the source's own pool, of which one namespace has a quarter at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import requests
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.retry import Retry

from rollouts.analysis.enforced_label import QueryNotRewritten, enforce_label
from rollouts.analysis.exposition import ScrapedPage, add_series
from rollouts.analysis.offers import PROMETHEUS_OFFER, Offer
from rollouts.analysis.types import Labelled, MeasureKind, MeasureSpec, Value
from rollouts.runtime.fairness import FairSlots
from rollouts.sources.answers import measured
from rollouts.sources.base import (
    Endpoints,
    Place,
    QueryRefused,
    RawPod,
    ScrapeTarget,
    SourceError,
    SourceUnavailable,
    refuse_adapter,
    statistic_of,
)
from rollouts.sources.jobs import chosen_jobs, unscraped
from rollouts.sources.promql import (
    LOOKBACK,
    PerJob,
    PodSelection,
    Queries,
    job_queries,
    measure_queries,
    name_queries,
    raw_queries,
    users_seconds,
)

__all__ = ["BoundedSession", "PrometheusConfig", "PrometheusSource"]

MAX_BYTES = 1024 * 1024
"""A verdict needs a handful of series; a megabyte is a query that forgot to aggregate."""

MAX_SERIES = 1000
_THREADS = 16
_OF_ONE_NAMESPACE = 4
_STALE = timedelta(minutes=5)
"""Prometheus itself looks back five minutes; older samples are no data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrometheusConfig:
    """One named server. Credentials are files, read for every request, so that rotation needs no restart."""

    url: str
    timeout: float = 10.0
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    bearer_token_file: str = ""
    username_file: str = ""
    password_file: str = ""
    pod_label: str = "pod"
    """Label that tells pods apart: a name in ``pod``, or ``instance`` as IP:port."""
    enforced_label: str = ""
    """Label that every series of every query has to carry with the Rollout's namespace; empty: none."""
    namespace_label: str = "namespace"
    """Label with the pod's namespace, always matched; empty where the server holds one namespace only."""


_MAX_RAW = 50_000
"""Series of one arm: two dozen buckets of ten histograms on two hundred pods."""


class _CuttingAdapter(HTTPAdapter):
    """Tells its session of each socket, from before the TLS handshake on."""

    def __init__(self, opened: Callable[[socket.socket], None]) -> None:
        class Plain(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                made = super()._new_conn()
                opened(made)
                return made

        class Secure(HTTPSConnection):
            def _new_conn(self) -> socket.socket:
                made = super()._new_conn()
                opened(made)
                return made

        plain = type("PlainPool", (HTTPConnectionPool,), {"ConnectionCls": Plain})
        secure = type("SecurePool", (HTTPSConnectionPool,), {"ConnectionCls": Secure})
        super().__init__()
        self.poolmanager.pool_classes_by_scheme = {"http": plain, "https": secure}


_PAGE = 16
"""Pods per raw query: forty of them with the series of `preset: default` are a megabyte."""

_LONG = 4000
"""Characters of a query from which on it is posted: some proxies take no hundreds of pods by name in a URL."""

_FOR_THAT_MOMENT = {"nocache": "1"}
"""VictoriaMetrics answers for 30 s earlier than now unless it is told not to; others know no such parameter."""
_MOST_LATE = 300.0
"""Seconds before now that a server may answer for."""

_MAX_JOBS = 20_000
_Told = TypeVar("_Told")


class BoundedJobs(dict[tuple[str, str], str]):
    """The scrape job that each pod is read from; the pods longest known go first when there are too many."""

    def __setitem__(self, key: tuple[str, str], job: str) -> None:
        super().__setitem__(key, job)
        while len(self) > _MAX_JOBS:
            del self[next(iter(self))]


class BoundedSession(requests.Session):
    """A session that reads at most ``MAX_BYTES`` within a total time, and follows no redirect.

    A timeout of ``requests`` is that of one read, and starts anew with each byte: ``cut``, from another thread, is
    what ends a request whose time is over.
    """

    def __init__(self, config: PrometheusConfig) -> None:
        self._config = config
        self._sockets: list[socket.socket] = []
        self._cut = False
        self.partial = False
        """Whether the last answer says of itself that a part is missing."""
        super().__init__()
        self.trust_env = False
        self.max_redirects = 0
        self.verify = config.ca_file or True
        if config.cert_file:
            self.cert = (config.cert_file, config.key_file) if config.key_file else config.cert_file

    def mount(self, prefix: str, adapter: Any) -> None:
        """As requests; whatever adapter is asked for (the client library mounts one of its own), ours it is."""
        super().mount(prefix, _CuttingAdapter(self._opened))

    def _opened(self, made: socket.socket) -> None:
        # A duplicate: TLS takes the descriptor of the first one over. They are ends of the same connection.
        self._sockets.append(made.dup())
        if self._cut:
            self.cut()

    def cut(self) -> None:
        """Shut the connection down: whoever reads from it fails at once."""
        self._cut = True
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close all connections."""
        super().close()
        while self._sockets:
            self._sockets.pop().close()

    def request(self, method: str, url: str, **kwargs: Any) -> requests.Response:  # type: ignore[override]  # requests spells out its keyword arguments
        """As requests, bounded. Raises requests.RequestException."""
        deadline = time.monotonic() + self._config.timeout
        if method == "POST":
            kwargs["data"] = kwargs.pop("params", None)
        kwargs.update(stream=True, allow_redirects=False, timeout=self._config.timeout)
        kwargs["headers"] = {**(kwargs.get("headers") or {}), **self._credentials()}
        response = super().request(method, url, **kwargs)
        body = b""
        try:
            for chunk in response.iter_content(65_536):
                body += chunk
                if len(body) > MAX_BYTES:
                    raise requests.exceptions.ContentDecodingError("too large")
                if time.monotonic() > deadline:
                    raise requests.exceptions.ReadTimeout("too slow")
        finally:
            response.close()
        response._content = body
        self.partial = _partial(body)
        return response

    def _credentials(self) -> dict[str, str]:
        config = self._config
        if config.bearer_token_file:
            return {"Authorization": f"Bearer {Path(config.bearer_token_file).read_text().strip()}"}
        if config.username_file and config.password_file:
            user = Path(config.username_file).read_text().strip()
            password = Path(config.password_file).read_text().strip()
            return {"Authorization": requests.auth._basic_auth_str(user, password)}
        return {}


class PrometheusSource:
    """Queries one server."""

    def __init__(self, name: str, config: PrometheusConfig, endpoints: Endpoints) -> None:
        self._name = name
        self._config = config
        self._endpoints = endpoints
        self._pool = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix=f"prometheus-{name}")
        self._slots = FairSlots(_THREADS, _OF_ONE_NAMESPACE)
        self._jobs: BoundedJobs = BoundedJobs()

    async def query(self, promql: str, at: datetime, namespace: str = "") -> Value:
        """See ``Source.query``."""
        if self._config.enforced_label:
            promql = self._limited(promql, namespace)
        return await self._query(promql, at, MAX_SERIES, namespace)

    async def _answers(self, asked: Iterable[Queries], at: datetime, namespace: str) -> list[list[Labelled]]:
        """The series that are answered about some of the pods each, to queries of our own."""

        async def about_some(queries: Queries) -> list[Labelled]:
            told = await _all(self._query(one, at, _MAX_RAW, namespace) for one in queries)
            return [item for answer in told if isinstance(answer, tuple) for item in answer]

        return await _all(map(about_some, asked))

    async def _series(self, asked: Iterable[Queries], at: datetime, namespace: str) -> list[Labelled]:
        return [item for some in await self._answers(asked, at, namespace) for item in some]

    async def _query(self, promql: str, at: datetime, limit: int, namespace: str) -> Value:
        session = BoundedSession(self._config)
        async with self._slots.hold(namespace):
            loop = asyncio.get_running_loop()
            call = loop.run_in_executor(self._pool, self._ask, session, promql, at)
            call.add_done_callback(_heard)
            try:
                async with asyncio.timeout(self._config.timeout):
                    data = await asyncio.shield(call)
            except TimeoutError:
                raise SourceUnavailable(
                    f"source {self._name}: no whole answer within {self._config.timeout:g} s"
                ) from None
            finally:
                if not call.done():
                    session.cut()  # or the thread would read on for as long as the server likes
        return _value(data, at, limit)

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

    def _ask(self, session: BoundedSession, promql: str, at: datetime) -> Any:
        method = "POST" if len(promql) > _LONG else "GET"
        with session:
            connect = PrometheusConnect(
                url=self._config.url.rstrip("/"), session=session, retry=Retry(total=0), method=method
            )
            params = {"time": f"{at.timestamp():.3f}", **_FOR_THAT_MOMENT}
            try:
                data = connect.custom_query(promql, params=params)
                if session.partial:
                    raise SourceUnavailable(f"source {self._name}: a part of the answer is missing, it says")
                return data
            except PrometheusApiClientException as error:
                raise self._refusal(error) from None
            except requests.exceptions.ContentDecodingError:
                raise SourceUnavailable(
                    f"source {self._name}: the answer is larger than {MAX_BYTES} bytes: aggregate in the query"
                ) from None
            except requests.exceptions.JSONDecodeError:
                raise SourceUnavailable(f"source {self._name}: the answer is no Prometheus answer") from None
            except requests.exceptions.RequestException as error:
                raise SourceUnavailable(f"source {self._name}: {type(error).__name__}") from None
            except (KeyError, TypeError, ValueError, RecursionError):
                raise SourceUnavailable(f"source {self._name}: the answer is no Prometheus answer") from None
            except OSError as error:
                raise SourceUnavailable(
                    f"source {self._name}: its credentials: {type(error).__name__}"
                ) from None

    def _refusal(self, error: Exception) -> SourceError:
        match = re.match(r"HTTP Status Code (\d{3})", str(error))
        code = match.group(1) if match else "?"
        if code in ("400", "422"):
            return QueryRefused(
                f"source {self._name} refuses the query ({code}): check its PromQL with promtool, "
                "and the server's limits"
            )
        return SourceUnavailable(f"source {self._name}: HTTP {code}")

    async def measure(self, spec: MeasureSpec, place: Place, at: datetime) -> Value:
        """See ``Source.measure``: the same statistics as the pods source, in PromQL."""
        wanted, endpoints = statistic_of(self.offer, spec), self._endpoints(place.namespace, place.arm)
        if not endpoints:
            return math.nan
        at = await self._answered(endpoints, at, spec.window.total_seconds(), place.namespace)
        where = self._where(place, ((None, tuple(endpoints)),))
        questions = job_queries(wanted.names, where, at), name_queries(wanted.names, spec.window, where, at)
        jobs, names = await _all(self._series(asked, at, place.namespace) for asked in questions)
        per_job, scraped = chosen_jobs(jobs, where, endpoints)
        self._demand_whole_pods(endpoints, scraped)
        if not per_job:
            return math.nan
        held = {dict(item.labels).get("__name__", "") for item in names}
        asked = measure_queries(wanted, held, spec.window, self._where(place, per_job), at)
        return measured(wanted, spec.window, await self._answers(asked, at, place.namespace))

    async def requests(self, spec: MeasureSpec, place: Place, since: timedelta, at: datetime) -> float | None:
        """See ``Source.requests``: None where the server does not reach back so far."""
        load = MeasureSpec(kind=MeasureKind.PRESET, name="requests", window=since)
        rate = await self.measure(load, place, at)
        total = rate * since.total_seconds() if isinstance(rate, float) else math.nan
        return total if math.isfinite(total) else None

    async def _answered(
        self, endpoints: list[ScrapeTarget], at: datetime, window: float, namespace: str
    ) -> datetime:
        """The moment that the server answers for when it is asked for another, where that makes a difference.

        Some answer for an earlier one than asked while samples of the last seconds may still arrive, and say so
        nowhere: a window that begins after a pod's warm-up would begin in it.
        """
        if not any(users_seconds(one, at) < window + LOOKBACK + _MOST_LATE for one in endpoints):
            return at
        told = await self._query("time()", at, 1, namespace)
        late = at.timestamp() - told if isinstance(told, float) else 0.0
        return at - timedelta(seconds=late) if 0 < late <= _MOST_LATE else at

    def _where(self, place: Place, per_job: PerJob) -> PodSelection:
        return PodSelection(
            namespace=place.namespace,
            pod_label=self._config.pod_label,
            namespace_label=self._config.namespace_label,
            per_job=per_job,
            enforced_label=self._config.enforced_label,
        )

    def _demand_whole_pods(self, endpoints: list[ScrapeTarget], scraped: Mapping[str, int]) -> None:
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
        at = await self._answered(known, at, 0.0, place.namespace)
        endpoints = [one for one in known if users_seconds(one, at) >= 1]
        if not endpoints:
            return {}
        chunks = [endpoints[first : first + _PAGE] for first in range(0, len(endpoints), _PAGE)]
        pages: dict[str, RawPod] = {}
        for found in await _all(self._page(names, place, chunk, at) for chunk in chunks):
            pages |= found
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
        return pages

    async def _page(
        self, names: frozenset[str], place: Place, endpoints: list[ScrapeTarget], at: datetime
    ) -> dict[str, RawPod]:
        """Some pods' series. A pod that changed its scrape job is left out once: its counters may stand lower there."""
        where = self._where(place, ((None, tuple(endpoints)),))
        series = await self._series(raw_queries(names, where, at), at, place.namespace)
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
        self._pool.shutdown(wait=False, cancel_futures=True)


async def _all(calls: Iterable[Coroutine[Any, Any, _Told]]) -> list[_Told]:
    """What all of them tell; the first one that fails ends the others, since a part of an answer is none."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def _heard(call: asyncio.Future[Any]) -> None:
    """Of a request that nobody waits for any longer nothing is logged: it was cut."""
    if not call.cancelled():
        call.exception()


# --- answers ---------------------------------------------------------------------------------------


_REMARK = re.compile(r"PromQL |\d+ more (warning|info) annotations omitted")
"""Of PromQL itself; Prometheus leaves out those beyond the tenth, and says so without its name."""


def _partial(body: bytes) -> bool:
    """Whether some of the servers behind a server did not answer.

    VictoriaMetrics says ``isPartial``, Thanos warns. What PromQL itself has to remark of a query begins with its name.
    """
    if not re.search(rb'"isPartial":\s*true|"warnings"', body):
        return False
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return False
    if not isinstance(said, dict):
        return False
    warnings = said.get("warnings")
    told = warnings if isinstance(warnings, list) else []
    return said.get("isPartial") is True or any(not _REMARK.match(str(one)) for one in told)


def _number(text: Any) -> float:
    if not isinstance(text, str) or len(text) > 64:
        raise SourceUnavailable("a sample of the answer is no number")
    try:
        return float(text)
    except ValueError:
        raise SourceUnavailable("a sample of the answer is no number") from None


def _value(data: Any, at: datetime, limit: int) -> Value:
    """A scalar or an instant vector; stale samples are no data. Raises QueryRefused for a range."""
    if isinstance(data, list) and len(data) == 2 and not isinstance(data[0], Mapping):
        return _number(data[1])
    if not isinstance(data, list):
        raise SourceUnavailable("the answer is neither a scalar nor a vector")
    if len(data) > limit:
        raise QueryRefused(f"the query answers more than {limit} series: aggregate in the query")
    series = []
    for item in data:
        if not isinstance(item, Mapping) or "values" in item:
            raise QueryRefused("the query answers a range: take an instant vector, as in rate(x[5m])")
        sample, labels = item.get("value"), item.get("metric")
        if not isinstance(sample, list) or len(sample) != 2 or not isinstance(labels, Mapping):
            raise SourceUnavailable("the answer is no Prometheus answer")
        stamp = sample[0]
        if not isinstance(stamp, int | float) or abs(at.timestamp() - stamp) > _STALE.total_seconds():
            continue
        named = tuple(sorted((str(key), str(value)[:512]) for key, value in labels.items()))
        series.append(Labelled(value=_number(sample[1]), labels=named))
    if len({item.labels for item in series}) != len(series):
        raise SourceUnavailable("the answer holds the same series twice")
    if len(series) == 1 and not series[0].labels:
        return series[0].value
    return tuple(series)
