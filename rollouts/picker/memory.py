"""How much of the container's memory limit may hold unfinished request bodies.

The limit is what the kernel enforces (cgroup v2 ``memory.max``, v1 ``memory.limit_in_bytes``), or what the command
line says: the chart passes the container's own limit on. Measured by ``python -m benchmarks.picker.uploads``: the
process takes 90 MB without any body, gRPC's buffers and the allocator's slack about half as much again as is held.
"""

from __future__ import annotations

from pathlib import Path

from rollouts.picker.core.ports import BufferBudget

__all__ = ["DEFAULT_LIMIT", "budget_of", "memory_limit"]

DEFAULT_LIMIT = 512 << 20
"""The chart's default, for a process that has none: a picker holds what it would there."""

_BASE = 128 << 20
"""The process itself, with room for the figures of many pods and models."""

_HELD_SHARE = 0.5
_LEAST = 8 << 20
"""Below this not even chat requests with one picture pass; such a limit is an error of the one who set it."""

_FILES = ("memory.max", "memory/memory.limit_in_bytes")
_UNLIMITED = 1 << 50
"""Version 1 says "no limit" by a number close to 2^63."""


def memory_limit(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that the container may use; None where nothing limits it."""
    for name in _FILES:
        try:
            text = (root / name).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if text.isdigit() and 0 < int(text) < _UNLIMITED:
            return int(text)
    return None


def budget_of(limit: int) -> BufferBudget:
    """Half of what the limit leaves beside the process itself. Raises ValueError when that is too little."""
    held = int((limit - _BASE) * _HELD_SHARE)
    if held < _LEAST:
        least = (_BASE + int(_LEAST / _HELD_SHARE)) >> 20
        raise ValueError(
            f"a memory limit of {limit >> 20} MiB leaves no room for request bodies: give at least {least} MiB"
        )
    budget = BufferBudget(total_limit=held)
    budget.body_limit = min(budget.body_limit, budget.large_limit)  # one that would never fit is told so
    return budget
