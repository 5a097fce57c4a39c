"""The exact writes: whole objects for Managed routes, guarded patches for Adopted ones, or why there is none."""

from __future__ import annotations

from typing import Any

import pytest

from rollouts.engine.rollout_spec import HeaderMatch, HeaderMatchType, HeaderRouteStep
from rollouts.traffic.httproute import Reader, render, template_problems, view
from rollouts.traffic.writes import ROLLOUT_LABEL, Apply, JsonPatch, RenderRefusal
from tests.kit.routes import (
    PatchFailed,
    adopted,
    after,
    apply_patch,
    desired,
    managed,
    ref,
    route,
    service_ref,
    target,
    template,
)

ADOPTED = target(adopted())
ADDING = target(adopted(add_backend=True))
MANAGED = target(managed(), template())
TESTERS = HeaderRouteStep(name="testers", match=(HeaderMatch(name="x-tester", value="1"),))


def weights(live: dict[str, Any]) -> list[dict[str, int]]:
    return [{item["name"]: item["weight"] for item in rule["backendRefs"]} for rule in live["spec"]["rules"]]


# --- Adopted ---


def test_one_patch_moves_both_weights_of_every_rule_and_tests_all_that_it_touches() -> None:
    live = route([ref("v1", 100), ref("v2", 0)], [service_ref("web", 1)], [ref("v2", 0), ref("v1", 10)])
    write = render(live, ADOPTED, desired(10))
    assert isinstance(write, JsonPatch)
    assert write.operations == [
        {"op": "test", "path": "/metadata/resourceVersion", "value": "7"},
        {"op": "test", "path": "/spec/rules/0/backendRefs/0/name", "value": "v1"},
        {"op": "add", "path": "/spec/rules/0/backendRefs/0/weight", "value": 90},
        {"op": "test", "path": "/spec/rules/0/backendRefs/1/name", "value": "v2"},
        {"op": "add", "path": "/spec/rules/0/backendRefs/1/weight", "value": 10},
        {"op": "test", "path": "/spec/rules/2/backendRefs/0/name", "value": "v2"},
        {"op": "add", "path": "/spec/rules/2/backendRefs/0/weight", "value": 1},
        {"op": "test", "path": "/spec/rules/2/backendRefs/1/name", "value": "v1"},
        {"op": "add", "path": "/spec/rules/2/backendRefs/1/weight", "value": 9},
    ]


@pytest.mark.parametrize("change", ["a newer version", "a swapped entry"])
def test_the_patch_does_not_apply_to(change: str) -> None:
    live = route([ref("v1", 100), ref("v2", 0)])
    write = render(live, ADOPTED, desired(10))
    assert isinstance(write, JsonPatch)
    if change == "a newer version":
        live["metadata"]["resourceVersion"] = "8"
    else:
        live["spec"]["rules"][0]["backendRefs"].reverse()
    with pytest.raises(PatchFailed):
        apply_patch(live, write.operations)


STEPS: dict[str, tuple[list[dict[str, Any]], float, dict[str, int]]] = {
    "a tenth": ([ref("v1", 100), ref("v2", 0)], 10, {"v1": 90, "v2": 10}),
    "half a percent scales the rule": ([ref("v1", 100), ref("v2", 0)], 0.5, {"v1": 199, "v2": 1}),
    "foreign entries are scaled with it": (
        [ref("v1", 100), ref("v2", 0), ref("other", 50), service_ref("web", 7)],
        0.5,
        {"v1": 199, "v2": 1, "other": 100, "web": 14},
    ),
    "and keep theirs where nothing is scaled": (
        [ref("v1", 60), ref("v2", 40), ref("other", 50)],
        25,
        {"v1": 75, "v2": 25, "other": 50},
    ),
    "all of it": ([ref("v1", 90), ref("v2", 10)], 100, {"v1": 0, "v2": 100}),
    "nothing": ([ref("v1", 90), ref("v2", 10)], 0, {"v1": 100, "v2": 0}),
    "weights of 0 and 0 count as a hundred": ([ref("v1", 0), ref("v2", 0)], 30, {"v1": 70, "v2": 30}),
    "omitted weights count 1 each and are written out": (
        [ref("v1", None), ref("v2", None)],
        50,
        {"v1": 1, "v2": 1},
    ),
    "a pool listed twice has one weight": (
        [ref("v1", 50), ref("v2", 0), ref("v1", 50)],
        10,
        {"v1": 90, "v2": 10},
    ),
}


