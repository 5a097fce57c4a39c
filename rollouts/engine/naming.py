"""Names of the objects that an attempt creates: deterministic, so that a crash never makes a second one.

A name ends in the first characters of the Rollout's UID: a Rollout that was deleted and made anew under its old name
counts its attempts from 1 again, and what the old one left behind must not be taken for its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from rollouts.engine.rollout_status import RolloutStatus
from rollouts.engine.stamps import digits

__all__ = [
    "UID_DIGITS",
    "Owner",
    "background_run",
    "is_background",
    "is_of_attempt",
    "job_name",
    "renewed_background",
    "step_run",
]

UID_DIGITS = 5
"""Characters of the UID at the end of a name. Two UIDs may share them, so that whose an object is, is told by the
whole UID in its ownerReference; they only keep names apart."""

_LONGEST_BASE = 200
_LONGEST_JOB_BASE = 24
"""Job names end up in the label job-name, which takes 63 characters: 8 of the hash, 5 of the UID, 6 of the steps and
the numbers of attempt and step are left."""
_FORMER_JOB_BASE = 30
"""Before names ended in a UID."""
_WAYS_OUT = 16
"""Other names that are tried when somebody else's object has the first: enough for a person to notice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The Rollout that names are for, and what is there already.

    ``present`` are names of runs and Jobs that its UID owns, ``taken`` names like ours that others have.
    """

    name: str
    uid: str = ""
    present: frozenset[str] = frozenset()
    taken: frozenset[str] = frozenset()

    @property
    def digits(self) -> str:
        """What names end in; empty for an object that no API server has stored."""
        return self.uid[:UID_DIGITS]


def _shorten(name: str, limit: int) -> str:
    if len(name) <= limit:
        return name
    return name[: limit - 9].rstrip("-.") + "-" + hashlib.sha256(name.encode()).hexdigest()[:8]


def _base(owner: Owner, status: RolloutStatus, limit: int = _LONGEST_BASE) -> str:
    revision = status.canary or status.stable
    short = revision.short if revision is not None else "none"
    return f"{_shorten(owner.name, limit)}-{short}-{status.attempt}"


def _choose(owner: Owner, name: str, former: str) -> str:
    """``name`` with the UID's digits; the way out when another's object has that; ``former`` while ours has it.

    Releases before names ended in a UID used ``former``: an attempt that began under one of them keeps its objects.
    """
    if not owner.present and not owner.taken:
        return next(_candidates(owner, name))
    candidates = list(_candidates(owner, name))
    ours = (other for other in (former, *candidates) if other in owner.present)
    free = (other for other in candidates if other not in owner.taken)
    return next(ours, None) or next(free, candidates[-1])


def _candidates(owner: Owner, name: str) -> Iterator[str]:
    end = f"-{owner.digits}" if owner.digits else ""
    yield name + end
    for number in range(1, _WAYS_OUT):
        yield f"{name}-x{number}{end}"


def _steps(status: RolloutStatus) -> str:
    return digits(status.current.steps_hash if status.current is not None else "")


def background_run(owner: Owner, status: RolloutStatus) -> str:
    """``<rollout>-<hash8>-<attempt>-<uid5>``: the run that lives as long as the attempt."""
    name = _base(owner, status)
    return _choose(owner, name, name)


def renewed_background(owner: Owner, status: RolloutStatus, number: int) -> str:
    """The ``number``-th background run of an attempt, from 2: the one before was overridden."""
    name = f"{_base(owner, status)}-r{number}"
    return _choose(owner, name, name)


def step_run(owner: Owner, status: RolloutStatus, index: int) -> str:
    """The run of an analysis step. The steps hash is part of it: edited steps run their gates again."""
    name = f"{_base(owner, status)}-{index}-{_steps(status)}"
    return _choose(owner, name, name)


def job_name(owner: Owner, status: RolloutStatus, index: int) -> str:
    """The Job of a job step."""
    end = f"{index}-{_steps(status)}"
    former = f"{_base(owner, status, _FORMER_JOB_BASE)}-{end}"
    return _choose(owner, f"{_base(owner, status, _LONGEST_JOB_BASE)}-{end}", former)


def is_of_attempt(name: str, owner: Owner, status: RolloutStatus) -> bool:
    """Whether an object of the owner with this name belongs to the current attempt."""
    limits = (_LONGEST_BASE, _LONGEST_JOB_BASE, _FORMER_JOB_BASE)
    return any(f"{name}-".startswith(f"{_base(owner, status, limit)}-") for limit in limits)


def is_background(name: str, owner: Owner, status: RolloutStatus) -> bool:
    """Whether a run of the owner is the attempt's background run, or one that followed it after an override."""
    base = _base(owner, status)
    first = background_run(owner, status)
    return name == first or name.startswith(f"{base}-r")
