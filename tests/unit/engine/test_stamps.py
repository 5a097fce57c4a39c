"""Stored hashes: pinned within a version of their algorithm, replaced without consequences between versions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from rollouts.api.parsing import parse_rollout
from rollouts.engine.observation import GateOutcome
from rollouts.engine.rollout_spec import HeaderMatchType, WeightStep
from rollouts.engine.rollout_status import Phase
from rollouts.engine.stamps import digits, is_foreign, stamp
from rollouts.engine.steps import steps_hash
from rollouts.units import Weight
from tests.kit.world import World, analysis, changed, pause, pool, spec, weight

METRIC = {"name": "errors", "measure": {"preset": "error-rate"}, "successCondition": "result < 0.05"}
COMPARED = {"name": "ttft", "compare": {"preset": "ttft", "tolerance": "20%"}}
DEFAULTS = {"source": "default", "failureLimit": 0, "dryRun": False, "noData": "Wait", "onFail": "Abort"}
MATCH = {"headerName": "x-test", "headerValue": {"exact": "yes"}}
VECTORS = [
    ([{"setWeight": 10}], "2:2b70b6199b2fb265"),
    ([{"setWeight": "0.5%"}, {"setWeight": 100}], "2:be691393721a8b8a"),
    (
        [{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}, {"pause": {"duration": "10m"}}],
        "2:69f067cf43889053",
    ),
    ([{"analysis": {"metrics": [METRIC]}}], "2:a3d97b092327b894"),
    ([{"analysis": {"metrics": [COMPARED], "args": [{"name": "a", "value": "b"}]}}], "2:92d3e075fa50bef4"),
    (
        [{"analysis": {"templates": [{"templateName": "latency", "clusterScope": True}]}}],
        "2:e7f69c0c48d59730",
    ),
    ([{"analysis": {"preset": "default"}}], "2:aaecd70c15777fde"),
    ([{"job": {"spec": {"template": {"spec": {"containers": []}}}}}], "2:5385ba404a8eeea2"),
    (
        [{"setHeaderRoute": {"name": "testers", "match": [MATCH]}}, {"setHeaderRoute": {"name": "testers"}}],
        "2:108c1f20e00d2952",
    ),
]
"""Made by the version that brought algorithm 2. A vector that changes sends running rollouts back, unless
``stamps.ALGORITHM`` is counted up with it."""


def hash_of(steps: list[dict[str, object]]) -> str:
    obj = {
        "spec": {
            "target": {"pool": {"name": "v2"}},
            "traffic": {"httpRoutes": [{"name": "route"}]},
            "strategy": {"canary": {"steps": steps}},
        }
    }
    parsed = parse_rollout(obj)
    assert parsed.spec is not None
    return steps_hash(parsed.spec.canary.steps)


@pytest.mark.parametrize(("steps", "pinned"), VECTORS, ids=lambda value: str(value)[:40])
def test_a_stamp_is_pinned(steps, pinned):
    assert hash_of(steps) == pinned


def test_what_is_written_out_and_means_the_same_has_the_same_stamp():
    spelled = [{"analysis": {"metrics": [METRIC | DEFAULTS], "templates": [], "args": [], "preset": ""}}]

    assert hash_of(spelled) == hash_of([{"analysis": {"metrics": [METRIC]}}])
    assert hash_of([{"pause": {"duration": "600s"}}]) == hash_of([{"pause": {"duration": "10m"}}])
    assert hash_of([{"setWeight": "10%"}]) == hash_of([{"setWeight": 10}])


def measured(window: str, **more: object) -> dict[str, object]:
    return METRIC | {"measure": {"preset": "error-rate", "window": window}} | more


def compared(**form: object) -> dict[str, object]:
    return {"name": "ttft", "compare": {"preset": "ttft"} | form}


SPELLINGS = [
    (measured("300s"), measured("5m")),
    (measured("1.5h"), measured("90m")),
    (measured("30m1h"), measured("1h30m")),
    (measured("120s"), METRIC),  # the default
    (measured("5m", interval="60s", count=3), measured("5m", interval="1m", count=3)),
    (measured("5m", errorTimeout="3600s", initialDelay="0s"), measured("5m", initialDelay="0m")),
    (measured("5m", successCondition="result < 0.05\n"), measured("5m")),
    (compared(tolerance="10%"), compared(tolerance=0.1)),
    (compared(tolerance="0.10"), compared(tolerance=0.1)),
    (compared(margin=2), compared(margin="200%")),
    (compared(minDwell="600s"), compared(minDwell="10m")),
    (compared(maxDuration="60m"), compared()),  # the default
    (compared(weight=1.0), compared(weight=1)),
]


@pytest.mark.parametrize(("one", "other"), SPELLINGS, ids=str)
def test_another_spelling_of_the_same_gate_is_no_edit(one, other):
    gates = [[{"analysis": {"metrics": [metric]}}] for metric in (one, other)]

    assert hash_of(gates[0]) == hash_of(gates[1])


def test_another_value_is_an_edit_however_it_is_spelled():
    gates = (
        measured("5s"),
        measured("5m"),
        measured("5h"),
        compared(tolerance=10),
        compared(tolerance="10%"),
    )

    assert len({hash_of([{"analysis": {"metrics": [one]}}]) for one in gates}) == len(gates)


@pytest.mark.parametrize("name", ["failureLimit", "source", "interval", "onFail", "noData"])
def test_every_edit_of_a_metric_is_seen(name):
    edited = {"failureLimit": 1, "source": "other", "interval": "7s", "onFail": "Pause", "noData": "Fail"}
    changed = [{"analysis": {"metrics": [METRIC | {name: edited[name]}]}}]

    assert hash_of(changed) != hash_of([{"analysis": {"metrics": [METRIC]}}])


def test_a_field_that_a_later_version_adds_changes_no_stamp():
    @dataclass(frozen=True, kw_only=True)
    class Later(WeightStep):
        wait: timedelta | None = None
        kind: HeaderMatchType = HeaderMatchType.EXACT

    Later.__name__ = "WeightStep"
    ten = Later(weight=Weight(1000))

    assert stamp(ten) == stamp(WeightStep(weight=Weight(1000)))
    assert stamp(replace(ten, wait=timedelta(1))) != stamp(ten)
    assert stamp(replace(ten, kind=HeaderMatchType.REGEX)) != stamp(ten)


# --- an upgrade in the middle ----------------------------------------------------------------------

FOREIGN = ["42cd006b18f952ba", "1:42cd006b18f952ba", "12:42cd006b18f952ba42cd", "3:42cd006b18f952ba:0a1b2c"]
"""Of before there were versions, and of versions to come."""


def past_a_pause() -> World:
    world = World(spec=spec(weight(10), pause(), weight(50), analysis(), weight(80)))
    world.settle()
    world.say("promote")
    world.settle()
    return world


@pytest.mark.parametrize("stored", FOREIGN)
def test_a_stamp_of_another_version_is_replaced_without_consequences(stored):
    world = past_a_pause()
    (gate,) = [name for name in world.gates if f"-{digits(world.status.current.steps_hash)}" in name]
    own, before = world.status.current.steps_hash, world.status
    renamed = gate.replace(digits(own), digits(stored))
    world.gates = {renamed: replace(world.gates[gate], name=renamed)}
    world.change(steps_hash=stored)
    writes = list(world.writes)
    world.settle()

    assert world.status.current.steps_hash == f"{own}:{digits(stored)}"
    # Words name the run, and thereby the stamp.
    plain, was = (replace(status, message="", conditions=()) for status in (world.status, before))
    assert changed(plain, steps_hash=stored) == changed(was, steps_hash=stored)
    assert (list(world.gates), world.writes) == ([renamed], writes)

    world.gates[renamed] = replace(world.gates[renamed], outcome=GateOutcome.PASSED)
    world.settle()
    assert (world.status.phase, world.status.stable.identity) == (Phase.HEALTHY, pool("v2"))


@pytest.mark.parametrize("stored", ["", "abc", "scribbled on, badly", "2:0123456789abcdef"])
def test_what_no_version_makes_is_an_edit(stored):
    world = past_a_pause()
    world.change(steps_hash=stored)
    world.step()

    assert not is_foreign(stored)
    assert world.status.current.weight_cap == Weight(5000)


def test_another_number_of_steps_is_an_edit_whatever_the_stamp_says():
    world = past_a_pause()
    world.change(steps_hash=FOREIGN[0])
    world.spec = spec(weight(10), weight(30), weight(60), weight(70), weight(80), weight(90))
    world.step()

    assert ":" not in world.status.current.steps_hash[2:]
    assert (world.status.current_step, world.status.current.weight_cap) == (2, Weight(5000))


def test_an_edit_after_a_restamp_is_an_edit():
    world = past_a_pause()
    world.change(steps_hash=FOREIGN[0])
    world.settle()
    world.spec = spec(weight(10), pause(), weight(50), analysis("other"), weight(80))
    world.settle()

    assert world.status.current.steps_hash == steps_hash(world.spec.canary.steps)


@pytest.mark.parametrize("stored", FOREIGN)
def test_the_clock_of_a_target_runs_on_through_an_upgrade(stored):
    world = World(spec=spec(weight(10), target_deadline=timedelta(minutes=10)))
    world.pools[pool("v2")] = 0
    world.settle()
    world.advance(500)
    wait = world.status.target_wait
    world.status = replace(world.status, target_wait=replace(wait, target=stored))
    world.advance(99)

    assert world.status.target_wait == wait
    world.advance(1)
    assert world.status.reason == "TargetDeadlineExceeded"


def test_a_running_canary_is_that_of_its_target_whatever_its_hash_was_made_of():
    """A later algorithm of the revision's hash drops no canary."""
    world = past_a_pause()
    other = replace(world.status.canary, hash="f" * 64)
    world.change(canary=other)
    world.settle()

    assert world.status.canary == other
