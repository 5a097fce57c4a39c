"""What the pool of adapters or variants, which its endpoint picker splits, has to have."""

from __future__ import annotations

from collections.abc import Iterable

from rollouts.api.parsing import ParsedRollout
from rollouts.controller.adapter_blockers import some_names
from rollouts.controller.caches import Caches
from rollouts.engine.observation import Blocker
from rollouts.engine.reasons import Reason
from rollouts.objects import kinds
from rollouts.objects.fields import map_of
from rollouts.objects.pools import Pool
from rollouts.runtime.objects import ObjectKey

__all__ = ["foreign_picker", "missing_picker", "pool_in_rollout", "pool_named"]

_IN_PROGRESS = ("Progressing", "Paused")


def pool_named(caches: Caches, namespace: str, name: str, group: str) -> Pool | None:
    """The InferencePool of a name; without a group that of the first group that has one."""
    groups = [group] if group else [resource.group for resource in kinds.POOLS]
    found = (caches.pool(candidate, namespace, name) for candidate in groups)
    return next((pool for pool in found if pool is not None), None)


def missing_picker(caches: Caches, pool: Pool, what: str) -> Blocker | None:
    """The pool's picker, which honours weights between ``what``, is not there."""
    if pool.picker is not None and ObjectKey(pool.namespace, pool.picker.name) in caches.services:
        return None
    name = pool.picker.name if pool.picker is not None else "none"
    message = (
        f"{what} weights are honoured by an endpoint picker, and the Service that InferencePool {pool.name} "
        f"names ({name}) does not exist: install it with the chart's `pickers`, or "
        f"`rollouts picker-manifest {pool.name}`"
    )
    return Blocker(reason=Reason.PICKER_MISSING, message=message)


def foreign_picker(pool: Pool, names: Iterable[str], why: str) -> Blocker:
    """Pods behind the picker's Service that do not read what carries the weights."""
    service = pool.picker.name if pool.picker is not None else ""
    message = (
        f"{some_names(names)} behind Service {service} is not our endpoint picker, "
        f"and {why}: install ours with `rollouts picker-manifest {pool.name}`"
    )
    return Blocker(reason=Reason.PICKER_DIALECT, message=message)


def pool_in_rollout(caches: Caches, parsed: ParsedRollout, pool: str) -> tuple[Blocker, ...]:
    """A pool Rollout in progress that moves this pool's traffic (design rule 10)."""
    for key in sorted(caches.rollouts_of_pool(parsed.namespace, pool)):
        status = map_of(map_of(caches.rollouts.get(key)).get("status"))
        arms = [map_of(status.get(name)) for name in ("stable", "canary")]
        moving = status.get("phase") in _IN_PROGRESS and status.get("canary")
        if moving and any(arm.get("kind") == "InferencePool" and arm.get("name") == pool for arm in arms):
            message = (
                f"Rollout {key.name} is moving traffic of InferencePool {pool}: "
                "this one starts when that has ended"
            )
            return (Blocker(reason=Reason.POOL_IN_ROLLOUT, message=message),)
    return ()
