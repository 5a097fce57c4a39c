"""Deliveries in the background: retries, rates, turns, and receivers that are down, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from rollouts.controller.metrics import ControllerMetrics
from rollouts.controller.notification_settings import NotificationSettings, Receiver, ReceiverType
from rollouts.controller.notifier import Notifier
from rollouts.controller.posting import NotTaken, Undelivered
from rollouts.engine.rollout_status import Notice, RolloutStatus
from rollouts.runtime.objects import ObjectKey
from tests.kit.clock import EPOCH, VirtualClock, virtual_time

KEY = ObjectKey("team-a", "mymodel")
FAST = Receiver(name="fast", type=ReceiverType.WEBHOOK, url="http://x", per_minute=6000)


class World:
    """A notifier whose receivers answer as ``answers`` says; what arrived, and when."""

    def __init__(self, *receivers: Receiver) -> None:
        self.clock = VirtualClock()
        self.metrics = ControllerMetrics()
        self.got: list[tuple[float, str, str, str]] = []
        self.answers: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {}
        settings = NotificationSettings(receivers={one.name: one for one in receivers or (FAST,)})
        self.notifier = Notifier(settings, self.clock, self.metrics, self.deliver)
        self.changed: list[ObjectKey] = []
        self.notifier.on_change = self.changed.append

    async def deliver(self, receiver: Receiver, key: ObjectKey, _: str, notice: Notice, __: datetime) -> None:
        self.got.append((self.clock.monotonic(), receiver.name, key.namespace, notice.id))
        if receiver.name in self.answers:
            await self.answers[receiver.name]()

    def notice(self, name: str = "n", receiver: str = "fast", age: float = 0.0) -> Notice:
        at = EPOCH - timedelta(seconds=age)
        return Notice(id=name, trigger="on-aborted", receiver=receiver, phase="Aborted", at=at)

    def owes(self, *notices: Notice, key: ObjectKey = KEY) -> None:
        self.notifier.take(key, "u", notices)

    def left(self, *notices: Notice) -> tuple[str, ...]:
        """What the next reconcile keeps of these in the status."""
        before = RolloutStatus(notices=notices)
        asked = self.notifier.asked({"metadata": {"namespace": "team-a"}})
        after = self.notifier.settle(KEY, "u", before, before, asked, EPOCH)
        return tuple(notice.id for notice in after.notices)

    def counted(self, receiver: str, outcome: str) -> float | None:
        return self.metrics.registry.get_sample_value(
            "rollouts_notifications_total", {"receiver": receiver, "outcome": outcome}
        )

    def moments(self, receiver: str) -> list[float]:
        return [round(at) for at, name, _, _ in self.got if name == receiver]


def run(world: World, seconds: float, act: Callable[[], None]) -> None:
    async def whole() -> None:
        act()
        task = asyncio.ensure_future(world.notifier.run())
        await world.clock.sleep(seconds)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    with virtual_time() as loop:
        loop.run_until_complete(whole())


def fails(error: Exception) -> Callable[[], Coroutine[Any, Any, None]]:
    async def answer() -> None:
        raise error

    return answer


async def hangs() -> None:
    await asyncio.Event().wait()


def test_what_is_delivered_leaves_the_status_and_is_told_once():
    world = World()
    notice = world.notice()
    run(world, 30, lambda: world.owes(notice))
    assert [name for _, _, _, name in world.got] == ["n"]
    assert world.changed == [KEY]
    assert world.left(notice) == ()
    assert world.counted("fast", "delivered") == 1
    world.owes()  # the status without it is stored
    assert world.left(notice) == ("n",)  # nothing is remembered any more


def test_taking_the_same_again_and_again_delivers_it_once():
    world = World()
    notice = world.notice()

    def act() -> None:
        for _ in range(5):
            world.owes(notice)

    run(world, 30, act)
    assert len(world.got) == 1


@pytest.mark.parametrize("answer", [fails(Undelivered("HTTP 500")), fails(ZeroDivisionError()), hangs])
def test_a_receiver_that_does_not_take_it_is_asked_again_later_and_later(answer):
    world = World(replace(FAST, timeout=1.0))
    world.answers["fast"] = answer
    notice = world.notice()
    run(world, 40, lambda: world.owes(notice))
    gaps = [
        later - earlier
        for earlier, later in zip(world.moments("fast"), world.moments("fast")[1:], strict=False)
    ]
    assert [round(gap / 5) for gap in gaps] == [1, 2, 4]
    assert world.left(notice) == ("n",)


def test_what_a_server_asks_for_is_heeded():
    world = World()
    world.answers["fast"] = fails(Undelivered("HTTP 429", after=120.0))
    run(world, 130, lambda: world.owes(world.notice()))
    assert world.moments("fast") == [0, 120]


def test_what_will_never_be_taken_is_given_up_at_once_and_counted():
    world = World()
    world.answers["fast"] = fails(NotTaken("HTTP 400"))
    notice = world.notice()
    run(world, 100, lambda: world.owes(notice))
    assert len(world.got) == 1
    assert world.left(notice) == ()
    assert world.counted("fast", "refused") == 1


def test_what_nobody_took_for_a_day_is_given_up():
    world = World()
    world.answers["fast"] = fails(Undelivered("HTTP 500"))
    notice = world.notice(age=86_300)
    run(world, 1300, lambda: world.owes(notice))
    assert world.left(notice) == ()
    assert world.counted("fast", "given_up") == 1


def test_a_receiver_that_hangs_holds_up_no_other():
    world = World(FAST, replace(FAST, name="hung", timeout=10.0))
    world.answers["hung"] = hangs
    run(world, 5, lambda: world.owes(world.notice("a", "hung"), world.notice("b", "fast")))
    assert world.moments("fast") == [0]


def test_a_rate_is_kept():
    world = World(replace(FAST, per_minute=6))
    notices = [world.notice(f"n{number}") for number in range(4)]
    run(world, 35, lambda: world.owes(*notices))
    assert world.moments("fast") == [0, 10, 20, 30]


def test_a_namespace_that_tells_much_waits_behind_itself():
    world = World(replace(FAST, per_minute=60))
    many = [world.notice(f"n{number}") for number in range(16)]

    def act() -> None:
        world.owes(*many)
        world.owes(world.notice("other"), key=ObjectKey("team-b", "x"))

    run(world, 5, act)
    assert "other" in [name for _, _, _, name in world.got[:2]]


def test_a_notice_of_a_receiver_that_is_gone_is_dropped():
    world = World()
    notice = world.notice(receiver="left")
    run(world, 3, lambda: world.owes(notice))
    assert world.got == []
    assert world.left(notice) == ()
    assert world.changed == [KEY]


def test_a_rollout_that_is_gone_tells_nobody_any_more():
    world = World()
    world.answers["fast"] = fails(Undelivered("HTTP 500"))

    def act() -> None:
        world.owes(world.notice())
        world.notifier.forget(KEY)

    run(world, 60, act)
    assert world.got == []
