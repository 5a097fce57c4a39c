"""Deletion, prune, cascade and reinstalling with Kubernetes' own controllers, requests counted at the client.

No request fails that had a place to go: each scenario ends with ``failed == 0``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rollouts.controller.app import Controller
from rollouts.controller.settings import Settings
from rollouts.kube.client import Propagation
from rollouts.kube.http import HttpKubeClient
from rollouts.lab.gateway.envoy import EnvoyNotInstalledError, find_envoy
from rollouts.objects import kinds
from rollouts.runtime.clock import SystemClock
from tests.kit.polling import eventually
from tests.kit.stage import DEPLOYMENT, IN_A_GATE, IN_A_JOB, NAME, Stage, staged

pytestmark = [pytest.mark.cluster, pytest.mark.gateway, pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture
async def stage(whole: HttpKubeClient, living: str, tmp_path: Path) -> AsyncIterator[Stage]:
    try:
        find_envoy()
    except EnvoyNotInstalledError as error:
        pytest.skip(str(error))
    async with staged(whole, living, tmp_path / "gateway") as made:
        yield made


@asynccontextmanager
async def controller(stage: Stage) -> AsyncIterator[Controller]:
    settings = Settings(
        namespaces=(stage.namespace,),
        lease_namespace=stage.namespace,
        health_address="127.0.0.1:0",
        metrics_address="127.0.0.1:0",
        leader_elect=False,
    )
    client = stage.kube.with_field_manager("inference-rollouts")
    running = Controller(client, settings, SystemClock())
    task = asyncio.create_task(running.run())
    try:
        yield running
    finally:
        running.stop()
        await task


@pytest.mark.parametrize("propagation", list(Propagation))
async def test_a_rollout_in_a_gate_is_deleted_as_the_propagation_says(stage: Stage, propagation):
    async with controller(stage):
        await stage.install("v1", steps=IN_A_GATE)
        async with stage.traffic() as seen:
            await stage.retarget("v2")
            await stage.step(1)
            runs = await eventually(lambda: stage.names(kinds.ANALYSIS_RUN))
            await stage.delete(kinds.ROLLOUT, NAME, propagation)
            weights = await stage.weights()
            window = await seen()
            if propagation is not Propagation.ORPHAN:
                await stage.until(lambda: no(stage, kinds.ANALYSIS_RUN))
    assert len(runs) == 1
    assert weights == {"v1": 100, "v2": 0}
    assert (window.failed, {result.status for result in window.results}) == (0, {200})
    if propagation is Propagation.ORPHAN:
        run = await stage.kube.get(kinds.ANALYSIS_RUN, stage.namespace, runs.pop())
        assert "ownerReferences" not in run["metadata"]
        assert run["status"]["completedAt"], run["status"]  # nobody is left who would end it


async def no(stage: Stage, resource) -> bool:
    return not await stage.names(resource)


@pytest.mark.parametrize("propagation", [Propagation.FOREGROUND, Propagation.ORPHAN])
async def test_a_rollout_with_a_job_is_deleted_and_comes_back(stage: Stage, propagation):
    """The Job's Pod runs: foreground deletion waits for nothing of ours, orphans stay, the namesake takes over."""
    async with controller(stage):
        await stage.install("v1", steps=IN_A_JOB)
        async with stage.traffic() as seen:
            await stage.retarget("v2")
            await stage.step(1)
            jobs = await eventually(lambda: stage.names(kinds.JOB))
            await stage.delete(kinds.ROLLOUT, NAME, propagation)
            if propagation is not Propagation.ORPHAN:
                await stage.until(lambda: no(stage, kinds.JOB))
            await stage.install("v1", steps=IN_A_JOB)
            weights = await stage.weights()
            await stage.retarget("v2")
            await stage.step(1)
            again = await eventually(lambda: other_names(stage, jobs))
            window = await seen()

    assert weights["v1"] == 100
    assert again.isdisjoint(jobs)
    assert (window.failed, {result.status for result in window.results}) == (0, {200})
    if propagation is Propagation.ORPHAN:
        assert await stage.names(kinds.JOB) == jobs | again


