"""The one catalogue of metrics: a row per logical series, a column per producer.

Presets, margins, what a source offers, the CRDs' words and the reference's table come from here. A new model server is
one more column (``_TENSORRT_LLM`` is the example), a new metric one more row.

vLLM's own metrics hold no error rate (failed requests never reach ``request_success_total``), so errors come from its
HTTP layer, by status class; what fails inside a stream that began with 200 is not visible there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from rollouts.analysis.evidence.model import (
    CountSeries,
    GaugeSeries,
    HistogramSeries,
    LostSeries,
    Series,
)
from rollouts.analysis.types import MeasureKind, MeasureSpec, Stat

__all__ = [
    "CATALOGUE",
    "COMPARED",
    "DEFAULT_PRESETS",
    "MEASURED",
    "PICKER",
    "SERVERS",
    "Groups",
    "Margins",
    "Over",
    "Row",
    "Selector",
    "margins_of",
    "number_of",
]


class Over(Enum):
    """What several series of one process make: the engines behind one port, the reasons of a queue."""

    SUM = "sum"
    MEAN = "mean"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """A series name and the label values that count.

    ``any_of`` maps a label to the values that do, ``none_of`` to those that do not.
    """

    name: str
    any_of: Mapping[str, tuple[str, ...]] | None = None
    none_of: Mapping[str, tuple[str, ...]] | None = None
    prefix: tuple[str, str] | None = None
    """(label, prefix): the label's value begins with it."""
    present: str = ""
    """A label that must not be empty."""
    sign: int = 1
    """-1: what it counts is taken off."""
    over: Over = Over.SUM

    def picks(self, labels: Mapping[str, str]) -> bool:
        """Whether a label set counts."""
        if self.prefix is not None and not labels.get(self.prefix[0], "").startswith(self.prefix[1]):
            return False
        if self.present and not labels.get(self.present):
            return False
        if any(labels.get(key) in values for key, values in (self.none_of or {}).items()):
            return False
        return all(labels.get(key) in values for key, values in (self.any_of or {}).items())


Groups = tuple[tuple[Selector, ...], ...]
"""Alternatives, newest name first: a page is read by the first whose first series it exposes."""


