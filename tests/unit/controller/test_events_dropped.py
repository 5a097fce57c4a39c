"""Events that were not tried, as one before them had no answer, are counted in the log: once for each such time."""

from __future__ import annotations

from typing import Any

from structlog.testing import capture_logs

from rollouts.controller.events import EventRecorder
from rollouts.engine.actions import EmitEvent, EventType
from rollouts.engine.reasons import Reason
from rollouts.kube.errors import ApiTimeout
from rollouts.lab.memoryapi.store import MemoryApi
from rollouts.objects import kinds
from tests.kit.clock import VirtualClock, virtual_time
from tests.kit.memory_client import MemoryKubeClient

EVENT = EmitEvent(type=EventType.NORMAL, reason=Reason.PROMOTED, message="done")


class SilentClient(MemoryKubeClient):
    """An API server whose Events hang until it is told otherwise."""

    silent = True

    async def create(self, *place: Any, **how: Any) -> Any:
        if self.silent:
            raise ApiTimeout("no answer within 2 s")
        return await super().create(*place, **how)


def about(name: str) -> dict[str, Any]:
    meta = {"name": name, "namespace": "default", "uid": name}
    return {"apiVersion": kinds.ROLLOUT.api_version, "kind": "Rollout", "metadata": meta}


def test_those_that_were_dropped_are_said_once_when_it_is_over() -> None:
    client = SilentClient(MemoryApi())

    async def tries() -> list[int]:
        clock, counts = VirtualClock(), list[int]()
        recorder = EventRecorder(client, clock)
        for silent, events, wait in ((True, 5, 31.0), (True, 3, 31.0), (False, 2, 0.0)):
            client.silent = silent
            with capture_logs() as entries:
                for number in range(events):
                    await recorder.emit(about(f"r{number}"), EVENT)
            counts.append(sum(one["count"] for one in entries if one["event"] == "events_dropped"))
            await clock.sleep(wait)
        return counts

    with virtual_time() as loop:
        counts = loop.run_until_complete(tries())
        stored = loop.run_until_complete(client.list_page(kinds.EVENT, "default")).items

    assert counts == [0, 4, 2]
    assert len(stored) == 2
