"""The controller's own Prometheus metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from rollouts.controller.pod_metrics import ArmPodCounts, pod_counts
from rollouts.engine.accelerator_use import spent
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import (
    AnalysisStep,
    ApproveStep,
    HeaderRouteStep,
    JobStep,
    PauseStep,
    RolloutSpec,
    Step,
    WeightStep,
)
from rollouts.engine.rollout_status import (
    AcceleratorUse,
    HistoryEntry,
    Outcome,
    Phase,
    RolloutStatus,
    WaitingFor,
    WeightStatus,
)

__all__ = ["ControllerMetrics"]

_RECONCILE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_STEP_BUCKETS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 21600.0, 86400.0)
"""From a weight that is in force at once to a pause over night."""

_STEP_KINDS: dict[type[Step], str] = {
    WeightStep: "setWeight",
    PauseStep: "pause",
    ApproveStep: "approve",
    AnalysisStep: "analysis",
    JobStep: "job",
    HeaderRouteStep: "setHeaderRoute",
}
_REASONS = frozenset(Reason)

_PARTS = ("all", "extra")

_WAITING = (
    Reason.FROZEN,
    Reason.OUTSIDE_WINDOW,
    Reason.WAITING_FOR_TURN,
    Reason.WAITING_FOR_DEPENDENCY,
    Reason.DEPENDENCY_ABORTED,
    Reason.DEPENDENCY_MISSING,
    Reason.DEPENDENCY_CYCLE,
    Reason.WAITING_FOR_PODS,
    Reason.CAPACITY_EXHAUSTED,
)
"""What an attempt waits for that is not its own: times, others, room."""


class ControllerMetrics:
    """All series, on a registry of their own. Labels are bounded by the number of Rollouts and kinds."""

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.registry = registry or CollectorRegistry()
        self._now = now
        self._shown: dict[tuple[str, str], _Shown] = {}
        self._waits: dict[str, int] = dict.fromkeys(_WAITING, 0)
        self._declare_own_work()
        self._declare_rollouts()

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"rollouts_{name}", text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"rollouts_{name}_total", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"rollouts_{name}_seconds", text, labels, buckets=buckets, registry=self.registry)

    def _declare_own_work(self) -> None:
        """What the controller does, of no Rollout in particular."""
        self.reconcile_seconds = self._histogram(
            "reconcile", "Time of one reconcile.", "controller", "outcome", buckets=_RECONCILE_BUCKETS
        )
        self.queue_depth = self._gauge("queue_depth", "Keys waiting in the work queue.", "controller")
        self.queue_oldest = self._gauge(
            "queue_oldest_seconds", "Age of the longest waiting key.", "controller"
        )
        self.api_requests = self._counter(
            "api_requests", "Requests to the API server.", "verb", "resource", "code"
        )
        self.traffic_writes = self._counter("traffic_writes", "Writes of traffic weights.", "reason")
        self.step_seconds = self._histogram(
            "step", "Time that a step took, by its kind.", "kind", buckets=_STEP_BUCKETS
        )
        for kind in _STEP_KINDS.values():
            self.step_seconds.labels(kind)
        self.notifications = self._counter(
            "notifications",
            "Deliveries of notifications: delivered, failed (tried again), refused or given_up (not tried again).",
            "receiver",
            "outcome",
        )
        self.notifications_pending = self._gauge(
            "notifications_pending", "Notifications that a receiver is still to be told.", "receiver"
        )
        self.approvals = self._counter(
            "approvals",
            "Answers of receivers that approve steps: approve, deny, wait, or none (tried again).",
            "receiver",
            "answer",
        )
        self.waiting = self._gauge(
            "waiting", "Rollouts that wait for a time, for others or for room, by reason.", "reason"
        )
        self._count_waiting()
        self.leader = self._gauge("leader", "1 while this replica leads.")

    def _declare_rollouts(self) -> None:
        """What is known of each Rollout; ``forget`` drops these."""
        one = ("namespace", "rollout")
        self.foreign_writes = self._counter("traffic_overwrites", "Foreign writes that were found.", *one)
        self.phase = self._gauge("rollout_phase", "1 for the phase that a Rollout is in.", *one, "phase")
        self.weight = self._gauge("rollout_weight_ratio", "Share of the target, 0 to 1.", *one, "kind")
        self.step = self._gauge("rollout_step", "Current step, 0-based.", *one)
        self.step_start = self._gauge(
            "rollout_step_start_time_seconds",
            "When the current step of an attempt in progress began, moved by what its deadline stood, in Unix time.",
            *one,
        )
        self.reason = self._gauge(
            "rollout_reason",
            "1 for the reason of the phase that a Rollout is in (docs/troubleshooting.md).",
            *one,
            "reason",
        )
        self.queue_start = self._gauge(
            "rollout_queue_start_time_seconds",
            "When an attempt that waits for its turn came into the line, in Unix time.",
            *one,
        )
        self.pods = self._gauge(
            "rollout_pods",
            "Pods of an arm whose workload is scaled (a companion's is canary/ROLE): wanted, and of them ready, "
            "pending, warming or draining.",
            *one,
            "arm",
            "state",
        )
        self.accelerators = self._gauge(
            "rollout_accelerators",
            "Accelerators that pods of all versions of an attempt hold, where workloads are scaled.",
            *one,
        )
        self.accelerator_seconds = self._gauge(
            "rollout_accelerator_seconds",
            "Accelerators times seconds of the last attempt that scaled: all, and extra, beyond what stable held.",
            *one,
            "part",
        )
        self.attempts = self._counter(
            "attempts", "Attempts that ended: Promoted, Aborted, Superseded or Withdrawn.", *one, "outcome"
        )
        self.refused = self._gauge(
            "traffic_refused",
            "1 while the API server refuses the write of the traffic object that a Rollout needs.",
            *one,
        )

    def show(self, namespace: str, name: str, status: RolloutStatus) -> None:
        """Publish what a Rollout's status says; most plans change nothing of it."""
        said = _said(status)
        before = self._shown.get((namespace, name))
        if before == said:
            return
        self._shown[namespace, name] = said
        if before is None:
            self._wait(None, said)
            for outcome in Outcome:  # from 0 on: increase() does not see the first value of a series
                self.attempts.labels(namespace, name, outcome.value)
            self.foreign_writes.labels(namespace, name)
        elif before.reason != said.reason:
            self._wait(before, said)
            self._drop(self.reason, namespace, name, before.reason)
        self.reason.labels(namespace, name, said.reason).set(1)
        # To find a series costs more than its value: only what says something else than before is touched.
        for phase in (*Phase,) if before is None else (before.phase, said.phase):
            if phase is not Phase.NEW:
                self.phase.labels(namespace, name, phase.value).set(1 if phase is status.phase else 0)
        if before is None or before.weight != said.weight:
            self._show_weight(namespace, name, said.weight)
        if before is None or before.step != said.step:
            self.step.labels(namespace, name).set(status.current_step)
        self._count_pods(namespace, name, before.pods if before is not None else (), said.pods)
        if (None if before is None else before.accelerators) != said.accelerators:
            self._show_accelerators(namespace, name, said.accelerators)
        if (None if before is None else before.step_start) != said.step_start:
            self._since(self.step_start, said.step_start, namespace, name)
        if (None if before is None else before.queue_start) != said.queue_start:
            self._since(self.queue_start, said.queue_start, namespace, name)

    def _show_weight(self, namespace: str, name: str, shown: WeightStatus) -> None:
        weights = {"desired": shown.desired, "applied": shown.applied, "observed": shown.observed}
        for kind, weight in weights.items():
            if weight is not None:
                self.weight.labels(namespace, name, kind).set(weight / 10_000)

    def _count_pods(self, namespace: str, name: str, before: ArmPodCounts, after: ArmPodCounts) -> None:
        kept = {(arm, state) for arm, state, _ in after}
        for arm, state, _ in before:
            if (arm, state) not in kept:
                self._drop(self.pods, namespace, name, arm, state)
        for arm, state, count in after:
            self.pods.labels(namespace, name, arm, state).set(count)

    def _show_accelerators(self, namespace: str, name: str, use: AcceleratorUse | None) -> None:
        """Seconds go on between changes of the status: they are added up when somebody asks."""
        if use is None:
            self._drop(self.accelerators, namespace, name)
            for part in _PARTS:
                self._drop(self.accelerator_seconds, namespace, name, part)
            return
        self.accelerators.labels(namespace, name).set(use.held)
        for index, part in enumerate(_PARTS):
            metric = self.accelerator_seconds.labels(namespace, name, part)
            metric.set_function(partial(self._spent, use, index))

    def _spent(self, use: AcceleratorUse, part: int) -> float:
        return spent(use, self._now())[part]

    def _since(self, metric: Gauge, at: float | None, *labels: str) -> None:
        """A moment, while there is one."""
        if at is None:
            self._drop(metric, *labels)
        else:
            metric.labels(*labels).set(at)

    def _wait(self, before: _Shown | None, after: _Shown | None) -> None:
        """Count who waits for what."""
        for shown, change in ((before, -1), (after, 1)):
            if shown is not None and shown.reason in self._waits:
                self._waits[shown.reason] += change
        self._count_waiting()

    def _count_waiting(self) -> None:
        for reason, count in self._waits.items():
            self.waiting.labels(reason).set(count)

    def passed(
        self,
        namespace: str,
        name: str,
        before: RolloutStatus,
        after: RolloutStatus,
        *,
        spec: RolloutSpec | None,
        now: datetime,
    ) -> None:
        """Count what a stored change of the status means: attempts that ended, a step that was done."""
        for entry in _ended(before, after):
            self.attempts.labels(namespace, name, entry.outcome.value).inc()
        was, goes_on = before.current, after.current
        if spec is None or was is None or goes_on is None or was.step_started_at is None:
            return
        done, began = was.current_step, was.step_started_at
        same = (before.attempt, was.steps_hash) == (after.attempt, goes_on.steps_hash)
        if not same or not done < goes_on.current_step:
            return
        if done < len(spec.canary.steps):
            kind = _STEP_KINDS[type(spec.canary.steps[done])]
            self.step_seconds.labels(kind).observe(max(0.0, (now - began).total_seconds()))

    def accepted(self, namespace: str, name: str) -> None:
        """Nothing is refused any more."""
        self._drop(self.refused, namespace, name)

    def forget(self, namespace: str, name: str) -> None:
        """Drop the series of a deleted Rollout."""
        shown = self._shown.pop((namespace, name), None)
        if shown is not None:
            self._drop(self.reason, namespace, name, shown.reason)
            self._wait(shown, None)
            self._count_pods(namespace, name, shown.pods, ())
            self._show_accelerators(namespace, name, None)
        for outcome in Outcome:
            self._drop(self.attempts, namespace, name, outcome.value)
        self._drop(self.step_start, namespace, name)
        self._drop(self.queue_start, namespace, name)
        for phase in Phase:
            self._drop(self.phase, namespace, name, phase.value)
        for kind in ("desired", "applied", "observed"):
            self._drop(self.weight, namespace, name, kind)
        self._drop(self.step, namespace, name)
        self._drop(self.foreign_writes, namespace, name)
        self._drop(self.refused, namespace, name)

    @staticmethod
    def _drop(metric: Gauge | Counter, *labels: str) -> None:
        try:
            metric.remove(*labels)
        except KeyError:
            return  # never shown


class _Shown(NamedTuple):
    """What was published of a status."""

    phase: Phase
    reason: str
    weight: WeightStatus
    step: int
    step_start: float | None
    queue_start: float | None
    pods: ArmPodCounts
    accelerators: AcceleratorUse | None


def _said(status: RolloutStatus) -> _Shown:
    began = None if status.current is None or status.aborted is not None else status.current.step_started_at
    queued = status.current.queued_at if status.waiting_for is WaitingFor.TURN and status.current else None
    return _Shown(
        status.phase,
        # One that another version stored may be any text.
        status.reason if status.reason in _REASONS else "Unknown",
        status.weight,
        status.current_step,
        None if began is None else began.timestamp(),
        None if queued is None else queued.timestamp(),
        pod_counts(status),
        status.accelerators,
    )


def _ended(before: RolloutStatus, after: RolloutStatus) -> Iterator[HistoryEntry]:
    """Attempts that ended between two statuses. Whoever stopped being stable then is an old entry, or no attempt."""
    known = {(entry.attempt, entry.outcome, entry.at) for entry in before.history}
    for entry in after.history:
        if entry.stable_until is None and (entry.attempt, entry.outcome, entry.at) not in known:
            yield entry
