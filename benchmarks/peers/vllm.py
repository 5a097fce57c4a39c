"""The second part of ``make peers``: rollouts over real vLLM servers on the CPU, and what such a server answers.

    python -m benchmarks.peers.vllm [--record] [STORY ...]

vLLM's CPU build is installed once (6 GB on the disk). The model is made on the spot; no network is needed afterwards.
``--record`` writes what the server answered where the tests read it.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks.peers.vllm_cpu.exchanges import record
from benchmarks.peers.vllm_cpu.install import VERSION, VllmInstallError, vllm_python
from benchmarks.peers.vllm_cpu.model import write_adapter, write_model
from benchmarks.peers.vllm_cpu.server import MAX_LORA_RANK, RealFleet, RealVllm
from benchmarks.peers.vllm_cpu.stories import (
    CANARY,
    STABLE,
    tell_abort,
    tell_crash,
    tell_good,
    tell_hang,
    tell_load_fails,
    tell_refusals,
)
from rollouts.cli.lab import configure_logs_to
from rollouts.lab.environment import Lab, base_model_pods
from rollouts.lab.processes import ProcessStartError
from rollouts.lab.telling import StoryFailed

__all__ = ["main"]

_RECORDED = Path(__file__).resolve().parents[2] / "tests" / "peers" / "servers" / f"vllm-{VERSION}"
_ANSWERS = "answers"
_Story = Callable[[Lab, Console], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cast:
    """Servers that some stories share, in the order in which they are told."""

    stories: dict[str, _Story | None]
    servers: tuple[str, ...]
    options: tuple[str, ...] = ()
    """Of the canary's server."""


_CASTS = (
    _Cast(
        stories={_ANSWERS: None, "adapter": tell_abort, "adapter too large": tell_load_fails},
        servers=(STABLE,),
    ),
    # The last one leaves no canary behind.
    _Cast(stories={"good": tell_good, "hang": tell_hang, "crash": tell_crash}, servers=(STABLE, CANARY)),
    _Cast(
        stories={"refusals": tell_refusals},
        servers=(STABLE, CANARY),
        options=("--max-num-seqs", "1", "--max-num-queued-reqs", "1"),
    ),
)
_STORIES = [name for cast in _CASTS for name in cast.stories]


def _files(folder: Path) -> None:
    write_model(folder / "model")
    for name, rank, seed in (("v1", 4, 1), ("v2", 4, 2), ("large", 2 * MAX_LORA_RANK, 3)):
        write_adapter(folder / "adapters" / name, rank=rank, seed=seed)
    (folder / "adapters" / "empty").mkdir()


@asynccontextmanager
async def _servers(python: Path, folder: Path, cast: _Cast) -> AsyncIterator[RealFleet]:
    specs = {spec.name: replace(spec, max_loras=2) for spec in base_model_pods(stable=1, canary=1)}
    fleet = RealFleet(
        folder,
        [
            RealVllm(python, specs[name], folder, options=cast.options if name == CANARY else ())
            for name in cast.servers
        ],
    )
    try:
        await fleet.begin()
        yield fleet
    finally:
        await fleet.end()


async def _tell(story: _Story, fleet: RealFleet, directory: Path, console: Console) -> str:
    """What came of a story: "as promised", or how it ended."""
    lab = Lab(directory, pods=[server.spec for server in fleet.pods.values()], say=console.print)
    lab.fleet = fleet  # type: ignore[assignment]  # what the lab uses of a fleet it has
    try:
        async with lab:
            await story(lab, console)
    except (StoryFailed, ProcessStartError, TimeoutError) as failure:
        return f"{type(failure).__name__}: {failure}"
    return "as promised"


async def _answers(fleet: RealFleet, *, write: bool) -> str:
    """Whether it answers as recorded, but for the texts of good answers."""
    found, page = await record(fleet.pods[STABLE].url, fleet.folder)
    if write:
        _RECORDED.mkdir(exist_ok=True)
        (_RECORDED / "exchanges.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        (_RECORDED / "metrics.txt").write_text(page, "utf-8")
    known = json.loads((_RECORDED / "exchanges.json").read_text("utf-8"))
    compared = ("name", "status", "media")
    other = [
        new["name"]
        for new, old in zip(found, known, strict=False)
        if any(new[key] != old[key] for key in compared)
        or (new["status"] >= 400 and new["answer"] != old["answer"])
    ]
    if other or len(found) != len(known):
        return f"{len(other)} of {len(found)} answers are not as recorded: {', '.join(other)}"
    return "as promised"


async def _play(python: Path, folder: Path, wanted: list[str], table: Table, *, write: bool) -> set[str]:
    console, ended = Console(highlight=False), []
    for cast in _CASTS:
        told = [name for name in cast.stories if name in wanted]
        if not told:
            continue
        console.print(f"starting {len(cast.servers)} servers: a minute or two")
        begun = time.monotonic()
        async with _servers(python, folder, cast) as fleet:
            table.add_row(f"start of {len(cast.servers)} servers", f"{time.monotonic() - begun:.0f}", "")
            for name in told:
                directory = folder / name.replace(" ", "-")
                directory.mkdir()
                configure_logs_to(directory / "lab.log")
                console.rule(name, align="left")
                begun, story = time.monotonic(), cast.stories[name]
                if story is None:
                    ended.append(await _answers(fleet, write=write))
                else:
                    ended.append(await _tell(story, fleet, directory, console))
                table.add_row(name, f"{time.monotonic() - begun:.0f}", ended[-1])
    return set(ended)


async def _until_ended(work: Coroutine[Any, Any, set[str]]) -> set[str]:
    """End the servers on SIGTERM, too: an engine core whose API server was killed lives on."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


@click.command()
@click.option("--record", "write", is_flag=True, help="Write what it answered into tests/peers.")
@click.argument("stories", nargs=-1, type=click.Choice(_STORIES))
def main(stories: tuple[str, ...], write: bool) -> None:
    """Tell STORIES, all of them by default, and print a table. Exit status 1 where one ended otherwise."""
    try:
        python = vllm_python(click.echo)
    except VllmInstallError as error:
        raise click.ClickException(str(error)) from None
    folder = Path(tempfile.mkdtemp(prefix="vllm-"))
    _files(folder)
    table = Table("story", "seconds", "result", title=f"vLLM {VERSION} on the CPU")
    ended = asyncio.run(_until_ended(_play(python, folder, list(stories or _STORIES), table, write=write)))
    console = Console(highlight=False)
    console.print(table)
    console.print(f"logs: {folder}")
    sys.exit(0 if ended == {"as promised"} else 1)


if __name__ == "__main__":
    main()
