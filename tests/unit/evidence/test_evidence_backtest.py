"""Backtest and plan, through the library and through the commands."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from benchmarks.statistics.generate import Harm, Noise, Scenario, scrapes
from rollouts.analysis.backtest import backtest
from rollouts.analysis.conditions import condition_problem
from rollouts.analysis.evidence.gates import GateReason, Verdict
from rollouts.analysis.evidence.model import Exclusion
from rollouts.analysis.forecasting import Forecast, PlannedGate, plan_rollout
from rollouts.analysis.recording import Recording, header_line, mark_line, sample_line
from rollouts.analysis.rivals import histogram_quantile, kayenta_high
from rollouts.api.gates_file import parse_gates
from rollouts.api.parsing import parse_rollout
from rollouts.cli.backtest import backtest_command
from rollouts.cli.offline import gates_to_plan, template_of
from rollouts.cli.plan import plan_command

REAL = Noise(pod=0.04, shock=0.08, burst=2.0, pod_errors=0.2)
GATES = [
    {"name": "ttft", "compare": {"histogram": "ttft", "margin": 0, "tolerance": "20%"}},
    {"name": "errors", "compare": {"counter": {"errors": "errors", "of": "requests"}, "tolerance": 2.0}},
]


def scenario(**harm):
    return Scenario(name="t", noise=REAL, harm=Harm(**harm), minutes=45, history_minutes=20)


@pytest.fixture(scope="module")
def recordings():
    cases = {
        "healthy": scenario(),
        "slow": scenario(slower=0.5),
        "failing": scenario(error_rate=0.05),
        "late": scenario(slower=0.5, onset=1200.0),
        "better": scenario(slower=-0.3),
    }
    return {
        name: Recording(interval=30.0, scrapes=tuple(scrapes(case, 7)), marks=case.marks)
        for name, case in cases.items()
    }


def verdicts(recording, plain=None):
    result = backtest(recording, parse_gates(plain or GATES))
    return {gate.report.name: gate for gate in result.gates}


def test_a_healthy_canary_passes_every_gate(recordings):
    gates = verdicts(recordings["healthy"])
    assert [gate.gate.verdict for gate in gates.values()] == [Verdict.PASS, Verdict.PASS]
    assert gates["ttft"].decided_at >= 300.0


def test_a_slow_canary_fails_the_latency_gate_alone(recordings):
    gates = verdicts(recordings["slow"])
    assert gates["ttft"].gate.verdict is Verdict.FAIL
    assert gates["ttft"].decided_at <= 180.0
    assert gates["ttft"].report.effect.low > 0.0
    assert gates["errors"].gate.verdict is Verdict.INCONCLUSIVE


def test_a_failing_canary_fails_the_error_gate_alone(recordings):
    gates = verdicts(recordings["failing"])
    assert gates["errors"].gate.verdict is Verdict.FAIL
    assert gates["errors"].decided_at <= 120.0
    assert gates["ttft"].gate.reason is GateReason.OTHER_METRIC


def test_a_late_regression_is_shown_from_where_it_began(recordings):
    patient = [{**row, "compare": {**row["compare"], "minDwell": "40m"}} for row in GATES]
    gate = verdicts(recordings["late"], patient)["ttft"]
    assert gate.gate.verdict is Verdict.FAIL
    assert 1200.0 < gate.decided_at <= 1500.0
    assert gate.report.effect.estimate == pytest.approx(0.5, abs=0.25)


def test_an_improvement_passes(recordings):
    gates = verdicts(recordings["better"])
    assert gates["ttft"].gate.verdict is Verdict.PASS
    assert gates["ttft"].report.effect.high < 0.0


def test_the_order_of_metrics_does_not_matter(recordings):
    forward, backward = verdicts(recordings["slow"]), verdicts(recordings["slow"], GATES[::-1])
    for name in forward:
        assert forward[name].gate == backward[name].gate
        assert forward[name].decided_at == backward[name].decided_at
        assert forward[name].report.effect == backward[name].report.effect


def test_exclusions_count_wherever_they_stand(recordings):
    slow = recordings["slow"]
    excluded = Recording(
        interval=30.0, scrapes=slow.scrapes, marks=slow.marks, exclusions=(Exclusion(start=0, end=600),)
    )
    assert verdicts(excluded)["ttft"].decided_at > 600.0


def test_one_interval_is_undecided_and_empty_has_no_data(recordings):
    healthy = recordings["healthy"]
    at_start = [s for s in healthy.scrapes if 0 <= s.at <= 30]
    gates = verdicts(Recording(interval=30.0, scrapes=tuple(at_start)))
    assert {gate.gate.verdict for gate in gates.values()} == {Verdict.UNDECIDED}
    gates = verdicts(Recording(interval=30.0, scrapes=()))
    assert {gate.gate.reason for gate in gates.values()} == {GateReason.NO_DATA}
    assert all(gate.report.effect is None for gate in gates.values())


def test_rules_beside_ours(recordings):
    result = backtest(recordings["slow"], parse_gates(GATES))
    rivals = {rival.rule: rival.aborted_at for rival in result.rivals}
    assert rivals["threshold"] >= 1200.0
    assert rivals["oneShot"] == 2700.0
    assert rivals["peeking"] is not None
    healthy = {r.rule: r.aborted_at for r in backtest(recordings["healthy"], parse_gates(GATES)).rivals}
    assert healthy["threshold"] is None
    assert healthy["oneShot"] is None


def test_kayenta_rule_needs_points_and_ignores_equality():
    assert not kayenta_high([2.0] * 3, [1.0] * 3)
    assert not kayenta_high([1.0] * 30, [1.0] * 30)
    assert kayenta_high([1.5 + 0.01 * i for i in range(30)], [1.0 + 0.01 * i for i in range(30)])
    assert not kayenta_high([1.0 + 0.01 * i for i in range(30)], [1.5 + 0.01 * i for i in range(30)])


def test_quantiles_are_those_of_prometheus():
    bounds = (1.0, 2.0, float("inf"))
    assert histogram_quantile(0.5, [10, 10, 0], bounds) == 1.0
    assert histogram_quantile(0.75, [10, 10, 0], bounds) == 1.5
    assert histogram_quantile(0.99, [0, 0, 10], bounds) == 2.0


@pytest.fixture
def files(tmp_path, recordings):
    recording = tmp_path / "r.jsonl"
    slow = recordings["slow"]
    rows = [header_line(30.0)]
    marks = [mark_line(mark) for mark in slow.marks]
    for scrape in slow.scrapes:
        if scrape.at == 0:
            rows += marks
        rows += [sample_line(scrape.at, pod) for pod in scrape.pods]
    recording.write_text("\n".join(rows), encoding="utf-8")
    gates = tmp_path / "gates.yaml"
    gates.write_text(json.dumps({"metrics": GATES}), encoding="utf-8")
    return recording, gates


def test_the_command_prints_the_documented_json(files):
    recording, gates = files
    result = CliRunner().invoke(backtest_command, [str(recording), "--gates", str(gates), "-o", "json"])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.output)
    assert [gate["name"] for gate in printed["gates"]] == ["ttft", "errors"]
    ttft = printed["gates"][0]
    assert ttft["verdict"] == "Fail"
    assert ttft["decidedAt"] % 30 == 0
    assert ttft["effect"]["low"] < 0.5 < ttft["effect"]["high"]
    assert {"harmTotal", "proof", "requests", "words", "reason"} <= ttft["evidence"].keys()
    assert set(printed["rivals"]) == {"threshold", "oneShot", "peeking"}


def test_the_command_prints_words(files):
    recording, gates = files
    result = CliRunner().invoke(backtest_command, [str(recording), "--gates", str(gates)])
    assert result.exit_code == 0
    assert "ttft: the canary is shown to be worse than stable" in result.output
    assert "Other rules on the same counters" in result.output


@pytest.mark.parametrize(
    ("recording", "gates"),
    [
        ("garbage", "metrics: [{name: a, compare: {preset: ttft}}]"),
        ('{"kind":"Recording","version":1,"interval":30}', "metrics: ["),
        ('{"kind":"Recording","version":1,"interval":30}', "metrics: [{name: a, compare: {preset: nope}}]"),
        ('{"kind":"Recording","version":1,"interval":30}', "a: &x [1]\nmetrics: *x"),
        ('{"kind":"Recording","version":1,"interval":30}', ""),
    ],
)
def test_bad_input_exits_with_two(tmp_path, recording, gates):
    (tmp_path / "r").write_text(recording, encoding="utf-8")
    (tmp_path / "g").write_text(gates, encoding="utf-8")
    result = CliRunner().invoke(backtest_command, [str(tmp_path / "r"), "--gates", str(tmp_path / "g")])
    assert result.exit_code == 2
    assert "Error" in result.output


API = "inferencerollouts.dev/v1alpha1"


def rollout(steps, **canary):
    return {
        "apiVersion": API,
        "kind": "Rollout",
        "metadata": {"name": "demo"},
        "spec": {
            "target": {"pool": {"name": "v2"}},
            "traffic": {"httpRoutes": [{"name": "route"}]},
            "strategy": {"canary": {"steps": steps, **canary}},
        },
    }


def template(name, *metrics, **spec):
    return {
        "apiVersion": API,
        "kind": "AnalysisTemplate",
        "metadata": {"name": name},
        "spec": {"metrics": list(metrics), **spec},
    }


def planned_gates(obj, *templates) -> list[PlannedGate]:
    found = dict(template_of(one) for one in templates)
    return gates_to_plan(parse_rollout(obj), found, condition_problem)[0]


STEPS = [
    {"setWeight": 1},
    {"analysis": {"metrics": [{"name": "errors", "compare": {"preset": "error-rate"}}]}},
    {"setWeight": 10},
    {"analysis": {"metrics": [{"name": "ttft", "compare": {"preset": "ttft", "margin": 0}}]}},
]


def test_the_last_gate_asks_for_tolerance_and_the_others_for_no_harm():
    gates = planned_gates(rollout(STEPS))
    assert [(g.step, g.weight, g.metric.require.value) for g in gates] == [
        (1, 0.01, "NoHarm"),
        (3, 0.10, "WithinTolerance"),
    ]


def test_background_templates_are_planned_at_the_heaviest_weight():
    lat = template("lat", {"name": "ttft", "compare": {"preset": "ttft"}})
    plain = rollout([{"setWeight": 5}, {"setWeight": 20}], analysis={"templates": [{"templateName": "lat"}]})
    (gate,) = planned_gates(plain, lat)
    assert (gate.step, gate.weight) == (None, 0.2)


def test_planned_times_are_those_of_the_study():
    """+20 % at 20 req/s, 10 %, 2 + 18 pods: about 6 minutes; one pod cannot prove less than 17 to 21 %."""
    gates = planned_gates(rollout(STEPS))
    plans = plan_rollout(
        gates, Forecast(rate=20, stable_pods=18, canary_pods=2, latency_phi=1.9, pod_sd=0.042)
    )
    found = dict(plans[1].harm)
    assert 4 <= found[0.2] <= 8
    assert found[0.5] <= 2
    assert 0.09 < plans[1].smallest_ever < 0.13
    assert plans[1].smallest_with_twice_the_pods < 0.09
    (one,) = plan_rollout(gates[1:], Forecast(rate=20, stable_pods=9, canary_pods=1))
    assert 0.17 < one.smallest_ever < 0.21
    assert dict(one.harm)[0.1] == float("inf")


def test_the_plan_command(tmp_path):
    path = tmp_path / "rollout.yaml"
    path.write_text(json.dumps(rollout(STEPS)), encoding="utf-8")
    traffic = ["--rate", "20", "--stable-pods", "18"]
    shown = CliRunner().invoke(plan_command, [str(path), *traffic])
    assert shown.exit_code == 0, shown.output
    assert "Pods: 18 stable; canary 1 at " in shown.output
    printed = json.loads(CliRunner().invoke(plan_command, [str(path), *traffic, "-o", "json"]).output)
    assert [gate["step"] for gate in printed["gates"]] == [1, 3]
    assert "step 4 at 0.1 of the traffic, ttft (WithinTolerance)" in printed["gates"][1]["words"]


def test_the_plan_command_takes_noise_from_history(tmp_path, files):
    path = tmp_path / "rollout.yaml"
    path.write_text(json.dumps(rollout(STEPS)), encoding="utf-8")
    result = CliRunner().invoke(plan_command, [str(path), "--history", str(files[0]), "--canary-pods", "2"])
    assert result.exit_code == 0, result.output
    assert "noise from the recording" in result.output
    assert "Pods: 18 stable; canary 2 at" in result.output


@pytest.mark.parametrize(
    ("plain", "options", "words"),
    [
        ("{}", [], "no document of kind Rollout"),
        (json.dumps(rollout([])), ["--rate", "1", "--stable-pods", "1"], "spec.strategy.canary.steps"),
        (json.dumps(rollout(STEPS)), [], "give --rate and --stable-pods"),
        (
            json.dumps(rollout([{"setWeight": "x"}])),
            ["--rate", "1", "--stable-pods", "1"],
            "is not a weight",
        ),
        (
            json.dumps(rollout([{"setWeight": 5}, {"analysis": {"templates": [{"templateName": "no"}]}}])),
            ["--rate", "1", "--stable-pods", "1"],
            "not in the file",
        ),
    ],
)
def test_plans_that_cannot_be_made_say_why(tmp_path, plain, options, words):
    path = tmp_path / "rollout.yaml"
    path.write_text(plain, encoding="utf-8")
    result = CliRunner().invoke(plan_command, [str(path), *options])
    assert result.exit_code == 2
    assert words in result.output


def planned(canary: dict, *documents: dict) -> list[PlannedGate]:
    return planned_gates(rollout(**canary), *documents)


ONE_POD = Forecast(rate=2.0, stable_pods=1, canary_pods=1)


def test_a_plan_for_one_stable_pod_promises_nothing_that_the_gate_holds_back():
    gates = planned({"steps": [{"setWeight": 10}, {"analysis": {"preset": "default"}}]})
    plans = {plan.gate.metric.name: plan for plan in plan_rollout(gates, ONE_POD)}

    assert plans["ttft"].minutes_to_pass == float("inf")
    assert "run a second stable pod" in plans["ttft"].words
    assert plans["error-rate"].comparable
    # The same by the engine that judges.
    one = Scenario(name="one", stable=1, canary=1, minutes=40, history_minutes=10)
    recording = Recording(interval=30.0, scrapes=tuple(scrapes(one, 3)), marks=one.marks)
    judged = backtest(recording, parse_gates(GATES))
    gates_by_name = {gate.report.name: gate for gate in judged.gates}
    assert gates_by_name["ttft"].gate.reason is GateReason.FEW_STABLE_PODS
    assert "run a second stable pod" in gates_by_name["ttft"].words
    assert gates_by_name["errors"].gate.reason is not GateReason.FEW_STABLE_PODS


@pytest.mark.parametrize(
    ("undecided", "words", "verdict"),
    [
        ("Hold", "never passes, waits for a person", "Inconclusive"),
        ("Fail", "never passes, fails", "Fail"),
        ("PromoteIfNoHarm", "passes after about 5 min when errors and what was lost show no harm", "Pass"),
    ],
)
def test_a_plan_for_one_stable_pod_says_how_the_gate_ends(undecided, words, verdict):
    rows = [
        {"name": "errors", "compare": {"preset": "error-rate", "require": "NoHarm"}},
        {"name": "ttft", "compare": {"preset": "ttft", "require": "NoHarm", "onUndecided": undecided}},
    ]
    gates = planned({"steps": [{"setWeight": 10}, {"analysis": {"metrics": rows}}]})
    plans = {plan.gate.metric.name: plan for plan in plan_rollout(gates, replace(ONE_POD, rate=20.0))}
    one = Scenario(name="one", stable=1, canary=1, minutes=20, history_minutes=10)
    recording = Recording(interval=30.0, scrapes=tuple(scrapes(one, 3)), marks=one.marks)
    judged = {gate.report.name: gate for gate in backtest(recording, parse_gates(rows)).gates}

    assert words in plans["ttft"].words
    assert judged["ttft"].gate.verdict.value == verdict
    if verdict == "Pass":
        assert judged["ttft"].decided_at == pytest.approx(plans["ttft"].minutes_to_pass * 60, abs=60)


@pytest.mark.parametrize(("value", "seconds"), [("500ms", 0.5), ("1d", 86_400.0), ("1h30m", 5400.0)])
def test_durations_are_those_of_the_cluster(value, seconds):
    gates = parse_gates([{"name": "t", "compare": {"preset": "ttft", "minDwell": value}}])

    assert gates.spec.metrics[0].min_dwell == seconds


@pytest.mark.parametrize(("written", "given"), [("{{args.tol}}", "0.2"), ("{{ args.tol }}%", "20")])
def test_arguments_are_filled_in_where_a_plan_reads_templates(written, given):
    compare = {"preset": "ttft", "tolerance": written}
    one = template("t", {"name": "m", "compare": compare}, args=[{"name": "tol", "value": "0.5"}])
    gate = {"templates": [{"templateName": "t"}], "args": [{"name": "tol", "value": given}]}

    found = planned({"steps": [{"setWeight": 10}, {"analysis": gate}]}, one)

    assert found[0].metric.tolerance == 0.2


def test_a_background_alone_is_the_last_gate():
    found = planned(
        {
            "steps": [{"setWeight": 10}, {"pause": {"duration": "10m"}}],
            "analysis": {"metrics": [{"name": "ttft", "compare": {"preset": "ttft"}}]},
        }
    )

    assert found[0].metric.require.value == "WithinTolerance"


def test_a_plan_promises_nothing_of_what_its_source_never_tells(tmp_path):
    gate = {"metrics": [{"name": name, "compare": {"preset": name}} for name in ("error-rate", "queue-time")]}
    obj = rollout([{"setWeight": 10}, {"analysis": gate}])
    model = {"name": "m", "modelName": "x", "poolRef": {"name": "p"}}
    obj["spec"] |= {"target": {"adapter": {"name": "a"}}, "traffic": {"inferenceModel": model}}
    path = tmp_path / "rollout.yaml"
    path.write_text(json.dumps(obj), encoding="utf-8")

    shown = CliRunner().invoke(plan_command, [str(path), "--rate", "20", "--stable-pods", "4", "-o", "json"])

    printed = json.loads(shown.output)
    assert [one["name"] for one in printed["gates"]] == ["error-rate"]
    assert printed["silent"] == ["metric queue-time: the source picker never tells: it has no queue_time"]
