"""Grafana dashboards: all Rollouts at a glance, one Rollout in depth, and the endpoint pickers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

__all__ = ["DASHBOARDS", "Dashboard", "Panel", "dashboard_json"]

_SCHEMA = 39
"""Of Grafana 10.4; later ones migrate it when it is opened."""
_COLUMNS = 24
_HEIGHT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel. ``queries`` are (PromQL, legend); ``kind`` a Grafana panel type, ``unit`` a Grafana unit."""

    title: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    unit: str = "short"
    width: int = 12
    about: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """``variables`` are (name, metric, label): the values of a label, narrowed by the variables before it."""

    uid: str
    title: str
    panels: tuple[Panel, ...]
    variables: tuple[tuple[str, str, str], ...] = ()


def _counted(metric: str, *labels: str, over: str = "") -> tuple[str, str]:
    """A counter by labels, which are the legend: per second, or all of the time ``over``."""
    grown = f"increase({metric}[{over}])" if over else f"rate({metric}[$__rate_interval])"
    return f"sum by ({', '.join(labels)}) ({grown})", " ".join(f"{{{{{label}}}}}" for label in labels)


_OF = 'namespace=~"$namespace"'
_ONE = 'namespace="$namespace", rollout="$rollout"'

_OVERVIEW = Dashboard(
    uid="inference-rollouts",
    title="Inference rollouts",
    variables=(("namespace", "rollouts_rollout_phase", "namespace"),),
    panels=(
        Panel(
            title="Rollouts by phase",
            queries=(
                (
                    f"sum by (phase) (max by (namespace, rollout, phase) (rollouts_rollout_phase{{{_OF}}}))",
                    "{{phase}}",
                ),
            ),
            width=8,
        ),
        Panel(
            title="Attempts that ended, per day",
            queries=(_counted(f"rollouts_attempts_total{{{_OF}}}", "outcome", over="1d"),),
            width=8,
        ),
        Panel(
            title="Time of a step, 90th percentile of a day",
            queries=(
                (
                    "histogram_quantile(0.9, sum by (le, kind) (increase(rollouts_step_seconds_bucket[1d])))",
                    "{{kind}}",
                ),
            ),
            unit="s",
            width=8,
        ),
        Panel(
            title="Not Healthy, and why",
            queries=(
                (
                    f'max by (namespace, rollout, phase) (rollouts_rollout_phase{{{_OF}, phase!="Healthy"}}) == 1',
                    "{{namespace}}/{{rollout}} {{phase}}",
                ),
                (
                    f"max by (namespace, rollout, reason) (rollouts_rollout_reason{{{_OF}}}) == 1",
                    "{{namespace}}/{{rollout}} {{reason}}",
                ),
            ),
            kind="table",
        ),
        Panel(
            title="Who waits, and for what",
            queries=(("sum by (reason) (rollouts_waiting) > 0", "{{reason}}"),),
        ),
        Panel(
            title="In line, and for how long",
            queries=(
                (
                    f"time() - max by (namespace, rollout) (rollouts_rollout_queue_start_time_seconds{{{_OF}}})",
                    "{{namespace}}/{{rollout}}",
                ),
            ),
            kind="table",
            unit="s",
        ),
        Panel(
            title="Share of the new version",
            queries=(
                (
                    f'max by (namespace, rollout) (rollouts_rollout_weight_ratio{{{_OF}, kind="applied"}})',
                    "{{namespace}}/{{rollout}}",
                ),
            ),
            unit="percentunit",
        ),
        Panel(
            title="Writes of weights",
            queries=(_counted("rollouts_traffic_writes_total", "reason"),),
            unit="ops",
            width=8,
        ),
        Panel(
            title="Foreign writes that were restored",
            queries=(
                (
                    f"sum by (namespace, rollout) (increase(rollouts_traffic_overwrites_total{{{_OF}}}[1h]))",
                    "{{namespace}}/{{rollout}}",
                ),
            ),
            width=8,
        ),
        Panel(title="Leader", queries=(("sum(rollouts_leader)", "leading"),), kind="stat", width=8),
        Panel(
            title="Time of a reconcile",
            queries=tuple(
                (
                    f"histogram_quantile({share}, sum by (le, controller) "
                    "(rate(rollouts_reconcile_seconds_bucket[$__rate_interval])))",
                    f"{{{{controller}}}} p{share * 100:g}",
                )
                for share in (0.5, 0.99)
            ),
            unit="s",
            width=8,
        ),
        Panel(
            title="Oldest key in a queue",
            queries=(
                ("max by (controller) (rollouts_queue_oldest_seconds)", "{{controller}}"),
                ("max by (controller) (rollouts_queue_depth)", "{{controller}} keys"),
            ),
            unit="s",
            width=8,
        ),
        Panel(
            title="Requests to the API server",
            queries=(_counted("rollouts_api_requests_total", "verb", "code"),),
            unit="reqps",
            width=8,
        ),
        Panel(
            title="Notifications",
            queries=(
                _counted("rollouts_notifications_total", "receiver", "outcome", over="1h"),
                ("sum by (receiver) (rollouts_notifications_pending)", "{{receiver}} pending"),
            ),
            width=12,
        ),
        Panel(
            title="Answers of those who approve",
            queries=(_counted("rollouts_approvals_total", "receiver", "answer", over="1h"),),
            width=12,
        ),
    ),
)

