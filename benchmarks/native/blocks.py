"""Long comparisons in blocks that are made from the run's seed and their own number: any process may take any block."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import click

__all__ = ["dealt"]

T = TypeVar("T")
_TOLD = 20
"""Times that a run says how far it is."""


def dealt(work: Callable[[int], T], blocks: int, processes: int) -> Iterator[T]:
    """What ``work`` gives for each number below ``blocks``, in no order; how far it is goes to stderr.

    ``work`` must be picklable, and so must what it raises, which ends all processes.
    """
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        results: Iterable[T] = map(work, range(blocks))
        if processes > 1:
            pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(processes))
            results = pool.imap_unordered(work, range(blocks))
        for done, result in enumerate(results, 1):
            yield result
            if done * _TOLD // blocks > (done - 1) * _TOLD // blocks:
                click.echo(f"{done} of {blocks} blocks, {time.monotonic() - begun:.0f} s", err=True)
