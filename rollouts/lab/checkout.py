"""What the lab takes from a checkout of the project, since a wheel does not have it; imports nothing."""

from __future__ import annotations

from pathlib import Path

__all__ = ["EXAMPLES"]

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
"""The manifests that the lab starts with and its stories apply."""
