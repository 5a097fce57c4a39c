"""Writes of what a Rollout's gates are: AnalysisRuns and Jobs."""

from __future__ import annotations

import asyncio
from typing import Any, TypeAlias

import structlog

from rollouts.api.analysis_models import RUN_LIST_LIMITS
from rollouts.api.scalars import format_time, weight_json
from rollouts.controller.caches import Caches
from rollouts.controller.events import EventRecorder
from rollouts.controller.gates import Gates
from rollouts.controller.gathered import Gathered
from rollouts.controller.marking import PATIENCE
from rollouts.controller.refusals import UnansweredWrites, WriteRefused, by_policy
from rollouts.engine.actions import (
    CreateJob,
    CreateRun,
    EmitEvent,
    EventType,
    ExcludeInterval,
    MarkRun,
    TerminateRun,
    UpdateRun,
)
from rollouts.engine.reasons import Reason
from rollouts.kube.client import KubeClient, PatchKind, Resource
from rollouts.kube.errors import (
    AlreadyExists,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    RefusedError,
    UnansweredError,
)
from rollouts.objects import kinds
from rollouts.objects.owners import owner_of
from rollouts.runtime.objects import ObjectKey

__all__ = ["GateAction", "GateWriter"]

_log = structlog.get_logger(__name__)

Object = dict[str, Any]

FOREVER = "9999-12-31T23:59:59Z"
"""End of the exclusion that fills the list: where somebody overwrote the weights that often, what is measured from
then on is not judged, so that gates wait for a person; nothing that was excluded comes back."""


def _create_of(action: UpdateRun) -> CreateRun:
    """The creation that would make the run as it is to be now."""
    return CreateRun(name=action.name, step=None, revision=action.revision, attempt=action.attempt)


def _regated(spec: Object) -> Object:
    """What an edit of the steps changes of a run: its gates. Marks and exclusions stay."""
    fields = ("metrics", "metricsFrom", "comparisons", "falseAbortRate", "stepsHash")
    return {name: spec.get(name) for name in fields}


GateAction: TypeAlias = CreateRun | CreateJob | UpdateRun | TerminateRun | MarkRun | ExcludeInterval


class GateWriter:
    """Makes and tells runs and Jobs through one client."""

    def __init__(self, client: KubeClient, caches: Caches, events: EventRecorder, builder: Gates) -> None:
        self._client = client
        self._caches = caches
        self._events = events
        self._builder = builder
        self._unanswered = UnansweredWrites()
        self._told: dict[ObjectKey, dict[str, str]] = {}
        """By Rollout and the name of its run: the refusal that was last said."""

    async def perform(self, gathered: Gathered, action: GateAction) -> None:
        """One action. Raises KubeError and WriteRefused."""
        match action:
            case CreateRun():
                await self._create(kinds.ANALYSIS_RUN, gathered, self._builder.build_run(gathered, action))
            case CreateJob():
                await self._create(kinds.JOB, gathered, self._builder.build_job(gathered, action))
            case UpdateRun():
                current = gathered.parsed.status.current
                assert current is not None
                spec = self._builder.build_run(gathered, _create_of(action))["spec"]
                regated = _regated(spec) | {"stepsHash": current.steps_hash}
                await self._patch_run(gathered, action.name, {"spec": regated})
            case TerminateRun():
                await self._terminate(gathered, action.name)
            case MarkRun():
                mark = {
                    "at": format_time(action.at),
                    "step": action.step,
                    "weight": weight_json(action.weight),
                }
                await self._append(gathered, action.name, "marks", mark)
            case ExcludeInterval():
                interval = {"from": format_time(action.start), "to": format_time(action.end)}
                await self._append(gathered, action.name, "exclude", interval, last={"to": FOREVER})

    def forget(self, key: ObjectKey) -> None:
        """The Rollout is gone."""
        self._told.pop(key, None)

    async def _terminate(self, gathered: Gathered, name: str) -> None:
        """End a run that nobody needs. Where that fails nothing waits for it: the run's next word has it tried again.

        Traffic is where it belongs by then, and what is stored after this tells people so.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                await self._patch_run(gathered, name, {"spec": {"terminate": True}})
        except (UnansweredError, TimeoutError) as error:
            _log.warning(
                "run_not_terminated", namespace=gathered.parsed.namespace, run=name, reason=str(error)
            )

    async def _create(self, resource: Resource, gathered: Gathered, body: Object) -> None:
        what = f"{resource.kind} {body['metadata']['name']}"
        row = (gathered.parsed.namespace, what)
        self._unanswered.begin(row)
        try:
            # A Job without the command that somebody misspelt would pass. Our own kinds may be older than we are.
            strict = resource == kinds.JOB
            stored = await self._client.create(resource, gathered.parsed.namespace, body, strict=strict)
        except AlreadyExists:
            self._unanswered.forget(row)
            await self._demand_ours(resource, gathered, body["metadata"]["name"])
            return
        except NotFound:
            raise
        except (RefusedError, UnansweredError) as error:
            if not self._unanswered.worth_saying(error, row):
                raise
            by_spec = isinstance(error, Invalid) and not by_policy(error)
            raise WriteRefused(Reason.GATE_INVALID, f"{what}: {error}", by_spec=by_spec) from None
        self._unanswered.forget(row)
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
        except (Invalid, Forbidden) as error:
            # Whatever somebody did to the run, its gate waits; traffic, and an abort above all, must not.
            message = (
                f"AnalysisRun {name} does not take what it was to be told, so that its gate may wait: {error}"
            )
            await self._tell_once(gathered, name, message)
            return
        self._caches.runs.record_write(stored)

    async def _tell_once(self, gathered: Gathered, run: str, message: str) -> None:
        """It is tried at each look: an Event for each would leave none for what happens meanwhile."""
        key = ObjectKey(gathered.parsed.namespace, gathered.parsed.name)
        told = self._told.get(key, {})
        if told.get(run) == message:
            return
        event = EmitEvent(type=EventType.WARNING, reason=Reason.RUN_REFUSED, message=message)
        if await self._events.emit(gathered.rollout, event):
            present = {one: words for one, words in told.items() if one in gathered.observation.gates}
            self._told[key] = {**present, run: message}

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
