"""First install, new targets, and what an attempt waits for before it starts (design rules 2, 3, 7, 10)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from rollouts.engine.attempt import Attempt
from rollouts.engine.carrying import settling
from rollouts.engine.converging import converge, no_rules
from rollouts.engine.crashes import crashes_at_start
from rollouts.engine.dependencies import waits_for_dependencies
from rollouts.engine.draft import Draft, Said
from rollouts.engine.freezes import waits_for_thaw
from rollouts.engine.headroom import for_way_back
from rollouts.engine.moving import twin
from rollouts.engine.observation import Blocker, PoolView, RuleView
from rollouts.engine.reasons import Reason
from rollouts.engine.returning import pods_missed, whole
from rollouts.engine.revision import revision_of
from rollouts.engine.rollout_spec import HttpRouteTraffic, TrafficMode
from rollouts.engine.rollout_status import HoldReason, Outcome, Phase, SettledBy, WaitingFor, WeightStatus
from rollouts.engine.serving import content_blocker, strangers, unserved
from rollouts.engine.shortage import PODS_TO_COME, first_reach, shortage
from rollouts.engine.steps import first_weight, required_endpoints, steps_hash
from rollouts.engine.stopping import not_started, with_refusal
from rollouts.engine.transitions import Trigger
from rollouts.engine.turns import waits_for_turn
from rollouts.engine.unmatched import served_instead, waits_for_unmatched
from rollouts.engine.variants import hinted_variant
from rollouts.engine.versions import VARIANT_KIND, Identity, Revision
from rollouts.engine.wayback import record_way
from rollouts.engine.windows import waits_for_window
from rollouts.units import FULL, ZERO

__all__ = [
    "complete_split",
    "first_install",
    "new_attempt",
    "nobody_serves",
    "serve_stable",
    "start_attempt",
    "start_blocker",
    "wait_for_target",
]


_ASKED = timedelta(seconds=5)
"""How soon a variant's pods and its picker, which are asked in the background, are looked at again."""


@dataclass(frozen=True, slots=True)
class _Arms:
    """Live arms that carry weight, heaviest first, over all rules."""

    heaviest: Identity | None
    tied: tuple[Identity, ...]
    carrying: tuple[Identity, ...]
    disagree: bool


def _live_arms(rules: tuple[RuleView, ...]) -> _Arms:
    carrying: dict[Identity, None] = {}
    tops: set[tuple[Identity, ...]] = set()
    for rule in rules:
        loads: Mapping[Identity, int] = {arm: weight for arm, weight in rule.entries.items() if weight > 0}
        carrying.update(dict.fromkeys(loads))
        if loads:
            most = max(loads.values())
            tops.add(tuple(sorted(arm for arm, weight in loads.items() if weight == most)))
    if not tops:
        return _Arms(None, (), tuple(carrying), False)
    first = min(tops)
    tied = first if len(first) > 1 else ()
    return _Arms(None if tied else first[0], tied, tuple(carrying), len(tops) > 1)


def first_install(draft: Draft, target: Identity) -> None:
    """Read who is stable from live traffic; ``stableHint`` counts only where there is none, or a tie."""
    traffic = draft.obs.traffic
    wanted = revision_of(target, draft.spec.target.revision)
    if traffic is None or (not traffic.exists and traffic.mode is TrafficMode.ADOPTED):
        message = (
            f"{traffic.kind} {traffic.name} does not exist: add it to Git"
            if traffic is not None
            else _unserved_kind(draft)
        )
        draft.traffic_problem = (Reason.ROUTE_MISSING, message)
        draft.move(Phase.WAITING, Trigger.TRAFFIC_MISSING, Reason.ROUTE_MISSING, message)
        return
    if traffic.mode is TrafficMode.ADOPTED and not traffic.rules:
        draft.traffic_problem = (Reason.NO_RULES, no_rules(traffic))
        draft.move(Phase.WAITING, Trigger.TRAFFIC_MISSING, Reason.NO_RULES, no_rules(traffic))
        return
    arms = _live_arms(traffic.rules if traffic.exists else ())
    if arms.disagree:
        message = (
            f"the rules of {traffic.kind} {traffic.name} disagree on which version is stable: "
            "make their weights agree, or choose rules with ruleNames"
        )
        draft.move(Phase.INVALID, Trigger.SPEC_INVALID, Reason.RULES_DISAGREE, message)
        return
    heaviest = arms.heaviest or _hinted(draft, arms, target)
    if heaviest is None:
        names = ", ".join(arm.name for arm in arms.tied)
        message = (
            f"{names} carry the same weight: set stableHint to the one that is stable; nothing is written"
        )
        draft.set(hold=HoldReason.AMBIGUOUS_START, hold_message=message)
        draft.move(Phase.PAUSED, Trigger.SPLIT_AT_START, Reason.AMBIGUOUS_START, message)
        return
    draft.set(traffic_uid=traffic.uid)
    if heaviest == target.arm:
        _first_stable(draft, wanted, arms)
        return
    if waits_for_unmatched(draft, revision_of(heaviest, "")):
        return
    if draft.strategy_problem is not None:
        _await_strategy(draft, draft.strategy_problem)
        return
    draft.set(stable=revision_of(heaviest, ""))
    start_attempt(draft, wanted, split=target.arm in arms.carrying)


