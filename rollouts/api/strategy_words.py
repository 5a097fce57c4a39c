"""What is said of the shared strategy that an attempt goes by, and of how it has drifted since. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rollouts.api.parsing import ParsedRollout
from rollouts.api.strategies import StrategyFault, canary_of, own_fields
from rollouts.engine.attempt import PinnedStrategy

__all__ = ["LiveStrategy", "StrategyField", "effective_fields", "strategy_lines"]

_SHOWN = 160
"""Characters of a field's JSON."""

LiveStrategy = PinnedStrategy | StrategyFault | None
"""What an attempt that begins now would go by, or why it cannot; None: it was not looked for, or may not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyField:
    """A field of the effective strategy: its JSON, cut, and whose it is."""

    name: str
    value: str
    origin: str


def effective_fields(spec: Any, used: PinnedStrategy | None) -> Iterator[StrategyField]:
    """The fields of ``canary`` that the shared strategy and the Rollout give together; none without a shared one."""
    own, shared = own_fields(spec), canary_of(used) or {} if used is not None else {}
    for name in dict.fromkeys((*shared, *own)) if used is not None else ():
        value = json.dumps(own[name] if name in own else shared[name], separators=(", ", ": "), default=str)
        origin = "this Rollout" if name in own else f"{used.kind} {used.name}" if used is not None else ""
        yield StrategyField(
            name=str(name), value=value if len(value) <= _SHOWN else f"{value[: _SHOWN - 1]}…", origin=origin
        )


def strategy_lines(parsed: ParsedRollout, spec: Any, live: LiveStrategy) -> Iterator[str]:
    """Where the effective strategy comes from, and what the next attempt would do otherwise.

    ``spec`` is the Rollout's own, as it was written.
    """
    named, used = parsed.strategy_ref, parsed.strategy
    if named is None:
        return
    attempt = parsed.status.current
    pinned = attempt is not None and used is not None and attempt.strategy == used
    own = ", ".join(sorted(own_fields(spec)))
    beside = f"; this Rollout's own fields win: {own}" if own else ""
    if used is not None:
        since = f", pinned when attempt {parsed.status.attempt} began" if pinned else ""
        yield f"{used.kind} {used.name} ({used.hash[:8]}){since}{beside}."
    if isinstance(live, StrategyFault):
        goes_on = "the attempt goes on by what is pinned, " if pinned else ""
        yield f"{named.label}: {live.text}; {goes_on}no new attempt begins until that is mended."
    elif live is not None and used is not None and live.hash != used.hash:
        changed = ", ".join(_changed(used, live))
        yield f"{named.label} was changed since ({live.hash[:8]}: {changed}): that counts from the next attempt on."
    elif live is None and used is None:
        yield f"{named.label} was not read: what the next attempt goes by is not known here."


def _changed(used: PinnedStrategy, live: PinnedStrategy) -> list[str]:
    """Fields that differ."""
    before, after = canary_of(used) or {}, canary_of(live) or {}
    return [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