@dataclass(frozen=True, slots=True)
class Margins:
    """Growth that is not yet harm, and growth that a pass must rule out (fractions)."""

    margin: float
    tolerance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One logical series: what recordings, checkpoints and gates call it, and how it is judged.

    ``presets`` are the names that authors use, the first one in messages; none: only others are made of it. ``of`` is
    the total that a share is taken of. ``series``: how it is compared, None where it is not.
    """

    name: str
    unit: str
    kind: MeasureKind
    stat: Stat
    """What ``measure`` gives where no statistic is named."""
    presets: tuple[str, ...] = ()
    of: str = ""
    series: Series | None = None
    advisory: bool = False
    """Compared for information: it never decides."""
    measured: bool = True
    """Whether a threshold can be set on its presets."""


_LATENCY = Margins(0.0, 0.15)
"""Measured at 20 req/s, 10 %, 2 + 18 pods: a margin of 2 % finds +20 % in 94 % of runs and 11 minutes, none in
99 % and 6; trifles are kept out by the differences between pods in either case."""
_COUNT = Margins(0.10, 2.0)
_GAUGE = Margins(0.10, 0.25)


def margins_of(series: Series) -> Margins:
    """Default margin and tolerance of a kind of series."""
    match series:
        case CountSeries():
            return _COUNT
        case HistogramSeries():
            return _LATENCY
        case GaugeSeries():
            return _GAUGE


def _histogram(
    name: str, *presets: str, unit: str = "seconds", coarse: bool = False, advisory: bool = False
) -> Row:
    """``coarse``: the buckets are too wide for quantiles, so that means are compared and measured."""
    return Row(
        name=name,
        unit=unit,
        kind=MeasureKind.HISTOGRAM,
        stat=Stat.MEAN if coarse else Stat.P95,
        presets=presets,
        series=HistogramSeries(name=name, coarse=coarse),
        advisory=advisory,
    )


def _share(name: str, *presets: str, advisory: bool = False) -> Row:
    return Row(
        name=name,
        unit="of requests",
        kind=MeasureKind.COUNTER,
        stat=Stat.RATIO,
        presets=presets,
        of="requests",
        series=CountSeries(errors=name, of="requests"),
        advisory=advisory,
    )


def _total(name: str, *presets: str) -> Row:
    return Row(name=name, unit="requests", kind=MeasureKind.COUNTER, stat=Stat.RATE, presets=presets)


def _gauge(name: str, *presets: str, unit: str, compared: bool = True) -> Row:
    series = GaugeSeries(name=name) if compared else None
    return Row(name=name, unit=unit, kind=MeasureKind.GAUGE, stat=Stat.LAST, presets=presets, series=series)


_LOST = Row(
    name="lost",
    unit="of requests",
    kind=MeasureKind.COUNTER,
    stat=Stat.RATIO,
    presets=("lost-rate",),
    of="answered",
    series=LostSeries(
        errors="lost", of="answered", finished="finished", in_flight="in_flight", longest="e2e"
    ),
    measured=False,
)
"""Made of the four that it names, with a running maximum: there is no threshold form."""

CATALOGUE: Mapping[str, Row] = {
    row.name: row
    for row in (
        _histogram("ttft", "ttft"),
        _histogram("time_per_output_token", "tpot", "time-per-output-token"),
        _histogram("inter_token_latency", "itl", "inter-token-latency", coarse=True),
        _histogram("queue_time", "queue-time"),
        _histogram("e2e", "e2e", advisory=True),
        _histogram("prompt_tokens", "prompt-tokens", unit="tokens", advisory=True),
        _histogram("output_tokens", "output-tokens", unit="tokens", advisory=True),
        _share("errors", "error-rate"),
        _LOST,
        _share("preemptions", "preemptions"),
        _share("aborted", "aborted"),
        _share("length", "length", advisory=True),
        _gauge("kv_cache", "kv-cache", unit="of the cache"),
        _gauge("waiting", "waiting", unit="requests", compared=False),
        _total("load", "requests"),
        _total("requests"),
        _total("answered"),
        _total("finished"),
        _gauge("in_flight", unit="requests"),
    )
}
"""``load`` is whatever came, ``requests`` what ended with an answer that was measured: what shares are taken of."""

MEASURED: Mapping[str, Row] = {
    preset: row for row in CATALOGUE.values() if row.measured for preset in row.presets
}
"""Rows by the presets of ``measure``."""
COMPARED: Mapping[str, Row] = {
    preset: row for row in CATALOGUE.values() if row.series is not None for preset in row.presets
}
"""Rows by the presets of ``compare``."""
DEFAULT_PRESETS = ("error-rate", "lost-rate", "ttft", "time-per-output-token", "e2e")
"""What ``preset: default`` compares. End-to-end latency informs, since it mixes the length of answers."""


def number_of(measure: MeasureSpec) -> tuple[MeasureKind, Stat]:
    """The kind of what is measured, and the statistic that is meant when none is named. Raises KeyError."""
    if measure.kind is MeasureKind.PRESET:
        kind, natural = MEASURED[measure.name].kind, MEASURED[measure.name].stat
    else:
        kind, natural = measure.kind, Stat.RATIO if measure.of else _NATURAL[measure.kind]
    return kind, measure.stat or natural


_NATURAL = {MeasureKind.HISTOGRAM: Stat.P95, MeasureKind.COUNTER: Stat.RATE, MeasureKind.GAUGE: Stat.LAST}

# --- producers -------------------------------------------------------------------------------------


def _names(*names: str, over: Over = Over.SUM) -> Groups:
    return tuple((Selector(name=name, over=over),) for name in names)


def _finished(name: str, reason: str) -> Groups:
    return ((Selector(name=name, any_of={"finished_reason": (reason,)}),),)


_NO_CLIENTS = {
    "method": ("GET", "HEAD", "OPTIONS"),
    "handler": ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"),
}
"""What endpoint pickers, probes and we ask of each pod evenly: counted, it would be half of an idle canary's load."""
_GENERATING = (
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
)
_BADLY = ("abort", "error")


def _http(**any_of: tuple[str, ...]) -> Groups:
    """Requests of clients in the HTTP layer of a vLLM pod."""
    prefix = ("handler", "/v1/")
    return ((Selector(name="http_requests_total", any_of=any_of, none_of=_NO_CLIENTS, prefix=prefix),),)


_VLLM_ENDED = "vllm:request_success_total"
_VLLM_REQUESTS = (*_http(), *_names(_VLLM_ENDED))

