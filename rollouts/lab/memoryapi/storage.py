"""Storage: objects under one revision counter, their history and open watches."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rollouts.kube.client import WatchType
from rollouts.kube.statuses import error_from_status
from rollouts.lab.memoryapi.history import Change, History
from rollouts.lab.memoryapi.json_copies import freeze, thaw
from rollouts.lab.memoryapi.kinds import ServedKind
from rollouts.lab.memoryapi.ownership import FieldOwner, render
from rollouts.lab.memoryapi.selectors import Matcher

__all__ = ["ObjectRequest", "Storage", "StoredObject"]

Object = dict[str, Any]
_LARGEST = 1536 * 1024
"""etcd's --max-request-bytes by default."""
StorageKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object as kept. ``obj`` is never changed; ``frozen`` is its quick copy."""

    obj: Object
    frozen: bytes
    owners: tuple[FieldOwner, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectRequest:
    """One object's address, and how it is written."""

    kind: ServedKind
    version: str
    namespace: str
    name: str
    manager: str = ""
    subresource: str = ""
    dry_run: bool = False
    strict: bool = False

    @property
    def api_version(self) -> str:
        """``group/version`` of the request."""
        return self.kind.resource(self.version).api_version


class Storage:
    """What etcd and the watch cache are to a real server."""

    def __init__(self, *, history_limit: int) -> None:
        self.revision = 1
        self.observers: list[Callable[[Change], None]] = []
        self._history_limit = history_limit
        self._objects: dict[StorageKey, dict[tuple[str, str], StoredObject]] = {}
        self._history: dict[StorageKey, History] = {}

    def copy(self) -> Storage:
        """A storage with the same objects and revision, no history and nobody who looks on."""
        other = Storage(history_limit=self._history_limit)
        other.revision = self.revision
        other._objects = {key: dict(table) for key, table in self._objects.items()}
        for key in self._history:
            log = other._history[key] = History(limit=self._history_limit)
            log.compact(self.revision)
        return other

    def find(self, where: ObjectRequest) -> StoredObject | None:
        """The object at an address."""
        return self._objects.get(where.kind.storage_key, {}).get((where.namespace, where.name))

    def select(self, kind: ServedKind, namespace: str, matches: Matcher) -> list[StoredObject]:
        """Objects of a kind, sorted by namespace and name; all namespaces when it is empty."""
        table = self._objects.get(kind.storage_key, {})
        return [
            table[key]
            for key in sorted(table)
            if (not namespace or key[0] == namespace) and matches(table[key].obj)
        ]

    def log(self, kind: ServedKind) -> History:
        """The history of a kind."""
        log = self._history.get(kind.storage_key)
        if log is None:
            log = self._history[kind.storage_key] = History(limit=self._history_limit)
        return log

    def put(
        self,
        where: ObjectRequest,
        new: Object,
        owners: tuple[FieldOwner, ...],
        *,
        old: StoredObject | None,
    ) -> StoredObject:
        """Store ``new`` in place of ``old`` (nothing is kept of a dry run)."""
        new["metadata"]["managedFields"] = render(owners)
        if where.dry_run:
            return StoredObject(new, freeze(new), owners)
        new["metadata"]["resourceVersion"] = str(self.revision + 1)
        kept = StoredObject(new, freeze(new), owners)
        if len(kept.frozen) > _LARGEST and len(json.dumps(new)) > _LARGEST:  # the quick copy is no JSON
            raise error_from_status(500, {"message": "etcdserver: request is too large"})
        self._objects.setdefault(where.kind.storage_key, {})[where.namespace, where.name] = kept
        self._publish(where, WatchType.MODIFIED if old else WatchType.ADDED, kept, old)
        return kept

    def remove(self, where: ObjectRequest, old: StoredObject) -> None:
        """Delete an object; its DELETED event carries the revision of the deletion."""
        last = thaw(old.frozen)
        last["metadata"]["resourceVersion"] = str(self.revision + 1)
        del self._objects[where.kind.storage_key][where.namespace, where.name]
        self._publish(where, WatchType.DELETED, StoredObject(last, freeze(last), old.owners), old)

    def drop_kind(self, kind: ServedKind) -> None:
        """Delete all objects of a kind that is no longer served, and end its watches."""
        self._objects.pop(kind.storage_key, None)
        self.log(kind).close_all()

    def change(
        self, where: ObjectRequest, change: WatchType, kept: StoredObject, old: StoredObject | None
    ) -> Change:
        """The event of one write."""
        return Change(
            revision=int(kept.obj["metadata"]["resourceVersion"]),
            type=change,
            group=where.kind.storage_key[0],
            plural=where.kind.plural,
            namespace=where.namespace,
            name=where.name,
            obj=kept.obj,
            previous=old.obj if old else None,
            manager=where.manager,
            subresource=where.subresource,
            frozen=kept.frozen,
        )

    def compact(self) -> None:
        """Forget all history."""
        for log in self._history.values():
            log.compact(self.revision)

    def close_watches(self) -> None:
        """End every open watch."""
        for log in self._history.values():
            log.close_all()

    def _publish(
        self, where: ObjectRequest, change: WatchType, kept: StoredObject, old: StoredObject | None
    ) -> None:
        self.revision += 1
        event = self.change(where, change, kept, old)
        self.log(where.kind).append(event)
        for observer in tuple(self.observers):
            observer(event)
