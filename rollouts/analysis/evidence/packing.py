"""Single-precision sums and their compact text for the checkpoint.

Sums that only shape the noise estimate or mark where a restart began are kept in single precision (relative
error 6e-8 per addition): the state is then half as large, and what is stored is exactly what is in memory.
"""

import math
import sys
from array import array
from collections.abc import Iterable
from typing import Any

from rollouts.analysis.evidence.collect import Interval, PodIncrement, SeriesInterval
from rollouts.analysis.evidence.vectors import whole

__all__ = ["dump_interval", "load_interval", "pack", "single", "unpack"]


def single(values: Iterable[float]) -> "array[float]":
    """Values rounded to single precision."""
    return array("f", values)


def pack(values: "array[float]") -> str:
    """Hexadecimal little-endian floats, byte planes one after the other so that exponents compress."""
    ordered = array("f", values)
    if sys.byteorder == "big":
        ordered.byteswap()
    data = ordered.tobytes()
    return b"".join(data[plane::4] for plane in range(4)).hex()


def unpack(text: str) -> "array[float]":
    """Inverse of `pack`."""
    data = bytes.fromhex(text)
    count = len(data) // 4
    ordered = array("f")
    ordered.frombytes(bytes(data[plane * count + i] for i in range(count) for plane in range(4)))
    if sys.byteorder == "big":
        ordered.byteswap()
    return ordered


def dump_interval(interval: Interval) -> list[object]:
    """Plain values of an interval that waits to be judged."""

    def rows(increments: list[PodIncrement]) -> list[object]:
        return [[r.pod, r.members, [whole(v) for v in r.values]] for r in increments]

    bounds = [["inf" if math.isinf(b) else b for b in row] for row in interval.bounds]
    series = [[rows(s.stable), rows(s.canary)] for s in interval.series]
    return [interval.start, interval.end, bounds, [list(pair) for pair in interval.gone], series]


def load_interval(raw: Any) -> Interval:
    """Inverse of `dump_interval`."""

    def rows(increments: Any) -> list[PodIncrement]:
        return [
            PodIncrement(p, m, [math.nan if v is None else float(v) for v in vs]) for p, m, vs in increments
        ]

    start, end, bounds, gone, series = raw
    return Interval(
        start,
        end,
        [SeriesInterval(rows(stable), rows(canary)) for stable, canary in series],
        [tuple(math.inf if b == "inf" else b for b in row) for row in bounds],
        [(arm, pod) for arm, pod in gone],
    )
