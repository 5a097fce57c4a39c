"""Each list that a kind, preset, model server, step, notification or command goes into is complete.

The page that names the lists is true.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from rollouts.api.rollout_models import StepModel
from rollouts.carriers import TRAFFIC_KINDS, target_kinds
from rollouts.cli.lab import lab
from rollouts.cli.main import COMMANDS
from rollouts.controller.caches import Caches
from rollouts.engine import planning
from rollouts.engine.actions import EventType
from rollouts.engine.draft import Draft
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import Step
from tests.kit.faults.cluster import Cluster
from tests.kit.faults.objects import ADAPTER_OF, CANARY, STABLE
from tests.kit.faults.scenarios import SCENARIOS
from tests.kit.faults.simulation import simulate

pytestmark = pytest.mark.timeout(280)
"""Seconds: processes are started in which whole rollouts are told, on a machine that does other things as well."""

ROOT = Path(__file__).resolve().parents[2]
BEFORE, AFTER = ADAPTER_OF[STABLE], ADAPTER_OF[CANARY]


def _driven(module: str) -> dict[str, Any]:
    """What was done over a kind that only a test knows; in a process of its own, for the list is read once."""
    command = [sys.executable, "-m", module]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=True)
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """Over a kind of one object, which splits adapters."""
    return _driven("tests.kit.dummy_kind")


@pytest.fixture(scope="module")
def of_rings() -> dict[str, Any]:
    """Over a kind of several objects, each of which is a version as well."""
    return _driven("tests.kit.dummy_group")


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
    known = [kind.field for kind in TRAFFIC_KINDS]

    assert told["schema"] == sorted([*known, "modelShare"])


WAY_BACK = [
    {STABLE: 9000},
    {STABLE: 9000, CANARY: 1000},
    {STABLE: 10000, CANARY: 1000},
    {STABLE: 10000},
]
PROMOTED = [
    {STABLE: 9000},
    {STABLE: 9000, CANARY: 1000},
    {STABLE: 9000, CANARY: 5000},
    {STABLE: 5000, CANARY: 5000},
    {STABLE: 5000, CANARY: 10000},
    {CANARY: 10000},
]


@pytest.mark.parametrize(
    ("story", "shares", "faults"),
    [("promoted", PROMOTED, True), ("aborted", WAY_BACK, True), ("unreadable", WAY_BACK, False)],
)
def test_a_new_kind_of_several_objects_that_are_versions_is_one_file_and_one_line(
    of_rings: dict[str, Any], story: str, shares: list[dict[str, int]], faults: bool
) -> None:
    found = of_rings[story]

    assert bool(found.pop("plans")) is faults
    assert found == {"converged": True, "problems": [], "broken": [], "shares": shares}


def _about_cells(lines: list[str]) -> list[str]:
    return [line.partition(":")[0] for line in lines if "ModelCell" in line]


def test_commands_know_it_without_being_told(of_rings: dict[str, Any]) -> None:
    assert _about_cells(of_rings["lint"]) == []
    assert _about_cells(of_rings["lint stray"]) == [
        f"ModelCell/{CANARY} is not in group mymodel-group",
        f"ModelCell/{CANARY} does not consent",
    ]
    assert _about_cells(of_rings["lint late"]) == [
        f"it is in sync wave 0, and ModelCell/{CANARY}, which it needs, in 3"
    ]
    assert of_rings["lint beside"] == [
        "spec.traffic a pool target needs traffic.httpRoutes: pools are split by the gateway"
    ]
    assert of_rings["doctor"] == [
        f"FINE ModelCell {CANARY} is in group mymodel-group, and consents to Rollout mymodel"
    ]
    assert of_rings["pods"] == 2
    assert of_rings["waited for"] == CANARY


def test_schema_options_and_the_chart_have_it(of_rings: dict[str, Any]) -> None:
    assert of_rings["target"] == [*(kind.field for kind in target_kinds()), "modelCell", "revision"]
    assert of_rings["traffic"] == [*(kind.field for kind in TRAFFIC_KINDS), "modelRing"]
    assert of_rings["options"] == ["--rings"]
    assert of_rings["watched"] == [False, True]
    assert of_rings["chart"] == [
        "{{- if .Values.rings }}",
        "  resources: [modelcells]",
        "- --{{ if not .Values.rings }}no-{{ end }}rings",
    ]


NAMED_ELSEWHERE = {
    "rollouts/engine/reasons.py": "reasons are one closed list",
    "rollouts/objects/kinds.py": "so are the resources that somebody reads or writes",
    "rollouts/cli/lab.py": "the story that is told of it",
    "rollouts/lab/controlplane/minimal.py": "its CRD, for where the real one cannot be fetched",
    "rollouts/runtime/modelservers.py": "says in a comment whose options it has",
}


def test_no_module_but_its_own_knows_a_kind_of_several_objects() -> None:
    """Whoever asks for it by name, or by the type of its values, has it asked for by the next such kind as well."""
    words = re.compile(r"kserve|llm_?(inference_?)?service|service_group|GroupTraffic", re.IGNORECASE)
    own = re.compile(r"kserve|llm_(inference_)?service|service_group")
    found = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "rollouts").rglob("*.py")
        if not own.search(path.stem) and words.search(path.read_text(encoding="utf-8"))
    }

    in_list = {"rollouts/carriers/__init__.py", "rollouts/engine/rollout_spec.py"}
    assert found == in_list | NAMED_ELSEWHERE.keys()


def test_what_a_kind_is_like_is_asked_of_it_and_not_of_its_type() -> None:
    """``made_of`` and the classes of kinds are for the folder of kinds; caches alone choose an index by it."""
    asking = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "rollouts").rglob("*.py")
        if re.search(r"isinstance\([^)]*(Kind|Carrier)\b", path.read_text(encoding="utf-8"))
    }

    assert asking == {"rollouts/carriers/__init__.py", "rollouts/carriers/base.py"}


def test_every_kind_in_its_folder_is_in_the_list() -> None:
    files = {path.stem for path in (ROOT / "rollouts" / "carriers").glob("*.py")}
    listed = {type(kind).__module__.rsplit(".", 1)[1] for kind in TRAFFIC_KINDS}

    assert files - listed == {"__init__", "base", "adapters", "target_kinds"}


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

    listed = {target.split(":")[0] for target in COMMANDS.values()}
    listed |= {str(command.callback.__module__) for command in lab.commands.values()}

    assert with_commands - listed == {"rollouts.cli.main"}


@pytest.fixture(scope="module")
def answered() -> dict[str, Any]:
    """What is said of a preset and a model server that only a test knows; in a process of its own."""
    command = [sys.executable, "-m", "tests.kit.dummy_series"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def test_a_new_preset_is_a_row_and_its_name_in_the_columns(answered: dict[str, Any]) -> None:
    assert answered["offered"] == [True, True]
    assert answered["linted"] == []
    assert answered["row"] == ["", "yes", "", "", " |"]


def test_a_new_model_server_is_a_column(answered: dict[str, Any]) -> None:
    assert answered["server"]
    assert answered["read"] == [0.2, 0.2]


def _row(what: str) -> set[str]:
    """The files of the product that the page's row names."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {what} |")]
    return set(re.findall(r"`([a-z_/]+\.py)", line))


