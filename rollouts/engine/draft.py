"""The plan in the making: the one mutable thing of the engine, alive for one call of ``plan``."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from rollouts.engine.actions import (
    Action,
    EmitEvent,
    EventType,
    Plan,
    ReleaseTraffic,
    ReturnTraffic,
    SetFinalizer,
    WriteTraffic,
)
from rollouts.engine.attempt import Attempt
from rollouts.engine.observation import Blocker, Observation
from rollouts.engine.reasons import Printed, Reason
from rollouts.engine.rollout_spec import RolloutSpec, Step, WeightStep
from rollouts.engine.rollout_status import (
    HistoryEntry,
    HoldReason,
    Outcome,
    Phase,
    RolloutStatus,
    SettledBy,
    WaitingFor,
)
from rollouts.engine.steps import describe
from rollouts.engine.transitions import Trigger, check
from rollouts.engine.versions import Revision
from rollouts.units import Weight

__all__ = ["HISTORY_LIMIT", "Draft", "Said"]

Said = tuple[Reason, str]
"""A reason and what is said of it."""

HISTORY_LIMIT = 10
"""Ended candidates kept in status: a status must stay far below the 1.5 MiB that etcd takes."""


_ALARMS = frozenset(
    {
        Reason.NOT_ENOUGH_ENDPOINTS,
        Reason.SHARE_MISMATCH,
        Reason.NO_TRAFFIC,
        Reason.SHARE_UNMEASURED,
        Reason.STABLE_NOT_READY,
        Reason.STABLE_POOL_MISSING,
        Reason.STABLE_PICKER_NOT_READY,
        Reason.ROUTE_MISSING,
        Reason.BAKING,
        Reason.ABORT_BLOCKED_BY_CLAIM,
        Reason.TRAFFIC_REFUSED,
        Reason.PICKER_MISSING,
        Reason.PICKER_NOT_READY,
        Reason.POOL_REFUSED,
        Reason.FROZEN,
        Reason.WAITING_FOR_TURN,
        Reason.WAITING_FOR_DEPENDENCY,
        Reason.DEPENDENCY_ABORTED,
        Reason.DEPENDENCY_MISSING,
        Reason.DEPENDENCY_CYCLE,
    }
)
"""Reasons worth an Event although the phase stays; steps and writes have Events of their own."""


_WARNINGS = frozenset(
    {
        Reason.STABLE_NOT_READY,
        Reason.STABLE_POOL_MISSING,
        Reason.STABLE_PICKER_NOT_READY,
        Reason.ADAPTER_CONTENT_MISMATCH,
        Reason.ABORT_BLOCKED_BY_CLAIM,
        Reason.TRAFFIC_REFUSED,
        Reason.ROUTE_MISSING,
        Reason.DEPENDENCY_ABORTED,
        Reason.DEPENDENCY_MISSING,
        Reason.DEPENDENCY_CYCLE,
    }
)
"""Reasons that are a person's to act on, in whichever phase they come."""


