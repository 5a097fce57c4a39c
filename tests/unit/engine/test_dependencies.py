"""``dependsOn``: who goes first, and what waits for nobody."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from rollouts.engine.dependencies import COMMIT_SETTLES, cycle_from
from rollouts.engine.observation import DependencyState, DependencyView, TurnView
from rollouts.engine.rollout_spec import Dependency
from rollouts.engine.rollout_status import Phase, WaitingFor
from tests.kit.world import START, World, pause, pool, spec, weight

SOAK = timedelta(minutes=30)
FIRST = (Dependency(name="first", soak=SOAK),)
DAY = timedelta(days=1)


def view(state: DependencyState, name: str = "first", **fields) -> DependencyView:
    return DependencyView(name=name, state=state, **{"soak": SOAK, **fields})


def healthy(since: timedelta = -DAY, name: str = "first") -> DependencyView:
    return view(DependencyState.HEALTHY, name, since=START + since)


PROGRESSING = view(DependencyState.UNHEALTHY, detail="Progressing")
ABORTED = view(DependencyState.ABORTED, detail=" (GateFailed)")
MISSING = view(DependencyState.MISSING, detail="Rollout first, which goes first, does not exist: create it")
CYCLE = view(DependencyState.CYCLE, detail="a/demo -> a/first -> a/demo")


def waiting(*views: DependencyView, depends_on=FIRST, **fields) -> World:
    found = World(spec(weight(10), pause(), depends_on=depends_on, **fields), dependencies=views)
    found.settle()
    return found


def live(found: World) -> float:
    return float(found.share_of(pool("v2"))) * 100


@pytest.mark.parametrize(
    ("first", "reason", "words"),
    [
        (
            PROGRESSING,
            "WaitingForDependency",
            "first goes first and is Progressing: it has to be Healthy, and has to stay so for 30m;",
        ),
        (replace(PROGRESSING, soak=timedelta(0)), "WaitingForDependency", "it has to be Healthy;"),
        (
            ABORTED,
            "DependencyAborted",
            "first, which goes first, was aborted (GateFailed): push a fix there or `retry` it",
        ),
        (MISSING, "DependencyMissing", "does not exist: create it; `rollouts promote demo --full`"),
        (
            CYCLE,
            "DependencyCycle",
            "a/demo -> a/first -> a/demo depend on each other: take one of these dependsOn out",
        ),
        (healthy(timedelta(0)), "WaitingForDependency", "it has to stay so until 2026-01-01T00:30:00Z"),
    ],
)
def test_nothing_begins_behind_it_and_the_status_says_why(first, reason, words):
    found = waiting(first)
    assert (found.status.phase, found.status.reason) == (Phase.WAITING, reason)
    assert words in found.status.message
    assert found.status.waiting_for is WaitingFor.DEPENDENCY
    assert found.writes == []
    found.advance(600)
    assert found.status.started_at is None
    assert found.status.current.seen_at == START


def test_it_begins_when_the_soak_is_over():
    found = waiting(healthy(timedelta(0)))
    assert found.step().requeue_after == timedelta(seconds=30)
    found.advance(SOAK.total_seconds() - 1)
    assert found.status.started_at is None
    found.advance(1)
    assert live(found) == 10


def test_one_that_falls_and_comes_back_soaks_anew():
    found = waiting(healthy(timedelta(0)))
    found.now += timedelta(minutes=29)
    found.dependencies = (PROGRESSING,)
    found.settle()
    found.dependencies = (healthy(timedelta(minutes=31)),)
    found.advance(20 * 60)
    assert found.status.started_at is None
    found.advance(20 * 60)
    assert live(found) == 10


def test_one_that_was_healthy_long_since_has_time_to_hear_of_the_same_commit():
    found = waiting(healthy())
    assert "first is Healthy, and has 30s to hear of a change in the same commit" in found.status.message
    found.dependencies = (PROGRESSING,)
    found.advance(COMMIT_SETTLES.total_seconds())
    assert found.status.started_at is None

    found = waiting(healthy())
    found.advance(COMMIT_SETTLES.total_seconds())
    assert live(found) == 10


def test_of_several_all_have_to_be_healthy_and_the_worst_is_said():
    both = (*FIRST, Dependency(name="second"))
    found = waiting(healthy(), replace(ABORTED, name="second"), depends_on=both)
    assert found.status.reason == "DependencyAborted"
    assert "second, which goes first, was aborted" in found.status.message
    found.dependencies = (healthy(), healthy(timedelta(minutes=5), "second"))
    found.settle()
    assert (
        "second goes first and is Healthy: it has to stay so until 2026-01-01T00:35:00Z"
        in found.status.message
    )


def test_one_that_is_named_twice_has_to_soak_for_the_longer_time():
    twice = (*FIRST, Dependency(name="first", soak=timedelta(minutes=1)))
    for views in ((SOAK, timedelta(minutes=1)), (timedelta(minutes=1), SOAK)):
        found = waiting(*(replace(healthy(timedelta(0)), soak=soak) for soak in views), depends_on=twice)
        assert "it has to stay so until 2026-01-01T00:30:00Z" in found.status.message


def test_a_clock_that_is_set_back_holds_nothing_for_longer():
    found = waiting(healthy(-10 * DAY))
    found.now -= DAY
    found.settle()
    assert found.status.current.seen_at == START - DAY
    found.advance(COMMIT_SETTLES.total_seconds())
    assert live(found) == 10


def test_what_is_not_known_is_not_good():
    found = waiting()
    assert found.status.reason == "WaitingForDependency"
    assert "nothing is known yet" in found.status.message


def test_once_begun_it_goes_on_whatever_becomes_of_the_other():
    found = waiting(healthy())
    found.advance(60)
    found.dependencies = (ABORTED,)
    found.say("promote")
    found.settle()
    assert found.status.phase is Phase.HEALTHY


def test_aborts_reverts_and_promote_full_wait_for_nobody():
    for act, phase, share in (("abort", Phase.ABORTED, 0), ("promoteFull", Phase.HEALTHY, 100)):
        found = waiting(PROGRESSING)
        found.say(act)
        assert found.status.phase is phase
        assert live(found) == share

    found = waiting(PROGRESSING)
    found.edit(replace(found.spec, target=replace(found.spec.target, name="v1")))
    assert found.status.phase is Phase.HEALTHY

    found = waiting(healthy(), rollback_window=DAY)
    found.advance(60)
    found.say("promote")
    found.settle()
    found.dependencies = (ABORTED,)
    found.edit(replace(found.spec, target=replace(found.spec.target, name="v1")))
    assert found.status.phase is Phase.HEALTHY
    assert live(found) == 0


def test_who_waits_for_another_is_not_in_line_yet():
    found = waiting(PROGRESSING)
    found.turn = TurnView(where="in namespace a", limit=1)
    found.settle()
    assert found.status.current.queued_at is None
    found.dependencies = (healthy(),)
    found.advance(60)
    assert found.status.waiting_for is WaitingFor.TURN
    assert found.status.current.queued_at == START + timedelta(seconds=60)


# --- circles ----------------------------------------------------------------------------------------


def circle(start: str, **edges: str) -> tuple[str, ...]:
    return cycle_from(start, lambda name: edges.get(name, ""))


def test_a_circle_is_told_in_its_order():
    assert circle("a", a="b", b="cd", c="", d="a") == ("a", "b", "d", "a")
    assert circle("a", a="a") == ("a", "a")


def test_who_stands_behind_a_circle_is_not_in_it():
    assert circle("a", a="b", b="c", c="b") == ()
    assert circle("a") == ()


def test_the_search_has_an_end():
    asked = []

    def edges(name: str) -> list[str]:
        asked.append(name)
        return [str(int(name) * 2), str(int(name) * 2 + 1)]

    assert cycle_from("1", edges) == ()
    assert len(asked) <= 129


def test_the_last_edge_that_is_looked_at_may_close_a_circle():
    edges = {"a": [f"x{number}" for number in range(255)], "x0": ["a"]}
    assert cycle_from("a", lambda name: edges.get(name, [])) == ("a", "x0", "a")
    edges["a"].append("x255")
    assert cycle_from("a", lambda name: edges.get(name, [])) == ()
