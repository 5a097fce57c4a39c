"""Asking for approvals: over real HTTP what counts as an answer, in virtual time when and in whose turn."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from aiohttp import web

from rollouts.controller.approvals import Approver
from rollouts.controller.asking import ApprovalAnswer, Question, ask
from rollouts.controller.metrics import ControllerMetrics
from rollouts.controller.notification_settings import NotificationSettings, Receiver, ReceiverType
from rollouts.controller.posting import Undelivered
from rollouts.engine.attempt import ApprovalDecision, ApprovalRecord, Attempt
from rollouts.engine.observation import ApprovalView
from rollouts.engine.revision import revision_of
from rollouts.engine.rollout_spec import ApproveStep, PauseStep
from rollouts.engine.rollout_status import RolloutStatus
from rollouts.engine.versions import Identity
from rollouts.runtime.objects import ObjectKey
from tests.kit.clock import EPOCH, VirtualClock, virtual_time
from tests.unit.controller.test_posting import NOW, SECRET, Inbox, inbox, receiver, verified

__all__ = ["inbox"]

KEY = ObjectKey("team-a", "mymodel")
QUESTION = Question(
    id="q1",
    webhook="r",
    since=NOW,
    attempt=3,
    step=2,
    steps=4,
    weight="10%",
    stable="v1 (11111111)",
    canary="v2 (22222222)",
)


def says(body: Any, status: int = 200, **headers: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return web.Response(body=data, status=status, headers=headers)

    return answer


async def put(inbox: Inbox, **fields: Any) -> ApprovalAnswer:
    return await ask(receiver(inbox, **fields), KEY, "uid-1", QUESTION, NOW)


async def test_the_question_is_a_signed_cloud_event(inbox: Inbox, tmp_path):
    (tmp_path / "secret").write_text(f"whsec_{SECRET}\n")
    inbox.answer = says({"decision": "approve", "message": "ticket 4711", "by": "ann"})
    found = await put(inbox, secret_file=str(tmp_path / "secret"))
    assert found == ApprovalAnswer(decision=ApprovalDecision.APPROVE, message="ticket 4711", by="ann")
    ((headers, body),) = inbox.got
    assert verified(headers, body)
    event = json.loads(body)
    assert (event["type"], event["id"]) == ("dev.inferencerollouts.rollout.approval", "q1")
    assert event["data"] == {
        "namespace": "team-a",
        "name": "mymodel",
        "uid": "uid-1",
        "webhook": "r",
        "attempt": 3,
        "step": 2,
        "steps": 4,
        "weight": "10%",
        "stable": "v1 (11111111)",
        "canary": "v2 (22222222)",
    }


@pytest.mark.parametrize("decision", list(ApprovalDecision))
async def test_three_decisions(inbox: Inbox, decision: ApprovalDecision):
    inbox.answer = says({"decision": decision.value})
    assert await put(inbox) == ApprovalAnswer(decision=decision)


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        ({"decision": "approve"}, 201, "HTTP 201"),
        ({"decision": "approve"}, 202, "HTTP 202"),
        ({"decision": "approve"}, 403, "HTTP 403"),
        ({"decision": "approve"}, 500, "HTTP 500"),
        (b"OK", 200, "no JSON"),
        (b"", 200, "no JSON"),
        (b"\xff\xfe", 200, "no JSON"),
        (b"[" * 10_000, 200, "no JSON"),
        ([{"decision": "approve"}], 200, "no JSON object"),
        ({}, 200, "no decision"),
        ({"decision": "Approve"}, 200, "no decision"),
        ({"decision": True}, 200, "no decision"),
        ({"decision": ["approve"]}, 200, "no decision"),
        ({"approved": True}, 200, "no decision"),
        ({"decision": "approve", "message": "x" * 20_000}, 200, "longer than 16384"),
    ],
)
async def test_what_is_no_answer_never_passes(inbox: Inbox, body: Any, status: int, why: str):
    inbox.answer = says(body, status)
    with pytest.raises(Undelivered, match=why):
        await put(inbox)


async def test_a_redirect_is_not_followed(inbox: Inbox):
    inbox.answer = says({"decision": "approve"}, 307, Location=f"{inbox.url}/elsewhere")
    with pytest.raises(Undelivered, match="HTTP 307"):
        await put(inbox)
    assert len(inbox.got) == 1


async def test_words_are_of_one_line_bounded_and_without_control_characters(inbox: Inbox):
    inbox.answer = says({"decision": "deny", "message": "a\x1b[31m\nb" + "c" * 999, "by": ["ann"]})
    found = await put(inbox)
    assert found.message.startswith("a [31m bccc")
    assert (len(found.message), found.by) == (256, "")


# --- in the background -----------------------------------------------------------------------------

FAST = Receiver(name="board", type=ReceiverType.WEBHOOK, url="http://x", per_minute=6000)


class Desk:
    """An Approver whose receivers answer as ``answers`` says; who was asked, and when."""

    def __init__(self, *receivers: Receiver) -> None:
        self.clock = VirtualClock()
        self.got: list[tuple[float, str, str]] = []
        self.answers: dict[str, Callable[[], Awaitable[ApprovalAnswer]]] = {}
        self.changed: list[ObjectKey] = []
        settings = NotificationSettings(receivers={one.name: one for one in receivers or (FAST,)})
        self.approver = Approver(settings, self.clock, ControllerMetrics(), self.put)
        self.approver.on_change = self.changed.append

    async def put(
        self, to: Receiver, key: ObjectKey, _: str, question: Question, __: datetime
    ) -> ApprovalAnswer:
        self.got.append((self.clock.monotonic(), key.namespace, question.id))
        return await self.answers[to.name]()

    def take(self, id_: str, key: ObjectKey = KEY, webhook: str = "board") -> RolloutStatus:
        status = waiting(id_, webhook)
        self.approver.take(key, "u", status)
        return status

    def run(self, seconds: float) -> None:
        async def whole() -> None:
            task = asyncio.ensure_future(self.approver.run())
            await self.clock.sleep(seconds)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        with virtual_time() as loop:
            loop.run_until_complete(whole())


def waiting(id_: str, webhook: str = "board") -> RolloutStatus:
    arm = revision_of(Identity(kind="InferencePool", group="g", name="v2"), "")
    record = ApprovalRecord(id=id_, webhook=webhook, since=EPOCH)
    attempt = Attempt(canary=arm, started_at=EPOCH, current_step=1, approval=record)
    return RolloutStatus(stable=arm, attempt=1, step_count=3, current=attempt)


def always(decision: ApprovalDecision) -> Callable[[], Awaitable[ApprovalAnswer]]:
    async def answer() -> ApprovalAnswer:
        return ApprovalAnswer(decision=decision, message="so", by="ann")

    return answer


async def fails() -> ApprovalAnswer:
    raise Undelivered("HTTP 503")


async def hangs() -> ApprovalAnswer:
    await asyncio.Event().wait()
    raise AssertionError


def test_an_answer_is_told_once_and_no_more_is_asked():
    desk = Desk()
    desk.answers["board"] = always(ApprovalDecision.APPROVE)
    status = desk.take("q")
    desk.run(600)
    assert [id_ for _, _, id_ in desk.got] == ["q"]
    assert desk.changed == [KEY]
    view = desk.approver.view(KEY, status)
    assert view == ApprovalView(id="q", decision=ApprovalDecision.APPROVE, message="so", by="ann")
    assert desk.approver.view(KEY, waiting("another")) is None


def test_wait_is_asked_again_and_told_only_when_it_changes():
    desk = Desk()
    desk.answers["board"] = always(ApprovalDecision.WAIT)
    desk.take("q")
    desk.run(61)
    assert len(desk.got) == 5
    assert desk.changed == [KEY]


def test_errors_back_off_and_hold():
    desk = Desk(replace(FAST, timeout=1.0))
    desk.answers["board"] = fails
    status = desk.take("q")
    desk.run(3600)
    gaps = [later[0] - earlier[0] for earlier, later in itertools.pairwise(desk.got)]
    assert gaps == sorted(gaps)
    assert max(gaps) <= 301
    view = desk.approver.view(KEY, status)
    assert view == ApprovalView(id="q", decision=None, message="HTTP 503")


def test_a_receiver_that_hangs_holds_up_no_other_and_its_late_answer_is_no_answer():
    desk = Desk(replace(FAST, timeout=30.0), replace(FAST, name="quick"))
    desk.answers |= {"board": hangs, "quick": always(ApprovalDecision.APPROVE)}
    status = desk.take("q")
    other = ObjectKey("team-b", "other")
    desk.take("p", other, "quick")
    desk.run(5)
    assert desk.changed == [other]
    desk.run(60)
    view = desk.approver.view(KEY, status)
    assert view is not None
    assert (view.decision, view.message) == (None, "no answer in time")


def test_an_answer_to_what_is_not_asked_any_more_is_dropped():
    desk = Desk()

    async def late() -> ApprovalAnswer:
        desk.approver.take(KEY, "u", RolloutStatus())  # aborted meanwhile
        return ApprovalAnswer(decision=ApprovalDecision.APPROVE)

    desk.answers["board"] = late
    status = desk.take("q")
    desk.run(5)
    assert desk.changed == []
    assert desk.approver.view(KEY, status) is None
    desk.take("q2")
    desk.approver.forget(KEY)
    desk.run(5)
    assert [id_ for _, _, id_ in desk.got] == ["q"]


def test_namespaces_take_turns_within_the_rate():
    desk = Desk(replace(FAST, per_minute=60))
    desk.answers["board"] = always(ApprovalDecision.APPROVE)
    for number in range(5):
        desk.take(f"a{number}", ObjectKey("team-a", f"m{number}"))
    desk.take("b", ObjectKey("team-b", "m"))
    desk.run(20)
    assert [space for _, space, _ in desk.got][:3].count("team-b") == 1
    times = [at for at, _, _ in desk.got]
    assert min(later - earlier for earlier, later in itertools.pairwise(times)) >= 1.0


def test_only_a_webhook_of_the_administrator_for_this_namespace_answers():
    slack = replace(FAST, name="chat", type=ReceiverType.SLACK)
    desk = Desk(replace(FAST, namespaces=frozenset({"team-b"})), slack)
    steps = (ApproveStep(webhook="board"), PauseStep(duration=None, approve="chat"), PauseStep(duration=None))
    assert list(desk.approver.unknown("team-a", steps)) == [
        f"no receiver '{name}' of type webhook that answers for namespace team-a; there are none"
        for name in ("board", "chat")
    ]
    assert list(desk.approver.unknown("team-b", steps[:1])) == []
    status = desk.take("q")
    desk.run(60)
    assert desk.got == []
    view = desk.approver.view(KEY, status)
    assert view is not None
    assert (view.decision, "no receiver 'board'" in view.message) == (None, True)


def test_a_bug_while_asking_holds_and_is_tried_again():
    desk = Desk()

    async def broken() -> ApprovalAnswer:
        raise RuntimeError("bug")

    desk.answers["board"] = broken
    status = desk.take("q")
    desk.run(20)
    assert len(desk.got) > 1
    view = desk.approver.view(KEY, status)
    assert view is not None
    assert view.message == "the controller failed to ask"
