"""`rollouts backtest` and `rollouts plan`: what gates would have decided, and what they will be able to."""

import json
from pathlib import Path
from typing import Any

import click
import yaml

from rollouts.analysis.backtest import BacktestResult, backtest
from rollouts.analysis.gatesfile import Gates, GatesError, parse_gates
from rollouts.analysis.recording import Recording, RecordingError, read_recording

__all__ = ["backtest_command", "load_documents"]

_MAX_RECORDING = 1024 * 1024 * 1024
_MAX_YAML = 1024 * 1024


class BadInput(click.ClickException):
    """Something the user gave cannot be read; exit code 2."""

    exit_code = 2


class _NoAliasLoader(yaml.SafeLoader):
    """Aliases can blow a small file up to gigabytes; nothing here needs them."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not supported")
        return super().compose_node(parent, index)


def load_documents(path: Path) -> list[Any]:
    """The documents of a YAML or JSON file; raises BadInput."""
    try:
        if path.stat().st_size > _MAX_YAML:
            raise BadInput(f"{path}: larger than {_MAX_YAML} bytes")
        return [d for d in yaml.load_all(path.read_text("utf-8"), Loader=_NoAliasLoader) if d is not None]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise BadInput(f"{path}: {error}") from error


def load_recording(path: Path) -> Recording:
    """A recording from a file; raises BadInput."""
    try:
        if path.stat().st_size > _MAX_RECORDING:
            raise BadInput(f"{path}: larger than {_MAX_RECORDING} bytes")
        with path.open(encoding="utf-8") as lines:
            return read_recording(lines)
    except (OSError, UnicodeDecodeError, RecordingError) as error:
        raise BadInput(f"{path}: {error}") from error


def load_gates(path: Path, interval: float) -> Gates:
    """Gates from a file of one document; raises BadInput."""
    documents = load_documents(path)
    if len(documents) != 1:
        raise BadInput(f"{path}: expected one document with a list of metrics, found {len(documents)}")
    try:
        return parse_gates(documents[0], interval=interval)
    except GatesError as error:
        raise BadInput(f"{path}: {error}") from error


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("backtest")
@click.argument("recording", type=_FILE)
@click.option("--gates", "gates_file", type=_FILE, required=True, help="The metrics of an AnalysisTemplate.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def backtest_command(recording: Path, gates_file: Path, output: str) -> None:
    """Replay RECORDING through the compare gates: verdict, time of decision, effect with interval."""
    loaded = load_recording(recording)
    result = backtest(loaded, load_gates(gates_file, loaded.interval))
    if output == "json":
        click.echo(json.dumps(result.to_json(), allow_nan=False))
    else:
        click.echo(_text(result))


_RULES = {
    "threshold": "fixed thresholds, four failures",
    "oneShot": "one test at the end (Kayenta's rule)",
    "peeking": "a 5 % test looked at every minute",
}


def _text(result: BacktestResult) -> str:
    lines = []
    for gate in result.gates:
        when = "" if gate.decided_at is None else f" at minute {gate.decided_at / 60:.1f}"
        lines += [f"{gate.gate.verdict.value}{when}", f"  {gate.words}"]
    lines += [f"{name}: not replayed, only compare gates are" for name in result.skipped]
    lines.append("Other rules on the same counters:")
    for rival in result.rivals:
        told = "pass" if rival.aborted_at is None else f"abort at minute {rival.aborted_at / 60:.1f}"
        lines.append(f"  {_RULES[rival.rule]}: {told}")
    return "\n".join(lines)
