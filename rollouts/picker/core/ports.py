"""What an exchange needs from its surroundings: a decision, somebody to tell, and memory for requests."""

from __future__ import annotations

from typing import Protocol

from rollouts.picker.core.measure import ObservedResponse
from rollouts.picker.core.routing import Decision, Refusal, Request

__all__ = ["SMALL", "BufferBudget", "Charge", "Observer", "Routing"]

SMALL = 64 << 10
"""Bytes of a body that find room though large ones have filled theirs: a chat with a long history, without pictures."""

_SET_ASIDE = 16
"""The part of the budget that only small ones may have: 12 MiB of 192, which 192 of the largest fill, or 3,000 of
4 KiB. A small body is held for milliseconds, so that this is enough for thousands of requests a second; with more of
it, three uploads of 60 MB would not find room beside each other."""


class Routing(Protocol):
    """What decides; the ``Router`` of the product."""

    @property
    def body_fields(self) -> frozenset[str]:
        """Top-level members of the body to read for it, the model included."""
        ...

    def route(self, request: Request, now: float) -> Decision | Refusal:
        """Decide on one request."""
        ...


class Observer(Protocol):
    """What is told about each request, once."""

    def refused(self, refusal: Refusal) -> None:
        """The picker answered itself."""
        ...

    def dispatched(self, decision: Decision) -> None:
        """The request went to a pod; a measured one is also reported at its end."""
        ...

    def measured(self, decision: Decision, measurement: ObservedResponse) -> None:
        """The response to a measured request is over."""
        ...


class BufferBudget:
    """Bytes of requests held at the moment by all streams, and of a body at most.

    Those of bodies, of headers and the subset hint while a body is waited for, of answers that wait for their name.

    64 MiB is what the largest multimodal requests have; two of them fit, so that a burst ends in 503 rather than
    in the kernel's out-of-memory killer: ``memory`` makes the total a part of the container's limit, this is the one
    of 512 MiB.

    What is larger than ``SMALL`` grows only while the part that is set aside is free beside it (trunk reservation), so
    that large bodies, however many, leave it to small ones. Nothing goes beyond ``total_limit``.
    """

    __slots__ = ("body_limit", "total_limit", "used")

    def __init__(self, *, body_limit: int = 64 << 20, total_limit: int = 192 << 20) -> None:
        self.body_limit = body_limit
        self.total_limit = total_limit
        self.used = 0

    @property
    def large_limit(self) -> int:
        """Bytes of all together up to which one that is larger than ``SMALL`` may grow."""
        return self.total_limit - self.total_limit // _SET_ASIDE

    def take(self, more: int, whole: int) -> bool:
        """Count ``more`` bytes for somebody who then has ``whole``, if there is room for them."""
        used = self.used + more
        if more and used > (self.total_limit if whole <= SMALL else self.large_limit):
            return False
        self.used = used
        return True


class Charge:
    """Bytes that one stream has counted in the budget of all."""

    __slots__ = ("_budget", "size")

    def __init__(self, budget: BufferBudget) -> None:
        self._budget = budget
        self.size = 0

    def count(self, size: int) -> bool:
        """Have that many bytes counted from now on, if there is room for them."""
        if size > self.size:
            if not self._budget.take(size - self.size, size):
                return False
        else:
            self._budget.used -= self.size - size
        self.size = size
        return True
