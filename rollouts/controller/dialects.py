"""Which InferenceModelRewrite the cluster serves: its group, and what it calls the list of targets.

Three dialects exist (Inference Extension v1.2 ``split``, v1.3 to v1.5 ``targets``, llm-d ``targets`` in the group
``llm-d.ai``), and a write in the wrong one is pruned without an error. Reading CRDs needs cluster-wide rights, so the
API server is asked differently: a dry-run create that fills both lists comes back with the one that it knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

from rollouts.carriers import TrafficKind
from rollouts.controller.caches import Caches
from rollouts.kube.client import KubeClient, Resource
from rollouts.kube.errors import AlreadyExists, Forbidden, Invalid, KindNotServed
from rollouts.objects import kinds
from rollouts.objects.fields import list_of, map_of
from rollouts.runtime.clock import Clock, Monotonic
from rollouts.runtime.objects import ObjectKey
from rollouts.traffic.inference_model_rewrite import RewriteDialect, TargetField

__all__ = ["Dialects"]

_log = structlog.get_logger(__name__)

Object = Mapping[str, Any]

_PROBE_NAME = "inference-rollouts-dialect-probe"
_FRESH = 600.0
"""Seconds after which an API server that did not say is asked again."""


def _probe(resource: Resource, namespace: str) -> dict[str, Any]:
    target = [{"modelRewrite": "probe", "weight": 1}]
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {"name": _PROBE_NAME, "namespace": namespace},
        "spec": {
            "poolRef": {"group": kinds.POOL_V1.group, "kind": "InferencePool", "name": "probe"},
            "rules": [
                {
                    "matches": [{"model": {"type": "Exact", "value": "probe"}}],
                    TargetField.TARGETS.value: target,
                    TargetField.SPLIT.value: target,
                }
            ],
        },
    }


def _field_of(obj: Object) -> TargetField | None:
    """The list's name in an object that the API server stored; None where no rule has a list."""
    for rule in list_of(map_of(obj.get("spec")).get("rules")):
        for field in (TargetField.TARGETS, TargetField.SPLIT):
            if isinstance(map_of(rule).get(field.value), list):
                return field
    return None


class Dialects:
    """Answers from what is stored, else from the last probe."""

    def __init__(self, client: KubeClient, caches: Caches, clock: Clock) -> None:
        self._client = client
        self._caches = caches
        self._clock = clock
        self._absent: dict[Resource, Monotonic] = {}
        self._probed: dict[str, tuple[Monotonic, TargetField | None, str]] = {}

    def groups(self, kind: TrafficKind) -> tuple[Resource, ...]:
        """Groups of the kind that are served, the one that counts first."""
        return tuple(
            resource
            for resource in kind.resources
            if self._caches.served(resource) and not self._is_absent(resource)
        )

    def _is_absent(self, resource: Resource) -> bool:
        """Whether the server said so lately; the caches may not have heard of it yet."""
        since = self._absent.get(resource)
        return since is not None and self._clock.monotonic() - since < _FRESH

    def find(self, kind: TrafficKind, key: ObjectKey) -> tuple[Resource | None, dict[str, Any] | None]:
        """Where the object lives, and the object; without it the group that counts. None: no group is served."""
        served = self.groups(kind)
        for resource in served:
            raw = self._caches.traffic[resource].get(key)
            if raw is not None:
                return resource, raw
        return (served[0] if served else None), None

    def dialect(self, resource: Resource) -> RewriteDialect | None:
        """The dialect of a group; None while nothing stored and no probe says it."""
        known = self._probed.get(resource.group)
        field = known[1] if known is not None else None
        if field is None:
            stored = (_field_of(obj) for obj in self._caches.traffic[resource].values())
            field = next(filter(None, stored), None)
        return None if field is None else RewriteDialect(api_version=resource.api_version, field=field)

    def problem(self, resource: Resource) -> str:
        """Why the last probe said nothing; empty when there was none."""
        known = self._probed.get(resource.group)
        return known[2] if known is not None else ""

    async def learn(self, kind: TrafficKind, namespace: str, name: str) -> None:
        """Ask the API server unless a recent answer is there. Raises KubeError that a retry may cure."""
        resource, _ = self.find(kind, ObjectKey(namespace, name))
        if resource is None:
            return
        known = self._probed.get(resource.group)
        if known is not None and (known[1] is not None or self._clock.monotonic() - known[0] < _FRESH):
            return  # an answer stands until the next start: nothing is asked at rest
        try:
            field, problem = await self._ask(resource, namespace)
        except KindNotServed:
            self._absent[resource] = self._clock.monotonic()
            await self.learn(kind, namespace, name)
            return
        self._probed[resource.group] = (self._clock.monotonic(), field, problem)
        _log.info(
            "rewrite_dialect", group=resource.group, field=field.value if field else "", problem=problem
        )

    async def _ask(self, resource: Resource, namespace: str) -> tuple[TargetField | None, str]:
        try:
            answer = await self._client.create(resource, namespace, _probe(resource, namespace), dry_run=True)
        except (Forbidden, Invalid, AlreadyExists) as error:
            return None, str(error)
        return _field_of(answer), "" if _field_of(
            answer
        ) else "the API server keeps neither targets nor split"
