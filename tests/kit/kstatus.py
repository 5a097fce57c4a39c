"""What Flux, ``kubectl wait``'s kin and other users of kstatus make of an object.

Source: sigs.k8s.io/cli-utils, pkg/kstatus/status (README and generic.go): the rules for custom resources.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

__all__ = ["Kstatus", "kstatus"]


class Kstatus(Enum):
    """The result."""

    IN_PROGRESS = "InProgress"
    FAILED = "Failed"
    CURRENT = "Current"
    TERMINATING = "Terminating"


def kstatus(obj: Mapping[str, Any]) -> Kstatus:
    """The status of a custom resource. An object without conditions is Current."""
    meta, status = obj.get("metadata") or {}, obj.get("status") or {}
    if meta.get("deletionTimestamp"):
        return Kstatus.TERMINATING
    if "observedGeneration" in status and status["observedGeneration"] != meta.get("generation"):
        return Kstatus.IN_PROGRESS
    conditions = status.get("conditions") or []
    for condition in conditions:
        if (condition["type"], condition["status"]) == ("Reconciling", "True"):
            return Kstatus.IN_PROGRESS
        if (condition["type"], condition["status"]) == ("Stalled", "True"):
            return Kstatus.FAILED
    ready = {condition["status"] for condition in conditions if condition["type"] == "Ready"}
    return Kstatus.IN_PROGRESS if ready - {"True"} else Kstatus.CURRENT
