"""Performing: the actions of a plan, in order, one API write at a time, then the status.

Every traffic write is guarded twice: by the resourceVersion of the traffic object it was planned against, and by
a fresh look at the Rollout, so that no write is based on a status that has moved on (a restart on a lagging
cache). A Conflict anywhere discards the rest of the plan; the key is planned again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import structlog

from rollouts.api.analysis_models import RUN_LIST_LIMITS
from rollouts.api.parsing import FINALIZER
from rollouts.api.scalars import format_time, weight_json
from rollouts.api.status import write_status
from rollouts.carriers import kind_of
from rollouts.controller.adapter_views import AdapterViews
from rollouts.controller.caches import Caches
from rollouts.controller.events import EventRecorder
from rollouts.controller.gates import Gates
from rollouts.controller.observing import Gathered
from rollouts.engine.actions import (
    Action,
    CreateJob,
    CreateRun,
    EmitEvent,
    EventType,
    ExcludeInterval,
    LoadAdapter,
    MarkRun,
    Plan,
    ReleaseTraffic,
    ReleaseTrafficMode,
    ReturnTraffic,
    SetFinalizer,
    TerminateRun,
    UnloadAdapter,
    UpdateRun,
    WriteReason,
    WriteTraffic,
)
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_status import HoldReason, WayBack
from rollouts.kube.client import KubeClient, PatchKind, Resource
from rollouts.kube.errors import (
    AlreadyExists,
    ApiUnavailable,
    Conflict,
    Forbidden,
    Invalid,
    KubeError,
    NotFound,
)
from rollouts.objects import kinds
from rollouts.objects.owners import owner_of
from rollouts.runtime.objects import ObjectKey
from rollouts.traffic import wayback
from rollouts.traffic.releasing import release
from rollouts.traffic.writes import Apply, RenderRefusal, Write
from rollouts.units import Weight, format_weight

__all__ = ["Performer", "TrafficRefused", "merge_patch"]

_log = structlog.get_logger(__name__)

Object = dict[str, Any]

FOREVER = "9999-12-31T23:59:59Z"
"""End of the exclusion that fills the list: where somebody overwrote the weights that often, what is measured from
then on is not judged, so that gates wait for a person; nothing that was excluded comes back."""
_OBEYS = (HoldReason.MANUAL_OVERRIDE, HoldReason.CONTENDED)
"""Holds that come from what somebody else wrote to the traffic object."""


class TrafficRefused(Exception):
    """The traffic object cannot be brought to what the plan asks; the message has the server's words.

    ``by_spec``: it is the Rollout's spec that a person has to change. Else the same write may succeed later.
    """

    def __init__(self, reason: Reason, message: str, *, by_spec: bool = True) -> None:
        super().__init__(message)
        self.reason = reason
        self.by_spec = by_spec


def _create_of(action: UpdateRun) -> CreateRun:
    """The creation that would make the run as it is to be now."""
    return CreateRun(name=action.name, step=None, revision=action.revision, attempt=action.attempt)


def _regated(spec: Object) -> Object:
    """What an edit of the steps changes of a run: its gates. Marks and exclusions stay."""
    fields = ("metrics", "metricsFrom", "comparisons", "falseAbortRate", "stepsHash")
    return {name: spec.get(name) for name in fields}


def _lets_go(plan: Plan) -> bool:
    """Whether the plan takes the finalizer off: a Rollout that is being deleted is gone after that."""
    return any(isinstance(action, SetFinalizer) and not action.present for action in plan.actions)


_UNDECLARED = ("field not declared in schema", "failed to create typed patch object")
"""What kube-apiserver says, with code 500, of a server-side apply with a field that the CRD lacks."""

_POLICIES = ("ValidatingAdmissionPolicy", "admission webhook")
"""What refuses a sound object for now, with whatever code: no fault of the spec."""


def _refusal(error: KubeError, rendered_from: str, *, applied: bool) -> TrafficRefused | None:
    """The refusal that an error means; None for what is worth an immediate retry.

    A 500 is shown, too: its words are the only cause that anybody gets to see, and it is retried all the same.
    """
    words = str(error)
    undeclared = any(text in words for text in _UNDECLARED)
    if isinstance(error, ApiUnavailable) and error.status != 500:
        return None
    by_policy = any(text in words for text in _POLICIES)
    if applied and not by_policy and (isinstance(error, Invalid) or undeclared):
        return TrafficRefused(Reason.ROUTE_INVALID, f"{rendered_from}: the API server refuses it: {words}")
    return TrafficRefused(
        Reason.TRAFFIC_REFUSED, f"{rendered_from}: the API server refuses the write: {words}", by_spec=False
    )


def merge_patch(old: Any, new: Any) -> Any:
    """The JSON merge patch (RFC 7396) from ``old`` to ``new``; an empty dict when they are equal."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return new
    patch: dict[str, Any] = {name: None for name in old if name not in new}
    for name, value in new.items():
        if name not in old:
            patch[name] = value
        elif old[name] != value:
            patch[name] = merge_patch(old[name], value)
    return patch


