"""What is gathered of one Rollout: the engine's observation, and the raw objects that actions need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from rollouts.api.parsing import ParsedRollout
from rollouts.carriers import Carrier
from rollouts.engine.observation import Observation, ShareView
from rollouts.engine.rollout_spec import PickerTraffic
from rollouts.engine.rollout_status import WayBack
from rollouts.kube.client import Resource
from rollouts.runtime.objects import ObjectKey

__all__ = ["ComparedGates", "Gathered", "ShareSource", "WayObject"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedGates:
    """Which gates read the attempt's evidence: steps, those that measure nothing else, and the background's."""

    steps: frozenset[int]
    only: frozenset[int]
    background: bool


class WayObject(NamedTuple):
    """The object of a recorded way back; ``raw`` None: it does not exist."""

    resource: Resource
    raw: dict[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """An observation and the raw objects that its actions will need.

    ``rollout`` follows our own writes of it; ``planned_version`` is the resourceVersion that was planned on.
    """

    observation: Observation
    parsed: ParsedRollout
    by_picker: PickerTraffic | None
    """What pickers split: the requests of the arms are counted there."""
    rollout: dict[str, Any]
    planned_version: str
    traffic_object: dict[str, Any] | None
    carrier: Carrier | None
    ways: Mapping[WayBack, WayObject]
    """Where the object of each recorded way back lives, and what it says now."""
    written: dict[tuple[Resource, ObjectKey], str] = field(default_factory=dict)
    """resourceVersions of traffic objects as this very plan has stored them."""


class ShareSource(Protocol):
    """Who counts requests per arm."""

    def view(
        self, key: ObjectKey, parsed: ParsedRollout, spec: PickerTraffic | None = None
    ) -> ShareView | None:
        """Requests of both arms since the current weight was applied; None when nothing can be counted.

        ``spec`` is the completed traffic of versions that share a pool.
        """
