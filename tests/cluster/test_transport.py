"""One suite over three servers: real kube-apiserver, the memory API over HTTP, and in process.

What passes here is what the controller may rely on, and what the memory API is trusted for.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rollouts.kube.client import KubeClient, PatchKind, Resource, WatchEvent, WatchType
from rollouts.kube.errors import (
    AlreadyExists,
    ApiTimeout,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    KindNotServed,
    NotFound,
    OtherObject,
)
from rollouts.kube.http import HttpKubeClient, open_client
from rollouts.lab.controlplane import (
    Choice,
    ControlPlane,
    Upstream,
    create_ready_pod,
    install_crds,
    install_upstream_crds,
    remove_pod,
    set_pod_ready,
)
from rollouts.lab.controlplane.pods import PODS
from rollouts.lab.memoryapi.store import MemoryApi
from tests.kit.crds import OPEN, crd
from tests.kit.httpclients import with_deadline
from tests.kit.memory_client import MemoryKubeClient
from tests.kit.polling import eventually

Object = dict[str, Any]
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
EVENTS = Resource("", "v1", "events", "Event")
NEW_EVENTS = Resource("events.k8s.io", "v1", "events", "Event")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
WIDGETS = Resource("transport.test", "v1", "widgets", "Widget")
WIDGET_CRD = crd(
    WIDGETS,
    {
        "type": "object",
        "required": ["size"],
        "properties": {
            "size": {"type": "integer", "minimum": 0, "maximum": 100},
            "color": {"type": "string", "enum": ["red", "blue"], "default": "red"},
            "parts": {"type": "array", "items": OPEN},
            "share": {"x-kubernetes-int-or-string": True},
            "options": OPEN,
            "never": {
                "type": "string",
                "x-kubernetes-validations": [{"rule": "self != 'never'", "message": "never say never"}],
            },
        },
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One server under test, as seen by two field managers."""

    name: str
    mine: KubeClient
    theirs: KubeClient
    namespace: str
    compact: Callable[[], Awaitable[None]]


@pytest.fixture(
    params=[pytest.param("real", marks=pytest.mark.cluster), "memory over HTTP", "memory in process"]
)
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Server]:
    name = f"test-{uuid.uuid4().hex[:10]}"
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    if request.param == "memory in process":
        api = MemoryApi()

        async def compact() -> None:
            api.compact()

        mine, theirs = (MemoryKubeClient(api, field_manager=manager) for manager in ("mine", "theirs"))
        await install_crds(mine, [WIDGET_CRD])
        await mine.create(NAMESPACES, None, namespace)
        yield Server(name=request.param, mine=mine, theirs=theirs, namespace=name, compact=compact)
        return
    if request.param == "real":
        plane = request.getfixturevalue("control_plane")
    else:
        plane = ControlPlane(tmp_path, choice=Choice.MEMORY)
        await plane.start()
    async with await open_client(str(plane.kubeconfig), field_manager="mine") as client:
        await install_crds(client, [WIDGET_CRD])
        await client.create(NAMESPACES, None, namespace)
        yield Server(
            name=request.param,
            mine=client,
            theirs=client.with_field_manager("theirs"),
            namespace=name,
            compact=plane.compact,
        )
    if request.param != "real":
        await plane.stop()


def widget(name: str = "w", *, labels: dict[str, str] | None = None, **spec: Any) -> Object:
    metadata: Object = {"name": name}
    if labels:
        metadata["labels"] = labels
    return {
        "apiVersion": WIDGETS.api_version,
        "kind": "Widget",
        "metadata": metadata,
        "spec": {"size": 1, **spec},
    }


async def make(server: Server, name: str = "w", **spec: Any) -> Object:
    return await server.mine.create(WIDGETS, server.namespace, widget(name, **spec))


async def read(server: Server, name: str = "w") -> Object:
    return await server.mine.get(WIDGETS, server.namespace, name)


async def merge(server: Server, patch: Object, **more: Any) -> Object:
    return await server.mine.patch(WIDGETS, server.namespace, "w", patch, kind=PatchKind.MERGE, **more)


async def json_patch(server: Server, *operations: Object) -> Object:
    return await server.mine.patch(WIDGETS, server.namespace, "w", list(operations), kind=PatchKind.JSON)


async def apply(client: KubeClient, server: Server, obj: Object, **more: Any) -> Object:
    return await client.patch(WIDGETS, server.namespace, "w", obj, kind=PatchKind.APPLY, **more)


