"""The cases as data: what is sent, what must come back, why, and who says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

__all__ = ["STEPS", "Case", "load_cases"]

STEPS = frozenset({"send", "silent", "want", "reset", "health"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One requirement. Each step is a pair of its kind (one of ``STEPS``) and its argument."""

    name: str
    reason: str
    source: str
    steps: tuple[tuple[str, Any], ...]


def load_cases() -> tuple[Case, ...]:
    """All cases, in the order of the file."""
    text = resources.files(__package__).joinpath("cases.yaml").read_text("utf-8")
    return tuple(_case(entry) for entry in yaml.safe_load(text))


def _case(entry: Mapping[str, Any]) -> Case:
    steps = []
    for step in entry["steps"]:
        ((kind, argument),) = step.items()
        if kind not in STEPS:
            raise ValueError(f"case {entry['name']!r} has a step {kind!r}, which is none of {sorted(STEPS)}")
        steps.append((kind, argument))
    return Case(name=entry["name"], reason=entry["reason"], source=entry["source"], steps=tuple(steps))
