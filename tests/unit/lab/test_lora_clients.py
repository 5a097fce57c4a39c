"""What clients saw during a LoRA rollout is counted right."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from rollouts.lab.loraclients import SessionlessAnswer, SteadyClient, count_sessions, exact_share
from rollouts.lab.traffic import Result
from rollouts.lab.vllm.pod import SimulatedPod
from tests.kit.polling import eventually

StartPod = Callable[..., Awaitable[SimulatedPod]]


def result(session: str, sent: float, model: str, seconds: float = 0.1) -> Result:
    return Result(
        sent_at=sent, seconds=seconds, first_byte_seconds=0.0, status=200, session=session, model=model
    )


@pytest.mark.parametrize(
    ("sentence", "results", "canary", "returned"),
    [
        ("a session that moves on", [result("a", 1, "v1"), result("a", 2, "v2")], 1, 0),
        ("a session that goes back", [result("a", 1, "v2"), result("a", 2, "v1")], 0, 1),
        (
            "back and forth is back",
            [result("a", 1, "v2"), result("a", 2, "v1"), result("a", 3, "v2")],
            1,
            1,
        ),
        ("two sessions are no order", [result("a", 1, "v2"), result("b", 2, "v1")], 1, 0),
        (
            "requests that overlap are no order",
            [result("a", 1, "v2", seconds=2), result("a", 2, "v1")],
            0,
            0,
        ),
        ("results in the order of their ends", [result("a", 2, "v2"), result("a", 1, "v1")], 1, 0),
        ("before the time that counts", [result("a", 0, "v2"), result("a", 2, "v1")], 0, 0),
        ("errors name no model", [result("a", 1, "v2"), result("a", 2, "")], 1, 0),
        ("requests without a session", [result("", 1, "v2"), result("", 2, "v1")], 0, 0),
    ],
)
def test_a_session_that_met_the_canary_may_not_meet_stable_again(
    sentence: str, results: list[Result], canary: int, returned: int
) -> None:
    seen = count_sessions(results, 0.5, canary="v2")

    assert (seen.canary, seen.returned) == (canary, returned), sentence


def test_only_the_stretch_is_held_against_the_weight() -> None:
    answers = [SessionlessAnswer(at, "v2" if at % 10 == 0 else "v1") for at in range(100)]
    count = exact_share(answers, 0, 50, weight=0.1, stable="v1")
    error = exact_share([*answers[:10], SessionlessAnswer(10, "")], 0, 50, weight=0.1, stable="v1")

    assert (count.canary, count.total, count.off) == (5, 50, 0.0)
    assert (error.canary, error.total) == (2, 11)


async def test_one_request_after_the_other_is_sent_until_the_end(start_pod: StartPod) -> None:
    pod = await start_pod(adapters={"a": "/a"})
    assert pod.server is not None
    async with SteadyClient(pod.url, "a") as client:
        await eventually(lambda: len(client.answers) > 5)
        assert pod.server.engine.running_requests <= 1
        pod.crash()
        await eventually(lambda: client.answers[-1].model == "")
    count = len(client.answers)
    await asyncio.sleep(0)

    assert {answer.model for answer in client.answers} == {"a", ""}
    assert [answer.at for answer in client.answers] == sorted(answer.at for answer in client.answers)
    assert len(client.answers) == count
