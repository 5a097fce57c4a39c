"""Write fencing: nothing is written by a process that may no longer hold the lease.

The fence is a promise about time, not about tasks: ``may_write`` compares the monotonic clock with the end
of the lease, so a process that was stopped (SIGSTOP, a suspended machine, a long garbage collection) and
wakes refuses to write before any of its tasks has learned what happened. It is asked twice: before a write is
begun, and when its bytes go to the socket, since a process may be stopped between the two.

What it assumes: a request on its way reaches the server within ``settle`` seconds, the time between the end
of our right to write and the end of the lease, or never. A request that lingers in a network longer than
that can only be caught by the server: give writes that matter a resourceVersion precondition.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from rollouts.kube.client import KubeClient
from rollouts.kube.errors import ApiTimeout, Conflict, RefusedError, RetryableError, TooManyRequests
from rollouts.kube.last_look import looking_last
from rollouts.kube.wrapping import Call, WrappedClient
from rollouts.runtime.clock import Clock, Monotonic

__all__ = ["FencedClient", "NotLeading", "WriteFence"]

_CLOSED = Monotonic(-math.inf)


class NotLeading(RetryableError):
    """Refused by our own fence before anything was sent: this process does not hold the lease (any more)."""


class WriteFence:
    """Says whether this process may write at this moment. Closed when made."""

    def __init__(self, clock: Clock) -> None:
        self.epoch = -1
        self._clock = clock
        self._until = _CLOSED
        self._settle = 0.0
        self._in_flight = 0
        self._settled_at = _CLOSED

    def open(self, *, until: Monotonic, epoch: int, settle: float) -> None:
        """Allow writes until ``until``; a request once sent arrives within ``settle`` seconds or never."""
        self._until, self.epoch, self._settle = until, epoch, settle

    def open_for_ever(self) -> None:
        """Allow writes always, as when there is no leader election."""
        self.open(until=Monotonic(math.inf), epoch=0, settle=0.0)

    def extend(self, until: Monotonic) -> None:
        """Move the end of an open fence, never to an earlier time."""
        if self._until != _CLOSED:
            self._until = max(self._until, until)

    def close(self) -> None:
        """Forbid writes from now on."""
        self._until = _CLOSED

    def may_write(self) -> bool:
        """Whether a write may begin now. Cheap and synchronous: ask right before each write."""
        return self._clock.monotonic() < self._until

    def seconds_left(self) -> float:
        """How long a write that begins now may take; 0 when none may begin."""
        return max(0.0, self._until - self._clock.monotonic())

    def unsettled_for(self) -> float:
        """Seconds until no request of ours can still be on its way to the server.

        That is 0, but while a write is under way and for ``settle`` seconds after one without an answer.
        """
        if self._in_flight:
            return self._settle
        return max(0.0, self._settled_at - self._clock.monotonic())

    def _look(self) -> None:
        if not self.may_write():
            raise NotLeading("not written: this process does not hold the lease; the new leader will do it")

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Around one write. Raises NotLeading before it is sent, or ApiTimeout when the lease ends during it."""
        self._look()
        left = self.seconds_left()
        self._in_flight += 1
        answered = False
        try:
            async with asyncio.timeout(None if math.isinf(left) else left) as deadline:
                with looking_last(self._look):
                    yield
            answered = True
        except (RefusedError, Conflict, TooManyRequests):
            answered = True
            raise
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise ApiTimeout(
                "the lease ended during the write; it may or may not have been stored"
            ) from error
        finally:
            self._in_flight -= 1
            if not answered:
                self._settled_at = Monotonic(self._clock.monotonic() + self._settle)


class FencedClient(WrappedClient):
    """A ``KubeClient`` whose writes pass the fence; reads and watches always pass.

    Writes raise NotLeading besides the client's errors.
    """

    def __init__(self, inner: KubeClient, fence: WriteFence) -> None:
        super().__init__(inner)
        self._fence = fence

    def around(self, call: Call) -> AbstractAsyncContextManager[None]:
        """The fence, around a write."""
        return self._fence.writing() if call.writes else nullcontext()
