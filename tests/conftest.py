"""What all tests share: a real helm, and what a run says at its end, whichever process its tests ran in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from rollouts.runtime.garbage import relax_collection
from tests.kit.helm import build_helm, built_helm

_IN_CI = os.environ.get("CI") == "true"

_SPOILED_BY_LOAD = ("cluster", "gateway", "prometheus", "browser", "timed")
"""Marks of tests that wait for real processes or assert seconds. In a run of many processes on few cores such a test
gets a second try, which the summary shows in full; a test of our code alone that fails once has found a bug."""

_SECOND_TRIES = 3
"""More tests than this that needed one fail the run: then it is not the machine."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A second try for what a busy machine can spoil, in the processes of a parallel run only."""
    if not hasattr(config, "workerinput"):
        return
    for item in items:
        if any(item.get_closest_marker(mark) for mark in _SPOILED_BY_LOAD):
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run in which too many tests needed their second try."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and len(reporter.stats.get("rerun", ())) > _SECOND_TRIES:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_collection_finish(session: pytest.Session) -> None:
    """In CI, build helm before the first test, outside of any test's time-out; collect garbage as the product does.

    Ten thousand collected tests live to the end, and looking through them for cycles took a tenth of the CPU.
    """
    relax_collection()
    wanted = any("helm" in getattr(item, "fixturenames", ()) for item in session.items)
    if _IN_CI and wanted and not session.config.option.collectonly:
        build_helm()


@pytest.fixture(autouse=True, scope="session")
def _loggers_are_made_anew() -> Iterator[None]:
    """Commands that run in a test's own process have each logger kept; it would write past what later tests capture."""
    configure = structlog.configure

    def without_keeping(**how: Any) -> None:
        configure(**{**how, "cache_logger_on_first_use": False})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structlog, "configure", without_keeping)
        yield


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
    """Fault plans and first tries, from properties of reports: those come from every process, other state does not."""
    again = terminalreporter.stats.get("rerun", ())
    for report in again:
        terminalreporter.write_sep("_", f"first try of {report.nodeid}")
        terminalreporter.write_line(report.longreprtext)
    if len(again) > _SECOND_TRIES:
        terminalreporter.write_line(
            f"{len(again)} tests needed a second try, {_SECOND_TRIES} may: the run failed", red=True
        )
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