class Performer:
    """Carries out plans through one client."""

    def __init__(
        self,
        client: KubeClient,
        caches: Caches,
        events: EventRecorder,
        builder: Gates,
        loader: AdapterViews,
        *,
        on_traffic_write: Callable[[WriteReason], None] = lambda _: None,
    ) -> None:
        self._client = client
        self._caches = caches
        self._events = events
        self._builder = builder
        self._loader = loader
        self._on_traffic_write = on_traffic_write

    async def perform(self, gathered: Gathered, plan: Plan, *, heed: bool = True) -> None:
        """All actions, then the status, then Events. Raises KubeError and TrafficRefused.

        ``heed`` False: the traffic and the status that are stored are no reason to plan again.
        """
        events = [action for action in plan.actions if isinstance(action, EmitEvent)]
        for action in plan.actions:
            if not isinstance(action, EmitEvent):
                events += await self._act(gathered, action, heed=heed)
        parsed = gathered.parsed
        if plan.status.hold in _OBEYS and plan.status.hold is not parsed.status.hold:
            await self._demand_fresh_traffic(gathered)
        changed = plan.status != parsed.status or bool(parsed.unreadable_status)
        if changed and not (parsed.deleting and _lets_go(plan)):
            await self._store_status(gathered, write_status(plan.status), heed=heed)
        for event in events:
            await self._events.emit(gathered.rollout, event)

    async def _act(self, gathered: Gathered, action: Action, *, heed: bool) -> list[EmitEvent]:
        match action:
            case WriteTraffic():
                return await self._write_traffic(gathered, action, heed=heed)
            case ReturnTraffic():
                return await self._return_traffic(gathered, action, heed=heed)
            case SetFinalizer():
                await self._set_finalizer(gathered, present=action.present, heed=heed)
            case ReleaseTraffic():
                await self._release(gathered, action)
            case CreateRun():
                body = self._builder.build_run(gathered, action)
                await self._create(kinds.ANALYSIS_RUN, gathered, body)
            case CreateJob():
                await self._create(kinds.JOB, gathered, self._builder.build_job(gathered, action))
            case UpdateRun():
                current = gathered.parsed.status.current
                assert current is not None
                spec = self._builder.build_run(gathered, _create_of(action))["spec"]
                regated = _regated(spec) | {"stepsHash": current.steps_hash}
                await self._patch_run(gathered, action.name, {"spec": regated})
            case TerminateRun():
                await self._patch_run(gathered, action.name, {"spec": {"terminate": True}})
            case MarkRun():
                mark = {
                    "at": format_time(action.at),
                    "step": action.step,
                    "weight": weight_json(action.weight),
                }
                await self._append(gathered, action.name, "marks", mark)
            case LoadAdapter(identity=identity):
                self._loader.load(gathered.parsed, identity)
            case UnloadAdapter(identity=identity):
                self._loader.unload(gathered.parsed, identity)
            case ExcludeInterval():
                interval = {"from": format_time(action.start), "to": format_time(action.end)}
                await self._append(gathered, action.name, "exclude", interval, last={"to": FOREVER})
        return []

    # --- traffic ---

    async def _write_traffic(
        self, gathered: Gathered, action: WriteTraffic, *, heed: bool
    ) -> list[EmitEvent]:
        carrier = gathered.carrier
        assert carrier is not None
        raw = gathered.traffic_object if action.resource_version else None
        write = carrier.render(raw, action.desired)
        if isinstance(write, RenderRefusal):
            raise TrafficRefused(write.reason, write.message)
        if write is None:
            return []
        carried = (carrier.resource, ObjectKey(carrier.namespace, carrier.name))
        await self._demand_fresh(gathered)
        await self._send(*carried, write, carrier.rendered_from, heed=heed)
        arm = action.desired.canary.name if action.desired.canary is not None else "the canary"
        return self._written(gathered, *carried, action.reason, arm, action.desired.weight)

    async def _return_traffic(
        self, gathered: Gathered, action: ReturnTraffic, *, heed: bool
    ) -> list[EmitEvent]:
        """Lower the canary by the stored record: neither spec nor template has a part in it."""
        record = action.record
        found, key = gathered.ways[record], ObjectKey(gathered.parsed.namespace, record.name)
        kind = kind_of(record.kind)
        lists = kind.lists if kind is not None else None
        write = wayback.render(found.raw, record, action.limit, lists) if found.raw is not None else None
        if write is None:
            return []
        await self._demand_fresh(gathered, whatever_spec=True)
        await self._send(found.resource, key, write, f"{record.kind} {record.name}", heed=heed)
        return self._written(gathered, found.resource, key, action.reason, record.canary.name, action.limit)

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
        self._on_traffic_write(reason)
        shown = format_weight(weight)
        _log.info(
            "traffic_written",
            namespace=key.namespace,
            rollout=gathered.parsed.name,
            weight=shown,
            reason=reason.value,
        )
        message = f"{resource.kind} {key.name}: {arm} {shown}"
        return [EmitEvent(type=EventType.NORMAL, reason=reason.value, message=message)]

    async def _send(
        self,
        resource: Resource,
        key: ObjectKey,
        write: Write,
        rendered_from: str,
        *,
        heed: bool,
    ) -> None:
        """Store a write of a traffic object. Raises TrafficRefused when the server will not have it."""
        kind, body = (
            (PatchKind.APPLY, write.body) if isinstance(write, Apply) else (PatchKind.JSON, write.operations)
        )
        store = self._caches.by_resource()[resource]
        try:
            with store.writing(key) as record:
                stored = await self._client.patch(
                    resource, *key, body, kind=kind, force=isinstance(write, Apply)
                )
                record(stored, tell=heed)
        except (Invalid, Forbidden, ApiUnavailable) as error:
            refusal = _refusal(error, rendered_from, applied=isinstance(write, Apply))
            if refusal is None:
                raise
            raise refusal from None

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

    async def _demand_fresh_traffic(self, gathered: Gathered) -> None:
        """Raise Conflict unless the traffic object is the one that was planned on.

        Kinds are watched apart: after a restart the Rollout may be newer in the cache than its traffic object, and
        what is then seen there is no foreign write but our own past.
        """
        carrier, raw = gathered.carrier, gathered.traffic_object
        if carrier is None or raw is None:
            return
        live = await self._client.get(carrier.resource, carrier.namespace, carrier.name)
        if live["metadata"].get("resourceVersion") != raw["metadata"].get("resourceVersion"):
            self._caches.by_resource()[carrier.resource].record_write(live)
            raise Conflict(f"{carrier.resource.kind} {carrier.name} changed since it was read")

    async def _release(self, gathered: Gathered, action: ReleaseTraffic) -> None:
        if action.record is not None:
            await self._release_recorded(gathered, action, action.record)
            return
        raw, carrier = gathered.traffic_object, gathered.carrier
        assert raw is not None
        assert carrier is not None
        place = (carrier.resource, carrier.namespace, carrier.name)
        if action.mode is ReleaseTrafficMode.DELETE:
            await self._client.delete(*place, resource_version=action.resource_version)
            return
        patch = carrier.release(raw).operations
        stored = await self._client.patch(*place, patch, kind=PatchKind.JSON)
        self._caches.by_resource()[carrier.resource].record_write(stored)

    async def _release_recorded(self, gathered: Gathered, action: ReleaseTraffic, way: WayBack) -> None:
        """Give up an object that no readable spec names any more."""
        resource, raw = gathered.ways[way]
        place = (resource, gathered.parsed.namespace, way.name)
        if action.mode is ReleaseTrafficMode.DELETE:
            await self._client.delete(*place, resource_version=action.resource_version)
        elif raw is not None:
            patch = release(raw, gathered.parsed.name).operations
            stored = await self._client.patch(*place, patch, kind=PatchKind.JSON)
            self._caches.by_resource()[resource].record_write(stored)

    # --- the Rollout itself ---

    async def _set_finalizer(self, gathered: Gathered, *, present: bool, heed: bool) -> None:
        meta = gathered.rollout["metadata"]
        others = [item for item in meta.get("finalizers") or [] if item != FINALIZER]
        wanted = [*others, FINALIZER] if present else others
        if wanted == (meta.get("finalizers") or []):
            return
        body = {"metadata": {"finalizers": wanted, "resourceVersion": meta["resourceVersion"]}}
        await self._patch_rollout(gathered, body, "", heed=heed)

    async def _store_status(self, gathered: Gathered, status: Object, *, heed: bool) -> None:
        meta = gathered.rollout["metadata"]
        patch = merge_patch(gathered.rollout.get("status") or {}, status)
        if not patch:
            return
        body = {"metadata": {"resourceVersion": meta["resourceVersion"]}, "status": patch}
        await self._patch_rollout(gathered, body, "status", heed=heed)

    async def _patch_rollout(self, gathered: Gathered, body: Object, subresource: str, *, heed: bool) -> None:
        """Patch, and go on from what the server stored, in this plan and in the cache."""
        key = ObjectKey(gathered.parsed.namespace, gathered.parsed.name)
        with self._caches.rollouts.writing(key) as record:
            stored = await self._client.patch(
                kinds.ROLLOUT, *key, body, kind=PatchKind.MERGE, subresource=subresource
            )
            gathered.rollout["metadata"] = stored["metadata"]
            record(stored, tell=heed)

    # --- runs and jobs ---

    async def _create(self, resource: Resource, gathered: Gathered, body: Object) -> None:
        try:
            stored = await self._client.create(resource, gathered.parsed.namespace, body)
        except AlreadyExists:
            await self._demand_ours(resource, gathered, body["metadata"]["name"])
            return
        except Invalid as error:
            raise TrafficRefused(
                Reason.GATE_INVALID, f"{resource.kind} {body['metadata']['name']}: {error}"
            ) from None
        self._caches.by_resource()[resource].record_write(stored)

    async def _demand_ours(self, resource: Resource, gathered: Gathered, name: str) -> None:
        """Raise Conflict where the object that exists belongs to another: the next plan gives ours another name."""
        parsed = gathered.parsed
        try:
            live = await self._client.get(resource, parsed.namespace, name)
        except NotFound:
            raise Conflict(f"{resource.kind} {name} is gone again") from None
        self._caches.by_resource()[resource].record_write(live)
        if owner_of(live, kinds.ROLLOUT.kind) == (parsed.name, parsed.uid):
            return
        message = (
            f"{resource.kind} {name} exists and is not owned by this Rollout (UID {parsed.uid}): what it says does not "
            "count, a run under another name is made; delete it if nobody needs it"
        )
        await self._events.emit(
            gathered.rollout, EmitEvent(type=EventType.WARNING, reason=Reason.NAME_TAKEN, message=message)
        )
        raise Conflict(message)

    async def _patch_run(self, gathered: Gathered, name: str, body: Object) -> None:
        try:
            stored = await self._client.patch(
                kinds.ANALYSIS_RUN, gathered.parsed.namespace, name, body, kind=PatchKind.MERGE
            )
        except NotFound:
            return
        except Invalid as error:
            # Whatever somebody did to the run, its gate waits; traffic, and an abort above all, must not.
            message = (
                f"AnalysisRun {name} does not take what it was to be told, so that its gate may wait: {error}"
            )
            event = EmitEvent(type=EventType.WARNING, reason=Reason.RUN_REFUSED, message=message)
            await self._events.emit(gathered.rollout, event)
            return
        self._caches.runs.record_write(stored)

    async def _append(
        self, gathered: Gathered, name: str, field: str, item: Object, *, last: Object | None = None
    ) -> None:
        """Append to a bounded list of the run's spec; the resourceVersion keeps an item from getting lost.

        What is there stays as it is. ``last`` says what the item that fills the list says instead.
        """
        run = self._caches.runs.get(ObjectKey(gathered.parsed.namespace, name))
        if run is None:
            return
        present = (run.get("spec") or {}).get(field) or []
        limit = RUN_LIST_LIMITS[field]
        if item in present or len(present) >= limit:
            return
        if len(present) == limit - 1:
            item = {**item, **(last or {})}
        body = {
            "metadata": {"resourceVersion": run["metadata"]["resourceVersion"]},
            "spec": {field: [*present, item]},
        }
        await self._patch_run(gathered, name, body)
