"""PoolSplits: what is written, what is read of any object, and the way back from any edit."""

from __future__ import annotations

import copy
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollouts.carriers import TrafficPlace
from rollouts.carriers.pool_split import POOL_SPLIT
from rollouts.engine.actions import DesiredTraffic
from rollouts.engine.observation import Claim
from rollouts.engine.rollout_spec import TrafficMode, VariantTraffic
from rollouts.engine.variants import labels_of, variant_identity
from rollouts.objects import kinds
from rollouts.objects.pool_splits import MAX_WEIGHT, read_pool_split, split_name
from rollouts.traffic import wayback
from rollouts.traffic.reading import Reader
from rollouts.traffic.writes import Apply
from rollouts.units import FULL, ZERO, Weight

Object = dict[str, Any]

STABLE = variant_identity("qwen", {"release": "qwen"})
CANARY = variant_identity("r1", {"release": "r1", "a": "b"}, "deepseek")
THIRD = variant_identity("llama", {"release": "llama"})
SPEC = VariantTraffic(kind="PoolSplit", name="pool", model_name="", pool_name="pool")
PLACE = TrafficPlace(rollout="mymodel", namespace="default", resource=kinds.POOL_SPLIT)
READER = Reader(rollout="mymodel", arms=(STABLE, CANARY), stored=(STABLE, CANARY))


def carrier(**fields: Any) -> Any:
    return POOL_SPLIT.carrier(
        PLACE, VariantTraffic(**{**{f: getattr(SPEC, f) for f in SPEC.__slots__}, **fields}), None
    )


def desired(weight: int, canary: Any = CANARY, **fields: Any) -> DesiredTraffic:
    return DesiredTraffic(stable=STABLE, canary=canary, weight=Weight(weight), **fields)


def entry(name: str, weight: int, **fields: Any) -> Object:
    return {"name": name, "labels": {"release": name}, "weight": weight, **fields}


def live(*entries: Object, label: str = "mymodel", **spec: Any) -> Object:
    meta = {"name": "pool", "namespace": "default", "resourceVersion": "7", "uid": "u"}
    return {
        "metadata": {**meta, "labels": {"inferencerollouts.dev/rollout": label}},
        "spec": {"poolRef": {"name": "pool"}, "variants": list(entries), **spec},
    }


QWEN, R1 = (
    entry("qwen", 90),
    {"name": "r1", "labels": {"a": "b", "release": "r1"}, "model": "deepseek", "weight": 10},
)


def written(raw: Object | None, wanted: DesiredTraffic, **spec: Any) -> Object:
    found = carrier(**spec).render(raw, wanted)
    assert isinstance(found, Apply)
    return found.body


def test_what_is_made_names_pool_variants_and_its_rollout_and_no_owner():
    made = written(None, desired(1000), model_name="mymodel")

    assert made["spec"] == {"poolRef": {"name": "pool"}, "modelName": "mymodel", "variants": [QWEN, R1]}
    assert made["metadata"] == {
        "name": "pool",
        "namespace": "default",
        "labels": {"inferencerollouts.dev/rollout": "mymodel"},
    }


def test_an_arm_without_weight_is_not_listed():
    assert [one["name"] for one in written(live(QWEN, R1), desired(0))["spec"]["variants"]] == ["qwen"]
    assert [one["name"] for one in written(live(QWEN, R1), desired(FULL))["spec"]["variants"]] == ["r1"]


def test_what_says_so_already_is_not_written():
    assert carrier().render(live(QWEN, R1), desired(1000)) is None


def test_what_is_taken_over_gets_our_label():
    assert carrier().render(live(QWEN, R1, label=""), desired(1000)) is not None


@given(
    weight=st.integers(0, FULL), known=st.lists(st.sampled_from([QWEN, R1, entry("llama", 7)]), max_size=3)
)
def test_any_list_becomes_ours_with_the_exact_share(weight: int, known: list[Object]) -> None:
    made = written(live(*known, label="nobody"), desired(weight, drop=(THIRD,)))["spec"]
    read = read_pool_split({"metadata": {"name": "pool"}, "spec": made})

    shares = {one.name: one.weight for one in read.variants}
    assert read.problems == ()
    assert all(0 < value <= MAX_WEIGHT for value in shares.values())
    assert Fraction(shares.get("r1", 0), sum(shares.values())) == Fraction(weight, FULL)
    assert set(shares) <= {"qwen", "r1"}


# --- reading ---------------------------------------------------------------------------------------


def test_arms_are_told_by_name_labels_and_model():
    view = carrier().view(live(QWEN, R1), READER)

    assert view.mode is TrafficMode.MANAGED
    assert view.claim is Claim.OURS
    assert [dict(rule.entries) for rule in view.rules] == [{STABLE: 90, CANARY: 10}]
    assert view.structure_current


