"""``promote``, ``abort``, ``retry``, ``pause``, ``resume``: one annotation, bound to revision, attempt and step.

The command waits until the controller has looked at it and says how it ended.
"""

from __future__ import annotations

import asyncio
import getpass
import json
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import click

from rollouts.api.parsing import COMMAND_ANNOTATION, parse_rollout
from rollouts.cli.connect import (
    EXIT_CODES,
    Missing,
    ServerUnreachable,
    connection_options,
    default_namespace,
    fetch,
    with_client,
)
from rollouts.cli.following import follow
from rollouts.cli.rollout_argument import rollout_argument
from rollouts.engine.rollout_status import CommandRecord, CommandResult
from rollouts.kube.client import KubeClient, PatchKind
from rollouts.kube.errors import Forbidden
from rollouts.kube.kubeconfig import ContextChoice
from rollouts.objects import kinds
from rollouts.terminal import say

__all__ = ["abort", "pause", "promote", "resume", "retry", "write_command"]

_WAIT = 30.0


def _raw(obj: dict[str, Any], action: str) -> str:
    parsed = parse_rollout(obj)
    revision = parsed.status.canary or parsed.status.stable
    if revision is None:
        raise click.ClickException(
            f"Rollout {parsed.namespace}/{parsed.name} has no revision yet: nothing to {action}"
        )
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return json.dumps(
        {
            "action": action,
            "revision": revision.hash,
            "attempt": parsed.status.attempt,
            "step": parsed.status.current_step,
            "at": f"{stamp}#{uuid.uuid4().hex[:8]}",
            "by": _user(),
        },
        separators=(",", ":"),
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


async def write_command(client: KubeClient, rollout: dict[str, Any], action: str) -> str:
    """Write the annotation, bound to what ``rollout`` says; answers its text. Raises KubeError."""
    raw, meta = _raw(rollout, action), rollout["metadata"]
    body = {"metadata": {"annotations": {COMMAND_ANNOTATION: raw}}}
    await client.patch(kinds.ROLLOUT, meta["namespace"], meta["name"], body, kind=PatchKind.MERGE)
    return raw


async def _send(client: KubeClient, namespace: str, name: str, action: str) -> CommandRecord | None:
    raw = await write_command(client, await fetch(client, namespace, name), action)
    seen: CommandRecord | None = None

    async def answered() -> None:
        nonlocal seen
        away, back = _outage(f"{action} was sent")
        async with aclosing(follow(client, namespace, name, away=away, back=back)) as states:
            async for obj in states:
                if obj is None:
                    raise Missing(f"{action} was sent, and Rollout {namespace}/{name} is gone since then")
                last = parse_rollout(obj).status.last_command
                seen = last if last is not None and last.raw == raw else seen
                if seen is not None and seen.result is not CommandResult.IN_PROGRESS:
                    return

    try:
        async with asyncio.timeout(_WAIT):
            await answered()
    except TimeoutError:
        pass
    except Forbidden as error:
        raise ServerUnreachable(f"{action} was sent; how it ends cannot be watched: {error}") from None
    return seen


def _outage(sent: str) -> tuple[Callable[[str], None], Callable[[], None]]:
    return (
        lambda reason: say(f"{sent}; the API server cannot be asked, and is tried again: {reason}", err=True),
        lambda: say("the API server answers again", err=True),
    )


def _command(
    action: str, name: str, namespace: str | None, kubeconfig: str | None, context: ContextChoice
) -> None:
    where = namespace or default_namespace(kubeconfig, context)
    try:
        last = with_client(
            kubeconfig,
            context,
            lambda client: _send(client, where, name, action),
            doing=f"waiting for the controller to look at {action}",
        )
    except KeyboardInterrupt:
        say(f"interrupted: `rollouts get {name}` says whether {action} was taken up", err=True)
        sys.exit(130)
    if last is None:
        say(
            f"{where}/{name}: {action} was sent, and the controller has not answered within {_WAIT:g} s: is it "
            "running?",
            err=True,
        )
        sys.exit(4)
    result = "in progress" if last.result is CommandResult.IN_PROGRESS else last.result.value.lower()
    say(f"{where}/{name}: {action} {result}: {last.message}")
    if last.result is CommandResult.REJECTED:
        sys.exit(1)
    if last.result is CommandResult.IN_PROGRESS:
        sys.exit(4)


@click.command(epilog=EXIT_CODES)
@rollout_argument()
@connection_options
@click.option("--full", is_flag=True, help="Skip all remaining pauses and gates; never readiness.")
def promote(
    name: str, namespace: str | None, kubeconfig: str | None, context: ContextChoice, full: bool
) -> None:
    """Leave the current pause or gate."""
    _command("promoteFull" if full else "promote", name, namespace, kubeconfig, context)


@click.command(epilog=EXIT_CODES)
@rollout_argument()
@connection_options
def abort(name: str, namespace: str | None, kubeconfig: str | None, context: ContextChoice) -> None:
    """Give all traffic to stable; terminal for this revision until `retry`."""
    _command("abort", name, namespace, kubeconfig, context)


@click.command(epilog=EXIT_CODES)
@rollout_argument()
@connection_options
def retry(name: str, namespace: str | None, kubeconfig: str | None, context: ContextChoice) -> None:
    """Start a new attempt at an aborted revision."""
    _command("retry", name, namespace, kubeconfig, context)


@click.command(epilog=EXIT_CODES)
@rollout_argument()
@connection_options
def pause(name: str, namespace: str | None, kubeconfig: str | None, context: ContextChoice) -> None:
    """Hold the steps; analysis and aborts go on."""
    _command("pause", name, namespace, kubeconfig, context)


@click.command(epilog=EXIT_CODES)
@rollout_argument()
@connection_options
def resume(name: str, namespace: str | None, kubeconfig: str | None, context: ContextChoice) -> None:
    """Release what `pause`, a manual override or a missed deadline holds."""
    _command("resume", name, namespace, kubeconfig, context)
