"""One reading of a page, the same from every source: several series of one process become one number.

A server with several engines (data parallel ranks behind one port) has a series per engine: counters and queue
lengths add up, shares of something (KV-cache use) are averaged.
"""

from __future__ import annotations

from rollouts.analysis.catalogue import Groups, Over, Selector
from rollouts.analysis.exposition import PodSample

__all__ = ["read"]


def read(sample: PodSample, groups: Groups) -> float | None:
    """The value of the first alternative whose first name the page exposes; None when there is none."""
    for group in groups:
        if group[0].name in sample.series:
            return _value(sample, group)
    return None


def _value(sample: PodSample, group: tuple[Selector, ...]) -> float:
    values = [
        selector.sign * value
        for selector in group
        for labels, value in sample.series.get(selector.name, ())
        if selector.picks(labels)
    ]
    if group[0].over is Over.MEAN and values:
        return sum(values) / len(values)
    return sum(values)
