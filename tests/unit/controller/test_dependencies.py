"""What a Rollout learns of those that it depends on."""

from __future__ import annotations

from typing import Any

import pytest

from rollouts.api.parsing import parse_rollout
from rollouts.api.references import DEPENDENTS_ANNOTATION, permits
from rollouts.controller import dependencies as controlled
from rollouts.controller.caches import Caches
from rollouts.controller.dependencies import dependency_views
from rollouts.controller.wakes import on_rollout_change
from rollouts.engine.observation import DependencyState
from tests.kit.clock import VirtualClock
from tests.kit.faults.cluster import POOL_GROUP
from tests.kit.faults.objects import STABLE, rollout_object

Object = dict[str, Any]
ARM = {"kind": "InferencePool", "group": POOL_GROUP, "name": STABLE, "hash": "a" * 64}
READY = [{"type": "Ready", "status": "True", "lastTransitionTime": "2030-01-01T00:00:00Z"}]
HEALTHY = {"phase": "Healthy", "stable": ARM, "observedGeneration": 1, "conditions": READY}
ABORT = {"hash": "b" * 64, "at": "2030-01-01T00:00:00Z", "reason": "GateFailed"}
_UIDS = iter(range(10**6))


def rollout(name: str, *depends_on: Object, namespace: str = "a", **fields: Any) -> Object:
    made = rollout_object(name=name, dependsOn=list(depends_on))
    made["metadata"] |= {
        "namespace": namespace,
        "uid": f"uid-{next(_UIDS)}",
        "generation": 1,
        "resourceVersion": "1",
        **fields.pop("metadata", {}),
    }
    return {**made, **fields}


def seen(
    mine: Object, *others: Object, namespaces: tuple[str, ...] = ()
) -> list[tuple[DependencyState, str]]:
    caches = Caches(None, VirtualClock(), namespaces=namespaces)  # type: ignore[arg-type]
    for one in (mine, *others):
        caches.rollouts.apply(one)
    return [(view.state, view.detail) for view in dependency_views(caches, parse_rollout(mine))]


@pytest.mark.parametrize(
    ("status", "state", "detail"),
    [
        (HEALTHY, DependencyState.HEALTHY, ""),
        ({**HEALTHY, "conditions": []}, DependencyState.UNHEALTHY, "not serving"),
        (
            {**HEALTHY, "observedGeneration": 0},
            DependencyState.UNHEALTHY,
            "asked for something that was not looked at yet",
        ),
        (
            {**HEALTHY, "phase": "WaitingForTarget", "canary": {**ARM, "hash": "b" * 64}},
            DependencyState.UNHEALTHY,
            "WaitingForTarget",
        ),
        (
            {**HEALTHY, "phase": "Aborted", "canary": {**ARM, "hash": "b" * 64}, "aborted": ABORT},
            DependencyState.ABORTED,
            " (GateFailed)",
        ),
        ({}, DependencyState.UNHEALTHY, "asked for something that was not looked at yet"),
        ({"observedGeneration": 1}, DependencyState.UNHEALTHY, "not looked at yet"),
        ("scribbled", DependencyState.UNHEALTHY, "asked for something that was not looked at yet"),
    ],
)
def test_healthy_is_at_the_present_generation_and_serving(status, state, detail):
    assert seen(rollout("mine", {"name": "first"}), rollout("first", status=status)) == [(state, detail)]


def test_one_that_is_not_there_or_goes_is_missing():
    mine = rollout("mine", {"name": "first"})
    goes = rollout("first", status=HEALTHY, metadata={"deletionTimestamp": "2030-01-01T00:00:00Z"})
    assert [state for state, _ in seen(mine)] == [DependencyState.MISSING]
    assert [state for state, _ in seen(mine, goes)] == [DependencyState.MISSING]


def test_of_another_namespace_nothing_is_known_without_its_consent():
    mine = rollout("mine", {"name": "first", "namespace": "b"})
    silent = rollout("first", namespace="b", status=HEALTHY)
    absent, unpermitted = seen(mine), seen(mine, silent)
    assert absent == unpermitted
    assert f"annotate it with {DEPENDENTS_ANNOTATION}: a" in absent[0][1]


@pytest.mark.parametrize(
    ("said", "may"), [("a", True), ("c, a", True), ("*", True), ("b", False), ("", False), ("aa", False)]
)
def test_the_consent_names_namespaces(said, may):
    mine = rollout("mine", {"name": "first", "namespace": "b"})
    first = rollout(
        "first", namespace="b", status=HEALTHY, metadata={"annotations": {DEPENDENTS_ANNOTATION: said}}
    )
    wanted = DependencyState.HEALTHY if may else DependencyState.MISSING
    assert [state for state, _ in seen(mine, first)] == [wanted]


def test_a_namespace_that_is_not_watched_is_said():
    mine = rollout("mine", {"name": "first", "namespace": "b"})
    ((state, detail),) = seen(mine, namespaces=("a",))
    assert state is DependencyState.MISSING
    assert detail == "Rollout b/first goes first, and this controller does not watch namespace b"


def test_a_circle_is_named_and_who_stands_behind_one_waits_for_it():
    mine, first = rollout("mine", {"name": "first"}), rollout("first", {"name": "mine"})
    assert seen(mine, first) == [(DependencyState.CYCLE, "a/mine -> a/first -> a/mine")]
    behind = rollout("behind", {"name": "mine"})
    assert [state for state, _ in seen(behind, mine, first)] == [DependencyState.UNHEALTHY]
    assert seen(rollout("self", {"name": "self"})) == [(DependencyState.CYCLE, "a/self -> a/self")]


def test_who_is_healthy_waits_for_nobody_and_makes_no_circle():
    mine, first = rollout("mine", {"name": "first"}), rollout("first", {"name": "mine"}, status=HEALTHY)
    assert seen(mine, first) == [(DependencyState.HEALTHY, "")]
    third = rollout("third", {"name": "mine"})
    both = rollout("mine", {"name": "first"}, {"name": "third"})
    assert seen(both, first, third)[1] == (DependencyState.CYCLE, "a/mine -> a/third -> a/mine")


def test_a_circle_names_the_neighbour_and_counts_the_others_shortly():
    names = ["m" * 253, "n" * 253, "o", "p"]
    around = [
        rollout(name, {"name": after}) for name, after in zip(names, [*names[1:], names[0]], strict=True)
    ]
    ((state, detail),) = seen(*around)
    assert state is DependencyState.CYCLE
    assert detail == f"a/{'m' * 78}... -> a/{'n' * 78}... -> 2 more -> a/{'m' * 78}..."


def test_a_tangle_of_others_makes_no_look_expensive(monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []

    def counting(obj: Object, namespace: str) -> bool:
        asked.append(namespace)
        return permits(obj, namespace)

    monkeypatch.setattr(controlled, "permits", counting)
    names = [f"r{number}" for number in range(60)]
    tangle = [
        rollout(name, *({"name": names[(at + step) % 60]} for step in range(1, 17)))
        for at, name in enumerate(names)
    ]
    mine = rollout("mine", *({"name": name} for name in names[:16]))
    assert {state for state, _ in seen(mine, *tangle)} == {DependencyState.UNHEALTHY}
    assert len(asked) <= 16 + 256


def test_a_change_of_the_first_is_told_to_those_behind_it():
    caches = Caches(None, VirtualClock())  # type: ignore[arg-type]
    caches.rollouts.apply(rollout("mine", {"name": "first"}))
    told: list[str] = []
    on_rollout_change(caches, lambda key: told.append(key.name))
    caches.rollouts.apply(rollout("first"))
    assert sorted(told) == ["first", "mine"]
