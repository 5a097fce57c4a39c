"""The report as Markdown (GitHub's) and as JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from rollouts.api.scalars import format_time
from rollouts.report.reading import AttemptReport
from rollouts.terminal import printable

__all__ = ["report_json", "report_markdown"]

_ACTIVE = frozenset("\\`*_{}[]()<>#+-.!|~&@:$^\"'")
"""Characters that can begin something in Markdown: CommonMark 2.4 lets every ASCII punctuation be escaped."""


def _text(value: str) -> str:
    """Text that only shows itself, also in a table."""
    return "".join(f"\\{char}" if char in _ACTIVE else char for char in printable(value))


def _at(moment: datetime | None) -> str:
    return "-" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def report_markdown(attempt: AttemptReport, now: datetime) -> str:
    """The document of ``rollouts report -o md``: for a ticket that takes no HTML; drawings are left out."""
    lines = [f"# Rollout {_text(attempt.namespace)}/{_text(attempt.name)}, attempt {attempt.number}", ""]
    lines += [f"**{_text(attempt.outcome)}** {_text(attempt.message)}", ""]
    rows = [
        ("Canary", attempt.canary),
        ("Revision hash", attempt.canary_hash or "-"),
        ("Stable", attempt.stable),
        ("Attempt", f"{attempt.number} of {attempt.newest}"),
        ("Began (UTC)", _at(attempt.began)),
        ("Ended (UTC)", "goes on" if attempt.running else _at(attempt.ended)),
        *((one.what, one.answer) for one in attempt.asked),
    ]
    lines += _table(("what", "answer"), rows)
    lines += _steps(attempt)
    lines += _judged(attempt)
    lines += _told(attempt)
    if attempt.missing:
        lines += ["## What is not known", "", *(f"- {_text(text)}" for text in attempt.missing), ""]
    return "\n".join(
        [*lines, f"Made by `rollouts report` at {_at(now)} UTC from what the cluster keeps.", ""]
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    written = [f"| {' | '.join(map(_text, row))} |" for row in rows]
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *written, ""]


def _steps(attempt: AttemptReport) -> Iterator[str]:
    if attempt.steps:
        yield from ("## Steps", "")
        rows = [
            (str(step.number), step.text, step.state, _at(step.began), step.verdict) for step in attempt.steps
        ]
        yield from _table(("step", "what", "state", "began (UTC)", "gate"), rows)


def _judged(attempt: AttemptReport) -> Iterator[str]:
    if attempt.compared:
        yield from ("## Comparisons with stable", "")
        rows = [
            (
                one.result.name,
                one.result.verdict,
                one.result.effect or "-",
                one.result.evidence,
                one.result.words,
            )
            for one in attempt.compared
        ]
        yield from _table(("metric", "verdict", "effect, 95 % interval", "evidence", "in words"), rows)
    if attempt.thresholds:
        yield from ("## Metrics with limits of their own", "")
        limits = [
            (one.result.name, one.result.phase.value, one.conditions or one.asks, one.result.message)
            for one in attempt.thresholds
        ]
        yield from _table(("metric", "phase", "limits", "in words"), limits)


def _told(attempt: AttemptReport) -> Iterator[str]:
    if attempt.strategy:
        yield from ("## Strategy", "", *(f"- {_text(line)}" for line in attempt.strategy), "")
        fields_in_force = [(one.name, one.value, one.origin) for one in attempt.strategy_fields]
        yield from _table(("field", "in force", "from"), fields_in_force) if fields_in_force else ()
    if attempt.approvals:
        yield from ("## Approvals", "")
        given = [
            (
                str(attempt.number),
                str(one.step),
                one.webhook,
                one.decision,
                one.by or "-",
                _at(one.at),
                one.message,
            )
            for one in attempt.approvals
        ]
        yield from _table(("attempt", "step", "asked of", "decision", "by", "at (UTC)", "message"), given)
    yield from ("## Decisions", "")
    yield from _table(
        ("at (UTC)", "what", "why"), [(_at(one.at), one.what, one.why) for one in attempt.decisions]
    )
    if attempt.history:
        yield from ("## Attempts", "")
        rows = [
            (str(one.attempt), _at(one.at), one.outcome.value, one.revision.label, one.message)
            for one in reversed(attempt.history)
        ]
        yield from _table(("attempt", "ended (UTC)", "outcome", "version", "why"), rows)


def report_json(attempt: AttemptReport) -> str:
    """The values of the report, stable for scripts: fields of ``Attempt``, in camelCase."""
    return json.dumps(_plain(attempt), indent=2)


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {_camel(one.name): _plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, datetime):
        return format_time(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return dict(value) if isinstance(value, dict) else value


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))
