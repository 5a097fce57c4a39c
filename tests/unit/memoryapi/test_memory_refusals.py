"""What the memory API refuses, without a server; ``tests/cluster/test_refusals_on_server.py`` compares the words."""

from __future__ import annotations

from typing import Any

import pytest

from rollouts.kube.client import PatchKind, Resource
from rollouts.kube.errors import ApiUnavailable, Forbidden, Invalid, KubeError
from rollouts.lab.controlplane import minimal
from rollouts.lab.memoryapi.admission import Policy
from rollouts.lab.memoryapi.kinds import CRD_RESOURCE
from rollouts.lab.memoryapi.store import MemoryApi

ROUTES = Resource("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute")
Object = dict[str, Any]


def route(rule: Object | None = None, **metadata: Any) -> Object:
    return {
        "apiVersion": ROUTES.api_version,
        "kind": "HTTPRoute",
        "metadata": {"name": "r", "namespace": "default", **metadata},
        "spec": {
            "parentRefs": [{"name": "gw"}],
            "rules": [rule or {"backendRefs": [{"name": "a", "port": 80}]}],
        },
    }


@pytest.fixture
def api() -> MemoryApi:
    made = MemoryApi()
    for crd in minimal.GATEWAY:
        made.create(CRD_RESOURCE, None, crd)
    made.create(ROUTES, "default", route())
    return made


def apply(api: MemoryApi, body: Object) -> Object:
    return api.patch(
        ROUTES, "default", "r", body, content_type=PatchKind.APPLY.value, force=True, manager="m"
    )


@pytest.mark.parametrize(
    ("body", "error", "says"),
    [
        (
            route({"retry": {"attempts": 2}}),
            ApiUnavailable,
            ".spec.rules[0].retry: field not declared in schema",
        ),
        (route({"matches": [{"path": {"type": "Nonsense"}}]}), Invalid, 'Unsupported value: "Nonsense"'),
        (route(labels={"a": "x" * 64}), Invalid, "must be no more than 63 bytes"),
        (route(annotations={"a": "x" * 300_000}), Invalid, "may not be more than 262144 bytes"),
        (
            route({"filters": [{"large": "x" * 1_600_000}]}),
            ApiUnavailable,
            "etcdserver: request is too large",
        ),
    ],
    ids=["undeclared", "enum", "label", "annotation", "size"],
)
def test_an_apply_is_refused_and_nothing_is_stored(
    api: MemoryApi, body: Object, error: type[KubeError], says: str
) -> None:
    before = api.get(ROUTES, "default", "r")

    with pytest.raises(error) as refused:
        apply(api, body)

    assert says in str(refused.value)
    assert api.get(ROUTES, "default", "r") == before


@pytest.mark.parametrize(("forbidden", "error"), [(False, Invalid), (True, Forbidden)])
def test_a_policy_refuses_until_it_is_gone(api: MemoryApi, forbidden: bool, error: type[KubeError]) -> None:
    frozen = Policy(
        name="freeze", binding="freeze", message="frozen", plural="httproutes", forbidden=forbidden
    )
    api.policies.append(frozen)

    with pytest.raises(error, match="'freeze' denied request: frozen"):
        apply(api, route(labels={"a": "b"}))
    api.policies.clear()

    assert apply(api, route(labels={"a": "b"}))["metadata"]["labels"] == {"a": "b"}


def test_a_rule_about_changes_is_kept() -> None:
    api = MemoryApi()
    fixed = {
        "type": "string",
        "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "it is immutable"}],
    }
    crd = minimal.rewrite_crd("example.com", "targets")
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["fixed"] = (
        fixed
    )
    api.create(CRD_RESOURCE, None, crd)
    rewrites = Resource("example.com", "v1alpha2", "inferencemodelrewrites", "InferenceModelRewrite")
    spec = {"poolRef": {"name": "p"}, "rules": [], "fixed": "a"}
    head = {"apiVersion": rewrites.api_version, "kind": rewrites.kind, "metadata": {"name": "r"}}
    api.create(rewrites, "default", {**head, "spec": spec})

    with pytest.raises(Invalid, match=r'spec\.fixed: Invalid value: "b": it is immutable'):
        api.patch(rewrites, "default", "r", {"spec": {"fixed": "b"}}, content_type=PatchKind.MERGE.value)