@pytest.mark.parametrize("what", STEPS)
def test_adopted_weights_for(what: str) -> None:
    refs, percent, wanted = STEPS[what]
    live = route(refs)
    write = render(live, ADOPTED, desired(percent))
    assert isinstance(write, JsonPatch)
    found: dict[str, int] = {}
    for item in after(live, write)["spec"]["rules"][0]["backendRefs"]:
        found[item["name"]] = found.get(item["name"], 0) + item["weight"]
    assert found == wanted


@pytest.mark.parametrize("percent", [0, 10, 100])
def test_nothing_is_written_where_the_route_says_so_already(percent: int) -> None:
    live = route([ref("v1", 100 - percent), ref("v2", percent), ref("other", 3)])
    assert render(live, ADOPTED, desired(percent)) is None


def test_filters_matches_and_other_rules_stay() -> None:
    filters = [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["x"]}}]
    live = route(
        {"name": "a", "filters": filters, "backendRefs": [ref("v1", 1), ref("v2", 0)]}, [ref("z", 3)]
    )
    write = render(live, ADOPTED, desired(50))
    assert isinstance(write, JsonPatch)
    stored = after(live, write)
    assert stored["spec"]["rules"][0]["filters"] == filters
    assert stored["spec"]["rules"][1] == live["spec"]["rules"][1]


def test_a_rule_with_only_a_retired_version_is_not_ours() -> None:
    live = route([ref("v1", 100), ref("v2", 0)], [ref("v0", 5)])
    write = render(live, ADOPTED, desired(10, drop=["v0"]))
    assert isinstance(write, JsonPatch)
    assert weights(after(live, write)) == [{"v1": 90, "v2": 10}, {"v0": 5}]


def test_a_retired_version_goes_to_zero_and_its_weight_to_stable() -> None:
    live = route([ref("v1", 60), ref("v2", 20), ref("v0", 20)])
    write = render(live, ADOPTED, desired(10, keep=["v0"]))
    assert isinstance(write, JsonPatch)
    assert weights(after(live, write)) == [{"v1": 90, "v2": 10, "v0": 0}]


