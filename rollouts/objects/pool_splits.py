"""PoolSplits: which pods of an InferencePool are which version, and what share of the requests each gets.

The API server refuses what is wrong (``api/cel.py``), but files and servers without these rules do not, and anybody
with the rights may edit one. So everything is read as far as it goes, the same by every reader, from the object alone:
what cannot be read of a variant leaves it out, and is said. Weights that can be read count: they may be an abort's.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from rollouts.objects.claims import named_owner
from rollouts.objects.fields import list_of, map_of, metadata_of, seconds_at, text_at, text_of
from rollouts.objects.stickiness import STICKY_ANNOTATION

__all__ = [
    "MAX_LABELS",
    "MAX_LABEL_KEY",
    "MAX_LABEL_VALUE",
    "MAX_MODEL",
    "MAX_VARIANTS",
    "MAX_WEIGHT",
    "POOL_SPLIT_KIND",
    "VARIANT_NAME",
    "PoolSplit",
    "PoolVariant",
    "labels_overlap",
    "overlaps",
    "read_pool_split",
    "read_variant",
    "split_name",
]

POOL_SPLIT_KIND = "PoolSplit"

MAX_VARIANTS = 8
"""Two of a Rollout, and what is left of those before; few enough for the API server to compare each with each."""
MAX_LABELS = 8
MAX_LABEL_KEY, MAX_LABEL_VALUE = 317, 63
"""Of Kubernetes: a prefix of 253 characters, a slash and a name of 63; a value of 63."""
MAX_MODEL = 256
"""Characters of a model name, as InferenceModel has it."""
MAX_WEIGHT = 1_000_000
"""As InferenceModel and HTTPRoute have it."""
VARIANT_NAME = "[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
"""A label's value that is not empty: it stands in metrics and headers as it is."""

_NAME = re.compile(VARIANT_NAME)
_LONGEST = 253
"""Characters of an object's name."""
_DIGITS = 8

Object = Mapping[str, Any]
Labels = tuple[tuple[str, str], ...]


