"""Asks receivers whether steps may go on, in the background: never in the way of a reconcile, least of all of an abort.

The durable question is the Rollout's status. A reconcile hands over what is stored there (``take``) and looks at the
last answer to just that (``view``); everything in here is lost with the process, and asked again under the same id. One
request at a time per receiver, namespaces in turn, within the receiver's rate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import structlog

from rollouts.controller.asking import Ask, Question, ask
from rollouts.controller.metrics import ControllerMetrics
from rollouts.controller.notification_settings import NotificationSettings, Receiver
from rollouts.controller.posting import Undelivered
from rollouts.engine.attempt import ApprovalDecision
from rollouts.engine.observation import ApprovalView
from rollouts.engine.rollout_spec import ApproveStep, PauseStep, Step
from rollouts.engine.rollout_status import RolloutStatus
from rollouts.runtime.clock import Clock, Monotonic
from rollouts.runtime.objects import ObjectKey
from rollouts.units import ZERO, format_weight

__all__ = ["Approver"]

_log = structlog.get_logger(__name__)

_NEVER = Monotonic(float("-inf"))
_TICK = 0.5
_AFTER_WAIT = 15.0
"""Seconds after ``wait``: a person decides, and does not look at a clock meanwhile."""
_FIRST_RETRY, _LAST_RETRY = 5.0, 300.0
"""Seconds after what was no answer."""


@dataclass(slots=True)
class _Asked:
    """One question, and what came of it."""

    key: ObjectKey
    uid: str
    question: Question
    view: ApprovalView | None = None
    tries: int = 0
    due: Monotonic = _NEVER

    @property
    def settled(self) -> bool:
        """Whether there is nothing more to ask: the plan that goes by the answer is still to be stored."""
        return self.view is not None and self.view.decision in (
            ApprovalDecision.APPROVE,
            ApprovalDecision.DENY,
        )


@dataclass(slots=True)
class _Counter:
    """Where one receiver's questions queue."""

    served: dict[str, Monotonic] = field(default_factory=dict)
    """When a namespace last had its turn."""
    free: Monotonic = _NEVER
    busy: bool = False


