"""Workloads: rollouts that scale the Deployments behind their pools."""

from __future__ import annotations

import copy
from typing import Any

from rollouts.objects import kinds
from rollouts.objects.workloads import AUTOSCALER
from tests.kit.faults.cluster import Cluster
from tests.kit.faults.deployments import DEPLOYMENT, Deployments, autoscaler_object, deployment_object
from tests.kit.faults.moves import at_step, both, command, delete, gone, healthy_on, phase, reason, retarget
from tests.kit.faults.objects import (
    CANARY,
    PREFILL,
    PREFILL_RELEASES,
    RELEASES,
    STABLE,
    THIRD,
    base_objects,
    prefill_object,
    rollout_object,
)
from tests.kit.faults.simulation import Act, Condition, Move, Scenario, Simulation

__all__ = ["CAPACITY_SCENARIOS", "autoscaler", "busy", "gpus", "kill_pod", "lent", "replicas", "settled"]

Object = dict[str, Any]

PODS = 4
"""Of stable, at the start."""
_RELEASES = RELEASES | PREFILL_RELEASES
_WAITING: list[Object] = [{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}]
_CAPACITY: Object = {"scaleDown": {"delay": "1m"}, "drainTimeout": "3m"}


def busy(pool: str, requests: int | None) -> Act:
    """From now on the pool's pods say that they answer so many requests, or nothing."""
    return lambda sim: sim.set_busy(pool, requests)


def replicas(pool: str, number: int, manager: str = "argocd-controller") -> Act:
    """Somebody scales the Deployment behind a pool."""
    body = {"spec": {"replicas": number}}
    return lambda sim: sim.cluster.merge(DEPLOYMENT, _RELEASES[pool], body, manager=manager)


def autoscaler(pool: str) -> Act:
    """An autoscaler of the Deployment behind a pool appears."""
    return lambda sim: None if _scaled(sim, pool) else _make_autoscaler(sim, pool)


def _scaled(sim: Simulation, pool: str) -> bool:
    return sim.cluster.get(AUTOSCALER, _RELEASES[pool]) is not None


def _make_autoscaler(sim: Simulation, pool: str) -> None:
    sim.cluster.create(AUTOSCALER, autoscaler_object(_RELEASES[pool]))


def kill_pod(pool: str) -> Act:
    """A Ready pod of the pool dies."""

    def act(sim: Simulation) -> None:
        assert sim.cluster.deployments is not None
        sim.cluster.deployments.kill(_RELEASES[pool])

    return act


def _replicas(sim: Simulation, pool: str) -> int:
    return int((sim.cluster.get(DEPLOYMENT, _RELEASES[pool]) or {"spec": {}})["spec"].get("replicas", 1))


def settled(**pools: int) -> Condition:
    """Replicas of pools by their role, with nothing left to be scaled down."""
    names = {"stable": STABLE, "canary": CANARY, "third": THIRD}
    names |= {f"{role}_prefill": PREFILL[pool] for role, pool in names.items()}

    def holds(sim: Simulation) -> bool:
        scaled = all(_replicas(sim, names[role]) == number for role, number in pools.items())
        return scaled and not sim.status.get("scaleDowns") and not sim.status.get("stableScale")

    return holds


def gpus(number: int) -> Act:
    """From now on nodes have so many GPUs; pods that have one keep it."""

    def act(sim: Simulation) -> None:
        assert sim.cluster.deployments is not None
        sim.cluster.deployments.gpus = number

    return act


def lent(replicas: int) -> Condition:
    """Stable has given pods, and has so many left."""
    return lambda sim: "stableScale" in sim.status and _replicas(sim, STABLE) == replicas


ONE_SPARE: Object = {"maxSurge": 1, "minStable": 1}


