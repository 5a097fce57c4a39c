"""Fault plans in which a replica of the picker stops obeying: its watch breaks, its role goes, an older image joins."""

from __future__ import annotations

from collections.abc import Iterator

from tests.kit.faults.moves import command, replica_joins, replica_leaves, replica_turns
from tests.kit.faults.objects import SHARED, STABLE
from tests.kit.faults.plans import disturbed
from tests.kit.faults.replicas import Mood
from tests.kit.faults.simulation import Act, FaultPlan, Run, Simulation

__all__ = ["replica_plans"]

_BACK = 60.0
"""Seconds after which a replica obeys again: some steps are over by then, and no deadline is."""


def _all(*acts: Act) -> Act:
    def act(sim: Simulation) -> None:
        for one in acts:
            one(sim)

    return act


def _acts(pool: str) -> dict[str, tuple[Act, Act | None, float]]:
    stuck, follows = replica_turns(pool, Mood.STUCK), replica_turns(pool, Mood.FOLLOWS)
    joined = replica_joins(pool, Mood.STUCK)
    return {
        "a replica's watch breaks": (stuck, None, 0.0),
        "a replica's watch breaks for a while": (stuck, follows, _BACK),
        "a replica's watch breaks, then a person aborts": (stuck, command("abort", tag="a1"), 30.0),
        "one of two watches breaks": (joined, None, 0.0),
        "one of two watches breaks, then a person aborts": (joined, command("abort", tag="a1"), 30.0),
        "a replica's watch breaks as a person aborts": (
            _all(stuck, command("abort", tag="a1")),
            follows,
            _BACK,
        ),
        "a replica's watch breaks as a person aborts, who then retries": (
            _all(stuck, command("abort", tag="a1")),
            command("retry", tag="a2"),
            _BACK,
        ),
        "a replica is mute as a person aborts": (
            _all(replica_turns(pool, Mood.MUTE), command("abort", tag="a1")),
            follows,
            _BACK,
        ),
        "a replica's role is taken away for a while": (replica_turns(pool, Mood.FORBIDDEN), follows, _BACK),
        "an older image joins": (replica_joins(pool, Mood.OLD), None, 0.0),
        "an older image joins for a while": (replica_joins(pool, Mood.OLD), replica_leaves(pool), _BACK),
        "an older image joins, then a person aborts": (
            replica_joins(pool, Mood.OLD),
            command("abort", tag="a1"),
            30.0,
        ),
    }


def replica_plans(clean: Run) -> Iterator[FaultPlan]:
    """Each of them right after each second write of a clean run between adapters or variants."""
    return disturbed(clean, _acts(SHARED if clean.scenario.variants else STABLE))
