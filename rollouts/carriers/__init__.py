"""The kinds of objects that carry weights. A new one is a file beside these and a line here."""

from __future__ import annotations

from typing import Any

from rollouts.carriers.base import Carrier, TrafficKind, TrafficPlace
from rollouts.carriers.http_route import HTTP_ROUTE
from rollouts.carriers.inference_model import INFERENCE_MODEL
from rollouts.carriers.inference_model_rewrite import INFERENCE_MODEL_REWRITE
from rollouts.carriers.llm_inference_service import LLM_INFERENCE_SERVICE
from rollouts.carriers.pool_split import POOL_SPLIT, recorded_split
from rollouts.engine.versions import TargetKind

__all__ = [
    "TRAFFIC_KINDS",
    "Carrier",
    "TrafficKind",
    "TrafficPlace",
    "fields_for",
    "given",
    "kind_of",
    "recorded_split",
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


def given(traffic: Any) -> list[tuple[TrafficKind, Any]]:
    """The fields that a model of ``spec.traffic`` has, with their values."""
    found = ((kind, getattr(traffic, kind.attribute)) for kind in TRAFFIC_KINDS)
    return [(kind, value) for kind, value in found if value is not None]
