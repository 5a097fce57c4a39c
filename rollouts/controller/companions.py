"""Which pools work for those of a version, by what pools and the Rollout say: the engine goes by it."""

from __future__ import annotations

from dataclasses import replace

from rollouts.api.parsing import ParsedRollout
from rollouts.controller.caches import Caches
from rollouts.engine.moving import stored_companions
from rollouts.engine.observation import Blocker, Companion
from rollouts.engine.reasons import Reason
from rollouts.engine.versions import Identity
from rollouts.objects import kinds
from rollouts.objects.companions import MOST, Belongs, belongs, companions_of, within
from rollouts.objects.pools import POOL_KIND
from rollouts.runtime.objects import ObjectKey

__all__ = ["companion_pools", "companion_views"]

_MOST_NAMED = 64
"""Pools that are looked at for one version: whoever may label pools could make each look a long one."""


def companion_views(caches: Caches, parsed: ParsedRollout, arm: Identity) -> tuple[Companion, ...] | Blocker:
    """The companions of a version, by role; or why that is not known."""
    policy = parsed.spec.canary.capacity if parsed.spec is not None else None
    if parsed.spec is None or policy is None:
        return ()
    target = parsed.spec.target.name
    listed = [Belongs(pool=one.pool, of=one.of or target, role=one.role) for one in policy.companions]
    names = {one.pool for one in listed} | caches.labelled_companions(parsed.namespace, arm.name)
    if len(names) > _MOST_NAMED:
        message = f"{len(names)} pools are named as companions of {arm.name}: {MOST} are the most"
        return Blocker(reason=Reason.CAPACITY_UNKNOWN, message=message)
    labelled = (_said(caches, arm.group, parsed.namespace, name) for name in sorted(names))
    group = caches.pool_group(parsed.namespace, arm.name, arm.group)
    pool = caches.pools[group].get(ObjectKey(parsed.namespace, arm.name)) if group is not None else None
    roles = within(pool) if pool is not None else []
    found = companions_of(arm.name, [*filter(None, labelled), *roles], listed)
    if isinstance(found, str):
        return Blocker(reason=Reason.CAPACITY_UNKNOWN, message=found)
    companions = list[Companion]()
    for role, name in sorted(found.items()):
        group = caches.pool_group(parsed.namespace, name, arm.group)
        if group is None:
            message = f"InferencePool {name}, which belongs to {arm.name} by capacity.with, does not exist: create it"
            return Blocker(reason=Reason.CAPACITY_UNKNOWN, message=message)
        companions.append(Companion(identity=Identity(kind=POOL_KIND, group=group, name=name), role=role))
    return tuple(companions)


def companion_pools(caches: Caches, parsed: ParsedRollout) -> frozenset[Identity]:
    """The pools that there are, in whichever API group, of the names of companions that the status has."""
    named = {
        replace(arm, group=kind.group) for arm, _ in stored_companions(parsed.status) for kind in kinds.POOLS
    }
    return frozenset(arm for arm in named if caches.pool(arm.group, parsed.namespace, arm.name) is not None)


def _said(caches: Caches, first: str, namespace: str, name: str) -> Belongs | None:
    group = caches.pool_group(namespace, name, first)
    pool = caches.pools[group].get(ObjectKey(namespace, name)) if group is not None else None
    return belongs(pool) if pool is not None else None
