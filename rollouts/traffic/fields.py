"""What every traffic object has: weights, a claim, a last writer. A wrong type reads as absent, nothing raises."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rollouts.engine.observation import Claim
from rollouts.engine.rollout_spec import TrafficMode
from rollouts.objects.fields import map_of, metadata_of
from rollouts.objects.managed_fields import managed_fields
from rollouts.traffic.writes import CONSENT_ANNOTATION, ROLLOUT_LABEL, label_value
from rollouts.units import entry_weight

__all__ = [
    "claim_of",
    "covers",
    "last_writer",
    "weight_of",
]


def weight_of(entry: Any) -> int:
    """Weight of an entry, by the one reading of weights (``units.entry_weight``)."""
    return entry_weight(map_of(entry).get("weight"))


def claim_of(obj: Mapping[str, Any], mode: TrafficMode, rollout: str) -> tuple[Claim, str]:
    """Whose the object is, and the name of the Rollout that its label or annotation gives.

    A Managed object is ours by its label; the annotation alone is the consent to take it over.
    """
    meta = metadata_of(obj)
    label = map_of(meta.get("labels")).get(ROLLOUT_LABEL)
    consent = map_of(meta.get("annotations")).get(CONSENT_ANNOTATION)
    named = label if mode is TrafficMode.MANAGED and label else consent or label
    if not isinstance(named, str) or not named:
        return Claim.UNCLAIMED, ""
    if named not in (rollout, label_value(rollout)):
        return Claim.OTHER, named
    ours = mode is TrafficMode.MANAGED and label == label_value(rollout)
    return (Claim.OURS if ours else Claim.CONSENTED), rollout


def last_writer(obj: Mapping[str, Any], field: str, ours: str) -> tuple[str, datetime | None]:
    """The field manager that owns ``spec.<field>``, and when it wrote. Dots part the names of nested fields.

    The field is an atomic list or a number, so who owns it changed it last. Several may own the same value; then
    ``ours`` counts, since the value is what we wrote.
    """
    found = [
        (one.manager, one.at)
        for one in managed_fields(obj)
        if one.owns("spec", *field.split(".")) and not one.subresource
    ]
    for manager, moment in found:
        if manager == ours:
            return manager, moment
    return max(found, key=lambda item: str(item[1] or ""), default=("", None))


def covers(live: Any, wanted: Any) -> bool:
    """Whether ``live`` says everything that ``wanted`` says; what the server defaulted is ignored."""
    if isinstance(wanted, Mapping):
        return isinstance(live, Mapping) and all(
            value is None or (key in live and covers(live[key], value)) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(live, list)
            and len(live) == len(wanted)
            and all(covers(a, b) for a, b in zip(live, wanted, strict=True))
        )
    return bool(live == wanted)
