"""The kinds of objects that carry weights, and of versions. A new one is a file beside these and a line here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rollouts.carriers.base import Carrier, Option, TrafficKind, TrafficPlace
from rollouts.carriers.http_route import HTTP_ROUTE
from rollouts.carriers.inference_model import INFERENCE_MODEL
from rollouts.carriers.inference_model_rewrite import INFERENCE_MODEL_REWRITE
from rollouts.carriers.llm_inference_service import LLM_INFERENCE_SERVICE
from rollouts.carriers.pool_split import POOL_SPLIT, said_split
from rollouts.carriers.target_kinds import ObjectTargetKind, StoppedTargetKind, TargetKind
from rollouts.engine.rollout_spec import RolloutSpec
from rollouts.engine.versions import Identity
from rollouts.objects.fields import map_of
from rollouts.objects.pools import Pool
from rollouts.objects.resource import Resource

__all__ = [
    "TRAFFIC_KINDS",
    "Carrier",
    "ObjectTargetKind",
    "Option",
    "StoppedTargetKind",
    "TargetKind",
    "TrafficKind",
    "TrafficPlace",
    "asked",
    "asked_in",
    "given",
    "identity_of",
    "kind_of",
    "kinds_for",
    "listed",
    "object_target",
    "object_targets",
    "options",
    "pods_of",
    "said_split",
    "stopped_target",
    "stopped_targets",
    "target_kinds",
]

TRAFFIC_KINDS: tuple[TrafficKind, ...] = (
    HTTP_ROUTE,
    INFERENCE_MODEL,
    INFERENCE_MODEL_REWRITE,
    POOL_SPLIT,
    LLM_INFERENCE_SERVICE,
)
"""Every kind, in the order of the schema."""


def kind_of(name: str) -> TrafficKind | None:
    """The kind of that name."""
    return next((kind for kind in TRAFFIC_KINDS if kind.kind == name), None)


def given(traffic: Any) -> list[tuple[TrafficKind, Any]]:
    """The fields that a model of ``spec.traffic`` has, with their values."""
    found = ((kind, getattr(traffic, kind.attribute)) for kind in TRAFFIC_KINDS)
    return [(kind, value) for kind, value in found if value is not None]


def options() -> tuple[Option, ...]:
    """Options without which a kind is not watched."""
    return tuple(dict.fromkeys(kind.option for kind in TRAFFIC_KINDS if kind.option is not None))


def listed(names: Iterable[str], word: str = "and") -> str:
    """Names as a sentence has them."""
    *most, last = names
    return f"{', '.join(most)} {word} {last}" if most else last


# --- kinds of versions ------------------------------------------------------------------------------


def target_kinds() -> tuple[TargetKind, ...]:
    """Every kind of version that some kind of traffic object splits, in the order of the schema."""
    return tuple(dict.fromkeys(kind.target for kind in TRAFFIC_KINDS))


def kinds_for(target: TargetKind) -> list[TrafficKind]:
    """The kinds of traffic objects that split such versions."""
    return [kind for kind in TRAFFIC_KINDS if kind.target is target]


def asked(target: Any) -> list[tuple[TargetKind, Any]]:
    """The fields that a model of ``spec.target`` has, with their values."""
    found = ((kind, getattr(target, kind.attribute)) for kind in target_kinds())
    return [(kind, value) for kind, value in found if value is not None]


def asked_in(target: Any) -> list[tuple[TargetKind, str]]:
    """The names in a raw ``spec.target`` of any shape, with their kinds."""
    said = map_of(target)
    named = ((kind, map_of(said.get(kind.field)).get("name")) for kind in target_kinds())
    return [(kind, name) for kind, name in named if isinstance(name, str) and name]


def identity_of(spec: RolloutSpec) -> Identity | None:
    """``spec.target`` as an arm; None where only the cluster tells."""
    kind = next((kind for kind in target_kinds() if kind.field == spec.target.kind), None)
    return kind.identity(spec.target) if kind is not None else None


def object_targets() -> tuple[ObjectTargetKind, ...]:
    """The kinds of versions that are objects with pods of their own."""
    return tuple(kind for kind in target_kinds() if isinstance(kind, ObjectTargetKind))


def object_target(kind: str) -> ObjectTargetKind | None:
    """The kind of version whose arms have this kind; None where those are no objects."""
    return next((one for one in object_targets() if one.kind == kind), None)


def stopped_targets(among: Iterable[TargetKind]) -> list[StoppedTargetKind]:
    """Those whose versions are stopped and started as a whole."""
    return [kind for kind in among if isinstance(kind, StoppedTargetKind)]


def stopped_target(kind: str) -> StoppedTargetKind | None:
    """The kind of version of an arm where that is stopped and started as a whole; None for others."""
    return next((one for one in stopped_targets(target_kinds()) if one.kind == kind), None)


def pods_of(arm: Identity) -> list[tuple[Resource, Callable[[Mapping[str, Any]], Pool]]]:
    """Where an arm with pods of its own may be, and who reads them; nothing of an arm that shares a pool's."""
    kind = object_target(arm.kind)
    resources = kind.resources if kind is not None else ()
    return [(one, kind.pods) for one in resources if kind is not None and arm.group in ("", one.group)]
