"""Reading the Prometheus text format (version 0.0.4) of one pod, within limits.

Written for speed over the general parser: a vLLM pod exposes some 600 lines, and every pod of both arms is read
every few seconds. Only the wanted names are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from rollouts.exposition_lines import read_line

__all__ = [
    "MAX_BYTES",
    "ExpositionError",
    "ScrapedHistogram",
    "ScrapedPage",
    "add_series",
    "parse_exposition",
    "parse_groups",
]

T = TypeVar("T")

MAX_BYTES = 4 * 1024 * 1024
"""A vLLM pod's page is about 60 KB; a page of 4 MiB is not one."""

_MAX_LINES = 50_000
_MAX_NUMBER = 64
"""Digits are read in quadratic time; no double needs more than 25."""
_SUFFIXES = ("_bucket", "_sum", "_count")


class ExpositionError(ValueError):
    """The page is no metrics page; the text says why, and never quotes it."""


@dataclass(slots=True)
class ScrapedHistogram:
    """Cumulative counts by upper bound, summed over the pod's label sets; bounds ascending, last is infinite."""

    buckets: dict[float, float] = field(default_factory=dict)
    sum: float = 0.0
    count: float = 0.0


@dataclass(slots=True)
class ScrapedPage:
    """One scrape of one pod: series of one name are kept apart by their labels."""

    series: dict[str, list[tuple[dict[str, str], float]]] = field(default_factory=dict)
    histograms: dict[str, ScrapedHistogram] = field(default_factory=dict)
    _made: dict[Callable[[ScrapedPage], Any], Any] | None = field(default=None, repr=False, compare=False)

    def once(self, make: Callable[[ScrapedPage], T]) -> T:
        """What ``make`` makes of this page, which does not change any more: a thousand Rollouts may look at one pod."""
        if self._made is None:
            self._made = {}
        if make not in self._made:
            self._made[make] = make(self)
        return cast(T, self._made[make])

    def total(self, name: str) -> float | None:
        """Sum over all label sets; None when the pod does not expose the name."""
        found = self.series.get(name)
        return sum(value for _, value in found) if found else None


def parse_exposition(
    body: bytes, names: Collection[str], only: frozenset[tuple[str, str]] = frozenset()
) -> ScrapedPage:
    """Parse the wanted ``names``: plain series and histograms. Raises ExpositionError.

    ``only`` keeps the series that have all of these (label, value) pairs.
    """
    return parse_groups(body, names, only=only).get("", ScrapedPage())


def parse_groups(
    body: bytes, names: Collection[str], *, only: frozenset[tuple[str, str]] = frozenset(), by: str = ""
) -> dict[str, ScrapedPage]:
    """One sample for each value of the label ``by`` (under "" without it). Raises ExpositionError.

    ``_created`` series are not asked for, so they are skipped like everything else.
    """
    if len(body) > MAX_BYTES:
        raise ExpositionError(f"the page is larger than {MAX_BYTES} bytes")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise ExpositionError("the page is not UTF-8 text") from None
    if text.count("\n") >= _MAX_LINES:
        raise ExpositionError(f"the page has more than {_MAX_LINES} lines")
    lines = text.split("\n")
    wanted, samples, good = frozenset(names), dict[str, ScrapedPage](), 0
    for line in lines:
        if not line or line[0] == "#":
            good += line.startswith("# ")
            continue
        end = line.find("{")
        name = line[:end] if end > 0 else line.split(" ", 1)[0]
        base = _histogram_name(name)
        if name not in wanted and base not in wanted:
            good += 1
            continue
        read = read_line(line)
        if read is None:
            raise ExpositionError("a line is not in the Prometheus text format")
        value = _number(read.value)
        if value is None:
            continue
        good += 1
        labels = read.labels
        if not only <= labels.items():
            continue
        sample = samples.setdefault(labels.get(by, "") if by else "", ScrapedPage())
        add_series(sample, name, labels, value, wanted)
    if not good or (lines and lines[0][:1] == "<"):
        raise ExpositionError("the page holds no metrics")
    return samples


def add_series(
    sample: ScrapedPage, name: str, labels: dict[str, str], value: float, wanted: Collection[str]
) -> None:
    """Put one series into a sample: as a plain one, or as a part of a wanted histogram. Raises ExpositionError."""
    base = _histogram_name(name)
    if base is not None and base in wanted:
        _add_histogram(sample, base, name, labels, value)
    elif name in wanted:
        sample.series.setdefault(name, []).append((labels, value))


def _histogram_name(name: str) -> str | None:
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            return name[: -len(suffix)]
    return None


def _number(text: str) -> float | None:
    """The value; None for NaN, which Prometheus uses for "nothing"."""
    try:
        value = float(text if len(text) <= _MAX_NUMBER else "?")
    except ValueError:
        raise ExpositionError("a value is not a number") from None
    return None if math.isnan(value) else value


def _add_histogram(sample: ScrapedPage, base: str, name: str, labels: dict[str, str], value: float) -> None:
    histogram = sample.histograms.setdefault(base, ScrapedHistogram())
    if name.endswith("_sum"):
        histogram.sum += value
    elif name.endswith("_count"):
        histogram.count += value
    else:
        bound = labels.get("le", "")[:_MAX_NUMBER]
        try:
            upper = float(bound)
        except ValueError:
            raise ExpositionError("a bucket has no bound") from None
        histogram.buckets[upper] = histogram.buckets.get(upper, 0.0) + value
