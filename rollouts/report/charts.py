"""Drawings of an attempt over time, as inline SVG made of values. Pure.

360 units wide, so that letters stay readable on a narrow screen. Every axis has its unit; what lies beyond an axis is
drawn on its edge, and the caption says so. Colours and dashes are in the style sheet (``style.py``), by class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from rollouts.analysis.timeline import MetricPoint, TimePoint
from rollouts.report.markup import Element, el
from rollouts.report.scales import Scale, linear, logarithmic, minutes_ticks, ratios, spread
from rollouts.units import percent

__all__ = ["Bound", "Series", "chart", "effect_chart", "evidence_chart", "weight_chart"]

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 26, 36
_LABEL = 12.0
"""Height of a line of text: labels keep this distance."""
_LEAST_EVIDENCE = 0.01
"""Evidence below it says nothing that a picture should show: the axis ends there."""

_MOST_EVIDENCE = 1e6
"""Words call more than that "over a million"; it lies on the edge."""
_LINEAR_TO = 1.0
"""Effects beyond a doubling are drawn as ratios: on a linear axis they would leave no room for the rest."""

Point = tuple[float, float | None]
"""Seconds since the beginning, and the value; None is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line: ``style`` names its class; ``steps``: a value holds until the next one."""

    label: str
    style: str
    points: Sequence[Point]
    steps: bool = False
    dots: Sequence[float] = ()
    """Times at which something was decided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A level with a name, from left to right."""

    label: str
    style: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """An interval around a line; a side of None is without bound."""

    points: Sequence[tuple[float, float | None, float | None]]


def chart(
    title: str,
    unit: str,
    seconds: float,
    y: Scale,
    ticks: Sequence[str],
    lines: Sequence[Series],
    bounds: Sequence[Bound] = (),
    band: Band | None = None,
) -> Element:
    """A drawing with both axes. ``ticks`` are the words of ``y.ticks``; ``unit`` stands over the axis."""
    x = minutes_ticks(seconds, LEFT, WIDTH - RIGHT)
    parts: list[Element] = [el("title", title), *_axes(x, y, ticks, unit)]
    if band is not None:
        parts += _band(band, x, y)
    parts += [
        el(
            "line",
            class_=f"bound {bound.style}",
            x1=LEFT,
            x2=WIDTH - RIGHT,
            y1=_r(y.at(bound.value)),
            y2=_r(y.at(bound.value)),
        )
        for bound in bounds
        if y.holds(bound.value)
    ]
    for line in lines:
        parts += _line(line, x, y)
    parts += _bound_labels([bound for bound in bounds if y.holds(bound.value)], y)
    return el("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", xmlns="http://www.w3.org/2000/svg")


def _r(value: float) -> str:
    return f"{value:.1f}"


def _axes(x: Scale, y: Scale, words: Sequence[str], unit: str) -> list[Element]:
    floor = HEIGHT - BOTTOM
    parts = [el("text", unit, class_="unit", x=2, y=TOP - 12)]
    for value, word in zip(y.ticks, words, strict=True):
        height = _r(y.at(value))
        parts.append(el("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=height, y2=height))
        parts.append(
            el(
                "text",
                word,
                class_="tick",
                x=LEFT - 5,
                y=height,
                text_anchor="end",
                dominant_baseline="middle",
            )
        )
    for value in x.ticks:
        at = x.at(value)
        parts.append(el("line", class_="axis", x1=_r(at), x2=_r(at), y1=floor, y2=floor + 4))
        anchor = "end" if at > WIDTH - RIGHT - 8 else "middle"
        parts.append(el("text", f"{value:g}", class_="tick", x=_r(at), y=floor + 15, text_anchor=anchor))
    parts.append(el("line", class_="axis", x1=LEFT, x2=WIDTH - RIGHT, y1=floor, y2=floor))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        el(
            "text",
            "minutes since the attempt began",
            class_="tick",
            x=_r(middle),
            y=HEIGHT - 6,
            text_anchor="middle",
        )
    )
    return parts


def _line(line: Series, x: Scale, y: Scale) -> list[Element]:
    path, previous = list[str](), None
    for at, value in line.points:
        if value is None:
            previous = None
            continue
        across, up = x.at(at / 60.0), y.at(value)
        if previous is None:
            path.append(f"M{_r(across)} {_r(up)}")
        elif line.steps:
            path.append(f"H{_r(across)}V{_r(up)}")
        else:
            path.append(f"L{_r(across)} {_r(up)}")
        previous = (across, up)
    known = {at: value for at, value in line.points if value is not None}
    dots = [
        el("circle", class_=f"dot {line.style}", cx=_r(x.at(at / 60.0)), cy=_r(y.at(known[at])), r=4)
        for at in line.dots
        if at in known
    ]
    single = [
        el("circle", class_=f"dot {line.style}", cx=_r(x.at(at / 60.0)), cy=_r(y.at(value)), r=2)
        for at, value in known.items()
        if len(known) == 1
    ]
    return [el("path", class_=f"line {line.style}", d="".join(path)), *dots, *single] if path else []


def _band(band: Band, x: Scale, y: Scale) -> list[Element]:
    """One area per stretch of points that have an interval."""
    stretches: list[list[tuple[float, float, float]]] = [[]]
    for at, low, high in band.points:
        if low is None and high is None:
            stretches.append([])
            continue
        lower = y.at(y.low if low is None else low)
        stretches[-1].append((x.at(at / 60.0), lower, y.at(y.high if high is None else high)))
    areas = []
    for stretch in stretches:
        if len(stretch) > 1:
            up = "L".join(f"{_r(across)} {_r(high)}" for across, _, high in stretch)
            down = "L".join(f"{_r(across)} {_r(low)}" for across, low, _ in reversed(stretch))
            areas.append(el("path", class_="band", d=f"M{up}L{down}Z"))
        areas += [
            el("line", class_="whisker", x1=_r(across), x2=_r(across), y1=_r(low), y2=_r(high))
            for across, low, high in stretch
            if len(stretch) == 1
        ]
    return areas


def _bound_labels(bounds: Sequence[Bound], y: Scale) -> list[Element]:
    """Over the beginning of their lines, apart from each other."""
    bounds = [bound for bound in bounds if bound.label]
    wanted = [y.at(bound.value) - 4 for bound in bounds]
    places = spread(wanted, _LABEL, TOP + 8, HEIGHT - BOTTOM - 3)
    return [
        el("text", bound.label, class_=f"label {bound.style}", x=LEFT + 3, y=_r(place))
        for bound, place in zip(bounds, places, strict=True)
    ]


# --- what is drawn ---------------------------------------------------------------------------------


def weight_chart(
    marks: Sequence[tuple[float, float]], points: Sequence[TimePoint], start: float, end: float
) -> Element:
    """The canary's share of requests: as set, and as counted between two looks. ``marks`` are (Unix seconds, share)."""
    seconds = max(end - start, 60.0)
    asked = [(max(at - start, 0.0), share) for at, share in marks]
    asked = [*asked, (seconds, asked[-1][1])] if asked else []
    counted = [(one.at - start, share) for one, share in zip(points, _counted(points), strict=True)]
    shares = [share for _, share in (*asked, *counted) if share is not None]
    y = linear(0.0, max([*shares, 0.05]), HEIGHT - BOTTOM, TOP)
    lines = [
        Series(label="counted", style="counted", points=counted),
        Series(label="set", style="set", points=asked, steps=True),
    ]
    words = [f"{tick * 100:.4g}" for tick in y.ticks]
    return chart("Share of the canary over time", "% of requests", seconds, y, words, lines)


