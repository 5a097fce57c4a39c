"""`rollouts backtest` and `rollouts plan`: what gates would have decided, and what they will be able to."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from rollouts.analysis.backtest import BacktestResult, Replayed, backtest, finite
from rollouts.analysis.comparisons import GatesError
from rollouts.analysis.evidence.model import EvidenceSpec
from rollouts.analysis.forecasting import Forecast, plan_rollout, traffic_of
from rollouts.analysis.recording import Recording, RecordingError, read_recording
from rollouts.analysis.templates import Template
from rollouts.api.gates_file import parse_gates
from rollouts.api.parsing import ParsedRollout, parse_rollout
from rollouts.api.scalars import format_time, parse_time
from rollouts.api.strategies import StrategyFault
from rollouts.cli.connect import connection_options
from rollouts.cli.file_conditions import FileConditions
from rollouts.cli.lint_kinds import is_ours, objects_in
from rollouts.cli.lint_strategies import FileStrategies
from rollouts.cli.offline import (
    TEMPLATE_KINDS,
    compared_gates,
    gates_of_attempt,
    is_adapter,
    template_of,
)
from rollouts.cli.plan_around import calendar_line, surroundings_of
from rollouts.cli.plan_capacity import accelerators_of, capacity_lines, companions_in
from rollouts.cli.plan_table import minutes_of, pods_line, rows_of, table_of, total_of
from rollouts.cli.plan_waits import Surroundings, ends_at, obstacles
from rollouts.cli.progress import progress
from rollouts.cli.yaml_source import read_yaml
from rollouts.kube.kubeconfig import ContextChoice
from rollouts.terminal import console, document, say

__all__ = ["backtest_command", "plan_command"]

_MAX_RECORDING = 1024 * 1024 * 1024
_MAX_YAML = 1024 * 1024
_STDIN = Path("-")


class BadInput(click.ClickException):
    """Something the user gave cannot be read; exit code 2."""

    exit_code = 2


def load_documents(path: Path) -> list[Any]:
    """The documents of a YAML or JSON file, as `lint` and kubectl read them, Lists taken apart; raises BadInput."""
    try:
        data = _bytes(path)
        if len(data) > _MAX_YAML:
            raise BadInput(f"{path}: larger than {_MAX_YAML} bytes")
        documents, faults = read_yaml(data)
    except OSError as error:
        raise BadInput(f"{path}: {error}") from error
    for fault in faults:
        raise BadInput(f"{path}:{fault.line}:{fault.column}: {fault.text}")
    return [item for one in documents for item in _items(one.value)]


def _bytes(path: Path) -> bytes:
    """A little more than the limit of a file, or of standard input. Raises OSError and BadInput."""
    if path != _STDIN:
        with path.open("rb") as file:
            return file.read(_MAX_YAML + 1)
    if sys.stdin is None:  # closed by the caller (<&-)
        raise BadInput("standard input is closed")
    return sys.stdin.buffer.read(_MAX_YAML + 1)


def _items(value: Any) -> list[Any]:
    return [obj for _, obj in objects_in(value)] if isinstance(value, Mapping) else [value]


def load_recording(path: Path) -> Recording:
    """A recording from a file, or from standard input as `record` writes it; raises BadInput."""
    try:
        if path == _STDIN and sys.stdin is not None:
            return read_recording(sys.stdin)
        if path.stat().st_size > _MAX_RECORDING:
            raise BadInput(f"{path}: larger than {_MAX_RECORDING} bytes")
        with path.open(encoding="utf-8") as lines:
            return read_recording(lines)
    except (OSError, UnicodeDecodeError, RecordingError) as error:
        raise BadInput(f"{path}: {error}") from error


def load_gates(path: Path, interval: float) -> Replayed:
    """Gates from a file of one document; raises BadInput."""
    documents = load_documents(path)
    if len(documents) != 1:
        raise BadInput(f"{path}: expected one document with a list of metrics, found {len(documents)}")
    try:
        return parse_gates(documents[0], interval=interval)
    except GatesError as error:
        raise BadInput(f"{path}: {error}") from error


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FILE_OR_STDIN = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)


@click.command("backtest")
@click.argument("recording", type=_FILE_OR_STDIN)
@click.option("--gates", "gates_file", type=_FILE, required=True, help="The metrics of an AnalysisTemplate.")
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


@click.command("plan")
@click.argument("file", type=_FILE_OR_STDIN)
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Requests per second, both arms.")
@click.option("--stable-pods", type=click.IntRange(min=1), help="Stable pods.")
@click.option("--canary-pods", type=click.IntRange(min=1), help="Canary pods; else what the weight asks for.")
@click.option(
    "--gpus-per-pod",
    type=click.IntRange(min=1),
    help="Else as the target's workload in FILE or the cluster says.",
)
@click.option(
    "--companion-pods",
    type=click.IntRange(min=0),
    multiple=True,
    help="Pods of stable's companion (prefill beside decode); once for each role, in their order.",
)
@click.option("--history", type=_FILE, help="A recording: rate, pods and noise are taken from it.")
@click.option(
    "--live",
    is_flag=True,
    help="Also ask the cluster: what it names, freezes, who is in progress, who goes first.",
)
@click.option("--start", metavar="TIME", help="When it would begin, as 2026-12-18T15:00:00Z; else now.")
@connection_options
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def plan_command(
    file: Path,
    rate: float | None,
    stable_pods: int | None,
    canary_pods: int | None,
    history: Path | None,
    gpus_per_pod: int | None,
    companion_pods: tuple[int, ...],
    live: bool,
    start: str | None,
    namespace: str | None,
    kubeconfig: str | None,
    context: ContextChoice,
    output: str,
) -> None:
    """Say how long each gate of the Rollout in FILE will take and the smallest regression it can prove.

    FILE may be - for standard input. AnalysisTemplates that it names are further documents of it. FINDS: the time in
    which a canary that is so much worse is aborted; FLOOR: the smallest regression that these pods can ever tell from
    their own differences.
    So are a shared strategy, and what it would wait for besides (RolloutFreezes, Rollouts that go first, a controller);
    with --live the cluster is asked for all of these.
    """
    rollout, documents = _rollout_in(file)
    begins = _start(start)
    around = surroundings_of(rollout, documents, live, namespace, kubeconfig, context)
    parsed, templates = _with_strategy(rollout, around.objects, file), _templates(around.objects, file)
    gpus = gpus_per_pod or accelerators_of(rollout, around.objects)
    try:
        with FileConditions() as check:
            gates = gates_of_attempt(parsed, templates, check)
        compared, silent = compared_gates(parsed, gates)
        if not gates and not _waits(parsed, around):
            raise BadInput(f"{file}: the Rollout has no gates to plan: nothing judges the canary")
        traffic = _traffic(compared[0].spec, rate, stable_pods, canary_pods, history) if compared else None
        coupled = None if traffic is None else replace(traffic, coupled=is_adapter(parsed))
        plans = () if coupled is None else plan_rollout(compared, coupled)
    except (GatesError, RecordingError) as error:
        raise BadInput(f"{file}: {error}") from error
    assert parsed.spec is not None
    rows = rows_of(plans, gates)
    total = total_of(parsed.spec, rows)
    waits = list(obstacles(parsed, around, begins))
    end = ends_at(parsed.spec, minutes_of(parsed.spec, rows), around, begins)
    if output == "json":
        limits = [row.to_json() for row in rows if row.finds is None]
        told = {"gates": [plan.to_json() for plan in plans], "thresholds": limits, "silent": silent}
        calendar = {"start": format_time(begins), "end": None if end is None else format_time(end)}
        document(
            json.dumps(
                {**told, "minutes": finite(total.minutes), "waits": waits, **calendar}, allow_nan=False
            )
        )
        return
    if coupled is not None:
        noise = (
            "the recording" if coupled.from_history else "priors; --history of the stable pods makes it exact"
        )
        say(f"{coupled.rate:.3g} requests per second; noise from {noise}.")
        say(pods_line(parsed.spec, coupled))
    stable = coupled.stable_pods if coupled is not None else stable_pods
    if stable is not None:
        beside = companions_in(parsed.spec, around.objects, companion_pods)
        if isinstance(beside, str):
            raise BadInput(f"{file}: {beside}")
        for line in capacity_lines(parsed.spec, stable, minutes_of(parsed.spec, rows), gpus, beside):
            say(line)
    if rows:
        console().print(table_of(rows))
    else:
        say("No gates: nothing judges the canary.")
    for line in waits:
        say(line)
    say(total.words)
    if around.freezes or parsed.spec.canary.windows:
        say(calendar_line(total, begins, end))
    for text in (*(plan.words for plan in plans if plan.minutes_to_pass == math.inf), *silent):
        say(text)


def _start(text: str | None) -> datetime:
    if text is None:
        return datetime.now(UTC)
    try:
        return parse_time(text)
    except ValueError as error:
        raise click.UsageError(f"--start: {error}") from None


def _waits(parsed: ParsedRollout, around: Surroundings) -> bool:
    """Whether there is something to plan beside gates."""
    spec = parsed.spec
    if spec is None:
        return False
    return bool(
        spec.canary.windows or spec.canary.capacity or spec.depends_on or around.freezes or around.live
    )


def _rollout_in(file: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The Rollout of a file, and all of its documents. Raises BadInput."""
    documents = [d for d in load_documents(file) if isinstance(d, dict)]
    named = [d for d in documents if d.get("kind") == "Rollout"]
    rollout = next(filter(is_ours, named), named[0] if named else None)
    if rollout is None:
        raise BadInput(f"{file}: no document of kind Rollout")
    return rollout, documents


