"""Schema checks beyond those that the transport suite compares with a real server."""

from __future__ import annotations

from typing import Any

import pytest

from rollouts.lab.memoryapi.schema import apply_defaults, prune, validate


def spec(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {"spec": schema}}


@pytest.mark.parametrize(
    ("schema", "good", "bad", "message"),
    [
        ({"type": "string", "minLength": 2}, "ab", "a", "at least 2"),
        ({"type": "string", "maxLength": 2}, "ab", "abc", "Too long"),
        ({"type": "string", "pattern": "^a+$"}, "aa", "ab", "should match"),
        ({"type": "number", "maximum": 1.5}, 1.5, 1.6, "less than or equal"),
        ({"type": "integer", "minimum": 1, "exclusiveMinimum": True}, 2, 1, "greater than"),
        ({"type": "integer"}, 3, 3.5, "must be of type integer"),
        ({"type": "integer"}, 3.0, True, "must be of type integer"),
        ({"type": "boolean"}, True, 1, "must be of type boolean"),
        ({"type": "array", "minItems": 1, "items": {}}, [1], [], "at least 1"),
        ({"type": "array", "maxItems": 1, "items": {}}, [1], [1, 2], "at most 1"),
        ({"type": "object", "minProperties": 1, "additionalProperties": {}}, {"a": 1}, {}, "at least 1"),
        (
            {"type": "object", "maxProperties": 1, "additionalProperties": {}},
            {"a": 1},
            {"a": 1, "b": 2},
            "at most 1",
        ),
        ({"type": "object", "additionalProperties": {"type": "string"}}, {"a": "b"}, {"a": 1}, "spec.a"),
        ({"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, {"a": 1}, {"c": 1}, "anyOf"),
        ({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, {"a": 1}, {"a": 1, "b": 1}, "oneOf"),
        ({"allOf": [{"required": ["a"]}]}, {"a": 1}, {}, "spec.a: Required"),
        ({"not": {"required": ["a"]}}, {}, {"a": 1}, "not"),
        ({"type": "string", "nullable": True}, None, 1, "must be of type string"),
        (
            {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["n"],
                "items": {"type": "object"},
            },
            [{"n": 1}, {"n": 2}],
            [{"n": 1}, {"n": 1}],
            "Duplicate",
        ),
    ],
)
def test_each_rule_passes_the_good_and_names_the_bad(
    schema: dict[str, Any], good: Any, bad: Any, message: str
) -> None:
    assert validate({"spec": good}, spec(schema)) == []
    errors = validate({"spec": bad}, spec(schema))
    assert len(errors) == 1
    assert message in errors[0]
    assert errors[0].startswith("spec")


def test_at_most_ten_errors_are_told() -> None:
    schema = spec({"type": "array", "items": {"type": "string"}})

    assert len(validate({"spec": list(range(50))}, schema)) == 10


def test_defaults_reach_into_maps_and_lists_but_make_no_parents() -> None:
    leaf = {"type": "object", "properties": {"x": {"default": 1}}}
    schema = spec(
        {
            "type": "object",
            "properties": {
                "list": {"type": "array", "items": leaf},
                "map": {"type": "object", "additionalProperties": leaf},
                "absent": leaf,
                "whole": {**leaf, "default": {}},
                "null": {"type": "string", "default": "d"},
            },
        }
    )
    obj: dict[str, Any] = {"spec": {"list": [{}, {"x": 2}], "map": {"k": {}}, "null": None}}

    apply_defaults(obj, schema)

    assert obj["spec"] == {
        "list": [{"x": 1}, {"x": 2}],
        "map": {"k": {"x": 1}},
        "whole": {"x": 1},
        "null": "d",
    }


def test_pruning_tells_the_paths_and_spares_what_is_to_be_kept() -> None:
    schema = spec(
        {
            "type": "object",
            "properties": {
                "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                "list": {"type": "array", "items": {"type": "object", "properties": {"a": {}}}},
            },
        }
    )
    obj: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "K",
        "metadata": {"anything": 1},
        "extra": 1,
        "spec": {"open": {"any": {"thing": 1}}, "list": [{"a": 1, "b": 2}], "gone": 1},
    }

    assert prune(obj, schema) == ["extra", "spec.list[0].b", "spec.gone"]
    assert obj["spec"] == {"open": {"any": {"thing": 1}}, "list": [{"a": 1}]}
    assert obj["metadata"] == {"anything": 1}


def test_what_has_not_changed_is_not_judged_again() -> None:
    """As the real server: an object that a stricter schema would refuse can still get a label."""
    schema = spec(
        {"type": "object", "properties": {"a": {"type": "string"}, "list": {"items": {"maximum": 1}}}}
    )
    old: dict[str, Any] = {"spec": {"a": 1, "list": [5, 6]}}

    assert validate({"spec": {"a": 1, "list": [5, 6], "new": 1}}, schema, old) == []
    assert len(validate({"spec": {"a": 2, "list": [5, 7]}}, schema, old)) == 2
    assert len(validate({"spec": {"a": None}}, schema, {"spec": {}})) == 1


def test_a_pattern_ends_where_the_text_ends() -> None:
    schema = spec({"type": "string", "pattern": "^a+$"})

    assert validate({"spec": "aa\n"}, schema) != []
