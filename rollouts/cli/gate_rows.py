"""Gates as rows: verdict, change, evidence and requests in columns, and below them why, in full."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from rollouts.objects.fields import list_of, map_of, text_of
from rollouts.units import percent

__all__ = ["gate_rows", "overrider", "reading"]

_WORDS = {
    "Pass": ("PASS", "green"),
    "Successful": ("PASS", "green"),
    "Fail": ("FAIL", "bold red"),
    "Failed": ("FAIL", "bold red"),
    "Error": ("ERROR", "red"),
    "Inconclusive": ("INCONCLUSIVE", "yellow"),
    "Undecided": ("UNDECIDED", "cyan"),
    "Running": ("RUNNING", "cyan"),
}
_PROOFS = ("WithinTolerance", "Collecting", "CannotProve", "MaxDuration")
"""Reasons that speak of proof of the tolerance; the others speak of harm."""
_BAR = 8
_MANY = 1e6
_OVERRIDING = ("promote", "promoteFull")

Object = Mapping[str, Any]


def gate_rows(run: Object) -> Iterator[Table | Text]:
    """The metrics of a run, one a row, then the words of those that did not pass."""
    status = map_of(run.get("status"))
    measured, table = Table.grid(padding=(0, 2)), Table.grid(padding=(0, 2))
    why: list[Text] = []
    for result in map(map_of, list_of(status.get("metricResults"))):
        measured.add_row(
            text_of(result.get("name")), _verdict(result.get("phase")), text_of(result.get("message"))
        )
    for result in map(map_of, list_of(status.get("comparisons"))):
        table.add_row(*_compared(result))
        message = text_of(result.get("message"))
        if result.get("verdict") != "Pass" and message:
            why.append(Text(message, style="dim"))
    yield from (one for one in (measured, table) if one.row_count)
    yield from why


def _compared(result: Object) -> Iterator[str | Text]:
    figures = map_of(result.get("figures"))
    yield text_of(result.get("name"))
    yield _verdict(result.get("verdict"))
    yield _effect(result, figures)
    yield _evidence(text_of(result.get("reason")), figures)
    requests = _numbers(figures, "canaryRequests", "stableRequests")
    yield f"{requests[0]:,.0f} vs {requests[1]:,.0f} requests" if requests else "no requests yet"


def _verdict(word: Any) -> Text:
    text, style = _WORDS.get(text_of(word), ("PENDING", "dim"))
    return Text(text, style=style)


def _effect(result: Object, figures: Object) -> str:
    """The change, and on which side of it the verdict is sure."""
    told = text_of(result.get("effect"))
    found = _numbers(figures, "effect", "effectLow", "effectHigh")
    if not found or not told.startswith(percent(found[0])):
        return told or "nothing known yet"
    estimate, low, high = found
    if result.get("reason") != "HarmShown":
        return told
    sure = f"at least {percent(low)}" if estimate >= 0 else f"at most {percent(high)}"
    return f"{percent(estimate)} ({sure})"


def _evidence(reason: str, figures: Object) -> str:
    name, *asked = ("proof", "proof", "passAt") if reason in _PROOFS else ("harm", "harm", "abortAt")
    found = _numbers(figures, *asked)
    if not found:
        return ""
    value, limit = found
    many = f"{value:.2g}" if value < 10 else f"{value:.0f}" if value < _MANY else ">1e6"
    return f"{name:<5} {_bar(value, limit)} {many}/{limit:.3g}"


def _bar(value: float, limit: float) -> str:
    """The way to the limit; evidence multiplies, so it is drawn by its logarithm, from 1."""
    part = math.log(max(value, 1.0)) / math.log(limit) if limit > 1 else 1.0
    full = min(int(part * _BAR), _BAR)
    return "#" * full + "." * (_BAR - full)


def _numbers(figures: Object, *names: str) -> list[float]:
    """The figures of these names; none where one of them is not known."""
    found = [figures.get(name) for name in names]
    known = [float(one) for one in found if isinstance(one, int | float)]
    return known if len(known) == len(names) else []


def reading(run: Object, step: int) -> Text | None:
    """What the evidence of an attempt says to the gate of a step, where it says anything."""
    for gate in map(map_of, list_of(map_of(run.get("status")).get("gates"))):
        if gate.get("step") == step:
            return Text.assemble(_verdict(gate.get("verdict")), f"  {text_of(gate.get('message'))}")
    return None


def overrider(status: Object, run: str) -> str:
    """``overridden by NAME`` where a person went on against the gate called ``run``; else empty."""
    if run not in list_of(status.get("overrides")):
        return ""
    last = map_of(status.get("lastCommand"))
    by = text_of(last.get("by")) if last.get("action") in _OVERRIDING else ""
    return f"overridden by {by}" if by else "overridden"
