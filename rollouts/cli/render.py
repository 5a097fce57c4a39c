"""A Rollout as people read it: a header, the steps as a tree, verdicts, what to do next.

It reads what the status stores for people and no models, as the table does: those cost more than the command.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from rollouts.cli.gate_rows import gate_rows, overrider, reading
from rollouts.cli.shown_pods import arm_counts, gpu_hours
from rollouts.cli.shown_steps import is_gate, shared_strategy, step_words, steps_of
from rollouts.cli.table import ICONS
from rollouts.engine.stamps import digits
from rollouts.objects.fields import dict_at, items_at, list_of, map_of, metadata_of, text_at, text_of
from rollouts.terminal import shown
from rollouts.units import format_weight, parse_weight

__all__ = ["rollout_view", "summary"]

Object = Mapping[str, Any]

_RUN_ICONS = {
    "Successful": ("✔", "green"),
    "Failed": ("✖", "red"),
    "Error": ("⚠", "red"),
    "Inconclusive": ("?", "yellow"),
    "Running": ("◌", "cyan"),
}
_WEIGHTS = ("desired", "applied", "observed")
_TROUBLES = (
    ("SpecValid", "False"),
    ("TrafficApplied", "False"),
    ("TargetReady", "False"),
    ("TrafficContended", "True"),
)


def summary(obj: Object, now: datetime | None = None) -> dict[str, Any]:
    """The figures of ``get -o json``, stable for scripts; ``now``: other than the present."""
    meta, status = metadata_of(obj), map_of(obj.get("status"))
    hours = gpu_hours(status, now or datetime.now(UTC))
    stable, canary = map_of(status.get("stable")), map_of(status.get("canary"))
    return {
        "namespace": text_of(meta.get("namespace")),
        "name": text_of(meta.get("name")),
        "phase": text_of(status.get("phase")),
        "reason": text_of(status.get("reason")),
        "message": text_of(status.get("message")),
        "observed": not _is_stale(obj),
        "step": _count(status, "currentStep"),
        "stepCount": _count(status, "stepCount"),
        "attempt": _count(status, "attempt"),
        "weight": {
            name: None if weight is None else weight / 100 for name, weight in _weights(status).items()
        },
        "stable": stable.get("name"),
        "canary": canary.get("name"),
        "canaryHash": canary.get("hash"),
        "gpuHours": None if hours is None else round(hours.spent, 3),
        "extraGpuHours": None if hours is None else round(hours.extra, 3),
    }


def _count(holder: Object, name: str) -> int:
    value = holder.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _is_stale(obj: Object) -> bool:
    """Whether the newest spec was not looked at yet."""
    return _count(map_of(obj.get("status")), "observedGeneration") < _count(metadata_of(obj), "generation")


def _weights(status: Object) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(_WEIGHTS)
    for name in _WEIGHTS:
        try:
            found[name] = parse_weight(map_of(status.get("weight")).get(name))
        except ValueError:
            continue
    return found


def rollout_view(obj: Object, runs: list[dict[str, Any]], now: datetime | None = None) -> RenderableType:
    """One Rollout in full: header, steps with their runs, history; ``now``: other than the present."""
    obj, runs = shown(obj), shown(runs)
    status = map_of(obj.get("status"))
    header = _header(obj, status, now or datetime.now(UTC))
    return Group(header, Text(), _tree(obj, status, runs), *_problems(status), *_history(status))


def _header(obj: Object, status: Object, now: datetime) -> Table:
    meta, phase = metadata_of(obj), text_of(status.get("phase"))
    icon, style = ICONS.get(phase, ICONS[""])
    stale = "  (the newest spec is not looked at yet)" if _is_stale(obj) else ""
    weights = ", ".join(f"{format_weight(weight)} {_SAID[name]}" for name, weight in _ordered(status))
    rows: list[tuple[str, str | Text]] = [
        ("Name", f"{text_of(meta.get('namespace'))}/{text_of(meta.get('name'))}"),
        ("Phase", Text(f"{icon} {phase or 'New'}{stale}", style=style)),
        ("Message", text_of(status.get("message"))),
        ("Stable", _label(status.get("stable"))),
        ("Canary", _label(status.get("canary"))),
        ("Weight", weights),
        ("Attempt", str(_count(status, "attempt"))),
        *(("Pods", f"{one.role} {one.name}: {one.words}") for one in arm_counts(status)),
        *(("GPU-hours", hours.words) for hours in (gpu_hours(status, now),) if hours is not None),
        *_waiting(status),
    ]
    table = Table.grid(padding=(0, 2))
    said = ""
    for name, value in rows:
        table.add_row(Text(name if name != said else "", style="bold"), value)
        said = name
    return table


_SAID = {"applied": "set", "desired": "desired", "observed": "observed"}


def _ordered(status: Object) -> Iterator[tuple[str, Any]]:
    weights = _weights(status)
    yield from ((name, weights[name]) for name in _SAID)


def _label(arm: Any) -> str:
    """``name (hash8)``."""
    found = map_of(arm)
    return f"{text_of(found.get('name'))} ({text_of(found.get('hash'))[:8]})" if found else "-"


def _waiting(status: Object) -> Iterator[tuple[str, str]]:
    asked = map_of(status.get("approval"))
    if asked:
        last_answer = text_of(asked.get("answer")) or "no answer yet"
        yield "Approval", f"asked of {asked.get('webhook')} since {asked.get('since')}: {last_answer}"
    last = map_of(status.get("lastCommand"))
    if last:
        by = f" by {last['by']}" if last.get("by") else ""
        done = f"{last.get('action')}{by} {text_of(last.get('result')).lower()}"
        yield "Command", f"{done}: {text_of(last.get('message'))}"


def _tree(obj: Object, status: Object, runs: Sequence[Object]) -> Tree:
    tree, steps = Tree(Text("Steps", style="bold")), steps_of(obj)
    mine = [run for run in runs if dict_at(run, "spec").get("attempt") == status.get("attempt")]
    behind = [run for run in mine if dict_at(run, "spec").get("step") is None]
    if steps is None:
        tree.add(Text(f"those of {shared_strategy(obj)}, when an attempt begins", style="dim"))
    for index, step in enumerate(steps or ()):
        node = tree.add(_step_line(status, index, step_words(step)))
        if not is_gate(step) or not status.get("canary"):
            continue
        for run in _runs_of(mine, status, index):
            _add_run(node, run, status)
        for run in behind:
            who, words = overrider(status, f"{_name(run)}-{index}"), reading(run, index)
            if who or words is not None:
                node.add(Text.assemble((f"{who}  " if who else "", "bold magenta"), words or ""))
    for run in behind:
        label = "evidence of the attempt" if "comparisons" in dict_at(run, "spec") else "background analysis"
        _add_run(tree.add(Text(label)), run, status)
    return tree


def _runs_of(runs: Sequence[Object], status: Object, index: int) -> Sequence[Object]:
    """The run of a step. Edited steps run their gates again, and the digits of their stamp are in the names."""
    named = f"-{index}-{digits(text_of(status.get('stepsHash')))}"
    return [run for run in runs if dict_at(run, "spec").get("step") == index and named in _name(run)][-1:]


def _name(run: Object) -> str:
    return text_of(metadata_of(run).get("name"))


def _step_line(status: Object, index: int, text: str) -> Text:
    line, current = f"{index + 1}. {text}", _count(status, "currentStep")
    if index < current:
        return Text(f"✔ {line}", style="green")
    if index == current and status.get("canary") and status.get("startedAt"):
        aborted = bool(status.get("aborted"))
        return Text(f"{'✖' if aborted else '◌'} {line}", style="red" if aborted else "bold cyan")
    return Text(f"• {line}", style="dim")


def _add_run(node: Tree, run: Object, status: Object) -> None:
    name, phase = _name(run), text_at(run, "status", "phase") or "Pending"
    icon, style = _RUN_ICONS.get(phase, ("•", "dim"))
    who = overrider(status, name)
    branch = node.add(
        Text.assemble((f"{icon} {name} {phase}", style), (f"  {who}" if who else "", "bold magenta"))
    )
    for row in gate_rows(run):
        branch.add(row)


def _problems(status: Object) -> Iterator[RenderableType]:
    for condition in map(map_of, list_of(status.get("conditions"))):
        if (condition.get("type"), condition.get("status")) in _TROUBLES:
            yield Text(f"⚠ {condition['type']}: {text_of(condition.get('message'))}", style="yellow")


def _history(status: Object) -> Iterator[RenderableType]:
    entries = items_at(status, "history")
    if not entries:
        return
    tree = Tree(Text("History", style="bold"))
    for entry in reversed(entries):
        when = text_of(entry.get("at"))[:16].replace("T", " ")
        outcome, why = text_of(entry.get("outcome")), text_of(entry.get("message"))
        tree.add(f"{when}  {outcome:<10} {_label(entry)}  {why}")
    yield tree
