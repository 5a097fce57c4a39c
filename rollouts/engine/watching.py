"""The share is watched from the first weight to the end, in pauses and gates, too (design rule 4).

Three alarms, and one thing that is waited for:

- ``ShareNotProgrammed``: the gateway took the split and sends nothing to the canary. Aborts.
- ``PathBroken``: a rise made the requests of both arms disappear. It is undone, once per attempt; requests that come
  back prove it and abort, requests that do not show that it was something else, and the step is tried again.
- ``ShareMismatch``: the share refutes the weight. Nothing rises meanwhile.
- No weight rises before one canary request was counted since the last rise (``NoTraffic``, ``ShareUnmeasured``).

What must survive a restart is ``status.path``: a ceiling over the weight, which is there from each rise until a request
was counted under it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from math import floor, log10

from rollouts.engine.actions import EventType
from rollouts.engine.attempt import PathAlarm, PathStatus
from rollouts.engine.converging import asked_weight, step_weight
from rollouts.engine.draft import Draft, Said
from rollouts.engine.obeying import goes_by_other
from rollouts.engine.observation import ShareView
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import AnalysisStep, ApproveStep, JobStep, PauseStep, PickerTraffic
from rollouts.engine.rollout_status import WaitingFor
from rollouts.engine.share import (
    BEFORE_WINDOW,
    MIN_WINDOW,
    came_back,
    expected_canary,
    fell,
    observed_weight,
    refuted_side,
    refutes,
    worth_showing,
)
from rollouts.engine.steps import format_seconds
from rollouts.engine.versions import VARIANT_KIND
from rollouts.units import FULL, ZERO, Weight, format_weight

__all__ = [
    "STANDING",
    "UNCOUNTED",
    "keep_counting",
    "mirrored",
    "note_rise",
    "pace_of_counting",
    "path_alarm",
    "says_new",
    "share_problem",
    "waiting",
    "watch",
]

NO_TRAFFIC, UNMEASURED, MISMATCH = Reason.NO_TRAFFIC, Reason.SHARE_UNMEASURED, Reason.SHARE_MISMATCH

UNCOUNTED = {NO_TRAFFIC: WaitingFor.REQUESTS, UNMEASURED: WaitingFor.COUNTS}
STANDING = frozenset(UNCOUNTED.values())
"""What is waited for while the step's deadline stands."""

_MUST_SHOW = 20.0
"""Canary requests expected without one seen: at a true share of w that happens once in 5e8 (exp(-20))."""
_ENOUGH = 5.0
"""Canary requests expected from which on it is not for want of traffic that none was seen (once in 150)."""
BREAKS_WITHIN = timedelta(minutes=2)
"""How long a fall counts as the doing of a rise, and how long requests may take to return when it is undone."""
BY_PICKER = ("Adapter", VARIANT_KIND)
"""Kinds of versions that share a pool."""
_SOON, _LATER = timedelta(seconds=5), timedelta(seconds=60)


# --- what can be counted ---------------------------------------------------------------------------


def mirrored(draft: Draft) -> str:
    """Names of the arms that a rule mirrors requests to, in words; empty when there are none."""
    traffic = draft.obs.traffic
    if traffic is None:
        return ""
    arms = (draft.current.canary.identity, draft.stable.identity)
    return " and ".join(arm.name for arm in arms if arm.arm in traffic.mirrored)


def _countable(draft: Draft) -> ShareView | None:
    return None if mirrored(draft) else draft.obs.share


def _by_picker(draft: Draft) -> bool:
    """Adapters or variants of one pool: no gateway could split them. Told by what is stored, where no spec says it."""
    spec = draft.obs.spec
    told = spec is not None and isinstance(spec.traffic, PickerTraffic)
    return told or draft.current.canary.identity.kind in BY_PICKER


def _applied(draft: Draft) -> Weight:
    """The weight under which the observation's share was counted."""
    return draft.obs.status.weight.applied or ZERO


def share_problem(draft: Draft) -> str | None:
    """How the requests that arrived, or the pickers, contradict the weight; None when they do not."""
    share, weight = _countable(draft), _applied(draft)
    if share is None or weight == ZERO or not _written(draft, weight):
        return None
    if _by_picker(draft):
        return _not_loaded(draft, share, weight)
    traffic = draft.obs.traffic
    assert traffic is not None
    if traffic.sessions or not share.complete or share.seconds < MIN_WINDOW:
        return None
    side = refuted_side(share, weight)
    favoured = draft.current.canary if side > 0 else draft.stable
    if side == 0 or (side > 0 and traffic.header_routes) or favoured.identity.arm in traffic.by_others:
        return (
            None  # testers come on top of the split, and whoever else a rule of its own sends to one version
        )
    return (
        f"the weight is {format_weight(weight)}, but the pods' request counters show "
        f"{format_weight(observed_weight(share))}: does the gateway honour weights between InferencePools?"
    )