def _unserved_kind(draft: Draft) -> str:
    option = draft.obs.unwatched
    if option:
        return (
            f"the controller does not watch the kind of the traffic object: start it with --{option}, "
            f"which the chart's {option}: true does"
        )
    return "the kind of the traffic object is not served: install its CRD"


def _hinted(draft: Draft, arms: _Arms, target: Identity) -> Identity | None:
    hint = draft.spec.stable_hint
    if arms.tied:
        return next((arm for arm in arms.tied if arm.name == hint), None)
    if target.kind == VARIANT_KIND:
        return hinted_variant(hint) or target.arm
    if hint and hint != target.name:
        return Identity(kind=target.kind, group=target.group, name=hint)
    return target.arm


def _first_stable(draft: Draft, wanted: Revision, arms: _Arms) -> None:
    blocker = unserved(draft, wanted.identity)
    if blocker is not None:
        draft.target_problem = (blocker.reason, blocker.message)
        message = f"{wanted.label} cannot be called stable: {blocker.message}"
        draft.move(Phase.WAITING, Trigger.NEW_TARGET, blocker.reason, message)
        return
    if waits_for_unmatched(draft, wanted):
        return
    draft.set(stable=wanted)
    others = tuple(arm for arm in arms.carrying if arm != wanted.identity.arm)
    if others:
        names = ", ".join(arm.name for arm in others)
        message = (
            f"{wanted.identity.name} is the heaviest arm, but {names} carries weight; nothing is written: "
            f"`rollouts promote {draft.obs.name}` gives all of it to {wanted.identity.name}"
        )
        draft.set(hold=HoldReason.SPLIT_AT_START, hold_message=message)
        draft.move(Phase.PAUSED, Trigger.SPLIT_AT_START, Reason.SPLIT_AT_START, message)
        return
    serve_stable(draft, Reason.INITIALIZED, f"{wanted.label} is stable", SettledBy.INITIALIZED)


def complete_split(draft: Draft) -> None:
    """``promote`` of a hold at first sight: the other arms become ours to set to 0, unmatched pods are left alone."""
    stable, traffic = draft.stable, draft.obs.traffic
    others = _live_arms(traffic.rules).carrying if traffic is not None else ()
    for arm in others:
        if arm != stable.identity.arm:
            draft.record(revision_of(arm, ""), Outcome.SUPERSEDED, "carried weight at first sight")
    draft.release()


def serve_stable(draft: Draft, reason: Reason, message: str, settled_by: SettledBy | None = None) -> None:
    """Healthy: the target is stable and has all traffic, or is being given it. Not while it cannot serve."""
    draft.set(weight=replace(draft.status.weight, desired=FULL, observed=None))
    converge(draft)
    problem = nobody_serves(draft) or draft.traffic_problem
    if problem is not None:
        draft.move(Phase.WAITING, Trigger.NOT_SERVING, *problem)
    else:
        draft.move(Phase.HEALTHY, Trigger.TARGET_IS_STABLE, reason, message, settled_by=settled_by)


def nobody_serves(draft: Draft) -> Said | None:
    """Reason and message when no version that has traffic can answer; None while one can, or none is known."""
    stable, canary = draft.status.stable, draft.status.canary
    if stable is None:
        return None
    name, view = stable.identity.name, draft.obs.pools.get(stable.identity)
    cut_off = view is not None and view.path.picker_down
    if draft.obs.ready(stable.identity) > 0 and not cut_off:
        return None
    if canary is not None and draft.status.weight.applied and _answers(draft, canary.identity):
        return None
    if draft.obs.ready(stable.identity) > 0:
        return Reason.STABLE_PICKER_NOT_READY, (
            f"THE ENDPOINT PICKER OF STABLE {name} HAS NO READY POD: NOBODY SERVES until it has one"
        )
    if view is not None and view.mismatched:
        why = strangers(stable.identity, view)
        return (
            Reason.ADAPTER_CONTENT_MISMATCH,
            f"NO READY POD SERVES STABLE {stable.label} FROM {stable.identity.source}: {why}",
        )
    if not draft.obs.exists(stable.identity):
        return (
            Reason.STABLE_POOL_MISSING,
            f"STABLE {name} DOES NOT EXIST: NOBODY SERVES; {_way_out(draft, view)}",
        )
    if view is not None and view.troubles:
        why = view.troubles[0].message
        return (
            Reason.STABLE_NOT_READY,
            f"STABLE {name} GETS NO REQUESTS: {why}{not_started(draft, stable.identity)}",
        )
    who = served_instead(draft) or "NOBODY SERVES until it has one"
    return (
        Reason.STABLE_NOT_READY,
        f"STABLE {name} HAS NO READY ENDPOINT: {who}{not_started(draft, stable.identity)}",
    )


