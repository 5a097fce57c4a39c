"""What changed, in order: the log that watches read, its compaction, and the watches themselves."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rollouts.kube.client import WatchType
from rollouts.kube.errors import Gone
from rollouts.lab.memoryapi.selectors import Matcher

__all__ = ["Change", "History", "WatchSubscription"]

Object = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One stored write. ``obj`` and ``previous`` belong to the store: look, never change.

    ``manager`` is the field manager and ``subresource`` the path that was written, so that a test can
    read from the history who wrote what.
    """

    revision: int
    type: WatchType
    group: str
    plural: str
    namespace: str
    name: str
    obj: Object
    previous: Object | None
    manager: str
    subresource: str
    frozen: bytes


class WatchSubscription:
    """One open watch: the changes it has not delivered yet, oldest first."""

    def __init__(
        self, *, namespace: str, matches: Matcher, on_close: Callable[[WatchSubscription], None]
    ) -> None:
        self.pending: deque[tuple[WatchType, Change]] = deque()
        self.closed = False
        self._wake: Callable[[], None] | None = None
        self._namespace = namespace
        self._matches = matches
        self._on_close = on_close

    def offer(self, change: Change) -> None:
        """Queue a change as this watch sees it; one that leaves the selection is seen as DELETED."""
        if self._namespace and self._namespace != change.namespace:
            return
        before = change.previous is not None and self._matches(change.previous)
        after = change.type is not WatchType.DELETED and self._matches(change.obj)
        if not before and not after:
            return
        alone = WatchType.ADDED if after else WatchType.DELETED
        seen = WatchType.MODIFIED if before and after else alone
        self.pending.append((seen, change))
        if self._wake:
            self._wake()

    async def changed(self, seconds: float) -> None:
        """Wait until something is pending, the watch is closed, or ``seconds`` of loop time have passed."""
        if self.pending or self.closed or seconds <= 0:
            return
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not woken.done():
                woken.set_result(None)

        self._wake = wake
        timer = loop.call_later(seconds, wake)
        try:
            await woken
        finally:
            timer.cancel()
            self._wake = None

    def close(self) -> None:
        """End the watch, from either side; what is pending can still be read."""
        if not self.closed:
            self.closed = True
            self._on_close(self)
            if self._wake:
                self._wake()


class History:
    """Changes of one kind. Holds at most ``limit``; older ones are compacted."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._changes: deque[Change] = deque()
        self._watches: list[WatchSubscription] = []
        self.compacted = 0

    def append(self, change: Change) -> None:
        """Add one change and hand it to every open watch."""
        self._changes.append(change)
        if len(self._changes) > self._limit:
            self.compacted = self._changes.popleft().revision
        for watch in tuple(self._watches):
            watch.offer(change)

    def compact(self, revision: int) -> None:
        """Forget all changes up to ``revision``: a watch from before it gets 410."""
        self.compacted = max(self.compacted, revision)
        while self._changes and self._changes[0].revision <= revision:
            self._changes.popleft()

    def open(self, *, after: int, namespace: str, matches: Matcher) -> WatchSubscription:
        """A watch of all changes after revision ``after``. Raises Gone."""
        if after < self.compacted:
            raise Gone(f"too old resource version: {after} ({self.compacted})", status=410)
        watch = WatchSubscription(namespace=namespace, matches=matches, on_close=self._watches.remove)
        for change in self._changes:
            if change.revision > after:
                watch.offer(change)
        self._watches.append(watch)
        return watch

    def close_all(self) -> None:
        """End every open watch, as a restart of the server does."""
        for watch in tuple(self._watches):
            watch.close()
