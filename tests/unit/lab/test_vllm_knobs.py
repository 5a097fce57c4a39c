"""Knobs as a person writes them, and specifications on their way to another process."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rollouts.lab.loopback import loopback
from rollouts.lab.processes import ChildProcess
from rollouts.lab.vllm.knobs import ErrorKind, Hang, KnobError, Knobs, apply_knobs, knobs_to_json
from rollouts.lab.vllm.latency import LatencyProfile
from rollouts.lab.vllm.spec import PodSpec, pod_spec_from_json, pod_spec_to_json
from tests.kit.polling import eventually


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ttft": "+50%"}, Knobs(ttft=1.5)),
        ({"ttft": "-20%"}, Knobs(ttft=0.8)),
        ({"ttft": 2}, Knobs(ttft=2.0)),
        ({"errors": "5%"}, Knobs(errors=0.05)),
        ({"errors": 0.05, "errorKind": "SSE"}, Knobs(errors=0.05, error_kind=ErrorKind.SSE)),
        ({"queue": "20ms"}, Knobs(queue_seconds=0.02)),
        ({"queue": "2s", "waiting": 7}, Knobs(queue_seconds=2.0, waiting=7)),
        ({"ready": "false"}, Knobs(ready=False)),
        ({"model": "v2", "errors": "40%"}, Knobs(model="v2", errors=0.4)),
        ({"hang": "true", "refuse": "20%"}, Knobs(hang=Hang.REQUESTS, refuse=0.2)),
        (
            {"hang": "engine", "merge": 0.3, "emptyText": "5%"},
            Knobs(hang=Hang.ENGINE, merge=0.3, empty_text=0.05),
        ),
    ],
)
def test_values_are_read_as_people_write_them(changes: dict[str, Any], expected: Knobs) -> None:
    assert apply_knobs(Knobs(), changes) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speed": 1}, "no knob 'speed'"),
        ({"errors": "150%"}, "errors: 1.5 is outside 0..1"),
        ({"errors": "NaN"}, "errors: nan is outside"),
        ({"ttft": "-150%"}, "ttft: -0.5 is outside"),
        ({"ttft": "fast"}, "ttft: 'fast' is not a number"),
        ({"ready": 1}, "ready: 1 is not true or false"),
        ({"errorKind": "418"}, "errorKind: '418' is not one of 500, sse"),
        ({"hang": "often"}, "hang: 'often' is not one of off, requests, engine"),
        ({"loraLoad": None}, "loraLoad: None is not one of"),
        ({"model": 3}, "model: 3 is not a model name"),
        ({"model": "m" * 254}, "is not a model name"),
    ],
)
def test_a_bad_value_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(KnobError, match=message.replace("+", r"\+")):
        apply_knobs(Knobs(), changes)


def test_what_is_shown_can_be_set_again() -> None:
    knobs = Knobs(ttft=1.5, errors=0.1, error_kind=ErrorKind.SSE, ready=False, waiting=3)
    assert apply_knobs(Knobs(), knobs_to_json(knobs)) == knobs


def test_a_pod_specification_survives_the_way_to_a_child_process() -> None:
    spec = PodSpec(
        name="p",
        address="127.0.0.9",
        labels={"release": "a"},
        adapters={"v1": "/v1"},
        latency=LatencyProfile(first_token=0.5),
        knobs=Knobs(errors=0.1, error_kind=ErrorKind.SSE),
    )
    assert pod_spec_from_json(json.loads(json.dumps(pod_spec_to_json(spec)))) == spec


async def test_pods_can_be_hosted_by_a_child_process(client: aiohttp.ClientSession, tmp_path: Path) -> None:
    specs = [PodSpec(name=f"p{n}", address=loopback(24, n), adapters={"v1": "/v1"}) for n in (1, 2)]
    pods = tmp_path / "pods.json"
    pods.write_text(json.dumps([pod_spec_to_json(spec) for spec in specs]))
    command = [sys.executable, "-m", "rollouts.lab.vllm", str(pods)]
    child = ChildProcess("pods", command, log_path=tmp_path / "pods.log")
    await child.start()
    await eventually(lambda: "ready" in child.log_path.read_text())
    for spec in specs:
        async with client.get(f"http://{spec.address}:8000/v1/models") as answer:
            assert len((await answer.json())["data"]) == 2
    await child.stop()

    assert child.returncode == 0
