"""Shared strategies: what a Rollout names, what an attempt pins, and the one strategy that both give together.

The merge is by whole fields of ``canary``: what the Rollout writes wins, ``null`` included; lists and objects are not
merged. All readers of a Rollout go through ``effective_spec``, so that behind it there is one kind of strategy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from rollouts.api.base import shape_errors
from rollouts.api.rollout_models import SharedStrategySpec
from rollouts.api.spec_rules import check_canary
from rollouts.api.status_models import MOST_STRATEGY
from rollouts.engine.attempt import PinnedStrategy
from rollouts.objects.fields import map_of, metadata_of, nested_deeper, text_of
from rollouts.objects.shared_strategies import pinned_canary

__all__ = [
    "CLUSTER_STRATEGY",
    "STRATEGY",
    "StrategyFault",
    "StrategyRef",
    "canary_of",
    "effective_spec",
    "own_fields",
    "pin_strategy",
    "strategy_ref",
]

STRATEGY = "RolloutStrategy"
CLUSTER_STRATEGY = "ClusterRolloutStrategy"

_DEEPEST = 64
"""Nesting, as of a Rollout's spec."""

_UNKNOWN: Mapping[str, Any] = {"steps": [{"pause": {}}] * 32, "endpointRatio": 0}
"""In the place of a strategy that is not known: it moves no weight, and never ends by itself. As many as
there may be, so that no ``startingStep`` is past them, and a ratio that no ``headroom`` is below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyRef:
    """``strategy.canaryFrom``."""

    kind: str
    name: str

    @property
    def label(self) -> str:
        """For messages."""
        return f"{self.kind} {self.name}"

    @property
    def cluster(self) -> bool:
        """Whether it lives in no namespace."""
        return self.kind == CLUSTER_STRATEGY

    def fits(self, pinned: PinnedStrategy | None) -> bool:
        """Whether that is pinned."""
        return pinned is not None and (pinned.kind, pinned.name) == (self.kind, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyFault:
    """Why a strategy cannot be used, with the path of the field."""

    text: str


def strategy_ref(spec: Any) -> StrategyRef | None:
    """What a raw spec names; None where it names nothing, or nothing that could be looked for."""
    found = map_of(map_of(map_of(spec).get("strategy")).get("canaryFrom"))
    kind, name = found.get("kind", STRATEGY), text_of(found.get("name"))
    if not name or kind not in (STRATEGY, CLUSTER_STRATEGY):
        return None
    return StrategyRef(kind=str(kind), name=name)


def own_fields(spec: Any) -> Mapping[str, Any]:
    """The fields of ``strategy.canary`` that the Rollout writes itself."""
    return map_of(map_of(map_of(spec).get("strategy")).get("canary"))


def effective_spec(spec: Any, pinned: PinnedStrategy | None) -> Any:
    """A raw spec with the strategy that ``pinned`` and its own fields give; without, one that moves no weight.

    A spec that names no strategy is given back as it is.
    """
    if strategy_ref(spec) is None:
        return spec
    canary = map_of(map_of(spec).get("strategy")).get("canary")
    if canary is not None and not isinstance(canary, Mapping):
        return spec
    shared = _UNKNOWN if pinned is None else (canary_of(pinned) or _UNKNOWN)
    return {**spec, "strategy": {**spec["strategy"], "canary": {**shared, **map_of(canary)}}}


def canary_of(pinned: PinnedStrategy) -> Mapping[str, Any] | None:
    """The pinned fields; None where somebody scribbled on them."""
    return pinned_canary(pinned.content)


def pin_strategy(obj: Mapping[str, Any]) -> PinnedStrategy | StrategyFault:
    """What an attempt that begins now would pin of a raw strategy object."""
    kind, name = str(obj.get("kind") or STRATEGY), text_of(metadata_of(obj).get("name"))
    spec = obj.get("spec")
    if not isinstance(spec, Mapping):
        return StrategyFault(text="spec is missing or not an object: write spec.canary")
    if nested_deeper(spec, _DEEPEST):
        return StrategyFault(text=f"spec is nested deeper than {_DEEPEST} levels: check its Jobs")
    content = json.dumps(spec.get("canary"), sort_keys=True, separators=(",", ":"))
    if len(content) > MOST_STRATEGY:
        return StrategyFault(
            text=f"spec.canary is longer than {MOST_STRATEGY} characters as JSON, which every attempt would have to "
            "store: move its metrics into templates, or its Jobs' scripts into a ConfigMap"
        )
    try:
        model = SharedStrategySpec.model_validate(dict(spec))
    except ValidationError as error:
        return StrategyFault(text="; ".join(shape_errors(error, "spec", 1)))
    for path, text in check_canary(model.canary, "spec.canary"):
        return StrategyFault(text=f"{path} {text}")
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    return PinnedStrategy(kind=kind, name=name, hash=digest, content=content)
