"""Gates as people read them: columns first, the words below, and who went on against them."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from rollouts.api.status import read_status, write_status
from rollouts.cli.gate_rows import gate_rows
from rollouts.cli.render import rollout_view
from rollouts.cli.table import rollout_table
from rollouts.engine.rollout_status import CommandRecord, CommandResult
from rollouts.objects.lines import LINE, brief
from rollouts.terminal import DataConsole
from tests.kit.served import ROLLOUT
from tests.kit.world import World, analysis, changed, spec, weight

FIGURES: dict[str, Any] = {
    "effect": 0.93,
    "effectLow": 0.25,
    "effectHigh": 1.6,
    "harm": 360.0,
    "harmTotal": 364.0,
    "abortAt": 20.0,
    "proof": 0.02,
    "passAt": 20.0,
    "canaryRequests": 25.0,
    "stableRequests": 214.0,
}


def lines(*renderables: Any) -> list[str]:
    screen = io.StringIO()
    console = DataConsole(file=screen, width=200)
    for one in renderables:
        console.print(one)
    return [line.rstrip() for line in screen.getvalue().splitlines()]


def run(name: str = "demo-run", **result: Any) -> dict[str, Any]:
    compared = {"name": "ttft", "verdict": "Undecided", "reason": "Collecting", "figures": FIGURES, **result}
    return {"metadata": {"name": name}, "spec": {"comparisons": [{}]}, "status": {"comparisons": [compared]}}


HARMED = {"verdict": "Fail", "reason": "HarmShown", "effect": "+93 % (between +25 % and +160 %)"}


@pytest.mark.parametrize(
    ("result", "row"),
    [
        (HARMED, "ttft  FAIL  +93 % (at least +25 %)  harm  ######## 360/20  25 vs 214 requests"),
        (
            {**HARMED, "effect": "-41 % (between -60 % and -20 %)"}
            | {"figures": {**FIGURES, "effect": -0.41, "effectLow": -0.6, "effectHigh": -0.2}},
            "ttft  FAIL  -41 % (at most -20 %)  harm  ######## 360/20  25 vs 214 requests",
        ),
        (
            {"effect": "nothing known yet", "figures": {**FIGURES, "proof": 4.0}},
            "ttft  UNDECIDED  nothing known yet  proof ###..... 4/20  25 vs 214 requests",
        ),
        ({"figures": {}}, "ttft  UNDECIDED  nothing known yet    no requests yet"),
        (
            {"verdict": "Pass", "reason": "NoHarm", "effect": "+2 % (between -8 % and +13 %)"}
            | {"figures": {**FIGURES, "effect": 0.02, "harm": 3e7}},
            "ttft  PASS  +2 % (between -8 % and +13 %)  harm  ######## >1e6/20  25 vs 214 requests",
        ),
    ],
)
def test_a_comparison_is_a_row_of_columns(result, row):
    found = lines(*gate_rows(run(**result)))

    assert [" ".join(line.split()) for line in found] == [" ".join(row.split())]


def test_what_did_not_pass_is_told_in_full_below_the_rows():
    words = "ttft: not decided yet. " + "At this pace a pass would take about 7 more minutes. " * 5
    found = lines(*gate_rows(run(message=words)))

    assert found[0].startswith("ttft  UNDECIDED")
    assert " ".join(" ".join(found[1:]).split()) == words.strip()


def overridden(by: str) -> list[str]:
    """A rollout that went on against the reading of its evidence at step 2, promoted by ``by``."""
    world = World(spec=spec(weight(10), analysis(), weight(50)))
    world.settle()
    name = next(name for name in world.gates if name)
    command = CommandRecord(
        raw="{}",
        action="promote",
        result=CommandResult.DONE,
        message="m",
        at=datetime(2026, 1, 1, tzinfo=UTC),
        by=by,
    )
    status = changed(replace(world.status, last_command=command), overrides=(name,))
    steps = [{"setWeight": 10}, {"analysis": {"metrics": [{"name": "m", "compare": {"preset": "ttft"}}]}}]
    asked = {**ROLLOUT["spec"], "strategy": {"canary": {"steps": steps}}}
    obj = {**ROLLOUT, "spec": asked, "status": write_status(status)}
    mine = {**run(name), "spec": {"comparisons": [{}], "attempt": status.attempt, "step": 1}}
    return lines(rollout_view({**obj, "metadata": {**ROLLOUT["metadata"], "uid": world.uid}}, [mine]))


def test_an_overridden_gate_says_so_and_by_whom():
    told = "\n".join(overridden("ana"))

    assert "overridden by ana" in told
    assert "promote by ana done: m" in told


def test_history_names_the_people_who_decided():
    world = World(spec=spec(weight(10), analysis()))
    world.settle()
    world.command = world_command(world, "abort", "ben")
    world.settle()

    assert world.status.history[-1].message == "AbortedByCommand: aborted by ben"
    assert read_status(write_status(world.status))[0].history == world.status.history


def world_command(world: World, action: str, by: str) -> str:
    world.tell(action)
    return world.command.replace('"action"', f'"by":"{by}","action"')


def test_a_message_of_a_list_is_one_line_of_160_characters():
    message = "step 2/6: " + "the canary waits for endpoints " * 20
    table = rollout_table([{**ROLLOUT, "status": {"phase": "Progressing", "message": message}}], wide=False)

    assert len(brief(message)) <= LINE
    assert brief(message).endswith("…")
    assert brief("two\nlines") == "two lines"
    assert brief("x" * 500) == "x" * 159 + "…"
    assert any(brief(message) in line for line in lines_of(table))


def lines_of(table: Any) -> list[str]:
    screen = io.StringIO()
    DataConsole(file=screen, width=400).print(table)
    return screen.getvalue().splitlines()


def test_the_stored_line_is_what_kubectl_prints():
    world = World(spec=spec(weight(10)))
    world.settle()
    stored = write_status(replace(world.status, message="a " * 200))

    assert stored["messageLine"] == brief("a " * 200)
    assert stored["message"].strip() == ("a " * 200).strip()
