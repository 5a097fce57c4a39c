"""Compare gates from plain data: the `metrics` list of an AnalysisTemplate.

Rates, margins and tolerances are fractions or percent strings (tolerance 2.0 on errors means three times);
durations are seconds or 30s, 5m, 1h. With different falseAbortRate given the smallest counts for the whole.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rollouts.analysis.evidence.model import (
    CompareMetric,
    CountSeries,
    Direction,
    EvidenceSpec,
    GaugeSeries,
    HistogramSeries,
    LostSeries,
    OnUndecided,
    Require,
    Series,
)

__all__ = [
    "DEFAULT_PRESETS",
    "PRESETS",
    "Gates",
    "GatesError",
    "default_form",
    "parse_compare",
    "parse_duration",
    "parse_fraction",
    "parse_gates",
    "with_arguments",
]

_MAX_METRICS = 16
_LATENCY_MARGIN = 0.0
"""Measured at 20 req/s, 10 %, 2 + 18 pods: a margin of 2 % finds +20 % in 94 % of runs and 11 minutes, none in
99 % and 6; trifles are kept out by the differences between pods in either case."""
_LATENCY_TOLERANCE = 0.15
_COUNT_MARGIN = 0.10
_COUNT_TOLERANCE = 2.0
_GAUGE_MARGIN = 0.10
_GAUGE_TOLERANCE = 0.25
_DURATION = re.compile(r"(?:\d{1,7}(?:\.\d{1,3})?(?:ms|s|m|h|d))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
"""As the CRDs take them, in any order."""
_KEYS = {
    "preset", "histogram", "counter", "gauge", "direction", "margin", "tolerance", "require", "minDwell",
    "minRequests", "warmUp", "maxDuration", "onUndecided", "weight", "falseAbortRate", "floor",
}  # fmt: skip


class GatesError(ValueError):
    """The gates cannot be used as written (terminal for this spec); the message says what to change."""


@dataclass(frozen=True, slots=True)
class Preset:
    """A series under its logical name, and whether it only informs."""

    series: Series
    advisory: bool = False


def _histogram(name: str, *, coarse: bool = False, advisory: bool = False) -> Preset:
    return Preset(HistogramSeries(name=name, coarse=coarse), advisory)


def _share(events: str, *, advisory: bool = False) -> Preset:
    return Preset(CountSeries(errors=events, of="requests"), advisory)


PRESETS: Mapping[str, Preset] = {
    "ttft": _histogram("ttft"),
    "time-per-output-token": _histogram("time_per_output_token"),
    "inter-token-latency": _histogram("inter_token_latency", coarse=True),
    "tpot": _histogram("time_per_output_token"),
    "itl": _histogram("inter_token_latency", coarse=True),
    "queue-time": _histogram("queue_time"),
    "e2e": _histogram("e2e", advisory=True),
    "prompt-tokens": _histogram("prompt_tokens", advisory=True),
    "output-tokens": _histogram("output_tokens", advisory=True),
    "error-rate": _share("errors"),
    "lost-rate": Preset(
        LostSeries(
            errors="lost",
            of="answered",
            finished="finished",
            in_flight="in_flight",
            longest="e2e",
            progress="tokens",
        )
    ),
    "preemptions": _share("preemptions"),
    "aborted": _share("aborted"),
    "length": _share("length", advisory=True),
    "kv-cache": Preset(GaugeSeries(name="kv_cache")),
}
"""Logical series of each preset; sources map them to the metric names of a serving stack."""

DEFAULT_PRESETS = ("error-rate", "lost-rate", "ttft", "time-per-output-token")
"""What `preset: default` stands for; `optional` in gates: left out where nothing of it is exposed."""

_DEFAULT_FORMS: Mapping[str, Mapping[str, str]] = {"lost-rate": {"require": "NoHarm"}}
"""That a rate of zero is below a floor takes thousands of requests: proof is left to the metrics that have figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """The compare gates, and the names of metrics of other forms, which cannot be replayed."""

    spec: EvidenceSpec
    skipped: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()
    """Metrics of `preset: default`: left out where neither arm exposes them, or they cannot be told."""


