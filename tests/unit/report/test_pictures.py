"""Pictures of README and docs: whole, of what was measured, and without anything from elsewhere."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.pictures import FOLDER, ROOT, evidence, false_aborts, recorded, watch
from rollouts.report.reading import read_attempt
from tests.kit.attempts import bad_attempt, good_attempt, objects_of

DRAWN: dict[str, Callable[[], str]] = {
    "watch": watch,
    "good": lambda: evidence(read_attempt(*objects_of(good_attempt())), "t"),
    "bad": lambda: evidence(read_attempt(*objects_of(bad_attempt())), "t"),
    "false aborts": false_aborts,
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_drawing_stands_by_itself(name: str) -> None:
    text = DRAWN[name]()
    assert ET.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert "http" not in text.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert "url(" not in text.replace("url(#", "")
    assert "<script" not in text


def test_the_study_is_drawn_whole() -> None:
    rows = list(recorded())
    assert len(rows) == 23
    assert max(row.share for row in rows) == 3.5
    assert all(row.low <= row.share <= row.high for row in rows)


def test_every_picture_is_shown_somewhere_and_is_there() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    shown = {
        (page.parent / name).resolve()
        for page in pages
        for name in re.findall(r"!\[[^\]]*\]\(([^)]*)\)", page.read_text(encoding="utf-8"))
    }
    assert shown == set[Path](FOLDER.iterdir())
