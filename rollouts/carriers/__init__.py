"""The kinds of objects that carry weights. A new one is a file beside these and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rollouts.carriers.base import Carrier, TrafficKind, TrafficPlace
from rollouts.carriers.http_route import HTTP_ROUTE
from rollouts.carriers.inference_model import INFERENCE_MODEL
from rollouts.carriers.inference_model_rewrite import INFERENCE_MODEL_REWRITE
from rollouts.carriers.llm_inference_service import LLM_INFERENCE_SERVICE
from rollouts.carriers.pool_split import POOL_SPLIT, recorded_split, said_split
from rollouts.engine.versions import Identity, TargetKind
from rollouts.objects import kinds
from rollouts.objects.fields import map_of
from rollouts.objects.pools import Pool, read_pool
from rollouts.objects.resource import Resource

__all__ = [
    "TRAFFIC_KINDS",
    "Carrier",
    "TrafficKind",
    "TrafficPlace",
    "fields_for",
    "given",
    "kind_of",
    "pods_of",
    "recorded_split",
    "said_split",
    "targeted",
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


def fields_for(target: TargetKind | None = None) -> list[str]:
    """Fields of ``spec.traffic``: all, or those that split such a target."""
    return [kind.field for kind in TRAFFIC_KINDS if target in (None, kind.target)]


def pods_of(arm: Identity) -> list[tuple[Resource, Callable[[Mapping[str, Any]], Pool]]]:
    """Where an arm with pods of its own may be, and who reads them: an InferencePool, or what is a version itself."""
    kind = kind_of(arm.kind)
    if kind is not None and kind.made_of:
        return [(resource, kind.pods) for resource in kind.resources]
    return [(resource, read_pool) for resource in kinds.POOLS if arm.group in ("", resource.group)]


def targeted(target: Any) -> list[tuple[TrafficKind, str]]:
    """Names in a raw ``spec.target`` of versions that are objects of a kind themselves."""
    found = map_of(target)
    named = (
        (kind, map_of(found.get(kind.target.value)).get("name")) for kind in TRAFFIC_KINDS if kind.made_of
    )
    return [(kind, name) for kind, name in named if isinstance(name, str) and name]


def given(traffic: Any) -> list[tuple[TrafficKind, Any]]:
    """The fields that a model of ``spec.traffic`` has, with their values."""
    found = ((kind, getattr(traffic, kind.attribute)) for kind in TRAFFIC_KINDS)
    return [(kind, value) for kind, value in found if value is not None]
