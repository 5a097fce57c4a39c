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

# On Linux CLOCK_MONOTONIC stands still while the machine is suspended, and a lease does not: a laptop or a
# virtual machine that wakes would believe that its lease is still fresh. CLOCK_BOOTTIME counts that time.
_MONOTONIC_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


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
        """Seconds since boot, time in suspension included."""
        return Monotonic(time.clock_gettime(_MONOTONIC_CLOCK))

    async def sleep(self, seconds: float) -> None:
        """``asyncio.sleep``."""
        await asyncio.sleep(seconds)
