"""Thirty common mistakes: which of them the API server refuses, and which only a checker can see.

The table of docs/lint.md is held to it.
"""

from __future__ import annotations

import asyncio
import copy
import re
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from rollouts.api.crds import all_crds
from rollouts.cli.file_conditions import FileConditions
from rollouts.cli.lint import lint_documents
from rollouts.cli.lint_findings import Severity
from rollouts.cli.lint_live import Live
from rollouts.kube.client import PatchKind
from rollouts.kube.errors import Invalid, KubeError
from rollouts.lab.controlplane import install_crds
from rollouts.objects import kinds
from tests.kit.polling import eventually

pytestmark = [pytest.mark.cluster]

Object = dict[str, Any]
DOCS = Path(__file__).resolve().parents[2] / "docs" / "lint.md"


class By(Enum):
    """Who refuses it first."""

    ADMISSION = "admission"
    LINT = "lint"
    LIVE = "lint --live"


def rollout() -> Object:
    return {
        "apiVersion": "inferencerollouts.dev/v1alpha1",
        "kind": "Rollout",
        "metadata": {"name": "demo"},
        "spec": {
            "target": {"pool": {"name": "v2"}},
            "traffic": {"httpRoutes": [{"name": "route"}]},
            "strategy": {"canary": {"steps": [{"setWeight": 10}, {"pause": {"duration": "10m"}}]}},
        },
    }


def steps(*items: Any) -> Callable[[Object], None]:
    return lambda obj: obj["spec"]["strategy"]["canary"].update(steps=list(items))


def metric(**fields: Any) -> Callable[[Object], None]:
    found = {"name": "e", "measure": {"preset": "error-rate"}, "successCondition": "result < 0.05", **fields}
    given = {name: value for name, value in found.items() if value is not None}
    return steps({"setWeight": 10}, {"analysis": {"metrics": [given]}})


def spec(**fields: Any) -> Callable[[Object], None]:
    return lambda obj: obj["spec"].update(fields)


def _misplaced(obj: Object) -> None:
    obj["spec"]["steps"] = obj["spec"].pop("strategy")["canary"]["steps"]


MISTAKES: dict[str, tuple[Callable[[Object], None], By]] = {
    "a weight as text without %": (steps({"setWeight": "10"}), By.ADMISSION),
    "a weight above 100": (steps({"setWeight": 150}), By.ADMISSION),
    "a weight as a fraction": (steps({"setWeight": 0.1}), By.ADMISSION),
    "a duration in min": (steps({"pause": {"duration": "5min"}}), By.ADMISSION),
    "a window with a space": (metric(measure={"preset": "error-rate", "window": "5 m"}), By.ADMISSION),
    "a step of Argo Rollouts": (steps({"setCanaryScale": {"replicas": 1}}), By.ADMISSION),
    "nothing behind pause": (steps({"setWeight": 10}, {"pause": None}), By.ADMISSION),
    "two things in one step": (steps({"setWeight": 10, "pause": {}}), By.ADMISSION),
    "steps outside of strategy": (_misplaced, By.ADMISSION),
    "pool and adapter": (spec(target={"pool": {"name": "v2"}, "adapter": {"name": "a"}}), By.ADMISSION),
    "an adapter on a route": (spec(target={"adapter": {"name": "a"}}), By.ADMISSION),
    "a count without interval": (metric(count=5), By.ADMISSION),
    "a provider of Argo Rollouts": (metric(measure=None, provider={"prometheus": {}}), By.ADMISSION),
    "no condition": (metric(successCondition=None), By.ADMISSION),
    "a preset that is not there": (metric(measure={"preset": "errorrate"}), By.ADMISSION),
    "a compared preset that is not there": (
        metric(measure=None, successCondition=None, compare={"preset": "errorrate"}),
        By.ADMISSION,
    ),
    "=< for <=": (metric(successCondition="result[0] =< 0.05"), By.ADMISSION),
    "a condition in ms": (metric(successCondition="result < 2000ms"), By.ADMISSION),
    "a condition in %": (metric(failureCondition="result > 5%"), By.ADMISSION),
    "a field that nobody reads": (spec(allowMissingModel=True), By.LINT),
    "weights that fall": (steps({"setWeight": 50}, {"setWeight": 10}), By.LINT),
    "a query whose bracket is open": (metric(measure=None, query="sum(rate(x[5m])"), By.LINT),
    "a condition that cannot be read": (metric(successCondition="result < (2"), By.LINT),
    "a template that is not there": (
        steps({"setWeight": 10}, {"analysis": {"templates": [{"templateName": "sucess"}]}}),
        By.LIVE,
    ),
    "a pool that is not there": (spec(target={"pool": {"name": "v3"}}), By.LIVE),
    "a route that is not there": (spec(traffic={"httpRoutes": [{"name": "rout"}]}), By.LIVE),
    "a strategy that is not there": (spec(strategy={"canaryFrom": {"name": "carefull"}}), By.LIVE),
}


