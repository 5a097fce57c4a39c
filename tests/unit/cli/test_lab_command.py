"""`rollouts lab` before anything is started: what it refuses, what it prints of a running lab."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rollouts.cli import lab
from rollouts.cli.lab_load import told
from rollouts.cli.main import main
from rollouts.lab.gateway.likeness import GatewayLike
from rollouts.lab.traffic import Result, TrafficWindow

STATE: dict[str, Any] = {
    "pid": os.getpid(),
    "controlPlane": "in-memory",
    "kubeconfig": "/k",
    "gateway": "http://127.0.0.1:8080",
    "metrics": "http://127.0.0.1:1/metrics",
    "pickers": {"epp": "http://127.0.3.1:2/metrics"},
    "logs": "/logs",
    "pods": {"qwen-0": "http://127.0.1.10:8000"},
}


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(lab, "_DIRECTORY", tmp_path)
    file = tmp_path / "lab.json"
    file.write_text(json.dumps(STATE))
    return file


def test_adapters_cannot_be_shown_without_pickers() -> None:
    result = CliRunner().invoke(main, ["lab", "demo", "lora", "--no-pickers"])

    assert result.exit_code == 2
    assert "lora needs --pickers" in result.output


def test_capacity_is_not_told_without_the_picker_that_spares_pods() -> None:
    result = CliRunner().invoke(main, ["lab", "demo", "capacity", "--no-pickers"])

    assert result.exit_code == 2
    assert "capacity needs --pickers" in result.output


def test_a_lab_whose_pods_come_and_go_is_not_scraped_by_prometheus(state: Path) -> None:
    result = CliRunner().invoke(main, ["lab", "up", "--gpus", "9", "--prometheus"])

    assert result.exit_code == 2
    assert "not with --gpus" in result.output


def test_every_gateway_that_is_played_can_be_chosen() -> None:
    assert set(lab._LIKES) == {like.value for like in GatewayLike}


@pytest.mark.parametrize(
    ("story", "like", "words"),
    [
        ("lora", "nginx-gateway-fabric", "drops the bodies"),
        ("no-split", "istio", "chooses its gateway itself"),
    ],
)
def test_stories_that_a_gateway_cannot_tell_are_refused(story: str, like: str, words: str) -> None:
    result = CliRunner().invoke(main, ["lab", "demo", story, "--gateway-like", like])

    assert result.exit_code == 2
    assert words in result.output


def test_a_running_lab_is_not_started_twice(state: Path) -> None:
    result = CliRunner().invoke(main, ["lab", "up"])

    assert result.exit_code == 1
    assert "rollouts lab down" in result.output


@pytest.mark.parametrize("words", [("up",), ("demo", "base-model")])
def test_a_lab_without_its_checkout_says_what_it_needs_and_starts_nothing(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab, "_DIRECTORY", tmp_path / "state")
    monkeypatch.setattr(lab, "EXAMPLES", tmp_path / "examples")
    result = CliRunner().invoke(main, ["lab", *words])

    assert result.exit_code == 1
    assert "the lab runs from a checkout of the project" in result.output
    assert not (tmp_path / "state").exists()


def test_a_lab_says_where_its_pickers_and_pods_are(state: Path) -> None:
    text = lab._describe(STATE)

    assert "picker       epp http://127.0.3.1:2/metrics" in text
    assert "qwen-0 http://127.0.1.10:8000" in text
    assert "examples/lora/rollout-demo.yaml" in text
    assert "examples/base-model-capacity/rollout-demo.yaml" in lab._describe({**STATE, "gpus": 9})


@pytest.mark.parametrize(
    ("sentence", "arguments", "status", "words"),
    [
        (
            "a pod that is not there",
            ("set", "other", "errors=5%"),
            1,
            "there is no pod other; there are qwen-0",
        ),
        ("a knob without a value", ("set", "qwen-0", "errors"), 2, "write KNOB=VALUE"),
    ],
)
def test_knobs_are_checked_before_a_pod_is_asked(
    state: Path, sentence: str, arguments: tuple[str, ...], status: int, words: str
) -> None:
    result = CliRunner().invoke(main, ["lab", *arguments])

    assert result.exit_code == status, sentence
    assert words in result.output, sentence


def test_without_a_lab_there_is_nothing_to_stop_or_set(state: Path) -> None:
    state.unlink()

    assert CliRunner().invoke(main, ["lab", "down"]).output == "no lab is running\n"
    assert "rollouts lab up" in CliRunner().invoke(main, ["lab", "set", "qwen-0", "errors=5%"]).output


def test_load_says_who_answered_by_version_and_what_failed() -> None:
    def result(pod: str, model: str, *, failed: bool = False) -> Result:
        return Result(
            sent_at=0.0, seconds=0.1, first_byte_seconds=0.1, status=200, pod=pod, model=model, failed=failed
        )

    pools = [result("qwen-0", "mymodel"), result("qwen-1", "mymodel"), result("deepseek-r1-0", "mymodel")]
    lost = result("", "", failed=True)
    adapters = [result("qwen-0", "travel-helper-v1"), result("qwen-0", "travel-helper-v2")]

    assert (
        told(TrafficWindow([*pools, lost]), "mymodel")
        == "3 answered, deepseek-r1 33.3%, qwen 66.7%, 1 failed"
    )
    assert told(TrafficWindow(adapters), "travelhelper") == (
        "2 answered, travel-helper-v1 50.0%, travel-helper-v2 50.0%, 0 failed"
    )
    assert told(TrafficWindow([lost]), "mymodel") == "0 answered, 1 failed"


def test_load_needs_a_lab(state: Path) -> None:
    state.unlink()

    result = CliRunner().invoke(main, ["lab", "load", "--seconds", "1"])

    assert result.exit_code == 1
    assert "rollouts lab up" in result.output
