"""A gateway that stops doing what the weight says in the midst of a pause, in which nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest

from rollouts.controller import share_watch
from rollouts.engine.watching import BREAKS_WITHIN
from tests.kit.faults.history import Record
from tests.kit.faults.moves import clients, healthy_on, phase
from tests.kit.faults.objects import CANARY, base_objects, rollout_object
from tests.kit.faults.simulation import Move, Run, Scenario, simulate

STEPS: list[dict[str, Any]] = [{"setWeight": 10}, {"pause": {"duration": "30m"}}, {"setWeight": 50}]
BROKEN_AFTER, BROKEN_FOR = 150.0, 200.0
SAID_WITHIN = 100.0
"""Seconds: counting once a minute, and until the counts leave the band."""


def broken_in_pause() -> Run:
    """All requests go to the canary for a while, and then as they should again."""
    return simulate(
        Scenario(
            name="broken in a pause",
            setup=lambda cluster: base_objects(cluster, rollout_object(STEPS)),
            moves=(
                Move(when=phase("Paused"), act=clients(only=CANARY), after=BROKEN_AFTER),
                Move(when=phase("Paused"), act=clients(only=""), after=BROKEN_FOR),
            ),
            goal=healthy_on(CANARY),
        )
    )


def _mismatch(record: Record) -> bool:
    conditions = record.after.get("status", {}).get("conditions", [])
    return record.change.plural == "rollouts" and any(one["reason"] == "ShareMismatch" for one in conditions)


def _paused_at(run: Run) -> float:
    return next(
        record.seconds
        for record in run.history.records
        if record.change.plural == "rollouts" and record.after.get("status", {}).get("phase") == "Paused"
    )


def test_a_mismatch_is_said_within_the_pause() -> None:
    run = broken_in_pause()
    said = next(record.seconds for record in run.history.records if _mismatch(record))

    assert run.converged
    assert 0 < said - _paused_at(run) - BROKEN_AFTER < SAID_WITHIN


def test_nothing_is_said_when_nobody_counts_between_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share_watch, "says_new", lambda *_, **__: False)
    run = broken_in_pause()
    said = [record.seconds - _paused_at(run) for record in run.history.records if _mismatch(record)]

    assert not [seconds for seconds in said if seconds < BROKEN_AFTER + SAID_WITHIN]


def test_a_pause_without_news_is_looked_at_but_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    keep = share_watch.ShareWatch.keep

    def counted(self: share_watch.ShareWatch, *arguments: Any) -> None:
        looks.append(self._clock.monotonic())
        keep(self, *arguments)

    monkeypatch.setattr(share_watch.ShareWatch, "keep", counted)
    run = simulate(
        Scenario(
            name="a long pause",
            setup=lambda cluster: base_objects(cluster, rollout_object(STEPS)),
            moves=(),
            goal=healthy_on(CANARY),
        )
    )
    start = _paused_at(run) + BREAKS_WITHIN.total_seconds()
    quiet = {moment for moment in looks if start < moment < start + 1500}

    assert run.converged
    assert len(quiet) <= 6, quiet
