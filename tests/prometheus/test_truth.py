"""Measures of pods whose requests are known one by one, against what was counted of these: on every server."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.peers.arrivals import SETTLES, Scene, import_samples, scenes
from benchmarks.peers.windows import misses
from rollouts.lab.prometheus import Prometheus
from rollouts.sources import asking, jobs, raw_windows
from rollouts.sources.base import ScrapeTarget

ZERO = math.floor(time.time() / 60) * 60 - 597
"""As ``AT`` in ``test_imported``."""


WINDOWS = ((60, 10), (300, 30), (310, 15))
"""And scrapes' distances; ``benchmarks.peers.windows`` has more."""


def tolerance(scene: Scene) -> float:
    """Of the rate: noise, and a part of what comes between two scrapes.

    A restart loses what came since the last scrape before it. Half a scrape is what the edges of VictoriaMetrics'
    ``increase`` differ by.
    """
    restarts = "restarted" in scene.scenario
    lost = 1.5 * scene.every if restarts else 0.5 * scene.every
    return 0.01 + lost / scene.window


async def _misjudged(server: Prometheus, folder: Path) -> list[tuple[str, int, int, float, float, float]]:
    """Scenes found otherwise: name, window, scrapes' distance, newest sample's age, errors of rate and share."""
    known, wrong = scenes(grid=WINDOWS), []
    await import_samples(server, folder, (line for scene in known for line in scene.lines(ZERO)))
    for scene in known:
        off, unlike = await misses(server, scene, ZERO)
        if not abs(off) <= tolerance(scene) or not abs(unlike) <= 0.05:
            wrong.append((scene.scenario, scene.window, scene.every, scene.shift, off, unlike))
    return wrong


async def test_measures_are_what_was_counted_of_the_requests(any_server: Prometheus, tmp_path: Path) -> None:
    assert await _misjudged(any_server, tmp_path) == []


def _since(patch: pytest.MonkeyPatch, known: Callable[[ScrapeTarget], float]) -> None:
    for module in (asking, jobs, raw_windows):
        patch.setattr(module, "known_since", known)


def _never_warmed(patch: pytest.MonkeyPatch) -> None:
    _since(patch, lambda one: -math.inf if one.started is None else one.started)


def _always_the_same_pod(patch: pytest.MonkeyPatch) -> None:
    _since(patch, lambda one: -math.inf if one.warmed is None else one.warmed + SETTLES)


def _nobody_begins_at_zero(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(raw_windows, "_begun", lambda *_: None)


def _falls_are_no_restarts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(raw_windows, "counter_increase", lambda values: max(0.0, values[-1] - values[0]))


def _nothing_after_the_last_scrape(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(raw_windows, "_reach", lambda *_: 0.0)


def _whole_scrapes_at_the_cut(patch: pytest.MonkeyPatch) -> None:
    real = raw_windows.growth
    patch.setattr(
        raw_windows,
        "growth",
        lambda times, values, life: real(
            times, values, life._replace(cut=max([at for at in times if at <= life.cut], default=life.cut))
        ),
    )


PLANTED: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "never warmed": _never_warmed,
    "always the same pod": _always_the_same_pod,
    "nobody begins at zero": _nobody_begins_at_zero,
    "falls are no restarts": _falls_are_no_restarts,
    "nothing after the last scrape": _nothing_after_the_last_scrape,
    "whole scrapes at the cut": _whole_scrapes_at_the_cut,
}


@pytest.mark.full
@pytest.mark.parametrize("bug", PLANTED)
async def test_planted_bugs_are_seen_in_what_was_counted(
    prometheus: Prometheus, tmp_path: Path, bug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    PLANTED[bug](monkeypatch)

    assert await _misjudged(prometheus, tmp_path) != []
