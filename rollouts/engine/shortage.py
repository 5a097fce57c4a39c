"""Which pods a weight still lacks, where ``strategy.canary.capacity`` is set (design section 14): in words, for all.

Nothing is decided here about who is scaled: ``scaling`` does that, and what it has to wait for is said here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from rollouts.engine.attempt import AttemptCapacity, CompanionCapacity
from rollouts.engine.capacity import companion_pods, enough_surge, most_pods, pods_for, way_around
from rollouts.engine.companions import is_way_back, pairs, too_large
from rollouts.engine.draft import Draft
from rollouts.engine.observation import Blocker, NotControllable, WorkloadView
from rollouts.engine.parts import Part, carries, gives_pods, parts, room, stable_pods
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import Capacity
from rollouts.engine.versions import Identity
from rollouts.units import FULL, Weight, format_weight

__all__ = [
    "CAPACITY_REASONS",
    "PODS_TO_COME",
    "contended",
    "first_reach",
    "is_quick",
    "is_unknown",
    "making_room",
    "not_warmable",
    "not_whole",
    "restores_left",
    "scaler_of",
    "shortage",
    "uncontrolled",
    "undrained",
]

CAPACITY_REASONS = frozenset(
    {
        Reason.WAITING_FOR_PODS,
        Reason.CAPACITY_EXHAUSTED,
        Reason.CAPACITY_INFEASIBLE,
        Reason.CAPACITY_UNKNOWN,
        Reason.CAPACITY_MANAGED_ELSEWHERE,
        Reason.REPLICAS_CONTENDED,
        Reason.SCALE_REFUSED,
        Reason.DRAIN_NOT_CONTROLLABLE,
        Reason.WARM_UP_FAILED,
        Reason.WARM_UP_NOT_CONTROLLABLE,
        Reason.SERVICE_STARTING,
    }
)
"""Reasons of ``shortage``: pods are all that a target with one of them lacks."""

PODS_TO_COME = CAPACITY_REASONS - {
    Reason.CAPACITY_INFEASIBLE,
    Reason.CAPACITY_UNKNOWN,
    Reason.DRAIN_NOT_CONTROLLABLE,
    Reason.WARM_UP_NOT_CONTROLLABLE,
}
"""Those of a target that lacks pods and no edit: it is in line without them, and gets them when it may begin."""

RESTORE_LIMIT = 5
RESTORE_WINDOW = timedelta(minutes=10)
"""As often as weights are restored away from stable (``converging``)."""


def is_unknown(draft: Draft, canary: Identity) -> Blocker | None:
    """Why it is not known what the pods of an arm, or of its companions, come from: the canary's first."""
    found = pairs(draft, canary)
    if isinstance(found, Blocker):
        return found
    arms = [canary, draft.stable.identity]
    for pair in found:  # what stable had, and may be gone, keeps no way back
        arms += [pair.canary] if is_way_back(draft, canary) else [pair.canary, pair.stable]
    for arm in arms:
        view = draft.obs.workloads.get(arm)
        if view is None or view.problem is not None:
            default = Blocker(
                reason=Reason.CAPACITY_UNKNOWN, message=f"the pods of {arm.name} are not known yet"
            )
            return default if view is None else view.problem
    makers: dict[str, str] = {}
    for arm in arms:
        what = draft.obs.workloads[arm].what
        if what in makers:
            message = f"{what} makes the pods of {makers[what]} and of {arm.name}: give each its own"
            if makers[what] == arm.name:
                message = f"{arm.name} belongs to both versions: give each a pool of its own"
            return Blocker(reason=Reason.CAPACITY_UNKNOWN, message=message)
        makers[what] = arm.name
    return None


def not_whole(draft: Draft, canary: Identity, policy: Capacity) -> str | None:
    """Why the canary, or a companion of it, cannot come to 100 % within N + maxSurge; None when all can."""
    return too_large(draft, canary, stable_pods(draft), policy)


def restores_left(capacity: AttemptCapacity | CompanionCapacity, now: datetime) -> int:
    """How often replicas may be restored now."""
    return RESTORE_LIMIT - sum(now - at < RESTORE_WINDOW for at in capacity.restores)


def contended(capacity: AttemptCapacity | CompanionCapacity, view: WorkloadView, now: datetime) -> bool:
    """Whether somebody has lowered the replicas so often that theirs are kept for now."""
    return view.replicas < capacity.reached and restores_left(capacity, now) <= 0


