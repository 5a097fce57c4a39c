"""The stable pods' recent histogram: where the body's slope and the tail bounds come from, predictably."""

import math
from collections.abc import Sequence
from typing import Any

from rollouts.analysis.evidence.scores import Tail, body_slope, choose_tail, shifted_survival

__all__ = ["COARSE_BELOW", "Shape"]

_MEMORY = 600.0
"""Seconds: the shape follows the hour of the day, not the minute."""
_ENOUGH = 100.0
"""Requests from which on a tenth and a fiftieth of them are more than one."""
COARSE_BELOW = 0.5
"""Buckets that keep less than half of the rank information (12 s^2) are coarse: the mean then tells more."""


class Shape:
    """Stable counts with an exponential memory of ten minutes, and what follows from them.

    `slope` is b, the score shift per unit of log latency (about 0.4 for a time to first token); `tails` are
    the bounds that about 10 % and 2 % of requests exceeded. They are those of *earlier* intervals, so that
    choosing them leans on no observation that they later judge; only the first intervals, when there is no
    history, take the slope (not the tails) from the interval itself.
    """

    __slots__ = ("_counts", "bounds", "mean", "slope", "spread", "tails")

    def __init__(self) -> None:
        self.bounds: tuple[float, ...] = ()
        self._counts: list[float] = []
        self.slope = 0.0
        self.spread = 0.0
        self.mean = 0.0
        self.tails: tuple[Tail | None, Tail | None] = (None, None)

    def align(self, bounds: tuple[float, ...]) -> None:
        """Move to a smaller set of bounds by adding buckets up."""
        if bounds == self.bounds:
            return
        if self.bounds and self._counts:
            merged = []
            total = 0.0
            for bound, count in zip(self.bounds, self._counts, strict=True):
                total += count
                if bound in bounds:
                    merged.append(total)
                    total = 0.0
            self._counts = merged
        self.bounds = bounds
        self.tails = (None, None)

    def predict(self, current: Sequence[float]) -> bool:
        """Fix slope and tails for this interval; False while too little is known."""
        counts = self._counts if self._counts else [0.0] * len(current)
        known = math.fsum(counts)
        if known < _ENOUGH:
            counts = [a + b for a, b in zip(counts, current, strict=True)]
            if math.fsum(counts) <= 0:
                return False
        now, then = shifted_survival(counts, self.bounds)
        self.slope = body_slope(now, then)
        total = math.fsum(counts)
        self.spread = (1.0 - math.fsum([(c / total) ** 3 for c in counts])) / 12.0
        if known >= _ENOUGH:
            self.tails = (
                choose_tail(0.10, self.bounds, now, then),
                choose_tail(0.02, self.bounds, now, then),
            )
        return True

    def learn(self, current: Sequence[float], mean: float, seconds: float) -> None:
        """Add the interval to the memory."""
        keep = math.exp(-seconds / _MEMORY)
        if not self._counts:
            self._counts = [0.0] * len(current)
        before = math.fsum(self._counts) * keep
        self._counts = [keep * a + b for a, b in zip(self._counts, current, strict=True)]
        after = math.fsum(self._counts)
        if after > 0 and math.isfinite(mean):
            self.mean = (self.mean * before + mean * (after - before)) / after

    @property
    def coarse(self) -> bool:
        """The buckets keep less than half of what ranks would."""
        return 12.0 * self.spread < COARSE_BELOW

    @property
    def massive_bounds(self) -> int:
        """How many buckets hold any recent mass."""
        return sum(1 for count in self._counts if count > 0)

    def dump(self) -> list[object]:
        """Plain values for the checkpoint."""
        bounds = ["inf" if math.isinf(bound) else bound for bound in self.bounds]
        tails = [
            None if tail is None else [tail.first, tail.bound, tail.share, tail.hazard] for tail in self.tails
        ]
        return [bounds, self._counts, self.slope, self.spread, self.mean, tails]

    def load(self, raw: Any) -> None:
        """Inverse of `dump`."""
        bounds, counts, self.slope, self.spread, self.mean, tails = raw
        self.bounds = tuple(math.inf if bound == "inf" else bound for bound in bounds)
        self._counts = list(counts)
        first, second = (None if tail is None else Tail(*tail) for tail in tails)
        self.tails = (first, second)
