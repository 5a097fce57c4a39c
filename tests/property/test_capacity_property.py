"""Capacity against pods that come, hang, die and end, people who scale, and crashes between any two writes.

A state machine moves pods, replicas, targets, commands and time at will; each plan is looked at. In the end nobody
disturbs any more: then every run ends at a defined place, with stable as it was and what lost as ``scaleDown`` says.
"""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import Phase as HypothesisPhase
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from rollouts.api.status import read_status, write_status
from rollouts.engine import scaling
from rollouts.engine.actions import ReturnTraffic, ScaleWorkload, WriteTraffic
from rollouts.engine.capacity import infeasible, least_stable, most_pods, pods_for, stable_pods_for
from rollouts.engine.observation import Drained, Draining, FreezeView, TurnView
from rollouts.engine.planning import plan
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import AbortSpeed, Capacity, PodCount
from rollouts.engine.rollout_status import Phase
from rollouts.engine.versions import Identity
from rollouts.units import FULL, ZERO, Weight
from tests.kit.fleet import Fleet, PodState
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
)


class Pods(RuleBasedStateMachine):
    """One Rollout, three workloads."""

    crowded = True
    """People scale by hand, so that at the end there may be no room within any limit."""

    @initialize(capacity=capacities)
    def begin(self, capacity: Capacity) -> None:
        self.world = World(
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
            fleets={arm: Fleet.of(arm.name, N if arm == ARMS[0] else 0) for arm in ARMS},
        )
        self.without_weight: dict[Identity, datetime] = dict.fromkeys(ARMS, self.world.now)
        self.owed: dict[Identity, int] = {}
        """Stable versions that gave pods, and what they are to have again."""
        self.world.settle()

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
            self._note_weights()

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
            self._plan(None)

    @rule(after=st.integers(0, 3))
    def a_crash(self, after: int) -> None:
        """So many actions are carried out, and the status is not stored."""
        self._plan(after)

    def _plan(self, crash_after: int | None) -> None:
        world = self.world
        assert world.status == read_status(write_status(world.status))[0]
        decided = plan(world.observe(), world.now)
        for action in decided.actions[:crash_after]:
            if isinstance(action, ScaleWorkload):
                self._look_at(action)
            if isinstance(action, WriteTraffic):
                self._look_at_weight(action)
            world.perform(action)
            if isinstance(action, WriteTraffic | ReturnTraffic):
                self._note_weights()
        if crash_after is None:
            world.status = decided.status
        self._note_debts()

    def _note_debts(self) -> None:
        lent, world = self.world.status.stable_scale, self.world
        if lent is not None:
            self.owed[lent.identity] = lent.full
        if any(event.reason is Reason.SCALE_DOWN_LEFT for event in world.events):
            self.owed.clear()  # said to somebody, whose it is now
        world.events.clear()

    # --- what must hold ---

    def _look_at(self, action: ScaleWorkload) -> None:
        world, fleet = self.world, self.world.fleets[action.identity]
        status = world.status
        assert status.stable is not None
        assert not fleet.managed_by, "an autoscaler's workload is never scaled"
        if action.identity == status.stable.identity:
            self._look_at_stable(action)
        elif action.replicas >= fleet.replicas:
            self._look_at_rise(action)
        elif any(one.identity == action.identity and one.decided for one in status.scale_downs):
            self._look_at_loser(action)
        else:
            self._look_at_drain(action)
            share = Weight(round(world.share_of(action.identity) * FULL))
            lent = status.stable_scale
            assert lent is not None, "only for a stable that gets pods back"
            assert lent.returning
            headroom = Capacity() if world.spec is None else world.spec.canary.capacity or Capacity()
            assert action.replicas >= pods_for(share, lent.full, headroom), "what its share needs"

    def _look_at_stable(self, action: ScaleWorkload) -> None:
        world, fleet, lent = self.world, self.world.fleets[action.identity], self.world.status.stable_scale
        assert lent is not None, "stable is scaled only once it is stored what it gets back"
        assert action.replicas <= lent.full
        if action.replicas >= fleet.replicas:
            beside = self._beside(action.identity)
            taken = sum(world.fleets[arm].taken for arm in beside) + max(action.replicas, fleet.live)
            assert not lent.most or taken <= lent.most, "no more pods than there is room for"
            return
        assert world.spec is not None
        policy = world.spec.canary.capacity
        assert policy is not None
        assert action.replicas >= least_stable(lent.full, policy), "never under minStable"
        canary = world.current.canary.identity
        weight = Weight(int(world.share_of(canary) * FULL))
        assert action.replicas >= stable_pods_for(weight, lent.full, policy), "what its share needs"
        assert world.status.hold is None
        self._look_at_drain(action)

    def _look_at_drain(self, action: ScaleWorkload) -> None:
        """Pods of an arm that may have requests: stored, and drained, or the timeout is over."""
        world, fleet = self.world, self.world.fleets[action.identity]
        asked = next((one for one in world.status.drains if one.identity == action.identity), None)
        assert asked is not None, "the drain is stored before a pod goes"
        assert asked.to <= action.replicas
        policy = world.spec.canary.capacity if world.spec is not None else None
        over = world.now - asked.since >= (policy or Capacity()).drain_timeout
        found = fleet.view(asked=True).drain
        free = found.free if isinstance(found, Draining) else fleet.replicas
        assert over or fleet.replicas - action.replicas <= free, "no pod with work before the timeout"

    def _beside(self, arm: Identity) -> set[Identity]:
        status = self.world.status
        assert status.stable is not None
        canary = {status.current.canary.identity} if status.current and not status.aborted else set()
        return {status.stable.identity, *canary, *(one.identity for one in status.scale_downs)} - {arm}

    def _look_at_rise(self, action: ScaleWorkload) -> None:
        world, fleet = self.world, self.world.fleets[action.identity]
        assert world.spec is not None
        policy, capacity = world.spec.canary.capacity, world.current.capacity
        assert policy is not None
        assert capacity is not None
        assert action.replicas <= capacity.wanted, "the number is stored before it is written"
        held = world.freeze or (world.turn and world.current.started_at is None)
        assert world.current.skip_gates or not held, "no pods for who waits for others"
        taken = sum(world.fleets[arm].taken for arm in self._beside(action.identity))
        taken += max(action.replicas, fleet.live)
        most = most_pods(capacity.stable_at_start, policy)
        assert most is None or taken <= most, "no more pods than there is room for"

    def _look_at_loser(self, action: ScaleWorkload) -> None:
        world, fleet = self.world, self.world.fleets[action.identity]
        assert world.spec is not None
        policy = world.spec.canary.capacity
        assert policy is not None
        assert world.share_of(action.identity) == 0, "what has weight is never scaled down"
        idle = world.now - self.without_weight[action.identity]
        answers = fleet.in_flight != 0 and fleet.pods and idle < policy.drain_timeout
        if any(one.identity == action.identity for one in world.status.drains) and (
            answers or idle < scaling.SETTLE
        ):
            self._look_at_drain(action)
            return
        assert idle >= scaling.SETTLE
        assert not answers, "no pod with work is taken away before the timeout"

    def _look_at_weight(self, action: WriteTraffic) -> None:
        world, canary = self.world, action.desired.canary
        assert world.spec is not None
        policy = world.spec.canary.capacity
        if canary is None or policy is None or action.desired.weight * 1 <= world.share_of(canary) * 10_000:
            return
        capacity = world.current.capacity
        assert capacity is not None
        needed = pods_for(action.desired.weight, capacity.stable_at_start, policy)
        if world.current.skip_gates and world.fleets[action.desired.stable].ready == 0:
            needed = policy.min_replicas  # nobody else could serve
        assert world.fleets[canary].ready >= needed, "weight only when its pods are Ready"

    def _note_weights(self) -> None:
        for arm in ARMS:
            if self.world.share_of(arm) > 0:
                self.without_weight.pop(arm, None)
            else:
                self.without_weight.setdefault(arm, self.world.now)

    # --- where it ends ---

    def teardown(self) -> None:
        """Left alone, with nodes that have room and requests that end: at a defined place."""
        if not hasattr(self, "world"):
            return
        world = self.world
        assert world.spec is not None
        world.freeze = world.turn = None
        for fleet in world.fleets.values():
            fleet.managed_by, fleet.in_flight, fleet.drain = "", 0, None
        stable = world.status.stable
        assert stable is not None
        if world.fleets[stable.identity].replicas == 0:
            world.fleets[stable.identity].scale(N)  # somebody took all of stable's pods
        policy = world.spec.canary.capacity or Capacity(scale_down_delay=DELAY, drain_timeout=DRAIN)
        n = max(fleet.replicas for fleet in world.fleets.values())
        if infeasible(n, policy) is not None or self.crowded:
            policy = replace(policy, max_surge=None)
        world.spec = replace(world.spec, paused=False, canary=replace(world.spec.canary, capacity=policy))
        world.generation += 1
        self._come_to_rest()
        status = world.status
        assert status.phase in (Phase.HEALTHY, Phase.ABORTED), (
            f"{status.phase} {status.reason} {status.message}"
        )
        assert status.stable is not None
        assert (status.scale_downs, status.drains, status.stable_scale) == ((), (), None)
        full = self.owed.get(status.stable.identity, 0)
        assert world.fleets[status.stable.identity].replicas >= full, "stable has its replicas again"
        assert world.fleets[status.stable.identity].ready > 0
        if status.phase is Phase.HEALTHY:
            assert world.share_of(status.stable.identity) == 1
        assert (status.weight.applied or ZERO) in (ZERO, 10_000)

    def _come_to_rest(self) -> None:
        world = self.world
        for _ in range(120):
            before = world.status
            for _ in range(4):
                self._plan(None)
            for fleet in world.fleets.values():
                fleet.settle()
            world.now += timedelta(seconds=31)
            if world.status.phase is Phase.PAUSED and world.status.hold is not None:
                world.tell("resume")
            ended = world.status.phase in (Phase.HEALTHY, Phase.ABORTED) and not world.status.scale_downs
            ended = ended and world.status.stable_scale is None
            if ended and world.status == before:
                return


