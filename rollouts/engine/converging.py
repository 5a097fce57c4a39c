"""Traffic: what the status asks for, what the live object says, and the one write between them.

Rules kept here (design rules 3, 6, 9, 11):

- Weight rises only after the step that asks for it is stored in status, and only while the canary has the
  endpoints that the weight needs.
- Weight never moves to a stable version without Ready endpoints.
- A foreign write that lowers the canary is obeyed, unless a GitOps tool made it; other foreign writes are
  restored: towards stable without limit, away from it five times in ten minutes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import timedelta
from fractions import Fraction

from rollouts.engine.actions import (
    DesiredTraffic,
    EventType,
    ExcludeInterval,
    SetFinalizer,
    WriteReason,
    WriteTraffic,
)
from rollouts.engine.carrying import path_problem
from rollouts.engine.draft import Draft
from rollouts.engine.naming import background_run
from rollouts.engine.obeying import goes_by_other
from rollouts.engine.observation import Claim, Observation, RuleView, TrafficView
from rollouts.engine.probing import probe_open, probe_routes
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import (
    AdapterTraffic,
    HeaderRouteStep,
    HttpRouteTraffic,
    OnDelete,
    RolloutSpec,
    TrafficMode,
    VariantTraffic,
)
from rollouts.engine.rollout_status import HoldReason, RolloutStatus
from rollouts.engine.shortage import shortage
from rollouts.engine.steps import header_routes_at, required_endpoints, weight_at
from rollouts.engine.versions import Identity
from rollouts.engine.wayback import given_by_others, is_recorded, keeps_some, live_shares, record_way, unable
from rollouts.units import FULL, ZERO, Weight, format_weight

__all__ = [
    "FROZEN",
    "asked_weight",
    "converge",
    "desired_traffic",
    "keep_split",
    "no_rules",
    "retired_arms",
    "rule_share",
    "show_live",
    "step_weight",
]

_ASKED = timedelta(seconds=5)
"""How soon what keeps a rise back is looked at again: no watch tells of a picker, which is asked in the background."""
RESTORE_LIMIT = 5
RESTORE_WINDOW = timedelta(minutes=10)

_AT_FIRST_SIGHT = (HoldReason.SPLIT_AT_START, HoldReason.AMBIGUOUS_START, HoldReason.UNMATCHED_PODS)
"""Holds in which nothing is written: a person says first which version is stable."""

FROZEN = (HoldReason.MANUAL_OVERRIDE, HoldReason.CONTENDED)
"""Holds at a weight that somebody else wrote."""


# --- what the status asks for ----------------------------------------------------------------------


def step_weight(status: RolloutStatus, spec: RolloutSpec) -> Weight:
    """The canary weight of the current step, after caps, ceilings, pulls and overrides."""
    asked = asked_weight(status, spec)
    pods = status.current.capacity if status.current is not None else None
    return asked if pods is None or pods.ceiling is None else min(asked, pods.ceiling)


def asked_weight(status: RolloutStatus, spec: RolloutSpec) -> Weight:
    """The same, however many pods there are for it yet."""
    current = status.running
    if current is None or current.pulled or probe_open(current):
        return ZERO
    if status.hold in FROZEN:
        return status.weight.desired or ZERO
    weight = FULL if current.skip_gates else weight_at(spec.canary.steps, current.current_step)
    return min(cap for cap in (weight, current.weight_cap, current.path.ceiling) if cap is not None)


def retired_arms(obs: Observation, status: RolloutStatus) -> tuple[Identity, ...]:
    """Arms of the past that are ours to keep at 0 or take out, oldest first, without the present ones."""
    present = {revision.identity.arm for revision in status.arms}
    past = (entry.revision.identity.arm for entry in status.history)
    return tuple(dict.fromkeys(arm for arm in past if arm not in present))


def _in_rollback_window(draft: Draft, arm: Identity) -> bool:
    window = draft.spec.rollback_window
    for entry in draft.status.history:
        until = entry.stable_until
        if entry.revision.identity.arm == arm and until is not None and draft.now < until + window:
            draft.wake_at(until + window)
            return True
    return False


def desired_traffic(draft: Draft, status: RolloutStatus) -> DesiredTraffic | None:
    """What the traffic object should say under ``status``. None: leave it alone."""
    if status.stable is None or status.hold in _AT_FIRST_SIGHT:
        return None
    current = status.current
    if current is not None and current.started_at is None and current.adopted_split:
        # Taken over with traffic on both arms: the first write is the first step's weight.
        return None
    keep: list[Identity] = []
    drop: list[Identity] = []
    for arm in retired_arms(draft.obs, status):
        usable = draft.obs.exists(arm) and _in_rollback_window(draft, arm)
        (keep if usable else drop).append(arm)
    drop += _intruders(draft, {arm.identity.arm for arm in status.arms}.union(keep, drop))
    running, routes = status.running, list[HeaderRouteStep]()
    if running is not None and not running.pulled:
        steps = () if running.skip_gates else draft.spec.canary.steps
        routes += (*header_routes_at(steps, running.current_step), *probe_routes(running))
    return DesiredTraffic(
        stable=status.stable.identity.arm,
        canary=current.canary.identity.arm if current is not None else None,
        weight=step_weight(status, draft.spec),
        keep=tuple(keep),
        drop=tuple(drop),
        header_routes=tuple(routes),
    )


def _intruders(draft: Draft, known: Collection[Identity]) -> list[Identity]:
    """Variants that somebody else listed: a PoolSplit is ours whole, so what they get is no foreign share."""
    spec, traffic = draft.obs.spec, draft.obs.traffic
    if traffic is None or spec is None or not isinstance(spec.traffic, VariantTraffic):
        return []
    return [arm for rule in traffic.rules for arm in rule.entries if arm not in known]


# --- what the live object says ---------------------------------------------------------------------


def _joint(rule: RuleView, desired: DesiredTraffic) -> tuple[int, int, int]:
    stable = rule.entries.get(desired.stable, 0)
    canary = rule.entries.get(desired.canary, 0) if desired.canary is not None else 0
    retired = sum(rule.entries.get(arm, 0) for arm in (*desired.keep, *desired.drop))
    return stable, canary, retired


def rule_share(rule: RuleView, desired: DesiredTraffic) -> Weight | None:
    """The canary's share of the joint weight, rounded to a hundredth of a percent; None when that is 0."""
    stable, canary, retired = _joint(rule, desired)
    joint = stable + canary + retired
    if joint == 0:
        return None
    share = Weight(round(Fraction(canary, joint) * FULL))
    # Rounding must not call a trickle nothing, or nearly everything all.
    if canary and share == ZERO:
        return Weight(1)
    if canary != joint and share == FULL:
        return Weight(FULL - 1)
    return share