def managers(obj: Object) -> set[tuple[str, str, str]]:
    return {
        (entry["manager"], entry["operation"], entry.get("subresource", ""))
        for entry in obj["metadata"]["managedFields"]
    }


async def test_a_created_object_comes_back_with_what_the_server_adds(server: Server) -> None:
    made = await make(server)

    assert made["metadata"]["generation"] == 1
    assert made["metadata"]["uid"]
    assert made["metadata"]["creationTimestamp"].endswith("Z")
    assert managers(made) == {("mine", "Update", "")}
    assert await read(server) == made


async def test_a_name_is_taken_once(server: Server) -> None:
    await make(server)

    with pytest.raises(AlreadyExists):
        await make(server)


async def test_a_missing_object_and_a_missing_kind_are_told_apart(server: Server) -> None:
    nobody = Resource("transport.test", "v1", "gadgets", "Gadget")
    nowhere = Resource("nobody.test", "v1", "gadgets", "Gadget")

    with pytest.raises(NotFound):
        await read(server)
    with pytest.raises(NotFound):
        await merge(server, {"spec": {"size": 2}})
    with pytest.raises(NotFound):
        await server.mine.delete(WIDGETS, server.namespace, "w")
    for resource in (nobody, nowhere):
        with pytest.raises(KindNotServed):
            await server.mine.get(resource, server.namespace, "w")
        with pytest.raises(KindNotServed):
            await server.mine.list_page(resource, server.namespace)


async def test_a_stale_resource_version_in_a_merge_patch_is_a_conflict(server: Server) -> None:
    first = await make(server)
    await merge(server, {"spec": {"size": 2}})
    stale = {"metadata": {"resourceVersion": first["metadata"]["resourceVersion"]}}

    with pytest.raises(Conflict):
        await merge(server, {**stale, "spec": {"size": 3}})
    with pytest.raises(Conflict):
        await merge(server, {**stale, "status": {"phase": "Ready"}}, subresource="status")
    assert (await read(server))["spec"]["size"] == 2


