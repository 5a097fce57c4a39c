"""The report as one HTML document: no script, no request to anywhere, every text escaped by ``markup``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from rollouts.report.charts import Bound, Series, effect_chart, evidence_chart, weight_chart
from rollouts.report.markup import Child, Element, el, render
from rollouts.report.reading import AttemptReport, ComparedMetric, Threshold
from rollouts.report.style import PAGE, hash_of

__all__ = ["attempt_sections", "document", "explained", "moment", "report_page", "state"]

_STATES = {
    "Promoted": "good",
    "Healthy": "good",
    "Pass": "good",
    "Successful": "good",
    "Ready": "good",
    "done": "good",
    "approve": "good",
    "deny": "bad",
    "Aborted": "bad",
    "Fail": "bad",
    "Failed": "bad",
    "Invalid": "bad",
    "failed": "bad",
    "NotReady": "bad",
    "Paused": "held",
    "WaitingForTarget": "held",
    "Inconclusive": "held",
    "Error": "held",
    "Superseded": "held",
    "Withdrawn": "held",
}
_MARKS = {"good": "✔", "bad": "✖", "held": "?", "open": "◌"}
"""A state is told by its word and its sign, never by its colour alone."""


def moment(at: datetime | None) -> Child:
    """A time, in UTC."""
    if at is None:
        return "-"
    utc = at.astimezone(UTC)
    return el("time", utc.strftime("%Y-%m-%d %H:%M:%S"), datetime=utc.strftime("%Y-%m-%dT%H:%M:%SZ"))


def state(word: str) -> Element:
    """A phase or verdict."""
    sort = _STATES.get(word, "open")
    return el("span", f"{_MARKS[sort]} {word}", class_=f"state {sort}")


def document(
    title: str, body: Sequence[Child], *, script: str = "", connect: bool = False, forms: bool = False
) -> str:
    """A whole page that may fetch nothing, but for events of its own server with ``connect``."""
    policy = ["default-src 'none'", f"style-src {hash_of(PAGE)}", "img-src data:", "base-uri 'none'"]
    policy.append("form-action 'self'" if forms else "form-action 'none'")
    if script:
        policy.append("script-src 'self'")
    if connect:
        policy.append("connect-src 'self'")
    head = [
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content="; ".join(policy)),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="referrer", content="same-origin" if forms else "no-referrer"),
        el("title", title),
        el("link", rel="icon", href="data:,"),
        el("style", PAGE),
        el("script", src=script, type="module") if script else None,
    ]
    return "<!DOCTYPE html>\n" + render(el("html", el("head", head), el("body", *body), lang="en")) + "\n"


def report_page(attempt: AttemptReport, now: datetime) -> str:
    """The document of ``rollouts report``."""
    title = f"Rollout {attempt.namespace}/{attempt.name}, attempt {attempt.number}"
    made = el(
        "p",
        "Made by ",
        el("code", "rollouts report"),
        " at ",
        moment(now),
        " UTC from what the cluster keeps.",
    )
    header = el("header", el("h1", title), _headline(attempt))
    main = el("main", *attempt_sections(attempt, now))
    return document(title, [header, main, el("footer", made, class_="soft")])


def _headline(attempt: AttemptReport) -> Element:
    return el("p", state(attempt.outcome), " ", attempt.message)


def explained(lines: Sequence[tuple[str, str]]) -> Element:
    """(heading, sentence) pairs, as ``rollouts explain`` says them."""
    rows: list[Element] = []
    told = ""
    for heading, sentence in lines:
        rows += [el("dt", heading if heading != told else ""), el("dd", sentence)]
        told = heading
    return el("dl", rows)


def attempt_sections(attempt: AttemptReport, now: datetime) -> Iterator[Element]:
    """Everything below the headline, for the report and for the live page."""
    yield _about(attempt)
    if attempt.steps:
        yield el("section", el("h2", "Steps"), _steps(attempt))
    start, end = _span(attempt, now)
    if attempt.marks or attempt.points:
        yield el("section", el("h2", "Weights and evidence of the whole"), *_whole(attempt, start, end))
    if attempt.compared:
        yield el("section", el("h2", "Comparisons with stable"), _how_to_read())
        for one in attempt.compared:
            yield _comparison(attempt, one, start, end)
    if attempt.thresholds:
        yield el(
            "section",
            el("h2", "Metrics with limits of their own"),
            [_threshold(one) for one in attempt.thresholds],
        )
    if attempt.strategy:
        yield el(
            "section", el("h2", "Strategy"), [el("p", line) for line in attempt.strategy], _fields(attempt)
        )
    if attempt.approvals:
        yield el("section", el("h2", "Approvals"), _approvals(attempt))
    yield el("section", el("h2", "Decisions"), _decisions(attempt))
    if attempt.history:
        yield el("section", el("h2", "Attempts"), _history(attempt))
    if attempt.missing:
        yield el(
            "section", el("h2", "What is not known"), el("ul", [el("li", text) for text in attempt.missing])
        )


def _span(attempt: AttemptReport, now: datetime) -> tuple[float, float]:
    """From the first thing known of the attempt to its end, in Unix seconds."""
    times = [at.timestamp() for at, _, _ in attempt.marks] + [float(point.at) for point in attempt.points]
    times += [at.timestamp() for at in (attempt.began,) if at is not None]
    start = min(times, default=now.timestamp())
    last = now if attempt.running else attempt.ended
    ends = [*times, last.timestamp()] if last is not None else times
    return start, max(ends, default=start + 60.0)


def _about(attempt: AttemptReport) -> Element:
    desired, applied, observed = attempt.weight
    rows: list[tuple[str, Child]] = [
        ("Canary", attempt.canary),
        ("Revision hash", el("code", attempt.canary_hash) if attempt.canary_hash else "-"),
        ("Stable", attempt.stable),
        ("Attempt", f"{attempt.number} of {attempt.newest}"),
        ("Began (UTC)", moment(attempt.began)),
        ("Ended (UTC)", "goes on" if attempt.running else moment(attempt.ended)),
    ]
    if attempt.running:
        rows.append(("Weight", f"{applied} set, {desired} desired, {observed} observed"))
    asked = [(one.what, one.answer) for one in attempt.asked] or [("Who asked", "not recorded")]
    pairs = [(el("dt", what), el("dd", answer)) for what, answer in [*rows, *asked]]
    return el("section", el("dl", [child for pair in pairs for child in pair]), class_="card")


def _steps(attempt: AttemptReport) -> Element:
    rows = []
    for step in attempt.steps:
        verdict: list[Child] = [" ", state(step.verdict)] if step.verdict else []
        sign = {"done": "✔", "failed": "✖", "current": "◌"}.get(step.state, "•")
        current = {"current": "step", "failed": "step"}.get(step.state)
        words = f"{sign} {step.number}. {step.text}"
        rows.append(
            el("li", words, el("small", f" {step.state} "), moment(step.began), verdict, aria_current=current)
        )
    return el("ol", rows, class_="plain")


def _key(*lines: tuple[str, str]) -> Element:
    """What the lines of a drawing are."""

    def sample(style: str) -> Element:
        return el(
            "svg", el("path", class_=f"line {style}", d="M0 6H32"), viewBox="0 0 32 12", aria_hidden="true"
        )

    return el("p", [el("span", sample(style), f" {words}") for style, words in lines], class_="key")


def _whole(attempt: AttemptReport, start: float, end: float) -> Iterator[Element]:
    marks = [(at.timestamp(), share) for at, _, share in attempt.marks]
    drawings = [
        el(
            "div",
            el("h3", "Share of requests at the canary"),
            weight_chart(marks, attempt.points, start, end),
            _key(("set", "set"), ("counted", "counted, one look late")),
        )
    ]
    if attempt.points and attempt.abort_at is not None:
        points = [(point.at - start, point.harm) for point in attempt.points]
        dots = [point.at - start for point in attempt.points if point.decision]
        line = Series(label="harm", style="harm", points=points, dots=dots)
        bound = Bound(label=f"abort at {attempt.abort_at:g}", style="abort", value=attempt.abort_at)
        drawing = evidence_chart("Evidence of harm of all metrics over time", [line], [bound], start, end)
        words = "evidence that the canary is worse, all metrics together; a ring is a decision"
        drawings.append(el("div", el("h3", "Evidence of harm"), drawing, _key(("harm", words))))
    yield el("div", drawings, class_="charts")


def _how_to_read() -> Element:
    text = (
        "An effect is the change of the canary against stable, with an interval that may be looked at at any time. "
        "Evidence of 20 means: a healthy canary would show this much in one rollout of twenty at most. The attempt is "
        "aborted by the evidence of harm of all metrics together, and a gate passes by the evidence of each that the "
        "change is tolerable."
    )
    return el("p", text, class_="soft")


def _comparison(attempt: AttemptReport, one: ComparedMetric, start: float, end: float) -> Element:
    result = one.result
    read_by = ", ".join(f"step {step + 1}" for step in one.steps) or "the background analysis"
    advisory = " It informs and decides nothing." if one.advisory else ""
    told = f"Read by {read_by}; source {one.source or '-'}; {result.reason or 'no reason yet'}.{advisory}"
    parts: list[Child] = [
        el("h3", f"{result.name} ", state(result.verdict)),
        el("p", result.words),
        el("p", told, class_="soft"),
    ]
    if attempt.points:
        parts.append(el("div", *_drawings(attempt, one, start, end), class_="charts"))
        parts.append(_figures(attempt, one, start))
    return el("article", parts, class_="card")


def _drawings(attempt: AttemptReport, one: ComparedMetric, start: float, end: float) -> Iterator[Element]:
    points = attempt.points
    effect, is_cut = effect_chart(one.result.name, points, one.index, start, end, one.harmful, one.tolerated)
    note = "; parts of the interval lie beyond the axis" if is_cut else ""
    yield el("div", effect, _key(("effect", f"change, with its 95 % interval{note}")))
    mine = [(p.at - start, p.metrics[one.index] if one.index < len(p.metrics) else None) for p in points]
    lines = [
        Series(label="harm", style="harm", points=[(at, m.harm if m else None) for at, m in mine]),
        Series(label="proof", style="proof", points=[(at, m.proof if m else None) for at, m in mine]),
    ]
    bounds = []
    if attempt.pass_at is not None:
        bounds.append(Bound(label=f"pass at {attempt.pass_at:g}", style="pass", value=attempt.pass_at))
    title = f"Evidence on {one.result.name} over time"
    drawing = evidence_chart(title, lines, bounds, start, end)
    yield el("div", drawing, _key(("harm", "harm, its part of the whole"), ("proof", "within tolerance")))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _figures(attempt: AttemptReport, one: ComparedMetric, start: float) -> Element:
    head = ("minute", "weight %", "effect %", "low %", "high %", "harm", "within tolerance")
    rows = []
    for point in attempt.points:
        metric = point.metrics[one.index] if one.index < len(point.metrics) else None
        effect = (metric.effect, metric.low, metric.high) if metric else (None, None, None)
        shares = [_number(None if value is None else value * 100) for value in effect]
        evidence = [_number(metric.harm), _number(metric.proof)] if metric else ["-", "-"]
        cells = [f"{(point.at - start) / 60:.1f}", f"{point.weight * 100:.3g}", *shares, *evidence]
        rows.append(el("tr", [el("td", cell, class_="n") for cell in cells]))
    table = el(
        "table",
        el("caption", f"{one.result.name} over time"),
        el("thead", el("tr", [el("th", word, class_="n", scope="col") for word in head])),
        el("tbody", rows),
    )
    label = f"Figures of {one.result.name}"
    place = f"figures-{one.index}"
    scroll = el("div", table, class_="wide", tabindex=0, role="region", aria_label=label, id=f"{place}-table")
    return el("details", el("summary", label, id=f"{place}-open"), scroll, id=place)


def _threshold(one: Threshold) -> Element:
    result = one.result
    where = "background" if one.step is None else f"step {one.step + 1}"
    tally = (
        (result.successful, "successful"),
        (result.failed, "failed"),
        (result.inconclusive, "inconclusive"),
    )
    counts = ", ".join(f"{count} {word}" for count, word in (*tally, (result.error, "errors")))
    rows = [
        el(
            "tr",
            el("td", moment(taken.at)),
            el("td", state(taken.phase.value)),
            el("td", _value(taken.value)),
            el("td", taken.message),
        )
        for taken in result.measurements
    ]
    head = el(
        "thead", el("tr", [el("th", word, scope="col") for word in ("at (UTC)", "phase", "value", "why")])
    )
    table = el("table", el("caption", "The newest measurements"), head, el("tbody", rows), class_="stack")
    return el(
        "article",
        el("h3", f"{result.name} ", state(result.phase.value)),
        el("p", result.message) if result.message else None,
        el("p", f"{where}, run {one.run}: {counts}. {one.conditions}", class_="soft"),
        el("p", el("code", one.asks)) if one.asks else None,
        el("div", table, class_="wide") if rows else None,
        class_="card",
    )


def _value(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return (
        ", ".join(f"{getattr(item, 'value', 0.0):.4g}" for item in value) if isinstance(value, tuple) else "-"
    )


def _decisions(attempt: AttemptReport) -> Element:
    if not attempt.decisions:
        return el("p", "None yet.")
    rows = [
        el("li", moment(one.at), " ", el("strong", one.what), el("span", f": {one.why}") if one.why else None)
        for one in attempt.decisions
    ]
    return el("ol", rows, class_="plain")


def _fields(attempt: AttemptReport) -> Element | None:
    rows = [
        el("tr", el("td", one.name), el("td", el("code", one.value)), el("td", one.origin))
        for one in attempt.strategy_fields
    ]
    head = el("thead", el("tr", [el("th", word, scope="col") for word in ("field", "in force", "from")]))
    return el("table", head, el("tbody", rows), class_="stack") if rows else None


def _approvals(attempt: AttemptReport) -> Element:
    rows = [
        el(
            "tr",
            el("td", f"{attempt.number}"),
            el("td", f"{one.step}"),
            el("td", one.webhook),
            el("td", state(one.decision)),
            el("td", one.by or "-"),
            el("td", moment(one.at)),
            el("td", one.message or "-"),
        )
        for one in attempt.approvals
    ]
    words = ("attempt", "step", "asked of", "decision", "by", "at (UTC)", "message")
    head = el("thead", el("tr", [el("th", word, scope="col") for word in words]))
    return el("table", head, el("tbody", rows), class_="stack")


def _history(attempt: AttemptReport) -> Element:
    rows = [
        el(
            "tr",
            el("td", f"{entry.attempt}"),
            el("td", moment(entry.at)),
            el("td", state(entry.outcome.value)),
            el("td", entry.revision.label),
            el("td", entry.message),
        )
        for entry in reversed(attempt.history)
    ]
    words = ("attempt", "ended (UTC)", "outcome", "version", "why")
    head = el("thead", el("tr", [el("th", word, scope="col") for word in words]))
    return el("table", head, el("tbody", rows), class_="stack")
