"""Approvals under crashes, edits and receivers that hang: no weight rises past one that was not given."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest

from rollouts.controller import approvals
from rollouts.controller.approvals import Approver
from rollouts.controller.asking import ApprovalAnswer, Question
from rollouts.controller.metrics import ControllerMetrics
from rollouts.controller.notification_settings import NotificationSettings, Receiver, ReceiverType
from rollouts.controller.posting import Undelivered
from rollouts.engine import approving, planning, progressing
from rollouts.engine.attempt import ApprovalDecision
from rollouts.objects import kinds
from rollouts.runtime.objects import ObjectKey
from tests.kit.clock import virtual_time
from tests.kit.faults.endstate import is_carrier, weights_of
from tests.kit.faults.moves import at_step, command, edit_steps, healthy_on, phase
from tests.kit.faults.objects import CANARY, STABLE, base_objects, rollout_object
from tests.kit.faults.process import Assembler
from tests.kit.faults.simulation import CLEAN, Condition, FaultPlan, Move, Scenario, Simulation
from tests.kit.faults.transport import WriteFault

STEPS: list[dict[str, Any]] = [
    {"setWeight": 10},
    {"approve": {"webhook": "board"}},
    {"setWeight": 50},
    {"pause": {"approve": {"webhook": "board"}}},
]
BOARD = Receiver(name="board", type=ReceiverType.WEBHOOK, url="http://x", per_minute=6000, timeout=10.0)


@dataclass
class Board:
    """Who approves, across the controller's processes: after ``after`` seconds, with ``decision``."""

    decision: ApprovalDecision = ApprovalDecision.APPROVE
    after: float = 30.0
    hangs: bool = False
    fails: bool = False
    asked: dict[str, list[float]] = field(default_factory=dict)
    given: list[tuple[float, str]] = field(default_factory=list)
    """When which question was answered with ``approve``."""

    async def put(
        self, _: Receiver, __: ObjectKey, ___: str, question: Question, ____: datetime
    ) -> ApprovalAnswer:
        now = asyncio.get_running_loop().time()
        times = self.asked.setdefault(question.id, [])
        times.append(now)
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails:
            raise Undelivered("HTTP 503")
        if now < times[0] + self.after:
            return ApprovalAnswer(decision=ApprovalDecision.WAIT, message="not yet")
        if self.decision is ApprovalDecision.APPROVE:
            self.given.append((now, question.id))
        return ApprovalAnswer(decision=self.decision, by="ann")


class Approving(Assembler):
    """The controller with an Approver, whose task dies with its process."""

    def __init__(self, board: Board) -> None:
        super().__init__()
        self.board = board
        self.task: asyncio.Future[None] | None = None

    def __call__(self, client: Any, clock: Any, caches: Any, source: Any) -> Any:
        metrics = ControllerMetrics()
        settings = NotificationSettings(receivers={"board": BOARD})
        self.approver = Approver(settings, clock, metrics, self.board.put)
        self.task = asyncio.ensure_future(self.approver.run())
        return self.assembled(client, clock, caches, source, metrics=metrics, approver=self.approver)


class Approved(Simulation):
    """A simulation whose crashes end the Approver, too."""

    def __init__(self, scenario: Scenario, plan: FaultPlan, assembler: Approving) -> None:
        super().__init__(scenario, plan, assembler)
        self.approving = assembler

    def _boot(self, lag: int, catch_up: float) -> None:
        super()._boot(lag, catch_up)
        process = self.process
        assert process is not None
        self.approving.approver.on_change = lambda key: process._add(("rollout", key))

    def crash(self) -> None:
        super().crash()
        assert self.approving.task is not None
        self.approving.task.cancel()


def simulate(
    board: Board,
    *moves: Move,
    goal: Condition | None = None,
    plan: FaultPlan = CLEAN,
    steps: list[dict[str, Any]] = STEPS,
    ends: bool = True,
) -> Approved:
    case = Scenario(
        name="approvals",
        setup=lambda cluster: base_objects(cluster, rollout_object(steps)),
        moves=moves,
        goal=goal or healthy_on(CANARY),
    )
    made: list[Approved] = []

    async def whole() -> bool:
        made.append(Approved(case, plan, Approving(board)))
        try:
            return (await made[0].run()).converged
        finally:
            task = made[0].approving.task
            assert task is not None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    with virtual_time() as loop:
        converged = loop.run_until_complete(whole())
    assert converged is ends, (plan.name, made[0].status)
    assert made[0].history.problems == []
    return made[0]


def shares(sim: Simulation) -> list[tuple[float, int]]:
    """When the canary was given another share, and which, in percent."""
    found: list[tuple[float, int]] = []
    for record in sim.history.records:
        if record.ours and is_carrier(record):
            (first, *_) = weights_of(record.after)
            pairs = dict(first)
            share = round(100 * (1 - pairs.get(STABLE, 0) / sum(pairs.values())))
            if not found or found[-1][1] != share:
                found.append((record.seconds, share))
    return found


def unapproved(sim: Approved) -> list[str]:
    """Rises above 10 and above 50 percent without an approval before them."""
    given = [at for at, _ in sim.approving.board.given]
    return [
        f"{at:g} s: {share} %"
        for at, share in shares(sim)
        if (share > 10 and not [one for one in given if one <= at])
        or (share > 50 and len({id_ for one, id_ in sim.approving.board.given if one <= at}) < 2)
    ]


