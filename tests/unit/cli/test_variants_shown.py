"""Variants at the command line and on the dashboard: lint of files, what is waited for, whose pods are whose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rollouts.cli.main import main
from rollouts.cli.outcomes import wanted_of
from rollouts.dashboard.looking import ClusterView
from rollouts.objects import kinds
from rollouts.runtime.clock import SystemClock
from tests.kit.faults.cluster import NAMESPACE, Cluster
from tests.kit.faults.objects import (
    CANARY,
    RELEASES,
    STABLE,
    shared_objects,
    shared_pool,
    split_object,
    variant_rollout,
)
from tests.kit.memory_client import MemoryKubeClient

Object = dict[str, Any]


def lint(tmp_path: Path, *objects: Object) -> list[str]:
    file = tmp_path / "all.yaml"
    file.write_text("\n---\n".join(json.dumps(obj) for obj in objects))
    result = CliRunner().invoke(main, ["lint", str(file), "-o", "json"])
    return [f"{one['rule']}: {one['message']}" for one in json.loads(result.output)["findings"]]


def test_a_split_in_files_is_named(tmp_path: Path) -> None:
    found = lint(tmp_path, variant_rollout(), split_object({STABLE: 100}))

    assert [one for one in found if one.startswith("git:")] != []
    assert "take it out of Git" in " ".join(found)


def test_no_split_is_missed_in_files_and_no_hint_is_taken_for_a_pool(tmp_path: Path) -> None:
    hinted = variant_rollout(stableHint="release=qwen")
    found = lint(tmp_path, hinted, shared_pool())

    assert [one for one in found if "PoolSplit" in one or "release=qwen" in one] == []


@pytest.mark.parametrize(("mode", "named"), [("FailOpen", True), ("FailClose", False)])
def test_a_pool_that_serves_without_its_picker_is_named(tmp_path: Path, mode: str, named: bool) -> None:
    pool = shared_pool()
    pool["spec"]["extensionRef"]["failureMode"] = mode

    assert any(one.startswith("fail-open:") for one in lint(tmp_path, variant_rollout(), pool)) is named


def test_a_command_may_wait_for_a_variant() -> None:
    assert wanted_of(variant_rollout()).target == CANARY


@pytest.mark.parametrize("canary", [False, True])
async def test_the_dashboard_shows_each_variants_own_pods(canary: bool) -> None:
    cluster = Cluster(SystemClock())
    shared_objects(cluster)
    for role in (STABLE, CANARY):
        cluster.scale(RELEASES[role], 2)
    arms = {"stable": STABLE, "canary": CANARY} if canary else {"stable": STABLE}
    rollout = cluster.create(kinds.ROLLOUT, variant_rollout())
    told = {
        arm: {"kind": "Variant", "name": role, "source": f"release={RELEASES[role]}", "hash": "0" * 64}
        for arm, role in arms.items()
    }
    rollout["status"] = {"phase": "Paused", "attempt": 1, **told}
    looking = ClusterView(MemoryKubeClient(cluster.api), SystemClock(), NAMESPACE)

    shown = {one.name: [pod.name for pod in one.pods] for one in await looking.arms(rollout)}

    assert shown == {role: [f"{RELEASES[role]}-{number}" for number in range(2)] for role in arms.values()}
