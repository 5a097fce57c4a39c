"""Writes of traffic objects.

Each is guarded twice: by the resourceVersion of the traffic object it was planned against, and by a fresh look at the
Rollout, so that no write is based on a status that has moved on (a restart on a lagging cache).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import structlog

from rollouts.carriers import TrafficKind, TrafficPlace, kind_of
from rollouts.controller.caches import Caches
from rollouts.controller.gathered import Gathered
from rollouts.controller.refusals import UnansweredWrites, WriteRefused, by_policy, is_refusal
from rollouts.engine.actions import (
    EmitEvent,
    EventType,
    ReleaseTraffic,
    ReleaseTrafficMode,
    ReturnTraffic,
    WriteReason,
    WriteTraffic,
)
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_status import WayBack
from rollouts.kube.client import KubeClient, PatchKind, Resource
from rollouts.kube.errors import (
    Conflict,
    Forbidden,
    Invalid,
    KubeError,
    NotFound,
    UnansweredError,
)
from rollouts.objects import kinds
from rollouts.objects.fields import metadata_of
from rollouts.runtime.objects import ObjectKey, version_of
from rollouts.traffic import wayback
from rollouts.traffic.releasing import release
from rollouts.traffic.writes import Apply, JsonPatch, RenderRefusal, Write
from rollouts.units import Weight, format_weight

__all__ = ["TrafficWriter"]

_log = structlog.get_logger(__name__)

Object = dict[str, Any]

_UNDECLARED = ("field not declared in schema", "failed to create typed patch object")
"""What kube-apiserver says, with code 500, of a server-side apply with a field that the CRD lacks."""

_MOST_WRITES = 6
"""Of one plan: a group's two arms each once and twice, and retired members; the next plan goes on from there."""


def _refusal(error: KubeError, rendered_from: str, *, applied: bool) -> WriteRefused:
    """The refusal that an error means."""
    words = str(error)
    undeclared = any(text in words for text in _UNDECLARED)
    if not is_refusal(error):
        return WriteRefused(
            Reason.TRAFFIC_REFUSED,
            f"{rendered_from}: the API server does not answer the write: {words}",
            by_spec=False,
        )
    if applied and not by_policy(error) and (isinstance(error, Invalid) or undeclared):
        return WriteRefused(Reason.ROUTE_INVALID, f"{rendered_from}: the API server refuses it: {words}")
    return WriteRefused(
        Reason.TRAFFIC_REFUSED, f"{rendered_from}: the API server refuses the write: {words}", by_spec=False
    )


def _content(write: Write) -> Any:
    """What a write says, whatever the version of the object that it was rendered for."""
    if isinstance(write, JsonPatch):
        return write.name, [one for one in write.operations if one.get("op") != "test"]
    meta = {name: value for name, value in metadata_of(write.body).items() if name != "resourceVersion"}
    return {**write.body, "metadata": meta}


def _demand_kept(left: Write | RenderRefusal | None, sent: list[Write], rendered_from: str) -> None:
    """Raise WriteRefused where what was sent is ``left`` to be written: the answer said something else."""
    if isinstance(left, Apply | JsonPatch) and any(_content(left) == _content(before) for before in sent):
        message = (
            f"{rendered_from}: the API server stored something else than was written: an admission webhook changes it, "
            "or its CRD lacks a field"
        )
        raise WriteRefused(Reason.TRAFFIC_REFUSED, message, by_spec=False)


def _key(write: Write, namespace: str, name: str) -> ObjectKey:
    """The object that a write is of: the traffic object's, or a part of it."""
    return ObjectKey(namespace, (write.name if isinstance(write, JsonPatch) else "") or name)


def _wished(obj: Mapping[str, Any]) -> tuple[Any, ...]:
    """What people and controllers ask of an object."""
    meta = metadata_of(obj)
    return meta.get("uid"), meta.get("deletionTimestamp"), meta.get("annotations"), obj.get("spec")


