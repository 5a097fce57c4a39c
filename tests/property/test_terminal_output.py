"""Whatever stands in objects, files and answers: every command prints it as data, and none fails over it."""

from __future__ import annotations

import ast
import io
import json
import unicodedata
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest
import structlog
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rollouts
from rollouts.analysis.conditions import condition_problem
from rollouts.api.status import write_status
from rollouts.cli.doctor_gitops import application_checks, object_checks
from rollouts.cli.explain import explanation
from rollouts.cli.lint import lint_documents
from rollouts.cli.logs import configure_logs
from rollouts.cli.main import main
from rollouts.cli.render import rollout_view
from rollouts.cli.table import rollout_table
from rollouts.picker.conformance.report import CaseResult, render
from rollouts.terminal import console, printable, say, shown
from tests.kit.source import syntax_tree
from tests.kit.world import World, analysis, pause, spec, weight

NASTY = (
    "[/red]",
    "[bold]",
    "[/]",
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\u202egnp",
    "\x9b31m",
    "a\nb",
    "\ud800",
    "\r",
)
TEXTS = st.lists(
    st.sampled_from(NASTY) | st.text(st.characters(), max_size=6) | st.just("word"), min_size=1, max_size=4
).map("".join)
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def acts(text: str) -> list[str]:
    """Characters that a terminal would obey; line breaks are ours."""
    return [c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


def poisoned(value: Any, texts: list[str]) -> Any:
    """An object with its free strings replaced, in turn."""
    if isinstance(value, dict):
        return {
            key: texts[hash(key) % len(texts)]
            if isinstance(item, str) and key in FREE
            else poisoned(item, texts)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [poisoned(item, texts) for item in value]
    return value


FREE = {"name", "message", "namespace", "reason", "action", "host", "metric", "by", "raw", "hash"}


def rollout(texts: list[str]) -> dict[str, Any]:
    world = World(spec=spec(weight(10), analysis(), pause()))
    world.settle()
    world.say("abort")
    obj = {
        "apiVersion": "inferencerollouts.dev/v1alpha1",
        "kind": "Rollout",
        "metadata": {"name": "demo", "namespace": "default"},
        "spec": {
            "target": {"pool": {"name": "v2"}},
            "traffic": {"httpRoutes": [{"name": "route"}]},
            "strategy": {"canary": {"steps": [{"setWeight": 10}, {"pause": {}}]}},
        },
        "status": write_status(world.status),
    }
    return poisoned(obj, texts)


def run(texts: list[str]) -> dict[str, Any]:
    name = texts[0]
    return {
        "metadata": {"name": name},
        "spec": {"rollout": name, "comparisons": []},
        "status": {
            "phase": texts[-1],
            "metricResults": [{"name": name, "phase": "Failed", "message": texts[-1]}],
            "comparisons": [{"name": name, "verdict": texts[-1], "message": ""}],
        },
    }


@given(st.lists(TEXTS, min_size=1, max_size=5))
@QUICK
def test_tables_and_views_print_data(texts):
    screen = io.StringIO()
    results = [CaseResult(name=texts[0], problem=texts[-1], reason=texts[0], source=texts[-1])]

    for wide in (False, True):
        console(screen).print(rollout_table([rollout(texts)] * 2, wide=wide, namespaces=wide))
    console(screen).print(rollout_view(rollout(texts), [run(texts)]))
    console(screen).print(render(results))
    console(screen).print(texts[0])

    assert acts(screen.getvalue()) == []


@given(st.lists(TEXTS, min_size=1, max_size=5))
@QUICK
def test_lines_print_data_on_one_line(texts):
    @click.command()
    def command() -> None:
        for heading, sentence in explanation(rollout(texts), [run(texts)], datetime(2026, 1, 1, tzinfo=UTC)):
            say(f"{heading:<10}{sentence}")
        for finding in lint_documents([rollout(texts)], check=condition_problem):
            say(f"{finding.where}: {finding.text}")
        for check in object_checks(texts[0], rollout(texts), managed=False):
            say(f"{check.text} {check.fix}")
        for check in application_checks(rollout(texts), frozenset(), None):
            say(f"{check.text} {check.fix}")
        for text in texts:
            say(text)

    output = CliRunner().invoke(command, catch_exceptions=False).output

    assert acts(output) == []
    assert [line.encode() for line in output.splitlines()[-len(texts) :]] == [
        printable(text).encode() for text in texts
    ]


@given(st.lists(TEXTS, min_size=1, max_size=3))
@QUICK
def test_commands_that_read_files_print_data_also_when_they_fail(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("f") / "rollout.yaml"
    path.write_text(json.dumps(rollout(texts)), encoding="utf-8")
    broken = path.with_name("broken.yaml")
    broken.write_bytes(json.dumps({"kind": texts[0]}).encode() + b"\n" + texts[0].encode("utf-8", "replace"))

    for arguments in (
        ["lint", str(path)],
        ["lint", str(broken)],
        ["plan", str(path)],
        ["picker-manifest", texts[0].replace("\ud800", ""), "--objects", str(path)],
    ):
        result = CliRunner().invoke(main, arguments)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert acts(result.output) == []


@given(TEXTS)
@QUICK
def test_text_logs_print_data(text):
    screen = io.StringIO()
    configure_logs("text")
    structlog.configure(
        logger_factory=structlog.WriteLoggerFactory(file=screen), cache_logger_on_first_use=False
    )
    try:
        structlog.get_logger("t").warning("event", reason=text)
    finally:
        structlog.reset_defaults()

    assert acts(screen.getvalue()) == []


@given(TEXTS)
def test_what_is_harmless_stays_as_it_is(text):
    assert acts(printable(text)) == []
    assert printable(printable(text)) == printable(text)
    if text.isprintable():
        assert printable(text) == text


def test_objects_are_copied_with_their_shape():
    assert shown({"a\x1b": ["[/red]", 1, None, {"b": "\n"}]}) == {"a\\x1b": ["[/red]", 1, None, {"b": "\\n"}]}


@pytest.mark.parametrize("call", ["click.echo", "rich.print", "print", "Console", "click.secho"])
def test_commands_print_in_one_place_only(call):
    """What is printed elsewhere is printed raw."""
    folder = Path(rollouts.__file__).parent
    files = [*folder.glob("cli/*.py"), *folder.glob("picker/*.py")]
    found = [
        f"{path.name}:{node.lineno}"
        for path in files
        if path.name not in ("lab.py", "fuzz.py")  # they print what they made themselves
        for node in ast.walk(syntax_tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == call
    ]

    assert len(files) > 20
    assert found == []


def test_yaml_and_json_escape_by_themselves():
    for text in NASTY:
        assert acts(json.dumps({"a": text})) == []
        if text != "\ud800":
            assert acts(yaml.safe_dump({"a": text})) == []
