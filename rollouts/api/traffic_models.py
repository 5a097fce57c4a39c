"""Models of what ``spec.traffic`` holds, by kind of traffic object."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from rollouts.api.base import ApiModel
from rollouts.api.scalars import Name, Text
from rollouts.objects.pool_splits import MAX_MODEL

__all__ = [
    "AdapterTrafficModel",
    "HttpRouteModel",
    "PoolRefModel",
    "Preserved",
    "VariantTrafficModel",
]

Preserved = Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]


class PoolRefModel(ApiModel):
    """An InferencePool in the Rollout's namespace."""

    name: Name
    """Name of the InferencePool."""
    group: Literal["inference.networking.k8s.io", "inference.networking.x-k8s.io", ""] = ""
    """API group; without it the one group that has the name."""


class HttpRouteModel(ApiModel):
    """The HTTPRoute whose weights move."""

    name: Name
    """Name of the HTTPRoute, in the Rollout's namespace."""
    rule_names: Annotated[list[Name], Field(max_length=16)] = []
    """Rules to weigh, by name; without it all rules that reference one of the two pools."""
    template: Preserved | None = None
    """Spec of the HTTPRoute, pool rules without backendRefs. Present: Managed, the controller makes and owns
    the route. Absent: Adopted, the route is somebody else's and only our weights are touched."""
    add_backend: bool = False
    """Adopted routes: add the new pool's entry where Git does not list it, and remove it again later."""


class AdapterTrafficModel(ApiModel):
    """The model object whose adapter weights move."""

    name: Name
    """Name of the object."""
    model_name: Text = ""
    """Model name that clients ask for."""
    pool_ref: PoolRefModel | None = None
    """The pool that serves the adapters."""


class VariantTrafficModel(ApiModel):
    """The pool whose requests are shared among variants; the controller makes a PoolSplit for it, never in Git."""

    name: Name
    """Name of the InferencePool, in the Rollout's namespace."""
    model_name: Annotated[str, Field(max_length=MAX_MODEL)] = ""
    """Only requests for this model, as clients name it; without it all requests of the pool."""
