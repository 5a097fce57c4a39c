"""JSONPath, tables and selectors: what kubectl shows and asks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from rollouts.kube.errors import Invalid
from rollouts.lab.memoryapi.jsonpath import find_all
from rollouts.lab.memoryapi.kinds import Column, ServedKind
from rollouts.lab.memoryapi.selectors import parse_field_selector, parse_label_selector
from rollouts.lab.memoryapi.tables import human_duration, table

NOW = datetime(2030, 1, 1, 0, 10, 0, tzinfo=UTC)
OBJECT: dict[str, Any] = {
    "metadata": {"name": "a", "creationTimestamp": "2030-01-01T00:00:00Z", "labels": {"x.y/z": "1"}},
    "spec": {"size": 3, "steps": [{"w": 1}, {"w": 10}]},
    "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Stalled", "status": "False"}]},
}


@pytest.mark.parametrize(
    ("path", "want"),
    [
        (".spec.size", [3]),
        (".spec.nope.deeper", []),
        (".spec.steps[1].w", [10]),
        (".spec.steps[-1].w", [10]),
        (".spec.steps[9].w", []),
        (".spec.steps[*].w", [1, 10]),
        ('.status.conditions[?(@.type=="Ready")].status', ["True"]),
        (".status.conditions[?(@.type=='Nope')].status", []),
        (r".metadata.labels.x\.y/z", ["1"]),
        (".metadata.labels['x.y/z']", ["1"]),
        ("no dot", []),
        (".spec[", []),
        ("", []),
    ],
)
def test_json_paths_find_what_kubectl_finds(path: str, want: list[Any]) -> None:
    assert find_all(OBJECT, path) == want


@pytest.mark.parametrize(
    ("seconds", "want"),
    [
        (-5, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (303, "5m3s"),
        (600, "10m"),
        (10799, "179m"),
        (3 * 3600, "3h"),
        (5 * 3600 + 600, "5h10m"),
        (30 * 3600, "30h"),
        (3 * 86400 + 7200, "3d2h"),
        (40 * 86400, "40d"),
        (800 * 86400, "2y"),
    ],
)
def test_ages_read_as_in_kubectl(seconds: int, want: str) -> None:
    assert human_duration(seconds) == want


def test_a_table_has_the_printer_columns_of_the_kind() -> None:
    columns = (
        Column(name="Size", type="integer", path=".spec.size"),
        Column(name="Ready", type="string", path='.status.conditions[?(@.type=="Ready")].status', priority=1),
        Column(name="Missing", type="string", path=".spec.nope"),
        Column(name="Age", type="date", path=".metadata.creationTimestamp"),
    )
    kind = ServedKind(
        group="g", plural="ws", singular="w", name="W", versions=("v1",), custom=True, columns={"v1": columns}
    )

    made = table(kind, "v1", [OBJECT], now=NOW)

    assert [column["name"] for column in made["columnDefinitions"]] == [
        "Name",
        "Size",
        "Ready",
        "Missing",
        "Age",
    ]
    assert made["rows"][0]["cells"] == ["a", 3, "True", None, "10m"]
    assert made["rows"][0]["object"]["metadata"]["name"] == "a"
    assert "spec" not in made["rows"][0]["object"]
    assert table(kind, "v1", [OBJECT], now=NOW, include="Object")["rows"][0]["object"] is OBJECT
    assert "object" not in table(kind, "v1", [OBJECT], now=NOW, include="None")["rows"][0]


@pytest.mark.parametrize("selector", ["a b", "a in", "=x", "a=(b)", "a in x,y"])
def test_a_malformed_label_selector_is_refused(selector: str) -> None:
    with pytest.raises(Invalid):
        parse_label_selector(selector)


def test_field_selectors_are_the_few_that_a_server_has() -> None:
    assert parse_field_selector("metadata.name=a", "widgets")(OBJECT)
    assert not parse_field_selector("metadata.name!=a", "widgets")(OBJECT)
    with pytest.raises(Invalid, match=r"spec\.size"):
        parse_field_selector("spec.size=3", "widgets")
    with pytest.raises(Invalid):
        parse_field_selector("nonsense", "widgets")
