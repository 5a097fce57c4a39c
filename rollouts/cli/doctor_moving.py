"""What ``doctor`` says of pools between the alpha group and v1: which of two pools of a name the route sends to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rollouts.cli.findings import Check, bad, warn
from rollouts.objects.pools import POOL_GROUPS, Pool
from rollouts.traffic.backends import pools_of, rules_of

__all__ = ["groups_listed", "moving_checks"]

_GUIDE = "docs/operations.md, moving pools"


def groups_listed(route: Mapping[str, Any], namespace: str, name: str) -> frozenset[str]:
    """API groups in which the rules of a route list a pool of this name."""
    listed = (pool for rule in rules_of(route.get("spec")) for pool in pools_of(rule, namespace))
    return frozenset(pool.group for pool in listed if pool.name == name)


def moving_checks(
    name: str, pools: Sequence[Pool], listed: frozenset[str], asked: str = ""
) -> Iterator[Check]:
    """For the pools of a name, at most one per group. ``asked``: the group that the Rollout names for it."""
    there = {pool.group for pool in pools}
    where, new, old = f"InferencePool {name}", POOL_GROUPS[0], POOL_GROUPS[1]
    if there and asked and asked not in there:
        yield bad(
            f"{where} does not exist in {asked}, which target.pool.group names; it does in {' '.join(there)}",
            f"create it there first, beside the other, or leave target.pool.group out until then ({_GUIDE})",
        )
    if len(listed) > 1:
        yield warn(
            f"{where} is listed in {' and '.join(sorted(listed))}: two versions",
            f"unless target.pool.group asks for one beside the other, list it in one group in every rule ({_GUIDE})",
        )
    elif there and listed and not listed <= there:
        yield bad(
            f"{where}: the rules list it in {' '.join(listed)}, where it does not exist; it does in {' '.join(there)}",
            f"create it there, or list the other in every rule ({_GUIDE})",
        )
    elif len(there) > 1 and listed == {old}:
        yield warn(
            f"{where} exists in both groups, and the route lists the alpha one",
            f"list {new} in every rule ({_GUIDE})",
        )
    elif len(there) > 1 and listed == {new}:
        yield warn(
            f"{where} exists in both groups, and the route lists the one of v1",
            f"delete the alpha one ({_GUIDE})",
        )