_DETAIL = Dashboard(
    uid="inference-rollout",
    title="Inference rollout",
    variables=(
        ("namespace", "rollouts_rollout_phase", "namespace"),
        ("rollout", "rollouts_rollout_phase", "rollout"),
    ),
    panels=(
        Panel(
            title="Phase",
            queries=((f"max by (phase) (rollouts_rollout_phase{{{_ONE}}}) == 1", "{{phase}}"),),
            kind="state-timeline",
            width=16,
        ),
        Panel(
            title="Step (from 0), and how long",
            queries=(
                (f"max(rollouts_rollout_step{{{_ONE}}})", "step"),
                (f"time() - max(rollouts_rollout_step_start_time_seconds{{{_ONE}}})", "seconds"),
            ),
            kind="stat",
            width=8,
        ),
        Panel(
            title="Share of the new version: asked for, set, seen",
            queries=((f"max by (kind) (rollouts_rollout_weight_ratio{{{_ONE}}})", "{{kind}}"),),
            unit="percentunit",
            width=24,
        ),
        Panel(
            title="Pods of a rollout that scales",
            queries=(
                (f"max by (arm, state) (rollouts_rollout_pods{{{_ONE}}})", "{{arm}} {{state}}"),
                (f'sum(max by (arm) (rollouts_rollout_pods{{{_ONE}, state="wanted"}}))', "all"),
            ),
            width=12,
            about="Where strategy.canary.capacity is set. Prefill, say, is canary/prefill there.",
        ),
        Panel(
            title="Pod-hours in the last day, both versions",
            queries=(
                (
                    f'sum(sum_over_time(max by (arm) (rollouts_rollout_pods{{{_ONE}, state="wanted"}})[1d:1m])) / 60',
                    "pod-hours",
                ),
            ),
            kind="stat",
            width=12,
            about="While an attempt scales, with companions. Times the GPUs of a pod they are GPU-hours.",
        ),
        Panel(
            title="GPUs held by all versions of an attempt",
            queries=((f"max(rollouts_rollout_accelerators{{{_ONE}}})", "GPUs"),),
            width=12,
            about="What pods that have a node ask for, where strategy.canary.capacity is set.",
        ),
        Panel(
            title="GPU-hours of the last attempt",
            queries=((f"max by (part) (rollouts_rollout_accelerator_seconds{{{_ONE}}}) / 3600", "{{part}}"),),
            kind="stat",
            width=12,
            about="extra: beyond what stable held at the start.",
        ),
        Panel(
            title="Effect against stable, with its 95 % interval",
            queries=(
                (f"max by (metric) (rollouts_gate_effect_ratio{{{_ONE}}})", "{{metric}}"),
                (f"max by (metric) (rollouts_gate_effect_low_ratio{{{_ONE}}})", "{{metric}} low"),
                (f"max by (metric) (rollouts_gate_effect_high_ratio{{{_ONE}}})", "{{metric}} high"),
            ),
            unit="percentunit",
            about="0 is no difference, 100 % is doubled.",
        ),
        Panel(
            title="Evidence of harm",
            queries=(
                (f'max by (metric) (rollouts_gate_evidence{{{_ONE}, kind="harm"}})', "{{metric}}"),
                (f'max(rollouts_gate_evidence{{{_ONE}, kind="harm_total"}})', "all"),
                (f'max(rollouts_gate_evidence_limit{{{_ONE}, kind="harm_total"}})', "aborts at"),
            ),
            about="E-values: the attempt is aborted when all of them together reach the limit.",
        ),
        Panel(
            title="Evidence of being within tolerance",
            queries=(
                (f'max by (metric) (rollouts_gate_evidence{{{_ONE}, kind="proof"}})', "{{metric}}"),
                (f'max(rollouts_gate_evidence_limit{{{_ONE}, kind="proof"}})', "passes at"),
            ),
        ),
        Panel(
            title="Values of threshold metrics",
            queries=((f"max by (scope, metric) (rollouts_gate_value{{{_ONE}}})", "{{metric}} ({{scope}})"),),
        ),
    ),
)

