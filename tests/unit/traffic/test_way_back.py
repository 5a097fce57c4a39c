"""The way back on live objects: every entry that carries canary weight loses it, and nothing else changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollouts.engine.observation import Claim
from rollouts.engine.rollout_spec import TrafficMode
from rollouts.engine.rollout_status import EntryRef, WayBack
from rollouts.traffic import wayback
from rollouts.units import FULL, ZERO, Weight
from tests.kit.routes import apply_patch, pool, ref, route, service_ref

Object = dict[str, Any]
V1_GROUP = "inference.networking.k8s.io"


def record(**fields: Any) -> WayBack:
    made: dict[str, Any] = {
        "kind": "HTTPRoute",
        "group": "gateway.networking.k8s.io",
        "name": "route",
        "mode": TrafficMode.ADOPTED,
        "stable": wayback.entry_of(pool("v1"), 8000),
        "canary": wayback.entry_of(pool("v2"), 8000),
    }
    return WayBack(**{**made, **fields})


def lowered(live: Object, way: WayBack | None = None, limit: Weight = ZERO) -> Object:
    """The object after the patch, which must apply; the object itself where there is nothing to do."""
    patch = wayback.render(live, way or record(), limit)
    return live if patch is None else apply_patch(live, patch.operations)


def refs(obj: Object, rule: int = 0) -> list[tuple[str, int | None]]:
    return [(item["name"], item.get("weight")) for item in obj["spec"]["rules"][rule]["backendRefs"]]


def seen(live: Object | None, way: WayBack | None = None, *others: str) -> Any:
    return wayback.view(live, way or record(), "demo", lambda name: name in others)


# --- HTTPRoutes ------------------------------------------------------------------------------------


def test_every_rule_goes_back_whatever_it_is_called_and_wherever_it_stands():
    live = route(
        [ref("v1", 50), ref("v2", 50)], {"name": "renamed", "backendRefs": [ref("v2", 3), ref("v1", 1)]}
    )

    after = lowered(live)

    assert (refs(after), refs(after, 1)) == ([("v1", 100), ("v2", 0)], [("v2", 0), ("v1", 4)])
    assert seen(after).share == ZERO


def test_entries_of_others_keep_their_weight_to_the_letter():
    live = route([service_ref("mirror", 7), ref("v1", 30), ref("v3", 5), ref("v2", 60)])

    after = lowered(live)

    assert refs(after) == [("mirror", 7), ("v1", 90), ("v3", 5), ("v2", 0)]


def test_a_limit_that_is_no_whole_number_of_the_weights_is_met_exactly_where_all_are_ours():
    live = route([ref("v1", 50), ref("v2", 50)], [ref("v1", 50), ref("v2", 50), ref("v3", 5)])

    after = lowered(live, limit=Weight(1666))

    assert refs(after) == [("v1", 4167), ("v2", 833)]
    assert refs(after, 1) == [("v1", 84), ("v2", 16), ("v3", 5)]
    assert refs(lowered(after)) == [("v1", 5000), ("v2", 0)]


def test_a_limit_that_would_take_weights_beyond_the_highest_is_met_from_below():
    live = route([ref("v1", 1), ref("v2", 999_998)])

    assert refs(lowered(live, limit=Weight(3333))) == [("v1", 666_700), ("v2", 333_299)]


def test_a_pool_of_the_same_name_in_another_namespace_is_somebody_elses():
    elsewhere = {**ref("v2", 40), "namespace": "others"}
    here = {**ref("v2", 10), "namespace": "default"}

    after = lowered(route([ref("v1", 50), elsewhere, here]))

    assert [item["weight"] for item in after["spec"]["rules"][0]["backendRefs"]] == [60, 40, 0]


def test_a_rule_that_lost_stables_entry_gets_the_recorded_one_back():
    after = lowered(route([ref("v2", 100, port=9000)]))

    assert refs(after) == [("v2", 0), ("v1", 100)]
    assert after["spec"]["rules"][0]["backendRefs"][1] == ref("v1", 100, port=9000)


def test_with_stables_entry_its_part_of_the_rule_comes_back_beside_the_entries_of_others():
    """Half of the rule was ours: the entry of 45 that is left of it was the canary's half of that half."""
    after = lowered(route([ref("v2", 25), service_ref("other", 50)]), record(share=Weight(FULL // 2)))

    assert refs(after) == [("v2", 0), ("other", 50), ("v1", 50)]


def test_where_a_rule_has_no_room_stables_entry_takes_the_canarys_place():
    others = [service_ref(f"s{number}", 1) for number in range(15)]

    after = lowered(route([ref("v2", 5), *others]))

    assert refs(after)[0] == ("v1", 5)
    assert len(refs(after)) == 16


def test_an_omitted_weight_counts_as_one():
    assert refs(lowered(route([ref("v1", None), ref("v2", None)]))) == [("v1", 2), ("v2", 0)]


def test_several_entries_of_the_canary_all_lose_their_weight():
    after = lowered(route([ref("v2", 20), ref("v1", 60), ref("v2", 20, port=9000)]))

    assert refs(after) == [("v2", 0), ("v1", 100), ("v2", 0)]


def test_an_entry_that_was_moved_to_the_other_api_group_is_still_the_canarys():
    after = lowered(route([ref("v1", 50, group=V1_GROUP), ref("v2", 50, group=V1_GROUP)]))

    assert refs(after) == [("v1", 100), ("v2", 0)]


def test_arms_of_one_name_are_told_by_their_api_group():
    way = record(stable=wayback.entry_of(pool("m")), canary=wayback.entry_of(pool("m", V1_GROUP)))

    after = lowered(route([ref("m", 50), ref("m", 50, group=V1_GROUP)]), way)

    assert [item["weight"] for item in after["spec"]["rules"][0]["backendRefs"]] == [100, 0]


def test_a_rule_of_testers_that_was_there_before_is_left_alone():
    testers = {"matches": [{"headers": [{"name": "x-test", "value": "1"}]}], "backendRefs": [ref("v2", 1)]}
    before = route([ref("v1", 100), ref("v2", 0)], testers)
    way = wayback.propose(before, record(), [0])
    live = copy.deepcopy(before)
    live["spec"]["rules"][0]["backendRefs"] = [ref("v1", 50), ref("v2", 50)]
    live["spec"]["rules"].reverse()

    after = lowered(live, way)

    assert (refs(after), refs(after, 1)) == ([("v2", 1)], [("v1", 100), ("v2", 0)])
    assert (seen(live, way).share, seen(after, way).share) == (Weight(5000), ZERO)


def test_header_rules_of_ours_go_back_with_the_last_weight_only():
    ours = {"name": "rollout-header-testers-0", "matches": [], "backendRefs": [ref("v2", 1)]}
    live = route(ours, [ref("v1", 40), ref("v2", 60)])

    half = lowered(live, limit=Weight(5000))

    assert (refs(half), refs(half, 1)) == ([("v2", 1)], [("v1", 50), ("v2", 50)])
    assert (seen(half).share, seen(half).pinned) == (Weight(5000), True)

    none = lowered(half)

    assert [refs(none, index) for index in range(len(none["spec"]["rules"]))] == [[("v1", 100), ("v2", 0)]]
    assert (seen(none).share, seen(none).pinned) == (ZERO, False)


def test_the_patch_tests_the_version_and_the_names_that_it_was_made_for():
    patch = wayback.render(route([ref("v1", 50), ref("v2", 50)]), record(), ZERO)

    assert patch is not None
    tests = [operation for operation in patch.operations if operation["op"] == "test"]
    assert tests[0] == {"op": "test", "path": "/metadata/resourceVersion", "value": "7"}
    assert [item["value"] for item in tests[1:]] == ["v1", "v2"]


def test_what_carries_nothing_is_not_written():
    assert wayback.render(route([ref("v1", 100), ref("v2", 0)]), record(), ZERO) is None


@pytest.mark.parametrize(
    ("meta", "others", "claim"),
    [
        ({"annotations": {"inferencerollouts.dev/managed-by": "demo"}}, (), Claim.CONSENTED),
        ({"annotations": {}}, (), Claim.UNCLAIMED),
        ({"annotations": {"inferencerollouts.dev/managed-by": "another"}}, ("another",), Claim.OTHER),
        ({"annotations": {"inferencerollouts.dev/managed-by": "another"}}, (), Claim.UNCLAIMED),
    ],
)
def test_only_another_rollout_that_exists_keeps_an_object(meta, others, claim):
    assert seen(route([ref("v1", 50), ref("v2", 50)], metadata=meta), None, *others).claim is claim


def test_an_object_that_is_gone_carries_nothing():
    assert seen(None).exists is False


# --- model objects ---------------------------------------------------------------------------------


def adapters(**fields: Any) -> WayBack:
    made = {
        "kind": "InferenceModel",
        "stable": EntryRef(kind="Adapter", name="a"),
        "canary": EntryRef(kind="Adapter", name="b"),
    }
    return record(**{**made, **fields})


def model(*targets: Object) -> Object:
    meta = {"name": "m", "namespace": "default", "resourceVersion": "7"}
    return {
        "metadata": meta,
        "spec": {"modelName": "ask", "criticality": "Critical", "targetModels": list(targets)},
    }


def test_an_adapter_without_weight_leaves_the_list():
    live = model({"name": "a", "weight": 90}, {"name": "x", "weight": 5}, {"name": "b", "weight": 10})

    after = lowered(live, adapters())

    assert after["spec"]["targetModels"] == [{"name": "a", "weight": 100}, {"name": "x", "weight": 5}]
    assert after["spec"]["criticality"] == "Critical"


def test_stable_comes_back_to_a_list_that_lost_it():
    assert lowered(model({"name": "b"}), adapters())["spec"]["targetModels"] == [{"name": "a", "weight": 1}]


def test_weights_are_written_out_where_others_had_none():
    after = lowered(model({"name": "a"}, {"name": "x"}, {"name": "b"}), adapters())

    assert after["spec"]["targetModels"] == [{"name": "a", "weight": 2}, {"name": "x", "weight": 1}]


def test_a_canary_that_clients_ask_for_by_name_goes_back_although_there_is_no_list():
    live = model()
    del live["spec"]["targetModels"]
    way = adapters(canary=EntryRef(kind="Adapter", name="ask"))

    assert seen(live, way).share == FULL
    assert lowered(live, way)["spec"]["targetModels"] == [{"name": "a", "weight": 1}]


@pytest.mark.parametrize("field", ["targets", "split"])
def test_rewrites_of_every_dialect(field):
    matches = [{"model": {"type": "Exact", "value": "ask"}}]
    rule = {
        "matches": matches,
        field: [{"modelRewrite": "a", "weight": 1}, {"modelRewrite": "b", "weight": 1}],
    }
    live = {"metadata": {"name": "m", "resourceVersion": "7"}, "spec": {"rules": [{"matches": []}, rule]}}

    after = lowered(live, adapters(kind="InferenceModelRewrite"))

    assert after["spec"]["rules"][1] == {"matches": matches, field: [{"modelRewrite": "a", "weight": 2}]}


# --- any object ------------------------------------------------------------------------------------

entries = st.lists(
    st.builds(
        lambda name, weight, group, namespace: {
            **ref(name, weight, group=group),
            **({} if namespace is None else {"namespace": namespace}),
        },
        st.sampled_from(["v1", "v2", "v3"]),
        st.none() | st.integers(0, 1000),
        st.sampled_from(["inference.networking.x-k8s.io", V1_GROUP]),
        st.sampled_from([None, None, "default", "others"]),
    ),
    max_size=6,
)


@settings(deadline=None, derandomize=True)
@given(st.lists(entries, max_size=4), st.sampled_from([0, 1, 100, 3333, 5000]).map(Weight))
def test_on_any_route_the_canary_ends_at_the_limit_and_everybody_else_keeps_what_they_have(rules, limit):
    live = route(*rules)

    after = lowered(live, limit=limit)

    assert seen(after).share <= limit
    assert wayback.render(after, record(), limit) is None
    for before, now in zip(live["spec"]["rules"], after["spec"]["rules"], strict=True):
        ours = lambda item: item["name"] in ("v1", "v2") and item.get("namespace", "default") == "default"  # noqa: E731
        theirs = [item for item in before["backendRefs"] if not ours(item)]
        assert [item for item in now["backendRefs"] if not ours(item)] == theirs
        joint = [
            sum(item.get("weight", 1) for item in rule["backendRefs"] if ours(item)) for rule in (before, now)
        ]
        # A part of ours that is no whole number is written exactly where nobody else has a part of the rule.
        assert joint[1] % (joint[0] or 1) == 0
        assert joint[0] == joint[1] or not any(item.get("weight", 1) for item in theirs)
