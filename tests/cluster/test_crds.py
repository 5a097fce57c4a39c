"""The CRDs on a real API server: what it refuses, with which words, and that the parser refuses the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from rollouts.api.crds import all_crds
from rollouts.api.parsing import parse_rollout
from rollouts.api.strategies import pin_strategy
from rollouts.engine.attempt import PinnedStrategy
from rollouts.kube.client import PatchKind
from rollouts.kube.errors import Invalid
from rollouts.kube.http import HttpKubeClient
from rollouts.lab.controlplane import install_crds
from rollouts.objects import kinds
from tests.kit.kstatus import Kstatus, kstatus

pytestmark = [pytest.mark.cluster]

Object = dict[str, Any]
GATE = {
    "metrics": [{"name": "errors", "measure": {"preset": "error-rate"}, "successCondition": "result < 0.1"}]
}


@pytest.fixture(autouse=True)
async def crds(kube: HttpKubeClient) -> None:
    await install_crds(kube, all_crds())


def good() -> Object:
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


def steps(*items: Object) -> Callable[[Object], None]:
    def change(spec: Object) -> None:
        spec["strategy"]["canary"]["steps"] = list(items)

    return change


def put(value: Any, *path: str) -> Callable[[Object], None]:
    def change(spec: Object) -> None:
        where = spec
        for name in path[:-1]:
            where = where.setdefault(name, {})
        where[path[-1]] = value

    return change


def managed(*items: Object) -> Callable[[Object], None]:
    def change(spec: Object) -> None:
        spec["traffic"]["httpRoutes"][0]["template"] = {
            "parentRefs": [{"name": "gateway"}],
            "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}]}],
        }
        if items:
            spec["strategy"]["canary"]["steps"] = list(items)

    return change


VARIANT = {"name": "deepseek-r1", "labels": {"release": "deepseek-r1"}}


def variant(*, model_name: str = "", pool: str = "pool", **changed: Any) -> Callable[[Object], None]:
    """Of one pool's pods; ``changed`` are fields of the target."""

    def change(spec: Object) -> None:
        split = {"name": pool} | ({"modelName": model_name} if model_name else {})
        spec.update(target={"variant": VARIANT | changed}, traffic={"inferencePool": split})

    return change


def member(*, group: str = "mymodel") -> Callable[[Object], None]:
    """Of a routing group of KServe."""

    def change(spec: Object) -> None:
        target = {"llmInferenceService": {"name": "mymodel-v2"}}
        spec.update(target=target, traffic={"llmInferenceServiceGroup": {"group": group}})

    return change


QUERY = {"name": "m", "query": "up", "successCondition": "result < 2.0"}
HEADER = {"name": "testers", "match": [{"headerName": "x-canary", "headerValue": {"exact": "yes"}}]}

CAPACITY = ("strategy", "canary", "capacity")

