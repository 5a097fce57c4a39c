"""A short kill-and-edit run against a real kube-apiserver; ``make edits`` is the long one."""

from __future__ import annotations

import pytest

from benchmarks.controller.edits import run
from benchmarks.controller.judging import judge

pytestmark = [pytest.mark.full, pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.mark.parametrize("seed", [1, 2])
async def test_nothing_is_violated_while_controllers_die_and_everybody_edits(seed: int) -> None:
    history, counts = await run(seconds=60.0, rollouts=9, seed=seed)

    assert counts["edits"]
    assert judge(history) == []
