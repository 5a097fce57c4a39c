"""Giving a Managed object up: the label goes, the consent to the same Rollout stays, nothing else changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from rollouts.engine.observation import Claim
from rollouts.engine.rollout_spec import TrafficMode
from rollouts.traffic.fields import claim_of
from rollouts.traffic.releasing import release
from rollouts.traffic.writes import CONSENT_ANNOTATION, ROLLOUT_LABEL, label_value
from tests.kit.routes import apply_patch, ref, route

LONG = "m" * 200
MODEL = {"metadata": {"name": "m", "resourceVersion": "7"}, "spec": {"targetModels": [{"name": "a1"}]}}


def labelled(obj: dict[str, Any], rollout: str, **annotations: str) -> dict[str, Any]:
    obj = copy.deepcopy(obj)
    obj["metadata"]["labels"] = {"team": "a", ROLLOUT_LABEL: label_value(rollout)}
    if annotations:
        obj["metadata"]["annotations"] = annotations
    return obj


@pytest.mark.parametrize("rollout", ["demo", LONG], ids=["short", "long"])
@pytest.mark.parametrize("obj", [route([ref("v1", 100)]), MODEL], ids=["route", "model"])
def test_what_is_released_is_the_same_rollouts_to_take_over_and_no_others(
    obj: dict[str, Any], rollout: str
) -> None:
    live = labelled(obj, rollout)
    stored = apply_patch(copy.deepcopy(live), release(live, rollout).operations)

    assert claim_of(stored, TrafficMode.MANAGED, rollout) == (Claim.CONSENTED, rollout)
    assert claim_of(stored, TrafficMode.MANAGED, "another") == (Claim.OTHER, rollout)
    assert stored["metadata"].pop("labels") == {"team": "a"}
    assert stored["metadata"].pop("annotations") == {CONSENT_ANNOTATION: rollout}
    for gone in ("labels", "annotations"):
        live["metadata"].pop(gone, None)
    assert stored == live


def test_other_annotations_stay() -> None:
    live = labelled(MODEL, "demo", other="x")
    stored = apply_patch(copy.deepcopy(live), release(live, "demo").operations)

    assert stored["metadata"]["annotations"] == {"other": "x", CONSENT_ANNOTATION: "demo"}


def test_what_carries_no_label_is_left_as_it_is() -> None:
    assert apply_patch(copy.deepcopy(MODEL), release(MODEL, "demo").operations) == MODEL
