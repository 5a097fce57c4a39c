"""A real Prometheus: Debian's package, unpacked into a cache folder and never installed; no service is started.

First that is there: ``prometheus`` on the path; the cache (``$XDG_CACHE_HOME/inference-rollouts/prometheus``); the
package by ``apt-get download`` and ``dpkg -x``. It starts in a quarter of a second.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from rollouts.lab.cache import cache_folder
from rollouts.lab.processes import ChildProcess, free_port

__all__ = ["Job", "Prometheus", "PrometheusMissingError", "find_prometheus"]

_DOWNLOAD_SECONDS = 120


class PrometheusMissingError(Exception):
    """There is no Prometheus, and none could be had; the text says what to do."""


def find_prometheus(name: str = "prometheus") -> Path:
    """The program ``prometheus`` or ``promtool``, downloaded on the first call. Raises PrometheusMissingError."""
    on_path = shutil.which(name)
    if on_path is not None:
        return Path(on_path)
    cache = cache_folder() / "prometheus"
    if not (cache / "usr" / "bin" / name).is_file():
        _unpack(cache)
    return cache / "usr" / "bin" / name


def _unpack(cache: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise PrometheusMissingError(
            "no prometheus on the path, and no apt-get to download it: install Prometheus"
        )
    cache.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache.parent) as folder:
        if not _run(["apt-get", "download", "prometheus"], folder):
            # An image without package lists; it needs root, and says so.
            _run(["apt-get", "update"], folder)
            _run(["apt-get", "download", "prometheus"], folder)
        packages = sorted(Path(folder).glob("prometheus_*.deb"))
        unpacked = Path(folder) / "unpacked"
        if not packages or not _run(["dpkg", "-x", str(packages[-1]), str(unpacked)], folder):
            raise PrometheusMissingError(
                "`apt-get download prometheus` gave nothing: run `apt-get update`, or install Prometheus"
            )
        if not cache.exists():  # another process may have been faster
            unpacked.rename(cache)


def _run(command: list[str], folder: str) -> bool:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, timeout=_DOWNLOAD_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One scrape job: targets (``host:port``) with their labels. ``relabel`` are rules for what was scraped."""

    name: str
    targets: tuple[tuple[str, Mapping[str, str]], ...]
    relabel: tuple[Mapping[str, Any], ...] = field(default=())


class Prometheus:
    """A server on a loopback port, with its data in ``directory``, which outlives it. Use as a context manager."""

    def __init__(self, directory: Path, *, interval: str = "1s") -> None:
        self.directory = directory
        self._interval = interval
        self._port = free_port()
        self._process: ChildProcess | None = None
        self._jobs: tuple[Job, ...] = ()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Prometheus:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def scrape(self, jobs: Iterable[Job]) -> None:
        """What to scrape from the next start or ``reload`` on."""
        self._jobs = tuple(jobs)
        self.directory.mkdir(parents=True, exist_ok=True)
        config = {
            "global": {"scrape_interval": self._interval, "scrape_timeout": self._interval},
            "scrape_configs": [
                {
                    "job_name": job.name,
                    "static_configs": [
                        {"targets": [target], "labels": dict(labels)} for target, labels in job.targets
                    ],
                    "metric_relabel_configs": [dict(rule) for rule in job.relabel],
                }
                for job in self._jobs
            ],
        }
        (self.directory / "prometheus.yml").write_text(json.dumps(config), encoding="utf-8")

    async def start(self) -> None:
        """Start it and wait until it is ready. Raises PrometheusMissingError, ProcessStartError."""
        command = self._command(f"127.0.0.1:{self._port}")
        if not (self.directory / "prometheus.yml").is_file():
            self.scrape(self._jobs)
        self._process = ChildProcess("prometheus", command, log_path=self.directory / "prometheus.log")
        await self._process.start()
        try:
            async with asyncio.timeout(20), aiohttp.ClientSession() as session:
                while not await self._ready(session):
                    if self._process.returncode is not None:
                        raise self._process.failure("it ended at once")
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise self._process.failure("it was not ready in time") from None

    def _command(self, address: str) -> list[str]:
        return [
            str(find_prometheus()),
            f"--config.file={self.directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.directory / 'data'}",
            f"--web.listen-address={address}",
            "--web.enable-lifecycle",
            "--log.level=warn",
        ]

    async def _ready(self, session: aiohttp.ClientSession) -> bool:
        try:
            async with session.get(f"{self.url}/-/ready") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def reload(self) -> None:
        """Take the new configuration without losing anything."""
        async with aiohttp.ClientSession() as session, session.post(f"{self.url}/-/reload") as answer:
            answer.raise_for_status()

    async def stop(self) -> None:
        """SIGTERM; what it has is kept for the next start."""
        if self._process is not None:
            await self._process.stop(grace=10)
            self._process = None
