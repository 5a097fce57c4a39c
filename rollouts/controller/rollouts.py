"""The Rollout reconciler: gather, plan, perform. All decisions are the engine's."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import NamedTuple

import structlog

from rollouts.carriers import kind_of
from rollouts.controller.approvals import Approver
from rollouts.controller.contention import Contention
from rollouts.controller.dialects import Dialects
from rollouts.controller.gates import UNCHECKED_REASON
from rollouts.controller.gathered import Gathered
from rollouts.controller.gathering import Gatherer
from rollouts.controller.metrics import ControllerMetrics
from rollouts.controller.notification_settings import NotificationSettings
from rollouts.controller.notifier import Notifier
from rollouts.controller.performing import Performer
from rollouts.controller.refusals import WriteRefused
from rollouts.controller.share_watch import ShareWatch
from rollouts.controller.turns import Turns
from rollouts.controller.unstored import STORE_EVERY, only_figures
from rollouts.engine.actions import (
    Action,
    EmitEvent,
    EventType,
    Plan,
    SetFinalizer,
    WriteReason,
    WriteTraffic,
)
from rollouts.engine.observation import Observation, Problem, Refused
from rollouts.engine.planning import plan
from rollouts.engine.reasons import Reason
from rollouts.kube.errors import Conflict, KubeError, NotFound
from rollouts.runtime.clock import Clock
from rollouts.runtime.objects import ObjectKey

__all__ = ["RolloutReconciler"]

_log = structlog.get_logger(__name__)

GATEWAY_REPORT = timedelta(seconds=1)
"""How long a gateway may take to report a new weight before its silence is shown; its report itself is seen at once."""

_WHAT_IS_OBSERVED = ("stable", "canary", "attempt", "history")
"""Fields of the status that decide what is gathered: pools, routes' entries, runs."""

REFUSED_RECHECK = 60.0
"""Seconds until a write is tried again that was refused for what the spec says; a change of it comes sooner."""

BLOCKED_RECHECK = 5.0
"""Seconds until a write is tried again that something else refused: a policy, an admission webhook, a failing server.
Writes towards stable have a shorter time of their own (``engine.wayback.REFUSED_RETRY``)."""


