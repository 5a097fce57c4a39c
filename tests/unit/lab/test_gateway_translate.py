"""Gateway API semantics: from objects to the plan of the data plane and the status of each object."""

from __future__ import annotations

from typing import Any

import pytest

from rollouts.lab.gateway.backends import PICKER_ANNOTATION
from rollouts.lab.gateway.listeners import common_hostname
from rollouts.lab.gateway.model import LbEndpoint, PickerBackend, Route
from rollouts.lab.gateway.translate import Translation, World, translate

V1, ALPHA = "inference.networking.k8s.io", "inference.networking.x-k8s.io"
Object = dict[str, Any]


def meta(name: str, **fields: Any) -> Object:
    return {"metadata": {"name": name, "namespace": "default", "generation": 1, **fields}}


def gateway(name: str = "gw", *listeners: Object, **fields: Any) -> Object:
    default = {"name": "http", "port": 80, "protocol": "HTTP"}
    return {**meta(name, **fields), "spec": {"listeners": list(listeners) or [default]}}


def route(
    name: str = "r", *, rules: list[Object], parents: list[Object] | None = None, **spec: Any
) -> Object:
    metadata = {key: spec.pop(key) for key in ("namespace", "creationTimestamp") if key in spec}
    return {
        **meta(name, **metadata),
        "spec": {"parentRefs": parents or [{"name": "gw"}], "rules": rules, **spec},
    }


def ref(name: str, weight: int | None = None, group: str = ALPHA, **fields: Any) -> Object:
    weighted = {} if weight is None else {"weight": weight}
    return {"group": group, "kind": "InferencePool", "name": name, **weighted, **fields}


def pool(name: str, release: str = "a", **annotations: str) -> Object:
    named = {"annotations": {PICKER_ANNOTATION: annotations["picker"]}} if annotations else {}
    return {**meta(name, **named), "spec": {"selector": {"release": release}, "targetPortNumber": 8000}}


def pool_v1(name: str, release: str = "a", **spec: Any) -> Object:
    return {
        **meta(name),
        "spec": {
            "selector": {"matchLabels": {"release": release}},
            "targetPorts": [{"number": 8000}, {"number": 8001}],
            **spec,
        },
    }


def pod(name: str, ip: str, release: str = "a", *, ready: str = "True", **metadata: Any) -> Object:
    return {
        **meta(name, labels={"release": release, "extra": "x"}, **metadata),
        "spec": {"containers": [{"ports": [{"name": "http", "containerPort": 8000}]}]},
        "status": {"podIP": ip, "conditions": [{"type": "Ready", "status": ready}]},
    }


def world(
    routes: list[Object],
    *,
    gateways: list[Object] | None = None,
    alpha: list[Object] | None = None,
    v1: list[Object] | None = None,
    services: list[Object] | None = None,
    pods: list[Object] | None = None,
) -> Translation:
    return translate(
        World(
            gateways=[gateway()] if gateways is None else gateways,
            routes=routes,
            pools={ALPHA: alpha or [], V1: v1 or []},
            services=services or [],
            pods=pods or [],
        )
    )


def routes_of(translation: Translation, hostname: str = "*") -> list[Route]:
    (listener,) = translation.plan.listeners
    (found,) = [host for host in listener.hosts if host.hostname == hostname]
    return list(found.routes)


def conditions(translation: Translation, index: int = 0) -> dict[str, tuple[bool, str]]:
    (parent,) = translation.routes[index].parents
    return {c.type: (c.status, c.reason) for c in parent.conditions}


OK = {"Accepted": (True, "Accepted"), "ResolvedRefs": (True, "ResolvedRefs")}


def test_backend_refs_become_weighted_clusters_with_weight_one_by_default() -> None:
    made = world([route(rules=[{"backendRefs": [ref("p1", 90), ref("p2")]}])], alpha=[pool("p1"), pool("p2")])
    (found,) = routes_of(made)

    assert [(b.cluster, b.weight) for b in found.backends] == [
        (f"pool/{ALPHA}/default/p1", 90),
        (f"pool/{ALPHA}/default/p2", 1),
    ]
    assert conditions(made) == OK


