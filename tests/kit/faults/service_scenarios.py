"""Workloads: rollouts between LLMInferenceServices of a group of KServe, each with a weight of its own."""

from __future__ import annotations

import copy
from typing import Any

from rollouts.objects import kinds
from rollouts.objects.llm_services import STOP_ANNOTATION
from tests.kit.faults.cluster import Cluster
from tests.kit.faults.moves import (
    answer,
    at_step,
    both,
    command,
    delete,
    gone,
    healthy_on,
    kserve,
    overwrite_route,
    phase,
    reason,
    retarget,
)
from tests.kit.faults.objects import (
    CANARY,
    GATE,
    STABLE,
    STEPS,
    THIRD,
    base_objects,
    service_objects,
    service_rollout,
)
from tests.kit.faults.simulation import Condition, Move, Scenario, Simulation
from tests.kit.faults.source import Answer

__all__ = ["SERVICE_SCENARIOS"]

Object = dict[str, Any]

_WAITING: list[Object] = [{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}]
_GATED: list[Object] = [{"setWeight": 10}, {"analysis": GATE}, {"setWeight": 50}]
_AT_ONCE: list[Object] = [{"setWeight": 100}, {"pause": {}}]
_STOPS: Object = {"capacity": {"scaleDown": {"delay": "60s"}, "drainTimeout": "60s"}}


def _scenario(
    name: str,
    rollout: Object,
    moves: list[Move],
    goal: Condition,
    *,
    weights: dict[str, int] | None = None,
    others: dict[str, int] | None = None,
    core: bool = False,
) -> Scenario:
    """``weights`` of our members; ``others``: members of no Rollout, and what they have."""

    def setup(cluster: Cluster) -> None:
        service_objects(cluster, weights or {STABLE: 9, CANARY: 0, THIRD: 0}, others or {})
        base_objects(cluster, copy.deepcopy(rollout), route=False)

    return Scenario(
        name=f"service: {name}",
        setup=setup,
        moves=tuple(moves),
        goal=goal,
        core=core,
        measured="analysis" in repr(rollout["spec"]["strategy"]),
        services=True,
        stride=2,
    )


def _canary(name: str) -> Condition:
    return lambda sim: bool((sim.status.get("canary") or {}).get("name") == name)


def _stopped(member: str) -> Condition:
    def so(sim: Simulation) -> bool:
        obj = sim.cluster.get(kinds.LLM_SERVICE, member) or {"metadata": {}}
        return (obj["metadata"].get("annotations") or {}).get(STOP_ANNOTATION) == "true"

    return so


def _owes_nothing(sim: Simulation) -> bool:
    return not sim.status.get("scaleDowns")


def _all() -> list[Scenario]:
    return [
        _scenario(
            "promoted",
            service_rollout([*STEPS, {"pause": {}}]),
            [Move(when=at_step(5), act=command("promote"), after=7)],
            healthy_on(CANARY),
            core=True,
        ),
        _scenario(
            "gate failure aborts",
            service_rollout(_GATED),
            [Move(when=at_step(1), act=answer(Answer.BAD), after=3)],
            phase("Aborted"),
        ),
        _scenario(
            "all at once, aborted there",
            service_rollout(_AT_ONCE),
            [Move(when=at_step(1), act=command("abort"), after=7)],
            phase("Aborted"),
        ),
        _scenario(
            "beside others, promoted",
            service_rollout([*STEPS, {"pause": {}}]),
            [Move(when=at_step(5), act=command("promote"), after=7)],
            healthy_on(CANARY),
            weights={STABLE: 300, CANARY: 0},
            others={"other": 100},
        ),
        _scenario(
            "beside others, aborted",
            service_rollout([*_WAITING, {"pause": {}}]),
            [
                Move(when=at_step(1), act=command("promote"), after=7),
                Move(when=at_step(3), act=command("abort"), after=7),
            ],
            phase("Aborted"),
            weights={STABLE: 300, CANARY: 0},
            others={"other": 100},
        ),
        _scenario(
            "third target in the middle",
            service_rollout(_WAITING),
            [
                Move(when=at_step(1), act=retarget(THIRD), after=7),
                Move(when=both(at_step(1), _canary(THIRD)), act=command("promote"), after=7),
            ],
            healthy_on(THIRD),
        ),
        _scenario(
            "beside others, third target in the middle",
            service_rollout(_WAITING),
            [
                Move(when=at_step(1), act=retarget(THIRD), after=7),
                Move(when=both(at_step(1), _canary(THIRD)), act=command("promote"), after=7),
            ],
            healthy_on(THIRD),
            weights={STABLE: 300, CANARY: 0, THIRD: 0},
            others={"other": 100},
        ),
        _scenario(
            "deleted in the middle",
            service_rollout(_WAITING),
            [Move(when=at_step(1), act=delete(kinds.ROLLOUT, "mymodel"), after=7)],
            gone,
        ),
        _scenario(
            "a person lowers",
            service_rollout(_WAITING),
            [
                Move(
                    when=at_step(1),
                    act=overwrite_route({STABLE: 98, CANARY: 2}, "kubectl-edit"),
                    after=7,
                ),
                Move(when=reason("ManualOverride"), act=command("abort"), after=7),
            ],
            phase("Aborted"),
        ),
        _scenario(
            "promoted, the old one stopped, then rolled back",
            service_rollout([{"setWeight": 50}], canary=_STOPS, rollbackWindow={"duration": "1h"}),
            [Move(when=_stopped(STABLE), act=retarget(STABLE), after=40)],
            both(healthy_on(STABLE), both(_stopped(CANARY), _owes_nothing)),
        ),
        _scenario(
            "aborted, stopped, then retried",
            service_rollout(_WAITING, canary=_STOPS),
            [
                Move(when=at_step(1), act=command("abort"), after=7),
                Move(when=_stopped(CANARY), act=command("retry"), after=20),
                Move(when=at_step(1), act=command("promote", tag="t3"), after=7),
            ],
            both(healthy_on(CANARY), both(_stopped(STABLE), _owes_nothing)),
        ),
        _scenario(
            "KServe is late",
            service_rollout(_WAITING),
            [
                Move(when=at_step(1), act=kserve(works=False), after=7),
                Move(when=at_step(1), act=command("promote"), after=2),
                Move(when=reason("WaitingForGateway"), act=kserve(works=True), after=30),
            ],
            healthy_on(CANARY),
        ),
    ]


SERVICE_SCENARIOS = {scenario.name: scenario for scenario in _all()}
