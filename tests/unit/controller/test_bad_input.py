"""Bad input at the assembled controller: a phase, a condition and a message each, and nobody else is held up.

Each case stands beside a good Rollout on a route of its own, which must reach its end, and the bad one's traffic must
stay where it was.
"""

from __future__ import annotations

import copy
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any, Unpack

import pytest

from rollouts.controller.assembly import assemble
from rollouts.kube.client import CreateOptions, KubeClient, PatchKind, Resource
from rollouts.kube.errors import Invalid
from rollouts.kube.wrapping import Call, Verb, WrappedClient
from rollouts.lab.controlplane.upstream import CRDS
from rollouts.objects import kinds
from rollouts.sources.budget import QueryBudget
from tests.kit.clock import virtual_time
from tests.kit.faults.clients import CountedShares
from tests.kit.faults.cluster import NAMESPACE, Cluster
from tests.kit.faults.process import Assembler
from tests.kit.faults.scenarios import base_objects, rollout_object
from tests.kit.faults.simulation import CLEAN, Move, Scenario, Simulation
from tests.kit.faults.source import Answer

Object = dict[str, Any]
GATE = {"metrics": [{"name": "m", "measure": {"preset": "ttft"}, "successCondition": "result < 2.0"}]}


def steps(*items: Object) -> Callable[[Object], None]:
    def change(rollout: Object) -> None:
        rollout["spec"]["strategy"]["canary"]["steps"] = list(items)

    return change


def gate(**metric: Any) -> Callable[[Object], None]:
    return steps({"setWeight": 10}, {"analysis": {"metrics": [{"name": "m", **metric}]}})


def put(value: Any, *path: str) -> Callable[[Object], None]:
    def change(rollout: Object) -> None:
        where = rollout["spec"]
        for name in path[:-1]:
            where = where[name]
        where[path[-1]] = value

    return change


CASES: dict[str, tuple[Callable[[Object], None], str, str, tuple[str, ...]]] = {
    "an unknown pool": (
        put("nowhere", "target", "pool", "name"),
        "WaitingForTarget",
        "TargetReady",
        ("nowhere", "does not exist", "create it"),
    ),
    "a missing route": (
        put([{"name": "nothing"}], "traffic", "httpRoutes"),
        "WaitingForTarget",
        "TrafficApplied",
        ("HTTPRoute nothing", "add it to Git"),
    ),
    "a route without consent": (
        put([{"name": "silent-route"}], "traffic", "httpRoutes"),
        "Invalid",
        "TrafficApplied",
        ("does not consent", "inferencerollouts.dev/managed-by: bad"),
    ),
    "a route that belongs to another Rollout": (
        put([{"name": "inference-route"}], "traffic", "httpRoutes"),
        "Invalid",
        "TrafficApplied",
        ("belongs to Rollout mymodel",),
    ),
    "weights out of order": (
        steps({"setWeight": 50}, {"setWeight": 10}),
        "Invalid",
        "SpecValid",
        ("steps[1].setWeight", "must not fall"),
    ),
    "a weight over 100": (steps({"setWeight": 120}), "Invalid", "SpecValid", ("120", "between 0 and 100")),
    "a template that does not exist": (
        steps({"setWeight": 10}, {"analysis": {"templates": [{"templateName": "gone"}]}}),
        "Invalid",
        "SpecValid",
        ("AnalysisTemplate gone does not exist", "create it"),
    ),
    "an argument without a value": (
        steps({"setWeight": 10}, {"analysis": {"templates": [{"templateName": "needs-argument"}]}}),
        "Invalid",
        "SpecValid",
        ("needs the argument limit", "give it a value"),
    ),
    "malformed CEL": (
        gate(measure={"preset": "ttft"}, successCondition="result <"),
        "Invalid",
        "SpecValid",
        ("successCondition", "not valid CEL"),
    ),
    "CEL over a name that does not exist": (
        gate(measure={"preset": "ttft"}, successCondition="result < latency"),
        "Invalid",
        "SpecValid",
        ("there is no latency in a condition",),
    ),
    "an unknown source": (
        gate(query="up", source="thanos", successCondition="result > 0"),
        "Invalid",
        "SpecValid",
        ("no source is called thanos", "configured are"),
    ),
    "an unknown preset": (
        gate(measure={"preset": "speed"}, successCondition="result < 2.0"),
        "Invalid",
        "SpecValid",
        ("there is no preset speed", "ttft"),
    ),
    "a statistic that there is none of": (
        gate(
            measure={"histogram": "vllm:e2e_request_latency_seconds", "stat": "ratio"},
            successCondition="result < 2",
        ),
        "Invalid",
        "SpecValid",
        ("is a histogram, of which there is no ratio", "take p50, p90, p95, p99 or mean"),
    ),
    "an argument that is given twice": (
        steps(
            {"setWeight": 10},
            {"analysis": GATE | {"args": [{"name": "a", "value": "1"}, {"name": "a", "value": "2"}]}},
        ),
        "Invalid",
        "SpecValid",
        ("two arguments are called a",),
    ),
    "an adapter on a route": (
        put({"adapter": {"name": "travel-helper-v2"}}, "target"),
        "Invalid",
        "SpecValid",
        ("an adapter target needs traffic.inferenceModel",),
    ),
    "a spec of the wrong type": (put("v2", "target"), "Invalid", "SpecValid", ("target",)),
    "steps of the wrong type": (
        put("fast", "strategy", "canary", "steps"),
        "Invalid",
        "SpecValid",
        ("steps",),
    ),
}