def parse_gates(
    plain: object, *, interval: float = 30.0, require: Require = Require.WITHIN_TOLERANCE
) -> Gates:
    """A list of metrics, a mapping with `metrics`, or a whole AnalysisTemplate; raises GatesError."""
    rate = 0.05
    given = []
    if isinstance(plain, Mapping) and isinstance(plain.get("spec"), Mapping):
        plain = plain["spec"]
    if isinstance(plain, Mapping):
        if "falseAbortRate" in plain:
            given.append(parse_fraction(plain["falseAbortRate"], "falseAbortRate"))
        plain = with_arguments(plain.get("metrics"), plain.get("args"))
    if not isinstance(plain, Sequence) or isinstance(plain, str) or not 1 <= len(plain) <= _MAX_METRICS:
        raise GatesError(f"a gates file holds a list `metrics` of 1 to {_MAX_METRICS} metrics")
    metrics: list[CompareMetric] = []
    skipped = []
    optional = set[str]()
    for position, row in enumerate(plain):
        if not isinstance(row, Mapping):
            raise GatesError(f"metrics[{position}] must be a mapping")
        name = _text(row.get("name"), f"metrics[{position}].name")
        compare = row.get("compare")
        if compare is None:
            skipped.append(name)
            continue
        if not isinstance(compare, Mapping):
            raise GatesError(f"metric {name!r}: compare must be a mapping")
        given += [
            parse_fraction(part["falseAbortRate"], f"metric {name!r}: falseAbortRate")
            for part in (row, compare)
            if "falseAbortRate" in part
        ]
        expanded = _expand(name, compare, require)
        optional |= {one.name for one in expanded} if compare.get("preset") == "default" else set()
        metrics += expanded
    if not metrics:
        raise GatesError("no metric of the compare form: nothing can be judged against stable")
    try:
        spec = EvidenceSpec(
            metrics=tuple(metrics), false_abort_rate=min(given, default=rate), interval=interval
        )
    except ValueError as error:
        raise GatesError(str(error)) from error
    return Gates(spec=spec, skipped=tuple(skipped), optional=frozenset(optional))


def with_arguments(metrics: Any, *args: Any) -> Any:
    """An AnalysisTemplate's metrics with its arguments: defaults, then what is given; ``{{args.x}}`` without stays."""
    defaults = {
        f"{{{{args.{item['name']}}}}}": str(item["value"])
        for listed in args
        for item in (listed if isinstance(listed, list) else [])
        if isinstance(item, Mapping) and "name" in item and item.get("value") is not None
    }

    def fill(value: Any) -> Any:
        if isinstance(value, str):
            return defaults.get(value.replace(" ", ""), value)
        if isinstance(value, Mapping):
            return {key: fill(item) for key, item in value.items()}
        return [fill(item) for item in value] if isinstance(value, list) else value

    return fill(metrics) if defaults else metrics


def _expand(name: str, compare: Mapping[str, Any], require: Require) -> list[CompareMetric]:
    if compare.get("preset") != "default":
        return [parse_compare(name, compare, require=require)]
    return [
        replace(
            parse_compare(preset, {**default_form(preset), **compare, "preset": preset}, require=require),
            name=preset,
        )
        for preset in DEFAULT_PRESETS
    ]


def default_form(preset: str) -> dict[str, str]:
    """The compare form of one metric of `preset: default`."""
    return {"preset": preset, **_DEFAULT_FORMS.get(preset, {})}


def parse_compare(
    name: str, plain: Mapping[str, Any], *, require: Require = Require.WITHIN_TOLERANCE
) -> CompareMetric:
    """One compare form; null and empty fields are absent. Raises GatesError."""
    plain = {key: value for key, value in plain.items() if value is not None and value != ""}
    unknown = sorted(set(plain) - _KEYS)
    if unknown:
        raise GatesError(f"metric {name!r}: unknown field {unknown[0]!r} in compare; known: {sorted(_KEYS)}")
    preset = _preset(name, plain)
    margin, tolerance = _margins(name, plain, preset.series)
    where = f"metric {name!r}: "
    try:
        return CompareMetric(
            name=name,
            series=preset.series,
            margin=margin,
            tolerance=tolerance,
            direction=_choice(plain, "direction", Direction, Direction.LOWER, where),
            require=_choice(plain, "require", Require, require, where),
            min_dwell=_seconds(plain, "minDwell", 300.0, where),
            min_requests=int(_positive(plain.get("minRequests", 200), where + "minRequests")),
            warm_up=_seconds(plain, "warmUp", 120.0, where),
            max_duration=_seconds(plain, "maxDuration", math.inf, where) if "maxDuration" in plain else None,
            on_undecided=_choice(plain, "onUndecided", OnUndecided, OnUndecided.HOLD, where),
            weight=_positive(plain["weight"], where + "weight") if "weight" in plain else None,
            advisory=preset.advisory,
            floor=parse_fraction(plain.get("floor", 0.001), where + "floor"),
        )
    except GatesError:
        raise
    except ValueError as error:
        raise GatesError(str(error)) from error


