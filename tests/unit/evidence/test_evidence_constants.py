"""Every figure of the evidence engine says why it is what it is."""

from __future__ import annotations

import ast
from pathlib import Path

import rollouts.analysis.evidence

FOLDER = Path(rollouts.analysis.evidence.__file__).parent
INDICES = {"_SCORE", "_ANSWERED", "_ROOT_TWO_PI"}
"""Names of places in rows, and of mathematics: they have no reason."""


def unexplained(path: Path) -> list[str]:
    """Constants with a figure in them that no text follows."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    found = []
    for statement, after in zip(body, [*body[1:], None], strict=True):
        if not isinstance(statement, ast.Assign):
            continue
        names = {node.id for node in ast.walk(statement.targets[0]) if isinstance(node, ast.Name)}
        figures = [node for node in ast.walk(statement.value) if isinstance(node, ast.Constant)]
        numbers = [one for one in figures if isinstance(one.value, int | float)]
        explained = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if numbers and not explained and not names & INDICES:
            found.append(f"{path.name}: {', '.join(sorted(names))}")
    return found


def test_every_figure_has_its_reason() -> None:
    modules = sorted(FOLDER.glob("*.py"))
    assert len(modules) > 20

    assert [one for path in modules for one in unexplained(path)] == []
