"""What users lost: refused, given up, never answered; and when that cannot be told."""

from __future__ import annotations

from typing import Any

from rollouts.analysis.evidence.collect import PodIncrement, SeriesInterval
from rollouts.analysis.evidence.counts import CountTest
from rollouts.analysis.evidence.model import CompareMetric
from rollouts.analysis.evidence.noise import Context

__all__ = ["LostTest"]

_SLACK = 10.0
"""Requests: some that are answered in the moment of the scrape are finished already."""
_SLACK_SHARE = 0.01
"""The engine counts an answer before the HTTP layer does: that much of what is finished may be ahead."""


class LostTest(CountTest):
    """A count test that stops where an arm finishes more generations than it answers requests.

    Then one request stands for several generations (a list of prompts, the parts of a recording), and what is
    missing hides behind what is too many. It stops before the interval after the one that showed it, so that
    what is judged is never chosen by what it says.
    """

    def __init__(self, metric: CompareMetric) -> None:
        super().__init__(metric)
        self._beyond = {"canary": [0.0, 0.0], "stable": [0.0, 0.0]}

    @property
    def warning(self) -> str:  # type: ignore[override]  # a constant in the other tests
        """Why it cannot be told, empty when it can."""
        for arm, (beyond, answered) in self._beyond.items():
            if beyond > _SLACK + _SLACK_SHARE * answered:
                return (
                    f"{arm} finished {beyond:.0f} generations more than it answered requests: "
                    "what users lost cannot be told there"
                )
        return ""

    @property
    def seen(self) -> bool:
        """Whether either arm lost anything yet."""
        return sum(self.errors) > 0

    def absorb(self, data: SeriesInterval, bounds: tuple[float, ...], context: Context) -> None:
        """Take in one interval."""
        if not self.warning:
            super().absorb(data, bounds, context)
        self._note("stable", data.stable)
        self._note("canary", data.canary)

    def _note(self, arm: str, rows: list[PodIncrement]) -> None:
        for row in rows:
            self._beyond[arm][0] += row.values[2]
            self._beyond[arm][1] += row.values[1]

    def dump(self) -> list[object]:
        """Plain values for the checkpoint."""
        return [super().dump(), [self._beyond["canary"], self._beyond["stable"]]]

    def load(self, raw: Any) -> None:
        """Inverse of `dump`."""
        counts, (canary, stable) = raw
        super().load(counts)
        self._beyond = {"canary": list(canary), "stable": list(stable)}
