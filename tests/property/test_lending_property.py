"""Stable gives pods and gets them back, from any state: on most of a walk all goes well, so that much can be disturbed.

A walk is a seed. Pods come, hang, die and drain, people scale, retarget, command and edit, autoscalers appear, gates
fail, controllers crash between any two writes. Each plan is looked at (``Watched``); in the end all is left alone.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from rollouts.engine import returning
from rollouts.engine.actions import ScaleWorkload
from rollouts.engine.observation import (
    CrashView,
    Drained,
    Draining,
    GateOutcome,
    GateView,
    NotControllable,
)
from rollouts.engine.rollout_spec import AbortSpeed, Capacity, PodCount
from tests.kit.fleet import Fleet, PodState
from tests.kit.watched import Watched
from tests.kit.world import Honest, World, background, pause, pool, spec, weight

WALKS, STEPS = 14, 35
MORE = int(os.environ.get("LENDING_WALKS", "1500"))
ARMS = [pool(name) for name in ("v1", "v2", "v3")]
GOES_WELL = 0.7
"""Of the steps."""


class Walk(Watched):
    """One walk by a seed."""

    crowded = False

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.given = 0
        """Pods that stable gave."""
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
        sized = {arm: Fleet.of(arm.name, self.size if arm == ARMS[0] else 0) for arm in ARMS}
        made = spec(
            *steps,
            target="v1",
            capacity=self.policy,
            analysis=background(),
            rollback_window=timedelta(hours=1),
        )
        rules = [{ARMS[0]: 100, ARMS[1]: 0, ARMS[2]: 0}]
        self.watch(World(spec=made, rules=rules, pools=dict.fromkeys(ARMS, 0), fleets=sized))

    def go(self, steps: int) -> None:
        """Walk, and come to rest."""
        self._target("v2")
        for _ in range(steps):
            if self.rng.random() < GOES_WELL:
                self._well()
            else:
                self.rng.choice(_DISTURBANCES)(self)
                for _ in range(self.rng.randint(0, 3)):
                    self.plan_once(None)
        self._repair()
        self.calm()

    def _look_at(self, action: ScaleWorkload) -> None:
        lent = self.world.status.stable_scale
        if lent is not None and action.identity == lent.identity:
            self.given += max(self.world.fleets[action.identity].replicas - action.replicas, 0)
        super()._look_at(action)

    # --- what happens ---

    def _well(self) -> None:
        for fleet in self.world.fleets.values():
            fleet.settle()
        for name, gate in self.world.gates.items():
            self.world.gates[name] = replace(gate, may_pass=True)
        for _ in range(4):
            self.plan_once(None)
        self.world.now += timedelta(seconds=self.rng.choice([5, 6, 6, 31]))

    def _fleet(self) -> Fleet:
        return self.world.fleets[self.rng.choice(ARMS)]

    def _edit(self, **changes: object) -> None:
        if self.world.spec is not None:
            self.world.spec = replace(self.world.spec, **changes)  # type: ignore[arg-type]
            self.world.generation += 1

    def _capacity(self, policy: Capacity | None) -> None:
        if self.world.spec is not None:
            self._edit(canary=replace(self.world.spec.canary, capacity=policy))

    def _target(self, name: str) -> None:
        if self.world.spec is not None:
            self._edit(target=replace(self.world.spec.target, name=name))

    def pod_moves(self) -> None:
        fleet = self._fleet()
        index = self.rng.randrange(max(fleet.live, 1))
        if index < fleet.live and fleet.pods[index] is not PodState.ENDING:
            fleet.move(index, self.rng.choice([*PodState, None]))

    def pods_die(self) -> None:
        fleet = self._fleet()
        fleet.pods = [pod if pod is PodState.ENDING else PodState.STARTING for pod in fleet.pods]

    def drains(self) -> None:
        said = [None, Drained(), Draining(2, 3), Draining(2, None, free=1), NotControllable("not ours")]
        fleet = self._fleet()
        fleet.drain, fleet.in_flight = self.rng.choice(said), self.rng.choice([0, 0, 2, None])

    def autoscaler(self) -> None:
        self._fleet().managed_by = self.rng.choice(["", "", "HorizontalPodAutoscaler x"])

    def used(self) -> None:
        self._fleet().used_by = self.rng.choice(["", "HTTPRoute preview"])

    def refuses(self) -> None:
        arm = self.rng.choice(ARMS)
        self.world.crashes = {arm: CrashView(pods=3, refusing=self.rng.random() < 0.5)}

    def somebody_scales(self) -> None:
        fleet = self._fleet()
        fleet.scale(self.rng.randint(0, fleet.replicas))

    def somebody_scales_stable_up(self) -> None:
        stable = self.world.status.stable
        if stable is not None and self.world.status.stable_scale is not None:
            self.world.fleets[stable.identity].scale(self.size)

    def retarget(self) -> None:
        self._target(self.rng.choice(["v1", "v2", "v2", "v3"]))

    def command(self) -> None:
        self.world.tell(
            self.rng.choice(["promote", "promoteFull", "abort", "retry", "retry", "pause", "resume"])
        )

    def gate_fails(self) -> None:
        loses = self.rng.random() < 0.3
        for name in self.world.gates:
            failed = GateView(name=name, outcome=GateOutcome.ABORT, message="p95", loses_requests=loses)
            self.world.gates[name] = failed

    def overwritten(self) -> None:
        status = self.world.status
        if status.stable is not None and status.canary is not None:
            share = self.rng.choice([0, 10, 30, 100])
            ours = {status.canary.identity: share, status.stable.identity: 100 - share}
            self.world.overwrite(dict.fromkeys(ARMS, 0) | ours, gitops=self.rng.random() < 0.5)
            self.note_weights()

    def edited(self) -> None:
        others = [
            self.policy,
            self.policy,
            None,
            replace(self.policy, max_surge=PodCount(number=self.size)),
            replace(self.policy, min_stable=PodCount(number=100, percent=True)),
        ]
        self._capacity(self.rng.choice(others))
        self._edit(paused=self.rng.random() < 0.2)

    def uncounted(self) -> None:
        self.world.share = self.rng.choice([None, Honest.SPLIT])
        self.world.programmed = self.rng.random() < 0.7

    def crash(self) -> None:
        self.plan_once(self.rng.randint(0, 3))

    def return_hangs(self) -> None:
        """What stable gave is asked back, and no pod comes or goes."""
        self._target(self.rng.choice(["v1", "v3"]))
        self.hang()

    def time(self) -> None:
        self.world.now += timedelta(seconds=self.rng.choice([1, 31, 121, 400, 1900]))

    def _repair(self) -> None:
        self.world.share, self.world.programmed = Honest.SPLIT, True
        self._capacity(self.policy)
        self.world.gates = {
            name: replace(gate, outcome=GateOutcome.RUNNING) if gate.outcome is GateOutcome.ABORT else gate
            for name, gate in self.world.gates.items()
        }


_DISTURBANCES: list[Callable[[Walk], None]] = [
    Walk.pod_moves,
    Walk.pods_die,
    Walk.drains,
    Walk.drains,
    Walk.autoscaler,
    Walk.used,
    Walk.refuses,
    Walk.return_hangs,
    Walk.somebody_scales,
    Walk.somebody_scales_stable_up,
    Walk.retarget,
    Walk.command,
    Walk.command,
    Walk.gate_fails,
    Walk.gate_fails,
    Walk.gate_fails,
    Walk.overwritten,
    Walk.edited,
    Walk.uncounted,
    Walk.crash,
    Walk.crash,
    Walk.time,
]


def walk(seed: int, steps: int = STEPS) -> int:
    """Pods that stable gave on a walk; a failure names its seed."""
    made = Walk(seed)
    try:
        made.go(steps)
    except AssertionError as error:
        raise AssertionError(f"walk {seed}: {error}") from error
    return made.given


def test_from_any_state_pods_are_given_within_bounds_and_come_back() -> None:
    given = sum(walk(seed) for seed in range(WALKS))

    assert given >= WALKS, "the walks get to where pods are given"


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
