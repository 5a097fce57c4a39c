"""A canary that carries traffic, and what takes its weight away and gives it back (design rule 3).

Three troubles, each with a grace of its own: no Ready endpoint, a picker of its own without a Ready pod, and pods
all of which refuse connections. The weight goes to 0, the step is kept, and it comes back when the trouble is over
and gateways can have heard so; later and later when it comes and goes. A target that was waited for settles alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from rollouts.engine.actions import EventType
from rollouts.engine.draft import Draft, Said
from rollouts.engine.observation import Blocker
from rollouts.engine.reasons import Reason
from rollouts.engine.versions import Identity
from rollouts.units import ZERO

__all__ = [
    "LENT_PATIENCE",
    "PICKER_GRACE",
    "SETTLE",
    "UNREADY_GRACE",
    "given_up",
    "note_trust",
    "path_problem",
    "pulled_because",
    "return_delay",
    "settling",
    "watch_canary",
]

UNREADY_GRACE = timedelta(seconds=10)
"""How long a carrying canary may have no Ready endpoint before its weight goes to 0: a probe that fails once is no
outage, and a pod that is merely unready mostly still answers."""

PICKER_GRACE = timedelta(seconds=2)
"""The same for a picker of its own without a Ready pod. A gateway that has one picker per rule fails every request
then, stable's too (measured on Istio: 171 of 171 at 99/1); two seconds let a pod be replaced by another."""

SETTLE = timedelta(seconds=3)
"""How long what was down must be up before weight rises towards it. A gateway hears of a pod or picker after we do:
of 787 requests 14 failed within a second when the weight followed a picker's Ready condition by 40 ms
(``rollouts lab demo one-picker``). Three times that second."""

LENT_PATIENCE = timedelta(minutes=2)
"""How long a canary may be out of service on pods that stable gave it, which serves everybody with what it has left:
a container that is restarted or a node that is rebooted is back by then, and for longer users should not pay."""

FIRST_DELAY = timedelta(seconds=30)
LAST_DELAY = timedelta(minutes=5)
"""How long the trouble must be over before the weight comes back, from the second time on, doubling. The end is the
kubelet's longest back-off of a container that crashes (5 minutes): a canary that dies with each return then carries
traffic no more often than it is started. The first return is after ``SETTLE``: one lost pod is no flapping."""

_NO_GRACE = timedelta(0)


@dataclass(frozen=True, slots=True)
class _Trouble:
    """Why a canary cannot carry traffic, and for how long that is tolerated."""

    reason: Reason
    grace: timedelta
    what: str
    """Said of the canary: ``has no Ready endpoint``."""
    event: str


def path_problem(draft: Draft, arm: Identity) -> Blocker | None:
    """What keeps requests from the arm's pods whatever the weight: its picker, or a gateway that refuses the pool.

    Also for the seconds in which gateways may not have heard that a trouble of the canary is over.
    """
    view, current = draft.obs.pools.get(arm), draft.status.current
    for problem in (*view.path.problems, *view.troubles) if view is not None else ():
        return problem
    if current is not None and arm == current.canary.identity and current.ready_since is not None:
        return _unheard(current.canary.label)
    return None


def _unheard(label: str) -> Blocker:
    message = f"{label} could not serve until now: gateways get {SETTLE.seconds} s to hear that it can"
    return Blocker(reason=Reason.TARGET_SETTLING, message=message)


def settling(draft: Draft) -> Blocker | None:
    """Why a target must not start yet that had no picker or no pod while it was waited for, and has now."""
    current = draft.current
    view = draft.obs.pools.get(current.canary.identity)
    if view is not None and (view.path.problems or view.ready_endpoints == 0):
        draft.set_current(unready_since=current.unready_since or draft.now, ready_since=None)
        return None
    return _unheard(current.canary.label) if _recovering(draft) else None


def _recovering(draft: Draft) -> bool:
    """Whether a trouble ended less than ``SETTLE`` ago, with nothing pulled for it."""
    if draft.current.unready_since is None and draft.current.ready_since is None:
        return False
    draft.set_current(unready_since=None)
    return not _sound_for(draft, SETTLE)


