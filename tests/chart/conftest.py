"""The chart, rendered by a real helm."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kit.helm import template_chart

Objects = list[dict[str, Any]]
Render = Callable[[dict[str, Any]], Objects]
Attempt = Callable[[dict[str, Any]], subprocess.CompletedProcess[str]]


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
