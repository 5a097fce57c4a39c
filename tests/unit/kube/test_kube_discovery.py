"""Discovery documents, good and broken."""

from __future__ import annotations

from typing import Any

import pytest

from rollouts.kube.client import Resource
from rollouts.kube.discovery import (
    group_versions,
    is_aggregated,
    resources_of_aggregated,
    resources_of_list,
)

_DOCUMENT = {
    "kind": "APIGroupDiscoveryList",
    "items": [
        {
            "metadata": {"name": "apps.test"},
            "versions": [
                {
                    "version": "v1",
                    "resources": [
                        {"resource": "things", "responseKind": {"kind": "Thing"}, "scope": "Namespaced"},
                        {"resource": "worlds", "responseKind": {"kind": "World"}, "scope": "Cluster"},
                        {"resource": "odd"},
                        "not even a map",
                    ],
                },
                {"version": "v2", "freshness": "Stale"},
            ],
        },
        {"metadata": "broken", "versions": 7},
    ],
}


def test_aggregated_discovery_gives_each_resource() -> None:
    assert is_aggregated(_DOCUMENT)
    assert list(resources_of_aggregated(_DOCUMENT)) == [
        Resource("apps.test", "v1", "things", "Thing"),
        Resource("apps.test", "v1", "worlds", "World", namespaced=False),
    ]


def test_classic_discovery_gives_each_resource_without_subresources() -> None:
    listed = {
        "resources": [
            {"name": "things", "kind": "Thing", "namespaced": True},
            {"name": "things/status", "kind": "Thing", "namespaced": True},
            {"name": "worlds", "kind": "World", "namespaced": False},
            {"kind": "Nameless"},
        ]
    }
    groups = {"groups": [{"name": "apps.test", "versions": [{"version": "v1"}, {"version": "v2"}]}, None]}

    assert list(resources_of_list(listed, "apps.test", "v1")) == [
        Resource("apps.test", "v1", "things", "Thing"),
        Resource("apps.test", "v1", "worlds", "World", namespaced=False),
    ]
    assert list(group_versions(groups)) == [("apps.test", "v1"), ("apps.test", "v2")]


@pytest.mark.parametrize("document", [None, 7, [], {}, {"items": None}, {"items": [{"versions": [{}]}]}])
def test_a_broken_document_holds_nothing(document: Any) -> None:
    assert list(resources_of_aggregated(document)) == []
    assert list(resources_of_list(document, "g", "v")) == []
    assert list(group_versions(document)) == []