def _counted(points: Sequence[TimePoint]) -> list[float | None]:
    """The canary's share of the requests since the point before; None without any, or where counting began anew."""
    found: list[float | None] = [None] * min(len(points), 1)
    for one, other in pairwise(points):
        canary = other.canary_requests - one.canary_requests
        stable = other.stable_requests - one.stable_requests
        fair = canary >= 0 and stable >= 0 and canary + stable > 0
        found.append(canary / (canary + stable) if fair else None)
    return found


def effect_chart(
    name: str,
    points: Sequence[TimePoint],
    index: int,
    start: float,
    end: float,
    harmful: float | None,
    tolerated: float | None,
) -> tuple[Element, bool]:
    """The effect with its interval; True where part of an interval lies beyond the axis."""
    mine = [(point.at - start, _metric(point, index)) for point in points]
    y = _effect_scale([one for _, one in mine if one is not None], harmful, tolerated)
    line = Series(
        label="effect",
        style="effect",
        points=[(at, None if one is None else one.effect) for at, one in mine],
        dots=[point.at - start for point in points if point.decision],
    )
    band = Band(points=[(at, one.low if one else None, one.high if one else None) for at, one in mine])
    bounds = [Bound(label="", style="zero", value=0.0)]
    if harmful:
        bounds.append(Bound(label=f"harm beyond {percent(harmful)}", style="abort", value=harmful))
    if tolerated:
        bounds.append(Bound(label=f"tolerated {percent(tolerated)}", style="pass", value=tolerated))
    ends = [value for _, one in mine if one is not None for value in (one.low, one.high, one.effect)]
    is_cut = any(value is not None and not y.holds(value) for value in ends)
    words = [percent(tick).replace(" %", "") if tick else "0" for tick in y.ticks]
    title = f"Effect on {name} over time, with its 95 % interval"
    return chart(title, "% change", max(end - start, 60.0), y, words, [line], bounds, band), is_cut