def shortage(draft: Draft, canary: Identity, weight: Weight) -> Blocker | None:
    """Why the canary has not the pods that the weight needs; None when it has them, or nobody asks for capacity."""
    policy = draft.spec.canary.capacity
    if policy is None:
        return None
    needs, current = list(_needs(draft, policy, canary, weight)), draft.status.current
    lacking = next((one for one in needs if draft.obs.ready(one[0].identity) < one[1]), None)
    # A way back that alone can serve waits for nobody to say what belongs to it.
    alone = is_quick(draft) and not draft.obs.ready(draft.stable.identity)
    known = alone or not isinstance(pairs(draft, canary), Blocker)
    goes_on = current is not None and (is_quick(draft) or current.started_at is not None)
    if known and lacking is None and goes_on:
        return None  # whatever makes them, and however many more there could not be
    unknown = is_unknown(draft, canary)
    if unknown is not None:
        return unknown
    wrong = None if is_quick(draft) else not_whole(draft, canary, policy)
    if wrong is not None:
        return Blocker(reason=Reason.CAPACITY_INFEASIBLE, message=wrong)
    if (bound := uncontrolled(draft, policy, canary) or not_warmable(draft, canary)) is not None:
        return bound
    if lacking is None:
        return None
    part, needed = lacking
    name, ready = part.identity.name, draft.obs.ready(part.identity)
    what = f"weight {format_weight(weight)} needs {needed} Ready pods of {name}, {ready} are"
    return _missing(draft, part, needed, what)


def _needs(draft: Draft, policy: Capacity, canary: Identity, weight: Weight) -> Iterator[tuple[Part, int]]:
    """Each workload of the canary, and the Ready pods that the weight needs of it."""
    own, *companions = parts(draft, canary)
    needed = _needed(draft, policy, canary, weight)
    yield own, needed
    gives = gives_pods(draft, canary, policy)
    for part in companions:
        beside = companion_pods(needed, part.stable, own.stable)
        # A walk in moves takes what each kind of pods carries: whole ones of one may have no room beside the other.
        yield part, min(beside, part.least(first_reach(draft, canary, weight), policy)) if gives else beside


def making_room(draft: Draft, asked: Weight) -> tuple[Reason, str, bool]:
    """What the next rise within a step waits for, and whether that are requests that pods of stable still answer."""
    policy, capacity = draft.spec.canary.capacity, draft.current.capacity
    assert policy is not None
    assert capacity is not None
    stable, canary = draft.stable.identity, draft.current.canary.identity
    there = parts(draft, canary)
    last = min(there, key=lambda part: carries(draft, part, policy))
    ready = draft.obs.ready(last.identity)
    what = f"{format_weight(capacity.ceiling)} is what {ready} Ready pods of {last.identity.name} carry"
    if who := scaler_of(draft, there):
        who = _kept_whole(draft, policy, there) or who
        why = f"{stable.name} keeps its pods, minStable is not ours to keep, while {who}"
        return Reason.CAPACITY_MANAGED_ELSEWHERE, f"{what}; {why}", False
    bound = is_unknown(draft, canary) or uncontrolled(draft, policy, canary)
    if bound is not None:
        return bound.reason, f"{what}; {bound.message}", False
    drains = {one.identity: one for one in draft.obs.status.drains}
    if (drain := drains.get(last.lends)) is not None:
        return Reason.MAKING_ROOM, f"{what}; {drain.message}", True
    needed, view = last.needed(asked, policy), draft.obs.workloads[last.identity]
    coming = view.replicas - ready
    if coming > 0:
        pending = (
            f": {view.pending} Pending, {view.words or 'no node is said to fit'}" if view.pending else ""
        )
        return (
            Reason.MAKING_ROOM,
            f"{what}, and {format_weight(asked)} needs {needed}; waiting for {coming}{pending or _warming(view)}",
            False,
        )
    return (
        Reason.MAKING_ROOM,
        f"{what}, and {format_weight(asked)} needs {needed}; {_full(draft, last)}",
        False,
    )


def is_quick(draft: Draft) -> bool:
    """A way back by the rollback window, or ``promote --full``: takes the pods that it can get."""
    return draft.status.current is not None and draft.status.current.skip_gates