def problems(objects: dict[str, Object], live: Live | None = None) -> dict[str, list[str]]:
    """What ``lint`` refuses of each."""
    with FileConditions() as check:
        return {
            name: [
                one.text
                for one in lint_documents([obj], check=check, live=live)
                if one.severity is Severity.PROBLEM
            ]
            for name, obj in objects.items()
        }


def there(name: str, kind: str, version: str) -> Object:
    """What the cluster has under a name."""
    meta = {"name": name, "annotations": {"inferencerollouts.dev/managed-by": "demo"}}
    return {"apiVersion": version, "kind": kind, "metadata": meta, "spec": {}}


CLUSTER = Live(
    objects=[
        there("v2", "InferencePool", "inference.networking.k8s.io/v1"),
        there("route", "HTTPRoute", "gateway.networking.k8s.io/v1"),
    ]
)


@pytest.fixture(autouse=True)
async def crds(kube) -> None:
    await install_crds(kube, all_crds())


async def refused(kube, namespace: str, obj: Object) -> str:
    """The API server's words; empty where it takes it. It prunes fields that it does not know."""
    try:
        await kube.create(kinds.ROLLOUT, namespace, copy.deepcopy(obj))
    except KubeError as error:
        return str(error)
    await kube.delete(kinds.ROLLOUT, namespace, obj["metadata"]["name"])
    return ""


async def test_each_mistake_is_refused_by_whom_the_table_says(kube, namespace) -> None:
    objects = {name: rollout() for name in ("sound", *MISTAKES)}
    for name, (change, _) in MISTAKES.items():
        change(objects[name])
    linted = await asyncio.to_thread(problems, objects)
    live = await asyncio.to_thread(problems, objects, CLUSTER)
    said = {name: await refused(kube, namespace, obj) for name, obj in objects.items()}
    assert (said.pop("sound"), linted["sound"], live["sound"]) == ("", [], [])
    ways = ((By.ADMISSION, said), (By.LINT, linted), (By.LIVE, live))
    first = {name: next((by for by, found in ways if found[name]), None) for name in MISTAKES}
    assert first == {name: by for name, (_, by) in MISTAKES.items()}
    assert [name for name in MISTAKES if said[name] and not linted[name]] == []  # lint says all that it says


def test_the_docs_have_this_very_table() -> None:
    rows = re.findall(
        r"^\| (.+) \| (admission|lint|lint --live) \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert dict(rows) == {name: by.value for name, (_, by) in MISTAKES.items()}


async def test_what_was_stored_before_a_rule_existed_can_still_be_reported_on_and_deleted(
    kube, namespace
) -> None:
    """A rule that came later must hold up neither a status nor a finalizer (ratcheting, Kubernetes 1.30)."""
    looser = copy.deepcopy([crd for crd in all_crds() if crd["spec"]["names"]["kind"] == "Rollout"])
    schema = looser[0]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    _strip(schema)
    await kube.patch(
        kinds.CRD,
        None,
        looser[0]["metadata"]["name"],
        [{"op": "replace", "path": "/spec", "value": looser[0]["spec"]}],
        kind=PatchKind.JSON,
    )
    obj = rollout()
    metric(measure={"preset": "errorrate"})(obj)
    obj["metadata"]["finalizers"] = ["inferencerollouts.dev/restore-traffic"]

    async def taken() -> bool:
        try:
            await kube.create(kinds.ROLLOUT, namespace, copy.deepcopy(obj))
        except Invalid:
            return False
        return True

    async def ruled() -> bool:
        return bool(await refused(kube, namespace, {**obj, "metadata": {"name": "other"}}))

    await eventually(taken, timeout=60.0, every=0.2)
    await install_crds(kube, all_crds())
    await eventually(ruled, timeout=60.0, every=0.2)
    status = {"status": {"phase": "Invalid", "observedGeneration": 1}}
    stored = await kube.patch(
        kinds.ROLLOUT, namespace, "demo", status, kind=PatchKind.MERGE, subresource="status"
    )
    assert stored["status"]["phase"] == "Invalid"
    await kube.delete(kinds.ROLLOUT, namespace, "demo")
    gone = {"metadata": {"finalizers": None}}
    await kube.patch(kinds.ROLLOUT, namespace, "demo", gone, kind=PatchKind.MERGE)
    assert [one async for one in _named(kube, namespace)] == []


async def _named(kube, namespace: str) -> Any:
    try:
        yield await kube.get(kinds.ROLLOUT, namespace, "demo")
    except KubeError:
        return


def _strip(schema: Object) -> None:
    schema.pop("x-kubernetes-validations", None)
    for child in (*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])):
        _strip(child)
