"""The compare form as written: a value with one set of defaults, which the API's models and the engine read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

from rollouts.analysis.evidence.model import (
    MIN_DWELL,
    MIN_REQUESTS,
    WARM_UP,
    CountSeries,
    Direction,
    OnUndecided,
    Require,
)
from rollouts.units import format_duration

__all__ = ["COMPARE_DEFAULTS", "CompareForm"]


def _seconds(value: float) -> str:
    return format_duration(timedelta(seconds=value))


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareForm:
    """Canary against stable, in an author's words: numbers and durations keep their spelling, since runs store it.

    ``written`` are the fields that somebody wrote, the API server's defaults included: they are what is stored.
    ``margin`` and ``tolerance`` are fractions or percentages, in a template also arguments.
    """

    preset: str = ""
    histogram: str = ""
    counter: CountSeries | None = None
    gauge: str = ""
    direction: Direction = Direction.LOWER
    margin: float | str | None = None
    tolerance: float | str | None = None
    require: Require | None = None
    """None: what the gate's place asks for."""
    min_dwell: str = _seconds(MIN_DWELL)
    min_requests: int = MIN_REQUESTS
    warm_up: str = _seconds(WARM_UP)
    max_duration: str = "1h"
    on_undecided: OnUndecided = OnUndecided.HOLD
    weight: float | None = None
    written: frozenset[str] = frozenset()

    def requiring(self, require: Require) -> CompareForm:
        """The form with ``require`` written out where it is not."""
        if self.require is not None:
            return self
        return replace(self, require=require, written=self.written | {"require"})

    def texts(self) -> list[str]:
        """Every text that may hold arguments."""
        pair = () if self.counter is None else (self.counter.errors, self.counter.of)
        found = (*pair, self.preset, self.histogram, self.gauge, self.margin, self.tolerance)
        return [value for value in found if isinstance(value, str)]

    def filled(self, fill: Callable[[str], str]) -> CompareForm:
        """The form with ``fill`` done to each of its ``texts``."""
        pair = self.counter
        return replace(
            self,
            counter=None if pair is None else CountSeries(errors=fill(pair.errors), of=fill(pair.of)),
            preset=fill(self.preset),
            histogram=fill(self.histogram),
            gauge=fill(self.gauge),
            margin=fill(self.margin) if isinstance(self.margin, str) else self.margin,
            tolerance=fill(self.tolerance) if isinstance(self.tolerance, str) else self.tolerance,
        )


COMPARE_DEFAULTS = CompareForm()
"""What an empty form stands for."""
