"""Drains of an arm's pods in mid-rollout: which pods go, how far they are, and the annotations that say so.

The engine stores that an arm is to lose pods, and how many (``RolloutStatus.drains``). Each plan then holds a
``DrainPods``: the pods that go are marked (``objects/leaving.py``), so that our pickers spare them and the workload's
controller deletes them first; a pod with our mark that no plan asks for loses it. What is marked is read off the pods
themselves: a new process goes on where the last one stopped, and nothing is to be remembered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from rollouts.api.parsing import ParsedRollout
from rollouts.controller.caches import Caches
from rollouts.controller.in_flight import ON_THE_WAY
from rollouts.controller.marking import PATIENCE, Change, Marking, PodMarks
from rollouts.controller.workloads import InFlight, companion_identities, find_workload
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

__all__ = ["PodDrains", "spared_for"]

Object = Mapping[str, Any]
_FIRST_LOOK = 5.0
"""Seconds that the choice of the idlest waits for the pods' first figures."""
HIDDEN = 60.0
"""Seconds that a pod of a version with companions is spared before its figures count: while a proxy in a decode pod
waits for prefill neither its own server nor a picker shows the request, and what prefill computed is fetched by decode
after prefill shows nothing any more."""
_SEEN = 2.0
"""Seconds that a deletion cost is to be there before it is relied on: the controller that deletes has a cache, too."""


def spared_for(*, companions: bool) -> timedelta:
    """How long requests are kept from a pod, of a version with companions or without, before its figures count."""
    return timedelta(seconds=ON_THE_WAY + (HIDDEN if companions else 0.0))


@dataclass(frozen=True, slots=True)
class _Arm:
    """An arm that is to lose pods: those that go in the order in which they are deleted, of all ``count`` it has.

    ``unheard``: of some of the pods that serve it is not known what they answer.
    """

    going: tuple[LeavingPod, ...]
    count: int
    unheard: bool
    has_costs: bool


@dataclass(slots=True)
class _Drain:
    """``asked``: when the idlest pods were first asked for. ``idle_since``: by UID, since when a pod has had the
    lowest cost in the cache."""

    asked: Monotonic | None = None
    idle_since: dict[str, Monotonic] = field(default_factory=dict)


