"""``rollouts report``: one attempt as a self-contained file, for a change ticket."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from rollouts.cli.connect import (
    EXIT_CODES,
    connection_options,
    default_namespace,
    fetch,
    fetch_runs,
    with_client,
)
from rollouts.cli.rollout_argument import rollout_argument
from rollouts.cli.strategies import fetch_strategy
from rollouts.kube.client import KubeClient
from rollouts.kube.errors import KubeError
from rollouts.kube.kubeconfig import ContextChoice
from rollouts.kube.paging import list_all
from rollouts.objects import kinds
from rollouts.objects.fields import text_at
from rollouts.report.page import report_page
from rollouts.report.reading import AttemptReport, NoAttemptError, read_attempt
from rollouts.report.words import report_json, report_markdown
from rollouts.terminal import document

__all__ = ["fetch_events", "report"]

Object = dict[str, Any]


async def fetch_events(client: KubeClient, rollout: Object) -> list[Object] | None:
    """The Events about a Rollout that the cluster still has, oldest first; None where they cannot be read."""
    meta = rollout["metadata"]
    try:
        found = await list_all(client, kinds.EVENT, meta["namespace"])
    except KubeError:
        return None
    ours = [event for event in found if text_at(event, "involvedObject", "uid") == meta.get("uid")]
    return sorted(
        ours, key=lambda event: str(event.get("lastTimestamp") or event["metadata"].get("creationTimestamp"))
    )


@click.command(epilog=EXIT_CODES)
@rollout_argument()
@connection_options
@click.option(
    "-o",
    "--output",
    type=click.Choice(["html", "json", "md"]),
    default="html",
    help="html: one file without script that fetches nothing; json: every figure; md: for a ticket without HTML.",
)
@click.option("--attempt", type=click.IntRange(min=1), help="Number of the attempt; else the newest.")
def report(
    name: str,
    namespace: str | None,
    kubeconfig: str | None,
    context: ContextChoice,
    output: str,
    attempt: int | None,
) -> None:
    """Write what is known of an attempt of Rollout NAME to standard output."""
    where = namespace or default_namespace(kubeconfig, context)

    async def work(client: KubeClient) -> AttemptReport:
        rollout = await fetch(client, where, name)
        runs, events = await fetch_runs(client, rollout), await fetch_events(client, rollout)
        return read_attempt(rollout, runs, events, attempt, await fetch_strategy(client, rollout))

    try:
        found = with_client(kubeconfig, context, work)
    except NoAttemptError as error:
        raise click.UsageError(str(error)) from None
    now = datetime.now(UTC)
    if output == "json":
        document(report_json(found))
    elif output == "md":
        document(report_markdown(found, now), nl=False)
    else:
        document(report_page(found, now), nl=False)