def _preset(name: str, plain: Mapping[str, Any]) -> Preset:
    forms = [key for key in ("preset", "histogram", "counter", "gauge") if key in plain]
    if len(forms) != 1:
        raise GatesError(
            f"metric {name!r}: compare needs exactly one of preset, histogram, counter, gauge, has {forms}"
        )
    value = plain[forms[0]]
    where = f"metric {name!r}: {forms[0]}"
    match forms[0]:
        case "preset":
            known = PRESETS.get(_text(value, where))
            if known is None:
                raise GatesError(f"{where} {value!r} is unknown; known: {sorted([*PRESETS, 'default'])}")
            return known
        case "histogram":
            return Preset(HistogramSeries(name=_text(value, where)))
        case "gauge":
            return Preset(GaugeSeries(name=_text(value, where)))
        case _:
            if not isinstance(value, Mapping) or set(value) != {"errors", "of"}:
                raise GatesError(f"{where} must be {{errors: NAME, of: NAME}}")
            return Preset(CountSeries(errors=_text(value["errors"], where), of=_text(value["of"], where)))


def _margins(name: str, plain: Mapping[str, Any], series: Series) -> tuple[float, float]:
    """Margin and tolerance; a default margin makes room for a narrow tolerance."""
    match series:
        case CountSeries():
            defaults = (_COUNT_MARGIN, _COUNT_TOLERANCE)
        case HistogramSeries():
            defaults = (_LATENCY_MARGIN, _LATENCY_TOLERANCE)
        case GaugeSeries():
            defaults = (_GAUGE_MARGIN, _GAUGE_TOLERANCE)
    margin = parse_fraction(plain["margin"], f"metric {name!r}: margin") if "margin" in plain else None
    tolerance = (
        parse_fraction(plain["tolerance"], f"metric {name!r}: tolerance") if "tolerance" in plain else None
    )
    if tolerance is None:
        tolerance = max(defaults[1], 2.0 * (margin or 0.0))
    if margin is None:
        margin = min(defaults[0], 0.5 * tolerance)
    return margin, tolerance


def parse_fraction(value: object, what: str) -> float:
    """A fraction (0.05) or a percent string ("5%"), at least 0."""
    if isinstance(value, str):
        text = value.strip()
        scale = 0.01 if text.endswith("%") else 1.0
        try:
            number = float(text.removesuffix("%")) * scale
        except ValueError as error:
            raise GatesError(f"{what} must be a fraction or a percentage, got {value!r}") from error
        return _positive(round(number, 12), what)
    return _positive(value, what)


def parse_duration(value: object, what: str) -> float:
    """Seconds from a number or from text such as 30s, 5m, 1h30m."""
    if not isinstance(value, str):
        return _positive(value, what)
    text = value.strip()
    if text.isdecimal() and len(text) <= 7:
        return float(text)
    if _DURATION.fullmatch(text) is None:
        raise GatesError(f"{what} must be a duration such as 30s, 5m or 1h, got {value!r}")
    return sum(float(count) * _UNITS[unit] for count, unit in _DURATION_PART.findall(text))


def _seconds(plain: Mapping[str, Any], key: str, default: float, where: str) -> float:
    return parse_duration(plain[key], where + key) if key in plain else default


def _positive(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise GatesError(f"{what} must be a number of at least 0, got {value!r}")
    return float(value)


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 253:
        raise GatesError(f"{what} must be a name, got {str(value)[:60]!r}")
    return value


def _choice(plain: Mapping[str, Any], key: str, kind: Any, default: Any, where: str) -> Any:
    if key not in plain:
        return default
    given = str(plain[key]).lower().removesuffix("isbetter")
    for member in kind:
        if given == member.value.lower():
            return member
    raise GatesError(f"{where}{key} must be one of {[m.value for m in kind]}, got {plain[key]!r}")
