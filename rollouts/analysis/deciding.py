"""Whether a metric can stop a rollout at all: what only informs must not be taken for a gate."""

from __future__ import annotations

from rollouts.analysis.comparisons import GatesError, compare_metric
from rollouts.analysis.types import CompareSpec, MetricSpec, OnFail

__all__ = ["can_stop"]


def can_stop(metric: MetricSpec) -> bool:
    """Whether some value of the metric fails its gate; what cannot be read is taken to."""
    if metric.dry_run or metric.on_fail is OnFail.ALERT:
        return False
    if isinstance(metric.what, CompareSpec):
        try:
            found = compare_metric(metric.name, metric.what.form)
        except GatesError:
            return True
        return not found.advisory and found.weight != 0.0
    tolerated = metric.failure_limit
    return tolerated >= 0 and not (metric.count and tolerated >= metric.count)