GOOD: dict[str, Callable[[Object], None]] = {
    "the plain one": lambda spec: None,
    "fractions of a percent": steps({"setWeight": "0.5%"}, {"setWeight": "99.95%"}),
    "a pause in seconds": steps({"setWeight": 1}, {"pause": {"duration": 30}}),
    "a pause until promoted": steps({"setWeight": 1}, {"pause": {}}),
    "an analysis in place": steps({"setWeight": 1}, {"analysis": GATE}),
    "a job": steps({"setWeight": 1}, {"job": {"spec": {"template": {"spec": {"containers": []}}}}}),
    "a Managed route with a header route": managed({"setHeaderRoute": HEADER}, {"setWeight": 10}),
    "background analysis": put({"startingStep": 1, **GATE}, "strategy", "canary", "analysis"),
    "the whole strategy": put("1h", "strategy", "canary", "bake"),
    "a rollback window": put({"duration": "24h"}, "rollbackWindow"),
    "a member of a KServe group": member(),
    "a variant": variant(),
    "a variant of a model": variant(model_name="mymodel", model="deepseek"),
    "a variant by two labels with domains": variant(labels={"example.com/a": "A.1_b", "b": ""}),
    "sticky variants": lambda spec: (
        variant()(spec),
        put({"header": "x-session-id"}, "strategy", "canary", "sticky")(spec),
        None,
    )[-1],
    "a group": put({"name": "v2", "group": "inference.networking.k8s.io"}, "target", "pool"),
    "capacity with all of its fields": put(
        {
            "maxSurge": "25%",
            "minStable": 1,
            "abort": "Immediate",
            "headroom": 0.5,
            "minReplicas": 2,
            "drainTimeout": "5m",
            "scaleDown": {"delay": "1m", "to": 1},
            "warmUp": {
                "requests": 5,
                "concurrency": 5,
                "prompts": {"configMap": "prompts", "key": "lines.txt"},
            },
            "with": [
                {"pool": "prefill-v2", "role": "prefill"},
                {"pool": "prefill-v1", "of": "v1", "role": "prefill"},
            ],
        },
        *CAPACITY,
    ),
    "capacity without a field": put({}, *CAPACITY),
    "a shared strategy": put({"canaryFrom": {"name": "careful"}}, "strategy"),
    "a shared strategy, and what differs": put(
        {"canaryFrom": {"name": "careful", "kind": "ClusterRolloutStrategy"}, "canary": {"bake": "1h"}},
        "strategy",
    ),
    "windows": put(
        [
            {"schedule": "0 9 * * mon-fri", "duration": "8h", "timeZone": "Europe/Berlin"},
            {"schedule": "*/30 22-23 1,15 * *", "duration": "10m"},
        ],
        "strategy",
        "canary",
        "windows",
    ),
}