def _matches(rule: RuleView, desired: DesiredTraffic, *, may_list: bool) -> bool:
    """Whether a rule says what is desired. ``may_list``: arms to drop may stay listed at 0."""
    _, _, retired = _joint(rule, desired)
    if rule_share(rule, desired) != desired.weight or retired:
        return False
    return may_list or not any(arm in rule.entries for arm in desired.drop)


def _same(live: Iterable[object], wanted: Iterable[object]) -> bool:
    return sorted(map(repr, live)) == sorted(map(repr, wanted))


def _settled(traffic: TrafficView, desired: DesiredTraffic, *, may_list: bool) -> bool:
    return (
        bool(traffic.rules)
        and all(_matches(rule, desired, may_list=may_list) for rule in traffic.rules)
        and traffic.structure_current
        and (traffic.claim is Claim.OURS or traffic.mode is TrafficMode.ADOPTED)
        and _same(traffic.header_routes, desired.header_routes)
    )


# --- the write between them ------------------------------------------------------------------------


def converge(draft: Draft, reason: WriteReason = WriteReason.STEP, *, may_raise: bool = True) -> bool:
    """Plan the write that brings traffic to what the status asks for; True when there is nothing to do.

    ``may_raise`` False (paused, held, invalid) allows only moves towards stable.
    """
    traffic, desired = draft.obs.traffic, desired_traffic(draft, draft.status)
    if traffic is None or draft.writes_traffic or draft.returning:
        return False
    if keeps_some(draft, draft.status.way_back):
        return False
    if desired is None:
        return True
    if not traffic.exists:
        return _recreate(draft, traffic, desired, may_raise=may_raise)
    if not traffic.rules and traffic.mode is TrafficMode.ADOPTED:
        draft.traffic_problem = (Reason.NO_RULES, no_rules(traffic))
        return False
    _watch_uid(draft, traffic)
    if _settled(traffic, desired, may_list=_git_lists(draft, traffic)):
        _note_applied(draft, desired)
        return True
    if _foreign(draft, traffic, desired) and _obey_or_limit(draft, traffic, desired):
        return True
    if _pinned(draft, traffic, desired):
        return False
    if _allowed(draft, traffic, desired, may_raise=may_raise) and not _refused(draft):
        _announce_foreign(draft, traffic, desired)
        _write(draft, desired, traffic.resource_version, reason)
    return False


