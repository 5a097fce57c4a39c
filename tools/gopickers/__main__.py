"""``python -m tools.gopickers build|check|serve``: the Go pickers of the Gateway API Inference Extension."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from pathlib import Path

import click

from rollouts.lab.processes import ProcessStartError
from tools.gopickers.build import PICKERS, GoPickerError, built
from tools.gopickers.build import build as build_picker
from tools.gopickers.comparison import PATH, compare
from tools.gopickers.serving import serve_beside

__all__ = ["main"]


@click.group()
def main() -> None:
    """The lightweight and the full endpoint picker of the Gateway API Inference Extension."""


@main.command()
def build() -> None:
    """Build both (about 6 minutes on 2 cores, once); nothing when they are there."""
    try:
        for picker in PICKERS:
            click.echo(build_picker(picker, click.echo))
    except GoPickerError as error:
        sys.exit(f"error: {error}")


@main.command()
@click.option("--write/--no-write", default=False, help=f"Write the result to {PATH.name}.")
def check(write: bool) -> None:
    """Run the conformance kit on ours and on theirs, and print the table as Markdown."""
    missing = [picker.name for picker in PICKERS if built(picker) is None]
    if missing:
        click.echo(
            f"NOT CHECKED, not built: {', '.join(missing)} (python -m tools.gopickers build)", err=True
        )
    if missing and write:
        sys.exit(f"error: {PATH.name} is about all pickers and is left as it is")
    try:
        text = asyncio.run(compare())
    except (GoPickerError, ProcessStartError) as error:
        sys.exit(f"error: {error}")
    if write:
        PATH.write_text(text, encoding="utf-8")
    click.echo(text)


async def _serve(directory: Path) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serve_beside([picker for picker in PICKERS if built(picker)], directory) as served:
        for one in served:
            click.echo(f"--also {one.picker.name}={one.address}={one.pid}")
        await stop.wait()


@main.command()
def serve() -> None:
    """Run those that are built on an API server of their own, until interrupted; plaintext HTTP/2."""
    with tempfile.TemporaryDirectory(prefix="gopickers-") as folder:
        try:
            asyncio.run(_serve(Path(folder)))
        except (GoPickerError, ProcessStartError) as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
