"""``rollouts status``: where a Rollout stands, for people and for CI, which waits for its own change to end."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import click

from rollouts.api.parsing import COMMIT_ANNOTATION, parse_rollout
from rollouts.cli.connect import (
    Missing,
    ServerUnreachable,
    connection_options,
    default_namespace,
    fetch,
    limit_of,
    with_client,
)
from rollouts.cli.following import follow
from rollouts.cli.outcomes import WaitedFor, WaitOutcome, outcome_of, wanted_of
from rollouts.cli.render import summary
from rollouts.cli.rollout_argument import rollout_argument
from rollouts.engine.rollout_status import Phase
from rollouts.kube.client import KubeClient
from rollouts.kube.kubeconfig import ContextChoice
from rollouts.terminal import document, say

__all__ = ["status"]

_INVALID_SECONDS = 15.0
"""Files of one commit are applied one after the other: a template that comes after its Rollout makes it Invalid for
a moment."""
_AWAY_SECONDS = 300.0
"""Without --timeout: an API server that is upgraded is back within five minutes."""

Object = Mapping[str, Any]


@dataclass(slots=True, kw_only=True)
class _Wait:
    """One wait: what ends it, and what was seen so far. Times are the event loop's, in seconds."""

    where: str
    wanted: WaitedFor
    on_pause: str
    quiet: bool
    until: float
    obj: Object | None = None
    seen: bool = False
    outcome: WaitOutcome = WaitOutcome.RUNNING
    invalid_until: float = float("inf")
    away: str = ""
    away_until: float = float("inf")
    told: str = ""

    @property
    def alarm(self) -> float | None:
        """When the wait is given up."""
        soonest = min(self.until, self.invalid_until, self.away_until)
        return None if soonest == float("inf") else soonest

    def look(self, obj: Object | None) -> bool:
        """Take a new state in; whether the wait is over."""
        if obj is None and self.wanted == WaitedFor():
            raise Missing(f"there is no Rollout {self.where}")
        self.obj = obj
        asked = obj is not None and self.wanted.asked_for(obj)
        if obj is not None and asked:
            self.outcome = outcome_of(obj)
        else:
            self.outcome = WaitOutcome.OVERTAKEN if self.seen and obj is not None else WaitOutcome.RUNNING
        self.seen = self.seen or asked
        self._tell(obj, asked=asked)
        if self.outcome is WaitOutcome.STOPPED and obj is not None and _is_invalid(obj):
            self.invalid_until = min(self.invalid_until, asyncio.get_running_loop().time() + _INVALID_SECONDS)
            return False
        self.invalid_until = float("inf")
        return self.outcome is not WaitOutcome.RUNNING and (
            self.outcome is not WaitOutcome.PAUSED or self.on_pause != "wait"
        )

    def _tell(self, obj: Object | None, *, asked: bool) -> None:
        if obj is None:
            line = f"{self.where} does not exist yet"
        elif asked:
            line = _line(obj)
        elif self.seen:
            line = f"overtaken: not {self.wanted} is asked for any more, but {wanted_of(obj)}"
        else:
            line = f"waiting until {self.wanted} is asked for: now it is {wanted_of(obj)}"
        if line != self.told and not self.quiet:
            say(line)
        self.told = line

    def lost(self, reason: str) -> None:
        """The API server is away."""
        self.away, now = reason, asyncio.get_running_loop().time()
        self.away_until = now + _AWAY_SECONDS if self.until == float("inf") else float("inf")
        say(f"the API server cannot be asked, and is tried again: {reason}", err=True)

    def found(self) -> None:
        """It is back."""
        self.away, self.away_until = "", float("inf")
        say("the API server answers again", err=True)


def _is_invalid(obj: Object) -> bool:
    return parse_rollout(obj).status.phase is Phase.INVALID


def _line(obj: Object) -> str:
    """The phase and why; of what is not looked at yet there is none."""
    shown = summary(obj)
    if not shown["observed"]:
        return "waiting for the controller to look at it"
    return f"{shown['phase'] or 'New'}: {shown['message']}"