def keep_split(draft: Draft) -> None:
    """Keep a PoolSplit, which needs no template, whatever else is wrong with the spec: without one every pod serves.

    While a canary runs only what is gone is written, since the steps that are wrong may say another weight.
    """
    traffic, spec = draft.obs.traffic, draft.obs.spec
    if spec is None:
        _make_lost(draft)
    if traffic is None or spec is None or not isinstance(spec.traffic, VariantTraffic):
        return
    ours = draft.status.running is None and traffic.claim is Claim.OURS
    if ours or (not traffic.exists and traffic.claim is not Claim.OTHER):
        converge(draft, may_raise=False)


def _make_lost(draft: Draft) -> None:
    """The PoolSplit that is gone, while nothing says more than who is stable: with that alone."""
    traffic, stable = draft.obs.traffic, draft.status.stable
    if traffic is None or traffic.exists or traffic.claim is Claim.OTHER:
        return
    if stable is None or draft.status.current is not None or draft.writes_traffic or _refused(draft):
        return
    desired = DesiredTraffic(stable=stable.identity.arm, canary=None, weight=ZERO)
    draft.actions.append(WriteTraffic(desired=desired, resource_version="", reason=WriteReason.SETTLE))
    draft.note_written(FULL)


def _pinned(draft: Draft, traffic: TrafficView, desired: DesiredTraffic) -> bool:
    """Whether applying the template would give back what was just taken: a rule of its own names the canary."""
    current = draft.status.current
    out = current is not None and (current.aborted is not None or current.pulled)
    if not out or desired.canary is None or desired.canary not in traffic.pins:
        return False
    draft.traffic_problem = (
        Reason.TEMPLATE_PINS_CANARY,
        f"a rule of the template sends requests to {desired.canary.name} whatever its weight: the template is not "
        "applied while that must not have any; take that backendRef out",
    )
    return True


def _refused(draft: Draft) -> bool:
    """Whether this write has just been refused: its words are shown in place of another try."""
    if draft.obs.refused is None:
        return False
    draft.traffic_problem = (draft.obs.refused.reason, draft.obs.refused.message)
    return True


def show_live(draft: Draft) -> None:
    """What is not written is not said: ``applied`` is what the object has, in the rule that is furthest off."""
    current, asked = draft.status.current, draft.status.weight.desired or ZERO
    canary = current.canary.identity.arm if current is not None else None
    given = given_by_others(draft)
    if given is None or draft.status.stable is None:
        return
    traffic, shares = draft.obs.traffic, list[Weight]()
    if canary is not None and traffic is not None and traffic.exists:
        stable = draft.status.stable.identity.arm
        arms = DesiredTraffic(stable=stable, canary=canary, weight=asked, drop=given)
        arms = replace(arms, drop=(*given, *_intruders(draft, (stable, canary, *given))))
        shares = _shares(traffic, arms)
    if current is None or not shares or current.aborted is not None:
        # No spec says which rules are ours, or none of them may have anything left.
        left = live_shares(draft, canary)
        # The weight in status is the share of the target, which is stable where there is no canary.
        shares += left if canary is not None else [Weight(FULL - share) for share in left]
    if shares:
        furthest = max(shares, key=lambda share: abs(share - asked))
        differ = min(shares) != max(shares)  # nothing and all are said of every rule only
        draft.show_applied(Weight(min(max(furthest, 1), FULL - 1)) if differ else furthest)


def _git_lists(draft: Draft, traffic: TrafficView) -> bool:
    """Whether Git, not we, decides which entries there are: an Adopted object without addBackend."""
    adds = isinstance(draft.spec.traffic, HttpRouteTraffic) and draft.spec.traffic.add_backend
    return traffic.mode is TrafficMode.ADOPTED and not adds


