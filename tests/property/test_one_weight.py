"""One list of weights, two readers: what the controller sees of a model object is what the picker does with it."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from rollouts.picker.objects import PoolName, read_snapshot
from rollouts.traffic.targets import weights_of

API = "inference.networking.x-k8s.io/v1alpha2"
WEIGHTS = st.one_of(
    st.sampled_from([None, True, False, "5", -1, 1.5, 2_000_000, 2**31, []]), st.integers(0, 100)
)
ENTRIES = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from("abc")}, optional={"weight": WEIGHTS}), max_size=5
)


def picked(entries: list[dict[str, Any]]) -> dict[str, int] | None:
    """What the picker splits by; None where it leaves the object out."""
    pool = {
        "apiVersion": API,
        "kind": "InferencePool",
        "metadata": {"name": "p", "namespace": "n"},
        "spec": {"selector": {"app": "x"}, "targetPortNumber": 8000},
    }
    model = {
        "apiVersion": API,
        "kind": "InferenceModel",
        "metadata": {"name": "m", "namespace": "n"},
        "spec": {"modelName": "served", "poolRef": {"name": "p"}, "targetModels": entries},
    }
    rule = read_snapshot([PoolName("n", "p")], [pool, model]).rules.find("served")
    if rule is None:
        return None
    return {target.name: target.weight for target in rule.targets} or {"served": 1}


@example([{"name": "a"}, {"name": "b", "weight": 10}])
@example([{"name": "a", "weight": None}, {"name": "b", "weight": 10}])
@example([{"name": "a", "weight": True}, {"name": "b", "weight": 10}])
@example([{"name": "a", "weight": 2_000_000}, {"name": "b", "weight": 10}])
@given(ENTRIES)
def test_controller_and_picker_read_the_same_weights(entries: list[dict[str, Any]]) -> None:
    seen = {arm.name: weight for arm, weight in weights_of(entries, "name", "served").items()}

    assert picked(entries) == (seen if any(seen.values()) else None)
