"""What all tests share: a real helm, and what a run says at its end, whichever process its tests ran in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kit.helm import build_helm, built_helm

_IN_CI = os.environ.get("CI") == "true"


def pytest_collection_finish(session: pytest.Session) -> None:
    """In CI, build helm before the first test, outside of any test's time-out."""
    wanted = any("helm" in getattr(item, "fixturenames", ()) for item in session.items)
    if _IN_CI and wanted and not session.config.option.collectonly:
        build_helm()


@pytest.fixture(scope="session")
def helm() -> Path:
    """A real helm: required in CI, a loud skip elsewhere."""
    found = built_helm()
    if found is None and _IN_CI:
        pytest.fail("CI must have a helm")
    if found is None:
        pytest.skip("no helm: `python -m tests.kit.helm` builds one (Go, three minutes once)")
    return found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count the fault plans; properties of reports come from every process, other state does not."""
    plans, seconds = 0, 0.0
    for reports in terminalreporter.stats.values():
        for report in reports:
            said = dict(getattr(report, "user_properties", ()))
            if "fault_plans" in said and report.when == "call":
                plans += said["fault_plans"]
                seconds += report.duration
    if plans:
        rate = plans / max(seconds, 0.001)
        terminalreporter.write_line(
            f"{plans} fault plans, all enumerated, in {seconds:.0f} s of one process ({rate:.1f} a second)"
        )
