"""Conditions in a stranger's files cost the reader of the files no more than a budget."""

from __future__ import annotations

import ast
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rollouts.analysis.conditions import condition_problem
from rollouts.cli.file_conditions import FileConditions

ROOT = Path(__file__).parents[3]
ENDLESS = " && ".join(["result"] * 90)
"""Twice as long for each `&&`: 0.1 s at 20 of them."""
STEPS = (
    {"setWeight": 10},
    {"analysis": {"metrics": [{"name": "m", "query": "sum(x)", "successCondition": ENDLESS}]}},
    {"analysis": {"metrics": [{"name": "n", "compare": {"preset": "ttft"}}]}},
)


@pytest.fixture
def rollout(tmp_path: Path) -> Path:
    obj: dict[str, Any] = {
        "apiVersion": "inferencerollouts.dev/v1alpha1",
        "kind": "Rollout",
        "metadata": {"name": "demo"},
        "spec": {
            "target": {"pool": {"name": "v2"}},
            "traffic": {"httpRoutes": [{"name": "route"}]},
            "strategy": {"canary": {"steps": [*STEPS]}},
        },
    }
    file = tmp_path / "rollout.yaml"
    file.write_text(yaml.safe_dump(obj), encoding="utf-8")
    return file


def cpu_here(*words: str) -> tuple[str, float]:
    """What the command says, and the CPU seconds of it and of what it started."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "rollouts.cli", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2, done.stderr
    return done.stdout + done.stderr, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_lint_gives_a_condition_a_budget_and_says_what_to_do(rollout):
    said, spent = cpu_here("lint", "-o", "json", str(rollout))

    (found,) = json.loads(said)["findings"]
    assert "costs too much CPU time: make it simpler, or aggregate in the query" in found["message"]
    assert spent < 5.0


def test_plan_gives_a_condition_a_budget(rollout):
    said, spent = cpu_here("plan", str(rollout), "--rate", "20", "--stable-pods", "18")

    assert "costs too much CPU time" in said
    assert spent < 5.0


def test_backtest_evaluates_no_condition(tmp_path):
    gates, recording = tmp_path / "gates.yaml", tmp_path / "recording.jsonl"
    compare = {"name": "m", "compare": {"preset": "ttft"}, "successCondition": ENDLESS}
    gates.write_text(yaml.safe_dump([compare]), encoding="utf-8")
    recording.write_text('{"kind":"Recording","version":1,"interval":30}\n', encoding="utf-8")

    said, spent = cpu_here("backtest", str(recording), "--gates", str(gates))

    assert "takes no conditions" in said
    assert spent < 5.0


@pytest.mark.parametrize("text", ["result < 2.0 || false", "result <", "other < 1.0", "result < 0.5"])
def test_the_process_says_what_looking_here_says(text):
    with FileConditions() as check:
        assert [check(text), check(text)] == [condition_problem(text)] * 2


def test_what_all_conditions_take_together_is_bounded():
    with FileConditions(seconds=1e-9) as check:
        first, second = check("result < 1.0 || false"), check("result < 2.0 || false")

    assert first is None
    assert "make those simpler, or check fewer files" in str(second)


def test_conditions_are_evaluated_in_their_process_and_nowhere_else():
    """Who else asks for it would do a stranger's work in their own process."""
    allowed = {
        "analysis/conditions.py",
        "analysis/evaluator.py",
        "analysis/verdicts.py",
        "controller/conditions.py",
    }
    names = {"condition_problem", "compile_condition", "evaluate", "InlineConditions"}
    found = {
        str(path.relative_to(ROOT / "rollouts"))
        for path in (ROOT / "rollouts").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").endswith("conditions")
        and names & {alias.name for alias in node.names}
    }
    fallback = {
        "controller/gates.py",
        "controller/assembly.py",
    }  # of tests in virtual time; the program names its own

    assert found <= allowed | fallback
