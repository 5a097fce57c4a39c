"""The one catalogue of metrics: a row per logical series, a column per producer.

Presets, margins, what a source offers, the CRDs' words and the reference's table come from here. A new model server is
one more column (TensorRT-LLM is the example), a new metric one more row.

vLLM's own metrics hold no error rate (failed requests never reach ``request_success_total``), so errors come from its
HTTP layer, by status class; what fails inside a stream that began with 200 is not visible there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

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
    "Over",
    "Row",
    "Selector",
    "margins_of",
    "number_of",
    "statistics_of",
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
    absent: str = ""
    """A label that must be empty or not there: with it are parts of a sum that stands beside them."""
    sign: int = 1
    """-1: what it counts is taken off."""
    over: Over = Over.SUM
    copies: tuple[str, ...] = ()
    """Labels of engines that work on the same requests: of series that differ in these alone the largest counts."""

    def picks(self, labels: Mapping[str, str]) -> bool:
        """Whether a label set counts."""
        if self.prefix is not None and not labels.get(self.prefix[0], "").startswith(self.prefix[1]):
            return False
        if (self.present and not labels.get(self.present)) or (self.absent and labels.get(self.absent)):
            return False
        if any(labels.get(key) in values for key, values in (self.none_of or {}).items()):
            return False
        return all(labels.get(key) in values for key, values in (self.any_of or {}).items())

    def once(self, found: Iterable[tuple[Mapping[str, str], float]]) -> list[float]:
        """The values of series that it picks, of copies one."""
        if not self.copies:
            return [value for _, value in found]
        largest = dict[frozenset[tuple[str, str]], float]()
        for labels, value in found:
            own = frozenset(pair for pair in labels.items() if pair[0] not in self.copies)
            largest[own] = max(value, largest.get(own, value))
        return list(largest.values())


Groups = tuple[tuple[Selector, ...], ...]
"""Alternatives, newest name first: a page is read by the first whose first series it exposes."""


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
    over: Over = Over.SUM
    finished: str = ""
    """Without growth here a share of 0 says nothing: what ended was given up. Not exposed: not asked."""


_LATENCY = (0.0, 0.15)
"""Measured at 20 req/s, 10 %, 2 + 18 pods: a margin of 2 % finds +20 % in 94 % of runs and 11 minutes, none in
99 % and 6; trifles are kept out by the differences between pods in either case."""
_COUNT = (0.10, 2.0)
_GAUGE = (0.10, 0.25)


def margins_of(series: Series) -> tuple[float, float]:
    """Default margin (growth that is not yet harm) and tolerance (growth that a pass rules out), as fractions."""
    if isinstance(series, CountSeries):
        return _COUNT
    return _GAUGE if isinstance(series, GaugeSeries) else _LATENCY


def _histogram(name: str, *presets: str, unit: str = "seconds", coarse: bool = False, **more: Any) -> Row:
    """``coarse``: the buckets are too wide for quantiles, so that means are compared and measured."""
    kind, stat = MeasureKind.HISTOGRAM, Stat.MEAN if coarse else Stat.P95
    series = HistogramSeries(name=name, coarse=coarse)
    return Row(name=name, unit=unit, kind=kind, stat=stat, presets=presets, series=series, **more)


def _share(name: str, *presets: str, of: str = "requests", **more: Any) -> Row:
    row = Row(
        name=name, unit="of requests", kind=MeasureKind.COUNTER, stat=Stat.RATIO, presets=presets, of=of
    )
    return replace(row, **{"series": CountSeries(errors=name, of=of), **more})


def _total(name: str, *presets: str) -> Row:
    return Row(name=name, unit="requests", kind=MeasureKind.COUNTER, stat=Stat.RATE, presets=presets)


def _gauge(name: str, *presets: str, unit: str, **more: Any) -> Row:
    return Row(name=name, unit=unit, kind=MeasureKind.GAUGE, stat=Stat.LAST, presets=presets, **more)


_LOST = LostSeries(
    errors="lost", of="answered", finished="finished", in_flight="in_flight", longest="e2e", progress="tokens"
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
        # A hung engine fails nobody: its HTTP layer counts each client that leaves as 2xx.
        _share("errors", "error-rate", finished="succeeded"),
        _share("lost", "lost-rate", of="answered", series=_LOST, measured=False),
        _share("preemptions", "preemptions"),
        _share("aborted", "aborted"),
        _share("length", "length", advisory=True),
        _gauge("kv_cache", "kv-cache", unit="share", series=GaugeSeries(name="kv_cache"), over=Over.MEAN),
        _gauge("waiting", "waiting", unit="requests"),
        _total("load", "requests"),
        _total("requests"),
        _total("answered"),
        _total("finished"),
        _total("succeeded"),
        _total("tokens"),
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


def statistics_of(measure: MeasureSpec) -> tuple[Stat, ...]:
    """The statistics that there are of what is measured. Raises KeyError."""
    kind, _ = number_of(measure)
    share = MEASURED[measure.name].of if measure.kind is MeasureKind.PRESET else measure.of
    if kind is MeasureKind.COUNTER:
        return (Stat.RATIO, Stat.RATE) if share else (Stat.RATE,)
    return _STATISTICS[kind]


_STATISTICS = {
    MeasureKind.HISTOGRAM: (Stat.P50, Stat.P90, Stat.P95, Stat.P99, Stat.MEAN),
    MeasureKind.GAUGE: (Stat.LAST, Stat.MEAN),
}
_NATURAL = {MeasureKind.HISTOGRAM: Stat.P95, MeasureKind.COUNTER: Stat.RATE, MeasureKind.GAUGE: Stat.LAST}

# --- producers -------------------------------------------------------------------------------------


def _column(
    prefix: str, /, *, picked: Mapping[str, Groups] | None = None, **names: str
) -> Mapping[str, Groups]:
    """Series by logical name: alternatives are separated by blanks, newest first, and ``+`` adds series up."""
    return {
        logical: tuple(
            tuple(Selector(name=prefix + name, over=CATALOGUE[logical].over) for name in group.split("+"))
            for group in text.split()
        )
        for logical, text in names.items()
    } | dict(picked or {})


def _one(name: str, **labels: Any) -> tuple[Selector, ...]:
    return (Selector(name=name, **labels),)


def _finished(name: str, reason: str) -> Groups:
    return (_one(name, any_of={"finished_reason": (reason,)}),)


def _of_scheduler(name: str) -> tuple[Selector, ...]:
    """Of SGLang: a series per pipeline stage, per tensor parallel rank with ``--enable-metrics-for-all-schedulers``.
    Data parallel ranks have requests of their own; with DP attention they are tensor parallel ranks as well.

    With ``--enable-priority-scheduling`` the sum has an empty label, and each priority a series.
    """
    return _one(name, absent="priority", copies=("tp_rank", "pp_rank", "moe_ep_rank"))


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
_BADLY = {"finished_reason": ("abort", "error")}
_ENDED, _HTTP = "vllm:request_success_total", "http_requests_total"
_VLLM_REQUESTS = (_one(_HTTP, any_of={}, none_of=_NO_CLIENTS, prefix=("handler", "/v1/")), _one(_ENDED))

SERVERS: Mapping[str, Mapping[str, Groups]] = {
    # 0.6 to 0.33: inter-token latency got its name with 0.11. `finished` is counted once per request, where
    # request_success_total counts each of its `n` choices; what is refused as 4xx is the client's doing.
    "vLLM": _column(
        "vllm:",
        ttft="time_to_first_token_seconds",
        time_per_output_token="request_time_per_output_token_seconds time_per_output_token_seconds",
        inter_token_latency="inter_token_latency_seconds time_per_output_token_seconds",
        queue_time="request_queue_time_seconds",
        e2e="e2e_request_latency_seconds",
        prompt_tokens="request_prompt_tokens",
        output_tokens="request_generation_tokens",
        preemptions="num_preemptions_total",
        kv_cache="kv_cache_usage_perc gpu_cache_usage_perc",
        waiting="num_requests_waiting",
        in_flight="num_requests_running+num_requests_waiting",
        tokens="generation_tokens_total+prompt_tokens_total",
        succeeded="request_success_total",
        picked={
            "errors": (
                _one(_HTTP, any_of={"status": ("5xx",)}, none_of=_NO_CLIENTS, prefix=("handler", "/v1/")),
            ),
            "aborted": _finished(_ENDED, "abort"),
            "length": _finished(_ENDED, "length"),
            "load": _VLLM_REQUESTS,
            "requests": _VLLM_REQUESTS,
            "answered": (
                _one(_HTTP, any_of={"status": ("2xx", "5xx"), "handler": _GENERATING}, none_of=_NO_CLIENTS),
            ),
            "finished": (
                _one("vllm:request_params_n_count") + _one(_ENDED, any_of=_BADLY, sign=-1),
                _one(_ENDED, none_of=_BADLY),
            ),
        },
    ),
    "SGLang": _column(
        "sglang:",
        ttft="time_to_first_token_seconds",
        time_per_output_token="time_per_output_token_seconds",
        inter_token_latency="inter_token_latency_seconds",
        queue_time="queue_time_seconds",
        e2e="e2e_request_latency_seconds",
        prompt_tokens="prompt_tokens_histogram",
        output_tokens="generation_tokens_histogram",
        errors="num_aborted_requests_total",
        aborted="num_aborted_requests_total",
        kv_cache="token_usage",
        tokens="generation_tokens_total+prompt_tokens_total",
        load="num_requests_total",
        requests="num_requests_total",
        picked={
            "waiting": (_of_scheduler("sglang:num_queue_reqs"),),
            "in_flight": (_of_scheduler("sglang:num_running_reqs") + _of_scheduler("sglang:num_queue_reqs"),),
            "preemptions": (_of_scheduler("sglang:num_retracted_requests_total"),),
        },
    ),
    # Names of tensorrt_llm/metrics/collector.py, read from its text and not yet from a server: trtllm-serve has them at
    # /prometheus/metrics, so for Prometheus sources. Its errors are counted apart from its successes, and a share
    # needs a total that holds both: there is none yet.
    "TensorRT-LLM": _column(
        "trtllm_",
        ttft="time_to_first_token_seconds",
        time_per_output_token="time_per_output_token_seconds",
        queue_time="request_queue_time_seconds",
        e2e="e2e_request_latency_seconds",
        kv_cache="kv_cache_utilization",
        waiting="num_requests_waiting",
        in_flight="num_requests_running+num_requests_waiting",
        load="request_success_total",
        requests="request_success_total",
        picked={"length": _finished("trtllm_request_success_total", "length")},
    ),
}
"""What model servers say of themselves. Earlier ones win where a page holds names of several."""

_MEASURED = _one("inference_picker_requests_total", present="code")
_UNFINISHED = ("inference_picker_request_errors_total", "inference_picker_aborts_total")

PICKER = _column(
    "inference_picker_",
    ttft="ttft_seconds",
    time_per_output_token="time_per_output_token_seconds",
    e2e="e2e_seconds",
    prompt_tokens="prompt_tokens",
    errors="request_errors_total",
    aborted="aborts_total",
    load="requests_total",
    picked={
        "requests": (_MEASURED,),
        "answered": (_MEASURED,),
        "finished": (_MEASURED + tuple(Selector(name=name, sign=-1) for name in _UNFINISHED),),
    },
)
"""What our endpoint picker measured: answers with a code only, the others are load."""
