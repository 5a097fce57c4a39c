"""What a renderer answers: an exact write, or why there is none."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from rollouts.engine.reasons import Reason

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

ROLLOUT_LABEL = "inferencerollouts.dev/rollout"
"""On Managed objects: the Rollout that writes it. Instead of an ownerReference, so that garbage collection
never takes live traffic."""

CONSENT_ANNOTATION = "inferencerollouts.dev/managed-by"
"""On Adopted objects, in Git: the Rollout that may write the weights."""

APPLIED_BY = "inference-rollouts"
"""Our field manager."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    """Server-side apply of the whole object, forced; a resourceVersion inside is the precondition."""

    body: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonPatch:
    """A guarded JSON patch: its ``test`` operations are the precondition."""

    operations: list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderRefusal:
    """The object cannot express what is asked. ``message`` says what to do."""

    reason: Reason
    message: str


Write = Apply | JsonPatch

_LONGEST_LABEL = 63
"""Characters of a label's value (Kubernetes: the name of a Rollout may have 253)."""


def label_value(rollout: str) -> str:
    """What ``ROLLOUT_LABEL`` says of a Rollout: its name, a longer one shortened and ended by its hash."""
    if len(rollout) <= _LONGEST_LABEL:
        return rollout
    digest = hashlib.sha256(rollout.encode()).hexdigest()[:8]
    return f"{rollout[: _LONGEST_LABEL - len(digest) - 1].rstrip('-.')}-{digest}"
