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


def test_a_weight_that_a_sync_would_reset_to_more_traffic_is_hinted_with_one_that_would_not(
    tmp_path: Path,
) -> None:
    edits = ("weight: 10000 ", "weight: 9 "), ("setWeight: 10\n", "setWeight: 1\n")

    assert (
        "LLMInferenceService mymodel-v1 has weight 9 in Git, too coarse for 1%: a sync that resets it makes that 10% "
        "until it is restored; write weight: 99"
    ) in " ".join(linted(tmp_path, *edits).split())
    assert "0 problems, 0 hints" in linted(tmp_path, ("weight: 10000 ", "weight: 99 "))
