"""The way back to stable: decided from what is stored, before the spec is looked at (design rule 6).

A record of every traffic object that may carry canary weight is stored before the first weight is written.
Aborting, pulling and dropping a canary and deleting the Rollout lower its weight by that record, so that nothing
that a user can edit in the Rollout, and no template that the API server refuses, holds them up.
"""

from __future__ import annotations

from datetime import timedelta

from rollouts.engine.actions import ReturnTraffic, WriteReason, WriteTraffic
from rollouts.engine.draft import Draft
from rollouts.engine.observation import Claim, WayView
from rollouts.engine.reasons import Reason
from rollouts.engine.returning import pods_missed, ready_of, way_limit, whole
from rollouts.engine.rollout_status import WayBack
from rollouts.engine.stopping import not_started
from rollouts.engine.versions import Identity
from rollouts.units import FULL, ZERO, Weight, format_weight

__all__ = [
    "RECORDS",
    "REFUSED_RETRY",
    "carries",
    "give_back",
    "given_by_others",
    "is_back",
    "is_recorded",
    "keep_record",
    "keeps_some",
    "live_shares",
    "record_way",
    "return_canaries",
    "unable",
]

RECORDS = 8
"""Ways back in status. A record is below 1 KiB, and one per canary and object is all that an attempt needs: more are
only left over where an object could not be written for several targets."""

REFUSED_RETRY = timedelta(seconds=2)
"""A refused write towards stable is tried again this often: users lose requests meanwhile."""


def _same_way(one: WayBack, other: WayBack) -> bool:
    """Whether two records are about the same object and canary."""
    (a, b) = ((way.kind, way.group, way.name, way.canary.arm) for way in (one, other))
    return a == b


def _proposed(draft: Draft, canary: Identity) -> WayBack | None:
    stable = draft.status.stable
    return None if stable is None else draft.obs.proposed.get((stable.identity.arm, canary))


def is_recorded(draft: Draft, arm: Identity) -> bool:
    """Whether the way back of an arm in the spec's traffic object is stored already, with what it is reckoned by."""
    proposed = _proposed(draft, arm)
    if proposed is None:
        return True
    stored, planned = draft.obs.status.way_back, draft.status.way_back
    joint = [record.joint for record in planned if _same_way(record, proposed)]
    return any(_same_way(one, proposed) and joint in ([], [one.joint]) for one in stored)


def record_way(draft: Draft, arm: Identity) -> None:
    """Have the way back of an arm stored. One of an arm that carries stays: it says what was before that came."""
    proposed = _proposed(draft, arm)
    if proposed is None or proposed in draft.status.way_back:
        return
    others, known = list[WayBack](), False
    for record in draft.status.way_back:
        same = _same_way(record, proposed)
        known |= same and carries(draft.obs.ways.get(record))
        if not same:
            others.append(record)
    if not known:
        draft.set(way_back=(*others, proposed)[-RECORDS:])


def keep_record(draft: Draft) -> None:
    """Record a carrying canary that has no record (a status of an older version); forget what is settled."""
    current, canary = draft.status.current, draft.status.canary
    if current is not None and current.may_carry and not is_recorded(draft, current.canary.identity.arm):
        record_way(draft, current.canary.identity.arm)
    kept = tuple(
        record
        for record in draft.status.way_back
        if (canary is not None and record.canary.arm == canary.identity.arm) or not _is_settled(draft, record)
    )
    draft.set(way_back=kept)


def _is_settled(draft: Draft, record: WayBack) -> bool:
    view = draft.obs.ways.get(record)
    return view is not None and view.exists and view.share <= ZERO and not view.pinned


def _is_due(draft: Draft, record: WayBack) -> bool:
    """Whether the status asks for no canary weight under this record."""
    stable, current = draft.status.stable, draft.status.current
    if stable is not None and record.canary.arm == stable.identity.arm:
        return False  # promoted meanwhile
    if draft.obs.deleting:
        return True
    if current is None or record.canary.arm != current.canary.identity.arm:
        return True
    if current.started_at is None:
        return current.aborted is not None or not current.adopted_split
    return current.aborted is not None or current.pulled


def return_canaries(draft: Draft) -> None:
    """Lower every canary that the status asks no weight for; says what keeps it back."""
    due = tuple(record for record in draft.status.way_back if _is_due(draft, record))
    current, reason = draft.status.current, WriteReason.SETTLE
    if current is not None and (current.aborted is not None or current.pulled):
        reason = WriteReason.PULL if current.aborted is None else WriteReason.ABORT
    give_back(draft, due, reason)


def given_by_others(draft: Draft) -> tuple[Identity, ...] | None:
    """Arms of the past whose weight this plan gives to stable; None when it writes the present canary's."""
    canary, found = draft.status.canary, list[Identity]()
    for action in draft.actions:
        if isinstance(action, WriteTraffic):
            return None
        if isinstance(action, ReturnTraffic):
            arm = action.record.canary.arm
            if canary is None or arm == canary.identity.arm:
                return None
            found.append(arm)
    return tuple(found)


