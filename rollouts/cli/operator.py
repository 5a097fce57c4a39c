"""``get``, ``watch``: looking at rollouts."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import click
import yaml
from rich.live import Live

from rollouts.cli.connect import (
    EXIT_CODES,
    connection_options,
    default_namespace,
    fetch,
    fetch_runs,
    limit_of,
    with_client,
)
from rollouts.cli.render import rollout_table, rollout_view, summary
from rollouts.kube.client import KubeClient
from rollouts.kube.kubeconfig import ContextChoice
from rollouts.kube.paging import list_all
from rollouts.objects import kinds
from rollouts.terminal import console, document, say

__all__ = ["get", "watch"]

_POLL = 0.5


@click.command(epilog=EXIT_CODES)
@click.argument("name", required=False)
@connection_options
@click.option("-A", "--all-namespaces", is_flag=True, help="Rollouts of all namespaces.")
@click.option("-o", "--output", type=click.Choice(["text", "json", "yaml", "wide"]), default="text")
def get(
    name: str | None,
    namespace: str | None,
    kubeconfig: str | None,
    context: ContextChoice,
    all_namespaces: bool,
    output: str,
) -> None:
    """Show all Rollouts as a table, or one in full."""
    where = "" if all_namespaces and name is None else namespace or default_namespace(kubeconfig, context)

    async def work(client: KubeClient) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        if name is None:
            return await list_all(client, kinds.ROLLOUT, None if all_namespaces else where), []
        rollout = await fetch(client, where, name)
        return [rollout], await fetch_runs(client, rollout)

    objects, runs = with_client(kubeconfig, context, work)
    if output in ("json", "yaml"):
        data: Any = [summary(obj) for obj in objects]
        data = data[0] if name is not None else data
        document(
            json.dumps(data, indent=2) if output == "json" else yaml.safe_dump(data, sort_keys=False),
            nl=output == "json",
        )
        return
    screen = console()
    if name is not None:
        screen.print(rollout_view(objects[0], runs))
    elif objects:
        screen.print(rollout_table(objects, wide=output == "wide", namespaces=all_namespaces))
    else:
        say(f"No Rollouts in {'any namespace' if all_namespaces else f'namespace {where}'}.")


@click.command(epilog=EXIT_CODES)
@click.argument("name")
@connection_options
@click.option("--timeout", metavar="DURATION", help="Stop watching after this time.")
def watch(
    name: str, namespace: str | None, kubeconfig: str | None, context: ContextChoice, timeout: str | None
) -> None:
    """Show one Rollout live, until interrupted."""
    where = namespace or default_namespace(kubeconfig, context)
    limit = limit_of(timeout)

    async def work(client: KubeClient) -> None:
        with Live(console=console(), refresh_per_second=4) as live:
            deadline = time.monotonic() + limit
            while time.monotonic() < deadline:
                obj = await fetch(client, where, name)
                live.update(rollout_view(obj, await fetch_runs(client, obj)))
                await asyncio.sleep(_POLL)

    try:
        with_client(kubeconfig, context, work)
    except KeyboardInterrupt:
        return
