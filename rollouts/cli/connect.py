"""Talking to the API server from a command: one client, one namespace, errors in words."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterable
from contextlib import nullcontext
from typing import Any, TypeVar

import click

from rollouts.cli.progress import progress
from rollouts.kube.client import KubeClient
from rollouts.kube.credentials import context_namespace
from rollouts.kube.errors import Forbidden, KindNotServed, KubeError, NotConfigured, NotFound
from rollouts.kube.kubeconfig import ContextChoice
from rollouts.kube.paging import list_all
from rollouts.objects import kinds
from rollouts.objects.owners import owner_of
from rollouts.units import parse_duration

__all__ = [
    "EXIT_CODES",
    "Missing",
    "ServerUnreachable",
    "connection_options",
    "default_namespace",
    "fetch",
    "fetch_runs",
    "limit_of",
    "owned_runs",
    "with_client",
]

T = TypeVar("T")

EXIT_CODES = """\b
Exit status:
  0  done, or the rollout is Healthy
  1  the rollout is Aborted or Invalid, or the command was rejected
  2  wrong usage, or no such Rollout
  3  the API server could not be asked
  4  not over within --timeout
"""


def connection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``-n``, ``--kubeconfig``, and ``context``: what ``--context``, ``--cluster`` and ``--user`` choose."""

    @functools.wraps(command)
    def called(*args: Any, cluster: str | None, user: str | None, context: str | None, **kwargs: Any) -> Any:
        choice = ContextChoice(context=context, cluster=cluster, user=user)
        return command(*args, context=choice, **kwargs)

    result: Callable[..., Any] = called
    for option in (
        click.option("--user", help="User of the kubeconfig, in place of the context's."),
        click.option("--cluster", help="Cluster of the kubeconfig, in place of the context's."),
        click.option("--context", help="Context of the kubeconfig."),
        click.option(
            "--kubeconfig", help="Kubeconfig file; else $KUBECONFIG, the pod's account, ~/.kube/config."
        ),
        click.option("-n", "--namespace", help="Namespace; else the context's."),
    ):
        result = option(result)
    return result


def default_namespace(kubeconfig: str | None, context: ContextChoice | str | None) -> str:
    """The namespace of the context, ``default`` where it names none; ends the command where there is no context."""
    try:
        return context_namespace(kubeconfig, context)
    except NotConfigured as error:
        raise ServerUnreachable(str(error)) from None


def with_client(
    kubeconfig: str | None,
    context: ContextChoice | str | None,
    work: Callable[[KubeClient], Awaitable[T]],
    *,
    doing: str = "asking the API server",
) -> T:
    """Run ``work`` with a client; transport errors end the command with a sentence.

    ``doing`` is shown while nothing else is; empty for work that prints by itself.
    """
    from rollouts.kube.http import open_client
    from rollouts.kube.versions import AnyVersion

    async def run() -> T:
        async with await open_client(kubeconfig, context, field_manager="rollouts-cli") as client:
            return await work(AnyVersion(client, kinds.OTHER_VERSIONS))

    try:
        with progress(doing) if doing else nullcontext():
            return asyncio.run(run())
    except KindNotServed:
        raise ServerUnreachable(
            "the cluster serves no Rollouts: install the CRDs (`rollouts crds | kubectl apply -f -`)"
        ) from None
    except Forbidden as error:
        raise ServerUnreachable(f"not allowed: {error}") from None
    except KubeError as error:
        raise ServerUnreachable(f"the API server could not be asked: {error}") from None


class Missing(click.ClickException):
    """There is no such object; exit status 2."""

    exit_code = 2


class ServerUnreachable(click.ClickException):
    """The API server could not be asked; exit status 3."""

    exit_code = 3


def limit_of(timeout: str | None) -> float:
    """Seconds of ``--timeout``; infinite where there is none. Raises UsageError."""
    if timeout is None:
        return float("inf")
    try:
        return parse_duration(timeout).total_seconds()
    except ValueError as error:
        raise click.UsageError(f"--timeout: {error}") from None


async def fetch(client: KubeClient, namespace: str, name: str) -> dict[str, Any]:
    """One Rollout; ends the command where there is none."""
    try:
        return await client.get(kinds.ROLLOUT, namespace, name)
    except NotFound:
        raise Missing(f"there is no Rollout {name} in namespace {namespace}") from None


async def fetch_runs(client: KubeClient, rollout: dict[str, Any]) -> list[dict[str, Any]]:
    """The AnalysisRuns that a Rollout owns, oldest first; not those of a namesake that was there before it."""
    found = await list_all(client, kinds.ANALYSIS_RUN, rollout["metadata"]["namespace"])
    return owned_runs(rollout, found)


def owned_runs(rollout: dict[str, Any], found: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the AnalysisRuns that the Rollout owns, oldest first."""
    ours = (rollout["metadata"]["name"], rollout["metadata"].get("uid"))
    owned = [run for run in found if owner_of(run, kinds.ROLLOUT.kind) == ours]
    return sorted(owned, key=lambda run: str(run["metadata"].get("creationTimestamp", "")))
