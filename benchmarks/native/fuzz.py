"""Compares the bytes side of the picker in Rust with Python's on random and hostile input.

    python -m benchmarks.native.fuzz --count 10000000 --seed 2026

Stops at the first difference and prints the case. ``--count`` is of all kinds together; a seed repeats its run.
"""

from __future__ import annotations

import logging
import random
import time

import click

from tests.kit.native_bytes import KINDS, Difference, check, door

# Kinds by how much there is to get wrong; codings cost a hundred times as much as the others.
_SHARES = {"scan": 30, "read": 20, "form": 12, "measure": 10, "message": 10, "restore": 5, "transcode": 5}


@click.command()
@click.option("--count", default=100_000, show_default=True, help="Number of cases, of all kinds together.")
@click.option("--seed", default=1, show_default=True, help="Seed of the generator.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(sorted(KINDS)), help="Only these kinds.")
def main(count: int, seed: int, kinds: tuple[str, ...]) -> None:
    """Compare COUNT cases; the exit code is 1 at the first difference."""
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # a line for each bad form
    native, started = door(), time.monotonic()
    chosen = kinds or tuple(KINDS)
    whole = sum(_SHARES.get(kind, 1) for kind in chosen)
    done = 0
    for kind in chosen:
        number = max(1, count * _SHARES.get(kind, 1) // whole)
        for index in range(number):
            try:
                check(kind, random.Random(f"{seed} {kind} {index}"), native)
            except Difference as difference:
                raise click.ClickException(f"case {index}: {difference}") from None
        done += number
        click.echo(f"{kind}: {number} cases, 0 differences")
    click.echo(f"cases {done} seed {seed}: 0 differences, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
