"""Lists are atomic: a default inside one is a difference to Git that nobody made. Absent is what the code says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import yaml

from rollouts.analysis.forms import CompareForm
from rollouts.analysis.types import CompareSpec
from rollouts.api.analysis_models import CompareModel, MetricModel
from rollouts.api.crds import all_crds, crd_files
from rollouts.api.runs import metric_of

Object = Mapping[str, Any]


def defaults(schema: Object, path: str = "", *, listed: bool = False) -> Iterator[tuple[str, bool]]:
    """(path, whether it is inside a list) of each default."""
    if "default" in schema:
        yield path, listed
    for name, field in schema.get("properties", {}).items():
        yield from defaults(field, f"{path}.{name}", listed=listed)
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), Mapping):
            yield from defaults(schema[name], f"{path}[]", listed=True)


@pytest.mark.parametrize("crd", all_crds(), ids=lambda crd: crd["spec"]["names"]["kind"])
def test_no_schema_has_a_default_inside_a_list(crd: Object) -> None:
    (version,) = crd["spec"]["versions"]

    assert [path for path, listed in defaults(version["schema"]["openAPIV3Schema"]) if listed] == []


def test_defaults_of_what_is_no_list_are_kept() -> None:
    rollout = all_crds()[0]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]

    assert (".spec.strategy.canary.sticky.pinHeader", False) in set(defaults(rollout))


def test_nothing_is_filled_in_that_would_win_over_a_shared_strategy() -> None:
    found = {
        path
        for crd in all_crds()
        for path, _ in defaults(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
        if crd["spec"]["names"]["kind"] != "AnalysisRun"
    }

    assert [path for path in found if path.rpartition(".")[0].endswith("canary")] == []


def test_the_description_says_what_is_meant_where_a_field_is_left_out() -> None:
    text = dict(crd_files())["analysistemplates.inferencerollouts.dev.yaml"]
    schema = yaml.safe_load(text)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    compare = schema["properties"]["spec"]["properties"]["metrics"]["items"]["properties"]["compare"]

    assert compare["properties"]["maxDuration"]["description"].endswith("Default: 1h.")


def meant(model: MetricModel) -> CompareSpec:
    what = metric_of(model).what
    assert isinstance(what, CompareSpec)
    return what


def test_a_comparison_means_the_same_whether_its_defaults_are_written_out_or_not() -> None:
    terse = MetricModel.model_validate({"name": "m", "compare": {"preset": "ttft"}})
    full = CompareModel(preset="ttft").model_dump(by_alias=True, exclude_none=True)
    spelled = MetricModel.model_validate({"name": "m", "compare": full})

    forms = [what.form for what in map(meant, (terse, spelled))]

    assert [replace(form, written=frozenset()) for form in forms] == [CompareForm(preset="ttft")] * 2
    assert forms[0].max_duration == "1h"
