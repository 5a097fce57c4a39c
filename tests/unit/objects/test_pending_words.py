"""What the scheduler says of a Pod that no node takes, as people are told."""

from __future__ import annotations

import pytest

from rollouts.objects.pods import pending_words
from tests.kit.workloads import looks

REASONS = "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) were unschedulable."
TAINT = "1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }"


def refused(message: str) -> dict[str, object]:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return {"status": {"conditions": [condition]}}


def test_all_that_the_real_scheduler_said_is_told_as_its_reasons_alone() -> None:
    said = {
        one["message"]
        for seen in looks().values()
        for pod in seen["pods"]
        for one in pod["scheduled"]
        if one["status"] == "False"
    }

    assert len(said) >= 2
    assert {pending_words(refused(message)) for message in said} == {REASONS}


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (f"0/1 nodes are available: {TAINT}. preemption: none.", f"0/1 nodes are available: {TAINT}."),
        ("no nodes available to schedule pods", "no nodes available to schedule pods"),
        ("", ""),
    ],
)
def test_its_first_sentence_is_told(message: str, told: str) -> None:
    assert pending_words(refused(message)) == told
