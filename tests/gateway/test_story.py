"""The two stories of `make demo`, as a person starts them: real Envoy, simulated pods, the controller as a process."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.gateway, pytest.mark.slow, pytest.mark.timeout(240)]


async def tell(directory: Path, *options: str) -> str:
    """Run the demo in a folder of its own; its output. A story that ends otherwise than promised fails."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "rollouts.cli",
        "lab",
        "demo",
        "base-model",
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
    text = await tell(tmp_path)

    seen = shares(text)[-3:]
    assert [want / 2 <= share <= want * 2 for (share, _), want in zip(seen, (1, 10, 50), strict=True)] == [
        True
    ] * 3
    assert "the canary was promoted" in text
    assert re.search(r"^mymodel +Healthy +6/6 +100% +mymodel-pool-v2 ", text, re.MULTILINE)


async def test_a_bad_canary_is_aborted_and_the_message_says_why(tmp_path):
    text = await tell(tmp_path, "--bad")

    assert "the bad canary was aborted" in text
    assert re.search(r"clients now see 0 of \d+ answered by v2", text)
    assert re.search(r"Aborted mymodel-pool-v2 .* error-guard = 0\.\d+ \(result > 0\.20\)", text)
