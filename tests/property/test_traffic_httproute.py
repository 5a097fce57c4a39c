"""Any weight, any rule: shares are exact, foreign entries keep theirs, and what was written is what is read."""

from __future__ import annotations

import copy
from fractions import Fraction
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from rollouts.engine.actions import DesiredTraffic
from rollouts.engine.converging import rule_share
from rollouts.engine.observation import TrafficView
from rollouts.engine.rollout_spec import HeaderMatch, HeaderMatchType, HeaderRouteStep, TrafficMode
from rollouts.traffic.httproute import Reader, RouteTarget, render, view
from rollouts.traffic.weights import MAX_WEIGHT, WeightTooLarge, split
from rollouts.traffic.writes import Apply, JsonPatch, RenderRefusal
from rollouts.units import FULL, Weight
from tests.kit.routes import (
    adopted,
    after,
    managed,
    pool,
    ref,
    route,
    service_ref,
    target,
    template,
)

WEIGHTS = st.integers(0, FULL).map(Weight)
SMALL = st.integers(0, 100)
NAMES = ("v1", "v2", "v0", "other", "shadow")
NAMESPACES = st.sampled_from(["default", "tenant-b"])
"""The route's own, written out, and another one, whose pools of the same names are foreign."""


@st.composite
def desires(draw: st.DrawFn) -> DesiredTraffic:
    canary = draw(st.sampled_from([None, pool("v2")]))
    retired = draw(st.sampled_from([(), ("keep",), ("drop",)]))
    return DesiredTraffic(
        stable=pool("v1"),
        canary=canary,
        weight=draw(WEIGHTS) if canary is not None else Weight(0),
        keep=(pool("v0"),) if "keep" in retired else (),
        drop=(pool("v0"),) if "drop" in retired else (),
    )


def entries() -> st.SearchStrategy[dict[str, Any]]:
    pools = st.builds(ref, st.sampled_from(NAMES), st.one_of(st.none(), SMALL), st.sampled_from([None, 8000]))
    elsewhere = st.builds(lambda entry, namespace: {**entry, "namespace": namespace}, pools, NAMESPACES)
    return st.one_of(pools, elsewhere, st.builds(service_ref, st.sampled_from(NAMES), SMALL))


RULES = st.lists(st.lists(entries(), max_size=5), min_size=1, max_size=3)


def foreign_of(rule: Any, desired: DesiredTraffic) -> list[tuple[str, str, str, int]]:
    ours = {desired.stable.name, *(arm.name for arm in (*desired.keep, *desired.drop))}
    ours |= {desired.canary.name} if desired.canary is not None else set()
    return [
        (item["kind"], item.get("namespace", ""), item["name"], item.get("weight", 1))
        for item in rule["backendRefs"]
        if item["kind"] == "Service" or item["name"] not in ours or item.get("namespace") == "tenant-b"
    ]


def total(rule: Any) -> int:
    return sum(item.get("weight", 1) for item in rule["backendRefs"])


def look(live: Any, where: RouteTarget, desired: DesiredTraffic) -> TrafficView:
    arms = tuple(arm for arm in (desired.stable, desired.canary) if arm is not None)
    return view(live, where.spec, where.template, Reader(rollout="demo", arms=arms))


def says(seen: TrafficView, desired: DesiredTraffic) -> bool:
    return bool(seen.rules) and all(rule_share(rule, desired) == desired.weight for rule in seen.rules)


# --- the arithmetic ---


@given(
    weights=st.dictionaries(st.sampled_from(["s", "c", "k", "f", "g"]), SMALL),
    weight=WEIGHTS,
    kept=st.booleans(),
)
def test_split_gives_the_exact_share_and_keeps_every_foreign_proportion(
    weights: dict[str, int], weight: Weight, kept: bool
) -> None:
    ours = frozenset(key for key in weights if key in {"s", "c"} or (kept and key == "k"))
    foreign = {key: value for key, value in weights.items() if key not in ours and key not in {"s", "c"}}
    try:
        result = split(weights, ours, "s", "c", weight)
    except WeightTooLarge:
        assert sum(weights.values()) * FULL > MAX_WEIGHT
        return
    joint = sum(weights.get(key, 0) for key in ours)
    assert result["s"] + result["c"] > 0
    assert Fraction(result["c"], result["s"] + result["c"]) == Fraction(weight, FULL)
    if joint:
        scale = Fraction(sum(result.values()), sum(weights.values()))
        assert scale >= 1
        assert scale.denominator == 1
        assert {key: value * scale for key, value in foreign.items()} == {key: result[key] for key in foreign}
    if kept and "k" in weights:
        assert result["k"] == 0


