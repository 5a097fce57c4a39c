"""NAME of a Rollout, as people type it who know kubectl."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from rollouts.cli.completion import rollout_names
from rollouts.objects.kinds import ROLLOUT

__all__ = ["rollout_argument"]

_WORDS = (ROLLOUT.kind.lower(), ROLLOUT.plural)
_KINDS = frozenset(
    {"iro"}.union(
        f"{word}{where}"
        for word in _WORDS
        for where in ("", f".{ROLLOUT.group}", f".{ROLLOUT.version}.{ROLLOUT.group}")
    )
)
"""What kubectl takes before a name, and what it prints there: ``-o name`` has the kind and its group."""


def rollout_argument(*, required: bool = True) -> Callable[[Any], Any]:
    """The argument NAME, with or without the kind that ``kubectl -o name`` puts before it."""
    return click.argument("name", required=required, shell_complete=rollout_names, callback=_plain_name)


def _plain_name(_: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """The name alone. Raises BadParameter for none, as a script has it whose variable is not set."""
    if value is None:
        return None
    kind, slash, name = value.partition("/")
    plain = name if slash and kind.lower() in _KINDS else value
    if not plain:
        raise click.BadParameter("it is empty: give the name of a Rollout", param=parameter)
    return plain
