"""The ready-made comparisons against what the lab's simulated vLLM pods really counted behind Envoy.

Made by `rollouts record` in the lab and thinned to the series that the templates read: `lab-good.jsonl` during
`rollouts lab demo analysis`, `lab-bad.jsonl` with the same bad canary (TTFT +50 %) under a step without gates.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rollouts.analysis.backtest import BacktestResult, backtest
from rollouts.analysis.recording import read_recording
from rollouts.api.gates_file import parse_gates

ROOT = Path(__file__).resolve().parents[3]


def replay(recording: str, **changes: object) -> BacktestResult:
    lines = (ROOT / "tests" / "recordings" / recording).read_text(encoding="utf-8").splitlines()
    found = read_recording(lines)
    template = yaml.safe_load((ROOT / "analysis" / "vllm-compare.yaml").read_text(encoding="utf-8"))
    for metric in template["spec"]["metrics"]:
        # The lab takes seconds for what takes minutes: pods were new, and half a minute is all there is.
        metric["compare"] |= {"warmUp": "0s", "minDwell": "10s", "minRequests": 30, **changes}
    return backtest(found, parse_gates(template, interval=found.interval))


def test_a_canary_with_fifty_percent_more_ttft_is_found_in_half_a_minute():
    result = replay("lab-bad.jsonl")
    verdicts = {gate.report.name: gate.gate.verdict.value for gate in result.gates}
    assert verdicts["ttft"] == "Fail"
    failed = next(gate for gate in result.gates if gate.report.name == "ttft")
    assert failed.decided_at is not None
    assert failed.decided_at <= 30
    assert failed.report.effect is not None
    assert failed.report.effect.low > 0


@pytest.mark.parametrize("require", ["NoHarm"])
def test_a_healthy_canary_is_not_harmed(require):
    result = replay("lab-good.jsonl", require=require)
    verdicts = {gate.report.name: gate.gate.verdict.value for gate in result.gates}
    assert "Fail" not in verdicts.values()
    assert verdicts["ttft"] == "Pass"
    assert verdicts["errors"] == "Pass"
