"""The stories of the demos, as a person starts them: real Envoy, simulated pods, the rest as processes."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path

import pytest

from rollouts.kube.client import PatchKind
from rollouts.kube.http import open_client
from rollouts.objects.workloads import WORKLOADS
from tests.kit.polling import eventually

pytestmark = [pytest.mark.gateway, pytest.mark.slow, pytest.mark.timeout(240)]


async def tell(directory: Path, story: str, *options: str) -> str:
    """Run the demo in a folder of its own; its output. A story that ends otherwise than promised fails."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "rollouts.cli",
        "lab",
        "demo",
        story,
        *options,
        cwd=directory,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"PATH": "/usr/bin:/bin", "HOME": str(directory), "COLUMNS": "200"},
    )
    output, _ = await process.communicate()
    text = output.decode()
    assert process.returncode == 0, text
    return text


def shares(text: str) -> list[tuple[float, int]]:
    """(percent, requests) that clients saw, at each weight in turn."""
    return [(float(p), int(n)) for p, n in re.findall(r"clients saw ([0-9.]+)% of (\d+)", text)]


async def test_a_good_canary_goes_to_100_percent_and_clients_see_each_weight(tmp_path):
    text = await tell(tmp_path, "base-model")

    seen = shares(text)[-3:]
    assert seen[0][1] >= 2500  # so many that chance alone leaves the bounds once in a thousand runs or less
    assert [want / 2 <= share <= want * 2 for (share, _), want in zip(seen, (1, 10, 50), strict=True)] == [
        True
    ] * 3
    assert "the canary was promoted" in text
    assert re.search(r"^mymodel +Healthy +6/6 +100% +mymodel-pool-v2 ", text, re.MULTILINE)


async def test_a_bad_canary_is_aborted_and_the_message_says_why(tmp_path):
    text = await tell(tmp_path, "base-model", "--bad")

    assert "the bad canary was aborted" in text
    assert re.search(r"clients now see 0 of \d+ answered by v2", text)
    assert re.search(r"Aborted mymodel-pool-v2 .* error-guard = 0\.\d+ \(result > 0\.20\)", text)


def exact_shares(text: str) -> list[tuple[int, int, float]]:
    """(requests of the canary, all, how many off) among requests without a session, at each weight in turn."""
    found = re.findall(r"(\d+) of (\d+) requests without a session \([0-9.]+%, ([0-9.]+) off\)", text)
    return [(int(canary), int(total), float(off)) for canary, total, off in found]


async def test_a_good_adapter_gets_exact_shares_and_no_session_goes_back(tmp_path):
    text = await tell(tmp_path, "lora")

    seen = exact_shares(text)
    assert [round(100 * canary / total, -1) for canary, total, _ in seen] == [10, 10, 50]
    assert all(off <= 2 for _, _, off in seen)
    assert re.search(r"sessions +0 of \d{3} went back to travel-helper-v1 while the share grew", text)
    assert re.search(r"clients now see (\d+) of \1 answered by travel-helper-v2", text)
    assert "the canary was promoted" in text


async def test_a_bad_adapter_is_aborted_and_everybody_is_back_within_two_seconds(tmp_path):
    text = await tell(tmp_path, "lora", "--bad")

    took = re.search(r"last request that reached travel-helper-v2 was sent ([0-9.]+) s after", text)
    assert took is not None
    assert float(took.group(1)) <= 2
    assert re.search(r"[1-9]\d* requests sent later than 2 s after it all went to travel-helper-v1", text)
    assert re.search(r"Aborted travel-helper-v2 .* error", text)
    assert '[{"name":"travel-helper-v1","weight":100}]' in text or "kubectl is not installed here" in text
    assert "the bad canary was aborted" in text


@pytest.mark.full
async def test_where_one_picker_serves_a_whole_rule_the_canarys_is_waited_for(tmp_path):
    text = await tell(tmp_path, "one-picker")

    assert "WaitingForTarget" in text
    assert "no request failed, and the canary was promoted" in text


