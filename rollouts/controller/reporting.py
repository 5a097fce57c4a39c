"""What the leading controller says of its configuration, on its Lease: ``doctor``, ``plan`` and ``lint`` read it there.

Only the process that leads knows what it was started with, and only it writes its Lease. What it said goes with its
identity: the word of a former leader, which another version may not have taken back, counts for nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rollouts.controller.notification_settings import ReceiverType
from rollouts.controller.settings import Settings
from rollouts.objects.fields import list_of, map_of, metadata_of, text_at, text_of

__all__ = ["REPORT_ANNOTATION", "ControllerReport", "read_report", "report_annotations", "report_of"]

REPORT_ANNOTATION = "inferencerollouts.dev/controller"
"""JSON, without addresses and credentials: names that a Rollout may use, and which parts are switched on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerReport:
    """``source`` tells whose: ``Lease namespace/name``. No ``namespaces``: all are watched.

    ``approvers``: receivers that answer approvals, each with the namespaces that may ask it, none: all.
    ``parallelism``: limits by scope.
    """

    source: str
    namespaces: tuple[str, ...] = ()
    freezes: bool = False
    capacity: tuple[str, ...] = ()
    """Kinds of workloads that may be scaled."""
    approvers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    parallelism: Mapping[str, int] = field(default_factory=dict)

    def watches(self, namespace: str) -> bool:
        """Whether Rollouts of the namespace are this controller's."""
        return not self.namespaces or namespace in self.namespaces

    def answering(self, namespace: str) -> list[str]:
        """Names of the receivers that answer approvals of the namespace."""
        return sorted(name for name, spaces in self.approvers.items() if not spaces or namespace in spaces)


def report_of(settings: Settings, source: str) -> ControllerReport:
    """What a controller with these settings has to say."""
    receivers = settings.notifications.receivers.values()
    return ControllerReport(
        source=source,
        namespaces=settings.namespaces,
        freezes=settings.freezes,
        capacity=settings.capacity_kinds,
        approvers={
            one.name: tuple(sorted(one.namespaces)) for one in receivers if one.type is ReceiverType.WEBHOOK
        },
        parallelism={scope.value: limit for scope, limit in settings.parallelism.items()},
    )


def report_annotations(settings: Settings, identity: str) -> dict[str, str]:
    """The annotation of the Lease that ``identity`` holds."""
    said = {**asdict(report_of(settings, "")), "holder": identity}
    del said["source"]
    return {REPORT_ANNOTATION: json.dumps(said, sort_keys=True, separators=(",", ":"))}


def read_report(lease: Mapping[str, Any]) -> ControllerReport | None:
    """The word of whoever holds the Lease; None where that one said nothing. Never raises."""
    meta, holder = metadata_of(lease), text_at(lease, "spec", "holderIdentity")
    try:
        said = map_of(json.loads(text_of(map_of(meta.get("annotations")).get(REPORT_ANNOTATION))))
    except (ValueError, RecursionError):
        return None
    if not holder or said.get("holder") != holder:
        return None
    limits = map_of(said.get("parallelism")).items()
    return ControllerReport(
        source=f"Lease {text_of(meta.get('namespace'))}/{text_of(meta.get('name'))}",
        namespaces=_texts(said.get("namespaces")),
        freezes=said.get("freezes") is True,
        capacity=_texts(said.get("capacity")),
        approvers={str(name): _texts(spaces) for name, spaces in map_of(said.get("approvers")).items()},
        parallelism={str(scope): limit for scope, limit in limits if isinstance(limit, int)},
    )


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(one for one in list_of(value) if isinstance(one, str))