_VLLM: Mapping[str, Groups] = {
    "ttft": _names("vllm:time_to_first_token_seconds"),
    "time_per_output_token": _names(
        "vllm:request_time_per_output_token_seconds", "vllm:time_per_output_token_seconds"
    ),
    # The second is the name before vLLM 0.11.
    "inter_token_latency": _names("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"),
    "queue_time": _names("vllm:request_queue_time_seconds"),
    "e2e": _names("vllm:e2e_request_latency_seconds"),
    "prompt_tokens": _names("vllm:request_prompt_tokens"),
    "output_tokens": _names("vllm:request_generation_tokens"),
    "errors": _http(status=("5xx",)),
    "preemptions": _names("vllm:num_preemptions_total"),
    "aborted": _finished(_VLLM_ENDED, "abort"),
    "length": _finished(_VLLM_ENDED, "length"),
    "kv_cache": _names("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", over=Over.MEAN),
    "waiting": _names("vllm:num_requests_waiting"),
    "load": _VLLM_REQUESTS,
    "requests": _VLLM_REQUESTS,
    # Generations that ended with 2xx or 5xx; what is refused as 4xx is the client's doing.
    "answered": (
        (
            Selector(
                name="http_requests_total",
                any_of={"status": ("2xx", "5xx"), "handler": _GENERATING},
                none_of=_NO_CLIENTS,
            ),
        ),
    ),
    # Counted once per request, where request_success_total counts each of its `n` choices.
    "finished": (
        (
            Selector(name="vllm:request_params_n_count"),
            Selector(name=_VLLM_ENDED, any_of={"finished_reason": _BADLY}, sign=-1),
        ),
        (Selector(name=_VLLM_ENDED, none_of={"finished_reason": _BADLY}),),
    ),
    "in_flight": ((Selector(name="vllm:num_requests_running"), Selector(name="vllm:num_requests_waiting")),),
}
"""vLLM 0.6 to 0.33."""

_SGLANG: Mapping[str, Groups] = {
    "ttft": _names("sglang:time_to_first_token_seconds"),
    "time_per_output_token": _names("sglang:time_per_output_token_seconds"),
    "inter_token_latency": _names("sglang:inter_token_latency_seconds"),
    "queue_time": _names("sglang:queue_time_seconds"),
    "e2e": _names("sglang:e2e_request_latency_seconds"),
    "prompt_tokens": _names("sglang:prompt_tokens_histogram"),
    "output_tokens": _names("sglang:generation_tokens_histogram"),
    "errors": _names("sglang:num_aborted_requests_total"),
    "preemptions": _names("sglang:num_retracted_requests_total"),
    "aborted": _names("sglang:num_aborted_requests_total"),
    "kv_cache": _names("sglang:token_usage", over=Over.MEAN),
    "waiting": _names("sglang:num_queue_reqs"),
    "load": _names("sglang:num_requests_total"),
    "requests": _names("sglang:num_requests_total"),
    "in_flight": ((Selector(name="sglang:num_running_reqs"), Selector(name="sglang:num_queue_reqs")),),
}

_TENSORRT_LLM: Mapping[str, Groups] = {
    "ttft": _names("trtllm_time_to_first_token_seconds"),
    "time_per_output_token": _names("trtllm_time_per_output_token_seconds"),
    "queue_time": _names("trtllm_request_queue_time_seconds"),
    "e2e": _names("trtllm_e2e_request_latency_seconds"),
    "length": _finished("trtllm_request_success_total", "length"),
    "kv_cache": _names("trtllm_kv_cache_utilization", over=Over.MEAN),
    "waiting": _names("trtllm_num_requests_waiting"),
    "in_flight": (
        (Selector(name="trtllm_num_requests_running"), Selector(name="trtllm_num_requests_waiting")),
    ),
    "load": _names("trtllm_request_success_total"),
    "requests": _names("trtllm_request_success_total"),
}
"""Names of ``tensorrt_llm/metrics/collector.py``, which ``trtllm-serve`` exposes at /prometheus/metrics: for Prometheus
sources. Read from its text, not yet from a server. Its errors are counted apart from its successes, and a share needs a
total that holds both, so there are none here."""

SERVERS: Mapping[str, Mapping[str, Groups]] = {
    "vLLM": _VLLM,
    "SGLang": _SGLANG,
    "TensorRT-LLM": _TENSORRT_LLM,
}
"""What model servers say of themselves. Earlier ones win where a page holds names of several."""

_PICKED = Selector(name="inference_picker_requests_total", present="code")

PICKER: Mapping[str, Groups] = {
    "ttft": _names("inference_picker_ttft_seconds"),
    "time_per_output_token": _names("inference_picker_time_per_output_token_seconds"),
    "e2e": _names("inference_picker_e2e_seconds"),
    "prompt_tokens": _names("inference_picker_prompt_tokens"),
    "errors": _names("inference_picker_request_errors_total"),
    "aborted": _names("inference_picker_aborts_total"),
    "load": _names("inference_picker_requests_total"),
    "requests": ((_PICKED,),),
    "answered": ((_PICKED,),),
    "finished": (
        (
            _PICKED,
            Selector(name="inference_picker_request_errors_total", sign=-1),
            Selector(name="inference_picker_aborts_total", sign=-1),
        ),
    ),
}
"""What our endpoint picker measured: answers with a code only, the others are load."""
