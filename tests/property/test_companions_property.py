"""Several workloads of each version, from any state: pods come, hang, die and end, people scale and rename, crashes.

A walk is a seed. Each plan is looked at (``Watched``); in the end all is left alone, and every run ends at a defined
place: what lost has gone with its companions, and whoever serves has those that it needs.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rollouts.engine import scaling, shortage
from rollouts.engine.capacity import companion_pods
from rollouts.engine.observation import Blocker, Companion, GateOutcome, GateView
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import Capacity, PodCount
from rollouts.engine.rollout_status import Phase, ScaleDown
from tests.kit.fleet import Fleet, PodState
from tests.kit.watched import Watched
from tests.kit.world import World, background, pause, pool, spec, weight

WALKS, STEPS = 30, 40
MORE = int(os.environ.get("COMPANION_WALKS", "1500"))
ARMS = [pool(name) for name in ("v1", "v2", "v3")]
ROLES = ("prefill", "encode")
BESIDE = {arm: {role: pool(f"{role}-{arm.name}") for role in ROLES} for arm in ARMS}
GOES_WELL = 0.6
"""Of the steps."""


class Walk(Watched):
    """One walk by a seed, with one or two companions of each version."""

    crowded = False

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        pick = self.rng.choice
        self.size = pick([1, 3, 4, 8])
        self.roles = ROLES[: pick([1, 1, 2])]
        self.prefill = {BESIDE[arm][role]: arm for arm in ARMS for role in self.roles}
        self.policy = Capacity(
            max_surge=pick([None, None, PodCount(number=100, percent=True), PodCount(number=12)]),
            min_stable=pick([PodCount(number=100, percent=True), PodCount(number=1)]),
            headroom=pick([1.0, 1.0, 0.5]),
            min_replicas=pick([1, 2]),
            drain_timeout=timedelta(minutes=5),
            scale_down_delay=pick([timedelta(0), timedelta(minutes=2)]),
            scale_down_to=pick([0, 0, 1]),
        )
        if self.policy.headroom > 0.5 and self.policy.min_replicas > self.size:
            self.policy = replace(self.policy, min_replicas=1)
        fleets = {arm: Fleet.of(arm.name, self.size if arm == ARMS[0] else 0) for arm in ARMS}
        for arm in ARMS:
            for role in self.roles:
                number = pick([1, 2, 4, 9]) if arm == ARMS[0] else 0
                fleets[BESIDE[arm][role]] = Fleet.of(BESIDE[arm][role].name, number)
        made = spec(
            *pick([(weight(10), weight(50), pause(60)), (weight(60),), (weight(20), pause(30))]),
            target="v1",
            capacity=self.policy,
            analysis=background(),
            rollback_window=timedelta(hours=1),
        )
        world = World(
            spec=made,
            rules=[{ARMS[0]: 100, ARMS[1]: 0, ARMS[2]: 0}],
            pools=dict.fromkeys(fleets, 0),
            fleets=fleets,
        )
        self.watch(world)
        self.named()

    def named(self) -> None:
        """Each version has its own companions."""
        self.world.companions = {
            arm: tuple(Companion(identity=BESIDE[arm][role], role=role) for role in sorted(self.roles))
            for arm in ARMS
        }

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
        self.named()
        self._capacity(replace(self.policy, max_surge=None))
        for name, gate in self.world.gates.items():
            if gate.outcome is GateOutcome.ABORT:
                self.world.gates[name] = replace(gate, outcome=GateOutcome.RUNNING)
        self.calm()
        self._look_at_the_end()

    def _look_at_the_end(self) -> None:
        """Of what is promoted after all that, all parts are there in the proportion, and of the rest none is left."""
        self._target("v2" if self.world.status.stable != ARMS[1] else "v3")
        for fleet in self.world.fleets.values():
            fleet.used_by = ""
        stable = self.world.status.stable
        assert stable is not None
        counted = {role: self.world.fleets[BESIDE[stable.identity][role]].replicas for role in self.roles}
        n = self.world.fleets[stable.identity].replicas
        asked = self.world.spec.target.name if self.world.spec is not None else ""
        self.world.tell("retry")
        self._come_to_rest()
        status = self.world.status
        if status.stable is None or status.stable.identity.name != asked or stable.identity.name == asked:
            return
        assert status.phase is Phase.HEALTHY
        assert self.world.fleets[stable.identity].replicas <= self.policy.scale_down_to
        for role in self.roles:
            new = self.world.fleets[BESIDE[status.stable.identity][role]]
            lead = self.world.fleets[status.stable.identity].replicas
            wanted = companion_pods(min(lead, n), counted[role], n)
            assert new.replicas >= wanted, (
                f"{role}: {new.replicas} for {lead}, and {counted[role]} for {n} before"
            )
            old = self.world.fleets[BESIDE[stable.identity][role]]
            assert old.replicas <= companion_pods(self.policy.scale_down_to, max(counted[role], 1), n)

    # --- what happens ---

    def _well(self) -> None:
        for fleet in self.world.fleets.values():
            fleet.settle()
        for name, gate in self.world.gates.items():
            self.world.gates[name] = replace(gate, may_pass=True)
        for _ in range(4):
            self.plan_once(None)
        self.world.now += timedelta(seconds=self.rng.choice([5, 6, 31]))

    def _fleet(self) -> Fleet:
        return self.rng.choice(list(self.world.fleets.values()))

    def _edit(self, **changes: Any) -> None:
        assert self.world.spec is not None
        self.world.spec = replace(self.world.spec, **changes)
        self.world.generation += 1

    def _capacity(self, policy: Capacity | None) -> None:
        assert self.world.spec is not None
        self._edit(canary=replace(self.world.spec.canary, capacity=policy))

    def _target(self, name: str) -> None:
        assert self.world.spec is not None
        self._edit(target=replace(self.world.spec.target, name=name))

    def pod_moves(self) -> None:
        fleet = self._fleet()
        index = self.rng.randrange(max(fleet.live, 1))
        if index < fleet.live and fleet.pods[index] is not PodState.ENDING:
            fleet.move(index, self.rng.choice([*PodState, None]))

    def pods_die(self) -> None:
        fleet = self._fleet()
        fleet.pods = [pod if pod is PodState.ENDING else PodState.STARTING for pod in fleet.pods]

    def requests(self) -> None:
        self._fleet().in_flight = self.rng.choice([0, 0, 2, None])

    def autoscaler(self) -> None:
        self._fleet().managed_by = self.rng.choice(["", "", "HorizontalPodAutoscaler x"])

    def used(self) -> None:
        self._fleet().used_by = self.rng.choice(["", "HTTPRoute preview"])

    def somebody_scales(self) -> None:
        fleet = self._fleet()
        fleet.scale(self.rng.randint(0, fleet.replicas + 1))

    def a_workload_is_lost(self) -> None:
        unknown = Blocker(reason=Reason.CAPACITY_UNKNOWN, message="two of them")
        self._fleet().problem = self.rng.choice([None, None, unknown])

    def relabelled(self) -> None:
        arm, other = self.rng.choice(ARMS), self.rng.choice(ARMS)
        theirs = self.world.companions[other]
        unknown = Blocker(reason=Reason.CAPACITY_UNKNOWN, message="two of them")
        self.world.companions[arm] = self.rng.choice([(), unknown, theirs])

    def labelled_again(self) -> None:
        self.named()

    def retarget(self) -> None:
        self._target(self.rng.choice(["v1", "v2", "v2", "v3"]))

    def command(self) -> None:
        self.world.tell(
            self.rng.choice(["promote", "promoteFull", "abort", "retry", "retry", "pause", "resume"])
        )

    def gate_fails(self) -> None:
        for name in self.world.gates:
            self.world.gates[name] = GateView(name=name, outcome=GateOutcome.ABORT, message="p95")

    def edited(self) -> None:
        others = [self.policy, None, replace(self.policy, max_surge=PodCount(number=1))]
        self._capacity(self.rng.choice(others))
        self._edit(paused=self.rng.random() < 0.2)

    def crash(self) -> None:
        self.plan_once(self.rng.randint(0, 3))

    def time(self) -> None:
        self.world.now += timedelta(seconds=self.rng.choice([1, 31, 121, 400]))


_DISTURBANCES: list[Callable[[Walk], None]] = [
    Walk.pod_moves,
    Walk.pods_die,
    Walk.requests,
    Walk.requests,
    Walk.autoscaler,
    Walk.used,
    Walk.somebody_scales,
    Walk.relabelled,
    Walk.labelled_again,
    Walk.labelled_again,
    Walk.retarget,
    Walk.command,
    Walk.command,
    Walk.gate_fails,
    Walk.edited,
    Walk.crash,
    Walk.crash,
    Walk.time,
]


@pytest.mark.parametrize("seed", range(WALKS))
def test_companions_keep_with_their_versions(seed: int) -> None:
    Walk(seed).go(STEPS)


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.timeout(1200)
def test_companions_keep_with_their_versions_for_long() -> None:
    for seed in range(WALKS, WALKS + MORE):
        Walk(seed).go(STEPS)


def _weight_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(shortage, "known_pairs", lambda *_: ())


def _all_at_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(scaling, "_waits_for_others", lambda *_: "")


def _unstored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(scaling, "_stored", lambda draft: scaling._numbers(draft.current.capacity))


def _no_budget(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(scaling, "room", lambda *_: 100)


def _forgotten(patch: pytest.MonkeyPatch) -> None:
    real = scaling._add_owed

    def alone(draft: Any, *owed: ScaleDown) -> None:
        real(draft, *(one for one in owed if one.of is None))

    patch.setattr(scaling, "_add_owed", alone)


def _walks() -> None:
    for seed in range(WALKS):
        Walk(seed).go(STEPS)


@pytest.mark.parametrize("plant", [_weight_alone, _all_at_once, _unstored, _no_budget, _forgotten])
def test_a_planted_bug_is_seen(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        _walks()
