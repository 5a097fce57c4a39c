"""Pods whose engine stands still: requests are in flight, and nothing is generated or finished.

A model server whose engine process stopped goes on answering scrapes, with every value as it was: neither what comes
nor what waits is counted any more. An engine that works generates in each of its steps, milliseconds to seconds
apart, so that a page with requests in flight and no token between two scrapes tells of one that does not. What came
to it meanwhile is reckoned from what came to stable by the weight, as far as the arm's other pods did not have it,
and by a lower bound, so that a quiet minute is not taken for lost requests: the expected number of arrivals less
three standard errors (Poisson), which is 0 up to nine expected requests; none of nine come by chance once in 8,000.

A gateway that sends nothing to the canary leaves an engine without requests in flight, and nothing is reckoned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rollouts.analysis.evidence.model import Arm
from rollouts.analysis.evidence.vectors import Vector, whole

__all__ = ["Standstill"]

_ANSWERED, _FINISHED, _IN_FLIGHT, _PROGRESS = range(4)
PATIENCE = 120.0
"""Seconds that an engine may stand still before what it holds counts as lost: an answer may take longer, but then
its engine generates all the while. Answers that come after all are taken off again (see `ledger`)."""
_ERRORS = 3.0
"""Standard errors of the expected arrivals that are granted to chance."""

Pages = Mapping[Arm, Mapping[str, Vector]]
"""Per arm and pod: requests answered, finished, in flight, and a counter of work done; NaN where not exposed."""


class Standstill:
    """What pods that stand still hold beyond what their gauges say. Feed `reckon` once per accepted scrape."""

    def __init__(self) -> None:
        self._last: dict[Arm, dict[str, Vector]] = {arm: {} for arm in Arm}
        self._expected: dict[Arm, float] = dict.fromkeys(Arm, 0.0)
        self._seen: dict[Arm, float] = dict.fromkeys(Arm, 0.0)
        self._standing: dict[Arm, tuple[str, ...]] = dict.fromkeys(Arm, ())

    def reckon(self, pages: Pages, odds: float) -> dict[tuple[Arm, str], float]:
        """Requests beyond the gauge, of each pod that stands still. ``odds``: the canary's weight to stable's."""
        known = {arm: [name for name in pages[arm] if name in self._last[arm]] for arm in Arm}
        came = {
            arm: {name: _arrived(self._last[arm][name], pages[arm][name]) for name in known[arm]}
            for arm in Arm
        }
        for arm in Arm:
            self._standing[arm] = tuple(
                name for name in known[arm] if _stands(self._last[arm][name], pages[arm][name])
            )
        due = {
            Arm.CANARY: odds * math.fsum(came[Arm.STABLE].values()),
            Arm.STABLE: self._due_of_stable(came[Arm.STABLE]),
        }
        for arm in Arm:
            if not self._standing[arm]:
                self._expected[arm] = self._seen[arm] = 0.0
                continue
            self._expected[arm] += due[arm]
            self._seen[arm] += math.fsum(came[arm].values())
        self._last = {arm: dict(pages[arm]) for arm in Arm}
        return {
            (arm, name): self._missing(arm) / len(self._standing[arm])
            for arm in Arm
            for name in self._standing[arm]
        }

    def _due_of_stable(self, came: Mapping[str, float]) -> float:
        """As many requests for each of its pods as those had that move: no arm is judged more strictly."""
        moving = [arrived for name, arrived in came.items() if name not in self._standing[Arm.STABLE]]
        return math.fsum(moving) / len(moving) * len(came) if moving else 0.0

    def _missing(self, arm: Arm) -> float:
        expected = self._expected[arm]
        return max(0.0, expected - self._seen[arm] - _ERRORS * math.sqrt(expected))

    @property
    def canary_stands(self) -> bool:
        """Whether no pod of the canary moves, or requests that it should have had are missing beside those that do."""
        standing = self._standing[Arm.CANARY]
        return bool(standing) and (
            len(standing) == len(self._last[Arm.CANARY]) or self._missing(Arm.CANARY) > 0.0
        )

    def patience(self, arm: Arm, pod: str, longest: float) -> float:
        """Seconds after which a request of this pod is taken not to end; ``longest``: of a pod that moves."""
        if pod not in self._standing[arm]:
            return longest
        return PATIENCE if math.isnan(longest) else min(longest, PATIENCE)

    def dump(self) -> list[object]:
        """Plain values for the checkpoint."""
        return [
            [
                arm.value,
                self._expected[arm],
                self._seen[arm],
                list(self._standing[arm]),
                [[name, *map(whole, page)] for name, page in self._last[arm].items()],
            ]
            for arm in Arm
        ]

    def load(self, raw: Any) -> None:
        """Inverse of `dump`."""
        for value, expected, seen, standing, pages in raw:
            arm = Arm(value)
            self._expected[arm], self._seen[arm], self._standing[arm] = expected, seen, tuple(standing)
            self._last[arm] = {
                name: [math.nan if v is None else float(v) for v in page] for name, *page in pages
            }


def _stands(old: Vector, new: Vector) -> bool:
    """What is not known compares as not equal."""
    return (
        new[_PROGRESS] == old[_PROGRESS]
        and new[_FINISHED] == old[_FINISHED]
        and old[_IN_FLIGHT] > 0.0
        and new[_IN_FLIGHT] > 0.0
    )


def _arrived(old: Vector, new: Vector) -> float:
    """Requests that came: growth of what ended and of what is in flight; 0 after a reset."""
    waiting = new[_IN_FLIGHT] - old[_IN_FLIGHT]
    grown = new[_ANSWERED] - old[_ANSWERED] + (0.0 if math.isnan(waiting) else waiting)
    return max(0.0, grown) if new[_ANSWERED] >= old[_ANSWERED] else 0.0
