"""The workload half of gathering: what makes a pool's pods, how many there are, and who else scales it.

Looked at only for Rollouts with ``strategy.canary.capacity``, and where versions are stopped and started as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from rollouts.api.parsing import ParsedRollout
from rollouts.api.references import companion_pools, serving_pools
from rollouts.carriers import StoppedTargetKind, kind_of, stopped_target
from rollouts.controller.caches import Caches
from rollouts.controller.companions import companion_views
from rollouts.controller.mirroring import mirroring_route
from rollouts.controller.other_rules import routes_of_others
from rollouts.controller.pool_views import splitting
from rollouts.engine.attempt import CompanionCapacity
from rollouts.engine.observation import Blocker, Companion, WorkloadView
from rollouts.engine.reasons import Reason
from rollouts.engine.versions import Identity
from rollouts.objects.accelerators import accelerators
from rollouts.objects.companions import belongs, roles_hint
from rollouts.objects.fields import map_of, metadata_of
from rollouts.objects.groups import units
from rollouts.objects.pods import pending_words
from rollouts.objects.pools import Pool, former_pool
from rollouts.objects.workloads import WORKLOAD_ANNOTATION, Workload
from rollouts.runtime.objects import ObjectKey, version_of

if TYPE_CHECKING:
    from rollouts.controller.draining import PodDrains
    from rollouts.controller.warming import WarmUps

__all__ = [
    "InFlight",
    "ScaleFailure",
    "ScaleRefusals",
    "WorkloadViews",
    "companion_identities",
    "find_workload",
    "former_pods",
]


@dataclass(frozen=True, slots=True)
class ScaleFailure:
    """What the API server said to a try to scale a workload. ``passes``: it was slow, or busy, and the workload was to
    fall, which is no reason to leave it."""

    words: str
    passes: bool = False


ScaleRefusals = dict[tuple[str, Identity, bool], ScaleFailure]
"""By namespace, arm, and whether it was to fall: how the last try to scale its workload failed. What was said to a rise
is no reason to leave a loser without a try."""

_SHOWN = 4


class InFlight(Protocol):
    """Who knows what pods are answering."""

    def requests(self, pool: Pool) -> int | None:
        """Requests that the pool's pods answer or hold; None while one of them does not say."""
        ...

    def loads(self, pool: Pool) -> Mapping[str, int]:
        """The same by pod; those that do not say are left out."""
        ...

    def uncontrollable(self, pool: Pool) -> str:
        """Why requests cannot be kept from single pods; empty where they can, or nobody knows yet."""
        ...

    def unlisted(self, pool: Pool) -> str:
        """Why the pool's picker keeps nothing from its pods, although it is ours: it picks among others."""
        ...

    def leaving(self, pool: Pool, names: Collection[str], *, hidden: float = 0.0) -> Mapping[str, int | None]:
        """What marked pods still answer, measured after every picker spared them, and ``hidden`` seconds later; None
        where that is not known."""
        ...


def _unknown(message: str) -> Blocker:
    return Blocker(reason=Reason.CAPACITY_UNKNOWN, message=message)


def companion_identities(
    parsed: ParsedRollout, found: Mapping[Identity, tuple[Companion, ...] | Blocker]
) -> set[Identity]:
    """Companions as they are named now, as the attempt has them, and as the versions had them when they were stable."""
    named = (one for there in found.values() if not isinstance(there, Blocker) for one in there)
    recorded = (arm for one in _recorded(parsed) for arm in (one.stable, one.canary))
    kept = (
        one for past in parsed.status.history if past.revision.identity in found for one in past.companions
    )
    lent = filter(None, (parsed.status.stable_scale, parsed.status.owed))
    gave = {one.identity for part in lent for one in part.companions}
    return {one.identity for one in named} | {one.identity for one in kept} | set(recorded) | gave


def _recorded(parsed: ParsedRollout) -> tuple[CompanionCapacity, ...]:
    current = parsed.status.current
    return current.capacity.companions if current is not None and current.capacity is not None else ()


