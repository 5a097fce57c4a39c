"""Enumerating fault plans from what the clean run of a scenario did: nothing is sampled.

Each class enumerates over every write or every watch event of the clean run, times its variants. Where a class has
many variants (storms, clock jumps, garbage), the writes are visited in steps, so that every variant meets the
beginning, the middle and the end of each scenario.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any

from rollouts.objects import kinds
from rollouts.objects.resource import Resource
from tests.kit.faults.edited import edit_plans
from tests.kit.faults.hostile import HOSTILE
from tests.kit.faults.moves import (
    add_model,
    answer,
    crash_pods,
    delete,
    delete_model,
    edit_steps,
    gateway,
    jump,
    lose_adapter,
    overwrite_route,
    picker,
    recreate_pool,
    regain_adapter,
    retarget,
    scale,
)
from tests.kit.faults.objects import ADAPTER_OF, CANARY, RELEASES, STABLE, STEPS, THIRD
from tests.kit.faults.simulation import (
    Act,
    Disturbance,
    FaultPlan,
    Refusal,
    Run,
    Scenario,
    Simulation,
    Storm,
)
from tests.kit.faults.source import Answer
from tests.kit.faults.transport import REFUSALS, Delivery, WriteFault

__all__ = ["FaultClass", "applies", "disturbed", "enumerate_plans", "heard_of_late"]


class FaultClass(Enum):
    """Classes of faults."""

    CRASH = "F1 crash before and after every write"
    STALE = "F2 restart on a cache that lags"
    EVENTS = "F3 watch events dropped, repeated, late, merged"
    ERRORS = "F4 one write refused or unanswered"
    REFUSED = "F4b traffic writes are refused"
    STORM = "F5 a minute of errors"
    GARBAGE = "F6 the metric source says nothing useful"
    CLOCK = "F8 the wall clock jumps"
    EDITS = "F9 the spec changes"
    OUTSIDE = "F10 pods, pools and routes change"
    HOSTILE = "F11 hostile objects beside a good one"
    EDITED = "F12 every edit that the API takes, then a way back"


def _crashes(clean: Run) -> Iterator[FaultPlan]:
    for number in range(0, clean.writes, clean.scenario.stride):
        for fault in (WriteFault.CRASH_BEFORE, WriteFault.CRASH_AFTER):
            yield FaultPlan(name=f"{fault.value}, write {number}", writes={number: fault})


def _stale(clean: Run) -> Iterator[FaultPlan]:
    for number in range(0, clean.writes, 2 * clean.scenario.stride):
        for lag in (1, 3):
            yield FaultPlan(
                name=f"crash after write {number}, cache {lag} events behind",
                writes={number: WriteFault.CRASH_AFTER},
                lag=lag,
            )


def _events(clean: Run) -> Iterator[FaultPlan]:
    stride = clean.scenario.stride
    for number in range(0, clean.events, stride):
        yield FaultPlan(
            name=f"event {number} dropped", delivery=Delivery(dropped=frozenset({number})), exact=False
        )
    for number in range(0, clean.events, 3 * stride):
        yield FaultPlan(name=f"event {number} repeated", delivery=Delivery(duplicated=frozenset({number})))
    if not clean.scenario.core:
        return
    carrier = clean.scenario.carrier.resource if clean.scenario.adapters else kinds.HTTP_ROUTE
    for kind in (kinds.ROLLOUT, carrier, kinds.ANALYSIS_RUN, kinds.POD):
        for seconds in (3.0, 40.0):
            delivery = Delivery(delays=((kind.plural, seconds),))
            yield FaultPlan(name=f"{kind.plural} {seconds:g} s late", delivery=delivery, exact=False)
    for seconds in (3.0, 30.0):
        yield FaultPlan(
            name=f"events merged for {seconds:g} s", delivery=Delivery(coalesced=seconds), exact=False
        )


def _errors(clean: Run) -> Iterator[FaultPlan]:
    stride = clean.scenario.stride
    for number in range(0, clean.writes, stride):
        fault = (
            WriteFault.TIMEOUT_AFTER,
            WriteFault.CONFLICT,
            WriteFault.TIMEOUT_AFTER,
            WriteFault.THROTTLED,
        )[number // stride % 4]
        yield FaultPlan(name=f"{fault.value}, write {number}", writes={number: fault})


def _refused(clean: Run) -> Iterator[FaultPlan]:
    """Each traffic write, once, for a minute, for ten, for ever; every kind of refusal meets every length."""
    lengths = {0.0: "once", 60.0: "for a minute", 600.0: "for ten minutes", math.inf: "for ever"}
    # One more: what a refusal adds, or a release at the end.
    for number in range(0, len(clean.weights) + 1, clean.scenario.stride):
        for offset, (seconds, words) in enumerate(lengths.items()):
            fault = REFUSALS[(number + offset) % len(REFUSALS)]
            refusal = Refusal(fault=fault, start=number, seconds=seconds)
            name = f"{fault.value}, {words}, from traffic write {number}"
            yield FaultPlan(name=name, refusal=refusal, exact=False)


def _storms(clean: Run) -> Iterator[FaultPlan]:
    faults = (
        WriteFault.CONFLICT,
        WriteFault.THROTTLED,
        WriteFault.SERVER_ERROR,
        WriteFault.TIMEOUT_BEFORE,
        WriteFault.TIMEOUT_AFTER,
    )
    for fault in faults:
        for start in range(1, clean.writes, max(1, clean.writes * clean.scenario.stride // 3)):
            storm = Storm(start=start, fault=fault, seconds=60.0, reads=fault is WriteFault.SERVER_ERROR)
            yield FaultPlan(name=f"{fault.value} for 60 s from write {start}", storm=storm, exact=False)


_GARBAGE = [item for item in Answer if item not in (Answer.HEALTHY, Answer.BAD)]


def _garbage(clean: Run) -> Iterator[FaultPlan]:
    for what in _GARBAGE:
        for start, seconds in ((0, 25.0), (clean.writes // 2, 25.0), (0, 3000.0)):
            yield _disturbed(
                f"{what.value} for {seconds:g} s", start, answer(what), answer(Answer.HEALTHY), seconds
            )


def _clock(clean: Run) -> Iterator[FaultPlan]:
    for start in range(1, clean.writes, max(1, clean.writes // 4)):
        for seconds in (-600.0, -2.0, 30.0, 3600.0):
            yield _disturbed(f"wall clock {seconds:+g} s", start, jump(seconds))


def _edits(clean: Run) -> Iterator[FaultPlan]:
    broken: list[Any] = [{"setWeight": 10}, {"analysis": {"templates": [{"templateName": "missing"}]}}]
    more: list[Any] = [{"setWeight": 2}, {"setWeight": 30}, {"pause": {"duration": "10s"}}, {"setWeight": 80}]
    edits: dict[str, tuple[Act, Act | None]] = {
        "one step": (edit_steps([{"setWeight": 60}]), None),
        "more steps": (edit_steps(more), None),
        "invalid for 20 s, then valid": (edit_steps(broken), edit_steps(STEPS)),
        "third target": (retarget(THIRD), None),
        "back to stable": (retarget(STABLE), None),
        "back to stable for 20 s": (retarget(STABLE), retarget(CANARY)),
    }
    for start in range(1, clean.writes, 3 * clean.scenario.stride):
        for name, (act, undo) in edits.items():
            yield _disturbed(name, start, act, undo, 20.0)


def _adapters_outside() -> dict[str, tuple[Act, Act | None, float]]:
    """What happens to pods that serve both arms, to their adapters, and to the model object."""
    release, adapter = RELEASES[STABLE], ADAPTER_OF[CANARY]
    pod = f"{release}-1"
    return {
        "pods unready 30 s": (scale(release, 0, 4), scale(release, 4), 30.0),
        "a pod more for 30 s": (scale(release, 5), scale(release, 4), 30.0),
        "adapter off a pod for 30 s": (lose_adapter(pod, adapter), regain_adapter(pod, adapter), 30.0),
        "pool gone 15 s": (delete(kinds.POOL_X, STABLE), recreate_pool(STABLE), 15.0),
        "model gone 60 s": (delete_model, add_model({STABLE: 100}), 60.0),
        "argocd resets": (overwrite_route({STABLE: 100}, "argocd-controller"), None, 0.0),
        "a person lowers": (overwrite_route({STABLE: 98, CANARY: 2}, "kubectl-edit"), None, 0.0),
        "a person raises": (overwrite_route({STABLE: 1, CANARY: 99}, "kubectl-edit"), None, 0.0),
    }


def _pickers(*, ready: bool) -> Act:
    """Both arms' pickers at once."""

    def act(sim: Simulation) -> None:
        for pool in (STABLE, CANARY):
            picker(pool, ready=ready)(sim)

    return act


