"""Talking to the API server from a command: one client, one namespace, errors in words."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import yaml

from rollouts.controller import kinds
from rollouts.controller.caches import owner_of
from rollouts.kube.client import KubeClient
from rollouts.kube.errors import Forbidden, KindNotServed, KubeError, NotFound

__all__ = ["EXIT_CODES", "connection_options", "default_namespace", "fetch", "fetch_runs", "with_client"]

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
    """``-n``, ``--kubeconfig``, ``--context``."""
    for option in (
        click.option("--context", help="Context of the kubeconfig."),
        click.option(
            "--kubeconfig", help="Kubeconfig file; else $KUBECONFIG, the pod's account, ~/.kube/config."
        ),
        click.option("-n", "--namespace", help="Namespace; else the context's."),
    ):
        command = option(command)
    return command


def default_namespace(kubeconfig: str | None, context: str | None) -> str:
    """The namespace of the context, ``default`` where it names none."""
    path = kubeconfig or os.environ.get("KUBECONFIG", "").split(os.pathsep)[0] or "~/.kube/config"
    try:
        data = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
        name = context or data.get("current-context")
        for item in data.get("contexts") or []:
            if item.get("name") == name:
                return str((item.get("context") or {}).get("namespace") or "default")
    except (OSError, yaml.YAMLError, AttributeError):
        return "default"
    return "default"


def with_client(kubeconfig: str | None, context: str | None, work: Callable[[KubeClient], Awaitable[T]]) -> T:
    """Run ``work`` with a client; transport errors end the command with a sentence."""
    from rollouts.kube.http import open_client

    async def run() -> T:
        async with await open_client(kubeconfig, context, field_manager="rollouts-cli") as client:
            return await work(client)

    try:
        return asyncio.run(run())
    except KindNotServed:
        raise _Unreachable(
            "the cluster serves no Rollouts: install the CRDs (`rollouts crds | kubectl apply -f -`)"
        ) from None
    except Forbidden as error:
        raise _Unreachable(f"not allowed: {error}") from None
    except KubeError as error:
        raise _Unreachable(f"the API server could not be asked: {error}") from None


class _Missing(click.ClickException):
    exit_code = 2


class _Unreachable(click.ClickException):
    exit_code = 3


async def fetch(client: KubeClient, namespace: str, name: str) -> dict[str, Any]:
    """One Rollout; ends the command where there is none."""
    try:
        return await client.get(kinds.ROLLOUT, namespace, name)
    except NotFound:
        raise _Missing(f"there is no Rollout {name} in namespace {namespace}") from None


async def fetch_runs(client: KubeClient, rollout: dict[str, Any]) -> list[dict[str, Any]]:
    """The AnalysisRuns that a Rollout owns, oldest first; not those of a namesake that was there before it."""
    meta = rollout["metadata"]
    page = await client.list_page(kinds.ANALYSIS_RUN, meta["namespace"])
    ours = (meta["name"], meta.get("uid"))
    owned = [run for run in page.items if owner_of(run, kinds.ROLLOUT.kind) == ours]
    return sorted(owned, key=lambda run: str(run["metadata"].get("creationTimestamp", "")))
