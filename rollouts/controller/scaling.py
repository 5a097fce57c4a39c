"""Writes of the scale subresource, one workload after the other within one time; and of what stops a version whole.

Guarded as writes of traffic are: by the workload's resourceVersion, and by a fresh look at the Rollout. Before a number
rises the pods are counted at the API server as well, since those of another arm may be older in the cache than what is
planned; before one falls, the traffic object is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import structlog

from rollouts.api.parsing import ParsedRollout
from rollouts.carriers import StoppedTargetKind, stopped_target
from rollouts.controller.caches import Caches
from rollouts.controller.gathered import Gathered
from rollouts.controller.refusals import TryAgain, is_refusal
from rollouts.controller.workloads import ScaleFailure, ScaleRefusals, find_workload, former_pods
from rollouts.engine.actions import EmitEvent, EventType, ScaleWorkload
from rollouts.engine.reasons import Reason
from rollouts.engine.versions import Identity
from rollouts.kube.client import KubeClient, PatchKind
from rollouts.kube.errors import Conflict, Invalid, KubeError, NotFound
from rollouts.objects import kinds
from rollouts.objects.fields import map_of, metadata_of
from rollouts.objects.groups import SET_NAME, units
from rollouts.objects.pods import holds_resources
from rollouts.objects.workloads import Workload, read_workload
from rollouts.runtime.fencing import NotLeading
from rollouts.runtime.objects import ObjectKey, uid_of, version_of

__all__ = ["Fresh", "WorkloadScaler"]

_log = structlog.get_logger(__name__)

Fresh = Callable[[Gathered], Awaitable[None]]
"""Raises Conflict unless what was planned on is what the API server has."""

_PAGE = 500
_PATIENCE = 3.0
"""Seconds for all scales of one plan: nothing else is done for the Rollout meanwhile, no abort either."""

_Place = tuple[str, Identity, bool]
"""Namespace, arm, and whether its workload is to fall (``ScaleRefusals``)."""


class WorkloadScaler:
    """Scales through one client. ``refusals`` is where gathering reads what the API server said."""

    def __init__(
        self, client: KubeClient, caches: Caches, refusals: ScaleRefusals, *, rollout: Fresh, traffic: Fresh
    ) -> None:
        self._client = client
        self._caches = caches
        self._refusals = refusals
        self._told: dict[_Place, str] = {}
        self._late: set[tuple[str, Identity]] = set()
        """By namespace and arm: those that failed last time. They come last: none keeps the others from their turn."""
        self._fresh_rollout = rollout
        self._fresh_traffic = traffic

    async def scale(
        self, gathered: Gathered, actions: Iterable[ScaleWorkload], *, tell: bool
    ) -> AsyncIterator[EmitEvent]:
        """Store the replicas; the Events that say so, each as it happens.

        Raises Conflict where something moved on meanwhile, and NotLeading. Whatever else happens is told, and left to
        the next look, as is what the time was not enough for.
        """
        until = asyncio.get_running_loop().time() + _PATIENCE
        namespace = gathered.parsed.namespace
        due = sorted(actions, key=lambda action: (namespace, action.identity) in self._late)
        for number, action in enumerate(due):
            workload, place = self._found(namespace, action)
            try:
                async with asyncio.timeout_at(until) as deadline:
                    await self._guarded(gathered, workload, action, falls=place[2], tell=tell)
            except NotFound:
                raise Conflict(f"{workload.what}, or what it was looked at with, is gone") from None
            except (Conflict, NotLeading):
                raise
            except KubeError as error:
                event = self._failed(place, workload, str(error), refused=is_refusal(error))
            except TimeoutError:
                if not deadline.expired():
                    raise
                if number:
                    return  # it had less than its time: the next plan begins with it
                event = self._failed(place, workload, f"no answer within {_PATIENCE:g} s", refused=False)
            else:
                event = self._scaled(place, workload, action.replicas)
            if event is not None:
                yield event
            if deadline.expired():
                return

    def _found(self, namespace: str, action: ScaleWorkload) -> tuple[Workload, _Place]:
        """What is to be scaled, as it was planned on. Raises Conflict where it is not that any more."""
        workload = self._version(namespace, action.identity) or self._workload(namespace, action.identity)
        if workload is None or workload.resource_version != action.resource_version:
            raise Conflict(f"the workload of {action.identity.name} changed since it was read")
        return workload, (namespace, action.identity, action.replicas < workload.replicas)

    def _scaled(self, place: _Place, workload: Workload, replicas: int) -> EmitEvent:
        self._refusals.pop(place, None)
        self._told.pop(place, None)
        self._late.discard(place[:2])
        _log.info("workload_scaled", namespace=place[0], workload=workload.what, replicas=replicas)
        message = f"{workload.what}: {workload.replicas} replicas to {replicas}"
        if stopped_target(workload.resource.kind) is not None:
            message = f"{workload.what} is {'started again' if replicas else 'stopped'}"
        return EmitEvent(type=EventType.NORMAL, reason=Reason.SCALED, message=message)

    async def _guarded(
        self, gathered: Gathered, workload: Workload, action: ScaleWorkload, *, falls: bool, tell: bool
    ) -> None:
        await self._fresh_rollout(gathered)
        if falls:
            await self._fresh_traffic(gathered)
        elif action.at_most is not None:
            await self._count(gathered.parsed, action, action.at_most)
        kind = stopped_target(workload.resource.kind)
        if kind is None:
            await self._write(gathered.parsed.namespace, workload, action.replicas, tell=tell)
        else:
            await self._switch(gathered.parsed, kind, action.identity, workload, stop=falls, tell=tell)

    def _failed(self, place: _Place, workload: Workload, words: str, *, refused: bool) -> EmitEvent | None:
        """Keep the words for the next look, which tries again; say them once.

        A loser is left for a refusal, not because the API server was slow, or busy.
        """
        told = self._told.get(place) == words
        self._told[place] = words
        self._late.add(place[:2])
        self._refusals[place] = ScaleFailure(words, passes=place[2] and not refused)
        _log.warning(
            "scale_refused", namespace=place[0], workload=workload.what, error=words, refused=refused
        )
        message = f"{workload.what} cannot be scaled: {words}"
        event = EmitEvent(type=EventType.WARNING, reason=Reason.SCALE_REFUSED, message=message)
        return None if told else event

    def _workload(self, namespace: str, identity: Identity) -> Workload | None:
        pool = self._caches.pool(identity.group, namespace, identity.name)
        found = find_workload(self._caches, pool) if pool is not None else None
        return found if isinstance(found, Workload) else None

    def _version(self, namespace: str, identity: Identity) -> Workload | None:
        """A version that is stopped and started as a whole, with one replica while it is not stopped."""
        kind = stopped_target(identity.kind)
        if kind is None:
            return None
        obj = self._caches.version(identity, namespace)
        resource = next((one for one in kind.resources if one.group == identity.group), None)
        if obj is None or resource is None:
            return None
        return replace(read_workload(resource, obj), replicas=0 if kind.is_stopped(obj) else 1)

    async def _switch(
        self,
        parsed: ParsedRollout,
        kind: StoppedTargetKind,
        arm: Identity,
        workload: Workload,
        *,
        stop: bool,
        tell: bool,
    ) -> None:
        """Stop or start a version; the cache has it from then on as it is now."""
        key = ObjectKey(parsed.namespace, workload.name)
        obj = self._caches.version(arm, parsed.namespace)
        if obj is None or version_of(obj) != workload.resource_version:
            raise Conflict(f"{workload.what} changed since it was read")
        patch = kind.switched(obj, parsed.name, stop=stop)
        with self._caches.by_resource()[workload.resource].writing(key) as record:
            stored = await self._client.patch(workload.resource, *key, patch.operations, kind=PatchKind.JSON)
            record(stored, tell=tell)

    async def _write(self, namespace: str, workload: Workload, replicas: int, *, tell: bool) -> None:
        """Patch the Scale; the cache has the workload from then on as it is now."""
        key, store = ObjectKey(namespace, workload.name), self._caches.workloads[workload.resource]
        cached = store.get(key)
        body = {"metadata": {"resourceVersion": workload.resource_version}, "spec": {"replicas": replicas}}
        with store.writing(key) as record:
            scale = await self._client.patch(
                workload.resource, *key, body, kind=PatchKind.MERGE, subresource="scale"
            )
            if cached is not None:
                version, stored = scale["metadata"]["resourceVersion"], map_of(scale.get("spec"))
                meta = {**cached["metadata"], "resourceVersion": version}
                # Go leaves a 0 out; and what is stored may be an admission webhook's number.
                spec = {**cached["spec"], "replicas": stored.get("replicas", 0)}
                record({**cached, "metadata": meta, "spec": spec}, tell=tell)
        if (kept := map_of(scale.get("spec")).get("replicas", 0)) != replicas:
            raise Invalid(
                f"{kept} replicas were stored in place of {replicas}: an admission webhook changes them"
            )

    # --- before a number rises ---

    async def _count(self, parsed: ParsedRollout, action: ScaleWorkload, at_most: int) -> None:
        """Raise Conflict where the arms would have more pods together than they may."""
        arms = (action.identity, *action.beside)
        own, ending = await self._pods(parsed, action.identity, arms)
        total = max(action.replicas + ending, own)  # what a rise makes comes beside what ends
        for arm in action.beside:
            live, _ = await self._pods(parsed, arm, arms)
            total += max(live, await self._replicas(parsed.namespace, arm))
        if total > at_most:
            raise TryAgain(f"{total} pods would be more than {at_most}: counted anew")

    async def _pods(
        self, parsed: ParsedRollout, arm: Identity, arms: Collection[Identity]
    ) -> tuple[int, int]:
        """Pods that hold what they were given, and how many of them are being deleted."""
        namespace = parsed.namespace
        pool = self._caches.pool(arm.group, namespace, arm.name)
        if pool is None:
            pool, counts = former_pods(self._caches, parsed, arm, arms) or (None, None)
        else:
            counts = None
        if pool is None or not pool.selector:
            return 0, 0
        selectors = [pool.selector]
        workload = self._workload(namespace, arm)
        if workload is not None and workload.makes_groups:
            selectors.append(((SET_NAME, workload.name),))  # its workers, which the pool need not select
        found: dict[str, Mapping[str, Any]] = {}
        for selector in selectors:
            async for pod in self._listed(namespace, selector):
                found[uid_of(pod)] = pod
        holding = [pod for pod in filter(counts, found.values()) if holds_resources(pod)]
        return units(holding), units(pod for pod in holding if "deletionTimestamp" in metadata_of(pod))

    async def _listed(
        self, namespace: str, labels: tuple[tuple[str, str], ...]
    ) -> AsyncIterator[Mapping[str, Any]]:
        selector, token = ",".join(f"{name}={value}" for name, value in labels), ""
        while True:
            page = await self._client.list_page(
                kinds.POD, namespace, limit=_PAGE, continue_token=token, label_selector=selector
            )
            for pod in page.items:
                yield pod
            token = page.continue_token
            if not token:
                return

    async def _replicas(self, namespace: str, arm: Identity) -> int:
        workload = self._workload(namespace, arm)
        if workload is None:
            return 0
        try:
            live = await self._client.get(workload.resource, namespace, workload.name)
        except NotFound:
            return 0
        return read_workload(workload.resource, live).replicas
