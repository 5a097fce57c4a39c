"""Plans that are given up one after the other, since what they were made on changes each time: said, now and then.

One conflict is nothing, as another plan is made a moment later. Who writes again and again holds a Rollout up for good.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from rollouts.api.references import traffic_names
from rollouts.carriers import kind_of
from rollouts.controller.caches import Caches
from rollouts.controller.events import EventRecorder
from rollouts.controller.refusals import TryAgain
from rollouts.engine.actions import EmitEvent, EventType
from rollouts.engine.reasons import Reason
from rollouts.kube.client import KubeClient
from rollouts.kube.errors import Conflict, KubeError
from rollouts.objects import kinds
from rollouts.objects.fields import metadata_of, text_of
from rollouts.objects.managed_fields import managed_fields
from rollouts.runtime.objects import ObjectKey
from rollouts.traffic.writes import APPLIED_BY

__all__ = ["Contention"]

Object = Mapping[str, Any]

_MANY = 10
_LONG = timedelta(seconds=30)
"""A row of conflicts that is worth a word: a cache that is some seconds behind is none."""


class Contention:
    """Counts conflicts in a row by Rollout."""

    def __init__(self, client: KubeClient, caches: Caches, events: EventRecorder) -> None:
        self._client = client
        self._caches = caches
        self._events = events
        self._rows: dict[ObjectKey, tuple[datetime, int]] = {}
        """When the first one was, and how many there were."""

    async def given_up(self, key: ObjectKey, error: Conflict, now: datetime) -> None:
        """A plan met a conflict."""
        if isinstance(error, TryAgain):
            return
        since, before = self._rows.get(key, (now, 0))
        self._rows[key] = (since, before + 1)
        rollout = self._caches.rollouts.get(key)
        if rollout is None or before + 1 < _MANY or now - since < _LONG:
            return
        if self._events.is_due(rollout, Reason.WRITES_CONTENDED):
            writers = await self._writers(key, rollout, since)
            message = (
                f"{before + 1} plans in a row were given up within {(now - since).total_seconds():.0f} s, as something "
                f"had changed under each: {error}{'; meanwhile ' if writers else ''}{', '.join(writers)}"
            )
            event = EmitEvent(type=EventType.WARNING, reason=Reason.WRITES_CONTENDED, message=message)
            await self._events.emit_seldom(rollout, event)

    def went_through(self, key: ObjectKey) -> None:
        """A plan met none, or something else, or the Rollout is gone."""
        self._rows.pop(key, None)

    async def _writers(self, key: ObjectKey, rollout: Object, since: datetime) -> list[str]:
        """Who else wrote the Rollout, or its traffic objects, meanwhile. The cache has no managedFields of Rollouts."""
        with contextlib.suppress(KubeError):  # the traffic objects may say more
            rollout = await self._client.get(kinds.ROLLOUT, *key)
        found = [_writers_of(kinds.ROLLOUT.kind, rollout, since)]
        for name, obj in self._traffic(key, rollout):
            found.append(_writers_of(name, obj, since))
        return [one for one in dict.fromkeys(found) if one]

    def _traffic(self, key: ObjectKey, rollout: Object) -> Iterator[tuple[str, Object]]:
        for name, traffic in traffic_names(rollout):
            kind = kind_of(name)
            for resource in kind.resources if kind is not None else ():
                obj = self._caches.traffic[resource].get(ObjectKey(key.namespace, traffic))
                if obj is not None:
                    yield name, obj


def _writers_of(kind: str, obj: Object, since: datetime) -> str:
    """The field managers but for ours that wrote the object since then; empty where there is none.

    Who writes its status does so because of what others write, and counts where nobody else did.
    """
    found = dict[str, set[str]]()
    for one in managed_fields(obj):
        if one.manager != APPLIED_BY and one.at is not None and one.at >= since.replace(microsecond=0):
            found.setdefault(one.subresource, set()).add(one.manager)
    who = found.get("") or {one for managers in found.values() for one in managers}
    return f"{', '.join(sorted(who))} wrote {kind} {text_of(metadata_of(obj).get('name'))}" if who else ""