BAD: dict[str, tuple[Callable[[Object], None], str]] = {
    "no strategy": (put({}, "strategy"), "canary.steps is needed, or canaryFrom"),
    "neither steps nor a strategy": (
        put({"canary": {"bake": "1h"}}, "strategy"),
        "canary.steps is needed, or canaryFrom",
    ),
    "another kind of strategy": (
        put({"canaryFrom": {"name": "x", "kind": "Pod"}}, "strategy"),
        "Unsupported value",
    ),
    "a KServe member and another's traffic": (
        put({"llmInferenceService": {"name": "v2"}}, "target"),
        "needs traffic.llmInferenceServiceGroup",
    ),
    "a pool with a KServe group": (
        put({"llmInferenceServiceGroup": {"group": "mymodel"}}, "traffic"),
        "needs traffic",
    ),
    "a KServe group that no label can name": (member(group="My_Model"), "group"),
    "a KServe member with capacity": (
        lambda spec: (member()(spec), put({}, "strategy", "canary", "capacity")(spec), None)[-1],
        "needs scaleDown, which stops what lost",
    ),
    "a KServe member with a sticky key": (
        lambda spec: (member()(spec), put({"header": "x"}, "strategy", "canary", "sticky")(spec), None)[-1],
        "all else is split by the gateway",
    ),
    "no target": (put({}, "target"), "exactly one of pool, adapter, variant and llmInferenceService"),
    "two targets": (
        put({"name": "a"}, "target", "adapter"),
        "exactly one of pool, adapter, variant and llmInferenceService",
    ),
    "a pool with an InferenceModel": (
        put({"inferenceModel": {"name": "m"}}, "traffic"),
        "pools are split by the gateway",
    ),
    "no traffic": (put({}, "traffic"), "exactly one of httpRoutes"),
    "two kinds of traffic": (put({"name": "m"}, "traffic", "inferenceModel"), "exactly one of httpRoutes"),
    "sticky without an adapter": (
        put({"header": "x-session-id"}, "strategy", "canary", "sticky"),
        "all else is split by the gateway",
    ),
    "a variant without a pool": (
        lambda spec: spec.update(target={"variant": VARIANT}),
        "a variant target needs",
    ),
    "a pool's variants and no variant": (
        lambda spec: spec.update(traffic={"inferencePool": {"name": "p"}}),
        "pools are split by the gateway",
    ),
    "a variant without labels": (variant(labels={}), "labels"),
    "a variant's label that no pod can have": (variant(labels={"a b": "c"}), "no label that a pod can have"),
    "a variant's value that no pod can have": (variant(labels={"a": "c!"}), "no label that a pod can have"),
    "nine labels": (variant(labels={f"l{i}": "x" for i in range(9)}), "labels"),
    "a variant's name with a space": (variant(name="v 2"), "name"),
    "capacity for a variant": (
        lambda spec: (variant()(spec), put({}, "strategy", "canary", "capacity")(spec), None)[-1],
        "needs target.pool",
    ),
    "a schedule of four fields": (
        put([{"schedule": "0 9 * mon-fri", "duration": "8h"}], "strategy", "canary", "windows"),
        "a schedule has five fields",
    ),
    "both day fields": (
        put([{"schedule": "0 9 1 * mon", "duration": "8h"}], "strategy", "canary", "windows"),
        "both set: cron takes either, people mean both",
    ),
    "a window without a duration": (
        put([{"schedule": "0 9 * * mon"}], "strategy", "canary", "windows"),
        "duration",
    ),
    "a companion twice": (
        put({"with": [{"pool": "p"}, {"pool": "p", "of": "v1"}]}, *CAPACITY),
        "stands there twice",
    ),
    "a companion of itself": (put({"with": [{"pool": "p", "of": "p"}]}, *CAPACITY), "is the pool itself"),
    "a companion that no pool is": (put({"with": [{"pool": ""}]}, *CAPACITY), "pool"),
    "a role that is no label": (put({"with": [{"pool": "p", "role": "a b"}]}, *CAPACITY), "role"),
    "the target as a companion": (
        lambda spec: put({"with": [{"pool": spec["target"]["pool"]["name"]}]}, *CAPACITY)(spec),
        "is the target",
    ),
    **{
        f"capacity with {field}: {value!r}": (put({field: value}, *CAPACITY), words)
        for field, value, words in (
            ("maxSurge", "half", "a number of pods from 0 to 100000"),
            ("maxSurge", -1, "a number of pods from 0 to 100000"),
            ("maxSurge", "12.5%", "a number of pods from 0 to 100000"),
            ("minStable", "most", "a number of pods from 0 to 100000"),
            ("minStable", 100_001, "a number of pods from 0 to 100000"),
            ("abort", "Slowly", "Unsupported value"),
            ("headroom", 0, "headroom"),
            ("headroom", 11, "headroom"),
            ("minReplicas", 0, "minReplicas"),
            ("drainTimeout", "5min", "drainTimeout"),
            ("scaleDown", {"delay": "soon"}, "delay"),
            ("scaleDown", {"to": -1}, "to"),
            ("warmUp", {"requests": 1}, "concurrency is more than requests: lower it"),
            ("warmUp", {"requests": 0, "concurrency": 1}, "requests"),
            ("warmUp", {"prompts": {"configMap": "c", "key": "a/b"}}, "key"),
        )
    },
    "headroom below the endpoints that a weight needs": (
        lambda spec: spec["strategy"]["canary"].update(endpointRatio=0.8, capacity={"headroom": 0.5}),
        "headroom",
    ),
    "capacity for an adapter": (
        lambda spec: (
            put({"adapter": {"name": "a"}}, "target")(spec),
            put({"inferenceModel": {"name": "m"}}, "traffic")(spec),
            put({}, *CAPACITY)(spec),
            None,
        )[-1],
        "capacity needs target.pool",
    ),
    "no steps": (steps(), "steps"),
    "33 steps": (steps(*[{"pause": {}}] * 33), "32"),
    "an empty step": (steps({}), "exactly one of setWeight"),
    "two things in one step": (steps({"setWeight": 1, "pause": {}}), "exactly one of setWeight"),
    "a weight over 100": (steps({"setWeight": 101}), "100"),
    "a negative weight": (steps({"setWeight": -1}), "setWeight"),
    "a weight that is a word": (steps({"setWeight": "much"}), "percentage"),
    "a weight over 100 percent": (steps({"setWeight": "100.5%"}), "setWeight"),
    "a pause that is a word": (steps({"pause": {"duration": "a while"}}), "10m"),
    "an analysis of nothing": (steps({"analysis": {}}), "measures nothing"),
    "a metric with two kinds": (
        steps({"analysis": {"metrics": [{"name": "m", "query": "up", "measure": {"preset": "ttft"}}]}}),
        "exactly one of query, measure and compare",
    ),
    "a metric with none": (
        steps({"analysis": {"metrics": [{"name": "m"}]}}),
        "exactly one of query, measure and compare",
    ),
    "a measure of two things": (
        steps({"analysis": {"metrics": [{"name": "m", "measure": {"preset": "ttft", "gauge": "x"}}]}}),
        "exactly one of preset, histogram, counter and gauge",
    ),
    "a count without an interval": (
        steps({"analysis": {"metrics": [{"name": "m", "measure": {"preset": "ttft"}, "count": 3}]}}),
        "interval",
    ),
    "a gate without a condition": (
        steps({"analysis": {"metrics": [{"name": "m", "measure": {"preset": "ttft"}}]}}),
        "successCondition or failureCondition",
    ),
    "a condition that looks at nothing": (
        steps({"analysis": {"metrics": [{"name": "m", "query": "up", "successCondition": "1 < 2"}]}}),
        "must look at result",
    ),
    "both conditions the same": (
        steps({"analysis": {"metrics": [{**QUERY, "failureCondition": QUERY["successCondition"]}]}}),
        "no value could pass",
    ),
    "more failures tolerated than measured": (
        steps({"analysis": {"metrics": [{**QUERY, "interval": "1s", "count": 3, "failureLimit": 4}]}}),
        "failureLimit",
    ),
    "more successes wanted than measured": (
        steps(
            {"analysis": {"metrics": [{**QUERY, "interval": "1s", "count": 2, "consecutiveSuccessLimit": 3}]}}
        ),
        "could never pass",
    ),
    "successes in a row without an interval": (
        steps({"analysis": {"metrics": [{**QUERY, "consecutiveSuccessLimit": 3}]}}),
        "interval",
    ),
    "PromQL for the pods": (
        steps({"analysis": {"metrics": [{"name": "m", "query": "up", "source": "pods"}]}}),
        "knows no PromQL",
    ),
    "a required probe on an Adopted route": (
        put("Require", "strategy", "canary", "pathProbe"),
        "pathProbe",
    ),
    "a header route on an Adopted route": (steps({"setHeaderRoute": HEADER}), "Managed"),
    "a header value of two kinds": (
        managed(
            {
                "setHeaderRoute": {
                    "name": "t",
                    "match": [{"headerName": "x", "headerValue": {"exact": "a", "prefix": "b"}}],
                }
            }
        ),
        "exactly one of exact, prefix and regex",
    ),
    "background analysis past the last step": (
        put({"startingStep": 9, **GATE}, "strategy", "canary", "analysis"),
        "past the last step",
    ),
    "addBackend with a template": (
        lambda spec: (managed()(spec), spec["traffic"]["httpRoutes"][0].update(addBackend=True), None)[-1],
        "Adopted",
    ),
    "an unknown group": (put({"name": "v2", "group": "example.com"}, "target", "pool"), "group"),
    "a name that is too long": (put("x" * 254, "target", "pool", "name"), "253"),
    "a target of the wrong type": (put("v2", "target"), "target"),
    "an unknown onDelete": (put("Explode", "onDelete"), "onDelete"),
}