def _way_out(draft: Draft, view: PoolView | None) -> str:
    if view is None or not view.twin:
        return "bring it back"
    spec, traffic = draft.obs.spec, draft.obs.traffic
    managed = spec is not None and traffic is not None and traffic.mode is TrafficMode.MANAGED
    what = f"set target.pool.group to {view.twin}" if managed else "list that one in every rule of the route"
    return f"bring it back, or follow it to {view.twin}, which has a pool of its name: {what}"


def _answers(draft: Draft, arm: Identity) -> bool:
    view = draft.obs.pools.get(arm)
    return view is not None and view.ready_endpoints > 0 and not view.path.picker_down


def _await_strategy(draft: Draft, problem: Blocker) -> None:
    """No attempt begins, and no weight moves: how it would proceed is not known."""
    draft.target_problem = (problem.reason, problem.message)
    draft.move(Phase.WAITING, Trigger.NEW_TARGET, problem.reason, problem.message)


def start_attempt(
    draft: Draft, wanted: Revision, *, split: bool = False, trigger: Trigger = Trigger.NEW_TARGET
) -> None:
    """A new attempt at ``wanted``: WaitingForTarget first, then step 0 or the rollback window's shortcut."""
    if draft.strategy_problem is not None:
        _await_strategy(draft, draft.strategy_problem)
        converge(draft, may_raise=False)
        return
    new_attempt(draft, wanted, adopted_split=split, skip_gates=_recently_stable(draft, wanted))
    weight = None if split else ZERO
    draft.set(weight=WeightStatus(desired=weight, applied=weight))
    record_way(draft, wanted.identity.arm)
    if draft.spec.paused:
        message = "spec.paused holds the start: set it to false to go on"
        draft.move(Phase.WAITING, trigger, Reason.PAUSED_BY_SPEC, message, waiting_for=WaitingFor.SPEC)
        converge(draft, may_raise=False)
        return
    wait_for_target(draft, trigger)


def new_attempt(
    draft: Draft, canary: Revision, *, adopted_split: bool = False, skip_gates: bool = False
) -> None:
    """Count an attempt and put it in the place of what was there; nothing of that is left.

    It goes by the shared strategy as it is now, which is stored with it (design section 18.8).
    """
    draft.release()
    view = draft.obs.strategy
    if view is not None and view.spec is not None:
        draft.obs = for_way_back(replace(draft.obs, spec=view.spec), draft.now)
    pinned = view.next if view is not None else None
    draft.set(
        attempt=draft.status.attempt + 1,
        current=Attempt(canary=canary, strategy=pinned, adopted_split=adopted_split, skip_gates=skip_gates),
    )
    _take_steps(draft)


def _take_steps(draft: Draft) -> None:
    draft.set(step_count=len(draft.spec.canary.steps))
    draft.set_current(steps_hash=steps_hash(draft.spec.canary.steps))


def _recently_stable(draft: Draft, wanted: Revision) -> bool:
    return draft.status.was_stable(wanted.identity, draft.spec.rollback_window, draft.now)


def wait_for_target(draft: Draft, trigger: Trigger = Trigger.NEW_TARGET) -> None:
    """Stay until the target can take its first weight; then start the step's clock."""
    canary, unheard = draft.current.canary, settling(draft)
    blocker = start_blocker(draft, canary) or unheard
    if (blocker is None or blocker.reason in PODS_TO_COME) and _waits_for_others(draft, trigger, blocker):
        return
    if blocker is not None:
        draft.target_problem = (blocker.reason, blocker.message)
        draft.move(Phase.WAITING, trigger, blocker.reason, f"{canary.label} waits: {blocker.message}")
        converge(draft, may_raise=False)
        return
    converge(draft, may_raise=False)  # brings what else the object says up to date
    record_way(draft, canary.identity.arm)
    canary_crashes, stable_crashes = crashes_at_start(draft)
    draft.set_current(
        canary_crashes=canary_crashes,
        stable_crashes=stable_crashes,
        started_at=draft.now,
        stable_endpoints_at_start=draft.obs.ready(draft.stable.identity),
    )
    _take_steps(draft)
    quick = draft.current.skip_gates
    draft.enter_step(len(draft.spec.canary.steps) if quick else 0)
    skipped = " (was stable within the rollback window: steps skipped)" if quick else ""
    draft.move(
        Phase.PROGRESSING,
        Trigger.TARGET_READY,
        Reason.STARTED,
        f"attempt {draft.status.attempt} of {canary.label} started{skipped}",
    )


