"""What lies between a gateway and an arm's pods: the picker that its pool names, and what gateways say of the pool.

A gateway asks the picker about every request; without one it answers 5xx (``FailClose``), and one that has a single
picker per rule answers so for both arms. So an arm is ready when its pods and its picker are (design rule 3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from rollouts.controller.caches import Caches
from rollouts.engine.observation import Blocker, PathView, PoolView
from rollouts.engine.reasons import Reason
from rollouts.engine.versions import Identity
from rollouts.objects.fields import list_of, map_of
from rollouts.objects.pods import PickerPod
from rollouts.objects.pools import ParentRefusal, Pool
from rollouts.runtime.objects import ObjectKey

__all__ = [
    "Gateway",
    "PickerHealth",
    "PickerPaths",
    "TrustedHealth",
    "gateways_of",
    "picker_trust",
    "refusal",
]

Object = Mapping[str, Any]

_SHOWN = 4
_MESSAGE = 200


class PickerHealth(Protocol):
    """Who asks our own pickers whether they serve."""

    def refused(self, follower: ObjectKey, service: ObjectKey, pods: list[PickerPod]) -> str:
        """Why none of these Ready pods can serve; empty while one may, or nobody knows."""
        ...

    def drop(self, follower: ObjectKey) -> None:
        """The follower needs nothing any more."""
        ...


class TrustedHealth:
    """Asks nobody: a Ready pod serves."""

    def refused(self, follower: ObjectKey, service: ObjectKey, pods: list[PickerPod]) -> str:
        """Always empty."""
        return ""

    def drop(self, follower: ObjectKey) -> None:
        """Nothing to forget."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """A parent of a route: kind, namespace and name."""

    kind: str
    namespace: str
    name: str


def gateways_of(spec: Any, namespace: str) -> frozenset[Gateway]:
    """The parents that an HTTPRoute's spec (or a template of one) names; what cannot be read is left out."""
    found = set()
    for ref in list_of(map_of(spec).get("parentRefs")):
        if isinstance(ref, Mapping) and isinstance(ref.get("name"), str):
            kind, place = ref.get("kind") or "Gateway", ref.get("namespace") or namespace
            found.add(Gateway(str(kind), str(place), ref["name"]))
    return frozenset(found)


def refusal(pool: Pool, gateways: Iterable[Gateway], *, service_exists: bool = False) -> ParentRefusal | None:
    """The first parent of the route that refuses the pool. Other gateways of the pool are not this route's.

    ``service_exists``: the Service of the pool's picker is there. That it was not found is then an old story: istiod
    (of August 2026) tells it until the pool or the route changes, and serves the pool all the same.
    """
    ours = set(gateways)
    refusals = [item for item in pool.refusals if Gateway(item.kind, item.namespace, item.name) in ours]
    return next((item for item in refusals if not (service_exists and item.of_picker and pool.picker)), None)


def picker_trust(pool: Pool) -> str:
    """Why nothing can be said of a pool's picker but that it is named; empty when its Service can be looked at."""
    if pool.picker is None and pool.picker_kind:
        return (
            f"the endpoint picker of {pool.name} is a {pool.picker_kind}, not a Service: it is taken on trust"
        )
    return ""


