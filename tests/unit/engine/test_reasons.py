"""Reasons are an enumeration: each with a sentence, each used, and none beside it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import rollouts
from rollouts.engine.reasons import Printed, Reason, printed
from tests.kit.source import syntax_tree
from tools.doc_pages import troubleshooting

ROOT = Path(rollouts.__file__).parent
PAGE = troubleshooting()
SOURCES = [
    path
    for layer in ("analysis", "sources", "api", "carriers", "controller", "engine", "traffic")
    for path in sorted((ROOT / layer).rglob("*.py"))
    if path.name != "reasons.py"
]
TAKES = {"Blocker": 0, "Problem": 0, "Refusal": 0, "Refused": 0, "WriteRefused": 0, "EmitEvent": 1}
"""What is told with a reason, and at which place that stands where it is not named."""


@pytest.mark.parametrize("reason", Reason, ids=str)
def test_a_reason_has_a_sentence_and_says_what_to_do(reason):
    assert re.fullmatch(r"[A-Z][A-Za-z]+", reason.value)
    assert reason.meaning.endswith(".")
    assert reason.remedy == "" or reason.remedy.endswith(".")
    assert f"| `{reason.value}` |" in PAGE


def test_every_reason_is_used():
    named = {
        node.attr
        for path in [*SOURCES, ROOT / "engine" / "reasons.py"]
        for node in ast.walk(syntax_tree(path))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Reason"
    }
    texts = {
        node.value
        for path in (ROOT / "analysis").rglob("*.py")
        for node in ast.walk(syntax_tree(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    unused = {reason.name for reason in Reason if reason.name not in named and reason.value not in texts}

    assert unused == {"COMMAND_DONE", "COMMAND_REJECTED", "COMMAND_IN_PROGRESS"}  # made of a command's result


def test_what_is_wrong_with_metrics_has_a_reason():
    """Gates are judged in words of their own, of which the controller makes reasons."""
    tree = syntax_tree(ROOT / "analysis" / "templates.py")
    pairs = [node.elts[0] for node in ast.walk(tree) if isinstance(node, ast.Tuple) and len(node.elts) == 2]
    words = {item.value for item in pairs if isinstance(item, ast.Constant) and str(item.value).isalpha()}
    said = {word for word in words if isinstance(word, str) and word[0].isupper()}

    assert "QueryUnknown" in said
    assert said <= {reason.value for reason in Reason}


def strings_for_reasons(source: str) -> list[int]:
    """Lines that give a plain string where a reason belongs."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in TAKES:
            place = TAKES[node.func.id]
            given = [*node.args[place : place + 1], *(k.value for k in node.keywords if k.arg == "reason")]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "move":
            given = node.args[2:3]
        elif (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "event"
        ):
            given = node.args[1:2]
        else:
            continue
        found += [item.lineno for item in given if isinstance(item, ast.Constant | ast.JoinedStr)]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_string_stands_where_a_reason_belongs(path):
    """What mypy refuses, for those who do not ask it."""
    assert strings_for_reasons(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        'Blocker(reason="Foo", message="")',
        'WriteRefused("Foo", "")',
        'draft.move(phase, trigger, "Foo", "")',
        'draft.event(kind, f"Foo{x}", "")',
    ],
)
def test_a_string_in_place_of_a_reason_is_found(line):
    assert strings_for_reasons(line) == [1]


def test_a_stored_reason_of_another_version_is_shown_as_it_is():
    assert printed("GateFailed") is Reason.GATE_FAILED
    assert printed("FutureReason") == Printed("FutureReason")


def test_no_reason_but_those_there_are_can_be_made():
    with pytest.raises(ValueError, match="Foo"):
        Reason("Foo")