def _pools_outside() -> dict[str, tuple[Act, Act | None, float]]:
    release, stable = RELEASES[CANARY], RELEASES[STABLE]
    return {
        "canary unready 5 s": (scale(release, 0, 2), scale(release, 2), 5.0),
        "canary unready 30 s": (scale(release, 0, 2), scale(release, 2), 30.0),
        "stable unready 30 s": (scale(stable, 0, 4), scale(stable, 4), 30.0),
        "canary picker unready 30 s": (picker(CANARY, ready=False), picker(CANARY, ready=True), 30.0),
        "canary picker never Ready again": (picker(CANARY, ready=False), None, 0.0),
        "both pickers unready 30 s": (_pickers(ready=False), _pickers(ready=True), 30.0),
        "canary crashes once": (crash_pods(release), None, 0.0),
        "canary pool gone 15 s": (delete(kinds.POOL_X, CANARY), recreate_pool(CANARY), 15.0),
        "stable pool gone 15 s": (delete(kinds.POOL_X, STABLE), recreate_pool(STABLE), 15.0),
        "argocd resets": (overwrite_route({STABLE: 100}, "argocd-controller"), None, 0.0),
        "a person raises": (overwrite_route({STABLE: 1, CANARY: 99}, "kubectl-edit"), None, 0.0),
        "gateway silent 60 s": (gateway(works=False), gateway(works=True), 60.0),
    }


