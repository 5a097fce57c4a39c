"""Axes: where a value lies on paper, and which values are written beside it. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Scale", "linear", "logarithmic", "minutes_ticks", "ratios", "spread"]

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Scale:
    """From values between ``low`` and ``high`` to coordinates from ``start`` to ``end``; what is beyond lies on the
    edge. ``ticks`` are values worth a label. ``log_from``: logarithmic in the distance from that value."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    log_from: float | None = None

    def at(self, value: float) -> float:
        """The coordinate."""
        low, high, inside = self.low, self.high, min(max(value, self.low), self.high)
        if self.log_from is not None:
            low, high, inside = (math.log(value - self.log_from) for value in (low, high, inside))
        return self.start + (inside - low) / (high - low) * (self.end - self.start)

    def holds(self, value: float) -> bool:
        """Whether the value lies on the axis."""
        return self.low <= value <= self.high


def linear(low: float, high: float, start: float, end: float, *, count: int = 4) -> Scale:
    """A linear axis that begins and ends at round values."""
    if not high > low:
        low, high = low - 0.5, high + 0.5
    step = _step((high - low) / count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(number * step, 12) for number in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], start, end, ticks)


def _step(rough: float) -> float:
    size = 10.0 ** math.floor(math.log10(rough))
    return next(size * step for step in _STEPS if size * step >= rough * (1 - 1e-9))


def logarithmic(low: float, high: float, start: float, end: float, *, count: int = 5) -> Scale:
    """A logarithmic axis between powers of ten, with at most ``count`` labels."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    last = max(last, first + 1)
    every = math.ceil((last - first + 1) / count)
    ticks = tuple(10.0**power for power in range(first, last + 1) if (power - first) % every == 0)
    return Scale(10.0**first, 10.0**last, start, end, ticks, log_from=0.0)


def ratios(low: float, high: float, start: float, end: float, *, count: int = 6) -> Scale:
    """An axis of relative changes (0 is none) that is logarithmic in ratios (1 is none), between powers of two."""
    first = math.floor(math.log2(max(low, 0.05)) + 1e-9)
    last = max(math.ceil(math.log2(high) - 1e-9), first + 1)
    every = math.ceil((last - first + 1) / count)
    ticks = tuple(2.0**power - 1.0 for power in range(first, last + 1) if power % every == 0)
    return Scale(2.0**first - 1.0, 2.0**last - 1.0, start, end, ticks, log_from=-1.0)


def minutes_ticks(seconds: float, start: float, end: float) -> Scale:
    """The axis of time from 0, in minutes, or in hours beyond three: ticks are in minutes, and end inside."""
    minutes = max(seconds / 60.0, 1.0)
    choices = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 180.0, 360.0, 720.0, 1440.0)
    step = next((choice for choice in choices if minutes / choice <= 6), _step(minutes / 5))
    ticks = tuple(number * step for number in range(int(minutes / step + 1e-9) + 1))
    return Scale(0.0, minutes, start, end, ticks)


def spread(wanted: list[float], gap: float, low: float, high: float) -> list[float]:
    """Places as near to ``wanted`` as leaves ``gap`` between neighbours, all between ``low`` and ``high``."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    placed = list(wanted)
    for before, index in zip([None, *order], order, strict=False):
        least = low if before is None else placed[before] + gap
        placed[index] = max(wanted[index], least)
    for after, index in zip([None, *reversed(order)], reversed(order), strict=False):
        most = high if after is None else placed[after] - gap
        placed[index] = min(placed[index], most)
    return placed
