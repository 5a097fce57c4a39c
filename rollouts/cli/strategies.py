"""Shared strategies of the cluster, for commands that tell of Rollouts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rollouts.api.strategies import StrategyFault, pin_strategy, strategy_ref
from rollouts.api.strategy_words import LiveStrategy
from rollouts.kube.client import KubeClient
from rollouts.kube.errors import Forbidden, KindNotServed, NotFound
from rollouts.objects import kinds

__all__ = ["fetch_strategy"]


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
