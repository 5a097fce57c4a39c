"""The memory API's own promises: copies, time, history, speed-ups. The rest is in the transport suite."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rollouts.kube.client import PatchKind, Resource, WatchType
from rollouts.kube.errors import Gone, Invalid, KindNotServed, NotFound, OtherObject
from rollouts.lab.controlplane.upstream import CRDS
from rollouts.lab.memoryapi.history import Change
from rollouts.lab.memoryapi.store import MemoryApi
from tests.kit.clock import Timeline, VirtualClock, virtual_time
from tests.kit.memory_client import MemoryKubeClient

MAPS = Resource("", "v1", "configmaps", "ConfigMap")
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
THINGS = Resource("store.test", "v1", "things", "Thing")


def config_map(name: str = "c", **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def crd(*versions: str) -> dict[str, Any]:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.store.test"},
        "spec": {
            "group": "store.test",
            "scope": "Namespaced",
            "names": {"plural": "things", "kind": "Thing", "shortNames": ["th"]},
            "versions": [
                {"name": v, "served": True, "storage": v == versions[0], "schema": {"openAPIV3Schema": {}}}
                for v in versions
            ],
        },
    }


def test_what_comes_out_shares_nothing_with_what_is_stored() -> None:
    api = MemoryApi()
    given = config_map(a="1")
    made = api.create(MAPS, "default", given)
    given["data"]["a"] = made["data"]["a"] = "changed"
    api.get(MAPS, "default", "c")["data"]["a"] = "changed too"
    api.list_page(MAPS, "default").items[0]["data"]["a"] = "and again"

    assert api.get(MAPS, "default", "c")["data"] == {"a": "1"}


def test_a_patch_for_another_uid_changes_nothing() -> None:
    api = MemoryApi()
    made = api.create(MAPS, "default", config_map(a="1"))
    body = {"metadata": {"uid": "another"}, "data": {"a": "2"}}

    with pytest.raises(
        OtherObject, match=r'^ConfigMap "c" is invalid: metadata.uid: .*: field is immutable$'
    ):
        api.patch(MAPS, "default", "c", body, content_type=PatchKind.MERGE.value)

    assert api.get(MAPS, "default", "c") == made


def test_two_servers_given_the_same_writes_are_the_same() -> None:
    """Fault plans compare end states; identifiers must not be random."""

    def story() -> list[dict[str, Any]]:
        api = MemoryApi(clock=VirtualClock(Timeline()))
        api.create(MAPS, "default", {**config_map(), "metadata": {"generateName": "x-"}})
        api.create(MAPS, "default", config_map())
        return api.list_page(MAPS, None).items

    assert story() == story()


def test_the_clock_stamps_objects_and_managers() -> None:
    made = MemoryApi(clock=VirtualClock(Timeline())).create(MAPS, "default", config_map(), manager="me")

    assert made["metadata"]["creationTimestamp"] == "2030-01-01T00:00:00Z"
    assert made["metadata"]["managedFields"][0]["time"] == "2030-01-01T00:00:00Z"


def test_observers_see_every_stored_write_with_its_author() -> None:
    api = MemoryApi()
    seen: list[Change] = []
    api.observers.append(seen.append)
    api.create(MAPS, "default", config_map(), manager="one")
    api.patch(MAPS, "default", "c", {"data": {"a": "b"}}, content_type=PatchKind.MERGE.value, manager="two")
    api.patch(MAPS, "default", "c", {}, content_type=PatchKind.MERGE.value, manager="nobody")
    api.delete(MAPS, "default", "c", manager="three")

    assert [(change.type.value, change.manager) for change in seen] == [
        ("ADDED", "one"),
        ("MODIFIED", "two"),
        ("DELETED", "three"),
    ]
    assert [change.revision for change in seen] == sorted({change.revision for change in seen})


def test_history_is_bounded_and_what_fell_out_is_gone() -> None:
    api = MemoryApi(history_limit=3)
    first = api.create(MAPS, "default", config_map("a"))["metadata"]["resourceVersion"]
    for name in ("b", "c", "d", "e"):
        last = api.create(MAPS, "default", config_map(name))["metadata"]["resourceVersion"]

    with pytest.raises(Gone):
        api.subscribe(MAPS, None, resource_version=first)
    assert not api.subscribe(MAPS, None, resource_version=last).pending


def test_a_crd_serves_its_kind_in_each_version_until_it_is_deleted() -> None:
    api = MemoryApi()
    with pytest.raises(KindNotServed):
        api.get(THINGS, "default", "t")
    stored = api.create(CRDS, None, crd("v1", "v1beta1"))
    api.create(
        THINGS,
        "default",
        {"apiVersion": "store.test/v1", "kind": "Thing", "metadata": {"name": "t"}, "spec": {"a": 1}},
    )
    old = Resource("store.test", "v1beta1", "things", "Thing")

    assert stored["status"]["acceptedNames"]["listKind"] == "ThingList"
    assert {c["type"]: c["status"] for c in stored["status"]["conditions"]}["Established"] == "True"
    assert api.get(old, "default", "t")["apiVersion"] == "store.test/v1beta1"
    api.delete(CRDS, None, "things.store.test")
    with pytest.raises(KindNotServed):
        api.get(THINGS, "default", "t")
    api.create(CRDS, None, crd("v1"))
    assert api.list_page(THINGS, None).items == []


def test_a_malformed_crd_is_invalid() -> None:
    api = MemoryApi()
    wrong_name = {**crd("v1"), "metadata": {"name": "others.store.test"}}
    no_names = crd("v1")
    del no_names["spec"]["names"]

    for body in (wrong_name, no_names, {**crd("v1"), "spec": None}):
        with pytest.raises(Invalid):
            api.create(CRDS, None, body)


def test_deleting_a_namespace_deletes_what_is_in_it() -> None:
    api = MemoryApi()
    api.create(NAMESPACES, None, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}})
    api.create(MAPS, "n", config_map())
    api.create(MAPS, "default", config_map())
    api.delete(NAMESPACES, None, "n")

    assert [item["metadata"]["namespace"] for item in api.list_page(MAPS, None).items] == ["default"]


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"metadata": None},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}},
        {"apiVersion": "v2", "kind": "ConfigMap", "metadata": {"name": "c"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "c"}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "C/../x"}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c" * 254}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "other"}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "labels": {"a": 1}}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "annotations": []}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "resourceVersion": "1"}},
    ],
)
def test_a_body_that_does_not_fit_is_invalid(body: Any) -> None:
    with pytest.raises(Invalid):
        MemoryApi().create(MAPS, "default", body)


def test_unknown_subresources_and_patches_are_refused() -> None:
    api = MemoryApi()
    api.create(MAPS, "default", config_map())

    with pytest.raises(NotFound):
        api.patch(MAPS, "default", "c", {}, content_type=PatchKind.MERGE.value, subresource="status")
    with pytest.raises(Invalid):
        api.patch(MAPS, "default", "c", {}, content_type="text/plain")
    with pytest.raises(Invalid):
        api.patch(MAPS, "default", "c", {}, content_type=PatchKind.MERGE.value, force=True)
    with pytest.raises(Invalid):
        api.get(MAPS, None, "c")


def test_a_watch_lives_in_virtual_time() -> None:
    """Ten virtual minutes with a bookmark each, no real waiting, and an end by itself."""

    async def story() -> list[tuple[float, WatchType]]:
        loop = asyncio.get_running_loop()
        client = MemoryKubeClient(MemoryApi())
        page = await client.list_page(MAPS, None)
        start = loop.time()

        async def write_later() -> None:
            await asyncio.sleep(90)
            await client.create(MAPS, "default", config_map())

        writer = asyncio.create_task(write_later())
        seen = [
            (loop.time() - start, event.type)
            async for event in client.watch(
                MAPS, None, resource_version=page.resource_version, timeout_seconds=200
            )
        ]
        await writer
        return seen

    with virtual_time() as loop:
        seen = loop.run_until_complete(story())

    assert seen == [
        (pytest.approx(60), WatchType.BOOKMARK),
        (pytest.approx(90), WatchType.ADDED),
        (pytest.approx(120), WatchType.BOOKMARK),
        (pytest.approx(180), WatchType.BOOKMARK),
        (pytest.approx(200), WatchType.BOOKMARK),
    ]


async def test_a_restart_of_the_server_ends_watches_after_what_they_still_hold() -> None:
    client = MemoryKubeClient(MemoryApi())
    await client.create(MAPS, "default", config_map())
    events = client.watch(MAPS, None, resource_version="0", timeout_seconds=300)
    first = await anext(aiter(events))
    await client.create(MAPS, "default", config_map("d"))
    client.api.close_watches()

    assert first.object["metadata"]["name"] == "c"
    assert [event.object["metadata"]["name"] async for event in events] == ["d"]


def test_a_missing_namespace_is_no_obstacle() -> None:
    """Documented difference from a real server: namespaces are implicit."""
    assert MemoryApi().create(MAPS, "never-made", config_map())["metadata"]["namespace"] == "never-made"


def test_a_copy_goes_on_from_the_same_state_and_neither_sees_what_the_other_does() -> None:
    first = MemoryApi(clock=VirtualClock(Timeline()))
    first.create(CRDS, None, crd("v1"))
    first.create(MAPS, "default", config_map(a="1"))
    seen: list[Change] = []
    first.observers.append(seen.append)
    second = first.copy(clock=VirtualClock(Timeline()))

    assert second.revision == first.revision
    assert second.get(MAPS, "default", "c") == first.get(MAPS, "default", "c")
    second.delete(CRDS, None, "things.store.test")
    second.create(MAPS, "default", config_map("d"))
    assert seen == []
    assert first.list_page(THINGS, "default").items == []
    made = first.create(MAPS, "default", config_map("d"))
    assert made["metadata"]["uid"] == second.get(MAPS, "default", "d")["metadata"]["uid"]
    with pytest.raises(KindNotServed):
        second.list_page(THINGS, "default")


def test_a_watch_from_before_the_copy_begins_anew() -> None:
    first = MemoryApi(clock=VirtualClock(Timeline()))
    before = str(first.revision)
    first.create(MAPS, "default", config_map())
    second = first.copy(clock=VirtualClock(Timeline()))

    with pytest.raises(Gone):
        second.subscribe(MAPS, "default", resource_version=before)
