"""Benchmarks run by hand: a name that moved is noticed here, before somebody needs a figure."""

from __future__ import annotations

import importlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_benchmark_can_be_imported() -> None:
    files = sorted((ROOT / "benchmarks").rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    broken = {}
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            broken[name] = str(error)

    assert len(names) > 20
    assert broken == {}