def test_an_arms_name_for_other_pods_is_another_version():
    view = carrier().view(live(QWEN, entry("r1", 10)), READER)

    assert [dict(rule.entries) for rule in view.rules] == [
        {STABLE: 90, variant_identity("r1", {"release": "r1"}): 10}
    ]
    assert not view.structure_current


@pytest.mark.parametrize(
    "changed",
    [
        live(QWEN, R1, entry("llama", 1)),
        live(QWEN, R1, {"name": "broken"}),
        live(QWEN, R1, modelName="m"),
        live(entry("qwen", 90, model="other"), R1),
    ],
)
def test_whatever_else_is_said_is_to_be_put_right(changed: Object) -> None:
    assert not carrier().view(changed, READER).structure_current


def test_at_first_sight_another_version_of_the_targets_name_is_not_the_target():
    entry_of_old = entry("r1", 100, labels={"release": "old"})
    view = carrier().view(live(entry_of_old), Reader(rollout="mymodel", arms=(CANARY,)))

    assert [dict(rule.entries) for rule in view.rules] == [{variant_identity("r1", {"release": "old"}): 100}]


def test_versions_that_nobody_knows_yet_are_read_with_their_labels():
    view = carrier().view(live(QWEN, R1), Reader(rollout="mymodel", arms=(CANARY,)))

    assert [dict(rule.entries) for rule in view.rules] == [{STABLE: 90, CANARY: 10}]


@pytest.mark.parametrize(
    "raw", [{}, {"spec": 3}, {"spec": {"variants": {}}}, {"spec": {"variants": [1, None]}}]
)
def test_nothing_that_is_stored_raises(raw: Object) -> None:
    assert carrier().view(raw, READER).exists
    assert POOL_SPLIT.lists(raw)[0].path == "/spec/variants"


def test_names_of_splits_are_the_pools_and_tell_models_apart():
    names = {split_name("pool", model) for model in ("", "a", "b", "a" * 256)}

    assert "pool" in names
    assert len(names) == 4
    assert len(split_name("p" * 253, "a")) == 253


# --- the way back ----------------------------------------------------------------------------------

RECORD = carrier().way_back(live(QWEN), STABLE, CANARY)
GIVEN = {"name": "qwen", "labels": {"release": "qwen"}}


def lowered(raw: Object, limit: Weight = ZERO) -> list[Object]:
    patch = wayback.render(raw, RECORD, limit, POOL_SPLIT.lists)
    assert patch is not None
    (operation,) = patch.operations[1:]
    assert (operation["op"], operation["path"]) == ("add", "/spec/variants")
    found: list[Object] = operation["value"]
    return found


@pytest.mark.parametrize(
    "edited",
    [
        [QWEN, R1],
        [R1],
        [R1, entry("llama", 90)],
        [QWEN, {**R1, "name": "renamed"}],
        [QWEN, {**R1, "labels": {"release": "llama"}}],
        [entry("qwen", 90, labels={"release": "nobody"}), R1],
        [{**R1, "name": "qwen", "weight": 90}, {**QWEN, "name": "r1", "weight": 10}],
        [entry("renamed", 90, labels={"release": "qwen"}), R1],
    ],
    ids=[
        "as it was",
        "stable gone",
        "a third for stable",
        "canary renamed",
        "canary's pods others",
        "stable's pods others",
        "names swapped",
        "stable renamed",
    ],
)
def test_all_goes_back_to_the_stable_that_was_recorded(edited: list[Object]) -> None:
    (only,) = lowered(live(*copy.deepcopy(edited)))

    assert {key: only[key] for key in ("name", "labels")} == GIVEN
    assert only["weight"] >= 1


def test_a_limit_leaves_the_canary_its_part():
    assert {
        one["name"]: one["weight"]
        for one in lowered(live(entry("qwen", 50), {**R1, "weight": 50}), Weight(1000))
    } == {
        "qwen": 90,
        "r1": 10,
    }


def test_versions_of_one_name_are_told_by_labels():
    newer = variant_identity("qwen", {"release": "newer"})
    record = carrier().way_back(live(QWEN), STABLE, newer)

    assert wayback.render(live(QWEN), record, ZERO, POOL_SPLIT.lists) is None
    assert wayback.render(live(entry("qwen", 1, labels={"release": "newer"})), record, ZERO, POOL_SPLIT.lists)


def test_a_split_without_the_canary_is_left_alone():
    assert wayback.render(live(QWEN), RECORD, ZERO, POOL_SPLIT.lists) is None


def test_the_record_holds_labels_and_model():
    assert labels_of(RECORD.canary.arm) == {"release": "r1", "a": "b"}
    assert RECORD.canary.arm == CANARY


def test_a_model_name_that_somebody_added_is_written_over():
    assert written(live(QWEN, R1, modelName="m"), desired(1000))["spec"]["modelName"] == ""