async def test_a_current_resource_version_in_a_merge_patch_passes(server: Server) -> None:
    made = await make(server)
    version = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}}

    changed = await merge(server, {**version, "spec": {"size": 3}})

    assert changed["spec"]["size"] == 3
    assert int(changed["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])


async def test_a_json_patch_whose_tests_hold_is_stored(server: Server) -> None:
    made = await make(server, parts=[{"name": "a", "weight": 90}, {"name": "b", "weight": 10}])

    changed = await json_patch(
        server,
        {"op": "test", "path": "/metadata/resourceVersion", "value": made["metadata"]["resourceVersion"]},
        {"op": "test", "path": "/spec/parts/1/name", "value": "b"},
        {"op": "replace", "path": "/spec/parts/0/weight", "value": 50},
        {"op": "replace", "path": "/spec/parts/1/weight", "value": 50},
    )

    assert [part["weight"] for part in changed["spec"]["parts"]] == [50, 50]


@pytest.mark.parametrize(
    "guard",
    [
        pytest.param({"path": "/metadata/resourceVersion", "value": "1"}, id="another resourceVersion"),
        pytest.param({"path": "/spec/parts/0/name", "value": "z"}, id="another name in the list"),
        pytest.param({"path": "/spec/options/x", "value": 1}, id="a path whose parent is gone"),
        pytest.param({"path": "/spec/color/deeper", "value": 1}, id="a path below a string"),
        pytest.param({"path": "/spec/parts/7/name", "value": "z"}, id="an index outside of the list"),
        pytest.param({"path": "/metadata/labels/x", "value": "y"}, id="a label of an unlabelled object"),
        pytest.param({"path": "/spec/share", "value": 1}, id="a field that is not set"),
    ],
)
async def test_a_json_patch_whose_test_fails_is_a_conflict_and_changes_nothing(
    server: Server, guard: Object
) -> None:
    made = await make(server, parts=[{"name": "a", "weight": 90}])

    with pytest.raises(Conflict):
        await json_patch(server, {"op": "test", **guard}, {"op": "replace", "path": "/spec/size", "value": 9})

    assert await read(server) == made


@pytest.mark.parametrize(
    "operation",
    [
        pytest.param({"op": "replace", "path": "/spec/parts/3", "value": {}}, id="replace behind the end"),
        pytest.param({"op": "remove", "path": "/spec/share"}, id="remove what is not there"),
        pytest.param({"op": "add", "path": "/spec/no/where", "value": 1}, id="add below nothing"),
        pytest.param({"op": "add", "path": "/spec/parts/9", "value": {}}, id="add far behind the end"),
        pytest.param({"op": "jump", "path": "/spec/size"}, id="an unknown operation"),
    ],
)
async def test_a_json_patch_that_does_not_apply_is_invalid(server: Server, operation: Object) -> None:
    await make(server, parts=[])

    with pytest.raises(Invalid):
        await json_patch(server, operation)


async def test_a_write_that_changes_nothing_stores_nothing(server: Server) -> None:
    made = await make(server, parts=[{"name": "a"}])
    version = made["metadata"]["resourceVersion"]

    merged = await merge(server, {"spec": {"size": 1}, "metadata": {"labels": None}})
    patched = await json_patch(server, {"op": "replace", "path": "/spec/parts", "value": [{"name": "a"}]})
    status = await merge(server, {"status": None}, subresource="status")

    assert {obj["metadata"]["resourceVersion"] for obj in (merged, patched, status)} == {version}


async def test_applying_the_same_twice_stores_nothing(server: Server) -> None:
    first = await apply(server.mine, server, widget(parts=[{"name": "a"}]))

    second = await apply(server.mine, server, widget(parts=[{"name": "a"}]))

    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert managers(second) == {("mine", "Apply", "")}


async def test_two_appliers_conflict_by_name_until_one_forces(server: Server) -> None:
    await apply(server.mine, server, widget(size=1, parts=[{"name": "a"}]))

    with pytest.raises(Conflict, match="mine"):
        await apply(server.theirs, server, widget(size=2))
    forced = await apply(server.theirs, server, widget(size=2), force=True)
    with pytest.raises(Conflict, match="theirs"):
        await apply(server.mine, server, widget(size=1, parts=[{"name": "a"}]))

    assert forced["spec"] == {"size": 2, "color": "red", "parts": [{"name": "a"}]}
    assert managers(forced) == {("mine", "Apply", ""), ("theirs", "Apply", "")}


async def test_a_field_that_its_only_applier_leaves_out_is_removed(server: Server) -> None:
    await apply(server.mine, server, widget(share="5%", parts=[{"name": "a"}]))
    await apply(server.theirs, server, {**widget(), "spec": {"size": 1, "share": "5%"}})

    left = await apply(server.mine, server, widget())

    assert left["spec"] == {"size": 1, "color": "red", "share": "5%"}


async def test_lists_have_one_owner_and_are_replaced_whole(server: Server) -> None:
    await apply(server.mine, server, widget(parts=[{"name": "a"}, {"name": "b"}]))

    with pytest.raises(Conflict, match="mine"):
        await apply(server.theirs, server, widget(parts=[{"name": "c"}]))
    forced = await apply(server.theirs, server, widget(parts=[{"name": "c"}]), force=True)

    assert forced["spec"]["parts"] == [{"name": "c"}]


async def test_labels_have_an_owner_each(server: Server) -> None:
    await apply(server.mine, server, widget(labels={"a": "1"}))

    both = await apply(server.theirs, server, widget(labels={"b": "2"}))

    assert both["metadata"]["labels"] == {"a": "1", "b": "2"}


async def test_a_patch_takes_the_field_from_the_applier(server: Server) -> None:
    """How the controller sees that somebody else wrote the weights, and who."""
    await apply(server.mine, server, widget(parts=[{"name": "a"}]))

    patched = await server.theirs.patch(
        WIDGETS, server.namespace, "w", {"spec": {"parts": []}}, kind=PatchKind.MERGE
    )

    entry = next(e for e in patched["metadata"]["managedFields"] if e["manager"] == "theirs")
    assert (entry["operation"], entry["fieldsV1"]) == ("Update", {"f:spec": {"f:parts": {}}})
    mine = next(e for e in patched["metadata"]["managedFields"] if e["manager"] == "mine")
    assert "f:parts" not in mine["fieldsV1"]["f:spec"]
    with pytest.raises(Conflict, match="theirs"):
        await apply(server.mine, server, widget(parts=[{"name": "a"}]))


async def test_a_default_belongs_to_nobody_who_applies(server: Server) -> None:
    await apply(server.mine, server, widget())

    changed = await apply(server.theirs, server, widget(color="blue"))

    assert changed["spec"]["color"] == "blue"


async def test_an_apply_with_a_resource_version_is_guarded(server: Server) -> None:
    made = await make(server)
    await merge(server, {"spec": {"size": 2}})
    guarded = widget(color="blue")
    guarded["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"]

    with pytest.raises(Conflict):
        await apply(server.mine, server, guarded, force=True)


async def test_spec_and_status_are_written_apart(server: Server) -> None:
    made = await server.mine.create(WIDGETS, server.namespace, {**widget(), "status": {"phase": "Early"}})
    spec = await merge(server, {"spec": {"size": 2}, "status": {"phase": "Wrong"}})
    status = await merge(
        server,
        {"spec": {"size": 3}, "status": {"phase": "Ready"}, "metadata": {"labels": {"a": "b"}}},
        subresource="status",
    )

    later = await merge(server, {"spec": {"size": 4}, "status": None})

    assert "status" not in made
    assert "status" not in spec
    assert (later["spec"]["size"], later["status"]) == (4, {"phase": "Ready"})
    assert status["spec"]["size"] == 2
    assert status["status"] == {"phase": "Ready"}
    assert "labels" not in status["metadata"]
    assert managers(status) == {("mine", "Update", ""), ("mine", "Update", "status")}


async def test_generation_counts_changes_of_the_spec_only(server: Server) -> None:
    await make(server)
    labelled = await merge(server, {"metadata": {"labels": {"a": "b"}}})
    status = await merge(server, {"status": {"phase": "Ready"}}, subresource="status")
    spec = await merge(server, {"spec": {"size": 2}})

    assert [obj["metadata"]["generation"] for obj in (labelled, status, spec)] == [1, 1, 2]


async def test_what_the_server_sets_cannot_be_changed(server: Server) -> None:
    made = await make(server)

    same = await merge(server, {"metadata": {"generation": 9, "creationTimestamp": "2001-01-01T00:00:00Z"}})
    with pytest.raises(OtherObject):
        await merge(server, {"metadata": {"uid": "another"}})

    assert same["metadata"]["generation"] == 1
    assert same["metadata"]["creationTimestamp"] == made["metadata"]["creationTimestamp"]


async def test_defaults_are_set_and_unknown_fields_pruned(server: Server) -> None:
    made = await make(server, surprise=1, options={"anything": {"goes": True}})

    assert made["spec"] == {"size": 1, "color": "red", "options": {"anything": {"goes": True}}}


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        pytest.param({"size": "big"}, "spec.size", id="wrong type"),
        pytest.param({"size": 101}, "spec.size", id="over the maximum"),
        pytest.param({"size": 1, "color": "green"}, "spec.color", id="not in the enum"),
        pytest.param({"color": "red"}, "spec.size", id="required field missing"),
        pytest.param({"size": 1, "parts": ["text"]}, r"spec.parts\[0\]", id="wrong type in a list"),
        pytest.param({"size": 1, "share": {}}, "spec.share", id="neither integer nor string"),
    ],
)
async def test_an_invalid_object_is_refused_with_the_path(server: Server, spec: Object, path: str) -> None:
    with pytest.raises(Invalid, match=path):
        await server.mine.create(WIDGETS, server.namespace, {**widget(), "spec": spec})


