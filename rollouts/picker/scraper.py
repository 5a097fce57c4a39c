"""Scrapes the pods, each at its own pace, over one HTTP session."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import aiohttp
import structlog

from rollouts.picker.core.endpoints import Endpoint
from rollouts.picker.core.schedule import Scheduler
from rollouts.picker.core.scrape import (
    UNKNOWN,
    ModelList,
    ScrapeConfig,
    parse_metrics,
    parse_models,
    wait_for,
)
from rollouts.runtime.modelservers import ModelServerClient, ModelServers, explain

__all__ = ["Scraper"]

_TICK = 0.05
_PARALLEL = 32
_REST = 50
"""Times what reading a page took until it is read again: a pod's page costs two percent of a core at most."""
_log = structlog.get_logger(__name__)


class _BadAnswer(ValueError):
    """Not 200, or too long. Some errors of aiohttp are ValueErrors as well."""


@dataclass(slots=True)
class _Target:
    """When a pod is due, and what it said last."""

    due: float = 0.0
    models_due: float = 0.0
    models: ModelList = UNKNOWN
    failures: int = 0
    cost: float = 0.0
    """CPU seconds that reading its page took."""
    running: bool = False


class Scraper:
    """Keeps the scheduler's loads fresh. A pod that fails keeps its last figures until they are stale."""

    def __init__(
        self,
        scheduler: Scheduler,
        config: ScrapeConfig | None = None,
        servers: ModelServers | None = None,
    ) -> None:
        self._scheduler = scheduler
        self._client = ModelServerClient(servers or ModelServers())
        self._unlisted = ""
        self._uncounted = False
        self._config = config or ScrapeConfig()
        self._targets: dict[str, _Target] = {}
        self._slots = asyncio.Semaphore(_PARALLEL)
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Scrape whatever is due, until cancelled."""
        while True:
            self.tick(time.monotonic())
            await asyncio.sleep(_TICK)

    def tick(self, now: float) -> None:
        """Begin the scrapes that are due; a pod that became busy is due early."""
        endpoints = self._scheduler.endpoints()
        addresses = {endpoint.address for endpoint in endpoints}
        self._targets = {a: t for a, t in self._targets.items() if a in addresses}
        for endpoint in endpoints:
            target = self._targets.setdefault(endpoint.address, _Target())
            early = not target.failures and self._busy(endpoint.address)
            sooner = min(self._config.idle - self._config.busy, self._config.idle - target.cost * _REST)
            if target.running or now < target.due - max(0.0, sooner) * early:
                continue
            target.running = True
            task = asyncio.create_task(self._scrape(endpoint, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _scrape(self, endpoint: Endpoint, target: _Target) -> None:
        address = endpoint.address
        try:
            async with self._slots:
                started = time.monotonic()
                if started >= target.models_due:
                    target.models = await self._models(address)
                    target.models_due = started + self._config.models
                before = self._scheduler.dispatched(address)
                text = (await self._get(address, "/metrics")).decode("utf-8", "replace")
            begun = time.thread_time()
            load = parse_metrics(text, target.models)
            target.cost = time.thread_time() - begun
            self._scheduler.observe(address, load, time.monotonic(), before=before)
            target.failures = 0
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, RuntimeError) as error:
            # RuntimeError: a bug of the native data path
            target.failures += 1
            target.models = UNKNOWN  # a pod that restarts may have lost its adapters: ask again
            target.models_due = 0.0
            if target.failures == 1:
                said = explain(error, self._client.config.scheme)
                _log.warning("scrape_failed", pod=endpoint.pod, address=address, error=said[:400])
        finally:
            wait = wait_for(self._config, busy=self._busy(address), failures=target.failures)
            target.due = time.monotonic() + max(wait, target.cost * _REST)
            target.running = False

    def _busy(self, address: str) -> bool:
        """Whether requests are at a pod. By a bug of the native path nobody can say: as if none were."""
        try:
            busy = self._scheduler.busy(address)
        except RuntimeError:
            if not self._uncounted:  # once, not for each pod twenty times a second
                _log.exception("busy_pods_unknown", address=address)
            self._uncounted = True
            return False
        self._uncounted = False
        return busy

    async def _models(self, address: str) -> ModelList:
        """The model list; nothing known when the pod does not tell, for example without an API key."""
        try:
            return parse_models(await self._get(address, "/v1/models"))
        except _BadAnswer as error:
            said = explain(error, self._client.config.scheme)
            if said != self._unlisted:  # once, not for each pod every few seconds
                self._unlisted = said
                _log.warning("models_unlisted", address=address, error=said[:400])
            return UNKNOWN

    async def _get(self, address: str, path: str) -> bytes:
        """The body of an answer 200, up to a limit. Raises _BadAnswer for any other."""
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=self._config.timeout)
            self._session = aiohttp.ClientSession(timeout=timeout, trust_env=False)
        client = self._client
        async with self._session.get(client.url(address, path), **client.arguments()) as response:
            if response.status != 200:
                raise _BadAnswer(f"{path} answered {response.status}")
            body = b""
            async for block in response.content.iter_chunked(65_536):
                body += block
                if len(body) > self._config.max_bytes:
                    raise _BadAnswer(f"{path} answered more than {self._config.max_bytes} bytes")
            return body

    async def close(self) -> None:
        """End running scrapes and the session."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
