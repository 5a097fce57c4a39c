"""A version whose pool is listed in another API group is that pool; the plan says so before any weight rises."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rollouts.engine.attempt import AttemptCapacity, CompanionCapacity, PathStatus
from rollouts.engine.moving import moved, stored_companions
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import TrafficMode
from rollouts.engine.rollout_status import (
    CompanionScale,
    HistoryEntry,
    KeptCompanion,
    Outcome,
    Phase,
    RolloutStatus,
    ScaleDown,
    StableScale,
)
from rollouts.engine.versions import Identity
from tests.kit.world import START, World, changed, pause, pool, spec, weight

V1, V2 = pool("v1"), pool("v2")


def new(identity: Identity) -> Identity:
    return replace(identity, group="inference.networking.k8s.io")


def running() -> World:
    world = World(spec=spec(weight(10), pause(5), weight(50), pause()))
    for _ in range(10):
        if world.status.weight.applied != 1000:
            world.step()
    assert world.status.weight.applied == 1000
    return world


def switch(world: World) -> None:
    """The route lists the new pools; the old ones are gone."""
    world.rules = [{new(arm): weight for arm, weight in rule.items()} for rule in world.rules or []]
    world.pools = {new(arm): count for arm, count in world.pools.items()}


def test_versions_records_and_history_are_followed_and_hashes_stay() -> None:
    world = running()
    before = world.status
    switch(world)
    world.step()
    after = world.status

    assert before.stable is not None
    assert after.stable == replace(before.stable, identity=new(V1))
    assert before.canary is not None
    assert after.canary == replace(before.canary, identity=new(V2))
    assert [(one.stable.group, one.canary.group) for one in after.way_back] == [
        (new(V1).group, new(V2).group)
    ]
    assert Reason.POOL_MOVED in [event.reason for event in world.events]


def test_no_weight_rises_before_the_move_is_stored() -> None:
    world = running()
    world.change(current_step=2, path=PathStatus())
    switch(world)
    writes = len(world.writes)
    world.step()
    first = len(world.writes)
    world.step()

    assert (first, len(world.writes)) == (writes, writes + 1)
    assert world.weights[-1] == 5000


@pytest.mark.parametrize(
    "listed",
    [
        {V1, V2},
        {V1, V2, new(V1), new(V2)},
        {pool("v3")},
        {new(V1), replace(V1, group="a.third.group"), V2},
        frozenset[Identity](),
    ],
    ids=["the old ones", "both", "neither", "two others", "nothing"],
)
def test_nothing_moves_while_the_route_lists(listed: set[Identity]) -> None:
    status = running().status

    assert moved(status, frozenset(listed), None) is status


def test_a_split_between_the_two_groups_is_no_move_when_one_side_is_taken_out() -> None:
    status = running().status
    assert status.canary is not None
    both = replace(changed(status, canary=replace(status.canary, identity=new(V1))), way_back=())

    assert moved(both, frozenset({new(V1)}), None) is both


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        (TrafficMode.ADOPTED, "list that one in every rule of the route"),
        (TrafficMode.MANAGED, "set target.pool.group to inference.networking.k8s.io"),
    ],
)
def test_pools_deleted_before_the_route_was_switched_have_a_way_out(mode: TrafficMode, said: str) -> None:
    world = World(spec=spec(target="v1", mode=mode))
    world.settle()
    world.pools = {new(V1): 4}
    world.settle()

    assert (world.status.phase, world.status.reason) == (Phase.WAITING, Reason.STABLE_POOL_MISSING)
    assert said in world.status.message


def test_a_target_in_the_group_that_the_route_has_left_is_told_from_one_that_is_not_listed() -> None:
    wanted = spec(weight(10), pause())
    wanted = replace(wanted, target=replace(wanted.target, group=V2.group))
    world = World(spec=wanted, rules=[{V1: 100, new(V2): 0}], pools={V1: 4, V2: 4})
    world.settle()

    assert world.status.reason == Reason.BACKEND_MISSING
    assert "lists v2 in inference.networking.k8s.io" in world.status.message


def test_a_group_that_was_changed_in_the_spec_first_ends_where_the_route_goes() -> None:
    world = World(spec=spec(target="v1"))
    world.settle()
    assert world.spec is not None
    world.edit(replace(world.spec, target=replace(world.spec.target, group=new(V1).group)))
    world.pools |= {new(V1): 4, new(V2): 4}
    world.settle()
    waiting = (world.status.phase, world.status.current.started_at)
    switch(world)
    world.settle()

    assert waiting == (Phase.WAITING, None)
    assert (world.status.phase, world.writes) == (Phase.HEALTHY, [])
    assert world.status.stable is not None
    assert world.status.stable.identity == new(V1)


# --- companions, which no route names --------------------------------------------------------------


def beside(*names: str, groups: tuple[str, ...] = (V1.group, new(V1).group)) -> frozenset[Identity]:
    return frozenset(replace(pool(name), group=group) for name in names for group in groups)


def with_companion() -> RolloutStatus:
    """Every place of a status that names a companion, or the version of one."""
    lent = StableScale(identity=V1, full=4, wanted=4, most=5, returning=True)
    part = CompanionScale(identity=pool("p1"), full=2, wanted=2, most=3)
    pair = CompanionCapacity(stable=pool("p1"), canary=pool("p2"))
    status = changed(running().status, capacity=AttemptCapacity(stable_at_start=4, companions=(pair,)))
    assert status.stable is not None
    past = HistoryEntry(revision=status.stable, attempt=0, outcome=Outcome.PROMOTED, at=START)
    return replace(
        status,
        stable_scale=replace(lent, companions=(part,)),
        owed=replace(lent, companions=(replace(part, identity=pool("e1")),)),
        scale_downs=(ScaleDown(identity=V2), ScaleDown(identity=pool("p2"), of=V2)),
        history=(replace(past, companions=(KeptCompanion(identity=pool("p1")),)),),
    )


@pytest.mark.parametrize("old", [True, False], ids=["beside the old ones", "the old ones are gone"])
def test_companions_are_followed_with_their_versions_wherever_the_status_names_them(old: bool) -> None:
    there = beside("p1", "p2", "e1", groups=(V1.group, new(V1).group) if old else (new(V1).group,))

    after = moved(with_companion(), frozenset({new(V1), new(V2)}), None, there)

    assert {arm.group for pair in stored_companions(after) for arm in pair} == {new(V1).group}
    assert [(one.identity, one.of) for one in after.scale_downs] == [
        (new(V2), None),
        (new(pool("p2")), new(V2)),
    ]


def test_a_companion_that_is_in_another_group_alone_is_followed_though_its_version_stays() -> None:
    there = beside("p1", "p2", "e1", groups=(new(V1).group,))

    after = moved(with_companion(), frozenset({V1, V2}), None, there)

    assert {(arm.group, version.group) for arm, version in stored_companions(after)} == {
        (new(V1).group, V1.group)
    }


@pytest.mark.parametrize("there", [beside("p1", "p2", "e1"), frozenset[Identity]()], ids=["both", "none"])
def test_a_companion_stays_beside_its_version_and_where_nobody_has_seen_it(
    there: frozenset[Identity],
) -> None:
    status = with_companion()

    assert moved(status, frozenset({V1, V2}), None, there) is status


def test_a_version_that_moves_alone_leaves_its_companion_where_it_is() -> None:
    there = beside("p1", "p2", "e1", groups=(V1.group,))

    after = moved(with_companion(), frozenset({new(V1), new(V2)}), None, there)

    assert {(arm.group, version.group) for arm, version in stored_companions(after)} == {
        (V1.group, new(V1).group)
    }