def _needed(draft: Draft, policy: Capacity, canary: Identity, weight: Weight) -> int:
    """Ready pods for a weight; the fewest that may be where a way back is all that could serve."""
    if weight and is_quick(draft) and not draft.obs.ready(draft.stable.identity):
        return policy.min_replicas
    return pods_for(first_reach(draft, canary, weight), stable_pods(draft), policy)


def first_reach(draft: Draft, canary: Identity, weight: Weight) -> Weight:
    """The weight that an attempt can begin with: what fits beside all of stable's pods carries it."""
    policy = draft.spec.canary.capacity
    if policy is None or draft.status.started_at is not None:
        return weight
    for part in parts(draft, canary):
        most = most_pods(part.stable, policy)
        if most is not None and part.needs_room(weight, policy):
            weight = min(weight, max(part.carried(most - part.stable, policy), Weight(1)))
    return weight


def uncontrolled(draft: Draft, policy: Capacity, canary: Identity) -> Blocker | None:
    """Why stable cannot give the pods that the plan needs while it serves; None where it can, or need not."""
    there, started = parts(draft, canary), draft.status.started_at is not None
    begins = not (started or is_quick(draft) or _is_taken_over(draft))
    if begins and (who := _kept_whole(draft, policy, there)):
        name = _still_giving(draft, policy, there)[0].lends.name
        message = f"the plan takes pods from {name} while it serves, and it gives none while {who}"
        return Blocker(reason=Reason.CAPACITY_INFEASIBLE, message=message)
    giving = [part for part in there if part.needs_room(FULL, policy)]
    if not giving or any(_view(draft, part.lends).managed_by for part in _scaled(there)):
        return None
    bound = [part for part in giving if undrained(draft, part.lends) or undrained(draft, part.identity)]
    enough = [part.needed(FULL, policy) if part in bound else _enough(part, policy) for part in there]
    way_out = f"set maxSurge to {max(enough)}"
    for part in giving:
        if why := undrained(draft, part.lends):
            message = (
                f"the plan takes pods from {part.lends.name} while it serves, and they cannot be drained: {why}; "
                f"{way_out}, so that stable keeps all of its pods"
            )
            return Blocker(reason=Reason.DRAIN_NOT_CONTROLLABLE, message=message)
    for part in () if started else giving:  # the same of it later makes an abort immediate (``returning``)
        if why := undrained(draft, part.identity):
            message = (
                f"an abort would take pods from {part.identity.name} while it serves, and they cannot be drained: "
                f"{why}; {way_out}, so that stable keeps all of its pods"
            )
            return Blocker(reason=Reason.DRAIN_NOT_CONTROLLABLE, message=message)
    return None


def scaler_of(draft: Draft, there: Sequence[Part]) -> str:
    """Who else scales a workload of a version, so that stable gives pods of no kind; empty where nobody does."""
    arms = (arm for part in _scaled(there) for arm in (part.lends, part.identity))
    views = (_view(draft, arm) for arm in arms)
    return next((f"{view.managed_by} scales {view.what}" for view in views if view.managed_by), "")


def _kept_whole(draft: Draft, policy: Capacity, there: Sequence[Part]) -> str:
    """Why stable keeps pods that the plan needs, and what to do; empty where it gives them, or need not.

    Where all that is to give some is scaled by somebody else, that may make the room.
    """
    who = scaler_of(draft, there)
    giving = _still_giving(draft, policy, there)
    if not who or all(_view(draft, part.lends).managed_by for part in giving):
        return ""
    return f"{who}: {way_around(part.needed(FULL, policy) for part in there)}"


def _still_giving(draft: Draft, policy: Capacity, there: Sequence[Part]) -> list[Part]:
    """The kinds of which stable has to give some: not one of which the canary has all of its pods Ready already."""
    return [
        part
        for part in there
        if part.needs_room(FULL, policy) and draft.obs.ready(part.identity) < part.needed(FULL, policy)
    ]


def _scaled(there: Sequence[Part]) -> list[Part]:
    """Without companions of which stable has no pods: the canary gets none of those, whoever scales them."""
    return [part for part in there if part.stable or part.role is None]


def _is_taken_over(draft: Draft) -> bool:
    """Whether the canary serves users already, by a split that was found: waiting would only keep gates from it."""
    return draft.status.current is not None and draft.status.current.adopted_split


