"""Counts the requests of canaries between looks, and has a Rollout looked at when they say something new.

A canary that carries weight is counted to its end, every few seconds after a write. A look at everything costs some
milliseconds: a thousand canaries would keep a core busy with finding that nothing changed. So only the share is
looked at, and everything else when it may decide otherwise (``engine.watching.says_new``).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from rollouts.api.parsing import ParsedRollout
from rollouts.controller.gathered import Gathered, ShareSource
from rollouts.engine.actions import Plan
from rollouts.engine.observation import ShareView
from rollouts.engine.rollout_spec import PickerTraffic
from rollouts.engine.rollout_status import RolloutStatus
from rollouts.engine.watching import pace_of_counting, says_new
from rollouts.runtime.clock import Clock, Monotonic
from rollouts.runtime.objects import ObjectKey
from rollouts.units import ZERO

__all__ = ["ShareWatch"]

_ROUND = 1.0
"""Seconds between rounds: pods are sampled every second."""
_AT_A_TIME = 20
"""Rollouts that are counted before others get their turn of the event loop: a few milliseconds."""


@dataclass(slots=True)
class _Watched:
    """A Rollout as it was looked at last."""

    parsed: ParsedRollout
    by_picker: PickerTraffic | None
    share: ShareView | None
    due: Monotonic


class ShareWatch:
    """Calls ``on_change`` with the key of each Rollout whose share says something new."""

    def __init__(self, shares: ShareSource, clock: Clock) -> None:
        self.on_change: Callable[[ObjectKey], None] = lambda _: None
        self._shares = shares
        self._clock = clock
        self._watched: dict[ObjectKey, _Watched] = {}

    def keep(self, key: ObjectKey, gathered: Gathered, decided: Plan, status: RolloutStatus) -> None:
        """Count from now on, or no more, as the plan says; ``status`` is what is stored by now."""
        if decided.count_after is None:
            self.forget(key)
            return
        self._watched[key] = _Watched(
            parsed=replace(gathered.parsed, status=status),
            by_picker=gathered.by_picker,
            share=gathered.observation.share,
            due=Monotonic(self._clock.monotonic() + decided.count_after.total_seconds()),
        )

    def forget(self, key: ObjectKey) -> None:
        """It is being looked at, or gone."""
        self._watched.pop(key, None)

    def next_due(self) -> float:
        """When the next one is due to be counted; infinity for never."""
        return min((watched.due for watched in self._watched.values()), default=math.inf)

    async def run(self) -> None:
        """Count those that are due, until cancelled."""
        while True:
            await self.count_due()
            await self._clock.sleep(_ROUND)

    async def count_due(self) -> None:
        """One round."""
        now = self._clock.monotonic()
        due = [key for key, watched in self._watched.items() if watched.due <= now]
        for number, key in enumerate(due):
            if number % _AT_A_TIME == _AT_A_TIME - 1:
                await asyncio.sleep(0)
            if key in self._watched:
                self._count(key, self._watched[key])

    def _count(self, key: ObjectKey, watched: _Watched) -> None:
        share, weight = (
            self._shares.view(key, watched.parsed, watched.by_picker),
            watched.parsed.status.weight,
        )
        by_picker = watched.by_picker is not None
        if says_new(watched.share, share, weight.applied or ZERO, weight.observed, by_picker=by_picker):
            self.forget(key)
            self.on_change(key)
        elif share is not None:
            watched.due = Monotonic(self._clock.monotonic() + pace_of_counting(share).total_seconds())
