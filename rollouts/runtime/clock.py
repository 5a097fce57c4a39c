"""Time, in one place: wall time for what people and the API see, monotonic time for what waits.

The two are different types on purpose: a pause is measured in wall time, because it must survive a
restart; a lease or a back-off is measured in monotonic time, because the wall clock jumps.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import NewType, Protocol

__all__ = ["Clock", "Monotonic", "SystemClock"]

Monotonic = NewType("Monotonic", float)


class Clock(Protocol):
    """Source of time. Tests hand in a virtual one."""

    def now(self) -> datetime:
        """Wall time, timezone-aware, UTC."""
        ...

    def monotonic(self) -> Monotonic:
        """Seconds that never go back and do not jump."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for ``seconds`` of monotonic time."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        """Wall time in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> Monotonic:
        """CLOCK_MONOTONIC in seconds."""
        return Monotonic(time.monotonic())

    async def sleep(self, seconds: float) -> None:
        """``asyncio.sleep``."""
        await asyncio.sleep(seconds)
