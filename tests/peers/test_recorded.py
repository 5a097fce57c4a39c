"""What ``doctor`` says of objects as gateways write them (docs/peers). A newcomer adds a file to ``recorded``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rollouts.api.crds import all_crds
from rollouts.cli.doctor import diagnose
from rollouts.kube.client import PatchKind, Resource
from rollouts.lab.controlplane import install_crds, minimal
from rollouts.lab.memoryapi.store import MemoryApi
from tests.kit.memory_client import MemoryKubeClient

RECORDED = {
    file.stem: yaml.safe_load(file.read_text("utf-8"))
    for file in sorted((Path(__file__).parent / "recorded").glob("*.yaml"))
}
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")


async def stored(client: MemoryKubeClient, obj: dict[str, Any]) -> None:
    """Create an object with the status that somebody wrote."""
    served = {(one.api_version, one.kind): one for one in await client.discover()}
    resource = served.get((obj["apiVersion"], obj["kind"]), DEPLOYMENTS)
    namespace, name = obj["metadata"].get("namespace"), obj["metadata"]["name"]
    await client.create(resource, namespace, obj)
    if "status" in obj:
        body = {"status": obj["status"]}
        await client.patch(resource, namespace, name, body, kind=PatchKind.MERGE, subresource="status")


@pytest.mark.parametrize("name", RECORDED)
async def test_doctor_says_what_is_known(name: str) -> None:
    recorded = RECORDED[name]
    client = MemoryKubeClient(MemoryApi())
    await install_crds(
        client, (*minimal.GATEWAY, *minimal.INFERENCE_ALPHA, *minimal.INFERENCE_V1, *all_crds())
    )
    for obj in recorded["objects"]:
        await stored(client, obj)

    said = [
        f"{check.level.value}: {check.text}"
        for check in await diagnose(client, "default", "llm", None, "argocd")
    ]

    for sentence in recorded["says"]:
        assert [line for line in said if line.startswith(sentence)], "\n".join(said)
    for words in recorded["silent"]:
        assert not [line for line in said if words in line], "\n".join(said)


def test_there_are_recordings_of_several_gateways() -> None:
    assert len(RECORDED) >= 6