class PickerPaths:
    """Adds the path to the views of a Rollout's arms."""

    def __init__(self, caches: Caches, health: PickerHealth | None = None) -> None:
        self._caches = caches
        self._health = health or TrustedHealth()

    def forget(self, follower: ObjectKey) -> None:
        """The Rollout is gone."""
        self._health.drop(follower)

    def of_pools(
        self,
        follower: ObjectKey,
        views: Mapping[Identity, PoolView],
        candidate: Identity | None,
        stable: Identity | None,
        gateways: frozenset[Gateway],
    ) -> dict[Identity, PoolView]:
        """``views`` of InferencePools, the candidate's with its path. Stable's is what it would go back to anyway.

        Of stable only is said that its picker has no Ready pod, for then nobody serves.
        """
        found = self._with_stable(views, stable, self._pool(follower.namespace, stable), fail_open=True)
        view = found.get(candidate) if candidate is not None else None
        pool = self._pool(follower.namespace, candidate)
        if candidate is None or view is None or pool is None or candidate == stable:
            self._health.drop(follower)
            return found
        other = self._pool(follower.namespace, stable)
        shared = other is not None and other.picker == pool.picker
        found[candidate] = replace(view, path=self._path(follower, pool, gateways, shared=shared))
        return found

    def of_adapters(
        self,
        follower: ObjectKey,
        views: Mapping[Identity, PoolView],
        candidate: Identity | None,
        stable: Identity | None,
        pool: Pool | None,
    ) -> dict[Identity, PoolView]:
        """``views`` of adapters, the candidate's with the path of their one pool. Its picker is both arms' own.

        No gateway weighs adapters but through the picker, so ``FailOpen`` excuses nothing here.
        """
        found = self._with_stable(views, stable, pool, fail_open=False)
        if candidate is None or pool is None or candidate not in found:
            self._health.drop(follower)
            return found
        problem = self._picker_problem(follower, pool)
        path = PathView(problems=() if problem is None else (problem,), note=self._note(pool))
        for arm in {candidate, candidate.arm} & found.keys():
            # What is missing comes first, then what is there and does not obey.
            known = (
                ()
                if problem is not None and problem.reason is Reason.PICKER_MISSING
                else found[arm].path.problems
            )
            note = "; ".join(filter(None, (found[arm].path.note, path.note)))
            found[arm] = replace(found[arm], path=replace(path, problems=(*path.problems, *known), note=note))
        return found

    def _with_stable(
        self,
        views: Mapping[Identity, PoolView],
        stable: Identity | None,
        pool: Pool | None,
        *,
        fail_open: bool,
    ) -> dict[Identity, PoolView]:
        """``views`` with stable's picker where it is known to be down; ``fail_open``: whether that may be excused.

        A missing Service proves nothing of what serves already: some gateways bring a picker of their own.
        """
        found = dict(views)
        if stable not in found or pool is None or pool.picker is None or (fail_open and pool.fail_open):
            return found
        service = ObjectKey(pool.namespace, pool.picker.name)
        if (
            service in self._caches.services
            and not self._unselected(pool)
            and not self._caches.picker_pods(pool)
        ):
            found[stable] = replace(found[stable], path=replace(found[stable].path, picker_down=True))
        return found

    def _pool(self, namespace: str, identity: Identity | None) -> Pool | None:
        return self._caches.pool(identity.group, namespace, identity.name) if identity is not None else None

    def _path(
        self, follower: ObjectKey, pool: Pool, gateways: frozenset[Gateway], *, shared: bool
    ) -> PathView:
        problem = None if pool.fail_open else self._picker_problem(follower, pool)
        problems = [problem] if problem is not None else []
        named = pool.picker.name if pool.picker is not None else ""
        there = ObjectKey(pool.namespace, named) in self._caches.services
        refused = refusal(pool, gateways, service_exists=there)
        if refused is not None:
            message = (
                f"{refused.kind} {refused.name} says {refused.condition}=False of InferencePool {pool.name} "
                f"({refused.reason}: {refused.message[:_MESSAGE]}): requests to it would fail"
            )
            problems.append(Blocker(reason=Reason.POOL_REFUSED, message=message))
        down = problem is not None and not shared
        return PathView(problems=tuple(problems), picker_down=down, note=self._note(pool))

    def _note(self, pool: Pool) -> str:
        if pool.picker is not None and self._unselected(pool):
            return f"Service {pool.picker.name} of the endpoint picker selects no pods: it is taken on trust"
        return picker_trust(pool)

    def _unselected(self, pool: Pool) -> bool:
        """A Service without a selector: its endpoints are made by somebody, and are not looked at."""
        assert pool.picker is not None
        service = self._caches.services.get(ObjectKey(pool.namespace, pool.picker.name))
        return service is not None and not service["spec"]["selector"]

    def _picker_problem(self, follower: ObjectKey, pool: Pool) -> Blocker | None:
        if pool.picker is None:
            return None
        service = ObjectKey(pool.namespace, pool.picker.name)
        if service not in self._caches.services:
            message = (
                f"InferencePool {pool.name} names the endpoint picker Service {service.name}, which does not "
                f"exist: install it with the chart's `pickers`, or `rollouts picker-manifest {pool.name}`"
            )
            return Blocker(reason=Reason.PICKER_MISSING, message=message)
        if self._unselected(pool):
            return None
        pods = self._caches.picker_pods(pool)
        if not pods:
            message = (
                f"no pod behind Service {service.name}, the endpoint picker of InferencePool {pool.name}, is "
                f"Ready: gateways would answer requests to {pool.name}, and some all requests of the rule, with an "
                "error; see why its pods are not Ready"
            )
            return Blocker(reason=Reason.PICKER_NOT_READY, message=message)
        why = self._health.refused(follower, service, pods)
        if not why:
            return None
        names = ", ".join(pod.name for pod in pods[:_SHOWN])
        message = f"the endpoint picker of InferencePool {pool.name} ({names}) {why}: see its log"
        return Blocker(reason=Reason.PICKER_NOT_READY, message=message)
