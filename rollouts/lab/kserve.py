"""A stand-in for KServe's controller: LLMInferenceServices of a group become weighted HTTPRoutes, and statuses say so.

``answer`` is what KServe would make of the objects, as its sources and documentation of 0.20 have it: each member has
an InferencePool and a route, every route lists all members that can be reached with their weights, members that serve
other names share nothing, stopped ones get nothing and lose their routes. Pods are the lab's own. ``KServe`` does it
over an API server, late where asked to be.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from rollouts.kube.client import KubeClient, PatchKind, Resource
from rollouts.kube.errors import Conflict, KubeError, NotFound
from rollouts.kube.paging import list_all
from rollouts.objects import kinds
from rollouts.objects.llm_services import LlmService, pods_of_service, read_llm_service
from rollouts.objects.pods import read_pod

__all__ = ["KServe", "KServeAnswer", "answer", "pool_name", "publisher_path", "route_name"]

_log = structlog.get_logger(__name__)

Object = dict[str, Any]

_PORT = 8000
_EVERY = 0.1
"""Seconds between two looks."""
_MANAGER = "llmisvc-controller-manager"
_GROUP_LABEL = "serving.kserve.io/routing-group"


def pool_name(member: str) -> str:
    """The InferencePool that KServe makes of a member with a scheduler."""
    return f"{member}-inference-pool"


def route_name(member: str) -> str:
    """The HTTPRoute that KServe makes of a member."""
    return f"{member}-kserve-route"


def publisher_path(namespace: str, model: str) -> str:
    """Where clients ask for a model whichever version answers."""
    return f"/publishers/{namespace}/models/{model}"


@dataclass(frozen=True, slots=True)
class KServeAnswer:
    """What KServe makes: statuses by member, and the objects that there are to be."""

    statuses: Mapping[str, Object]
    pools: Sequence[Object]
    routes: Sequence[Object]


def answer(
    services: Iterable[Object], ready: Mapping[str, int], parents: Sequence[Object] = ()
) -> KServeAnswer:
    """``ready``: Ready pods by member; ``parents``: the gateways that routes are for."""
    objects = sorted(services, key=lambda one: str(one["metadata"]["name"]))
    members = [read_llm_service(one) for one in objects]
    statuses, pools, routes = dict[str, Object](), list[Object](), list[Object]()
    for obj, one in zip(objects, members, strict=True):
        peers = [other for other in members if other.group == one.group] if one.group else [one]
        shown = [other for other in peers if other is one or other.stopped or ready.get(other.name, 0)]
        matching = [other for other in shown if other.models == one.models]
        divergent = [other for other in shown if other.models != one.models]
        statuses[one.name] = _status(obj, one, matching, divergent, ready.get(one.name, 0))
        if not one.stopped:
            pools.append(_pool(obj, one))
            routes.append(_route(obj, one, [other for other in matching if not other.stopped], parents))
    return KServeAnswer(statuses, pools, routes)


def _status(
    obj: Object,
    one: LlmService,
    matching: Sequence[LlmService],
    divergent: Sequence[LlmService],
    ready: int,
) -> Object:
    conditions = [_ready(one, ready)]
    router: Object | None = None
    if one.stopped:
        return {"observedGeneration": obj["metadata"].get("generation", 0), "conditions": conditions} | {
            "router": None
        }
    picker = {"group": "", "kind": "Service", "name": f"{one.name}-epp-service"}
    pool = {"group": kinds.POOL_V1.group, "kind": kinds.POOL_V1.kind, "name": pool_name(one.name)}
    router = {"scheduler": {"inferencePool": pool, "service": picker}, "group": None}
    if one.group:
        router["group"] = {"name": one.group, "members": [_member(other) for other in matching]}
        conditions.append({"type": "GroupReady", "status": "True"})
    if divergent:
        names = ", ".join(sorted({"+".join(other.models) for other in divergent}))
        conditions.append(
            {
                "type": "GroupDegraded",
                "status": "True",
                "reason": "MemberDivergence",
                "message": f"group has members with different model sets: {names}",
            }
        )
    return {
        "observedGeneration": obj["metadata"].get("generation", 0),
        "conditions": conditions,
        "router": router,
    }


def _ready(one: LlmService, ready: int) -> Object:
    if one.stopped:
        return {"type": "Ready", "status": "False", "reason": "Stopped", "message": "Service is stopped"}
    if ready:
        return {"type": "Ready", "status": "True"}
    message = "Deployment does not have minimum availability."
    return {"type": "Ready", "status": "False", "reason": "MinimumReplicasUnavailable", "message": message}


def _member(other: LlmService) -> Object:
    ref = {
        "group": kinds.POOL_V1.group,
        "kind": kinds.POOL_V1.kind,
        "name": pool_name(other.name),
        "port": _PORT,
    }
    return {
        "name": other.name,
        "weight": other.weight,
        **({"stopped": True} if other.stopped else {}),
        "backendRef": ref,
    }


def _meta(obj: Object, one: LlmService, name: str) -> Object:
    owner = {
        "apiVersion": kinds.LLM_SERVICE.api_version,
        "kind": kinds.LLM_SERVICE.kind,
        "name": one.name,
        "uid": obj["metadata"].get("uid", ""),
        "controller": True,
    }
    labels = {"app.kubernetes.io/name": one.name, "app.kubernetes.io/part-of": "llminferenceservice"}
    if one.group:
        labels[_GROUP_LABEL] = one.group
    return {
        "name": name,
        "namespace": obj["metadata"]["namespace"],
        "labels": labels,
        "ownerReferences": [owner],
    }


def _pool(obj: Object, one: LlmService) -> Object:
    found = pods_of_service(obj)
    picker = {"kind": "Service", "name": f"{one.name}-epp-service", "port": {"number": 9002}}
    return {
        "apiVersion": kinds.POOL_V1.api_version,
        "kind": kinds.POOL_V1.kind,
        "metadata": _meta(obj, one, pool_name(one.name)),
        "spec": {
            "selector": {"matchLabels": dict(found.selector)},
            "targetPorts": [{"number": port} for port in found.ports],
            "endpointPickerRef": {**picker, "failureMode": "FailOpen"},
        },
    }


def _route(obj: Object, one: LlmService, members: Sequence[LlmService], parents: Sequence[Object]) -> Object:
    """Two rules of KServe's dozen: the member's own path, and the path of the model, which is shared."""
    namespace = str(obj["metadata"]["namespace"])
    refs = [{**_member(other)["backendRef"], "weight": other.weight if one.group else 1} for other in members]
    rules = [
        _rule("v1-path", f"/{namespace}/{one.name}/v1", [{**_member(one)["backendRef"], "weight": 1}]),
        _rule("v1-publisher-path", f"{publisher_path(namespace, one.models[0])}/v1", refs),
    ]
    return {
        "apiVersion": kinds.HTTP_ROUTE.api_version,
        "kind": kinds.HTTP_ROUTE.kind,
        "metadata": _meta(obj, one, route_name(one.name)),
        "spec": {"parentRefs": list(parents), "rules": rules},
    }


def _rule(name: str, path: str, refs: Sequence[Object]) -> Object:
    rewrite = {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/v1"}}
    return {
        "name": name,
        "matches": [{"path": {"type": "PathPrefix", "value": path}}],
        "filters": [{"type": "URLRewrite", "urlRewrite": rewrite}],
        "backendRefs": list(refs),
    }


@dataclass(slots=True)
class KServe:
    """The stand-in over an API server, for one namespace. ``delay``: seconds by which it is late."""

    client: KubeClient
    namespace: str
    parents: Sequence[Object]
    delay: float = 0.0
    on_change: Callable[[], None] = lambda: None
    _task: asyncio.Task[None] | None = field(default=None, init=False)

    async def start(self) -> None:
        """Begin; the first look is done when this returns."""
        await self.look()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY)
            try:
                await self.look()
            except (Conflict, NotFound):
                continue
            except KubeError as error:
                _log.warning("kserve_did_not_look", reason=str(error)[:200])

    async def look(self) -> None:
        """Make what is missing, and say it. Raises KubeError."""
        services = await list_all(self.client, kinds.LLM_SERVICE, self.namespace)
        pods = await list_all(self.client, kinds.POD, self.namespace)
        ready = {str(one["metadata"]["name"]): _count(one, pods) for one in services}
        found = answer(services, ready, self.parents)
        stale = [one for one in services if _differs(one.get("status") or {}, _status_of(found, one))]
        if stale and self.delay:
            await asyncio.sleep(self.delay)
        for resource, wanted in ((kinds.POOL_V1, found.pools), (kinds.HTTP_ROUTE, found.routes)):
            await self._make(resource, wanted)
        for one in stale:
            patch = {"status": _status_of(found, one)}
            await self.client.patch(
                kinds.LLM_SERVICE,
                self.namespace,
                str(one["metadata"]["name"]),
                patch,
                kind=PatchKind.MERGE,
                subresource="status",
            )
        if stale:
            self.on_change()

    async def _make(self, resource: Resource, wanted: Sequence[Object]) -> None:
        """Those that there are to be, and no other of KServe's."""
        present = {
            str(one["metadata"]["name"]): one
            for one in await list_all(self.client, resource, self.namespace)
            if _by_kserve(one)
        }
        for obj in wanted:
            name = str(obj["metadata"]["name"])
            if name not in present or _differs(present[name].get("spec") or {}, obj["spec"]):
                await self.client.patch(resource, self.namespace, name, obj, kind=PatchKind.APPLY, force=True)
        for name in present.keys() - {str(obj["metadata"]["name"]) for obj in wanted}:
            with contextlib.suppress(NotFound):
                await self.client.delete(resource, self.namespace, name)


def _status_of(found: KServeAnswer, service: Object) -> Object:
    return dict(found.statuses[str(service["metadata"]["name"])])


def _count(service: Object, pods: Iterable[Object]) -> int:
    pool = pods_of_service(service)
    mine = (pod for pod in pods if pool.selects((pod["metadata"].get("labels")) or {}))
    return sum(read is not None and read.ready for read in map(read_pod, mine))


def _by_kserve(obj: Object) -> bool:
    owners = obj["metadata"].get("ownerReferences") or []
    return any(owner.get("kind") == kinds.LLM_SERVICE.kind for owner in owners)


def _differs(live: Any, wanted: Any) -> bool:
    """Whether a live object lacks something that is wanted; what a server adds by default is no difference."""
    if isinstance(wanted, dict):
        return not isinstance(live, dict) or any(
            (live.get(key) is not None) if value is None else _differs(live.get(key), value)
            for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            not isinstance(live, list)
            or len(live) != len(wanted)
            or any(_differs(one, other) for one, other in zip(live, wanted, strict=True))
        )
    return bool(live != wanted)