@given(weight=WEIGHTS)
def test_split_scales_no_more_than_it_must(weight: Weight) -> None:
    result = split({"s": 100, "c": 0}, frozenset({"s", "c"}), "s", "c", weight)
    least = Fraction(weight, 100).denominator
    assert result["s"] + result["c"] == 100 * least


# --- Adopted ---


@given(rules=RULES, desired=desires(), add=st.booleans())
def test_an_adopted_route_says_what_is_asked_and_foreign_entries_keep_their_share(
    rules: list[list[dict[str, Any]]], desired: DesiredTraffic, add: bool
) -> None:
    live, where = route(*copy.deepcopy(rules)), target(adopted(add_backend=add))
    before = copy.deepcopy(live)
    write = render(live, where, desired)
    assert live == before
    if isinstance(write, RenderRefusal):
        assert write.reason in ("BackendMissing", "WeightTooLarge")
        assert not add or write.reason == "WeightTooLarge"
        return
    if write is None:
        seen = look(live, where, desired)
        assert not seen.rules or says(seen, desired)
        return
    assert isinstance(write, JsonPatch)
    assert write.operations[0] == {"op": "test", "path": "/metadata/resourceVersion", "value": "7"}
    stored = after(live, write)
    seen = look(stored, where, desired)
    assert says(seen, desired)
    assert seen.written_by_us
    assert render(stored, where, desired) is None
    chosen = {rule.name for rule in seen.rules}
    for index, (old, new) in enumerate(zip(live["spec"]["rules"], stored["spec"]["rules"], strict=True)):
        if str(index) not in chosen:
            assert old == new
            continue
        assert total(new) > 0
        was, now = foreign_of(old, desired), foreign_of(new, desired)
        assert [item[:3] for item in was] == [item[:3] for item in now]
        ours_before = total(old) - sum(item[3] for item in was)
        if ours_before:
            assert [Fraction(item[3], total(old)) for item in was] == [
                Fraction(item[3], total(new)) for item in now
            ]
        assert {key: value for key, value in old.items() if key != "backendRefs"} == {
            key: value for key, value in new.items() if key != "backendRefs"
        }


@given(
    rules=st.lists(
        st.lists(entries(), max_size=3).map(lambda more: [ref("v1", 60), *more, ref("v2", 40)]), min_size=1
    ),
    desired=desires(),
)
def test_without_add_backend_the_list_of_an_adopted_rule_never_changes_but_in_weights(
    rules: list[list[dict[str, Any]]], desired: DesiredTraffic
) -> None:
    live, where = route(*rules), target(adopted())
    write = render(live, where, desired)
    assume(isinstance(write, JsonPatch))
    assert isinstance(write, JsonPatch)
    for old, new in zip(live["spec"]["rules"], after(live, write)["spec"]["rules"], strict=True):
        for was, now in zip(old["backendRefs"], new["backendRefs"], strict=True):
            assert {**was, "weight": 0} == {**now, "weight": 0}


@given(weights=st.lists(WEIGHTS, min_size=1, max_size=8), foreign=SMALL)
def test_a_rollout_with_fine_steps_never_runs_out_of_weight(weights: list[Weight], foreign: int) -> None:
    live, where = route([ref("v1", 100), ref("v2", 0), service_ref("other", foreign)]), target(adopted())
    for weight in weights:
        desired = DesiredTraffic(stable=pool("v1"), canary=pool("v2"), weight=weight)
        write = render(live, where, desired)
        assert not isinstance(write, RenderRefusal | Apply)
        live = live if write is None else after(live, write)
        assert says(look(live, where, desired), desired)


# --- Managed ---

TEMPLATE_RULES = st.lists(
    st.one_of(
        st.just({}),
        st.just({"timeouts": {"request": "10s"}}),
        st.just({"matches": [{"headers": [{"name": "x", "type": "Exact", "value": "1"}]}]}),
        st.builds(lambda entry: {"backendRefs": [entry]}, entries()),
    ),
    min_size=1,
    max_size=3,
).filter(lambda rules: any("backendRefs" not in rule for rule in rules))

TEXT = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=8)
HEADERS = st.lists(
    st.builds(
        HeaderMatch,
        name=st.sampled_from(["x-tester", "x-team"]),
        value=TEXT,
        type=st.sampled_from(HeaderMatchType),
    ),
    min_size=1,
    max_size=2,
).map(tuple)
HEADER_ROUTES = st.lists(
    st.builds(HeaderRouteStep, name=st.sampled_from(["testers", "team-1"]), match=HEADERS),
    max_size=2,
    unique_by=lambda step: step.name,
).map(tuple)


