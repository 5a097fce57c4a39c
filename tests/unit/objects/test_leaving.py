"""Which pods go: what a ReplicaSet's controller would delete, by its own rules, are those that were marked."""

from __future__ import annotations

from functools import cmp_to_key
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollouts.objects.leaving import (
    BUSY,
    COST_ANNOTATION,
    IDLE,
    cost_of,
    is_mixed,
    leaving,
    marked_by,
    marking,
    members,
    unmarking,
)
from rollouts.objects.pods import DRAINING_ANNOTATION
from rollouts.objects.workloads import WORKLOADS, Workload

Object = dict[str, Any]


def workload(kind: str = "Deployment", name: str = "v1", first: int = 0) -> Workload:
    return Workload(
        resource=WORKLOADS[kind], name=name, replicas=3, resource_version="1", owner="", first_ordinal=first
    )


def pod(
    name: str,
    *,
    owner: tuple[str, str] | None = ("ReplicaSet", "v1-abc"),
    template: str = "abc",
    node: str = "n1",
    phase: str = "Running",
    ready: bool = True,
    annotations: Object | None = None,
    **meta: Any,
) -> Object:
    owners = [{"kind": owner[0], "name": owner[1], "controller": True}] if owner else []
    labels = {"pod-template-hash": template} if template else {}
    return {
        "metadata": {
            "name": name, "uid": name, "labels": labels, "ownerReferences": owners,
            "annotations": annotations or {}, **meta,
        },
        "spec": {"nodeName": node} if node else {},
        "status": {
            "phase": phase,
            "podIP": "10.0.0.1" if phase == "Running" else None,
            "conditions": [{"type": "Ready", "status": str(ready)}],
        },
    }  # fmt: skip


def test_only_pods_of_the_workload_are_members() -> None:
    pods = [
        pod("mine"),
        pod("bare", owner=None),
        pod("of another", owner=("ReplicaSet", "v2-abc")),
        pod("of a namesake's longer name", owner=("ReplicaSet", "v1-abc-abc")),
        pod("without the hash", template=""),
        pod("of a job", owner=("Job", "v1-abc")),
        pod("going", deletionTimestamp="2026-01-01T00:00:00Z"),
        pod("over", phase="Succeeded"),
        pod("evicted", phase="Failed"),
        pod("late", phase="Pending", node="", ready=False),
    ]

    assert [one["metadata"]["name"] for one in members(pods, workload())] == ["mine", "late"]


def test_members_of_a_statefulset_are_owned_by_it() -> None:
    pods = [pod("v1-0", owner=("StatefulSet", "v1")), pod("v1-1"), pod("v2-0", owner=("StatefulSet", "v2"))]

    assert [one["metadata"]["name"] for one in members(pods, workload("StatefulSet"))] == ["v1-0"]


@pytest.mark.parametrize(
    ("to", "first", "want"),
    [
        (2, 0, ["v1-10", "v1-9", "v1-2"]),
        (0, 1, ["v1-10", "v1-9", "v1-2", "v1-1"]),
        (11, 0, []),
        (8, 2, ["v1-10"]),
    ],
)
def test_a_statefulset_loses_its_highest_ordinals(to: int, first: int, want: list[str]) -> None:
    pods = [pod(f"v1-{n}", owner=("StatefulSet", "v1")) for n in (1, 10, 2, 9)]
    going = leaving(pods, workload("StatefulSet", first=first), to, "demo", {"v1-1": 0})

    assert [one.name for one in going] == want


def test_the_idlest_go_and_those_chosen_before_stay_chosen() -> None:
    pods = [pod(name) for name in "abcd"]
    first = leaving(pods, workload(), 2, "demo", {"a": 3, "b": 1, "c": 0})
    for one in first:
        one.pod["metadata"]["annotations"].update(marking(one.pod, "demo", BUSY))  # type: ignore[index]
    again = leaving(pods, workload(), 2, "demo", {"a": 0, "b": 9, "c": 9, "d": 0})

    assert {one.name for one in first} == {"b", "c"}
    assert {one.name for one in again} == {"b", "c"}


def test_pods_that_do_not_say_count_as_the_busiest_and_those_of_others_come_last() -> None:
    pods = [pod("a"), pod("b"), pod("c", annotations={DRAINING_ANNOTATION: "true"}), pod("d")]
    order = [leaving(pods, workload(), 4 - n, "demo", {"a": 7, "c": 0})[-n:] for n in (1, 2, 3)]

    assert [{one.name for one in some} for some in order] == [{"a"}, {"a", "b"}, {"a", "b", "d"}]


def test_several_replicasets_are_told() -> None:
    pods = [pod("a"), pod("b", owner=("ReplicaSet", "v1-def"), template="def")]

    assert is_mixed(pods, workload())
    assert not is_mixed(pods[:1], workload())
    assert not is_mixed(pods, workload("StatefulSet"))


