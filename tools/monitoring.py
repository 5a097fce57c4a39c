"""What the chart ships for Prometheus and Grafana, and docs/monitoring.md, from what controller and picker export."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.core import Metric
from prometheus_client.metrics import MetricWrapperBase

from rollouts.controller.gate_metrics import gate_families
from rollouts.controller.metrics import ControllerMetrics
from rollouts.picker.server_metrics import ServerFigures, ServerMetrics
from tools.alerts import ALERTS, Alert, rules_file
from tools.dashboards import DASHBOARDS, dashboard_json

__all__ = ["Exported", "exported", "exported_by_pickers", "monitoring"]

_ROOT = Path(__file__).resolve().parent.parent
_CHART = _ROOT / "charts" / "inference-rollouts" / "monitoring"
_PAGE = _ROOT / "docs" / "monitoring.md"
_ENDINGS = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A metric that controller or pickers export. ``name`` is what a query says, less the endings of a histogram."""

    name: str
    kind: str
    labels: tuple[str, ...]
    about: str

    @property
    def series(self) -> tuple[str, ...]:
        """Names of its series."""
        return (
            tuple(f"{self.name}{end}" for end in _ENDINGS[self.kind])
            if self.kind == "histogram"
            else (self.name,)
        )


def exported() -> tuple[Exported, ...]:
    """Everything on the controller's metrics page but what its HTTP server and Python add, by name."""
    found = []
    # The client library tells labels of a family that has no series yet by private attributes alone.
    for metric in vars(ControllerMetrics()).values():
        if isinstance(metric, MetricWrapperBase):
            name = metric._name + ("_total" if metric._type == "counter" else "")
            labels = tuple(metric._labelnames)
            found.append(Exported(name=name, kind=metric._type, labels=labels, about=metric._documentation))
    found += [_family(family) for family in gate_families()]
    return tuple(sorted(found, key=lambda one: one.name))


def exported_by_pickers() -> tuple[Exported, ...]:
    """What a picker's page says of its server; the figures of requests are for the gates."""
    return tuple(_family(family) for family in ServerMetrics(ServerFigures).collect())


def _family(family: Metric) -> Exported:
    name = family.name + ("_total" if family.type == "counter" else "")
    labels = tuple(family._labelnames)  # type: ignore[attr-defined]  # of all that are made by their class
    return Exported(name=name, kind=family.type, labels=labels, about=family.documentation.rstrip(".") + ".")


def monitoring() -> Iterator[tuple[Path, str]]:
    """The dashboards, the rules and the page."""
    for dashboard in DASHBOARDS:
        yield _CHART / "dashboards" / f"{dashboard.uid}.json", dashboard_json(dashboard)
    yield _CHART / "alerts.yaml", rules_file()
    yield _PAGE, "\n".join(_page()) + "\n"


def _page() -> Iterator[str]:
    yield from _HEAD
    yield from _table(exported())
    yield from _OF_PICKERS
    yield from _table(exported_by_pickers())
    yield from (
        "",
        "## Alerts",
        "",
        "`charts/inference-rollouts/monitoring/alerts.yaml`, for Prometheus as it is.",
        "",
    )
    for alert in ALERTS:
        yield from _runbook(alert)
    yield from ("## Dashboards", "")
    for dashboard in DASHBOARDS:
        titles = "; ".join(panel.title for panel in dashboard.panels)
        yield f"- **{dashboard.title}** (`monitoring/dashboards/{dashboard.uid}.json`): {titles}."


def _table(metrics: tuple[Exported, ...]) -> Iterator[str]:
    for one in metrics:
        labels = ", ".join(f"`{label}`" for label in one.labels)
        yield f"| `{one.name}` | {one.kind} | {labels} | {one.about} |"


_HEAD = """# Monitoring

Generated from the registries of controller and picker, `tools/alerts.py` and `tools/dashboards.py` by `make generate`.

## Installing it

With the Prometheus operator and Grafana's sidecar the chart makes the objects: `serviceMonitor.enabled=true` (the
controller), `podMonitor.enabled=true` (the pickers), `prometheusRule.enabled=true` (a PrometheusRule), each with the
`labels` that your Prometheus selects by, and `dashboards.enabled=true` (a ConfigMap for each dashboard;
`dashboards.labels` is `grafana_dashboard: "1"`). Without the last two take the files of
`charts/inference-rollouts/monitoring` as they are: `rule_files` of Prometheus, *Import* of Grafana.

**Scrape with `honor_labels: true`** (the chart's ServiceMonitor and PodMonitor do): the series carry the namespace of
their Rollout. Without it a target label `namespace` renames that to `exported_namespace`, which no query here asks for.

## Metrics

A tenant's text is in no label but names of Rollouts and of metrics; a Rollout's series go with it, a gate's with its
attempt. `scope` of a gate is `attempt` or, of the current step's own run, `step`.

| metric | type | labels | meaning |
|---|---|---|---|""".splitlines()


_OF_PICKERS = """
Of each picker, beside the figures of requests that gates read. grpc.aio does not tell its connections, so that the
Python data path has no series of those three families; reasons and limits are in [native.md](native.md#connections).

| metric | type | labels | meaning |
|---|---|---|---|""".splitlines()


def _runbook(alert: Alert) -> Iterator[str]:
    what = alert.what.replace("{{ $labels.namespace }}/{{ $labels.rollout }}", "NAMESPACE/NAME")
    for label in ("reason", "controller", "namespace", "receiver", "instance"):
        what = what.replace(f"{{{{ $labels.{label} }}}}", label.upper())
    after = "" if alert.lasts == "0m" else f", after {alert.lasts}"
    yield from (f"### {alert.name}", "", f"{what} ({alert.severity}{after})", "", alert.do, "")
