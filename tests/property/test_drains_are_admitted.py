"""What the engine stores of pods that are to go is what the generated CRD admits, from any state of any size.

The API server refuses a whole status for one field that is too long: nothing is stored any more then.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rollouts.api.status import read_status, write_status
from rollouts.engine.losers import SCALE_DOWNS
from rollouts.engine.observation import Drained, Draining, NotControllable
from rollouts.engine.planning import plan
from rollouts.engine.rollout_spec import Capacity, PodCount
from rollouts.engine.rollout_status import CompanionScale, Drain, ScaleDown, StableScale
from rollouts.engine.versions import Identity
from rollouts.lab.memoryapi.schema import validate
from rollouts.objects.companions import MOST
from rollouts.objects.pools import with_role
from tests.kit.fleet import Fleet
from tests.kit.world import START, World, pool, spec, weight

CRD = Path(__file__).parents[2] / "crds" / "rollouts.inferencerollouts.dev.yaml"
STATUS = yaml.safe_load(CRD.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"][
    "status"
]
POOL, LABEL = 253, 63
"""Characters that a pool's name, and a label's value, may have (Kubernetes)."""
LIKE = Capacity(
    max_surge=PodCount(number=1), min_stable=PodCount(number=0), drain_timeout=timedelta(minutes=5)
)
V1, V2 = pool("v1"), pool("v2")

drain_views = st.sampled_from(
    [None, Drained(), Draining(3, 9), Draining(3, None), Draining(2, 1, free=1), NotControllable("n" * 5000)]
)


def _name(number: int, length: int) -> str:
    return f"{'p' * (length - 4)}{number:04}"


@st.composite
def returning(draw: st.DrawFn) -> World:
    """Stable is to get pods back, of itself and its companions, from what lost, each with companions of its own."""
    long = draw(st.booleans())
    length, inside = (POOL, draw(st.booleans())) if long else (8, False)
    roles = [_name(number, LABEL if long else 8) for number in range(draw(st.integers(0, MOST)))]
    same = draw(st.booleans())

    def companions(version: Identity, number: int) -> list[tuple[Identity, str]]:
        mine = roles if same else [_name(100 * number + at, LABEL if long else 8) for at in range(len(roles))]
        if inside:
            return [(pool(with_role(version.name, role)), role) for role in mine]
        return [(pool(_name(10 * number + at, length)), role) for at, role in enumerate(mine)]

    lost = [pool(_name(9000 + number, length)) for number in range(draw(st.integers(0, SCALE_DOWNS)))]
    owed = [ScaleDown(identity=version) for version in lost]
    for number, version in enumerate(lost, 1):
        found = companions(version, number)
        owed += [ScaleDown(identity=one, of=version, role=role, pods=4, of_pods=4) for one, role in found]
    lent = [
        CompanionScale(identity=one, role=role, full=4, wanted=4, most=5) for one, role in companions(V1, 0)
    ]
    fleets = {one.identity: Fleet.of("f" * length, draw(st.integers(0, 3))) for one in (*owed, *lent)}
    world = World(spec=spec(weight(50), target="v1", capacity=LIKE), rules=[{V1: 100, V2: 0}])
    world.settle()
    fleets |= {V1: Fleet.of("v1", 1), V2: Fleet.of("v2", 0)}
    for fleet in fleets.values():
        fleet.drain, fleet.in_flight = draw(drain_views), draw(st.sampled_from([0, 3, None]))
        fleet.refused = draw(st.sampled_from(["", "r" * 5000]))
    world.fleets, world.pools = fleets, dict.fromkeys(fleets, 1)
    started = [
        Drain(identity=one.identity, replicas=fleets[one.identity].replicas, to=0, since=START)
        for one in owed
        if draw(st.booleans())
    ]
    world.status = replace(
        world.status,
        drains=tuple(started),
        scale_downs=tuple(owed),
        stable_scale=StableScale(
            identity=V1, full=4, wanted=4, most=5, returning=True, drain_seconds=300, companions=tuple(lent)
        ),
    )
    return world


def wrong(status: Any) -> list[str]:
    return validate(status, STATUS)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(returning())
def test_what_is_stored_of_drains_is_admitted(world: World) -> None:
    for _ in range(3):
        status = plan(world.observe(), world.now).status
        drained = [one.identity for one in status.drains]

        assert len(set(drained)) == len(drained), "one per arm"
        assert wrong(write_status(status)) == []
        assert read_status(write_status(status))[1] == ()
        world.status, world.now = status, world.now + timedelta(seconds=6)


def test_the_schema_has_room_for_as_many_drains_as_there_may_be_and_no_more() -> None:
    """Stable's kinds, and those of each version that lost; of a canary that runs nothing drains beside those."""
    most = (1 + MOST) * (1 + SCALE_DOWNS)

    assert STATUS["properties"]["drains"]["maxItems"] == most
