"""Workloads whose requests do not do what the weights say: what the watch over the path is for (design rule 4)."""

from __future__ import annotations

import copy
from fractions import Fraction
from typing import Any

from tests.kit.faults.moves import begun, clients, healthy_on, phase, reason
from tests.kit.faults.objects import CANARY, STEPS, base_objects, rollout_object
from tests.kit.faults.simulation import Condition, Move, Scenario, Simulation

__all__ = ["SHARE_SCENARIOS"]

Object = dict[str, Any]

SHORT: list[Object] = [{"setWeight": 1}, {"pause": {"duration": "30s"}}, {"setWeight": 10}, {"setWeight": 50}]


def _scenario(
    name: str,
    steps: list[Object],
    moves: list[Move],
    goal: Condition,
    *,
    core: bool = False,
    counted: bool = False,
    stride: int = 1,
    **canary: Any,
) -> Scenario:
    rollout = rollout_object(steps, canary=canary)
    return Scenario(
        name=name,
        setup=lambda cluster: base_objects(cluster, copy.deepcopy(rollout)),
        moves=tuple(moves),
        goal=goal,
        core=core,
        measured="analysis" in repr(steps),
        counted=counted,
        stride=stride,
    )


def _aborted_by(wanted: str) -> Condition:
    return lambda sim: phase("Aborted")(sim) and reason(wanted)(sim)


def _weight_is(percent: int) -> Condition:
    def holds(sim: Simulation) -> bool:
        return bool((sim.status.get("weight") or {}).get("applied") == percent)

    return holds


SHARE_SCENARIOS: tuple[Scenario, ...] = (
    _scenario(
        "split silently not programmed",
        STEPS,
        [Move(when=begun, act=clients(splits=False))],
        _aborted_by("ShareNotProgrammed"),
        core=True,
    ),
    _scenario(
        "weights in force twenty seconds after the report",
        SHORT,
        [Move(when=begun, act=clients(lag=20.0))],
        healthy_on(CANARY),
        stride=6,
    ),
    _scenario(
        "weights in force later than anybody waits",
        SHORT,
        [Move(when=begun, act=clients(lag=300.0))],
        _aborted_by("ShareNotProgrammed"),
        counted=True,
    ),
    _scenario(
        "no traffic until somebody sends some",
        SHORT,
        [
            Move(when=begun, act=clients(rate=0.0)),
            Move(when=reason("NoTraffic"), act=clients(rate=20.0), after=400),
        ],
        healthy_on(CANARY),
    ),
    _scenario(
        "no traffic, and none is asked for",
        SHORT,
        [Move(when=begun, act=clients(rate=0.0))],
        healthy_on(CANARY),
        allowNoTraffic=True,
    ),
    _scenario(
        "nobody can count",
        SHORT,
        [
            Move(when=begun, act=clients(countable=False)),
            Move(when=reason("ShareUnmeasured"), act=clients(countable=True), after=400),
        ],
        healthy_on(CANARY),
    ),
    _scenario(
        "a rise breaks the path",
        SHORT,
        [Move(when=begun, act=clients(breaks_above=Fraction(1, 20)))],
        _aborted_by("PathBroken"),
        counted=True,
    ),
    _scenario(
        "clients stop by themselves after a rise",
        SHORT,
        [
            Move(when=_weight_is(10), act=clients(rate=0.0), after=1),
            Move(when=reason("WriteUndone"), act=clients(rate=20.0), after=200),
        ],
        healthy_on(CANARY),
        counted=True,
    ),
)