async def other_names(stage: Stage, known: set[str]) -> set[str]:
    return await stage.names(kinds.JOB) - known


async def test_a_commit_that_drops_rollout_and_canary_is_pruned_by_waves(stage: Stage):
    """As Argo CD prunes: foreground, the last wave first, each wave waited for until it is gone."""
    async with controller(stage):
        await stage.install("v1")
        async with stage.traffic() as seen:
            await stage.retarget("v2")
            await stage.step(1)
            for resource, name in (
                (kinds.ROLLOUT, NAME),
                (kinds.POOL_V1, "v2"),
                (DEPLOYMENT, "v2"),
                (kinds.SERVICE, "v2-picker"),
            ):
                await stage.delete(resource, name, Propagation.FOREGROUND)
            window = await seen()

    assert (window.failed, {result.status for result in window.results}) == (0, {200})
    assert await stage.weights() == {"v1": 100, "v2": 0}


async def test_a_commit_that_drops_the_old_version_after_promotion_is_pruned(stage: Stage):
    """Rollout stays; the pool that was stable goes: nothing weighs it any more."""
    async with controller(stage):
        await stage.install("v1", steps=({"setWeight": 20},))
        async with stage.traffic() as seen:
            await stage.retarget("v2")
            await stage.until(lambda: stable_is(stage, "v2"))
            for resource, name in ((kinds.POOL_V1, "v1"), (DEPLOYMENT, "v1"), (kinds.SERVICE, "v1-picker")):
                await stage.delete(resource, name, Propagation.FOREGROUND)
            window = await seen()

    assert (window.failed, {result.status for result in window.results}) == (0, {200})


async def stable_is(stage: Stage, pool: str) -> bool:
    found = await stage.status()
    return found.get("phase") == "Healthy" and pool in str(found["stable"])


async def test_a_rollout_that_is_deleted_while_no_controller_runs_waits_for_one(stage: Stage):
    """Garbage collection takes its runs meanwhile; traffic stays as it is, and is given back by the next controller."""
    async with controller(stage):
        await stage.install("v1")
    async with stage.traffic() as seen:
        async with controller(stage):
            await stage.retarget("v2")
            await stage.step(1)
            await eventually(lambda: stage.names(kinds.ANALYSIS_RUN))
        await stage.delete(kinds.ROLLOUT, NAME, Propagation.FOREGROUND, wait=False)
        await stage.until(lambda: no(stage, kinds.ANALYSIS_RUN))
        between = await stage.weights()
        async with controller(stage):
            await stage.until(lambda: no(stage, kinds.ROLLOUT))
        window = await seen()

    assert between == {"v1": 80, "v2": 20}
    assert await stage.weights() == {"v1": 100, "v2": 0}
    assert (window.failed, {result.status for result in window.results}) == (0, {200})


async def test_an_orphaned_run_ends_even_before_the_first_weight(stage: Stage):
    """There is no finalizer yet, so nobody ends the run before the garbage collector takes its owner off."""
    async with controller(stage):
        await stage.install("v1", steps=({"analysis": IN_A_GATE[1]["analysis"]}, {"setWeight": 20}))
        await stage.retarget("v2")
        runs = await eventually(lambda: stage.names(kinds.ANALYSIS_RUN))
        await stage.delete(kinds.ROLLOUT, NAME, Propagation.ORPHAN)
        await stage.until(lambda: all_ended(stage))
        found = (await stage.kube.list_page(kinds.ANALYSIS_RUN, stage.namespace)).items

    assert {one["metadata"]["name"] for one in found} == runs
    assert [one["metadata"].get("ownerReferences") for one in found] == [None]


async def all_ended(stage: Stage) -> bool:
    found = (await stage.kube.list_page(kinds.ANALYSIS_RUN, stage.namespace)).items
    return all((one.get("status") or {}).get("completedAt") for one in found)