REFUSALS = {
    "a missing canary, with the YAML to add": (
        route([ref("v1", 100)]),
        desired(10),
        "BackendMissing",
        "add to its backendRefs in Git: - {group: inference.networking.x-k8s.io, kind: InferencePool, name: v2, "
        "port: 8000, weight: 0}",
    ),
    "a missing stable": (route([ref("v2", 100)]), desired(10), "BackendMissing", "InferencePool v1"),
    "a pool missing in one of two rules": (
        route([ref("v1", 1), ref("v2", 0)], {"name": "api", "backendRefs": [ref("v1", 1)]}),
        desired(10),
        "BackendMissing",
        "rule api of HTTPRoute route",
    ),
    "weights beyond the maximum": (
        route([ref("v1", 100_003), ref("v2", 0)]),
        desired(0.01),
        "WeightTooLarge",
        "use smaller weights",
    ),
    "foreign weights beyond the maximum": (
        route([ref("v1", 100), ref("v2", 0), ref("other", 600_000)]),
        desired(0.5),
        "WeightTooLarge",
        "use smaller weights",
    ),
    "header routes": (
        route([ref("v1", 1), ref("v2", 0)]),
        desired(10, header_routes=(TESTERS,)),
        "NotManaged",
        "Managed",
    ),
    "a route that is not there": (None, desired(10), "RouteMissing", "add it to Git"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_it_refuses(what: str) -> None:
    live, wanted, reason, text = REFUSALS[what]
    answer = render(live, ADOPTED, wanted)
    assert isinstance(answer, RenderRefusal)
    assert answer.reason == reason
    assert text in answer.message


def test_a_canary_at_zero_may_be_missing() -> None:
    assert render(route([ref("v1", 100)]), ADOPTED, desired(0)) is None


def test_add_backend_adds_the_entry_with_its_first_weight_and_the_port_of_stable() -> None:
    live = route([ref("other", 5, port=1), ref("v1", 100, port=9000)])
    write = render(live, ADDING, desired(10))
    assert isinstance(write, JsonPatch)
    stored = after(live, write)
    assert stored["spec"]["rules"][0]["backendRefs"] == [
        ref("other", 5, port=1),
        ref("v1", 90, port=9000),
        ref("v2", 10, port=9000),
    ]


def test_add_backend_leaves_the_port_out_where_stable_has_none() -> None:
    live = route([ref("v1", 100, port=None)])
    write = render(live, ADDING, desired(10))
    assert isinstance(write, JsonPatch)
    assert after(live, write)["spec"]["rules"][0]["backendRefs"][1] == ref("v2", 10, port=None)


def test_add_backend_fills_a_named_rule_that_has_no_backends() -> None:
    live = route({"name": "api"})
    write = render(live, target(adopted(rule_names=("api",), add_backend=True)), desired(10))
    assert isinstance(write, JsonPatch)
    assert weights(after(live, write)) == [{"v1": 90, "v2": 10}]


def test_add_backend_takes_retired_entries_out_again() -> None:
    live = route([ref("v0", 0), ref("v1", 100), ref("other", 5), ref("vx", 0)])
    write = render(live, ADDING, desired(0, canary=None, drop=["v0", "vx"]))
    assert isinstance(write, JsonPatch)
    assert weights(after(live, write)) == [{"v1": 100, "other": 5}]


def test_without_add_backend_retired_entries_stay_for_git() -> None:
    live = route([ref("v0", 0), ref("v1", 100)])
    assert render(live, ADOPTED, desired(0, canary=None, drop=["v0"])) is None


# --- Managed ---


def test_a_new_managed_route_is_applied_whole() -> None:
    write = render(None, MANAGED, desired(0))
    assert isinstance(write, Apply)
    assert write.body == {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "route", "namespace": "default", "labels": {ROLLOUT_LABEL: "demo"}},
        "spec": {
            "parentRefs": [{"name": "gateway"}],
            "rules": [
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                    "backendRefs": [ref("v1", 100)],
                }
            ],
        },
    }


