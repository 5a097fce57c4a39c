"""A command that was rejected is said where people look, until another command or a move of the rollout."""

from __future__ import annotations

from tests.kit.world import World, pause, pool, spec, weight


def rejected() -> World:
    world = World(spec=spec(weight(10), pause(300), weight(50), pause()))
    world.settle()
    world.advance(60)
    world.say("retry")
    return world


def test_at_rest_it_stays_and_its_age_writes_nothing() -> None:
    world = rejected()
    shown = world.status
    world.advance(60)

    assert "[retry was rejected: " in shown.message
    assert world.status == shown


def test_it_stays_beside_what_else_there_is_to_say() -> None:
    world = rejected()
    world.pools[pool("v2")] = 0
    world.settle()
    world.advance(11)

    assert "no Ready endpoint" in world.status.message
    assert "[retry was rejected: " in world.status.message


def test_the_next_step_takes_it_away() -> None:
    world = rejected()
    world.advance(300)

    assert world.status.current_step == 3
    assert "rejected" not in world.status.message
