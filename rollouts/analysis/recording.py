"""Recordings of a rollout: raw cumulative counters per pod as JSON Lines.

The first line is {"kind": "Recording", "version": 1, "interval": 30}; then one line per pod and scrape, in
order of time, and events (weight steps, excluded times). t is in seconds, 0 is the first weight, negative is
history. Input is from anybody: bytes, lines, pods, names and buckets are limited, and every error names its
line.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from rollouts.analysis.evidence.model import Arm, Exclusion, HistogramSample, Mark, PodSample, Scrape

__all__ = [
    "Recording",
    "RecordingError",
    "exclusion_line",
    "header_line",
    "mark_line",
    "parse_share",
    "read_recording",
    "sample_line",
]

VERSION = 1
_MAX_LINE = 1024 * 1024
_MAX_LINES = 1_000_000
_MAX_PODS = 2048
_MAX_SERIES = 64
_MAX_BUCKETS = 512
_MAX_NAME = 253
_MAX_EVENTS = 10_000


class RecordingError(ValueError):
    """The recording cannot be read (terminal for this file); the message names the line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A whole recording; scrapes ascend in time."""

    interval: float
    scrapes: tuple[Scrape, ...]
    marks: tuple[Mark, ...] = ()
    exclusions: tuple[Exclusion, ...] = ()


def header_line(interval: float) -> str:
    """The first line of a recording."""
    return json.dumps({"kind": "Recording", "version": VERSION, "interval": interval})


def sample_line(at: float, sample: PodSample) -> str:
    """One pod at one scrape."""
    histograms = {
        name: {
            "le": ["+Inf" if math.isinf(bound) else bound for bound in histogram.bounds],
            "cumulative": list(histogram.cumulative),
            **({} if histogram.sum is None else {"sum": histogram.sum}),
        }
        for name, histogram in sample.histograms.items()
    }
    plain: dict[str, object] = {"t": at, "arm": sample.arm.value, "pod": sample.pod}
    if sample.started is not None:
        plain["started"] = sample.started
    parts = {"counters": dict(sample.counters), "gauges": dict(sample.gauges), "histograms": histograms}
    plain.update({key: value for key, value in parts.items() if value})
    return json.dumps(plain, separators=(",", ":"))


def mark_line(mark: Mark) -> str:
    """A weight step."""
    return json.dumps(
        {"t": mark.at, "event": "step", "step": mark.step, "weight": round(mark.weight * 100, 9)}
    )


def exclusion_line(at: float, exclusion: Exclusion) -> str:
    """A time that says nothing about the versions."""
    return json.dumps({"t": at, "event": "exclude", "from": exclusion.start, "to": exclusion.end})


def parse_share(value: object, what: str) -> float:
    """A percentage as number (5 is five percent) or percent string as a fraction."""
    text = value[:-1] if isinstance(value, str) and value.endswith("%") else value
    try:
        number = float(text) if isinstance(text, str) else _number(text, what)
    except ValueError as error:
        raise RecordingError(f"{what} must be a percentage, got {value!r}") from error
    if not 0.0 <= number <= 100.0:
        raise RecordingError(f"{what} must lie between 0 and 100, got {value!r}")
    return number / 100.0


def read_recording(lines: Iterable[str]) -> Recording:
    """Parse a recording; raises RecordingError with the line's number."""
    reader = _Reader()
    number = 0
    for number, line in enumerate(lines, 1):
        try:
            if number > _MAX_LINES or len(line) > _MAX_LINE:
                raise RecordingError(f"longer than {_MAX_LINES} lines of {_MAX_LINE} characters; split it")
            reader.feed(line)
        except (ValueError, TypeError, RecursionError) as error:
            raise RecordingError(f"line {number}: {error}") from error
    if reader.interval is None:
        raise RecordingError('line 1: a recording begins with {"kind":"Recording","version":1,"interval":30}')
    return Recording(
        interval=reader.interval,
        scrapes=tuple(_grouped(reader.samples, reader.interval)),
        marks=tuple(sorted(reader.marks, key=lambda mark: mark.at)),
        exclusions=tuple(reader.exclusions),
    )


