"""Whom a change concerns: for each watched kind of object, the Rollouts that look again when one of them changes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from rollouts.carriers import TRAFFIC_KINDS
from rollouts.controller import indexes
from rollouts.controller.caches import Caches
from rollouts.objects.fields import map_of
from rollouts.objects.groups import SET_NAME, is_worker
from rollouts.objects.workloads import WORKLOADS
from rollouts.runtime.objects import ObjectKey
from rollouts.runtime.store import Store

__all__ = ["on_rollout_change"]

Keys = Iterable[ObjectKey]


@dataclass(frozen=True, slots=True)
class _Wake:
    """A change in ``store`` concerns these Rollouts: asked with the object's key, or with each value that the object
    has or had in ``index``."""

    store: Store
    concerned: Callable[[Any], Keys]
    index: str = ""


def on_rollout_change(caches: Caches, enqueue: Callable[[ObjectKey], None]) -> None:
    """Call ``enqueue`` with the key of every Rollout that a change of any watched object may concern."""

    def telling(concerned: Callable[[Any], Keys]) -> Callable[[Any], None]:
        def changed(what: Any) -> None:
            for key in concerned(what):
                enqueue(key)

        return changed

    for wake in _Wakes(caches).all():
        if wake.index:
            wake.store.subscribe_index(wake.index, telling(wake.concerned))
        else:
            wake.store.subscribe(telling(wake.concerned))


class _Wakes:
    def __init__(self, caches: Caches) -> None:
        self._caches = caches
        self._labels: dict[ObjectKey, Mapping[str, Any]] = {}
        """Of the namespaces, as they were last seen."""

    def all(self) -> Iterator[_Wake]:
        """Every kind that is watched."""
        caches = self._caches
        yield _Wake(caches.rollouts, lambda key: [key])
        yield _Wake(caches.rollouts, lambda key: self._by(indexes.BEHIND, key.namespace, key.name))
        for kind in TRAFFIC_KINDS:
            for resource in kind.resources:
                yield _Wake(caches.traffic[resource], self._of_traffic(kind.kind), kind.made_of)
        for store in caches.pools.values():
            yield _Wake(store, self._of_pool)
            if caches.capacity_kinds:
                yield _Wake(store, lambda version: caches.rollouts_of_pool(*version), indexes.COMPANION)
        yield _Wake(caches.services, self._of_picker)
        for store in (caches.pods, *caches.workloads.values()):
            yield _Wake(store, self._of_label, indexes.LABEL)
        for store in caches.autoscalers.values():
            yield _Wake(store, self._of_autoscaler, indexes.TARGET)
        for store in (caches.runs, caches.jobs):
            yield _Wake(store, lambda owner: [ObjectKey(*owner[:2])], indexes.OWNER)
        for store in (caches.templates, caches.cluster_templates):
            yield _Wake(store, self._of_template)
        for store in (caches.strategies, caches.cluster_strategies):
            yield _Wake(store, self._of_strategy)
        if caches.watches_freezes:
            # Those that have a canary look again: all for a freeze, its own for a namespace.
            yield _Wake(caches.freezes, lambda _: self._by(indexes.CANARY, ""))
            yield _Wake(caches.namespace_objects, self._of_namespace)
        if caches.capacity_kinds:
            yield _Wake(caches.pods, self._of_mark, indexes.MARKED)

    def _by(self, index: str, *value: str) -> Keys:
        return self._caches.rollouts.keys_by_index(index, value if len(value) > 1 else value[0])

    def _of_traffic(self, kind: str) -> Callable[[tuple[str, str]], Keys]:
        """By the key of the traffic object, which may be several objects."""
        return lambda key: self._by(indexes.ROUTE, key[0], kind, key[1])

    def _of_pool(self, key: ObjectKey) -> Keys:
        yield from self._caches.rollouts_of_pool(key.namespace, key.name)
        for version in self._caches.versions_served_by(key):
            yield from self._caches.rollouts_of_pool(key.namespace, version)

    def _of_picker(self, service: ObjectKey) -> Keys:
        for store in self._caches.pools.values():
            for pool in store.keys_by_index(indexes.PICKER, (service.namespace, service.name)):
                yield from self._of_pool(pool)

    def _of_label(self, label: Hashable) -> Keys:
        """A pod, or what makes pods: the pools that may select them, and the pickers that they may be."""
        for pair in (label, *self._leader_labels(label)):
            for store in self._caches.pools.values():
                for pool in store.keys_by_index(indexes.POOL_SELECTOR, pair):
                    yield from self._of_pool(pool)
        for service in self._caches.services.keys_by_index(indexes.SERVICE_SELECTOR, label):
            yield from self._of_picker(service)

    def _leader_labels(self, value: Hashable) -> Iterable[Hashable]:
        """Where a pod of a group changed: the labels of its leaders, since pools need not select its workers."""
        namespace, label, name = cast("tuple[str, str, str]", value)
        if label != SET_NAME:
            return ()
        store = self._caches.workloads.get(WORKLOADS["LeaderWorkerSet"])
        workload = store.get(ObjectKey(namespace, name)) if store is not None else None
        if workload is not None:
            return indexes.workload_by_label(workload)
        leaders = (pod for pod in self._caches.pods.by_index(indexes.LABEL, value) if not is_worker(pod))
        return next(map(indexes.by_label, leaders), ())

    def _of_autoscaler(self, target: tuple[str, str, str]) -> Keys:
        """An autoscaler came or went: whoever looks at the pods of its workload looks again."""
        namespace, kind, name = target
        for resource, store in self._caches.workloads.items():
            workload = store.get(ObjectKey(namespace, name)) if resource.kind == kind else None
            for label in indexes.workload_by_label(workload) if workload is not None else ():
                yield from self._of_label(label)

    def _of_template(self, key: ObjectKey) -> Keys:
        yield from self._by(indexes.TEMPLATE, key.namespace, key.name)
        for store in (self._caches.strategies, self._caches.cluster_strategies):
            # A cluster's strategy means templates of whichever namespace uses it.
            for namespace in {key.namespace, ""}:
                for using in store.keys_by_index(indexes.TEMPLATE, (namespace, key.name)):
                    yield from self._of_strategy(using)

    def _of_strategy(self, key: ObjectKey) -> Keys:
        return self._by(indexes.STRATEGY, key.namespace, key.name)

    def _of_namespace(self, key: ObjectKey) -> Keys:
        """A namespace came, went or has other labels; what else changes of it concerns nobody."""
        namespace, before = self._caches.namespace_objects.get(key), self._labels.pop(key, None)
        labels = None if namespace is None else map_of(namespace["metadata"].get("labels"))
        if labels is not None:
            self._labels[key] = labels
        return self._by(indexes.CANARY, key.name) if labels != before else ()

    def _of_mark(self, value: tuple[str, str]) -> Keys:
        """A pod is marked for a Rollout that is gone, as after a refusal and a restart: it is to get requests again."""
        key = ObjectKey(*value)
        gone = key not in self._caches.rollouts
        return [key] if gone and self._caches.pods.keys_by_index(indexes.MARKED, value) else []
