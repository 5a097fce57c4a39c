"""The VictoriaMetrics that `tools/victoriametrics` pins, built once like the Go pickers: a server like Prometheus."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rollouts.lab.prometheus import Prometheus
from tools.gopickers.build import GoPicker

__all__ = ["VICTORIA_METRICS", "VictoriaMetrics"]

_MODULE = Path(__file__).resolve().parents[2] / "tools" / "victoriametrics"


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
