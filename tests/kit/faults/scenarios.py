"""Workloads: rollouts of the base-model example, each with its own story."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from rollouts.objects import kinds
from tests.kit.faults.adapter_scenarios import ADAPTER_SCENARIOS
from tests.kit.faults.cluster import Cluster
from tests.kit.faults.edited import EDITED
from tests.kit.faults.identity_scenarios import IDENTITY_SCENARIOS
from tests.kit.faults.moves import (
    answer,
    at_step,
    begun,
    both,
    command,
    delete,
    edit_steps,
    finish_job,
    gateway,
    gone,
    has_job,
    healthy_on,
    lose_adapter,
    overwrite_route,
    phase,
    reason,
    regain_adapter,
    retarget,
    scale,
)
from tests.kit.faults.objects import (
    ADAPTER_OF,
    CANARY,
    GATE,
    GUARD,
    RELEASES,
    STABLE,
    STEPS,
    TEMPLATE,
    THIRD,
    Carrier,
    adapter_rollout,
    base_objects,
    carrier_object,
    rollout_object,
)
from tests.kit.faults.path_scenarios import PATH_SCENARIOS
from tests.kit.faults.pool_moves import POOL_MOVES
from tests.kit.faults.share_scenarios import SHARE_SCENARIOS
from tests.kit.faults.simulation import Condition, Move, Scenario
from tests.kit.faults.source import Answer

__all__ = ["SCENARIOS"]

Object = dict[str, Any]

SHORT: list[Object] = [{"setWeight": 10}, {"pause": {"duration": "20s"}}, {"setWeight": 50}]
GATED: list[Object] = [{"setWeight": 10}, {"analysis": GATE}, {"setWeight": 50}]
WAITING: list[Object] = [{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}]
JOB: Object = {"job": {"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": []}}}}}
HEADERS: Object = {
    "setHeaderRoute": {
        "name": "testers",
        "match": [{"headerName": "x-test", "headerValue": {"exact": "yes"}}],
    }
}
INVALID: list[Object] = [{"setWeight": 10}, {"analysis": {"templates": [{"templateName": "missing"}]}}]


def _scenario(
    name: str,
    rollout: Object,
    moves: list[Move],
    goal: Condition,
    *,
    route: bool = True,
    core: bool = False,
    unready: str = "",
) -> Scenario:
    """Pools and a route; the pods of the pool ``unready`` are not Ready at first."""

    def setup(cluster: Cluster) -> None:
        base_objects(cluster, copy.deepcopy(rollout), route=route)
        if unready:
            cluster.scale(RELEASES[unready], 0, unready=2)

    return Scenario(
        name=name,
        setup=setup,
        moves=tuple(moves),
        goal=goal,
        core=core,
        measured="analysis" in repr(rollout["spec"]["strategy"]),
    )


def _straight() -> list[Scenario]:
    """Attempts that go through, or are ended by what is measured."""
    promote = _scenario(
        "promote through pause, gate and manual pause",
        rollout_object([*STEPS, {"pause": {}}], canary={"analysis": GUARD}),
        [Move(when=at_step(5), act=command("promote"), after=7)],
        healthy_on(CANARY),
        core=True,
    )
    gate_abort = _scenario(
        "gate failure aborts",
        rollout_object(GATED),
        [Move(when=at_step(1), act=answer(Answer.BAD), after=3)],
        phase("Aborted"),
        core=True,
    )
    # Each second, of a source that takes longer: what falls due while it is asked must not be forgotten.
    often = {**GUARD["metrics"][0], "interval": "1s", "measure": {"preset": "error-rate", "window": "2s"}}
    guard_abort = replace(
        _scenario(
            "background failure aborts in a pause",
            rollout_object(WAITING, canary={"analysis": {**GUARD, "metrics": [often]}}),
            [Move(when=at_step(1), act=answer(Answer.BAD), after=30)],
            phase("Aborted"),
        ),
        answer_seconds=1.2,
    )
    job = _scenario(
        "job step",
        rollout_object([{"setWeight": 10}, JOB, {"setWeight": 50}]),
        [Move(when=has_job, act=finish_job(succeeded=True), after=20)],
        healthy_on(CANARY),
    )
    managed = _scenario(
        "managed route with header route, second target",
        rollout_object(
            [HEADERS, {"setWeight": 20}, {"pause": {"duration": "10s"}}],
            target=STABLE,
            route={"template": TEMPLATE},
        ),
        [Move(when=healthy_on(STABLE), act=retarget(CANARY), after=5)],
        healthy_on(CANARY),
        route=False,
        core=True,
    )
    window = _scenario(
        "back within the rollback window",
        rollout_object([{"setWeight": 50}], rollbackWindow={"duration": "1h"}),
        [Move(when=healthy_on(CANARY), act=retarget(STABLE), after=20)],
        healthy_on(STABLE),
    )
    return [promote, gate_abort, guard_abort, job, managed, window]


def _people() -> list[Scenario]:
    """Commands and edits."""
    retry = _scenario(
        "abort by command, then retry",
        rollout_object(WAITING),
        [
            Move(when=at_step(1), act=command("abort"), after=5),
            Move(when=phase("Aborted"), act=command("retry", tag="t2"), after=20),
            Move(when=at_step(1), act=command("promote", tag="t3"), after=5),
        ],
        healthy_on(CANARY),
    )
    hold = _scenario(
        "pause, resume and promoteFull by command",
        rollout_object(WAITING),
        [
            Move(when=at_step(1), act=command("pause"), after=2),
            Move(when=reason("PausedByCommand"), act=command("resume", tag="t2"), after=60),
            Move(when=at_step(1), act=command("promoteFull", tag="t3"), after=3),
        ],
        healthy_on(CANARY),
        core=True,
    )
    third = _scenario(
        "third target in the middle",
        rollout_object(WAITING),
        [
            Move(when=at_step(1), act=retarget(THIRD), after=5),
            Move(when=at_step(1), act=command("promote", tag="t2"), after=15),
        ],
        healthy_on(THIRD),
        core=True,
    )
    revert = _scenario(
        "revert in the middle",
        rollout_object(WAITING, canary={"analysis": GUARD}),
        [
            Move(when=at_step(1), act=retarget(STABLE), after=67)
        ],  # the guard has measured whole windows by then
        healthy_on(STABLE),
        core=True,
    )
    edited = _scenario(
        "steps edited in the middle",
        rollout_object(WAITING),
        [
            Move(when=at_step(1), act=edit_steps([{"setWeight": 5}, {"setWeight": 20}, {"analysis": GATE}])),
        ],
        healthy_on(CANARY),
    )
    invalid = _scenario(
        "spec invalid for a while",
        rollout_object(SHORT),
        [
            Move(when=at_step(1), act=edit_steps(INVALID), after=5),
            Move(when=phase("Invalid"), act=edit_steps(SHORT), after=30),
        ],
        healthy_on(CANARY),
    )
    deleted = _scenario(
        "rollout deleted in the middle",
        rollout_object(WAITING, canary={"analysis": GUARD}),
        [Move(when=at_step(1), act=delete(kinds.ROLLOUT, "mymodel"), after=15)],
        gone,
    )
    return [retry, hold, third, revert, edited, invalid, deleted]


def _outside() -> list[Scenario]:
    """Other writers, pods and the gateway."""
    git = {STABLE: 100}
    argocd = _scenario(
        "argocd resets the route twice",
        rollout_object(WAITING),
        [
            Move(when=at_step(1), act=overwrite_route(git, "argocd-controller"), after=5),
            Move(when=at_step(1), act=overwrite_route(git, "argocd-controller"), after=20),
            Move(when=at_step(1), act=command("promote"), after=20),
        ],
        healthy_on(CANARY),
        core=True,
    )
    lowered = _scenario(
        "a person lowers the canary, then resumes",
        rollout_object(WAITING),
        [
            Move(when=at_step(1), act=overwrite_route({STABLE: 97, CANARY: 3}, "kubectl-edit"), after=5),
            Move(when=reason("ManualOverride"), act=command("resume"), after=40),
            Move(when=at_step(1), act=command("promote", tag="t2"), after=20),
        ],
        healthy_on(CANARY),
    )
    raised = _scenario(
        "a person raises the canary",
        rollout_object(WAITING),
        [
            Move(when=at_step(1), act=overwrite_route({STABLE: 10, CANARY: 90}, "kubectl-edit"), after=5),
            Move(when=at_step(1), act=command("promote"), after=20),
        ],
        healthy_on(CANARY),
    )
    release = RELEASES[CANARY]
    flap = _scenario(
        "canary pods gone for half a minute",
        rollout_object(WAITING),
        [
            Move(when=at_step(1), act=scale(release, 0, 2), after=5),
            Move(when=reason("CanaryNotReady"), act=scale(release, 2), after=20),
            Move(when=at_step(1), act=command("promote"), after=20),
        ],
        healthy_on(CANARY),
        core=True,
    )
    pool_gone = _scenario(
        "canary pool deleted",
        rollout_object(WAITING),
        [Move(when=at_step(1), act=delete(kinds.POOL_X, CANARY), after=5)],
        phase("Aborted"),
    )
    deadline = _scenario(
        "gateway never takes the weight over",
        rollout_object(WAITING),
        [
            Move(when=at_step(1), act=gateway(works=False), after=5),
            Move(when=at_step(1), act=command("promote")),
        ],
        phase("Aborted"),
    )
    never = _scenario(
        "target never Ready",
        rollout_object(WAITING, canary={"targetDeadline": "5m"}),
        [],
        both(phase("Aborted"), reason("TargetDeadlineExceeded")),
        unready=CANARY,
    )
    late = _scenario(
        "target Ready after a long pause",
        rollout_object(SHORT, canary={"targetDeadline": "3m"}),
        [
            Move(when=phase("WaitingForTarget"), act=command("pause"), after=60),
            Move(when=reason("PausedByCommand"), act=command("resume", tag="t2"), after=300),
            Move(when=phase("WaitingForTarget"), act=scale(release, 2), after=60),
        ],
        healthy_on(CANARY),
        unready=CANARY,
    )
    return [argocd, lowered, raised, flap, pool_gone, deadline, never, late]


def _adapter_scenario(
    name: str,
    rollout: Object,
    moves: list[Move],
    goal: Condition,
    *,
    weights: dict[str, int] | None = None,
    carrier: Carrier = Carrier.MODEL,
    core: bool = False,
) -> Scenario:
    """Adapters on the pods of the stable pool; ``weights`` None: the model object is ours to make."""

    def setup(cluster: Cluster) -> None:
        if weights is not None:
            cluster.create(carrier.resource, carrier_object(carrier, weights))
        base_objects(cluster, copy.deepcopy(rollout), route=False)

    return Scenario(
        name=name,
        setup=setup,
        moves=tuple(moves),
        goal=goal,
        core=core,
        measured="analysis" in repr(rollout["spec"]["strategy"]),
        adapters=True,
        carrier=carrier,
        stride=2,
    )


def _adapters() -> list[Scenario]:
    """Weights between adapters in InferenceModel and InferenceModelRewrite."""
    v1, v2 = ADAPTER_OF[STABLE], ADAPTER_OF[CANARY]
    split = {STABLE: 90, CANARY: 10}
    promote = _adapter_scenario(
        "adapter: adopted at 90/10, promoted",
        adapter_rollout([*STEPS, {"pause": {}}]),
        [Move(when=at_step(5), act=command("promote"), after=7)],
        healthy_on(v2),
        weights=split,
        core=True,
    )
    gate_abort = _adapter_scenario(
        "adapter: gate failure aborts",
        adapter_rollout(GATED),
        [Move(when=at_step(1), act=answer(Answer.BAD), after=3)],
        phase("Aborted"),
        weights=split,
    )
    managed = _adapter_scenario(
        "adapter: managed model, second target",
        adapter_rollout(SHORT, role=STABLE, carrier=Carrier.LLM_D),
        [Move(when=healthy_on(v1), act=retarget(CANARY), after=5)],
        healthy_on(v2),
        carrier=Carrier.LLM_D,
    )
    rewrite = _adapter_scenario(
        "adapter: rewrite, third target in the middle",
        adapter_rollout(WAITING, carrier=Carrier.TARGETS),
        [
            Move(when=at_step(1), act=retarget(THIRD), after=5),
            Move(when=at_step(1), act=command("promote", tag="t2"), after=15),
        ],
        healthy_on(ADAPTER_OF[THIRD]),
        weights={STABLE: 100},
        carrier=Carrier.TARGETS,
    )
    argocd = _adapter_scenario(
        "adapter: argocd resets the model",
        adapter_rollout(WAITING),
        [
            Move(when=at_step(1), act=overwrite_route({STABLE: 100}, "argocd-controller"), after=5),
            Move(when=at_step(1), act=command("promote"), after=20),
        ],
        healthy_on(v2),
        weights={STABLE: 100},
    )
    missing = _adapter_scenario(
        "adapter: missing on a pod for a while",
        adapter_rollout(SHORT, carrier=Carrier.SPLIT),
        [
            Move(when=begun, act=lose_adapter("qwen-2", v2)),
            Move(when=phase("WaitingForTarget"), act=regain_adapter("qwen-2", v2), after=40),
        ],
        healthy_on(v2),
        weights={STABLE: 100},
        carrier=Carrier.SPLIT,
    )
    return [promote, gate_abort, managed, rewrite, argocd, missing]


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        *_straight(),
        *_people(),
        *_outside(),
        *PATH_SCENARIOS,
        *_adapters(),
        *ADAPTER_SCENARIOS,
        *IDENTITY_SCENARIOS,
        *SHARE_SCENARIOS,
        *POOL_MOVES,
        *EDITED,
    )
}
