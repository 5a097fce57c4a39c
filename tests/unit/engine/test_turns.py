"""Turns: who begins when only so many may, and what waits for nobody."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollouts.engine.observation import TurnView
from rollouts.engine.rollout_status import Phase, WaitingFor
from rollouts.engine.turns import Contender, LimitPlace, LimitScope, concerned, turn_of
from tests.kit.world import START, World, changed, pause, pool, spec, weight

POOL, NAMESPACE, CONTROLLER = LimitScope.POOL, LimitScope.NAMESPACE, LimitScope.CONTROLLER
FULL_A = TurnView(where="in namespace a", limit=2, holders=("a/p", "a/q"))


def contender(number: int, namespace: str, *pools: str, since: int | None = None) -> Contender:
    places = [LimitPlace(POOL, f"{namespace}/{one}") for one in pools]
    when = START + timedelta(seconds=number if since is None else since)
    name = f"{namespace}/r{number}"
    return Contender(
        when, f"uid-{number}", name, (*places, LimitPlace(NAMESPACE, namespace), LimitPlace(CONTROLLER))
    )


def limits(*, pool: int = 99, namespace: int = 99, controller: int = 99) -> dict[LimitScope, int]:
    return {POOL: pool, NAMESPACE: namespace, CONTROLLER: controller}


def taken(*holders: Contender) -> dict[LimitPlace, list[str]]:
    found: dict[LimitPlace, list[str]] = {}
    for one in holders:
        for place in one.places:
            found.setdefault(place, []).append(one.name)
    return found


# --- the line ---------------------------------------------------------------------------------------


def test_where_there_is_a_place_nobody_waits():
    assert turn_of(contender(1, "a"), [], {}, limits(namespace=1)) is None


def test_nobody_stands_behind_itself():
    me = contender(2, "a", since=5)
    asks_anew = contender(2, "a", since=9)
    assert turn_of(asks_anew, [me], {}, limits(namespace=1)) is None


def test_a_full_namespace_is_named_with_who_is_in_it_and_who_is_in_front():
    line = [contender(number, "a") for number in (3, 4)]
    found = turn_of(contender(5, "a"), line, taken(contender(1, "a"), contender(2, "a")), limits(namespace=2))
    assert found == TurnView(
        where="in namespace a", limit=2, holders=("a/r1", "a/r2"), ahead=("a/r3", "a/r4")
    )


def test_first_come_first_served_and_ties_go_by_uid():
    first, second = contender(7, "a", since=1), contender(8, "a", since=1)
    assert turn_of(first, [first, second], {}, limits(namespace=1)) is None
    found = turn_of(second, [first, second], {}, limits(namespace=1))
    assert found == TurnView(where="in namespace a", limit=1, ahead=("a/r7",))


def test_one_that_waits_for_its_namespace_does_not_hold_up_another_namespace():
    line = [contender(2, "a"), contender(3, "b")]
    held = taken(contender(1, "a"))
    assert turn_of(line[1], line, held, limits(namespace=1, controller=2)) is None
    assert concerned(line, held, limits(namespace=1, controller=2), most=0) == [line[1]]
    assert concerned(line, held, limits(namespace=1, controller=2), most=1) == line


def test_one_that_needs_two_pools_finds_them_both_free_in_the_end():
    both, later = contender(2, "a", "p", "q"), contender(3, "a", "q")
    found = turn_of(later, [both, later], taken(contender(1, "a", "p")), limits(pool=1))
    assert found == TurnView(where="on pool a/q", limit=1, ahead=("a/r2",))


def test_the_whole_controller_has_a_limit_too():
    found = turn_of(contender(2, "b"), [], taken(contender(1, "a")), limits(controller=1))
    assert found == TurnView(where="under this controller", limit=1, holders=("a/r1",))


def test_where_all_places_are_taken_is_said_before_where_one_is_about_to_be():
    line = [contender(2, "a", "p")]
    found = turn_of(contender(3, "a", "p"), line, taken(contender(1, "a", "x")), limits(pool=1, namespace=1))
    assert found is not None
    assert found.where == "in namespace a"


contenders = st.lists(
    st.builds(
        contender,
        st.integers(0, 99),
        st.sampled_from("ab"),
        st.sampled_from("pqr"),
        since=st.integers(0, 3),
    ),
    max_size=8,
    unique_by=lambda one: one.uid,
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    contenders,
    contenders,
    st.builds(limits, pool=st.integers(1, 3), namespace=st.integers(1, 3), controller=st.integers(1, 4)),
)
def test_beginning_one_after_the_other_never_passes_a_limit_and_ends_with_all(line, held, most):
    held = [one for one in held if one.uid not in {other.uid for other in line}]
    places = {place for one in (*line, *held) for place in one.places}
    for _ in range(len(line) + len(held) + 1):
        while begins := [one for one in line if turn_of(one, line, taken(*held), most) is None]:
            before = taken(*held)
            line.remove(begins[-1])
            held.append(begins[-1])
            present = taken(*held)
            for place in places:
                assert len(present.get(place, [])) <= max(most[place.scope], len(before.get(place, [])))
        held = held[1:]
    assert line == []


# --- the attempt ------------------------------------------------------------------------------------


def waiting(view: TurnView = FULL_A, **fields) -> World:
    found = World(spec(weight(10), pause(), **fields), turn=view)
    found.settle()
    return found


def test_the_status_says_where_in_line_and_for_what():
    found = waiting(replace(FULL_A, ahead=("a/x", "b/y")))
    assert (found.status.phase, found.status.reason) == (Phase.WAITING, "WaitingForTurn")
    assert found.status.message == (
        f"{found.status.canary.label} waits: 3rd in line behind a/x and b/y: 2 of 2 rollouts in progress in "
        "namespace a; `rollouts promote demo --full` does not wait"
    )
    assert found.status.waiting_for is WaitingFor.TURN
    assert found.status.current.queued_at == START
    assert found.writes == []
    assert [event.reason for event in found.events].count("WaitingForTurn") == 1


@pytest.mark.parametrize(
    ("ahead", "words"),
    [
        (0, "next in line: 2 of 2 rollouts in progress in namespace a (a/p and a/q)"),
        (1, "2nd in line behind a/x0: 2 of 2"),
        (3, "4th in line behind a/x0 and a/x1 and 1 more: 2 of 2"),
        (10, "11th in line behind a/x0 and a/x1 and 8 more: 2 of 2"),
        (11, "more than 10 are in line before it: 2 of 2"),
    ],
)
def test_a_long_line_is_said_shortly(ahead, words):
    found = waiting(replace(FULL_A, ahead=tuple(f"a/x{number}" for number in range(ahead))))
    assert words in found.status.message


def test_a_place_that_is_free_but_for_those_in_front_has_no_holders():
    assert "next in line: 0 of 1 rollouts in progress under this controller;" in (
        waiting(TurnView(where="under this controller", limit=1)).status.message
    )


def test_it_keeps_the_time_when_it_asked_and_begins_when_there_is_a_place():
    found = waiting()
    found.advance(600)
    assert found.status.current.queued_at == START
    found.turn = None
    found.settle()
    assert found.status.phase is Phase.PAUSED
    assert found.share_of(pool("v2")) * 100 == 10


def test_an_attempt_that_has_begun_keeps_its_place_while_it_is_paused():
    found = waiting(None)
    found.turn = FULL_A
    found.say("pause")
    found.say("resume")
    found.settle()
    assert found.status.started_at is not None
    assert found.share_of(pool("v2")) * 100 == 10


def test_a_target_that_is_not_ready_is_not_in_line_and_its_clock_runs():
    found = World(spec(weight(10), target_deadline=timedelta(hours=1)), turn=FULL_A)
    found.pools[pool("v2")] = 0
    found.settle()
    assert (found.status.waiting_for, found.status.current.queued_at) == (None, None)
    found.advance(3700)
    assert found.status.phase is Phase.ABORTED


def test_waiting_in_line_costs_no_deadline():
    found = waiting(target_deadline=timedelta(hours=1))
    found.advance(7200)
    assert found.status.reason == "WaitingForTurn"


def test_one_that_is_paused_or_invalid_leaves_the_line_and_has_its_place_when_it_comes_back():
    found = waiting()
    found.say("pause")
    assert (found.status.phase, found.status.waiting_for) == (Phase.PAUSED, None)
    found.say("resume")
    assert found.status.waiting_for is WaitingFor.TURN
    assert found.status.current.queued_at == START


def test_another_target_asks_anew():
    found = waiting()
    found.pools[pool("v3")] = 4
    assert found.rules is not None
    found.rules[0][pool("v3")] = 0
    found.now += timedelta(seconds=60)
    found.edit(replace(found.spec, target=replace(found.spec.target, name="v3")))
    assert found.status.current.queued_at == START + timedelta(seconds=60)


def test_going_back_to_stable_waits_for_nobody():
    found = waiting()
    found.edit(replace(found.spec, target=replace(found.spec.target, name="v1")))
    assert found.status.phase is Phase.HEALTHY

    found = World(spec(weight(50), rollback_window=timedelta(days=1)))
    found.settle()
    assert found.status.phase is Phase.HEALTHY
    found.turn = FULL_A
    found.edit(replace(found.spec, target=replace(found.spec.target, name="v1")))
    assert found.status.phase is Phase.HEALTHY
    assert found.share_of(pool("v1")) == 1


def test_an_abort_waits_for_nobody():
    found = waiting()
    found.say("abort")
    assert found.status.phase is Phase.ABORTED

    found = waiting(None)
    found.turn = FULL_A
    found.say("abort")
    assert found.status.phase is Phase.ABORTED
    assert found.share_of(pool("v2")) == 0


def test_promote_full_begins_at_once_and_promote_says_what_it_waits_for():
    found = waiting()
    found.say("promote")
    assert found.status.last_command.result.value == "Rejected"
    assert found.status.last_command.message == (
        "it has not begun (WaitingForTurn): `promote` does not change that, `promote --full` does"
    )
    found.say("promoteFull")
    assert found.status.phase is Phase.HEALTHY
    assert found.share_of(pool("v2")) == 1


def test_promote_full_does_not_override_readiness():
    found = World(spec(weight(10)), turn=FULL_A)
    found.pools[pool("v2")] = 0
    found.settle()
    found.say("promoteFull")
    assert found.status.last_command.result.value == "Rejected"


def test_retry_is_in_line_again_and_asks_anew():
    found = waiting(None)
    found.say("abort")
    found.turn = FULL_A
    found.now += timedelta(seconds=60)
    found.say("retry")
    assert found.status.reason == "WaitingForTurn"
    assert found.status.current.queued_at == found.status.last_command.at


def test_what_waited_under_a_limit_that_is_gone_begins():
    found = waiting()
    found.status = changed(found.status, queued_at=None)
    found.turn = None
    found.settle()
    assert found.status.started_at is not None
