"""RolloutFreezes as values. What cannot be read of one freezes more, never less: whoever wrote it meant to hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from rollouts.api.freeze_models import RolloutFreezeSpec, SelectorModel
from rollouts.api.scalars import parse_time
from rollouts.api.schedule import check_window, window_view
from rollouts.api.spec_rules import read_window
from rollouts.engine.observation import FreezeView
from rollouts.engine.rollout_spec import Window
from rollouts.objects.fields import map_of, metadata_of, text_of

__all__ = ["Freeze", "check_freeze", "freeze_view", "read_freeze", "selects"]

_SHOWN = 120
"""Characters of a reason in a message."""

Labels = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Freeze:
    """A freeze that was read. ``wrong``: what could not be; it then holds until it is corrected or deleted."""

    name: str
    reason: str = ""
    start: datetime | None = None
    end: datetime | None = None
    windows: tuple[Window, ...] = ()
    namespaces: SelectorModel | None = None
    rollouts: SelectorModel | None = None
    wrong: str = ""


def read_freeze(obj: Mapping[str, Any]) -> Freeze:
    """A raw RolloutFreeze. Never raises."""
    name, raw = text_of(metadata_of(obj).get("name")), map_of(obj.get("spec"))
    try:
        model = RolloutFreezeSpec.model_validate(raw)
    except (ValidationError, ValueError, TypeError, RecursionError):
        return Freeze(name=name, wrong="its spec cannot be read")
    printable = "".join(one if one.isprintable() else " " for one in model.reason)
    reason = " ".join(printable.split())[:_SHOWN]
    wrong = next((f"{path} {text}" for path, text in check_freeze(model)), "")
    if wrong:
        # What a wrong selector was meant to choose nobody knows: everything, then.
        return Freeze(
            name=name,
            reason=reason,
            namespaces=None
            if any(_wrong_requirements(model.namespace_selector))
            else model.namespace_selector,
            rollouts=None if any(_wrong_requirements(model.rollout_selector)) else model.rollout_selector,
            wrong=wrong,
        )
    return Freeze(
        name=name,
        reason=reason,
        start=None if model.start is None else parse_time(model.start),
        end=None if model.end is None else parse_time(model.end),
        windows=tuple(map(read_window, model.windows)),
        namespaces=model.namespace_selector,
        rollouts=model.rollout_selector,
    )


def check_freeze(model: RolloutFreezeSpec) -> Iterator[tuple[str, str]]:
    """(path, what is wrong) of each rule that the spec breaks."""
    moments: dict[str, datetime] = {}
    for name, text in (("start", model.start), ("end", model.end)):
        try:
            moments |= {} if text is None else {name: parse_time(text)}
        except ValueError:
            yield f"spec.{name}", "is no time: write one as 2026-12-24T00:00:00Z"
    if len(moments) == 2 and moments["end"] <= moments["start"]:
        yield "spec.end", "is not after start"
    if model.windows and (model.start is not None or model.end is not None):
        yield "spec.windows", "stands beside start or end: write one or the other"
    for index, window in enumerate(model.windows):
        try:
            wrong = check_window(read_window(window))
        except ValueError as error:
            wrong = f"duration: {error}"
        if wrong:
            yield f"spec.windows[{index}]", wrong
    for field, selector in (
        ("namespaceSelector", model.namespace_selector),
        ("rolloutSelector", model.rollout_selector),
    ):
        for path, text in _wrong_requirements(selector):
            yield f"spec.{field}.{path}", text


def _wrong_requirements(selector: SelectorModel | None) -> Iterator[tuple[str, str]]:
    for index, one in enumerate(selector.match_expressions if selector is not None else []):
        if (one.operator in ("In", "NotIn")) is not bool(one.values):
            text = f"{one.operator} takes {'values' if not one.values else 'no values'}"
            yield f"matchExpressions[{index}]", text


def selects(selector: SelectorModel | None, labels: Labels) -> bool:
    """Whether labels are selected; everything is by none."""
    if selector is None:
        return True
    return all(labels.get(key) == value for key, value in selector.match_labels.items()) and all(
        _meets(one.operator, labels.get(one.key), one.values) for one in selector.match_expressions
    )


def _meets(operator: str, value: Any, values: list[str]) -> bool:
    match operator:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case _:
            return value is None


def freeze_view(freeze: Freeze, now: datetime) -> FreezeView | None:
    """The freeze as it holds at ``now``, or will (``since``); None when it is over."""
    until = freeze.end
    if freeze.wrong:
        reason = f"{freeze.wrong}, so it holds until it is corrected or deleted"
        return FreezeView(name=freeze.name, reason=reason)
    since = freeze.start
    if freeze.windows:
        view = window_view(freeze.windows, now)
        if view is None:
            return None
        since, until = view.opens_at, view.closes_at
    if until is not None and until <= now:
        return None
    later = since if since is not None and now < since else None
    return FreezeView(name=freeze.name, reason=freeze.reason, until=until, since=later)
