"""Syntax trees of our own source files, for tests that look at how something is written."""

from __future__ import annotations

import ast
import gc
from pathlib import Path

__all__ = ["syntax_tree"]


def syntax_tree(path: Path) -> ast.Module:
    """The module's tree. No garbage is collected meanwhile: a finalizer that runs in between makes CPython 3.11 raise
    SystemError (recursion depth mismatch, python/cpython issue 106905)."""
    was = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    finally:
        if was:
            gc.enable()