class TrafficWriter:
    """Writes through one client. ``on_write`` hears of each write that is stored."""

    def __init__(
        self,
        client: KubeClient,
        caches: Caches,
        *,
        on_write: Callable[[WriteReason], None] = lambda _: None,
    ) -> None:
        self._client = client
        self._caches = caches
        self._on_write = on_write
        self._unanswered = UnansweredWrites()

    async def write(self, gathered: Gathered, action: WriteTraffic, *, tell: bool) -> list[EmitEvent]:
        """Bring the spec's traffic object to what is desired; the Event that says so, where it was not there yet."""
        carrier = gathered.carrier
        assert carrier is not None
        raw: Mapping[str, Any] | None = gathered.traffic_object if action.resource_version else None
        place, sent = (carrier.resource, ObjectKey(carrier.namespace, carrier.name)), list[Write]()
        for _ in range(_MOST_WRITES):
            write = carrier.render(dict(raw) if raw is not None else None, action.desired)
            if isinstance(write, RenderRefusal):
                raise WriteRefused(write.reason, write.message)
            if write is None:
                break
            _demand_kept(write, sent, carrier.rendered_from)
            sent.append(write)
            await self._demand_fresh(gathered)
            stored = await self._store(
                gathered, carrier.kind, *place, raw, write, carrier.rendered_from, tell=tell
            )
            raw = carrier.kind.with_part(raw, stored) if raw is not None else None
            if raw is None:
                live = carrier.kind.joined(*place[1], [stored])
                _demand_kept(carrier.render(live, action.desired), sent, carrier.rendered_from)
                break
        if not sent:
            return []
        arm = action.desired.canary.name if action.desired.canary is not None else "the canary"
        return self._written(gathered, *place, action.reason, arm, action.desired.weight)

    async def give_back(self, gathered: Gathered, action: ReturnTraffic, *, tell: bool) -> list[EmitEvent]:
        """Lower the canary by the stored record: neither spec nor template has a part in it."""
        record = action.record
        found, key = gathered.ways[record], ObjectKey(gathered.parsed.namespace, record.name)
        raw: dict[str, Any] | None = found.raw
        kind, source, sent = kind_of(record.kind), f"{record.kind} {record.name}", list[Write]()
        for _ in range(_MOST_WRITES):
            write = self._lowered(gathered, action, found.resource, raw)
            if write is None:
                break
            _demand_kept(write, sent, source)
            sent.append(write)
            await self._demand_fresh(gathered, whatever_spec=True)
            try:
                stored = await self._store(gathered, kind, found.resource, key, raw, write, source, tell=tell)
            except WriteRefused:
                alone = kind.lowered_alone(raw, record, action.limit) if kind and raw is not None else None
                if alone is None:
                    raise
                stored = await self._store(gathered, kind, found.resource, key, raw, alone, source, tell=tell)
            raw = kind.with_part(raw, stored) if kind is not None and raw is not None else None
            if raw is None:
                live = kind.joined(*key, [stored]) if kind is not None else stored
                _demand_kept(self._lowered(gathered, action, found.resource, live), sent, source)
                break
        if not sent:
            return []
        return self._written(gathered, found.resource, key, action.reason, record.canary.name, action.limit)

    @staticmethod
    def _lowered(
        gathered: Gathered, action: ReturnTraffic, resource: Resource, raw: dict[str, Any] | None
    ) -> Write | None:
        """The next write that gives the canary's weight back; None when there is nothing left to do."""
        record = action.record
        kind = kind_of(record.kind)
        if raw is not None:
            lower = kind.lowered if kind is not None else wayback.render
            return lower(raw, record, action.limit)
        if kind is None:
            return None
        namespace = gathered.parsed.namespace
        place = TrafficPlace(rollout=gathered.parsed.name, namespace=namespace, resource=resource)
        return kind.made_anew(place, record, action.limit)

    def _written(
        self,
        gathered: Gathered,
        resource: Resource,
        key: ObjectKey,
        reason: WriteReason,
        arm: str,
        weight: Weight,
    ) -> list[EmitEvent]:
        """The write is stored: count it, log it, and say it."""
        self._on_write(reason)
        shown = format_weight(weight)
        _log.info(
            "traffic_written",
            namespace=key.namespace,
            rollout=gathered.parsed.name,
            weight=shown,
            reason=reason.value,
        )
        kind = kind_of(resource.kind)
        what = kind.called if kind is not None else resource.kind
        message = f"{what} {key.name}: {arm} {shown}"
        return [EmitEvent(type=EventType.NORMAL, reason=reason.value, message=message)]

    @contextmanager
    def _told(
        self, resource: Resource, key: ObjectKey, source: str, *, applied: bool = False
    ) -> Iterator[None]:
        """Around a request that changes a traffic object: raises WriteRefused for what people are to read of."""
        self._unanswered.begin((resource, key))
        try:
            yield
        except (Conflict, NotFound):
            self._unanswered.forget((resource, key))
            raise
        except (Invalid, Forbidden, UnansweredError) as error:
            if not self._unanswered.worth_saying(error, (resource, key)):
                raise
            raise _refusal(error, source, applied=applied) from None
        self._unanswered.forget((resource, key))

    async def _send(
        self,
        gathered: Gathered,
        resource: Resource,
        key: ObjectKey,
        write: Write,
        rendered_from: str,
        *,
        tell: bool,
    ) -> Object:
        """Store a write of a traffic object; the object from then on.

        Raises WriteRefused when the server will not have it.
        """
        kind, body = (
            (PatchKind.APPLY, write.body) if isinstance(write, Apply) else (PatchKind.JSON, write.operations)
        )
        store = self._caches.by_resource()[resource]
        applied = isinstance(write, Apply)
        with (
            self._told(resource, key, rendered_from, applied=applied),
            store.writing(key) as record,
        ):
            stored = await self._client.patch(resource, *key, body, kind=kind, force=applied)
            record(stored, tell=tell)
        gathered.written[resource, key] = version_of(stored)
        return stored

    async def _demand_fresh(self, gathered: Gathered, *, whatever_spec: bool = False) -> None:
        """Raise Conflict unless the API server's Rollout is the very one that was planned on.

        A write of this plan that carried its resourceVersion has proved that already. ``whatever_spec``: only the
        status counts, so that somebody who edits the Rollout again and again does not hold up an abort.
        """
        parsed = gathered.parsed
        if gathered.rollout["metadata"].get("resourceVersion") != gathered.planned_version:
            return
        try:
            live = await self._client.get(kinds.ROLLOUT, parsed.namespace, parsed.name)
        except NotFound:
            raise Conflict("the Rollout is gone") from None
        if live["metadata"].get("resourceVersion") == gathered.rollout["metadata"].get("resourceVersion"):
            return
        self._caches.rollouts.record_write(live)
        same = live["metadata"].get("uid") == gathered.rollout["metadata"].get("uid")
        if not (whatever_spec and same and live.get("status") == gathered.rollout.get("status")):
            raise Conflict("the Rollout changed since it was read")

    async def _store(
        self,
        gathered: Gathered,
        kind: TrafficKind | None,
        resource: Resource,
        key: ObjectKey,
        raw: Mapping[str, Any] | None,
        write: Write,
        rendered_from: str,
        *,
        tell: bool,
    ) -> Object:
        """Send a write of the traffic object ``key`` or of a part of it, after a look at who is to serve instead."""
        await self._demand_beside(kind, resource, key.namespace, raw, write)
        return await self._send(gathered, resource, _key(write, *key), write, rendered_from, tell=tell)

    async def _demand_beside(
        self,
        kind: TrafficKind | None,
        resource: Resource,
        namespace: str,
        raw: Mapping[str, Any] | None,
        write: Write,
    ) -> None:
        """Raise Conflict unless the object that is to serve what a write takes away is as it was read.

        Its status counts for nothing: who writes that often must not hold up an abort.
        """
        if not isinstance(write, JsonPatch) or not write.beside or kind is None or raw is None:
            return
        read = kind.part(raw, write.beside)
        try:
            live = await self._client.get(resource, namespace, write.beside)
        except NotFound:
            raise Conflict(f"{resource.kind} {write.beside} is gone") from None
        if read is None or _wished(live) != _wished(read):
            self._caches.by_resource()[resource].record_write(live)
            raise Conflict(f"{resource.kind} {write.beside} changed since it was read")

    async def demand_fresh_rollout(self, gathered: Gathered) -> None:
        """Raise Conflict unless the API server's Rollout is the one that was planned on."""
        await self._demand_fresh(gathered)

    async def demand_fresh_traffic(self, gathered: Gathered) -> None:
        """Raise Conflict unless the traffic object is the one that was planned on, or that this plan has stored.

        Kinds are watched apart: after a restart the Rollout may be newer in the cache than its traffic object, and
        what is then seen there is no foreign write but our own past.
        """
        carrier, raw = gathered.carrier, gathered.traffic_object
        if carrier is None or raw is None:
            return
        for part in carrier.parts(raw):
            name = str(metadata_of(part).get("name", ""))
            live = await self._client.get(carrier.resource, carrier.namespace, name)
            place = (carrier.resource, ObjectKey(carrier.namespace, name))
            if version_of(live) != gathered.written.get(place, version_of(dict(part))):
                self._caches.by_resource()[carrier.resource].record_write(live)
                raise Conflict(f"{carrier.resource.kind} {name} changed since it was read")

    async def release(self, gathered: Gathered, action: ReleaseTraffic) -> None:
        """Give up the traffic object, or delete it: what is released stays as it is, without our marks."""
        if action.record is not None:
            await self._release_recorded(gathered, action, action.record)
            return
        raw, carrier = gathered.traffic_object, gathered.carrier
        assert raw is not None
        assert carrier is not None
        await self._let_go(
            carrier.resource,
            ObjectKey(carrier.namespace, carrier.name),
            action,
            carrier.release(raw, gathered.rollout).operations,
        )

    async def _release_recorded(self, gathered: Gathered, action: ReleaseTraffic, way: WayBack) -> None:
        """Give up an object that no readable spec names any more."""
        resource, raw = gathered.ways[way]
        kind = kind_of(way.kind)
        kept = kind.kept(gathered.rollout) if kind is not None else None
        patch = release(raw, gathered.parsed.name, kept).operations if raw is not None else []
        if patch or action.mode is ReleaseTrafficMode.DELETE:
            await self._let_go(resource, ObjectKey(gathered.parsed.namespace, way.name), action, patch)

    async def _let_go(
        self, resource: Resource, key: ObjectKey, action: ReleaseTraffic, patch: list[dict[str, Any]]
    ) -> None:
        """Delete the object, or take our marks off it."""
        with self._told(resource, key, f"{resource.kind} {key.name}"):
            if action.mode is ReleaseTrafficMode.DELETE:
                await self._client.delete(resource, *key, resource_version=action.resource_version)
                return
            stored = await self._client.patch(resource, *key, patch, kind=PatchKind.JSON)
        self._caches.by_resource()[resource].record_write(stored)
