"""Garbage collection for a process that keeps a large cache of plain objects for its whole life.

CPython looks for cycles whenever 700 more containers were made than freed; parsing one API object makes a few
hundred. Nearly all garbage here is freed by reference counting, so that these looks find next to nothing and cost a
seventh of the CPU. Rarer looks still find the cycles that exceptions and tasks leave behind.
"""

from __future__ import annotations

import gc

__all__ = ["THRESHOLDS", "relax_collection"]

THRESHOLDS = (20_000, 20, 50)
"""Net new containers until a young collection (a few MB), young ones until a middle one, those until a full one."""


def relax_collection() -> None:
    """Set what was imported aside for good, and collect less often. Call once, before work begins."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
