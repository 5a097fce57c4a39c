"""Crashes of the canary's pods, with stable's as the control (design rule 3).

Every crash in the attempt belongs to one of the arms. Were the versions alike, it would be the canary's with the
probability p = its pods / all pods; a canary that crashes ``ODDS`` times as often per pod has the odds ``ODDS`` times
as high. The likelihood ratio of the two, multiplied up crash by crash, is an e-process: its mean under "alike" is 1
at most, so by Ville's inequality it ever reaches 1 / ``RATE`` with the probability ``RATE`` at most, however often it
is looked at (Ramdas et al. 2023, Game-theoretic statistics and safe anytime-valid inference, section 2). One canary
pod beside one of stable's is aborted at its fifth crash, beside four at its third, two beside eighteen at the second;
each crash of stable takes more than one of the canary's back.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from rollouts.engine.attempt import ArmCrashes
from rollouts.engine.draft import Draft
from rollouts.engine.observation import CrashView

__all__ = ["EPISODE", "ODDS", "RATE", "crash_evidence", "crashes_at_start", "crashing"]

ODDS = 20.0
"""Crash rate per pod, canary over stable, that the test looks for. A version that is twenty times as fragile is
broken; a smaller ratio would let the first crashes of an unlucky node weigh nearly as much as a loop."""

RATE = 0.05
"""Probability of aborting a canary that crashes no more than stable does, given that pods crash at all: the default
of ``falseAbortRate``. Pods that never crash never get here."""

EPISODE = timedelta(seconds=10)
"""Crashes of one arm within this time are one: pods that die together (a node, one request tried everywhere) are no
independent evidence. The kubelet waits that long before it starts a container for the second time."""


def crash_evidence(canary: int, stable: int, canary_pods: int, stable_pods: int) -> float:
    """The e-value: likelihood of so many crashes per arm at ``ODDS`` over that of equal crash rates per pod."""
    share = max(1, canary_pods) / (max(1, canary_pods) + max(1, stable_pods))
    factor = ODDS * share + 1 - share
    # Beyond some dozens there is nothing left to learn, and powers of thousands would overflow.
    return ODDS ** min(canary, 64) / factor ** min(canary + stable, 128)


def crashes_at_start(draft: Draft) -> tuple[ArmCrashes, ArmCrashes]:
    """The baseline of an attempt: restarts of before it are nobody's."""
    ours, theirs = _views(draft)
    return ArmCrashes(restarts=ours.restarts), ArmCrashes(restarts=theirs.restarts)


def crashing(draft: Draft) -> str | None:
    """Count the crashes since the last look; why they end the attempt, None while they do not."""
    ours, theirs = _views(draft)
    draft.set_current(
        canary_crashes=_counted(draft, draft.current.canary_crashes, ours),
        stable_crashes=_counted(draft, draft.current.stable_crashes, theirs),
    )
    canary, stable = draft.current.canary_crashes.count, draft.current.stable_crashes.count
    if not canary or crash_evidence(canary, stable, ours.pods, theirs.pods) < 1 / RATE:
        return None
    return (
        f"its pods crashed {canary} times in this attempt and {draft.stable.label}'s {stable} times "
        f"({ours.pods} and {theirs.pods} pods): were both alike, this would be seen in fewer than "
        f"{RATE:.0%} of attempts"
    )


def _views(draft: Draft) -> tuple[CrashView, CrashView]:
    """Of the canary and of stable."""
    pools, none = draft.obs.pools, CrashView()
    ours, theirs = (pools.get(arm.identity) for arm in (draft.current.canary, draft.stable))
    return ours.crashes if ours is not None else none, theirs.crashes if theirs is not None else none


def _counted(draft: Draft, known: ArmCrashes, view: CrashView) -> ArmCrashes:
    """A total that fell means that pods went away: what is left is the new baseline."""
    if view.restarts == known.restarts:
        return known
    seen = replace(known, restarts=view.restarts)
    if view.restarts < known.restarts or (known.at is not None and draft.now - known.at < EPISODE):
        return seen
    return replace(seen, count=known.count + 1, at=draft.now)