def _scenario(
    name: str,
    moves: list[Move],
    goal: Condition,
    *,
    gpus: int = 16,
    stride: int = 2,
    prefill: int = 0,
    scaled: str = "",
    **capacity: Any,
) -> Scenario:
    """``scaled``: the pool whose Deployment has an autoscaler from the start."""
    rollout = rollout_object(
        _WAITING, canary={"capacity": {**_CAPACITY, **capacity}}, rollbackWindow={"duration": "1h"}
    )

    def setup(cluster: Cluster) -> None:
        cluster.deployments = Deployments(cluster, gpus=gpus)
        base_objects(cluster, copy.deepcopy(rollout), pods=False)
        for pool, release in RELEASES.items():
            cluster.create(DEPLOYMENT, deployment_object(release, PODS if pool == STABLE else 0))
            if prefill:
                cluster.create(kinds.POOL_X, prefill_object(pool))
                beside = deployment_object(PREFILL_RELEASES[PREFILL[pool]], prefill if pool == STABLE else 0)
                cluster.create(DEPLOYMENT, beside)
        if scaled:
            cluster.create(AUTOSCALER, autoscaler_object(_RELEASES[scaled]))
        cluster.deployments.react(at_once=True)

    return Scenario(
        name=f"capacity: {name}", setup=setup, moves=tuple(moves), goal=goal, stride=stride, capacity=True
    )


_GO_ON = Move(when=at_step(1), act=command("promote"), after=5)

