"""What must hold of every answer in a soak, as pure functions of what was seen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = [
    "LAG",
    "Epoch",
    "Seen",
    "Window",
    "flipped_sessions",
    "our_errors",
    "share_without_session",
    "slope",
    "wrong_models",
]

LAG = 0.5
"""Seconds after a write in which a request may still meet the old weights: watch, settling, a busy machine."""

SPLIT = "travelhelper"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One request that its client did not abort. Times are monotonic seconds; ``status`` 0 is no answer.

    ``asked`` and ``model`` are the names in request and answer, ``session`` is empty without one, ``whole``
    says that the answer came to its end, ``refused`` is the picker's reason when it answered itself.
    """

    sent: float
    ended: float
    asked: str
    status: int
    model: str = ""
    session: str = ""
    whole: bool = True
    refused: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Epoch:
    """From ``since`` on, the canary has ``weight``, a fraction."""

    since: float
    weight: float


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time in which a killed pod explains an error."""

    since: float
    until: float


def _spans(epochs: Sequence[Epoch]) -> list[tuple[Epoch, float]]:
    ends = [epoch.since for epoch in epochs[1:]]
    return list(zip(epochs, [*ends, math.inf], strict=True))


def wrong_models(seen: Iterable[Seen], epochs: Sequence[Epoch], *, stable: str, canary: str) -> list[Seen]:
    """Whole answers by a model that no weights of the time allow, or, for another name, by another model."""
    spans = _spans(epochs)
    return [one for one in seen if _is_good(one) and one.model not in _allowed(one, spans, stable, canary)]


def _is_good(one: Seen) -> bool:
    return one.status == 200 and one.whole


def _allowed(one: Seen, spans: Sequence[tuple[Epoch, float]], stable: str, canary: str) -> set[str]:
    if one.asked != SPLIT:
        return {one.asked}
    allowed: set[str] = set()
    for epoch, end in spans:
        if epoch.since <= one.ended and one.sent < end + LAG:
            allowed |= {stable} if epoch.weight < 1 else set()
            allowed |= {canary} if epoch.weight > 0 else set()
    return allowed


def flipped_sessions(seen: Iterable[Seen], epochs: Sequence[Epoch], *, canary: str) -> list[str]:
    """Sessions without a threshold: met by stable at a weight at which, or above which, the canary met them.

    Nested buckets give each key one point in [0, 1); the canary has it exactly while its weight is above. This
    covers every order of weights, up and down. Requests near a change of the weights prove nothing.
    """
    spans = _spans(epochs)
    on_stable: dict[str, float] = {}
    on_canary: dict[str, float] = {}
    for one in seen:
        weight = _weight_during(one, spans)
        if not one.session or not _is_good(one) or one.asked != SPLIT or weight is None:
            continue
        if one.model == canary:
            on_canary[one.session] = min(on_canary.get(one.session, math.inf), weight)
        else:
            on_stable[one.session] = max(on_stable.get(one.session, -math.inf), weight)
    return sorted(name for name in on_canary if on_stable.get(name, -math.inf) >= on_canary[name])


def _weight_during(one: Seen, spans: Sequence[tuple[Epoch, float]]) -> float | None:
    for epoch, end in spans:
        if epoch.since + LAG <= one.sent and one.ended <= end:
            return epoch.weight
    return None


def our_errors(seen: Iterable[Seen], killed: Sequence[Window]) -> list[Seen]:
    """Answers that went wrong without a pod's fault.

    A pod that was killed excuses a 502, 503 or 504 by Envoy, and an answer that was cut off; it never excuses a
    500, which is a picker that failed, nor a refusal by the picker while other pods were Ready.
    """
    return [one for one in seen if _is_wrong(one) and not _excused(one, killed)]


def _is_wrong(one: Seen) -> bool:
    return one.status != (200 if not one.asked.startswith("unknown") else 404) or not one.whole


def _excused(one: Seen, killed: Sequence[Window]) -> bool:
    by_pod = not one.refused and (one.status in (502, 503, 504) or (one.status == 200 and not one.whole))
    return by_pod and any(window.since <= one.ended and one.sent <= window.until for window in killed)


def share_without_session(seen: Iterable[Seen], epoch: Epoch, end: float, *, canary: str) -> tuple[int, int]:
    """(answers by the canary, all answers) among requests without a session, sent well inside an epoch."""
    models = [
        one.model
        for one in seen
        if one.asked == SPLIT and not one.session and _is_good(one)
        if epoch.since + LAG <= one.sent and one.ended <= end
    ]
    return models.count(canary), len(models)


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Slope of the least-squares line through (x, y); NaN for fewer than two distinct x."""
    if len({x for x, _ in points}) < 2:
        return math.nan
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
