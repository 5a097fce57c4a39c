"""What a source can do, and how it fails.

SourceError
+-- SourceUnavailable   no answer, a bad answer, too slow, too large: may work next time
+-- QueryRefused        the source understood the query and refuses it: the author has to change it
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from rollouts.analysis.exposition import ScrapedPage
from rollouts.analysis.offers import Offer, Statistic
from rollouts.analysis.types import ArmRef, MeasureSpec, Value

__all__ = [
    "Endpoints",
    "MetricSource",
    "Place",
    "QueryRefused",
    "RawPod",
    "ScrapeTarget",
    "SourceError",
    "SourceUnavailable",
    "refuse_adapter",
    "statistic_of",
]


class SourceError(Exception):
    """A measurement could not be taken. The text never quotes what a server answered."""


class SourceUnavailable(SourceError):
    """No usable answer this time."""


class QueryRefused(SourceError):
    """The query itself is at fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrapeTarget:
    """A pod that can be scraped, or found in Prometheus."""

    pod: str
    ip: str
    port: int
    started: float | None = None
    """When the pod started, in seconds since 1970, where that is known."""
    namespace: str = ""
    """Whose pod it is: who shares connections and time with whom."""
    pool: str = ""
    """The InferencePool through which it is a model server: whose scheme and key it is called with. Else none."""
    warmed: float | None = None
    """When requests that warm it up were over, in seconds since 1970: its samples from before are nobody's."""
    of: str = ""
    """The pod's own name, where its pool has several ports: ``pod`` then names the process behind this one."""

    @property
    def owner(self) -> str:
        """The name of the pod."""
        return self.of or self.pod


class Endpoints(Protocol):
    """Who knows the Ready pods of an arm."""

    def __call__(self, namespace: str, arm: ArmRef) -> list[ScrapeTarget]:
        """Ready pods of the arm, by name; empty when the arm does not exist."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a measurement is taken: the Rollout's namespace and the arm."""

    namespace: str
    arm: ArmRef


@dataclass(frozen=True, slots=True)
class RawPod:
    """What one pod exposes: the wanted series, and when it started (seconds since 1970)."""

    sample: ScrapedPage
    started: float | None = None


def refuse_adapter(place: Place) -> None:
    """Raise QueryRefused for an adapter: its pods serve the other one as well."""
    if place.arm.kind == "Adapter":
        raise QueryRefused("adapters share their pods: compare them by the source `picker`")


def statistic_of(offer: Offer, spec: MeasureSpec) -> Statistic:
    """What to read for a measure. Raises QueryRefused for a preset that the source does not offer."""
    try:
        return offer.statistic(spec)
    except KeyError:
        raise QueryRefused(f"there is no preset {spec.name}; there are {', '.join(offer.presets)}") from None


class MetricSource(Protocol):
    """A named source. All methods raise SourceError only."""

    async def query(self, promql: str, at: datetime, namespace: str = "") -> Value:
        """Evaluate PromQL of a namespace at a moment. Raises QueryRefused where the source knows no PromQL."""
        ...

    async def measure(self, spec: MeasureSpec, place: Place, at: datetime) -> Value:
        """A statistic of one arm; NaN without data."""
        ...

    async def requests(self, spec: MeasureSpec, place: Place, since: timedelta, at: datetime) -> float | None:
        """Requests that came to an arm in the last ``since`` (at most the measure's window), as far back as is known.

        None where that cannot be told.
        """
        ...

    @property
    def offer(self) -> Offer:
        """Which logical series it has, by which names, and what else it knows."""
        ...

    @property
    def remembers(self) -> bool:
        """Whether ``raw`` knows the past."""
        ...

    async def raw(self, names: frozenset[str], place: Place, at: datetime) -> Mapping[str, RawPod]:
        """Cumulative counters of every pod of an arm that answers, by pod name, as they stand at a moment."""
        ...

    async def close(self) -> None:
        """Release connections and tasks."""
        ...