async def test_an_invalid_patch_is_refused_and_changes_nothing(server: Server) -> None:
    made = await make(server)

    with pytest.raises(Invalid, match=r"spec\.size"):
        await merge(server, {"spec": {"size": -1}})
    with pytest.raises(Invalid):
        await server.mine.patch(WIDGETS, server.namespace, "w", {"op": "add"}, kind=PatchKind.JSON)

    assert await read(server) == made


async def test_a_dry_run_judges_and_stores_nothing(server: Server) -> None:
    dry = await server.mine.create(WIDGETS, server.namespace, widget(), dry_run=True)
    with pytest.raises(Invalid):
        await server.mine.create(WIDGETS, server.namespace, widget(size=101), dry_run=True)
    with pytest.raises(NotFound):
        await read(server)
    made = await make(server)
    changed = await merge(server, {"spec": {"size": 7}}, dry_run=True)

    assert dry["spec"]["color"] == "red"
    assert changed["spec"]["size"] == 7
    assert await read(server) == made


async def test_deletion_waits_for_finalizers(server: Server) -> None:
    await server.mine.create(
        WIDGETS,
        server.namespace,
        {**widget(), "metadata": {"name": "w", "finalizers": ["transport.test/hold"]}},
    )
    await server.mine.delete(WIDGETS, server.namespace, "w")
    held = await read(server)
    await server.mine.delete(WIDGETS, server.namespace, "w")
    with pytest.raises(Invalid):
        await merge(server, {"metadata": {"finalizers": ["transport.test/hold", "transport.test/more"]}})
    await merge(server, {"metadata": {"finalizers": None}})

    assert held["metadata"]["deletionTimestamp"]
    assert held["metadata"]["generation"] == 2
    with pytest.raises(NotFound):
        await read(server)


