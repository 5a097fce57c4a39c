"""Names of runs and Jobs: whose they are is told by the UID, and names end in its first characters."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from rollouts.engine.actions import CreateJob, CreateRun, TerminateRun
from rollouts.engine.naming import (
    Owner,
    background_run,
    is_background,
    is_of_attempt,
    job_name,
    renewed_background,
    step_run,
)
from rollouts.engine.observation import GateOutcome, GateView, Observation
from rollouts.engine.planning import plan
from rollouts.engine.rollout_status import RolloutStatus
from rollouts.engine.stamps import digits
from tests.kit.world import World, analysis, background, job, pause, spec, weight

UID = "5f3a9c21-0000-4000-8000-000000000001"
DEMO = Owner(name="demo", uid=UID)
NAMES = {
    "background": background_run,
    "renewed": lambda owner, status: renewed_background(owner, status, 2),
    "step": lambda owner, status: step_run(owner, status, 3),
    "job": lambda owner, status: job_name(owner, status, 3),
}


def status_at(attempt: int = 7) -> RolloutStatus:
    world = World(spec=spec(weight(10), pause()))
    world.settle()
    return replace(world.status, attempt=attempt)


@pytest.mark.parametrize("kind", NAMES)
def test_a_name_ends_in_the_first_five_characters_of_the_uid(kind):
    status = status_at()
    name = NAMES[kind](DEMO, status)

    assert re.fullmatch(
        rf"demo-{status.canary.short}-7(-r2|-3-{digits(status.current.steps_hash)})?-5f3a9", name
    )


@pytest.mark.parametrize("kind", NAMES)
def test_a_namesake_has_other_names(kind):
    other = replace(DEMO, uid="6" + UID[1:])

    assert NAMES[kind](DEMO, status_at()) != NAMES[kind](other, status_at())


@pytest.mark.parametrize("kind", NAMES)
def test_a_name_that_others_have_is_left_to_them_and_ours_is_kept_when_they_are_gone(kind):
    name, status = NAMES[kind], status_at()
    first = name(DEMO, status)
    second = name(replace(DEMO, taken=frozenset({first})), status)
    third = name(replace(DEMO, taken=frozenset({first, second})), status)

    assert len({first, second, third}) == 3
    assert all(text.endswith("-5f3a9") and len(text) <= 63 for text in (first, second, third))
    assert name(replace(DEMO, present=frozenset({second})), status) == second


@pytest.mark.parametrize("kind", NAMES)
def test_an_object_of_ours_under_a_name_without_uid_goes_on_as_it_is(kind):
    """As releases before names ended in a UID made them."""
    name, status = NAMES[kind], status_at()
    former = name(replace(DEMO, uid=""), status)

    assert name(replace(DEMO, present=frozenset({former})), status) == former
    assert name(replace(DEMO, taken=frozenset({former})), status) == name(DEMO, status)


@pytest.mark.parametrize("rollout", ["a" * 20, "a" * 31, "a.b-c." * 40])
def test_job_names_fit_into_a_label(rollout):
    owner = replace(DEMO, name=rollout)
    name = job_name(owner, status_at(999_999), 31)

    assert len(name) <= 63
    assert is_of_attempt(name, owner, status_at(999_999))


def test_the_attempt_of_an_object_is_told_by_the_whole_number():
    names = [NAMES[kind](DEMO, status_at(10)) for kind in NAMES]

    assert all(is_of_attempt(name, DEMO, status_at(10)) for name in names)
    assert not any(is_of_attempt(name, DEMO, status_at(1)) for name in names)


def test_background_runs_of_the_attempt():
    status = status_at()

    assert is_background(background_run(DEMO, status), DEMO, status)
    assert is_background(renewed_background(DEMO, status, 3), DEMO, status)
    assert not is_background(step_run(DEMO, status, 0), DEMO, status)
    assert not is_background(background_run(DEMO, status_at(8)), DEMO, status)


# --- upgrades in the middle of an attempt ---


def after_upgrade(world: World) -> Observation:
    """The same world, seen by a release whose names end in the UID."""
    return replace(world.observe(), uid=UID)


def test_runs_that_an_older_release_made_are_neither_doubled_nor_ended():
    world = World(spec=spec(weight(10), analysis(), weight(50), analysis=background()))
    world.settle()
    assert len(world.gates) == 2

    decided = plan(after_upgrade(world), world.now)

    assert not [action for action in decided.actions if isinstance(action, CreateRun | TerminateRun)]


def test_the_verdict_of_a_run_that_an_older_release_made_counts():
    world = World(spec=spec(weight(10), analysis(), weight(50)))
    world.settle()
    (name,) = world.gates
    world.gates[name] = replace(world.gates[name], outcome=GateOutcome.PASSED)

    assert plan(after_upgrade(world), world.now).status.current_step == 2


def test_a_job_that_an_older_release_made_is_not_made_again():
    world = World(spec=spec(weight(10), job(), weight(50)))
    world.settle()
    assert world.jobs

    decided = plan(after_upgrade(world), world.now)

    assert not [action for action in decided.actions if isinstance(action, CreateJob)]


def test_the_gate_that_is_opened_after_the_upgrade_has_the_new_name():
    world = World(spec=spec(weight(10), analysis()))
    world.settle()
    world.gates.clear()

    (made,) = [a for a in plan(after_upgrade(world), world.now).actions if isinstance(a, CreateRun)]

    assert made.name.endswith("-5f3a9")
    view = GateView(name=made.name, outcome=GateOutcome.PASSED)
    seen = replace(after_upgrade(world), gates={made.name: view})
    assert plan(seen, world.now).status.current_step == 2
