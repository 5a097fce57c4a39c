"""How Pods are deleted where a kubelet confirms their end: a deadline first, and the object goes with grace 0.

Rules of the API server: ``podStrategy.CheckGracefulDelete`` (what the grace is) and ``rest.BeforeDelete`` (one that is
under way may only be shortened).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

__all__ = ["grace_of", "terminating"]

Object = dict[str, Any]

_DEFAULT_GRACE = 30
"""Of ``spec.terminationGracePeriodSeconds``, which the API server fills in."""
_ENDED = ("Succeeded", "Failed")


def grace_of(pod: Object, asked: int | None) -> int:
    """Seconds until the Pod is killed; 0 removes it: nothing runs of one that has no node, or has ended."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    if not spec.get("nodeName") or status.get("phase") in _ENDED:
        return 0
    grace = asked if asked is not None else int(spec.get("terminationGracePeriodSeconds", _DEFAULT_GRACE))
    return 1 if grace < 0 else grace


def terminating(pod: Object, grace: int, now: datetime) -> bool:
    """Set the deadline, in place; False where an earlier one stays."""
    meta = pod["metadata"]
    if "deletionTimestamp" in meta and grace >= int(meta.get("deletionGracePeriodSeconds") or 0):
        return False
    if "deletionTimestamp" not in meta and "generation" in meta:
        meta["generation"] += 1
    meta["deletionTimestamp"] = f"{now + timedelta(seconds=grace):%Y-%m-%dT%H:%M:%SZ}"
    meta["deletionGracePeriodSeconds"] = grace
    return True
