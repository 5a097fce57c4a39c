"""Test processes that start together build helm once, and all have it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Counts itself, tells the test, builds when the test lets it, as Go would: into the file behind -o.
GO = """#!/bin/sh
echo built >> {folder}/builds
read line < {folder}/gate
while [ "$1" != -o ]; do shift; done
printf '#!/bin/sh\\n' > "$2"
/bin/chmod +x "$2"
"""


def asked(environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "tests.kit.helm"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_processes_that_want_helm_build_it_once(tmp_path: Path) -> None:
    go = tmp_path / "go"
    go.write_text(GO.format(folder=tmp_path))
    go.chmod(0o755)
    os.mkfifo(tmp_path / "gate")
    environment = {**os.environ, "PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    with asked(environment) as first, asked(environment) as second:
        assert first.stdout is not None
        assert second.stdout is not None
        # Each says what it does at once: one builds, the other waits. Only then the build may end.
        said = sorted([first.stdout.readline(), second.stdout.readline()])
        (tmp_path / "gate").write_text("go on\n")
        paths = {process.stdout.read().strip() for process in (first, second) if process.stdout}

    assert said[0].startswith("another build is running")
    assert said[1].startswith("building helm")
    assert (first.returncode, second.returncode) == (0, 0)
    assert (tmp_path / "builds").read_text().split() == ["built"]
    (path,) = paths
    assert os.access(path, os.X_OK)
