"""Workloads: rollouts of adapters whose pods, sources and model objects change on the way."""

from __future__ import annotations

import copy
from typing import Any

from tests.kit.faults.cluster import Cluster
from tests.kit.faults.moves import (
    add_model,
    at_step,
    both,
    command,
    condition_says,
    delete_model,
    healthy_on,
    hold_other,
    lose_adapter,
    overwrite_route,
    phase,
    reason,
    restart_pods,
    retarget_adapter,
    scale,
    serves_from,
    stream,
    unloaded,
)
from tests.kit.faults.objects import (
    ADAPTER_OF,
    CANARY,
    RELEASES,
    STABLE,
    Carrier,
    adapter_rollout,
    base_objects,
    carrier_object,
)
from tests.kit.faults.simulation import Condition, Move, Scenario, Simulation

__all__ = ["ADAPTER_SCENARIOS"]

Object = dict[str, Any]

_WAITING: list[Object] = [{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}]
_V2 = ADAPTER_OF[CANARY]
_PODS = RELEASES[STABLE]
_LOADED = "travel-helper-v9"
_PATH = "/adapters/v9"
_FIXED = "/adapters/v9-fixed"


def _scenario(
    name: str,
    rollout: Object,
    moves: list[Move],
    goal: Condition,
    *,
    managed: bool = False,
    carrier: Carrier = Carrier.MODEL,
) -> Scenario:
    def setup(cluster: Cluster) -> None:
        if not managed:
            cluster.create(carrier.resource, carrier_object(carrier, {STABLE: 100}))
        base_objects(cluster, copy.deepcopy(rollout), route=False)

    return Scenario(
        name=f"adapter: {name}",
        setup=setup,
        moves=tuple(moves),
        goal=goal,
        adapters=True,
        carrier=carrier,
        stride=2,
    )


def _from_source(**fields: Any) -> Object:
    """The target is on no pod and is loaded from its source."""
    found = adapter_rollout(_WAITING, **fields)
    found["spec"]["target"]["adapter"] = {"name": _LOADED, "source": {"path": _PATH}}
    return found


def _loading() -> list[Scenario]:
    """Adapters with a source."""
    lost = _scenario(
        "loaded from its source, pods lost in the middle",
        _from_source(carrier=Carrier.SPLIT),
        [
            Move(when=at_step(1), act=scale(_PODS, 3), after=5),
            Move(when=at_step(1), act=restart_pods(_PODS, 4), after=20),
            Move(when=at_step(1), act=command("promote"), after=20),
        ],
        healthy_on(_LOADED),
        carrier=Carrier.SPLIT,
    )
    window = _scenario(
        "unloaded when the rollback window is over, and not before",
        _from_source(rollbackWindow={"duration": "10m"}),
        [
            Move(when=healthy_on(_LOADED), act=retarget_adapter(_V2), after=5),
            Move(when=at_step(1), act=command("promote"), after=5),
            Move(when=healthy_on(_V2), act=retarget_adapter(_LOADED, _PATH), after=300),
            Move(when=healthy_on(_LOADED), act=retarget_adapter(_V2), after=290),
        ],
        both(healthy_on(_V2), unloaded(_LOADED)),
        managed=True,
    )
    at_once = _scenario(
        "aborted, left and unloaded",
        _from_source(),
        [
            Move(when=at_step(1), act=command("abort"), after=5),
            Move(when=phase("Aborted"), act=retarget_adapter(ADAPTER_OF[STABLE]), after=20),
        ],
        both(healthy_on(ADAPTER_OF[STABLE]), unloaded(_LOADED)),
    )
    return [lost, window, at_once]


