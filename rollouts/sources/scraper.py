"""Scraping pods: one short history of samples per pod, shared by everyone who asks about it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import aiohttp
import structlog

from rollouts.analysis.exposition import MAX_BYTES, ExpositionError, ScrapedPage, parse_groups
from rollouts.runtime.clock import Clock, Monotonic
from rollouts.runtime.fairness import FairSlots
from rollouts.runtime.modelservers import PLAIN, ModelServerBook, ModelServerClient, advice
from rollouts.sources.base import ScrapeTarget
from rollouts.sources.budget import ReadingTime

__all__ = ["START_TIME", "PodHistory", "PodScraper", "SampledPod"]

_log = structlog.get_logger(__name__)

START_TIME = "process_start_time_seconds"
"""Gauge of the Prometheus client libraries: another value is another process."""

_NEVER = Monotonic(float("-inf"))
_TIMEOUT = 3.0
_FRESH = 0.9
"""Seconds within which a second asker gets the first one's sample."""
_PARALLEL = 32
_OF_ONE_NAMESPACE = 8
"""Connections of the 32 that one namespace's pods may hold, each for three seconds at most."""
_INLINE_BYTES = 256 * 1024
"""A longer page is read in a thread, where the event loop gets its turns; a vLLM pod's has 60 KB."""
_SAMPLES = 64
_IDLE = 60.0
"""Seconds between samples where nobody measures over a window: counters are cumulative."""
_FORGET = 300.0
"""Seconds after which a pod that nobody asks about is forgotten."""


class _Sample(NamedTuple):
    """One page as it was read, and for which names: nothing can be said of others."""

    at: Monotonic
    page: ScrapedPage
    names: frozenset[str]


@dataclass(slots=True)
class SampledPod:
    """Samples of one pod, oldest first, thinned so that ``window`` holds about two dozen; shared by all who ask."""

    endpoint: ScrapeTarget
    only: frozenset[tuple[str, str]] = frozenset()
    names: frozenset[str] = frozenset()
    window: float = 0.0
    samples: deque[_Sample] = field(default_factory=deque)
    asked: Monotonic = _NEVER
    tried: Monotonic = _NEVER
    hurried_until: Monotonic = _NEVER
    pace: float = 1.0
    """Seconds between samples while somebody is in a hurry."""
    latest: _Sample | None = None
    error: str = ""
    refused: bool = False
    restarts: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def life(self) -> tuple[bool, bool, bool, int]:
        """Whether it ever answered, whether it does and whether somebody listens, and its restarts."""
        return self.latest is not None, not self.error, self.refused, self.restarts

    def spacing(self, now: Monotonic) -> float:
        """Seconds between kept samples."""
        usual = max(1.0, self.window / 24) if self.window else _IDLE
        return min(self.pace, usual) if now < self.hurried_until else usual

    def read_also(self, names: frozenset[str]) -> None:
        """From now on samples are read for these names, too; at once, since what is there has nothing of them."""
        if not self.names >= names:
            self.names |= names
            self.tried = _NEVER

    def keep(self, at: Monotonic, page: ScrapedPage, names: frozenset[str]) -> None:
        """Take a sample; between two kept ones at least ``spacing`` passes, but for the first one of a name."""
        sample = _Sample(at, page, names)
        if self.latest is not None and _restarted(self.latest.page, page):
            self.restarts += 1
        self.latest, self.error, self.refused = sample, "", False
        last = self.samples[-1] if self.samples else None
        if last is None or sample.names > last.names or sample.at - last.at >= self.spacing(sample.at) * 0.9:
            self.samples.append(sample)
        while len(self.samples) > 1 and self.samples[1].at < sample.at - self._looked_back_on:
            self.samples.popleft()
        if len(self.samples) > _SAMPLES:
            self._thin()

    @property
    def _looked_back_on(self) -> float:
        """Seconds; who asks for no window reads what was sampled between two looks, however far apart."""
        return self.window * 1.5 if self.window else 3 * _IDLE

    def _thin(self) -> None:
        """Drop the sample that is missed least: whoever was in a hurry must not shorten what others look back on."""
        times = [sample.at for sample in self.samples]
        del self.samples[min(range(1, len(times) - 1), key=lambda i: times[i + 1] - times[i - 1])]


