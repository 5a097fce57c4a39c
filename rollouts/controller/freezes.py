"""Which freeze holds for a Rollout now. What is not known freezes: nothing rises until freezes were listed."""

from __future__ import annotations

from datetime import UTC, datetime

import structlog

from rollouts.api.freezes import Freeze, freeze_view, read_freeze, selects
from rollouts.controller.caches import Caches
from rollouts.engine.observation import FreezeView
from rollouts.objects.fields import map_of, metadata_of
from rollouts.runtime.clock import Clock
from rollouts.runtime.objects import Object, ObjectKey, version_of

__all__ = ["Freezes"]

_log = structlog.get_logger(__name__)

_UNKNOWN = FreezeView(
    name="",
    reason="RolloutFreezes or Namespaces cannot be listed: look at the controller's log and its ClusterRole",
)
_BRIEF = 200
"""Characters of an error in the log."""
_FOR_EVER = datetime.max.replace(tzinfo=UTC)


class Freezes:
    """Answers from the cache."""

    def __init__(self, caches: Caches, clock: Clock) -> None:
        self._caches = caches
        self._clock = clock
        self._read: dict[ObjectKey, tuple[str, Freeze]] = {}

    def view(self, rollout: Object) -> FreezeView | None:
        """The freeze that holds longest of those that select the Rollout, else the one that begins next."""
        if not self._caches.watches_freezes:
            return None
        if not self._caches.knows_freezes():
            return _UNKNOWN
        now, held, later = self._clock.now(), list[FreezeView](), list[FreezeView]()
        for key in self._caches.freezes:
            view = self._holds(key, rollout, now)
            if view is not None:
                (held if view.since is None else later).append(view)
        if not held:
            return min(later, key=lambda one: (one.since or now, one.name), default=None)
        return max(held, key=lambda one: (one.until or _FOR_EVER, one.name))

    def _holds(self, key: ObjectKey, rollout: Object, now: datetime) -> FreezeView | None:
        """The freeze as it holds for the Rollout; one that cannot be read holds, and keeps nobody from an abort."""
        try:
            freeze = self._freeze(key)
            return freeze_view(freeze, now) if self._selects(freeze, rollout) else None
        except Exception as error:
            _log.warning("freeze_not_read", name=key.name, reason=f"{type(error).__name__}: {error}"[:_BRIEF])
            return freeze_view(Freeze(name=key.name, wrong="it cannot be read"), now)

    def _freeze(self, key: ObjectKey) -> Freeze:
        obj = self._caches.freezes.get(key)
        assert obj is not None
        known = self._read.get(key)
        if known is None or known[0] != version_of(obj):
            known = self._read[key] = (version_of(obj), read_freeze(obj))
        return known[1]

    def _selects(self, freeze: Freeze, rollout: Object) -> bool:
        meta = metadata_of(rollout)
        if not selects(freeze.rollouts, map_of(meta.get("labels"))):
            return False
        if freeze.namespaces is None:
            return True
        namespace = self._caches.namespace_objects.get(ObjectKey("", str(meta.get("namespace"))))
        # A namespace that is not known yet may be meant.
        return namespace is None or selects(freeze.namespaces, map_of(metadata_of(namespace).get("labels")))
