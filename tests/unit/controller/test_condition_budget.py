"""Conditions are looked at outside the controller: nothing waits for them, and what costs too much is refused."""

from __future__ import annotations

import asyncio
import time

import pytest

from rollouts.analysis.conditions import ConditionError
from rollouts.analysis.types import Labelled
from rollouts.controller.conditions import UNCHECKED, InlineConditions, SandboxedConditions
from rollouts.runtime.objects import ObjectKey

KEY = ObjectKey("a", "mymodel")
SERIES = tuple(Labelled(value=1.0, labels=(("pod", f"p{n}"),)) for n in range(100))
QUADRATIC = "result.all(a, result.all(b, a.value == b.value || true))"
"""Within every static limit, and 10,000 evaluations over 100 series."""


@pytest.fixture
async def conditions():
    made = SandboxedConditions()
    yield made
    await made.close()


async def test_a_condition_is_unchecked_first_and_its_object_is_named_when_it_is_known(conditions):
    named: asyncio.Queue[ObjectKey] = asyncio.Queue()
    conditions.on_change = named.put_nowait
    texts = ["result < 1.0 || false", "result <", "other < 1.0"]

    before = [conditions.problem(KEY, text) for text in texts]
    async with asyncio.timeout(30):
        told = await named.get()
    after = [conditions.problem(KEY, text) for text in texts]

    assert before == [UNCHECKED] * 3
    assert told == KEY
    assert after == [InlineConditions().problem(KEY, text) for text in texts]
    assert named.empty()


@pytest.mark.parametrize("value", [1.5, SERIES, (Labelled(value=0.25, labels=()),)])
@pytest.mark.parametrize(
    "text",
    [
        "result < 2.0",
        "result < 2.0 || false",
        "result.all(r, r.value <= 1.0)",
        'result.exists(r, r.labels.pod == "p3")',
        "result",
    ],
)
async def test_the_process_says_what_evaluating_here_says(conditions, text, value):
    async def said(by: InlineConditions | SandboxedConditions) -> bool | str:
        try:
            return await by.holds("a", text, value)
        except ConditionError as error:
            return str(error)

    assert await said(conditions) == await said(InlineConditions())


@pytest.mark.timed
@pytest.mark.slow
async def test_an_expensive_condition_is_ended_remembered_and_holds_up_nobody(conditions):
    await conditions.holds("b", "result < 2.0 || false", 1.0)
    expensive = asyncio.create_task(conditions.holds("a", QUADRATIC, SERIES))
    begun = time.monotonic()
    await asyncio.sleep(0)
    assert await conditions.holds("b", "result < 2.0 || false", 1.0)
    waited = time.monotonic() - begun
    with pytest.raises(ConditionError, match="CPU"):
        await expensive

    begun = time.monotonic()
    with pytest.raises(ConditionError, match="CPU"):
        await conditions.holds("a", QUADRATIC, SERIES)

    assert waited < 2.0
    assert time.monotonic() - begun < 0.01
    assert "CPU" in str(conditions.problem(KEY, QUADRATIC))


@pytest.mark.timed
@pytest.mark.slow
async def test_the_event_loop_is_free_while_conditions_are_checked(conditions):
    done = asyncio.Event()
    conditions.on_change = lambda _: done.set()
    worst, begun = 0.0, time.monotonic()
    for n in range(25):
        conditions.problem(KEY, f"result < {n}.0 " + "|| result < 1.0 " * 50)
    spent = time.monotonic() - begun
    while not done.is_set():
        begun = time.monotonic()
        await asyncio.sleep(0)
        worst = max(worst, time.monotonic() - begun)

    assert spent < 0.2
    assert worst < 0.3


async def test_a_plain_comparison_is_known_at_once_and_needs_no_process(conditions):
    assert conditions.problem(KEY, "result < 0.05") is None
    assert await conditions.holds("a", "result < 0.05", 0.01)
    assert not await conditions.holds("a", "result < 0.05", 0.5)
    assert conditions._sandbox.started == 0