class RolloutReconciler:
    """Brings one Rollout forward by one plan."""

    def __init__(
        self,
        gatherer: Gatherer,
        performer: Performer,
        clock: Clock,
        metrics: ControllerMetrics,
        dialects: Dialects,
        turns: Turns,
        share_watch: ShareWatch,
        contention: Contention,
        notifier: Notifier | None = None,
        approver: Approver | None = None,
    ) -> None:
        self._approver = approver
        self._gatherer = gatherer
        self._performer = performer
        self._clock = clock
        self._metrics = metrics
        self._dialects = dialects
        self._turns = turns
        self._share_watch = share_watch
        self._contention = contention
        self._notifier = notifier or Notifier(NotificationSettings(), clock, metrics)
        self._stored_at: dict[ObjectKey, float] = {}

    async def reconcile(self, key: ObjectKey) -> float | None:
        """One plan; the seconds after which to look again, None when only a change is worth a look.

        Raises KubeError for the worker to retry; anything else is a bug.
        """
        try:
            wait = await self._forward(key)
        except Conflict as error:
            await self._contention.given_up(key, error, self._clock.now())
            raise
        except KubeError:
            self._contention.went_through(key)
            raise
        self._contention.went_through(key)
        return wait

    async def _forward(self, key: ObjectKey) -> float | None:
        """See ``reconcile``."""
        self._share_watch.forget(key)
        gathered = self._gatherer.gather(key)
        if gathered is None:
            self._metrics.forget(key.namespace, key.name)
            self._notifier.forget(key)
            if self._approver is not None:
                self._approver.forget(key)
            self._stored_at.pop(key, None)
            return await self._performer.release(key)
        traffic = gathered.parsed.spec.traffic if gathered.parsed.spec is not None else None
        kind = kind_of(traffic.kind) if traffic is not None else None
        if traffic is not None and kind is not None and kind.has_dialects:
            await self._dialects.learn(kind, key.namespace, traffic.name)
            gathered = self._gatherer.gather(key) or gathered
        # The rollout dict in hand is replaced key by key as writes succeed; the cache's stays untouched.
        gathered = replace(gathered, rollout=dict(gathered.rollout))
        now = self._clock.now()
        decided = self._decide(key, gathered, now)
        if self._turns.must_look(gathered, decided):
            await self._turns.look()
            return 0.0
        if pause := self._turns.holds_off(gathered, decided):
            return pause
        if _unchecked(gathered.observation) and all(isinstance(one, EmitEvent) for one in decided.actions):
            return None  # named again when its conditions are known; an abort, which acts, waits for nothing
        self._share_watch.keep(key, gathered, decided, gathered.observation.status)
        owes = self._performer.owes_marks(gathered, decided)
        if not owes and (later := self._figures_later(key, gathered.observation, decided)) is not None:
            return later
        following = _next(gathered.observation, decided, now)
        try:
            with self._turns.claiming(gathered, decided):
                await self._performer.perform(gathered, decided, tell=following.tell)
        except NotFound as gone:
            # Deleted while it was being planned: look again, the caches will have heard of it by then.
            raise Conflict(f"planned on an object that is gone: {gone}") from None
        except WriteRefused as refusal:
            if refusal.reason is Reason.GATE_INVALID:  # a run or a Job, which comes after the traffic
                self._metrics.accepted(key.namespace, key.name)
            else:
                self._metrics.refused.labels(key.namespace, key.name).set(1)
            shown = await self._show_refusal(gathered.observation.problems, key, refusal)
            waits = [plan.requeue_after for plan in (decided, shown) if plan is not None]
            recheck = REFUSED_RECHECK if refusal.by_spec else BLOCKED_RECHECK
            # A deadline may come before another try is worth it, and what is to go back is tried at once.
            return min([recheck, *(wait.total_seconds() for wait in waits if wait is not None)])
        self._share_watch.keep(key, gathered, decided, decided.status)
        if decided.status != gathered.observation.status:
            self._stored_at[key] = self._clock.monotonic()
        self._metrics.accepted(key.namespace, key.name)
        for action in decided.actions:
            if isinstance(action, EmitEvent) and action.reason == Reason.WEIGHT_RESTORED:
                self._metrics.foreign_writes.labels(key.namespace, key.name).inc()
        self._publish(gathered, decided, now)
        again = await self._follow(gathered, decided, tell=following.tell)
        wait = None if following.wait is None else following.wait.total_seconds()
        return min((one for one in (wait, again) if one is not None), default=None)

    async def _follow(self, gathered: Gathered, decided: Plan, *, tell: bool = True) -> float | None:
        """What rests on the status that is stored by now; seconds until the next try, if any."""
        again = await self._performer.drain(gathered, decided)
        await self._performer.scale(gathered, decided, tell=tell)
        await self._performer.let_go(gathered, decided, tell=tell)
        return again

    def _decide(self, key: ObjectKey, gathered: Gathered, now: datetime) -> Plan:
        """The engine's plan, and in the status that it stores whom that has to be told."""
        observation, asked = gathered.observation, self._notifier.asked(gathered.rollout)
        decided = plan(observation, now)
        before = observation.status
        owing = self._notifier.settle(key, gathered.parsed.uid, before, decided.status, asked, now)
        unknown = asked.unknown if before.phase is not decided.status.phase else ()
        warnings = [
            EmitEvent(type=EventType.WARNING, reason=Reason.NOTIFICATION_UNKNOWN, message=text)
            for text in unknown
        ]
        return replace(decided, status=owing, actions=(*decided.actions, *warnings))

    def _publish(self, gathered: Gathered, decided: Plan, now: datetime) -> None:
        """What is stored by now, as series."""
        before, key = gathered.observation.status, (gathered.parsed.namespace, gathered.parsed.name)
        self._metrics.passed(*key, before, decided.status, spec=gathered.parsed.spec, now=now)
        self._metrics.show(*key, decided.status)
        self._notifier.take(ObjectKey(*key), gathered.parsed.uid, decided.status.notices)
        if self._approver is not None and gathered.parsed.deleting:
            self._approver.forget(ObjectKey(*key))
        elif self._approver is not None:
            self._approver.take(ObjectKey(*key), gathered.parsed.uid, decided.status)

    def _figures_later(self, key: ObjectKey, observation: Observation, decided: Plan) -> float | None:
        """Seconds until a plan that only shows other figures is worth a write; None: it is, or it does more."""
        since = self._stored_at.get(key)
        if since is None or decided.actions or not only_figures(observation.status, decided.status):
            return None
        left = since + STORE_EVERY.total_seconds() - self._clock.monotonic()
        if left <= 0:
            return None
        return left if decided.requeue_after is None else min(left, decided.requeue_after.total_seconds())

    async def _show_refusal(
        self,
        known: tuple[Problem, ...],
        key: ObjectKey,
        refusal: WriteRefused,
        before: WriteRefused | None = None,
    ) -> Plan | None:
        """Plan again with the refusal: it is shown, and what else was decided happens; that plan.

        ``before``: what was refused first, where the plan that shows it has met another refusal.

        What the traffic object says did not change, so nothing is said that the refused plan would have said.
        """
        gathered = self._gatherer.gather(key)
        if gathered is None:
            return None
        _log.warning("write_refused", namespace=key.namespace, rollout=key.name, reason=refusal.reason)
        told = [one for one in (before, refusal) if one is not None]
        problems = [Problem(reason=one.reason, message=str(one)) for one in told if one.by_spec]
        said = {
            one.reason is Reason.GATE_INVALID: Refused(reason=one.reason, message=str(one)) for one in told
        }
        shown = replace(
            gathered.observation,
            refused=said.get(False),
            gate_refused=said.get(True),
            problems=(*known, *problems) if problems else gathered.observation.problems,
        )
        gathered = replace(gathered, observation=shown, rollout=dict(gathered.rollout))
        now = self._clock.now()
        decided = self._decide(key, gathered, now)
        try:
            with self._turns.claiming(gathered, decided):
                await self._performer.perform(gathered, decided)
        except NotFound:
            _log.info("refusal_not_shown", namespace=key.namespace, rollout=key.name, reason="it is gone")
        except WriteRefused as another:
            if before is not None:
                raise
            return await self._show_refusal(known, key, another, refusal)
        else:
            self._publish(gathered, decided, now)
            await self._follow(gathered, decided)
        return decided


