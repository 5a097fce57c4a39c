"""Figures of gates as Prometheus series, read from the caches when they are asked for.

Nothing is kept: what is exported is what the AnalysisRuns of attempts in progress, and of aborted ones, say at that
moment, so that a series ends with its Rollout, its attempt or its gate. Names of metrics are a tenant's text, hence
bounded: per Rollout by the CRD, per namespace by ``GATES_PER_NAMESPACE``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from rollouts.api.run_status import GateFigures, attempt_of, gate_figures, step_of
from rollouts.controller.caches import Caches
from rollouts.runtime.objects import ObjectKey

__all__ = ["GATES_PER_NAMESPACE", "GateCollector", "gate_families"]

GATES_PER_NAMESPACE = 300
"""Sixty Rollouts in progress with five metrics each; at nine series a gate, 2,700 series of one tenant, which take
about 15 ms to write."""

_LABELS = ("namespace", "rollout", "scope", "metric")
_EFFECTS = {
    "effect_ratio": ("effect", "Change of the canary against stable: 1 is doubled."),
    "effect_low_ratio": ("effectLow", "Lower end of the effect's anytime-valid 95 % interval."),
    "effect_high_ratio": ("effectHigh", "Upper end of the effect's anytime-valid 95 % interval."),
}
_EVIDENCE = {"harm": "harm", "harm_total": "harmTotal", "proof": "proof"}
_LIMITS = {"harm_total": "abortAt", "proof": "passAt"}


def gate_families() -> Iterator[GaugeMetricFamily]:
    """The families without series: names, labels and help."""
    yield from _Families().all()


class GateCollector(Collector):
    """Series of the gates of all Rollouts in progress; none while this replica does not lead."""

    def __init__(self, caches: Caches, leads: Callable[[], bool]) -> None:
        self._caches = caches
        self._leads = leads

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """What the registry has to know of names."""
        yield from gate_families()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """All families with the series of this moment."""
        families = _Families()
        if self._leads():
            for namespace, gates in self._by_namespace().items():
                shown = list(gates.items())
                for labels, figures in shown[:GATES_PER_NAMESPACE]:
                    families.add((namespace, *labels), figures)
                families.unexported.add_metric([namespace], max(0, len(shown) - GATES_PER_NAMESPACE))
        yield from families.all()

    def _by_namespace(self) -> dict[str, dict[tuple[str, str, str], GateFigures]]:
        """Figures by (Rollout, scope, metric); of two runs with one scope and metric the newer counts."""
        found: dict[str, dict[tuple[str, str, str], GateFigures]] = {}
        for key in sorted(self._caches.rollouts):
            rollout = self._caches.rollouts.get(key)
            if rollout is None:
                continue
            for scope, run in self._runs(key, rollout):
                gates = found.setdefault(key.namespace, {})
                for figures in gate_figures(run):
                    gates[key.name, scope, figures.metric] = figures
        return found

    def _runs(self, key: ObjectKey, rollout: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The runs that judge the current attempt: its own, and its current step's."""
        status = rollout.get("status")
        if not isinstance(status, Mapping) or not status.get("canary"):
            return
        owned = self._caches.owned_runs(key, str(rollout["metadata"].get("uid", "")))
        for run in sorted(owned, key=lambda run: str(run["metadata"].get("creationTimestamp", ""))):
            step = step_of(run)
            if attempt_of(run) == status.get("attempt") and step in (None, status.get("currentStep", 0)):
                yield ("attempt" if step is None else "step"), run


class _Families:
    """One collection."""

    def __init__(self) -> None:
        self.value = self._family("value", "Last measurement of a threshold metric, in its own unit.")
        self.effects = {name: self._family(name, about) for name, (_, about) in _EFFECTS.items()}
        self.evidence = self._family(
            "evidence", "E-value: of the metric's own harm, of all harm, of being within tolerance.", "kind"
        )
        self.limit = self._family("evidence_limit", "Evidence at which a gate is decided.", "kind")
        self.unexported = GaugeMetricFamily(
            "rollouts_gates_unexported",
            "Gates of a namespace whose figures are left out because it has too many.",
            labels=["namespace"],
        )

    @staticmethod
    def _family(name: str, about: str, *more: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"rollouts_gate_{name}", about, labels=[*_LABELS, *more])

    def all(self) -> Iterator[GaugeMetricFamily]:
        yield from (self.value, *self.effects.values(), self.evidence, self.limit, self.unexported)

    def add(self, labels: tuple[str, ...], figures: GateFigures) -> None:
        if figures.value is not None:
            self.value.add_metric(labels, figures.value)
        for name, (figure, _) in _EFFECTS.items():
            if figure in figures.figures:
                self.effects[name].add_metric(labels, figures.figures[figure])
        for family, names in ((self.evidence, _EVIDENCE), (self.limit, _LIMITS)):
            for kind, figure in names.items():
                if figure in figures.figures:
                    family.add_metric([*labels, kind], figures.figures[figure])