@pytest.mark.parametrize("case", GOOD)
async def test_good_rollouts_are_accepted(kube, namespace, case):
    obj = good()
    GOOD[case](obj["spec"])
    stored = await kube.create(kinds.ROLLOUT, namespace, obj)

    parsed = parse_rollout(stored)

    assert parsed.spec is not None
    assert [problem.message for problem in parsed.problems] == []


@pytest.mark.parametrize("case", BAD)
async def test_bad_rollouts_are_refused_with_a_reason_by_server_and_parser(kube, namespace, case):
    change, want = BAD[case]
    obj = good()
    change(obj["spec"])

    with pytest.raises(Invalid) as refused:
        await kube.create(kinds.ROLLOUT, namespace, obj)

    assert want in str(refused.value)
    assert parse_rollout(obj).problems


IMMUTABLE: dict[str, tuple[Callable[[Object], None], str]] = {
    "the route's name": (
        put([{"name": "other"}], "traffic", "httpRoutes"),
        "name of the traffic object cannot be changed",
    ),
    "the kind of target and traffic": (
        lambda spec: spec.update(
            target={"adapter": {"name": "a"}}, traffic={"inferenceModel": {"name": "m"}}
        ),
        "never turn into each other",
    ),
}


IMMUTABLE_VARIANTS: dict[str, tuple[Callable[[Object], None], str]] = {
    "the pool's name": (variant(pool="other"), "name of the traffic object cannot be changed"),
    "the model's name": (variant(model_name="other"), "modelName cannot be changed"),
    "the kind of target": (
        lambda spec: spec.update(target={"pool": {"name": "a"}}, traffic={"httpRoutes": [{"name": "r"}]}),
        "never turn into each other",
    ),
}


