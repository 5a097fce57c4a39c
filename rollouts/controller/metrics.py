"""The controller's own Prometheus metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from rollouts.engine.rollout_status import Phase, RolloutStatus, WeightStatus
from rollouts.units import Weight

__all__ = ["ControllerMetrics"]

_RECONCILE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class ControllerMetrics:
    """All series, on a registry of their own. Labels are bounded by the number of Rollouts and kinds."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._shown: dict[tuple[str, str], tuple[Phase, WeightStatus, int]] = {}
        self.reconcile_seconds = Histogram(
            "rollouts_reconcile_seconds",
            "Time of one reconcile.",
            ["controller", "outcome"],
            buckets=_RECONCILE_BUCKETS,
            registry=self.registry,
        )
        self.queue_depth = Gauge(
            "rollouts_queue_depth", "Keys waiting in the work queue.", ["controller"], registry=self.registry
        )
        self.queue_oldest = Gauge(
            "rollouts_queue_oldest_seconds",
            "Age of the longest waiting key.",
            ["controller"],
            registry=self.registry,
        )
        self.api_requests = Counter(
            "rollouts_api_requests_total",
            "Requests to the API server.",
            ["verb", "resource", "code"],
            registry=self.registry,
        )
        self.traffic_writes = Counter(
            "rollouts_traffic_writes_total", "Writes of traffic weights.", ["reason"], registry=self.registry
        )
        self.foreign_writes = Counter(
            "rollouts_traffic_overwrites_total",
            "Foreign writes that were found.",
            ["namespace", "rollout"],
            registry=self.registry,
        )
        self.phase = Gauge(
            "rollouts_rollout_phase",
            "1 for the phase that a Rollout is in.",
            ["namespace", "rollout", "phase"],
            registry=self.registry,
        )
        self.weight = Gauge(
            "rollouts_rollout_weight_ratio",
            "Share of the target, 0 to 1.",
            ["namespace", "rollout", "kind"],
            registry=self.registry,
        )
        self.step = Gauge(
            "rollouts_rollout_step",
            "Current step, 0-based.",
            ["namespace", "rollout"],
            registry=self.registry,
        )
        self.refused = Gauge(
            "rollouts_traffic_refused",
            "1 while the API server refuses the write of the traffic object that a Rollout needs.",
            ["namespace", "rollout"],
            registry=self.registry,
        )
        self.leader = Gauge("rollouts_leader", "1 while this replica leads.", registry=self.registry)

    def show(self, namespace: str, name: str, status: RolloutStatus) -> None:
        """Publish what a Rollout's status says; most plans change nothing of it."""
        said = (status.phase, status.weight, status.current_step)
        if self._shown.get((namespace, name)) == said:
            return
        self._shown[namespace, name] = said
        for phase in Phase:
            if phase is not Phase.NEW:
                self.phase.labels(namespace, name, phase.value).set(1 if phase is status.phase else 0)
        weights: dict[str, Weight | None] = {
            "desired": status.weight.desired,
            "applied": status.weight.applied,
            "observed": status.weight.observed,
        }
        for kind, weight in weights.items():
            if weight is not None:
                self.weight.labels(namespace, name, kind).set(weight / 10_000)
        self.step.labels(namespace, name).set(status.current_step)

    def accepted(self, namespace: str, name: str) -> None:
        """Nothing is refused any more."""
        self._drop(self.refused, namespace, name)

    def forget(self, namespace: str, name: str) -> None:
        """Drop the series of a deleted Rollout."""
        self._shown.pop((namespace, name), None)
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
