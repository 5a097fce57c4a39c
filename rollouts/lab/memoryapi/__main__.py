"""``python -m rollouts.lab.memoryapi``: run the in-memory API server until it is interrupted."""

from __future__ import annotations

import asyncio
import signal

import click

from rollouts.lab.kubeconfig import write_kubeconfig
from rollouts.lab.memoryapi.server import MemoryApiServer
from rollouts.lab.memoryapi.store import LIMITS, MemoryApi

__all__ = ["main"]


async def _serve(port: int, kubeconfig: str, token: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    async with MemoryApiServer(MemoryApi(), port=port, token=token) as server:
        if kubeconfig:
            write_kubeconfig(kubeconfig, server=server.url, token=token)
        click.echo(f"{server.url}  ({LIMITS})")
        await stop.wait()


@click.command()
@click.option("--port", default=0, show_default="a free one", help="Port on 127.0.0.1.")
@click.option("--kubeconfig", default="", help="Write a kubeconfig to this file.")
@click.option("--token", default="", help="Bearer token to demand; none by default.")
def main(port: int, kubeconfig: str, token: str) -> None:
    """Run an API server in memory, for kubectl and the lab."""
    asyncio.run(_serve(port, kubeconfig, token))


if __name__ == "__main__":
    main()
