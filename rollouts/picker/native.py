"""The native data path, as the control side sees it: under the names of Python's own, with decisions made in Rust.

Objects, watches, scraping and pages stay in Python. The extension is given each snapshot and each pod's load, and decides,
counts and measures on threads of its own, without the interpreter; what it counted is read off it when somebody asks.
Its rules are those of ``picker/core``, module for module; the tests of these run on both.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from rollouts.picker.core.objects import Snapshot
from rollouts.picker.core.ports import BufferBudget
from rollouts.picker.core.routing import Decision, Refusal, Request, Router, Unready
from rollouts.picker.core.schedule import Load, ScheduledPod, Scheduler
from rollouts.picker.endpoint_metrics import EndpointMetrics
from rollouts.picker.metrics import LABELS, Shares
from rollouts.picker.variant_metrics import VariantMetrics

__all__ = ["NativeMetrics", "NativeRouter", "extension"]


def extension() -> Any:
    """The module of the extension. Raises ImportError where it is not installed."""
    return importlib.import_module("inference_rollouts_native")


class _Scheduler(Scheduler):
    """Hands every load on; what was dispatched is known to the extension alone."""

    __slots__ = ("_native",)

    def __init__(self, native: Any) -> None:
        super().__init__()
        self._native = native

    def observe(self, address: str, load: Load, now: float, *, missed: int = 0) -> None:
        """See ``Scheduler``."""
        super().observe(address, load, now, missed=missed)
        self._native.observe(address, load, now, missed=missed)

    def dispatched(self, address: str) -> int:
        """See ``Scheduler``."""
        return int(self._native.dispatched(address))

    def busy(self, address: str) -> bool:
        """See ``Scheduler``."""
        pod = self._pods.get(address)
        return pod is not None and pod.load.running + pod.load.waiting + self.dispatched(address) > 0

    def pods(self) -> list[ScheduledPod]:
        """See ``Scheduler``."""
        dispatched = self._native.all_dispatched()
        for pod in self._all:
            pod.dispatched = dispatched.get(pod.endpoint.address, 0)
        self.to_draining = Counter(self._native.to_draining())
        return self._all


class NativeRouter(Router):
    """Takes over snapshots and loads for the extension's ``Picker``, which is ``native``."""

    def __init__(
        self,
        *,
        unready: Unready = Unready.SPILL,
        restore_model: bool = False,
        budget: BufferBudget | None = None,
        keep_streams: bool = False,
        variant_header: str = "",
    ) -> None:
        budget = budget or BufferBudget()
        self.native = extension().Picker(
            unready=unready.value,
            restore_model=restore_model,
            body_limit=budget.body_limit,
            total_limit=budget.total_limit,
            keep_streams=keep_streams,
            variant_header=variant_header,
        )
        super().__init__(_Scheduler(self.native), unready=unready, restore_model=restore_model)

    def update(self, snapshot: Snapshot, now: float, wall: float) -> None:
        """See ``Router``."""
        super().update(snapshot, now, wall)
        self.native.update(snapshot, now, wall)

    def route(self, request: Request, now: float) -> Decision | Refusal:
        """See ``Router``. For tests: streams are routed without Python."""
        fields = self.native.route(request, now)
        if isinstance(fields[0], int):
            return Refusal(*fields)
        model, target, address, *rest = fields
        endpoint = next(found for found in self.scheduler.endpoints() if found.address == address)
        return Decision(model, target, endpoint, *rest)

    def shares(self) -> Mapping[str, Mapping[str, int]]:
        """See ``Router``."""
        shares: Mapping[str, Mapping[str, int]] = self.native.shares()
        return shares

    def refresh(self) -> None:
        """Bring the counts of the variants up to date, before they are shown."""
        counts = self.native.variant_counts()
        for key, split in self.variants.by_key.items():
            split.counts = Counter(counts.get(key, {}))


_COUNTERS = {
    "errors": ("request_errors", "Measured requests that failed"),
    "aborts": ("aborts", "Measured requests whose response was cut short"),
}
_TOKENS = {"prompt_tokens": "prompt", "completion_tokens": "completion"}
_HISTOGRAMS = {
    "ttft": ("ttft_seconds", "Dispatch to the first event of a stream"),
    "per_token": ("time_per_output_token_seconds", "Streams only"),
    "e2e": ("e2e_seconds", "Dispatch to the end of the response"),
    "prompt": ("prompt_tokens", "Tokens of the prompt, where the answer says"),
}


class _Counted(Collector):
    """What the extension counted, under the names of ``PickerMetrics``."""

    def __init__(self, native: Any) -> None:
        self._native = native
        bounds = native.buckets()
        self._bounds = {name: [*map(floatToGoString, bounds[name]), "+Inf"] for name in _HISTOGRAMS}

    def collect(self) -> Iterator[Metric]:
        """One family per counter and histogram."""
        requests = _counter("requests", "Requests by outcome", "code")
        tokens = _counter("tokens", "Tokens of measured requests", "kind")
        counters = {name: _counter(*about) for name, about in _COUNTERS.items()}
        histograms = {
            name: HistogramMetricFamily(f"inference_picker_{title}", text, labels=LABELS)
            for name, (title, text) in _HISTOGRAMS.items()
        }
        for labels, figures in self._native.counters():
            for code, count in figures["requests"].items():
                requests.add_metric([*labels, str(code or "")], count)
            for name, family in counters.items():
                if name in figures:
                    family.add_metric(labels, figures[name])
            for name, kind in _TOKENS.items():
                if name in figures:
                    tokens.add_metric([*labels, kind], figures[name])
            for name, histogram in histograms.items():
                if name in figures:
                    counts, total = figures[name]
                    histogram.add_metric(labels, self._summed(name, counts), total)
        yield from (requests, *counters.values(), tokens, *histograms.values())

    def _summed(self, name: str, counts: list[int]) -> list[tuple[str, float]]:
        found, total = [], 0
        for bound, count in zip(self._bounds[name], counts, strict=True):
            total += count
            found.append((bound, float(total)))
        return found


def _counter(name: str, text: str, *more: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"inference_picker_{name}", text, labels=(*LABELS, *more))


class NativeMetrics:
    """The pages of ``PickerMetrics``, of what the extension counted."""

    def __init__(self, router: NativeRouter, reads_pool_splits: Callable[[], bool] = lambda: True) -> None:
        self._router = router
        self.registry = CollectorRegistry()
        self.registry.register(Shares(router))
        self.registry.register(EndpointMetrics(router))
        self.registry.register(_Counted(router.native))
        self.registry.register(VariantMetrics(router.variants, reads_pool_splits))

    def expose(self, accept: str) -> tuple[bytes, str]:
        """(body, content type) in the format that the Accept header asks for."""
        self._router.refresh()
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def forget(self, now: float) -> None:
        """Drop the series of pods that have been gone for a while. Call it now and then."""
        self._router.native.forget(now)
