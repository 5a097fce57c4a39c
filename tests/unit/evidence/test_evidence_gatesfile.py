"""Gates from plain data: defaults, units, and what is refused."""

import pytest

from rollouts.analysis.evidence.model import (
    CountSeries,
    Direction,
    GaugeSeries,
    HistogramSeries,
    OnUndecided,
    Require,
)
from rollouts.analysis.gatesfile import (
    DEFAULT_PRESETS,
    GatesError,
    parse_compare,
    parse_duration,
    parse_fraction,
    parse_gates,
)

TTFT = {"name": "ttft", "compare": {"preset": "ttft"}}


def test_a_preset_is_enough():
    metric = parse_compare("ttft", {"preset": "ttft"})
    assert metric.series == HistogramSeries(name="ttft")
    assert (metric.margin, metric.tolerance) == (0.0, 0.15)
    assert metric.require is Require.WITHIN_TOLERANCE


def test_the_full_form_is_read():
    metric = parse_compare(
        "e",
        {
            "counter": {"errors": "errors", "of": "requests"},
            "direction": "Higher",
            "margin": "5%",
            "tolerance": 1.5,
            "require": "NoHarm",
            "minDwell": "90s",
            "minRequests": 50,
            "warmUp": "1m30s",
            "maxDuration": "1h",
            "onUndecided": "PromoteIfNoHarm",
            "weight": 2,
        },
    )
    assert metric.series == CountSeries(errors="errors", of="requests")
    assert (metric.margin, metric.tolerance) == (0.05, 1.5)
    assert (metric.min_dwell, metric.warm_up, metric.max_duration) == (90.0, 90.0, 3600.0)
    assert (metric.direction, metric.require) == (Direction.HIGHER, Require.NO_HARM)
    assert (metric.on_undecided, metric.weight, metric.min_requests) == (
        OnUndecided.PROMOTE_IF_NO_HARM,
        2,
        50,
    )


@pytest.mark.parametrize(
    ("plain", "series"),
    [
        ({"histogram": "ttft"}, HistogramSeries(name="ttft")),
        ({"gauge": "kv_cache"}, GaugeSeries(name="kv_cache")),
        ({"preset": "error-rate"}, CountSeries(errors="errors", of="requests")),
    ],
)
def test_each_form_names_its_series(plain, series):
    assert parse_compare("x", plain).series == series


def test_the_words_of_the_custom_resource_are_understood():
    plain = {"preset": "tpot", "histogram": "", "gauge": "", "counter": None, "direction": "HigherIsBetter"}
    metric = parse_compare("x", plain)
    assert metric.series == HistogramSeries(name="time_per_output_token")
    assert metric.direction is Direction.HIGHER


def test_a_narrow_tolerance_narrows_the_default_margin():
    metric = parse_compare("x", {"preset": "error-rate", "tolerance": "10%"})
    assert (metric.margin, metric.tolerance) == (0.05, 0.1)


def test_a_wide_margin_widens_the_default_tolerance():
    assert parse_compare("x", {"histogram": "ttft", "margin": 0.5}).tolerance == 1.0


def test_the_smallest_false_abort_rate_counts_for_the_whole():
    rows = [
        {"name": "a", "falseAbortRate": 0.04, "compare": {"preset": "ttft"}},
        {"name": "b", "compare": {"preset": "error-rate", "falseAbortRate": "2%"}},
    ]
    assert parse_gates({"falseAbortRate": 0.05, "metrics": rows}).spec.false_abort_rate == 0.02
    assert parse_gates(rows[:1]).spec.false_abort_rate == 0.04
    assert parse_gates([TTFT]).spec.false_abort_rate == 0.05


def test_a_whole_template_or_a_list_is_accepted():
    for plain in ([TTFT], {"metrics": [TTFT]}, {"kind": "AnalysisTemplate", "spec": {"metrics": [TTFT]}}):
        assert [metric.name for metric in parse_gates(plain).spec.metrics] == ["ttft"]


def test_metrics_of_other_forms_are_named_as_skipped():
    gates = parse_gates([TTFT, {"name": "p95", "query": "up"}])
    assert gates.skipped == ("p95",)


def test_the_default_preset_stands_for_a_set():
    gates = parse_gates([{"name": "all", "compare": {"preset": "default", "minDwell": "1m"}}])
    assert tuple(metric.name for metric in gates.spec.metrics) == DEFAULT_PRESETS
    assert {metric.min_dwell for metric in gates.spec.metrics} == {60.0}


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.05, 0.05), ("5%", 0.05), ("0.5", 0.5), (2, 2.0), (" 15 % ".replace(" ", ""), 0.15)],
)
def test_fractions_and_percent_strings(value, expected):
    assert parse_fraction(value, "x") == expected


@pytest.mark.parametrize(("value", "expected"), [("30s", 30), ("5m", 300), ("1h30m", 5400), (45, 45)])
def test_durations(value, expected):
    assert parse_duration(value, "x") == expected


@pytest.mark.parametrize(
    ("plain", "words"),
    [
        (None, "list `metrics`"),
        ([], "list `metrics`"),
        ([{"name": f"m{i}", "compare": {"preset": "ttft"}} for i in range(17)], "list `metrics`"),
        (["x"], "must be a mapping"),
        ([{"compare": {"preset": "ttft"}}], "name"),
        ([{"name": "a", "query": "up"}], "no metric of the compare form"),
        ([{"name": "a", "compare": "ttft"}], "compare must be a mapping"),
        ([TTFT, TTFT], "distinct"),
        ([{"name": "a", "compare": {"preset": "nope"}}], "unknown; known"),
        ([{"name": "a", "compare": {"preset": "ttft", "gauge": "x"}}], "exactly one of"),
        ([{"name": "a", "compare": {"preset": "ttft", "tolerence": 1}}], "unknown field 'tolerence'"),
        ([{"name": "a", "compare": {"counter": {"errors": "e"}}}], "errors: NAME, of: NAME"),
        (
            [{"name": "a", "compare": {"preset": "ttft", "margin": 0.3, "tolerance": 0.2}}],
            "raise the tolerance",
        ),
        ([{"name": "a", "compare": {"preset": "ttft", "tolerance": -1}}], "at least 0"),
        ([{"name": "a", "compare": {"preset": "ttft", "tolerance": "wide"}}], "percentage"),
        ([{"name": "a", "compare": {"preset": "ttft", "warmUp": "2 minutes"}}], "duration"),
        ([{"name": "a", "compare": {"preset": "ttft", "warmUp": " "}}], "duration"),
        ([{"name": "a", "compare": {"preset": "ttft", "require": "All"}}], "one of"),
        ([{"name": "a", "compare": {"preset": "ttft", "floor": 0.9}}], "floor"),
        ([{"name": "a", "falseAbortRate": 1.5, "compare": {"preset": "ttft"}}], "error rate"),
    ],
)
def test_gates_that_cannot_be_used_are_refused_with_what_to_change(plain, words):
    with pytest.raises(GatesError, match=words):
        parse_gates(plain)
