"""The chart, rendered by a real helm: required in CI, a loud skip elsewhere."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kit.helm import build_helm, built_helm, template_chart

_IN_CI = os.environ.get("CI") == "true"

Objects = list[dict[str, Any]]
Render = Callable[[dict[str, Any]], Objects]


def pytest_collection_finish(session: pytest.Session) -> None:
    """In CI, build before the first test, outside of any test's time-out."""
    wanted = any("helm" in getattr(item, "fixturenames", ()) for item in session.items)
    if _IN_CI and wanted and not session.config.option.collectonly:
        build_helm()


@pytest.fixture(scope="session")
def helm() -> Path:
    found = built_helm()
    if found is None and _IN_CI:
        pytest.fail("CI must have a helm")
    if found is None:
        pytest.skip("no helm: `python -m tests.kit.helm` builds one (Go, three minutes once)")
    return found


@pytest.fixture(scope="session")
def attempt(helm: Path) -> Callable[[dict[str, Any]], subprocess.CompletedProcess[str]]:
    """``helm template`` with these values, whatever comes of it."""

    seen: dict[str, subprocess.CompletedProcess[str]] = {}

    def run(values: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        key = yaml.safe_dump(values)
        if key not in seen:
            seen[key] = template_chart(helm, values)
        return seen[key]

    return run


@pytest.fixture(scope="session")
def render(attempt: Callable[[dict[str, Any]], subprocess.CompletedProcess[str]]) -> Render:
    """The objects that an installation with these values makes."""

    def objects(values: dict[str, Any]) -> Objects:
        done = attempt(values)
        assert done.returncode == 0, done.stderr
        return [item for item in yaml.safe_load_all(done.stdout) if item]

    return objects
