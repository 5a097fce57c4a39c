"""A command that was rejected is said where people look, and passes by without a write of its own."""

from __future__ import annotations

from rollouts.engine.rejections import REJECTION_SHOWN
from tests.kit.world import World, pause, pool, spec, weight


def rejected() -> World:
    world = World(spec=spec(weight(10), pause(), weight(50)))
    world.settle()
    world.say("retry")
    return world


def test_a_rejection_stays_until_its_time_is_over_and_something_else_changes() -> None:
    world = rejected()
    shown = world.status.message
    assert "[retry was rejected: " in shown

    world.advance(REJECTION_SHOWN.total_seconds() + 1)

    assert world.status.message == shown  # its age is no reason to write

    world.pools[pool("v2")] = 0
    world.advance(11)

    assert "rejected" not in world.status.message


def test_a_change_within_the_time_keeps_it() -> None:
    world = rejected()
    world.pools[pool("v2")] = 0
    world.settle()
    world.advance(11)

    assert "no Ready endpoint" in world.status.message
    assert "[retry was rejected: " in world.status.message
