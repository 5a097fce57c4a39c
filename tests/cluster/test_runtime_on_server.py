"""The generic parts against a real API server: what the simulations believe of it is true."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime

import pytest

from rollouts.kube.client import PatchKind, Resource
from rollouts.kube.http import HttpKubeClient
from rollouts.runtime.clock import SystemClock
from rollouts.runtime.election import LeaderElector, Leadership, unique_identity
from rollouts.runtime.fencing import WriteFence
from rollouts.runtime.lease import LEASES, VACANT, LeaseConfig
from rollouts.runtime.objects import ObjectKey, Order, compare_versions, version_of
from rollouts.runtime.reflector import Reflector, ReflectorConfig
from rollouts.runtime.store import Store
from tests.kit.polling import eventually

pytestmark = pytest.mark.cluster
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")


class Candidate:
    """An elector whose work only waits."""

    def __init__(self, client: HttpKubeClient, namespace: str) -> None:
        clock = SystemClock()
        config = LeaseConfig(
            namespace=namespace,
            name="election",
            duration=3,
            renew_deadline=2.0,
            renew_period=0.5,
            retry_period=0.5,
            request_timeout=1.0,
            poll_period=0.3,
        )
        self.identity = unique_identity("test")
        self.epoch: int | None = None
        self.fence = WriteFence(clock)
        self.elector = LeaderElector(client, config, self.identity, clock, self.fence)
        self.task = asyncio.create_task(self.elector.run(self._work))

    async def _work(self, leadership: Leadership) -> None:
        self.epoch = leadership.epoch
        await leadership.stopping.wait()


async def test_a_lease_is_made_taken_renewed_lost_and_handed_over(
    kube: HttpKubeClient, namespace: str
) -> None:
    one, two = Candidate(kube, namespace), None
    try:
        await eventually(lambda: _held_by(kube, namespace, VACANT), timeout=5)
        await eventually(lambda: one.fence.may_write())
        two = Candidate(kube, namespace)
        taken = await kube.get(LEASES, namespace, "election")
        renewed = await eventually(lambda: _renewed(kube, namespace, version_of(taken)))
        assert renewed["spec"]["holderIdentity"] == one.identity
        assert renewed["spec"]["acquireTime"] == taken["spec"]["acquireTime"]
        assert datetime.fromisoformat(renewed["spec"]["renewTime"]).tzinfo is not None

        await kube.delete(LEASES, namespace, "election")
        again = await eventually(lambda: _held_by(kube, namespace, one.identity))
        assert again["spec"]["leaseTransitions"] == one.epoch

        begun = time.monotonic()
        one.elector.stop()
        await eventually(lambda: two.epoch is not None)
        assert time.monotonic() - begun < 2.5, "sooner than the lease would expire; 0.4 s on an idle machine"
        assert (one.epoch, two.epoch) == (1, 2)
        await one.task
    finally:
        for candidate in (one, two):
            if candidate is not None:
                candidate.elector.stop()
                await candidate.task
    free = await kube.get(LEASES, namespace, "election")
    assert not free["spec"].get("holderIdentity")


async def _renewed(kube: HttpKubeClient, namespace: str, version: str) -> dict[str, dict[str, str]] | None:
    lease = await kube.get(LEASES, namespace, "election")
    return lease if version_of(lease) != version else None


async def _held_by(kube: HttpKubeClient, namespace: str, identity: str) -> dict[str, dict[str, str]] | None:
    page = await kube.list_page(LEASES, namespace)
    held = [lease for lease in page.items if lease["spec"].get("holderIdentity") == identity]
    return held[0] if held else None


async def test_a_store_follows_the_server_through_pages_watches_and_own_writes(
    kube: HttpKubeClient, namespace: str
) -> None:
    for number in range(12):
        await _create(kube, namespace, f"m{number:02}")
    store = Store(indexes={"first": lambda obj: [obj["data"]["name"][:2]]})
    heard: list[ObjectKey] = []
    reflector = Reflector(
        kube,
        CONFIG_MAPS,
        store,
        SystemClock(),
        namespace=namespace,
        label_selector="test=runtime",
        config=ReflectorConfig(page_size=5),
    )
    task = asyncio.create_task(reflector.run())
    try:
        await asyncio.wait_for(reflector.wait_for_sync(), 10)
        assert len(store) == 12
        store.subscribe(heard.append)
        key = ObjectKey(namespace, "m00")
        before = store.get(key)
        assert before is not None
        answer = await kube.patch(
            CONFIG_MAPS, namespace, "m00", {"data": {"name": "changed"}}, kind=PatchKind.MERGE
        )
        assert compare_versions(version_of(answer), version_of(before)) is Order.NEWER
        store.record_write(answer)
        await kube.delete(CONFIG_MAPS, namespace, "m01")
        await _create(kube, namespace, "new")
        await eventually(lambda: ObjectKey(namespace, "new") in store)

        assert heard == [key, ObjectKey(namespace, "m01"), ObjectKey(namespace, "new")], (
            "own write heard once"
        )
        assert len(store.by_index("first", "m0")) == 8
        assert store.keys_by_index("first", "ch") == {key}
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _create(kube: HttpKubeClient, namespace: str, name: str) -> None:
    await kube.create(
        CONFIG_MAPS,
        namespace,
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "labels": {"test": "runtime"}},
            "data": {"name": name},
        },
    )
