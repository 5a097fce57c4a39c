"""Identities of variants: labels and model in the source, there and back; hints of stable versions."""

from __future__ import annotations

import pytest

from rollouts.engine.revision import revision_of
from rollouts.engine.variants import (
    hinted_variant,
    labels_of,
    model_of,
    selector_of,
    variant_identity,
)
from rollouts.engine.versions import Identity


@pytest.mark.parametrize("model", ["", "deepseek", "a model=of odd spelling"])
@pytest.mark.parametrize("labels", [{"release": "r1"}, {"b": "", "example.com/a": "x.y_z"}])
def test_labels_and_model_come_back(labels: dict[str, str], model: str) -> None:
    identity = variant_identity("v", labels, model)

    assert (labels_of(identity), model_of(identity)) == (labels, model)
    assert identity.arm == identity


def test_another_order_is_the_same_version_and_other_labels_or_a_model_another():
    one = variant_identity("v", {"a": "1", "b": "2"})

    assert variant_identity("v", {"b": "2", "a": "1"}) == one
    assert selector_of(one) == "a=1,b=2"
    others = [variant_identity("v", {"a": "1"}), variant_identity("v", {"a": "1", "b": "2"}, "m"), one]
    assert len({revision_of(each, "").hash for each in others}) == 3


@pytest.mark.parametrize(
    ("hint", "name"),
    [
        ("release=qwen", "qwen"),
        ("release==qwen", "qwen"),
        ("b=2, a=1", "2-1"),
        (f"a={'x' * 60},example.com/b={'y' * 60}", "x" * 60 + "-yy"),
    ],
)
def test_a_hint_names_a_variant_after_its_values(hint: str, name: str) -> None:
    found = hinted_variant(hint)

    assert found is not None
    assert found.name == name
    assert all(pair in hint.replace("==", "=") for pair in selector_of(found).split(","))


@pytest.mark.parametrize(
    "hint",
    [
        "",
        "qwen",
        "release=",
        "=x",
        "a=b,,",
        "a=b c",
        "a=b,a=c",
        "a=b=c",
        "a=-b",
        "a=b/c",
        "a b=c",
        f"a={'x' * 64}",
        ",".join(f"a{number}=x" for number in range(9)),
    ],
)
def test_what_is_no_selector_names_none(hint: str) -> None:
    assert hinted_variant(hint) is None


def test_an_adapter_is_told_by_name_alone_in_traffic():
    adapter = Identity(kind="Adapter", group="", name="a", source="/a")

    assert adapter.arm == Identity(kind="Adapter", group="", name="a")
