"""Prometheus alert rules, each with what it means and what to do: the rules file, and the runbook of the docs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_status import HoldReason, Phase

__all__ = ["ALERTS", "Alert", "rules_file"]

_ROLLOUT = "Rollout {{ $labels.namespace }}/{{ $labels.rollout }}"
_FOR_OTHERS = (
    Reason.FROZEN,
    Reason.OUTSIDE_WINDOW,
    Reason.WAITING_FOR_TURN,
    Reason.WAITING_FOR_DEPENDENCY,
    Reason.DEPENDENCY_ABORTED,
    Reason.DEPENDENCY_MISSING,
    Reason.DEPENDENCY_CYCLE,
)
"""What a target that lacks nothing waits for: a freeze over New Year is no fault of its pods."""
_ASKS_A_PERSON = [hold.value for hold in HoldReason if hold is not HoldReason.COMMAND]
"""Holds that nobody asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """``lasts``: how long the expression must hold. ``what`` may name labels; ``do`` is the runbook."""

    name: str
    expr: str
    what: str
    do: str
    severity: str = "warning"
    lasts: str = "0m"


def _phase(phase: Phase) -> str:
    return f'max by (namespace, rollout) (rollouts_rollout_phase{{phase="{phase.value}"}}) == 1'


def _reason(*reasons: Reason) -> str:
    return (
        f'max by (namespace, rollout, reason) (rollouts_rollout_reason{{reason=~"{"|".join(reasons)}"}}) == 1'
    )


