"""Compares the bytes side of the picker in Rust with Python's on random and hostile input.

    python -m benchmarks.native.fuzz --count 10000000 --seed 2026 --processes 2

Stops at the first difference and prints the case. ``--count`` is of all kinds together; a seed repeats its run with any
number of processes. Each block of cases has all kinds in it, so that a bug shows early whatever it is in.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from functools import partial

import click

from benchmarks.native.blocks import dealt
from tests.kit.native_bytes import KINDS, Difference, check, door

__all__ = ["CASES", "block"]

# Kinds by how much there is to get wrong, and by what a case costs: one of a coding as much as six of a scan.
_SHARES = {
    "scan": 25, "form": 15, "measure": 15, "read": 12, "message": 12, "restore": 10, "transcode": 8, "reply": 2,
}  # fmt: skip
CASES = 5 * sum(_SHARES.get(kind, 1) for kind in KINDS)
"""Cases of a block of all kinds."""


def block(number: int, *, seed: int, kinds: tuple[str, ...] = tuple(KINDS)) -> Counter[str]:
    """Compare the cases of one block; how many there were of each kind. Raises Difference."""
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # a line for each bad form
    native, done = door(), Counter[str]()
    for kind in kinds:
        cases = 5 * _SHARES.get(kind, 1)
        for index in range(number * cases, (number + 1) * cases):
            try:
                check(kind, random.Random(f"{seed} {kind} {index}"), native)
            except Difference as difference:
                difference.add_note(f"case {index} of {kind}, seed {seed}")
                raise
        done[kind] += cases
    return done


@click.command()
@click.option("--count", default=100_000, show_default=True, help="Number of cases, of all kinds together.")
@click.option("--seed", default=1, show_default=True, help="Seed of the generator.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(sorted(KINDS)), help="Only these kinds.")
@click.option("--processes", default=1, show_default=True, help="Processes that share the cases.")
def main(count: int, seed: int, kinds: tuple[str, ...], processes: int) -> None:
    """Compare COUNT cases, in whole blocks; the exit code is 1 at the first difference."""
    begun, done = time.monotonic(), Counter[str]()
    chosen = kinds or tuple(KINDS)
    blocks = -(-count // (5 * sum(_SHARES.get(kind, 1) for kind in chosen)))
    try:
        for cases in dealt(partial(block, seed=seed, kinds=chosen), blocks, processes):
            done += cases
    except Difference as difference:
        raise click.ClickException("\n".join((str(difference), *difference.__notes__))) from None
    for kind, cases in done.most_common():
        click.echo(f"  {kind}: {cases}")
    click.echo(f"cases {done.total()} seed {seed}: 0 differences, {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