@given(
    rules=TEMPLATE_RULES,
    first=WEIGHTS,
    second=WEIGHTS,
    headers=HEADER_ROUTES,
    keep=st.booleans(),
)
def test_a_managed_route_is_what_is_asked_step_after_step(
    rules: list[dict[str, Any]],
    first: Weight,
    second: Weight,
    headers: tuple[HeaderRouteStep, ...],
    keep: bool,
) -> None:
    where, live = target(managed(), template(*rules)), None
    for weight, routes in ((first, ()), (second, headers), (Weight(0), ())):
        desired = DesiredTraffic(
            stable=pool("v1"),
            canary=pool("v2"),
            weight=weight,
            keep=(pool("v0"),) if keep else (),
            header_routes=routes,
        )
        write = render(live, where, desired)
        assert live is None or write is None or isinstance(write, Apply)
        if write is not None:
            assert isinstance(write, Apply)
            live = after(live, write)
        seen = look(live, where, desired)
        assert says(seen, desired)
        assert len(seen.rules) == sum("backendRefs" not in rule for rule in rules)
        assert seen.structure_current
        assert sorted(map(repr, seen.header_routes)) == sorted(map(repr, routes))
        assert seen.written_by_us
        assert render(live, where, desired) is None


@given(weight=WEIGHTS)
def test_the_canary_first_appears_with_its_first_weight(weight: Weight) -> None:
    desired = DesiredTraffic(stable=pool("v1"), canary=pool("v2"), weight=weight)
    write = render(None, target(managed(), template()), desired)
    assert isinstance(write, Apply)
    (rule,) = write.body["spec"]["rules"]
    assert all(set(item) == {"group", "kind", "name", "port", "weight"} for item in rule["backendRefs"])
    canary = [item["weight"] for item in rule["backendRefs"] if item["name"] == "v2"]
    assert canary == [] if weight == 0 else canary[0] >= 1
    assert "ownerReferences" not in write.body["metadata"]


# --- hostile objects ---

FIELDS = [
    "rules",
    "backendRefs",
    "name",
    "kind",
    "group",
    "weight",
    "matches",
    "headers",
    "type",
    "value",
    "spec",
    "metadata",
    "status",
    "parents",
    "conditions",
    "parentRef",
    "parentRefs",
    "managedFields",
    "labels",
    "annotations",
    "fieldsV1",
    "f:spec",
    "f:rules",
    "resourceVersion",
]
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-5, 10**20), st.floats(allow_nan=False), st.text(max_size=5)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(FIELDS),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=25,
)


@st.composite
def spoiled(draw: st.DrawFn) -> dict[str, Any]:
    """A good route in which some values were replaced by anything."""
    live = route(
        [ref("v1", 100), ref("v2", 0)],
        {"name": "rollout-header-x-0", "matches": [{"headers": [{"name": "a", "value": "b"}]}]},
        metadata={"managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {"f:rules": {}}}, "time": "x"}]},
        status={"parents": [{"parentRef": {"name": "gateway"}, "conditions": [{"type": "Accepted"}]}]},
    )
    for _ in range(draw(st.integers(1, 3))):
        node: Any = live
        while isinstance(node, dict | list) and node:
            key = draw(st.sampled_from(sorted(node) if isinstance(node, dict) else list(range(len(node)))))
            if not isinstance(node[key], dict | list) or not node[key] or draw(st.booleans()):
                node[key] = draw(JSON)
                break
            node = node[key]
    return live


@given(live=st.one_of(spoiled(), st.dictionaries(st.sampled_from(["spec", "metadata", "status"]), JSON)))
def test_no_object_makes_reading_or_writing_raise(live: dict[str, Any]) -> None:
    desired = DesiredTraffic(stable=pool("v1"), canary=pool("v2"), weight=Weight(1000))
    for where in (
        target(adopted()),
        target(adopted(add_backend=True, rule_names=("a",))),
        target(managed(), template()),
    ):
        seen = look(live, where, desired)
        assert seen.exists
        assert isinstance(seen.resource_version, str)
        write = render(live, where, desired)
        if isinstance(write, Apply):
            assert where.spec.mode is TrafficMode.MANAGED


@given(body=JSON, live=st.one_of(st.none(), spoiled()))
def test_no_template_makes_reading_or_writing_raise(body: Any, live: dict[str, Any] | None) -> None:
    assume(isinstance(body, dict))
    where = target(managed(), body)
    desired = DesiredTraffic(stable=pool("v1"), canary=pool("v2"), weight=Weight(1000))
    assert isinstance(look(live, where, desired), TrafficView)
    assert not isinstance(render(live, where, desired), JsonPatch | RenderRefusal)
