"""``make peers``: both scenarios, good and bad, and pickers behind TLS, on a real istiod.

Upstream Envoy is its data plane.

    python -m benchmarks.peers.run [STORY ...]

istiod is built from its Go module (once). Everything runs in a network namespace of its own, whose loopback device has
addresses of 192.0.2.0/24 (RFC 5737): EndpointSlices refuse 127/8. It needs `unshare` and `ip`, Go and Envoy.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.peers.istio import IstioLab
from benchmarks.peers.istiod import ISTIOD
from benchmarks.peers.tls import tell_tls
from rollouts.cli.lab import configure_logs_to
from rollouts.lab.controlplane import Choice
from rollouts.lab.environment import base_model_pods
from rollouts.lab.loopback import OTHER_NETWORK
from rollouts.lab.processes import ProcessStartError
from rollouts.lab.story import tell_base_model
from rollouts.lab.story_lora import tell_lora
from rollouts.lab.telling import StoryFailed
from tools.gopickers.build import build

__all__ = ["main"]

_NETWORK = "192.0.2"
_STORIES = {
    "base-model": (tell_base_model, False),
    "base-model --bad": (tell_base_model, True),
    "lora": (tell_lora, False),
    "lora --bad": (tell_lora, True),
    "tls": (tell_tls, False),
}


def _enter_namespace() -> None:
    """Start again in a network namespace of our own. Does not return."""
    missing = [tool for tool in ("unshare", "ip") if shutil.which(tool) is None]
    if missing:
        raise click.ClickException(f"{' and '.join(missing)} not found: install util-linux and iproute2")
    command = ["unshare", "--net", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    again = [*command, sys.executable, "-m", "benchmarks.peers.run", *sys.argv[1:]]
    os.execvpe(again[0], again, {**os.environ, OTHER_NETWORK: _NETWORK})


def _addresses() -> None:
    lines = ["link set lo up", *(f"addr add {_NETWORK}.{host}/32 dev lo" for host in range(1, 255))]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True, timeout=30)


async def _tell(name: str, directory: Path, console: Console) -> str:
    """What came of a story: "as promised", or how it ended."""
    tell, bad = _STORIES[name]
    lab = IstioLab(
        directory,
        choice=Choice.REAL,
        pods=base_model_pods(canary=0) if name.startswith("lora") else base_model_pods(),
        say=console.print,
    )
    lab.istiod = ISTIOD.target
    try:
        async with lab:
            await tell(lab, console, bad=bad)
    except (StoryFailed, ProcessStartError, TimeoutError) as failure:
        return f"{type(failure).__name__}: {failure}"
    return "as promised"


@click.command()
@click.argument("stories", nargs=-1, type=click.Choice(list(_STORIES)))
def main(stories: tuple[str, ...]) -> None:
    """Tell STORIES, all of them by default, and print a table. Exit status 1 where one ended otherwise."""
    build(ISTIOD, click.echo)
    if os.environ.get(OTHER_NETWORK) is None:
        _enter_namespace()
    _addresses()
    console, folder = Console(highlight=False), Path(tempfile.mkdtemp(prefix="peers-"))
    table = Table("story", "seconds", "result", title=f"istiod {ISTIOD.version}")
    ended = []
    for name in stories or tuple(_STORIES):
        directory = folder / name.replace(" ", "")
        directory.mkdir()
        configure_logs_to(directory / "lab.log")
        begun = time.monotonic()
        ended.append(asyncio.run(_tell(name, directory, console)))
        table.add_row(name, f"{time.monotonic() - begun:.0f}", ended[-1])
    console.print(table)
    console.print(f"logs: {folder}")
    sys.exit(0 if set(ended) == {"as promised"} else 1)


if __name__ == "__main__":
    main()