def no_rules(traffic: TrafficView) -> str:
    """An Adopted object none of whose rules is ours to weigh."""
    return (
        f"no rule of {traffic.kind} {traffic.name} routes to one of the versions: "
        "add a backendRef to the stable pool, or correct ruleNames"
    )


def _note_applied(draft: Draft, desired: DesiredTraffic) -> None:
    weight = desired.weight if desired.canary is not None else FULL
    draft.note_written(weight)


def _watch_uid(draft: Draft, traffic: TrafficView) -> None:
    if isinstance(draft.spec.traffic, AdapterTraffic):  # elsewhere the spec says it
        draft.set(traffic_adopted=traffic.mode is TrafficMode.ADOPTED)
    if traffic.uid == draft.status.traffic_uid:
        return
    current = draft.status.current
    if draft.status.traffic_uid and current is not None and current.step_started_at is not None:
        # Somebody made the object anew: what was measured before says nothing about it.
        draft.set_current(step_started_at=draft.now)
    draft.set(traffic_uid=traffic.uid)


def _recreate(draft: Draft, traffic: TrafficView, desired: DesiredTraffic, *, may_raise: bool) -> bool:
    if traffic.mode is TrafficMode.ADOPTED:
        draft.traffic_problem = (
            Reason.ROUTE_MISSING,
            f"{traffic.kind} {traffic.name} does not exist: add it to Git; traffic is untouched until then",
        )
        return False
    weight = desired.weight if may_raise else min(desired.weight, draft.status.weight.ours or ZERO)
    if _refused(draft):
        return False
    canary = desired.canary
    if canary is not None and (draft.obs.ready(canary) == 0 or not is_recorded(draft, canary)):
        weight = ZERO
    if desired.canary is not None and path_problem(draft, desired.canary) is not None:
        weight = ZERO
    if canary is not None and shortage(draft, canary, weight) is not None:
        weight = min(weight, draft.status.weight.ours or ZERO)
    _write(draft, replace(desired, weight=weight), "", WriteReason.SETTLE)
    return False


def _shares(traffic: TrafficView, desired: DesiredTraffic) -> list[Weight]:
    shares = (rule_share(rule, desired) for rule in traffic.rules)
    return [share for share in shares if share is not None]


def _foreign(draft: Draft, traffic: TrafficView, desired: DesiredTraffic) -> bool:
    """Whether somebody else changed the weights since our last write."""
    applied = draft.status.weight.ours
    if applied is None or traffic.written_by_us:
        return False
    was = replace(desired, weight=applied if desired.canary is not None else ZERO)
    return _altered(draft, traffic) or not all(_matches(rule, was, may_list=True) for rule in traffic.rules)


def _altered(draft: Draft, traffic: TrafficView) -> bool:
    """Whether a PoolSplit has other labels, or one variant more: requests go elsewhere, which is no lower weight."""
    return isinstance(draft.spec.traffic, VariantTraffic) and not traffic.structure_current


def _obey_or_limit(draft: Draft, traffic: TrafficView, desired: DesiredTraffic) -> bool:
    """Obey a foreign write that lowered the canary, or stop restoring after too many; True: no write."""
    if _altered(draft, traffic) and draft.status.hold is HoldReason.CONTENDED:
        return True
    shares = _shares(traffic, desired)
    if desired.canary is None or not shares or not all(share <= desired.weight for share in shares):
        return False
    lowest = min(shares)
    if lowest >= desired.weight:
        return False
    who = traffic.last_writer or "an unknown field manager"
    if not traffic.written_by_gitops and not _altered(draft, traffic):
        message = (
            f"{who} lowered the canary to {format_weight(lowest)}; holding there: "
            "`resume` goes back to the step's weight, `abort` gives all traffic to stable"
        )
        return _freeze(draft, HoldReason.MANUAL_OVERRIDE, lowest, message)
    recent = tuple(at for at in draft.current.restores if draft.now - at < RESTORE_WINDOW)
    if len(recent) < RESTORE_LIMIT:
        return False
    message = (
        f"{who} lowered the canary {len(recent)} times in 10 minutes; its weights stay. "
        "Make it leave the weights alone (see `rollouts doctor`), then `resume`"
    )
    return _freeze(draft, HoldReason.CONTENDED, lowest, message)


def _freeze(draft: Draft, hold: HoldReason, weight: Weight, message: str) -> bool:
    draft.hold(hold, message)
    draft.note_written(weight)
    draft.contended = message
    return True


