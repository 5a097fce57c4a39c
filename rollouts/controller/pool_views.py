"""The pool half of gathering: which InferencePool is meant, and what is known of it."""

from __future__ import annotations

from dataclasses import replace

from rollouts.api.parsing import ParsedRollout
from rollouts.carriers import ObjectTargetKind, kind_of, kinds_for, object_target, pods_of
from rollouts.controller.caches import Caches
from rollouts.engine.observation import (
    Blocker,
    PoolView,
    Problem,
)
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import RolloutSpec, Traffic
from rollouts.engine.rollout_status import RolloutStatus
from rollouts.engine.versions import Identity, Target
from rollouts.objects import kinds
from rollouts.objects.models import model_names
from rollouts.objects.pools import POOL_KIND
from rollouts.runtime.objects import ObjectKey
from rollouts.traffic.backends import pools_of, rules_of

__all__ = ["PoolViews", "splitting"]


def splitting(parsed: ParsedRollout, target: ObjectTargetKind) -> Traffic | None:
    """What splits such versions: the spec's traffic object, or that of the way back while the spec names none."""
    split = kinds_for(target)
    if parsed.spec is not None and kind_of(parsed.spec.traffic.kind) in split:
        return parsed.spec.traffic
    found = (kind.recorded(way) for way in parsed.status.way_back for kind in split if kind.kind == way.kind)
    return next((one for one in found if one is not None), None)


class PoolViews:
    """Turns the caches' pools and model objects into the engine's views."""

    def __init__(self, caches: Caches) -> None:
        self._caches = caches

    def resolve(
        self, parsed: ParsedRollout, spec: RolloutSpec, problems: list[Problem]
    ) -> tuple[Identity | None, Blocker | None]:
        """``spec.target`` by discovery: the one API group that has a pool of the name."""
        target = spec.target
        groups = [target.group] if target.group else [resource.group for resource in kinds.POOLS]
        found = [group for group in groups if self._caches.pool(group, parsed.namespace, target.name)]
        if len(found) > 1:
            # Side by side while pools move to another group: what the route sends to is meant.
            route = self._caches.traffic[kinds.HTTP_ROUTE].get(ObjectKey(parsed.namespace, spec.traffic.name))
            rules = rules_of((route or {}).get("spec"))
            listed = {
                pool.group
                for rule in rules
                for pool in pools_of(rule, parsed.namespace)
                if pool.name == target.name
            }
            found = [group for group in found if group in listed] if len(listed) == 1 else found
        if len(found) == 1:
            return Identity(kind=POOL_KIND, group=found[0], name=target.name), None
        if found and not self._known(parsed.status, target.name):
            problems.append(
                Problem(
                    reason=Reason.AMBIGUOUS_TARGET,
                    message=f"InferencePool {target.name} exists in {' and '.join(found)}: set target.pool.group",
                )
            )
        return None, Blocker(
            reason=Reason.POOL_MISSING,
            message=f"InferencePool {target.name} does not exist in {' or '.join(groups)}"
            + self._missing(parsed.namespace, target),
        )

    def _missing(self, namespace: str, target: Target) -> str:
        """What to do; where the group was named before its pool was made, which of two steps came too early."""
        elsewhere = (one.group for one in kinds.POOLS if self._caches.pool(one.group, namespace, target.name))
        found = next(elsewhere, "") if target.group else ""
        if not found:
            return ": create it, the rollout then starts by itself"
        return (
            f", which target.pool.group names; it does in {found}: create it in {target.group} beside that one, with "
            "the same pods and picker, and the rollout goes on by itself; or leave target.pool.group out until then"
        )

    @staticmethod
    def _known(status: RolloutStatus, name: str) -> bool:
        return any(arm.identity.name == name for arm in status.arms)

    def view(self, parsed: ParsedRollout, identity: Identity) -> PoolView:
        """The pool as an arm; one that does not exist may have a twin in another API group."""
        namespace = parsed.namespace
        pool = self._caches.pool(identity.group, namespace, identity.name)
        if pool is None:
            groups = (
                one.group
                for one, _ in pods_of(replace(identity, group=""))
                if self._caches.pool(one.group, namespace, identity.name)
            )
            return PoolView(identity=identity, exists=False, twin=next(groups, ""))
        ready = self._caches.ready_units(pool)
        return self._said(parsed, PoolView(identity=identity, exists=True, ready_endpoints=ready))

    def _said(self, parsed: ParsedRollout, view: PoolView) -> PoolView:
        """With what the version's object says itself: no pods count where no request arrives."""
        stable, kind = parsed.status.stable, object_target(view.identity.kind)
        traffic = splitting(parsed, kind) if kind is not None else None
        if kind is None or traffic is None:
            return view
        arms = (view.identity, stable.identity if stable is not None else view.identity)
        obj, beside = (self._caches.version(arm, parsed.namespace) for arm in arms)
        if obj is None:
            return view
        ready = view.ready_endpoints if kind.serves(obj, traffic.name) else 0
        troubles = tuple(kind.troubles(obj, beside, traffic, parsed.name))
        blockers = () if parsed.spec is None else tuple(kind.lacks(obj, beside, traffic, parsed.name))
        return replace(view, ready_endpoints=ready, blockers=blockers, troubles=troubles)

    def blockers(
        self,
        parsed: ParsedRollout,
        spec: RolloutSpec,
        target: Identity | None,
    ) -> tuple[Blocker, ...]:
        """Models that the stable pool serves and the new pool does not (design rule 10)."""
        stable = parsed.status.stable
        if (
            target is None
            or target.kind != POOL_KIND
            or stable is None
            or spec.allow_missing_models
            or stable.identity == target
        ):
            return ()
        missing = self._models(parsed.namespace, stable.identity.name) - self._models(
            parsed.namespace, target.name
        )
        if not missing:
            return ()
        message = (
            f"{target.name} has no InferenceModel for {', '.join(sorted(missing))}, which {stable.identity.name} "
            "serves: add them, or set allowMissingModels"
        )
        return (Blocker(reason=Reason.MISSING_MODELS, message=message),)

    def _models(self, namespace: str, pool: str) -> set[str]:
        """Names that clients may ask this pool for, by its model objects."""
        found: set[str] = set()
        for obj in self._caches.model_objects(namespace, pool):
            found |= model_names(obj)
        return found
