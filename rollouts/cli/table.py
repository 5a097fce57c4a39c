"""Rollouts as a table, from what the status stores for people: as `kubectl get` does, and without reading models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from rollouts.cli.shown_pods import pods_brief
from rollouts.objects.fields import map_of, metadata_of
from rollouts.objects.lines import brief
from rollouts.terminal import shown

__all__ = ["ICONS", "rollout_table"]

ICONS: Mapping[str, tuple[str, str]] = {
    "Healthy": ("✔", "green"),
    "Progressing": ("◌", "cyan"),
    "Paused": ("॥", "yellow"),
    "WaitingForTarget": ("◷", "yellow"),
    "Aborted": ("✖", "red"),
    "Invalid": ("⚠", "red"),
    "": ("?", "dim"),
}
"""By phase: a sign and its style."""


def rollout_table(objects: Iterable[Mapping[str, Any]], *, wide: bool, namespaces: bool = False) -> Table:
    """What ``kubectl get rollouts`` prints; of several ``namespaces`` with theirs, ``wide`` with more and in full."""
    table = Table(box=None, pad_edge=False, header_style="", show_edge=False)
    names = [*(["NAMESPACE"] if namespaces else []), "NAME", "PHASE", "STEP", "WEIGHT", "STABLE", "CANARY"]
    for name in [*names, *(["OBSERVED", "ATTEMPT", "PODS"] if wide else []), "MESSAGE"]:
        table.add_column(name, no_wrap=name != "MESSAGE")
    for obj in objects:
        found = shown(obj)
        meta, status = metadata_of(found), map_of(found.get("status"))
        phase = _text(status.get("phase"), "")
        icon, style = ICONS.get(phase, ICONS[""])
        row: list[str | Text] = [
            *([_text(meta.get("namespace"))] if namespaces else []),
            _text(meta.get("name")),
            Text(f"{icon} {phase or 'New'}", style=style),
            _text(status.get("step")),
            _text(status.get("weightText")),
            _text(map_of(status.get("stable")).get("name")),
            _text(map_of(status.get("canary")).get("name")),
        ]
        if wide:
            observed = _percent(map_of(status.get("weight")).get("observed"))
            row += [observed, _text(status.get("attempt")), pods_brief(status)]
        message = _text(status.get("message"), "")
        table.add_row(*row, message if wide else brief(message))
    return table


def _text(value: Any, absent: str = "-") -> str:
    return absent if value is None or isinstance(value, dict | list) else str(value)


def _percent(weight: Any) -> str:
    """A weight as it is stored: ``10`` or ``"0.5%"``."""
    return "-" if weight is None else f"{_text(weight).rstrip('%')}%"
