"""What a Prometheus server answers, as values. Nothing of an answer is quoted in a message."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from rollouts.analysis.types import Labelled, Value
from rollouts.sources.base import QueryRefused, SourceUnavailable
from rollouts.sources.raw_windows import RawSeries

__all__ = ["instant_value", "matrix"]

_STALE = timedelta(minutes=5)
"""Prometheus itself looks back five minutes; older samples are no data."""


def _number(text: Any) -> float:
    if not isinstance(text, str) or len(text) > 64:
        raise SourceUnavailable("a sample of the answer is no number")
    try:
        return float(text)
    except ValueError:
        raise SourceUnavailable("a sample of the answer is no number") from None


def instant_value(data: Any, at: datetime, limit: int) -> Value:
    """A scalar or an instant vector; stale samples are no data. Raises QueryRefused for a range."""
    if isinstance(data, list) and len(data) == 2 and not isinstance(data[0], Mapping):
        return _number(data[1])
    if not isinstance(data, list):
        raise SourceUnavailable("the answer is neither a scalar nor a vector")
    if len(data) > limit:
        raise QueryRefused(f"the query answers more than {limit} series: aggregate in the query")
    series = []
    for item in data:
        if not isinstance(item, Mapping) or "values" in item:
            raise QueryRefused("the query answers a range: take an instant vector, as in rate(x[5m])")
        sample, labels = item.get("value"), item.get("metric")
        if not isinstance(sample, list) or len(sample) != 2 or not isinstance(labels, Mapping):
            raise SourceUnavailable("the answer is no Prometheus answer")
        stamp = sample[0]
        if not isinstance(stamp, int | float) or abs(at.timestamp() - stamp) > _STALE.total_seconds():
            continue
        named = tuple(sorted((str(key), str(value)[:512]) for key, value in labels.items()))
        series.append(Labelled(value=_number(sample[1]), labels=named))
    if len({item.labels for item in series}) != len(series):
        raise SourceUnavailable("the answer holds the same series twice")
    if len(series) == 1 and not series[0].labels:
        return series[0].value
    return tuple(series)


def matrix(data: Any, limit: int) -> list[RawSeries]:
    """The samples that a range selector answers. What is not a number (marks of series that ended) is left out."""
    if not isinstance(data, list):
        raise SourceUnavailable("the answer is no matrix")
    if len(data) > limit:
        raise SourceUnavailable(f"the answer has more than {limit} series")
    try:
        return [_samples(item["metric"], item.get("values", ())) for item in data]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise SourceUnavailable("the answer is no Prometheus answer") from None


def _samples(metric: Mapping[str, Any], values: Any) -> RawSeries:
    labels = {str(key): str(value)[:512] for key, value in metric.items()}
    times, numbers = array("d"), array("d")
    for stamp, text in values:
        at, number = float(stamp), math.nan if text is None else _number(text)
        if not math.isfinite(at):
            raise ValueError("a sample of no moment")
        if math.isnan(number):
            continue
        if times and at < times[-1]:
            raise SourceUnavailable("the samples of a series are not in the order of time")
        if times and at == times[-1]:  # written again by a sender that had not heard that they had come
            numbers[-1] = max(numbers[-1], number)
        else:
            times.append(at)
            numbers.append(number)
    return RawSeries(labels.pop("__name__", ""), labels, times, numbers)