def _waits_for_others(draft: Draft, trigger: Trigger, lacking: Blocker | None) -> bool:
    """Wait for what no target can do anything about; pods that it lacks are made when that is over."""
    for late, what in (
        (waits_for_thaw, WaitingFor.FREEZE),
        (waits_for_dependencies, WaitingFor.DEPENDENCY),
        (waits_for_turn, WaitingFor.TURN),
        (waits_for_window, WaitingFor.WINDOW),
    ):
        said = late(draft) if what is not WaitingFor.WINDOW or lacking is not None else None
        if said is not None:
            label = draft.current.canary.label
            draft.move(Phase.WAITING, trigger, said[0], f"{label} waits: {said[1]}", waiting_for=what)
            converge(draft, may_raise=False)
            return True
    return False


def start_blocker(draft: Draft, canary: Revision) -> Blocker | None:
    """What a target still lacks before it may take its first weight; None when it lacks nothing."""
    obs, identity = draft.obs, canary.identity
    pool = obs.pools.get(identity)
    if pool is None or not pool.exists:
        if pool is not None and pool.blockers:
            return pool.blockers[0]
        return Blocker(
            reason=Reason.POOL_MISSING,
            message=f"{identity.kind} {identity.name} does not exist: create it, the rollout then starts",
        )
    if identity.kind == VARIANT_KIND and (pool.blockers or pool.path.problems):
        draft.wake(_ASKED)
    for blocker in (*pool.blockers, *pool.path.problems, *obs.blockers):
        return with_refusal(draft, identity, blocker)
    missing = content_blocker(draft, identity) or _unlisted(draft, identity)
    if missing is not None:
        return missing
    lent = draft.status.stable_scale
    if lent is not None:
        ready, name = obs.ready(lent.identity), lent.identity.name
        why = pods_missed(draft, lent)
        message = f"{name} gets the pods back that it gave: {ready} of {whole(lent)} are Ready"
        for part in lent.companions:
            message += f", {obs.ready(part.identity)} of {whole(part)} of {part.identity.name}"
        message += f"; {why}" if why else ""
        return Blocker(reason=Reason.CAPACITY_EXHAUSTED, message=message)
    quick = draft.status.current is not None and draft.status.current.skip_gates
    asked = first_reach(draft, identity, FULL if quick else first_weight(draft.spec.canary.steps))
    short = shortage(draft, identity, asked)
    if short is not None:
        return short
    needed = required_endpoints(
        asked,
        obs.ready(draft.stable.identity),
        draft.spec.canary.endpoint_ratio,
    )
    if pool.ready_endpoints < needed:
        return Blocker(
            reason=Reason.TARGET_NOT_READY,
            message=(
                f"{identity.name} has {pool.ready_endpoints} Ready endpoints, "
                f"the first weight needs {needed}: scale it up, or wait"
            ),
        )
    return None


def _unlisted(draft: Draft, identity: Identity) -> Blocker | None:
    """Adopted HTTPRoute: Git has to list the new pool, unless we may add it."""
    traffic, spec = draft.obs.traffic, draft.spec.traffic
    if traffic is None or not traffic.exists:
        if traffic is not None and traffic.mode is TrafficMode.MANAGED:
            return None
        return Blocker(
            reason=Reason.ROUTE_MISSING, message="the traffic object does not exist: add it to Git"
        )
    if not isinstance(spec, HttpRouteTraffic) or spec.mode is TrafficMode.MANAGED or spec.add_backend:
        return None
    for rule in traffic.rules:
        other = twin(identity.arm, rule.entries)
        if other is not None:
            return Blocker(
                reason=Reason.BACKEND_MISSING,
                message=(
                    f"rule {rule.name} of HTTPRoute {traffic.name} lists {identity.name} in {other.group}, and "
                    f"{identity.group} was asked for: list it in the same group in every rule, and leave "
                    "target.pool.group out or set it to that"
                ),
            )
        if identity.arm not in rule.entries:
            whole = [other.name for other in traffic.rules if identity.arm in other.entries]
            named = ", ".join(name for name in whole if not name.isdigit())  # without a name it is an index
            chosen = f", or choose the other rules: ruleNames: [{named}]" if named else ""
            return Blocker(
                reason=Reason.BACKEND_MISSING,
                message=(
                    f"rule {rule.name} of HTTPRoute {traffic.name} does not list the pool; add this to its "
                    "backendRefs in Git: "
                    f"{{group: {identity.group}, kind: InferencePool, name: {identity.name}, weight: 0}} "
                    f"(with the port of its neighbour), or set addBackend{chosen}"
                ),
            )
    return None
