"""The command line: ``rollouts``, also installed as the kubectl plugin ``kubectl rollouts``."""

from __future__ import annotations

from rollouts.cli.main import main

__all__ = ["main"]
