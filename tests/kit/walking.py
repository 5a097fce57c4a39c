"""Walks by a seed through rollouts with capacity: what people, nodes, gates and crashes do to one, between looks at it.

Most steps of a walk go well, so that it gets to where much can be disturbed.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType
from typing import Any, ClassVar

from rollouts.engine.actions import ScaleWorkload
from rollouts.engine.observation import (
    CrashView,
    Drained,
    Draining,
    GateOutcome,
    GateView,
    NotControllable,
    Problem,
    Refused,
)
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import Capacity, PodCount, Step
from rollouts.engine.versions import Identity
from tests.kit.fleet import Fleet, PodState
from tests.kit.watched import Watched
from tests.kit.world import Honest, World, background, pool, spec

__all__ = ["ARMS", "Walking", "named"]

ARMS = [pool(name) for name in ("v1", "v2", "v3")]


@contextlib.contextmanager
def named(seed: int) -> Iterator[None]:
    """A failure says which walk it was: ``Walk(seed).go(steps)`` is the same one again."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"walk {seed}: {error}") from error


class Walking(Watched):
    """A walk: ``rng`` and ``policy`` are set before it is watched. ``goes_well``: of the steps."""

    crowded = False
    goes_well = 0.7
    disturbances: ClassVar[Sequence[Callable[..., None]]] = ()
    rng: random.Random
    policy: Capacity

    def begin(self, *steps: Step, beside: Mapping[Identity, Fleet] = MappingProxyType({})) -> None:
        """Stable on the first arm with ``size`` pods, a gate all along, and an hour for the way back."""
        fleets = {arm: Fleet.of(arm.name, self.size if arm == ARMS[0] else 0) for arm in ARMS} | dict(beside)
        made = spec(
            *steps,
            target="v1",
            capacity=self.policy,
            analysis=background(),
            rollback_window=timedelta(hours=1),
        )
        rules = [{ARMS[0]: 100, ARMS[1]: 0, ARMS[2]: 0}]
        self.watch(World(spec=made, rules=rules, pools=dict.fromkeys(fleets, 0), fleets=fleets))

    def walk(self, steps: int) -> None:
        """From the first target on."""
        self.given: dict[str, int] = {}
        self._target("v2")
        for _ in range(steps):
            if self.rng.random() < self.goes_well:
                self.well()
            else:
                self.rng.choice(self.disturbances)(self)
                for _ in range(self.rng.randint(0, 3)):
                    self.plan_once(None)

    def _look_at(self, action: ScaleWorkload) -> None:
        lent = self.world.status.stable_scale
        if lent is not None and action.identity in {one.identity for one in lent.parts}:
            kind = "companion" if action.identity in self.prefill else "own"
            gave = max(self.world.fleets[action.identity].replicas - action.replicas, 0)
            self.given[kind] = self.given.get(kind, 0) + gave
        super()._look_at(action)

    def well(self) -> None:
        """Pods come and go, gates pass, time goes on."""
        for fleet in self.world.fleets.values():
            fleet.settle()
        for name, gate in self.world.gates.items():
            self.world.gates[name] = replace(gate, may_pass=True)
        for _ in range(4):
            self.plan_once(None)
        self.world.now += timedelta(seconds=self.rng.choice([5, 6, 6, 31]))

    def repair(self) -> None:
        """Counts and gates are as they should be."""
        self.world.share, self.world.programmed, self.world.refuses = Honest.SPLIT, True, None
        for fleet in self.world.fleets.values():
            fleet.refused = ""
        self.world.problems = ()
        self._capacity(self.policy)
        self.world.gates = {
            name: replace(gate, outcome=GateOutcome.RUNNING) if gate.outcome is GateOutcome.ABORT else gate
            for name, gate in self.world.gates.items()
        }

    def _fleet(self) -> Fleet:
        return self.rng.choice(list(self.world.fleets.values()))

    def _edit(self, **changes: Any) -> None:
        if self.world.spec is not None:
            self.world.spec = replace(self.world.spec, **changes)
            self.world.generation += 1

    def _capacity(self, policy: Capacity | None) -> None:
        if self.world.spec is not None:
            self._edit(canary=replace(self.world.spec.canary, capacity=policy))

    def _target(self, name: str) -> None:
        if self.world.spec is not None:
            self._edit(target=replace(self.world.spec.target, name=name))

    # --- what happens ---

    def pod_moves(self) -> None:
        """One pod becomes something else."""
        fleet = self._fleet()
        index = self.rng.randrange(max(fleet.live, 1))
        if index < fleet.live and fleet.pods[index] is not PodState.ENDING:
            fleet.move(index, self.rng.choice([*PodState, None]))

    def pods_die(self) -> None:
        """All pods of a workload start anew."""
        fleet = self._fleet()
        fleet.pods = [pod if pod is PodState.ENDING else PodState.STARTING for pod in fleet.pods]

    def drains(self) -> None:
        """Pods answer requests, or cannot be kept from them."""
        said = [None, Drained(), Draining(2, 3), Draining(2, None, free=1), NotControllable("not ours")]
        fleet = self._fleet()
        fleet.drain, fleet.in_flight = self.rng.choice(said), self.rng.choice([0, 0, 2, None])

    def autoscaler(self) -> None:
        """One appears, or goes."""
        self._fleet().managed_by = self.rng.choice(["", "", "HorizontalPodAutoscaler x"])

    def used(self) -> None:
        """Something else sends requests to a pool, or stops."""
        self._fleet().used_by = self.rng.choice(["", "HTTPRoute preview"])

    def refuses(self) -> None:
        """A version crashes."""
        arm = self.rng.choice(ARMS)
        self.world.crashes = {arm: CrashView(pods=3, refusing=self.rng.random() < 0.5)}

    def somebody_scales(self) -> None:
        """By hand, down."""
        fleet = self._fleet()
        fleet.scale(self.rng.randint(0, fleet.replicas))

    def somebody_scales_stable_up(self) -> None:
        """While it gives pods."""
        stable = self.world.status.stable
        if stable is not None and self.world.status.stable_scale is not None:
            self.world.fleets[stable.identity].scale(self.size)

    def retarget(self) -> None:
        """Another target."""
        self._target(self.rng.choice(["v1", "v2", "v2", "v3"]))

    def command(self) -> None:
        """Any."""
        self.world.tell(
            self.rng.choice(["promote", "promoteFull", "abort", "retry", "retry", "pause", "resume"])
        )

    def gate_fails(self) -> None:
        """Each that runs."""
        loses = self.rng.random() < 0.3
        for name in self.world.gates:
            failed = GateView(name=name, outcome=GateOutcome.ABORT, message="p95", loses_requests=loses)
            self.world.gates[name] = failed

    def overwritten(self) -> None:
        """Somebody else writes weights."""
        status = self.world.status
        if status.stable is not None and status.canary is not None:
            share = self.rng.choice([0, 10, 30, 100])
            ours = {status.canary.identity: share, status.stable.identity: 100 - share}
            self.world.overwrite(dict.fromkeys(ARMS, 0) | ours, gitops=self.rng.random() < 0.5)
            self.note_weights()

    def edited(self) -> None:
        """Capacity, and paused."""
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
        """Nobody can count requests, or the gateway does not take the weight."""
        self.world.share = self.rng.choice([None, Honest.SPLIT])
        self.world.programmed = self.rng.random() < 0.7

    def weights_refused(self) -> None:
        """The API server takes no weight, or does again."""
        self.world.refuses = self.rng.choice(
            [None, Refused(reason=Reason.TRAFFIC_REFUSED, message="a webhook")]
        )

    def scales_refused(self) -> None:
        """The API server scales a workload no more, or does again."""
        self._fleet().refused = self.rng.choice(["", "forbidden"])

    def numbers_edited(self) -> None:
        """One of capacity's, to what the plan may not be feasible with."""
        pick = self.rng.choice
        changes: list[dict[str, Any]] = [
            {"max_surge": pick([None, PodCount(number=1), PodCount(number=4)])},
            {"min_stable": PodCount(number=pick([0, 1, 2]))},
            {"headroom": pick([0.5, 1.0, 1.25])},
            {"min_replicas": pick([1, 2])},
            {"drain_timeout": timedelta(minutes=pick([1, 5, 20]))},
            {"scale_down_delay": timedelta(minutes=pick([0, 2, 10]))},
            {"scale_down_to": pick([0, 1, 2])},
        ]
        self._capacity(replace(self.policy, **pick(changes)))

    def unreadable(self) -> None:
        """The spec, or it is again."""
        self.world.problems = self.rng.choice(
            [(), (Problem(reason=Reason.TEMPLATE_MISSING, message="gone"),)]
        )

    def crash(self) -> None:
        """The controller, after some actions of a plan."""
        self.plan_once(self.rng.randint(0, 3))

    def return_hangs(self) -> None:
        """What stable gave is asked back, and no pod comes or goes."""
        self._target(self.rng.choice(["v1", "v3"]))
        self.hang()

    def time(self) -> None:
        """It passes."""
        self.world.now += timedelta(seconds=self.rng.choice([1, 31, 121, 400, 1900]))
