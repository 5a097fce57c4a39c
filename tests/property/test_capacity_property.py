"""Capacity against pods that come, hang, die and end, people who scale, and crashes between any two writes.

A state machine moves pods, replicas, targets, commands and time at will; each plan is looked at. In the end nobody
disturbs any more: then every run ends at a defined place, with stable as it was and what lost as ``scaleDown`` says.
"""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import Phase as HypothesisPhase
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from rollouts.engine.observation import Drained, Draining, FreezeView, TurnView
from rollouts.engine.rollout_spec import AbortSpeed, Capacity, PodCount, WarmUp
from rollouts.engine.versions import Identity
from tests.kit.fleet import Fleet, PodState
from tests.kit.watched import Watched
from tests.kit.world import World, pause, pool, spec, weight

MORE = int(os.environ.get("ENGINE_EXAMPLES", "150"))
QUICK = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    phases=[HypothesisPhase.generate],  # shrinking takes minutes here
    suppress_health_check=list(HealthCheck),
)
FULL_RUN = settings(QUICK, max_examples=MORE, stateful_step_count=60)

ARMS = [pool(name) for name in ("v1", "v2", "v3")]
N = 6
DELAY, DRAIN = timedelta(minutes=2), timedelta(minutes=5)
arms = st.sampled_from(ARMS)
capacities = st.builds(
    Capacity,
    max_surge=st.sampled_from(
        [
            None,
            PodCount(number=6),
            PodCount(number=100, percent=True),
            PodCount(number=2),
            PodCount(number=1),
        ]
    ),
    min_stable=st.sampled_from([PodCount(number=100, percent=True), PodCount(number=1), PodCount(number=3)]),
    abort=st.sampled_from(AbortSpeed),
    headroom=st.sampled_from([1.0, 0.5, 1.25]),
    min_replicas=st.sampled_from([1, 2]),
    drain_timeout=st.just(DRAIN),
    scale_down_delay=st.sampled_from([timedelta(0), DELAY]),
    scale_down_to=st.sampled_from([0, 1]),
    warm_up=st.sampled_from([None, WarmUp()]),
)


def started_on(capacity: Capacity) -> World:
    """Healthy on v1, which has all of its pods."""
    return World(
        spec=spec(
            weight(20),
            pause(60),
            weight(60),
            target="v1",
            capacity=capacity,
            rollback_window=timedelta(hours=1),
        ),
        rules=[{ARMS[0]: 100, ARMS[1]: 0, ARMS[2]: 0}],
        pools=dict.fromkeys(ARMS, 0),
        fleets={arm: replace(Fleet.of(arm.name, N if arm == ARMS[0] else 0), warms=True) for arm in ARMS},
    )


class Pods(Watched, RuleBasedStateMachine):
    """One Rollout, three workloads."""

    @initialize(capacity=capacities)
    def begin(self, capacity: Capacity) -> None:
        self.watch(started_on(capacity))

    # --- the world moves ---

    @rule(arm=arms, index=st.integers(0, 15), state=st.sampled_from([*PodState, None]))
    def a_pod_moves(self, arm: Identity, index: int, state: PodState | None) -> None:
        fleet = self.world.fleets[arm]
        if index < fleet.live and fleet.pods[index] is not PodState.ENDING:
            fleet.move(index, state)
        elif index < fleet.live and state is None:
            fleet.move(index, None)

    @rule(arm=arms)
    def pods_come_and_go(self, arm: Identity) -> None:
        self.world.fleets[arm].settle()

    @rule(arm=arms, replicas=st.integers(0, N))
    def somebody_scales(self, arm: Identity, replicas: int) -> None:
        fleet = self.world.fleets[arm]
        fleet.scale(replicas)

    @rule(arm=arms, busy=st.sampled_from([0, 0, 3, None]))
    def requests(self, arm: Identity, busy: int | None) -> None:
        self.world.fleets[arm].in_flight = busy

    @rule(arm=arms, drain=st.sampled_from([None, None, Drained(), Draining(2, 3), Draining(2, None, free=1)]))
    def pods_drain(self, arm: Identity, drain: Drained | Draining | None) -> None:
        self.world.fleets[arm].drain = drain

    @rule(arm=arms, who=st.sampled_from(["", "", "HorizontalPodAutoscaler x"]))
    def an_autoscaler(self, arm: Identity, who: str) -> None:
        self.world.fleets[arm].managed_by = who

    @rule(name=st.sampled_from(["v1", "v2", "v3"]))
    def the_target_changes(self, name: str) -> None:
        assert self.world.spec is not None
        self.world.spec = replace(self.world.spec, target=replace(self.world.spec.target, name=name))
        self.world.generation += 1

    @rule(capacity=st.none() | capacities, paused=st.booleans())
    def the_spec_changes(self, capacity: Capacity | None, paused: bool) -> None:
        assert self.world.spec is not None
        canary = replace(self.world.spec.canary, capacity=capacity)
        self.world.spec = replace(self.world.spec, canary=canary, paused=paused)
        self.world.generation += 1

    @rule(action=st.sampled_from(["promote", "promoteFull", "abort", "retry", "pause", "resume"]))
    def a_command(self, action: str) -> None:
        self.world.tell(action)

    @rule(share=st.sampled_from([0, 30, 100]))
    def weights_are_overwritten(self, share: int) -> None:
        status = self.world.status
        if status.stable is not None and status.canary is not None:
            ours = {status.canary.identity: share, status.stable.identity: 100 - share}
            self.world.overwrite(dict.fromkeys(ARMS, 0) | ours)
            self.note_weights()

    @rule(frozen=st.sampled_from([False, False, True]), queued=st.sampled_from([False, False, True]))
    def others(self, frozen: bool, queued: bool) -> None:
        self.world.freeze = FreezeView(name="f", reason="none") if frozen else None
        self.world.turn = TurnView(where="in namespace a", limit=1, holders=("a/x",)) if queued else None

    @rule(seconds=st.sampled_from([1, 5, 31, 121, 400]))
    def time_passes(self, seconds: int) -> None:
        self.world.now += timedelta(seconds=seconds)

    # --- the controller acts ---

    @rule(rounds=st.integers(1, 4))
    def plans(self, rounds: int) -> None:
        for _ in range(rounds):
            self.plan_once(None)

    @rule(after=st.integers(0, 3))
    def a_crash(self, after: int) -> None:
        """So many actions are carried out, and the status is not stored."""
        self.plan_once(after)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.calm()


def test_pods_and_weights_keep_together() -> None:
    run_state_machine_as_test(Pods, settings=QUICK)  # type: ignore[no-untyped-call]


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.timeout(280)
def test_pods_and_weights_keep_together_for_long() -> None:
    run_state_machine_as_test(Pods, settings=FULL_RUN)  # type: ignore[no-untyped-call]