@dataclass(slots=True)
class _Reader:
    interval: float | None = None
    samples: list[tuple[float, PodSample]] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    exclusions: list[Exclusion] = field(default_factory=list)
    bounds: dict[tuple[object, ...], tuple[float, ...]] = field(default_factory=dict)
    pods: set[tuple[str, str]] = field(default_factory=set)

    def feed(self, line: str) -> None:
        if not line.strip():
            return
        plain = json.loads(line)
        if not isinstance(plain, dict):
            raise RecordingError("each line must be a JSON object")
        if self.interval is None:
            self._header(plain)
        elif "event" in plain:
            self._event(plain)
        else:
            self._sample(plain)

    def _header(self, plain: dict[str, Any]) -> None:
        if plain.get("kind") != "Recording" or plain.get("version") != VERSION:
            raise RecordingError(
                f'a recording begins with {{"kind":"Recording","version":{VERSION}}}, '
                f"got kind {plain.get('kind')!r} version {plain.get('version')!r}"
            )
        interval = _number(plain.get("interval", 30), "interval")
        if not 1.0 <= interval <= 3600.0:
            raise RecordingError(f"interval must lie between 1 and 3600 seconds, got {interval}")
        self.interval = interval

    def _event(self, plain: dict[str, Any]) -> None:
        if len(self.marks) + len(self.exclusions) >= _MAX_EVENTS:
            raise RecordingError(f"more than {_MAX_EVENTS} events")
        if plain["event"] == "step":
            weight = parse_share(plain.get("weight"), "weight")
            step = int(_number(plain.get("step", 0), "step"))
            self.marks.append(Mark(at=_number(plain.get("t"), "t"), step=step, weight=weight))
        elif plain["event"] == "exclude":
            start, end = _number(plain.get("from"), "from"), _number(plain.get("to"), "to")
            if end < start:
                raise RecordingError(f"an exclusion ends ({end}) before it begins ({start})")
            self.exclusions.append(Exclusion(start=start, end=end))

    def _sample(self, plain: dict[str, Any]) -> None:
        at = _number(plain.get("t"), "t")
        if self.samples and at < self.samples[-1][0]:
            raise RecordingError(f"t goes back from {self.samples[-1][0]} to {at}; sort the lines by t")
        if plain.get("arm") not in ("stable", "canary"):
            raise RecordingError(f'arm must be "stable" or "canary", got {plain.get("arm")!r}')
        arm = Arm(plain["arm"])
        if arm is Arm.CANARY and at < 0:
            raise RecordingError("lines before t = 0 are history and must be of the stable arm")
        pod = _name(plain.get("pod"), "pod")
        self.pods.add((arm.value, pod))
        if len(self.pods) > _MAX_PODS:
            raise RecordingError(f"more than {_MAX_PODS} pods")
        started = plain.get("started")
        sample = PodSample(
            arm=arm,
            pod=pod,
            counters=_values(plain, "counters"),
            gauges=_values(plain, "gauges"),
            histograms={n: self._histogram(n, h) for n, h in _section(plain, "histograms").items()},
            started=None if started is None else _number(started, "started"),
        )
        self.samples.append((at, sample))

    def _histogram(self, name: str, plain: object) -> HistogramSample:
        if not isinstance(plain, dict):
            raise RecordingError(f"histogram {name!r} must be an object")
        le, cumulative = plain.get("le"), plain.get("cumulative")
        if not isinstance(le, list) or not isinstance(cumulative, list) or len(le) != len(cumulative):
            raise RecordingError(f"histogram {name!r} needs lists le and cumulative of the same length")
        if not 1 <= len(le) <= _MAX_BUCKETS:
            raise RecordingError(f"histogram {name!r} must have 1 to {_MAX_BUCKETS} buckets, has {len(le)}")
        key = tuple(le)
        if key not in self.bounds:
            self.bounds[key] = _bounds(name, le)
        total = plain.get("sum")
        return HistogramSample(
            bounds=self.bounds[key],
            cumulative=tuple([_figure(value, name) for value in cumulative]),
            sum=None if total is None else _figure(total, name),
        )


def _grouped(samples: list[tuple[float, PodSample]], interval: float) -> Iterator[Scrape]:
    """Lines within three quarters of an interval are one evaluation, as long as each pod occurs once."""
    group: list[PodSample] = []
    keys: set[tuple[Arm, str]] = set()
    first = last = 0.0
    for at, sample in samples:
        key = (sample.arm, sample.pod)
        if group and (at - first >= 0.75 * interval or key in keys):
            yield Scrape(at=last, pods=tuple(group))
            group, keys = [], set()
        if not group:
            first = at
        last = at
        group.append(sample)
        keys.add(key)
    if group:
        yield Scrape(at=last, pods=tuple(group))


def _bounds(name: str, le: list[object]) -> tuple[float, ...]:
    bounds = tuple(_bound(value, name) for value in le)
    if bounds[-1] != math.inf or any(b <= a for a, b in pairwise(bounds)):
        raise RecordingError(f'histogram {name!r}: le must ascend and end with "+Inf", got {le[:6]}...')
    return bounds


def _bound(value: object, name: str) -> float:
    if isinstance(value, str):
        if value in ("+Inf", "Inf", "inf"):
            return math.inf
        return _number(float(value), name)
    return _number(value, name)


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RecordingError(f"{what} must be a finite number, got {value!r}")
    return float(value)


def _figure(value: object, what: str) -> float:
    """A measured value: null and NaN mean that it is missing."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RecordingError(f"{what}: values must be numbers, got {value!r}")
    return float(value)


def _name(value: object, what: str) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= _MAX_NAME:
        raise RecordingError(f"{what} must be a name of 1 to {_MAX_NAME} characters, got {str(value)[:60]!r}")
    return value


def _section(plain: Mapping[str, Any], key: str) -> dict[str, object]:
    section = plain.get(key)
    if section is None:
        return {}
    if not isinstance(section, dict) or len(section) > _MAX_SERIES:
        raise RecordingError(f"{key} must be an object of at most {_MAX_SERIES} series")
    return {_name(name, key): value for name, value in section.items()}


def _values(plain: Mapping[str, Any], key: str) -> dict[str, float]:
    return {name: _figure(value, name) for name, value in _section(plain, key).items()}
