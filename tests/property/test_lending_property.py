"""Stable gives pods and gets them back, from any state: on most of a walk all goes well, so that much can be disturbed.

A walk is a seed. Pods come, hang, die and drain, people scale, retarget, command and edit, autoscalers appear, gates
fail, controllers crash between any two writes. Each plan is looked at (``Watched``); in the end all is left alone.
"""

from __future__ import annotations

import os
import random
from datetime import timedelta

import pytest

from rollouts.engine import returning
from rollouts.engine.rollout_spec import AbortSpeed, Capacity, PodCount
from tests.kit.fleet import Fleet
from tests.kit.walking import ARMS, Walking, named
from tests.kit.world import pause, weight

WALKS, STEPS = 14, 35
REFUSED = (900032,)
"""A walk that failed once: the canary lost the pods of a share that it kept, while the weight was refused."""
MORE = int(os.environ.get("LENDING_WALKS", "1500"))


class Walk(Walking):
    """One walk by a seed."""

    disturbances = (
        Walking.pod_moves,
        Walking.pods_die,
        Walking.drains,
        Walking.drains,
        Walking.autoscaler,
        Walking.used,
        Walking.refuses,
        Walking.return_hangs,
        Walking.somebody_scales,
        Walking.somebody_scales_stable_up,
        Walking.retarget,
        Walking.command,
        Walking.command,
        Walking.gate_fails,
        Walking.gate_fails,
        Walking.gate_fails,
        Walking.overwritten,
        Walking.edited,
        Walking.uncounted,
        Walking.crash,
        Walking.crash,
        Walking.time,
    )

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        pick = self.rng.choice
        self.size = pick([1, 3, 4, 6, 8])
        self.policy = Capacity(
            max_surge=PodCount(number=pick([1, 1, 2])),
            min_stable=PodCount(number=pick([0, 1, 1])),
            headroom=pick([1.0, 1.0, 0.5]),
            abort=pick(list(AbortSpeed)),
            drain_timeout=timedelta(minutes=5),
            scale_down_delay=pick([timedelta(0), timedelta(minutes=2)]),
        )
        steps = pick(
            [(weight(10), weight(50), pause(60)), (weight(60),), (weight(20), pause(30), weight(80))]
        )
        self.begin(*steps)

    def go(self, steps: int) -> None:
        """Walk, and come to rest."""
        self.walk(steps)
        self.repair()
        self.calm()

    def _fleet(self) -> Fleet:
        return self.world.fleets[self.rng.choice(ARMS)]


def walk(seed: int, steps: int = STEPS) -> int:
    """Pods that stable gave on a walk; a failure names its seed."""
    made = Walk(seed)
    with named(seed):
        made.go(steps)
    return made.given.get("own", 0)


def test_from_any_state_pods_are_given_within_bounds_and_come_back() -> None:
    given = sum(walk(seed) for seed in range(WALKS))

    assert given >= WALKS, "the walks get to where pods are given"


class RefusedWalk(Walk):
    """With a weight that cannot be written for a while."""

    disturbances = (*Walk.disturbances, *(3 * (Walking.weights_refused,)))


@pytest.mark.parametrize("seed", [*range(4), *REFUSED])
def test_what_carries_keeps_its_pods_while_no_weight_can_be_written(seed: int) -> None:
    RefusedWalk(seed).go(60)


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.timeout(900)
def test_from_any_state_on_many_walks() -> None:
    assert sum(walk(seed, 80) for seed in range(1000, 1000 + MORE)) >= MORE


def test_a_return_without_an_end_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    for patience in ("PATIENCE", "STARTING"):
        monkeypatch.setattr(returning, patience, timedelta(days=9))

    with pytest.raises(AssertionError, match="a return ends, whatever keeps the pods"):
        sum(walk(seed, 80) for seed in range(2000, 2100))