@dataclass(frozen=True, slots=True)
class PodHistory:
    """What the samples of one pod say of the ``names`` that somebody asked for.

    A gate that begins asks for names that nobody asked for before: others lose nothing by that.
    """

    pod: SampledPod
    names: frozenset[str]

    @property
    def endpoint(self) -> ScrapeTarget:
        """Which pod, and its port."""
        return self.pod.endpoint

    @property
    def error(self) -> str:
        """Why the last try failed; empty when it did not."""
        return self.pod.error

    @property
    def refused(self) -> bool:
        """The last try found nobody listening."""
        return self.pod.refused

    @property
    def tried(self) -> Monotonic:
        """When it was asked last."""
        return self.pod.tried

    @property
    def restarts(self) -> int:
        """Restarts of the process that the samples showed, since the history began."""
        return self.pod.restarts

    @property
    def latest(self) -> tuple[Monotonic, ScrapedPage] | None:
        """The newest sample, when it was read for these names."""
        newest = self.pod.latest
        return None if newest is None or not newest.names >= self.names else (newest.at, newest.page)

    def since(self, moment: Monotonic) -> list[tuple[Monotonic, ScrapedPage]]:
        """Kept samples from ``moment`` on, and the newest."""
        found = [
            (kept.at, kept.page)
            for kept in self.pod.samples
            if kept.at >= moment and kept.names >= self.names
        ]
        newest = self.latest
        if newest is not None and newest[0] >= moment and (not found or newest[0] > found[-1][0]):
            found.append(newest)
        return found

    def within(self, now: Monotonic, window: float) -> list[ScrapedPage]:
        """Samples of the window, the first of them as baseline: one from before it may be another weight's."""
        return [sample for _, sample in self.since(Monotonic(now - window))]

    def covered(self, now: Monotonic, window: float) -> float:
        """Seconds of the window that the samples span."""
        inside = self.since(Monotonic(now - window))
        return float(inside[-1][0] - inside[0][0]) if inside else 0.0


def _is_other(known: ScrapeTarget, asked: ScrapeTarget) -> bool:
    """Whether the address went to another pod, or what it answered until now was nobody's."""
    return known is not asked and (
        known.owner != asked.owner or (asked.warmed or 0.0) > (known.warmed or 0.0)
    )


def _restarted(before: ScrapedPage, after: ScrapedPage) -> bool:
    """Whether another process answers: it says so, or a counter fell."""
    started, starts = before.total(START_TIME), after.total(START_TIME)
    if started is not None and starts is not None:
        return abs(starts - started) > 1.0
    counters = [name for name in before.series if name.endswith("_total") and name in after.series]
    return any((after.total(name) or 0.0) < (before.total(name) or 0.0) for name in counters)


def _refused(error: Exception) -> bool:
    return isinstance(error, aiohttp.ClientConnectorError) and isinstance(
        error.os_error, ConnectionRefusedError
    )