def _allowed(draft: Draft, traffic: TrafficView, desired: DesiredTraffic, *, may_raise: bool) -> bool:
    shares = _shares(traffic, desired)
    raises = desired.weight > ZERO and (not shares or min(shares) < desired.weight)
    if raises and not (may_raise and _may_raise(draft, desired)):
        return False
    falls = any(_towards_stable(rule, desired) for rule in traffic.rules)
    if falls and draft.obs.ready(desired.stable) == 0:
        draft.traffic_problem = (
            Reason.STABLE_NOT_READY,
            unable(draft, desired.stable),
        )
        return False
    return True


def _towards_stable(rule: RuleView, desired: DesiredTraffic) -> bool:
    stable, canary, retired = _joint(rule, desired)
    joint = stable + canary + retired
    return joint > 0 and Fraction(stable, joint) < Fraction(FULL - desired.weight, FULL)


def _may_raise(draft: Draft, desired: DesiredTraffic) -> bool:
    assert desired.canary is not None
    record_way(draft, desired.canary)
    before = desired_traffic(draft, draft.obs.status)
    if draft.moved or not is_recorded(draft, desired.canary):
        # The way back must be stored before there is anything to give back.
        draft.wake(timedelta(seconds=1))
        return False
    if before is None or (before.canary, before.stable, before.weight) != (
        desired.canary,
        desired.stable,
        desired.weight,
    ):
        # The step that asks for more must be stored before it takes effect.
        draft.wake(timedelta(seconds=1))
        return False
    problem = path_problem(draft, desired.canary)
    if problem is not None:
        draft.target_problem = (problem.reason, problem.message)
        draft.wake(_ASKED)
        return False
    behind = goes_by_other(draft)
    if behind is not None:
        draft.target_problem = behind
        draft.wake(_ASKED)
        return False
    short = shortage(draft, desired.canary, desired.weight)
    if short is not None:
        draft.target_problem = (short.reason, short.message)
        return False
    needed = required_endpoints(
        desired.weight, draft.current.stable_endpoints_at_start, draft.spec.canary.endpoint_ratio
    )
    ready = draft.obs.ready(desired.canary)
    if ready < needed:
        draft.target_problem = (
            Reason.NOT_ENOUGH_ENDPOINTS,
            f"{desired.canary.name} has {ready} Ready endpoints; weight {format_weight(desired.weight)} "
            f"needs {needed}: scale it up, or lower endpointRatio",
        )
        return False
    return True


def _announce_foreign(draft: Draft, traffic: TrafficView, desired: DesiredTraffic) -> None:
    """Say who is being overwritten, count it, and keep the polluted time out of the analysis."""
    if not _foreign(draft, traffic, desired):
        return
    who = traffic.last_writer or "an unknown field manager"
    draft.contended = f"{who} changed the weights; restoring {format_weight(draft.status.weight.ours)}"
    shares = _shares(traffic, desired)
    lowered = desired.canary is not None and bool(shares) and min(shares) < desired.weight
    # Whoever meant to end the canary by that write reads here how it is done.
    advice = f". `rollouts abort {draft.obs.owner.name}` gives all traffic to stable" if lowered else ""
    draft.event(EventType.WARNING, Reason.WEIGHT_RESTORED, draft.contended + advice)
    if lowered:
        recent = [at for at in draft.current.restores if draft.now - at < RESTORE_WINDOW]
        draft.set_current(restores=(*recent, draft.now)[-RESTORE_LIMIT:])
    current = draft.status.current
    if current is not None and current.started_at is not None:
        start = traffic.last_written_at or current.step_started_at or draft.now
        name = background_run(draft.obs.owner, draft.status)
        if name in draft.obs.gates:
            draft.actions.append(ExcludeInterval(name=name, start=min(start, draft.now), end=draft.now))


def _write(draft: Draft, desired: DesiredTraffic, resource_version: str, reason: WriteReason) -> None:
    leads = desired.weight > ZERO or bool(desired.header_routes)
    if (leads or draft.spec.on_delete is OnDelete.DELETE_TRAFFIC) and not draft.obs.has_finalizer:
        draft.actions.append(SetFinalizer(present=True))
    draft.actions.append(WriteTraffic(desired=desired, resource_version=resource_version, reason=reason))
    _note_applied(draft, desired)