@pytest.mark.parametrize("case", IMMUTABLE_VARIANTS)
async def test_what_cannot_be_changed_of_variants(kube, namespace, case):
    change, want = IMMUTABLE_VARIANTS[case]
    obj = good()
    variant()(obj["spec"])
    spec = (await kube.create(kinds.ROLLOUT, namespace, obj))["spec"]
    change(spec)
    patch = [{"op": "replace", "path": "/spec", "value": spec}]

    with pytest.raises(Invalid, match=want):
        await kube.patch(kinds.ROLLOUT, namespace, "demo", patch, kind=PatchKind.JSON)


@pytest.mark.parametrize("case", IMMUTABLE)
async def test_what_cannot_be_changed(kube, namespace, case):
    change, want = IMMUTABLE[case]
    stored = await kube.create(kinds.ROLLOUT, namespace, good())
    spec = copy.deepcopy(stored["spec"])
    change(spec)
    patch = [{"op": "replace", "path": "/spec", "value": spec}]

    with pytest.raises(Invalid, match=want):
        await kube.patch(kinds.ROLLOUT, namespace, "demo", patch, kind=PatchKind.JSON)


async def test_the_target_is_the_line_that_changes(kube, namespace):
    await kube.create(kinds.ROLLOUT, namespace, good())
    body = {"spec": {"target": {"pool": {"name": "v3"}}}}
    stored = await kube.patch(kinds.ROLLOUT, namespace, "demo", body, kind=PatchKind.MERGE)

    assert stored["spec"]["target"]["pool"]["name"] == "v3"
    assert stored["metadata"]["generation"] == 2


async def test_templates_and_runs_are_accepted(kube, namespace):
    metrics = [{"name": "up", "query": "up{pod='{{args.pod}}'}", "successCondition": "result > 0"}]
    template = {
        "apiVersion": "inferencerollouts.dev/v1alpha1",
        "kind": "AnalysisTemplate",
        "metadata": {"name": "t"},
        "spec": {"args": [{"name": "pod"}], "metrics": metrics},
    }
    run = {
        "apiVersion": "inferencerollouts.dev/v1alpha1",
        "kind": "AnalysisRun",
        "metadata": {"name": "r"},
        "spec": {"rollout": "demo", "metrics": metrics},
    }

    assert (await kube.create(kinds.ANALYSIS_TEMPLATE, namespace, template))["metadata"]["uid"]
    assert (await kube.create(kinds.ANALYSIS_RUN, namespace, run))["spec"]["metrics"] == metrics


