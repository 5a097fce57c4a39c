"""Writes of the annotations by which pods are kept from requests: one pod's refusal, or silence, is not the others'.

Each is for one UID: pods of StatefulSets and LeaderWorkerSets come again under the same name, and the next one is
neither about to go nor warm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import structlog

from rollouts.controller.caches import Caches
from rollouts.kube.client import KubeClient, PatchKind
from rollouts.kube.errors import KubeError, NotFound, OtherObject, RefusedError
from rollouts.objects import kinds
from rollouts.objects.pods import DRAINING_ANNOTATION
from rollouts.runtime.clock import Clock, Monotonic
from rollouts.runtime.fencing import NotLeading
from rollouts.runtime.objects import key_of, uid_of

__all__ = ["PATIENCE", "REFUSED_FOR", "Change", "Marking", "PodMarks"]

_log = structlog.get_logger(__name__)

Object = Mapping[str, Any]
Change = tuple[Object, Mapping[str, str | None]]
"""A pod and the annotations to write; None takes one off."""

PATIENCE = 3.0
"""Seconds for all patches of one plan, as for its scales: nothing else is done for the Rollout meanwhile."""
_AT_ONCE = 16
"""Pods that one plan marks or unmarks; the next one comes a moment later."""
REFUSED_FOR = 60.0
"""Seconds for which a refusal to annotate a pod stands: a drain that cannot be seen to would only reach its timeout."""


class Marking(Enum):
    """What is left to be written after a try."""

    DONE = "done"
    LEFT = "left"
    """What another try, a moment later, may write."""
    REFUSED = "refused"
    """Only what the API server refused, which is worth a try now and then."""


@dataclass(frozen=True, slots=True)
class _Failure:
    at: Monotonic
    refused: bool


class PodMarks:
    """Writes through one client, and knows what was refused."""

    def __init__(self, client: KubeClient, caches: Caches, clock: Clock) -> None:
        self._client = client
        self._caches = caches
        self._clock = clock
        self._failed: dict[str, _Failure] = {}
        """By UID: pods that could not be annotated lately."""
        self._refused: dict[tuple[str, str], tuple[Monotonic, str]] = {}
        """By namespace and Rollout: when the API server refused to mark a pod, and its words."""

    def refusal(self, namespace: str, rollout: str) -> str:
        """What the API server said lately when it refused to mark a pod for the Rollout; empty where it did not."""
        at, words = self._refused.get((namespace, rollout), (None, ""))
        return words if at is not None and self._clock.monotonic() - at < REFUSED_FOR else ""

    def forget(self, namespace: str, rollout: str) -> None:
        """The Rollout is gone."""
        self._refused.pop((namespace, rollout), None)

    async def write(
        self, namespace: str, rollout: str, changes: list[Change], patience: float = PATIENCE
    ) -> Marking:
        """Patch pods one by one: those that are to get requests again first, those that failed before last.

        ``patience`` is for all of them, in seconds. Raises NotLeading; whatever else happens is told.
        """
        due, mine = self._due(changes), (namespace, rollout)
        failures, gone, marked = list[_Failure](), False, False
        trying: Object = {}
        try:
            async with asyncio.timeout(patience) as deadline:
                for trying, annotations in due[:_AT_ONCE]:
                    try:
                        gone |= not await self._annotate(trying, annotations)
                        marked |= not _unmarks(annotations)
                    except NotLeading:
                        raise
                    except KubeError as error:
                        refused = isinstance(error, RefusedError)
                        failures.append(self._fail(mine, trying, str(error), refused=refused))
                        if refused and not _unmarks(annotations):
                            self._refused[mine] = (self._clock.monotonic(), str(error))
        except TimeoutError:
            if not deadline.expired():
                raise
            failures.append(self._fail(mine, trying, f"no answer within {patience:.3g} s", refused=False))
        if marked and not failures:
            self._refused.pop(mine, None)
        if gone or len(due) > _AT_ONCE or not all(one.refused for one in failures):
            return Marking.LEFT
        return Marking.REFUSED if failures or len(due) < len(changes) else Marking.DONE

    def _due(self, changes: list[Change]) -> list[Change]:
        now = self._clock.monotonic()
        self._failed = {uid: one for uid, one in self._failed.items() if now - one.at < REFUSED_FOR}
        refused = {uid for uid, one in self._failed.items() if one.refused}
        due = [change for change in changes if uid_of(change[0]) not in refused]
        return sorted(due, key=lambda change: (uid_of(change[0]) in self._failed, not _unmarks(change[1])))

    def _fail(self, mine: tuple[str, str], pod: Object, words: str, *, refused: bool) -> _Failure:
        found = self._failed[uid_of(pod)] = _Failure(self._clock.monotonic(), refused)
        namespace, rollout = mine
        _log.warning(
            "pod_not_annotated", namespace=namespace, rollout=rollout, pod=key_of(pod).name, error=words
        )
        return found

    async def _annotate(self, pod: Object, annotations: Mapping[str, str | None]) -> bool:
        """Patch a pod; the cache has it from then on as it is now. False: it is gone, be its name another's."""
        key = key_of(pod)
        with self._caches.pods.writing(key) as record:
            body = {"metadata": {"uid": uid_of(pod), "annotations": dict(annotations)}}
            try:
                stored = await self._client.patch(kinds.POD, *key, body, kind=PatchKind.MERGE)
            except (NotFound, OtherObject):
                return False
            record(stored)
        self._failed.pop(uid_of(pod), None)
        _log.info("pod_annotated", namespace=key.namespace, pod=key.name, annotations=dict(annotations))
        return True


def _unmarks(annotations: Mapping[str, str | None]) -> bool:
    return DRAINING_ANNOTATION in annotations and annotations[DRAINING_ANNOTATION] is None
