"""Kubernetes Events: best effort, bounded, never in the way of a reconcile."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from typing import Any

import structlog

from rollouts.engine.actions import EmitEvent
from rollouts.kube.client import KubeClient
from rollouts.kube.errors import ApiTimeout, KubeError
from rollouts.objects import kinds
from rollouts.runtime.clock import Clock, Monotonic
from rollouts.runtime.objects import uid_of

__all__ = ["EventRecorder"]

_log = structlog.get_logger(__name__)

_BURST = 25
_REFILL = 10.0
"""Seconds per event after the burst. client-go's recorder allows 25, then one in five minutes."""
_PATIENCE = 2.0
_REST = 30.0
"""Seconds for an Event, and without any after one that had no answer. Clusters keep Events in an etcd of their own:
where that hangs nothing but Events may be lost, and the Rollout whose turn it is may have to be aborted."""
_BUCKETS = 10_000
_SELDOM = 300.0
"""Seconds between two Events of one reason about one object, of what is tried again and again."""
_MESSAGE_LIMIT = 1024


class EventRecorder:
    """Writes core/v1 Events about one object at a time, at most 25 at once and then one in ten seconds."""

    def __init__(self, client: KubeClient, clock: Clock, *, component: str = "inference-rollouts") -> None:
        self._client = client
        self._clock = clock
        self._component = component
        self._buckets: OrderedDict[str, tuple[float, Monotonic]] = OrderedDict()
        self._seldom: OrderedDict[tuple[str, str], Monotonic] = OrderedDict()
        """By UID and reason: when ``emit_seldom`` recorded one."""
        self._rests_until = Monotonic(0.0)
        self._lost = 0
        """Events since that answer did not come."""
        self.dropped = 0

    async def emit(self, about: dict[str, Any], event: EmitEvent) -> bool:
        """Record an Event on ``about``; failures are logged and forgotten. Whether it was recorded."""
        meta = about["metadata"]
        uid = uid_of(about)
        if self._clock.monotonic() < self._rests_until:
            self._lost += 1
            self.dropped += 1
            return False
        self._say_lost()
        if not self._admit(uid):
            self.dropped += 1
            return False
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._client.create(kinds.EVENT, meta["namespace"], self._body(about, event))
        except (KubeError, TimeoutError) as error:
            if isinstance(error, ApiTimeout | TimeoutError):
                self._rests_until = Monotonic(self._clock.monotonic() + _REST)
            _log.info("event_not_recorded", reason=event.reason, error=type(error).__name__)
            return False
        return True

    async def emit_seldom(self, about: dict[str, Any], event: EmitEvent) -> None:
        """Record an Event of what is tried again and again, unless one of its reason was lately."""
        if self.is_due(about, event.reason) and await self.emit(about, event):
            mine = uid_of(about), event.reason
            self._seldom[mine] = self._clock.monotonic()
            self._seldom.move_to_end(mine)
            if len(self._seldom) > _BUCKETS:
                self._seldom.popitem(last=False)

    def is_due(self, about: dict[str, Any], reason: str) -> bool:
        """Whether ``emit_seldom`` would record one of the reason."""
        last = self._seldom.get((uid_of(about), reason))
        return last is None or self._clock.monotonic() - last >= _SELDOM

    def _say_lost(self) -> None:
        if self._lost:
            _log.warning(
                "events_dropped",
                count=self._lost,
                reason=f"the API server did not answer a write of an Event: none was tried for {_REST:g} s",
            )
            self._lost = 0

    def _admit(self, uid: str) -> bool:
        now = self._clock.monotonic()
        tokens, since = self._buckets.pop(uid, (float(_BURST), now))
        tokens = min(_BURST, tokens + (now - since) / _REFILL)
        allowed = tokens >= 1
        self._buckets[uid] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > _BUCKETS:
            self._buckets.popitem(last=False)
        return allowed

    def _body(self, about: dict[str, Any], event: EmitEvent) -> dict[str, Any]:
        meta, now = about["metadata"], self._clock.now()
        stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        text = f"{meta.get('uid')}|{event.reason}|{event.message}|{now.timestamp():.6f}"
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{meta['name'][:230].rstrip('-.')}.{digest}",
                "namespace": meta["namespace"],
            },
            "involvedObject": {
                "apiVersion": about["apiVersion"],
                "kind": about["kind"],
                "namespace": meta["namespace"],
                "name": meta["name"],
                "uid": meta.get("uid", ""),
                "resourceVersion": meta.get("resourceVersion", ""),
            },
            "type": event.type.value,
            "reason": event.reason,
            "message": event.message[:_MESSAGE_LIMIT],
            "source": {"component": self._component},
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        }
