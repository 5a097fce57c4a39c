"""What a run says at its end, whichever process its tests ran in."""

from __future__ import annotations

import pytest


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