def find_workload(caches: Caches, pool: Pool) -> Workload | Blocker:
    """The one workload whose pods are the pool's: by the annotation where there is one, else by the selector."""
    if not caches.capacity_kinds:
        return _unknown("the controller may not scale anything: install it with capacity.enabled")
    found = caches.workloads_of(pool)
    asked = caches.workload_asked(pool)
    if asked:
        named = [one for one in found if one.reference == asked]
        busy = [one for one in found if one.reference != asked and one.replicas]
        if named and busy:
            return _unknown(
                f"{_names(busy)} makes pods of {pool.name} as well as {asked}, which is named there; whose they are "
                "nobody can tell: scale the others to 0, or give each its own labels"
            )
        if named:
            return named[0]
        why = f"{WORKLOAD_ANNOTATION}: {asked} on {pool.name} names no workload whose pods are the pool's"
        return _unknown(f"{why}; {_names(found)}")
    if len(found) == 1:
        return found[0]
    kinds = " or ".join(caches.capacity_kinds)
    if not found:
        return _unknown(
            f"no {kinds} has a Pod template that matches the selector of {pool.name}: correct its labels"
        )
    labels = [caches.template_labels(pool.namespace, one) for one in found]
    hint = roles_hint(labels)
    if "/" in pool.name:  # the pool's annotation would name one for its other roles, too
        return _unknown(
            f"several workloads make pods of {pool.name}: {_names(found)}; a role has one: scale the pods of the "
            "others by that, or give those another value of the role's label"
        )
    return _unknown(
        f"several workloads make pods of {pool.name}: {_names(found)}; choose one with the annotation "
        f"{WORKLOAD_ANNOTATION} on the pool{hint}"
    )


def former_pods(
    caches: Caches, parsed: ParsedRollout, arm: Identity, arms: Iterable[Identity]
) -> tuple[Pool, Callable[[Mapping[str, Any]], bool]] | None:
    """Of an arm whose pool is gone what the status has kept of that, and which pods it counts by it.

    Not those that a pool of one of ``arms`` selects by now: they count there. None where nothing was kept.
    """
    current, kept = parsed.status.current, [one for one in parsed.status.scale_downs if one.identity == arm]
    text = kept[0].selector if kept else ""
    if not text and current is not None and current.capacity is not None and current.canary.identity == arm:
        text = current.capacity.selector
    beside = current.capacity.companions if current is not None and current.capacity is not None else ()
    text = text or next((one.selector for one in beside if one.canary == arm), "")
    had = [one for past in parsed.status.history for one in past.companions if one.identity == arm]
    text = text or next((one.selector for one in reversed(had)), "")
    pool = former_pool(arm.group, parsed.namespace, arm.name, text)
    if pool is None:
        return None
    found = (caches.pool(one.group, parsed.namespace, one.name) for one in arms)
    others = [one for one in found if one is not None]

    def counts(pod: Mapping[str, Any]) -> bool:
        labels = map_of(metadata_of(pod).get("labels"))
        return not any(one.selects(labels) for one in others)

    return pool, counts


def _left(problem: Blocker | None, pods: Collection[Mapping[str, Any]], pool: Pool) -> WorkloadView:
    """Pods of which nobody knows what makes them; those that are not being deleted count as its replicas."""
    staying = units(pod for pod in pods if "deletionTimestamp" not in metadata_of(pod))
    return WorkloadView(
        problem=problem,
        replicas=staying,
        live=units(pods),
        selector=pool.selector_text,
        accelerators=_held(pods),
    )


def _held(pods: Iterable[Mapping[str, Any]]) -> int:
    """Accelerators of pods that a node has taken."""
    return sum(accelerators(pod) for pod in pods if map_of(pod.get("spec")).get("nodeName"))


def _names(found: Collection[Workload]) -> str:
    shown = [one.reference for one in found][:_SHOWN]
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"{', '.join(shown)}{more}" if shown else "none does"


