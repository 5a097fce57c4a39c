"""Shared strategies of the cluster, for commands that tell of Rollouts: the effective one, and how it has drifted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rollouts.api.parsing import ParsedRollout
from rollouts.api.strategies import StrategyFault, canary_of, own_fields, pin_strategy, strategy_ref
from rollouts.engine.attempt import PinnedStrategy
from rollouts.kube.client import KubeClient
from rollouts.kube.errors import Forbidden, KindNotServed, NotFound
from rollouts.objects import kinds

__all__ = ["LiveStrategy", "fetch_strategy", "strategy_lines"]

LiveStrategy = PinnedStrategy | StrategyFault | None
"""What an attempt that begins now would go by, or why it cannot; None: it was not looked for, or may not be read."""


async def fetch_strategy(client: KubeClient, rollout: Mapping[str, Any]) -> LiveStrategy:
    """The shared strategy that a Rollout names, as it is now."""
    named = strategy_ref(rollout.get("spec"))
    if named is None:
        return None
    resource = kinds.CLUSTER_ROLLOUT_STRATEGY if named.cluster else kinds.ROLLOUT_STRATEGY
    space = None if named.cluster else str(rollout["metadata"].get("namespace", ""))
    try:
        return pin_strategy(await client.get(resource, space, named.name))
    except (NotFound, KindNotServed):
        return StrategyFault(text="it does not exist")
    except Forbidden:
        return None


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
