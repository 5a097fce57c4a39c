"""Delivers the notices that statuses owe, in the background: at least once, and never in the way of a reconcile.

The durable list is the Rollout's status. A reconcile hands over what is stored there (``take``) and asks what has
been delivered since (``settle``); everything in here is lost with the process and comes back from the statuses. One
request at a time per receiver, namespaces in turn, so that a receiver that hangs holds up nobody else's, and a
namespace that asks for much waits behind itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog

from rollouts.controller.metrics import ControllerMetrics
from rollouts.controller.notification_settings import Asked, NotificationSettings, Receiver
from rollouts.controller.posting import NotTaken, Post, Undelivered, post
from rollouts.engine.notices import owed
from rollouts.engine.rollout_status import Notice, RolloutStatus
from rollouts.runtime.clock import Clock, Monotonic
from rollouts.runtime.objects import ObjectKey

__all__ = ["Notifier"]

_log = structlog.get_logger(__name__)

_NEVER = Monotonic(float("-inf"))
_TICK = 0.5
_FIRST_RETRY, _LAST_RETRY = 5.0, 600.0
"""Seconds: a receiver that restarts is asked again soon, one that is down for a night six times an hour."""
_GIVE_UP = timedelta(hours=24)
"""What nobody took for a day is news to nobody."""


@dataclass(slots=True)
class _Item:
    key: ObjectKey
    uid: str
    notice: Notice
    tries: int = 0
    due: Monotonic = _NEVER


@dataclass(slots=True)
class _Line:
    """What one receiver is to be told."""

    receiver: Receiver
    items: dict[ObjectKey, dict[str, _Item]] = field(default_factory=dict)
    """By Rollout and id of the notice."""
    served: dict[str, Monotonic] = field(default_factory=dict)
    """When a namespace last had its turn."""
    free: Monotonic = _NEVER
    """When the next request may begin, by the rate."""
    busy: bool = False

    def all(self) -> Iterator[_Item]:
        """Everything that is to be told."""
        return (item for items in self.items.values() for item in items.values())

    def keep(self, key: ObjectKey, ids: Collection[str]) -> None:
        """Of a Rollout nothing but these is to be told any more."""
        items = self.items.get(key, {})
        for gone in [id_ for id_ in items if id_ not in ids]:
            del items[gone]
        if not items:
            self.items.pop(key, None)

    def next(self, now: Monotonic) -> _Item | None:
        """The oldest item that is due, of the namespace whose turn it is."""
        if self.busy or now < self.free:
            return None
        due = [item for item in self.all() if item.due <= now]

        def order(item: _Item) -> tuple[float, datetime]:
            return self.served.get(item.key.namespace, _NEVER), item.notice.at

        return min(due, key=order, default=None)


class Notifier:
    """``run`` works until cancelled. ``on_change`` is called with the key of a Rollout whose notice is dealt with."""

    def __init__(
        self,
        settings: NotificationSettings,
        clock: Clock,
        metrics: ControllerMetrics,
        deliver: Post = post,
    ) -> None:
        self.on_change: Callable[[ObjectKey], None] = lambda _: None
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._deliver = deliver
        self._lines = {name: _Line(receiver) for name, receiver in settings.receivers.items()}
        self._done: dict[ObjectKey, set[str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        for name in self._lines:
            for outcome in ("delivered", "failed", "refused", "given_up"):
                metrics.notifications.labels(name, outcome)

    def asked(self, rollout: dict[str, Any]) -> Asked:
        """What is asked for a Rollout, by the administrator and by its annotations."""
        meta = rollout["metadata"]
        return self._settings.asked(str(meta.get("namespace", "")), meta.get("annotations"))

    def settle(
        self,
        key: ObjectKey,
        uid: str,
        before: RolloutStatus,
        after: RolloutStatus,
        asked: Asked,
        now: datetime,
    ) -> RolloutStatus:
        """``after`` with what is owed by then: to be stored with everything else that it says."""
        return owed(before, after, asked.pairs, self._done.get(key, ()), uid=uid, now=now)

    def take(self, key: ObjectKey, uid: str, notices: Iterable[Notice]) -> None:
        """These are stored: deliver them. What was dealt with and is not stored any more is forgotten."""
        stored = {notice.id: notice for notice in notices}
        done = self._done.get(key, set()) & set(stored)
        for notice in stored.values():
            line = self._lines.get(notice.receiver)
            if notice.id in done:
                continue
            if line is None:
                # Any text where somebody wrote the status: no label of a metric.
                _log.warning("notice_without_receiver", receiver=notice.receiver, rollout=str(key))
                done.add(notice.id)
                self.on_change(key)
            else:
                line.items.setdefault(key, {}).setdefault(notice.id, _Item(key, uid, notice))
        for line in self._lines.values():
            line.keep(key, stored)
        self._remember(key, done)

    def forget(self, key: ObjectKey) -> None:
        """The Rollout is gone, and with it the place where it is written who is to be told."""
        self.take(key, "", ())

    def _remember(self, key: ObjectKey, done: set[str]) -> None:
        if done:
            self._done[key] = done
        else:
            self._done.pop(key, None)

    # --- delivering ---

    async def run(self) -> None:
        """Deliver what is due."""
        try:
            while True:
                for line in self._lines.values():
                    item = line.next(self._clock.monotonic())
                    if item is not None:
                        self._spawn(line, item)
                    self._metrics.notifications_pending.labels(line.receiver.name).set(
                        sum(1 for _ in line.all())
                    )
                await self._clock.sleep(_TICK)
        finally:
            for task in self._tasks:
                task.cancel()

    def _spawn(self, line: _Line, item: _Item) -> None:
        now = self._clock.monotonic()
        line.busy = True
        line.free = Monotonic(now + 60.0 / line.receiver.per_minute)
        line.served[item.key.namespace] = now
        task = asyncio.get_running_loop().create_task(self._send(line, item))
        self._tasks.add(task)

        def ended(done: asyncio.Task[None]) -> None:
            self._tasks.discard(done)
            line.busy = False
            if not done.cancelled() and done.exception() is not None:
                self._later(item, 0.0)
                _log.error("notification_failed", receiver=line.receiver.name, exc_info=done.exception())

        task.add_done_callback(ended)

    async def _send(self, line: _Line, item: _Item) -> None:
        receiver, now = line.receiver, self._clock.now()
        try:
            async with asyncio.timeout(receiver.timeout):
                await self._deliver(receiver, item.key, item.uid, item.notice, now)
        except (Undelivered, TimeoutError) as error:
            if now - item.notice.at < _GIVE_UP:
                self._count(receiver.name, "failed")
                self._later(item, error.after if isinstance(error, Undelivered) else 0.0)
                self._tell(item, "notice_not_delivered", str(error) or "no answer in time")
                return
            self._end(line, item, "given_up", str(error))
        except NotTaken as error:
            self._end(line, item, "refused", str(error))
        else:
            self._end(line, item, "delivered", "")

    def _later(self, item: _Item, at_least: float) -> None:
        wait = min(_LAST_RETRY, _FIRST_RETRY * 2.0 ** min(item.tries, 16))
        item.tries += 1
        item.due = Monotonic(self._clock.monotonic() + max(wait, at_least))

    def _end(self, line: _Line, item: _Item, outcome: str, why: str) -> None:
        """Dealt with: the next reconcile takes it out of the status."""
        self._count(line.receiver.name, outcome)
        if outcome != "delivered":
            self._tell(item, "notice_given_up", why)
        items = line.items.get(item.key, {})
        if item.notice.id in items:
            line.keep(item.key, items.keys() - {item.notice.id})
            self._done.setdefault(item.key, set()).add(item.notice.id)
            self.on_change(item.key)

    def _count(self, receiver: str, outcome: str) -> None:
        self._metrics.notifications.labels(receiver, outcome).inc()

    @staticmethod
    def _tell(item: _Item, event: str, why: str) -> None:
        notice = item.notice
        _log.warning(
            event,
            receiver=notice.receiver,
            rollout=str(item.key),
            trigger=notice.trigger,
            tries=item.tries,
            reason=why,
        )
