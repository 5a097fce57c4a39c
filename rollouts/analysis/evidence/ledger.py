"""What one pod lost: a ledger over raw readings of what was answered, what was finished, and what is in flight.

Answered (2xx and 5xx, counted by the HTTP layer when a response ends) less finished (counted by the engine) is what
users did not get: refused streams under 200, clients that gave up. Both come from one page, but the engine counts
first, so the difference runs low by what is between the two; its running maximum is therefore a lower bound of what
was lost, and never falls.

Requests that came and never end are in neither. Of what was in flight at a moment at least (in flight then, less
all that ended since) is still there; once that is older than stable's longest answer, it counts as lost. When
such a request ends after all, the running maximum keeps it from being counted twice.
"""

from __future__ import annotations

import math

from rollouts.analysis.evidence.model import Arm, Scrape

__all__ = ["LEAST_LONGEST", "advance", "begin", "longest_answer"]

LEAST_LONGEST = 200
"""Stable's answers without which the longest of them says little: one in 200 is longer by chance."""

_ANSWERED, _FINISHED, _LOST, _TOTAL, _MARKS = 0, 1, 2, 3, 4
_KEPT = 4
"""Moments that are remembered, a third of the patience apart: what waits is found after 1.3 times that."""

Vector = list[float]


def begin(reading: Vector, at: float, *, before: Vector | None = None) -> Vector:
    """The ledger of a pod that is first seen with (answered, finished, in flight), or was reset."""
    answered, finished, in_flight = reading
    lost, total = (answered - finished, answered) if before is None else (before[0], before[1])
    return [answered, finished, lost, total, *([at, in_flight, answered] * _KEPT)]


def advance(ledger: Vector, reading: Vector, at: float, patience: float) -> tuple[Vector, Vector, bool]:
    """The ledger after one more reading; the increments [lost, of, finished beyond answered]; whether it was reset.

    ``patience``: seconds of stable's longest answer, NaN where nobody knows it.
    """
    answered, finished, in_flight = reading
    if answered < ledger[_ANSWERED] or finished < ledger[_FINISHED]:
        lost = max(0.0, answered - finished)
        return begin(reading, at, before=[lost, answered]), [lost, answered, 0.0], True
    marks = ledger[_MARKS:]
    waiting = [
        there - (answered - ended)
        for since, there, ended in zip(marks[::3], marks[1::3], marks[2::3], strict=True)
        if at - since >= patience
    ]
    stuck = max([0.0, *waiting])  # 0 first: what is not a number compares as no more
    lost = max(ledger[_LOST], answered - finished + stuck)
    total = max(ledger[_TOTAL], answered + stuck)
    beyond = (finished - ledger[_FINISHED]) - (answered - ledger[_ANSWERED])
    rise = [min(lost - ledger[_LOST], total - ledger[_TOTAL]), total - ledger[_TOTAL], beyond]
    if at - marks[-3] >= patience / 3.0:
        marks = [*marks[3:], at, in_flight, answered]
    return [answered, finished, lost, total, *marks], rise, False


def longest_answer(scrape: Scrape, histogram: str) -> float:
    """Seconds that no answer of stable's pods took, by their buckets since they started; NaN when not known."""
    longest, answers = 0.0, 0.0
    for pod in scrape.pods:
        found = pod.histograms.get(histogram)
        if pod.arm is not Arm.STABLE or found is None or not found.cumulative:
            continue
        count = found.cumulative[-1]
        if not 0.0 < count < math.inf:
            continue
        answers += count
        reached = zip(found.bounds, found.cumulative, strict=True)
        longest = max(longest, next(bound for bound, value in reached if value >= count))
    return longest if answers >= LEAST_LONGEST else math.nan
