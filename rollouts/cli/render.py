"""A Rollout as people read it: a header, the steps as a tree, verdicts, what to do next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from rollouts.api.parsing import ParsedRollout, parse_rollout
from rollouts.engine.naming import Owner, is_background, step_run
from rollouts.engine.rollout_spec import AnalysisStep
from rollouts.engine.rollout_status import Phase, RolloutStatus
from rollouts.engine.steps import describe
from rollouts.terminal import shown
from rollouts.units import format_weight

__all__ = ["ICONS", "rollout_table", "rollout_view", "summary"]

ICONS = {
    Phase.HEALTHY: ("✔", "green"),
    Phase.PROGRESSING: ("◌", "cyan"),
    Phase.PAUSED: ("‖", "yellow"),
    Phase.WAITING: ("◷", "yellow"),
    Phase.ABORTED: ("✖", "red"),
    Phase.INVALID: ("⚠", "red"),
    Phase.NEW: ("?", "dim"),
}

_RUN_ICONS = {
    "Successful": ("✔", "green"),
    "Failed": ("✖", "red"),
    "Error": ("⚠", "red"),
    "Inconclusive": ("?", "yellow"),
    "Running": ("◌", "cyan"),
}
_VERDICT_ICONS = {
    "Pass": ("✔", "green"),
    "Fail": ("✖", "red"),
    "Inconclusive": ("?", "yellow"),
    "Undecided": ("◌", "cyan"),
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


def rollout_table(objects: list[dict[str, Any]], *, wide: bool, namespaces: bool = False) -> Table:
    """What ``kubectl get rollouts`` prints; of several ``namespaces`` with theirs."""
    table = Table(box=None, pad_edge=False, header_style="", show_edge=False)
    names = [*(["NAMESPACE"] if namespaces else []), "NAME", "PHASE", "STEP", "WEIGHT", "STABLE", "CANARY"]
    for name in [*names, *(["OBSERVED", "ATTEMPT"] if wide else []), "MESSAGE"]:
        table.add_column(name, no_wrap=name != "MESSAGE")
    for obj in objects:
        parsed = parse_rollout(shown(obj))
        status = parsed.status
        icon, style = ICONS[status.phase]
        row: list[str | Text] = [
            *([parsed.namespace] if namespaces else []),
            parsed.name,
            Text(f"{icon} {status.phase.value or 'New'}", style=style),
            status.step_text or "-",
            format_weight(status.weight.applied),
            status.stable.identity.name if status.stable else "-",
            status.canary.identity.name if status.canary else "-",
        ]
        if wide:
            row += [format_weight(status.weight.observed), str(status.attempt)]
        table.add_row(*row, status.message)
    return table


def rollout_view(obj: Mapping[str, Any], runs: list[dict[str, Any]]) -> RenderableType:
    """One Rollout in full: header, steps with their runs, history."""
    parsed, runs = parse_rollout(shown(obj)), shown(runs)
    return Group(_header(parsed), Text(), _tree(parsed, runs), *_problems(parsed), *_history(parsed.status))


def _header(parsed: ParsedRollout) -> Table:
    status = parsed.status
    icon, style = ICONS[status.phase]
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
    if status.last_command is not None:
        last = status.last_command
        rows.append(("Command", f"{last.action} {last.result.value.lower()}: {last.message}"))
    for name, value in rows:
        table.add_row(Text(name, style="bold"), value)
    return table


def _tree(parsed: ParsedRollout, runs: list[dict[str, Any]]) -> Tree:
    status, tree = parsed.status, Tree(Text("Steps", style="bold"))
    by_name = {run["metadata"]["name"]: run for run in runs}
    owner = Owner(name=parsed.name, uid=parsed.uid, present=frozenset(by_name))
    for index, step in enumerate(parsed.spec.canary.steps if parsed.spec else ()):
        node = tree.add(_step_line(status, index, describe(step)))
        run = by_name.get(step_run(owner, status, index)) if isinstance(step, AnalysisStep) else None
        if run is not None:
            _add_run(node, run)
    for name, background in sorted(by_name.items()):
        if is_background(name, owner, status):
            compares = "comparisons" in (background.get("spec") or {})
            label = "evidence of the attempt" if compares else "background analysis"
            _add_run(tree.add(Text(label)), background)
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


def _add_run(node: Tree, run: Mapping[str, Any]) -> None:
    status = run.get("status") or {}
    icon, style = _RUN_ICONS.get(status.get("phase", ""), ("•", "dim"))
    branch = node.add(Text(f"{icon} {run['metadata']['name']} {status.get('phase', 'Pending')}", style=style))
    for result in status.get("metricResults") or []:
        icon, style = _RUN_ICONS.get(result.get("phase", ""), ("•", "dim"))
        branch.add(Text(f"{icon} {result.get('message') or result.get('name')}", style=style))
    for result in status.get("comparisons") or []:
        icon, style = _VERDICT_ICONS.get(result.get("verdict", ""), ("•", "dim"))
        branch.add(Text(f"{icon} {result.get('message') or result.get('name')}", style=style))


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
