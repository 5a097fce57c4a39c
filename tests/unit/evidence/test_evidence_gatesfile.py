"""Gates from plain data: defaults, units, and what is refused."""

import base64
import json
import zlib
from typing import Any

import pytest

from rollouts.analysis.catalogue import DEFAULT_PRESETS
from rollouts.analysis.comparisons import GatesError, compare_metric, evidence_spec
from rollouts.analysis.evidence.checkpoint import restore, save
from rollouts.analysis.evidence.model import (
    CompareMetric,
    CountSeries,
    Direction,
    EvidenceSpec,
    GaugeSeries,
    HistogramSeries,
    OnUndecided,
    Require,
)
from rollouts.analysis.evidence.process import EvidenceProcess
from rollouts.api.analysis_models import CompareModel
from rollouts.api.gates_file import parse_gates
from rollouts.api.runs import compare_json, compare_of, parse_run, run_spec_json
from rollouts.api.structural import structural_schema

TTFT = {"name": "ttft", "compare": {"preset": "ttft"}}


def read(name: str, plain: dict[str, Any]) -> CompareMetric:
    return compare_metric(name, compare_of(CompareModel.model_validate(plain)))


def test_a_preset_is_enough():
    metric = read("ttft", {"preset": "ttft"})
    assert metric.series == HistogramSeries(name="ttft")
    assert (metric.margin, metric.tolerance) == (0.0, 0.15)
    assert metric.require is Require.WITHIN_TOLERANCE


