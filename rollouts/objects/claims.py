"""Whose a traffic object is: the label of the Rollout that writes it, and the consent to one that may."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from rollouts.objects.fields import map_of, metadata_of, text_of

__all__ = ["CONSENT_ANNOTATION", "ROLLOUT_LABEL", "label_value", "named_owner"]

ROLLOUT_LABEL = "inferencerollouts.dev/rollout"
"""On Managed objects: the Rollout that writes it. Instead of an ownerReference, so that garbage collection
never takes live traffic."""

CONSENT_ANNOTATION = "inferencerollouts.dev/managed-by"
"""On Adopted objects, in Git: the Rollout that may write the weights."""

_LONGEST_LABEL = 63
"""Characters of a label's value (Kubernetes: the name of a Rollout may have 253)."""


def label_value(rollout: str) -> str:
    """What ``ROLLOUT_LABEL`` says of a Rollout: its name, a longer one shortened and ended by its hash."""
    if len(rollout) <= _LONGEST_LABEL:
        return rollout
    digest = hashlib.sha256(rollout.encode()).hexdigest()[:8]
    return f"{rollout[: _LONGEST_LABEL - len(digest) - 1].rstrip('-.')}-{digest}"


def named_owner(obj: Mapping[str, Any]) -> str:
    """The Rollout that a Managed object names: by its label, as ``label_value`` writes it, else by its consent."""
    meta = metadata_of(obj)
    label = text_of(map_of(meta.get("labels")).get(ROLLOUT_LABEL))
    return label or text_of(map_of(meta.get("annotations")).get(CONSENT_ANNOTATION))
