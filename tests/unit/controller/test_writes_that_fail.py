"""Writes that an API server refuses for good, never answers, or stores otherwise, of every kind that a plan makes.

Stable gets its traffic within seconds whatever becomes of all other writes, nothing is told as done that is not stored,
and what is waited for is in the status in the server's words.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from rollouts.controller.refusals import UnansweredWrites
from rollouts.engine.reasons import Reason
from rollouts.kube.client import Resource
from rollouts.kube.errors import (
    ApiTimeout,
    ApiUnavailable,
    Conflict,
    Forbidden,
    Invalid,
    KubeError,
    TooManyRequests,
)
from rollouts.objects import kinds
from tests.kit.clock import virtual_time
from tests.kit.faults.capacity_scenarios import CAPACITY_SCENARIOS
from tests.kit.faults.cluster import Cluster
from tests.kit.faults.deployments import DEPLOYMENT
from tests.kit.faults.endstate import weights_of
from tests.kit.faults.hostile import open_schema
from tests.kit.faults.moves import (
    answer,
    at_step,
    begun,
    command,
    delete,
    gone,
    healthy_on,
    overwrite_route,
    phase,
    reason,
    retarget,
)
from tests.kit.faults.objects import (
    CANARY,
    GATE,
    GUARD,
    ROUTE,
    STABLE,
    TEMPLATE,
    base_objects,
    rollout_object,
)
from tests.kit.faults.process import Assembler
from tests.kit.faults.simulation import Condition, FaultPlan, Move, Scenario, Simulation
from tests.kit.faults.source import Answer

Object = dict[str, Any]
Answers = Callable[[Simulation, str, Resource, str], KubeError | float | Object | None]
"""Verb, resource and subresource of a request: how it fails, for how many seconds it hangs, or what is answered in
place of storing it."""

HANGS = 10.0
WAITING: list[Object] = [{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}]
GATELESS: list[Object] = [{"setWeight": 10}, {"setWeight": 50}]
GATED: list[Object] = [{"setWeight": 10}, {"analysis": GATE}, {"setWeight": 50}]
JOB: Object = {"job": {"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": []}}}}}
DENIED = "denied by ValidatingAdmissionPolicy 'git-only'"
QUOTA = 'jobs.batch "x" is forbidden: exceeded quota: gpus, requested: count/jobs.batch=1'
REFUSALS = [Forbidden(DENIED, status=403), Invalid(DENIED, status=422)]
SILENCES = [
    HANGS,
    ApiUnavailable("the server is currently unable to handle the request", status=503),
    ApiTimeout("request did not complete within 34s", status=504),
    TooManyRequests("slow down"),
]


def play(scenario: Scenario, answers: Answers) -> Simulation:
    """The scenario with a client whose requests end as ``answers`` says."""
    with virtual_time() as loop:

        async def whole() -> Simulation:
            simulation = Simulation(scenario, FaultPlan(name="writes that fail", exact=False), Assembler())
            client = simulation.client

            def disturbed(verb: str, real: Any) -> Any:
                async def request(resource: Resource, *place: Any, **how: Any) -> Any:
                    said = answers(simulation, verb, resource, how.get("subresource", ""))
                    if isinstance(said, KubeError):
                        raise said
                    if isinstance(said, float):
                        await simulation.clock.sleep(said)
                        raise ApiTimeout(f"no answer within {said:g} s")
                    return await real(resource, *place, **how) if said is None else said

                return request

            for verb in ("create", "patch", "delete"):
                setattr(client, verb, disturbed(verb, getattr(client, verb)))
            assert (await simulation.run()).converged
            return simulation

        return loop.run_until_complete(whole())


def scenario(steps: list[Object], goal: Condition, *moves: Move, **canary: Any) -> Scenario:
    rollout = rollout_object(steps, canary=canary)
    return Scenario(
        name="writes that fail",
        setup=lambda cluster: base_objects(cluster, copy.deepcopy(rollout)),
        moves=moves,
        goal=goal,
        measured=bool(canary) or "analysis" in repr(steps),
    )


def bugs(simulation: Simulation) -> list[str]:
    return [text for text in simulation.history.problems if text.startswith("bug")]


def told(simulation: Simulation, what: Reason) -> list[str]:
    events = (record.after for record in simulation.history.of(kinds.EVENT))
    return [event["message"] for event in events if event.get("reason") == what]


def told_at(simulation: Simulation, what: Reason) -> list[float]:
    return [one.seconds for one in simulation.history.of(kinds.EVENT) if one.after.get("reason") == what]


def back_at(simulation: Simulation) -> float | None:
    """When the canary lost its weight."""
    carried = False
    for record in simulation.history.of(kinds.HTTP_ROUTE):
        share = dict(weights_of(record.after)[0]).get(CANARY, 0)
        if carried and not share:
            return record.seconds
        carried |= bool(share)
    return None


def since(simulation: Simulation, what: str) -> float:
    """When the status said so first, as its phase or reason."""
    for record in simulation.history.of(kinds.ROLLOUT):
        status = record.after.get("status") or {}
        if what in (status.get("phase"), status.get("reason")):
            return record.seconds
    raise AssertionError(f"never {what}")


# --- the finalizer ---


@pytest.mark.parametrize("error", REFUSALS, ids=["403", "422"])
def test_an_abort_does_not_wait_for_a_finalizer_that_is_refused(error: KubeError) -> None:
    def replace_and_abort(simulation: Simulation) -> None:
        simulation.cluster.merge(kinds.ROLLOUT, "mymodel", {"metadata": {"finalizers": None}})
        command("abort")(simulation)

    def answers(sim: Simulation, verb: str, resource: Resource, sub: str) -> KubeError | None:
        later = sim.clock.monotonic() > 6 and resource == kinds.ROLLOUT
        return error if later and not sub else None

    move = Move(when=at_step(1), act=replace_and_abort, after=5)
    done = play(scenario(WAITING, phase("Aborted"), move), answers)

    assert back_at(done) == since(done, "Aborted") == 10.0
    assert bugs(done) == []


@pytest.mark.parametrize("error", REFUSALS, ids=["403", "422"])
def test_no_weight_rises_without_the_finalizer_and_the_status_says_why(error: KubeError) -> None:
    def answers(sim: Simulation, verb: str, resource: Resource, sub: str) -> KubeError | None:
        return error if resource == kinds.ROLLOUT and not sub else None

    done = play(scenario(WAITING, reason(Reason.TRAFFIC_REFUSED)), answers)

    assert "finalizer" in done.status["message"]
    assert DENIED in done.status["message"]
    assert done.history.ours(kinds.HTTP_ROUTE) == []
    assert bugs(done) == []


@pytest.mark.parametrize("error", [*REFUSALS, *SILENCES], ids=str)
def test_a_finalizer_that_nothing_needs_and_that_stays_is_told_and_keeps_nothing(
    error: KubeError | float,
) -> None:
    """An alert says of a refusal that an abort may wait, which none does for this."""

    def answers(sim: Simulation, verb: str, resource: Resource, sub: str) -> KubeError | float | None:
        later = sim.clock.monotonic() > 12 and resource == kinds.ROLLOUT
        return error if later and not sub else None

    move = Move(when=at_step(1), act=command("promote"), after=5)
    goal = lambda sim: sim.clock.monotonic() > 200 and healthy_on(CANARY)(sim)  # noqa: E731
    done = play(scenario(WAITING, goal, move), answers)
    shown = [(record.after.get("status") or {}).get("reason") for record in done.history.of(kinds.ROLLOUT)]
    words = str(error) if isinstance(error, KubeError) else f"no answer within {error:g} s"
    messages, at = told(done, Reason.TRAFFIC_REFUSED), told_at(done, Reason.TRAFFIC_REFUSED)

    assert "finalizer" in messages[0]
    assert words in messages[0]
    assert at[0] < 60
    assert all(later - earlier >= 300 for earlier, later in pairwise(at))
    assert since(done, Reason.PROMOTED) < 60
    assert Reason.TRAFFIC_REFUSED not in shown
    assert bugs(done) == []


def test_what_ends_while_a_finalizer_that_nothing_needs_meets_a_conflict_is_counted_once() -> None:
    conflicts = list[float]()

    def answers(sim: Simulation, verb: str, resource: Resource, sub: str) -> KubeError | None:
        now = sim.clock.monotonic()
        if resource != kinds.ROLLOUT or sub or now < 12 or len(conflicts) == 2:
            return None
        conflicts.append(now)
        return Conflict("the object has been modified", status=409)

    move = Move(when=at_step(1), act=command("promote"), after=5)
    goal = lambda sim: sim.clock.monotonic() > 100 and healthy_on(CANARY)(sim)  # noqa: E731
    done = play(scenario(WAITING, goal, move), answers)
    series = {"namespace": "default", "rollout": "mymodel", "outcome": "Promoted"}

    assert len(conflicts) == 2
    registry = done.process.parts.metrics.registry
    assert registry.get_sample_value("rollouts_attempts_total", series) == 1
    assert len(told(done, Reason.PROMOTED)) == 1


@pytest.mark.parametrize("silence", SILENCES, ids=str)
def test_no_weight_rises_while_the_finalizer_has_no_answer_and_the_status_says_why(
    silence: KubeError | float,
) -> None:
    def answers(sim: Simulation, verb: str, resource: Resource, sub: str) -> KubeError | float | None:
        return silence if resource == kinds.ROLLOUT and not sub and sim.clock.monotonic() < 90 else None

    done = play(scenario(WAITING, at_step(1)), answers)
    (message,) = told(done, Reason.TRAFFIC_REFUSED)

    assert since(done, Reason.TRAFFIC_REFUSED) < 30
    assert "finalizer" in message
    assert done.history.ours(kinds.HTTP_ROUTE)[0].seconds >= 90
    assert bugs(done) == []


# --- the status ---


@pytest.mark.parametrize("error", [*REFUSALS, *SILENCES], ids=str)
def test_a_status_that_is_not_stored_is_told_and_an_abort_waits_for_none(error: KubeError | float) -> None:
    def answers(sim: Simulation, verb: str, resource: Resource, sub: str) -> KubeError | float | None:
        refuses = resource == kinds.ROLLOUT and sub == "status" and 6 < sim.clock.monotonic() < 200
        return error if refuses else None

    move = Move(when=at_step(1), act=command("abort"), after=5)
    done = play(scenario(WAITING, phase("Aborted"), move), answers)
    words = str(error) if isinstance(error, KubeError) else f"no answer within {error:g} s"
    (message,), (when,) = told(done, Reason.STATUS_REFUSED), told_at(done, Reason.STATUS_REFUSED)

    assert words in message
    assert 10 <= when < 35
    assert back_at(done) == 10.0
    assert since(done, "Aborted") >= 200


def test_a_status_that_is_never_stored_is_told_again_after_minutes() -> None:
    def answers(sim: Simulation, verb: str, resource: Resource, sub: str) -> KubeError | None:
        refuses = resource == kinds.ROLLOUT and sub == "status" and 6 < sim.clock.monotonic() < 1000
        return Forbidden(DENIED, status=403) if refuses else None

    move = Move(when=at_step(1), act=command("promote"), after=5)
    done = play(scenario(WAITING, healthy_on(CANARY), move), answers)

    first, *later = told_at(done, Reason.STATUS_REFUSED)
    assert (first, len(later)) == (10, 3)
    assert all(after - before >= 300 for before, after in pairwise((first, *later)))
    assert [one.seconds for one in done.history.ours(kinds.HTTP_ROUTE)][1] >= 1000


# --- runs and Jobs ---


@pytest.mark.parametrize(
    "error", [*REFUSALS, *SILENCES, ApiUnavailable("failed calling webhook", status=500)]
)
def test_an_abort_is_told_although_its_run_cannot_be_ended(error: KubeError | float) -> None:
    def answers(sim: Simulation, verb: str, resource: Resource, sub: str) -> KubeError | float | None:
        return error if verb == "patch" and resource == kinds.ANALYSIS_RUN and not sub else None

    move = Move(when=at_step(1), act=command("abort"), after=30)
    done = play(scenario(WAITING, phase("Aborted"), move, analysis=GUARD), answers)

    assert back_at(done) == 35.0
    assert since(done, "Aborted") <= 38.0
    assert bugs(done) == []
    assert len(told(done, Reason.RUN_REFUSED)) <= 1


def refuses_run_specs(sim: Simulation, verb: str, resource: Resource, sub: str) -> KubeError | None:
    return REFUSALS[0] if verb == "patch" and resource == kinds.ANALYSIS_RUN and not sub else None


def test_each_run_that_cannot_be_ended_is_told_once() -> None:
    """Both the step's and the background's are tried at each look."""
    later = lambda sim: sim.clock.monotonic() > 60  # noqa: E731
    move = Move(when=at_step(1), act=command("abort"), after=8)
    done = play(scenario(GATED, later, move, analysis=GUARD), refuses_run_specs)
    refused = told(done, Reason.RUN_REFUSED)

    assert len(refused) == len(set(refused)) == 2


def test_what_was_told_of_the_runs_of_a_rollout_is_forgotten_with_it() -> None:
    moves = (
        Move(when=at_step(1), act=command("abort"), after=8),
        Move(when=phase("Aborted"), act=delete(kinds.ROLLOUT, "mymodel"), after=5),
    )
    kept: list[bool] = []

    def answers(sim: Simulation, *request: Any) -> KubeError | None:
        kept.append(bool(told_of_runs(sim)))
        return refuses_run_specs(sim, *request)

    done = play(scenario(GATED, gone, *moves, analysis=GUARD), answers)

    assert any(kept)
    assert told_of_runs(done) == {}


def test_what_was_told_of_runs_that_are_gone_is_forgotten_at_the_next_refusal() -> None:
    def lose_runs_and_retarget(simulation: Simulation) -> None:
        for run in list(simulation.cluster.all(kinds.ANALYSIS_RUN)):
            simulation.cluster.delete(kinds.ANALYSIS_RUN, run["metadata"]["name"])
        retarget(STABLE)(simulation)

    moves = (
        Move(when=at_step(1), act=command("abort"), after=8),
        Move(when=phase("Aborted"), act=lose_runs_and_retarget, after=5),
        Move(when=healthy_on(STABLE), act=retarget(CANARY), after=5),
        Move(when=at_step(1), act=command("abort", tag="t2"), after=8),
    )
    done = play(scenario(GATED, phase("Aborted"), *moves, analysis=GUARD), refuses_run_specs)
    (names,) = told_of_runs(done).values()

    assert set(names) == {run["metadata"]["name"] for run in done.cluster.all(kinds.ANALYSIS_RUN)}
    assert len(told(done, Reason.RUN_REFUSED)) == 4


def told_of_runs(sim: Simulation) -> dict[Any, Any]:
    assert sim.process is not None
    return sim.process.parts.rollouts._performer._gates._told


@pytest.mark.parametrize(
    ("steps", "kind"),
    [([{"setWeight": 10}, JOB], kinds.JOB), (GATED, kinds.ANALYSIS_RUN)],
    ids=["Job", "run"],
)
@pytest.mark.parametrize(
    "error", [Forbidden(QUOTA, status=403), Invalid(DENIED, status=422), *SILENCES], ids=str
)
def test_what_keeps_a_gate_from_being_made_is_told_until_it_is_over(
    steps: list[Object], kind: Resource, error: KubeError | float
) -> None:
    def answers(sim: Simulation, verb: str, resource: Resource, sub: str) -> KubeError | float | None:
        return error if verb == "create" and resource == kind and sim.clock.monotonic() < 120 else None

    made = lambda sim: bool(sim.cluster.all(kind))  # noqa: E731
    done = play(scenario(steps, made), answers)
    words = str(error) if isinstance(error, KubeError) else f"no answer within {error:g} s"
    (message,) = told(done, Reason.GATE_INVALID)

    assert since(done, Reason.GATE_INVALID) < 30
    assert words in message
    assert message.startswith("step 2/")
    phases = {(one.after.get("status") or {}).get("phase") for one in done.history.of(kinds.ROLLOUT)}
    assert "Invalid" not in phases
    assert bugs(done) == []


@pytest.mark.parametrize(
    "error", [*REFUSALS[:1], *SILENCES, ApiUnavailable("failed calling webhook", status=500)]
)
def test_no_weight_rises_while_the_run_that_watches_it_cannot_be_made(error: KubeError | float) -> None:
    def answers(sim: Simulation, verb: str, resource: Resource, sub: str) -> KubeError | float | None:
        refuses = verb == "create" and resource == kinds.ANALYSIS_RUN and sim.clock.monotonic() < 120
        return error if refuses else None

    steps: list[Object] = [
        {"setWeight": 10},
        {"pause": {"duration": "10s"}},
        {"setWeight": 50},
        {"pause": {}},
    ]
    done = play(scenario(steps, at_step(3), analysis=GUARD), answers)
    (message,) = told(done, Reason.GATE_INVALID)
    raised = [
        one.seconds
        for one in done.history.ours(kinds.HTTP_ROUTE)
        if 50 in dict(weights_of(one.after)[0]).values()
    ]

    assert "step 2/4" in message
    assert raised
    assert raised[0] >= 120
    assert bugs(done) == []


@pytest.mark.parametrize("by", ["promote", "startingStep"])
def test_a_weight_that_waits_for_what_watches_it_has_no_deadline(by: str) -> None:
    """As where that is refused in a step whose weight is in force."""

    def answers(sim: Simulation, verb: str, resource: Resource, sub: str) -> KubeError | None:
        refuses = verb == "create" and resource == kinds.ANALYSIS_RUN and sim.clock.monotonic() < 400
        return Forbidden(QUOTA, status=403) if refuses else None

    moves = [Move(when=at_step(1), act=command("promote"), after=5)] if by == "promote" else []
    steps = [*WAITING, {"pause": {}}] if by == "promote" else [*GATELESS, {"pause": {}}]
    guard = GUARD if by == "promote" else {**GUARD, "startingStep": 1}
    end = at_step(len(steps) - 1)
    done = play(scenario(steps, end, *moves, analysis=guard, progressDeadline="60s"), answers)
    (_, raised) = (one.seconds for one in done.history.ours(kinds.HTTP_ROUTE))

    assert raised >= 400
    assert bugs(done) == []


def test_a_person_may_pass_a_pause_while_nothing_watches_but_no_weight_rises() -> None:
    """Only ``promote --full`` goes on without gates."""

    def answers(sim: Simulation, verb: str, resource: Resource, sub: str) -> KubeError | None:
        refuses = verb == "create" and resource == kinds.ANALYSIS_RUN and sim.clock.monotonic() < 120
        return Forbidden(QUOTA, status=403) if refuses else None

    move = Move(when=at_step(1), act=command("promote"), after=5)
    done = play(scenario([*WAITING, {"pause": {}}], at_step(3), move, analysis=GUARD), answers)
    (_, raised) = (one.seconds for one in done.history.ours(kinds.HTTP_ROUTE))

    assert told_at(done, Reason.RESUMED) == [10.0]
    assert raised >= 120
    assert bugs(done) == []


@pytest.mark.parametrize(("refused", "shown"), [(kinds.ANALYSIS_RUN, None), (kinds.HTTP_ROUTE, 1.0)], ids=str)
def test_only_refused_traffic_raises_the_alert_about_traffic(refused: Resource, shown: float | None) -> None:
    series = {"namespace": "default", "rollout": "mymodel"}
    seen = list[float | None]()

    def answers(sim: Simulation, verb: str, resource: Resource, sub: str) -> KubeError | None:
        if resource != refused or verb not in ("create", "patch") or not 6 < sim.clock.monotonic() < 120:
            return None
        registry = sim.process.parts.metrics.registry
        seen.append(registry.get_sample_value("rollouts_traffic_refused", series))
        return Forbidden(DENIED, status=403)

    def disturb(simulation: Simulation) -> None:
        for run in list(simulation.cluster.all(kinds.ANALYSIS_RUN)):
            simulation.cluster.delete(kinds.ANALYSIS_RUN, run["metadata"]["name"])
        command("promote")(simulation)

    move = Move(when=at_step(1), act=disturb, after=5)
    play(scenario(WAITING, at_step(3), move, analysis=GUARD), answers)

    assert len(seen) > 2
    assert set(seen[1:]) == {shown}


def test_a_run_that_is_refused_beside_the_route_hides_no_refusal() -> None:
    def answers(sim: Simulation, verb: str, resource: Resource, sub: str) -> KubeError | None:
        now = sim.clock.monotonic()
        if resource == kinds.HTTP_ROUTE and verb == "patch" and 6 < now < 120:
            return Forbidden(DENIED, status=403)
        refuses = verb == "create" and resource == kinds.ANALYSIS_RUN and 6 < now < 120
        return Forbidden(QUOTA, status=403) if refuses else None

    def disturb(simulation: Simulation) -> None:
        for run in list(simulation.cluster.all(kinds.ANALYSIS_RUN)):
            simulation.cluster.delete(kinds.ANALYSIS_RUN, run["metadata"]["name"])
        overwrite_route({STABLE: 60, CANARY: 40}, "argocd-controller")(simulation)

    move = Move(when=at_step(1), act=disturb, after=5)
    go_on = Move(when=begun, act=command("promote", tag="t2"), after=150)
    done = play(scenario(WAITING, at_step(3), move, go_on, analysis=GUARD), answers)

    assert since(done, Reason.TRAFFIC_REFUSED) < 30
    assert bugs(done) == []


def test_an_abort_by_command_is_not_kept_by_a_gate_that_cannot_be_made() -> None:
    def answers(sim: Simulation, verb: str, resource: Resource, sub: str) -> KubeError | None:
        return Forbidden(QUOTA, status=403) if verb == "create" and resource == kinds.JOB else None

    move = Move(when=reason(Reason.GATE_INVALID), act=command("abort"), after=20)
    done = play(scenario([{"setWeight": 10}, JOB], phase("Aborted"), move), answers)

    assert back_at(done) == since(done, "Aborted") == 25.0


def refuses_run_statuses(error: KubeError | float, until: float) -> Answers:
    def answers(sim: Simulation, verb: str, resource: Resource, sub: str) -> KubeError | float | None:
        verdict = resource == kinds.ANALYSIS_RUN and sub == "status"
        return error if verdict and sim.clock.monotonic() < until else None

    return answers


@pytest.mark.parametrize("error", [*REFUSALS, *SILENCES], ids=str)
def test_a_verdict_that_cannot_be_stored_aborts_all_the_same(error: KubeError | float) -> None:
    move = Move(when=at_step(1), act=answer(Answer.BAD), after=2)
    done = play(scenario(GATED, phase("Aborted"), move), refuses_run_statuses(error, float("inf")))

    assert since(done, "Aborted") == back_at(done)
    assert 35 <= since(done, "Aborted") < 50
    assert done.status["reason"] == Reason.GATE_FAILED
    assert bugs(done) == []


@pytest.mark.parametrize("error", [*REFUSALS, *SILENCES], ids=str)
def test_a_gate_does_not_pass_before_that_is_stored_and_says_what_it_waits_for(
    error: KubeError | float,
) -> None:
    done = play(scenario(GATED, healthy_on(CANARY)), refuses_run_statuses(error, 300.0))
    shown = {
        record.seconds: str((record.after.get("status") or {}).get("message"))
        for record in done.history.of(kinds.ROLLOUT)
    }
    weights = [record.seconds for record in done.history.ours(kinds.HTTP_ROUTE)]

    assert any("cannot pass, as its status is not stored" in text for text in shown.values())
    assert weights[1] >= 300
    assert bugs(done) == []


def break_run(simulation: Simulation) -> None:
    """As under an older CRD, which lets more in than this controller can read."""
    for run in list(simulation.cluster.all(kinds.ANALYSIS_RUN)):
        simulation.cluster.merge(kinds.ANALYSIS_RUN, run["metadata"]["name"], {"spec": {"metrics": 1}})


def with_a_broken_run(answers: Answers, goal: Condition, **canary: Any) -> Simulation:
    move = Move(when=at_step(1), act=break_run, after=5)
    return play(replace(scenario(GATED, goal, move, **canary), reshape=open_schema), answers)


@pytest.mark.parametrize("error", [*REFUSALS, *SILENCES], ids=str)
def test_a_run_that_cannot_be_read_is_an_error_although_that_cannot_be_stored(
    error: KubeError | float,
) -> None:
    stored = with_a_broken_run(lambda *_: None, phase("Paused"))
    done = with_a_broken_run(refuses_run_statuses(error, float("inf")), phase("Paused"))

    assert done.status["reason"] == stored.status["reason"] == Reason.GATE_INCONCLUSIVE
    assert "spec.metrics" in stored.status["message"]
    assert done.status["message"] == stored.status["message"]
    assert since(done, "Paused") - since(stored, "Paused") <= 20  # a measurement, too, waits for its answer
    assert bugs(done) == []


def test_the_error_of_a_run_that_cannot_be_read_is_stored_once_it_can_be() -> None:
    tried: list[float] = []

    def answers(sim: Simulation, verb: str, resource: Resource, sub: str) -> KubeError | float | None:
        refused = refuses_run_statuses(REFUSALS[0], 60.0)(sim, verb, resource, sub)
        tried.extend([sim.clock.monotonic()] if refused is not None else [])
        return refused

    ended = lambda sim: [phase_of(run) for run in sim.cluster.all(kinds.ANALYSIS_RUN)] == ["Error"]  # noqa: E731
    done = with_a_broken_run(answers, ended)
    (run,) = done.cluster.all(kinds.ANALYSIS_RUN)

    assert run["status"]["completedAt"] == "2030-01-01T00:00:10Z"
    assert len([at for at in tried if at >= 10]) <= 12
    assert bugs(done) == []


def phase_of(run: Object) -> str | None:
    return (run.get("status") or {}).get("phase")


# --- traffic ---


@pytest.mark.parametrize("silence", SILENCES, ids=str)
def test_a_traffic_write_without_an_answer_is_told_and_done_once_there_is_one(
    silence: KubeError | float,
) -> None:
    def answers(sim: Simulation, verb: str, resource: Resource, sub: str) -> KubeError | float | None:
        return silence if resource == kinds.HTTP_ROUTE and 6 < sim.clock.monotonic() < 60 else None

    move = Move(when=at_step(1), act=command("abort"), after=5)
    done = play(scenario(WAITING, reason(Reason.ABORTED_BY_COMMAND), move), answers)

    assert since(done, Reason.TRAFFIC_REFUSED) < 30
    assert "does not answer" in told(done, Reason.TRAFFIC_REFUSED)[0]
    assert 60 <= (back_at(done) or 0) < 75
    assert since(done, Reason.ABORTED_BY_COMMAND) >= 60


def test_a_single_answer_that_is_lost_is_not_told() -> None:
    lost = [ApiUnavailable("connection reset", status=503)]

    def answers(sim: Simulation, verb: str, resource: Resource, sub: str) -> KubeError | None:
        return lost.pop() if lost and resource == kinds.HTTP_ROUTE else None

    done = play(scenario(WAITING, at_step(1)), answers)

    assert told(done, Reason.TRAFFIC_REFUSED) == []


@pytest.mark.parametrize(("apart", "is_told"), [(9.0, False), (11.0, True), (3600.0, False)])
def test_answers_that_were_lost_far_apart_are_not_a_row(apart: float, is_told: bool) -> None:
    """The first of them was stored all the same, so that nothing was tried again."""
    lost, row = ApiTimeout("request did not complete within 34s", status=504), UnansweredWrites()

    async def tries() -> bool:
        row.begin("route")
        assert not row.worth_saying(lost, "route")
        await asyncio.sleep(apart)
        row.begin("route")
        return row.worth_saying(lost, "route")

    with virtual_time() as loop:
        assert loop.run_until_complete(tries()) is is_told


def unchanged(sim: Simulation, verb: str, resource: Resource, sub: str) -> Object | None:
    """A mutating webhook makes of each write of the route what was there before."""
    return sim.cluster.get(kinds.HTTP_ROUTE, ROUTE) if resource == kinds.HTTP_ROUTE else None


def test_an_abort_that_a_webhook_changed_is_not_told_as_done() -> None:
    move = Move(when=at_step(1), act=command("abort"), after=5)
    late = lambda sim, *request: unchanged(sim, *request) if sim.clock.monotonic() > 6 else None  # noqa: E731
    done = play(scenario(WAITING, phase("Aborted"), move), late)

    assert done.status["reason"] == Reason.TRAFFIC_REFUSED
    assert "stored something else than was written" in done.status["message"]
    assert done.status["weight"]["applied"] == 10
    assert done.status["lastCommand"]["result"] == "InProgress"
    assert told(done, Reason.ROLLED_BACK) == told(done, Reason.COMMAND_DONE) == []


def test_a_weight_that_a_webhook_took_back_is_not_told_as_set_nor_taken_for_a_persons() -> None:
    done = play(scenario(WAITING, reason(Reason.TRAFFIC_REFUSED)), unchanged)

    assert done.status["weight"]["applied"] == 0
    assert told(done, Reason.WEIGHT_SET) == told(done, Reason.MANUAL_OVERRIDE) == []


# --- deletion ---


def deleted(answers: Answers, **spec: Any) -> Simulation:
    """A Rollout with a Managed route that is deleted in the middle."""
    rollout = rollout_object(
        [{"setWeight": 20}, {"pause": {}}], target=STABLE, route={"template": TEMPLATE}, **spec
    )
    moves = (
        Move(when=healthy_on(STABLE), act=retarget(CANARY), after=5),
        Move(when=at_step(1), act=delete(kinds.ROLLOUT, "mymodel"), after=5),
    )

    def setup(cluster: Cluster) -> None:
        base_objects(cluster, copy.deepcopy(rollout), route=False)

    return play(Scenario(name="deleted", setup=setup, moves=moves, goal=gone), answers)


@pytest.mark.parametrize("error", [*REFUSALS, *SILENCES], ids=str)
def test_a_route_that_cannot_be_deleted_is_told(error: KubeError | float) -> None:
    def answers(sim: Simulation, verb: str, resource: Resource, sub: str) -> KubeError | float | None:
        return error if verb == "delete" and sim.clock.monotonic() < 90 else None

    done = deleted(answers, onDelete="DeleteTraffic")

    assert len(told(done, Reason.TRAFFIC_REFUSED)) == 1
    assert since(done, Reason.TRAFFIC_REFUSED) < 45
    assert bugs(done) == []


@pytest.mark.parametrize("error", [*REFUSALS, *SILENCES], ids=str)
def test_a_finalizer_that_cannot_be_taken_off_is_told_and_traffic_is_back(error: KubeError | float) -> None:
    def answers(sim: Simulation, verb: str, resource: Resource, sub: str) -> KubeError | float | None:
        return error if resource == kinds.ROLLOUT and not sub and 18 < sim.clock.monotonic() < 90 else None

    done = deleted(answers)
    (message,) = told(done, Reason.TRAFFIC_REFUSED)
    shown = [(record.after.get("status") or {}) for record in done.history.of(kinds.ROLLOUT)]
    kept = [status for status in shown if status.get("reason") == Reason.TRAFFIC_REFUSED]

    assert back_at(done) == 20.0
    assert "finalizer" in message
    assert kept
    assert {status["weight"]["applied"] for status in kept} == {0}
    assert bugs(done) == []


# --- replicas ---


def test_replicas_that_a_webhook_bounds_are_not_told_as_scaled() -> None:
    """What is cached is what was stored, so that the next look tries again, and says so."""

    def answers(sim: Simulation, verb: str, resource: Resource, sub: str) -> Object | None:
        rises = sub == "scale" and sim.clock.monotonic() < 30
        live = sim.cluster.get(DEPLOYMENT, "deepseek-r1") if rises else None
        meta = {} if live is None else {"resourceVersion": live["metadata"]["resourceVersion"]}
        return {"kind": "Scale", "metadata": meta, "spec": {}} if rises else None

    done = play(CAPACITY_SCENARIOS["capacity: reverted in the middle"], answers)
    refused = told(done, Reason.SCALE_REFUSED)

    assert len(refused) == 1
    assert "0 replicas were stored in place of 1" in refused[0]
    assert done.history.ours(DEPLOYMENT)[0].seconds >= 30


# --- conflicts ---


@pytest.mark.parametrize(
    ("resource", "in_spec"),
    [(kinds.ROLLOUT, False), (kinds.HTTP_ROUTE, False), (kinds.HTTP_ROUTE, True)],
    ids=["Rollout", "HTTPRoute", "spec of the HTTPRoute"],
)
def test_who_writes_again_and_again_under_each_plan_is_named(resource: Resource, *, in_spec: bool) -> None:
    """A policy engine that adds a stamp at each change, say."""
    name, stamps = "mymodel" if resource == kinds.ROLLOUT else ROUTE, list[int]()

    def answers(sim: Simulation, verb: str, what: Resource, sub: str) -> KubeError | None:
        now = sim.clock.monotonic()
        if verb != "patch" or what != resource or not 6 < now < 200:
            return None
        if int(now) not in stamps:
            stamps.append(int(now))
            stamp: Object = {"metadata": {"annotations": {"stamp": str(now)}}}
            if (
                in_spec and resource == kinds.HTTP_ROUTE
            ):  # the gateway then writes its status, later than that
                stamp = {"spec": {"hostnames": [f"h{int(now)}.example.com"]}}
            sim.cluster.merge(resource, name, stamp, manager="kyverno")
        return Conflict("the object has been modified", status=409)

    move = Move(when=at_step(1), act=command("promote"), after=5)
    done = play(scenario(WAITING, healthy_on(CANARY), move), answers)
    (message,), (at,) = told(done, Reason.WRITES_CONTENDED), told_at(done, Reason.WRITES_CONTENDED)

    assert f"kyverno wrote {resource.kind} {name}" in message
    assert "envoy-gateway wrote" not in message
    assert 35 <= at < 60
    assert since(done, Reason.PROMOTED) >= 200
    assert bugs(done) == []


@pytest.mark.parametrize("times", [[(6, 39)], [(6, 20), (60, 75)]], ids=["10 in 28 s", "6 and 6"])
def test_a_few_conflicts_are_not_told(times: list[tuple[float, float]]) -> None:
    def answers(sim: Simulation, verb: str, what: Resource, sub: str) -> KubeError | None:
        short = any(begin < sim.clock.monotonic() < end for begin, end in times)
        conflicts = what == kinds.ROLLOUT and sub == "status" and short
        return Conflict("the object has been modified", status=409) if conflicts else None

    moves = (
        Move(when=at_step(1), act=command("promote"), after=5),
        Move(when=at_step(3), act=command("promote", tag="t2"), after=40),
    )
    done = play(scenario([*WAITING, {"pause": {}}], healthy_on(CANARY), *moves), answers)

    assert told(done, Reason.WRITES_CONTENDED) == []


# --- Events ---


def test_events_that_hang_hold_up_no_abort() -> None:
    """Their etcd is often one of its own."""

    def answers(sim: Simulation, verb: str, resource: Resource, sub: str) -> float | None:
        return HANGS if resource == kinds.EVENT else None

    clean = play(
        scenario(GATED, phase("Aborted"), Move(when=at_step(1), act=answer(Answer.BAD), after=2)),
        lambda *_: None,
    )
    hung = play(
        scenario(GATED, phase("Aborted"), Move(when=at_step(1), act=answer(Answer.BAD), after=2)), answers
    )

    assert (back_at(hung) or 99) - (back_at(clean) or 0) <= 3.0


def test_a_rollout_ends_well_where_everything_is_slow_at_first() -> None:
    def answers(sim: Simulation, verb: str, resource: Resource, sub: str) -> KubeError | float | None:
        slow = sim.clock.monotonic() < 60 and resource in (kinds.ANALYSIS_RUN, kinds.HTTP_ROUTE, kinds.EVENT)
        return HANGS if slow else None

    done = play(scenario(GATED, healthy_on(CANARY)), answers)

    assert bugs(done) == []
