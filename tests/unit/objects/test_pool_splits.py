"""PoolSplits as values: whatever an object holds is read as far as it goes, by the same rules everywhere."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollouts.objects.pool_splits import (
    MAX_LABELS,
    MAX_VARIANTS,
    MAX_WEIGHT,
    PoolVariant,
    labels_overlap,
    read_pool_split,
)

V1 = {"name": "v1", "labels": {"release": "v1"}, "weight": 90}
V2 = {"name": "v2", "labels": {"release": "v2"}, "weight": 10, "model": "m-2"}


def pool_split(*variants: Any, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "inferencerollouts.dev/v1alpha1",
        "kind": "PoolSplit",
        "metadata": {"name": "s", "namespace": "ns", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"poolRef": {"name": "p"}, "variants": list(variants), **spec},
    }


def test_what_the_api_server_admits_is_read_without_a_complaint() -> None:
    split = read_pool_split(pool_split(V1, V2, modelName="m"))

    assert (split.namespace, split.name, split.pool, split.model_name) == ("ns", "s", "p", "m")
    assert split.created == 1767225600.0
    assert split.variants == (
        PoolVariant(name="v1", labels=(("release", "v1"),), weight=90),
        PoolVariant(name="v2", labels=(("release", "v2"),), weight=10, model="m-2"),
    )
    assert split.problems == ()


@pytest.mark.parametrize(
    ("variant", "kept", "says"),
    [
        ({**V2, "name": ""}, None, "spec.variants[1].name: must be"),
        ({**V2, "name": "a\nb"}, None, "spec.variants[1].name: must be"),
        ({**V2, "name": "v1"}, None, "v1 is there before"),
        ({**V2, "labels": {}}, None, "spec.variants[1].labels: must be"),
        # Half of the labels would match more pods.
        ({**V2, "labels": {"release": "v2", "tier": 1}}, None, "spec.variants[1].labels: must be"),
        ({**V2, "labels": {f"l{n}": "x" for n in range(MAX_LABELS + 1)}}, None, "spec.variants[1].labels"),
        ({**V2, "weight": "10"}, 0, "counts as 0"),
        ({**V2, "weight": True}, 0, "counts as 0"),
        ({**V2, "weight": MAX_WEIGHT + 1}, 0, "counts as 0"),
        ({key: V2[key] for key in ("name", "labels")}, 0, "counts as 0"),
        ({**V2, "model": 7}, 10, "spec.variants[1].model: must be text"),
        ({**V2, "labels": {"tier": "2"}}, 10, "v1 and v2: a pod could have the labels of both"),
        ("v2", None, "spec.variants[1].name: must be"),
    ],
)
def test_what_is_wrong_with_one_variant_leaves_the_others_as_they_are(
    variant: Any, kept: int | None, says: str
) -> None:
    split = read_pool_split(pool_split(V1, variant))

    assert split.variants[0] == PoolVariant(name="v1", labels=(("release", "v1"),), weight=90)
    assert [found.weight for found in split.variants[1:]] == ([] if kept is None else [kept])
    assert any(says in problem for problem in split.problems), split.problems


def test_a_split_without_a_weight_says_so() -> None:
    assert any("no variant has a weight" in text for text in read_pool_split(pool_split()).problems)
    assert any("no variant has a weight" in text for text in read_pool_split({}).problems)


def test_there_are_at_most_so_many_variants() -> None:
    many = [{"name": f"v{n}", "labels": {"release": f"v{n}"}, "weight": 1} for n in range(MAX_VARIANTS + 1)]

    split = read_pool_split(pool_split(*many))

    assert [variant.name for variant in split.variants] == [f"v{n}" for n in range(MAX_VARIANTS)]
    assert split.problems == (f"spec.variants: more than {MAX_VARIANTS}; the rest is left out",)


def test_a_pod_is_the_one_variants_whose_labels_it_has() -> None:
    split = read_pool_split(pool_split(V1, {**V2, "labels": {"tier": "2"}}))

    found = [
        split.variant_of(labels)
        for labels in (
            {"release": "v1", "app": "x"},
            {"release": "v2", "tier": "2"},
            {"release": "v1", "tier": "2"},  # both: which of them nobody can say
            {"release": "v3"},
            {},
        )
    ]

    assert [variant and variant.name for variant in found] == ["v1", "v2", None, None, None]


LABELS = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xy"), min_size=1)


@given(LABELS, LABELS, LABELS)
def test_labels_overlap_where_a_pod_can_have_both(
    first: dict[str, str], second: dict[str, str], pod: dict[str, str]
) -> None:
    both = labels_overlap(tuple(first.items()), tuple(second.items()))

    assert both is labels_overlap(tuple(second.items()), tuple(first.items()))
    merged = {**first, **second}
    assert both is all(merged[key] == value for key, value in first.items())
    if all(pod.get(key) == value for key, value in merged.items()):
        assert both or merged != {**second, **first}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
VARIANT = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["v1", "v2", ""]) | JSON,
        "labels": LABELS | JSON,
        "weight": st.integers(-1, 100) | JSON,
        "model": st.sampled_from(["m", ""]) | JSON,
    },
)
SPEC = st.fixed_dictionaries(
    {},
    optional={
        "poolRef": st.just({"name": "p"}) | JSON,
        "modelName": st.just("m") | JSON,
        "variants": st.lists(VARIANT | JSON, max_size=10) | JSON,
    },
)


@settings(max_examples=200, deadline=None)
@given(st.fixed_dictionaries({}, optional={"metadata": JSON, "spec": SPEC | JSON}))
def test_any_json_is_read_and_what_is_read_holds_what_it_promises(obj: dict[str, Any]) -> None:
    split = read_pool_split(obj)

    names = [variant.name for variant in split.variants]
    assert len(set(names)) == len(names) <= MAX_VARIANTS
    for variant in split.variants:
        assert variant.name
        assert variant.labels == tuple(sorted(variant.labels))
        assert 0 < len(variant.labels) <= MAX_LABELS
        assert 0 <= variant.weight <= MAX_WEIGHT
    if not any(variant.weight for variant in split.variants):
        assert split.problems
    if not split.problems:  # then no pod is two variants', whatever labels it has
        assert not any(
            labels_overlap(first.labels, second.labels)
            for first in split.variants
            for second in split.variants
            if first is not second
        )