def test_pools_of_one_name_in_both_groups_stay_apart() -> None:
    made = world(
        [route(rules=[{"backendRefs": [ref("p", group=V1), ref("p", group=ALPHA)]}])],
        alpha=[pool("p", "a")],
        v1=[pool_v1("p", "b")],
        pods=[pod("one", "127.0.0.11", "a"), pod("two", "127.0.0.12", "b")],
    )
    endpoints = {cluster.name: cluster.endpoints for cluster in made.plan.clusters}

    assert endpoints == {
        f"pool/{ALPHA}/default/p": (LbEndpoint(address="127.0.0.11", port=8000),),
        f"pool/{V1}/default/p": (
            LbEndpoint(address="127.0.0.12", port=8000),
            LbEndpoint(address="127.0.0.12", port=8001),
        ),
    }


@pytest.mark.parametrize(
    ("sentence", "candidate"),
    [
        ("not Ready", pod("x", "127.0.0.9", ready="False")),
        ("terminating", pod("x", "127.0.0.9", deletionTimestamp="2026-01-01T00:00:00Z")),
        ("without an address", pod("x", "")),
        ("with an address that is none", pod("x", "no address")),
        ("of another release", pod("x", "127.0.0.9", "b")),
        ("of another namespace", {**pod("x", "127.0.0.9", namespace="other")}),
        ("with conditions of a wrong type", {**meta("x"), "status": {"conditions": "Ready"}}),
    ],
)
def test_only_ready_pods_of_the_pool_are_endpoints(sentence: str, candidate: Object) -> None:
    made = world([route(rules=[{"backendRefs": [ref("p")]}])], alpha=[pool("p")], pods=[candidate])
    assert made.plan.clusters[0].endpoints == (), sentence


@pytest.mark.parametrize(
    ("sentence", "backend", "reason"),
    [
        ("a pool that is not there", ref("nowhere"), "BackendNotFound"),
        ("a pool of the other group", ref("p", group=V1), "BackendNotFound"),
        ("a kind that is no backend", ref("p", kind="ConfigMap"), "InvalidKind"),
        ("a pool of a foreign group", ref("p", group="example.com"), "InvalidKind"),
        ("another namespace without a grant", ref("p", namespace="other"), "RefNotPermitted"),
        ("a pool without selector", ref("broken"), "UnsupportedValue"),
        ("a picker address that is no loopback", ref("far"), "UnsupportedValue"),
    ],
)
def test_a_bad_reference_is_reported_and_only_its_share_is_lost(
    sentence: str, backend: Object, reason: str
) -> None:
    broken = {**meta("broken"), "spec": {"targetPortNumber": 8000}}
    made = world(
        [route(rules=[{"backendRefs": [ref("p", 90), {**backend, "weight": 10}]}])],
        alpha=[pool("p"), broken, pool("far", picker="10.0.0.1:9002")],
    )
    (found,) = routes_of(made)
    missing = {b.cluster for b in found.backends} - {c.name for c in made.plan.clusters}

    assert conditions(made) == {"Accepted": (True, "Accepted"), "ResolvedRefs": (False, reason)}, sentence
    assert [b.weight for b in found.backends] == [90, 10]
    assert len(missing) == 1


@pytest.mark.parametrize(
    ("sentence", "listener", "parent", "spec", "reason"),
    [
        ("a section that is not there", {}, {"sectionName": "other"}, {}, "NoMatchingParent"),
        ("a port that is not there", {}, {"port": 81}, {}, "NoMatchingParent"),
        ("a listener of another protocol", {"protocol": "HTTPS"}, {}, {}, "NoMatchingParent"),
        (
            "a kind that is not allowed",
            {"allowedRoutes": {"kinds": [{"kind": "GRPCRoute"}]}},
            {},
            {},
            "NotAllowedByListeners",
        ),
        ("another namespace", {}, {"namespace": "default"}, {"namespace": "other"}, "NotAllowedByListeners"),
        (
            "no hostname in common",
            {"hostname": "a.example"},
            {},
            {"hostnames": ["b.example"]},
            "NoMatchingListenerHostname",
        ),
    ],
)
def test_a_route_that_cannot_attach_says_why(
    sentence: str, listener: Object, parent: Object, spec: Object, reason: str
) -> None:
    made = world(
        [route(rules=[], parents=[{"name": "gw", **parent}], **spec)],
        gateways=[gateway("gw", {"name": "http", "port": 80, "protocol": "HTTP", **listener})],
    )
    assert conditions(made)["Accepted"] == (False, reason), sentence


