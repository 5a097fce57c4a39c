"""Rollouts in a group of KServe: who is asked first, and what is said and not written of a member in trouble."""

from __future__ import annotations

from typing import Any

import pytest

from rollouts.api.parsing import parse_rollout
from rollouts.controller.caches import Caches
from rollouts.controller.traffic_views import TrafficViews
from rollouts.objects import kinds
from rollouts.objects.llm_services import STOP_ANNOTATION
from tests.kit.clock import virtual_time
from tests.kit.faults.cluster import Cluster
from tests.kit.faults.moves import at_step, begun, command, phase
from tests.kit.faults.objects import (
    CANARY,
    STABLE,
    THIRD,
    base_objects,
    service_object,
    service_objects,
    service_rollout,
)
from tests.kit.faults.process import Assembler
from tests.kit.faults.simulation import CLEAN, Act, Condition, FaultPlan, Move, Scenario, Simulation
from tests.kit.faults.transport import Delivery

Object = dict[str, Any]


def change(member: str, patch: Object) -> Act:
    return lambda sim: sim.cluster.merge(kinds.LLM_SERVICE, member, patch, manager="kubectl-edit")


STOP = {"metadata": {"annotations": {STOP_ANNOTATION: "true"}}}
LEAVE = {"spec": {"router": {"route": {"group": "elsewhere"}}}}
RENAME = {"spec": {"model": {"name": "another"}}}


def setup(cluster: Cluster) -> None:
    service_objects(cluster, {STABLE: 9, CANARY: 0, THIRD: 0}, {})
    base_objects(cluster, service_rollout([{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}]), route=False)


def run(*moves: Move, goal: Condition, plan: FaultPlan = CLEAN, start: Any = setup) -> Simulation:
    scenario = Scenario(name="a group of KServe", setup=start, moves=moves, goal=goal, services=True)

    async def whole() -> Simulation:
        simulation = Simulation(scenario, plan, Assembler())
        await simulation.run()
        return simulation

    with virtual_time() as loop:
        return loop.run_until_complete(whole())


def weights(sim: Simulation) -> dict[str, int]:
    return {
        one["metadata"]["name"]: one["spec"]["router"]["route"]["weight"]
        for one in sim.cluster.all(kinds.LLM_SERVICE)
    }


def condition(sim: Simulation, name: str) -> Object:
    found: Object = next(one for one in sim.status["conditions"] if one["type"] == name)
    return found


def test_one_forgotten_consent_gives_the_new_version_nothing() -> None:
    def forgotten(cluster: Cluster) -> None:
        service_objects(cluster, {STABLE: 100, CANARY: 0, THIRD: 0}, {})
        base_objects(cluster, service_rollout([{"setWeight": 10}]), route=False)
        cluster.delete(kinds.LLM_SERVICE, STABLE)
        cluster.create(kinds.LLM_SERVICE, service_object(STABLE, 100, owner=""))

    sim = run(goal=lambda sim: sim.status.get("reason") == "RouteNotConsented", start=forgotten)

    assert weights(sim) == {STABLE: 100, CANARY: 0, THIRD: 0}
    assert sim.status["reason"] == "RouteNotConsented"
    assert sim.status["message"].startswith(
        f"LLMInferenceService {STABLE} does not consent: nothing is written."
    )


@pytest.mark.parametrize(("patch", "words"), [(STOP, "is stopped"), (LEAVE, "is in group elsewhere")])
def test_an_abort_gives_nothing_to_a_stable_that_gets_no_requests(patch: Object, words: str) -> None:
    sim = run(
        Move(when=at_step(1), act=change(STABLE, patch), after=7),
        Move(when=begun, act=command("abort"), after=7),
        goal=phase("Aborted"),
    )

    applied = condition(sim, "TrafficApplied")
    assert weights(sim)[CANARY] > 0
    assert applied["reason"] == "StableNotReady"
    assert words in applied["message"]


def test_a_canary_that_no_longer_fits_is_named_in_the_words_of_kserve() -> None:
    sim = run(
        Move(when=at_step(1), act=change(CANARY, RENAME), after=7),
        goal=lambda sim: condition(sim, "TargetReady")["reason"] == "GroupDiverges",
    )

    assert f"{CANARY} serves another" in condition(sim, "TargetReady")["message"]
    assert weights(sim)[CANARY] == 1


def test_nothing_falls_to_0_before_who_serves_instead_is_looked_at() -> None:
    late = FaultPlan(name="late", delivery=Delivery(delays=(("llminferenceservices", 20.0),)), exact=False)
    seen: list[int] = []

    def stop(sim: Simulation) -> None:
        change(STABLE, STOP)(sim)
        command("abort")(sim)

    sim = run(
        Move(when=at_step(1), act=stop, after=60),
        Move(when=begun, act=lambda sim: seen.append(weights(sim)[CANARY]), after=12),
        goal=phase("Aborted"),
        plan=late,
    )

    assert seen == [1]
    assert weights(sim)[CANARY] == 1


def test_the_event_says_that_it_is_the_group() -> None:
    sim = run(goal=at_step(1))

    said = [one["message"] for one in sim.cluster.all(kinds.EVENT) if one["reason"] == "WeightSet"]
    assert said == [f"LLMInferenceService group mymodel-group: {CANARY} 10%"]


def test_a_kind_that_is_not_watched_is_not_called_missing() -> None:
    sim = run(goal=at_step(1))
    parsed = parse_rollout(sim.cluster.get(kinds.ROLLOUT, "mymodel") or {})
    caches = Caches(sim.client, sim.clock, unwatched=["kserve"])
    assert TrafficViews(caches, ()).unwatched(parsed) == "kserve"
    assert TrafficViews(Caches(sim.client, sim.clock), ()).unwatched(parsed) == ""
