"""Drains of an arm's pods in mid-rollout: which pods go, how far they are, and the annotations that say so.

The engine stores that an arm is to lose pods, and how many (``RolloutStatus.drains``). Each plan then holds a
``DrainPods``: the pods that go are marked (``objects/leaving.py``), so that our pickers spare them and the workload's
controller deletes them first; a pod with our mark that no plan asks for loses it. What is marked is read off the pods
themselves: a new process goes on where the last one stopped, and nothing is to be remembered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rollouts.api.parsing import ParsedRollout
from rollouts.controller.caches import Caches
from rollouts.controller.marking import Change, Marking, PodMarks
from rollouts.controller.workloads import InFlight, find_workload
from rollouts.engine.actions import DrainPods, Plan
from rollouts.engine.observation import Drained, Draining, DrainView, NotControllable
from rollouts.engine.versions import Identity
from rollouts.kube.client import KubeClient
from rollouts.objects.leaving import (
    BUSY,
    IDLE,
    LeavingPod,
    cost_of,
    is_active,
    is_mixed,
    leaving,
    marked_by,
    marking,
    members,
    serves,
    unmarking,
)
from rollouts.objects.pools import Pool
from rollouts.objects.workloads import ORDINAL_KINDS, Workload
from rollouts.runtime.clock import Clock, Monotonic
from rollouts.runtime.objects import uid_of

__all__ = ["PodDrains"]

Object = Mapping[str, Any]
_FIRST_LOOK = 5.0
"""Seconds that the choice of the idlest waits for the pods' first figures."""
_SEEN = 2.0
"""Seconds that a deletion cost is to be there before it is relied on: the controller that deletes has a cache, too."""


@dataclass(frozen=True, slots=True)
class _Arm:
    """An arm that is to lose pods: those that go in the order in which they are deleted, of all ``count`` it has.

    ``unheard``: of some of the pods that serve it is not known what they answer.
    """

    going: tuple[LeavingPod, ...]
    count: int
    unheard: bool
    has_costs: bool