class PodDrains:
    """Looks at drains and carries them out."""

    def __init__(self, client: KubeClient, caches: Caches, clock: Clock, loads: InFlight) -> None:
        self._caches = caches
        self._clock = clock
        self._loads = loads
        self._marks = PodMarks(client, caches, clock)
        self._drains: dict[tuple[str, str], dict[Identity, _Drain]] = {}
        """By namespace and Rollout, and by arm, what is known of its drain alone."""

    # --- how far it is ---

    def view(
        self,
        parsed: ParsedRollout,
        identity: Identity,
        pool: Pool,
        workload: Workload,
        *,
        is_companion: bool = False,
    ) -> DrainView | None:
        """How far the drain of an arm is, for the engine."""
        why = self._loads.uncontrollable(pool) or self._refusal(parsed)
        why = why or (self._loads.unlisted(pool) if is_companion else "")
        if why:
            return NotControllable(why)
        asked = next((one for one in parsed.status.drains if one.identity == identity), None)
        if asked is None:
            return None
        arm = self._arm(parsed.name, pool, workload, asked.to)
        if arm is None:
            return Draining(pods=max(0, asked.replicas - asked.to), requests=None)
        answers = self._answers(parsed, identity, pool, arm)
        if all(count == 0 for count in answers.values()):
            return Drained()
        counts = [count for count in answers.values() if count]
        known = all(count is not None for count in answers.values())
        return Draining(
            pods=sum(count != 0 for count in answers.values()),
            requests=sum(counts) if known else None,
            free=max(
                0,
                self._free(self._known(parsed, identity), arm, answers) - max(0, arm.count - asked.replicas),
            ),
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

    def _answers(
        self, parsed: ParsedRollout, identity: Identity, pool: Pool, arm: _Arm
    ) -> dict[str, int | None]:
        """What each pod that goes still answers: nothing without an address, not known without our mark."""
        marked = {one.name for one in arm.going if one.serves and _is_marked(one, parsed.name, arm)}
        hidden = HIDDEN if _works_in_two_places(parsed, identity) else 0.0
        said = self._loads.leaving(pool, marked, hidden=hidden) if marked else {}
        return {one.name: said.get(one.name) if one.serves else 0 for one in arm.going}

    def _known(self, parsed: ParsedRollout, identity: Identity) -> _Drain:
        mine = self._drains.setdefault((parsed.namespace, parsed.name), {})
        return mine.setdefault(identity, _Drain())

    def _free(self, known: _Drain, arm: _Arm, answers: Mapping[str, int | None]) -> int:
        """How many drained pods are deleted before any other: pods of equal rank go in any order."""
        free, now = 0, self._clock.monotonic()
        cheap = (uid_of(one.pod) for one in arm.going if cost_of(one.pod) == IDLE)
        known.idle_since = {uid: known.idle_since.get(uid, now) for uid in cheap}
        for rank in dict.fromkeys(one.rank for one in arm.going):
            alike = [one for one in arm.going if one.rank == rank]
            if any(answers[one.name] != 0 or not _is_settled(known, one, arm, now) for one in alike):
                break
            free += len(alike)
        return free

    # --- what is done about it ---

    def owes(self, parsed: ParsedRollout, plan: Plan) -> bool:
        """Whether a pod has our mark, and the plan does not ask for it."""
        return not _asked(plan) and bool(self._caches.marked_pods(parsed.namespace, parsed.name))

    async def carry_out(self, parsed: ParsedRollout, plan: Plan, patience: float = PATIENCE) -> Marking:
        """Mark what goes, and take the mark off what does not, in so many seconds.

        Raises NotLeading; what the API server does not take is told, and left to the next look.
        """
        changes, complete = self._changes(parsed, plan)
        self._forget(parsed, plan)
        left = await self._marks.write(parsed.namespace, parsed.name, changes, patience)
        return left if complete else Marking.LEFT

    async def release(self, namespace: str, rollout: str, patience: float = PATIENCE) -> Marking:
        """Take all marks of a Rollout off that is gone, in so many seconds. Raises NotLeading."""
        self._marks.forget(namespace, rollout)
        self._drains.pop((namespace, rollout), None)
        marked = self._caches.marked_pods(namespace, rollout)
        changes: list[Change] = [
            (pod, unmarking(pod)) for pod in marked if not pod["metadata"].get("deletionTimestamp")
        ]
        return await self._marks.write(namespace, rollout, changes, patience)

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
        arms |= {one.identity for one in status.drains} | companion_identities(parsed, {})
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
        answers = self._answers(parsed, action.identity, pool, arm)
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
        known, now = self._known(parsed, action.identity), self._clock.monotonic()
        known.asked = now if known.asked is None else known.asked
        return now - known.asked < _FIRST_LOOK

    def _forget(self, parsed: ParsedRollout, plan: Plan) -> None:
        """What is known of drains that are no more."""
        mine = (parsed.namespace, parsed.name)
        if mine not in self._drains:
            return
        kept = {action.identity for action in _asked(plan)} | {one.identity for one in plan.status.drains}
        self._drains[mine] = {arm: known for arm, known in self._drains[mine].items() if arm in kept}
        if not self._drains[mine]:
            del self._drains[mine]


def _asked(plan: Plan) -> list[DrainPods]:
    return [action for action in plan.actions if isinstance(action, DrainPods)]


def _works_in_two_places(parsed: ParsedRollout, identity: Identity) -> bool:
    """Whether the arm is one of a version with companions, or such a companion."""
    status = parsed.status
    lent, capacity = status.stable_scale, status.current.capacity if status.current is not None else None
    given = lent is not None and bool(lent.companions) and identity in {one.identity for one in lent.parts}
    pairs = capacity.companions if capacity is not None else ()
    arms = {arm.identity for arm in status.arms} | {arm for one in pairs for arm in (one.stable, one.canary)}
    owed = {arm for one in status.scale_downs if one.of is not None for arm in (one.identity, one.of)}
    return given or (bool(pairs) and identity in arms) or identity in owed


def _is_marked(one: LeavingPod, rollout: str, arm: _Arm) -> bool:
    """Whether requests are kept from a pod, and it goes before those that are to stay."""
    return marked_by(one.pod) == rollout and (not arm.has_costs or cost_of(one.pod) in (IDLE, BUSY))


def _is_settled(known: _Drain, one: LeavingPod, arm: _Arm, now: Monotonic) -> bool:
    """Whether the controller that deletes knows by now that this pod goes before those with work."""
    if not arm.has_costs or not one.serves:
        return True
    since = known.idle_since.get(uid_of(one.pod))
    return since is not None and now - since >= _SEEN
