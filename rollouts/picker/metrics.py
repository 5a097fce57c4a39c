"""The picker's own metrics, in the Prometheus text format and in OpenMetrics.

``requests_total`` carries the status as ``code``: of the response where it was measured, of the refusal where
the picker answered itself, ``499`` where the client left first, and empty where nobody looked. Error ratios
are therefore ``request_errors_total / requests_total{code!=""}``; shares are taken over all requests.

``variant`` is the PoolSplit's name for the version of the pod, and ``split`` the PoolSplit's own: two of one pool may
call their versions alike. Both are empty, which Prometheus takes for absent, where no PoolSplit covers the request.

Labels are bounded: model names that no rule has become ``other`` beyond a limit, and the series of pods that
are gone are dropped after a while.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from rollouts.objects.picker_pages import CONFIGURED_WEIGHT
from rollouts.picker.core.measure import Ending, ObservedResponse
from rollouts.picker.core.routing import Decision, Refusal, Router
from rollouts.picker.endpoint_metrics import EndpointMetrics
from rollouts.picker.variant_metrics import VariantMetrics, variant_shares

__all__ = ["LABELS", "MAX_MODELS", "TEXTS", "PickerMetrics"]

disable_created_metrics()  # type: ignore[no-untyped-call]  # theirs
"""``_created`` series say when each series began in this process: the native path does not know, and nobody reads them
here. Off on both paths, they are a third of the page less."""

MAX_MODELS = 100
"""Model names outside the rules that get a label of their own: clients choose them freely."""

MAX_NAME = 253

LABELS = ("model", "target_model", "pool", "pod", "variant", "split")
"""Of all series of requests."""

TEXTS = {
    "requests_total": "Requests by outcome",
    "request_errors_total": "Measured requests that failed",
    "aborts_total": "Measured requests whose response was cut short",
    "tokens_total": "Tokens of measured requests",
    "ttft_seconds": "Dispatch to the first event of a stream",
    "time_per_output_token_seconds": "Streams only",
    "e2e_seconds": "Dispatch to the end of the response",
    "prompt_tokens": "Tokens of the prompt, where the answer says",
}
"""What the families of requests say of themselves, by their names without ``inference_picker_``."""

Labels = tuple[str, str, str, str, str, str]
_GONE_AFTER = 900.0
"""Seconds that the series of a pod stay after it went: three scrapes of the slowest Prometheus."""

# vLLM's own buckets, so that the two can be laid over each other.
_TTFT = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
    160,
)
_PER_TOKEN = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.75,
    1,
    2.5,
    5,
    10,
)
_E2E = (
    0.01,
    0.025,
    0.05,
    0.1,
    0.2,
    0.3,
    0.5,
    0.8,
    1,
    1.5,
    2,
    2.5,
    5,
    10,
    15,
    20,
    30,
    40,
    50,
    60,
    120,
    240,
    480,
)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
"""Of prompts; as in vLLM (vllm:request_prompt_tokens)."""


class _Shares(Collector):
    """Configured weight beside observed share, both as fractions of one."""

    def __init__(self, router: Router) -> None:
        self._router = router

    def collect(self) -> list[GaugeMetricFamily]:
        labels = ("model", "target_model")
        configured = GaugeMetricFamily(CONFIGURED_WEIGHT, "Share by the rule's weights", labels=labels)
        observed = GaugeMetricFamily(
            "inference_picker_observed_share",
            "Share of requests since the weights changed",
            labels=labels,
        )
        counts = self._router.shares()
        for rule in self._router.snapshot.rules.winners():
            model = rule.model or "*"
            total = sum(target.weight for target in rule.targets)
            seen = counts.get(rule.model, {})
            for target in rule.targets:
                configured.add_metric([model, target.name], target.weight / total)
            for name, count in seen.items():
                observed.add_metric([model, name], count / sum(seen.values()))
        variant_shares(self._router.counted(), configured, observed)
        return [configured, observed]


class PickerMetrics:
    """Told about every request (it is the ``Observer`` of the protocol)."""

    def __init__(self, router: Router, reads_pool_splits: Callable[[], bool] = lambda: True) -> None:
        self._router = router
        self.registry = CollectorRegistry()
        self.registry.register(_Shares(router))
        self.registry.register(EndpointMetrics(router))
        self._strangers: set[str] = set()
        self._series: dict[Labels, float | None] = {}  # labels -> when the pod went
        self._children: dict[tuple[Counter | Histogram, tuple[str, ...]], Any] = {}
        self._dispatched: dict[tuple[object, ...], Any] = {}  # a short cut past the labels
        self._known: dict[Labels, Labels] = {}  # names to labels
        self._register_requests(self.registry)
        self.registry.register(VariantMetrics(router.variants, reads_pool_splits))

    def _register_requests(self, registry: CollectorRegistry) -> None:
        """What is filled here, request by request."""
        self._requests = self._counter("requests_total", (*LABELS, "code"))
        self._errors = self._counter("request_errors_total")
        self._aborts = self._counter("aborts_total")
        self._tokens = self._counter("tokens_total", (*LABELS, "kind"))
        self._ttft = self._histogram("ttft_seconds", _TTFT)
        self._per_token = self._histogram("time_per_output_token_seconds", _PER_TOKEN)
        self._e2e = self._histogram("e2e_seconds", _E2E)
        self._prompt = self._histogram("prompt_tokens", _TOKENS)

    def _counter(self, name: str, labels: tuple[str, ...] = LABELS) -> Counter:
        return Counter(f"inference_picker_{name}", TEXTS[name], labels, registry=self.registry)

    def _histogram(self, name: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(
            f"inference_picker_{name}", TEXTS[name], LABELS, buckets=buckets, registry=self.registry
        )

    def expose(self, accept: str) -> tuple[bytes, str]:
        """(body, content type) in the format that the Accept header asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    # --- Observer ---------------------------------------------------------------------------------

    def refused(self, refusal: Refusal) -> None:
        """The picker answered itself."""
        pools = self._router.snapshot.pools
        pool = pools[0].name if len(pools) == 1 else ""
        place = (self._model(refusal.model), self._target(refusal.target), pool, "")
        labels = (*place, refusal.variant, refusal.pool_split)
        self._child(self._requests, (*labels, str(refusal.status))).inc()

    def dispatched(self, decision: Decision) -> None:
        """A request goes to a pod; a measured one is counted at its end, with its code."""
        if decision.measured:
            return
        endpoint = decision.endpoint
        variant = decision.variant and (decision.variant, decision.pool_split)  # nothing more without a split
        key = (decision.model, decision.target, endpoint.address, endpoint.pod, variant)
        counter = self._dispatched.get(key)
        if counter is None:
            if len(self._dispatched) >= 10_000:
                self._dispatched.clear()
            counter = self._dispatched[key] = self._child(self._requests, (*self._labels(decision), ""))
        counter.inc()

    def measured(self, decision: Decision, measurement: ObservedResponse) -> None:
        """The response is over."""
        labels = self._labels(decision)
        aborted = measurement.ending is Ending.ABORTED
        code = str(measurement.status) if measurement.status and not aborted else "499"
        self._child(self._requests, (*labels, code)).inc()
        if aborted:
            self._child(self._aborts, labels).inc()
        if measurement.error:
            self._child(self._errors, labels).inc()
            return
        for histogram, value in (
            (self._ttft, measurement.ttft),
            (self._per_token, measurement.time_per_output_token),
            (self._e2e, measurement.e2e),
            (self._prompt, measurement.prompt_tokens or None),
        ):
            if value is not None:
                self._child(histogram, labels).observe(value)
        if measurement.prompt_tokens:
            self._child(self._tokens, (*labels, "prompt")).inc(measurement.prompt_tokens)
        if measurement.completion_tokens:
            self._child(self._tokens, (*labels, "completion")).inc(measurement.completion_tokens)

    def _child(self, metric: Counter | Histogram, labels: tuple[str, ...]) -> Any:
        """``metric.labels(*labels)`` without its lock and checks."""
        key = (metric, labels)
        found = self._children.get(key)
        if found is None:
            found = self._children[key] = metric.labels(*labels)
        return found

    # --- labels -----------------------------------------------------------------------------------

    def _labels(self, decision: Decision) -> Labels:
        endpoint = decision.endpoint
        place = (decision.model, decision.target, endpoint.pool, endpoint.pod)
        names = (*place, decision.variant, decision.pool_split)
        labels = self._known.get(names)
        if labels is None:
            if len(self._known) >= 10_000:
                self._known.clear()
            labels = (self._model(decision.model), self._target(decision.target), *names[2:])
            self._known[names] = labels
        self._series[labels] = None
        return labels

    def _model(self, name: str) -> str:
        rule = self._router.snapshot.rules.find(name)
        known = (rule is not None and rule.model == name) or name in self._router.variants.names
        return name if known else self._stranger(name)

    def _target(self, name: str) -> str:
        known = any(name in counts for counts in self._router.shares().values())
        return name if known or name in self._router.variants.names else self._stranger(name)

    def _stranger(self, name: str) -> str:
        if not name or name in self._strangers:
            return name
        if len(self._strangers) >= MAX_MODELS or len(name) > MAX_NAME:
            return "other"
        self._strangers.add(name)
        return name

    def forget(self, now: float) -> None:
        """Drop the series of pods that have been gone for a while. Call it now and then."""
        self._dispatched.clear()  # names of clients come and go
        self._known.clear()
        alive = {(endpoint.pool, endpoint.pod) for endpoint in self._router.snapshot.endpoints}
        for labels, gone in list(self._series.items()):
            if labels[2:4] in alive:
                self._series[labels] = None
            elif gone is None:
                self._series[labels] = now
            elif now - gone > _GONE_AFTER:
                self._drop(labels)

    def _drop(self, labels: Labels) -> None:
        del self._series[labels]
        for metric, found in [key for key in self._children if key[1][: len(LABELS)] == labels]:
            metric.remove(*found)
            del self._children[(metric, found)]
