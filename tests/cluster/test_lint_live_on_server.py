"""`lint --live` and a real API server: its CEL rules speak, its CRDs are ours, nothing is stored."""

from __future__ import annotations

import asyncio
import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from rollouts.api.cel import ONE_TARGET
from rollouts.api.crds import all_crds
from rollouts.cli.main import main
from rollouts.kube.http import HttpKubeClient
from rollouts.kube.paging import list_all
from rollouts.lab.controlplane import ControlPlane, install_crds
from rollouts.objects import kinds
from tests.kit.served import ROLLOUT

pytestmark = pytest.mark.cluster


def said_by_the_server(control_plane: ControlPlane, file: Path, objects: list[dict[str, Any]]) -> list[str]:
    file.write_text(yaml.safe_dump_all(objects), encoding="utf-8")
    words = ["lint", "--live", "-o", "json", str(file), "--kubeconfig", str(control_plane.kubeconfig)]
    result = CliRunner().invoke(main, words)
    return [one["message"] for one in json.loads(result.stdout)["findings"] if one["rule"] == "live"]


async def test_the_server_is_asked_and_nothing_is_stored(
    kube: HttpKubeClient, namespace: str, control_plane: ControlPlane, tmp_path: Path
) -> None:
    await install_crds(kube, all_crds())
    good = {**ROLLOUT, "metadata": {"name": "good", "namespace": namespace}}
    bad = copy.deepcopy(good)
    bad["metadata"]["name"] = "bad"
    bad["spec"]["target"] = {"pool": {"name": "v2"}, "adapter": {"name": "a"}}

    found = await asyncio.to_thread(said_by_the_server, control_plane, tmp_path / "files.yaml", [good, bad])

    assert [text for text in found if "older" in text] == []
    assert [text for text in found if ONE_TARGET in text] != []
    assert [text for text in found if "refuse" in text and "exactly one" not in text] == []
    assert await list_all(kube, kinds.ROLLOUT, namespace) == []
