"""Each list that a new kind, step or command goes into is complete, and the page that names the lists is true."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from rollouts.api.rollout_models import StepModel
from rollouts.carriers import TRAFFIC_KINDS
from rollouts.cli.main import COMMANDS
from rollouts.controller.caches import Caches
from rollouts.engine.types import Step
from tests.kit.faults.cluster import Cluster
from tests.kit.faults.objects import ADAPTER_OF, CANARY, STABLE

ROOT = Path(__file__).resolve().parents[2]
BEFORE, AFTER = ADAPTER_OF[STABLE], ADAPTER_OF[CANARY]


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What a Rollout over a kind did that only a test knows; in a process of its own, for the list is read once."""
    command = [sys.executable, "-m", "tests.kit.dummy_kind"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


@pytest.mark.parametrize(
    ("story", "shares"),
    [
        ("promoted", [{BEFORE: 90, AFTER: 10}, {BEFORE: 50, AFTER: 50}, {AFTER: 100}]),
        ("aborted", [{BEFORE: 90, AFTER: 10}, {BEFORE: 100}]),
        ("unreadable", [{BEFORE: 90, AFTER: 10}, {BEFORE: 100}]),
    ],
)
def test_a_new_kind_is_one_file_and_one_line(
    told: dict[str, Any], story: str, shares: list[dict[str, int]]
) -> None:
    assert told[story] == {"converged": True, "problems": [], "shares": shares}


def test_a_new_kind_is_a_field_of_the_schema(told: dict[str, Any]) -> None:
    assert told["schema"] == ["httpRoutes", "inferenceModel", "inferenceModelRewrite", "modelShare"]


def test_every_kind_in_its_folder_is_in_the_list() -> None:
    files = {path.stem for path in (ROOT / "rollouts" / "carriers").glob("*.py")}
    listed = {type(kind).__module__.rsplit(".", 1)[1] for kind in TRAFFIC_KINDS}

    assert files - listed == {"__init__", "base", "adapters"}


def test_every_kind_is_watched_and_wakes_its_rollouts() -> None:
    from rollouts.runtime.clock import SystemClock

    clock = SystemClock()
    cluster = Cluster(clock)
    caches = Caches(cluster.api, clock)  # type: ignore[arg-type]

    watched = {resource for kind in TRAFFIC_KINDS for resource in kind.resources}
    assert watched <= caches.by_resource().keys()


def test_every_place_that_the_page_names_is_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.split("## Where things go")[1].split("\n## ")[0]
    places = re.findall(r"`([a-z_/]+\.(?:py|yaml))(?:: ([\w.]+))?`", table)
    assert len(places) > 12

    missing = []
    for path, name in places:
        found = [folder / path for folder in (ROOT, ROOT / "rollouts") if (folder / path).exists()]
        if not found or (name and not re.search(rf"\b{name}\b", found[0].read_text(encoding="utf-8"))):
            missing.append(f"{path}: {name}")
    assert missing == []


def test_every_step_of_the_engine_is_a_field_of_the_model() -> None:
    assert len(get_args(Step)) == len(StepModel.model_fields)


def test_every_module_with_a_command_is_listed() -> None:
    with_commands = {
        f"rollouts.cli.{path.stem}"
        for path in (ROOT / "rollouts" / "cli").glob("*.py")
        if re.search(r"^@click\.(command|group)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }

    assert with_commands - {target.split(":")[0] for target in COMMANDS.values()} == {"rollouts.cli.main"}