@pytest.mark.full
@pytest.mark.timeout(420)
async def test_a_split_that_is_never_programmed_is_found_and_taken_back(tmp_path):
    text = await tell(tmp_path, "no-split")

    assert "ShareNotProgrammed" in text
    assert "the split was found not to be programmed, and all is stable's again" in text


@pytest.mark.full
@pytest.mark.parametrize("clients", ["leave", "stay"])
async def test_engines_that_stop_behind_healthy_pods_are_found_by_what_users_lost(tmp_path, clients):
    text = await tell(tmp_path, "analysis", "--hang", clients)

    stopped = re.search(r"^ *([0-9.]+)s +\$ kill -STOP <engine of deepseek-r1-1>", text, re.MULTILINE)
    aborted = re.search(
        r"^ *([0-9.]+)s +Aborted .*lost-rate: the canary is shown to be worse", text, re.MULTILINE
    )
    assert stopped is not None
    assert aborted is not None
    assert float(aborted.group(1)) - float(stopped.group(1)) <= 120
    assert re.search(r"Fail +lost-rate: ", text)
    assert not re.search(r"Fail +error-rate: ", text)  # no pod ever answered 5xx
    assert re.search(
        r"^Judged .*^ +lost-rate: the canary is shown to be worse", text, re.MULTILINE | re.DOTALL
    )
    assert re.search(r"clients now see 0 of \d+ answered by v2", text)
    assert "the bad canary was aborted" in text


@pytest.mark.full
async def test_a_story_ends_well_on_a_gateway_that_reports_seconds_late(tmp_path):
    text = await tell(tmp_path, "base-model", "--gateway-like", "late-status")

    assert "was promoted" in text


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("plane", ["memory", "real"])
async def test_a_fleet_moves_to_a_new_model_within_its_gpus_and_no_stream_is_cut(tmp_path, plane):
    text = await tell(tmp_path, "capacity", "--control-plane", plane)

    assert re.search(r"streams +[1-9]\d* of twenty seconds and [1-9]\d* short ones; 0 cut", text)
    assert re.search(r"GPUs +\d+ of \d+ +v1 none +v2 8 Ready", text)
    assert "the canary was promoted" in text


@pytest.mark.full
@pytest.mark.timeout(900)
async def test_a_bad_canary_gives_its_gpus_back_and_a_plan_that_cannot_be_met_says_why(tmp_path):
    text = await tell(tmp_path, "capacity", "--bad")

    assert re.search(r"waits: .* set maxSurge to \d", text)
    assert re.search(r"streams +[1-9]\d* of twenty seconds and [1-9]\d* short ones; 0 cut", text)
    assert re.search(r"GPUs +8 of \d+ +v1 8 Ready +v2 none", text)
    assert "the bad canary was aborted" in text


async def lab(directory: Path, *arguments: str) -> str:
    """Run ``rollouts lab`` with its state in a folder of its own; its output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "rollouts.cli",
        "lab",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"PATH": "/usr/bin:/bin", "HOME": str(directory), "XDG_CACHE_HOME": str(directory)},
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


@pytest.mark.full
async def test_a_lab_with_gpus_has_one_to_spare_and_names_its_pods_as_they_come(tmp_path):
    state = json.loads(await lab(tmp_path, "up", "--gpus", "3", "--pod-startup", "1", "-o", "json"))
    try:
        assert [name.startswith("vllm-qwen-") for name in state["pods"]] == [True, True]
        async with await open_client(state["kubeconfig"]) as client:
            patch = {"spec": {"replicas": 1}}
            await client.patch(
                WORKLOADS["Deployment"],
                "default",
                "vllm-deepseek-r1",
                patch,
                kind=PatchKind.MERGE,
                subresource="scale",
            )

        def named() -> str:
            pods = json.loads((tmp_path / "inference-rollouts" / "lab" / "lab.json").read_text())["pods"]
            return next((name for name in pods if name.startswith("vllm-deepseek-r1-")), "")

        pod = await eventually(named, timeout=60, every=0.1)
        assert '"errors":0.05' in await lab(tmp_path, "set", pod, "errors=5%")
    finally:
        await lab(tmp_path, "down")
