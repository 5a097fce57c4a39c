"""What a command costs before it does anything, held against what its libraries cost in the same minute."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from rollouts.api.parsing import parse_rollout
from rollouts.cli.shown_steps import step_words, steps_of
from rollouts.engine.rollout_spec import Step
from rollouts.engine.steps import describe
from tests.kit.served import ROLLOUT, Server
from tests.kit.world import World, pause, spec, weight

LIBRARIES = "import aiohttp, click, rich.console, yaml"
"""What no command that asks an API server and prints a table does without."""
HEAVY = ("pydantic", "kubernetes", "grpc", "celpy", "apscheduler", "prometheus_client")
LEAST_OF = 3
"""Tries: the machine's other work only adds to the time."""


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Iterator[str]:
    running, world = Server(tmp_path), World(spec=spec(weight(10), pause()))
    world.settle()
    running.store(world)
    yield str(running.kubeconfig)
    running.stop()


def cpu(*words: str) -> float:
    """CPU seconds of a Python process with these arguments, the least of a few."""
    spent = []
    for _ in range(LEAST_OF):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *words], capture_output=True, check=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(spent)


@pytest.mark.timed
def test_looking_costs_little_more_than_the_libraries_it_needs(kubeconfig):
    bare = cpu("-c", LIBRARIES)
    command = ("-m", "rollouts.cli")

    assert cpu(*command, "--help") < 0.6 * bare
    assert cpu(*command, "get", "demo", "--kubeconfig", kubeconfig) < 1.9 * bare


@pytest.mark.parametrize("words", [("get",), ("get", "demo"), ("get", "demo", "-o", "json")])
def test_looking_reads_no_models(kubeconfig, words):
    program = (
        "import sys; from click.testing import CliRunner; from rollouts.cli.main import main; "
        f"done = CliRunner().invoke(main, {[*words, '--kubeconfig', kubeconfig]!r}); "
        f"print('demo' in done.output, sorted({set(HEAVY)!r} & sys.modules.keys()))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )

    assert ended.stdout == "True []\n"


STEPS: list[dict[str, Any]] = [
    {"setWeight": "0.5%"},
    {"pause": {}},
    {"pause": {"duration": "1h30m"}},
    {"pause": {"approve": {"webhook": "board"}}},
    {"pause": {"duration": 90, "approve": {"webhook": "board"}}},
    {"approve": {"webhook": "board"}},
    {"analysis": {"metrics": [{"name": "m", "compare": {"preset": "ttft"}}]}},
    {"job": {"spec": {"template": {"spec": {"containers": []}}}}},
    {"setHeaderRoute": {"name": "beta", "match": [{"headerName": "x", "headerValue": {"exact": "y"}}]}},
]


def test_raw_steps_are_told_in_the_words_of_every_message():
    obj = {**ROLLOUT, "spec": {**ROLLOUT["spec"], "strategy": {"canary": {"steps": STEPS}}}}
    known = parse_rollout(obj).known_steps

    assert {type(step) for step in known} == set(get_args(Step))
    assert [step_words(step) for step in steps_of(obj) or ()] == [describe(step) for step in known]


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"setWeight": "ten"}, "setWeight"),
        ({"pause": {"duration": []}}, "pause"),
        ({"later": {}}, "later"),
        ({}, "?"),
    ],
)
def test_a_step_that_cannot_be_read_is_named_by_its_field(step, words):
    assert step_words(step) == words