class WorkloadViews:
    """Turns the caches' workloads and pods into the engine's views."""

    def __init__(
        self,
        caches: Caches,
        in_flight: InFlight,
        refusals: ScaleRefusals,
        drains: PodDrains,
        warm_ups: WarmUps | None = None,
    ) -> None:
        self._caches = caches
        self._warm_ups = warm_ups
        self._drains = drains
        self._in_flight = in_flight
        self._refusals = refusals

    def views(
        self, parsed: ParsedRollout, target: Identity | None, carrying: Collection[Identity] = ()
    ) -> dict[Identity, WorkloadView]:
        """Of stable, the target, the canary and what is to be scaled down; none where nobody asks for capacity.

        ``carrying``: arms that the live traffic object sends requests to.
        Stable on its way back to its replicas is looked at whatever has become of the spec.
        """
        status = parsed.status
        asked = parsed.spec is not None and parsed.spec.canary.capacity is not None
        stopping = {arm.identity for arm in status.arms} | ({target} if target is not None else set())
        if (
            not asked
            and status.stable_scale is None
            and status.owed is None
            and not any(stopped_target(arm.kind) for arm in stopping)
        ):
            return {}
        losers = {one.identity for one in status.scale_downs}
        if status.current is not None and status.current.aborted is not None:
            losers.add(status.current.canary.identity)
            losers |= {one.canary for one in _recorded(parsed)}
        arms = {arm.identity for arm in status.arms} | losers
        if target is not None:
            arms.add(target)
        versions = frozenset(arms)
        beside = companion_identities(parsed, self.companions(parsed, target))
        beside |= {one.identity for one in status.scale_downs if one.of not in (None, one.identity)}
        arms |= beside
        policy = parsed.spec.canary.capacity if parsed.spec is not None else None
        coming = status.canary.identity if status.canary is not None else target
        # Stable gives pods, and a canary whose pods something else needs could not give them back.
        giving = set(versions | beside) if policy is not None and policy.gives else set[Identity]()
        if policy is not None and policy.warm_up is not None and coming is not None:
            giving.add(coming)  # requests are kept from its pods, whoever sends them
        found = (
            (arm, self._view(parsed, arm, arms, beside, loses=arm in losers, gives=arm in giving))
            for arm in sorted(arms)
        )
        views = {arm: view for arm, view in found if view is not None}
        if coming is not None and coming in views:
            views[coming] = self._warmth(parsed, coming, views[coming], carrying)
        return views

    def companions(
        self, parsed: ParsedRollout, target: Identity | None
    ) -> dict[Identity, tuple[Companion, ...] | Blocker]:
        """Of stable, the target and the canary, where capacity is asked for."""
        if parsed.spec is None or parsed.spec.canary.capacity is None:
            return {}
        arms = {arm.identity for arm in parsed.status.arms} | ({target} if target is not None else set())
        return {arm: companion_views(self._caches, parsed, arm) for arm in sorted(arms)}

    def _warmth(
        self, parsed: ParsedRollout, arm: Identity, view: WorkloadView, carrying: Collection[Identity]
    ) -> WorkloadView:
        """The view of the version that is being rolled out, with which of its pods are warm."""
        pool = self._caches.pool(arm.group, parsed.namespace, arm.name)
        if pool is None or self._warm_ups is None:
            return view
        known = self._warm_ups.warmth(parsed, arm, pool, carrying)
        return replace(
            view,
            cold=known.cold,
            warming=known.warming,
            warm_waiting=known.waiting,
            warm_problem=known.problem,
        )

    def _view(
        self,
        parsed: ParsedRollout,
        arm: Identity,
        arms: Collection[Identity],
        companions: Collection[Identity],
        *,
        loses: bool,
        gives: bool,
    ) -> WorkloadView | None:
        pool = self._caches.pool(arm.group, parsed.namespace, arm.name)
        if pool is None:
            return self._former(parsed, arm, arms)
        pods = self._caches.holding_pods(pool)
        if (kind := stopped_target(arm.kind)) is not None:
            return self._stoppable(parsed, kind, arm, pool, loses=loses)
        workload = find_workload(self._caches, pool)
        if isinstance(workload, Blocker):
            return _left(workload, pods, pool)
        failure = self._refusals.get((parsed.namespace, arm, loses))
        waiting = {
            pod["metadata"]["name"]: words for pod in pods if (words := pending_words(pod)) is not None
        }
        return WorkloadView(
            what=workload.what,
            resource_version=workload.resource_version,
            replicas=workload.replicas,
            live=units(pods),
            pending=units(pod for pod in pods if pod["metadata"]["name"] in waiting),
            words=next((words for words in sorted(waiting.values()) if words), ""),
            managed_by=self._caches.autoscaler_of(pool.namespace, workload) or workload.owner,
            in_flight=self._in_flight.requests(pool) if loses else None,
            drain=self._drains.view(parsed, arm, pool, workload, is_companion=arm in companions),
            used_by=self._used_by(parsed, pool, workload, is_companion=arm in companions)
            if loses or gives
            else "",
            refused=failure.words if failure is not None and not failure.passes else "",
            unanswered=failure.words if failure is not None and failure.passes else "",
            selector=pool.selector_text,
            accelerators=_held(pods),
        )

    def _stoppable(
        self, parsed: ParsedRollout, kind: StoppedTargetKind, arm: Identity, pool: Pool, *, loses: bool
    ) -> WorkloadView | None:
        """A version that is stopped and started as a whole: it has no replicas when it is stopped."""
        obj, spec = self._caches.version(arm, parsed.namespace), splitting(parsed, kind)
        split = kind_of(spec.kind) if spec is not None else None
        if obj is None or spec is None or split is None:
            return None
        key, pods = ObjectKey(parsed.namespace, spec.name), self._caches.holding_pods(pool)
        groups = (self._caches.traffic_object(split, one, key) for one in split.resources)
        group = next(filter(None, groups), None)
        said = kind.stoppable(obj, group, spec, parsed.name)
        left = _left(said.problem, pods, pool)
        failure = self._refusals.get((parsed.namespace, arm, loses))
        return replace(
            left,
            what=f"{arm.kind} {arm.name}",
            resource_version=version_of(obj),
            replicas=0 if said.stopped else max(left.replicas, 1),
            in_flight=self._in_flight.requests(pool) if loses else None,
            used_by=said.used_by,
            refused=failure.words if failure is not None and not failure.passes else "",
            unanswered=failure.words if failure is not None and failure.passes else "",
            stops=True,
            stopped_by_us=said.by_us,
        )

    def _former(
        self, parsed: ParsedRollout, arm: Identity, arms: Collection[Identity]
    ) -> WorkloadView | None:
        """What is left of an arm whose pool is gone; None where that is nothing, or nobody knows what its pods were."""
        kept = former_pods(self._caches, parsed, arm, arms)
        if kept is None:
            return None
        pool, counts = kept
        pods = list(filter(counts, self._caches.holding_pods(pool)))
        left = _left(_unknown(f"{arm.kind} {arm.name} is gone"), pods, pool)
        return replace(left, gone=True) if pods else None

    def _rollout_with(self, parsed: ParsedRollout, pool: Pool) -> str:
        """Another Rollout that serves from the pool, or from one that the pool belongs to; empty: none."""
        raw = self._caches.pools[pool.group].get(ObjectKey(pool.namespace, pool.name))
        said = belongs(raw) if raw is not None else None
        names = {pool.name} | ({said.of} if said is not None else set())
        keys = {key for name in names for key in self._caches.rollouts_of_pool(pool.namespace, name)}
        for key in sorted(keys - {ObjectKey(parsed.namespace, parsed.name)}):
            other = self._caches.rollouts.get(key)
            if other is not None and (
                not names.isdisjoint(serving_pools(other)) or pool.name in companion_pools(other)
            ):
                return key.name
        return ""

    def _used_by(self, parsed: ParsedRollout, pool: Pool, workload: Workload, *, is_companion: bool) -> str:
        """What else sends requests to the workload's pods: a route, also of another namespace, or another Rollout.

        Rules of the Rollout's own route are its weights, but for those that ``ruleNames`` leaves out. A route to a
        companion's own pool is how its version's pods call it.
        """
        pools = self._caches.pools_of(pool.namespace, workload)
        whole, slash, _ = pool.name.partition("/")
        lead = self._caches.pool(pool.group, pool.namespace, whole) if slash else None
        if lead is not None and lead not in pools:
            pools.append(lead)  # whoever sends requests to a pool makes pods of each of its roles work
        own = {(pool.namespace, pool.group, pool.name)} if is_companion else set()
        named = {(one.namespace, one.group, one.name) for one in pools} - own
        if routes := routes_of_others(self._caches, parsed, named):
            return f"HTTPRoute {min(routes).name}"
        for one in pools:
            if user := self._rollout_with(parsed, one):
                return f"Rollout {user}"
        mirror = mirroring_route(self._caches, pool, pools, workload)
        return f"a mirror of HTTPRoute {mirror}" if mirror else ""