def _unchecked(observation: Observation) -> bool:
    return any(problem.reason == UNCHECKED_REASON for problem in observation.problems)


class _Next(NamedTuple):
    """When to plan again: when what was stored is told (``tell``), a change comes, or ``wait`` is over."""

    tell: bool
    wait: timedelta | None


def _next(observation: Observation, decided: Plan, now: datetime) -> _Next:
    """Telling of our own writes is always right, and mostly for nothing: half of all plans would find nothing to do."""
    before, after, told = observation.status, decided.status, _Next(True, decided.requeue_after)
    if _awaits_gateway(decided.actions):
        return _Next(False, min(GATEWAY_REPORT, decided.requeue_after or GATEWAY_REPORT))
    if before == after or not all(isinstance(action, EmitEvent) for action in decided.actions):
        return told
    if any(getattr(before, name) != getattr(after, name) for name in _WHAT_IS_OBSERVED):
        return told
    # Nothing but the status was touched, and it still speaks of the same versions: what was observed still holds.
    following = plan(replace(observation, status=after), now)
    if following.actions or following.status != after:
        return told
    return _Next(False, following.requeue_after)


def _awaits_gateway(actions: tuple[Action, ...]) -> bool:
    """Whether the next word is the gateway's: a step's weight was written, and what guards it."""
    written = [action for action in actions if not isinstance(action, EmitEvent | SetFinalizer)]
    return bool(written) and all(
        isinstance(action, WriteTraffic) and action.reason is WriteReason.STEP for action in written
    )
