"""What an observer of the picker's exchanges is told, collected."""

from __future__ import annotations

from rollouts.picker.core.measure import ObservedResponse
from rollouts.picker.core.routing import Decision, Refusal

__all__ = ["Told"]


class Told:
    """An ``Observer`` that keeps everything."""

    def __init__(self) -> None:
        self.refusals: list[Refusal] = []
        self.decisions: list[Decision] = []
        self.measurements: list[ObservedResponse] = []

    def refused(self, refusal: Refusal) -> None:
        """See ``Observer``."""
        self.refusals.append(refusal)

    def dispatched(self, decision: Decision) -> None:
        """See ``Observer``."""
        self.decisions.append(decision)

    def measured(self, decision: Decision, measurement: ObservedResponse) -> None:
        """See ``Observer``."""
        self.measurements.append(measurement)
