"""A Prometheus-compatible server, through ``prometheus-api-client`` on a bounded session.

The administrator names the server, authors of Rollouts only give queries. Bounds: time of the whole answer (at its
end the connection is shut down, however slowly the server drips), bytes, no redirects, no proxies from the
environment, no retries inside (the run plan retries), nothing of an answer is quoted in a message. Every call runs in
a thread of the source's own pool, of which one namespace has a quarter at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import requests
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.retry import Retry

from rollouts.analysis.exposition import PodSample, add_series
from rollouts.analysis.logical import PODS, Dialect
from rollouts.analysis.presets import Selector, natural_stat, series_of
from rollouts.analysis.promql import QueryNotRewritten, enforce_label
from rollouts.analysis.sources.base import (
    Endpoint,
    Endpoints,
    Place,
    QueryRefused,
    RawPod,
    SourceError,
    SourceUnavailable,
    refuse_adapter,
)
from rollouts.analysis.types import Labelled, MeasureKind, MeasureSpec, Stat, Value
from rollouts.runtime.fairness import FairSlots

__all__ = ["BoundedSession", "PrometheusConfig", "PrometheusSource", "measure_query"]

MAX_BYTES = 1024 * 1024
"""A verdict needs a handful of series; a megabyte is a query that forgot to aggregate."""

MAX_SERIES = 1000
_THREADS = 16
_OF_ONE_NAMESPACE = 4
_STALE = timedelta(minutes=5)
"""Prometheus itself looks back five minutes; older samples are no data."""

_QUANTILES = {Stat.P50: 0.5, Stat.P90: 0.9, Stat.P95: 0.95, Stat.P99: 0.99}


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


class BoundedSession(requests.Session):
    """A session that reads at most ``MAX_BYTES`` within a total time, and follows no redirect.

    A timeout of ``requests`` is that of one read, and starts anew with each byte: ``cut``, from another thread, is
    what ends a request whose time is over.
    """

    def __init__(self, config: PrometheusConfig) -> None:
        self._config = config
        self._sockets: list[socket.socket] = []
        self._cut = False
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

    async def query(self, promql: str, at: datetime, namespace: str = "") -> Value:
        """See ``Source.query``."""
        return await self._query(promql, at, MAX_SERIES, namespace)

    async def _query(self, promql: str, at: datetime, limit: int, namespace: str) -> Value:
        if self._config.enforced_label:
            promql = self._limited(promql, namespace)
        session = BoundedSession(self._config)
        async with self._slots.hold(namespace):
            loop = asyncio.get_running_loop()
            call = loop.run_in_executor(self._pool, self._ask, session, promql, at)
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
        with session:
            connect = PrometheusConnect(
                url=self._config.url.rstrip("/"), session=session, retry=Retry(total=0)
            )
            try:
                return connect.custom_query(promql, params={"time": f"{at.timestamp():.3f}"})
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
                f"source {self._name} refuses the query ({code}): check its PromQL with promtool"
            )
        return SourceUnavailable(f"source {self._name}: HTTP {code}")

    async def measure(self, spec: MeasureSpec, place: Place, at: datetime) -> Value:
        """See ``Source.measure``: the same statistics as the pods source, in PromQL."""
        endpoints = self._endpoints(place.namespace, place.arm)
        if not endpoints:
            return math.nan
        promql = measure_query(spec, endpoints, self._config.pod_label)
        value = await self.query(promql, at, place.namespace)
        if isinstance(value, tuple):
            return value[0].value if len(value) == 1 else math.nan
        return value

    @property
    def dialect(self) -> Dialect:
        """See ``Source.dialect``."""
        return PODS

    @property
    def remembers(self) -> bool:
        """See ``Source.remembers``."""
        return True

    async def raw(self, names: frozenset[str], place: Place, at: datetime) -> Mapping[str, RawPod]:
        """See ``Source.raw``: raw samples by one instant query, no ``rate()``, so that counts stay whole.

        Adapters share their pods, so their series are not told apart by pod.
        """
        refuse_adapter(place)
        endpoints = self._endpoints(place.namespace, place.arm)
        if not endpoints:
            return {}
        value = await self._query(
            raw_query(names, endpoints, self._config.pod_label), at, _MAX_RAW, place.namespace
        )
        if not isinstance(value, tuple):
            raise SourceUnavailable(f"source {self._name}: the answer is no vector")
        by_address = {
            f"{e.ip}:{e.port}" if self._config.pod_label == "instance" else e.pod: e for e in endpoints
        }
        pages: dict[str, PodSample] = {}
        for item in value:
            labels = dict(item.labels)
            endpoint = by_address.get(labels.get(self._config.pod_label, ""))
            if endpoint is not None:
                sample = pages.setdefault(endpoint.pod, PodSample())
                add_series(sample, labels.pop("__name__", ""), labels, item.value, names)
        started = {endpoint.pod: endpoint.started for endpoint in endpoints}
        return {pod: RawPod(sample, started[pod]) for pod, sample in pages.items()}

    async def close(self) -> None:
        """See ``Source.close``."""
        self._pool.shutdown(wait=False, cancel_futures=True)


# --- answers ---------------------------------------------------------------------------------------


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


# --- measures in PromQL ----------------------------------------------------------------------------


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _quote_regex(text: str) -> str:
    return re.sub(r"([.+*?()\[\]{}^$|\\])", r"\\\1", text)


def _matcher(selector: Selector, endpoints: list[Endpoint], label: str) -> str:
    def among(values: Iterable[str]) -> str:
        return f'"{_escape("|".join(_quote_regex(value) for value in values))}"'

    parts = [f"{label}=~{among(f'{e.ip}:{e.port}' if label == 'instance' else e.pod for e in endpoints)}"]
    parts += [f"{key}=~{among(accepted)}" for key, accepted in (selector.any_of or {}).items()]
    parts += [f"{key}!~{among(refused)}" for key, refused in (selector.none_of or {}).items()]
    if selector.prefix is not None:
        parts.append(f'{selector.prefix[0]}=~"{_escape(_quote_regex(selector.prefix[1]))}.*"')
    return "{" + ",".join(parts) + "}"


def raw_query(names: frozenset[str], endpoints: list[Endpoint], label: str) -> str:
    """Every wanted series of the named pods, histograms by their three parts."""
    wanted = "|".join(sorted(_quote_regex(name) for name in names))
    pods = _matcher(Selector(name=""), endpoints, label)[1:-1]
    return f'{{__name__=~"({_escape(wanted)})(_bucket|_sum|_count)?",{pods}}}'


def measure_query(spec: MeasureSpec, endpoints: list[Endpoint], label: str) -> str:
    """The PromQL of a measure over the named pods; alternatives are joined by ``or``."""
    preset, stat = series_of(spec), natural_stat(spec)
    window = f"[{max(1, round(spec.window.total_seconds()))}s]"

    def increase(selector: Selector, suffix: str = "") -> str:
        return f"increase({selector.name}{suffix}{_matcher(selector, endpoints, label)}{window})"

    def either(groups: tuple[tuple[Selector, ...], ...], form: str) -> str:
        return " or ".join(form.format(increase(group[0])) for group in groups)

    if preset.kind is MeasureKind.GAUGE:
        over = "avg_over_time" if stat is Stat.MEAN else "last_over_time"
        return " or ".join(
            f"avg({over}({g[0].name}{_matcher(g[0], endpoints, label)}{window}))" for g in preset.alternatives
        )
    if preset.kind is MeasureKind.HISTOGRAM:
        if stat is Stat.MEAN:
            return " or ".join(
                f"sum({increase(g[0], '_sum')}) / sum({increase(g[0], '_count')})"
                for g in preset.alternatives
            )
        q = _QUANTILES.get(stat, 0.95)
        return " or ".join(
            f"histogram_quantile({q}, sum by (le) ({increase(g[0], '_bucket')}))" for g in preset.alternatives
        )
    if stat is Stat.RATIO:
        errors, of = either(preset.alternatives, "sum({})"), either(preset.of, "sum({})")
        return f"(({errors}) or vector(0)) / ({of})"
    seconds = max(1, round(spec.window.total_seconds()))
    return f"({either(preset.alternatives, 'sum({})')}) / {seconds}"
