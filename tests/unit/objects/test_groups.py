"""Groups of a LeaderWorkerSet as units."""

from __future__ import annotations

from typing import Any

import pytest

from rollouts.objects.groups import group_of, group_size, is_whole, is_worker, units
from rollouts.objects.workloads import pod_labels
from tests.kit.groups import group, plain_pod


def ready(pod: Any, said: str = "True") -> Any:
    return {**pod, "status": {**pod["status"], "conditions": [{"type": "Ready", "status": said}]}}


def test_a_group_counts_as_one() -> None:
    pods = [
        *group("vllm", 0, 3),
        *group("vllm", 1, 3)[1:],
        *group("other", 0, 1),
        plain_pod("a"),
        plain_pod("b"),
    ]

    assert units(pods) == 5
    assert units([]) == 0


def test_who_leads_and_who_works() -> None:
    leader, worker = group("vllm", 2, 2)

    assert [is_worker(pod) for pod in (leader, worker, plain_pod("a"))] == [False, True, False]
    assert [group_of(pod) for pod in (leader, worker, plain_pod("a"))] == [("vllm", "2"), ("vllm", "2"), None]


@pytest.mark.parametrize(
    ("sentence", "size", "states", "whole"),
    [
        ("all workers are Ready", "3", ["True", "True"], True),
        ("one is not", "3", ["True", "False"], False),
        ("one was not made yet", "3", ["True"], False),
        ("a leader alone", "1", [], True),
        ("nobody says how many", "", [], True),
        ("what is no size", "many", [], True),
        ("no number that could be one", "99999", [], True),
    ],
)
def test_a_group_is_whole_when_all_of_its_workers_are_ready(
    sentence: str, size: str, states: list[str], whole: bool
) -> None:
    leader, *workers = group("vllm", 0, len(states) + 1)
    leader["metadata"]["annotations"] = {"leaderworkerset.sigs.k8s.io/size": size} if size else None
    pods = [ready(pod, said) for pod, said in zip(workers, states, strict=True)]

    assert is_whole(leader, [leader, *pods, *map(ready, group("vllm", 1, 4)), ready(plain_pod("a"))]) is whole


def test_a_worker_that_ends_is_not_ready_and_one_twice_is_one() -> None:
    leader, first, second = map(ready, group("vllm", 0, 3))
    ending = {**second, "metadata": {**second["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}}

    assert group_size(leader) == 3
    assert not is_whole(leader, [first, ending])
    assert not is_whole(leader, [first, first])
    assert is_whole(leader, [first, second])


LABELS = {"metadata": {"labels": {"app": "v1"}}}
NAMED = {"leaderworkerset.sigs.k8s.io/name": "vllm", "leaderworkerset.sigs.k8s.io/worker-index": "0"}


@pytest.mark.parametrize(
    ("spec", "want"),
    [
        ({"template": LABELS}, {"app": "v1"}),
        ({"leaderWorkerTemplate": {"workerTemplate": LABELS}}, {"app": "v1", **NAMED}),
        ({"leaderWorkerTemplate": {"leaderTemplate": LABELS, "workerTemplate": {}}}, {"app": "v1", **NAMED}),
        ({"leaderWorkerTemplate": {"leaderTemplate": {}, "workerTemplate": LABELS}}, NAMED),
        ({"leaderWorkerTemplate": {"size": 2}}, NAMED),
        ({"leaderWorkerTemplate": "?"}, {}),
    ],
)
def test_labels_of_leaders(spec: Any, want: dict[str, str]) -> None:
    assert pod_labels({"metadata": {"name": "vllm"}, "spec": spec}) == want