class Draft:
    """Status, actions and wake-up time being put together.

    ``now`` is truncated to seconds, because that is what the API stores: a status must be equal to itself
    after it was written and read back.
    """

    def __init__(self, obs: Observation, now: datetime) -> None:
        self.obs = obs
        self.now = now.replace(microsecond=0)
        self.status: RolloutStatus = obs.status
        self.actions: list[Action] = []
        self.wake_after: timedelta | None = None
        self.count_after: timedelta | None = None
        self.commanded_by = ""
        """Who gave the command that is obeyed now, as the command says; empty when it says nobody."""
        self.traffic_problem: Said | None = None
        """Reason and message for the TrafficApplied condition."""
        self.target_problem: Said | None = None
        """Reason and message for the TargetReady condition."""
        self.target_note: Said | None = None
        """What TargetReady says although it is True: reason and message of a warning."""
        self.contended: str = ""
        """Who wrote our weights, when that has just been seen."""
        self.in_force = False
        """The weight is written, and nothing that was counted refutes it: said in this plan."""
        self.refuted = False
        """The share refutes the weight: said in this plan."""
        self.moved = False
        """A version is followed to another API group: stored before any weight rises."""
        self.returning = False
        """A canary that is to have no weight still has some: no other write of traffic until that is done."""
        self.set(observed_generation=obs.generation)

    @property
    def spec(self) -> RolloutSpec:
        """The spec; only used behind the stage that ends the plan when there is none."""
        assert self.obs.spec is not None
        return self.obs.spec

    @property
    def stable(self) -> Revision:
        """The stable version; only used where one is known, as wherever there is an attempt."""
        assert self.status.stable is not None
        return self.status.stable

    @property
    def current(self) -> Attempt:
        """The attempt; only used behind the stage that ends the plan when there is none."""
        assert self.status.current is not None
        return self.status.current

    @property
    def step(self) -> Step | None:
        """The step being executed; None past the last one."""
        steps = self.spec.canary.steps
        index = self.current.current_step
        return steps[index] if index < len(steps) else None

    @property
    def strategy_problem(self) -> Blocker | None:
        """Why the shared strategy that the spec names cannot be used by an attempt that begins."""
        return self.obs.strategy.problem if self.obs.strategy is not None else None

    @property
    def writes_traffic(self) -> bool:
        """Whether the plan already holds its one traffic write."""
        return any(isinstance(action, WriteTraffic | ReturnTraffic) for action in self.actions)

    def set(self, **changes: Any) -> None:
        """Change status fields. Most plans find them as they are to be, and a copy costs more than a look."""
        if any(getattr(self.status, name) != value for name, value in changes.items()):
            self.status = replace(self.status, **changes)

    def set_current(self, **changes: Any) -> None:
        """Change fields of the attempt."""
        current = self.current
        if any(getattr(current, name) != value for name, value in changes.items()):
            self.status = replace(self.status, current=replace(current, **changes))

    def note_written(self, weight: Weight) -> None:
        """The traffic object says what we want, or will once the plan's write is stored."""
        self.set(weight=self.status.weight.put(weight, self.now))

    def show_applied(self, weight: Weight) -> None:
        """The traffic object says something else than we wrote."""
        ours = self.status.weight.ours
        written = None if ours == weight else ours
        self.set(weight=replace(self.status.weight, applied=weight, written=written))

    def move(
        self,
        phase: Phase,
        trigger: Trigger,
        reason: Reason | Printed,
        message: str,
        *,
        waiting_for: WaitingFor | None = None,
        settled_by: SettledBy | None = None,
    ) -> None:
        """Enter or stay in a phase; raises IllegalTransition when the table does not list the move."""
        check(self.obs.status.phase, phase, trigger)
        before = self.obs.status
        changed = before.phase is not phase or (before.reason != reason and reason in _ALARMS)
        self.set(
            phase=phase, reason=str(reason), message=message, waiting_for=waiting_for, settled_by=settled_by
        )
        if changed:
            bad = phase in (Phase.ABORTED, Phase.INVALID) or reason in _WARNINGS
            self.event(EventType.WARNING if bad else EventType.NORMAL, reason, message)

    def event(self, kind: EventType, reason: Reason | Printed, message: str) -> None:
        """Record a Kubernetes Event."""
        self.actions.append(EmitEvent(type=kind, reason=reason, message=message))

    def wake(self, after: timedelta) -> None:
        """Look again after ``after``, at the latest; the earliest wins."""
        after = max(after, timedelta(seconds=1))
        if self.wake_after is None or after < self.wake_after:
            self.wake_after = after

    def wake_at(self, moment: datetime) -> None:
        """Look again at ``moment``."""
        self.wake(moment - self.now)

    def where(self) -> str:
        """The step in words: ``step 2/6 (set weight 10%)``. People count from 1."""
        if self.obs.spec is None:
            count = self.status.step_count
            return f"step {min(self.current.current_step + 1, count)}/{count}"
        count = len(self.spec.canary.steps)
        if self.current.current_step >= count:
            return f"after step {count}/{count}"
        return f"step {self.current.current_step + 1}/{count} ({describe(self.step)})"

    def enter_step(self, index: int) -> None:
        """Make ``index`` the current step and start its clock.

        A cap from an edit of the steps lasts through the gates of the weight it capped.
        """
        steps = self.spec.canary.steps
        lifts_cap = index >= len(steps) or isinstance(steps[index], WeightStep)
        self.set_current(
            current_step=index,
            step_started_at=self.now,
            weight_cap=None if lifts_cap else self.current.weight_cap,
            bake_started_at=None,
            approval=None,
        )
        self.set(weight=replace(self.status.weight, observed=None))

    def record(self, revision: Revision, outcome: Outcome, message: str) -> None:
        """Append a candidate's end to the bounded history."""
        entry = HistoryEntry(
            revision=revision,
            attempt=self.status.attempt,
            outcome=outcome,
            at=self.now,
            message=message[:256],
            approvals=self.status.current.approvals if self.status.current is not None else (),
        )
        self.set(history=(*self.status.history, entry)[-HISTORY_LIMIT:])

    def hold(self, reason: HoldReason, message: str) -> None:
        """Stop at the current weight until something lifts it."""
        self.set(hold=reason, hold_message=message)

    def release(self) -> None:
        """Hold no longer."""
        self.set(hold=None, hold_message="")

    def plan(self) -> Plan:
        """The finished plan: what goes back to stable, what guards a write, the write, the rest, Events last.

        What several stages ask for, or say, is done and said once.
        """
        once = [one for number, one in enumerate(self.actions) if one not in self.actions[:number]]
        ordered = sorted(once, key=_rank)
        return Plan(
            actions=tuple(ordered),
            status=self.status,
            requeue_after=self.wake_after,
            count_after=self.count_after,
        )


def _rank(action: Action) -> int:
    match action:
        case ReturnTraffic():  # guards itself: nothing that may be refused comes before it
            return 0
        case SetFinalizer(present=True):
            return 1
        case WriteTraffic() | ReleaseTraffic():
            return 2
        case SetFinalizer():
            return 4
        case EmitEvent():
            return 5
        case _:
            return 3
