"""kubectl against the memory API: every verb that the lab's users are told to type."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rollouts.kube.client import PatchKind, Resource
from rollouts.kube.errors import Forbidden, Invalid
from rollouts.kube.http import open_client
from rollouts.lab.kubeconfig import write_kubeconfig
from rollouts.lab.memoryapi.server import MemoryApiServer
from rollouts.lab.memoryapi.store import LIMITS, MemoryApi

KUBECTL = shutil.which("kubectl")
needs_kubectl = pytest.mark.skipif(not KUBECTL, reason="kubectl is not on the PATH: its verbs are not tried")
WIDGETS = Resource("lab.test", "v1", "widgets", "Widget")
CRD: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.lab.test"},
    "spec": {
        "group": "lab.test",
        "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"]},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    {"name": "Phase", "type": "string", "jsonPath": ".status.phase"},
                    {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                ],
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {
                                    "size": {
                                        "type": "integer",
                                        "maximum": 10,
                                        "description": "How big it is.",
                                    }
                                },
                            },
                            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                        },
                    }
                },
            }
        ],
    },
}
WIDGET = {
    "apiVersion": "lab.test/v1",
    "kind": "Widget",
    "metadata": {"name": "w", "namespace": "default"},
    "spec": {"size": 3},
}


@dataclass(frozen=True, slots=True)
class Lab:
    """A running memory API with the CRD in it, and ``kubectl`` on it."""

    api: MemoryApi
    folder: Path

    def environment(self) -> dict[str, str]:
        return {**os.environ, "KUBECONFIG": str(self.folder / "kubeconfig"), "HOME": str(self.folder)}

    async def kubectl(self, *arguments: str, stdin: Any = None, ok: bool = True) -> str:
        assert KUBECTL
        process = await asyncio.create_subprocess_exec(
            KUBECTL,
            *arguments,
            env=self.environment(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate(json.dumps(stdin).encode() if stdin else b"")
        assert (process.returncode == 0) is ok, output.decode()
        return output.decode()


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with MemoryApiServer(MemoryApi()) as server:
        write_kubeconfig(tmp_path / "kubeconfig", server=server.url)
        server.api.create(
            Resource(
                "apiextensions.k8s.io",
                "v1",
                "customresourcedefinitions",
                "CustomResourceDefinition",
                namespaced=False,
            ),
            None,
            CRD,
        )
        server.api.create(WIDGETS, "default", WIDGET, manager="me")
        yield Lab(server.api, tmp_path)


Story = Callable[[Lab], Awaitable[None]]


async def get_prints_the_printer_columns(lab: Lab) -> None:
    lines = (await lab.kubectl("get", "wd")).splitlines()

    assert lines[0].split() == ["NAME", "PHASE", "SIZE", "AGE"]
    assert lines[1].split()[:2] == ["w", "3"]


async def get_all_finds_the_category(lab: Lab) -> None:
    assert "widget.lab.test/w" in await lab.kubectl("get", "all")


async def get_as_json_and_by_label(lab: Lab) -> None:
    assert json.loads(await lab.kubectl("get", "widget", "w", "-o", "json"))["spec"] == {"size": 3}
    assert "No resources" in await lab.kubectl("get", "wd", "-A", "-l", "a=b")


async def describe_shows_fields_and_events(lab: Lab) -> None:
    uid = lab.api.get(WIDGETS, "default", "w")["metadata"]["uid"]
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "e"},
        "involvedObject": {"kind": "Widget", "name": "w", "namespace": "default", "uid": uid},
        "reason": "Weighed",
        "message": "three kilos",
        "type": "Normal",
    }
    lab.api.create(Resource("", "v1", "events", "Event"), "default", event)
    text = await lab.kubectl("describe", "widget", "w")

    assert "Size:  3" in text
    assert "Weighed" in text
    assert "three kilos" in text


async def annotate_and_label_write_metadata(lab: Lab) -> None:
    await lab.kubectl("annotate", "wd", "w", "lab.test/command=promote")
    await lab.kubectl("label", "wd", "w", "tier=one")
    metadata = lab.api.get(WIDGETS, "default", "w")["metadata"]

    assert metadata["annotations"] == {"lab.test/command": "promote"}
    assert metadata["labels"] == {"tier": "one"}
    assert {entry["manager"] for entry in metadata["managedFields"]} >= {"kubectl-annotate", "kubectl-label"}


async def patch_writes_and_says_what_is_invalid(lab: Lab) -> None:
    await lab.kubectl("patch", "wd", "w", "--type", "merge", "-p", '{"spec":{"size":4}}')
    refused = await lab.kubectl("patch", "wd", "w", "--type", "merge", "-p", '{"spec":{"size":40}}', ok=False)
    await lab.kubectl(
        "patch", "wd", "w", "--subresource", "status", "--type", "merge", "-p", '{"status":{"phase":"Ok"}}'
    )

    assert "spec.size" in refused
    stored = lab.api.get(WIDGETS, "default", "w")
    assert (stored["spec"]["size"], stored["status"]) == (4, {"phase": "Ok"})


async def apply_server_side_owns_and_conflicts(lab: Lab) -> None:
    mine = {**WIDGET, "metadata": {"name": "applied", "namespace": "default"}}
    await lab.kubectl("apply", "--server-side", "-f", "-", stdin=mine)
    other = {**mine, "spec": {"size": 5}}
    refused = await lab.kubectl(
        "apply", "--server-side", "--field-manager", "other", "-f", "-", stdin=other, ok=False
    )
    await lab.kubectl(
        "apply", "--server-side", "--field-manager", "other", "--force-conflicts", "-f", "-", stdin=other
    )

    assert 'conflict with "kubectl"' in refused or 'conflicts with "kubectl"' in refused
    assert lab.api.get(WIDGETS, "default", "applied")["spec"] == {"size": 5}


async def apply_refuses_unknown_fields(lab: Lab) -> None:
    wrong = {**WIDGET, "spec": {"sise": 3}}

    assert ".spec.sise: field not declared in schema" in await lab.kubectl(
        "apply", "--server-side", "-f", "-", stdin=wrong, ok=False
    )


async def apply_client_side_works_too(lab: Lab) -> None:
    await lab.kubectl("apply", "-f", "-", stdin={**WIDGET, "spec": {"size": 7}})

    assert lab.api.get(WIDGETS, "default", "w")["spec"]["size"] == 7


async def delete_deletes_and_returns(lab: Lab) -> None:
    assert "deleted" in await lab.kubectl("delete", "wd", "w", "--timeout=20s")
    assert "NotFound" in await lab.kubectl("get", "wd", "w", ok=False)


async def wait_sees_a_condition_come(lab: Lab) -> None:
    waiting = asyncio.create_task(lab.kubectl("wait", "--for=condition=Ready", "wd/w", "--timeout=20s"))
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    lab.api.patch(WIDGETS, "default", "w", ready, content_type=PatchKind.MERGE.value, subresource="status")

    assert "condition met" in await waiting


async def get_watch_prints_each_change(lab: Lab) -> None:
    assert KUBECTL
    process = await asyncio.create_subprocess_exec(
        KUBECTL, "get", "wd", "-w", env=lab.environment(), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout
    try:
        header, first = await process.stdout.readline(), await process.stdout.readline()
        lab.api.patch(WIDGETS, "default", "w", {"spec": {"size": 9}}, content_type=PatchKind.MERGE.value)
        second = await process.stdout.readline()
    finally:
        process.kill()
        await process.communicate()

    assert header.split()[0] == b"NAME"
    assert (first.split()[1], second.split()[1]) == (b"3", b"9")


async def explain_reads_the_schema(lab: Lab) -> None:
    assert "How big it is." in await lab.kubectl("explain", "widgets.spec.size")


async def built_in_kinds_can_be_worked_with(lab: Lab) -> None:
    await lab.kubectl("run", "p", "--image=x")
    await lab.kubectl("label", "pod", "p", "a=b")
    await lab.kubectl("annotate", "pod", "p", "c=d")
    lines = (await lab.kubectl("get", "pods", "-o", "wide", "--show-labels")).splitlines()
    await lab.kubectl("describe", "pod", "p")
    await lab.kubectl("delete", "pod", "p", "--timeout=20s")

    assert lines[0].split()[:4] == ["NAME", "READY", "STATUS", "RESTARTS"]
    assert lines[1].split()[:3] == ["p", "0/1", "Pending"]
    assert "a=b" in lines[1]


STORIES: tuple[Story, ...] = (
    get_prints_the_printer_columns,
    get_all_finds_the_category,
    get_as_json_and_by_label,
    describe_shows_fields_and_events,
    annotate_and_label_write_metadata,
    patch_writes_and_says_what_is_invalid,
    apply_server_side_owns_and_conflicts,
    apply_refuses_unknown_fields,
    apply_client_side_works_too,
    delete_deletes_and_returns,
    wait_sees_a_condition_come,
    get_watch_prints_each_change,
    explain_reads_the_schema,
    built_in_kinds_can_be_worked_with,
)


@needs_kubectl
@pytest.mark.slow
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
async def test_kubectl(lab: Lab, story: Story) -> None:
    await story(lab)


# Without kubectl


async def test_a_token_is_demanded_when_there_is_one(tmp_path: Path) -> None:
    async with MemoryApiServer(MemoryApi(), token="secret") as server:
        write_kubeconfig(tmp_path / "right", server=server.url, token="secret")
        write_kubeconfig(tmp_path / "wrong", server=server.url, token="guess")
        async with await open_client(str(tmp_path / "wrong")) as client:
            with pytest.raises(Forbidden):
                await client.discover()
        async with await open_client(str(tmp_path / "right")) as client:
            assert WIDGETS not in await client.discover()


async def test_the_server_says_what_it_is_not(tmp_path: Path) -> None:
    async with MemoryApiServer(MemoryApi()) as server:
        write_kubeconfig(tmp_path / "k", server=server.url)
        async with await open_client(str(tmp_path / "k")) as client:
            document = await client.server_version()

    assert document["limits"] == LIMITS
    assert "no CEL" in LIMITS
    assert "memory" in document["gitVersion"]


async def test_only_the_owner_may_read_a_kubeconfig(tmp_path: Path) -> None:
    write_kubeconfig(tmp_path / "k", server="http://x", token="secret")

    assert (tmp_path / "k").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        pytest.param(b"\x00k8s", "application/vnd.kubernetes.protobuf", 415, id="protobuf"),
        pytest.param(b"a: &a [1]\nb: *a", "application/yaml", 400, id="a YAML alias"),
        pytest.param(b"{]", "application/json", 400, id="neither JSON nor YAML"),
        pytest.param(b" " * (3 * 1024 * 1024 + 1), "application/json", 413, id="over 3 MiB"),
        pytest.param(b"[" * 100_000, "application/json", 400, id="nested without end"),
    ],
)
async def test_a_hostile_body_is_refused(body: bytes, content_type: str, status: int) -> None:
    async with MemoryApiServer(MemoryApi()) as server, aiohttp.ClientSession() as session:
        url = f"{server.url}/api/v1/namespaces/default/configmaps"
        async with session.post(url, data=io.BytesIO(body), headers={"Content-Type": content_type}) as answer:
            document = await answer.json()

    assert (answer.status, document["kind"], document["code"]) == (status, "Status", status)


async def test_classic_discovery_says_the_same_as_the_aggregated_one(lab: Lab, tmp_path: Path) -> None:
    async with await open_client(str(tmp_path / "kubeconfig")) as client:
        aggregated = set(await client.discover())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("rollouts.kube.http.AGGREGATED", "application/json")
            classic = set(await client.discover())

    assert aggregated == classic
    assert WIDGETS in classic


async def test_a_validation_error_names_its_fields_for_kubectl(lab: Lab, tmp_path: Path) -> None:
    async with await open_client(str(tmp_path / "kubeconfig")) as client:
        with pytest.raises(Invalid, match=r"spec\.size: Invalid value"):
            await client.patch(WIDGETS, "default", "w", {"spec": {"size": 11}}, kind=PatchKind.MERGE)
