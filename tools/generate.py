"""Rewrites the generated files, or checks that they are current: ``python -m tools.generate [--check]``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rollouts.api.crds import crd_files
from rollouts.engine.planning import stages
from rollouts.engine.transitions import PERFORMERS, Trigger, mermaid
from tools.argocd_snippets import argocd_snippets
from tools.chart_crds import chart_crds
from tools.chart_rules import chart_rules
from tools.chart_values import chart_values
from tools.doc_pages import doc_pages
from tools.monitoring import monitoring
from tools.peer_pages import peer_pages
from tools.reference import reference

ROOT = Path(__file__).resolve().parent.parent


def _crds() -> Iterator[tuple[Path, str]]:
    for name, text in crd_files():
        yield ROOT / "crds" / name, text


def _state_machine() -> Iterator[tuple[Path, str]]:
    text = (
        "# Phases of a Rollout\n\nGenerated from `rollouts/engine/transitions.py` by `make generate`.\n\n"
        f"```mermaid\n{mermaid()}```\n\n## Who performs a move\n\n| why | in `rollouts/engine` |\n|---|---|\n"
        + "".join(
            f"| {trigger.value} | {', '.join(f'`{name}`' for name in PERFORMERS[trigger])} |\n"
            for trigger in Trigger
        )
        + "\n## Stages of a plan\n\nIn this order; each ends the plan, or ensures for those behind it:\n\n"
        + "".join(f"1. `{name}`: {ensures}\n" for name, ensures in stages())
    )
    yield ROOT / "docs" / "state-machine.md", text


def _reference() -> Iterator[tuple[Path, str]]:
    yield ROOT / "docs" / "reference.md", reference()


GENERATORS: tuple[Callable[[], Iterator[tuple[Path, str]]], ...] = (
    _crds,
    chart_crds,
    chart_rules,
    chart_values,
    argocd_snippets,
    _state_machine,
    _reference,
    peer_pages,
    doc_pages,
    monitoring,
)
"""Each yields (path, text). Add a generated file here."""


def main(arguments: list[str]) -> int:
    """Write all files; with ``--check`` only compare. Exit status 1 when something is stale."""
    stale = []
    for generator in GENERATORS:
        for path, text in generator():
            if path.exists() and path.read_text(encoding="utf-8") == text:
                continue
            stale.append(path.relative_to(ROOT))
            if "--check" not in arguments:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    for path in stale:
        sys.stdout.write(f"{'stale' if '--check' in arguments else 'written'}: {path}\n")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
