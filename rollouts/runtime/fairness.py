"""Sharing between tenants: whoever asks for much waits behind themselves, not in front of the others.

``FairLine`` is pure: first in, first out within a tenant, tenants in turn (round robin, as in the deficit-free case
of Shreedhar and Varghese, SIGCOMM 1995), and at most ``most`` items of one tenant handed out at a time. ``FairSlots``
is a semaphore in that order, for connections and processes. ``FairShares`` hands out several units at a time.
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["FairLine", "FairShares", "FairSlots", "Share"]

T = TypeVar("T")


class FairLine(Generic[T]):
    """Items waiting for their turn. ``most`` None: no limit on what one tenant has out. No tenant is None."""

    def __init__(self, tenant: Callable[[T], Hashable], most: int | None = None) -> None:
        self._tenant = tenant
        self._most = most
        self._lines: OrderedDict[Hashable, deque[T]] = OrderedDict()
        self._out: Counter[Hashable] = Counter()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def push(self, item: T) -> None:
        """Put an item at the end of its tenant's line."""
        self._lines.setdefault(self._tenant(item), deque()).append(item)
        self._size += 1

    def pop(self) -> T | None:
        """The next item of the tenant whose turn it is; None when none may go. ``release`` must follow."""
        tenant = self._next()
        if tenant is None:
            return None
        item = self._lines[tenant].popleft()
        if self._lines[tenant]:
            self._lines.move_to_end(tenant)
        else:
            del self._lines[tenant]
        self._size -= 1
        self._out[tenant] += 1
        return item

    def ready(self) -> bool:
        """Whether ``pop`` would hand something out."""
        return self._next() is not None

    def release(self, item: T) -> None:
        """What was handed out has come back."""
        tenant = self._tenant(item)
        self._out[tenant] -= 1
        if not self._out[tenant]:
            del self._out[tenant]

    def heads(self) -> Iterator[T]:
        """The first item of each line."""
        return (line[0] for line in self._lines.values())

    def clear(self) -> None:
        """Drop all that wait; what is out stays out."""
        self._lines.clear()
        self._size = 0

    def _next(self) -> Hashable | None:
        # Passes over tenants at their limit only: as many as there are workers, divided by the limit.
        for tenant in self._lines:
            if self._most is None or self._out[tenant] < self._most:
                return tenant
        return None


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    tenant: Hashable
    turn: asyncio.Future[None]


class FairSlots:
    """``total`` slots, of which one tenant holds ``per_tenant`` at most."""

    def __init__(self, total: int, per_tenant: int) -> None:
        self._free = total
        self._line: FairLine[_Waiter] = FairLine(lambda waiter: waiter.tenant, per_tenant)

    async def take(self, tenant: Hashable) -> Callable[[], None]:
        """Wait for a slot, and have it until what is returned is called, once."""
        waiter = _Waiter(tenant, asyncio.get_running_loop().create_future())
        self._line.push(waiter)
        self._hand_out()
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.done() and not waiter.turn.cancelled():
                self._give_back(waiter)  # the turn came together with the cancellation
            raise
        return functools.partial(self._give_back, waiter)

    @asynccontextmanager
    async def hold(self, tenant: Hashable) -> AsyncIterator[None]:
        """Wait for a slot and hold it."""
        give_back = await self.take(tenant)
        try:
            yield
        finally:
            give_back()

    def _give_back(self, waiter: _Waiter) -> None:
        self._free += 1
        self._line.release(waiter)
        self._hand_out()

    def _hand_out(self) -> None:
        while self._free and (waiter := self._line.pop()) is not None:
            if waiter.turn.done():  # cancelled while it waited
                self._line.release(waiter)
                continue
            self._free -= 1
            waiter.turn.set_result(None)


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """``units`` for a member of a tenant, who has them when ``turn`` is done."""

    tenant: Hashable
    member: Hashable
    units: int
    turn: asyncio.Future[None]


class FairShares:
    """``total`` units, of which one tenant holds ``per_tenant`` at most, handed out in shares of several.

    The next one is the tenant's that holds least, of its members the one's that holds least, and among equals whoever
    has waited longest. Nobody overtakes a share that is only too large for what is left: it would never come.
    """

    def __init__(self, total: int, per_tenant: int) -> None:
        self._free = total
        self._most = per_tenant
        self._held: Counter[Hashable] = Counter()
        """Units of each tenant, and of each of its members."""
        self._waiting: list[Share] = []

    def join(self, tenant: Hashable, member: Hashable, units: int) -> Share:
        """Ask for units, no more than a tenant may hold. ``leave`` must follow."""
        share = Share(tenant, member, units, asyncio.get_running_loop().create_future())
        self._waiting.append(share)
        self._hand_out()
        return share

    def leave(self, share: Share) -> None:
        """Give a share back, or wait for it no longer."""
        if share in self._waiting:
            self._waiting.remove(share)
        else:
            self._count(share, -share.units)
        self._hand_out()

    def _count(self, share: Share, units: int) -> None:
        self._free -= units
        for holder in (share.tenant, (share.tenant, share.member)):
            self._held[holder] += units
            if not self._held[holder]:
                del self._held[holder]

    def _hand_out(self) -> None:
        while (share := self._next()) is not None:
            self._waiting.remove(share)
            self._count(share, share.units)
            if not share.turn.done():  # cancelled: whoever waited for it leaves in a moment
                share.turn.set_result(None)

    def _next(self) -> Share | None:
        full = set[Hashable]()
        held = self._held
        for share in sorted(self._waiting, key=lambda one: (held[one.tenant], held[one.tenant, one.member])):
            if share.tenant in full or held[share.tenant] + share.units > self._most:
                full.add(share.tenant)
            else:
                return share if share.units <= self._free else None
        return None