def live_shares(draft: Draft, canary: Identity | None) -> list[Weight]:
    """What the recorded objects give the canary; without one, what they still give to canaries of the past.

    Those count as well that have nothing left, and whose record this plan drops: the status may not say so yet.
    """
    records = [record for record in draft.status.way_back if canary in (None, record.canary.arm)]
    if canary is None:
        records += [
            one for one in draft.obs.status.way_back if one not in records and _is_settled(draft, one)
        ]
    views = (draft.obs.ways.get(record) for record in records)
    return [view.share for view in views if view is not None and view.exists]


def is_back(draft: Draft) -> bool:
    """Whether no canary that is to have no weight has any once this plan is carried out."""
    due = [record for record in draft.status.way_back if _is_due(draft, record)]
    left = [record for record in due if carries(draft.obs.ways.get(record))]
    planned = [action.record for action in draft.actions if isinstance(action, ReturnTraffic)]
    return all(record in planned for record in left)


def carries(view: WayView | None, limit: Weight = ZERO) -> bool:
    """Whether a live object gives the canary more than ``limit``, or may, since it is gone."""
    if view is None or not view.exists:
        return view is not None and view.unsplit
    return view.share > limit or (limit <= ZERO and view.pinned)


def give_back(draft: Draft, records: tuple[WayBack, ...], reason: WriteReason, limit: Weight = ZERO) -> bool:
    """Plan the next write that lowers a canary to ``limit``, or to what it keeps for now; True when none has more.

    False: a write is planned, or ``draft.traffic_problem`` says what keeps it back. ``draft.returning`` then keeps
    other writes of traffic away.
    """
    for record in records:
        view, most = draft.obs.ways.get(record), max(limit, way_limit(draft, record))
        if view is not None and carries(view, most):
            draft.returning = True
            if not draft.writes_traffic:
                _give_back_one(draft, record, view, reason, most)
            if most > limit:
                _say_kept(draft, record, most)
            return False
    return not keeps_some(draft, records)


def keeps_some(draft: Draft, records: tuple[WayBack, ...]) -> bool:
    """Whether a canary is to have weight until stable has pods for it; said, and nothing else is written meanwhile."""
    for record in records:
        view = draft.obs.ways.get(record)
        if carries(view) and way_limit(draft, record) > ZERO:
            assert view is not None
            draft.returning = True
            _say_kept(draft, record, view.share)
            return True
    return False


def _say_kept(draft: Draft, record: WayBack, kept: Weight) -> None:
    lent = draft.status.stable_scale
    assert lent is not None
    if draft.traffic_problem is not None:
        return
    lacking = sum(max(whole(part) - draft.obs.ready(part.identity), 0) for part in lent.parts)
    why = pods_missed(draft, lent)
    draft.traffic_problem = (
        Reason.RETURNING_WITH_PODS,
        f"traffic returns as capacity allows: {lent.identity.name} has {ready_of(draft, lent)}, "
        f"{lacking} are waited for, and {record.canary.name} keeps {format_weight(kept)} until then"
        f"{f' ({why})' if why else ''}; `abort` returns all of it at once",
    )


def unable(draft: Draft, arm: Identity) -> str:
    """Why stable is given no weight, in words: nobody would answer."""
    view, why = draft.obs.pools.get(arm), not_started(draft, arm)
    if view is not None and view.troubles:
        said = view.troubles[0].message
        return f"STABLE {arm.name} GETS NO REQUESTS ({said}): weights stay as they are until then{why}"
    return f"STABLE {arm.name} HAS NO READY ENDPOINT: weights stay as they are until it has one{why}"


def _give_back_one(draft: Draft, record: WayBack, view: WayView, reason: WriteReason, limit: Weight) -> None:
    stable, what = draft.status.stable, f"{record.kind} {record.name}"
    if view.claim is Claim.OTHER:
        draft.traffic_problem = (
            Reason.ABORT_BLOCKED_BY_CLAIM,
            f"{what} STILL GIVES {record.canary.name} WEIGHT and names Rollout {view.claimed_by}: nothing is "
            f"written until it names {draft.obs.name} again, or that Rollout is gone",
        )
    elif stable is None or draft.obs.ready(stable.identity) == 0:
        draft.traffic_problem = (
            Reason.STABLE_NOT_READY,
            unable(draft, record.stable.arm),
        )
    elif draft.obs.refused is not None:
        draft.traffic_problem = (draft.obs.refused.reason, draft.obs.refused.message)
        draft.wake(REFUSED_RETRY)
    else:
        draft.actions.append(
            ReturnTraffic(record=record, limit=limit, resource_version=view.resource_version, reason=reason)
        )
        canary = draft.status.canary
        if canary is None or record.canary.arm == canary.identity.arm:
            draft.note_written(limit if canary is not None else Weight(FULL - limit))
