"""A local copy of all objects of one kind, with indexes.

Level-triggered: subscribers are told *which key* may have changed, never what happened to it; they look the
object up when they get to it. Three sources write to the store, and may be out of step with each other:
the watch, a list, and the answers to our own writes. The rules that keep it from going back in time:

- the UID is the identity: a new UID under an old name is a delete and an add; a deleted UID never returns;
- for one UID a lower resourceVersion never replaces a higher one (KEP-5504 makes them comparable);
- versions that are not numbers are not compared: the latest arrival wins, and the API server's own
  precondition on writes is what protects against acting on a stale copy;
- a list that is older than what was known when it was asked for means that the cluster's history went
  back (etcd restored from a backup): then the list is the truth.

Objects handed out are shared: treat them as read-only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, ValuesView
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import structlog

from rollouts.runtime.objects import (
    MalformedObject,
    Object,
    ObjectKey,
    Order,
    compact,
    compare_versions,
    drop_managed_fields,
    key_of,
    uid_of,
    version_of,
)

__all__ = [
    "IndexFunction",
    "IndexSubscriber",
    "ReadOnce",
    "RecordWrite",
    "Replacement",
    "Store",
    "Subscriber",
]

IndexFunction = Callable[[Object], Iterable[Hashable]]
Subscriber = Callable[[ObjectKey], None]
IndexSubscriber = Callable[[Hashable], None]


class RecordWrite(Protocol):
    """Takes the answer to a write; ``tell`` False: the subscribers have nothing to do about it."""

    def __call__(self, obj: Object, *, tell: bool = True) -> None:
        """See ``Store.writing``."""
        ...


# Deleted UIDs are remembered to recognise events that arrive after the delete. They can only be as late as
# one of our own requests or a replayed watch, so a few thousand are plenty (and 200 kB).
_TOMBSTONES = 4096

_log = structlog.get_logger(__name__)

T = TypeVar("T")


@dataclass(slots=True)
class _Index:
    function: IndexFunction
    members: dict[Hashable, set[ObjectKey]] = field(default_factory=dict)
    filed: dict[ObjectKey, frozenset[Hashable]] = field(default_factory=dict)
    subscribers: list[IndexSubscriber] = field(default_factory=list)
    touched: dict[Hashable, None] = field(default_factory=dict)

    def file(self, key: ObjectKey, obj: Object | None) -> None:
        """File ``key`` under the values of ``obj``, or nowhere (None); note all values it has and had."""
        before = self.filed.pop(key, frozenset())
        after = self._values(key, obj) if obj is not None else frozenset()
        for value in before - after:
            keys = self.members[value]
            keys.discard(key)
            if not keys:
                del self.members[value]
        for value in after - before:
            self.members.setdefault(value, set()).add(key)
        if after:
            self.filed[key] = after
        if self.subscribers:
            self.touched.update(dict.fromkeys((*before, *(after - before))))

    def _values(self, key: ObjectKey, obj: Object) -> frozenset[Hashable]:
        try:
            return frozenset(self.function(obj))
        except Exception as error:
            _log.warning("object_not_indexed", namespace=key.namespace, name=key.name, reason=_brief(error))
            return frozenset()


class Store:
    """Objects of one kind by (namespace, name), with named indexes.

    ``indexes`` maps a name to a function from an object to its index values (hashable); a function that
    raises on some object files that object under no value. ``transform`` trims objects before they are kept
    (its result must keep metadata); ``keep_managed_fields`` keeps what is dropped otherwise.
    ``skipped`` counts objects that could not be stored at all, ``changes`` those that were stored, trimmed or deleted.
    """

    def __init__(
        self,
        *,
        indexes: Mapping[str, IndexFunction] | None = None,
        transform: Callable[[Object], Object] | None = None,
        keep_managed_fields: bool = False,
    ) -> None:
        self.skipped = 0
        self.changes = 0
        self._latest: dict[str, str] = {}  # newest version seen of each namespace; "": of a list of all
        self._objects: dict[ObjectKey, Object] = {}
        self._indexes = {name: _Index(function) for name, function in (indexes or {}).items()}
        self._transform = transform
        self._keep_managed_fields = keep_managed_fields
        self._subscribers: list[Subscriber] = []
        self._tombstones: OrderedDict[str, None] = OrderedDict()
        self._changed: dict[ObjectKey, None] = {}
        self._held: dict[ObjectKey, bool] = {}  # being written by us -> whether there is something to tell

    # Reading

    def __len__(self) -> int:
        return len(self._objects)

    def __contains__(self, key: ObjectKey) -> bool:
        return key in self._objects

    def __iter__(self) -> Iterator[ObjectKey]:
        return iter(self._objects)

    def get(self, key: ObjectKey) -> Object | None:
        """The object, or None when the store has none of that key."""
        return self._objects.get(key)

    def values(self) -> ValuesView[Object]:
        """All objects, in no particular order. Do not change the store while iterating."""
        return self._objects.values()

    def keys_by_index(self, index: str, value: Hashable) -> frozenset[ObjectKey]:
        """Keys of the objects filed under ``value``. Raises KeyError for an unknown index."""
        return frozenset(self._indexes[index].members.get(value, ()))

    def keys_by_all(self, index: str, values: Iterable[Hashable]) -> frozenset[ObjectKey]:
        """Keys of the objects filed under every one of ``values``, without values none. Costs what the rarest has."""
        members = self._indexes[index].members
        first, *others = sorted((members.get(value, set()) for value in values), key=len) or [set()]
        return frozenset(first.intersection(*others))

    def by_index(self, index: str, value: Hashable) -> list[Object]:
        """Objects filed under ``value``, ordered by key. Raises KeyError for an unknown index."""
        return [self._objects[key] for key in sorted(self._indexes[index].members.get(value, ()))]

    def latest_version(self, namespace: str | None = None) -> str:
        """The newest version seen, of all or of one namespace; empty before the first."""
        if namespace is not None:
            return self._latest.get(namespace, "")
        newest = ""
        for version in self._latest.values():
            newest = version if _newer(version, newest) else newest
        return newest

    # Subscribing

    def subscribe(self, subscriber: Subscriber) -> None:
        """Call ``subscriber`` with the key of each object that was added, changed or deleted."""
        self._subscribers.append(subscriber)

    def subscribe_index(self, index: str, subscriber: IndexSubscriber) -> None:
        """Call ``subscriber`` with each index value that a changed object has or had.

        This is how an owner hears of an owned object that is already gone.
        """
        self._indexes[index].subscribers.append(subscriber)

    # Writing

    def apply(self, obj: Object) -> bool:
        """Take an added or modified object from the watch. Answers whether anything changed."""
        key = self._admissible_key(obj)
        if key is None:
            return False
        self._note_version(version_of(obj), key.namespace)
        if uid_of(obj) in self._tombstones or not self._supersedes(obj, self._objects.get(key)):
            return False
        self._put(key, obj)
        return self._notify() > 0

    @contextmanager
    def writing(self, key: ObjectKey) -> Iterator[RecordWrite]:
        """Around a write of ours of ``key``: call the result with the server's answer, as ``record_write``.

        ``tell`` False there: the subscribers hear nothing of this write, neither from the answer nor from its echo
        on the watch, which may come before the answer; of what others wrote meanwhile they do. Until the write is
        over, or failed, nothing is told of this key.
        """
        self._held.setdefault(key, False)

        def record(obj: Object, *, tell: bool = True) -> None:
            self.record_write(obj)
            present = self._objects.get(key)
            if not tell and present is not None and not self._differs(obj, present):
                self._held[key] = False

        try:
            yield record
        finally:
            if self._held.pop(key, False):
                self._tell(key)

    def record_write(self, obj: Object) -> bool:
        """Take the answer to one of our own writes, so that the next plan sees it before the watch does.

        Ignored when the object was deleted, or written by someone else, since.
        Answers whether anything changed.
        """
        key = self._admissible_key(obj)
        if key is None or uid_of(obj) in self._tombstones:
            return False
        stored = self._objects.get(key)
        if stored is not None and not self._supersedes(obj, stored):
            return False
        self._put(key, obj)
        return self._notify() > 0

    def remove(self, obj: Object) -> bool:
        """Take a deleted object from the watch. Answers whether anything changed."""
        key = self._admissible_key(obj)
        if key is None:
            return False
        self._note_version(version_of(obj), key.namespace)
        uid = uid_of(obj)
        self._bury(uid)
        stored = self._objects.get(key)
        if stored is None:
            return False
        if uid_of(stored) != uid and compare_versions(version_of(obj), version_of(stored)) is Order.OLDER:
            return False
        self._delete(key)
        return self._notify() > 0

    def trim(self, key: ObjectKey) -> None:
        """Apply ``transform`` once more: what it leaves out may depend on more than the object. Nobody is told."""
        obj = self._objects.get(key)
        if obj is not None:
            self.changes += 1
            self._objects[key] = self._trim(key, obj)

    def touch(self, key: ObjectKey) -> None:
        """Tell who subscribed to an index of an object of which more is known than it says."""
        obj = self._objects.get(key)
        if obj is not None:
            for index in self._indexes.values():
                index.file(key, obj)
            self._notify()

    def clear(self, namespace: str | None = None) -> int:
        """Delete everything, or one namespace's, as when the kind is no longer served. Answers how many went."""
        for key in list(self._objects):
            if namespace in (None, key.namespace):
                self._delete(key)
        return self._notify()

    # Inside

    def _begin_listing(self, version: str, *, rewound: bool, namespace: str | None) -> None:
        if rewound:
            self._tombstones.clear()
            for name in [namespace] if namespace is not None else list(self._latest):
                self._latest[name] = version
        self._note_version(version, namespace or "")

    def _take_listed(self, items: Iterable[Object], *, trust: bool) -> Iterator[ObjectKey]:
        for obj in items:
            key = self._admissible_key(obj)
            if key is None or uid_of(obj) in self._tombstones:
                continue
            yield key
            stored = self._objects.get(key)
            if self._differs(obj, stored) if trust else self._supersedes(obj, stored):
                self._put(key, obj)

    def _keep_only(self, listed: set[ObjectKey], version: str, *, trust: bool, namespace: str | None) -> None:
        for key in [key for key in self._objects if key not in listed and namespace in (None, key.namespace)]:
            stored = self._objects[key]
            if trust or compare_versions(version_of(stored), version) is not Order.NEWER:
                self._bury(uid_of(stored))
                self._delete(key)

    def _admissible_key(self, obj: Object) -> ObjectKey | None:
        try:
            return key_of(obj)
        except MalformedObject as error:
            self.skipped += 1
            _log.warning("object_skipped", reason=str(error))
            return None

    def _note_version(self, version: str, namespace: str) -> None:
        if _newer(version, self._latest.get(namespace, "")):
            self._latest[namespace] = version

    @staticmethod
    def _differs(obj: Object, stored: Object | None) -> bool:
        return stored is None or uid_of(obj) != uid_of(stored) or version_of(obj) != version_of(stored)

    @staticmethod
    def _supersedes(obj: Object, stored: Object | None) -> bool:
        """Whether ``obj`` is to replace ``stored``: another object of that name, or a later state."""
        if stored is None:
            return True
        order = compare_versions(version_of(obj), version_of(stored))
        if order is Order.SAME and uid_of(obj) == uid_of(stored):
            # Without a version nothing says that the two are equal, so the later arrival counts.
            return not version_of(obj)
        return order is not Order.OLDER

    def _put(self, key: ObjectKey, obj: Object) -> None:
        before = self._objects.get(key)
        if before is not None and uid_of(before) != uid_of(obj):
            self._bury(uid_of(before))
        kept = self._trim(key, obj)
        self.changes += 1
        self._objects[key] = kept
        self._changed[key] = None
        for index in self._indexes.values():
            index.file(key, kept)

    def _delete(self, key: ObjectKey) -> None:
        self.changes += 1
        del self._objects[key]
        self._changed[key] = None
        for index in self._indexes.values():
            index.file(key, None)

    def _tell(self, key: ObjectKey) -> None:
        for subscriber in self._subscribers:
            _call(subscriber, key)

    def _notify(self) -> int:
        """Tell the subscribers, once the store is whole again; answers the number of changed keys."""
        changed, self._changed = self._changed, {}
        for key in changed:
            if key in self._held:
                self._held[key] = True
            else:
                self._tell(key)
        for index in self._indexes.values():
            touched, index.touched = index.touched, {}
            for value in touched:
                for index_subscriber in index.subscribers:
                    _call(index_subscriber, value)
        return len(changed)

    def _bury(self, uid: str) -> None:
        if uid:
            self._tombstones[uid] = None
            if len(self._tombstones) > _TOMBSTONES:
                self._tombstones.popitem(last=False)

    def _trim(self, key: ObjectKey, obj: Object) -> Object:
        try:
            kept = obj if self._keep_managed_fields else drop_managed_fields(obj)
            kept = self._transform(kept) if self._transform else kept
            key_of(kept)
            compacted: Object = compact(kept)
        except Exception as error:
            # A hostile object must not stop the stream, and an old state in its place would be a lie.
            _log.warning(
                "object_kept_untrimmed", namespace=key.namespace, name=key.name, reason=_brief(error)
            )
            return obj
        return compacted


