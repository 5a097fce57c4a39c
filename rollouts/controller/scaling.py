"""Writes of the scale subresource, one workload at a time.

Guarded as writes of traffic are: by the workload's resourceVersion, and by a fresh look at the Rollout. Before a number
rises the pods are counted at the API server as well, since those of another arm may be older in the cache than what is
planned; before one falls, the traffic object is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from rollouts.controller.caches import Caches
from rollouts.controller.gathered import Gathered
from rollouts.controller.workloads import ScaleRefusals, find_workload
from rollouts.engine.actions import EmitEvent, EventType, ScaleWorkload
from rollouts.engine.reasons import Reason
from rollouts.engine.versions import Identity
from rollouts.kube.client import KubeClient, PatchKind
from rollouts.kube.errors import ApiUnavailable, Conflict, Forbidden, Invalid, KubeError, NotFound
from rollouts.objects import kinds
from rollouts.objects.pods import holds_resources
from rollouts.objects.pools import Pool
from rollouts.objects.workloads import Workload, read_workload
from rollouts.runtime.objects import ObjectKey

__all__ = ["Fresh", "WorkloadScaler"]

_log = structlog.get_logger(__name__)

Fresh = Callable[[Gathered], Awaitable[None]]
"""Raises Conflict unless what was planned on is what the API server has."""

_PAGE = 500


class WorkloadScaler:
    """Scales through one client. ``refusals`` is where gathering reads what the API server said."""

    def __init__(
        self, client: KubeClient, caches: Caches, refusals: ScaleRefusals, *, rollout: Fresh, traffic: Fresh
    ) -> None:
        self._client = client
        self._caches = caches
        self._refusals = refusals
        self._fresh_rollout = rollout
        self._fresh_traffic = traffic

    async def scale(self, gathered: Gathered, action: ScaleWorkload, *, tell: bool) -> list[EmitEvent]:
        """Store the replicas; the Event that says so. Raises Conflict where something moved on meanwhile.

        A refusal is told and kept for the next look, and holds nothing else up.
        """
        namespace, place = gathered.parsed.namespace, (gathered.parsed.namespace, action.identity)
        workload = self._workload(namespace, action.identity)
        if workload is None or workload.resource_version != action.resource_version:
            raise Conflict(f"the workload of {action.identity.name} changed since it was read")
        await self._fresh_rollout(gathered)
        if action.replicas < workload.replicas:
            await self._fresh_traffic(gathered)
        elif action.at_most is not None:
            await self._count(namespace, action, action.at_most)
        try:
            await self._write(namespace, workload, action.replicas, tell=tell)
        except (Invalid, Forbidden, ApiUnavailable) as error:
            if isinstance(error, ApiUnavailable) and error.status != 500:
                raise
            return self._refused(place, workload, error)
        except NotFound:
            raise Conflict(f"{workload.what} is gone") from None
        self._refusals.pop(place, None)
        _log.info("workload_scaled", namespace=namespace, workload=workload.what, replicas=action.replicas)
        message = f"{workload.what}: {workload.replicas} replicas to {action.replicas}"
        return [EmitEvent(type=EventType.NORMAL, reason=Reason.SCALED, message=message)]

    def _refused(self, place: tuple[str, Identity], workload: Workload, error: KubeError) -> list[EmitEvent]:
        words = str(error)
        told = self._refusals.get(place) == words
        self._refusals[place] = words
        _log.warning("scale_refused", namespace=place[0], workload=workload.what, error=type(error).__name__)
        message = f"{workload.what} cannot be scaled: {words}"
        return (
            [] if told else [EmitEvent(type=EventType.WARNING, reason=Reason.SCALE_REFUSED, message=message)]
        )

    def _workload(self, namespace: str, identity: Identity) -> Workload | None:
        pool = self._pool(namespace, identity)
        found = find_workload(self._caches, pool) if pool is not None else None
        return found if isinstance(found, Workload) else None

    def _pool(self, namespace: str, identity: Identity) -> Pool | None:
        return self._caches.pool(identity.group, namespace, identity.name)

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
                version = scale["metadata"]["resourceVersion"]
                meta = {**cached["metadata"], "resourceVersion": version}
                record(
                    {**cached, "metadata": meta, "spec": {**cached["spec"], "replicas": replicas}}, tell=tell
                )

    # --- before a number rises ---

    async def _count(self, namespace: str, action: ScaleWorkload, at_most: int) -> None:
        """Raise Conflict where the arms would have more pods together than they may."""
        own = await self._pods(namespace, action.identity)
        total = max(action.replicas, own)
        for arm in action.beside:
            total += max(await self._pods(namespace, arm), await self._replicas(namespace, arm))
        if total > at_most:
            raise Conflict(f"{total} pods would be more than {at_most}: counted anew")

    async def _pods(self, namespace: str, arm: Identity) -> int:
        pool = self._pool(namespace, arm)
        if pool is None or not pool.selector:
            return 0
        selector, token, count = ",".join(f"{name}={value}" for name, value in pool.selector), "", 0
        while True:
            page = await self._client.list_page(
                kinds.POD, namespace, limit=_PAGE, continue_token=token, label_selector=selector
            )
            count += sum(map(holds_resources, page.items))
            token = page.continue_token
            if not token:
                return count

    async def _replicas(self, namespace: str, arm: Identity) -> int:
        workload = self._workload(namespace, arm)
        if workload is None:
            return 0
        try:
            live = await self._client.get(workload.resource, namespace, workload.name)
        except NotFound:
            return 0
        return read_workload(workload.resource, live).replicas