def _metric(point: TimePoint, index: int) -> MetricPoint | None:
    return point.metrics[index] if index < len(point.metrics) else None


def _effect_scale(shown: Sequence[MetricPoint], harmful: float | None, tolerated: float | None) -> Scale:
    """All effects, the last interval and the bounds; early intervals are wide and may go beyond."""
    last = next((one for one in reversed(shown) if one.effect is not None), None)
    values = [one.effect for one in shown[len(shown) // 3 :] if one.effect is not None]
    if last is not None:
        values += [value for value in (last.low, last.high) if value is not None]
    values += [value for value in (harmful, tolerated) if value]
    values = [min(max(value, -1.0), 20.0) for value in values]
    low, high = min([*values, -0.05]), max([*values, 0.05])
    if high > _LINEAR_TO:
        return ratios(1.0 + low, 1.0 + high, HEIGHT - BOTTOM, TOP)
    pad = 0.08 * (high - low)
    return linear(max(low - pad, -1.0), high + pad, HEIGHT - BOTTOM, TOP)


def evidence_chart(
    title: str,
    lines: Sequence[Series],
    bounds: Sequence[Bound],
    start: float,
    end: float,
) -> Element:
    """Evidence on a logarithmic axis against its bounds."""
    values = [value for line in lines for _, value in line.points if value is not None and value > 0]
    levels = [bound.value for bound in bounds]
    low = min(max(min(values, default=0.1), _LEAST_EVIDENCE), 0.1)
    high = max([*levels, 10.0, min(max(values, default=1.0), _MOST_EVIDENCE)])
    y = logarithmic(low, high * (1.0 if high == _MOST_EVIDENCE else 1.6), HEIGHT - BOTTOM, TOP)
    raised = [
        Series(
            label=line.label,
            style=line.style,
            points=[(at, None if value is None else max(value, y.low)) for at, value in line.points],
            dots=line.dots,
        )
        for line in lines
    ]
    words = [_power(tick) for tick in y.ticks]
    return chart(title, "e-value (1 = no evidence)", max(end - start, 60.0), y, words, raised, bounds)


def _power(value: float) -> str:
    power = round(math.log10(value))
    return f"{value:g}" if -3 <= power <= 4 else f"1e{power}"
