"""Writes of the scale subresource: what guards them, and what a refusal does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rollouts.engine.reasons import Reason
from rollouts.kube.errors import ApiTimeout, ApiUnavailable, Forbidden, Invalid, NotFound, TooManyRequests
from rollouts.lab.memoryapi.store import MemoryApi
from rollouts.objects import kinds
from tests.kit.clock import virtual_time
from tests.kit.faults.capacity_scenarios import CAPACITY_SCENARIOS
from tests.kit.faults.deployments import DEPLOYMENT
from tests.kit.faults.process import Assembler
from tests.kit.faults.simulation import CLEAN, Run, Simulation
from tests.kit.faults.transport import FaultyClient

NAME = "capacity: reverted in the middle"
WORDS = 'deployments.apps "deepseek-r1" is forbidden: User "r" cannot patch resource "deployments/scale"'


def run(prepare: Any) -> Run:
    with virtual_time() as loop:

        async def whole() -> Run:
            simulation = Simulation(CAPACITY_SCENARIOS[NAME], CLEAN, Assembler())
            prepare(simulation)
            return await simulation.run()

        return loop.run_until_complete(whole())


def scales_refused(monkeypatch: pytest.MonkeyPatch, error: Exception, times: int) -> None:
    real, left = MemoryApi.patch, [times]

    def patch(self: MemoryApi, resource: Any, *place: Any, **how: Any) -> Any:
        if how.get("subresource") == "scale" and left[0] > 0:
            left[0] -= 1
            raise error
        return real(self, resource, *place, **how)

    monkeypatch.setattr(MemoryApi, "patch", patch)


def statuses(run: Run) -> list[dict[str, Any]]:
    return [record.after.get("status") or {} for record in run.history.of(kinds.ROLLOUT)]


def told(run: Run, reason: str) -> list[str]:
    events = (record.after for record in run.history.of(kinds.EVENT))
    return [event["message"] for event in events if event.get("reason") == reason]


@pytest.mark.parametrize(
    "error", [Forbidden(WORDS, status=403), Invalid(WORDS, status=422)], ids=["403", "422"]
)
def test_a_refusal_is_told_once_and_tried_until_it_is_over(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    scales_refused(monkeypatch, error, times=6)
    done = run(lambda simulation: None)
    statuses = [record.after.get("status") or {} for record in done.history.of(kinds.ROLLOUT)]

    assert done.converged
    assert told(done, Reason.SCALE_REFUSED) == [f"Deployment deepseek-r1 cannot be scaled: {WORDS}"]
    assert any(status.get("reason") == "ScaleRefused" and WORDS in status["message"] for status in statuses)
    assert done.end["deployment deepseek-r1"] == 0


def test_a_workload_that_is_gone_is_no_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    scales_refused(monkeypatch, NotFound("gone", status=404), times=2)
    done = run(lambda simulation: None)

    assert done.converged
    assert [text for text in done.history.problems if text.startswith("bug")] == []


def _another(pod: dict[str, Any], number: int) -> dict[str, Any]:
    meta = pod["metadata"]
    return {**pod, "metadata": {**meta, "name": f"{meta['name']}-{number}", "uid": f"{meta['uid']}-{number}"}}


def test_pods_that_the_cache_has_not_heard_of_take_room_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's pods of stable, five seconds before the watch tells of them."""
    real, counted = MemoryApi.list_page, list[str]()

    def list_page(self: MemoryApi, resource: Any, *place: Any, **how: Any) -> Any:
        page = real(self, resource, *place, **how)
        if resource == kinds.POD and "qwen" in how.get("label_selector", "") and len(counted) < 3:
            counted.append(how["label_selector"])
            others = [pod for pod in page.items for _ in range(8)]
            page.items.extend(_another(pod, number) for number, pod in enumerate(others))
        return page

    monkeypatch.setattr(MemoryApi, "list_page", list_page)
    done = run(lambda simulation: None)
    scaled = [record.seconds for record in done.history.ours(DEPLOYMENT)]

    assert len(counted) == 3
    assert done.converged
    assert scaled[0] > 0.5  # three times it was counted anew, with the worker's back-off in between


@pytest.mark.parametrize(
    "error",
    [ApiUnavailable("etcd is busy", status=503), TooManyRequests("slow down"), ApiTimeout("no answer")],
    ids=["503", "429", "timeout"],
)
def test_a_scale_that_fails_is_told_and_tried_and_holds_up_no_status(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    scales_refused(monkeypatch, error, times=6)
    done = run(lambda simulation: None)
    plans = [record.after.get("status") or {} for record in done.history.of(kinds.ROLLOUT)]

    assert done.converged
    assert told(done, Reason.SCALE_REFUSED) == [f"Deployment deepseek-r1 cannot be scaled: {error}"]
    assert any(status.get("reason") == "ScaleRefused" for status in plans)
    assert done.end["deployment deepseek-r1"] == 0


def test_a_loser_is_not_left_because_the_api_server_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than the drain's timeout."""
    real = MemoryApi.patch

    def patch(self: MemoryApi, resource: Any, *place: Any, **how: Any) -> Any:
        if how.get("subresource") == "scale" and place[2]["spec"]["replicas"] == 0 and busy:
            busy.pop()
            raise TooManyRequests("slow down")
        return real(self, resource, *place, **how)

    busy = [None] * 60
    monkeypatch.setattr(MemoryApi, "patch", patch)
    done = run(lambda simulation: None)

    waits = {one["message"] for status in statuses(done) for one in status.get("scaleDowns") or []}

    assert busy == []
    assert "Deployment deepseek-r1 is scaled to 0; not yet: slow down" in waits
    assert done.converged
    assert told(done, Reason.SCALE_DOWN_LEFT) == []
    assert done.end["deployment deepseek-r1"] == 0


def test_a_scale_that_is_never_answered_is_given_up_after_three_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, hanging = FaultyClient.patch, [None]

    async def patch(self: FaultyClient, resource: Any, *place: Any, **how: Any) -> Any:
        if how.get("subresource") == "scale" and hanging:
            hanging.pop()
            await asyncio.Event().wait()
        return await real(self, resource, *place, **how)

    monkeypatch.setattr(FaultyClient, "patch", patch)
    done = run(lambda simulation: None)

    assert done.converged
    assert told(done, Reason.SCALE_REFUSED) == [
        "Deployment deepseek-r1 cannot be scaled: no answer within 3 s"
    ]
    assert 3 <= done.history.ours(DEPLOYMENT)[0].seconds < 15