_PICKERS = Dashboard(
    uid="inference-pickers",
    title="Inference pickers",
    panels=(
        Panel(
            title="Open streams",
            queries=(("sum by (instance) (inference_picker_streams)", "{{instance}}"),),
            about="ext_proc streams: requests, and responses that are measured.",
            width=8,
        ),
        Panel(
            title="Connections",
            queries=(
                ("sum by (instance, port) (inference_picker_connections)", "{{instance}} {{port}}"),
                ("min by (port) (inference_picker_connections_limit)", "{{port}} at most"),
            ),
            about="Native data path alone.",
            width=8,
        ),
        Panel(
            title="Connections that ended, by why",
            queries=(_counted("inference_picker_connections_closed_total", "port", "reason"),),
            unit="ops",
            about="Native data path alone. full: turned away.",
            width=8,
        ),
        Panel(
            title="Bugs, and lines of the log that were lost",
            queries=(
                ("sum by (instance) (increase(inference_picker_failures_total[1h]))", "{{instance}} bugs"),
                (
                    "sum by (instance) (increase(inference_picker_log_events_dropped_total[1h]))",
                    "{{instance}} lost lines",
                ),
            ),
            width=24,
        ),
    ),
)

DASHBOARDS = (_OVERVIEW, _DETAIL, _PICKERS)


def dashboard_json(dashboard: Dashboard) -> str:
    """The model that Grafana imports."""
    model = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": "Generated from tools/dashboards.py by `make generate`.",
        "tags": ["inference-rollouts"],
        "schemaVersion": _SCHEMA,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": _variables(dashboard)},
        "panels": _panels(dashboard),
    }
    return json.dumps(model, indent=1) + "\n"


def _variables(dashboard: Dashboard) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    ]
    known: list[str] = []
    for name, metric, label in dashboard.variables:
        query = (
            f"label_values({metric}{{{', '.join(known)}}}, {label})"
            if known
            else f"label_values({metric}, {label})"
        )
        single = len(dashboard.variables) > 1
        found.append(
            {
                "name": name,
                "type": "query",
                "datasource": _source(),
                "query": {"query": query, "refId": name},
                "refresh": 2,
                "sort": 1,
                "multi": not single,
                "includeAll": not single,
            }
        )
        known.append(f'{name}="${name}"')
    return found


def _source() -> dict[str, str]:
    return {"type": "prometheus", "uid": "${datasource}"}


def _panels(dashboard: Dashboard) -> list[dict[str, Any]]:
    found, x, y = [], 0, 0
    for number, panel in enumerate(dashboard.panels):
        if x + panel.width > _COLUMNS:
            x, y = 0, y + _HEIGHT
        found.append(
            {
                "id": number + 1,
                "type": panel.kind,
                "title": panel.title,
                "description": panel.about,
                "datasource": _source(),
                "gridPos": {"x": x, "y": y, "w": panel.width, "h": _HEIGHT},
                "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
                "targets": [_target(panel, *query, index) for index, query in enumerate(panel.queries)],
            }
        )
        x += panel.width
    return found


def _target(panel: Panel, expr: str, legend: str, index: int) -> dict[str, Any]:
    now = panel.kind in ("table", "stat")
    return {
        "refId": chr(ord("A") + index),
        "datasource": _source(),
        "expr": expr,
        "legendFormat": legend,
        **({"instant": True, "format": "table" if panel.kind == "table" else "time_series"} if now else {}),
    }