def _outside(clean: Run) -> Iterator[FaultPlan]:
    acts = _adapters_outside() if clean.scenario.adapters else _pools_outside()
    for start in range(1, clean.writes, 3 * clean.scenario.stride):
        for name, (act, undo, seconds) in acts.items():
            yield _disturbed(name, start, act, undo, seconds)


def _hostile(clean: Run) -> Iterator[FaultPlan]:
    for name in HOSTILE:
        yield FaultPlan(name=f"beside {name}", hostile=(name,))
    yield FaultPlan(name="beside all of them", hostile=tuple(HOSTILE))


def _disturbed(name: str, start: int, act: Act, undo: Act | None = None, seconds: float = 0.0) -> FaultPlan:
    disturbance = Disturbance(after_write=start, act=act, undo=undo, seconds=seconds)
    return FaultPlan(name=f"{name}, from write {start}", disturbances=(disturbance,), exact=False)


_ENUMERATORS: dict[FaultClass, Callable[[Run], Iterator[FaultPlan]]] = {
    FaultClass.CRASH: _crashes,
    FaultClass.STALE: _stale,
    FaultClass.EVENTS: _events,
    FaultClass.ERRORS: _errors,
    FaultClass.REFUSED: _refused,
    FaultClass.STORM: _storms,
    FaultClass.GARBAGE: _garbage,
    FaultClass.CLOCK: _clock,
    FaultClass.EDITS: _edits,
    FaultClass.OUTSIDE: _outside,
    FaultClass.HOSTILE: _hostile,
    FaultClass.EDITED: edit_plans,
}


_CORE_ONLY = (FaultClass.CLOCK, FaultClass.EDITS, FaultClass.OUTSIDE, FaultClass.HOSTILE)


def applies(fault: FaultClass, scenario: Scenario) -> bool:
    """Whether the class has plans for the scenario."""
    if scenario.counted:
        return False
    if scenario.edited or fault is FaultClass.EDITED:
        return scenario.edited and fault is FaultClass.EDITED
    if fault is FaultClass.GARBAGE:
        return scenario.measured
    return scenario.core or fault not in _CORE_ONLY


def enumerate_plans(fault: FaultClass, clean: Run) -> Iterator[FaultPlan]:
    """Every plan of a class for a scenario that it applies to."""
    return _ENUMERATORS[fault](clean)


def disturbed(clean: Run, acts: Mapping[str, tuple[Act, Act | None, float]]) -> Iterator[FaultPlan]:
    """Each act right after each second write of the clean run, undone after its seconds."""
    for start in range(1, clean.writes, 2):
        for name, (act, undo, seconds) in acts.items():
            disturbance = Disturbance(after_write=start, act=act, undo=undo, seconds=seconds)
            yield FaultPlan(name=f"{name}, from write {start}", disturbances=(disturbance,), exact=False)


def heard_of_late(first: Resource, second: Resource) -> Iterator[FaultPlan]:
    """Objects of one of the kinds, or of both, are heard of late, so that kinds overtake each other."""
    for late in ((first,), (second,), (first, second)):
        for seconds in (3.0, 40.0):
            delivery = Delivery(delays=tuple((kind.plural, seconds) for kind in late))
            names = " and ".join(kind.plural for kind in late)
            yield FaultPlan(name=f"{names} {seconds:g} s late", delivery=delivery, exact=False)