def test_the_full_form_is_read():
    metric = read(
        "e",
        {
            "counter": {"errors": "errors", "of": "requests"},
            "direction": "HigherIsBetter",
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
    assert read("x", plain).series == series


def test_the_words_of_the_custom_resource_are_understood():
    plain = {"preset": "tpot", "histogram": "", "gauge": "", "counter": None, "direction": "HigherIsBetter"}
    metric = read("x", plain)
    assert metric.series == HistogramSeries(name="time_per_output_token")
    assert metric.direction is Direction.HIGHER


def test_a_narrow_tolerance_narrows_the_default_margin():
    metric = read("x", {"preset": "error-rate", "tolerance": "10%"})
    assert (metric.margin, metric.tolerance) == (0.05, 0.1)


def test_a_wide_margin_widens_the_default_tolerance():
    assert read("x", {"histogram": "ttft", "margin": 0.5}).tolerance == 1.0


def test_the_false_abort_rate_is_that_of_the_attempt():
    assert parse_gates({"falseAbortRate": 0.02, "metrics": [TTFT]}).spec.false_abort_rate == 0.02
    assert parse_gates([TTFT]).spec.false_abort_rate == 0.05


def test_what_was_written_is_what_is_stored():
    plain = {
        "counter": {"errors": "e", "of": "o"},
        "direction": "HigherIsBetter",
        "margin": "5%",
        "minDwell": "300s",
        "onUndecided": "Fail",
        "tolerance": 2,
    }

    form = compare_of(CompareModel.model_validate({**plain, "preset": "", "weight": None}))

    assert json.dumps(compare_json(form)) == json.dumps(plain)
    stored = compare_of(CompareModel.model_validate(compare_json(form.requiring(Require.NO_HARM))))
    assert stored == form.requiring(Require.NO_HARM)


STORED = [
    {
        "name": "ttft",
        "source": "default",
        "compare": {
            "direction": "LowerIsBetter",
            "margin": "2%",
            "maxDuration": "1h",
            "minDwell": "300s",
            "minRequests": 200,
            "onUndecided": "Hold",
            "preset": "ttft",
            "require": "NoHarm",
            "tolerance": "0.2",
            "warmUp": "2m",
        },
        "steps": [1, 3],
        "onFail": "Abort",
    },
    {
        "name": "own",
        "source": "picker",
        "compare": {
            "counter": {"errors": "e", "of": "o"},
            "maxDuration": "30m",
            "require": "WithinTolerance",
            "tolerance": 2,
            "weight": 1,
        },
        "interval": "1m",
        "onFail": "Pause",
        "dryRun": True,
        "optional": True,
    },
]


def test_a_run_that_an_earlier_version_stored_is_continued_from_its_checkpoint():
    """The digest is what the version before 2026-11-29 wrote into checkpoints of this run."""
    stored = {"rollout": "demo", "attempt": 1, "metrics": [], "comparisons": STORED, "falseAbortRate": 0.1}

    spec = parse_run({"metadata": {"name": "x"}, "spec": stored}).spec

    assert spec is not None
    assert json.dumps(run_spec_json(spec)["comparisons"]) == json.dumps(STORED)
    now = evidence_spec(spec.comparisons, spec.false_abort_rate)
    plain = json.loads(saved(now))
    former = {**plain, "spec": "e7d10e63c5821036"}
    packed = base64.b64encode(zlib.compress(json.dumps(former).encode())).decode()
    assert plain["spec"] == "2:86423bab057d0259"
    assert restore(now, packed).spec == now


def saved(spec: EvidenceSpec) -> bytes:
    return zlib.decompress(base64.b64decode(save(EvidenceProcess(spec))))


def test_a_gate_is_judged_alike_from_a_file_and_where_the_crd_fills_its_defaults_in():
    schema = structural_schema(CompareModel)["properties"]
    defaults = {key: value["default"] for key, value in schema.items() if "default" in value}
    template = {"metrics": [{"name": "ttft", "compare": {"preset": "ttft", **defaults}}]}

    assert parse_gates([TTFT]).spec == parse_gates(template).spec
    assert parse_gates([TTFT]).spec.metrics[0].max_duration == 3600.0


def test_a_whole_template_or_a_list_is_accepted():
    for plain in ([TTFT], {"metrics": [TTFT]}, {"kind": "AnalysisTemplate", "spec": {"metrics": [TTFT]}}):
        assert [metric.name for metric in parse_gates(plain).spec.metrics] == ["ttft"]


def test_metrics_of_other_forms_are_named_as_skipped():
    gates = parse_gates([TTFT, {"name": "p95", "query": "up"}])
    assert gates.skipped == ("p95",)


def test_the_default_preset_stands_for_a_set():
    gates = parse_gates({"preset": "default"})
    assert tuple(metric.name for metric in gates.spec.metrics) == DEFAULT_PRESETS
    assert gates.optional == {*DEFAULT_PRESETS}
    required = {metric.name: metric.require for metric in gates.spec.metrics}
    assert required.pop("lost-rate") is Require.NO_HARM
    assert set(required.values()) == {Require.WITHIN_TOLERANCE}


def form(**compare: Any) -> list[dict[str, Any]]:
    return [{"name": "a", "compare": {"preset": "ttft", **compare}}]


REFUSED = {
    "nothing": (None, "valid dictionary"),
    "no metrics": ([], "nothing can be judged"),
    "too many": ([{"name": f"m{i}", "compare": {"preset": "ttft"}} for i in range(17)], "at most 16"),
    "no mapping": (["x"], "metrics.0"),
    "no name": ([{"compare": {"preset": "ttft"}}], "metrics.0.name"),
    "a long name": ([{"name": "n" * 64, "compare": {"preset": "ttft"}}], "metrics.0.name"),
    "thresholds alone": ([{"name": "a", "query": "up"}], "no metric of the compare form"),
    "a form that is a word": ([{"name": "a", "compare": "ttft"}], "metrics.0.compare"),
    "a name twice": ([TTFT, TTFT], "two metrics of one gate are called ttft"),
    "an unknown preset": (form(preset="nope"), "unknown; known"),
    "the default inside a form": (form(preset="default"), "stands beside `metrics`"),
    "two forms": (form(gauge="x"), "exactly one of"),
    "no form": ([{"name": "a", "compare": {}}], "exactly one of"),
    "a typo": (form(tolerence=1), "metrics.0.compare.tolerence"),
    "half a counter": (
        [{"name": "a", "compare": {"counter": {"errors": "e"}}}],
        "metrics.0.compare.counter.of",
    ),
    "a margin over the tolerance": (form(margin=0.3, tolerance=0.2), "raise the tolerance"),
    "a negative tolerance": (form(tolerance=-1), "tolerance: -1 is neither a fraction"),
    "a tolerance in words": (form(tolerance="wide"), "neither a fraction .* nor a percentage"),
    "an argument without a value": (form(tolerance="{{args.x}}"), "{{args.x}} has no value"),
    "a duration in words": (form(warmUp="2 minutes"), "metrics.0.compare.warmUp"),
    "a duration without a unit, which the CRD refuses": (form(minDwell="90"), "metrics.0.compare.minDwell"),
    "a requirement that there is not": (form(require="All"), "metrics.0.compare.require"),
    "a direction in other words": (form(direction="Higher"), "metrics.0.compare.direction"),
    "a floor, which the CRD prunes": (form(floor=0.01), "metrics.0.compare.floor"),
    "a rate of one metric, which the CRD prunes": (form(falseAbortRate=0.01), "falseAbortRate"),
    "a rate above a half": ({"metrics": [TTFT], "falseAbortRate": 1.5}, "falseAbortRate"),
    "a template by name": ({"metrics": [TTFT], "templates": [{"templateName": "t"}]}, "not looked up"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_gates_that_cannot_be_used_are_refused_with_what_to_change(case):
    plain, words = REFUSED[case]
    with pytest.raises(GatesError, match=words):
        parse_gates(plain)