MISSING = "nothing is filled in: it would win over a shared strategy's"


@pytest.mark.parametrize(
    ("given", "kept", "limit"),
    [
        ({}, MISSING, timedelta(hours=2)),
        ({"targetDeadline": "30m"}, "30m", timedelta(minutes=30)),
        ({"targetDeadline": None}, None, None),
        ({"targetDeadline": "0s"}, "0s", None),
    ],
    ids=["left out", "a time", "null", "zero"],
)
async def test_a_target_deadline_of_null_is_no_default(
    kube: HttpKubeClient, namespace: str, given: Object, kept: str | None, limit: timedelta | None
) -> None:
    obj = good()
    obj["spec"]["strategy"]["canary"] |= given
    stored = await kube.create(kinds.ROLLOUT, namespace, obj)
    canary = stored["spec"]["strategy"]["canary"]
    assert canary.get("targetDeadline", MISSING) == kept
    parsed = parse_rollout(stored)
    assert parsed.spec is not None
    assert parsed.spec.canary.target_deadline == limit


async def test_a_merge_patch_cannot_say_null_so_zero_means_the_same(
    kube: HttpKubeClient, namespace: str
) -> None:
    obj = good()
    obj["spec"]["strategy"]["canary"]["targetDeadline"] = "30m"
    await kube.create(kinds.ROLLOUT, namespace, obj)
    for said, kept, limit in ((None, MISSING, timedelta(hours=2)), ("0s", "0s", None)):
        patch = {"spec": {"strategy": {"canary": {"targetDeadline": said}}}}
        stored = await kube.patch(kinds.ROLLOUT, namespace, "demo", patch, kind=PatchKind.MERGE)
        assert stored["spec"]["strategy"]["canary"].get("targetDeadline", MISSING) == kept
        parsed = parse_rollout(stored)
        assert parsed.spec is not None
        assert parsed.spec.canary.target_deadline == limit


async def test_a_rollout_that_no_controller_has_seen_is_not_ready_to_flux(
    kube: HttpKubeClient, namespace: str
) -> None:
    """Flux's ``wait`` would report a success at once, with or without a controller."""
    await kube.create(kinds.ROLLOUT, namespace, good())
    made = await kube.get(kinds.ROLLOUT, namespace, "demo")
    seen = {"status": {"observedGeneration": 1, "phase": "Healthy"}}
    await kube.patch(kinds.ROLLOUT, namespace, "demo", seen, kind=PatchKind.MERGE, subresource="status")
    read = await kube.get(kinds.ROLLOUT, namespace, "demo")

    assert (made["status"], kstatus(made)) == ({"observedGeneration": 0}, Kstatus.IN_PROGRESS)
    assert (read["status"], kstatus(read)) == (seen["status"], Kstatus.CURRENT)


@pytest.mark.parametrize(
    "resource", [kinds.ROLLOUT_STRATEGY, kinds.CLUSTER_ROLLOUT_STRATEGY], ids=lambda one: one.kind
)
async def test_shared_strategies_have_the_rules_of_canary(kube, namespace, resource):
    space = namespace if resource.namespaced else None
    canary = good()["spec"]["strategy"]["canary"]

    async def create(spec: Object) -> Object:
        head = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": f"s-{namespace}"},
        }
        return await kube.create(resource, space, {**head, "spec": spec})

    for wrong, want in (
        ({}, "canary"),
        ({"canary": {"bake": "1h"}}, "steps"),
        ({"canary": {"steps": [{"setWeight": 1, "pause": {}}]}}, "exactly one of setWeight"),
        ({"canary": {**canary, "analysis": {"startingStep": 9, **GATE}}}, "past the last step"),
    ):
        with pytest.raises(Invalid, match=want):
            await create(wrong)
    stored = await create({"canary": canary})
    assert stored["spec"] == {"canary": canary}
    assert isinstance(pin_strategy(stored), PinnedStrategy)
