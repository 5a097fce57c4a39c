"""The table of who performs a move is true, and every stage says what it ensures."""

from __future__ import annotations

import ast
from pathlib import Path

from rollouts.engine import planning
from rollouts.engine.transitions import PERFORMERS, TRANSITIONS, Trigger
from tests.kit.source import syntax_tree

ENGINE = Path(planning.__file__).parent


def named(path: Path) -> set[tuple[Trigger, str]]:
    """Triggers that functions of a module name: those that they move by, or have others move by."""
    return {
        (Trigger[node.attr], f"{path.stem}.{function.name}")
        for function in syntax_tree(path).body
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Trigger"
    }


def test_exactly_those_in_the_table_perform_a_move():
    found = set().union(*(named(path) for path in ENGINE.glob("*.py") if path.stem != "transitions"))

    assert found == {(trigger, name) for trigger, names in PERFORMERS.items() for name in names}


def test_every_trigger_moves_something_and_is_performed():
    moving = {trigger for row in TRANSITIONS for trigger in row.triggers}

    assert moving | {Trigger.WAIT} == set(Trigger) == set(PERFORMERS)  # waiting is staying


def test_every_stage_says_what_it_ensures():
    lines = dict(planning.stages())

    assert len(lines) == len(planning._STAGES)
    assert all(line.endswith(".") and line != "None" for line in lines.values())
