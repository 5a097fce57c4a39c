"""Scraping pods: one short history of samples per pod, shared by everyone who asks about it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import aiohttp
import structlog

from rollouts.analysis.exposition import MAX_BYTES, ExpositionError, PodSample, parse_exposition, parse_groups
from rollouts.analysis.sources.base import Endpoint
from rollouts.runtime.clock import Clock, Monotonic

__all__ = ["PodHistory", "PodScraper"]

_log = structlog.get_logger(__name__)

_NEVER = Monotonic(float("-inf"))
_TIMEOUT = 3.0
_FRESH = 0.9
"""Seconds within which a second asker gets the first one's sample."""
_PARALLEL = 32
_SAMPLES = 48
_FORGET = 300.0
"""Seconds after which a pod that nobody asks about is forgotten."""


@dataclass(slots=True)
class PodHistory:
    """Samples of one pod, oldest first, thinned so that ``window`` holds about two dozen."""

    endpoint: Endpoint
    only: frozenset[tuple[str, str]] = frozenset()
    names: set[str] = field(default_factory=set)
    window: float = 0.0
    samples: deque[tuple[Monotonic, PodSample]] = field(default_factory=deque)
    asked: Monotonic = _NEVER
    tried: Monotonic = _NEVER
    hurried_until: Monotonic = _NEVER
    latest: tuple[Monotonic, PodSample] | None = None
    error: str = ""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def spacing(self, now: Monotonic) -> float:
        """Seconds between kept samples: a second while somebody is in a hurry."""
        return 1.0 if now < self.hurried_until else max(1.0, self.window / 24)

    def keep(self, now: Monotonic, sample: PodSample) -> None:
        """Take a sample; between two kept ones at least ``spacing`` passes."""
        self.latest, self.error = (now, sample), ""
        if not self.samples or now - self.samples[-1][0] >= self.spacing(now) * 0.9:
            self.samples.append((now, sample))
        while len(self.samples) > 1 and self.samples[1][0] < now - self.window * 1.5:
            self.samples.popleft()
        if len(self.samples) > _SAMPLES:
            self._thin()

    def _thin(self) -> None:
        """Drop the sample that is missed least: whoever was in a hurry must not shorten what others look back on."""
        times = [at for at, _ in self.samples]
        del self.samples[min(range(1, len(times) - 1), key=lambda i: times[i + 1] - times[i - 1])]

    def since(self, moment: Monotonic) -> list[tuple[Monotonic, PodSample]]:
        """Kept samples from ``moment`` on, and the newest."""
        found = [kept for kept in self.samples if kept[0] >= moment]
        newest = self.latest
        if newest is not None and newest[0] >= moment and (not found or newest[0] > found[-1][0]):
            found.append(newest)
        return found

    def within(self, now: Monotonic, window: float) -> list[PodSample]:
        """Samples of the window, the first of them as baseline: one from before it may be another weight's."""
        return [sample for _, sample in self.since(Monotonic(now - window))]

    def covered(self, now: Monotonic, window: float) -> float:
        """Seconds of the window that the samples span."""
        inside = self.since(Monotonic(now - window))
        return float(inside[-1][0] - inside[0][0]) if inside else 0.0


class PodScraper:
    """Keeps histories of the pods that are asked about. ``run`` samples them until cancelled."""

    def __init__(self, clock: Clock, *, path: str = "/metrics") -> None:
        self._clock = clock
        self._path = path
        self._pods: dict[tuple[str, int, frozenset[tuple[str, str]]], PodHistory] = {}
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(_PARALLEL)

    def follow(
        self,
        endpoints: Iterable[Endpoint],
        names: Collection[str],
        window: float,
        *,
        only: frozenset[tuple[str, str]] = frozenset(),
        hurry: float = 0.0,
    ) -> list[PodHistory]:
        """Histories of these pods, sampled for ``names`` over ``window`` seconds from now on.

        ``only`` keeps the series that have these (label, value) pairs. For ``hurry`` seconds from now on they are
        sampled every second, however long a window others asked for.
        """
        now, found = self._clock.monotonic(), []
        for endpoint in endpoints:
            key = (endpoint.ip, endpoint.port, only)
            history = self._pods.setdefault(key, PodHistory(endpoint=endpoint, only=only))
            if history.endpoint.pod != endpoint.pod:  # the address went to another pod
                history = self._pods[key] = PodHistory(endpoint=endpoint, only=only)
            history.asked = now
            history.hurried_until = Monotonic(max(history.hurried_until, now + hurry))
            if not history.names >= set(names):
                history.names |= set(names)
                history.samples.clear()
                history.tried = _NEVER
            history.window = max(history.window, window)
            found.append(history)
        return found

    async def refresh(self, histories: Iterable[PodHistory]) -> None:
        """Bring the histories up to date, in parallel."""
        await asyncio.gather(*(self._scrape(history) for history in histories))

    async def read(
        self,
        endpoint: Endpoint,
        names: Collection[str],
        *,
        only: frozenset[tuple[str, str]] = frozenset(),
        by: str = "",
    ) -> dict[str, PodSample] | None:
        """One page, now, and nothing kept; by the values of the label ``by``. None: no usable answer."""
        try:
            async with self._slots:
                body = await self._fetch(endpoint)
            return parse_groups(body, names, only=only, by=by)
        except (aiohttp.ClientError, TimeoutError, OSError, ExpositionError) as error:
            _log.info("pod_not_read", pod=endpoint.pod, reason=type(error).__name__)
            return None

    async def run(self) -> None:
        """Sample every followed pod when its next sample is due; forget those nobody asks about."""
        while True:
            now = self._clock.monotonic()
            for key, history in list(self._pods.items()):
                if now - history.asked > _FORGET:
                    del self._pods[key]
            due = [history for history in self._pods.values() if now - history.tried >= history.spacing(now)]
            await self.refresh(due)
            await self._clock.sleep(0.5)

    async def _scrape(self, history: PodHistory) -> None:
        async with history.lock:
            now = self._clock.monotonic()
            if now - history.tried < _FRESH:
                return
            history.tried = now
            try:
                async with self._slots:
                    body = await self._fetch(history.endpoint)
                history.keep(self._clock.monotonic(), parse_exposition(body, history.names, history.only))
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                history.error = f"no answer from its metrics port ({type(error).__name__})"
            except ExpositionError as error:
                history.error = str(error)

    async def _fetch(self, endpoint: Endpoint) -> bytes:
        session = self._open()
        host = f"[{endpoint.ip}]" if ":" in endpoint.ip else endpoint.ip
        url = f"http://{host}:{endpoint.port}{self._path}"
        async with asyncio.timeout(_TIMEOUT), session.get(url, allow_redirects=False) as response:
            if response.status != 200:
                raise ExpositionError(f"its metrics port answered {response.status}")
            body = b""
            async for chunk in response.content.iter_chunked(65_536):
                body += chunk
                if len(body) > MAX_BYTES:
                    raise ExpositionError(f"the page is larger than {MAX_BYTES} bytes")
            return body

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_PARALLEL, keepalive_timeout=15), trust_env=False
            )
        return self._session

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            with contextlib.suppress(aiohttp.ClientError):
                await self._session.close()
            self._session = None
