"""What a renderer answers: an exact write, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rollouts.engine.reasons import Reason
from rollouts.objects.claims import CONSENT_ANNOTATION, ROLLOUT_LABEL, label_value

__all__ = [
    "APPLIED_BY",
    "CONSENT_ANNOTATION",
    "ROLLOUT_LABEL",
    "Apply",
    "JsonPatch",
    "RenderRefusal",
    "Write",
    "label_value",
]

APPLIED_BY = "inference-rollouts"
"""Our field manager."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    """Server-side apply of the whole object, forced; a resourceVersion inside is the precondition."""

    body: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonPatch:
    """A guarded JSON patch: its ``test`` operations are the precondition.

    ``name``: the object that is written, where the traffic object is several; empty: the traffic object. ``beside``:
    the one of them that has to be as it was read, since it is to serve what this write takes away; empty: none.
    """

    operations: list[dict[str, Any]]
    name: str = ""
    beside: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderRefusal:
    """The object cannot express what is asked. ``message`` says what to do."""

    reason: Reason
    message: str


Write = Apply | JsonPatch