def managed_route(*refs: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return route(list(refs), metadata={"labels": {ROLLOUT_LABEL: "demo"}, **metadata})


def test_a_managed_write_is_bound_to_the_version_that_was_read() -> None:
    write = render(managed_route(ref("v1", 100)), MANAGED, desired(10))
    assert isinstance(write, Apply)
    assert write.body["metadata"]["resourceVersion"] == "7"
    with pytest.raises(PatchFailed):
        after(managed_route(ref("v1", 100), resourceVersion="8"), write)


def test_labels_and_annotations_of_gitops_tools_are_never_copied() -> None:
    live = managed_route(ref("v1", 100))
    live["metadata"]["labels"]["argocd.argoproj.io/instance"] = "app"
    live["metadata"]["annotations"]["argocd.argoproj.io/tracking-id"] = "app:x"
    write = render(live, MANAGED, desired(10))
    assert isinstance(write, Apply)
    assert set(write.body["metadata"]) == {"name", "namespace", "labels", "resourceVersion"}
    assert write.body["metadata"]["labels"] == {ROLLOUT_LABEL: "demo"}


def test_a_managed_route_that_says_so_already_is_not_written() -> None:
    assert render(managed_route(ref("v1", 90), ref("v2", 10)), MANAGED, desired(10)) is None


def test_a_managed_route_without_our_label_is_written() -> None:
    live = route([ref("v1", 90), ref("v2", 10)])
    assert isinstance(render(live, MANAGED, desired(10)), Apply)


MANAGED_LISTS: dict[str, tuple[list[dict[str, Any]], Any, list[dict[str, Any]]]] = {
    "the canary appears with its first weight": (
        [ref("v1", 100)],
        desired(0.5),
        [ref("v1", 199), ref("v2", 1)],
    ),
    "an aborted canary stays at 0": (
        [ref("v1", 90), ref("v2", 10)],
        desired(0),
        [ref("v1", 100), ref("v2", 0)],
    ),
    "a retired version is kept at 0": (
        [ref("v0", 50), ref("v1", 50)],
        desired(0, canary=None, keep=["v0"]),
        [ref("v1", 100), ref("v0", 0)],
    ),
    "a retired version that is not listed is not added": (
        [ref("v1", 10), ref("v2", 90)],
        desired(0, canary=None, keep=["v0"]),
        [ref("v1", 100)],
    ),
    "a dropped version leaves the list": (
        [ref("v0", 0), ref("v1", 100)],
        desired(0, canary=None, drop=["v0"]),
        [ref("v1", 100)],
    ),
    "entries of others leave the list: the route is ours": (
        [ref("v1", 100), ref("intruder", 50)],
        desired(10),
        [ref("v1", 90), ref("v2", 10)],
    ),
    "the port that is there stays": (
        [ref("v1", 100, port=9000)],
        desired(10),
        [ref("v1", 90, port=9000), ref("v2", 10, port=9000)],
    ),
}


@pytest.mark.parametrize("what", MANAGED_LISTS)
def test_managed(what: str) -> None:
    before, wanted, after_ = MANAGED_LISTS[what]
    write = render(managed_route(*before), MANAGED, wanted)
    assert isinstance(write, Apply)
    assert write.body["spec"]["rules"][0]["backendRefs"] == after_


def test_rules_of_the_template_with_backends_are_left_as_they_are() -> None:
    body = template({"backendRefs": [service_ref("web", 1)]}, {}, {"backendRefs": [ref("v1", 1)]})
    write = render(None, target(managed(), body), desired(10))
    assert isinstance(write, Apply)
    assert [rule["backendRefs"] for rule in write.body["spec"]["rules"]] == [
        [service_ref("web", 1)],
        [ref("v1", 90), ref("v2", 10)],
        [ref("v1", 1)],
    ]


def test_an_entry_that_is_added_takes_the_port_of_stable_not_of_a_retired_version() -> None:
    live = route([ref("v0", 0, port=7000), ref("v1", 100, port=9000)])
    write = render(live, ADDING, desired(10, keep=["v0"]))
    assert isinstance(write, JsonPatch)
    assert after(live, write)["spec"]["rules"][0]["backendRefs"][2] == ref("v2", 10, port=9000)


def test_a_null_in_the_template_is_no_difference() -> None:
    body = {**template(), "hostnames": None}
    assert render(managed_route(ref("v1", 90), ref("v2", 10)), target(managed(), body), desired(10)) is None


# --- header routes ---


def test_a_header_rule_goes_before_the_pool_rules_with_the_canary_alone() -> None:
    own = {"name": "x-own", "type": "Exact", "value": "o"}
    body = template(
        {"name": "chat", "timeouts": {"request": "9s"}, "matches": [{"headers": [own]}, {"method": "POST"}]},
        {"backendRefs": [service_ref("web", 1)]},
    )
    match = (
        HeaderMatch(name="x-tester", value="a.b", type=HeaderMatchType.PREFIX),
        HeaderMatch(name="x-team", value="[ab]", type=HeaderMatchType.REGEX),
    )
    steps = (HeaderRouteStep(name="testers", match=match),)
    write = render(None, target(managed(), body), desired(10, header_routes=steps))
    assert isinstance(write, Apply)
    prefix = {"name": "x-tester", "type": "RegularExpression", "value": r"(?:a\.b).*"}
    team = {"name": "x-team", "type": "RegularExpression", "value": "[ab]"}
    rules = write.body["spec"]["rules"]
    assert [rule.get("name") for rule in rules] == ["rollout-header-testers-0", "chat", None]
    assert rules[0] == {
        "name": "rollout-header-testers-0",
        "timeouts": {"request": "9s"},
        "matches": [{"headers": [prefix, team, own]}, {"method": "POST", "headers": [prefix, team]}],
        "backendRefs": [ref("v2", 1)],
    }


@pytest.mark.parametrize("value", ["(?:a|b).*", "(?:a.b).*", "^x.*", "(?:"])
def test_a_pattern_of_the_user_is_not_taken_for_a_prefix(value: str) -> None:
    steps = (
        HeaderRouteStep(name="t", match=(HeaderMatch(name="x", value=value, type=HeaderMatchType.REGEX),)),
    )
    write = render(None, MANAGED, desired(10, header_routes=steps))
    assert isinstance(write, Apply)
    reader = Reader(rollout="demo", arms=())
    seen = view(after(None, write), MANAGED.spec, MANAGED.template, reader).header_routes
    assert seen == steps


def test_without_a_canary_there_are_no_header_rules() -> None:
    write = render(None, MANAGED, desired(0, canary=None, header_routes=(TESTERS,)))
    assert isinstance(write, Apply)
    assert len(write.body["spec"]["rules"]) == 1


def test_a_header_route_that_ended_takes_its_rule_along() -> None:
    first = render(None, MANAGED, desired(10, header_routes=(TESTERS,)))
    assert isinstance(first, Apply)
    live = after(None, first)
    second = render(live, MANAGED, desired(10))
    assert isinstance(second, Apply)
    assert len(second.body["spec"]["rules"]) == 1


# --- the template ---


TEMPLATES: dict[str, tuple[dict[str, Any], str]] = {
    "one open rule": (template(), ""),
    "an open rule beside others": (template({"backendRefs": [service_ref("w", 1)]}, {}), ""),
    "no open rule": (template({"backendRefs": [service_ref("w", 1)]}), "no rule without backendRefs"),
    "no rules": ({"parentRefs": [{"name": "g"}]}, "no rule without backendRefs"),
    "rules that are no list": (
        {"parentRefs": [{"name": "g"}], "rules": "all"},
        "no rule without backendRefs",
    ),
    "no parents": ({"rules": [{}]}, "no parentRefs"),
    "parents that are no list": ({"rules": [{}], "parentRefs": {"name": "g"}}, "no parentRefs"),
}


@pytest.mark.parametrize("what", TEMPLATES)
def test_template_with(what: str) -> None:
    body, text = TEMPLATES[what]
    problems = template_problems(body)
    assert [problem.reason for problem in problems] == (["TemplateInvalid"] if text else [])
    assert all(text in problem.message for problem in problems)


def pinned(*names: str) -> dict[str, Any]:
    """A weighted rule and one that pins testers to the new pool, each with its name."""
    live = route([ref("v1", 100), ref("v2", 0)], [ref("v2", 1)])
    for rule, name in zip(live["spec"]["rules"], names, strict=False):
        rule["name"] = name
    return live


@pytest.mark.parametrize(
    ("names", "advice"),
    [
        (("live", "pinned"), "or, where it is meant as it is, leave it out: ruleNames: [live]"),
        ((), "name the rules that list both pools and set ruleNames to them"),
    ],
    ids=["named", "without names"],
)
def test_a_rule_that_pins_testers_is_not_only_to_be_given_both_pools(
    names: tuple[str, ...], advice: str
) -> None:
    refusal = render(pinned(*names), target(adopted()), desired(10))

    assert isinstance(refusal, RenderRefusal)
    assert refusal.reason == "BackendMissing"
    assert refusal.message.endswith(advice)


def test_a_rule_that_was_chosen_by_name_is_to_be_given_both_pools() -> None:
    refusal = render(pinned("live", "pinned"), target(adopted(rule_names=("pinned",))), desired(10))

    assert isinstance(refusal, RenderRefusal)
    assert "ruleNames" not in refusal.message


def test_with_rule_names_the_other_rule_is_left_alone() -> None:
    live = pinned("live", "pinned")
    write = render(live, target(adopted(rule_names=("live",))), desired(10))

    assert isinstance(write, JsonPatch)
    rules = after(live, write)["spec"]["rules"]
    assert [[entry["weight"] for entry in rule["backendRefs"]] for rule in rules] == [[90, 10], [1]]