def _enough(part: Part, policy: Capacity) -> int:
    """The least maxSurge, in pods, with which stable can give those of one kind."""
    needed = part.needed(FULL, policy)
    first = policy.min_replicas if part.role is None else min(needed, 1)
    return enough_surge(needed, first, part.stable, policy)


def _view(draft: Draft, arm: Identity) -> WorkloadView:
    return draft.obs.workloads.get(arm, WorkloadView())


def undrained(draft: Draft, arm: Identity) -> str:
    """Why requests cannot be kept from single pods of an arm; empty where they can."""
    view, traffic = draft.obs.workloads.get(arm, WorkloadView()), draft.obs.traffic
    if view.used_by:
        return f"{view.used_by} sends requests to it as well"
    if traffic is not None and arm.arm in traffic.pins:
        return f"a rule of the template of {traffic.kind} {traffic.name} sends requests to it whatever its weight"
    return view.drain.why if isinstance(view.drain, NotControllable) else ""


def not_warmable(draft: Draft, canary: Identity) -> Blocker | None:
    """Why users' requests cannot be kept from pods that are not warm yet; None where they can, or nobody asks.

    Of an attempt that has begun nothing is said: a picker that cannot be asked for a moment opens no cold pod.
    """
    policy = draft.spec.canary.capacity
    if policy is None or policy.warm_up is None or draft.status.started_at is not None:
        return None
    why = undrained(draft, canary)
    message = (
        f"warmUp keeps requests from pods of {canary.name} until they are warm, and they cannot be kept from single "
        f"ones: {why}; leave warmUp out, or use the picker of this project"
    )
    return Blocker(reason=Reason.WARM_UP_NOT_CONTROLLABLE, message=message) if why else None


def _warming(view: WorkloadView) -> str:
    """``: 2 warm up``, with what keeps them from it; empty where none does."""
    if not view.warming:
        return ""
    waiting = (
        f"{view.warm_waiting} of them {'waits for its' if view.warm_waiting == 1 else 'wait for their'} turn"
    )
    told = (waiting if view.warm_waiting else "", view.warm_problem)
    return ", ".join((f": {view.warming} warm up", *filter(None, told)))


def _missing(draft: Draft, part: Part, needed: int, what: str) -> Blocker:
    view = draft.obs.workloads[part.identity]
    if view.managed_by and view.replicas < needed:
        why = f"{view.managed_by} scales {view.what}, which has {view.replicas} replicas: {_raise_by(view)}"
        return Blocker(reason=Reason.CAPACITY_MANAGED_ELSEWHERE, message=f"{what}; {why}")
    if view.refused and view.replicas < needed:
        why = f"the API server refuses to scale {view.what}: {view.refused}"
        return Blocker(reason=Reason.SCALE_REFUSED, message=f"{what}; {why}")
    if part.record is not None and contended(part.record, view, draft.now):
        why = (
            f"somebody lowered the replicas of {view.what} {RESTORE_LIMIT} times in 10 minutes; they stay: "
            "leave replicas out of what is applied"
        )
        return Blocker(reason=Reason.REPLICAS_CONTENDED, message=f"{what}; {why}")
    if room(draft, part, needed) < needed and view.replicas < needed:
        return Blocker(reason=Reason.CAPACITY_EXHAUSTED, message=f"{what}; {_full(draft, part)}")
    pending = f": {view.pending} Pending, {view.words or 'no node is said to fit'}" if view.pending else ""
    failed = bool(view.warming and view.warm_problem) and not pending
    return Blocker(
        reason=Reason.WARM_UP_FAILED if failed else Reason.WAITING_FOR_PODS,
        message=f"{what}; waiting for {needed - draft.obs.ready(part.identity)}{pending or _warming(view)}",
    )


def _raise_by(view: WorkloadView) -> str:
    return (
        "raise its minimum"
        if view.replicas
        else "scale it to its minimum once; an autoscaler does nothing at 0"
    )


def _full(draft: Draft, part: Part) -> str:
    policy = draft.spec.canary.capacity
    assert policy is not None
    taken = [
        f"{draft.obs.workloads[arm].pods} of {arm.name}" for arm in part.beside if arm in draft.obs.workloads
    ]
    most = most_pods(part.stable, policy)
    return f"{' and '.join(taken)} leave no room within the {most} that maxSurge allows"
