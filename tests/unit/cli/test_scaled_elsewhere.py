"""What is known ahead of an autoscaler beside a plan that takes pods from stable, as the engine has it."""

from __future__ import annotations

from typing import Any

import pytest

from rollouts.api.status import write_status
from rollouts.cli.scaled_elsewhere import nothing_given
from rollouts.engine.rollout_spec import Capacity, PodCount
from rollouts.objects.companions import WITH_LABEL
from rollouts.objects.workloads import WORKLOAD_ANNOTATION
from tests.unit.engine.test_companions import P1, P2, V1, V2
from tests.unit.engine.test_companions_giving import at_half

Object = dict[str, Any]

SPARE = Capacity(max_surge=PodCount(number=1), min_stable=PodCount(number=1))
BEGUN = {"stable": {"name": "v1"}}


def pool(name: str, of: str = "", **annotations: str) -> Object:
    meta = {"name": name, "labels": {WITH_LABEL: of} if of else {}, "annotations": annotations}
    return {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": meta,
        "spec": {"selector": {"matchLabels": {"app": name}}},
    }


def deployment(name: str, replicas: int | None, app: str = "") -> Object:
    template = {"metadata": {"labels": {"app": app or name}}}
    spec = {"template": template} if replicas is None else {"template": template, "replicas": replicas}
    return {"kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def scaler(name: str, kind: str = "HorizontalPodAutoscaler", **spec: Any) -> Object:
    target = {"kind": "Deployment", "name": name}
    return {"kind": kind, "metadata": {"name": "auto"}, "spec": {"scaleTargetRef": target, **spec}}


def there(decode: int = 8, prefill: int = 4, canary: int | None = 0, beside: int | None = 0) -> list[Object]:
    pools = [pool("v1"), pool("v2"), pool("prefill-v1", "v1"), pool("prefill-v2", "v2")]
    sizes = {"v1": decode, "v2": canary, "prefill-v1": prefill, "prefill-v2": beside}
    return [*pools, *(deployment(name, size) for name, size in sizes.items())]


def rollout(status: Object) -> Object:
    return {
        "kind": "Rollout",
        "metadata": {"name": "demo"},
        "spec": {"target": {"pool": {"name": "v2"}}},
        "status": status,
    }


def told(*objects: Object, status: Object | None = None, policy: Capacity = SPARE) -> str:
    """The way out, where it is said for certain."""
    found = nothing_given(rollout(status or BEGUN), policy, objects)
    return found.fix if found is not None and found.certain else ""


def test_in_the_middle_what_stable_had_at_the_start_counts() -> None:
    made = at_half()
    sizes = [made.fleets[arm].replicas for arm in (V1, P1, V2, P2)]
    assert sizes == [4, 2, 4, 2]
    status = write_status(made.status)

    assert "set maxSurge to 8," in told(*there(*sizes), scaler("prefill-v1"), status=status)
    # After an abort, too, while some are owed.
    made.say("abort")
    status = write_status(made.status)
    assert made.status.running is None
    assert "set maxSurge to 8," in told(*there(*sizes), scaler("prefill-v1"), status=status)


@pytest.mark.parametrize(("prefill", "words"), [(0, ""), (4, "set maxSurge to 8")])
def test_an_autoscaler_of_a_companion_that_stable_has_no_pods_of_keeps_nothing(
    prefill: int, words: str
) -> None:
    assert words in told(*there(prefill=prefill), scaler("prefill-v1"))
    assert bool(told(*there(prefill=prefill), scaler("prefill-v1"))) is bool(words)


@pytest.mark.parametrize(
    ("canary", "beside", "least", "refused"),
    [
        (8, 4, {}, False),
        (7, 4, {}, True),
        (8, 3, {}, True),
        (1, 4, {"minReplicas": 8}, False),
        (0, 4, {"minReplicas": 8}, True),
        (None, 4, {"minReplicas": 8}, False),
        (None, 4, {}, True),
    ],
)
def test_a_target_that_has_its_pods_needs_none_of_stables(
    canary: int | None, beside: int, least: Object, refused: bool
) -> None:
    assert bool(told(*there(canary=canary, beside=beside), scaler("v2", **least))) is refused


def test_the_workload_that_the_pool_names_is_the_one_that_counts() -> None:
    objects = [*there(), deployment("old", 0, "v2"), scaler("old")]
    assert told(*objects)
    objects[1] = pool("v2", **{WORKLOAD_ANNOTATION: "apps/v1/Deployment/v2"})

    assert not told(*objects)
    assert told(*objects, scaler("v2"))


@pytest.mark.parametrize(
    ("mark", "refused"),
    [({"paused-replicas": "0"}, False), ({"paused": "true"}, False), ({"paused": "false"}, True), ({}, True)],
)
def test_what_keda_has_paused_scales_nothing(mark: Object, refused: bool) -> None:
    paused = scaler("prefill-v1", "ScaledObject")
    paused["metadata"]["annotations"] = {f"autoscaling.keda.sh/{name}": value for name, value in mark.items()}

    assert bool(told(*there(), paused)) is refused


def test_a_workload_of_a_file_that_is_in_the_cluster_too_is_one() -> None:
    of_file = deployment("prefill-v1", None)

    assert "set maxSurge to 8" in told(of_file, *there(), scaler("prefill-v1"))
