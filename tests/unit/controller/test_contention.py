"""Plans that are given up in a row: told of as somebody else's writes only where those are why."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rollouts.controller.caches import Caches
from rollouts.controller.contention import Contention
from rollouts.controller.events import EventRecorder
from rollouts.controller.refusals import TryAgain
from rollouts.kube.errors import Conflict
from rollouts.lab.memoryapi.store import MemoryApi
from rollouts.objects import kinds
from rollouts.runtime.objects import ObjectKey
from tests.kit.clock import VirtualClock, virtual_time
from tests.kit.memory_client import MemoryKubeClient

KEY = ObjectKey("default", "mymodel")
META = {"name": KEY.name, "namespace": KEY.namespace, "uid": "u1", "resourceVersion": "1"}
ROLLOUT: dict[str, Any] = {
    "apiVersion": kinds.ROLLOUT.api_version,
    "kind": "Rollout",
    "metadata": META,
    "spec": {},
}


@pytest.mark.parametrize(
    ("errors", "events"),
    [
        ([Conflict("changed", status=409)] * 12, 1),
        ([TryAgain("9 pods would be more than 8: counted anew")] * 12, 0),
        ([Conflict("changed", status=409)] * 6 + [None] + [Conflict("changed", status=409)] * 6, 0),
    ],
    ids=["others write", "what is waited for is not there", "one goes through"],
)
def test_rows_that_are_told(errors: list[Conflict | None], events: int) -> None:
    async def tries() -> int:
        clock, client = VirtualClock(), MemoryKubeClient(MemoryApi())
        caches = Caches(client, clock)
        caches.rollouts.apply(ROLLOUT)
        contention = Contention(client, caches, EventRecorder(client, clock))
        for error in errors:
            if error is None:
                contention.went_through(KEY)
            else:
                await contention.given_up(KEY, error, clock.now())
            await asyncio.sleep(4)
        return len((await client.list_page(kinds.EVENT, KEY.namespace)).items)

    with virtual_time() as loop:
        assert loop.run_until_complete(tries()) == events
