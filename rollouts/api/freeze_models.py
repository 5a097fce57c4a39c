"""Model of a RolloutFreeze: when no weight rises, and where."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rollouts.api.base import ApiModel
from rollouts.api.rollout_models import WindowModel

__all__ = ["RolloutFreezeSpec", "SelectorModel"]

Label = Annotated[str, Field(max_length=317)]
LabelValue = Annotated[str, Field(max_length=63)]
Moment = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class RequirementModel(ApiModel):
    """One requirement on labels."""

    key: Label
    """Label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """How its value is compared."""
    values: Annotated[list[LabelValue], Field(max_length=64)] = []
    """Values of In and NotIn."""


class SelectorModel(ApiModel):
    """Labels, as in every selector of Kubernetes; all that is said has to hold."""

    match_labels: Annotated[dict[Label, LabelValue], Field(max_length=16)] = {}
    """Labels with these values."""
    match_expressions: Annotated[list[RequirementModel], Field(max_length=16)] = []
    """Further requirements."""


class RolloutFreezeSpec(ApiModel):
    """When and where no weight rises and no attempt begins. Aborts, the way back and commands go on."""

    reason: Annotated[str, Field(min_length=1, max_length=256)]
    """Why, for those who wait: it is shown in the status of each Rollout that is held."""
    start: Moment | None = None
    """From when on; from now on without it."""
    end: Moment | None = None
    """Until when; without it until the object is deleted."""
    windows: Annotated[list[WindowModel], Field(max_length=8)] = []
    """In place of start and end: frozen while one of these is open, each Friday afternoon, say."""
    namespace_selector: SelectorModel | None = None
    """Namespaces by their labels; without it, or empty, all."""
    rollout_selector: SelectorModel | None = None
    """Rollouts by their labels; without it, or empty, all."""
