"""Performing: the actions of a plan, in order, one API write at a time, then the status, and workloads last.

A Conflict anywhere discards the rest of the plan; the key is planned again. What becomes of a workload's write holds up
nothing: what it does was decided by what an earlier plan has stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rollouts.api.parsing import FINALIZER
from rollouts.api.status import write_status
from rollouts.controller.adapter_views import AdapterViews
from rollouts.controller.caches import Caches
from rollouts.controller.draining import PodDrains
from rollouts.controller.events import EventRecorder
from rollouts.controller.gate_writing import GateAction, GateWriter
from rollouts.controller.gates import Gates
from rollouts.controller.gathered import Gathered
from rollouts.controller.marking import PATIENCE, Marking
from rollouts.controller.refusals import TryAgain, UnansweredWrites, WriteRefused
from rollouts.controller.scaling import WorkloadScaler
from rollouts.controller.traffic_writing import TrafficWriter
from rollouts.controller.warming import WarmUps
from rollouts.controller.workloads import ScaleRefusals
from rollouts.engine.actions import (
    Action,
    DrainPods,
    EmitEvent,
    EventType,
    LoadAdapter,
    Plan,
    ReleaseTraffic,
    ReturnTraffic,
    ScaleWorkload,
    SetFinalizer,
    UnloadAdapter,
    WarmPods,
    WriteReason,
    WriteTraffic,
)
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_status import HoldReason
from rollouts.kube.client import KubeClient, PatchKind
from rollouts.kube.errors import Conflict, Forbidden, Invalid, KubeError, NotFound, UnansweredError
from rollouts.objects import kinds
from rollouts.runtime.objects import ObjectKey

__all__ = ["Performer", "merge_patch"]

Object = dict[str, Any]

_NEXT_MARKS = 1.0
"""Seconds until pods are marked that could not be, or were too many for one plan."""
_REFUSED_MARKS = 60.0
"""The same where the API server refused: an administrator has to do something about it."""

_OBEYS = (HoldReason.MANUAL_OVERRIDE, HoldReason.CONTENDED)
"""Holds that come from what somebody else wrote to the traffic object."""


def _lets_go(plan: Plan) -> bool:
    """Whether the plan takes the finalizer off: a Rollout that is being deleted is gone after that."""
    return any(isinstance(action, SetFinalizer) and not action.present for action in plan.actions)


def _again(markings: Sequence[Marking]) -> float | None:
    waits = {Marking.LEFT: _NEXT_MARKS, Marking.REFUSED: _REFUSED_MARKS}
    return min((waits[one] for one in markings if one in waits), default=None)


class _Patience:
    """What is left of the seconds for the marks of one plan, of both kinds: nobody else waits for longer."""

    def __init__(self) -> None:
        self._until = asyncio.get_running_loop().time() + PATIENCE

    @property
    def all(self) -> float:
        return max(0.0, self._until - asyncio.get_running_loop().time())

    @property
    def half(self) -> float:
        """For who comes first: an API server that is slow to him leaves as much to the other."""
        return self.all / 2


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
        refusals: ScaleRefusals | None = None,
        drains: PodDrains | None = None,
        warm_ups: WarmUps | None = None,
        on_traffic_write: Callable[[WriteReason], None] = lambda _: None,
    ) -> None:
        self._client = client
        self._caches = caches
        self._events = events
        self._unanswered = UnansweredWrites()
        self._loader = loader
        self._drains = drains
        self._warm_ups = warm_ups
        self._traffic = TrafficWriter(client, caches, on_write=on_traffic_write)
        self._scaler = WorkloadScaler(
            client,
            caches,
            {} if refusals is None else refusals,
            rollout=self._traffic.demand_fresh_rollout,
            traffic=self._traffic.demand_fresh_traffic,
        )
        self._gates = GateWriter(client, caches, events, builder)

    async def perform(self, gathered: Gathered, plan: Plan, *, tell: bool = True) -> None:
        """All actions but scales, drains and what ``let_go`` does, then the status, then Events.

        Raises KubeError and WriteRefused.

        ``tell`` False: the traffic and the status that are stored are no reason to plan again.
        """
        events = [action for action in plan.actions if isinstance(action, EmitEvent)]
        for action in plan.actions:
            if not isinstance(action, EmitEvent | ScaleWorkload | DrainPods | WarmPods):
                events += await self._act(gathered, plan, action, tell=tell)
        parsed = gathered.parsed
        if plan.status.hold in _OBEYS and plan.status.hold is not parsed.status.hold:
            await self._traffic.demand_fresh_traffic(gathered)
        changed = plan.status != parsed.status or bool(parsed.unreadable_status)
        if changed and not (parsed.deleting and _lets_go(plan)):
            await self._store_status(gathered, write_status(plan.status), tell=tell)
        for event in events:
            await self._events.emit(gathered.rollout, event)

    async def scale(self, gathered: Gathered, plan: Plan, *, tell: bool = True) -> None:
        """The scales and drains of a plan that was performed. Raises Conflict, and NotLeading; all else is told."""
        scales = [action for action in plan.actions if isinstance(action, ScaleWorkload)]
        async for event in self._scaler.scale(gathered, scales, tell=tell):
            await self._events.emit(gathered.rollout, event)

    async def drain(self, gathered: Gathered, plan: Plan) -> float | None:
        """Keep requests from the pods that the plan names, and from no other; seconds until the next try, if any.

        Raises NotLeading.
        """
        return _again(await self._mark(gathered, plan))

    async def let_go(self, gathered: Gathered, plan: Plan, *, tell: bool = True) -> None:
        """Take off the finalizer that nothing needs any more: the last thing, since nothing waits for it.

        Raises KubeError where another try may be all that it takes; what is refused is tried at the next look only.
        """
        if gathered.parsed.deleting or not _lets_go(plan):
            return
        try:
            error = await self._write_finalizer(gathered, plan, present=False, tell=tell)
        except NotFound:
            return
        if error is None:
            return
        message = (
            f"the API server keeps the Rollout's finalizer {FINALIZER}, which nothing needs now: {error}"
        )
        await self._warn(gathered, Reason.TRAFFIC_REFUSED, message)
        if isinstance(error, UnansweredError):
            raise error

    async def _mark(self, gathered: Gathered, plan: Plan) -> Sequence[Marking]:
        """First those that are not warm: one that is to go instead is marked for that when this mark is off."""
        parsed, traffic = gathered.parsed, gathered.observation.traffic
        done, left = list[Marking](), _Patience()
        if self._warm_ups is not None:
            carrying = traffic.carrying if traffic is not None else frozenset()
            done.append(await self._warm_ups.carry_out(parsed, plan, carrying, left.half))
        if self._drains is not None:
            done.append(await self._drains.carry_out(parsed, plan, left.all))
        return done

    async def release(self, key: ObjectKey) -> float | None:
        """The Rollout is gone: no pod is kept from requests for it. Seconds until the next try, if any."""
        self._gates.forget(key)
        done, left = list[Marking](), _Patience()
        if self._warm_ups is not None:
            done.append(await self._warm_ups.release(key, left.half))
        if self._drains is not None:
            done.append(await self._drains.release(*key, left.all))
        return _again(done)

    def owes_marks(self, gathered: Gathered, plan: Plan) -> bool:
        """Whether pods are to get requests again that somebody keeps from them for this Rollout."""
        return any(
            one.owes(gathered.parsed, plan) for one in (self._warm_ups, self._drains) if one is not None
        )

    async def _act(self, gathered: Gathered, plan: Plan, action: Action, *, tell: bool) -> list[EmitEvent]:
        if isinstance(action, GateAction):
            await self._gates.perform(gathered, action)
            return []
        match action:
            case WriteTraffic():
                return await self._traffic.write(gathered, action, tell=tell)
            case ReturnTraffic():
                return await self._traffic.give_back(gathered, action, tell=tell)
            case ReleaseTraffic():
                await self._traffic.release(gathered, action)
            case SetFinalizer(present=present) if present or gathered.parsed.deleting:
                await self._set_finalizer(gathered, plan, present=present, tell=tell)
            case LoadAdapter(identity=identity):
                self._loader.load(gathered.parsed, identity)
            case UnloadAdapter(identity=identity):
                self._loader.unload(gathered.parsed, identity)
        return []

    # --- the Rollout itself ---

    async def _set_finalizer(self, gathered: Gathered, plan: Plan, *, present: bool, tell: bool) -> None:
        """Add the finalizer before anything rises, or take it off for good. What goes back to stable came before."""
        error = await self._write_finalizer(gathered, plan, present=present, tell=tell)
        if error is not None:
            message = f"the API server refuses the Rollout's finalizer {FINALIZER}: {error}"
            raise WriteRefused(Reason.TRAFFIC_REFUSED, message, by_spec=False)

    async def _write_finalizer(
        self, gathered: Gathered, plan: Plan, *, present: bool, tell: bool
    ) -> KubeError | None:
        """See ``_patch_rollout``."""
        meta = gathered.rollout["metadata"]
        others = [item for item in meta.get("finalizers") or [] if item != FINALIZER]
        wanted = [*others, FINALIZER] if present else others
        if wanted == (meta.get("finalizers") or []):
            return None
        # What is refused may be for ever.
        if not present and Marking.LEFT in await self._mark(gathered, plan):
            raise TryAgain("pods still have our mark: nobody would give them requests again")
        body = {"metadata": {"finalizers": wanted, "resourceVersion": meta["resourceVersion"]}}
        return await self._patch_rollout(gathered, body, "", tell=tell)

    async def _store_status(self, gathered: Gathered, status: Object, *, tell: bool) -> None:
        meta = gathered.rollout["metadata"]
        patch = merge_patch(gathered.rollout.get("status") or {}, status)
        if not patch:
            return
        body = {"metadata": {"resourceVersion": meta["resourceVersion"]}, "status": patch}
        error = await self._patch_rollout(gathered, body, "status", tell=tell)
        if error is not None:
            message = (
                f"the API server does not store the Rollout's status, which is as it was: {error}. It is tried again; "
                "until then traffic goes back to stable where it has to, and all else waits"
            )
            await self._warn(gathered, Reason.STATUS_REFUSED, message)
            raise error

    async def _warn(self, gathered: Gathered, reason: Reason, message: str) -> None:
        """Of what is tried again and again, and what the status cannot say."""
        event = EmitEvent(type=EventType.WARNING, reason=reason, message=message)
        await self._events.emit_seldom(gathered.rollout, event)

    async def _patch_rollout(
        self, gathered: Gathered, body: Object, subresource: str, *, tell: bool
    ) -> KubeError | None:
        """Patch, and go on from what the server stored, in this plan and in the cache.

        An error that people are to read of is answered, any other raised.
        """
        key = ObjectKey(gathered.parsed.namespace, gathered.parsed.name)
        row = (gathered.parsed.uid, subresource)
        self._unanswered.begin(row)
        try:
            with self._caches.rollouts.writing(key) as record:
                stored = await self._client.patch(
                    kinds.ROLLOUT, *key, body, kind=PatchKind.MERGE, subresource=subresource
                )
                gathered.rollout["metadata"] = stored["metadata"]
                record(stored, tell=tell)
        except (Invalid, Forbidden, UnansweredError) as error:
            if not self._unanswered.worth_saying(error, row):
                raise
            return error
        except (Conflict, NotFound):
            self._unanswered.forget(row)
            raise
        self._unanswered.forget(row)
        return None
