"""Counts the fault plans of a session and says so at its end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import structlog


@dataclass
class Tally:
    plans: int = 0
    seconds: float = 0.0


_TALLY = Tally()


@pytest.fixture
def tally() -> Tally:
    return _TALLY


@pytest.fixture(autouse=True)
def _quiet_logs() -> Iterator[None]:
    """A thousand simulated processes log what nobody reads."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.configure(**before)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _TALLY.plans:
        rate = _TALLY.plans / max(_TALLY.seconds, 0.001)
        terminalreporter.write_line(
            f"{_TALLY.plans} fault plans in {_TALLY.seconds:.0f} s ({rate:.1f} a second), all enumerated"
        )