@pytest.mark.parametrize(
    ("text", "cost"),
    [("5", 5), ("-2147483648", IDLE), ("2147483648", 0), ("+5", 0), ("", 0), ("5.0", 0), ("٣", 0)],
)
def test_a_cost_is_read_as_the_replicaset_reads_it(text: str, cost: int) -> None:
    assert cost_of(pod("a", annotations={COST_ANNOTATION: text})) == cost


@pytest.mark.parametrize("before", [{}, {COST_ANNOTATION: "100"}, {COST_ANNOTATION: "-7", "other": "x"}])
@pytest.mark.parametrize("cost", [BUSY, IDLE, None])
def test_a_mark_that_is_taken_off_leaves_what_was_there(before: Object, cost: int | None) -> None:
    one = pod("a", annotations=dict(before))
    annotations = one["metadata"]["annotations"]
    annotations.update(marking(one, "demo", cost))
    settled = marking(one, "demo", cost)
    annotations.update(marking(one, "demo", cost and (BUSY + IDLE - cost)))
    marked = marked_by(one)
    for name, value in unmarking(one).items():
        annotations.pop(name) if value is None else annotations.update({name: value})

    assert (settled, marked, annotations) == ({}, "demo", before)


@pytest.mark.parametrize(
    "value", ["true", "Rollout other", "Rollout demo!", "Rollout demo; pod-deletion-cost was x"]
)
def test_what_others_wrote_is_neither_ours_nor_touched(value: str) -> None:
    one = pod("a", annotations={DRAINING_ANNOTATION: value})

    assert marked_by(one) != "demo"
    assert marking(one, "demo", BUSY) == {}


def test_a_cost_that_somebody_changed_meanwhile_is_theirs() -> None:
    one = pod("a", annotations={DRAINING_ANNOTATION: "Rollout demo", COST_ANNOTATION: "3"})

    assert unmarking(one) == {DRAINING_ANNOTATION: None}


# --- against the rules of the ReplicaSet's controller, written down once more ---

_PHASES = {"Pending": 0, "Unknown": 1, "Running": 2}


def upstream_less(one: Object, other: Object) -> int:
    """``ActivePodsWithRanks.Less`` up to costs; ties go whichever way, here by name against us."""
    nodes = [bool(pod["spec"].get("nodeName")) for pod in (one, other)]
    if nodes[0] != nodes[1]:
        return -1 if not nodes[0] else 1
    phases = [_PHASES[pod["status"]["phase"]] for pod in (one, other)]
    if phases[0] != phases[1]:
        return phases[0] - phases[1]
    ready = [pod["status"]["conditions"][0]["status"] == "True" for pod in (one, other)]
    if ready[0] != ready[1]:
        return -1 if not ready[0] else 1
    costs = [int(pod["metadata"]["annotations"].get(COST_ANNOTATION, "0")) for pod in (one, other)]
    if costs[0] != costs[1]:
        return costs[0] - costs[1]
    return 1 if one["metadata"]["name"] < other["metadata"]["name"] else -1


STATES = st.tuples(
    st.sampled_from([("", "Pending", False), ("n1", "Pending", False), ("n1", "Running", False)])
    | st.just(("n1", "Running", True)),
    st.sampled_from([None, "100", "-5"]),
    st.integers(0, 5) | st.none(),
)


@given(states=st.lists(STATES, min_size=1, max_size=7), to=st.integers(0, 7), data=st.data())
@settings(max_examples=150, deadline=None)
def test_what_is_marked_is_what_the_controller_deletes(states: Any, to: int, data: st.DataObject) -> None:
    pods, requests = [], {}
    for number, ((node, phase, ready), cost, count) in enumerate(states):
        annotations = {} if cost is None else {COST_ANNOTATION: cost}
        pods.append(pod(f"p{number}", node=node, phase=phase, ready=ready, annotations=annotations))
        if count is not None:
            requests[f"p{number}"] = count
    going = leaving(pods, workload(), to, "demo", requests)
    for one in going:
        idle = data.draw(st.booleans())
        one.pod["metadata"]["annotations"].update(marking(one.pod, "demo", IDLE if idle else BUSY))  # type: ignore[index]
    deleted = sorted(pods, key=cmp_to_key(upstream_less))[: max(0, len(pods) - to)]
    again = leaving(pods, workload(), to, "demo", {name: 9 - count for name, count in requests.items()})

    assert {one["metadata"]["name"] for one in deleted} == {one.name for one in going}
    assert {one.name for one in again} == {one.name for one in going}
    # A part of them, whole ranks in their order, is deleted first as well.
    for rank in {one.rank for one in again}:
        part = {one.name for one in again if one.rank <= rank}
        assert {one["metadata"]["name"] for one in deleted[: len(part)]} == part