class ReadOnce(Generic[T]):
    """What was read of a store's objects, until one of them changes: many ask for the same between two changes.

    What is handed out is shared, as the objects are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._changes = store.changes
        self._found: dict[Hashable, T] = {}

    def get(self, key: Hashable, read: Callable[[], T]) -> T:
        """What ``read`` found under this key since the last change. It must depend on the store and the key alone."""
        if self._changes != self._store.changes:
            self._changes = self._store.changes
            self._found.clear()
        if key not in self._found:
            self._found[key] = read()
        return self._found[key]


class Replacement:
    """A list that is taking the place of the store's content, page by page.

    Objects of each page are taken at once; what the list lacks is deleted by ``finish``, objects that we
    wrote after the list was read excepted. An unfinished replacement may simply be dropped.
    ``known_before`` is the store's ``latest_version`` at the moment the list was asked for. Of a list of one
    ``namespace`` the others' objects are left alone, and so is what is known of their history: several lists may
    fill one store.
    """

    def __init__(self, store: Store, *, known_before: str, namespace: str | None = None) -> None:
        self._store = store
        self._namespace = namespace
        self._known_before = known_before
        self._version = ""
        self._rewound = False
        self._listed: set[ObjectKey] = set()

    def add(self, items: Iterable[Object], version: str) -> int:
        """Take one page of the list read at resourceVersion ``version``; answers how many keys changed."""
        if not self._version:
            self._begin(version)
        self._listed.update(self._store._take_listed(items, trust=self._rewound))
        return self._store._notify()

    def finish(self) -> int:
        """Delete what was not listed; answers how many keys changed."""
        self._store._keep_only(self._listed, self._version, trust=self._rewound, namespace=self._namespace)
        return self._store._notify()

    def _begin(self, version: str) -> None:
        self._version = version
        self._rewound = compare_versions(version, self._known_before) is Order.OLDER
        if self._rewound:
            _log.warning("history_went_back", listed=version, known=self._known_before)
        self._store._begin_listing(version, rewound=self._rewound, namespace=self._namespace)


def _newer(version: str, than: str) -> bool:
    return not than or compare_versions(version, than) is Order.NEWER


def _brief(error: Exception) -> str:
    """One line and no traceback: the frames hold the hostile object, whose size its author chose."""
    return f"{type(error).__name__}: {error}"[:300]


def _call(subscriber: Callable[[T], None], argument: T) -> None:
    try:
        subscriber(argument)
    except Exception:
        # A bug in one subscriber must not keep the others, or the watch, from going on.
        _log.exception("subscriber_failed", argument=str(argument))
