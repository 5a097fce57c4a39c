"""A Rollout as people read it: a header, the steps as a tree, verdicts, what to do next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from rollouts.api.parsing import ParsedRollout, parse_rollout
from rollouts.api.scalars import format_time
from rollouts.cli.gate_rows import gate_rows, overrider, reading
from rollouts.cli.table import ICONS
from rollouts.engine.naming import Owner, is_background, step_run
from rollouts.engine.rollout_spec import AnalysisStep
from rollouts.engine.rollout_status import RolloutStatus
from rollouts.engine.steps import describe
from rollouts.terminal import shown
from rollouts.units import format_weight

__all__ = ["rollout_view", "summary"]

_RUN_ICONS = {
    "Successful": ("✔", "green"),
    "Failed": ("✖", "red"),
    "Error": ("⚠", "red"),
    "Inconclusive": ("?", "yellow"),
    "Running": ("◌", "cyan"),
}


def summary(obj: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of ``get -o json``, stable for scripts."""
    parsed = parse_rollout(obj)
    status = parsed.status
    return {
        "namespace": parsed.namespace,
        "name": parsed.name,
        "phase": status.phase.value,
        "reason": status.reason,
        "message": status.message,
        "observed": status.observed_generation >= parsed.generation,
        "step": status.current_step,
        "stepCount": status.step_count,
        "attempt": status.attempt,
        "weight": {
            name: None if weight is None else weight / 100
            for name, weight in (
                ("desired", status.weight.desired),
                ("applied", status.weight.applied),
                ("observed", status.weight.observed),
            )
        },
        "stable": status.stable.identity.name if status.stable else None,
        "canary": status.canary.identity.name if status.canary else None,
        "canaryHash": status.canary.hash if status.canary else None,
    }


def rollout_view(obj: Mapping[str, Any], runs: list[dict[str, Any]]) -> RenderableType:
    """One Rollout in full: header, steps with their runs, history."""
    parsed, runs = parse_rollout(shown(obj)), shown(runs)
    return Group(_header(parsed), Text(), _tree(parsed, runs), *_problems(parsed), *_history(parsed.status))


def _header(parsed: ParsedRollout) -> Table:
    status = parsed.status
    icon, style = ICONS[status.phase.value]
    table = Table.grid(padding=(0, 2))
    weights = (
        f"{format_weight(status.weight.applied)} set, {format_weight(status.weight.desired)} desired, "
        f"{format_weight(status.weight.observed)} observed"
    )
    stale = (
        "" if status.observed_generation >= parsed.generation else "  (the newest spec is not looked at yet)"
    )
    rows: list[tuple[str, str | Text]] = [
        ("Name", f"{parsed.namespace}/{parsed.name}"),
        ("Phase", Text(f"{icon} {status.phase.value or 'New'}{stale}", style=style)),
        ("Message", status.message),
        ("Stable", status.stable.label if status.stable else "-"),
        ("Canary", status.canary.label if status.canary else "-"),
        ("Weight", weights),
        ("Attempt", str(status.attempt)),
    ]
    asked = status.current.approval if status.current is not None else None
    if asked is not None:
        last_answer = asked.answer or "no answer yet"
        rows.append(("Approval", f"asked of {asked.webhook} since {format_time(asked.since)}: {last_answer}"))
    if status.last_command is not None:
        last = status.last_command
        by = f" by {last.by}" if last.by else ""
        rows.append(("Command", f"{last.action}{by} {last.result.value.lower()}: {last.message}"))
    for name, value in rows:
        table.add_row(Text(name, style="bold"), value)
    return table


def _tree(parsed: ParsedRollout, runs: list[dict[str, Any]]) -> Tree:
    status, tree = parsed.status, Tree(Text("Steps", style="bold"))
    by_name = {run["metadata"]["name"]: run for run in runs}
    owner = Owner(name=parsed.name, uid=parsed.uid, present=frozenset(by_name))
    behind = [name for name in sorted(by_name) if is_background(name, owner, status)]
    if parsed.strategy_ref is not None and parsed.strategy is None:
        tree.add(Text(f"those of {parsed.strategy_ref.label}, when an attempt begins", style="dim"))
    for index, step in enumerate(parsed.known_steps):
        node = tree.add(_step_line(status, index, describe(step)))
        if not isinstance(step, AnalysisStep) or status.canary is None:
            continue
        run = by_name.get(step_run(owner, status, index))
        if run is not None:
            _add_run(node, run, status)
        for name in behind:
            who, words = overrider(status, f"{name}-{index}"), reading(by_name[name], index)
            if who or words is not None:
                node.add(Text.assemble((f"{who}  " if who else "", "bold magenta"), words or ""))
    for name in behind:
        compares = "comparisons" in (by_name[name].get("spec") or {})
        label = "evidence of the attempt" if compares else "background analysis"
        _add_run(tree.add(Text(label)), by_name[name], status)
    return tree


def _step_line(status: RolloutStatus, index: int, text: str) -> Text:
    line = f"{index + 1}. {text}"
    current = status.current
    if index < status.current_step:
        return Text(f"✔ {line}", style="green")
    if current is not None and index == current.current_step and current.started_at is not None:
        aborted = current.aborted is not None
        return Text(f"{'✖' if aborted else '◌'} {line}", style="red" if aborted else "bold cyan")
    return Text(f"• {line}", style="dim")


def _add_run(node: Tree, run: Mapping[str, Any], status: RolloutStatus) -> None:
    name, phase = str(run["metadata"]["name"]), str((run.get("status") or {}).get("phase") or "Pending")
    icon, style = _RUN_ICONS.get(phase, ("•", "dim"))
    who = overrider(status, name)
    branch = node.add(
        Text.assemble((f"{icon} {name} {phase}", style), (f"  {who}" if who else "", "bold magenta"))
    )
    for row in gate_rows(run):
        branch.add(row)


def _problems(parsed: ParsedRollout) -> Iterator[RenderableType]:
    bad = [
        condition
        for condition in parsed.status.conditions
        if (condition.type, condition.status)
        in (
            ("SpecValid", "False"),
            ("TrafficApplied", "False"),
            ("TargetReady", "False"),
            ("TrafficContended", "True"),
        )
    ]
    for condition in bad:
        yield Text(f"⚠ {condition.type}: {condition.message}", style="yellow")


def _history(status: RolloutStatus) -> Iterator[RenderableType]:
    if not status.history:
        return
    tree = Tree(Text("History", style="bold"))
    for entry in reversed(status.history):
        when = entry.at.strftime("%Y-%m-%d %H:%M")
        tree.add(f"{when}  {entry.outcome.value:<10} {entry.revision.label}  {entry.message}")
    yield tree
