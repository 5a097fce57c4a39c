"""What ``rollouts plan`` knows of the world around a Rollout: by the files, and by the cluster where it may ask."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rollouts.cli.connect import default_namespace, with_client
from rollouts.cli.controllers import fetch_reports, file_reports
from rollouts.cli.lint_live import named_by
from rollouts.cli.plan_table import Total, spoken
from rollouts.cli.plan_waits import Surroundings, surroundings
from rollouts.cli.readable import listed
from rollouts.controller.reporting import ControllerReport
from rollouts.kube.client import KubeClient
from rollouts.kube.errors import Forbidden, NotFound
from rollouts.kube.kubeconfig import ContextChoice
from rollouts.kube.paging import list_all
from rollouts.objects import kinds
from rollouts.objects.fields import metadata_of, text_at, text_of
from rollouts.objects.workloads import AUTOSCALERS, WORKLOADS

__all__ = ["calendar_line", "surroundings_of"]

Object = Mapping[str, Any]


def surroundings_of(
    rollout: Object,
    documents: Sequence[Object],
    live: bool,
    namespace: str | None,
    kubeconfig: str | None,
    context: ContextChoice,
) -> Surroundings:
    """Of the documents of the file; with ``live`` of the cluster, too."""
    space = text_of(metadata_of(rollout).get("namespace")) or namespace or ""
    objects, reports = list(documents), list(file_reports(documents))
    if live:
        space = space or default_namespace(kubeconfig, context)
        found, said = with_client(kubeconfig, context, lambda client: _asked(client, rollout, space))
        objects, reports = [*objects, *found], said or reports
    return surroundings(rollout, objects, reports, space, live=live)


async def _asked(
    client: KubeClient, rollout: Object, namespace: str
) -> tuple[list[Object], list[ControllerReport]]:
    """Freezes, other Rollouts, the namespace, and what the Rollout names, as far as they may be read; controllers."""
    reports = await fetch_reports(client, [namespace])
    found: list[Object] = [*await listed(client, kinds.ROLLOUT_FREEZE, None)]
    for space in (None, namespace):
        try:
            others = await list_all(client, kinds.ROLLOUT, space)
        except Forbidden:
            continue
        found += [{**one, "kind": "Rollout"} for one in others]
        break
    with contextlib.suppress(Forbidden, NotFound):
        found.append(await client.get(kinds.NAMESPACE, None, namespace))
    found += (await named_by(client, rollout, namespace)).objects
    target = text_at(rollout, "spec", "target", "pool", "name")
    # Companions of the target say themselves that they are.
    for resource in (*kinds.POOLS, *WORKLOADS.values(), *AUTOSCALERS) if target else ():
        found += await listed(client, resource, namespace)
    return found, reports


def calendar_line(total: Total, start: datetime, end: datetime | None) -> str:
    """The same time with what the calendar adds."""
    if end is None:
        return "By the calendar: without end, as a freeze has none, no window comes, or a gate never passes."
    minutes = (end - start).total_seconds() / 60.0
    added = minutes - total.minutes
    more = f"; {spoken(added)} of it outside of windows, or frozen" if added >= 1 else ""
    span = f"from {start:%a %Y-%m-%d %H:%MZ} until {end:%a %Y-%m-%d %H:%MZ}"
    return f"By the calendar: about {spoken(minutes)}, {span}{more}."
