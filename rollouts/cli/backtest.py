"""`rollouts backtest`: what gates would have decided on counters that were recorded."""

from __future__ import annotations

import json
from pathlib import Path

import click

from rollouts.analysis.backtest import BacktestResult, backtest
from rollouts.cli.given_files import FILE, FILE_OR_STDIN, load_gates, load_recording
from rollouts.cli.progress import progress
from rollouts.terminal import document, say

__all__ = ["backtest_command"]


@click.command("backtest")
@click.argument("recording", type=FILE_OR_STDIN)
@click.option("--gates", "gates_file", type=FILE, required=True, help="The metrics of an AnalysisTemplate.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def backtest_command(recording: Path, gates_file: Path, output: str) -> None:
    """Replay RECORDING through the compare gates: verdict, time of decision, effect with interval.

    RECORDING may be - for standard input.
    """
    with progress("replaying"):
        loaded = load_recording(recording)
        result = backtest(loaded, load_gates(gates_file, loaded.interval))
    if output == "json":
        document(json.dumps(result.to_json(), allow_nan=False))
    else:
        for line in _lines(result):
            say(line)


_RULES = {
    "threshold": "fixed thresholds, four failures",
    "oneShot": "one test at the end (Kayenta's rule)",
    "peeking": "a 5 % test looked at every minute",
}


def _lines(result: BacktestResult) -> list[str]:
    lines = []
    for gate in result.gates:
        when = "" if gate.decided_at is None else f" at minute {gate.decided_at / 60:.1f}"
        lines += [f"{gate.gate.verdict.value}{when}", f"  {gate.words}"]
    lines += [f"{name}: not replayed, only compare gates are" for name in result.skipped]
    lines.append("Other rules on the same counters:")
    for rival in result.rivals:
        told = "pass" if rival.aborted_at is None else f"abort at minute {rival.aborted_at / 60:.1f}"
        lines.append(f"  {_RULES[rival.rule]}: {told}")
    return lines
