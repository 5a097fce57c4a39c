"""Models of what ``spec.target`` holds, by kind of version."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rollouts.api.base import ApiModel
from rollouts.api.pool_split_models import ModelName, VariantLabels, VariantName
from rollouts.api.scalars import Name

__all__ = ["LABEL_KEY", "LABEL_VALUE", "NO_LABEL", "AdapterTargetModel", "VariantTargetModel"]

LABEL_VALUE = "([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
LABEL_KEY = "([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
"""Kubernetes' syntax of a pod's labels, as a regular expression of RE2 and of Python."""
NO_LABEL = (
    "is no label that a pod can have: letters, digits, -, _ and ., a key may begin with a domain and a slash"
)


class AdapterSourceModel(ApiModel):
    """Where an adapter is loaded from."""

    path: Annotated[str, Field(min_length=1, max_length=1024)]
    """Path on the model servers, under a prefix that the administrator allows."""


class AdapterProbeModel(ApiModel):
    """The short request that every pod answers before an adapter gets traffic, and its base as well."""

    must_differ: bool = False
    """Refuse an adapter that answers as its base does; otherwise that is a warning, `AdapterWithoutEffect`."""


class AdapterTargetModel(ApiModel):
    """A LoRA adapter."""

    name: Name
    """Name under which the model servers list the adapter."""
    source: AdapterSourceModel | None = None
    """Load it at runtime on every pod; without it the adapter is expected to be there."""
    probe: AdapterProbeModel | None = None
    """What the answer to the probe has to show."""


class VariantTargetModel(ApiModel):
    """Some of one pool's pods, told by their labels."""

    name: VariantName
    """Name of the variant, in metrics, logs, sticky keys and the pin header; as a label's value."""
    labels: VariantLabels
    """Labels that its pods have beside those of the pool's selector. No pod may have those of two variants."""
    model: ModelName = ""
    """Model name that is sent to these pods, when it differs from the one that clients ask for."""
