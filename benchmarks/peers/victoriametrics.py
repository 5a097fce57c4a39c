"""The VictoriaMetrics that `tools/victoriametrics` pins, built once like the Go pickers: a server like Prometheus.

    python -m benchmarks.peers.victoriametrics

builds it, lets ``tests/prometheus`` ask it what it asks Prometheus, and records what it answers in words of its own in
``tests/peers/recorded/victoriametrics.json``, which CI reads.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import click

from rollouts.lab.prometheus import Prometheus
from tools.gopickers.build import GoPicker, build

__all__ = ["VICTORIA_METRICS", "VictoriaMetrics"]

_ROOT = Path(__file__).resolve().parents[2]
_MODULE = _ROOT / "tools" / "victoriametrics"
_RECORDED = _ROOT / "tests" / "peers" / "recorded" / "victoriametrics.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Program(GoPicker):
    """Of another module, elsewhere."""

    @property
    def module(self) -> Path:
        """The folder of the go.mod that pins it."""
        return _MODULE

    @property
    def package(self) -> str:
        """What ``go build`` is given."""
        return "github.com/VictoriaMetrics/VictoriaMetrics/app/victoria-metrics"


VICTORIA_METRICS = _Program(name="victoria-metrics", version="v1.148.9", note="The single-node server.")


class VictoriaMetrics(Prometheus):
    """The server with its own scraper, which takes Prometheus' configuration. All flags are as it comes."""

    def _command(self, address: str) -> list[str]:
        return [
            str(VICTORIA_METRICS.target),
            f"-promscrape.config={self.directory / 'prometheus.yml'}",
            f"-storageDataPath={self.directory / 'data'}",
            f"-httpListenAddr={address}",
            "-memory.allowedPercent=10",
            "-loggerLevel=WARN",
        ]


_ASKED: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "no PromQL": ("query", {"query": "sum(rate(x[5m]"}),
    "no function": ("query", {"query": "nofunc(x)"}),
    "too long": ("query", {"query": "1+" + "1" * 16 * 1024}),
    "now": ("query", {"query": "time()"}),
    "now, nocache": ("query", {"query": "time()", "nocache": "1"}),
    "parse_query": ("parse_query", {"query": "sum(x"}),
}


async def _record() -> dict[str, dict[str, Any]]:
    """Status and body of each."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        async with VictoriaMetrics(Path(folder)) as server, aiohttp.ClientSession() as session:
            for name, (path, words) in _ASKED.items():
                sent = {**words, "time": f"{time.time():.3f}"}
                async with session.post(f"{server.url}/api/v1/{path}", data=sent) as answer:
                    found[name] = {"status": answer.status, "body": await answer.text()}
    return found


@click.command()
def main() -> None:
    """Build, record, test. Exit status 1 where a test fails."""
    build(VICTORIA_METRICS, click.echo)
    _RECORDED.write_text(json.dumps(asyncio.run(_record()), indent=1) + "\n", encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "tests/prometheus",
        "-m",
        "full",
        "-k",
        "victoria_metrics",
    ]
    sys.exit(subprocess.run(command, cwd=_ROOT, check=False).returncode)


if __name__ == "__main__":
    main()
