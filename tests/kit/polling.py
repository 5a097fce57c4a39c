"""Waiting for something that other processes do: look often, give up in time, never a fixed sleep."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar

__all__ = ["eventually"]

T = TypeVar("T")


async def eventually(
    look: Callable[[], T | Awaitable[T]], *, timeout: float = 10.0, every: float = 0.005
) -> T:
    """The first true result of ``look``, which is called ``every`` so many seconds. Raises TimeoutError."""
    async with asyncio.timeout(timeout):
        while True:
            found = look()
            result: T = await found if inspect.isawaitable(found) else found
            if result:
                return result
            await asyncio.sleep(every)
