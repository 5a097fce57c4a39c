"""Replicas of a picker that go by other weights than the stored ones: what waits for them, and what is said."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from rollouts.engine.observation import PickersView
from rollouts.engine.rollout_status import CommandResult, Condition
from tests.kit.world import World, pause, pool, spec, weight

V2 = pool("v2")
ALL = tuple(f"epp-{number}" for number in range(6))
BEHIND = tuple((pod, "goes by v1 90%, v2 10%") for pod in ALL)


def pickers(**fields: Any) -> PickersView:
    return PickersView(replicas=ALL, stored="v1 100%", **fields)


def at_ten() -> World:
    world = World(spec=spec(weight(10), pause(60), weight(50), pause()))
    world.settle()
    world.pickers = pickers()
    return world


def applied(world: World) -> Condition:
    return next(one for one in world.status.conditions if one.type == "TrafficApplied")


def command(world: World) -> tuple[CommandResult, str]:
    last = world.status.last_command
    assert last is not None
    return last.result, last.message


def test_no_weight_rises_while_a_replica_goes_by_others() -> None:
    world = at_ten()
    world.pickers = pickers(behind=BEHIND[:1])
    world.advance(61)

    assert world.share_of(V2) == Fraction(1, 10)
    assert (applied(world).status, applied(world).reason) == ("False", "PickerBehind")
    assert "epp-0 goes by v1 90%, v2 10%, and HTTPRoute route says v1 100%" in applied(world).message

    world.pickers = pickers()
    world.advance(5)
    assert world.share_of(V2) == Fraction(1, 2)
    assert applied(world).status == "True"


def test_an_abort_is_written_at_once_and_done_when_every_replica_has_loaded_it() -> None:
    world = at_ten()
    world.tell("abort")
    world.step()

    assert world.share_of(V2) == 0
    assert command(world)[0] is CommandResult.IN_PROGRESS
    assert "gets all requests once epp-0, epp-1, epp-2, epp-3 and 2 more" in world.status.message
    assert "the abort is written" in command(world)[1]

    world.pickers = pickers(asked=ALL[:1])
    world.settle()
    assert "gets all requests once epp-0, the endpoint picker, has loaded that" in world.status.message

    world.pickers = pickers(behind=BEHIND)
    world.settle()
    assert "DOES NOT GET ALL REQUESTS: epp-0 goes by v1 90%, v2 10%; epp-1" in world.status.message
    assert "and 2 more" in world.status.message
    assert command(world)[0] is CommandResult.IN_PROGRESS

    world.pickers = pickers()
    world.settle()
    assert " serves; " in world.status.message
    assert command(world) == (CommandResult.DONE, "all traffic goes to stable")


def test_a_replica_that_does_not_say_is_named_and_holds_nothing_up() -> None:
    world = at_ten()
    world.pickers = pickers(silent=ALL[:1])
    world.say("abort")

    assert "serves, as far as is known: epp-0, the endpoint picker, does not say" in world.status.message
    assert command(world)[0] is CommandResult.DONE
    assert "epp-0" in command(world)[1]


def test_nothing_is_said_of_an_object_of_a_kind_that_is_not_served() -> None:
    world = at_ten()
    world.served, world.pickers = False, pickers(behind=BEHIND[:1])
    world.settle()

    assert applied(world).reason != "PickerBehind"
