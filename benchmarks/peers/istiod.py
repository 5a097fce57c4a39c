"""The istiod that `tools/istio` pins, built once like the Go pickers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tools.gopickers.build import GoPicker

__all__ = ["ISTIOD"]

_MODULE = Path(__file__).resolve().parents[2] / "tools" / "istio"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Istiod(GoPicker):
    """Of another module, elsewhere."""

    @property
    def module(self) -> Path:
        """The folder of the go.mod that pins it."""
        return _MODULE

    @property
    def package(self) -> str:
        """What ``go build`` is given."""
        return "istio.io/istio/pilot/cmd/pilot-discovery"


ISTIOD = _Istiod(
    name="pilot-discovery",
    version="of 27 August 2026",
    note="Istio tags no Go modules: the module proxy has this commit of its main branch.",
)
