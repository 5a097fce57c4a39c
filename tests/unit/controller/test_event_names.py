"""An Event is named after what it is about, whatever that is called."""

from __future__ import annotations

import re

import pytest

from rollouts.controller.events import EventRecorder
from rollouts.engine.actions import EmitEvent, EventType
from rollouts.engine.reasons import Reason
from rollouts.lab.memoryapi.store import MemoryApi
from rollouts.objects import kinds
from tests.kit.clock import Timeline, VirtualClock
from tests.kit.memory_client import MemoryKubeClient

SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


@pytest.mark.parametrize("name", ["a", "a" * 253, "a" * 229 + "-" + "b" * 23, "a" * 229 + "." + "b" * 23])
async def test_the_name_is_one_that_the_api_server_takes(name: str) -> None:
    client = MemoryKubeClient(MemoryApi())
    about = {
        "apiVersion": kinds.ROLLOUT.api_version,
        "kind": "Rollout",
        "metadata": {"name": name, "namespace": "default", "uid": "u"},
    }
    event = EmitEvent(type=EventType.NORMAL, reason=Reason.PROMOTED, message="done")
    await EventRecorder(client, VirtualClock(Timeline())).emit(about, event)

    (stored,) = (await client.list_page(kinds.EVENT, "default")).items
    assert SUBDOMAIN.fullmatch(stored["metadata"]["name"])
    assert len(stored["metadata"]["name"]) <= 253