class Lending(Pods):
    """The same where stable has to give pods, with more stretches in which all goes well, and nobody else scales up."""

    crowded = False

    @initialize(
        capacity=st.builds(
            Capacity,
            max_surge=st.sampled_from([PodCount(number=1), PodCount(number=2)]),
            min_stable=st.sampled_from([PodCount(number=1), PodCount(number=0)]),
            abort=st.sampled_from(AbortSpeed),
            drain_timeout=st.just(DRAIN),
            scale_down_delay=st.just(DELAY),
        )
    )
    def begin(self, capacity: Capacity) -> None:
        super().begin(capacity)

    @rule(rounds=st.integers(1, 6))
    def all_goes_well(self, rounds: int) -> None:
        self._well(rounds)

    @rule(rounds=st.integers(3, 9), name=st.sampled_from(["v2", "v2", "v2", "v3"]))
    def a_new_target_goes_well(self, rounds: int, name: str) -> None:
        world = self.world
        assert world.spec is not None
        if world.status.current is None and world.spec.target.name != name:
            self.the_target_changes(name)
        self._well(rounds)

    def _well(self, rounds: int) -> None:
        for _ in range(rounds):
            for fleet in self.world.fleets.values():
                fleet.settle()
            for _ in range(5):
                self._plan(None)
            self.world.now += timedelta(seconds=6)

    @rule(arm=arms, replicas=st.integers(0, N))
    def somebody_scales(self, arm: Identity, replicas: int) -> None:
        fleet = self.world.fleets[arm]
        fleet.scale(min(replicas, fleet.replicas))

    @rule(capacity=st.none(), paused=st.booleans())
    def the_spec_changes(self, capacity: None, paused: bool) -> None:
        """Paused, and at times without capacity; never with other limits, which may be none that can be kept."""
        del capacity
        assert self.world.spec is not None
        self.world.spec = replace(self.world.spec, paused=paused)
        self.world.generation += 1


def test_pods_that_are_lent_come_back() -> None:
    run_state_machine_as_test(Lending, settings=QUICK)  # type: ignore[no-untyped-call]


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.timeout(280)
def test_pods_that_are_lent_come_back_for_long() -> None:
    run_state_machine_as_test(Lending, settings=FULL_RUN)  # type: ignore[no-untyped-call]


def test_pods_and_weights_keep_together() -> None:
    run_state_machine_as_test(Pods, settings=QUICK)  # type: ignore[no-untyped-call]


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.timeout(280)
def test_pods_and_weights_keep_together_for_long() -> None:
    run_state_machine_as_test(Pods, settings=FULL_RUN)  # type: ignore[no-untyped-call]