def _naming(names: set[str], *, least: int) -> set[str]:
    """Files of the product (the lab imitates one server) whose code names so many of these, docstrings left out."""
    found = set()
    for path in (ROOT / "rollouts").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [one for one in body if not _is_text(one)]  # type: ignore[attr-defined]
        words = re.findall(r"[A-Za-z_]+:?", ast.unparse(tree))
        if len(names.intersection(words)) >= least:
            found.add(str(path.relative_to(ROOT / "rollouts")))
    return {path for path in found if not path.startswith("lab/")}


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def test_whatever_names_the_series_of_model_servers_is_on_the_page() -> None:
    assert _naming({"vllm:", "sglang:"}, least=1) <= _row("a model server")


def test_whatever_knows_every_step_is_on_the_page() -> None:
    classes = {one.__name__ for one in get_args(Step)}
    fields = {*StepModel.model_fields, *(str(info.alias) for info in StepModel.model_fields.values())}

    assert _naming(classes, least=len(classes) - 1) <= _row("a step")
    assert _naming(fields, least=len(StepModel.model_fields)) <= _row("a step")


def test_what_a_stage_tells_becomes_an_event_by_one_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(draft: Draft) -> bool:
        """Says one thing more."""
        draft.event(EventType.NORMAL, Reason.CANARY_CRASHED, "a dummy notification")
        return False

    monkeypatch.setattr(planning, "_STAGES", (told, *planning._STAGES))
    run = simulate(SCENARIOS["abort by command, then retry"])
    sent = [item.after for item in run.history.records if item.change.plural == "events"]

    assert "a dummy notification" in {event.get("note") or event.get("message") for event in sent}
    naming = {
        path for path in _naming({"EVENT"}, least=1) if not path.startswith("cli/")
    }  # commands only read
    senders = naming - {"controller/termination.py"}  # asks by a dry run
    assert senders == {"controller/events.py", "objects/kinds.py"}
    assert senders - _row("an Event") == {"objects/kinds.py"}
