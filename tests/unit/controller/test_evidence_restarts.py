"""Restarts of the controller in the middle of a comparison change no figure: the checkpoint holds everything."""

from __future__ import annotations

from datetime import timedelta

import pytest

from rollouts.analysis.comparing import Comparison
from rollouts.analysis.evidence.model import Require
from rollouts.analysis.forms import CompareForm
from rollouts.analysis.timeline import read_timeline
from rollouts.analysis.types import ArmRef, OnFail, RunMark, RunPhase, RunSpec, RunStatus
from rollouts.controller.comparing import Comparer
from rollouts.runtime.objects import ObjectKey
from rollouts.sources.budget import QueryBudget
from tests.kit.clock import VirtualClock, virtual_time
from tests.kit.counters import GrowingCounters

KEY = ObjectKey("default", "mymodel-0-1")
SCRAPES = 59


def arm(name: str) -> ArmRef:
    return ArmRef(kind="InferencePool", group="inference.networking.k8s.io", name=name)


def comparison(preset: str) -> Comparison:
    return Comparison(
        name=preset,
        form=CompareForm(preset=preset, require=Require.WITHIN_TOLERANCE),
        source="default",
        interval=None,
        on_fail=OnFail.ABORT,
        dry_run=False,
        optional=False,
        steps=(1,),
    )


def stored(slower: float, *, restart: bool) -> list[tuple[int, RunStatus]]:
    """Every status that would be written, by scrape, and the end's; with ``restart`` a new process follows each."""

    async def attempt() -> list[tuple[int, RunStatus]]:
        clock, status, found = VirtualClock(), RunStatus(), list[tuple[int, RunStatus]]()
        source = GrowingCounters(clock, stable="v1", canary="v2", share=lambda: 0.3)
        source.slower = slower
        budget = QueryBudget(clock, per_minute=1_000, sources=frozenset())
        spec = RunSpec(
            rollout="mymodel",
            attempt=1,
            step=None,
            canary=arm("v2"),
            stable=arm("v1"),
            metrics=(),
            comparisons=(comparison("error-rate"), comparison("ttft")),
            metrics_from=0,
            false_abort_rate=0.05,
            marks=(
                RunMark(at=clock.now(), step=0, weight=0.3),
                RunMark(at=clock.now() + timedelta(seconds=60), step=1, weight=0.3),
            ),
            steps_hash="",
        )
        comparer = Comparer({"default": source}, clock, budget)
        for index in range(SCRAPES):
            before, status = status, await comparer.compare(KEY, spec, status)
            if status is not before:
                found.append((index, status))
                if restart:
                    comparer = Comparer({"default": source}, clock, budget)
            if status.phase is RunPhase.FAILED:
                break
            await clock.sleep(30)
        found.append((index, comparer.ended(KEY, status)))
        return found

    with virtual_time() as loop:
        return loop.run_until_complete(attempt())


@pytest.mark.parametrize(
    ("slower", "verdicts"),
    [(0.0, ["Pass", "Pass"]), (0.3, ["Inconclusive", "Fail"])],
    ids=["healthy", "slower"],
)
def test_a_restart_at_every_write_changes_no_figure(slower: float, verdicts: list[str]) -> None:
    through = stored(slower, restart=False)
    assert [item.verdict for item in through[-1][1].comparisons] == verdicts
    assert stored(slower, restart=True) == through


def test_the_end_of_a_run_brings_the_points_that_waited_for_a_write() -> None:
    (_, last), (looks, ended) = stored(0.0, restart=False)[-2:]
    begun = read_timeline(ended.timeline)[0].at
    assert read_timeline(last.timeline)[-1].at < begun + 30 * looks
    assert read_timeline(ended.timeline)[-1].at == begun + 30 * looks
    assert ended.checkpoint == ""
