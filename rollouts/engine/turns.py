"""Turns: at most so many Rollouts in progress, first come first served (design section 18.5). Pure.

Who is in progress, who is in line and since when are read from stored statuses, so that a restart or another leader
finds the line as it was. The claim of a place is the status that says that the attempt began.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from operator import attrgetter

from rollouts.engine.draft import Draft, Said
from rollouts.engine.observation import TurnView
from rollouts.engine.reasons import Reason

__all__ = ["Contender", "LimitPlace", "LimitScope", "concerned", "turn_of", "waits_for_turn"]

_NAMED = 2
"""Rollouts that a message names: more would make it longer than a line."""
_COUNTED = 10
"""From here on a message says no exact number: else each one that begins would have all that wait write a status."""


class LimitScope(Enum):
    """What a limit counts over, narrowest first: the names of the fields of ``parallelism``."""

    POOL = "pool"
    NAMESPACE = "namespace"
    CONTROLLER = "controller"


@dataclass(frozen=True, slots=True)
class LimitPlace:
    """What there are so many places in. ``name`` is a namespace, or ``namespace/pool``; empty for the controller."""

    scope: LimitScope
    name: str = ""

    def __hash__(self) -> int:
        """Of the texts: a walk along a line of a thousand asks thousands of times, and an enum's own is slow."""
        return hash((self.scope.value, self.name))

    def __str__(self) -> str:
        """As messages say it."""
        if self.scope is LimitScope.CONTROLLER:
            return "under this controller"
        return f"{'on' if self.scope is LimitScope.POOL else 'in'} {self.scope.value} {self.name}"


@dataclass(frozen=True, slots=True, order=True)
class Contender:
    """A Rollout in line, or one that asks now, in the order of the line. ``name`` is ``namespace/name``."""

    since: datetime
    uid: str
    name: str = field(compare=False)
    places: tuple[LimitPlace, ...] = field(compare=False)
    """Those that are limited, narrowest first."""


class _Room:
    """Places that are left, as those in line take them one after the other.

    One in front that cannot begin yet for want of a place does not hold up others, except for its pools: it may need
    two at once, and would never find both free.
    """

    def __init__(self, taken: Mapping[LimitPlace, Sequence[str]], limits: Mapping[LimitScope, int]) -> None:
        self._taken = {place: len(names) for place, names in taken.items()}
        self._limits = limits

    def full(self, place: LimitPlace) -> bool:
        return self._taken.get(place, 0) >= self._limits[place.scope]

    def admit(self, one: Contender) -> bool:
        """Whether there is a place in all that it needs; they are taken then."""
        fits = not any(map(self.full, one.places))
        for place in one.places:
            if fits or place.scope is LimitScope.POOL:
                self._taken[place] = self._taken.get(place, 0) + 1
        return fits


def turn_of(
    me: Contender,
    line: Sequence[Contender],
    taken: Mapping[LimitPlace, Sequence[str]],
    limits: Mapping[LimitScope, int],
) -> TurnView | None:
    """What keeps ``me`` from beginning; None when it may. ``taken`` has the names of those in progress."""
    mine = (me.since, me.uid)
    ahead = sorted(
        (other for other in line if (other.since, other.uid) < mine and other.uid != me.uid),
        key=attrgetter("since", "uid"),
    )
    room = _Room(taken, limits)
    for other in ahead:
        room.admit(other)
    full = [place for place in me.places if room.full(place)]
    if not full:
        return None
    # Where all places are taken tells more than where somebody in front is about to take the last one.
    where = next((place for place in full if _Room(taken, limits).full(place)), full[0])
    return TurnView(
        where=str(where),
        limit=limits[where.scope],
        holders=tuple(sorted(taken.get(where, ()))),
        ahead=tuple(other.name for other in ahead if where in other.places),
    )


def concerned(
    line: Sequence[Contender],
    taken: Mapping[LimitPlace, Sequence[str]],
    limits: Mapping[LimitScope, int],
    most: int = _COUNTED,
) -> list[Contender]:
    """Whom a change of the line concerns: those whose turn it is, and the first ``most``, who say their number."""
    room = _Room(taken, limits)
    return [one for number, one in enumerate(sorted(line)) if room.admit(one) or number < most]


def waits_for_turn(draft: Draft) -> Said | None:
    """Reason and message while an attempt that could begin has to wait; it is in line from then on.

    A way back by the rollback window and ``promote --full`` wait for nobody.
    """
    view = draft.obs.turn
    if view is None or draft.current.skip_gates:
        return None
    if draft.current.queued_at is None:
        draft.set_current(queued_at=draft.now)
    return (
        Reason.WAITING_FOR_TURN,
        f"{_rank(view)}; `rollouts promote {draft.obs.name} --full` does not wait",
    )


def _rank(view: TurnView) -> str:
    present = f"{len(view.holders)} of {view.limit} rollouts in progress {view.where}"
    if len(view.ahead) > _COUNTED:
        return f"more than {_COUNTED} are in line before it: {present}"
    if not view.ahead:
        return f"next in line: {present}{f' ({_names(view.holders)})' if view.holders else ''}"
    return f"{_ordinal(len(view.ahead) + 1)} in line behind {_names(view.ahead)}: {present}"


def _names(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return " and ".join([*names[:_NAMED], *([f"{more} more"] if more > 0 else [])])


def _ordinal(number: int) -> str:
    """Of 2 to 11."""
    return str(number) + {2: "nd", 3: "rd"}.get(number, "th")
