"""The container build file: what it copies is there and let through, and everything it installs has a hash."""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Containerfile").read_text(encoding="utf-8")
COPIED = [
    source
    for line in re.findall(r"^COPY (?!--from)(.+)$", TEXT, re.MULTILINE)
    for source in line.split()[:-1]
]


@pytest.mark.parametrize("source", COPIED)
def test_a_copied_path_exists_and_is_in_the_build_context(source: str) -> None:
    assert (ROOT / source).exists()
    rules = (ROOT / ".containerignore").read_text(encoding="utf-8").split()
    assert rules[0] == "*"
    assert any(fnmatch(source, rule.removeprefix("!")) for rule in rules if rule.startswith("!"))


def test_the_build_tool_is_locked_with_hashes() -> None:
    lock = (ROOT / "requirements" / "dev.lock").read_text(encoding="utf-8")
    assert "setuptools==" in TEXT
    assert re.search(r"^setuptools==\S+ \\\n    --hash=sha256:[0-9a-f]{64}", lock, re.MULTILINE)


def test_every_installation_is_bound_to_hashes_or_to_our_own_wheel() -> None:
    installations = re.findall(r"pip (?:install|wheel) [^&\n]+", TEXT)
    assert len(installations) == 4
    assert all("--require-hashes" in line or "--no-deps" in line for line in installations)


def test_it_runs_our_command_as_nobody() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (entry,) = re.findall(r'^ENTRYPOINT \["(.+)"\]$', TEXT, re.MULTILINE)
    assert entry in project["scripts"]
    assert re.findall(r"^USER (.+)$", TEXT, re.MULTILINE) == ["65532:65532"]
