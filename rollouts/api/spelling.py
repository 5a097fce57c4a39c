"""A model in one spelling: 60s is 1m and 10% is 0.1, and what is at its default is left out.

Fingerprints are made of it: an edit that changes no meaning (a formatter's, a generator's) sends no rollout back
to gates that have passed.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_type_hints

from rollouts.api.analysis_models import Expression, Query, Ratio
from rollouts.api.base import ApiModel
from rollouts.api.scalars import Duration, format_duration, parse_duration
from rollouts.units import parse_fraction

__all__ = ["in_one_spelling"]


def in_one_spelling(model: ApiModel) -> dict[str, Any]:
    """The fields that mean something else than their defaults, by their JSON names."""
    found = dict[str, Any]()
    for name, field in type(model).model_fields.items():
        spell = _spellings(type(model)).get(name, _plain)
        value = spell(getattr(model, name))
        if value != spell(field.get_default(call_default_factory=True)):
            found[field.alias or name] = value
    return found


def _plain(value: Any) -> Any:
    match value:
        case ApiModel():
            return in_one_spelling(value)
        case list():
            return [_plain(item) for item in value]
        case float() if value.is_integer():
            return int(value)
    return value


def _duration(value: Any) -> Any:
    return format_duration(parse_duration(value)) if isinstance(value, str) else value


def _ratio(value: Any) -> Any:
    """A template's argument stays as it is."""
    with contextlib.suppress(ValueError):
        return _plain(parse_fraction(value))
    return value


def _text(value: Any) -> Any:
    """A block of YAML (``|``) ends in a line's end, which neither CEL nor PromQL knows."""
    return value.strip() if isinstance(value, str) else value


_SPELLINGS: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (Duration, _duration),
    (Ratio, _ratio),
    (Expression, _text),
    (Query, _text),
)


@functools.cache
def _spellings(model: type[ApiModel]) -> Mapping[str, Callable[[Any], Any]]:
    hints = get_type_hints(model, include_extras=True)
    return {
        name: spell
        for name in model.model_fields
        for sort, spell in _SPELLINGS
        if sort in (hints[name], *get_args(hints[name]))
    }
