"""A picker in a process of its own, and what the kernel says of its memory."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PATHS", "Running", "memory", "running"]

PATHS = ("python", "native")
OBJECTS = Path(__file__).with_name("objects.yaml")


@dataclass(frozen=True, slots=True)
class Running:
    """Its port for gRPC, its metrics port and its process."""

    port: int
    metrics_port: int
    pid: int


def memory(pid: int, field: str) -> float:
    """MiB of ``VmRSS`` (now) or ``VmHWM`` (at most so far)."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    data_path: str,
    *,
    limit: int,
    request_timeout: float = 120.0,
    objects: Path = OBJECTS,
    secure: bool = False,
) -> Iterator[Running]:
    """One with a memory limit in bytes, without TLS unless ``secure``; ended afterwards."""
    port, metrics = _free_port(), _free_port()
    command = [sys.executable, "-m", "rollouts.picker", "--pool=default/mymodel-pool-v1"]
    command += [f"--objects={objects}", "--no-scrape", f"--data-path={data_path}"]
    command += [] if secure else ["--no-secure-serving"]
    command += [f"--grpc-address=127.0.0.1:{port}", f"--metrics-address=127.0.0.1:{metrics}"]
    command += [f"--memory-limit={limit}", f"--request-timeout={request_timeout}", "--drain-grace=0"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield Running(port, metrics, process.pid)
        finally:
            process.terminate()
            process.wait(30)
