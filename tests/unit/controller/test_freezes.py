"""Freezes as the controller reads them from the cache: what is not known holds."""

from __future__ import annotations

from typing import Any

import pytest

from rollouts.controller import freezes
from rollouts.controller.caches import Caches
from rollouts.controller.freezes import Freezes
from rollouts.controller.wakes import on_rollout_change
from rollouts.objects import kinds
from tests.kit.clock import VirtualClock, virtual_time
from tests.kit.faults.objects import freeze_object, rollout_object

Object = dict[str, Any]


def stored(obj: Object, version: str = "1") -> Object:
    return {
        **obj,
        "metadata": {**obj["metadata"], "uid": f"u-{obj['metadata']['name']}", "resourceVersion": version},
    }


def seen(*freezes: Object, namespace: Object | None = None, known: bool = True, watched: bool = True) -> str:
    """Name of the freeze that holds, with its reason; empty for none."""

    async def look() -> str:
        clock = VirtualClock()
        caches = Caches(None, clock, freezes=watched)  # type: ignore[arg-type]
        for one in freezes:
            caches.freezes.apply(stored(one))
        if namespace is not None:
            caches.namespace_objects.apply(stored(namespace))
        if known:
            caches.knows_freezes = lambda: True  # type: ignore[method-assign]
        view = Freezes(caches, clock).view(rollout_object())
        return "" if view is None else f"{view.name}: {view.reason}"

    with virtual_time() as loop:
        return loop.run_until_complete(look())


def test_until_freezes_were_listed_everything_is_frozen():
    assert "cannot be listed" in seen(known=False)
    assert seen(known=True) == ""


def test_who_does_not_watch_freezes_obeys_none():
    assert seen(freeze_object("all"), watched=False) == ""


def test_of_several_the_one_that_holds_longest_is_said():
    short, late = (
        freeze_object("short", end="2030-02-01T00:00:00Z"),
        freeze_object("late", end="2030-03-01T00:00:00Z"),
    )
    assert seen(short, late).startswith("late: ")
    assert seen(short, late, freeze_object("ever")).startswith("ever: ")


def test_where_none_holds_the_one_that_begins_next_is_told():
    soon, late = (
        freeze_object(name, start=f"{year}-01-01T00:00:00Z") for name, year in (("b", 2040), ("a", 2050))
    )
    assert seen(late, soon).startswith("b: ")
    assert seen(late, soon, freeze_object("now")).startswith("now: ")


@pytest.mark.parametrize(
    "edge",
    [
        {"end": "9999-12-31T23:59:59-05:00"},
        {"start": "0001-01-01T00:00:00+05:00"},
        {"start": 7, "end": []},
        {"rolloutSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}},
        {"rolloutSelector": {"matchLabels": [1]}},
    ],
    ids=str,
)
def test_no_freeze_that_is_wrong_keeps_a_rollout_from_being_looked_at(edge):
    said = seen(freeze_object("odd", **edge))
    assert said.startswith("odd: ")
    assert said.endswith("so it holds until it is corrected or deleted")


def test_a_freeze_that_no_reader_foresaw_holds_and_raises_nothing(monkeypatch: pytest.MonkeyPatch):
    def stumble(_: Any) -> Any:
        raise OverflowError("date value out of range")

    monkeypatch.setattr(freezes, "read_freeze", stumble)
    assert (
        seen(freeze_object("odd")) == "odd: it cannot be read, so it holds until it is corrected or deleted"
    )


TEAM = {"namespaceSelector": {"matchLabels": {"team": "a"}}}


@pytest.mark.parametrize(("labels", "held"), [({"team": "a"}, True), ({"team": "b"}, False), (None, True)])
def test_a_namespace_is_chosen_by_its_labels_and_one_that_is_not_known_is_held(labels, held):
    namespace = None if labels is None else {"metadata": {"name": "default", "labels": labels}}
    assert bool(seen(freeze_object("team", **TEAM), namespace=namespace)) is held


def test_freezes_are_not_waited_for_before_the_controller_leads():
    caches = Caches(None, VirtualClock(), freezes=True)  # type: ignore[arg-type]
    of_freezes = {kinds.ROLLOUT_FREEZE, kinds.NAMESPACE}
    watched = {reflector.resource for reflector in caches.reflectors}
    assert of_freezes <= watched
    assert not caches.knows_freezes()
    assert Caches(None, VirtualClock()).knows_freezes()  # type: ignore[arg-type]
    # What has to be there before it leads is everything else.
    needed = {reflector.resource for reflector in caches._needed()}
    assert needed == watched - of_freezes


def test_a_change_is_told_to_those_that_have_a_canary():
    caches = Caches(None, VirtualClock(), freezes=True)  # type: ignore[arg-type]
    waiting, rest = rollout_object(name="waiting"), rollout_object(name="rest")
    waiting["status"] = {"canary": {"name": "v2"}}
    for one in (waiting, rest):
        caches.rollouts.apply(stored(one))
    told: list[str] = []
    on_rollout_change(caches, lambda key: told.append(key.name))
    caches.freezes.apply(stored(freeze_object("all")))
    assert told == ["waiting"]


def test_of_a_namespace_only_its_labels_are_told_and_only_to_its_own():
    caches = Caches(None, VirtualClock(), freezes=True)  # type: ignore[arg-type]
    for namespace in ("a", "b"):
        one = rollout_object(name=f"in-{namespace}")
        one["metadata"]["namespace"] = namespace
        one["status"] = {"canary": {"name": "v2"}}
        caches.rollouts.apply(stored(one))
    told: list[str] = []
    on_rollout_change(caches, lambda key: told.append(key.name))
    by_change = []
    for version, labels, name in (
        ("1", {"team": "a"}, "a"),
        ("2", {"team": "a"}, "a"),
        ("3", {}, "a"),
        ("4", {}, "c"),
    ):
        caches.namespace_objects.apply(stored({"metadata": {"name": name, "labels": labels}}, version))
        by_change.append(list(told))
        told.clear()
    assert by_change == [["in-a"], [], ["in-a"], []]
    caches.namespace_objects.remove(stored({"metadata": {"name": "a"}}, "5"))
    assert told == ["in-a"]