def _templates(objects: Sequence[Mapping[str, Any]], file: Path) -> dict[tuple[bool, str], Template]:
    """The templates; those of the file win. Raises BadInput."""
    templates = dict[tuple[bool, str], Template]()
    for key, template in (template_of(d) for d in objects if d.get("kind") in TEMPLATE_KINDS):
        if isinstance(template, str):
            raise BadInput(f"{file}: {template}")
        templates.setdefault(key, template)
    return templates


def _with_strategy(
    rollout: dict[str, Any], documents: Sequence[Mapping[str, Any]], file: Path
) -> ParsedRollout:
    """The Rollout with the shared strategy that it names, which stands in the same file. Raises BadInput."""
    strategies = FileStrategies(documents)
    found = strategies.of(rollout)
    for finding in strategies.findings(rollout):
        add = "; add it as another document" if found is None else ""
        raise BadInput(f"{file}: {finding.text.partition(': it must exist')[0]}{add}")
    return parse_rollout(rollout, strategy=None if isinstance(found, StrategyFault) else found)


def _traffic(
    spec: EvidenceSpec, rate: float | None, stable: int | None, canary: int | None, history: Path | None
) -> Forecast:
    if history is not None:
        found = traffic_of(load_recording(history), spec, canary)
        return replace(found, rate=rate or found.rate, stable_pods=stable or found.stable_pods)
    if rate is None or stable is None:
        raise BadInput("give --rate and --stable-pods, or --history")
    return Forecast(rate=rate, stable_pods=stable, canary_pods=canary)
