"""Variants: versions that share the pods of one InferencePool, told by the pods' labels (design section 15).

The source of a variant's identity is what it is: its labels as a selector, and the model name that is sent to its pods
where that differs, as in ``release=deepseek-r1`` and ``release=deepseek-r1 model=deepseek``. So two variants of one
name and other labels are two versions, and a stored one can be written back without its spec.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from rollouts.engine.versions import VARIANT_KIND, Identity

__all__ = [
    "hinted_variant",
    "labels_of",
    "model_of",
    "read_selector",
    "selector_of",
    "variant_identity",
    "variant_source",
]

_MODEL = " model="
"""Between labels and model: no label has a space."""
_VALUE = "[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
"""A label's value in Kubernetes, and the part of its key after a prefix."""
_EQUALITY = re.compile(f"((?:[a-z0-9][-a-z0-9.]{{0,252}}/)?{_VALUE})==?({_VALUE})")
_MOST_LABELS = 8
"""As many as a variant of a PoolSplit may have."""
_LONGEST_NAME = 63
"""Characters of a variant's name, which stands in metrics as a label's value does in Kubernetes."""


def variant_source(labels: Mapping[str, str], model: str = "") -> str:
    """What a variant is, as its identity's source."""
    selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
    return f"{selector}{_MODEL}{model}" if model else selector


def variant_identity(name: str, labels: Mapping[str, str], model: str = "") -> Identity:
    """A variant as an arm."""
    return Identity(kind=VARIANT_KIND, group="", name=name, source=variant_source(labels, model))


def selector_of(identity: Identity) -> str:
    """A variant's labels as a selector, as people write it."""
    return identity.source.partition(_MODEL)[0]


def labels_of(identity: Identity) -> dict[str, str]:
    """A variant's labels."""
    return read_selector(selector_of(identity))


def read_selector(text: str) -> dict[str, str]:
    """The labels that a selector of ``selector_of`` names."""
    pairs = (part.partition("=") for part in text.split(",") if part)
    return {key: value for key, _, value in pairs}


def model_of(identity: Identity) -> str:
    """The model name that is sent to a variant's pods; empty for the one that clients ask for."""
    return identity.source.partition(_MODEL)[2]


def hinted_variant(hint: str) -> Identity | None:
    """The variant that a ``stableHint`` such as ``release=qwen`` describes, named after its values.

    None where it is no selector of equalities that a PoolSplit could have as labels; ``==`` is kubectl's other one.
    """
    found = [_EQUALITY.fullmatch(part.strip()) for part in hint.split(",")]
    labels = {str(one[1]): str(one[2]) for one in found if one is not None}
    if len(labels) < len(found) or len(labels) > _MOST_LABELS:
        return None
    return variant_identity("-".join(labels.values())[:_LONGEST_NAME].rstrip("-_."), labels)