def accept_anything(cluster: Cluster) -> None:
    """The API server refuses some of these: they stand for objects stored before a rule existed."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    patch = [{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema", "value": schema}]
    cluster.api.patch(
        CRDS,
        None,
        f"rollouts.{kinds.GROUP}",
        patch,
        content_type=PatchKind.JSON.value,
        manager="test",
    )


def second_route(cluster: Cluster, name: str, consent: str | None) -> None:
    route = copy.deepcopy(cluster.get(kinds.HTTP_ROUTE, "inference-route"))
    assert route is not None
    route["metadata"] = {"name": name, "namespace": NAMESPACE}
    if consent is not None:
        route["metadata"]["annotations"] = {"inferencerollouts.dev/managed-by": consent}
    cluster.create(kinds.HTTP_ROUTE, {key: value for key, value in route.items() if key != "status"})


def template(cluster: Cluster) -> None:
    metric = {"name": "m", "measure": {"preset": "ttft"}, "successCondition": "result < {{args.limit}}"}
    cluster.create(
        kinds.ANALYSIS_TEMPLATE,
        {
            "apiVersion": f"{kinds.GROUP}/{kinds.VERSION}",
            "kind": "AnalysisTemplate",
            "metadata": {"name": "needs-argument", "namespace": NAMESPACE},
            "spec": {"args": [{"name": "limit"}], "metrics": [metric]},
        },
    )


def status(simulation: Simulation, name: str) -> Object:
    rollout = simulation.cluster.get(kinds.ROLLOUT, name)
    return (rollout or {}).get("status") or {}


def run(setup: Callable[[Cluster], None], goal: Callable[[Simulation], bool], *moves: Move) -> Simulation:
    scenario = Scenario(name="bad input", setup=setup, moves=moves, goal=goal)
    made: list[Simulation] = []

    async def whole() -> bool:
        made.append(Simulation(scenario, CLEAN, Assembler()))
        return (await made[0].run()).converged

    with virtual_time() as loop:
        assert loop.run_until_complete(whole()), status(made[0], "mymodel")
    return made[0]


def weights(simulation: Simulation, route: str) -> list[int]:
    found = simulation.cluster.get(kinds.HTTP_ROUTE, route)
    return [ref["weight"] for ref in found["spec"]["rules"][0]["backendRefs"]] if found else []


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_named_and_holds_nobody_up(case):
    change, phase, condition, words = CASES[case]
    bad = rollout_object(name="bad")
    bad["spec"]["traffic"]["httpRoutes"][0]["name"] = "bad-route"
    change(bad)

    def setup(cluster: Cluster) -> None:
        accept_anything(cluster)
        base_objects(cluster, rollout_object())
        second_route(cluster, "bad-route", "bad")
        second_route(cluster, "silent-route", None)
        template(cluster)
        cluster.create(kinds.ROLLOUT, bad)

    simulation = run(setup, lambda s: status(s, "mymodel").get("phase") == "Healthy")

    found = status(simulation, "bad")
    assert found["phase"] == phase
    assert [word for word in words if word not in found["message"]] == []
    conditions = {item["type"]: item for item in found["conditions"]}
    assert conditions[condition]["status"] == "False"
    assert conditions[condition]["message"]
    assert weights(simulation, "bad-route") == [100, 0, 0]
    assert weights(simulation, "silent-route") == [100, 0, 0]


@pytest.mark.parametrize(
    "answer", [Answer.DOWN, Answer.SLOW, Answer.NAN, Answer.INFINITE, Answer.EMPTY, Answer.REFUSED]
)
def test_a_source_that_says_nothing_holds_the_rollout_and_never_passes_it(answer):
    def setup(cluster: Cluster) -> None:
        base_objects(cluster, rollout_object())

    def silence(simulation: Simulation) -> None:
        simulation.source.answer = answer

    simulation = run(
        setup,
        lambda s: status(s, "mymodel").get("reason") == "GateInconclusive",
        Move(when=lambda s: True, act=silence),
    )

    found = status(simulation, "mymodel")
    assert (found["phase"], found["reason"]) == ("Paused", "GateInconclusive")
    assert found["weight"]["applied"] == 10
    assert "inconclusive" in found["message"]
    assert "promote" in found["message"]


def test_silence_says_how_much_there_is_and_of_what():
    told: set[str] = set()

    def setup(cluster: Cluster) -> None:
        base_objects(cluster, rollout_object())

    def silence(simulation: Simulation) -> None:
        simulation.source.answer = Answer.NAN

    def goal(simulation: Simulation) -> bool:
        told.add(str(status(simulation, "mymodel").get("message")))
        return status(simulation, "mymodel").get("reason") == "GateInconclusive"

    run(setup, goal, Move(when=lambda s: True, act=silence))

    early = r"no data: window 30s, \d+s of it collected since this weight began, 12 canary requests"
    assert [text for text in told if re.search(early, text)], told
    assert [text for text in told if "no data: window 30s, 12 canary requests" in text], told


def test_a_status_that_somebody_scribbled_on_is_written_anew():
    def setup(cluster: Cluster) -> None:
        accept_anything(cluster)
        base_objects(cluster, rollout_object())

    def scribble(simulation: Simulation) -> None:
        broken = {"history": "none", "conditions": 7, "phase": "Splendid", "weight": []}
        simulation.cluster.api.patch(
            kinds.ROLLOUT,
            NAMESPACE,
            "mymodel",
            {"status": broken},
            content_type=PatchKind.MERGE.value,
            subresource="status",
            manager="vandal",
        )

    simulation = run(
        setup,
        lambda s: status(s, "mymodel").get("phase") == "Healthy",
        Move(when=lambda s: status(s, "mymodel").get("currentStep") == 2, act=scribble),
    )

    assert status(simulation, "mymodel")["stable"]["name"] == "mymodel-pool-v2"


class Vanishing(WrappedClient):
    """Refuses the first write of a route, and the Rollout is gone before anybody can be told."""

    def __init__(self, inner: KubeClient, vanish: Callable[[], None]) -> None:
        super().__init__(inner)
        self._vanish = vanish

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        if call.verb is Verb.PATCH and call.plural == kinds.HTTP_ROUTE.plural:
            self._vanish()
            raise Invalid("weights are frozen by policy", status=422)
        yield


def test_a_rollout_that_is_gone_before_its_refusal_can_be_shown_is_no_bug():
    def setup(cluster: Cluster) -> None:
        base_objects(cluster, rollout_object())

    def vanish() -> None:
        cluster = made[0].cluster
        where = (kinds.ROLLOUT, NAMESPACE, "mymodel")
        stripped = {"metadata": {"finalizers": None}}
        cluster.api.patch(*where, stripped, content_type=PatchKind.MERGE.value, manager="kubectl")
        cluster.api.delete(*where)

    class Refusing(Assembler):
        def __call__(self, client, clock, caches, source):
            return super().__call__(Vanishing(client, vanish), clock, caches, source)

    scenario = Scenario(
        name="vanished",
        setup=setup,
        moves=(),
        goal=lambda s: s.cluster.get(kinds.ROLLOUT, "mymodel") is None,
    )
    made: list[Simulation] = []

    async def whole() -> bool:
        made.append(Simulation(scenario, CLEAN, Refusing()))
        return (await made[0].run()).converged

    with virtual_time() as loop:
        assert loop.run_until_complete(whole())

    assert made[0].history.problems == []


class Kubernetes(WrappedClient):
    """Knows the fields of a Job, as a real API server does: others it drops, or refuses where it is asked to."""

    def around(self, call: Call) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    async def create(
        self, resource: Resource, namespace: str | None, obj: Any, **options: Unpack[CreateOptions]
    ) -> Object:
        if resource == kinds.JOB and options.get("strict") and "commnd" in str(obj):
            text = 'strict decoding error: unknown field "spec.template.spec.containers[0].commnd"'
            raise Invalid(f"Job in version v1 cannot be handled as a Job: {text}", status=400)
        return await super().create(resource, namespace, obj, **options)


def test_a_misspelt_field_of_a_job_is_named_and_passes_no_gate():
    def setup(cluster: Cluster) -> None:
        rollout = rollout_object()
        container = {"name": "check", "image": "checks", "commnd": ["check-answers"]}
        pod = {"restartPolicy": "Never", "containers": [container]}
        steps({"setWeight": 10}, {"job": {"spec": {"template": {"spec": pod}}}})(rollout)
        base_objects(cluster, rollout)

    class Strict(Assembler):
        def __call__(self, client, clock, caches, source):
            return super().__call__(Kubernetes(client), clock, caches, source)

    scenario = Scenario(
        name="misspelt",
        setup=setup,
        moves=(),
        goal=lambda s: s.status.get("reason") == "GateInvalid" or s.status.get("phase") == "Healthy",
    )
    made: list[Simulation] = []

    async def whole() -> bool:
        made.append(Simulation(scenario, CLEAN, Strict()))
        return (await made[0].run()).converged

    with virtual_time() as loop:
        assert loop.run_until_complete(whole())

    assert (made[0].status["phase"], made[0].status["reason"]) == ("Invalid", "GateInvalid")
    assert 'unknown field "spec.template.spec.containers[0].commnd"' in made[0].status["message"]


def test_a_namespace_over_its_query_budget_gets_errors_that_name_it_and_never_a_pass():
    class Frugal(Assembler):
        def __call__(self, client, clock, caches, source):
            return assemble(
                client,
                clock,
                caches=caches,
                sources={"default": source},
                shares=CountedShares(clock, self.clients),
                adapters=self.adapters,
                budget=QueryBudget(clock, 1, frozenset({"default"})),
            )

    noted: list[Simulation] = []

    def held(simulation: Simulation) -> bool:
        runs = simulation.cluster.all(kinds.ANALYSIS_RUN)
        return any("query budget of 1 a minute" in run.get("status", {}).get("message", "") for run in runs)

    scenario = Scenario(
        name="over budget",
        setup=lambda cluster: base_objects(cluster, rollout_object()),
        moves=(Move(when=held, act=noted.append),),
        goal=lambda s: s.status.get("phase") == "Healthy",
    )
    made: list[Simulation] = []

    async def whole() -> bool:
        made.append(Simulation(scenario, CLEAN, Frugal()))
        return (await made[0].run()).converged

    with virtual_time() as loop:
        assert loop.run_until_complete(whole()), made[0].status

    assert noted == made  # it was held, named the budget, and went on by itself
