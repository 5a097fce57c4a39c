"""What the controllers say of their configuration, against what Rollouts and freezes ask of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rollouts.api.freezes import freeze_view, read_freeze
from rollouts.api.parsing import ParsedRollout, parse_rollout
from rollouts.cli.controllers import approvals_asked, fetch_reports
from rollouts.cli.doctor_workloads import workload_checks
from rollouts.cli.findings import Check, bad, fine, warn
from rollouts.cli.readable import list_or_none
from rollouts.cli.strategies import fetch_strategy
from rollouts.controller.reporting import ControllerReport
from rollouts.engine.attempt import PinnedStrategy
from rollouts.kube.client import KubeClient
from rollouts.objects import kinds

__all__ = ["configuration_checks", "controller_checks", "freeze_checks"]

_SHOWN = 3
"""Names of freezes in one sentence."""


async def configuration_checks(
    client: KubeClient, rollouts: Sequence[Mapping[str, Any]], namespaces: Sequence[str]
) -> AsyncIterator[Check]:
    """All of it. ``namespaces``: that of the Rollouts, and others where their controller's Lease may be."""
    reports = await fetch_reports(client, namespaces)
    freezes = await list_or_none(client, kinds.ROLLOUT_FREEZE, None) or []
    for check in freeze_checks(freezes, reports, namespaces[0], datetime.now(UTC)):
        yield check
    for obj in rollouts:
        live = await fetch_strategy(client, obj)
        parsed = parse_rollout(obj, strategy=live if isinstance(live, PinnedStrategy) else None)
        for check in controller_checks(parsed, reports):
            yield check
        async for check in workload_checks(client, obj, parsed):
            yield check


def freeze_checks(
    freezes: Sequence[Mapping[str, Any]], reports: Sequence[ControllerReport], namespace: str, now: datetime
) -> Iterator[Check]:
    """Freezes that hold, or will, and that nobody obeys."""
    names = [one.name for one in map(read_freeze, freezes) if freeze_view(one, now) is not None]
    if not names:
        return
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    what = f"RolloutFreeze {shown} exist{'s' if len(names) == 1 else ''}"
    watching = [one for one in reports if one.watches(namespace)]
    for one in watching:
        if one.freezes:
            yield fine(f"{what}, and the controller of {one.source} obeys")
        else:
            yield bad(
                f"{what}, and the controller of {one.source} was started without --freezes: nobody is held up",
                "set freezes: true in the values of the chart, or start the controller with --freezes",
            )
    if not watching:
        yield warn(
            f"{what}: whether the controller of namespace {namespace} obeys is not known, no Lease says so",
            "ask as somebody who may list Leases; see that a controller leads, and was started with --freezes",
        )


def controller_checks(parsed: ParsedRollout, reports: Sequence[ControllerReport]) -> Iterator[Check]:
    """What a Rollout asks of its controller, and that one was not told."""
    if not reports or parsed.spec is None:
        return
    where = f"Rollout {parsed.name}"
    watching = [one for one in reports if one.watches(parsed.namespace)]
    if not watching:
        known = ", ".join(one.source for one in reports)
        yield bad(
            f"{where}: none of the controllers ({known}) watches namespace {parsed.namespace}",
            "add it to watch.namespaces of the chart, or start a controller with --namespace for it",
        )
    for one in watching:
        there = one.answering(parsed.namespace)
        for index, name in approvals_asked(parsed):
            if name not in there:
                yield bad(
                    f"{where}: step {index + 1} asks {name}, and the controller of {one.source} has no receiver "
                    f"of type webhook with that name for namespace {parsed.namespace}; there are "
                    f"{', '.join(there) or 'none'}",
                    "add it under notifications.receivers of the controller's configuration, or correct the name",
                )
        if parsed.spec.canary.capacity is not None and not one.capacity:
            yield bad(
                f"{where}: strategy.canary.capacity is set, and the controller of {one.source} may scale nothing",
                "set capacity.enabled: true in the values of the chart",
            )
