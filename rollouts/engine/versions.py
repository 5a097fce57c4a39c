"""What can serve: targets as a spec names them, and versions as they were first seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

__all__ = [
    "VARIANT_KIND",
    "Identity",
    "Revision",
    "RevisionHash",
    "Target",
]

RevisionHash = NewType("RevisionHash", str)

VARIANT_KIND = "Variant"
"""``Identity.kind`` of a variant: pods of one pool, told by their labels."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Identity:
    """What a version *is*: two targets of one identity serve the same thing.

    ``group`` is the API group of the InferencePool, empty for others. ``source`` is what the name alone does not say:
    the path that a LoRA adapter is loaded from, or what a variant is (``engine.variants``); empty for pools.
    """

    kind: str
    group: str
    name: str
    source: str = ""

    @property
    def arm(self) -> Identity:
        """The identity as a traffic object can tell it: of an adapter without the source, which no list names."""
        told = not self.source or self.kind == VARIANT_KIND
        return self if told else Identity(kind=self.kind, group=self.group, name=self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """``spec.target`` as written. ``group`` may still be empty: resolution by discovery fills it.

    ``kind`` is the field that names it. Versions of two kinds never turn into each other.
    """

    kind: str
    name: str
    group: str = ""
    source: str = ""
    revision: str = ""
    must_differ: bool = False
    """Adapters: one that answers the probe as its base does is refused, not only warned of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """A target as first seen: identity, the free ``revision`` string and the hash stored with them."""

    identity: Identity
    revision: str
    hash: RevisionHash

    @property
    def short(self) -> str:
        """The first eight digits, as shown to people and used in object names."""
        return self.hash[:8]

    @property
    def label(self) -> str:
        """``name (hash8)`` for messages."""
        return f"{self.identity.name} ({self.short})"
