"""Child processes: output kept, stopped cleanly, and gone when their parent is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rollouts.lab.processes import ChildProcess, free_port, port_is_free
from tests.kit.polling import eventually

FOREVER = "import signal; print('up', flush=True); signal.pause()"


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(") ")[2][0] != "Z"


async def test_the_output_is_kept_and_shown_on_failure(tmp_path: Path) -> None:
    child = ChildProcess(
        "child", [sys.executable, "-c", "print('it broke')"], log_path=tmp_path / "a/child.log"
    )
    await child.start()

    assert await child.wait() == 0
    assert "it broke" in str(child.failure("ended"))


async def test_stop_ends_it_and_can_be_repeated(tmp_path: Path) -> None:
    child = ChildProcess("child", [sys.executable, "-c", FOREVER], log_path=tmp_path / "log")
    await child.start()
    await child.stop()
    await child.stop()

    assert child.returncode == -signal.SIGTERM


async def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    code = f"{ignore}; print('up', flush=True); signal.pause()"
    child = ChildProcess("child", [sys.executable, "-c", code], log_path=tmp_path / "log")
    await child.start()
    await eventually(lambda: "up" in child.log_path.read_text())
    await child.stop(grace=0.1)

    assert child.returncode == -signal.SIGKILL


async def test_a_child_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    parent = f"""
import asyncio, pathlib, sys
from rollouts.lab.processes import ChildProcess
async def main():
    program, log = [sys.executable, "-c", {FOREVER!r}], pathlib.Path({str(tmp_path)!r}) / "log"
    child = ChildProcess("child", program, log_path=log)
    await child.start()
    print(child.pid, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""
    with subprocess.Popen(  # noqa: ASYNC220  # the test is about a process tree, not about the loop
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, b"")
        pid = int(next(line for line in lines if line.strip().isdigit()))
        # Before that it is the launcher, which notices the death of its parent by another way.
        await eventually(lambda: "up" in (tmp_path / "log").read_text())
        assert alive(pid)
        os.kill(process.pid, signal.SIGKILL)

    assert await eventually(lambda: not alive(pid))


async def test_a_child_that_was_not_started_says_so(tmp_path: Path) -> None:
    child = ChildProcess("child", ["/bin/true"], log_path=tmp_path / "log")
    with pytest.raises(RuntimeError, match="call start"):
        await child.wait()


def test_a_port_that_is_listened_on_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not port_is_free(server.getsockname()[1])
    assert port_is_free(free_port())
