"""Turns as the controller is told of them, and reads them from the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rollouts.api.parsing import parse_rollout
from rollouts.controller.caches import Caches
from rollouts.controller.settings import Settings, SettingsError, read_config
from rollouts.controller.turns import Turns
from rollouts.engine.turns import LimitScope
from rollouts.engine.versions import Identity
from rollouts.objects import kinds
from rollouts.objects.pools import POOL_KIND
from rollouts.runtime.store import Store
from tests.kit.clock import VirtualClock, virtual_time
from tests.kit.faults.cluster import NAMESPACE, POOL_GROUP, Cluster
from tests.kit.faults.history import History
from tests.kit.faults.objects import (
    ADAPTER_OF,
    CANARY,
    STABLE,
    Carrier,
    adapter_rollout,
    carrier_object,
    rollout_object,
)
from tests.kit.faults.simulation import CLEAN, Simulation
from tests.kit.faults.transport import FaultyClient, Feed

Object = dict[str, Any]


# --- the file -----------------------------------------------------------------------------------------


def parallelism(tmp_path: Path, text: str) -> Any:
    (tmp_path / "config.yaml").write_text(f"parallelism: {text}")
    return read_config(str(tmp_path / "config.yaml"), Settings()).parallelism


def test_zero_and_nothing_are_no_limit(tmp_path):
    assert parallelism(tmp_path, "{pool: 0, namespace: 2, controller: null}") == {LimitScope.NAMESPACE: 2}
    assert parallelism(tmp_path, "") == {}


@pytest.mark.parametrize("text", ["{pods: 1}", "[1]", "{pool: -1}", "{pool: true}", "{pool: '2'}"])
def test_what_is_no_limit_is_refused(tmp_path, text):
    with pytest.raises(SettingsError, match="parallelism"):
        parallelism(tmp_path, text)


# --- the cache ----------------------------------------------------------------------------------------


def begun(rollout: Object, arm: Object | None = None, *, hash_: str = "a" * 64) -> Object:
    arms = arm or {"kind": POOL_KIND, "group": POOL_GROUP}
    rollout["status"] = {
        "phase": "Progressing",
        "stable": {**arms, "name": STABLE, "hash": hash_},
        "canary": {**arms, "name": CANARY, "hash": "b" * 64},
        "attempt": 1,
        "startedAt": "2030-01-01T00:00:00Z",
    }
    return rollout


def of_adapter(name: str, *, pool: bool) -> Object:
    found = adapter_rollout([{"setWeight": 10}])
    found["metadata"]["name"] = name
    if not pool:
        del found["spec"]["traffic"]["inferenceModel"]["poolRef"]
    return found


def waits(
    limits: dict[LimitScope, int], asks: Object, *others: Object, model: bool = False, doomed: str = ""
) -> str:
    """What the one that asks waits for, beside others that are stored; empty for nothing."""

    async def look() -> str:
        clock = VirtualClock()
        cluster, history = Cluster(clock), History(staleness=0.0)
        feed = Feed(cluster.api, clock, CLEAN.delivery)
        feed.watch(Simulation.watched())
        client = FaultyClient(cluster.api, clock, history)
        caches = Caches(client, clock, namespaces=(NAMESPACE,))
        turns = Turns(client, caches, clock, limits)
        if model:
            cluster.create(kinds.INFERENCE_MODEL, carrier_object(Carrier.MODEL, {STABLE: 100}))
        for one in (asks, *others):
            cluster.create(kinds.ROLLOUT, one)
            if "status" in one:
                cluster.write_status(kinds.ROLLOUT, one["metadata"]["name"], one["status"])
        feed.connect(caches, lag=0, catch_up=0.0)
        ends = cluster.get(kinds.ROLLOUT, doomed) if doomed else None
        caches.doomed |= {ends["metadata"]["uid"]} if ends is not None else set()
        raw = cluster.get(kinds.ROLLOUT, asks["metadata"]["name"])
        assert raw is not None
        name = asks["spec"]["target"].get("pool", {}).get("name")
        target = (
            Identity(kind=POOL_KIND, group=POOL_GROUP, name=name)
            if name
            else Identity(kind="Adapter", group="", name=ADAPTER_OF[CANARY])
        )
        view = turns.view(parse_rollout(raw), raw, target)
        return view.where if view is not None else ""

    with virtual_time() as loop:
        return loop.run_until_complete(look())


POOL = {LimitScope.POOL: 1}


def test_two_between_the_same_pools_are_one_at_a_time():
    assert waits(POOL, rollout_object(), begun(rollout_object(name="other"))) == f"on pool default/{CANARY}"


def test_an_adapter_is_on_the_pool_that_its_rollout_or_its_model_object_names():
    pool = f"on pool default/{STABLE}"
    assert waits(POOL, of_adapter("mymodel", pool=True), begun(rollout_object(name="other"))) == pool
    assert (
        waits(POOL, of_adapter("mymodel", pool=False), begun(rollout_object(name="other")), model=True)
        == pool
    )


def test_one_that_is_being_deleted_holds_no_place():
    other = begun(rollout_object(name="other"))
    other["metadata"]["finalizers"] = ["example.com/stays"]
    limits = {LimitScope.CONTROLLER: 1}
    assert waits(limits, rollout_object(), other) == "under this controller"

    other["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    cached = Caches(None, VirtualClock())  # type: ignore[arg-type]
    cached.rollouts.apply({**other, "metadata": {**other["metadata"], "uid": "u", "resourceVersion": "1"}})
    assert cached.rollouts.by_index("turn", "begun") == []


@pytest.mark.parametrize("started", [True, False])
def test_one_whose_namespace_ends_holds_no_place_and_stands_in_no_line(started):
    other = begun(rollout_object(name="other"))
    if not started:
        del other["status"]["startedAt"]
        other["status"] |= {"waitingFor": "Turn", "queuedAt": "2030-01-01T00:00:00Z"}
    limits = {LimitScope.CONTROLLER: 1}
    assert waits(limits, rollout_object(), other) == "under this controller"
    assert waits(limits, rollout_object(), other, doomed="other") == ""


def test_the_line_is_read_anew_when_a_rollout_or_a_traffic_object_changes():
    caches = Caches(None, VirtualClock())  # type: ignore[arg-type]

    def apply(store: Store, obj: Object, version: str) -> Object:
        meta = {
            **obj["metadata"],
            "namespace": NAMESPACE,
            "uid": obj["metadata"]["name"],
            "resourceVersion": version,
        }
        store.apply({**obj, "metadata": meta})
        return {**obj, "metadata": meta}

    async def look() -> list[bool]:
        turns = Turns(None, caches, VirtualClock(), POOL)  # type: ignore[arg-type]
        settled = begun(rollout_object())
        settled["status"] = {"phase": "Healthy", "stable": settled["status"]["stable"]}
        mine = apply(caches.rollouts, settled, "1")
        target = Identity(kind=POOL_KIND, group=POOL_GROUP, name=CANARY)

        def waits() -> bool:
            return turns.view(parse_rollout(mine), mine, target) is not None

        found = [waits()]
        other = of_adapter("other", pool=False)
        apply(caches.rollouts, begun(other, {"kind": "Adapter", "group": ""}), "2")
        found.append(waits())
        model = carrier_object(Carrier.MODEL, {STABLE: 100})
        apply(caches.traffic[kinds.INFERENCE_MODEL], model, "3")
        found.append(waits())
        apply(caches.rollouts, {**other, "status": {}}, "4")
        return [*found, waits()]

    with virtual_time() as loop:
        assert loop.run_until_complete(look()) == [False, False, True, False]


def test_without_limits_nobody_waits():
    assert waits({}, rollout_object(), begun(rollout_object(name="other"))) == ""
