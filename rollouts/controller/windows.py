"""Which window is open now: computed once for all Rollouts that have the same, until it opens or closes."""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime

from rollouts.api.schedule import check_window, window_view
from rollouts.engine.observation import WindowView
from rollouts.engine.rollout_spec import Window
from rollouts.runtime.clock import Clock

__all__ = ["WindowCalendar"]

_KEPT = 4096
"""Lists of windows that are remembered: a thousand Rollouts have a few between them."""


class WindowCalendar:
    """Answers by a clock. A search takes up to a millisecond, what is remembered nothing."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._views: OrderedDict[tuple[Window, ...], tuple[datetime, datetime, WindowView]] = OrderedDict()
        """From when until when, by the wall clock, which may be set back, this is what there is."""

    def view(self, windows: tuple[Window, ...]) -> WindowView | None:
        """The window that is open or comes next; None without windows, or where one of them is wrong."""
        if not windows:
            return None
        now = self._clock.now()
        known = self._views.pop(windows, None)
        if known is None or not known[0] <= now < known[1]:
            view = None if any(map(check_window, windows)) else window_view(windows, now)
            if view is None:
                return None
            known = (now, view.closes_at if view.opens_at <= now else view.opens_at, view)
        self._views[windows] = known
        if len(self._views) > _KEPT:
            self._views.popitem(last=False)
        return known[2]
