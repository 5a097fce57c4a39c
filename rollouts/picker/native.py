"""The native picker between the parts that stay in Python: objects and loads go in, what was counted comes out.

The Python router and scheduler go along as a mirror: they take the same snapshots and loads, route nothing, and get
their counts from the native ones when somebody asks. So whoever reads them (metrics, scraper, the descriptions of
splits) is the same on both data paths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from rollouts.picker.core.objects import Snapshot
from rollouts.picker.core.ports import BufferBudget
from rollouts.picker.core.routing import Router, Unready
from rollouts.picker.core.schedule import Load, ScheduledPod, Scheduler
from rollouts.picker.core.variants import VariantTable
from rollouts.picker.metrics import LABELS, TEXTS, PickerMetrics

__all__ = ["MirrorRouter", "NativeMetrics", "native_picker"]

_TOKENS = (("prompt_tokens", "prompt"), ("completion_tokens", "completion"))
_COUNTERS = (("errors", "request_errors_total"), ("aborts", "aborts_total"))
_HISTOGRAMS = (
    ("ttft", "ttft_seconds"),
    ("per_token", "time_per_output_token_seconds"),
    ("e2e", "e2e_seconds"),
    ("prompt", "prompt_tokens"),
)


def native_picker(
    *, unready: Unready, restore_model: bool, budget: BufferBudget, keep_streams: bool, variant_header: str
) -> Any:
    """The native core, with nothing to route by yet."""
    from inference_rollouts_native import Picker

    return Picker(
        unready=unready.value,
        restore_model=restore_model,
        body_limit=budget.body_limit,
        total_limit=budget.total_limit,
        keep_streams=keep_streams,
        variant_header=variant_header,
    )


class MirrorScheduler(Scheduler):
    """Loads go to both; dispatched requests are counted by the native one."""

    __slots__ = ("_native",)

    def __init__(self, native: Any) -> None:
        super().__init__()
        self._native = native

    def observe(self, address: str, load: Load, now: float, *, before: int | None = None) -> None:
        self._native.observe(address, load, now, before=before)
        super().observe(address, load, now)

    def dispatched(self, address: str) -> int:
        return int(self._native.dispatched(address))

    def busy(self, address: str) -> bool:
        pod = self._pods.get(address)
        if pod is not None:
            pod.dispatched = self.dispatched(address)
        return super().busy(address)

    def pods(self) -> list[ScheduledPod]:
        dispatched = self._native.all_dispatched()
        for pod in self._all:
            pod.dispatched = dispatched.get(pod.endpoint.address, 0)
        self.to_draining.update(
            {pool: n - self.to_draining[pool] for pool, n in self._native.to_draining().items()}
        )
        return super().pods()


class MirrorRouter(Router):
    """Snapshots go to both; what was decided is counted by the native one."""

    def __init__(self, native: Any) -> None:
        super().__init__(MirrorScheduler(native))
        self._native = native

    def update(self, snapshot: Snapshot, now: float, wall: float) -> None:
        """Take over a new state of the cluster. Splits whose weights did not change go on."""
        self._native.update(snapshot, now, wall)
        super().update(snapshot, now, wall)

    def shares(self) -> Mapping[str, Mapping[str, int]]:
        """Requests per rule's model and target since the weights last changed."""
        found: Mapping[str, Mapping[str, int]] = self._native.shares()
        return found

    def counted(self) -> VariantTable:
        """The splits into variants, with their requests since the weights last changed."""
        counts = self._native.variant_counts()
        for key, split in self.variants.by_key.items():
            split.counts.clear()
            split.counts.update(counts.get(key, {}))
        return self.variants


class _NativeSeries(Collector):
    """The counters and histograms of requests as the native core filled them."""

    def __init__(self, native: Any) -> None:
        self._native = native
        self._bounds = {
            name: [*(floatToGoString(bound) for bound in bounds), "+Inf"]  # type: ignore[no-untyped-call]
            for name, bounds in native.buckets().items()
        }

    def collect(self) -> Iterator[Metric]:
        """The families of ``PickerMetrics``."""
        series = self._native.counters()
        requests = self._counter("requests_total", "code")
        tokens = self._counter("tokens_total", "kind")
        for labels, figures in series:
            for code, count in figures["requests"].items():
                requests.add_metric([*labels, str(code) if code else ""], count)
            for name, kind in _TOKENS:
                if name in figures:
                    tokens.add_metric([*labels, kind], figures[name])
        yield requests
        for name, family in _COUNTERS:
            yield self._filled(self._counter(family), name, series)
        yield tokens
        for name, family in _HISTOGRAMS:
            yield self._histogram(name, family, series)

    def _counter(self, family: str, *more: str) -> CounterMetricFamily:
        return CounterMetricFamily(f"inference_picker_{family}", TEXTS[family], labels=(*LABELS, *more))

    def _filled(self, family: CounterMetricFamily, name: str, series: Any) -> CounterMetricFamily:
        for labels, figures in series:
            if name in figures:
                family.add_metric(labels, figures[name])
        return family

    def _histogram(self, name: str, family: str, series: Any) -> HistogramMetricFamily:
        found = HistogramMetricFamily(f"inference_picker_{family}", TEXTS[family], labels=LABELS)
        for labels, figures in series:
            if name in figures:
                counts, total = figures[name]
                found.add_metric(labels, _summed(self._bounds[name], counts), total)
        return found


def _summed(bounds: list[str], counts: list[int]) -> list[tuple[str, float]]:
    """Counts by bucket as Prometheus has them: of all values up to the bound."""
    found, total = [], 0
    for bound, count in zip(bounds, counts, strict=True):
        total += count
        found.append((bound, float(total)))
    return found


class NativeMetrics(PickerMetrics):
    """The same families, those of requests read off the native core."""

    def __init__(self, router: MirrorRouter, native: Any, reads_pool_splits: Callable[[], bool]) -> None:
        self._native = native
        super().__init__(router, reads_pool_splits)

    def _register_requests(self, registry: CollectorRegistry) -> None:
        registry.register(_NativeSeries(self._native))

    def forget(self, now: float) -> None:
        """Drop the series of pods that have been gone for a while. Call it now and then."""
        self._native.forget(now)
