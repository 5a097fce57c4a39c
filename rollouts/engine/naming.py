"""Names of the objects that an attempt creates: deterministic, so that a crash never makes a second one."""

from __future__ import annotations

import hashlib

from rollouts.engine.types import RolloutStatus

__all__ = ["background_run", "job_name", "renewed_background", "step_run"]

_LONGEST_BASE = 200
_LONGEST_JOB_BASE = 30
"""Job names end up in the label job-name, which takes 63 characters."""


def _shorten(name: str, limit: int) -> str:
    if len(name) <= limit:
        return name
    return name[: limit - 9].rstrip("-.") + "-" + hashlib.sha256(name.encode()).hexdigest()[:8]


def _base(rollout: str, status: RolloutStatus, limit: int = _LONGEST_BASE) -> str:
    revision = status.canary or status.stable
    digits = revision.short if revision is not None else "none"
    return f"{_shorten(rollout, limit)}-{digits}-{status.attempt}"


def background_run(rollout: str, status: RolloutStatus) -> str:
    """``<rollout>-<hash8>-<attempt>``: the run that lives as long as the attempt."""
    return _base(rollout, status)


def renewed_background(rollout: str, status: RolloutStatus, number: int) -> str:
    """The ``number``-th background run of an attempt, from 2: the one before was overridden."""
    return f"{_base(rollout, status)}-r{number}"


def step_run(rollout: str, status: RolloutStatus, index: int) -> str:
    """The run of an analysis step. The steps hash is part of it: edited steps run their gates again."""
    return f"{_base(rollout, status)}-{index}-{status.steps_hash[:6]}"


def job_name(rollout: str, status: RolloutStatus, index: int) -> str:
    """The Job of a job step."""
    return f"{_base(rollout, status, _LONGEST_JOB_BASE)}-{index}-{status.steps_hash[:6]}"