CAPACITY_SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        _scenario(
            "promoted, and the old pods drained",
            [
                Move(when=at_step(1), act=busy(STABLE, 3), after=2),
                _GO_ON,
                Move(when=healthy_on(CANARY), act=busy(STABLE, 0), after=100),
            ],
            both(healthy_on(CANARY), settled(stable=0, canary=PODS)),
        ),
        _scenario(
            "promoted, and the old pods answer for ever",
            [Move(when=at_step(1), act=busy(STABLE, None), after=2), _GO_ON],
            both(healthy_on(CANARY), settled(stable=0, canary=PODS)),
        ),
        _scenario(
            "aborted, then retried",
            [
                Move(when=at_step(1), act=command("abort"), after=5),
                Move(
                    when=both(phase("Aborted"), settled(canary=0)), act=command("retry", tag="t2"), after=20
                ),
                Move(when=at_step(1), act=command("promote", tag="t3"), after=5),
            ],
            both(healthy_on(CANARY), settled(stable=0, canary=PODS)),
        ),
        _scenario(
            "reverted in the middle",
            [Move(when=at_step(1), act=retarget(STABLE), after=5)],
            both(healthy_on(STABLE), settled(stable=PODS, canary=0)),
            maxSurge="100%",
        ),
        _scenario(
            "third target waits for room",
            [
                Move(when=at_step(1), act=command("promote"), after=5),
                Move(when=reason("WaitingForPods"), act=retarget(THIRD), after=2),
                Move(when=at_step(1), act=command("promote", tag="t2"), after=15),
            ],
            both(healthy_on(THIRD), settled(stable=0, canary=0, third=PODS)),
            maxSurge="100%",
            scaleDown={"delay": "10m"},
        ),
        _scenario(
            "back within the rollback window, when the old pods are gone",
            [_GO_ON, Move(when=both(healthy_on(CANARY), settled(stable=0)), act=retarget(STABLE), after=20)],
            both(healthy_on(STABLE), settled(stable=PODS, canary=0)),
        ),
        _scenario(
            "rollout deleted in the middle",
            [Move(when=at_step(1), act=delete(kinds.ROLLOUT, "mymodel"), after=15)],
            both(gone, settled(stable=PODS, canary=0)),
        ),
        _scenario(
            "argocd resets the replicas twice",
            [
                Move(when=at_step(1), act=replicas(CANARY, 0), after=5),
                Move(when=at_step(1), act=replicas(CANARY, 0), after=60),
                Move(when=at_step(1), act=command("promote"), after=60),
            ],
            both(healthy_on(CANARY), settled(stable=0, canary=PODS)),
        ),
        _scenario(
            "an autoscaler appears in the middle",
            [
                Move(when=at_step(1), act=autoscaler(CANARY), after=5),
                Move(when=at_step(1), act=command("promote"), after=5),
                Move(when=reason("CapacityManagedElsewhere"), act=replicas(CANARY, PODS, "hpa"), after=60),
            ],
            both(healthy_on(CANARY), settled(stable=PODS, canary=PODS)),
        ),
        _scenario(
            "pods hang Pending until the deadline",
            [_GO_ON],
            both(phase("Aborted"), settled(stable=PODS, canary=0)),
            gpus=PODS + 1,
        ),
        _scenario(
            "warmed up: promoted",
            [_GO_ON],
            both(healthy_on(CANARY), settled(stable=0, canary=PODS)),
            warmUp={"requests": 4},
        ),
        _scenario(
            "warmed up: promoted in full while pods are not warm",
            [_GO_ON, Move(when=reason("WaitingForPods"), act=command("promoteFull", tag="t2"), after=30)],
            both(healthy_on(CANARY), settled(stable=0, canary=PODS)),
            warmUp={"requests": 50},
        ),
        _scenario(
            "one spare pod: promoted",
            [
                Move(when=at_step(1), act=busy(STABLE, 2), after=2),
                _GO_ON,
                Move(when=reason("MakingRoom"), act=busy(STABLE, 0), after=40),
            ],
            both(healthy_on(CANARY), settled(stable=0, canary=PODS)),
            gpus=PODS + 1,
            **ONE_SPARE,
        ),
        _scenario(
            "one spare pod: reverted at half",
            [_GO_ON, Move(when=lent(2), act=retarget(STABLE), after=5)],
            both(healthy_on(STABLE), settled(stable=PODS, canary=0)),
            gpus=PODS + 1,
            **ONE_SPARE,
        ),
        _scenario(
            "one spare pod: no GPU for the next, aborted at the deadline",
            [
                _GO_ON,
                Move(when=lent(2), act=gpus(PODS - 1), after=5),
                Move(when=phase("Aborted"), act=gpus(PODS + 1), after=60),
            ],
            both(phase("Aborted"), settled(stable=PODS, canary=0)),
            gpus=PODS + 1,
            **ONE_SPARE,
        ),
        _scenario(
            "one spare pod: another target at half",
            [
                _GO_ON,
                Move(when=lent(2), act=retarget(THIRD), after=5),
                Move(when=at_step(1), act=command("promote", tag="t2"), after=5),
            ],
            both(healthy_on(THIRD), settled(stable=0, canary=0, third=PODS)),
            gpus=PODS + 1,
            **ONE_SPARE,
        ),
        _scenario(
            "one spare pod: deleted at half",
            [_GO_ON, Move(when=lent(2), act=delete(kinds.ROLLOUT, "mymodel"), after=5)],
            both(gone, settled(stable=PODS, canary=0)),
            gpus=PODS + 1,
            **ONE_SPARE,
        ),
        _scenario(
            "one spare pod: aborted by command at half",
            [_GO_ON, Move(when=lent(2), act=command("abort", tag="t2"), after=5)],
            both(phase("Aborted"), settled(stable=PODS, canary=0)),
            gpus=PODS + 1,
            **ONE_SPARE,
        ),
        _scenario(
            "one spare pod: an autoscaler of stable appears at half",
            [
                _GO_ON,
                Move(when=lent(2), act=autoscaler(STABLE), after=5),
                Move(when=reason("CapacityManagedElsewhere"), act=command("abort", tag="t2"), after=60),
            ],
            both(phase("Aborted"), settled()),
            gpus=PODS + 1,
            **ONE_SPARE,
        ),
        _scenario(
            "prefill: promoted, and what prefill works on for the old pods is over",
            [
                Move(when=at_step(1), act=busy(PREFILL[STABLE], 3), after=2),
                _GO_ON,
                Move(when=healthy_on(CANARY), act=busy(PREFILL[STABLE], 0), after=100),
            ],
            both(
                healthy_on(CANARY),
                settled(stable=0, canary=PODS, stable_prefill=0, canary_prefill=2),
            ),
            prefill=2,
            maxSurge="100%",
        ),
        _scenario(
            "prefill: aborted, then retried",
            [
                Move(when=at_step(1), act=command("abort"), after=5),
                Move(
                    when=both(phase("Aborted"), settled(canary=0, canary_prefill=0)),
                    act=command("retry", tag="t2"),
                    after=20,
                ),
                Move(when=at_step(1), act=command("promote", tag="t3"), after=5),
            ],
            both(
                healthy_on(CANARY),
                settled(stable=0, canary=PODS, stable_prefill=0, canary_prefill=2),
            ),
            prefill=2,
        ),
        _scenario(
            "prefill: another target at half",
            [
                _GO_ON,
                Move(when=reason("WaitingForPods"), act=retarget(THIRD), after=2),
                Move(when=at_step(1), act=command("promote", tag="t2"), after=15),
            ],
            both(
                healthy_on(THIRD),
                settled(stable=0, canary=0, third=PODS, stable_prefill=0, canary_prefill=0, third_prefill=2),
            ),
            prefill=2,
            maxSurge="100%",
        ),
        _scenario(
            "prefill: one spare pod of each kind: promoted",
            [
                Move(when=at_step(1), act=busy(PREFILL[STABLE], 2), after=2),
                _GO_ON,
                Move(when=lent(2), act=busy(PREFILL[STABLE], 0), after=40),
            ],
            both(
                healthy_on(CANARY),
                settled(stable=0, canary=PODS, stable_prefill=0, canary_prefill=2),
            ),
            gpus=PODS + 4,
            stride=5,
            prefill=2,
            **ONE_SPARE,
        ),
        _scenario(
            "prefill: one spare pod of each kind: reverted at half",
            [_GO_ON, Move(when=lent(2), act=retarget(STABLE), after=5)],
            both(
                healthy_on(STABLE),
                settled(stable=PODS, canary=0, stable_prefill=2, canary_prefill=0),
            ),
            gpus=PODS + 4,
            stride=5,
            prefill=2,
            **ONE_SPARE,
        ),
        _scenario(
            "prefill: one spare pod of each kind: deleted at half",
            [_GO_ON, Move(when=lent(2), act=delete(kinds.ROLLOUT, "mymodel"), after=5)],
            both(gone, settled(stable=PODS, canary=0, stable_prefill=2, canary_prefill=0)),
            gpus=PODS + 4,
            stride=5,
            prefill=2,
            **ONE_SPARE,
        ),
        _scenario(
            "prefill: one spare pod of each kind: an autoscaler of stable's is there, and goes",
            [
                Move(
                    when=reason("CapacityInfeasible"),
                    act=delete(AUTOSCALER, _RELEASES[PREFILL[STABLE]]),
                    after=60,
                ),
                _GO_ON,
            ],
            both(
                healthy_on(CANARY),
                settled(stable=0, canary=PODS, stable_prefill=0, canary_prefill=2),
            ),
            gpus=PODS + 4,
            stride=5,
            prefill=2,
            scaled=PREFILL[STABLE],
            **ONE_SPARE,
        ),
        _scenario(
            "prefill: deleted in the middle",
            [Move(when=at_step(1), act=delete(kinds.ROLLOUT, "mymodel"), after=15)],
            both(gone, settled(stable=PODS, canary=0, stable_prefill=2, canary_prefill=0)),
            prefill=2,
        ),
        _scenario(
            "a plan that cannot be met",
            [Move(when=reason("CapacityInfeasible"), act=retarget(STABLE), after=60)],
            both(healthy_on(STABLE), settled(stable=PODS, canary=0)),
            maxSurge=1,
        ),
    )
}