class PodScraper:
    """Keeps histories of the pods that are asked about. ``run`` samples them until cancelled."""

    def __init__(self, clock: Clock, *, model_servers: ModelServerBook | None = None) -> None:
        self._clock = clock
        self._model_servers = model_servers or ModelServerBook()
        self._pods: dict[tuple[str, int, frozenset[tuple[str, str]]], SampledPod] = {}
        self._session: aiohttp.ClientSession | None = None
        self._slots = FairSlots(_PARALLEL, _OF_ONE_NAMESPACE)
        self._time = ReadingTime(clock)
        self._scrapes: set[asyncio.Task[None]] = set()
        self.turns = 0
        """How often a pod fell silent, answered again, or was seen to have restarted."""

    def follow(
        self,
        endpoints: Iterable[ScrapeTarget],
        names: Collection[str],
        window: float,
        *,
        only: frozenset[tuple[str, str]] = frozenset(),
        hurry: float = 0.0,
        pace: float = 1.0,
    ) -> list[PodHistory]:
        """Histories of these pods, sampled for ``names`` over ``window`` seconds from now on.

        ``only`` keeps the series that have these (label, value) pairs. For ``hurry`` seconds from now on they are
        sampled every ``pace`` seconds, however long a window others asked for. A window of 0 asks for a sample now and
        then.
        """
        now, wanted, found = self._clock.monotonic(), frozenset(names), []
        for endpoint in endpoints:
            key = (endpoint.ip, endpoint.port, only)
            pod = self._pods.get(key)
            if pod is None or _is_other(pod.endpoint, endpoint):
                pod = self._pods[key] = SampledPod(endpoint=endpoint, only=only)
            pod.asked = now
            if hurry:
                pod.pace = pace if now >= pod.hurried_until else min(pace, pod.pace)
            pod.hurried_until = Monotonic(max(pod.hurried_until, now + hurry))
            pod.read_also(wanted)
            pod.window = max(pod.window, window)
            found.append(PodHistory(pod, wanted))
        return found

    async def refresh(self, histories: Iterable[PodHistory]) -> None:
        """Bring the histories up to date, in parallel."""
        await asyncio.gather(*(self._scrape(history.pod) for history in histories))

    async def read(
        self,
        endpoint: ScrapeTarget,
        names: Collection[str],
        *,
        only: frozenset[tuple[str, str]] = frozenset(),
        by: str = "",
    ) -> dict[str, ScrapedPage] | None:
        """One page, now, and nothing kept; by the values of the label ``by``. None: no usable answer."""
        try:
            return await self._page(endpoint, names, only, by)
        except (aiohttp.ClientError, TimeoutError, OSError, ExpositionError) as error:
            _log.info("pod_not_read", pod=endpoint.pod, reason=self._why(endpoint, error))
            return None

    async def run(self) -> None:
        """Sample every followed pod when its next sample is due; forget those nobody asks about."""
        while True:
            now = self._clock.monotonic()
            for key, pod in list(self._pods.items()):
                if now - pod.asked > _FORGET:
                    del self._pods[key]
            for pod in self._pods.values():
                # Not waited for: pods that drip their answers must not hold up those of others.
                if not pod.lock.locked() and now - pod.tried >= pod.spacing(now):
                    task = asyncio.get_running_loop().create_task(self._scrape(pod))
                    self._scrapes.add(task)
                    task.add_done_callback(self._scrapes.discard)
            await self._clock.sleep(0.5)

    async def _scrape(self, pod: SampledPod) -> None:
        async with pod.lock:
            now, names = self._clock.monotonic(), pod.names
            if now - pod.tried < _FRESH:
                return
            pod.tried, before = now, pod.life
            try:
                pages = await self._page(pod.endpoint, names, pod.only, "")
                pod.keep(self._clock.monotonic(), pages.get("", ScrapedPage()), names)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                pod.refused = _refused(error)
                pod.error = f"no answer from its metrics port ({self._why(pod.endpoint, error)})"
            except ExpositionError as error:
                pod.error, pod.refused = str(error), False
            self.turns += pod.life != before

    async def _page(
        self, endpoint: ScrapeTarget, names: Collection[str], only: frozenset[tuple[str, str]], by: str
    ) -> dict[str, ScrapedPage]:
        """Fetch and read one page, within what its namespace may take of connections and time."""
        async with self._slots.hold(endpoint.namespace):
            self._time.check(endpoint.namespace)
            body = await self._fetch(endpoint)
            begun = time.thread_time()
            if len(body) <= _INLINE_BYTES:
                pages = parse_groups(body, names, only=only, by=by)
                self._time.spend(endpoint.namespace, time.thread_time() - begun)
                return pages
            return await asyncio.to_thread(
                self._read_apart, endpoint.namespace, body, frozenset(names), only, by
            )

    def _read_apart(
        self,
        namespace: str,
        body: bytes,
        names: frozenset[str],
        only: frozenset[tuple[str, str]],
        by: str,
    ) -> dict[str, ScrapedPage]:
        begun = time.thread_time()
        try:
            return parse_groups(body, names, only=only, by=by)
        finally:
            self._time.spend(namespace, time.thread_time() - begun)

    async def _fetch(self, endpoint: ScrapeTarget) -> bytes:
        session = self._open()
        host = f"[{endpoint.ip}]" if ":" in endpoint.ip else endpoint.ip
        client = self._client(endpoint)
        url = client.url(f"{host}:{endpoint.port}", "/metrics")
        async with asyncio.timeout(_TIMEOUT), session.get(url, **client.arguments()) as response:
            if response.status != 200:
                raise ExpositionError(f"its metrics port answered {response.status}")
            body = b""
            async for chunk in response.content.iter_chunked(65_536):
                body += chunk
                if len(body) > MAX_BYTES:
                    raise ExpositionError(f"the page is larger than {MAX_BYTES} bytes")
            return body

    def _client(self, endpoint: ScrapeTarget) -> ModelServerClient:
        """How to call it; a picker, which is no pool's model server, gets no key."""
        return self._model_servers.client(endpoint.namespace, endpoint.pool) if endpoint.pool else PLAIN

    def _why(self, endpoint: ScrapeTarget, error: Exception) -> str:
        """The kind of the error; more where a setting can help, since addresses and ports differ per pod."""
        try:
            scheme = self._client(endpoint).config.scheme
        except OSError as unusable:
            return str(unusable)
        option = advice(error, scheme, self._model_servers.fields)
        said = str(error) if isinstance(error, ExpositionError) else type(error).__name__
        return f"{said}; {option}" if option else said

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_PARALLEL, keepalive_timeout=15), trust_env=False
            )
        return self._session

    async def close(self) -> None:
        """Close the connections."""
        for task in self._scrapes:
            task.cancel()
        await asyncio.gather(*self._scrapes, return_exceptions=True)
        if self._session is not None:
            with contextlib.suppress(aiohttp.ClientError):
                await self._session.close()
            self._session = None
