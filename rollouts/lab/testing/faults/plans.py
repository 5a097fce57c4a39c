"""Enumerating fault plans from what the clean run of a scenario did: nothing is sampled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum

from rollouts.lab.testing.faults.simulation import FaultPlan, Run
from rollouts.lab.testing.faults.transport import WriteFault

__all__ = ["FaultClass", "enumerate_plans"]


class FaultClass(Enum):
    """Classes of faults; the names follow the table in docs/architecture.md."""

    CRASH = "F1 crash before and after every write"


def _crashes(clean: Run) -> Iterator[FaultPlan]:
    for number in range(clean.writes):
        for fault in (WriteFault.CRASH_BEFORE, WriteFault.CRASH_AFTER):
            yield FaultPlan(name=f"{fault.value}, write {number}", writes={number: fault})


_ENUMERATORS: dict[FaultClass, Callable[[Run], Iterator[FaultPlan]]] = {FaultClass.CRASH: _crashes}


def enumerate_plans(fault: FaultClass, clean: Run) -> Iterator[FaultPlan]:
    """Every plan of a class for a scenario."""
    return _ENUMERATORS[fault](clean)
