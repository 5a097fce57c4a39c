"""Statuses that need not be stored yet: measurements that were only successes, and figures that are only shown.

With short intervals they were most of what the controller wrote. What counts against the canary, what ends a metric and
what lets a gate pass is stored at once. A crash forgets at most ``STORE_EVERY`` of successes: they are measured again,
so that nothing passes early.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from rollouts.analysis.types import MetricResult, RunStatus
from rollouts.engine.rollout_status import RolloutStatus
from rollouts.runtime.objects import ObjectKey

__all__ = ["STORE_EVERY", "Unstored", "only_figures"]

STORE_EVERY = timedelta(seconds=10)
"""As old as figures that people look at may be; measurements further apart are each stored."""


@dataclass(frozen=True, slots=True)
class _Kept:
    uid: str
    stored: Mapping[str, Any]
    """The status in the API server that ``status`` goes on from."""
    status: RunStatus


class Unstored:
    """The newest status of each run, where the API server has an older one."""

    def __init__(self) -> None:
        self._kept: dict[ObjectKey, _Kept] = {}
        self._stored_at: dict[ObjectKey, datetime] = {}
        self._held: set[ObjectKey] = set()

    def newest(self, key: ObjectKey, raw: Mapping[str, Any], stored: RunStatus) -> RunStatus:
        """What is known of the run: the kept status, unless somebody changed the stored one meanwhile."""
        kept = self._kept.get(key)
        same = kept is not None and (kept.uid, kept.stored) == (_uid(raw), raw.get("status") or {})
        return kept.status if kept is not None and same else stored

    def keep(
        self, key: ObjectKey, raw: Mapping[str, Any], stored: RunStatus, status: RunStatus, now: datetime
    ) -> float | None:
        """Keep the status for later, if it may be; the seconds until it is to be stored, None: now."""
        since = self._stored_at.get(key)
        if status == stored:
            return None  # there is nothing to store
        if since is None or not since <= now < since + STORE_EVERY or not _only_successes(stored, status):
            return None
        self._kept[key] = _Kept(_uid(raw), raw.get("status") or {}, status)
        return (since + STORE_EVERY - now).total_seconds()

    def hold(self, key: ObjectKey, raw: Mapping[str, Any], status: RunStatus) -> bool:
        """The API server does not take the newest status: it goes on from here. Whether it did not before, either."""
        before = key in self._held
        self._held.add(key)
        self._kept[key] = _Kept(_uid(raw), raw.get("status") or {}, status)
        return before

    def was_stored(self, key: ObjectKey, now: datetime) -> None:
        """The API server has the newest status."""
        self._kept.pop(key, None)
        self._held.discard(key)
        self._stored_at[key] = now

    def forget(self, key: ObjectKey) -> None:
        """The run is over or gone."""
        self._kept.pop(key, None)
        self._held.discard(key)
        self._stored_at.pop(key, None)


def _uid(raw: Mapping[str, Any]) -> str:
    return str((raw.get("metadata") or {}).get("uid", ""))


def _only_successes(old: RunStatus, new: RunStatus) -> bool:
    """Whether nothing but successful measurements and words about them came."""
    results = len(old.metrics) == len(new.metrics) and all(map(_more_of_the_same, old.metrics, new.metrics))
    return results and replace(new, metrics=old.metrics, message=old.message) == old


def _more_of_the_same(old: MetricResult, new: MetricResult) -> bool:
    grown = replace(
        new,
        message=old.message,
        successful=old.successful,
        consecutive_success=old.consecutive_success,
        measurements=old.measurements,
    )
    return grown == old


_GATE = "Analysing"
"""The reason under which a step's message holds the figures of its gate."""


def only_figures(old: RolloutStatus, new: RolloutStatus) -> bool:
    """Whether a Rollout's status says the same as before with other figures: of its gates, and the observed share."""
    weight = new.weight
    if old.weight.observed is not None and weight.observed is not None:
        weight = replace(weight, observed=old.weight.observed)
    plain = replace(new, weight=weight)
    if old.reason == new.reason == _GATE:
        worded = [(one.type, one.status, one.reason) for one in old.conditions]
        if worded == [(one.type, one.status, one.reason) for one in new.conditions]:
            plain = replace(plain, message=old.message, conditions=old.conditions)
    return new != old and _unfigured(plain) == _unfigured(old)


def _unfigured(status: RolloutStatus) -> RolloutStatus:
    if status.current is None:
        return status
    lines = tuple(replace(line, effect="", evidence="") for line in status.current.analysis)
    return replace(status, current=replace(status.current, analysis=lines))
