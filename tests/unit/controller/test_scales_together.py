"""Several scales of one plan: three seconds for all of them, and none keeps the others from their turn for good."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from rollouts.api.parsing import parse_rollout
from rollouts.controller.gathered import Gathered
from rollouts.controller.scaling import WorkloadScaler
from rollouts.controller.workloads import ScaleRefusals, find_workload
from rollouts.engine.actions import ScaleWorkload
from rollouts.engine.observation import Observation
from rollouts.engine.revision import revision_of
from rollouts.engine.rollout_status import RolloutStatus, ScaleDown
from rollouts.engine.versions import Identity
from rollouts.kube.client import Resource
from rollouts.kube.errors import ApiUnavailable, Conflict
from rollouts.objects import kinds
from rollouts.objects.workloads import Workload
from tests.kit.clock import virtual_time
from tests.kit.faults.deployments import DEPLOYMENT, deployment_object
from tests.unit.controller.test_workloads import GROUP, V1, V2, Cluster

NAMES = tuple(f"v{number}" for number in range(1, 6))


async def _fresh(gathered: Gathered) -> None:
    """Nothing has moved on."""


class Workloads:
    """Deployments of eight replicas behind an API server; those in ``silent`` are never scaled, nor refused."""

    def __init__(self) -> None:
        self.cluster, self.refusals = Cluster(), ScaleRefusals()
        self.client, self.caches = self.cluster.client, self.cluster.caches
        self.scaler = WorkloadScaler(self.client, self.caches, self.refusals, rollout=_fresh, traffic=_fresh)
        for name in NAMES:
            self.cluster.pool(name, app="custom-serving", release=name)
            made = self.client.api.create(DEPLOYMENT, "default", deployment_object(name, 8))
            self.caches.workloads[DEPLOYMENT].apply(made)
        self.silent: set[str] = set()
        self.busy: dict[str, float] = {}
        """Those that say after so many seconds that they cannot now."""
        self.moved: set[str] = set()
        """Those of which somebody wrote something just now."""
        self.told: list[list[str]] = []
        self.real = self.client.patch
        self.client.patch = self.patch  # type: ignore[method-assign]

    async def patch(self, resource: Resource, namespace: str, name: str, *rest: Any, **how: Any) -> Any:
        if name in self.silent:
            await asyncio.Event().wait()
        if name in self.busy:
            await asyncio.sleep(self.busy[name])
            raise ApiUnavailable("etcd is busy", status=503)
        if name in self.moved:
            raise Conflict("somebody wrote it", status=409)
        return await self.real(resource, namespace, name, *rest, **how)

    def replicas(self) -> dict[str, int]:
        found = (self.client.api.get(DEPLOYMENT, "default", name) for name in NAMES)
        return {one["metadata"]["name"]: one["spec"]["replicas"] for one in found}

    def owed(self) -> list[ScaleWorkload]:
        """To nothing, whatever is not there yet."""
        found = []
        for name in NAMES:
            pool = self.caches.pool(GROUP, "default", name)
            assert pool is not None
            workload = find_workload(self.caches, pool)
            assert isinstance(workload, Workload)
            if workload.replicas:
                identity = Identity(kind="InferencePool", group=GROUP, name=name)
                version = workload.resource_version
                found.append(ScaleWorkload(identity=identity, replicas=0, resource_version=version))
        return found

    async def plan(self, *actions: ScaleWorkload, lost: tuple[ScaleDown, ...] = ()) -> None:
        raw = {"metadata": {"name": "demo", "namespace": "default", "uid": "u"}}
        status = RolloutStatus(stable=revision_of(V1, ""), scale_downs=lost)
        observation = Observation(namespace="default", name="demo", generation=1, status=status, spec=None)
        gathered = Gathered(
            observation=observation,
            parsed=replace(parse_rollout(raw), status=status),
            by_picker=None,
            rollout=raw,
            planned_version="1",
            traffic_object=None,
            carrier=None,
            ways={},
        )
        self.told.append([])
        async for event in self.scaler.scale(gathered, actions or self.owed(), tell=True):
            self.told[-1].append(event.message)


def run(prepare: Callable[[Workloads], None], plans: int) -> tuple[Workloads, float]:
    """After so many plans, and how long all of them took."""
    with virtual_time() as loop:
        workloads = Workloads()
        prepare(workloads)
        began = loop.time()
        for _ in range(plans):
            loop.run_until_complete(workloads.plan())
        return workloads, loop.time() - began


def test_scales_that_are_never_answered_cost_a_plan_three_seconds_in_all() -> None:
    def silent(workloads: Workloads) -> None:
        workloads.silent = set(NAMES)

    workloads, seconds = run(silent, 1)

    assert seconds == pytest.approx(3.0, abs=0.1)
    assert workloads.told == [["Deployment v1 cannot be scaled: no answer within 3 s"]]


def test_one_that_is_never_answered_keeps_the_others_waiting_once() -> None:
    def silent(workloads: Workloads) -> None:
        workloads.silent = {"v1"}

    workloads, seconds = run(silent, 3)

    assert workloads.replicas() == {"v1": 8, "v2": 0, "v3": 0, "v4": 0, "v5": 0}
    assert seconds == pytest.approx(9.0, abs=0.1)
    assert [len(events) for events in workloads.told] == [1, 4, 0]  # its own words are told once


def test_what_the_time_was_not_enough_for_is_neither_refused_nor_forgotten() -> None:
    def slow(workloads: Workloads) -> None:
        workloads.busy = {"v1": 2.0, "v2": 2.0}

    workloads, _ = run(slow, 2)

    assert workloads.told[0] == ["Deployment v1 cannot be scaled: etcd is busy"]
    assert workloads.replicas() == {"v1": 8, "v2": 8, "v3": 0, "v4": 0, "v5": 0}


def test_what_was_scaled_before_a_conflict_is_told() -> None:
    with virtual_time() as loop:
        workloads = Workloads()
        workloads.moved = {"v2"}
        with pytest.raises(Conflict):
            loop.run_until_complete(workloads.plan())

    assert workloads.told == [["Deployment v1: 8 replicas to 0"]]


@pytest.mark.parametrize(("most", "told"), [(20, []), (21, ["Deployment v1: 8 replicas to 9"])])
def test_pods_of_a_pool_that_is_gone_are_counted_at_the_api_server(most: int, told: list[str]) -> None:
    """Five pods that the cache has not heard of; one of them is another version's by now."""
    gone = Identity(kind="InferencePool", group=GROUP, name="gone")
    with virtual_time() as loop:
        workloads = Workloads()
        for number in range(5):
            labels = {"was": "gone"} | ({} if number else {"app": "custom-serving", "release": "v2"})
            pod = {
                "metadata": {"name": f"p{number}", "labels": labels},
                "spec": {"containers": [{"name": "c"}]},
            }
            workloads.client.api.create(kinds.POD, "default", {"apiVersion": "v1", "kind": "Pod", **pod})
        rise = replace(workloads.owed()[0], replicas=9, beside=(gone, V2), at_most=most)
        lost = (ScaleDown(identity=gone, selector="was=gone"),)
        with nullcontext() if told else pytest.raises(Conflict, match="21 pods would be more than 20"):
            loop.run_until_complete(workloads.plan(rise, lost=lost))

    assert workloads.told == [told]