class PodDrains:
    """Looks at drains and carries them out."""

    def __init__(self, client: KubeClient, caches: Caches, clock: Clock, loads: InFlight) -> None:
        self._caches = caches
        self._clock = clock
        self._loads = loads
        self._marks = PodMarks(client, caches, clock)
        self._asked: dict[tuple[str, str, Identity], Monotonic] = {}
        """By namespace, Rollout and arm: when the idlest pods were first asked for."""
        self._idle_since: dict[str, Monotonic] = {}
        """By UID: since when a pod has had the lowest cost in the cache."""

    # --- how far it is ---

    def view(
        self, parsed: ParsedRollout, identity: Identity, pool: Pool, workload: Workload
    ) -> DrainView | None:
        """How far the drain of an arm is, for the engine."""
        why = self._loads.uncontrollable(pool) or self._refusal(parsed)
        if why:
            return NotControllable(why)
        asked = next((one for one in parsed.status.drains if one.identity == identity), None)
        if asked is None:
            return None
        arm = self._arm(parsed.name, pool, workload, asked.to)
        if arm is None:
            return Draining(pods=max(0, asked.replicas - asked.to), requests=None)
        answers = self._answers(parsed.name, pool, arm)
        if all(count == 0 for count in answers.values()):
            return Drained()
        counts = [count for count in answers.values() if count]
        known = all(count is not None for count in answers.values())
        return Draining(
            pods=sum(count != 0 for count in answers.values()),
            requests=sum(counts) if known else None,
            free=max(0, self._free(arm, answers) - max(0, arm.count - asked.replicas)),
        )

    def _refusal(self, parsed: ParsedRollout) -> str:
        words = self._marks.refusal(parsed.namespace, parsed.name)
        return f"the API server refuses to annotate pods: {words}" if words else ""

    def _arm(self, rollout: str, pool: Pool, workload: Workload, to: int) -> _Arm | None:
        """None while nobody can say which pods go: the template changes, or whose some of the pool are is not known."""
        there = [pod for pod in self._caches.holding_pods(pool) if is_active(pod)]
        pods = members(there, workload)
        if is_mixed(pods, workload) or len(pods) < min(workload.replicas, len(there)):
            return None
        loads = self._loads.loads(pool)
        return _Arm(
            going=tuple(leaving(pods, workload, to, rollout, loads)),
            count=len(pods),
            unheard=not loads.keys() >= {pod["metadata"]["name"] for pod in pods if serves(pod)},
            has_costs=workload.resource.kind not in ORDINAL_KINDS,
        )

    def _answers(self, rollout: str, pool: Pool, arm: _Arm) -> dict[str, int | None]:
        """What each pod that goes still answers: nothing without an address, not known without our mark."""
        marked = {one.name for one in arm.going if one.serves and _is_marked(one, rollout, arm)}
        said = self._loads.leaving(pool, marked) if marked else {}
        return {one.name: said.get(one.name) if one.serves else 0 for one in arm.going}

    def _free(self, arm: _Arm, answers: Mapping[str, int | None]) -> int:
        """How many drained pods are deleted before any other: pods of equal rank go in any order."""
        free, now = 0, self._clock.monotonic()
        self._note_costs(arm, now)
        for rank in dict.fromkeys(one.rank for one in arm.going):
            alike = [one for one in arm.going if one.rank == rank]
            if any(answers[one.name] != 0 or not self._is_settled(one, arm, now) for one in alike):
                break
            free += len(alike)
        return free

    def _note_costs(self, arm: _Arm, now: Monotonic) -> None:
        known = {uid_of(one.pod) for one in arm.going if cost_of(one.pod) == IDLE}
        for one in arm.going:
            if uid_of(one.pod) not in known:
                self._idle_since.pop(uid_of(one.pod), None)
        for uid in known:
            self._idle_since.setdefault(uid, now)

    def _is_settled(self, one: LeavingPod, arm: _Arm, now: Monotonic) -> bool:
        """Whether the controller that deletes knows by now that this pod goes before those with work."""
        if not arm.has_costs or not one.serves:
            return True
        since = self._idle_since.get(uid_of(one.pod))
        return since is not None and now - since >= _SEEN

    # --- what is done about it ---

    def owes(self, parsed: ParsedRollout, plan: Plan) -> bool:
        """Whether a pod has our mark, and the plan does not ask for it."""
        return not _asked(plan) and bool(self._caches.marked_pods(parsed.namespace, parsed.name))

    async def carry_out(self, parsed: ParsedRollout, plan: Plan) -> Marking:
        """Mark what goes, and take the mark off what does not.

        Raises NotLeading; what the API server does not take is told, and left to the next look.
        """
        changes, complete = self._changes(parsed, plan)
        self._forget(parsed, plan)
        left = await self._marks.write(parsed.namespace, parsed.name, changes)
        return left if complete else Marking.LEFT

    async def release(self, namespace: str, rollout: str) -> Marking:
        """Take all marks of a Rollout off that is gone. Raises NotLeading."""
        self._marks.forget(namespace, rollout)
        marked = self._caches.marked_pods(namespace, rollout)
        changes: list[Change] = [
            (pod, unmarking(pod)) for pod in marked if not pod["metadata"].get("deletionTimestamp")
        ]
        return await self._marks.write(namespace, rollout, changes)

    def _changes(self, parsed: ParsedRollout, plan: Plan) -> tuple[list[Change], bool]:
        """The patches that are due, and whether all is known that they depend on."""
        marked = self._caches.marked_pods(parsed.namespace, parsed.name)
        going, changes, complete = set[str](), list[Change](), True
        for action in _asked(plan):
            chosen = self._chosen(parsed, action)
            if chosen is None:
                going |= set(map(uid_of, marked))  # what is marked stays so
                complete = False
            for pod, written in chosen or ():
                going.add(uid_of(pod))
                if written:
                    changes.append((pod, written))
        if marked:
            going |= self._going_anyway(parsed) | self._going_next(parsed, plan)
        stays = (pod for pod in marked if uid_of(pod) not in going)
        changes += [(pod, unmarking(pod)) for pod in stays if not pod["metadata"].get("deletionTimestamp")]
        return changes, complete

    def _going_next(self, parsed: ParsedRollout, plan: Plan) -> set[str]:
        """UIDs of pods that go by drains which this plan stores, to be asked for by the next: a mark on them stays."""
        asked = {action.identity for action in _asked(plan)}
        stored = [one for one in plan.status.drains if one.identity not in asked]
        return self._going(parsed, {one.identity: one.to for one in stored})

    def _going_anyway(self, parsed: ParsedRollout) -> set[str]:
        """UIDs of pods that go by what their workload is scaled to already: without marks others would go for them."""
        status = parsed.status
        arms = {one.identity for one in status.arms} | {one.identity for one in status.scale_downs}
        arms |= {one.identity for one in status.drains}
        return self._going(parsed, dict.fromkeys(arms))

    def _going(self, parsed: ParsedRollout, arms: Mapping[Identity, int | None]) -> set[str]:
        """UIDs of the pods that go when arms are scaled to so many replicas; None: to what they have."""
        found = set[str]()
        for identity, to in arms.items():
            pool = self._caches.pool(identity.group, parsed.namespace, identity.name)
            workload = find_workload(self._caches, pool) if pool is not None else None
            if pool is None or not isinstance(workload, Workload):
                continue
            arm = self._arm(parsed.name, pool, workload, workload.replicas if to is None else to)
            found |= {uid_of(one.pod) for one in arm.going} if arm is not None else set()
        return found

    def _chosen(self, parsed: ParsedRollout, action: DrainPods) -> list[Change] | None:
        """The pods that go, each with the annotations that it lacks; None where nobody can say now which go."""
        pool = self._caches.pool(action.identity.group, parsed.namespace, action.identity.name)
        workload = find_workload(self._caches, pool) if pool is not None else None
        if pool is None or not isinstance(workload, Workload):
            return None
        arm = self._arm(parsed.name, pool, workload, action.to)
        if arm is None or self._is_too_early(parsed, action, arm):
            return None
        answers = self._answers(parsed.name, pool, arm)
        chosen: list[Change] = []
        for one in arm.going:
            cost = (IDLE if answers[one.name] == 0 else BUSY) if arm.has_costs else None
            chosen.append((one.pod, marking(one.pod, parsed.name, cost)))
        return chosen

    def _is_too_early(self, parsed: ParsedRollout, action: DrainPods, arm: _Arm) -> bool:
        """Whether to wait a moment for what the pods answer, before the idlest are chosen."""
        begun = any(marked_by(one.pod) for one in arm.going)
        if begun or not arm.has_costs or not arm.unheard:
            return False
        place, now = (parsed.namespace, parsed.name, action.identity), self._clock.monotonic()
        return now - self._asked.setdefault(place, now) < _FIRST_LOOK

    def _forget(self, parsed: ParsedRollout, plan: Plan) -> None:
        asked = {action.identity for action in _asked(plan)}
        mine = (parsed.namespace, parsed.name)
        for place in [one for one in self._asked if one[:2] == mine and one[2] not in asked]:
            del self._asked[place]
        if not asked and self._idle_since:
            alive = {uid_of(pod) for pod in self._caches.pods.values()}
            self._idle_since = {uid: at for uid, at in self._idle_since.items() if uid in alive}


def _asked(plan: Plan) -> list[DrainPods]:
    return [action for action in plan.actions if isinstance(action, DrainPods)]


def _is_marked(one: LeavingPod, rollout: str, arm: _Arm) -> bool:
    """Whether requests are kept from a pod, and it goes before those that are to stay."""
    return marked_by(one.pod) == rollout and (not arm.has_costs or cost_of(one.pod) in (IDLE, BUSY))
