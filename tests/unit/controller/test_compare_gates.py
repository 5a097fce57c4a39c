"""Compare gates at the assembled controller, in virtual time: one evidence process for the whole attempt."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from rollouts.analysis.conditions import condition_problem
from rollouts.api.parsing import parse_rollout
from rollouts.api.scalars import parse_time
from rollouts.cli.offline import gates_to_plan
from rollouts.objects import kinds
from tests.kit.attempts import STEPS, WithCounters, compare, evidence_run, gate, harm, healthy, run
from tests.kit.faults.moves import at_step, begun, command, edit_steps, phase, reason
from tests.kit.faults.objects import CANARY, rollout_object
from tests.kit.faults.simulation import FaultPlan, Move, Simulation
from tests.kit.faults.transport import WriteFault

Object = dict[str, Any]


def planned(rollout: Object) -> set[tuple[str, int | None, str]]:
    """Comparisons as `plan` has them: name, step, what is required."""
    gates, silent = gates_to_plan(parse_rollout(rollout), {}, condition_problem)
    assert silent == []
    return {(gate.metric.name, gate.step, gate.metric.require.value) for gate in gates}


def compared(spec: Object) -> set[tuple[str, int | None, str]]:
    """As the run has them, but for end-to-end latency, which only informs."""
    return {
        (item["name"], step, item["compare"]["require"])
        for item in spec["comparisons"]
        for step in item.get("steps", [None])
        if item["name"] != "e2e"
    }


def test_a_healthy_canary_is_promoted_by_one_run_that_every_gate_reads():
    simulation = run(rollout_object(STEPS), healthy)

    spec = evidence_run(simulation)["spec"]
    assert planned(rollout_object(STEPS)) == compared(spec)
    forms = [(item["name"], item["steps"], item["compare"]["require"]) for item in spec["comparisons"]]
    assert forms == [
        ("error-rate", [1], "NoHarm"),
        ("ttft", [1], "NoHarm"),
        ("error-rate-step-4", [3], "WithinTolerance"),
        ("ttft-step-4", [3], "WithinTolerance"),
    ]
    marks = [(mark["step"], mark["weight"]) for mark in spec["marks"]]
    assert marks == [(0, 10), (1, 10), (2, 50), (3, 50), (4, 100)]
    gates = {item["step"]: item["verdict"] for item in evidence_run(simulation)["status"]["gates"]}
    assert gates == {1: "Pass", 3: "Pass"}


def test_a_slower_canary_is_aborted_with_the_figures_in_words():
    assembler = WithCounters()
    simulation = run(
        rollout_object(STEPS),
        phase("Aborted"),
        Move(when=at_step(0), act=harm(assembler, slower=0.5)),
        assembler=assembler,
    )
    message = simulation.status["message"]
    assert "ttft: the canary is shown to be worse than stable" in message
    assert "abort at 20" in message
    found = evidence_run(simulation)["status"]
    assert (found["phase"], found["decision"]) == ("Failed", "Abort")
    blamed = [item["name"] for item in found["comparisons"] if item["verdict"] == "Fail"]
    assert "ttft" in blamed
    assert all(name.startswith("ttft") for name in blamed)
    assert found["comparisons"][1]["figures"]["effect"] == pytest.approx(0.5, abs=0.3)


def test_harm_aborts_in_a_pause_too_since_the_process_runs_through_all_steps():
    assembler = WithCounters()
    steps = [{"setWeight": 10}, {"pause": {}}, gate(compare("error-rate"))]
    run(
        rollout_object(steps),
        phase("Aborted"),
        Move(when=at_step(1), act=harm(assembler, errors=0.2), after=400),
        assembler=assembler,
    )


def test_on_fail_pause_holds_and_promote_goes_on():
    assembler = WithCounters()
    bad = {**compare("error-rate"), "onFail": "Pause"}
    simulation = run(
        rollout_object([{"setWeight": 10}, gate(bad)]),
        healthy,
        Move(when=at_step(1), act=harm(assembler, errors=0.2)),
        Move(when=reason("GateFailed"), act=command("promote"), after=20),
        assembler=assembler,
    )
    assert simulation.status["history"][-1]["outcome"] == "Promoted"


@pytest.mark.parametrize("change", [{"down": True}, {"silent": {f"{CANARY}-{i}" for i in range(4)}}])
def test_silence_never_passes_and_never_aborts(change):
    assembler = WithCounters()
    simulation = run(
        rollout_object([{"setWeight": 10}, gate(compare("error-rate", maxDuration="10m"))]),
        reason("GateInconclusive"),
        Move(when=at_step(0), act=harm(assembler, **change)),
        assembler=assembler,
    )
    assert simulation.status["phase"] == "Paused"
    (compared,) = evidence_run(simulation)["status"]["comparisons"]
    assert compared["verdict"] == "Inconclusive"
    assert "undecided at the end of its time" in compared["message"]
    assert "effect" not in compared
    assert compared["figures"]["canaryRequests"] == 0


def test_many_missing_scrapes_hold_the_gate_and_say_so():
    assembler = WithCounters()
    away = {f"{CANARY}-{i}" for i in range(2)}
    seen: list[str] = []

    def held(simulation: Simulation) -> bool:
        said = str(evidence_run(simulation)["status"].get("comparisons"))
        if "ScrapesMissing" in said and simulation.status["currentStep"] == 1:
            seen.append(said)
        return bool(seen)

    run(
        rollout_object([{"setWeight": 10}, gate(compare("error-rate", require="NoHarm", minDwell="15m"))]),
        healthy,
        Move(when=at_step(1), act=harm(assembler, flickering=away), after=60),
        Move(when=held, act=harm(assembler, flickering=set())),
        assembler=assembler,
    )
    assert "held: too many scrapes are missing" in seen[0]


def test_a_gate_of_one_pod_says_at_once_what_it_cannot_prove():
    assembler = WithCounters(pods=(4, 1))
    simulation = run(
        rollout_object([{"setWeight": 10}, gate(compare("ttft", tolerance="3%"))]),
        reason("GateInconclusive"),
        assembler=assembler,
    )
    message = simulation.status["message"]
    assert "can never be proven" in message
    assert "set tolerance to at least" in message


def test_the_preset_default_alone_is_a_background_that_has_to_be_earned_by_what_the_pods_expose():
    background = rollout_object(
        [{"setWeight": 10}, {"pause": {"duration": "30s"}}, {"setWeight": 50}],
        canary={"analysis": {"preset": "default"}},
    )
    waited: list[float] = []

    def note(simulation: Simulation) -> None:
        waited.append(simulation.clock.monotonic())

    simulation = run(background, healthy, Move(when=reason("AwaitingAnalysis"), act=note))
    found = evidence_run(simulation)
    assert planned(background) == compared(found["spec"])
    names = [item["name"] for item in found["spec"]["comparisons"]]
    assert names == ["error-rate", "lost-rate", "ttft", "time-per-output-token", "e2e"]
    assert all("steps" not in item for item in found["spec"]["comparisons"])
    assert [gate["verdict"] for gate in found["status"]["gates"]] == ["Pass"]
    assert waited  # 100 % was in force long before the proof was there
    verdicts = {item["name"]: item["reason"] for item in found["status"]["comparisons"]}
    assert verdicts["time-per-output-token"] == "NoData"  # not exposed, so nobody waits for it


def test_a_gate_may_measure_and_compare():
    threshold = {"name": "errors", "measure": {"preset": "error-rate"}, "successCondition": "result < 0.05"}
    simulation = run(
        rollout_object([{"setWeight": 10}, gate(threshold, compare("error-rate"))]),
        healthy,
    )
    names = sorted(item["metadata"]["name"] for item in simulation.cluster.all(kinds.ANALYSIS_RUN))
    assert len(names) == 2


def test_edited_steps_tell_the_run_its_new_gates():
    edited = [{"setWeight": 10}, gate(compare("error-rate", minDwell="1m")), {"setWeight": 60}]
    simulation = run(
        rollout_object(STEPS),
        healthy,
        Move(when=at_step(1), act=edit_steps(edited), after=60),
    )
    spec = evidence_run(simulation)["spec"]
    assert [(item["name"], item["steps"]) for item in spec["comparisons"]] == [("error-rate", [1])]


def test_a_restart_goes_on_from_the_checkpoint():
    assembler = WithCounters()
    plan = FaultPlan(name="crash", writes={14: WriteFault.CRASH_AFTER}, exact=False)
    simulation = run(rollout_object(STEPS), healthy, plan=plan, assembler=assembler)
    assert simulation.epoch == 2
    assert evidence_run(simulation)["status"]["gates"][-1]["verdict"] == "Pass"


def test_a_source_that_knows_the_past_is_asked_about_the_stable_pods_once():
    assembler = WithCounters()
    simulation = run(
        rollout_object(STEPS),
        healthy,
        Move(when=begun, act=harm(assembler, remembers=True)),
        assembler=assembler,
    )
    assert assembler.counters is not None
    asked = assembler.counters.asked_about
    assert len(asked) == 120
    assert (max(asked) - min(asked)).total_seconds() == 119 * 30
    words = str(evidence_run(simulation)["status"]["comparisons"])
    assert "no history of the stable pods" not in words


LOSSES: dict[str, dict[str, Any]] = {
    "hangs, clients leave after 8 s": {"hanging": True, "give_up": 8.0},
    "hangs, nobody leaves": {"hanging": True},
    "refuses half of its streams under 200": {"refused": 0.5},
}
JUDGED: dict[str, Object] = {
    "a step": rollout_object([{"setWeight": 10}, {"analysis": {"preset": "default"}}, {"setWeight": 50}]),
    "the background": rollout_object(
        [
            {"setWeight": 10},
            {"pause": {"duration": "15m"}},
            {"setWeight": 50},
            {"pause": {"duration": "15m"}},
        ],
        canary={"analysis": {"preset": "default"}},
    ),
}


@pytest.mark.parametrize("judged", JUDGED)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("after", [0, 240], ids=["from the start", "after four minutes"])
def test_a_canary_that_loses_requests_is_aborted_and_never_promoted(loss, judged, after):
    assembler = WithCounters()
    simulation = run(
        JUDGED[judged],
        phase("Aborted"),
        Move(when=begun, act=harm(assembler, **LOSSES[loss]), after=after),
        assembler=assembler,
    )
    assert "lost-rate" in simulation.status["message"]
    assert simulation.status["weight"]["applied"] == 0


@pytest.mark.parametrize("judged", JUDGED)
def test_clients_that_cancel_by_design_do_so_in_both_arms(judged):
    assembler = WithCounters()

    simulation = run(
        JUDGED[judged],
        healthy,
        Move(when=begun, act=harm(assembler, cancelled=0.3)),
        assembler=assembler,
    )

    found = {item["name"]: item for item in evidence_run(simulation)["status"]["comparisons"]}
    assert found["lost-rate"]["figures"]["canaryRequests"] > 0


def test_a_gate_waits_until_its_window_holds_nothing_but_its_own_weight():
    measured = {
        "name": "ttft",
        "measure": {"preset": "ttft", "window": "1m"},
        "successCondition": "result < 2.0",
    }
    steps = [{"setWeight": 30}, gate(measured), {"setWeight": 60}, gate(measured)]

    simulation = run(rollout_object(steps), healthy)

    runs = [item for item in simulation.cluster.all(kinds.ANALYSIS_RUN) if "step" in item["spec"]]
    waited = [parse_time(item["status"]["completedAt"]) - parse_time(item["spec"]["since"]) for item in runs]
    assert len(waited) == 2
    assert all(timedelta(minutes=1) <= one <= timedelta(minutes=1, seconds=15) for one in waited)
