"""managedFields: entries are read as the API server writes them, and nothing that is there instead raises."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from rollouts.objects.managed_fields import managed_fields


def entry(**other: Any) -> dict[str, Any]:
    """What an API server stores for ``kubectl scale``."""
    return {
        "manager": "kubectl",
        "operation": "Update",
        "apiVersion": "apps/v1",
        "time": "2026-11-30T20:55:25Z",
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:spec": {"f:replicas": {}}},
        "subresource": "scale",
        **other,
    }


def of(*entries: Any) -> list[Any]:
    return list(managed_fields({"metadata": {"managedFields": list(entries)}}))


def test_an_entry_says_who_wrote_what_and_when() -> None:
    [one] = of(entry())

    assert (one.manager, one.operation, one.subresource) == ("kubectl", "Update", "scale")
    assert one.at == datetime(2026, 11, 30, 20, 55, 25, tzinfo=UTC)
    assert one.owns("spec")
    assert one.owns("spec", "replicas")
    assert not one.owns("spec", "template")
    assert not one.owns("replicas")
    assert not one.owns("spec", "replicas", "more")


@pytest.mark.parametrize(
    "time", [None, 7, "", "yesterday", "2026-11-30T20:55:25", "0001-01-01T00:00:00+23:59", "2" * 100_000]
)
def test_a_time_that_cannot_be_read_is_none(time: Any) -> None:
    [one] = of(entry(time=time))

    assert one.at is None
    assert one.manager == "kubectl"


@pytest.mark.parametrize("wrong", [None, 7, "text", [], {"f:spec": 7}, {"f:spec": {"f:replicas": None}}])
def test_fields_of_the_wrong_type_are_not_owned_below(wrong: Any) -> None:
    [one] = of(entry(fieldsV1=wrong, manager=7, subresource=None))

    assert not one.owns("spec", "replicas", "more")
    assert (one.manager, one.subresource) == ("", "")


@pytest.mark.parametrize("wrong", [None, 7, "text", {"manager": "kubectl"}])
def test_a_list_that_is_none_has_no_entries(wrong: Any) -> None:
    assert list(managed_fields({"metadata": {"managedFields": wrong}})) == []
    assert list(managed_fields({"metadata": wrong})) == []
