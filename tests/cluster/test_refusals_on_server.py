"""What an API server refuses, in which words: the in-memory one beside a real kube-apiserver.

The same requests go to both. Code, reason, fields of ``details.causes`` and what the message says must be the same:
the simulations refuse what a real server refuses, and the controller reads the words of both alike.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rollouts.kube.client import PatchKind, Resource
from rollouts.kube.connection import ApiRequest, Connection
from rollouts.kube.credentials import load_credentials
from rollouts.kube.errors import Forbidden, Invalid
from rollouts.kube.http import HttpKubeClient, open_client
from rollouts.lab.controlplane import ControlPlane, Upstream, install_crds
from rollouts.lab.controlplane.upstream import POLICIES, POLICY_BINDINGS, upstream_crds
from rollouts.lab.kubeconfig import write_kubeconfig
from rollouts.lab.memoryapi.admission import Policy
from rollouts.lab.memoryapi.server import MemoryApiServer
from rollouts.lab.memoryapi.store import MemoryApi
from tests.kit.crds import crd
from tests.kit.polling import eventually

Object = dict[str, Any]

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
ROUTES = Resource("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute")
GADGETS = Resource("refusals.test", "v1", "gadgets", "Gadget")
_TEXT: Object = {"type": "string"}
GADGET_CRD = crd(
    GADGETS,
    {
        "type": "object",
        "required": ["size"],
        "properties": {
            "size": {"type": "integer", "minimum": 1, "maximum": 9},
            "share": {"type": "number", "minimum": 0},
            "color": {"type": "string", "enum": ["red", "blue"]},
            "code": {
                "type": "string",
                "pattern": "^[a-z]+$",
                "maxLength": 5,
                "minLength": 2,
            },
            "on": {"type": "boolean"},
            "fixed": {
                "type": "string",
                "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "fixed is immutable"}],
            },
            "parts": {
                "type": "array",
                "maxItems": 2,
                "minItems": 1,
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": _TEXT, "count": {"type": "integer"}},
                },
            },
            "tags": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["key"],
                "items": {
                    "type": "object",
                    "required": ["key"],
                    "properties": {"key": _TEXT, "value": _TEXT},
                },
            },
            "names": {
                "type": "array",
                "x-kubernetes-list-type": "set",
                "items": _TEXT,
            },
            "sizes": {"type": "object", "additionalProperties": {"type": "integer"}},
        },
    },
)


def gadget(name: str = "g", *, metadata: Object | None = None, **spec: Any) -> Object:
    return {
        "apiVersion": GADGETS.api_version,
        "kind": "Gadget",
        "metadata": {"name": name, **(metadata or {})},
        "spec": {"size": 1, **spec},
    }


def route(*rules: Object, name: str = "r", **metadata: Any) -> Object:
    return {
        "apiVersion": ROUTES.api_version,
        "kind": "HTTPRoute",
        "metadata": {"name": name, **metadata},
        "spec": {"rules": list(rules)},
    }


@dataclass(frozen=True, kw_only=True)
class Case:
    """One request that is refused, and a part of the message that people and programs go by."""

    what: str
    says: str
    body: Any
    kind: Resource = GADGETS
    name: str = "g"
    """Of the object that is written; empty for a create."""
    patch: PatchKind | None = PatchKind.APPLY
    params: dict[str, str] = field(default_factory=dict)
    before: tuple[Object, ...] = ()
    """Objects that are there first, in place of the gadget ``g``."""


LONG = "x" * 64
CASES = [
    Case(
        what="apply: a field that the CRD lacks",
        says=".spec.colour: field not declared in schema",
        body=gadget(colour="red"),
    ),
    Case(
        what="apply: a field that the CRD lacks, strict as kubectl is",
        says=".spec.colour: field not declared in schema",
        body=gadget(colour="red"),
        params={"fieldValidation": "Strict"},
    ),
    Case(
        what="apply: two fields that the CRD lacks",
        says="field not declared in schema",
        body=gadget(colour="red", weight=1),
    ),
    Case(
        what="apply: an undeclared field in a list",
        says=".spec.parts[0].kind: field not declared in schema",
        body=gadget(parts=[{"name": "a", "kind": "b"}]),
    ),
    Case(
        what="apply: an undeclared field in a keyed list",
        says='.spec.tags[key="a"].kind: field not declared in schema',
        body=gadget(tags=[{"key": "a", "kind": "b"}]),
    ),
    Case(
        what="apply: a new object with an undeclared field",
        says=".spec.colour: field not declared in schema",
        body=gadget("new", colour="red"),
        name="new",
    ),
    Case(
        what="apply: a field beside spec",
        says=".data: field not declared in schema",
        body={**gadget(), "data": {"a": "b"}},
    ),
    Case(
        what="apply: an undeclared field of a route's rule",
        says=".spec.rules[0].retry: field not declared in schema",
        body=route({"retry": {"attempts": 2}}),
        kind=ROUTES,
        name="r",
    ),
    Case(
        what="apply: a path type that there is not",
        says='Unsupported value: "Nonsense"',
        body=route({"matches": [{"path": {"type": "Nonsense", "value": "/"}}]}),
        kind=ROUTES,
        name="r",
    ),
    Case(
        what="apply: a weight over a million",
        says="should be less than or equal to 1000000",
        body=route({"backendRefs": [{"name": "a", "port": 80, "weight": 1_000_001}]}),
        kind=ROUTES,
        name="r",
    ),
    Case(what="apply: a wrong type", says="expected numeric", body=gadget(size="one")),
    Case(
        what="apply: a key twice",
        says="duplicate entries for key",
        body=gadget(tags=[{"key": "a"}, {"key": "a"}]),
    ),
    Case(
        what="merge: an undeclared field, strict",
        says='unknown field "spec.colour"',
        body={"spec": {"colour": "red"}},
        patch=PatchKind.MERGE,
        params={"fieldValidation": "Strict"},
    ),
    Case(
        what="merge: too large",
        says="should be less than or equal to 9",
        body={"spec": {"size": 10}},
        patch=PatchKind.MERGE,
    ),
    Case(
        what="merge: too small",
        says="should be greater than or equal to 1",
        body={"spec": {"size": 0}},
        patch=PatchKind.MERGE,
    ),
    Case(
        what="merge: a wrong type",
        says='must be of type integer: "string"',
        body={"spec": {"size": "one"}},
        patch=PatchKind.MERGE,
    ),
    Case(
        what="merge: not one of the values",
        says='supported values: "red", "blue"',
        body={"spec": {"color": "green"}},
        patch=PatchKind.MERGE,
    ),
    Case(
        what="merge: not of the pattern",
        says="should match '^[a-z]+$'",
        body={"spec": {"code": "A1"}},
        patch=PatchKind.MERGE,
    ),
    Case(
        what="merge: too long",
        says="may not be more than 5",
        body={"spec": {"code": "abcdefg"}},
        patch=PatchKind.MERGE,
    ),
    Case(
        what="merge: too short",
        says="at least 2 chars long",
        body={"spec": {"code": "a"}},
        patch=PatchKind.MERGE,
    ),
    Case(
        what="merge: too many items",
        says="must have at most 2 items",
        body={"spec": {"parts": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}},
        patch=PatchKind.MERGE,
    ),
    Case(
        what="merge: too few items",
        says="should have at least 1 items",
        body={"spec": {"parts": []}},
        patch=PatchKind.MERGE,
    ),
    Case(
        what="merge: a required field is missing",
        says="Required value",
        body={"spec": {"parts": [{"count": 1}]}},
        patch=PatchKind.MERGE,
    ),
    Case(
        what="merge: a key twice",
        says="Duplicate value",
        body={"spec": {"tags": [{"key": "a"}, {"key": "a"}]}},
        patch=PatchKind.MERGE,
    ),
    Case(
        what="merge: two fields at once",
        says="is invalid: [",
        body={"spec": {"size": 10, "color": "green"}},
        patch=PatchKind.MERGE,
    ),
    Case(
        what="merge: an immutable field",
        says="fixed is immutable",
        body={"spec": {"fixed": "b"}},
        patch=PatchKind.MERGE,
        before=(gadget(fixed="a"),),
    ),
    Case(
        what="json: a test that does not hold",
        says="the server rejected our request due to an error in our request",
        body=[
            {"op": "test", "path": "/spec/size", "value": 7},
            {"op": "replace", "path": "/spec/size", "value": 2},
        ],
        patch=PatchKind.JSON,
    ),
    Case(
        what="json: a path that is not there",
        says="the server rejected our request due to an error in our request",
        body=[{"op": "remove", "path": "/spec/nothing"}],
        patch=PatchKind.JSON,
    ),
    Case(
        what="json: the result is invalid",
        says="should be less than or equal to 9",
        body=[{"op": "replace", "path": "/spec/size", "value": 10}],
        patch=PatchKind.JSON,
    ),
    Case(
        what="merge: an old resourceVersion",
        says="the object has been modified; please apply your changes to the latest version and try again",
        body={"metadata": {"resourceVersion": "1"}, "spec": {"size": 2}},
        patch=PatchKind.MERGE,
    ),
    Case(
        what="create: a label value of 64 characters",
        says="must be no more than 63",
        body=gadget("new", metadata={"labels": {"a": LONG}}),
        name="",
        patch=None,
    ),
    Case(
        what="create: a label value with a space",
        says="a valid label must be an empty string or consist of alphanumeric characters",
        body=gadget("new", metadata={"labels": {"a": "b c"}}),
        name="",
        patch=None,
    ),
    Case(
        what="create: a label key with a space",
        says="name part must consist of alphanumeric characters",
        body=gadget("new", metadata={"labels": {"a b": "c"}}),
        name="",
        patch=None,
    ),
    Case(
        what="create: a label key with a bad prefix",
        says="prefix part a lowercase RFC 1123 subdomain must consist of",
        body=gadget("new", metadata={"labels": {"A_B/c": "d"}}),
        name="",
        patch=None,
    ),
    Case(
        what="apply: a label value of 64 characters",
        says="must be no more than 63",
        body=route(labels={"a": LONG}),
        kind=ROUTES,
        name="r",
    ),
    Case(
        what="create: annotations of 256 KiB and a byte",
        says="may not be more than 262144 bytes",
        body=gadget("new", metadata={"annotations": {"a": "x" * (256 * 1024)}}),
        name="",
        patch=None,
    ),
    Case(
        what="create: an annotation key with a space",
        says="name part must consist of alphanumeric characters",
        body=gadget("new", metadata={"annotations": {"a b": "c"}}),
        name="",
        patch=None,
    ),
    Case(
        what="create: a name in capitals",
        says="a lowercase RFC 1123 subdomain must consist of",
        body=gadget("New"),
        name="",
        patch=None,
    ),
    Case(
        what="create: a name of 254 characters",
        says="must be no more than 253",
        body=gadget("x" * 254),
        name="",
        patch=None,
    ),
    Case(
        what="create: no name",
        says="name or generateName is required",
        body={**gadget(), "metadata": {}},
        name="",
        patch=None,
    ),
    Case(what="create: taken", says="already exists", body=gadget(), name="", patch=None),
    Case(
        what="create: a finalizer without a domain",
        says="finalizer",
        body=gadget("new", metadata={"finalizers": ["a b"]}),
        name="",
        patch=None,
    ),
    Case(
        what="create: an object over etcd's limit",
        says="etcdserver: request is too large",
        body=gadget("large", tags=[{"key": f"k{i}", "value": "x" * 1000} for i in range(1600)]),
        name="",
        patch=None,
    ),
    Case(
        what="create: an undeclared field, strict",
        says='strict decoding error: unknown field "spec.colour"',
        body=gadget("new", colour="red"),
        params={"fieldValidation": "Strict"},
        name="",
        patch=None,
    ),
    Case(
        what="create: a body over 3 MiB",
        says="Request entity too large",
        body=gadget("new", sizes={f"k{i}{LONG}": i for i in range(45_000)}),
        name="",
        patch=None,
    ),
    Case(
        what="apply: of an object that another manager owns",
        says="conflict",
        body=gadget(size=2),
        params={"fieldManager": "somebody"},
    ),
    Case(
        what="apply: two fields that another manager owns",
        says='conflicts with "test" using refusals.test/v1:\n- .spec.color\n- .spec.size',
        body=gadget(size=2, color="blue"),
        params={"fieldManager": "somebody"},
        before=(gadget(color="red"),),
    ),
    *(
        Case(what=f"apply: {what} in place of another type", says=says, body=gadget(**spec))
        for what, says, spec in (
            ("a number", ".spec.color: expected string, got &", {"color": 3}),
            ("a string", ".spec.on: expected boolean, got &", {"on": "x"}),
            ("no list", ".spec.parts: expected list, got &", {"parts": "x"}),
            ("no map", ".spec.parts[0]: expected map, got &", {"parts": ["x"]}),
        )
    ),
    Case(
        what="apply: an old resourceVersion",
        says="the object has been modified; please apply your changes to the latest version and try again",
        body=gadget(metadata={"resourceVersion": "1"}),
    ),
    Case(
        what="merge: another uid",
        says="field is immutable",
        body={"metadata": {"uid": "00000000-0000-4000-8000-00000000ffff"}, "spec": {"size": 3}},
        patch=PatchKind.MERGE,
    ),
    Case(
        what="merge: what is not there",
        says='"nobody" not found',
        body={"spec": {}},
        name="nobody",
        patch=PatchKind.MERGE,
    ),
    Case(
        what="merge: another name",
        says="the name of the object",
        body={"metadata": {"name": "other"}},
        patch=PatchKind.MERGE,
    ),
    Case(
        what="apply: the body is of another kind",
        says="",
        body={**gadget(), "kind": "Widget"},
    ),
]


@dataclass(frozen=True)
class Server:
    """One server, for raw requests."""

    client: HttpKubeClient
    connection: Connection

    async def fresh(self, *objects: Object) -> str:
        """A new namespace with these gadgets."""
        name = f"test-{uuid.uuid4().hex[:10]}"
        await self.client.create(
            NAMESPACES, None, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        )
        for obj in objects:
            await self.client.create(GADGETS, name, copy.deepcopy(obj))
        return name

    async def refused(self, case: Case, namespace: str) -> Object:
        """The Status that answers a case, its message without what is different on each server."""
        prefix = f"/apis/{case.kind.api_version}" if case.kind.group else f"/api/{case.kind.version}"
        path = f"{prefix}/namespaces/{namespace}/{case.kind.plural}"
        request = ApiRequest(
            method="PATCH" if case.patch else "POST",
            path=f"{path}/{case.name}" if case.name else path,
            params={"fieldManager": "test", "force": "true" if _forced(case) else "", **case.params},
            body=case.body,
            patch=case.patch,
        )
        async with await self.connection.send(request, aiohttp.ClientTimeout(total=20)) as answer:
            status = await answer.json(content_type=None)
        assert status["kind"] == "Status", f"not refused: {status}"
        status["message"] = status["message"].replace(namespace, "NAMESPACE")
        return dict(status)


def _forced(case: Case) -> bool:
    return case.patch is PatchKind.APPLY and "fieldManager" not in case.params


@asynccontextmanager
async def _server(kubeconfig: Path, crds: list[Object]) -> AsyncIterator[Server]:
    async with await open_client(str(kubeconfig), field_manager="test") as client:
        await install_crds(client, crds)
        connection = Connection(credentials=await load_credentials(str(kubeconfig)), deadline=20.0)
        yield Server(client, connection)
        await connection.pool.close()


@pytest.fixture
async def crds() -> list[Object]:
    gateway = await upstream_crds(Upstream.GATEWAY)
    return [GADGET_CRD, *(crd for crd in gateway if crd["spec"]["names"]["kind"] == "HTTPRoute")]


@pytest.fixture
async def real(control_plane: ControlPlane, crds: list[Object]) -> AsyncIterator[Server]:
    assert control_plane.kubeconfig is not None
    async with _server(Path(control_plane.kubeconfig), crds) as server:
        yield server


@pytest.fixture
def api() -> MemoryApi:
    return MemoryApi()


@pytest.fixture
async def memory(api: MemoryApi, tmp_path: Path, crds: list[Object]) -> AsyncIterator[Server]:
    async with MemoryApiServer(api) as listening:
        write_kubeconfig(tmp_path / "kubeconfig", server=listening.url)
        async with _server(tmp_path / "kubeconfig", crds) as server:
            yield server


def _gist(status: Object) -> tuple[Any, ...]:
    causes = (status.get("details") or {}).get("causes") or ()
    return status["code"], status.get("reason", ""), sorted(cause.get("field", "") for cause in causes)


async def _differs(case: Case, real: Server, memory: Server) -> str:
    """How the two answers differ, or do not say what the case is about; empty when all is well."""
    before = case.before or (gadget(),)
    theirs = await real.refused(case, await real.fresh(*before))
    ours = await memory.refused(case, await memory.fresh(*before))
    alike = _gist(ours) == _gist(theirs)
    if alike and case.says in theirs["message"] and case.says in ours["message"]:
        return ""
    return f"{case.what}: {_gist(theirs)} {theirs['message']:.300} and {_gist(ours)} {ours['message']:.300}"


# One test: a server and its CRDs for each case would take minutes.
async def test_both_servers_refuse_alike(real: Server, memory: Server) -> None:
    assert [text for case in CASES if (text := await _differs(case, real, memory))] == []


def policy(name: str, namespace: str, reason: str) -> tuple[Object, Object]:
    """A ValidatingAdmissionPolicy that freezes the gadgets of a namespace, and its binding."""
    validation = {
        "expression": "false",
        "message": "gadgets are frozen",
        **({"reason": reason} if reason else {}),
    }
    rule = {
        "apiGroups": [GADGETS.group],
        "apiVersions": ["v1"],
        "operations": ["UPDATE"],
        "resources": ["gadgets"],
    }
    only_there = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    made = {
        "apiVersion": POLICIES.api_version,
        "kind": POLICIES.kind,
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"namespaceSelector": only_there, "resourceRules": [rule]},
            "validations": [validation],
        },
    }
    bound = {
        "apiVersion": POLICY_BINDINGS.api_version,
        "kind": POLICY_BINDINGS.kind,
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    }
    return made, bound


@pytest.mark.parametrize("reason", ["", "Forbidden"])
async def test_both_servers_refuse_by_policy_alike(
    reason: str, real: Server, memory: Server, api: MemoryApi
) -> None:
    name = f"freeze-{uuid.uuid4().hex[:8]}"
    theirs, ours = await real.fresh(gadget()), await memory.fresh(gadget())
    made, bound = policy(name, theirs, reason)
    await real.client.create(POLICIES, None, made)
    await real.client.create(POLICY_BINDINGS, None, bound)
    api.policies.append(
        Policy(
            name=name, binding=name, message="gadgets are frozen", plural="gadgets", forbidden=bool(reason)
        )
    )

    async def enforced() -> bool:
        """A policy takes a moment to be heard of; what is dry is not stored."""
        patch = {"spec": {"size": 2}}
        try:
            await real.client.patch(GADGETS, theirs, "g", patch, kind=PatchKind.MERGE, dry_run=True)
        except (Invalid, Forbidden):
            return True
        return False

    await eventually(enforced, timeout=60)
    case = Case(what="", says="", body={"spec": {"size": 3}}, patch=PatchKind.MERGE)
    refused = await real.refused(case, theirs)

    assert "denied request: gadgets are frozen" in refused["message"]
    assert await memory.refused(case, ours) == refused