async def test_a_delete_can_be_bound_to_one_object_and_version(server: Server) -> None:
    first = await make(server)
    await merge(server, {"spec": {"size": 2}})

    with pytest.raises(Conflict):
        await server.mine.delete(WIDGETS, server.namespace, "w", uid="another")
    with pytest.raises(Conflict):
        await server.mine.delete(
            WIDGETS, server.namespace, "w", resource_version=first["metadata"]["resourceVersion"]
        )
    await server.mine.delete(WIDGETS, server.namespace, "w", uid=first["metadata"]["uid"])
    with pytest.raises(NotFound):
        await read(server)


async def test_pages_of_a_list_are_one_snapshot(server: Server) -> None:
    for name in ("a", "b", "c", "d", "e"):
        await make(server, name)
    page = await server.mine.list_page(WIDGETS, server.namespace, limit=2)
    names = [item["metadata"]["name"] for item in page.items]
    await make(server, "bb")
    while page.continue_token:
        page = await server.mine.list_page(
            WIDGETS, server.namespace, limit=2, continue_token=page.continue_token
        )
        names += [item["metadata"]["name"] for item in page.items]

    assert names == ["a", "b", "c", "d", "e"]
    assert page.resource_version.isdigit()


async def test_items_of_a_list_say_what_they_are(server: Server) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}
    await server.mine.create(CONFIG_MAPS, server.namespace, body)

    page = await server.mine.list_page(CONFIG_MAPS, server.namespace)

    assert [(item["apiVersion"], item["kind"]) for item in page.items] == [("v1", "ConfigMap")]


@pytest.mark.parametrize(
    ("selector", "want"),
    [
        ("app=x", ["a", "b"]),
        ("app=x,tier=1", ["a"]),
        ("app!=x", ["c", "d"]),
        ("app in (x, y)", ["a", "b", "c"]),
        ("tier notin (1)", ["b", "c", "d"]),
        ("tier", ["a"]),
        ("!app", ["d"]),
    ],
)
async def test_label_selectors_choose(server: Server, selector: str, want: list[str]) -> None:
    labels = {"a": {"app": "x", "tier": "1"}, "b": {"app": "x"}, "c": {"app": "y"}, "d": {}}
    for name, values in labels.items():
        await server.mine.create(WIDGETS, server.namespace, widget(name, labels=values))

    page = await server.mine.list_page(WIDGETS, server.namespace, label_selector=selector)

    assert [item["metadata"]["name"] for item in page.items] == want


async def collect(server: Server, version: str, *, seconds: int = 1, labels: str = "") -> list[WatchEvent]:
    """All events of a watch that the server ends after ``seconds``."""
    events = server.mine.watch(
        WIDGETS,
        server.namespace,
        resource_version=version,
        timeout_seconds=seconds,
        label_selector=labels,
    )
    return [event async for event in events]


def seen(events: list[WatchEvent]) -> list[tuple[str, str]]:
    return [
        (event.type.value, event.object["metadata"]["name"])
        for event in events
        if event.type is not WatchType.BOOKMARK
    ]


@pytest.mark.slow
async def test_a_watch_replays_what_came_after_the_list(server: Server) -> None:
    start = (await server.mine.list_page(WIDGETS, server.namespace)).resource_version
    await make(server)
    await merge(server, {"spec": {"size": 2}})
    await server.mine.delete(WIDGETS, server.namespace, "w")

    events = await collect(server, start)

    assert seen(events) == [("ADDED", "w"), ("MODIFIED", "w"), ("DELETED", "w")]
    versions = [int(event.object["metadata"]["resourceVersion"]) for event in events]
    assert versions == sorted(versions)
    assert [e.object["spec"]["size"] for e in events if e.type is not WatchType.BOOKMARK] == [1, 2, 2]


