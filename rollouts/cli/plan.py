"""`rollouts plan`: how long the gates of a file's Rollouts take, and what they will be able to tell."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from rollouts.api.scalars import parse_time
from rollouts.cli.connect import connection_options
from rollouts.cli.given_files import FILE, FILE_OR_STDIN, BadInput, load_documents
from rollouts.cli.lint_kinds import is_ours
from rollouts.cli.plan_around import surroundings_of
from rollouts.cli.plan_attempt import AttemptPlan, Figures, plan_attempt
from rollouts.cli.plan_table import table_of
from rollouts.kube.kubeconfig import ContextChoice
from rollouts.objects.fields import metadata_of, text_of
from rollouts.terminal import console, document, say

__all__ = ["plan_command"]

Object = Mapping[str, Any]


@click.command("plan")
@click.argument("file", type=FILE_OR_STDIN)
@click.option("--name", metavar="NAME|NAMESPACE/NAME", help="The Rollout of FILE to plan; else all of them.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Requests per second, both arms.")
@click.option("--stable-pods", type=click.IntRange(min=1), help="Stable pods.")
@click.option("--canary-pods", type=click.IntRange(min=1), help="Canary pods; else what the weight asks for.")
@click.option(
    "--gpus-per-pod",
    type=click.IntRange(min=1),
    help="Else as the target's workload in FILE or the cluster says.",
)
@click.option(
    "--companion-pods",
    type=click.IntRange(min=0),
    multiple=True,
    help="Pods of stable's companion (prefill beside decode); once for each role, in their order.",
)
@click.option("--history", type=FILE, help="A recording: rate, pods and noise are taken from it.")
@click.option(
    "--live",
    is_flag=True,
    help="Also ask the cluster: what it names, freezes, who is in progress, who goes first.",
)
@click.option("--start", metavar="TIME", help="When it would begin, as 2026-12-18T15:00:00Z; else now.")
@connection_options
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def plan_command(
    file: Path,
    name: str | None,
    live: bool,
    start: str | None,
    namespace: str | None,
    kubeconfig: str | None,
    context: ContextChoice,
    output: str,
    **said: Any,
) -> None:
    """Say how long each gate of the Rollouts in FILE will take and the smallest regression it can prove.

    FILE may be - for standard input.

    AnalysisTemplates and shared strategies that they name are further documents of FILE, and so is what they would
    wait for besides (RolloutFreezes, Rollouts that go first, a controller); with --live the cluster is asked for all of
    these. Of several Rollouts each is planned alone, with the same rate and pods; --name chooses one.

    A Rollout that nothing judges is no error; one that cannot be planned (no --rate, say) is exit status 2, and an
    `error` in JSON, alone or beside others. JSON has no `end` where a person or a Job is waited for.

    FINDS: the time in which a canary that is so much worse is aborted; FLOOR: the smallest regression that these pods
    can ever tell from their own differences.
    """
    documents = [one for one in load_documents(file) if isinstance(one, dict)]
    chosen, begins, figures = _rollouts_in(file, documents, name), _start(start), Figures(**said)

    def plan(rollout: Object) -> AttemptPlan:
        around = surroundings_of(rollout, documents, live, namespace, kubeconfig, context)
        return plan_attempt(rollout, around, figures, begins, file)

    if len(chosen) > 1:
        tell = _write_several if output == "json" else _show_several
        if not tell(chosen, plan):
            raise click.exceptions.Exit(BadInput.exit_code)
        return
    if output == "json":
        _write(chosen[0], plan)
    else:
        _show(plan(chosen[0]))


def _rollouts_in(file: Path, documents: Sequence[dict[str, Any]], name: str | None) -> list[dict[str, Any]]:
    """The Rollouts of a file, or those of them that have the name; raises BadInput where there is none."""
    called = [one for one in documents if one.get("kind") == "Rollout"]
    # One of another tool is told what is wrong with it where it is all there is.
    found = [one for one in called if is_ours(one)] or called[:1]
    if not found:
        raise BadInput(f"{file}: no document of kind Rollout")
    chosen = [one for one in found if name in (None, _shown(one), text_of(metadata_of(one).get("name")))]
    if not chosen:
        raise BadInput(f"{file}: no Rollout {name}; there are {', '.join(map(_shown, found))}")
    return chosen


def _shown(rollout: Object) -> str:
    meta = metadata_of(rollout)
    parts = (text_of(meta.get("namespace")), text_of(meta.get("name")))
    return "/".join(filter(None, parts)) or "without a name"


def _show_several(rollouts: Sequence[Object], plan: Callable[[Object], AttemptPlan]) -> bool:
    """Each under its name; whether all could be planned: one that cannot hides no other."""
    fine = True
    for index, rollout in enumerate(rollouts):
        if index:
            say("")
        say(f"Rollout {_shown(rollout)}:")
        try:
            _show(plan(rollout))
        except BadInput as error:
            say(f"Not planned: {error.message}")
            fine = False
    return fine


def _write(rollout: Object, plan: Callable[[Object], AttemptPlan]) -> None:
    """One alone as JSON: its plan, or why there is none, which ends the command as elsewhere."""
    try:
        told = plan(rollout).to_json()
    except BadInput as error:
        document(json.dumps({"error": error.message}))
        raise click.exceptions.Exit(error.exit_code) from None
    document(json.dumps(told, allow_nan=False))


def _write_several(rollouts: Sequence[Object], plan: Callable[[Object], AttemptPlan]) -> bool:
    """The same as JSON: what is written of one alone, with its name, or why there is no plan."""
    rows, fine = list[dict[str, Any]](), True
    for rollout in rollouts:
        meta = metadata_of(rollout)
        try:
            told = plan(rollout).to_json()
        except BadInput as error:
            told, fine = {"error": error.message}, False
        rows.append({key: text_of(meta.get(key)) for key in ("namespace", "name")} | told)
    document(json.dumps({"rollouts": rows}, allow_nan=False))
    return fine


def _show(plan: AttemptPlan) -> None:
    for line in plan.before_table():
        say(line)
    if plan.rows:
        console().print(table_of(plan.rows))
    else:
        say("No gates: nothing judges the canary.")
    for line in plan.after_table():
        say(line)


def _start(text: str | None) -> datetime:
    if text is None:
        return datetime.now(UTC)
    try:
        return parse_time(text)
    except ValueError as error:
        raise click.UsageError(f"--start: {error}") from None
