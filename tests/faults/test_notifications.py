"""Notifications under crashes and beside receivers that hang: none is lost, no abort comes later."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest

from rollouts.controller.metrics import ControllerMetrics
from rollouts.controller.notification_settings import (
    SUBSCRIBE_PREFIX,
    NotificationSettings,
    Receiver,
    ReceiverType,
)
from rollouts.controller.notifier import Notifier
from rollouts.controller.posting import Undelivered
from rollouts.engine.rollout_status import Notice
from rollouts.runtime.objects import ObjectKey
from tests.kit.clock import virtual_time
from tests.kit.faults.endstate import is_carrier, weights_of
from tests.kit.faults.moves import phase
from tests.kit.faults.objects import GATE, base_objects, rollout_object
from tests.kit.faults.process import Assembler
from tests.kit.faults.simulation import CLEAN, FaultPlan, Move, Scenario, Simulation
from tests.kit.faults.source import Answer
from tests.kit.faults.transport import WriteFault

OPS = Receiver(name="ops", type=ReceiverType.WEBHOOK, url="http://x", per_minute=6000, timeout=10.0)
TRIGGERS = ("on-started", "on-aborted")
WANTED = set(TRIGGERS)


@dataclass
class Inbox:
    """The receiver, which outlives the controller's processes."""

    hangs: bool = False
    down_until: float = 0.0
    got: list[Notice] = field(default_factory=list)

    async def deliver(self, _: Receiver, __: ObjectKey, ___: str, notice: Notice, now: datetime) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if asyncio.get_running_loop().time() < self.down_until:
            raise Undelivered("HTTP 503")
        self.got.append(notice)


class Notifying(Assembler):
    """The controller with a notifier, whose task dies with its process."""

    def __init__(self, inbox: Inbox, *, configured: bool = True) -> None:
        super().__init__()
        self.inbox = inbox
        self.settings = NotificationSettings(receivers={"ops": OPS} if configured else {})
        self.task: asyncio.Future[None] | None = None

    def __call__(self, client: Any, clock: Any, caches: Any, source: Any) -> Any:
        metrics = ControllerMetrics()
        self.notifier = Notifier(self.settings, clock, metrics, self.inbox.deliver)
        self.task = asyncio.ensure_future(self.notifier.run())
        return self.assembled(client, clock, caches, source, metrics=metrics, notifier=self.notifier)


class Notified(Simulation):
    """A simulation whose crashes end the notifier, too."""

    def __init__(self, scenario: Scenario, plan: FaultPlan, assembler: Notifying) -> None:
        super().__init__(scenario, plan, assembler)
        self.notifying = assembler

    def _boot(self, lag: int, catch_up: float) -> None:
        super()._boot(lag, catch_up)
        process = self.process
        assert process is not None
        self.notifying.notifier.on_change = lambda key: process._add(("rollout", key))

    def crash(self) -> None:
        super().crash()
        assert self.notifying.task is not None
        self.notifying.task.cancel()


def scenario(*, subscribed: bool, settled: bool = True) -> Scenario:
    rollout = rollout_object([{"setWeight": 10}, {"analysis": GATE}])
    if subscribed:
        names = {f"{SUBSCRIBE_PREFIX}{trigger}.ops": "" for trigger in TRIGGERS}
        rollout["metadata"]["annotations"] = names

    def goal(sim: Simulation) -> bool:
        return sim.status.get("phase") == "Aborted" and not (settled and sim.status.get("notices"))

    return Scenario(
        name="notified",
        setup=lambda cluster: base_objects(cluster, rollout),
        moves=(Move(when=phase("Progressing"), act=lambda sim: sim.say(Answer.BAD)),),
        goal=goal,
    )


def simulate(
    inbox: Inbox, plan: FaultPlan = CLEAN, *, subscribed: bool = True, configured: bool = True
) -> Notified:
    made: list[Notified] = []

    async def whole() -> bool:
        case = scenario(subscribed=subscribed, settled=not inbox.hangs)
        made.append(Notified(case, plan, Notifying(inbox, configured=configured)))
        try:
            return (await made[0].run()).converged
        finally:
            task = made[0].notifying.task
            assert task is not None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    with virtual_time() as loop:
        assert loop.run_until_complete(whole()), (plan.name, made[0].status)
    assert made[0].history.problems == []
    return made[0]


def lost(plans: list[FaultPlan], make: Callable[[], Inbox] = Inbox) -> Iterator[str]:
    """Plans after which somebody was not told of something."""
    for plan in plans:
        inbox = make()
        simulate(inbox, plan)
        for name in sorted(WANTED - {notice.trigger for notice in inbox.got}):
            yield f"{plan.name}: {name}"


@functools.cache
def crashes() -> list[FaultPlan]:
    writes = simulate(Inbox()).client.writes
    assert writes > 8
    after = [(number, WriteFault.CRASH_AFTER) for number in range(writes)]
    before = [(number, WriteFault.CRASH_BEFORE) for number in range(0, writes, 3)]
    return [
        FaultPlan(name=f"{fault.value}, write {number}", writes={number: fault})
        for number, fault in (*after, *before)
    ]


def test_undisturbed_each_is_told_once_and_nothing_is_owed_any_more():
    inbox = Inbox()
    end = simulate(inbox)
    assert [notice.trigger for notice in inbox.got] == list(TRIGGERS)
    aborted = inbox.got[-1]
    assert aborted.reason == "GateFailed"
    assert aborted.message in end.status["message"]
    assert aborted.canary.startswith("mymodel-pool-v2")
    assert "notices" not in end.status


@pytest.mark.parametrize("part", range(4))
def test_a_crash_at_any_write_loses_no_notification(part):
    assert list(lost(crashes()[part::4])) == []


def test_a_receiver_that_is_down_for_a_while_is_told_across_a_crash():
    inboxes = [Inbox(down_until=60.0) for _ in range(2)]
    plan = FaultPlan(name="crash", writes={8: WriteFault.CRASH_AFTER})
    assert list(lost([CLEAN, plan], inboxes.pop)) == []


def traffic(sim: Simulation) -> list[tuple[float, object]]:
    """When which weights were written."""
    ours = [record for record in sim.history.records if record.ours and is_carrier(record)]
    assert ours
    return [(record.seconds, weights_of(record.after)) for record in ours]


def test_a_receiver_that_hangs_delays_no_write_of_traffic():
    calm, hung = simulate(Inbox(), subscribed=False), simulate(Inbox(hangs=True))
    assert traffic(hung) == traffic(calm)
    assert {notice["trigger"] for notice in hung.status["notices"]} == WANTED


def test_nothing_more_is_written_where_nobody_subscribes():
    plain = simulate(Inbox(), subscribed=False, configured=False)
    assert simulate(Inbox(), subscribed=False).client.writes == plain.client.writes
    assert simulate(Inbox(), configured=False).client.writes - plain.client.writes <= 2  # Events that say so
    extra = simulate(Inbox()).client.writes - plain.client.writes
    assert 0 < extra <= len(TRIGGERS)  # one at most for each that was delivered


def test_a_notifier_that_marks_before_it_delivers_is_caught(monkeypatch: pytest.MonkeyPatch):
    honest = Notifier.take

    def marks_at_once(self: Notifier, key: ObjectKey, uid: str, notices: Any) -> None:
        notices = tuple(notices)
        honest(self, key, uid, notices)
        if notices:
            self._done[key] = {notice.id for notice in notices}
            self.on_change(key)

    monkeypatch.setattr(Notifier, "take", marks_at_once)
    assert next(lost(crashes()), None) is not None