ALERTS = (
    Alert(
        name="InferenceRolloutAborted",
        expr=_phase(Phase.ABORTED),
        what=f"{_ROLLOUT} was aborted: the stable version serves.",
        do="`kubectl rollouts explain NAME` names the metric, the figures and both versions. Revert in Git, push a "
        "fix, or `kubectl rollouts retry NAME`.",
    ),
    Alert(
        name="InferenceRolloutNeedsAPerson",
        expr=_reason(*_ASKS_A_PERSON),
        lasts="5m",
        what=f"{_ROLLOUT} is held: {{{{ $labels.reason }}}}.",
        do="The message says what held it. `promote` goes on past a gate, `resume` takes a hold off, `abort` goes "
        "back to the stable version.",
    ),
    Alert(
        name="InferenceRolloutInvalid",
        expr=_phase(Phase.INVALID),
        lasts="10m",
        what=f"{_ROLLOUT} cannot be executed.",
        do="The message names the field and what is wrong with it. `rollouts lint FILE` says the same of the file.",
    ),
    Alert(
        name="InferenceRolloutNobodyServes",
        expr=_reason(Reason.STABLE_POOL_MISSING, Reason.STABLE_NOT_READY, Reason.STABLE_PICKER_NOT_READY),
        severity="critical",
        lasts="1m",
        what=f"{_ROLLOUT}: the stable version cannot serve ({{{{ $labels.reason }}}}).",
        do="Bring back the pool, its pods or its endpoint picker; the message names which. Weights stay as they are "
        "and go to stable at once when it is Ready.",
    ),
    Alert(
        name="InferenceRolloutTrafficRefused",
        expr="max by (namespace, rollout) (rollouts_traffic_refused) == 1",
        severity="critical",
        lasts="2m",
        what=f"{_ROLLOUT}: the API server refuses the write of its weights, an abort's, too.",
        do="The message has the server's words: mostly a policy or an admission webhook. Let the controller write the "
        "object, or set its weights by hand.",
    ),
    Alert(
        name="InferenceRolloutAbortBlocked",
        expr=_reason(Reason.ABORT_BLOCKED_BY_CLAIM),
        severity="critical",
        lasts="1m",
        what=f"{_ROLLOUT} is aborted and its canary keeps traffic: the object names another Rollout.",
        do="Let the annotation or label of the traffic object name this Rollout again, or delete the other one.",
    ),
    Alert(
        name="InferenceRolloutContended",
        expr="sum by (namespace, rollout) (increase(rollouts_traffic_overwrites_total[15m])) > 2",
        what=f"{_ROLLOUT}: somebody else overwrites its weights again and again.",
        do="The Event WeightRestored names the field manager. Leave the weights out of what it applies, or tell Argo "
        "CD to ignore them (`rollouts doctor` shows the rule).",
    ),
    Alert(
        name="InferenceRolloutStepTakesLong",
        expr="(time() - max by (namespace, rollout) (rollouts_rollout_step_start_time_seconds) > 7200) "
        f"and on (namespace, rollout) ({_phase(Phase.PROGRESSING)})",
        lasts="10m",
        what=f"{_ROLLOUT} is in one step for more than two hours.",
        do="`kubectl rollouts get NAME` says what it waits for: requests, a gate that is undecided, or endpoints. A "
        "gate says when it expects to decide.",
    ),
    Alert(
        name="InferenceRolloutTargetNotReady",
        expr=f"{_phase(Phase.WAITING)} unless on (namespace, rollout) {_reason(*_FOR_OTHERS)}",
        lasts="1h",
        what=f"{_ROLLOUT} waits for its target for an hour.",
        do="The message says what the target lacks: the pool, its endpoint picker, Ready pods, the adapter. It is "
        "aborted after `targetDeadline`.",
    ),
    Alert(
        name="InferenceRolloutInLine",
        expr="time() - max by (namespace, rollout) (rollouts_rollout_queue_start_time_seconds) > 14400",
        severity="info",
        what=f"{_ROLLOUT} waits for its turn for more than four hours.",
        do="The message says where it is in line, and who is in progress: perhaps one of them is paused. Promote or "
        "abort that one, or raise `parallelism`. `promote --full` does not wait.",
    ),
    Alert(
        name="InferenceRolloutBehindOthers",
        expr=_reason(Reason.DEPENDENCY_ABORTED, Reason.DEPENDENCY_MISSING, Reason.DEPENDENCY_CYCLE),
        lasts="15m",
        what=f"{_ROLLOUT} waits for a Rollout that does not become Healthy by itself: {{{{ $labels.reason }}}}.",
        do="The message names it. Push a fix there or `retry` it, take it out of `dependsOn`, or revert this one.",
    ),
    Alert(
        name="InferenceRolloutPodsPending",
        expr='max by (namespace, rollout, arm) (rollouts_rollout_pods{state="pending"}) > 0',
        lasts="15m",
        what=f"{_ROLLOUT}: no node takes pods of the {{{{ $labels.arm }}}} for a quarter of an hour.",
        do="`kubectl rollouts explain NAME` has the scheduler's words. Free GPUs, lower `maxSurge` or `headroom`, or "
        "abort; `progressDeadline` runs meanwhile.",
    ),
    Alert(
        name="InferenceRolloutHarmGrows",
        expr='max by (namespace, rollout) (rollouts_gate_evidence{kind="harm_total"} / rollouts_gate_evidence_limit'
        '{kind="harm_total"}) > 0.5',
        severity="info",
        what=f"{_ROLLOUT}: the evidence of harm is more than half of what aborts it.",
        do="`kubectl rollouts get NAME` names the metric. Nothing has to be done: it aborts by itself, or the evidence "
        "falls again.",
    ),
    Alert(
        name="InferenceRolloutsNoLeader",
        expr="absent(rollouts_leader) or max(rollouts_leader) < 1",
        severity="critical",
        lasts="2m",
        what="No controller leads: traffic stays as it is, nothing is aborted.",
        do="Look at the controller's pods and at the Lease `inference-rollouts`. Where Prometheus cannot scrape the "
        "controller the alert fires, too.",
    ),
    Alert(
        name="InferenceRolloutsQueueStands",
        expr="max by (controller) (rollouts_queue_oldest_seconds) > 60",
        lasts="5m",
        what="The controller's {{ $labels.controller }} queue stands: a key waits for more than a minute.",
        do="Look at the CPU of the controller's pod, and at rollouts_reconcile_seconds by outcome. `--workers` is how "
        "many reconciles one namespace may hold.",
    ),
    Alert(
        name="InferenceRolloutsReconcilesFail",
        expr='sum by (controller) (rate(rollouts_reconcile_seconds_count{outcome=~"bug|timeout"}[10m])) > 0',
        lasts="15m",
        what="Reconciles of {{ $labels.controller }} fail again and again.",
        do="The log event reconcile_bug has the traceback; the object that it names is retried. Please report it.",
    ),
    Alert(
        name="InferenceRolloutsNotificationsFail",
        expr='sum by (receiver) (increase(rollouts_notifications_total{outcome!="delivered"}[30m])) > 0 '
        'and on (receiver) sum by (receiver) (increase(rollouts_notifications_total{outcome="delivered"}[30m])) == 0',
        lasts="15m",
        what="Receiver {{ $labels.receiver }} takes no notifications.",
        do="The log events notice_not_delivered and notice_given_up say why. They are tried again for a day, and stand "
        "in status.notices of their Rollouts until then.",
    ),
    Alert(
        name="InferenceRolloutsGatesUnexported",
        expr="max by (namespace) (rollouts_gates_unexported) > 0",
        severity="info",
        lasts="15m",
        what="Namespace {{ $labels.namespace }} has too many gates: figures of some are not exported.",
        do="Nothing is decided by exported figures. Fewer metrics per Rollout, or fewer Rollouts at a time.",
    ),
    Alert(
        name="InferencePickerFull",
        expr="sum by (instance) (increase(inference_picker_connections_closed_total"
        '{port="grpc", reason="full"}[5m])) > 0',
        severity="critical",
        what="Picker {{ $labels.instance }} turns gateways away: all its connections carry streams.",
        do="docs/native.md says how many it allows: a part of its memory limit. Give it more memory or replicas, and "
        "let in gateways alone (`networkPolicy.pickers`, `clientCaSecret`).",
    ),
    Alert(
        name="InferencePickerCrowded",
        expr="sum by (instance) (increase(inference_picker_connections_closed_total"
        '{reason=~"displaced_.*"}[10m])) > 0',
        lasts="10m",
        what="Picker {{ $labels.instance }} has all its connections taken, and many of them do nothing.",
        do="The log event connections_full counts them. Gateways are served; somebody connects and calls nothing: let "
        "in gateways alone (`networkPolicy.pickers`, `clientCaSecret`).",
    ),
    Alert(
        name="InferencePickerFails",
        expr="sum by (instance) (increase(inference_picker_failures_total[10m])) > 0",
        what="Picker {{ $labels.instance }} ended a request with a bug of its own.",
        do="The log events stream_failed and panicked have the place; other requests go on. Please report it. "
        "`dataPath: python`, or `native`, is the other implementation.",
    ),
)


def rules_file() -> str:
    """The rules in Prometheus' own format; the chart puts them into a PrometheusRule."""
    rules: list[dict[str, Any]] = [
        {
            "alert": alert.name,
            "expr": alert.expr,
            "for": alert.lasts,
            "labels": {"severity": alert.severity},
            "annotations": {
                "summary": alert.what,
                "description": alert.do,
                "runbook": f"docs/monitoring.md#{alert.name.lower()}",
            },
        }
        for alert in ALERTS
    ]
    body = yaml.safe_dump(
        {"groups": [{"name": "inference-rollouts", "rules": rules}]}, sort_keys=False, width=110
    )
    return f"# Generated from tools/alerts.py by `make generate`.\n{body}"