async def test_a_watch_delivers_while_it_is_open(server: Server) -> None:
    start = (await server.mine.list_page(WIDGETS, server.namespace)).resource_version
    events = server.mine.watch(WIDGETS, server.namespace, resource_version=start, timeout_seconds=30)
    first = asyncio.create_task(anext(aiter(events)))
    await make(server)

    event = await asyncio.wait_for(first, 10)
    await events.aclose()  # type: ignore[attr-defined]  # every implementation is a generator

    assert (event.type, event.object["metadata"]["name"]) == (WatchType.ADDED, "w")


@pytest.mark.slow
async def test_a_watch_with_a_selector_sees_objects_come_and_go(server: Server) -> None:
    start = (await server.mine.list_page(WIDGETS, server.namespace)).resource_version
    await make(server, "other")
    await make(server)
    await merge(server, {"metadata": {"labels": {"app": "x"}}})
    await merge(server, {"spec": {"size": 2}})
    await merge(server, {"metadata": {"labels": {"app": "y"}}})

    events = await collect(server, start, labels="app=x")

    assert seen(events) == [("ADDED", "w"), ("MODIFIED", "w"), ("DELETED", "w")]


@pytest.mark.slow
async def test_a_watch_of_all_namespaces_sees_each(server: Server) -> None:
    start = (await server.mine.list_page(WIDGETS, None)).resource_version
    await make(server)
    await server.mine.create(WIDGETS, "default", widget(server.namespace))
    events = server.mine.watch(WIDGETS, None, resource_version=start, timeout_seconds=1)
    found = [event.object["metadata"] async for event in events if event.type is WatchType.ADDED]
    await server.mine.delete(WIDGETS, "default", server.namespace)

    places = {(item["namespace"], item["name"]) for item in found}
    assert {(server.namespace, "w"), ("default", server.namespace)} <= places


async def test_a_watch_from_a_compacted_version_is_gone(server: Server) -> None:
    await make(server)
    await merge(server, {"spec": {"size": 2}})
    await server.compact()

    with pytest.raises(Gone):
        await collect(server, "1")


def aged(token: str) -> str:
    """A real server's token as of revision 1: it keeps newer snapshots in memory through a compaction."""
    try:
        content = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except ValueError:
        return token
    return base64.urlsafe_b64encode(json.dumps({**content, "rv": 1}).encode()).decode().rstrip("=")


async def test_a_list_page_of_a_compacted_version_is_gone(server: Server) -> None:
    for name in ("a", "b", "c"):
        await make(server, name)
    page = await server.mine.list_page(WIDGETS, server.namespace, limit=1)
    await server.compact()

    with pytest.raises(Gone):
        await server.mine.list_page(
            WIDGETS, server.namespace, limit=1, continue_token=aged(page.continue_token)
        )


async def test_discovery_lists_built_in_and_custom_kinds(server: Server) -> None:
    found = await server.mine.discover()

    assert {NAMESPACES, CONFIG_MAPS, LEASES, PODS, EVENTS, NEW_EVENTS, WIDGETS} <= set(found)
    assert len(found) == len(set(found))


async def test_an_event_of_the_new_group_is_seen_in_the_old_one(server: Server) -> None:
    """We write events.k8s.io/v1; ``kubectl describe`` reads core/v1."""
    event = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "e", "namespace": server.namespace},
        "eventTime": "2026-01-02T03:04:05.000000Z",
        "reportingController": "transport.test/controller",
        "reportingInstance": "one",
        "action": "Look",
        "reason": "Seen",
        "type": "Normal",
        "note": "a note",
        "regarding": {"kind": "Widget", "name": "w", "namespace": server.namespace},
    }
    await server.mine.create(NEW_EVENTS, server.namespace, event)

    old = await server.mine.get(EVENTS, server.namespace, "e")
    new = await server.mine.get(NEW_EVENTS, server.namespace, "e")

    assert (old["message"], old["involvedObject"]["name"]) == ("a note", "w")
    assert (new["note"], new["regarding"]["name"]) == ("a note", "w")


