"""The chart's copy of the CRDs: Helm reads nothing outside of a chart, so ``crds/`` is copied into it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rollouts.api.crds import crd_files

__all__ = ["chart_crds"]

_FOLDER = Path(__file__).resolve().parent.parent / "charts" / "inference-rollouts" / "crds"


def chart_crds() -> Iterator[tuple[Path, str]]:
    """Path and text of each CRD in the chart."""
    for name, text in crd_files():
        # `helm show crds` joins the files as they are.
        yield _FOLDER / name, f"---\n{text}"