def _people() -> list[Scenario]:
    """Commands, other writers, pods."""
    retry = _scenario(
        "abort by command, then retry",
        adapter_rollout(_WAITING, carrier=Carrier.LLM_D),
        [
            Move(when=at_step(1), act=command("abort"), after=5),
            Move(when=phase("Aborted"), act=command("retry", tag="t2"), after=20),
            Move(when=at_step(1), act=command("promote", tag="t3"), after=5),
        ],
        healthy_on(_V2),
        carrier=Carrier.LLM_D,
    )
    lowered = _scenario(
        "a person lowers the canary, then resumes",
        adapter_rollout(_WAITING, carrier=Carrier.SPLIT),
        [
            Move(when=at_step(1), act=overwrite_route({STABLE: 97, CANARY: 3}, "kubectl-edit"), after=5),
            Move(when=reason("ManualOverride"), act=command("resume"), after=40),
            Move(when=at_step(1), act=command("promote", tag="t2"), after=20),
        ],
        healthy_on(_V2),
        carrier=Carrier.SPLIT,
    )
    deleted = _scenario(
        "adopted model deleted, and added to Git a minute later",
        adapter_rollout(_WAITING),
        [
            Move(when=at_step(1), act=delete_model, after=5),
            Move(when=condition_says("RouteMissing"), act=add_model({STABLE: 100}), after=60),
            Move(when=at_step(1), act=command("promote"), after=20),
        ],
        healthy_on(_V2),
    )
    flap = _scenario(
        "pods flap, one lacks the adapter",
        adapter_rollout(_WAITING, carrier=Carrier.TARGETS),
        [
            Move(when=at_step(1), act=scale(_PODS, 0, 4), after=5),
            Move(when=reason("CanaryNotReady"), act=scale(_PODS, 4), after=20),
            Move(when=at_step(1), act=lose_adapter(f"{_PODS}-1", _V2), after=20),
            Move(when=at_step(1), act=command("promote"), after=20),
        ],
        healthy_on(_V2),
        carrier=Carrier.TARGETS,
    )
    return [retry, lowered, deleted, flap]


def _same_name() -> list[Scenario]:
    """One name, several contents."""
    window = {"rollbackWindow": {"duration": "24h"}}
    fix = Move(when=phase("Aborted"), act=retarget_adapter(_LOADED, _FIXED), after=60)
    abort = Move(when=at_step(1), act=command("abort"), after=5)
    promote = Move(when=_second_attempt, act=command("promote", tag="t2"), after=20)
    aborted = _scenario(
        "aborted, then a fix under the same name",
        _from_source(carrier=Carrier.LLM_D, **window),
        [abort, fix, promote],
        serves_from(_LOADED, _FIXED),
        carrier=Carrier.LLM_D,
    )
    in_flight = _scenario(
        "same name while in-flight requests remain",
        _from_source(carrier=Carrier.SPLIT, **window),
        [
            Move(when=at_step(1), act=stream(_LOADED, f"{_PODS}-0", f"{_PODS}-2"), after=5),
            Move(when=at_step(1), act=retarget_adapter(_LOADED, _FIXED), after=5),
            Move(when=phase("WaitingForTarget"), act=stream(_LOADED, f"{_PODS}-2"), after=40),
            Move(when=phase("WaitingForTarget"), act=stream(_LOADED), after=40),
            promote,
        ],
        serves_from(_LOADED, _FIXED),
        carrier=Carrier.SPLIT,
    )
    heals = _scenario(
        "a pod restarts with the aborted content",
        _from_source(carrier=Carrier.TARGETS, **window),
        [
            abort,
            fix,
            Move(when=_second_attempt, act=hold_other(_LOADED, _PATH, f"{_PODS}-1"), after=20),
            Move(when=reason("CanaryNotReady"), act=_nothing),
            Move(when=_second_attempt, act=command("promote", tag="t2"), after=60),
        ],
        serves_from(_LOADED, _FIXED),
        carrier=Carrier.TARGETS,
    )
    pods = [f"{_PODS}-{index}" for index in range(4)]
    strangers = _scenario(
        "pods restart with other content while it bakes",
        _from_source(canary={"bake": "20s"}),
        [
            Move(when=at_step(1), act=command("promote"), after=5),
            Move(when=reason("Baking"), act=hold_other(_LOADED, "/adapters/else", *pods), after=15),
        ],
        phase("Aborted"),
    )
    return [aborted, in_flight, heals, strangers]


def _second_attempt(sim: Simulation) -> bool:
    return sim.status.get("attempt") == 2 and at_step(1)(sim)


def _nothing(sim: Simulation) -> None:
    """The moment is what counts."""


ADAPTER_SCENARIOS = (*_loading(), *_people(), *_same_name())
