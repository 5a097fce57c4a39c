"""Copies of requests and sticky sessions in HTTPRoutes."""

from __future__ import annotations

from typing import Any

import pytest

from rollouts.traffic.mirrors import Mirror, keeps_sessions, mirrors_of

POOL_GROUP = "inference.networking.k8s.io"


def route(*filters: Any, inside: bool = False, **rule: Any) -> dict[str, Any]:
    ref: dict[str, Any] = {"group": POOL_GROUP, "kind": "InferencePool", "name": "v1"}
    if inside:
        return {"rules": [{"backendRefs": [{**ref, "filters": list(filters)}], **rule}]}
    return {"rules": [{"backendRefs": [ref], "filters": list(filters), **rule}]}


def mirror(ref: Any, **share: Any) -> dict[str, Any]:
    return {"type": "RequestMirror", "requestMirror": {"backendRef": ref, **share}}


NOBODY = Mirror(group="", kind="Service", namespace="", name="")
SHADOW = Mirror(group="", kind="Service", namespace="", name="shadow")


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        (route(mirror({"name": "shadow", "port": 8000})), {SHADOW}),
        (route(mirror({"name": "shadow"}), inside=True), {SHADOW}),
        (route(mirror({"name": "shadow"}, percent=10)), {SHADOW}),
        (route(mirror({"name": "shadow"}, percent=0)), set()),
        (route(mirror({"name": "shadow"}, fraction={"numerator": 1, "denominator": 3})), {SHADOW}),
        (route(mirror({"name": "shadow"}, fraction={"numerator": 0})), set()),
        (
            route(mirror({"group": POOL_GROUP, "kind": "InferencePool", "name": "v2", "namespace": "b"})),
            {Mirror(group=POOL_GROUP, kind="InferencePool", namespace="b", name="v2")},
        ),
        (route({"type": "RequestHeaderModifier"}), set()),
        (
            route("nonsense", {"type": "RequestMirror", "requestMirror": 7}),
            {Mirror(group="", kind="Service", namespace="", name="")},
        ),
        (None, set()),
        ({"rules": "nonsense"}, set()),
    ],
    ids=repr,
)
def test_every_backend_that_gets_copies_is_found(spec: Any, found: set[Mirror]) -> None:
    assert mirrors_of(spec) == found


@pytest.mark.parametrize(
    ("spec", "keeps"),
    [
        (route(sessionPersistence={"type": "Cookie"}), True),
        (route(), False),
        ({"rules": [{"sessionPersistence": {"type": "Cookie"}}]}, False),
        (None, False),
    ],
    ids=repr,
)
def test_rules_that_keep_sessions_are_found(spec: Any, keeps: bool) -> None:
    assert keeps_sessions(spec) is keeps
