"""A metric source whose answers a scenario sets."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import Enum

from rollouts.analysis.offers import PROMETHEUS_OFFER, Offer
from rollouts.analysis.types import Labelled, MeasureSpec, Value
from rollouts.runtime.clock import Clock
from rollouts.sources.base import Place, QueryRefused, RawPod, SourceUnavailable

__all__ = ["SOME_REQUESTS", "Answer", "ScriptedSource"]

SOME_REQUESTS = 12.0
_HEALTHY = 0.01
_BAD = 0.9
_SLOW_SECONDS = 120.0


class Answer(Enum):
    """What the source says. All but HEALTHY and BAD are ways to say nothing."""

    HEALTHY = "healthy"
    BAD = "bad"
    NAN = "not a number"
    INFINITE = "infinite"
    EMPTY = "empty vector"
    MANY = "several series"
    DOWN = "unavailable"
    REFUSED = "query refused"
    SLOW = "slower than any deadline"


_SERIES = tuple(Labelled(labels=(("pod", f"p{i}"),), value=_HEALTHY) for i in range(3))
_VALUES: dict[Answer, Value] = {
    Answer.HEALTHY: _HEALTHY,
    Answer.BAD: _BAD,
    Answer.NAN: float("nan"),
    Answer.INFINITE: float("inf"),
    Answer.EMPTY: (),
    Answer.MANY: _SERIES,
}


class ScriptedSource:
    """``Source`` that answers what ``answer`` says at the moment of asking, ``takes`` seconds later."""

    def __init__(self, clock: Clock, *, takes: float = 0.0) -> None:
        self.answer = Answer.HEALTHY
        self._clock = clock
        self._takes = takes
        self.healthy = 0
        """How often it said that all is well."""

    async def query(self, promql: str, at: datetime, namespace: str = "") -> Value:
        """See ``Source.query``."""
        return await self._say()

    async def measure(self, spec: MeasureSpec, place: Place, at: datetime) -> Value:
        """See ``Source.measure``."""
        return await self._say()

    async def requests(self, spec: MeasureSpec, place: Place, since: timedelta, at: datetime) -> float | None:
        """See ``Source.requests``: a few, whatever is asked for."""
        return SOME_REQUESTS

    @property
    def offer(self) -> Offer:
        """See ``Source.offer``."""
        return PROMETHEUS_OFFER

    @property
    def remembers(self) -> bool:
        """See ``Source.remembers``."""
        return False

    async def raw(self, names: frozenset[str], place: Place, at: datetime) -> Mapping[str, RawPod]:
        """See ``Source.raw``: no pod answers."""
        await self._say()
        return {}

    async def close(self) -> None:
        """Nothing to release."""

    async def _say(self) -> Value:
        if self._takes:
            await self._clock.sleep(self._takes)
        if self.answer is Answer.REFUSED:
            raise QueryRefused("the query has a syntax error")
        if self.answer is Answer.DOWN:
            raise SourceUnavailable("the server does not answer")
        self.healthy += self.answer is Answer.HEALTHY
        if self.answer is Answer.SLOW:
            await self._clock.sleep(_SLOW_SECONDS)
            return _HEALTHY
        return _VALUES[self.answer]
