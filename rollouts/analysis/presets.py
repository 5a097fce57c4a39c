"""Presets: which series of which model server a name stands for.

Names of vLLM 0.6 to 0.33 and SGLang, newest first; a pod is read by whichever it exposes. vLLM's own metrics hold
no error rate (failed requests never reach ``request_success_total``), so errors come from its HTTP layer, by
status class; what fails inside a stream that began with 200 is not visible there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from rollouts.analysis.types import MeasureKind, MeasureSpec, Stat

__all__ = [
    "ANSWERED",
    "PICKER_MEASURES",
    "PRESETS",
    "REQUESTS",
    "Over",
    "Preset",
    "Selector",
    "natural_stat",
    "series_of",
    "wanted_names",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A ready-made measure: alternatives by server and version, first exposed wins."""

    kind: MeasureKind
    of: tuple[tuple[Selector, ...], ...] = ()
    alternatives: tuple[tuple[Selector, ...], ...]
    stat: Stat
    finished: tuple[tuple[Selector, ...], ...] = ()
    """Without growth here a share of 0 says nothing: what ended was given up. Not exposed: not asked."""


def _names(*names: str) -> tuple[tuple[Selector, ...], ...]:
    return tuple((Selector(name=name),) for name in names)


def _shares(*names: str) -> tuple[tuple[Selector, ...], ...]:
    return tuple((Selector(name=name, over=Over.MEAN),) for name in names)


_NO_CLIENTS = {
    "method": ("GET", "HEAD", "OPTIONS"),
    "handler": ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"),
}
"""What endpoint pickers, probes and we ask of each pod evenly: counted, it would be half of an idle canary's load."""


def _http(**any_of: tuple[str, ...]) -> Selector:
    """Requests of clients in the HTTP layer of a vLLM pod."""
    return Selector(
        name="http_requests_total", any_of=any_of, none_of=_NO_CLIENTS, prefix=("handler", "/v1/")
    )


_GENERATING = (
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
)
ANSWERED = (
    Selector(
        name="http_requests_total",
        any_of={"status": ("2xx", "5xx"), "handler": _GENERATING},
        none_of=_NO_CLIENTS,
    ),
)
"""Requests for generations that ended with 2xx or 5xx; what is refused as 4xx is the client's doing."""

REQUESTS = (
    (_http(),),
    (Selector(name="vllm:request_success_total"),),
    (Selector(name="sglang:num_requests_total"),),
)
"""Requests of a pod: the load of the error rate and of the observed share."""

PRESETS: dict[str, Preset] = {
    "ttft": Preset(
        kind=MeasureKind.HISTOGRAM,
        alternatives=_names("vllm:time_to_first_token_seconds", "sglang:time_to_first_token_seconds"),
        stat=Stat.P95,
    ),
    "tpot": Preset(
        kind=MeasureKind.HISTOGRAM,
        alternatives=_names(
            "vllm:request_time_per_output_token_seconds",
            "vllm:time_per_output_token_seconds",
            "sglang:time_per_output_token_seconds",
        ),
        stat=Stat.P95,
    ),
    "itl": Preset(
        kind=MeasureKind.HISTOGRAM,
        alternatives=_names("vllm:inter_token_latency_seconds", "sglang:inter_token_latency_seconds"),
        stat=Stat.MEAN,
    ),
    "e2e": Preset(
        kind=MeasureKind.HISTOGRAM,
        alternatives=_names("vllm:e2e_request_latency_seconds", "sglang:e2e_request_latency_seconds"),
        stat=Stat.P95,
    ),
    "queue-time": Preset(
        kind=MeasureKind.HISTOGRAM,
        alternatives=_names("vllm:request_queue_time_seconds", "sglang:queue_time_seconds"),
        stat=Stat.P95,
    ),
    "error-rate": Preset(
        kind=MeasureKind.COUNTER,
        alternatives=(
            (_http(status=("5xx",)),),
            (Selector(name="sglang:num_aborted_requests_total"),),
        ),
        of=REQUESTS,
        stat=Stat.RATIO,
        # A hung engine fails nobody: its HTTP layer counts each client that leaves as 2xx.
        finished=((Selector(name="vllm:request_success_total"),),),
    ),
    "requests": Preset(kind=MeasureKind.COUNTER, alternatives=REQUESTS, stat=Stat.RATE),
    "preemptions": Preset(
        kind=MeasureKind.COUNTER,
        alternatives=_names("vllm:num_preemptions_total", "sglang:num_retracted_requests_total"),
        of=REQUESTS,
        stat=Stat.RATIO,
    ),
    "kv-cache": Preset(
        kind=MeasureKind.GAUGE,
        alternatives=_shares("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "sglang:token_usage"),
        stat=Stat.LAST,
    ),
    "waiting": Preset(
        kind=MeasureKind.GAUGE,
        alternatives=_names("vllm:num_requests_waiting", "sglang:num_queue_reqs"),
        stat=Stat.LAST,
    ),
}

PICKER_MEASURES = frozenset({"aborted", "e2e", "error-rate", "requests", "tpot", "ttft"})
"""Presets that our endpoint pickers measure (``sources.picker``): they see answers, not the model server."""

_NATURAL = {MeasureKind.HISTOGRAM: Stat.P95, MeasureKind.COUNTER: Stat.RATE, MeasureKind.GAUGE: Stat.LAST}


def natural_stat(measure: MeasureSpec) -> Stat:
    """The statistic that is meant when none is named."""
    if measure.stat is not None:
        return measure.stat
    if measure.kind is MeasureKind.PRESET:
        return PRESETS[measure.name].stat
    return Stat.RATIO if measure.of else _NATURAL[measure.kind]


def _over(gauge: str) -> Over:
    """Of a gauge by its name: what the presets know of it; what nobody knows is averaged."""
    known = (selector for preset in PRESETS.values() for group in preset.alternatives for selector in group)
    return next((selector.over for selector in known if selector.name == gauge), Over.MEAN)


def series_of(measure: MeasureSpec) -> Preset:
    """The series behind a measure, preset or named. Raises KeyError for an unknown preset."""
    if measure.kind is MeasureKind.PRESET:
        return PRESETS[measure.name]
    of = ((Selector(name=measure.of),),) if measure.of else ()
    over = _over(measure.name) if measure.kind is MeasureKind.GAUGE else Over.SUM
    return Preset(
        kind=measure.kind,
        alternatives=((Selector(name=measure.name, over=over),),),
        of=of,
        stat=natural_stat(measure),
    )


def wanted_names(preset: Preset) -> set[str]:
    """All series names that the preset may read."""
    groups = (*preset.alternatives, *preset.of, *preset.finished)
    return {selector.name for group in groups for selector in group}
