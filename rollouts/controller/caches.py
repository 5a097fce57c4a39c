"""The controller's picture of the cluster: one store per kind, and one reflector per kind and watched namespace."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import Any

from rollouts.api.run_status import attempt_in, attempt_of, finished_run, is_finished
from rollouts.carriers import TRAFFIC_KINDS, TrafficKind, object_target, object_targets
from rollouts.carriers.base import POOL_REF
from rollouts.carriers.http_route import MIRROR, WEIGHTED
from rollouts.controller import indexes
from rollouts.controller.trimming import (
    trim_autoscaler,
    trim_namespace,
    trim_pod,
    trim_scaled_pod,
    trim_service,
    trim_workload,
)
from rollouts.engine.naming import UID_DIGITS
from rollouts.engine.versions import Identity
from rollouts.kube.client import KubeClient, Resource
from rollouts.objects import kinds
from rollouts.objects.companions import belongs
from rollouts.objects.fields import map_of, text_of
from rollouts.objects.groups import (
    GROUP_INDEX,
    SET_NAME,
    group_of,
    group_size,
    is_whole,
    is_worker,
)
from rollouts.objects.owners import owner_of
from rollouts.objects.pods import (
    PickerPod,
    Pod,
    holds_resources,
    is_ready,
    metrics_port,
    read_picker_pod,
    read_pod,
    warmed_for,
)
from rollouts.objects.pools import Pool
from rollouts.objects.workloads import (
    AUTOSCALER,
    AUTOSCALERS,
    WORKLOAD_ANNOTATION,
    WORKLOADS,
    Workload,
    makes_pods_of,
    pod_labels,
    read_workload,
    template_selector,
)
from rollouts.runtime.clock import Clock
from rollouts.runtime.objects import Object, ObjectKey, key_of, uid_of
from rollouts.runtime.reflector import Reflector
from rollouts.runtime.store import ReadOnce, Store

__all__ = ["Caches"]


_OF_FREEZES = (kinds.ROLLOUT_FREEZE, kinds.NAMESPACE)
_NOT_AWAITED = (*_OF_FREEZES, *(one for one in AUTOSCALERS if one != AUTOSCALER))
"""What is no reason to leave an abort undone: freezes hold up none, and a role of somebody's own may lack the right to
list what another project brings."""
_CLUSTER_SCOPED = (kinds.CLUSTER_ANALYSIS_TEMPLATE, kinds.CLUSTER_ROLLOUT_STRATEGY)


def _unwatched_by(options: Collection[str]) -> frozenset[Resource]:
    """Kinds of traffic objects whose options are off."""
    off = (kind for kind in TRAFFIC_KINDS if kind.option is not None and kind.option.name in options)
    return frozenset(resource for kind in off for resource in kind.resources)


class Caches:
    """Stores of every kind that a plan looks at. No ``namespaces``: all are watched, by one watch per kind.

    Without ``cluster_templates`` those are not watched, since a namespaced Role cannot allow it; neither are
    RolloutFreezes and Namespaces without ``freezes``. ``whole_runs`` keeps all of finished AnalysisRuns, for whoever
    tells of the past. ``capacity_kinds``: workloads that may be scaled; without any, neither they nor autoscalers are
    watched. ``unwatched``: options (``carriers.options``) that are off; what they are for is not watched.
    """

    def __init__(
        self,
        client: KubeClient,
        clock: Clock,
        *,
        namespaces: Collection[str] = (),
        cluster_templates: bool = True,
        freezes: bool = False,
        whole_runs: bool = False,
        capacity_kinds: Collection[str] = (),
        unwatched: Collection[str] = (),
    ) -> None:
        self.capacity_kinds = tuple(kind for kind in WORKLOADS if kind in capacity_kinds)
        self.watches_cluster_templates = cluster_templates
        self.watches_freezes = freezes
        self.namespaces = tuple(sorted(set(namespaces)))
        self.doomed: set[str] = set()
        """UIDs of Rollouts whose namespace ends: as good as deleted. A namesake in a new namespace has another UID."""
        self.leaving = False
        """This process is about to end: what is deleted is let go at once."""
        self._unwatched = _unwatched_by(unwatched)
        self._stores: dict[Resource, Store] = {}
        self._keep_ours(whole_runs=whole_runs)
        self._keep_traffic_and_pools()
        self._keep_pods_and_workloads()
        # Each plan asks for the same few pools; the store's object is another one after each change.
        self._read_pools: dict[tuple[str, str, str], tuple[Object, Pool]] = {}
        self._unstored_runs: dict[ObjectKey, tuple[str, Object]] = {}
        self._read_pods: ReadOnce[list[Pod]] = ReadOnce(self.pods)
        self._counted_units: ReadOnce[int] = ReadOnce(self.pods)
        self.reflectors = tuple(
            Reflector(client, resource, store, clock, namespace=namespace)
            for resource, store in self._stores.items()
            if self._reflects(resource)
            for namespace in (self.namespaces if resource.namespaced and namespaces else (None,))
        )
        self._of_freezes = tuple(one for one in self.reflectors if one.resource in _OF_FREEZES)

    def _keep_ours(self, *, whole_runs: bool) -> None:
        """Stores of our own kinds, and of the namespaces that freezes select."""
        self.rollouts = self._keep(kinds.ROLLOUT, indexes=indexes.OF_ROLLOUTS)
        self.runs = self._keep(
            kinds.ANALYSIS_RUN, indexes=indexes.OF_OWNED, transform=None if whole_runs else self._trim_run
        )
        self.freezes = self._keep(kinds.ROLLOUT_FREEZE)
        self.namespace_objects = self._keep(kinds.NAMESPACE, transform=trim_namespace)
        self.templates = self._keep(kinds.ANALYSIS_TEMPLATE)
        self.cluster_templates = self._keep(kinds.CLUSTER_ANALYSIS_TEMPLATE)
        self.strategies = self._keep(kinds.ROLLOUT_STRATEGY, indexes=indexes.OF_STRATEGIES)
        self.cluster_strategies = self._keep(kinds.CLUSTER_ROLLOUT_STRATEGY, indexes=indexes.OF_STRATEGIES)

    def _keep_traffic_and_pools(self) -> None:
        """Stores of what splits requests, and of the versions that have pods; one object may be both."""
        with_pods = {resource: kind.pods for kind in object_targets() for resource in kind.resources}
        of_pods = {resource: self._of_pools(read) for resource, read in with_pods.items()}
        self.traffic = {
            resource: self._keep(
                resource, indexes={**kind.indexes, **of_pods.get(resource, {})}, keep_managed_fields=True
            )
            for kind in TRAFFIC_KINDS
            for resource in kind.resources
        }
        self.pools = {
            resource.group: self._stores[resource]
            if resource in self._stores
            else self._keep(resource, indexes=indexed)
            for resource, indexed in of_pods.items()
        }
        self._pool_readers = {resource.group: read for resource, read in with_pods.items()}

    def _keep_pods_and_workloads(self) -> None:
        """Stores of pods, Services and Jobs, and, where pods may be scaled, of what makes them."""
        scales = bool(self.capacity_kinds)
        self.pods = self._keep(
            kinds.POD,
            indexes={indexes.LABEL: indexes.by_label} | ({indexes.MARKED: indexes.by_mark} if scales else {}),
            transform=trim_scaled_pod if scales else trim_pod,
        )
        self.services = self._keep(
            kinds.SERVICE,
            indexes={indexes.SERVICE_SELECTOR: indexes.service_by_selector},
            transform=trim_service,
        )
        self.jobs = self._keep(kinds.JOB, indexes=indexes.OF_OWNED)
        self.workloads = {
            resource: self._keep(
                resource, indexes={indexes.LABEL: indexes.workload_by_label}, transform=trim_workload
            )
            for resource in (WORKLOADS[kind] for kind in self.capacity_kinds)
        }
        self.autoscalers = {
            resource: self._keep(
                resource, indexes={indexes.TARGET: indexes.autoscaler_by_target}, transform=trim_autoscaler
            )
            for resource in (AUTOSCALERS if self.workloads else ())
        }

    def _reflects(self, resource: Resource) -> bool:
        """Whether the options have the kind watched."""
        return (
            resource not in self._unwatched
            and (self.watches_cluster_templates or resource not in _CLUSTER_SCOPED)
            and (self.watches_freezes or resource not in _OF_FREEZES)
        )

    def _keep(self, resource: Resource, **how: Any) -> Store:
        """A store of what is watched of a kind; ``how`` are the arguments of ``Store``."""
        self._stores[resource] = Store(**how)
        return self._stores[resource]

    def _of_pools(self, read: Callable[[Object], Pool]) -> dict[str, Callable[[Object], Iterable[Hashable]]]:
        """Indexes of what has pods; ``read`` tells them."""
        found = {
            indexes.POOL_SELECTOR: indexes.pool_by_selector(read),
            indexes.PICKER: indexes.pool_by_picker(read),
        }
        if self.capacity_kinds:
            found[indexes.TEMPLATE_SELECTOR] = indexes.pool_by_template(read)
            found[indexes.COMPANION] = indexes.pool_by_companion
        return found

    def _trim_run(self, run: Object) -> Object:
        """Of a finished run what its Rollout reads, and of one of an earlier attempt metadata and phase: ten attempts
        per Rollout are kept in the cluster, and no plan looks at them. A Rollout may be older here than its runs."""
        if not is_finished(run):
            return run
        owner = owner_of(run, kinds.ROLLOUT.kind)
        rollout = (
            self.rollouts.get(ObjectKey(indexes.namespace_of(run), owner[0])) if owner is not None else None
        )
        return finished_run(run, is_read=rollout is None or attempt_of(run) >= attempt_in(rollout))

    def trim_runs(self, runs: Iterable[Object]) -> None:
        """Trim finished runs again: their Rollout has gone on to another attempt since."""
        for run in runs:
            if is_finished(run) and len(run["status"]) > 1:
                self.runs.trim(key_of(run))

    def by_resource(self) -> Mapping[Resource, Store]:
        """Every watched kind and its store."""
        return self._stores

    def traffic_object(self, kind: TrafficKind, resource: Resource, key: ObjectKey) -> Object | None:
        """The traffic object of a name; None when it does not exist."""
        store = self.traffic[resource]
        if kind.made_of:
            return kind.joined(*key, store.by_index(kind.made_of, tuple(key)))
        return kind.joined(*key, filter(None, [store.get(key)]))

    def version(self, arm: Identity, namespace: str) -> Object | None:
        """The object that an arm is; None when it does not exist, or the arm is none."""
        kind = object_target(arm.kind)
        resources = (
            (one for one in kind.resources if arm.group in ("", one.group)) if kind is not None else ()
        )
        found = (self._stores[resource].get(ObjectKey(namespace, arm.name)) for resource in resources)
        return next((obj for obj in found if obj is not None), None)

    @property
    def routes(self) -> Store:
        """HTTPRoutes."""
        return self.traffic[kinds.HTTP_ROUTE]

    @property
    def has_synced(self) -> bool:
        """Whether every kind that is waited for was listed once or is known not to be served."""
        return all(reflector.has_synced for reflector in self._needed())

    async def wait_for_sync(self) -> None:
        """Wait for ``has_synced``. Freezes (``knows_freezes``) and autoscalers of other projects are not waited for."""
        for reflector in self._needed():
            await reflector.wait_for_sync()

    def _needed(self) -> list[Reflector]:
        return [reflector for reflector in self.reflectors if reflector.resource not in _NOT_AWAITED]

    def knows_freezes(self) -> bool:
        """Whether freezes and the labels of namespaces were listed; until then everything counts as frozen."""
        return all(reflector.has_synced for reflector in self._of_freezes)

    def watched(self, resource: Resource) -> bool:
        """Whether the controller's options have the kind watched."""
        return resource not in self._unwatched

    def served(self, resource: Resource) -> bool:
        """Whether the API server serves the kind, and it is watched."""
        return self.watched(resource) and all(
            reflector.state.value != "not served"
            for reflector in self.reflectors
            if reflector.resource == resource
        )

    def pool(self, group: str, namespace: str, name: str) -> Pool | None:
        """An InferencePool, or its pods of one role (``with_role``); None when it does not exist."""
        name, _, role = name.partition("/")
        store, place = self.pools.get(group), (group, namespace, name)
        obj = store.get(ObjectKey(namespace, name)) if store is not None else None
        if obj is None:
            self._read_pools.pop(place, None)
            return None
        known = self._read_pools.get(place)
        if known is None or known[0] is not obj:
            known = self._read_pools[place] = (obj, self._pool_readers[group](obj))
        return known[1].role(role) if role else known[1]

    def pool_group(self, namespace: str, name: str, first: str) -> str | None:
        """The API group that has an InferencePool of the name, ``first`` before others; None where none has."""
        groups = (first, *(one.group for one in kinds.POOLS))
        found = (group for group in groups if self.pool(group, namespace, name) is not None)
        return next(found, None)

    def labelled_companions(self, namespace: str, version: str) -> set[str]:
        """Names of the pools that belong to the version of a pool by their label."""
        if not self.capacity_kinds:
            return set()
        stores = (self.pools[resource.group] for resource in kinds.POOLS)
        return {
            key.name
            for store in stores
            for key in store.keys_by_index(indexes.COMPANION, (namespace, version))
        }

    def versions_served_by(self, pool: ObjectKey) -> set[str]:
        """The pools whose versions a pool belongs to, by its label."""
        found = (store.get(pool) for store in self.pools.values()) if self.capacity_kinds else ()
        said = (belongs(obj) for obj in found if obj is not None)
        return {one.of for one in said if one is not None}

    def endpoints(self, pool: Pool) -> list[Pod]:
        """The pool's pods that have an IP, by name."""

        def read() -> list[Pod]:
            found = (read_pod(pod, pool.name) for pod in self._selected(pool.namespace, pool.selector))
            return [pod for pod in found if pod is not None]

        return list(self._read_pods.get((pool.namespace, pool.name, pool.selector), read))

    def ready_units(self, pool: Pool) -> int:
        """The pool's Ready pods that have an IP; of groups their leaders, where all of their workers are Ready."""

        def count() -> int:
            return sum(map(self.is_ready_unit, self.unit_pods(pool)))

        return self._counted_units.get((pool.namespace, pool.selector), count)

    def unit_pods(self, pool: Pool) -> list[Object]:
        """The pool's pods by name; of groups their leaders, who answer for them."""
        return [pod for pod in self._selected(pool.namespace, pool.selector) if not is_worker(pod)]

    def is_ready_unit(self, pod: Object) -> bool:
        """Whether a pod is Ready and has an IP; of a leader, whether all of its workers are Ready, too."""
        return is_ready(pod) and read_pod(pod) is not None and self._is_whole(pod)

    def _is_whole(self, pod: Object) -> bool:
        group = group_of(pod)
        if group is None or group_size(pod) <= 1:
            return True
        pair = ((SET_NAME, group[0]), (GROUP_INDEX, group[1]))
        return is_whole(pod, self._selected(indexes.namespace_of(pod), pair))

    def holding_pods(self, pool: Pool) -> list[Object]:
        """The pool's pods that have, or wait for, what they ask a node for; those that are being deleted included.

        Workers of its leaders, also of those that are gone, are its pods whatever it selects.
        """
        found = {key_of(pod): pod for pod in self._selected(pool.namespace, pool.selector)}
        for name in self._sets_of(pool, found.values()):
            for pod in self._selected(pool.namespace, ((SET_NAME, name),)):
                found[key_of(pod)] = pod
        return [found[key] for key in sorted(found) if holds_resources(found[key])]

    def _sets_of(self, pool: Pool, pods: Iterable[Object]) -> set[str]:
        """The LeaderWorkerSets whose pods are the pool's, by their pods and by what is watched of them."""
        named = {group[0] for group in map(group_of, pods) if group is not None}
        return named | {one.name for one in self.workloads_of(pool) if one.makes_groups}

    def marked_pods(self, namespace: str, rollout: str) -> list[Object]:
        """Pods that a Rollout keeps requests from, since they are to go."""
        return [pod for pod in self._kept_from_requests(namespace, rollout) if not warmed_for(pod)]

    def warming_pods(self, namespace: str, rollout: str) -> list[Object]:
        """Pods that it keeps requests from until they are warm."""
        return [pod for pod in self._kept_from_requests(namespace, rollout) if warmed_for(pod)]

    def _kept_from_requests(self, namespace: str, rollout: str) -> list[Object]:
        return self.pods.by_index(indexes.MARKED, (namespace, rollout)) if self.capacity_kinds else []

    def workloads_of(self, pool: Pool) -> list[Workload]:
        """Workloads whose pods are the pool's, by kind and name."""
        found, labels = [], [(pool.namespace, *pair) for pair in template_selector(pool)]
        for resource, store in self.workloads.items():
            for key in sorted(store.keys_by_all(indexes.LABEL, labels)):
                workload = store.get(key)
                if workload is not None:
                    found.append(read_workload(resource, workload))
        # A LeaderWorkerSet makes StatefulSets: one of its leaders, and one of each leader's workers, which that owns.
        sets = {one.what for one in found}
        return [one for one in found if one.owner not in sets and not one.owner.startswith("Pod ")]

    def workload_asked(self, pool: Pool) -> str:
        """The workload that the pool's annotation names; empty without one."""
        store = self.pools.get(pool.group)
        obj = store.get(ObjectKey(pool.namespace, pool.name)) if store is not None else None
        annotations = map_of(map_of((obj or {}).get("metadata")).get("annotations"))
        return text_of(annotations.get(WORKLOAD_ANNOTATION))

    def autoscaler_of(self, namespace: str, workload: Workload) -> str:
        """The autoscaler of a workload, for people; empty without one."""
        target = (namespace, workload.resource.kind, workload.name)
        for resource, store in self.autoscalers.items():
            names = sorted(key.name for key in store.keys_by_index(indexes.TARGET, target))
            if names:
                return f"{resource.kind} {names[0]}"
        return ""

    def template_labels(self, namespace: str, workload: Workload) -> Mapping[str, str]:
        """Labels of the workload's Pod template; none where it is gone."""
        store = self.workloads.get(workload.resource)
        obj = store.get(ObjectKey(namespace, workload.name)) if store is not None else None
        return {name: value for name, value in pod_labels(obj or {}).items() if isinstance(value, str)}

    def pools_of(self, namespace: str, workload: Workload) -> list[Pool]:
        """InferencePools whose pods the workload makes, by group and name. Costs what those have in common with it."""
        found, labels = [], self.template_labels(namespace, workload)
        for group, store in self.pools.items():
            keys = (
                store.keys_by_index(indexes.TEMPLATE_SELECTOR, (namespace, *label))
                for label in labels.items()
            )
            pools = (self.pool(group, *key) for key in sorted(frozenset().union(*keys)))
            found += [pool for pool in pools if pool is not None and makes_pods_of(labels, pool)]
        return found

    def pods_with(self, namespace: str, labels: Mapping[str, Any]) -> list[Object]:
        """Pods that have all of these labels, by name."""
        return self._selected(namespace, tuple(labels.items()))

    def routes_to(self, pools: Iterable[tuple[str, str, str]]) -> frozenset[ObjectKey]:
        """HTTPRoutes, of any namespace, that give one of the pools (namespace, group, name) weight."""
        return frozenset().union(*(self.routes.keys_by_index(WEIGHTED, pool) for pool in pools))

    def picker_pods(self, pool: Pool) -> list[PickerPod]:
        """Ready pods behind the Service of the pool's endpoint picker, by name."""
        key = ObjectKey(pool.namespace, pool.picker.name if pool.picker is not None else "")
        service = self.services.get(key)
        if service is None:
            return []
        selector = tuple(sorted(service["spec"]["selector"].items()))
        port = metrics_port(service)
        found = (read_picker_pod(pod, port) for pod in self._selected(pool.namespace, selector))
        return [pod for pod in found if pod is not None]

    def has_pod(self, namespace: str, labels: tuple[tuple[str, str], ...]) -> bool:
        """Whether there is a pod with all of these labels."""
        return bool(self._selected(namespace, labels))

    def labels_of_pod(self, key: ObjectKey) -> Mapping[str, Any]:
        """The labels of a pod; none where it is gone."""
        return map_of(map_of((self.pods.get(key) or {}).get("metadata")).get("labels"))

    def _selected(self, namespace: str, selector: tuple[tuple[str, str], ...]) -> list[Object]:
        labels = [(namespace, *pair) for pair in selector]
        pods = (self.pods.get(key) for key in sorted(self.pods.keys_by_all(indexes.LABEL, labels)))
        return [pod for pod in pods if pod is not None]

    def owned_runs(self, key: ObjectKey, uid: str) -> list[Object]:
        """AnalysisRuns of the Rollout that has this key and UID."""
        return [self._as_known(run) for run in self.runs.by_index(indexes.OWNER, (*key, uid))]

    def know_run(self, key: ObjectKey, uid: str, status: Object) -> None:
        """What a run's status is to say, where the API server does not take it."""
        before, self._unstored_runs[key] = self._unstored_runs.get(key), (uid, status)
        if before != (uid, status):
            self.runs.touch(key)

    def trust_run(self, key: ObjectKey) -> None:
        """A run's status says what is known, or it is gone."""
        self._unstored_runs.pop(key, None)

    def _as_known(self, run: Object) -> Object:
        uid, status = self._unstored_runs.get(key_of(run), ("", None))
        return run if status is None or uid != uid_of(run) else {**run, "status": status}

    def owned_jobs(self, key: ObjectKey, uid: str) -> list[Object]:
        """Jobs of the Rollout that has this key and UID."""
        return self.jobs.by_index(indexes.OWNER, (*key, uid))

    def taken_names(self, key: ObjectKey, uid: str) -> frozenset[str]:
        """Names that end as those of the Rollout's runs and Jobs do, of objects that are not its own."""
        found: frozenset[ObjectKey] = frozenset()
        for store in (self.runs, self.jobs):
            like_ours = store.keys_by_index(indexes.NAME_END, (key.namespace, uid[:UID_DIGITS]))
            found |= like_ours - store.keys_by_index(indexes.OWNER, (*key, uid))
        return frozenset(other.name for other in found)

    def mirroring_routes(self, namespace: str) -> list[Object]:
        """HTTPRoutes that send copies of requests somewhere."""
        return self.routes.by_index(MIRROR, namespace)

    def model_objects(self, namespace: str, pool: str) -> list[Object]:
        """Objects that split adapters of the pool."""
        stores = (store for _, store in self._by_pool())
        return [obj for store in stores for obj in store.by_index(POOL_REF, (namespace, pool))]

    def rollouts_of_pool(self, namespace: str, pool: str) -> frozenset[ObjectKey]:
        """Rollouts that a change of the pool's pods may concern: by name, or by the model object that they roll."""
        found = set(self.rollouts.keys_by_index(indexes.POOL, (namespace, pool)))
        for kind, store in self._by_pool():
            for key in store.keys_by_index(POOL_REF, (namespace, pool)):
                found |= self.rollouts.keys_by_index(indexes.ROUTE, (namespace, kind.kind, key.name))
        return frozenset(found)

    def _by_pool(self) -> list[tuple[TrafficKind, Store]]:
        """The stores of what names the pool that it splits."""
        split = (kind for kind in TRAFFIC_KINDS if POOL_REF in kind.indexes)
        return [(kind, self.traffic[resource]) for kind in split for resource in kind.resources]

    def rollouts_of_route(self, namespace: str, kind: str, name: str) -> list[Object]:
        """Rollouts that name this traffic object, oldest first."""
        found = self.rollouts.by_index(indexes.ROUTE, (namespace, kind, name))
        return sorted(
            found,
            key=lambda obj: (str(obj["metadata"].get("creationTimestamp", "")), obj["metadata"]["name"]),
        )