def test_a_namespace_may_be_allowed() -> None:
    listener = {"name": "http", "port": 80, "protocol": "HTTP"}
    for allowed in (
        {"from": "All"},
        {"from": "Selector", "selector": {"matchLabels": {"kubernetes.io/metadata.name": "other"}}},
    ):
        made = world(
            [route(rules=[], parents=[{"name": "gw", "namespace": "default"}], namespace="other")],
            gateways=[gateway("gw", {**listener, "allowedRoutes": {"namespaces": allowed}})],
        )
        assert conditions(made) == OK


def test_parents_that_are_no_gateways_of_ours_get_no_status() -> None:
    made = world([route(rules=[], parents=[{"name": "elsewhere"}, {"kind": "Service", "name": "gw"}])])
    assert made.routes[0].parents == ()


@pytest.mark.parametrize(
    ("sentence", "rule"),
    [
        ("an unknown filter", {"filters": [{"type": "ExtensionRef"}]}),
        ("a weight of a wrong type", {"backendRefs": [ref("p") | {"weight": "10"}]}),
        ("a negative weight", {"backendRefs": [ref("p", -1)]}),
        ("a broken expression", {"matches": [{"path": {"type": "RegularExpression", "value": "("}}]}),
        (
            "an expression that only Python knows",
            {"matches": [{"path": {"type": "RegularExpression", "value": "(?=a)"}}]},
        ),
        ("a path without a slash", {"matches": [{"path": {"value": "v1"}}]}),
        ("a header name with a space", {"matches": [{"headers": [{"name": "a b", "value": "x"}]}]}),
        ("matches of a wrong type", {"matches": {"path": "/"}}),
        ("an unknown method", {"matches": [{"method": "FETCH"}]}),
        ("a duration that is none", {"timeouts": {"request": "soon"}}),
        (
            "a line break in a header",
            {
                "filters": [
                    {
                        "type": "RequestHeaderModifier",
                        "requestHeaderModifier": {"set": [{"name": "a", "value": "b\r\nc"}]},
                    }
                ]
            },
        ),
    ],
)
def test_a_route_that_cannot_be_served_is_refused_and_the_others_go_on(sentence: str, rule: Object) -> None:
    made = world(
        [route("bad", rules=[rule]), route("good", rules=[{"backendRefs": [ref("p")]}])], alpha=[pool("p")]
    )

    assert conditions(made, 0) == {"Accepted": (False, "UnsupportedValue")}, sentence
    assert conditions(made, 1) == OK
    assert [found.name for found in routes_of(made)] == ["default/good/0/0"]


@pytest.mark.parametrize("spec", [None, "text", {"rules": 3}, {"parentRefs": "gw"}, {"parentRefs": [1]}])
def test_a_route_of_nonsense_stops_nothing(spec: Any) -> None:
    made = world([{**meta("bad"), "spec": spec}, route("good", rules=[{"backendRefs": [ref("p")]}])])
    assert len(routes_of(made)) == 1


def rule_for(**match: Any) -> Object:
    return {"matches": [match], "backendRefs": [ref("p")]}


