"""JSON nested deeper than the parser can follow loses what is too deep, and nothing else."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollouts.kube.connection import parse_object
from rollouts.kube.errors import ApiUnavailable
from rollouts.kube.pruning import prune_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(['[{"', "}]", '\\"', "\\"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=20,
)


def shallow(value: Any, levels: int) -> Any:
    """The obviously right reference."""
    if isinstance(value, dict | list) and not levels:
        return None
    if isinstance(value, dict):
        return {key: shallow(inner, levels - 1) for key, inner in value.items()}
    return [shallow(inner, levels - 1) for inner in value] if isinstance(value, list) else value


@given(VALUES, st.integers(0, 4))
def test_what_is_too_deep_becomes_null_and_all_else_stays(value: Any, levels: int) -> None:
    text = json.dumps(value).encode()

    assert json.loads(prune_json(text, levels)) == shallow(value, levels)


@given(VALUES)
def test_what_is_not_too_deep_keeps_every_byte(value: Any) -> None:
    text = json.dumps(value, indent=1).encode()

    assert prune_json(text, 50) == text


@pytest.mark.parametrize("depth", [300, 1_500, 9_000, 400_000])
def test_one_deep_object_leaves_the_others_of_its_list_readable(depth: int) -> None:
    deep = b'{"metadata": {"name": "deep"}, "spec": ' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"
    items = parse_object(
        b'{"items": [{"metadata": {"name": "one"}}, ' + deep + b', {"metadata": {"name": "two"}}]}'
    )

    assert [item["metadata"]["name"] for item in items["items"]] == ["one", "deep", "two"]


@pytest.mark.timed
@pytest.mark.parametrize(
    "text",
    [b'{"a":' * 5_000, b"[" * 5_000 + b"}" * 5_000, b'{"a": "' + b'\\"[' * 200_000, b'{"a":' * 5_000 + b'"'],
    ids=["cut off", "crossed", "an open string of quotes", "cut off in a string"],
)
def test_what_is_no_json_stays_none_and_costs_no_more_than_its_length(text: bytes) -> None:
    begun = time.process_time()
    with pytest.raises(ApiUnavailable, match="not JSON"):
        parse_object(text)
    prune_json(text)

    assert time.process_time() - begun < 2.0
