"""What the engine is told about a live HTTPRoute."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from rollouts.engine.actions import DesiredTraffic
from rollouts.engine.observation import Claim, TrafficView
from rollouts.engine.rollout_spec import HttpRouteTraffic, TrafficMode
from rollouts.traffic.httproute import Reader, render, view
from rollouts.traffic.writes import CONSENT_ANNOTATION, ROLLOUT_LABEL, Apply, label_value
from rollouts.units import ZERO
from tests.kit.routes import adopted, managed, pool, ref, route, service_ref, target, template

V1 = "inference.networking.k8s.io"


def look(
    live: dict[str, Any] | None,
    spec: HttpRouteTraffic | None = None,
    body: dict[str, Any] | None = None,
    arms: tuple[str, ...] = ("v1", "v2"),
) -> TrafficView:
    reader = Reader(
        rollout="demo", arms=tuple(map(pool, arms)), gitops_managers=("argocd-controller", "helm-controller")
    )
    return view(live, spec or adopted(), body, reader)


def weights(seen: TrafficView) -> list[tuple[str, dict[str, int]]]:
    return [
        (rule.name, {identity.name: value for identity, value in rule.entries.items()}) for rule in seen.rules
    ]


def test_a_route_that_does_not_exist() -> None:
    seen = look(None)
    assert (seen.exists, seen.kind, seen.name, seen.mode) == (
        False,
        "HTTPRoute",
        "route",
        TrafficMode.ADOPTED,
    )


def test_identity_of_the_object() -> None:
    seen = look(route([ref("v1", 1)], metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}))
    assert (seen.exists, seen.uid, seen.resource_version, seen.deleting) == (True, "u1", "7", True)


# --- rules ---

CHOICES = {
    "the rules that reference an arm": (
        route([ref("v1", 9), ref("v2", 1)], [ref("other", 5)], [ref("v2", 3)]),
        adopted(),
        [("0", {"v1": 9, "v2": 1}), ("2", {"v2": 3})],
    ),
    "all rules with pools when none references an arm": (
        route([ref("a", 9)], [service_ref("web", 1)], [ref("b", 3)]),
        adopted(),
        [("0", {"a": 9}), ("2", {"b": 3})],
    ),
    "named rules whatever they reference": (
        route([ref("v1", 9)], {"name": "api", "backendRefs": [ref("a", 2)]}),
        adopted(rule_names=("api",)),
        [("api", {"a": 2})],
    ),
    "no rule when no name fits": (route([ref("v1", 9)]), adopted(rule_names=("api",)), []),
    "an omitted weight counts 1": (route([ref("v1", None)]), adopted(), [("0", {"v1": 1})]),
    "two entries of one pool are added up": (
        route([ref("v1", 2), ref("v2", 1), ref("v1", 3)]),
        adopted(),
        [("0", {"v1": 5, "v2": 1})],
    ),
    "services are not pools": (route([ref("v1", 2), service_ref("v2", 1)]), adopted(), [("0", {"v1": 2})]),
    "a pool of another namespace is another pool": (
        route([ref("v1", 2), {**ref("v2", 7), "namespace": "tenant-b"}]),
        adopted(),
        [("0", {"v1": 2})],
    ),
    "a namespace that is written out is the route's own": (
        route([ref("v1", 2), {**ref("v2", 7), "namespace": "default"}]),
        adopted(),
        [("0", {"v1": 2, "v2": 7})],
    ),
    "a rule that references an arm's namesake only is not ours": (
        route([{**ref("v1", 9), "namespace": "tenant-b"}], [ref("v2", 3)]),
        adopted(),
        [("1", {"v2": 3})],
    ),
    "header rules of ours are not weighed": (
        route({"name": "rollout-header-testers-0", "backendRefs": [ref("v2", 1)]}, [ref("v1", 1)]),
        adopted(),
        [("1", {"v1": 1})],
    ),
}


@pytest.mark.parametrize("what", CHOICES)
def test_it_weighs(what: str) -> None:
    live, spec, wanted = CHOICES[what]
    assert weights(look(live, spec)) == wanted


def test_the_two_groups_are_different_pools() -> None:
    seen = look(route([ref("v1", 3, group=V1), ref("v1", 5)]))
    assert seen.rules[0].entries == {pool("v1", V1): 3, pool("v1"): 5}


def test_a_managed_route_weighs_the_open_rules_of_its_template_only() -> None:
    body = template({"backendRefs": [ref("v1", 1)]}, {})
    live = route([ref("v1", 1)], [ref("v1", 90), ref("v2", 10)], metadata={"labels": {ROLLOUT_LABEL: "demo"}})
    seen = look(live, managed(), body)
    assert weights(seen) == [("1", {"v1": 90, "v2": 10})]
    assert seen.structure_current


STRUCTURES = {
    "as the template says": ({}, True),
    "defaults of the server": ({"parentRefs": [{"name": "gateway", "kind": "Gateway"}]}, True),
    "other hostnames": ({"hostnames": ["b"]}, False),
    "another parent": ({"parentRefs": [{"name": "other"}]}, False),
    "a rule more": ({"rules": [{"matches": []}, {}]}, False),
    "a rule less": ({"rules": []}, False),
}


@pytest.mark.parametrize("what", STRUCTURES)
def test_the_structure_of_a_managed_route_is_current(what: str) -> None:
    change, current = STRUCTURES[what]
    body = {**template(), "hostnames": ["a"]}
    live = route(
        [ref("v1", 100)], spec={"hostnames": ["a"], **change}, metadata={"labels": {ROLLOUT_LABEL: "demo"}}
    )
    assert look(live, managed(), body).structure_current is current


def test_a_managed_route_without_our_label_is_not_current() -> None:
    assert not look(route([ref("v1", 100)]), managed(), template()).structure_current


def test_the_structure_of_an_adopted_route_is_nobodys_business() -> None:
    assert look(route([ref("v1", 100)], spec={"hostnames": ["b"]})).structure_current


# --- claims ---

CLAIMS = [
    ("nobody named", TrafficMode.ADOPTED, None, None, (Claim.UNCLAIMED, "")),
    ("consent to us", TrafficMode.ADOPTED, None, "demo", (Claim.CONSENTED, "demo")),
    ("consent to another", TrafficMode.ADOPTED, None, "rival", (Claim.OTHER, "rival")),
    ("consent beats an old label", TrafficMode.ADOPTED, "rival", "demo", (Claim.CONSENTED, "demo")),
    ("nobody named, managed", TrafficMode.MANAGED, None, None, (Claim.UNCLAIMED, "")),
    ("our label", TrafficMode.MANAGED, "demo", None, (Claim.OURS, "demo")),
    ("consent to be taken over", TrafficMode.MANAGED, None, "demo", (Claim.CONSENTED, "demo")),
    ("the label of another", TrafficMode.MANAGED, "rival", "demo", (Claim.OTHER, "rival")),
    ("a label that is no text", TrafficMode.MANAGED, ["demo"], None, (Claim.UNCLAIMED, "")),
]


@pytest.mark.parametrize(
    ("mode", "label", "consent", "wanted"), [c[1:] for c in CLAIMS], ids=[c[0] for c in CLAIMS]
)
def test_claim(mode: TrafficMode, label: Any, consent: str | None, wanted: tuple[Claim, str]) -> None:
    live = route([ref("v1", 1)])
    live["metadata"]["labels"] = {} if label is None else {ROLLOUT_LABEL: label}
    live["metadata"]["annotations"] = {} if consent is None else {CONSENT_ANNOTATION: consent}
    spec = managed() if mode is TrafficMode.MANAGED else adopted()
    seen = look(live, spec, template())
    assert (seen.claim, seen.claimed_by) == wanted


@pytest.mark.parametrize("name", ["a" * 63, "a" * 64, "a.b-" * 50 + "c"])
def test_a_name_that_no_label_can_hold_claims_by_a_shorter_one(name: str) -> None:
    value = label_value(name)
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?", value)
    assert value == name or value != label_value(name + "x")
    live = route([ref("v1", 1)], metadata={"labels": {ROLLOUT_LABEL: value}})
    seen = view(live, managed(), template(), Reader(rollout=name, arms=(pool("v1"),)))
    assert (seen.claim, seen.claimed_by, seen.structure_current) == (Claim.OURS, name, True)
    stranger = view(live, managed(), template(), Reader(rollout=name + "x", arms=(pool("v1"),)))
    assert stranger.claim is Claim.OTHER


def test_what_is_written_with_a_long_name_is_what_is_read() -> None:
    where = replace(target(managed(), template()), rollout="a" * 100)
    write = render(None, where, DesiredTraffic(stable=pool("v1"), canary=None, weight=ZERO))
    assert isinstance(write, Apply)
    assert write.body["metadata"]["labels"] == {ROLLOUT_LABEL: label_value("a" * 100)}


# --- writers ---


def manager(
    name: str, fields: dict[str, Any], time: str = "2026-01-01T00:00:00Z", **more: Any
) -> dict[str, Any]:
    return {"manager": name, "fieldsV1": {"f:spec": fields}, "time": time, **more}


RULES: dict[str, Any] = {"f:rules": {}}
WRITERS = {
    "nobody": ([], ("", False, False)),
    "us": ([manager("inference-rollouts", RULES)], ("inference-rollouts", True, False)),
    "a person": ([manager("kubectl-edit", RULES)], ("kubectl-edit", False, False)),
    "Argo CD": ([manager("argocd-controller", RULES)], ("argocd-controller", False, True)),
    "us, when another owns the same value": (
        [manager("argocd-controller", RULES, "2026-01-02T00:00:00Z"), manager("inference-rollouts", RULES)],
        ("inference-rollouts", True, False),
    ),
    "the later one of two strangers": (
        [manager("a", RULES, "2026-01-02T00:00:00Z"), manager("b", RULES, "2026-01-01T00:00:00Z")],
        ("a", False, False),
    ),
    "not who owns other fields": (
        [manager("helm", {"f:hostnames": {}}, "2026-01-05T00:00:00Z"), manager("kubectl", RULES)],
        ("kubectl", False, False),
    ),
    "not who wrote the status": ([manager("gw", RULES, subresource="status")], ("", False, False)),
}


@pytest.mark.parametrize("who", WRITERS)
def test_the_last_writer_of_the_weights_is(who: str) -> None:
    fields, wanted = WRITERS[who]
    seen = look(route([ref("v1", 1)], metadata={"managedFields": fields}))
    assert (seen.last_writer, seen.written_by_us, seen.written_by_gitops) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2026-01-01T00:00:00Z", datetime(2026, 1, 1, tzinfo=UTC)),
        ("2026-01-01T00:00:00", None),
        ("yesterday", None),
        (17, None),
    ],
)
def test_the_time_of_the_last_write(text: Any, wanted: datetime | None) -> None:
    live = route([ref("v1", 1)], metadata={"managedFields": [manager("a", RULES, text)]})
    assert look(live).last_written_at == wanted


# --- parents ---


def condition(
    name: str, status: str = "True", generation: int | None = 3, message: str = ""
) -> dict[str, Any]:
    fields = {"type": name, "status": status, "observedGeneration": generation, "message": message}
    return {key: value for key, value in fields.items() if value is not None}


def parent(*conditions: dict[str, Any], **reference: Any) -> dict[str, Any]:
    return {"parentRef": {"name": "gateway", **reference}, "conditions": list(conditions)}


def by(controller: str, *conditions: dict[str, Any]) -> dict[str, Any]:
    return {**parent(*conditions), "controllerName": controller}


def unaware(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key != "observedGeneration"}


ACCEPTED, RESOLVED = condition("Accepted"), condition("ResolvedRefs")
GOOD = (ACCEPTED, RESOLVED)
PARENTS = {
    "every condition is met": ([parent(ACCEPTED, RESOLVED)], ""),
    "defaults are written out": (
        [parent(ACCEPTED, RESOLVED, group="gateway.networking.k8s.io", kind="Gateway", namespace="default")],
        "",
    ),
    "no gateway has looked": ([], "Gateway gateway has not reported on the HTTPRoute yet"),
    "another gateway has looked": (
        [{"parentRef": {"name": "other"}, "conditions": [ACCEPTED, RESOLVED]}],
        "Gateway gateway has not reported on the HTTPRoute yet",
    ),
    "every listener reports for itself": (
        [parent(ACCEPTED, RESOLVED, sectionName="web"), parent(ACCEPTED, RESOLVED, sectionName="api")],
        "",
    ),
    "one listener refuses": (
        [parent(ACCEPTED, RESOLVED, sectionName="web"), parent(ACCEPTED, sectionName="api")],
        "Gateway gateway: ResolvedRefs is not reported yet",
    ),
    "not accepted": (
        [parent(condition("Accepted", "False", message="no such listener"), RESOLVED)],
        "Gateway gateway: Accepted is False: no such listener",
    ),
    "references not resolved": (
        [parent(ACCEPTED, condition("ResolvedRefs", "False", message="no pool v2"))],
        "Gateway gateway: ResolvedRefs is False: no pool v2",
    ),
    "a condition is missing": ([parent(ACCEPTED)], "Gateway gateway: ResolvedRefs is not reported yet"),
    "an old generation": (
        [parent(condition("Accepted", generation=2), RESOLVED)],
        "Gateway gateway: Accepted is not yet reported for the current generation",
    ),
    "an old refusal is no refusal of the new spec": (
        [parent(condition("Accepted", "False", 2), RESOLVED)],
        "Gateway gateway: Accepted is not yet reported for the current generation",
    ),
    "one of two controllers refuses": (
        [parent(ACCEPTED, RESOLVED), parent(condition("Accepted", "False", message="no"), RESOLVED)],
        "Gateway gateway: Accepted is False: no",
    ),
    "a Gateway of the same name elsewhere has looked": (
        [parent(ACCEPTED, RESOLVED, namespace="tenant-b")],
        "Gateway gateway has not reported on the HTTPRoute yet",
    ),
    "another kind of the same name has looked": (
        [parent(ACCEPTED, RESOLVED, group="", kind="Service")],
        "Gateway gateway has not reported on the HTTPRoute yet",
    ),
    "empty section and port mean the whole": ([parent(ACCEPTED, RESOLVED, sectionName="", port=0)], ""),
    "no generation is ever reported": ([parent(*map(unaware, (ACCEPTED, RESOLVED)))], ""),
    "generation 0 is reported": ([parent(condition("Accepted", generation=0), RESOLVED)], ""),
    "no generation is reported, and it refuses": (
        [parent(unaware(condition("Accepted", "False", message="no")), RESOLVED)],
        "Gateway gateway: Accepted is False: no",
    ),
    "one of its conditions is old": (
        [parent(ACCEPTED, condition("ResolvedRefs", generation=2))],
        "Gateway gateway: ResolvedRefs is not yet reported for the current generation",
    ),
    "a controller that is gone refused": (
        [
            by("gone", condition("Accepted", "False", 2), condition("ResolvedRefs", "False", 2)),
            by("new", *GOOD),
        ],
        "",
    ),
    "a controller that is gone said nothing": ([by("gone"), by("new", *GOOD)], ""),
    "only a controller that is gone has looked": (
        [by("gone", condition("Accepted", generation=2), condition("ResolvedRefs", generation=2))],
        "Gateway gateway (gone): Accepted is not yet reported for the current generation",
    ),
    "a living controller beside it is half-way": (
        [by("gone", condition("Accepted", generation=2)), by("new", ACCEPTED)],
        "Gateway gateway (new): ResolvedRefs is not reported yet",
    ),
    "the second of two living controllers refuses": (
        [by("a", *GOOD), by("b", condition("Accepted", "False", message="no"), RESOLVED)],
        "Gateway gateway (b): Accepted is False: no",
    ),
    "a hostile type": ([parent({"type": []}, ACCEPTED, RESOLVED)], ""),
}


@pytest.mark.parametrize("what", PARENTS)
def test_parents_when(what: str) -> None:
    statuses, message = PARENTS[what]
    seen = look(route([ref("v1", 1)], status={"parents": statuses}))
    assert (seen.parents.programmed, seen.parents.message) == (not message, message)


def test_every_parent_must_have_accepted() -> None:
    live = route(
        [ref("v1", 1)],
        spec={"parentRefs": [{"name": "gateway"}, {"name": "second"}]},
        status={"parents": [parent(ACCEPTED, RESOLVED)]},
    )
    assert look(live).parents.message == "Gateway second has not reported on the HTTPRoute yet"


def test_a_listener_of_a_gateway_does_not_speak_for_the_whole_of_it_when_the_route_names_both() -> None:
    live = route(
        [ref("v1", 1)],
        spec={"parentRefs": [{"name": "gateway", "sectionName": "web"}, {"name": "gateway"}]},
        status={"parents": [parent(ACCEPTED, RESOLVED, sectionName="web")]},
    )
    assert look(live).parents.message == "Gateway gateway has not reported on the HTTPRoute yet"


def test_a_route_without_parents_is_served_by_nobody() -> None:
    assert "no gateway" in look(route([ref("v1", 1)], spec={"parentRefs": []})).parents.message
