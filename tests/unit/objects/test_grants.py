"""Which ReferenceGrants allow a route's backends in other namespaces, and what the missing one would be."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from rollouts.objects.grants import foreign_refs

POOL = {"group": "inference.networking.k8s.io", "kind": "InferencePool"}
ROUTE = {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "team-a"}


def route(*refs: dict[str, Any], **rule: Any) -> dict[str, Any]:
    return {"rules": [{"name": "live", "backendRefs": list(refs), **rule}]}


def grant(namespace: str = "team-b", *, source: dict[str, Any] = ROUTE, **target: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "grant", "namespace": namespace},
        "spec": {"from": [source], "to": [{**POOL, **target}]},
    }


@pytest.mark.parametrize(
    ("one", "allowed"),
    [
        (grant(), True),
        (grant(name="v2"), True),
        (grant(name="other"), False),
        (grant("team-c"), False),
        (grant(kind="Service", group=""), False),
        (grant(group="inference.networking.x-k8s.io"), False),
        (grant(source={**ROUTE, "namespace": "elsewhere"}), False),
        (grant(source={**ROUTE, "kind": "GRPCRoute"}), False),
        ({"metadata": {"name": "g", "namespace": "team-b"}, "spec": {"from": "x", "to": None}}, False),
    ],
)
def test_a_grant_allows_what_its_two_lists_name(one: dict[str, Any], allowed: bool) -> None:
    (ref,) = foreign_refs(route({**POOL, "name": "v2", "namespace": "team-b"}), "team-a")

    assert bool(ref.granted_by([one])) is allowed


@pytest.mark.parametrize("ref", [{**POOL, "name": "v2"}, {"name": "svc"}], ids=["a pool", "a Service"])
def test_the_grant_that_is_named_is_the_one_that_allows(ref: dict[str, Any]) -> None:
    (found,) = foreign_refs(route({**ref, "namespace": "team-b"}), "team-a")
    _, _, spec = found.grant.partition(" with spec: ")
    written = {"metadata": {"name": "new", "namespace": "team-b"}, "spec": yaml.safe_load(spec)}

    assert "in namespace team-b" in found.grant
    assert found.granted_by([written]) == "new"


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        (route({**POOL, "name": "v2"}), []),
        (route({**POOL, "name": "v2", "namespace": "team-a"}), []),
        (route({**POOL, "name": "v2", "namespace": "team-b"}), ["InferencePool team-b/v2"]),
        (route(*[{**POOL, "name": "v2", "namespace": "team-b"}] * 2), ["InferencePool team-b/v2"]),
        (
            route(filters=[{"requestMirror": {"backendRef": {"name": "s", "namespace": "team-b"}}}]),
            ["Service team-b/s"],
        ),
        ({"rules": [None, {"backendRefs": [3]}, {"filters": [{"requestMirror": "x"}]}]}, []),
    ],
)
def test_backends_of_other_namespaces_are_found(spec: dict[str, Any], shown: list[str]) -> None:
    assert [ref.shown for ref in foreign_refs(spec, "team-a")] == shown