async def _follow(client: KubeClient, namespace: str, name: str, wait: _Wait) -> None:
    """Follow the Rollout until the wait is over or its time is."""
    try:
        async with asyncio.timeout_at(wait.alarm) as alarm:

            def lost(reason: str) -> None:
                wait.lost(reason)
                alarm.reschedule(wait.alarm)

            async with aclosing(follow(client, namespace, name, away=lost, back=wait.found)) as changes:
                async for obj in changes:
                    if wait.look(obj):
                        return
                    alarm.reschedule(wait.alarm)
    except TimeoutError:
        if wait.away:
            raise ServerUnreachable(f"the API server could not be asked: {wait.away}") from None
        if wait.outcome is not WaitOutcome.STOPPED:
            wait.outcome = WaitOutcome.RUNNING


STATUS_CODES = """\b
Exit status:
  0    Healthy: what was waited for is stable; or paused, with --on-pause succeed
  1    the rollout is Aborted or Invalid
  2    wrong usage, or no such Rollout
  3    the API server could not be asked, or was away until --timeout
  4    not over within --timeout
  5    it waits for a person, with --on-pause fail
  6    overtaken: another target, revision or commit is asked for meanwhile
  74   what it says cannot be written; 141: nobody reads it any more (a closed pipe)
  130  interrupted; the rollout goes on
"""


@click.command(epilog=STATUS_CODES)
@rollout_argument()
@connection_options
@click.option("--watch", "watching", is_flag=True, help="Wait for the end, one line per change.")
@click.option(
    "--for-target", metavar="NAME", default="", help="Wait until this pool or adapter is asked for and ended."
)
@click.option("--for-revision", metavar="REV", default="", help="The same for spec.target.revision.")
@click.option(
    "--for-commit", metavar="SHA", default="", help=f"The same for the annotation {COMMIT_ANNOTATION}."
)
@click.option(
    "--on-pause",
    type=click.Choice(["succeed", "fail", "wait"]),
    help="Where a person is waited for; a pause with a duration is none.  [default: wait]",
)
@click.option("--timeout", metavar="DURATION", help="Give up after this time.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
def status(
    name: str,
    namespace: str | None,
    kubeconfig: str | None,
    context: ContextChoice,
    watching: bool,
    for_target: str,
    for_revision: str,
    for_commit: str,
    on_pause: str | None,
    timeout: str | None,
    output: str,
) -> None:
    """Print the phase of a Rollout; with --watch wait for its end. For CI.

    --for-..., --on-pause and --timeout wait, too. An API server that is away is tried again until --timeout (else for
    five minutes), and --for-... waits for a Rollout that is not there yet.
    """
    where = namespace or default_namespace(kubeconfig, context)
    wanted = WaitedFor(target=for_target, revision=for_revision, commit=for_commit)
    waits = watching or wanted != WaitedFor() or on_pause is not None or timeout is not None
    limit = limit_of(timeout)

    async def work(client: KubeClient) -> _Wait:
        wait = _Wait(
            where=f"{where}/{name}",
            wanted=wanted,
            on_pause=on_pause or "wait",
            quiet=output == "json",
            until=asyncio.get_running_loop().time() + limit,
        )
        if waits:
            await _follow(client, where, name, wait)
        else:
            wait.look(await fetch(client, where, name))
        return wait

    try:
        doing = f"waiting for {where}/{name}" if waits and output == "json" else "asking the API server"
        wait = with_client(kubeconfig, context, work, doing="" if waits and output == "text" else doing)
    except KeyboardInterrupt:
        say(
            f"interrupted: rollout {where}/{name} goes on without us (`rollouts abort {name}` ends it)",
            err=True,
        )
        sys.exit(130)
    if output == "json":
        shown = summary(wait.obj) if wait.obj is not None else {"namespace": where, "name": name}
        document(json.dumps({**shown, "outcome": wait.outcome.name.title()}, indent=2))
    sys.exit(_exit_code(wait, waits=waits, on_pause=on_pause, timeout=timeout))


def _exit_code(wait: _Wait, *, waits: bool, on_pause: str | None, timeout: str | None) -> int:
    if wait.outcome is WaitOutcome.PAUSED:
        return 0 if on_pause != "fail" else WaitOutcome.PAUSED.value
    if wait.outcome is WaitOutcome.RUNNING:
        if waits:
            say(f"not over within {timeout}; the rollout goes on", err=True)
        return WaitOutcome.RUNNING.value if waits else 0
    code: int = wait.outcome.value
    return code
