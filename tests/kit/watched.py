"""Rollouts with capacity as plain values, each plan of which is looked at: pods, weights, and where it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from fractions import Fraction
from math import ceil
from types import MappingProxyType

from rollouts.api.status import read_status, write_status
from rollouts.engine.actions import ReturnTraffic, ScaleWorkload, WarmPods, WriteTraffic
from rollouts.engine.capacity import (
    carried,
    companion_pods,
    infeasible,
    least_stable,
    most_pods,
    needs_room,
    pods_for,
    stable_pods_for,
)
from rollouts.engine.observation import Draining
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import Capacity
from rollouts.engine.rollout_status import Phase, RolloutStatus
from rollouts.engine.scaling_down import SETTLE
from rollouts.engine.versions import Identity
from rollouts.units import FULL, ZERO, Weight
from tests.kit.world import World

__all__ = ["Watched"]


class Watched:
    """One Rollout and its workloads. ``size``: what stable has at the start."""

    world: World
    size = 6
    usual = Capacity(scale_down_delay=timedelta(minutes=2), drain_timeout=timedelta(minutes=5))
    """What the spec says at the end where it says nothing."""
    prefill: Mapping[Identity, Identity] = MappingProxyType({})
    """Companions, by their pools: whose pods they work for."""
    roles: Mapping[Identity, str] = MappingProxyType({})
    """Their roles."""
    crowded = True
    """People scale by hand, so that at the end there may be no room within any limit."""

    def watch(self, world: World) -> None:
        """Begin with this."""
        self.world = world
        self.without_weight: dict[Identity, datetime] = dict.fromkeys(world.fleets, world.now)
        self.owed: dict[Identity, int] = {}
        """Stable versions that gave pods, and what they are to have again."""
        self.raised = set[Identity]()
        """What got pods by us for a canary, until they are gone or stable's, or it was said that they stay."""
        world.settle()

    def plan_once(self, crash_after: int | None) -> None:
        """Plan and carry out; ``crash_after``: so many actions only, and the status is not stored."""
        world = self.world
        assert world.status == read_status(write_status(world.status))[0]
        decided = world.decide()
        for action in decided.actions[:crash_after]:
            if isinstance(action, ScaleWorkload):
                self._look_at(action)
                if world.fleets[action.identity].refused:
                    continue  # by the API server
            if isinstance(action, WarmPods):
                running = decided.status.current
                assert running is not None, "pods are warmed up for an attempt"
                assert running.aborted is None
                assert action.identity == running.canary.identity, "never stable's: those serve"
            if isinstance(action, WriteTraffic):
                self._look_at_weight(action)
            if isinstance(action, ReturnTraffic):
                self._look_at_return(action, decided.status)
            world.perform(action)
            if isinstance(action, WriteTraffic | ReturnTraffic):
                self.note_weights()
        if crash_after is None:
            if world.status.stable is not None and world.status.stable != decided.status.stable:
                self.owed.clear()  # replaced
            world.status = decided.status
        self._note_debts()

    def _note_debts(self) -> None:
        lent, world = self.world.status.stable_scale, self.world
        if lent is not None:
            self.owed |= {part.identity: part.full for part in lent.parts}
        else:  # what it has back may be taken by others, and is no debt any more
            self.owed = {arm: full for arm, full in self.owed.items() if world.fleets[arm].replicas < full}
        if any(event.reason is Reason.SCALE_DOWN_LEFT for event in world.events):
            self.owed.clear()  # said to somebody, whose it is now
        self._note_raised()
        world.events.clear()

    def _note_raised(self) -> None:
        status, fleets = self.world.status, self.world.fleets
        said = [event.message for event in self.world.events if event.reason is Reason.SCALE_DOWN_LEFT]
        policy = self.world.spec.canary.capacity if self.world.spec is not None else None
        if policy is None:
            self.raised.clear()  # nothing is scaled any more
        keeps = policy is not None and policy.scale_down_to > 0
        for arm in list(self.raised):
            told = any(words.startswith(f"{arm.name} is not") for words in said)
            serves = status.stable is not None and self.prefill.get(arm, arm) == status.stable.identity
            kept = keeps and all(one.identity != arm for one in status.scale_downs)
            if told or serves or kept or not fleets[arm].taken:
                self.raised.discard(arm)

    # --- what must hold ---

    def _look_at(self, action: ScaleWorkload) -> None:
        world, fleet = self.world, self.world.fleets[action.identity]
        status = world.status
        assert status.stable is not None
        assert not fleet.managed_by, "an autoscaler's workload is never scaled"
        version, lent = self.prefill.get(action.identity, action.identity), status.stable_scale
        gives = {part.identity for part in lent.parts} if lent is not None else set()
        if version == status.stable.identity or action.identity in gives:  # whatever a label called stable's
            self._look_at_stable(action)
        elif action.replicas >= fleet.replicas:
            self._look_at_rise(action)
        elif any(one.identity == action.identity and one.decided for one in status.scale_downs):
            self._look_at_loser(action, version)
        else:
            self._look_at_drain(action)
            self._look_at_room_made(action, version)

    def _look_at_room_made(self, action: ScaleWorkload, version: Identity) -> None:
        """What lost gives for a stable that gets pods back, of each kind what its share does not need."""
        world, lent = self.world, self.world.status.stable_scale
        assert lent is not None, "only for a stable that gets pods back"
        assert lent.returning
        share = Weight(max(round(world.share_of(version) * FULL) - 1, 0))
        policy = Capacity() if world.spec is None else world.spec.canary.capacity or Capacity()
        full = lent.full
        if action.identity in self.prefill:
            role = self.roles[action.identity]
            same = [one.full for one in lent.companions if self.roles[one.identity] == role]
            assert same, "for stable's of the same kind"
            full = same[0]
            policy = replace(policy, min_replicas=1)
        assert action.replicas >= pods_for(share, full, policy), "what its share needs"

    def _look_at_stable(self, action: ScaleWorkload) -> None:
        world, fleet, lent = self.world, self.world.fleets[action.identity], self.world.status.stable_scale
        assert lent is not None, "stable is scaled only once it is stored what it gets back"
        part = next((one for one in lent.parts if one.identity == action.identity), None)
        assert part is not None, "and which of its companions"
        assert action.replicas <= part.full
        if action.replicas >= fleet.replicas:
            beside = self._beside(action.identity)
            taken = sum(world.fleets[arm].taken for arm in beside) + action.replicas + fleet.ending
            free = world.spec is not None and world.spec.canary.capacity is None
            assert not part.most or free or taken <= part.most, "no more pods than there is room for"
            return
        assert world.spec is not None
        policy = world.spec.canary.capacity
        assert policy is not None
        assert action.replicas >= least_stable(part.full, policy), "never under minStable"
        canary = world.current.canary.identity
        weight = Weight(int(world.share_of(canary) * FULL))
        assert action.replicas >= stable_pods_for(weight, part.full, policy), "what its share needs"
        assert world.status.hold is None
        self._look_at_drain(action)

    def _look_at_drain(self, action: ScaleWorkload) -> None:
        """Pods of an arm that may have requests: stored, and drained, or the timeout is over."""
        world, fleet = self.world, self.world.fleets[action.identity]
        asked = next((one for one in world.status.drains if one.identity == action.identity), None)
        assert asked is not None, "the drain is stored before a pod goes"
        assert asked.to <= action.replicas
        policy = world.spec.canary.capacity if world.spec is not None else None
        lent, timeout = world.status.stable_scale, (policy or Capacity()).drain_timeout
        if lent is not None and lent.returning:
            timeout = timedelta(seconds=lent.drain_seconds)
        over = world.now - asked.since >= timeout
        found = fleet.view(asked=True).drain
        free = found.free if isinstance(found, Draining) else fleet.replicas
        assert over or fleet.replicas - action.replicas <= free, "no pod with work before the timeout"

    def _beside(self, arm: Identity) -> set[Identity]:
        """Whose pods count beside these: those of the same kind, of versions that are there, and of what lost."""
        status = self.world.status
        assert status.stable is not None
        running = status.current if status.current and not status.aborted else None
        capacity = running.capacity if running is not None else None
        there = {status.stable.identity, *([running.canary.identity] if running is not None else [])}
        named = {one.role: one.stable for one in capacity.companions} if capacity is not None else {}
        own = (pool for pool, version in self.prefill.items() if version == status.stable.identity)
        there |= {named.get(self.roles.get(pool, ""), pool) for pool in own}  # as labels had it when it began
        there |= {one.canary for one in capacity.companions} if capacity is not None else set()
        there |= {one.identity for one in status.scale_downs} | self.raised
        return {one for one in there if self.roles.get(one) == self.roles.get(arm)} - {arm}

    def _works(self, version: Identity, idle: timedelta, policy: Capacity) -> bool:
        """Whether a companion of a version that lost may still work on requests of its pods."""
        owed = {one.identity for one in self.world.status.scale_downs if one.of == version}
        fleets = (self.world.fleets[arm] for arm in owed)
        return idle < policy.drain_timeout and any(one.pods and one.in_flight != 0 for one in fleets)

    def _look_at_rise(self, action: ScaleWorkload) -> None:
        world, fleet = self.world, self.world.fleets[action.identity]
        assert world.spec is not None
        policy, capacity = world.spec.canary.capacity, world.current.capacity
        assert policy is not None
        assert capacity is not None
        record = next((one for one in capacity.companions if one.canary == action.identity), capacity)
        assert (record is capacity) == (action.identity not in self.prefill)
        assert action.replicas <= record.wanted, "the number is stored before it is written"
        held = world.freeze or (world.turn and world.current.started_at is None)
        assert world.current.skip_gates or not held, "no pods for who waits for others"
        taken = sum(world.fleets[arm].taken for arm in self._beside(action.identity))
        taken += action.replicas + fleet.ending
        most = most_pods(record.stable_at_start, policy)
        assert most is None or taken <= most, "no more pods than there is room for"
        self.raised.add(action.identity)

    def _look_at_loser(self, action: ScaleWorkload, version: Identity) -> None:
        world, fleet = self.world, self.world.fleets[action.identity]
        assert world.spec is not None
        policy = world.spec.canary.capacity
        assert policy is not None
        assert world.share_of(version) == 0, "what has weight, or works for it, is never scaled down"
        idle = world.now - self.without_weight[version]
        answers = fleet.in_flight != 0 and fleet.pods and idle < policy.drain_timeout
        # Of a companion whose decode is gone nobody asks anything any more: its own figures are enough, drain or not.
        needed = version != action.identity and world.fleets[version].live > policy.scale_down_to
        needed = needed and idle < policy.drain_timeout
        if any(one.identity == action.identity for one in world.status.drains) and (
            answers or idle < SETTLE or needed
        ):
            self._look_at_drain(action)
            return
        assert idle >= SETTLE
        assert not answers, "no pod with work is taken away before the timeout"
        owed = next(one for one in world.status.scale_downs if one.identity == action.identity)
        first = version == action.identity or owed.of == action.identity
        assert first or world.fleets[version].replicas <= policy.scale_down_to, "decode goes first"
        assert not self._works(action.identity, idle, policy), "what prefill works on is a request of decode"

    def _look_at_weight(self, action: WriteTraffic) -> None:
        world, canary = self.world, action.desired.canary
        assert world.spec is not None
        policy = world.spec.canary.capacity
        if canary is None or policy is None or action.desired.weight * 1 <= world.share_of(canary) * 10_000:
            return
        capacity = world.current.capacity
        if capacity is None:
            return  # asked for just now, in the middle of an attempt
        policy = self._of_way_back(policy, canary, action.desired.stable)
        needed = pods_for(action.desired.weight, capacity.stable_at_start, policy)
        if world.current.skip_gates and world.fleets[action.desired.stable].ready == 0:
            needed = policy.min_replicas  # nobody else could serve
        assert world.fleets[canary].ready >= needed, "weight only when its pods are Ready"
        sizes = [(one.canary, one.stable_at_start) for one in capacity.companions]
        gives = self._gives(capacity.stable_at_start, [size for _, size in sizes], policy)
        for companion, size in sizes if world.current.started_at is not None else ():
            beside = companion_pods(needed, size, capacity.stable_at_start)
            if gives:  # a walk in moves goes by what each kind of pods carries
                share = Fraction(action.desired.weight * 1, 10_000) * size
                beside = min(beside, ceil(share * Fraction(policy.headroom).limit_denominator(100)))
            assert world.fleets[companion].ready >= beside, "and those that work for them"

    def _of_way_back(self, policy: Capacity, canary: Identity, stable: Identity) -> Capacity:
        """A way back needs no more pods per pod of stable's than it had when both carried all traffic."""
        had, has = (self.world.status.promoted(arm) for arm in (canary, stable))
        if not self.world.current.skip_gates or had is None or has is None or not (had.pods and has.pods):
            return policy
        return replace(policy, headroom=min(policy.headroom, had.pods / has.pods))

    @staticmethod
    def _gives(n: int, sizes: list[int], policy: Capacity) -> bool:
        """Whether stable has to give pods of some kind before the canary has all."""
        lead = pods_for(FULL, n, policy)
        needs = [(lead, n), *((companion_pods(lead, size, n), size) for size in sizes)]
        return any(needs_room(needed, size, policy) for needed, size in needs)

    def _look_at_return(self, action: ReturnTraffic, status: RolloutStatus) -> None:
        """Stable gets as much as it has Ready pods for, where those can be waited for."""
        world, lent = self.world, status.stable_scale
        canary = world.fleets[action.record.canary.arm]
        if lent is None or not lent.returning or lent.immediate or world.in_haste:
            return
        stable = world.fleets[lent.identity]
        if canary.managed_by or stable.managed_by or not canary.ready or not stable.ready:
            return
        policy = (world.spec.canary.capacity if world.spec is not None else None) or Capacity()
        policy = replace(policy, min_replicas=0)
        kept, theirs = ZERO, carried(canary.ready, lent.full, policy)
        for part in lent.parts:
            whole = min(part.full, part.ready_at_start or part.full)
            ready = world.fleets[part.identity].ready
            kept = max(kept, Weight(FULL - (FULL if ready >= whole else ready * FULL // whole)))
            if part.identity in self.prefill:
                mine = [pool for pool, of in self.prefill.items() if of == action.record.canary.arm]
                same = [pool for pool in mine if self.roles[pool] == self.roles[part.identity]]
                beside = world.fleets[same[0]]
                if beside.managed_by or world.fleets[part.identity].managed_by:
                    return
                theirs = min(theirs, carried(beside.ready, part.full, policy))
        assert action.limit == min(kept, theirs), "stable gets what it can serve, or what the canary cannot"

    def hang(self) -> None:
        """No pod comes or goes for as long as one may take to start, and to drain: nobody waits for any longer."""
        world = self.world
        for _ in range(35):
            for _ in range(3):
                self.plan_once(None)
            world.now += timedelta(seconds=31)
        status, lent = world.status, world.status.stable_scale
        if lent is None or not lent.returning or not world.fleets[lent.identity].ready:
            return
        if world.refuses is not None:
            return  # no weight falls before it may be written; what it needs stays until then
        for record in status.way_back:
            current, arm = status.current, record.canary.arm
            runs = current is not None and current.canary.identity == arm and status.running is not None
            assert runs or world.share_of(arm) == 0, "a return ends, whatever keeps the pods"

    def note_weights(self) -> None:
        """Since when each arm has had no weight."""
        for arm in self.world.fleets:
            if self.world.share_of(arm) > 0:
                self.without_weight.pop(arm, None)
            else:
                self.without_weight.setdefault(arm, self.world.now)

    # --- where it ends ---

    def calm(self) -> None:
        """Left alone, with nodes that have room and requests that end: at a defined place."""
        world = self.world
        assert world.spec is not None
        world.freeze = world.turn = None
        for fleet in world.fleets.values():
            fleet.managed_by, fleet.used_by, fleet.in_flight, fleet.drain = "", "", 0, None
        world.crashes = {}
        stable = world.status.stable
        assert stable is not None
        if world.fleets[stable.identity].replicas == 0:
            world.fleets[stable.identity].scale(self.size)  # somebody took all of stable's pods
        policy = world.spec.canary.capacity or self.usual
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
        for arm, full in self.owed.items():
            assert world.fleets[arm].replicas >= full, f"stable has its replicas of {arm.name} again"
        assert world.fleets[status.stable.identity].ready > 0
        if status.phase is Phase.HEALTHY:
            assert world.share_of(status.stable.identity) == 1
        assert (status.weight.applied or ZERO) in (ZERO, 10_000)

    def _come_to_rest(self) -> None:
        world = self.world
        for _ in range(120):
            before = world.status
            for _ in range(4):
                self.plan_once(None)
            for fleet in world.fleets.values():
                fleet.settle()
            world.now += timedelta(seconds=31)
            if world.status.phase is Phase.PAUSED and world.status.hold is not None:
                world.tell("resume")
            ended = world.status.phase in (Phase.HEALTHY, Phase.ABORTED) and not world.status.scale_downs
            ended = ended and world.status.stable_scale is None
            if ended and world.status == before:
                return
