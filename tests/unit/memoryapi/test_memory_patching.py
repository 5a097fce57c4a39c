"""JSON patch, merge patch and strategic merge patch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollouts.kube.errors import Conflict, Invalid
from rollouts.lab.memoryapi.patching import json_patch, merge_patch, strategic_merge_patch

_json = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=1), inner, max_size=3)
    ),
    max_leaves=12,
)


def add(path: str, value: Any) -> dict[str, Any]:
    return {"op": "add", "path": path, "value": value}


@pytest.mark.parametrize(
    ("doc", "operations", "want"),
    [
        pytest.param({"a": 1}, [add("/b", 2)], {"a": 1, "b": 2}, id="add a member"),
        pytest.param({"a": [1, 3]}, [add("/a/1", 2)], {"a": [1, 2, 3]}, id="insert into a list"),
        pytest.param({"a": [1]}, [add("/a/-", 2)], {"a": [1, 2]}, id="append to a list"),
        pytest.param({"a": 1, "b": 2}, [{"op": "remove", "path": "/a"}], {"b": 2}, id="remove a member"),
        pytest.param({"a": [1, 2]}, [{"op": "remove", "path": "/a/0"}], {"a": [2]}, id="remove an item"),
        pytest.param({"a": 1}, [{"op": "replace", "path": "/a", "value": 2}], {"a": 2}, id="replace"),
        pytest.param(
            {"a": {"b": 1}, "c": {}},
            [{"op": "move", "from": "/a/b", "path": "/c/d"}],
            {"a": {}, "c": {"d": 1}},
            id="move",
        ),
        pytest.param({"a": 1}, [{"op": "copy", "from": "/a", "path": "/b"}], {"a": 1, "b": 1}, id="copy"),
        pytest.param({"a/b": {"~": 1}}, [add("/a~1b/~0", 2)], {"a/b": {"~": 2}}, id="escaped names"),
        pytest.param({"a": None}, [{"op": "test", "path": "/a", "value": None}], {"a": None}, id="test null"),
        pytest.param({}, [{"op": "test", "path": "/a", "value": None}], {}, id="test for absence"),
    ],
)
def test_json_patch_does_what_rfc_6902_says(doc: Any, operations: list[Any], want: Any) -> None:
    assert json_patch(doc, operations) == want


@pytest.mark.parametrize(
    "operations",
    [
        [{"op": "remove", "path": "/nope"}],
        [{"op": "replace", "path": "/list/9", "value": 1}],
        [add("/list/3", 1)],
        [add("/list/x", 1)],
        [add("/no/where", 1)],
        [add("no-slash", 1)],
        [add("", 1)],
        [{"op": "copy", "from": "/nope", "path": "/a"}],
        [{"path": "/a"}],
        {"op": "add"},
        ["text"],
        [add("/a", 1)] * 10_001,
    ],
)
def test_a_patch_that_does_not_apply_is_invalid(operations: Any) -> None:
    with pytest.raises(Invalid):
        json_patch({"list": [1]}, operations)


def test_with_a_test_it_is_a_conflict_instead() -> None:
    with pytest.raises(Conflict, match="/a"):
        json_patch({"a": 1}, [{"op": "test", "path": "/a", "value": 2}])
    with pytest.raises(Conflict):
        json_patch({"a": 1}, [{"op": "test", "path": "/a", "value": 1}, {"op": "remove", "path": "/b"}])


@given(_json, _json)
def test_a_merge_patch_is_idempotent(doc: Any, patch: Any) -> None:
    once = merge_patch(copy.deepcopy(doc), copy.deepcopy(patch))

    assert merge_patch(copy.deepcopy(once), copy.deepcopy(patch)) == once


@pytest.mark.parametrize(
    ("doc", "patch", "want"),
    [
        # The examples of RFC 7386, appendix A, that concern objects.
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch_does_what_rfc_7386_says(doc: Any, patch: Any, want: Any) -> None:
    assert merge_patch(doc, patch) == want


@pytest.mark.parametrize(
    ("doc", "patch", "want"),
    [
        pytest.param(
            {"containers": [{"name": "a", "image": "1"}, {"name": "b"}]},
            {"containers": [{"name": "a", "image": "2"}], "$setElementOrder/containers": [{"name": "a"}]},
            {"containers": [{"name": "a", "image": "2"}, {"name": "b"}]},
            id="a list merges by its key",
        ),
        pytest.param(
            {"containers": [{"name": "a"}, {"name": "b"}]},
            {"containers": [{"name": "a", "$patch": "delete"}]},
            {"containers": [{"name": "b"}]},
            id="an item is deleted by its key",
        ),
        pytest.param({"args": ["a", "b"]}, {"args": ["c"]}, {"args": ["c"]}, id="another list is replaced"),
        pytest.param(
            {"finalizers": ["a"]},
            {"finalizers": ["b"]},
            {"finalizers": ["a", "b"]},
            id="finalizers are a set",
        ),
        pytest.param(
            {"finalizers": ["a", "b"]},
            {"$deleteFromPrimitiveList/finalizers": ["a"]},
            {"finalizers": ["b"]},
            id="and lose members by name",
        ),
        pytest.param({"a": {"b": 1}}, {"a": {"$patch": "replace", "c": 2}}, {"a": {"c": 2}}, id="replace"),
    ],
)
def test_strategic_merge_patch_knows_the_usual_lists(doc: Any, patch: Any, want: Any) -> None:
    assert strategic_merge_patch(doc, patch) == want