PRECEDENCE = [
    ("exact", rule_for(path={"type": "Exact", "value": "/v1"})),
    ("regex", rule_for(path={"type": "RegularExpression", "value": "/v1.*"})),
    ("long", rule_for(path={"value": "/v1/chat"})),
    ("method", rule_for(path={"value": "/v1"}, method="POST")),
    ("headers-2", rule_for(path={"value": "/v1"}, headers=[{"name": n, "value": "1"} for n in ("a", "b")])),
    ("headers-1", rule_for(path={"value": "/v1"}, headers=[{"name": "a", "value": "1"}])),
    ("query", rule_for(path={"value": "/v1"}, queryParams=[{"name": "q", "value": "1"}])),
    ("plain", rule_for(path={"value": "/v1"})),
    ("all", rule_for()),
]


def test_the_best_match_is_first_whatever_the_order_of_the_objects() -> None:
    objects = [route(name, rules=[rule]) for name, rule in PRECEDENCE]
    made = world(objects[::-1], alpha=[pool("p")])

    assert [found.name.split("/")[1] for found in routes_of(made)] == [name for name, _ in PRECEDENCE]


def test_among_equals_the_older_route_then_the_name_then_the_rule_decides() -> None:
    rule = rule_for(path={"value": "/v1"})
    made = world(
        [
            route("b", rules=[rule], creationTimestamp="2026-01-02T00:00:00Z"),
            route("a", rules=[rule, rule], creationTimestamp="2026-01-02T00:00:00Z"),
            route("c", rules=[rule], creationTimestamp="2026-01-01T00:00:00Z"),
        ],
        alpha=[pool("p")],
    )
    assert [found.name for found in routes_of(made)] == [
        "default/c/0/0",
        "default/a/0/0",
        "default/a/1/0",
        "default/b/0/0",
    ]


@pytest.mark.parametrize(
    ("on_route", "on_listener", "common"),
    [
        ("a.example", "", "a.example"),
        ("a.example", "a.example", "a.example"),
        ("a.example", "*.example", "a.example"),
        ("*.example", "a.example", "a.example"),
        ("*.b.example", "*.example", "*.b.example"),
        ("a.example", "b.example", ""),
        ("example", "*.example", ""),
        ("badexample", "*.example", ""),
    ],
)
def test_hostnames_meet_at_the_more_specific_one(on_route: str, on_listener: str, common: str) -> None:
    assert common_hostname(on_route, on_listener) == common


def test_each_hostname_is_its_own_virtual_host() -> None:
    made = world(
        [
            route("named", rules=[rule_for()], hostnames=["A.example"]),
            route("any", rules=[rule_for()]),
        ],
        alpha=[pool("p")],
    )
    assert [found.name for found in routes_of(made, "a.example")] == ["default/named/0/0"]
    assert [found.name for found in routes_of(made)] == ["default/any/0/0"]


def test_a_service_selects_pods_and_its_port_names_the_target() -> None:
    service = {
        **meta("s"),
        "spec": {"selector": {"release": "a"}, "ports": [{"port": 80, "targetPort": "http"}]},
    }
    backend = {"name": "s", "port": 80}
    made = world(
        [route(rules=[{"backendRefs": [backend]}])], services=[service], pods=[pod("one", "127.0.0.11")]
    )

    assert made.plan.clusters[0].endpoints == (LbEndpoint(address="127.0.0.11", port=8000),)
    assert conditions(made) == OK


@pytest.mark.parametrize(
    ("mode", "fail_open"), [("FailOpen", True), ("FailClose", False), ("", False), (None, False)]
)
@pytest.mark.parametrize(("group", "key"), [(ALPHA, "extensionRef"), (V1, "endpointPickerRef")])
def test_the_picker_annotation_switches_the_picker_on(
    group: str, key: str, mode: str | None, fail_open: bool
) -> None:
    found = pool_v1("p") if group == V1 else pool("p")
    found["metadata"]["annotations"] = {PICKER_ANNOTATION: "127.0.0.1:9002"}
    found["spec"][key] = {"name": "epp", **({} if mode is None else {"failureMode": mode})}
    pools = {"v1": [found]} if group == V1 else {"alpha": [found]}
    made = world([route(rules=[{"backendRefs": [ref("p", group=group)]}])], **pools)

    endpoints = (LbEndpoint(address="127.0.0.1", port=9002),)
    assert made.plan.clusters[0].picker == PickerBackend(
        name="picker/127.0.0.1:9002", endpoints=endpoints, fail_open=fail_open
    )


