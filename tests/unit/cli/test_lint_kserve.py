"""Lint of members of KServe groups: in the group, consenting, and in an earlier wave than their Rollout."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from rollouts.cli.main import main

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "kserve"


def linted(tmp_path: Path, *edits: tuple[str, str]) -> str:
    for name in ("members.yaml", "rollout.yaml"):
        text = (EXAMPLE / name).read_text(encoding="utf-8")
        for old, new in edits:
            text = text.replace(old, new)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return CliRunner().invoke(main, ["lint", str(tmp_path)]).output


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "      group: mymodel",
            "      group: other",
            "is not in group mymodel: set spec.router.route.group",
        ),
        ("managed-by: mymodel ", "managed-by: else ", "is annotated for 'else'"),
        ("{name: mymodel-v1}", "{name: mymodel-v3}", "LLMInferenceService mymodel-v3 is not in these files"),
        ('sync-wave: "3"', 'sync-wave: "-1"', "sync-wave"),
    ],
)
def test_what_is_wrong_with_a_member_is_found_in_the_files(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    assert words in linted(tmp_path, (old, new))


def test_the_example_has_no_finding(tmp_path: Path) -> None:
    assert "0 problems, 0 hints" in linted(tmp_path)
