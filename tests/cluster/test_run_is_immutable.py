"""Who may change what of an AnalysisRun: the API server refuses everything but what the Rollout appends."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from rollouts.api.crds import all_crds
from rollouts.kube.client import PatchKind
from rollouts.kube.errors import Invalid
from rollouts.kube.http import HttpKubeClient
from rollouts.lab.controlplane import install_crds
from rollouts.objects import kinds

pytestmark = [pytest.mark.cluster]

Object = dict[str, Any]
AT = "2026-01-01T00:0{}:00Z"


@pytest.fixture(autouse=True)
async def crds(kube: HttpKubeClient) -> None:
    await install_crds(kube, all_crds())


def mark(number: int, **fields: Any) -> Object:
    return {"at": AT.format(number), "step": number, "weight": 10, **fields}


def gap(number: int) -> Object:
    return {"from": AT.format(number), "to": AT.format(number + 1)}


SPEC: Object = {
    "rollout": "demo",
    "attempt": 1,
    "canary": {"name": "v2"},
    "stable": {"name": "v1"},
    "metrics": [{"name": "errors", "measure": {"preset": "error-rate"}, "successCondition": "result < 0.1"}],
    "comparisons": [{"name": "ttft", "compare": {"preset": "ttft", "tolerance": 0.15}}],
    "falseAbortRate": 0.05,
    "stepsHash": "abc",
    "since": AT.format(0),
    "marks": [mark(0), mark(1, weight="0.5%")],
    "exclude": [gap(2)],
}


async def change(kube: HttpKubeClient, namespace: str, edit: Callable[[Object], None]) -> Object:
    body = {
        "apiVersion": kinds.ANALYSIS_RUN.api_version,
        "kind": "AnalysisRun",
        "metadata": {"name": "run"},
        "spec": copy.deepcopy(SPEC),
    }
    stored = await kube.create(kinds.ANALYSIS_RUN, namespace, body)
    spec = copy.deepcopy(stored["spec"])
    edit(spec)
    patch = [{"op": "replace", "path": "/spec", "value": spec}]
    return await kube.patch(kinds.ANALYSIS_RUN, namespace, "run", patch, kind=PatchKind.JSON)


ALLOWED: dict[str, Callable[[Object], None]] = {
    "a mark more": lambda spec: spec["marks"].append(mark(3)),
    "two exclusions more": lambda spec: spec["exclude"].extend([gap(4), gap(5)]),
    "its end": lambda spec: spec.update(terminate=True),
    "the gates of another list of steps": lambda spec: spec.update(
        metrics=[], comparisons=[], falseAbortRate=0.01, metricsFrom=2, stepsHash="def"
    ),
}
REFUSED: dict[str, Callable[[Object], None]] = {
    "another rollout": lambda spec: spec.update(rollout="other"),
    "another attempt": lambda spec: spec.update(attempt=2),
    "no canary": lambda spec: spec.pop("canary"),
    "another stable": lambda spec: spec["stable"].update(name="v9"),
    "a step": lambda spec: spec.update(step=1),
    "no metrics": lambda spec: spec.update(metrics=[]),
    "another condition": lambda spec: spec["metrics"][0].update(successCondition="true"),
    "a dry run": lambda spec: spec["metrics"][0].update(dryRun=True),
    "a metric more": lambda spec: spec["metrics"].append({**spec["metrics"][0], "name": "more"}),
    "another tolerance": lambda spec: spec["comparisons"][0]["compare"].update(tolerance=9.5),
    "no tolerance": lambda spec: spec["comparisons"][0]["compare"].pop("tolerance"),
    "another false abort rate": lambda spec: spec.update(falseAbortRate=0.5),
    "metrics from later on": lambda spec: spec.update(metricsFrom=9),
    "no hash of steps": lambda spec: spec.pop("stepsHash"),
    "a mark less": lambda spec: spec["marks"].pop(),
    "no marks": lambda spec: spec.pop("marks"),
    "a mark before the others": lambda spec: spec["marks"].append(mark(2, at="2025-01-01T00:00:00Z")),
    "another weight of a mark": lambda spec: spec["marks"][0].update(weight=11),
    "an exclusion less": lambda spec: spec["exclude"].clear(),
    "an earlier beginning of its weight": lambda spec: spec.update(since="2025-01-01T00:00:00Z"),
    "no beginning of its weight": lambda spec: spec.pop("since"),
    "a longer exclusion": lambda spec: spec["exclude"][0].update(to=AT.format(9)),
}


@pytest.mark.parametrize("what", ALLOWED)
async def test_a_run_takes(kube, namespace, what):
    assert (await change(kube, namespace, ALLOWED[what]))["metadata"]["generation"] == 2


@pytest.mark.parametrize("what", REFUSED)
async def test_a_run_refuses(kube, namespace, what):
    with pytest.raises(Invalid, match="of a run can"):
        await change(kube, namespace, REFUSED[what])


async def test_a_run_that_was_told_to_end_is_not_told_to_go_on(kube, namespace):
    await change(kube, namespace, ALLOWED["its end"])
    for value in (False, None):
        with pytest.raises(Invalid, match="cannot be told to go on"):
            await kube.patch(
                kinds.ANALYSIS_RUN, namespace, "run", {"spec": {"terminate": value}}, kind=PatchKind.MERGE
            )


async def test_lists_may_be_filled_to_the_brim(kube, namespace):
    """The rules stay within the API server's budget when they are evaluated, too."""
    marks = [mark(0, at=f"2027-01-01T00:{n:02d}:00.123456Z", weight="12.34%") for n in range(60)]
    gaps = [{**gap(0), "to": f"2027-01-01T{n // 60:02d}:{n % 60:02d}:00.123456Z"} for n in range(254)]

    def almost(spec: Object) -> None:
        spec["marks"].extend(marks)
        spec["exclude"].extend(gaps)

    spec = (await change(kube, namespace, almost))["spec"]
    body = {"spec": {"marks": [*spec["marks"], mark(5)], "exclude": [*spec["exclude"], gap(5)]}}
    with pytest.raises(Invalid, match="only be appended to"):
        await kube.patch(kinds.ANALYSIS_RUN, namespace, "run", body, kind=PatchKind.MERGE)
    body["spec"]["marks"][-1]["at"] = "2028-01-01T00:00:00Z"
    stored = await kube.patch(kinds.ANALYSIS_RUN, namespace, "run", body, kind=PatchKind.MERGE)

    assert [len(stored["spec"][name]) for name in ("marks", "exclude")] == [63, 256]
