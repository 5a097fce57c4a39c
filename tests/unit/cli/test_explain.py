"""Why a Rollout is where it is, what comes next and what would move it, for each place it can be at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rollouts.api.status import write_status
from rollouts.cli.explain import explanation
from rollouts.engine.naming import Owner, background_run
from rollouts.engine.rollout_spec import Capacity
from tests.kit.fleet import Fleet
from tests.kit.world import START, World, analysis, pause, pool, spec, weight

STEPS = [{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}]


def rollout(world: World, *, steps: list[dict[str, Any]] = STEPS, **more: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "demo", "namespace": "default", "generation": 0},
        "spec": {
            "target": {"pool": {"name": "v2"}},
            "traffic": {"httpRoutes": [{"name": "route"}]},
            "strategy": {"canary": {"steps": steps}},
            **more,
        },
        "status": write_status(world.status),
    }


def told(obj: dict[str, Any], heading: str, runs: list[dict[str, Any]] | None = None) -> str:
    return "\n".join(text for head, text in explanation(obj, runs or [], START) if head == heading)


def settled(*steps: Any) -> World:
    world = World(spec=spec(*steps))
    world.settle()
    return world


def aborted() -> dict[str, Any]:
    world = settled(weight(10), analysis())
    world.say("abort")
    return rollout(world)


def held() -> dict[str, Any]:
    world = settled(weight(10), pause())
    world.say("pause")
    return rollout(world)


def paused() -> dict[str, Any]:
    return rollout(settled(weight(10), pause(), weight(50)))


def timed() -> dict[str, Any]:
    steps = [{"setWeight": 10}, {"pause": {"duration": "10m"}}]
    return rollout(settled(weight(10), pause(600)), steps=steps)


def gated() -> dict[str, Any]:
    gate = {"analysis": {"metrics": [{"name": "m", "compare": {"preset": "ttft"}}]}}
    return rollout(settled(weight(10), analysis()), steps=[{"setWeight": 10}, gate])


def new() -> dict[str, Any]:
    return {**paused(), "status": {}}


def broken() -> dict[str, Any]:
    return {**paused(), "spec": {}}


PLACES: dict[str, tuple[Callable[[], dict[str, Any]], str, str]] = {
    "a pause says where it is": (paused, "Where", "at step 2 of 3, attempt 1: canary v2"),
    "a pause without end wants promote": (paused, "Moves it", "`promote` leaves the pause"),
    "a pause is followed by a weight": (paused, "Next", "step 3: set weight 50%"),
    "the end of the steps is promotion": (paused, "Next", "becomes stable"),
    "a pause with an end wants time": (timed, "Moves it", "s are left"),
    "a gate wants its verdicts": (gated, "Moves it", "verdicts above"),
    "an abort has nothing before it": (aborted, "Next", "final for this revision"),
    "an abort wants a commit or retry": (aborted, "Moves it", "`retry`"),
    "a hold by command wants resume": (held, "Moves it", "`resume` releases it"),
    "a new one wants a controller": (new, "Where", "not been looked at"),
    "a broken one names what is broken": (broken, "Why", "spec.target"),
    "a broken one points at lint": (broken, "Moves it", "`rollouts lint FILE`"),
}


@pytest.mark.parametrize("name", PLACES)
def test_each_place_is_explained(name):
    make, heading, part = PLACES[name]

    assert part in told(make(), heading)


def test_the_verdicts_of_this_attempt_are_told_and_no_others():
    world = settled(weight(10), pause())
    runs = [
        {"metadata": {"name": name}, "status": {"comparisons": [{"name": "ttft", "message": message}]}}
        for name, message in (
            (background_run(Owner(name="demo"), world.status), "ttft is fine"),
            ("demo-old-1", "old"),
        )
    ]

    assert told(rollout(world), "Judged", runs) == "ttft is fine"


def test_a_spec_that_was_not_looked_at_is_said():
    obj = paused()
    obj["metadata"]["generation"] = 10_000

    assert "not looked at yet" in told(obj, "But")


def test_spec_paused_is_named_as_what_holds():
    obj = rollout(settled(weight(10), pause()), paused=True)

    assert "`spec.paused` is true" in told(obj, "Moves it")


def test_the_pods_of_a_rollout_that_scales_are_told() -> None:
    arms = {pool("v1"): Fleet.of("vllm-v1", 8), pool("v2"): Fleet.of("vllm-v2", 0)}
    world = World(spec=spec(weight(50), pause(), capacity=Capacity()), fleets=arms)
    world.settle()
    obj = rollout(world)

    assert told(obj, "Pods") == "canary v2: 0 of 4 Ready, 4 Pending\nstable v1: 8 at the start"

    world.say("abort")
    assert told(rollout(world), "Pods").endswith("v2 keeps its pods until 2026-01-01T00:10:00Z")


def test_steps_of_a_strategy_that_is_not_known_are_not_made_up() -> None:
    """The attempt goes by what it has pinned; the Rollout names another one by now, which may not be read."""
    found = rollout(settled(weight(10), pause()))
    found["spec"]["strategy"] = {"canaryFrom": {"name": "gone"}}

    assert "step " not in told(found, "Next")
    assert told(found, "Moves it") == "The shared strategy that the attempt goes by, which is not known here."
