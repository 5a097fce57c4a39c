"""The templates in analysis/: they parse, resolve with their defaults, and judge numbers as they say."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from rollouts.analysis.templates import Gate, resolve
from rollouts.analysis.types import Phase
from rollouts.analysis.verdicts import judge_value
from rollouts.api.runs import parse_template

FOLDER = Path(__file__).resolve().parents[3] / "analysis"
FILES = sorted(FOLDER.glob("*.yaml"))


def test_there_are_templates_for_each_stack():
    assert {path.stem.split("-")[0] for path in FILES} == {"vllm", "sglang"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_template_resolves_with_its_defaults_and_tells_good_from_bad(path):
    template = parse_template(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert not isinstance(template, str), template
    resolved = resolve(
        Gate(templates=((False, template.name),)),
        {(False, template.name): template},
        {},
        frozenset({"default"}),
    )

    assert resolved.problems == ()
    assert path.stem == template.name
    now = datetime(2026, 1, 1, tzinfo=UTC)
    verdicts = [
        (judge_value(metric, 0.0, now).phase, judge_value(metric, 1e6, now).phase)
        for metric in resolved.metrics
    ]
    assert verdicts == [(Phase.SUCCESSFUL, Phase.FAILED)] * len(resolved.metrics)
