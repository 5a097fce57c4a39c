"""Model of a PoolSplit: how the requests of one InferencePool are shared among versions of its pods."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rollouts.api.base import ApiModel
from rollouts.api.scalars import Name
from rollouts.objects.pool_splits import (
    MAX_LABEL_KEY,
    MAX_LABEL_VALUE,
    MAX_LABELS,
    MAX_MODEL,
    MAX_VARIANTS,
    MAX_WEIGHT,
    VARIANT_NAME,
)

__all__ = ["ModelName", "PoolSplitSpec", "VariantLabels", "VariantName"]

VariantName = Annotated[str, Field(max_length=MAX_LABEL_VALUE, pattern=f"^{VARIANT_NAME}$")]
VariantLabels = Annotated[
    dict[
        Annotated[str, Field(max_length=MAX_LABEL_KEY)],
        Annotated[str, Field(max_length=MAX_LABEL_VALUE)],
    ],
    Field(min_length=1, max_length=MAX_LABELS),
]
ModelName = Annotated[str, Field(max_length=MAX_MODEL)]


class SplitPoolModel(ApiModel):
    """An InferencePool in the PoolSplit's namespace."""

    name: Name
    """Name of the InferencePool."""


class PoolVariantModel(ApiModel):
    """A version that some of the pool's pods serve."""

    name: VariantName
    """Name in metrics, logs, sticky keys and the pin header; as a label's value."""
    labels: VariantLabels
    """A pod that has all of these labels is the variant's. No pod may be two variants': of any two, one label at least
    has another value."""
    model: ModelName = ""
    """Model name that is sent to these pods, when it differs from the one that clients ask for."""
    weight: Annotated[int, Field(ge=0, le=MAX_WEIGHT)]
    """Share of the requests, among the weights of all variants."""


class PoolSplitSpec(ApiModel):
    """How the endpoint picker of a pool shares its requests among versions of the pool's pods.

    Pods of the pool that no variant's labels match serve nothing of it.
    """

    pool_ref: SplitPoolModel
    """The pool; it cannot be changed."""
    model_name: ModelName = ""
    """Only requests for this model, as clients name it; without it all requests of the pool."""
    variants: Annotated[list[PoolVariantModel], Field(min_length=1, max_length=MAX_VARIANTS)]
    """The versions; at least one weighs more than 0."""
