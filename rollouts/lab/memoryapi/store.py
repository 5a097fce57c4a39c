"""MemoryApi: what an API server does with requests, synchronous and without any I/O."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID, uuid5

from rollouts.kube.client import ListPage, Resource, WatchType
from rollouts.kube.errors import AlreadyExists, Gone, Invalid, NotFound
from rollouts.lab.memoryapi.admission import Policy
from rollouts.lab.memoryapi.builtins import fill_in, to_stored_version, to_version
from rollouts.lab.memoryapi.crds import establish, is_crd
from rollouts.lab.memoryapi.graceful import grace_of, terminating
from rollouts.lab.memoryapi.history import Change, WatchSubscription
from rollouts.lab.memoryapi.json_copies import thaw, wire_copy
from rollouts.lab.memoryapi.kinds import KindRegistry, ServedKind
from rollouts.lab.memoryapi.objects import (
    OtherUid,
    check_body,
    check_preconditions,
    check_typed,
    check_update,
    conform,
    kind_group,
    qualified,
    same_content,
    spec_changed,
)
from rollouts.lab.memoryapi.ownership import FieldOwner, Operation, Writer, after_apply, after_update
from rollouts.lab.memoryapi.patching import json_patch, merge_patch, strategic_merge_patch
from rollouts.lab.memoryapi.scale import scale_of, scaled
from rollouts.lab.memoryapi.selectors import Matcher, match_all, parse_field_selector, parse_label_selector
from rollouts.lab.memoryapi.storage import ObjectRequest, Storage, StoredObject
from rollouts.runtime.clock import Clock, SystemClock

__all__ = ["APPLY", "LIMITS", "STRATEGIC", "MemoryApi"]

_UIDS = UUID(int=0)
"""UIDs are the same in each run, and differ from their first character on, as those of an API server do."""

Object = dict[str, Any]
LIMITS = (
    "in-memory API server: no CEL rules but those on changes, no RBAC, no admission but policies that tests set, "
    "no garbage collection, lists are atomic in server-side apply, built-in kinds have no schema, nothing survives "
    "the process"
)
APPLY = "application/apply-patch+yaml"
STRATEGIC = "application/strategic-merge-patch+json"
_MERGERS: dict[str, Callable[[Object, Any], Object]] = {
    "application/json-patch+json": json_patch,
    "application/merge-patch+json": merge_patch,
    STRATEGIC: strategic_merge_patch,
}
# Open continue tokens; a client that abandons its lists must not fill the memory.
_MAX_CURSORS = 64


class MemoryApi:
    """Objects of all kinds under one revision counter.

    Objects go in and come out as copies. Errors are those of ``rollouts.kube.errors``, with the HTTP
    status and wording of kube-apiserver. ``clock`` stamps creationTimestamp and managedFields;
    ``history_limit`` is the number of changes kept per kind before old watches get 410.
    Write methods take ``manager`` (field manager), ``dry_run``, and ``strict``: refuse unknown fields
    of custom objects instead of pruning them.
    """

    def __init__(self, *, clock: Clock | None = None, history_limit: int = 50_000) -> None:
        self._clock = clock or SystemClock()
        self._storage = Storage(history_limit=history_limit)
        self._registry = KindRegistry()
        self.policies: list[Policy] = []
        """What refuses writes, as an admission policy does; tests and the lab set it."""
        self.has_kubelet = False
        """Whether somebody confirms the ends of Pods that have a node; without, they go at once."""
        self._counter = 0
        self._cursors: OrderedDict[str, tuple[int, list[bytes]]] = OrderedDict()
        namespaces = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
        for name in ("default", "kube-system"):
            body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            self.create(namespaces, None, body, manager="kube-apiserver")

    def copy(self, *, clock: Clock) -> MemoryApi:
        """Another server with the same objects, kinds and revision; watches from before it get 410.

        Nothing that one of the two does shows in the other.
        """
        other = MemoryApi(clock=clock)
        other._storage = self._storage.copy()
        other._registry = self._registry.copy()
        other.policies = list(self.policies)
        other.has_kubelet = self.has_kubelet
        other._counter = self._counter
        return other

    # Reading

    @property
    def revision(self) -> int:
        """The newest resourceVersion."""
        return self._storage.revision

    @property
    def observers(self) -> list[Callable[[Change], None]]:
        """Called with every stored change, at once: the complete history for a checker to record."""
        return self._storage.observers

    def kinds(self) -> Iterable[ServedKind]:
        """Every served kind."""
        return self._registry

    def kind(self, resource: Resource) -> ServedKind:
        """The kind behind a resource. Raises KindNotServed."""
        return self._registry.find(resource.group, resource.version, resource.plural)

    def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        """One object. Raises NotFound, KindNotServed."""
        where = self._where(resource, namespace, name)
        return self._out(where, self._stored(where))

    def list_page(
        self,
        resource: Resource,
        namespace: str | None,
        *,
        limit: int = 0,
        continue_token: str = "",
        label_selector: str = "",
        field_selector: str = "",
    ) -> ListPage:
        """One page of a consistent snapshot, sorted by namespace and name. Raises Gone, Invalid."""
        kind = self.kind(resource)
        if continue_token:
            revision, rest = self._cursor(continue_token)
        else:
            matches = self._matcher(kind, label_selector, field_selector)
            revision = self.revision
            rest = [s.frozen for s in self._storage.select(kind, _space(kind, namespace), matches)]
        page, rest = (rest[:limit], rest[limit:]) if limit else (rest, [])
        items = [to_version(kind, resource.version, thaw(frozen)) for frozen in page]
        token = self._remember(revision, rest) if rest else ""
        return ListPage(items=items, resource_version=str(revision), continue_token=token)

    def subscribe(
        self,
        resource: Resource,
        namespace: str | None,
        *,
        resource_version: str,
        label_selector: str = "",
        field_selector: str = "",
    ) -> WatchSubscription:
        """Open a watch after ``resource_version``; '' and '0' begin with what exists. Raises Gone."""
        kind = self.kind(resource)
        if resource_version and not resource_version.isdigit():
            raise Invalid(f'invalid resourceVersion "{resource_version}"', status=400)
        after = int(resource_version or 0)
        space = _space(kind, namespace)
        matches = self._matcher(kind, label_selector, field_selector)
        watch = self._storage.log(kind).open(after=after or self.revision, namespace=space, matches=matches)
        for stored in () if after else self._storage.select(kind, space, matches):
            metadata = stored.obj["metadata"]
            where = self._where(resource, metadata.get("namespace"), metadata["name"])
            watch.offer(self._storage.change(where, WatchType.ADDED, stored, None))
        return watch

    def render(self, resource: Resource, change: Change) -> Object:
        """The object of a change, as a copy in the version of ``resource``."""
        return to_version(self.kind(resource), resource.version, thaw(change.frozen))

    # Writing

    def create(
        self,
        resource: Resource,
        namespace: str | None,
        obj: Any,
        *,
        manager: str = "unknown",
        dry_run: bool = False,
        strict: bool = False,
    ) -> Object:
        """Store a new object. Raises AlreadyExists, Invalid."""
        new = wire_copy(obj)
        name = self._name_of(new)
        where = self._where(resource, namespace, name, manager=manager, dry_run=dry_run, strict=strict)
        if isinstance(new, dict) and (new.get("metadata") or {}).get("resourceVersion"):
            raise Invalid("resourceVersion should not be set on objects to be created", status=400)
        return self._insert(where, new, Operation.UPDATE)

    def replace(self, resource: Resource, namespace: str | None, name: str, obj: Any, **how: Any) -> Object:
        """PUT: replace the whole object, or its status. Raises NotFound, Conflict, Invalid.

        ``how``: ``manager``, ``subresource``, ``dry_run``, ``strict``, as for ``patch``.
        """
        where = self._where(resource, namespace, name, **how)
        stored = self._stored(where)
        if where.subresource == "scale":
            return self._scale(where, stored, wire_copy(obj))
        return self._update(where, stored, wire_copy(obj))

    def patch(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        patch: Any,
        *,
        content_type: str,
        force: bool = False,
        manager: str = "unknown",
        subresource: str = "",
        dry_run: bool = False,
        strict: bool = False,
    ) -> Object:
        """PATCH with any of the four content types. Raises NotFound, Conflict, Invalid."""
        where = self._where(
            resource,
            namespace,
            name,
            manager=manager,
            subresource=subresource,
            dry_run=dry_run,
            strict=strict,
        )
        body = wire_copy(patch)
        if content_type == APPLY:
            return self._apply(where, body, force=force)
        if force:
            raise Invalid("force may only be set for apply patches", status=422)
        if content_type not in _MERGERS:
            raise Invalid(f"the content type {content_type!r} of a patch is not supported", status=415)
        stored = self._stored(where)
        if where.subresource == "scale":
            scale = scale_of(self._out(where, stored))
            return self._scale(where, stored, _MERGERS[content_type](scale, body))
        return self._update(where, stored, _MERGERS[content_type](self._out(where, stored), body))

    def delete(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        *,
        uid: str = "",
        resource_version: str = "",
        dry_run: bool = False,
        manager: str = "unknown",
        grace_period_seconds: int | None = None,
    ) -> Object:
        """Delete, or mark for deletion while finalizers are there. Raises NotFound, Conflict.

        A Pod goes at once, as if a kubelet had stopped it; where there is one (``has_kubelet``), with grace 0.
        """
        where = self._where(resource, namespace, name, manager=manager, dry_run=dry_run)
        stored = self._stored(where)
        check_preconditions(where.kind, name, stored.obj, uid=uid, resource_version=resource_version)
        metadata = stored.obj["metadata"]
        is_run = self.has_kubelet and where.kind.storage_key == ("", "pods")
        if is_run and (grace := grace_of(stored.obj, grace_period_seconds)):
            return self._end_later(where, stored, grace)
        if not metadata.get("finalizers"):
            return self._drop(where, stored)
        if "deletionTimestamp" in metadata:
            return self._out(where, stored)
        new = thaw(stored.frozen)
        new["metadata"]["deletionTimestamp"] = self._now()
        new["metadata"]["deletionGracePeriodSeconds"] = 0
        if "generation" in metadata:
            new["metadata"]["generation"] += 1
        return self._out(where, self._storage.put(where, new, stored.owners, old=stored))

    def _end_later(self, where: ObjectRequest, stored: StoredObject, grace: int) -> Object:
        new = thaw(stored.frozen)
        if not terminating(new, grace, self._clock.now()):
            return self._out(where, stored)
        return self._out(where, self._storage.put(where, new, stored.owners, old=stored))

    # Faults

    def compact(self) -> None:
        """Forget all history, as etcd's compaction does: older watches and list pages get 410."""
        self._storage.compact()
        self._cursors.clear()

    def close_watches(self) -> None:
        """End every open watch, as a restart of the API server does."""
        self._storage.close_watches()

    # Inside

    def _where(self, resource: Resource, namespace: str | None, name: str, **how: Any) -> ObjectRequest:
        kind = self.kind(resource)
        space = _space(kind, namespace)
        where = ObjectRequest(kind=kind, version=resource.version, namespace=space, name=name, **how)
        if kind.namespaced and not space:
            raise Invalid(f"{qualified(kind)} are namespaced: the request names no namespace", status=400)
        subresources = {"status": kind.status_subresource, "scale": kind.scale_subresource}
        if where.subresource and not subresources.get(where.subresource):
            raise NotFound(f"{qualified(kind)} has no subresource {where.subresource}", status=404)
        return where

    def _stored(self, where: ObjectRequest) -> StoredObject:
        found = self._storage.find(where)
        if found is None:
            raise NotFound(f'{qualified(where.kind)} "{where.name}" not found', status=404)
        return found

    def _out(self, where: ObjectRequest, stored: StoredObject) -> Object:
        return to_version(where.kind, where.version, thaw(stored.frozen))

    def _matcher(self, kind: ServedKind, label_selector: str, field_selector: str) -> Matcher:
        labels = parse_label_selector(label_selector)
        fields = parse_field_selector(field_selector, kind.plural)
        if fields is match_all:
            return labels
        return lambda obj: labels(obj) and fields(obj)

    def _cursor(self, token: str) -> tuple[int, list[bytes]]:
        found = self._cursors.get(token)
        if found is None:
            raise Gone("The provided continue parameter is too old", status=410)
        return found

    def _remember(self, revision: int, rest: list[bytes]) -> str:
        self._counter += 1
        token = f"page-{self._counter}"
        self._cursors[token] = (revision, rest)
        if len(self._cursors) > _MAX_CURSORS:
            self._cursors.popitem(last=False)
        return token

    def _name_of(self, obj: Any) -> str:
        metadata = obj.get("metadata") if isinstance(obj, dict) else None
        if not isinstance(metadata, dict):
            return ""
        if not metadata.get("name") and metadata.get("generateName"):
            self._counter += 1
            metadata["name"] = f"{metadata['generateName']}{self._counter:05x}"
        return str(metadata.get("name", ""))

    def _now(self) -> str:
        return self._clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")

    def _writer(self, where: ObjectRequest, operation: Operation) -> Writer:
        return Writer(
            manager=where.manager,
            operation=operation,
            api_version=where.api_version,
            subresource=where.subresource,
            time=self._now(),
        )

    def _insert(self, where: ObjectRequest, new: Object, operation: Operation) -> Object:
        kind = where.kind
        check_body(kind, where.version, where.namespace, new)
        if self._storage.find(where):
            raise AlreadyExists(f'{qualified(kind)} "{where.name}" already exists', status=409)
        metadata = new["metadata"]
        for field in ("deletionTimestamp", "generation", "managedFields", "resourceVersion", "selfLink"):
            metadata.pop(field, None)
        if kind.status_subresource:
            new.pop("status", None)
        self._counter += 1
        metadata["uid"] = str(uuid5(_UIDS, str(self._counter)))
        metadata["creationTimestamp"] = self._now()
        if kind.counts_generations:
            metadata["generation"] = 1
        owners = after_update((), {}, new, self._writer(where, operation))
        conform(kind, where.version, new, old={}, strict=where.strict)
        fill_in(kind, new)
        self._admit(where, new)
        new = to_stored_version(kind, new)
        self._serve(where, new)
        return self._out(where, self._storage.put(where, new, owners, old=None))

    def _check_lock(self, where: ObjectRequest, stored: StoredObject, new: Object) -> None:
        revision = str(new["metadata"].get("resourceVersion") or "")
        check_preconditions(where.kind, where.name, stored.obj, resource_version=revision)
        if new["metadata"].get("uid", uid := stored.obj["metadata"]["uid"]) != uid:
            cause = f'metadata.uid: Invalid value: "{new["metadata"]["uid"]}": field is immutable'
            subject = f'{kind_group(where.kind)} "{where.name}"'
            raise OtherUid(f"{subject} is invalid: {cause}", (cause, cause))  # twice, as the real one

    def _update(self, where: ObjectRequest, stored: StoredObject, new: Object) -> Object:
        check_body(where.kind, where.version, where.namespace, new)
        if new["metadata"]["name"] != where.name:
            raise Invalid("the name of the object does not match the name on the URL", status=400)
        self._check_lock(where, stored, new)
        old = self._out(where, stored)
        new = check_update(where.kind, old, new, subresource=where.subresource)
        conform(where.kind, where.version, new, old=old, strict=where.strict)
        if same_content(old, new):
            return old
        owners = after_update(stored.owners, old, new, self._writer(where, Operation.UPDATE))
        return self._store(where, stored, old, new, owners)

    def _scale(self, where: ObjectRequest, stored: StoredObject, scale: Any) -> Object:
        """Store the replicas of a Scale, under the resourceVersion that it has."""
        old = self._out(where, stored)
        return scale_of(self._update(where, stored, scaled(old, scale)))

    def _apply(self, where: ObjectRequest, config: Any, *, force: bool) -> Object:
        if isinstance(config, dict) and isinstance(config.get("metadata"), dict):
            config["metadata"].setdefault("name", where.name)
        check_typed(where.kind, where.version, config)
        check_body(where.kind, where.version, where.namespace, config)
        if config["metadata"].get("managedFields"):
            raise Invalid("metadata.managedFields must be nil", status=400)
        stored = self._storage.find(where)
        if stored is None and (where.subresource or config["metadata"].get("resourceVersion")):
            raise NotFound(f'{qualified(where.kind)} "{where.name}" not found', status=404)
        if stored is None:
            return self._insert(where, config, Operation.APPLY)
        self._check_lock(where, stored, config)
        if where.subresource:
            config = {"metadata": {}, "status": config.get("status") or {}}
        elif where.kind.status_subresource:
            config.pop("status", None)
        old = self._out(where, stored)
        writer = self._writer(where, Operation.APPLY)
        result = after_apply(stored.owners, self._out(where, stored), config, writer, force=force)
        new = check_update(where.kind, old, result.merged, subresource=where.subresource)
        conform(where.kind, where.version, new, old=old, strict=where.strict)
        if same_content(old, new) and _fields(result.owners) == _fields(stored.owners):
            return old
        return self._store(where, stored, old, new, result.owners)

    def _store(
        self,
        where: ObjectRequest,
        stored: StoredObject,
        old: Object,
        new: Object,
        owners: tuple[FieldOwner, ...],
    ) -> Object:
        metadata = new["metadata"]
        if spec_changed(where.kind, old, new):
            metadata["generation"] = metadata.get("generation", 0) + 1
        if not where.subresource:
            self._admit(where, new)
        new = to_stored_version(where.kind, new)
        self._serve(where, new)
        held = metadata.get("finalizers") or metadata.get("deletionGracePeriodSeconds")
        if "deletionTimestamp" in metadata and not held:
            return self._drop(where, stored)
        return self._out(where, self._storage.put(where, new, owners, old=stored))

    def _admit(self, where: ObjectRequest, new: Object) -> None:
        for policy in self.policies:
            refusal = policy.refusal(where.kind, new)
            if refusal is not None:
                raise refusal

    def _drop(self, where: ObjectRequest, stored: StoredObject) -> Object:
        if not where.dry_run:
            self._storage.remove(where, stored)
            self._after_drop(where, stored.obj)
        return self._out(where, stored)

    def _after_drop(self, where: ObjectRequest, obj: Object) -> None:
        """A deleted CRD takes its objects along, a deleted namespace its contents."""
        if is_crd(where.kind):
            gone = self._registry.remove(obj["spec"]["group"], obj["spec"]["names"]["plural"])
            if gone:
                self._storage.drop_kind(gone)
        elif where.kind.storage_key == ("", "namespaces"):
            for kind in self._registry:
                resource = kind.resource(kind.versions[0])
                contents = self._storage.select(kind, where.name, match_all) if kind.namespaced else ()
                for stored in contents if kind.storage_key == (kind.group, kind.plural) else ():
                    self.delete(resource, where.name, stored.obj["metadata"]["name"], manager=where.manager)

    def _serve(self, where: ObjectRequest, obj: Object) -> None:
        if is_crd(where.kind):
            kind = establish(obj, self._now())
            if not where.dry_run:
                self._registry.add(kind)


def _space(kind: ServedKind, namespace: str | None) -> str:
    return (namespace or "") if kind.namespaced else ""


def _fields(owners: tuple[FieldOwner, ...]) -> set[tuple[object, ...]]:
    return {(o.writer.manager, o.writer.operation, o.writer.subresource, o.paths) for o in owners}
