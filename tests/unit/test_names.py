"""One name for one thing: no two public classes of the product are called alike (docs/architecture.md, "Words")."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import rollouts
from tests.kit.source import syntax_tree

ROOT = Path(rollouts.__file__).parent


def test_no_two_classes_share_a_name() -> None:
    places: defaultdict[str, set[str]] = defaultdict(set)
    for path in sorted(ROOT.rglob("*.py")):
        for node in syntax_tree(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].add(str(path.relative_to(ROOT)))

    assert len(places) > 500
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
