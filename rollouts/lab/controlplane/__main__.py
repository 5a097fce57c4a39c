"""``python -m rollouts.lab.controlplane``: build the binaries, or run a control plane."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from pathlib import Path

import click

from rollouts.lab.controlplane.build import binaries_directory
from rollouts.lab.controlplane.build import build as build_binaries
from rollouts.lab.controlplane.errors import ControlPlaneError
from rollouts.lab.controlplane.select import Choice, ControlPlane

__all__ = ["main"]


@click.group()
def main() -> None:
    """A real kube-apiserver and etcd for the lab and the tests."""


@main.command()
def build() -> None:
    """Build the four programs of a control plane (minutes on 2 cores, once); nothing when they are there."""
    try:
        build_binaries(click.echo)
    except ControlPlaneError as error:
        sys.exit(f"error: {error}")


@main.command()
def where() -> None:
    """Print the folder of the binaries."""
    try:
        click.echo(binaries_directory())
    except ControlPlaneError as error:
        sys.exit(f"error: {error}")


async def _run(choice: Choice, directory: Path, *, controllers: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    async with ControlPlane(directory, choice=choice, say=click.echo) as plane:
        if controllers:
            await plane.start_controllers()
        click.echo(f"{plane.description}\nexport KUBECONFIG={plane.kubeconfig}")
        await stop.wait()


@main.command()
@click.option("--choice", type=click.Choice([item.value for item in Choice]), default=Choice.REAL.value)
@click.option("--directory", type=click.Path(path_type=Path), help="Data, logs, kubeconfig; a new one.")
@click.option("--controllers/--no-controllers", default=False, show_default=True)
def run(choice: str, directory: Path | None, controllers: bool) -> None:
    """Run a control plane until it is interrupted."""
    folder = directory or Path(tempfile.mkdtemp(prefix="controlplane-"))
    try:
        asyncio.run(_run(Choice(choice), folder, controllers=controllers))
    except ControlPlaneError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
