"""The templates in analysis/: they parse, resolve with their defaults, and tell good from bad as they say."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from rollouts.analysis.comparisons import compare_metric
from rollouts.analysis.conditions import condition_problem
from rollouts.analysis.forms import CompareForm
from rollouts.analysis.offers import PICKER_OFFER, POD_OFFER, PROMETHEUS_OFFER
from rollouts.analysis.templates import Gate, ResolvedGate, resolve
from rollouts.analysis.types import CompareSpec, MetricSpec, RunPhase
from rollouts.analysis.verdicts import judge_value
from rollouts.api.runs import parse_template

FOLDER = Path(__file__).resolve().parents[3] / "analysis"
FILES = sorted(FOLDER.glob("*.yaml"))
THRESHOLDS = [path for path in FILES if not path.stem.endswith("-compare")]
COMPARISONS = [path for path in FILES if path.stem.endswith("-compare")]
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def resolved(path: Path) -> ResolvedGate:
    template = parse_template(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert not isinstance(template, str), template
    assert path.stem == template.name
    gate = Gate(templates=((False, template.name),))
    offers = {"default": PROMETHEUS_OFFER, "picker": PICKER_OFFER}
    found = resolve(gate, {(False, template.name): template}, {}, offers, condition_problem)
    assert found.problems == ()
    return found


def test_there_are_templates_for_each_stack():
    assert {path.stem.split("-")[0] for path in FILES} == {"vllm", "sglang", "picker"}
    assert {path.stem.split("-")[0] for path in COMPARISONS} == {"vllm", "sglang", "picker"}


@pytest.mark.parametrize("path", THRESHOLDS, ids=lambda path: path.stem)
def test_a_template_of_thresholds_tells_good_from_bad(path):
    metrics = resolved(path).metrics
    verdicts = [
        (judge_value(metric, 0.0, NOW).phase, judge_value(metric, 1e6, NOW).phase) for metric in metrics
    ]
    assert verdicts == [(RunPhase.SUCCESSFUL, RunPhase.FAILED)] * len(metrics)


def form(metric: MetricSpec) -> CompareForm:
    assert isinstance(metric.what, CompareSpec)
    return metric.what.form


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_a_template_of_comparisons_compares_what_its_stack_exposes(path):
    offer = PICKER_OFFER if path.stem.startswith("picker") else POD_OFFER
    for metric in resolved(path).metrics:
        series = compare_metric(metric.name, form(metric)).series
        names = [getattr(series, field) for field in ("name", "errors", "of") if hasattr(series, field)]
        assert all(name in offer.series for name in names)
        prefix = {"vllm": ("vllm:", "http_"), "sglang": ("sglang:",), "picker": ("inference_picker_",)}
        exposed = {s.name for name in names for group in offer.groups(name) for s in group}
        assert any(name.startswith(prefix[path.stem.split("-")[0]]) for name in exposed)


def test_arguments_reach_the_comparison():
    path = FOLDER / "vllm-compare.yaml"
    forms = {metric.name: form(metric) for metric in resolved(path).metrics}
    assert forms["ttft"].tolerance == "0.15"
    assert forms["errors"].tolerance == "2.0"