@pytest.mark.parametrize(
    ("sentence", "reference", "ports", "selector", "endpoints"),
    [
        ("a named target port", {}, {"targetPort": "http"}, {"release": "epp"}, ["127.0.3.1:8000"]),
        ("a numbered target port", {}, {"targetPort": 7}, {"release": "epp"}, ["127.0.3.1:7"]),
        ("the port itself by default", {}, {}, {"release": "epp"}, ["127.0.3.1:9002"]),
        (
            "the port that the pool names",
            {"portNumber": 9, "port": {"number": 9}},
            {"port": 9},
            {"release": "epp"},
            ["127.0.3.1:9"],
        ),
        ("a picker without Ready pods", {}, {}, {"release": "none"}, []),
        ("a Service without selector: the gateway brings its own", {}, {}, {}, None),
    ],
)
@pytest.mark.parametrize(("group", "key"), [(ALPHA, "extensionRef"), (V1, "endpointPickerRef")])
def test_the_picker_is_the_ready_pods_behind_the_service_that_the_pool_names(
    sentence: str,
    reference: Object,
    ports: Object,
    selector: dict[str, str],
    endpoints: list[str] | None,
    group: str,
    key: str,
) -> None:
    found = pool_v1("p") if group == V1 else pool("p")
    found["spec"][key] = {"name": "epp", **reference}
    service = {**meta("epp"), "spec": {"selector": selector, "ports": [{"port": 9002, **ports}]}}
    pods = [pod("epp-0", "127.0.3.1", "epp"), pod("epp-1", "127.0.3.2", "epp", ready="False")]
    pools = {"v1": [found]} if group == V1 else {"alpha": [found]}
    made = world(
        [route(rules=[{"backendRefs": [ref("p", group=group)]}])], services=[service], pods=pods, **pools
    )
    picker = made.plan.clusters[0].picker

    seen = None if picker is None else [f"{one.address}:{one.port}" for one in picker.endpoints]
    assert seen == endpoints, sentence


def test_a_picker_service_without_the_port_is_reported() -> None:
    found = pool("p")
    found["spec"]["extensionRef"] = {"name": "epp"}
    service = {**meta("epp"), "spec": {"selector": {"release": "epp"}, "ports": [{"port": 1}]}}
    made = world([route(rules=[{"backendRefs": [ref("p")]}])], alpha=[found], services=[service])

    assert conditions(made)["ResolvedRefs"] == (False, "UnsupportedValue")


def test_gateway_status_counts_attached_routes_and_refuses_other_protocols() -> None:
    made = world(
        [route("one", rules=[]), route("two", rules=[], parents=[{"name": "gw", "sectionName": "http"}])],
        gateways=[
            gateway(
                "gw",
                {"name": "http", "port": 80, "protocol": "HTTP"},
                {"name": "tls", "port": 443, "protocol": "HTTPS"},
            )
        ],
    )
    (status,) = made.gateways
    http, tls = status.listeners

    assert [(c.type, c.status) for c in status.conditions] == [("Accepted", True), ("Programmed", True)]
    assert (http.attached, tls.attached) == (2, 0)
    assert [(c.type, c.status, c.reason) for c in tls.conditions] == [
        ("Accepted", False, "UnsupportedProtocol"),
        ("Programmed", False, "Invalid"),
    ]


def test_a_gateway_of_nonsense_is_not_programmed_and_the_other_is() -> None:
    broken = {**meta("broken"), "spec": {"listeners": [{"name": "http", "port": "80", "protocol": "HTTP"}]}}
    made = world([], gateways=[broken, gateway()])

    assert [c.status for c in made.gateways[0].conditions] == [False, False]
    assert [c.status for c in made.gateways[1].conditions] == [True, True]
    assert [listener.name for listener in made.plan.listeners] == ["default/gw/80"]
