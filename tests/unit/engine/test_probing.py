"""The probe of the path: a rule of its own before the first weight, and never after anything else."""

from __future__ import annotations

from datetime import timedelta
from fractions import Fraction

import pytest

from rollouts.engine.attempt import ProbeVerdict
from rollouts.engine.observation import Claim, ProbeView
from rollouts.engine.probing import PROBE_HEADER, PROBE_ROUTE
from rollouts.engine.rollout_spec import PathProbe, TrafficMode
from rollouts.engine.rollout_status import Phase
from tests.kit.world import World, pause, pool, spec, weight

V1, V2 = pool("v1"), pool("v2")
SECRET = "5eec4e7"
OFFER = ProbeView(offered=SECRET)
REQUIRED = {"path_probe": PathProbe.REQUIRE}


def said(verdict, message="requests are answered 500: the picker fails"):
    return ProbeView(offered=SECRET, token=SECRET, verdict=verdict, message=message)


def managed(*steps, probe=OFFER, mode=TrafficMode.MANAGED, **fields):
    world = World(
        spec=spec(*(steps or (weight(10), pause())), mode=mode, **fields),
        rules=[{V1: 100}],
        claim=Claim.OURS,
        probe=probe,
    )
    world.settle()
    return world


def probing(world):
    return [(route.name, route.match[0].name, route.match[0].value) for route in world.header_routes]


def warnings(world):
    return [event.reason for event in world.events if event.type.value == "Warning"]


def test_the_rule_comes_before_the_first_weight_and_goes_with_it():
    world = managed()

    assert probing(world) == [(PROBE_ROUTE, PROBE_HEADER, SECRET)]
    assert (world.share_of(V2), world.status.reason, world.finalizer) == (0, "ProbingPath", True)

    world.probe = said(ProbeVerdict.PASSED, "3 requests answered")
    world.settle()

    assert (probing(world), world.share_of(V2)) == ([], Fraction(1, 10))
    assert [write.desired.weight for write in world.writes] == [0, 1000]
    assert world.status.current.probe.verdict is ProbeVerdict.PASSED
    assert warnings(world) == []


def test_a_failure_is_reported_once_and_the_rollout_goes_on():
    world = managed()
    world.probe = said(ProbeVerdict.FAILED)
    world.advance(600)

    assert (probing(world), world.share_of(V2)) == ([], Fraction(1, 10))
    assert warnings(world) == ["PathProbeFailed"]
    assert (world.status.current.probe.verdict, world.status.current.probe.message) == (
        ProbeVerdict.FAILED,
        said(ProbeVerdict.FAILED).message,
    )


def test_what_is_not_judged_warns_nobody():
    world = managed()
    world.probe = said(ProbeVerdict.NOT_JUDGED, "answers 401: not judged")
    world.settle()

    assert world.share_of(V2) == Fraction(1, 10)
    assert warnings(world) == []


@pytest.mark.parametrize("probe", [OFFER, ProbeView()], ids=["no verdict", "nobody to ask found"])
def test_a_report_holds_the_weight_back_for_five_seconds_at_most(probe):
    world = managed(probe=probe)
    world.advance(4)

    assert world.share_of(V2) == 0

    world.advance(1)
    world.settle()

    assert (probing(world), world.share_of(V2)) == ([], Fraction(1, 10))
    assert world.status.current.probe.verdict is ProbeVerdict.NOT_JUDGED


def test_where_nobody_can_be_asked_no_rule_is_written():
    world = managed(probe=ProbeView(impossible="Gateway gw publishes no address"))

    assert [write.desired.header_routes for write in world.writes] == [()]
    assert (world.share_of(V2), world.status.current.probe.message) == (
        Fraction(1, 10),
        "Gateway gw publishes no address",
    )


@pytest.mark.parametrize(
    "answer",
    [
        said(ProbeVerdict.FAILED),
        said(ProbeVerdict.NOT_JUDGED, "answers 401: not judged"),
        ProbeView(impossible="Gateway gw publishes no address"),
        ProbeView(),
    ],
    ids=["failed", "not judged", "nobody to ask", "unknown"],
)
def test_a_required_probe_holds_until_it_passes(answer):
    world = managed(**REQUIRED)
    world.probe = answer
    world.advance(60)

    assert world.share_of(V2) == 0
    assert answer.message in world.status.message

    world.probe = said(ProbeVerdict.PASSED)
    world.settle()

    assert (probing(world), world.share_of(V2)) == ([], Fraction(1, 10))


def test_a_required_probe_that_nobody_can_make_says_why_and_waits():
    world = managed(probe=ProbeView(impossible="the administrator switched probes off"), **REQUIRED)

    assert (world.weights, world.status.reason) == ([], "PathProbeFailed")
    assert "switched probes off" in world.status.message

    world.probe = OFFER
    world.settle()

    assert probing(world) == [(PROBE_ROUTE, PROBE_HEADER, SECRET)]


def test_a_required_probe_that_never_passes_aborts_at_the_deadline_and_leaves_no_rule():
    world = managed(progress_deadline=timedelta(minutes=5), **REQUIRED)
    world.probe = said(ProbeVerdict.FAILED)
    world.settle()
    world.advance(301)

    assert (world.status.phase, world.status.current.aborted.reason) == (
        Phase.ABORTED,
        "ProgressDeadlineExceeded",
    )
    assert "the picker fails" in world.status.current.aborted.message
    assert (probing(world), world.share_of(V2)) == ([], 0)
    assert warnings(world).count("PathProbeFailed") == 1


@pytest.mark.parametrize("end", ["abort", "revert", "delete"])
def test_whatever_ends_the_attempt_takes_the_rule_out(end):
    world = managed()
    if end == "abort":
        world.say("abort")
    elif end == "revert":
        world.edit(spec(weight(10), target="v1", mode=TrafficMode.MANAGED))
    else:
        world.deleting = True
        for _ in range(5):
            if world.finalizer:
                world.step()
        assert not world.finalizer

    assert (probing(world), world.share_of(V2)) == ([], 0)


def test_a_rule_that_a_crash_left_is_removed():
    world = managed(probe=None)
    world.status = World(spec=world.spec).status
    crashed = managed()
    world.header_routes = crashed.header_routes
    world.settle()

    assert probing(world) == []


def test_a_probe_goes_on_after_a_restart_with_the_same_secret():
    world = managed()
    before = probing(world)
    world.probe = ProbeView(offered="another")
    world.settle()

    assert probing(world) == before


@pytest.mark.parametrize(
    "fields",
    [{"path_probe": PathProbe.OFF}, {"mode": TrafficMode.ADOPTED}],
    ids=["off", "adopted"],
)
def test_where_it_is_not_wanted_or_not_ours_nothing_is_probed(fields):
    world = managed(**{"add_backend": True, **fields} if "mode" in fields else fields)

    assert (probing(world), world.status.current.probe) == ([], None)
    assert world.share_of(V2) == Fraction(1, 10)


def test_switched_off_in_the_middle_it_ends():
    world = managed(**REQUIRED)
    world.edit(spec(weight(10), pause(), mode=TrafficMode.MANAGED, path_probe=PathProbe.OFF))

    assert (probing(world), world.share_of(V2)) == ([], Fraction(1, 10))


def test_a_person_who_promotes_fully_is_not_reported_to_but_a_required_probe_stays():
    world = managed(pause(), weight(10))
    world.say("promoteFull")

    assert world.status.phase is Phase.HEALTHY

    world = managed(pause(), weight(10), **REQUIRED)
    world.say("promoteFull")

    assert (world.share_of(V2), world.status.reason) == (0, "ProbingPath")