def _written(draft: Draft, weight: Weight) -> bool:
    """Whether the stored object says the weight: a write whose answer was lost is newer than the status."""
    traffic, arms = draft.obs.traffic, (draft.current.canary, draft.stable)
    if traffic is None:
        return False
    for rule in traffic.rules:
        mine, other = (rule.entries.get(arm.identity.arm, 0) for arm in arms)
        if abs(mine * FULL - weight * (mine + other)) > mine + other:  # a hundredth of a percent is rounding
            return False
    return bool(traffic.rules)


def _not_loaded(draft: Draft, share: ShareView, weight: Weight) -> str | None:
    """Our own picker splits exactly, and stickily: it is asked, not counted."""
    if share.loaded is None or abs(share.loaded - weight) <= 1:
        return None
    behind = goes_by_other(draft)
    if behind is not None:
        return behind[1]
    assert draft.obs.traffic is not None
    kind = draft.obs.traffic.kind
    return (
        f"the weight is {format_weight(weight)}, but the endpoint picker has loaded "
        f"{format_weight(share.loaded)}: does it watch {kind}s of this namespace?"
    )


# --- alarms ----------------------------------------------------------------------------------------


def path_alarm(draft: Draft) -> Said | None:
    """Why the attempt ends now: the split is not programmed, or a rise broke the path.

    What was counted is gone after a crash, so the reason is stored first and obeyed in the next plan.
    """
    assert draft.obs.status.current is not None
    stored = draft.obs.status.current.path
    if stored.alarm_kind is not None:
        return stored.alarm_kind.value, stored.alarm.partition(": ")[2]
    found = _found(draft)
    if found is not None:
        kind, why = found
        draft.set_current(path=replace(draft.current.path, alarm=f"{kind.value}: {why}", alarm_kind=kind))
        draft.wake(timedelta(seconds=1))
    return None


def _found(draft: Draft) -> tuple[PathAlarm, str] | None:
    path, share = draft.current.path, draft.obs.share
    if path.undone_at is not None and share is not None:
        soon = draft.now - path.undone_at <= BREAKS_WITHIN
        lowered = _applied(draft) <= (path.ceiling or ZERO)
        if soon and lowered and came_back(share, path.requests_before):
            return PathAlarm.BROKEN, (
                f"requests of both versions stopped after the weight rose above {format_weight(path.ceiling)} and came "
                f"back when that was undone ({path.requests_before} in ten minutes before): look at the canary's "
                "endpoint picker, its TLS and the gateway's log"
            )
    return _not_programmed(draft)


def _not_programmed(draft: Draft) -> tuple[PathAlarm, str] | None:
    share, weight, traffic = _countable(draft), _applied(draft), draft.obs.traffic
    canary = draft.current.canary
    if share is None or traffic is None or weight == ZERO or _by_picker(draft):
        return None
    if share.canary or not share.complete or share.seconds < share.propagation or traffic.sessions:
        return None
    if draft.stable.identity.arm in traffic.by_others:
        return None  # what of its requests is the split's, nobody can tell
    if expected_canary(share, weight) < _MUST_SHOW or not traffic.parents.programmed or draft.current.pulled:
        return None
    if not _written(draft, weight) or draft.obs.ready(canary.identity) == 0:
        return None
    return PathAlarm.NOT_PROGRAMMED, (
        f"the weight has been {format_weight(weight)} for {round(share.seconds)} s, and none of {share.stable} "
        f"requests reached {canary.identity.name} ({expected_canary(share, weight):.0f} expected), although the "
        f"gateway says that it took {traffic.kind} {traffic.name}: its log may say why, and not every gateway splits "
        "between InferencePools (`rollouts doctor`)"
    )


def watch(draft: Draft) -> bool:
    """Lower and lift the ceiling over the weight; True when an undoing is to be stored before it is written."""
    path, share = draft.current.path, draft.obs.share
    if path.undone_at is not None:
        _await_return(draft)
        return False
    if share is not None and _broke(draft, share):
        _undo(draft, share)
        return True
    if path.ceiling is not None and _may_lift(draft):
        draft.set_current(path=replace(path, ceiling=None))
        _start_clock(draft)
    else:
        _hold_refuted(draft)
    return False