def split_name(pool: str, model: str) -> str:
    """The name of the PoolSplit of a pool's requests for a model: the pool's, and what tells one model from others."""
    if not model:
        return pool
    digest = hashlib.sha256(model.encode()).hexdigest()[:_DIGITS]
    return f"{pool[: _LONGEST - _DIGITS - 1].rstrip('-.')}-{digest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolVariant:
    """One version of the pool's pods. ``labels`` are sorted, never empty; ``weight`` is 0 to ``MAX_WEIGHT``.

    ``model``: the name that is sent to its pods, empty for the one that clients ask for.
    """

    name: str
    labels: Labels
    model: str = ""
    weight: int = 0

    def matches(self, labels: Mapping[str, Any]) -> bool:
        """Whether a pod with these labels is the variant's."""
        return all(labels.get(key) == value for key, value in self.labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSplit:
    """A PoolSplit as far as it can be read. ``pool`` is empty where it names none: it is nobody's then.

    Names of variants are unique. ``problems``: what could not be read, and which labels overlap, in words.
    """

    namespace: str = ""
    name: str
    pool: str
    model_name: str = ""
    """Only requests for this model; empty: all requests of the pool."""
    variants: tuple[PoolVariant, ...] = ()
    owner: str = ""
    """The Rollout that it names (``claims.named_owner``); empty where it names none."""
    sticky: str = ""
    """What its Rollout left on it (``stickiness.STICKY_ANNOTATION``)."""
    created: float = 0.0
    """Unix time; of two splits for the same requests the older one counts."""
    problems: tuple[str, ...] = ()

    def variant_of(self, labels: Mapping[str, Any]) -> PoolVariant | None:
        """The variant of a pod with these labels; None where it is none's, or more than one's."""
        found = [variant for variant in self.variants if variant.matches(labels)]
        return found[0] if len(found) == 1 else None


def read_pool_split(obj: Object) -> PoolSplit:
    """Read a raw PoolSplit. Never raises, whatever it holds."""
    problems: list[str] = []
    variants: dict[str, PoolVariant] = {}
    entries = list_of(map_of(obj.get("spec")).get("variants"))
    if len(entries) > MAX_VARIANTS:
        problems.append(f"spec.variants: more than {MAX_VARIANTS}; the rest is left out")
    for index, entry in enumerate(entries[:MAX_VARIANTS]):
        variant = _variant(map_of(entry), f"spec.variants[{index}]", problems)
        if variant is not None and variant.name in variants:
            problems.append(f"spec.variants[{index}].name: {variant.name} is there before; it is left out")
        elif variant is not None:
            variants[variant.name] = variant
    if not any(variant.weight for variant in variants.values()):
        problems.append("spec.variants: no variant has a weight; give one its share")
    problems.extend(overlaps(variants.values()))
    return PoolSplit(
        namespace=text_of(metadata_of(obj).get("namespace")),
        name=text_of(metadata_of(obj).get("name")),
        pool=text_at(obj, "spec", "poolRef", "name"),
        model_name=_model(map_of(obj.get("spec")).get("modelName"), "spec.modelName", problems),
        variants=tuple(variants.values()),
        owner=named_owner(obj),
        sticky=text_at(obj, "metadata", "annotations", STICKY_ANNOTATION),
        created=seconds_at(obj, "metadata", "creationTimestamp"),
        problems=tuple(problems),
    )


def read_variant(entry: Object) -> PoolVariant | None:
    """A variant as a Rollout's target has it, without a weight; None where name or labels cannot be read."""
    return _variant({**entry, "weight": 0}, "", [])


def overlaps(variants: Iterable[PoolVariant]) -> list[str]:
    """Each two variants that one pod could be, in words."""
    return [
        f"variants {first.name} and {second.name}: a pod could have the labels of both; "
        "give one of their labels another value"
        for first, second in combinations(variants, 2)
        if labels_overlap(first.labels, second.labels)
    ]


def labels_overlap(first: Sequence[tuple[str, str]], second: Sequence[tuple[str, str]]) -> bool:
    """Whether one pod could have all labels of both: no key has different values."""
    other = dict(second)
    return all(other.get(key, value) == value for key, value in first)


def _variant(entry: Object, path: str, problems: list[str]) -> PoolVariant | None:
    name = text_of(entry.get("name"))
    if len(name) > MAX_LABEL_VALUE or not _NAME.fullmatch(name):
        problems.append(
            f"{path}.name: must be 1 to {MAX_LABEL_VALUE} letters, digits, -, _ and .; it is left out"
        )
        return None
    labels = _labels(entry.get("labels"))
    if not labels:
        problems.append(f"{path}.labels: must be 1 to {MAX_LABELS} labels with text values; it is left out")
        return None
    weight = entry.get("weight")
    if not isinstance(weight, int) or isinstance(weight, bool) or not 0 <= weight <= MAX_WEIGHT:
        problems.append(f"{path}.weight: must be a whole number from 0 to {MAX_WEIGHT}; it counts as 0")
        weight = 0
    model = _model(entry.get("model"), f"{path}.model", problems)
    return PoolVariant(name=name, labels=labels, model=model, weight=weight)


def _labels(value: Any) -> Labels:
    """Sorted labels; none where one is no text: what is left would match more than it says."""
    labels = map_of(value)
    if len(labels) > MAX_LABELS or not all(
        isinstance(key, str) and isinstance(text, str) for key, text in labels.items()
    ):
        return ()
    return tuple(sorted(labels.items()))


def _model(value: Any, path: str, problems: list[str]) -> str:
    """A model name that may be left out."""
    if value is None or (isinstance(value, str) and len(value) <= MAX_MODEL):
        return value or ""
    problems.append(f"{path}: must be text of at most {MAX_MODEL} characters; it counts as left out")
    return ""
