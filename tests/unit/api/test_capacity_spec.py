"""``strategy.canary.capacity`` as it is written, and what is wrong with it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from rollouts.api.parsing import parse_rollout
from rollouts.engine.rollout_spec import (
    AbortSpeed,
    Capacity,
    CompanionPool,
    LoserPolicy,
    PodCount,
    WarmUp,
)

PATH = "spec.strategy.canary.capacity"


def rollout(capacity: Any, **target: Any) -> dict[str, Any]:
    adapter = "adapter" in target
    traffic = {"inferenceModel": {"name": "m"}} if adapter else {"httpRoutes": [{"name": "r"}]}
    return {
        "metadata": {"name": "demo", "namespace": "default"},
        "spec": {
            "target": target or {"pool": {"name": "v2"}},
            "traffic": traffic,
            "strategy": {"canary": {"steps": [{"setWeight": 10}], "capacity": capacity}},
        },
    }


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (None, None),
        ({}, Capacity()),
        ({"maxSurge": 3}, Capacity(max_surge=PodCount(number=3))),
        ({"maxSurge": "125%"}, Capacity(max_surge=PodCount(number=125, percent=True))),
        ({"minStable": 1}, Capacity(min_stable=PodCount(number=1))),
        (
            {"minStable": "50%", "abort": "Immediate"},
            Capacity(min_stable=PodCount(number=50, percent=True), abort=AbortSpeed.IMMEDIATE),
        ),
        ({"headroom": 0.5, "minReplicas": 2}, Capacity(headroom=0.5, min_replicas=2)),
        (
            {"drainTimeout": "1h", "scaleDown": {"delay": "0s", "to": 2}},
            Capacity(drain_timeout=timedelta(hours=1), scale_down_delay=timedelta(0), scale_down_to=2),
        ),
        ({"scaleDown": {}}, Capacity()),
        (
            {"with": [{"pool": "p2"}, {"pool": "p1", "of": "v1", "role": "prefill"}]},
            Capacity(
                companions=(CompanionPool(pool="p2"), CompanionPool(pool="p1", of="v1", role="prefill"))
            ),
        ),
        ({"warmUp": {}}, Capacity(warm_up=WarmUp(requests=20, concurrency=2))),
        (
            {"warmUp": {"requests": 4, "concurrency": 4, "prompts": {"configMap": "c", "key": "k"}}},
            Capacity(warm_up=WarmUp(requests=4, concurrency=4, config_map="c", key="k")),
        ),
    ],
    ids=repr,
)
def test_what_is_written_is_read(written: Any, read: Capacity | None) -> None:
    parsed = parse_rollout(rollout(written))

    assert parsed.problems == ()
    assert parsed.spec is not None
    assert parsed.spec.canary.capacity == read


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ({"maxSurge": -1}, f"{PATH}.maxSurge"),
        ({"maxSurge": 100_001}, f"{PATH}.maxSurge"),
        ({"maxSurge": "25"}, f"{PATH}.maxSurge"),
        ({"maxSurge": "2.5%"}, f"{PATH}.maxSurge"),
        ({"maxSurge": "12345%"}, f"{PATH}.maxSurge"),
        ({"maxSurge": "-5%"}, f"{PATH}.maxSurge"),
        ({"minStable": -1}, f"{PATH}.minStable"),
        ({"minStable": "half"}, f"{PATH}.minStable"),
        ({"abort": "Slowly"}, f"{PATH}.abort"),
        ({"headroom": 0}, f"{PATH}.headroom"),
        ({"headroom": 11}, f"{PATH}.headroom"),
        ({"headroom": 0.4}, f"{PATH}.headroom"),
        ({"minReplicas": 0}, f"{PATH}.minReplicas"),
        ({"drainTimeout": "soon"}, f"{PATH}.drainTimeout"),
        ({"scaleDown": {"delay": "-1s"}}, f"{PATH}.scaleDown.delay"),
        ({"scaleDown": {"to": -1}}, f"{PATH}.scaleDown.to"),
        ({"warmUp": {"requests": 0}}, f"{PATH}.warmUp.requests"),
        ({"warmUp": {"requests": 1001}}, f"{PATH}.warmUp.requests"),
        ({"warmUp": {"concurrency": 17}}, f"{PATH}.warmUp.concurrency"),
        ({"warmUp": {"requests": 1}}, f"{PATH}.warmUp.concurrency"),
        ({"warmUp": {"prompts": {"configMap": "c"}}}, f"{PATH}.warmUp.prompts.key"),
        ({"warmUp": {"prompts": {"configMap": "c", "key": "a/b"}}}, f"{PATH}.warmUp.prompts.key"),
        ({"with": [{"pool": ""}]}, f"{PATH}.with[0].pool"),
        ({"with": [{"pool": "p"}, {"pool": "p", "of": "v1"}]}, f"{PATH}.with[1].pool"),
        ({"with": [{"pool": "p", "of": "p"}]}, f"{PATH}.with[0].of"),
        ({"with": [{"pool": "v2"}]}, f"{PATH}.with[0].pool"),
        ({"with": [{"pool": "p", "role": "a b"}]}, f"{PATH}.with[0].role"),
        ([], PATH),
    ],
    ids=repr,
)
def test_what_is_wrong_is_named_with_its_place(written: Any, path: str) -> None:
    problems = parse_rollout(rollout(written)).problems

    assert [problem.message.split()[0].rstrip(":") for problem in problems] == [path]


def test_adapters_have_no_workload_of_their_own() -> None:
    problems = parse_rollout(rollout({}, adapter={"name": "a2"})).problems

    assert [problem.message for problem in problems] == [
        f"{PATH} needs target.pool or target.llmInferenceService: adapters and variants share one pool's pods"
    ]


FILLED = {
    "minStable": "100%",
    "abort": "AsCapacityAllows",
    "headroom": 1,
    "minReplicas": 1,
    "drainTimeout": "30m",
    "scaleDown": {"delay": "5m", "to": 0},
}
"""As an API server fills it in."""


@pytest.mark.parametrize("written", [{"scaleDown": {"delay": "5m"}}, FILLED])
def test_of_an_llm_inference_service_it_says_when_what_lost_is_stopped(written: Any) -> None:
    parsed = parse_rollout(service(written))

    assert parsed.problems == ()
    assert parsed.spec is not None
    assert parsed.spec.canary.capacity is None
    assert parsed.spec.canary.stop == LoserPolicy(delay=timedelta(minutes=5))
    assert parsed.spec.canary.loser == parsed.spec.canary.stop


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ({}, "needs scaleDown, which stops what lost: write capacity: {scaleDown: {delay: 10m}}"),
        ({"drainTimeout": "5m"}, "needs scaleDown, which stops what lost"),
        ({"scaleDown": {"to": 1}}, f"{PATH}.scaleDown.to of an llmInferenceService is 0"),
        ({"scaleDown": {}, "maxSurge": 1}, f"{PATH}.maxSurge is not for an llmInferenceService"),
        ({"scaleDown": {}, "minStable": "50%"}, f"{PATH}.minStable is not for"),
        ({"scaleDown": {}, "abort": "Immediate"}, f"{PATH}.abort is not for"),
        ({"scaleDown": {}, "headroom": 2}, f"{PATH}.headroom is not for"),
        ({"scaleDown": {}, "minReplicas": 2}, f"{PATH}.minReplicas is not for"),
        ({"scaleDown": {}, "warmUp": {}}, f"{PATH}.warmUp is not for"),
    ],
    ids=repr,
)
def test_what_kserve_does_itself_is_refused_with_the_line_to_write(written: Any, words: str) -> None:
    (problem,) = parse_rollout(service(written)).problems

    assert words in problem.message


def service(capacity: Any) -> dict[str, Any]:
    found = rollout(capacity)
    found["spec"]["target"] = {"llmInferenceService": {"name": "v2"}}
    found["spec"]["traffic"] = {"llmInferenceServiceGroup": {"group": "mymodel"}}
    return found