def plans(*numbers: int) -> Iterator[FaultPlan]:
    for number in numbers:
        yield FaultPlan(name=f"crash after write {number}", writes={number: WriteFault.CRASH_AFTER})
        yield FaultPlan(name=f"crash before write {number}", writes={number: WriteFault.CRASH_BEFORE})


def case(plan: FaultPlan, *marks: Any) -> Any:
    return pytest.param(plan, id=plan.name or "clean", marks=marks)


@pytest.mark.parametrize(
    "plan",
    [case(CLEAN), *map(case, plans(7, 12)), *(case(plan, pytest.mark.full) for plan in plans(*range(24)))],
)
def test_no_weight_rises_past_an_approval_that_was_not_given(plan: FaultPlan):
    found = simulate(Board(), plan=plan)
    assert unapproved(found) == []
    assert [share for _, share in shares(found)] == [10, 50, 100]
    # After a restart the same is asked again, under the same id.
    assert len(found.approving.board.asked) == 2


@pytest.mark.parametrize(
    "board", [Board(hangs=True), Board(fails=True), Board(decision=ApprovalDecision.WAIT)]
)
def test_whatever_is_no_approval_holds(board: Board):
    found = simulate(board, goal=healthy_on(CANARY), ends=False)
    assert [share for _, share in shares(found)] == [10]


@pytest.mark.parametrize("board", [Board(hangs=True), Board(fails=True), Board(after=1e9)])
def test_an_abort_never_waits_for_a_receiver(board: Board):
    calm = simulate(
        Board(),
        Move(when=at_step(1), act=command("abort"), after=20),
        goal=phase("Aborted"),
        steps=[{"setWeight": 10}, {"pause": {}}],
    )
    found = simulate(board, Move(when=at_step(1), act=command("abort"), after=20), goal=phase("Aborted"))
    assert shares(found) == shares(calm)


def test_a_denial_gives_the_traffic_back():
    found = simulate(Board(decision=ApprovalDecision.DENY), goal=phase("Aborted"))
    assert [share for _, share in shares(found)] == [10, 0]
    assert found.status["reason"] == "ApprovalDenied"


def test_promote_goes_on_without_the_receiver():
    promote = Move(when=at_step(1), act=command("promote"), after=20)
    again = Move(when=at_step(3), act=command("promote", tag="t2"), after=20)
    found = simulate(Board(hangs=True), promote, again)
    assert [share for _, share in shares(found)] == [10, 50, 100]


def test_edited_steps_are_asked_for_again():
    other = [{"setWeight": 10}, {"approve": {"webhook": "board"}}, {"setWeight": 60}]
    board = Board(after=100.0)
    simulate(board, Move(when=at_step(1), act=edit_steps(other), after=20))
    assert len(board.asked) == 2


def test_no_attempt_begins_whose_receiver_nobody_has():
    def add(sim: Simulation) -> None:
        edit_steps([{"setWeight": 10}])(sim)

    steps = [{"setWeight": 10}, {"approve": {"webhook": "bord"}}]
    waits = Move(when=lambda sim: sim.status.get("reason") == "ReceiverUnknown", act=add, after=20)
    found = simulate(Board(), waits, steps=steps)
    said = [record.after.get("status", {}) for record in found.history.records]
    (text,) = {one["message"] for one in said if one.get("reason") == "ReceiverUnknown"}
    assert "no receiver 'bord' of type webhook that answers for namespace default; there are board" in text
    assert found.cluster.get(kinds.ROLLOUT, "mymodel") is not None


# --- planted bugs ----------------------------------------------------------------------------------


def test_an_engine_that_takes_silence_for_approval_is_caught(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progressing, "approved", lambda *_: True)
    assert unapproved(simulate(Board())) != []


def test_an_engine_that_takes_any_steps_answer_is_caught(monkeypatch: pytest.MonkeyPatch):
    kept: list[Any] = []

    def any_answer(draft: Any) -> Any:
        kept.extend([draft.obs.approval] if draft.obs.approval is not None else [])
        approvals_given = [view for view in kept if view.decision is ApprovalDecision.APPROVE]
        return approvals_given[0] if approvals_given else draft.obs.approval

    monkeypatch.setattr(approving, "_answer", any_answer)
    assert unapproved(simulate(Board())) != []


def test_a_shell_that_takes_errors_for_approval_is_caught(monkeypatch: pytest.MonkeyPatch):
    def passes(self: Any, receiver: Any, asked: Any, why: str, at_least: float) -> None:
        view = approvals.ApprovalView(id=asked.question.id, decision=ApprovalDecision.APPROVE)
        self._show(asked, view, 1.0)

    monkeypatch.setattr(Approver, "_none", passes)
    assert unapproved(simulate(Board(fails=True))) != []


def test_an_engine_that_forgets_denials_is_caught(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(planning, "denied", lambda _: None)
    found = simulate(Board(decision=ApprovalDecision.DENY), goal=phase("Aborted"), ends=False)
    assert found.status["phase"] == "Paused"


def test_an_abort_that_waits_for_the_answer_is_caught(monkeypatch: pytest.MonkeyPatch):
    real = planning.obey_command

    def later(draft: Any) -> None:
        running = draft.status.running
        if running is None or running.approval is None:
            real(draft)

    monkeypatch.setattr(planning, "obey_command", later)
    abort = Move(when=at_step(1), act=command("abort"), after=20)
    found = simulate(Board(hangs=True), abort, goal=phase("Aborted"), ends=False)
    assert [share for _, share in shares(found)] == [10]
