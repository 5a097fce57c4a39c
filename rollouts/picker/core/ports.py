"""What an exchange needs from its surroundings: a decision, somebody to tell, and memory for bodies."""

from __future__ import annotations

from typing import Protocol

from rollouts.picker.core.measure import ObservedResponse
from rollouts.picker.core.routing import Decision, Refusal, Request

__all__ = ["BufferBudget", "Observer", "Routing"]


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
    """Bytes of request bodies held at the moment by all streams, and per stream at most.

    64 MiB is what the largest multimodal requests have; three of them fit, so that a burst ends in 503 rather than
    in the kernel's out-of-memory killer: ``memory`` makes the total a part of the container's limit, this is the one
    of 512 MiB.
    """

    __slots__ = ("body_limit", "total_limit", "used")

    def __init__(self, *, body_limit: int = 64 << 20, total_limit: int = 192 << 20) -> None:
        self.body_limit = body_limit
        self.total_limit = total_limit
        self.used = 0