class Approver:
    """``run`` works until cancelled. ``on_change`` is called with the key of a Rollout that has another answer."""

    def __init__(
        self, settings: NotificationSettings, clock: Clock, metrics: ControllerMetrics, put: Ask = ask
    ) -> None:
        self.on_change: Callable[[ObjectKey], None] = lambda _: None
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._put = put
        self._asked: dict[ObjectKey, _Asked] = {}
        self._counters = {name: _Counter() for name in settings.receivers}
        self._tasks: set[asyncio.Task[None]] = set()

    def unknown(self, namespace: str, steps: Iterable[Step]) -> Iterator[str]:
        """What is wrong with the receivers that steps name."""
        named = (
            step.webhook
            if isinstance(step, ApproveStep)
            else step.approve
            if isinstance(step, PauseStep)
            else ""
            for step in steps
        )
        for name in dict.fromkeys(filter(None, named)):
            found = self._settings.approver(name, namespace)
            if isinstance(found, str):
                yield found

    def view(self, key: ObjectKey, status: RolloutStatus) -> ApprovalView | None:
        """The last answer to what the status says is asked."""
        record = status.current.approval if status.current is not None else None
        if record is None:
            return None
        found = self._settings.approver(record.webhook, key.namespace)
        if isinstance(found, str):
            return ApprovalView(id=record.id, decision=None, message=found)
        asked = self._asked.get(key)
        return asked.view if asked is not None and asked.question.id == record.id else None

    def take(self, key: ObjectKey, uid: str, status: RolloutStatus) -> None:
        """This is stored: ask what it says, and nothing else of this Rollout any more."""
        current = status.running
        record = current.approval if current is not None else None
        if current is None or record is None or record.granted:
            self._asked.pop(key, None)
            return
        known = self._asked.get(key)
        if known is not None and known.question.id == record.id:
            return
        question = Question(
            id=record.id,
            webhook=record.webhook,
            since=record.since,
            attempt=status.attempt,
            step=current.current_step + 1,
            steps=status.step_count,
            weight=format_weight(status.weight.applied or ZERO),
            stable=status.stable.label if status.stable is not None else "",
            canary=current.canary.label,
        )
        self._asked[key] = _Asked(key, uid, question)

    def forget(self, key: ObjectKey) -> None:
        """The Rollout is gone."""
        self._asked.pop(key, None)

    # --- asking ---

    async def run(self) -> None:
        """Ask what is due."""
        try:
            while True:
                for name, counter in self._counters.items():
                    due = self._next(name, counter)
                    if due is not None:
                        self._spawn(due[0], counter, due[1])
                await self._clock.sleep(_TICK)
        finally:
            for task in self._tasks:
                task.cancel()

    def _next(self, name: str, counter: _Counter) -> tuple[Receiver, _Asked] | None:
        """The oldest question that is due, of the namespace whose turn it is."""
        now = self._clock.monotonic()
        if counter.busy or now < counter.free:
            return None
        due = [
            (found, one)
            for one in self._asked.values()
            if one.question.webhook == name and one.due <= now and not one.settled
            # The right of a namespace may end while the answer is waited for.
            if not isinstance(found := self._settings.approver(name, one.key.namespace), str)
        ]

        def order(pair: tuple[Receiver, _Asked]) -> tuple[float, float]:
            asked = pair[1]
            return counter.served.get(asked.key.namespace, _NEVER), asked.due

        return min(due, key=order, default=None)

    def _spawn(self, receiver: Receiver, counter: _Counter, asked: _Asked) -> None:
        now = self._clock.monotonic()
        counter.busy = True
        counter.free = Monotonic(now + 60.0 / receiver.per_minute)
        counter.served[asked.key.namespace] = now
        task = asyncio.get_running_loop().create_task(self._send(receiver, asked))
        self._tasks.add(task)

        def ended(done: asyncio.Task[None]) -> None:
            self._tasks.discard(done)
            counter.busy = False
            if not done.cancelled() and done.exception() is not None:
                self._none(receiver, asked, "the controller failed to ask", 0.0)
                _log.error("approval_failed", receiver=receiver.name, exc_info=done.exception())

        task.add_done_callback(ended)

    async def _send(self, receiver: Receiver, asked: _Asked) -> None:
        try:
            async with asyncio.timeout(receiver.timeout):
                answer = await self._put(receiver, asked.key, asked.uid, asked.question, self._clock.now())
        except Undelivered as error:
            self._none(receiver, asked, str(error), error.after)
            return
        except TimeoutError:
            self._none(receiver, asked, "no answer in time", 0.0)
            return
        asked.tries = 0
        self._count(receiver.name, answer.decision.value)
        view = ApprovalView(
            id=asked.question.id, decision=answer.decision, message=answer.message, by=answer.by
        )
        self._show(asked, view, _AFTER_WAIT)

    def _none(self, receiver: Receiver, asked: _Asked, why: str, at_least: float) -> None:
        wait = max(at_least, min(_LAST_RETRY, _FIRST_RETRY * 2.0 ** min(asked.tries, 16)))
        asked.tries += 1
        self._count(receiver.name, "none")
        self._show(asked, ApprovalView(id=asked.question.id, decision=None, message=why), wait)

    def _show(self, asked: _Asked, view: ApprovalView, wait: float) -> None:
        asked.due = Monotonic(self._clock.monotonic() + wait)
        changed, asked.view = asked.view != view, view
        if changed and self._asked.get(asked.key) is asked:
            self.on_change(asked.key)

    def _count(self, receiver: str, answer: str) -> None:
        self._metrics.approvals.labels(receiver, answer).inc()
