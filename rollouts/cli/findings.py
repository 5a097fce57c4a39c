"""What ``doctor`` finds: a sentence, how bad it is, what to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Check", "Level", "bad", "fine", "warn"]


class Level(Enum):
    """BAD keeps rollouts from working; WARN works until something happens."""

    FINE = "ok"
    WARN = "warning"
    BAD = "problem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    level: Level
    text: str
    fix: str = ""


def fine(text: str) -> Check:
    """Nothing to do."""
    return Check(level=Level.FINE, text=text)


def warn(text: str, fix: str) -> Check:
    """Works until something happens."""
    return Check(level=Level.WARN, text=text, fix=fix)


def bad(text: str, fix: str) -> Check:
    """Keeps rollouts from working."""
    return Check(level=Level.BAD, text=text, fix=fix)