def _hold_refuted(draft: Draft) -> None:
    """In pauses and gates a refuted share is said, and nothing rises; a weight step waits for it itself."""
    weight, problem = _applied(draft), share_problem(draft)
    putting = not isinstance(draft.step, PauseStep | ApproveStep | AnalysisStep | JobStep)
    if problem is None or weight == FULL or draft.current.skip_gates:
        return
    if putting and step_weight(draft.status, draft.spec) == weight:
        return
    draft.traffic_problem = (MISMATCH, problem)
    draft.refuted = True
    path = draft.current.path
    draft.set_current(path=replace(path, ceiling=min(weight, path.ceiling or weight)))
    if not path.refuted:
        draft.event(EventType.WARNING, MISMATCH, f"{problem} No weight rises meanwhile")


def _may_lift(draft: Draft) -> bool:
    """One request was counted since the last rise, or nobody asks for that; and nothing refutes the weight."""
    if draft.current.skip_gates:
        return True
    share, weight = _countable(draft), _applied(draft)
    counted = share is not None and share.canary > 0 and weight > ZERO
    return (counted or draft.spec.canary.allow_no_traffic) and share_problem(draft) is None


def _start_clock(draft: Draft) -> None:
    """What was waited for outside of the step does not count against its clock."""
    if draft.obs.status.waiting_for in STANDING and not isinstance(draft.step, PauseStep | ApproveStep):
        draft.set_current(step_started_at=draft.now)


def note_rise(draft: Draft) -> None:
    """After a rise nothing rises further until a request was counted under it."""
    before, weight = draft.obs.status.weight.applied or ZERO, draft.status.weight.applied or ZERO
    path, waived = draft.current.path, draft.current.skip_gates or draft.spec.canary.allow_no_traffic
    if before < weight < FULL and not waived and path.undone_at is None:
        draft.set_current(path=replace(path, ceiling=weight))


# --- a path that broke -----------------------------------------------------------------------------


def _broke(draft: Draft, share: ShareView) -> bool:
    if draft.current.path.undone or share.path is None or not share.complete or mirrored(draft):
        return False
    rose = share.path.weight_before < _applied(draft)
    soon = share.seconds <= BREAKS_WITHIN.total_seconds() + _SOON.total_seconds()
    return rose and soon and fell(share.path)


def _undo(draft: Draft, share: ShareView) -> None:
    path = share.path
    assert path is not None
    before = round(path.before * BEFORE_WINDOW / path.before_seconds)
    draft.set_current(
        path=PathStatus(ceiling=path.weight_before, undone_at=draft.now, requests_before=before, undone=True)
    )
    draft.event(
        EventType.WARNING,
        Reason.WRITE_UNDONE,
        f"{path.recent} requests of both versions in the last {path.recent_seconds:.0f} s, {before} in ten minutes "
        f"before the weight rose to {format_weight(_applied(draft))}: it goes back to "
        f"{format_weight(path.weight_before)}",
    )
    draft.wake(timedelta(seconds=1))


def _await_return(draft: Draft) -> None:
    """Requests that come back abort (``path_alarm``); without them the step is tried again."""
    path = draft.current.path
    assert path.undone_at is not None
    end = path.undone_at + BREAKS_WITHIN
    if draft.now <= end:
        draft.wake_at(end + timedelta(seconds=1))
        draft.wake(_SOON)
        return
    lower = _applied(draft)
    draft.set_current(
        path=replace(path, undone_at=None, ceiling=lower if lower > ZERO else None), step_started_at=draft.now
    )
    message = (
        "requests did not come back when the rise was undone: it was not its doing, the step is tried again"
    )
    draft.event(EventType.NORMAL, Reason.STEP_TRIED_AGAIN, message)


# --- waiting ---------------------------------------------------------------------------------------


