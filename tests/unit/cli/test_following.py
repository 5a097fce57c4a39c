"""How the command line follows objects: what ends a watch must not make it ask at full speed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from rollouts.api.crds import all_crds
from rollouts.cli.following import follow
from rollouts.kube.errors import Gone
from rollouts.lab.controlplane.upstream import CRDS
from rollouts.lab.memoryapi.store import MemoryApi
from tests.kit.clock import virtual_time
from tests.kit.memory_client import MemoryKubeClient

LOOKS = 30


class EndedAtOnce(MemoryKubeClient):
    """Behind a proxy that ends each watch as it begins, or whose version is always too old."""

    too_old = False

    async def watch(self, *args: Any, **options: Any) -> AsyncIterator[Any]:  # type: ignore[override]
        if self.too_old:
            raise Gone("too old resource version")
        for event in ():
            yield event


@pytest.mark.parametrize("too_old", [False, True], ids=["ended", "410"])
def test_a_watch_that_ends_at_once_is_begun_again_once_a_second(too_old: bool) -> None:
    api = MemoryApi()
    for crd in all_crds():
        api.create(CRDS, None, crd, manager="test")
    client = EndedAtOnce(api)
    client.too_old = too_old

    async def looks() -> None:
        states = follow(client, "default", "demo", away=print, back=lambda: None)
        async with aclosing(states):
            for _ in range(LOOKS):
                await anext(states)

    with virtual_time() as loop:
        begun = loop.time()
        loop.run_until_complete(looks())
        assert loop.time() - begun >= LOOKS - 1
