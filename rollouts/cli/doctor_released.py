"""Traffic objects that outlived their Rollout: who still sends requests, and whether somebody is there to answer.

A Rollout that goes leaves its traffic object behind (``onDelete``), so that an uninstallation moves no traffic. What
is then deleted beside it, pools above all, turns the weights that stay into errors.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from rollouts.cli.findings import Check, bad, warn
from rollouts.objects.fields import map_of, metadata_of, text_of
from rollouts.traffic.backends import pools_of, rules_of
from rollouts.traffic.writes import CONSENT_ANNOTATION, ROLLOUT_LABEL, label_value

__all__ = ["ending_crd_checks", "released_checks"]

Object = Mapping[str, Any]


def released_checks(
    kind: str, obj: Object, rollouts: Collection[str], pools: Collection[str]
) -> Iterator[Check]:
    """``rollouts`` and ``pools`` are the names that exist in the object's namespace."""
    meta = metadata_of(obj)
    label = text_of(map_of(meta.get("labels")).get(ROLLOUT_LABEL))
    named = text_of(map_of(meta.get("annotations")).get(CONSENT_ANNOTATION)) or label
    known = {*rollouts, *map(label_value, rollouts)}
    if not named or named in known or label in known:
        return
    where = f"{kind} {text_of(meta.get('name'))}"
    missing = sorted(_carrying(obj) - set(pools))
    if missing:
        yield bad(
            f"{where}: its Rollout {named} does not exist, and it sends requests to {', '.join(missing)}, which "
            "does not exist: they get errors",
            f"delete the {kind} where nobody needs it; else bring the pool back, or give its weight to another",
        )
    else:
        yield warn(
            f"{where}: its Rollout {named} does not exist; it stays with the weights that it has",
            f"nothing, if {named} comes back: it takes the {kind} over; else delete it, or its annotation "
            f"{CONSENT_ANNOTATION}",
        )


def _carrying(obj: Object) -> set[str]:
    """Pools of the object's namespace that get requests: by weight, or as the one pool of a model object."""
    spec, namespace = map_of(obj.get("spec")), text_of(metadata_of(obj).get("namespace"))
    pool = text_of(map_of(spec.get("poolRef")).get("name"))
    if pool:
        return {pool}
    weights = [item for rule in rules_of(spec) for item in pools_of(rule, namespace).items()]
    return {arm.name for arm, weight in weights if weight > 0}


def ending_crd_checks(crds: Iterable[Mapping[str, Any]]) -> Iterator[Check]:
    """CRDs that were deleted and wait: nothing of their kinds can be made, and installing them again does not last."""
    names = [one["metadata"]["name"] for one in crds if one["metadata"].get("deletionTimestamp")]
    if names:
        yield bad(
            f"CRDs are being deleted: {', '.join(names)}; that waits for Rollouts whose canary has traffic",
            "start a controller, which gives it back; when they are gone, `rollouts crds | kubectl apply "
            "--server-side -f -` and apply the Rollouts again",
        )