async def test_a_pod_without_a_kubelet_is_ready_when_told_so(server: Server) -> None:
    pod = await create_ready_pod(
        server.mine, server.namespace, "p", labels={"app": "vllm"}, ip="127.0.0.9", port=8000
    )
    unready = await set_pod_ready(server.mine, server.namespace, "p", ready=False, ip="127.0.0.9")
    await remove_pod(server.mine, server.namespace, "p")  # type: ignore[arg-type]  # both clients can

    def ready(obj: Object) -> str:
        return next(c["status"] for c in obj["status"]["conditions"] if c["type"] == "Ready")

    assert (pod["status"]["podIP"], ready(pod), ready(unready)) == ("127.0.0.9", "True", "False")
    with pytest.raises(NotFound):
        await server.mine.get(PODS, server.namespace, "p")


async def test_upstream_kinds_are_served_once_installed(server: Server) -> None:
    await install_upstream_crds(server.mine, [Upstream.GATEWAY, Upstream.INFERENCE_ALPHA])
    pools = Resource("inference.networking.x-k8s.io", "v1alpha2", "inferencepools", "InferencePool")
    pool = {
        "apiVersion": pools.api_version,
        "kind": "InferencePool",
        "metadata": {"name": "pool"},
        "spec": {
            "selector": {"app": "custom-serving"},
            "targetPortNumber": 8000,
            "extensionRef": {"name": "picker"},
        },
    }
    made = await server.mine.create(pools, server.namespace, pool)

    assert made["spec"]["selector"] == {"app": "custom-serving"}
    bad = {**pool, "metadata": {"name": "bad"}, "spec": {**made["spec"], "targetPortNumber": 0}}
    with pytest.raises(Invalid):
        await server.mine.create(pools, server.namespace, bad)


# What only a real server can show


@pytest.mark.cluster
async def test_cel_is_enforced_by_the_real_server_only(kube: HttpKubeClient, namespace: str) -> None:
    memory = MemoryKubeClient(MemoryApi())
    for client in (kube, memory):
        await install_crds(client, [WIDGET_CRD])

    with pytest.raises(Invalid, match="never say never"):
        await kube.create(WIDGETS, namespace, widget(never="never"))
    assert (await memory.create(WIDGETS, namespace, widget(never="never")))["spec"]["never"] == "never"


@pytest.mark.cluster
async def test_a_service_account_may_do_what_its_role_says(
    kube: HttpKubeClient, namespace: str, as_service_account: Callable[[str, str], HttpKubeClient]
) -> None:
    group = "rbac.authorization.k8s.io"
    role = {
        "apiVersion": f"{group}/v1",
        "kind": "Role",
        "metadata": {"name": "reader"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}],
    }
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "someone", "namespace": namespace}],
    }
    await kube.create(Resource(group, "v1", "roles", "Role"), namespace, role)
    await kube.create(Resource(group, "v1", "rolebindings", "RoleBinding"), namespace, binding)
    someone = as_service_account(namespace, "someone")

    async def granted() -> bool:
        # The API server's authorizer learns of a new binding by its own watch.
        with contextlib.suppress(Forbidden):
            return (await someone.list_page(CONFIG_MAPS, namespace)).items == []
        return False

    await eventually(granted)
    with pytest.raises(Forbidden):
        await someone.list_page(PODS, namespace)
    with pytest.raises(Forbidden):
        await someone.create(
            CONFIG_MAPS,
            namespace,
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}},
        )


@pytest.mark.cluster
async def test_a_missed_deadline_is_a_timeout(kube: HttpKubeClient, namespace: str) -> None:
    with pytest.raises(ApiTimeout):
        await with_deadline(kube, 1e-6).list_page(CONFIG_MAPS, namespace)


@pytest.mark.cluster
async def test_an_object_over_two_megabytes_passes_through_a_watch(
    kube: HttpKubeClient, namespace: str
) -> None:
    """The request layer of the kubernetes package ends a watch at a line of 2 MiB; ours does not.

    A server stores at most 1.5 MiB, but quotes in it take two bytes each on the wire.
    """
    start = (await kube.list_page(CONFIG_MAPS, namespace)).resource_version
    body = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "big"},
        "data": {"quotes": '"' * 1_040_000},
    }
    await kube.create(CONFIG_MAPS, namespace, body)
    events = kube.watch(CONFIG_MAPS, namespace, resource_version=start, timeout_seconds=1)

    sizes = [len(event.object["data"]["quotes"]) async for event in events if "data" in event.object]

    assert sizes == [1_040_000]
