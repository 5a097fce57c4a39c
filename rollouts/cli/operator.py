"""``get``: looking at rollouts."""

from __future__ import annotations

import json
from typing import Any

import click
import yaml

from rollouts.cli.connect import (
    EXIT_CODES,
    Missing,
    connection_options,
    default_namespace,
    fetch,
    fetch_runs,
    with_client,
)
from rollouts.cli.rollout_argument import rollout_argument
from rollouts.cli.table import rollout_table
from rollouts.kube.client import KubeClient
from rollouts.kube.kubeconfig import ContextChoice
from rollouts.kube.paging import list_all
from rollouts.objects import kinds
from rollouts.terminal import console, document, say

__all__ = ["get"]


@click.command(epilog=EXIT_CODES)
@rollout_argument(required=False)
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
    where = "" if all_namespaces else namespace or default_namespace(kubeconfig, context)
    one = name is not None and not all_namespaces

    async def work(client: KubeClient) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        if not one:
            objects = await list_all(client, kinds.ROLLOUT, where or None)
            return [obj for obj in objects if name in (None, obj["metadata"]["name"])], []
        rollout = await fetch(client, where, name or "")
        return [rollout], await fetch_runs(client, rollout) if output == "text" else []

    objects, runs = with_client(kubeconfig, context, work)
    if name is not None and not objects:
        raise Missing(f"there is no Rollout {name} in any namespace")
    if output in ("json", "yaml"):
        _document(objects, output, one=one)
    elif one and output == "text":
        from rollouts.cli.render import rollout_view  # reads models, which a table has no use for

        console().print(rollout_view(objects[0], runs))
    elif objects:
        console().print(rollout_table(objects, wide=output == "wide", namespaces=all_namespaces))
    else:
        say(f"No Rollouts in {f'namespace {where}' if where else 'any namespace'}.")


def _document(objects: list[dict[str, Any]], form: str, *, one: bool) -> None:
    from rollouts.cli.render import summary

    found = [summary(obj) for obj in objects]
    data: Any = found[0] if one else found
    if form == "json":
        document(json.dumps(data, indent=2))
    else:
        document(yaml.safe_dump(data, sort_keys=False), nl=False)
