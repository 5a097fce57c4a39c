"""Which failures of a gate mean that requests get no answer of use: they return traffic at once."""

from __future__ import annotations

from typing import Any

import pytest

from rollouts.api.run_status import finished_run, gate_view

Object = dict[str, Any]


def run(form: str, preset: str, *, failed: bool, name: str = "m") -> Object:
    """A failed run with one metric, and another that failed beside it where this one did not."""
    compared = form == "compare"
    state = (
        {"verdict": "Fail" if failed else "Pass"}
        if compared
        else {"phase": "Failed" if failed else "Successful"}
    )
    other = {"name": "p95", "compare" if compared else "measure": {"preset": "ttft"}}
    item = {"name": name, form: {"preset": preset} if preset else {"histogram": "h"}}
    bad = {"name": "p95", **({"verdict": "Fail"} if compared else {"phase": "Failed"})}
    judged = "comparisons" if compared else "metricResults"
    return {
        "metadata": {"name": "run"},
        "spec": {"attempt": 1, "comparisons" if compared else "metrics": [other, item]},
        "status": {"phase": "Failed", judged: [bad, {"name": name, **state}]},
    }


@pytest.mark.parametrize(
    ("form", "preset", "failed", "loses"),
    [
        ("compare", "error-rate", True, True),
        ("compare", "lost-rate", True, True),
        ("compare", "error-rate", False, False),
        ("compare", "e2e", True, False),
        ("compare", "", True, False),
        ("measure", "error-rate", True, True),
        ("measure", "error-rate", False, False),
    ],
)
def test_errors_and_lost_requests_that_failed(form: str, preset: str, failed: bool, loses: bool) -> None:
    whole = run(form, preset, failed=failed)

    assert gate_view(whole).loses_requests is loses
    assert gate_view(finished_run(whole, is_read=True)).loses_requests is loses


@pytest.mark.parametrize("broken", [None, [], "x", [None], [{"name": "m", "compare": "error-rate"}]])
def test_what_cannot_be_read_is_none(broken: Any) -> None:
    scribbled = {"spec": {"comparisons": broken, "metrics": broken}, "status": {"comparisons": broken}}

    assert not gate_view(scribbled).loses_requests