def _sound_for(draft: Draft, delay: timedelta) -> bool:
    """Whether there was no trouble for ``delay``; until then its end is kept, and the plan wakes up."""
    since = draft.current.ready_since or draft.now
    over = draft.now - since >= delay
    draft.set_current(ready_since=None if over else since)
    if not over:
        draft.wake_at(since + delay)
    return over


def note_trust(draft: Draft) -> None:
    """Say what is taken on trust of a candidate's path: TargetReady shows it."""
    canary = draft.status.canary
    view = draft.obs.pools.get(canary.identity) if canary is not None else None
    if view is not None and view.path.note and draft.target_note is None:
        draft.target_note = (Reason.READY, view.path.note)
    running = draft.status.running
    if view is not None and view.troubles and running is not None and draft.target_problem is None:
        draft.target_problem = (view.troubles[0].reason, view.troubles[0].message)


def return_delay(pulls: int) -> timedelta:
    """How long a canary that was pulled ``pulls`` times must be sound before it gets its weight back."""
    if pulls < 2:
        return SETTLE
    return min(LAST_DELAY, FIRST_DELAY * (1 << min(pulls - 2, 16)))


def watch_canary(draft: Draft) -> None:
    """Take the weight from a carrying canary that cannot serve, and give it back when it can."""
    current = draft.current
    trouble = _trouble(draft, current.canary.identity)
    if trouble is None:
        _recover(draft)
        return
    since = current.unready_since or draft.now
    draft.set_current(unready_since=since, ready_since=None)
    if not current.pulled and (draft.status.weight.applied or ZERO) == ZERO:
        return
    if draft.now - since < trouble.grace:
        draft.wake_at(since + trouble.grace)
    elif not current.pulled:
        draft.set_current(pulled=True, pulls=current.pulls + 1)
        draft.event(
            EventType.WARNING, trouble.reason, f"{current.canary.label} {trouble.event}: weight goes to 0"
        )


def given_up(draft: Draft) -> Said | None:
    """Why a canary that was pulled is aborted rather than waited for: stable needs the pods that it gave."""
    current, lent = draft.current, draft.status.stable_scale
    if not current.pulled or lent is None or current.unready_since is None:
        return None
    last = current.unready_since + LENT_PATIENCE
    if draft.now < last:
        draft.wake_at(last)
        return None
    (reason, words), name = pulled_because(draft), lent.identity.name
    minutes = round(LENT_PATIENCE / timedelta(minutes=1))
    return reason, (
        f"{words}; after {minutes} minutes {name}, which serves with {draft.obs.ready(lent.identity)} of {lent.full} "
        "pods, gets the others back"
    )


def _trouble(draft: Draft, canary: Identity) -> _Trouble | None:
    view = draft.obs.pools.get(canary)
    if view is not None and view.crashes.refusing:
        what = "refuses connections on all of its pods, while stable's answer"
        return _Trouble(Reason.CANARY_REFUSES_CONNECTIONS, _NO_GRACE, what, what)
    if view is not None and view.path.picker_down:
        what = "has an endpoint picker without a Ready pod"
        event = f"has had an endpoint picker without a Ready pod for {PICKER_GRACE.seconds} s"
        return _Trouble(Reason.PICKER_NOT_READY, PICKER_GRACE, what, event)
    if draft.obs.ready(canary) == 0:
        event = f"has had no Ready endpoint for {UNREADY_GRACE.seconds} s"
        return _Trouble(Reason.CANARY_NOT_READY, UNREADY_GRACE, "has no Ready endpoint", event)
    return None


def _recover(draft: Draft) -> None:
    if not draft.current.pulled:
        _recovering(draft)
    elif _sound_for(draft, return_delay(draft.current.pulls)):
        draft.set_current(unready_since=None, pulled=False)


def pulled_because(draft: Draft) -> Said:
    """Reason and words for a canary whose weight was taken away."""
    trouble, pulls = _trouble(draft, draft.current.canary.identity), draft.current.pulls
    if trouble is not None:
        return trouble.reason, f"the canary {trouble.what}, its weight is 0 until that is over"
    delay, times = return_delay(pulls).seconds, "once" if pulls < 2 else f"{pulls} times"
    return Reason.CANARY_NOT_READY, (
        f"the canary can serve again; it was taken out {times}, so it gets its weight back after {delay} s "
        "without trouble"
    )
