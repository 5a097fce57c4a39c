"""Pods of the arms as people see them: in ``get``, in columns, and in ``explain`` with the scheduler's words."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from rollouts.cli.arm_pods import PodsSeen, pods_line, pods_seen
from rollouts.cli.explain import explanation
from rollouts.cli.render import rollout_view, summary
from rollouts.cli.shown_pods import arm_counts, gpu_hours, pods_brief
from rollouts.cli.table import rollout_table
from tests.kit.served import ROLLOUT
from tests.unit.cli.test_gate_rows import lines

NOW = datetime(2026, 11, 29, 9, 6, 30, tzinfo=UTC)
WORDS = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available: 3 No victims."
STATUS: dict[str, Any] = {
    "phase": "Progressing",
    "stable": {"kind": "InferencePool", "name": "v1", "hash": "a" * 64},
    "canary": {"kind": "InferencePool", "name": "v2", "hash": "b" * 64},
    "capacity": {"stableAtStart": 8, "wanted": 4, "ready": 2, "pending": 2},
}
LENT = {"name": "v1", "full": 8, "wanted": 6, "ready": 7, "most": 9}
DRAIN = {"name": "v1", "replicas": 7, "to": 6, "message": "1 pod answers 3 requests"}


def pod(
    name: str, *, ready: bool = False, words: str = "", ends: bool = False, phase: str = "Pending"
) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": "True"}] if ready else []
    if words:
        at = "2026-11-29T09:00:00Z"
        conditions.append(
            {"type": "PodScheduled", "status": "False", "message": words, "lastTransitionTime": at}
        )
    meta = {"name": name, **({"deletionTimestamp": "2026-11-29T09:00:00Z"} if ends else {})}
    return {"metadata": meta, "status": {"phase": phase, "podIP": "10.0.0.1", "conditions": conditions}}


def test_each_pod_counts_once():
    seen = pods_seen(
        [
            pod("a", ready=True),
            pod("b", words=WORDS),
            pod("c", words=WORDS),
            pod("d"),
            pod("e", ready=True, ends=True),
            pod("f", phase="Failed"),
        ]
    )

    assert (seen.ready, seen.pending, seen.starting, seen.ending) == (1, 2, 1, 1)
    assert seen.since == datetime(2026, 11, 29, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("pods", "wanted", "line"),
    [
        (
            [pod("a", ready=True), pod("b", ready=True), pod("c", words=WORDS), pod("d", words=WORDS)],
            4,
            "v2 waits for 2 of 4 pods: 2 Pending, 3 Insufficient nvidia.com/gpu, for 6 minutes.",
        ),
        ([pod("a")], 2, "v2 waits for 2 of 2 pods: 1 starting."),
        ([pod("a", ready=True), pod("b", ends=True)], 1, "v2 has 1 Ready pod: 1 ending."),
        ([pod("a", ready=True), pod("b", ready=True)], None, "v2 has 2 Ready pods."),
    ],
)
def test_what_is_waited_for_is_one_sentence(pods, wanted, line):
    assert pods_line("v2", pods_seen(pods), wanted, NOW) == line


def test_a_status_tells_each_arm():
    status = {
        **STATUS,
        "stableScale": LENT,
        "drains": [DRAIN],
        "scaleDowns": [{"name": "v0", "message": "drains"}],
    }

    assert [(one.role, one.name, one.words) for one in arm_counts(status)] == [
        ("canary", "v2", "2 of 4 Ready, 2 Pending"),
        ("stable", "v1", "7 of 6 Ready, 1 draining; 1 pod answers 3 requests"),
        ("lost", "v0", "drains"),
    ]
    assert pods_brief(status) == "2/4 (2 Pending)"
    assert (list(arm_counts({})), pods_brief({})) == ([], "-")


@pytest.mark.parametrize(
    "broken", [{"capacity": 3}, {"capacity": {"wanted": "x"}, "drains": ["x"], "stableScale": []}]
)
def test_what_somebody_scribbled_is_not_there(broken):
    assert [one.wanted for one in arm_counts({**STATUS, **broken})] in ([], [0, None])


def test_get_and_its_wide_table_have_the_pods():
    obj = {**ROLLOUT, "status": STATUS}
    one = "\n".join(lines(rollout_view(obj, [])))
    table = lines(rollout_table([obj, {**ROLLOUT, "status": {"phase": "Healthy"}}], wide=True))

    assert "Pods     canary v2: 2 of 4 Ready, 2 Pending" in one
    assert "         stable v1: 8 at the start" in one
    assert "PODS" in table[0]
    assert "2/4 (2 Pending)" in table[1]


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (STATUS, ["canary v2 waits for 2 of 4 pods: 2 Pending.", "stable v1: 8 at the start"]),
        ({**STATUS, "capacity": None}, ["canary v2 has 2 Ready pods: 2 Pending."]),
    ],
)
def test_explain_goes_by_the_pods_that_are_there(status, told):
    found = explanation({**ROLLOUT, "status": status}, [], NOW, pods={"v2": PodsSeen(ready=2, pending=2)})

    assert [text for head, text in found if head == "Pods"] == told


USE = {"attempt": 3, "seconds": 3600, "extraSeconds": 0, "held": 9, "own": 8, "since": "2026-11-29T09:00:30Z"}


def test_gpu_hours_go_on_with_what_is_held():
    obj = {**ROLLOUT, "status": {**STATUS, "accelerators": USE}}
    words = "1.90 in attempt 3, 0.10 of them beyond stable's own; 9 GPUs are held"

    assert f"GPU-hours  {words}" in "\n".join(lines(rollout_view(obj, [], NOW)))
    assert ("GPU-hours", f"{words}.") in explanation(obj, [], NOW)
    assert [summary(obj, NOW)[name] for name in ("gpuHours", "extraGpuHours")] == [1.9, 0.1]


def test_gpu_hours_that_are_over_stay_as_they_were():
    over = gpu_hours({"accelerators": {"attempt": 1, "seconds": 1800, "since": "x"}}, NOW)

    assert over is not None
    assert over.words == "0.50 in attempt 1, 0.00 of them beyond stable's own"
    assert gpu_hours({"accelerators": {"held": 1, "since": "x"}}, NOW) is not None
    assert summary({**ROLLOUT, "status": STATUS})["gpuHours"] is None


def test_an_aborted_canary_wants_no_pods():
    aborted = {**STATUS, "phase": "Aborted", "aborted": {"reason": "GateFailed"}}
    obj = {**ROLLOUT, "status": aborted}

    assert [one.words for one in arm_counts(aborted)] == ["aborted, wants no pods", "8 at the start"]
    assert pods_brief(aborted) == "-"
    told = [
        line for head, line in explanation(obj, [], NOW, pods={"v2": PodsSeen(ready=0)}) if head == "Pods"
    ]
    assert told == ["canary v2 has 0 Ready pods. aborted, wants no pods", "stable v1: 8 at the start"]


def test_companions_stand_beside_their_versions():
    beside = {
        "role": "prefill",
        "stable": {"kind": "InferencePool", "name": "prefill-v1"},
        "canary": {"kind": "InferencePool", "name": "prefill-v2"},
        "stableAtStart": 4,
        "wanted": 2,
        "ready": 1,
        "pending": 1,
    }
    status = {**STATUS, "capacity": {**STATUS["capacity"], "companions": [beside]}}
    told = {f"{one.role} {one.name}": one.words for one in arm_counts(status)}

    assert told["canary's prefill prefill-v2"] == "1 of 2 Ready, 1 Pending"
    assert told["stable's prefill prefill-v1"] == "4 at the start"
    assert pods_brief(status) == "2/4 (2 Pending)"
    aborted = {**status, "aborted": {"reason": "GateFailed"}}
    assert not any("prefill" in one.role for one in arm_counts(aborted))