def waiting(draft: Draft) -> Said | None:
    """Why the weight that the step asks for is not written yet; None when nothing keeps it back."""
    path = draft.current.path
    if path.ceiling is None:
        return None
    unbound = replace(draft.status, current=replace(draft.current, path=PathStatus()))
    asked = asked_weight(unbound, draft.spec)
    if asked <= path.ceiling:
        return None
    draft.wake(_SOON)
    stays = format_weight(path.ceiling)
    rises = f"{draft.where()}: the weight stays {stays} and rises to {format_weight(asked)}"
    if path.undone_at is not None:
        return Reason.WRITE_UNDONE, (
            f"{rises} no more if requests come back now: they stopped when it rose; otherwise it is tried again "
            f"{format_seconds(BREAKS_WITHIN)} after it was undone"
        )
    reason, why = _uncounted(draft)
    if reason not in UNCOUNTED:
        _start_clock(draft)
        draft.traffic_problem = (reason, why)
        draft.refuted = True
    return reason, f"{rises} when {why}"


def _uncounted(draft: Draft) -> Said:
    share, ways_out = _countable(draft), "or set strategy.canary.allowNoTraffic"
    copies, weight = mirrored(draft), _applied(draft)
    if copies:
        return UNMEASURED, (
            f"the canary's requests can be counted: a RequestMirror filter copies requests to {copies}, and copies "
            f"look like its share; take the filter out, {ways_out}"
        )
    if share is None or (not share.complete and not share.canary):
        return UNMEASURED, (
            "the canary's requests can be counted: the pods' metrics (or the endpoint picker's) cannot be read; make "
            f"them reachable, name a Prometheus as source `default`, {ways_out}"
        )
    problem = share_problem(draft)
    if problem is not None:
        return MISMATCH, f"requests arrive as it says: {problem}"
    expected = expected_canary(share, weight)
    name = draft.current.canary.identity.name
    if share.seconds >= MIN_WINDOW and expected >= _ENOUGH:
        return MISMATCH, (
            f"{name} gets a request: none of about {_rounded(share.stable)} reached it under "
            f"{format_weight(weight)}; does the gateway honour weights between InferencePools?"
        )
    return NO_TRAFFIC, f"a request was counted at {name}: {_how_long(share, weight)}; send some, {ways_out}"


def _how_long(share: ShareView, weight: Weight) -> str:
    """At today's rate; coarse, so that the status is not written at each look."""
    seen = share.canary + share.stable
    if share.seconds < MIN_WINDOW or seen == 0 or weight == ZERO:
        return "there is no traffic" if share.seconds >= MIN_WINDOW else "none came yet"
    seconds = share.seconds / (seen * weight / FULL)
    return (
        f"at today's rate one comes in about {format_seconds(timedelta(seconds=max(1, _rounded(seconds))))}"
    )


def _rounded(value: float) -> int:
    """To one significant digit of 1, 2, 5."""
    size = int(10 ** floor(log10(max(value, 1))))
    return next((size * step for step in (1, 2, 5) if value <= size * step * 1.2), size * 10)


# --- between looks ---------------------------------------------------------------------------------


def keep_counting(draft: Draft) -> None:
    """The requests of a carrying canary are counted without being asked: often after a write, and to the end."""
    share = draft.obs.share
    if share is not None and (draft.status.weight.applied or ZERO) > ZERO:
        draft.count_after = pace_of_counting(share)


def pace_of_counting(share: ShareView) -> timedelta:
    """How long until requests are counted again."""
    fresh = share.seconds <= max(BREAKS_WITHIN.total_seconds(), share.propagation) + _SOON.total_seconds()
    return _SOON if fresh else _LATER


def says_new(
    before: ShareView | None, now: ShareView | None, weight: Weight, shown: Weight | None, *, by_picker: bool
) -> bool:
    """Whether a look could decide otherwise than the one that saw ``before``, if all else is the same.

    ``weight`` is the applied one, ``shown`` the observed share in the status; ``by_picker``: see ``share_problem``. A
    look costs some milliseconds, this some microseconds, and a canary in its pause is counted for days. True is always
    safe: then everything is looked at.
    """
    if before is None or now is None:
        return before is not now
    if _kind_of(before) != _kind_of(now) or worth_showing(observed_weight(now), shown):
        return True
    return any(_is_alarming(share, weight, by_picker=by_picker) for share in (before, now))


def _is_alarming(share: ShareView, weight: Weight, *, by_picker: bool) -> bool:
    if share.path is not None and fell(share.path):
        return True
    unseen = not share.canary and expected_canary(share, weight) >= _ENOUGH
    return not by_picker and (unseen or refutes(share, weight))


def _kind_of(share: ShareView) -> tuple[bool, bool, bool, Weight | None]:
    """What decides beside the figures."""
    return share.complete, share.canary > 0, share.seconds >= MIN_WINDOW, share.loaded
