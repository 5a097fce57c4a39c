"""CountingClient: a KubeClient that reports every request it sent."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from rollouts.kube.client import KubeClient
from rollouts.kube.errors import KubeError
from rollouts.kube.wrapping import Call, Verb, WrappedClient

__all__ = ["CountingClient", "RequestRecord"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One finished request. ``status`` is the HTTP code of the answer, 0 where there was none."""

    verb: str
    plural: str
    status: int
    seconds: float


class CountingClient(WrappedClient):
    """Wraps a client: ``on_request`` sees each request once it is over; a watch when it ends.

    Put it inside a fence, so that what the fence refuses, which is never sent, is not counted.
    """

    def __init__(
        self,
        inner: KubeClient,
        on_request: Callable[[RequestRecord], None],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(inner)
        self._on_request = on_request
        self._monotonic = monotonic

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        """Time the call and note how it ended."""
        # A watch that its reader leaves was answered; any other request that is left was not.
        status = 200 if call.verb is Verb.WATCH else 0
        started = self._monotonic()
        try:
            yield
            status = 200
        except KubeError as error:
            status = error.status
            raise
        finally:
            seconds = self._monotonic() - started
            self._on_request(
                RequestRecord(verb=call.verb.value, plural=call.plural, status=status, seconds=seconds)
            )
