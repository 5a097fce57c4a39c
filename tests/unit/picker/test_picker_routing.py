"""Objects to decisions: dialects, precedence, readiness, subset, stickiness, pins, policies."""

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollouts.picker.core.endpoints import parse_subset
from rollouts.picker.core.objects import PoolName, read_snapshot
from rollouts.picker.core.routing import Decision, Refusal, Request, Router, Unready
from rollouts.picker.core.schedule import Load, Scheduler

pytestmark = pytest.mark.usefixtures("data_path")
BOTH = ("Router",)

POOL = PoolName("default", "pool")
SPLIT = {"v1": 90, "v2": 10}


def make_router(*raw: Any, unready: Unready = Unready.SPILL) -> Router:
    router = Router(Scheduler(), unready=unready)
    router.update(read_snapshot([POOL], raw), 0.0, 0.0)
    return router


def ask(router: Router, model: str = "travelhelper", **extra: Any) -> Decision | Refusal:
    headers = {name.replace("_", "-").encode(): value for name, value in extra.pop("headers", {}).items()}
    return router.route(Request(headers, model, **extra), 100.0)


def targets(router: Router, count: int = 100, **extra: Any) -> Counter[str]:
    return Counter(ask(router, **extra).target for _ in range(count))


DIALECTS = {
    "InferenceModel": lambda o: o.model({"v1": 90, "v2": 10}),
    "rewrite with targets": lambda o: o.rewrite(SPLIT),
    "rewrite with split": lambda o: o.rewrite(SPLIT, field="split"),
    "rewrite of llm-d": lambda o: o.rewrite(SPLIT, group="llm-d.ai"),
    "generic rewrite": lambda o: o.rewrite(SPLIT, model=None),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_splits_exactly(objects: Any, dialect: str) -> None:
    router = make_router(objects.pool(), objects.pod("10.0.0.1"), DIALECTS[dialect](objects))

    assert targets(router) == {"v1": 90, "v2": 10}


@pytest.mark.parametrize(
    ("sentence", "weights", "want"),
    [
        ("no weights share evenly", {"v1": None, "v2": None}, {"v1": 50, "v2": 50}),
        ("an omitted weight is 1, as in every gateway", {"v1": 3, "v2": None}, {"v1": 75, "v2": 25}),
        ("one target gets all", {"v2": 100}, {"v2": 100}),
        ("a zero gets nothing", {"v1": 0, "v2": 3}, {"v2": 100}),
        ("without targets the name stays", {}, {"travelhelper": 100}),
    ],
)
def test_weights(objects: Any, sentence: str, weights: dict[str, int | None], want: dict[str, int]) -> None:
    router = make_router(objects.pool(), objects.pod("10.0.0.1"), objects.model(weights))

    assert targets(router) == want


@pytest.mark.parametrize("seed", range(5))
def test_precedence_is_one_order_whatever_the_order_of_arrival(objects: Any, seed: int) -> None:
    old, new = "2025-01-01T00:00:00Z", "2026-06-01T00:00:00Z"
    raw = [
        objects.rewrite({"generic-but-old": 1}, model=None, name="a", created=old),
        objects.rewrite({"newer": 1}, name="a", created=new),
        objects.rewrite({"second-name": 1}, name="c", created="2026-01-01T00:00:00Z"),
        objects.rewrite({"winner": 1}, name="b", created="2026-01-01T00:00:00Z"),
        objects.pool(),
        objects.pod("10.0.0.1"),
    ]
    random.Random(seed).shuffle(raw)
    router = make_router(*raw)

    assert targets(router) == {"winner": 100}
    assert targets(router, model="another") == {"generic-but-old": 100}


@pytest.mark.parametrize("v1", [False, True])
def test_of_a_pool_with_roles_those_that_get_requests_are_its_endpoints(objects: Any, v1: bool) -> None:
    pool = objects.pool(v1=v1)
    pool["metadata"]["annotations"] = {"inferencerollouts.dev/roles": "llm-d.ai/role=decode,prefill"}
    pods = [objects.pod("10.0.0.1"), objects.pod("10.0.0.2"), objects.pod("10.0.0.3")]
    for pod, role in zip(pods, ("decode", "prefill"), strict=False):
        pod["metadata"]["labels"]["llm-d.ai/role"] = role

    router = make_router(pool, *pods)
    assert [endpoint.address for endpoint in router.snapshot.endpoints] == ["10.0.0.1:8000"]


def test_pods_that_do_not_count(objects: Any) -> None:
    router = make_router(
        objects.pool(),
        objects.pod("10.0.0.1"),
        objects.pod("10.0.0.2", ready="False"),
        objects.pod("10.0.0.3", deletionTimestamp="2026-01-01T00:00:00Z"),
        objects.pod("10.0.0.4", pool="other"),
        objects.pod("10.0.0.5", namespace="elsewhere"),
        objects.pod("not-an-address"),
    )

    assert [endpoint.address for endpoint in router.snapshot.endpoints] == ["10.0.0.1:8000"]


def test_every_active_port_of_a_pod_is_an_endpoint_and_ipv6_has_brackets(objects: Any) -> None:
    router = make_router(
        objects.pool(v1=True, ports=(8000, 8001)),
        objects.pod("fd00:0::1"),
        objects.pod("10.0.0.2", annotations={"inference.networking.k8s.io/active-ports": "8001, 9999"}),
    )

    addresses = [endpoint.address for endpoint in router.snapshot.endpoints]
    assert addresses == ["10.0.0.2:8001", "[fd00::1]:8000", "[fd00::1]:8001"]


@pytest.mark.parametrize(
    ("sentence", "hint", "want"),
    [
        ("absent: all", None, {"10.0.0.1:8000", "10.0.0.2:8000", "[fd00::1]:8000"}),
        ("a list", ["10.0.0.1:8000"], {"10.0.0.1:8000"}),
        ("one string", "10.0.0.2:8000", {"10.0.0.2:8000"}),
        ("a comma list", "10.0.0.2:8000, 10.0.0.1:8000", {"10.0.0.1:8000", "10.0.0.2:8000"}),
        ("an address without port", ["10.0.0.1"], {"10.0.0.1:8000"}),
        ("another port", ["10.0.0.1:8001"], set()),
        ("IPv6 in any spelling", ["[fd00:0:0::1]:8000"], {"[fd00::1]:8000"}),
        ("a bare IPv6 address", ["fd00::1"], {"[fd00::1]:8000"}),
        ("an empty list", [], set()),
        ("an empty string", "", set()),
        ("something else", 5.0, set()),
        ("nonsense", ["a:b:c", ":", "10.0.0.1:x", 7], set()),
    ],
)
@pytest.mark.parametrize("model", ["travelhelper", ""])
def test_subset_hint(objects: Any, sentence: str, hint: object, want: set[str], model: str) -> None:
    pods = [objects.pod(ip) for ip in ("10.0.0.1", "10.0.0.2", "fd00::1")]
    router = make_router(objects.pool(), *pods, objects.model(SPLIT))

    outcomes = [ask(router, model, subset=parse_subset(hint)) for _ in range(12)]

    assert {outcome.endpoint.address for outcome in outcomes if isinstance(outcome, Decision)} == want
    assert {outcome.status for outcome in outcomes if isinstance(outcome, Refusal)} == (
        set() if want else {503}
    )


@pytest.mark.parametrize("model", ["travelhelper", "unknown", ""])
def test_without_a_ready_pod_every_request_gets_503(objects: Any, model: str) -> None:
    router = make_router(objects.pool(), objects.pod("10.0.0.1", ready="False"), objects.model(SPLIT))

    outcome = ask(router, model)

    assert isinstance(outcome, Refusal)
    assert outcome.status == 503


def test_a_sticky_key_from_header_cookie_or_body_stays_where_it_is(objects: Any) -> None:
    places = {
        "header": ({"header": "X-Session-Id"}, {"headers": {"x_session_id": b"anna"}}),
        "cookie": ({"cookie": "sid"}, {"headers": {"cookie": b"a=b; sid=anna"}}),
        "body": ({"bodyField": "user"}, {"fields": {"user": "anna"}}),
    }
    seen = set()
    for sticky, request in places.values():
        router = make_router(
            objects.pool(), objects.pod("10.0.0.1"), objects.model(SPLIT), objects.rollout(sticky=sticky)
        )
        assert targets(router, 10) == {"v1": 9, "v2": 1}  # no key: split exactly
        seen.update(targets(router, 30, **request))
        assert ("user" in router.body_fields) is ("bodyField" in sticky)

    assert len(seen) == 1


@pytest.mark.parametrize(
    ("pin", "allowed", "want"),
    [(b"v2", True, {"v2": 10}), (b"v2", False, {"v1": 9, "v2": 1}), (b"x", True, {"v1": 9, "v2": 1})],
)
def test_a_pin_beats_weights_only_where_it_is_allowed(
    objects: Any, pin: bytes, allowed: bool, want: Any
) -> None:
    sticky = {"header": "x-session-id", "pinHeader": allowed}
    router = make_router(
        objects.pool(), objects.pod("10.0.0.1"), objects.model(SPLIT), objects.rollout(sticky=sticky)
    )

    assert targets(router, 10, headers={"x_rollout_pin": pin}) == want


def test_a_pin_reaches_a_canary_that_has_no_weight_yet(objects: Any) -> None:
    router = make_router(
        objects.pool(),
        objects.pod("10.0.0.1"),
        objects.model({"v1": 1}),
        objects.rollout(sticky={"pinHeader": True}),
    )

    assert targets(router, 5, headers={"x_rollout_pin": b"v2"}) == {"v2": 5}


@pytest.mark.parametrize(
    ("unready", "want"), [(Unready.SPILL, {"v1": 100}), (Unready.SHED, {"v1": 90, 503: 10})]
)
def test_a_canary_without_pods_costs_only_its_own_share(objects: Any, unready: Unready, want: Any) -> None:
    router = make_router(objects.pool(), objects.pod("10.0.0.1"), objects.model(SPLIT), unready=unready)
    router.scheduler.observe("10.0.0.1:8000", Load(models=frozenset({"mymodel", "v1"})), 100.0)

    outcomes = [ask(router) for _ in range(100)]

    assert Counter(o.status if isinstance(o, Refusal) else o.target for o in outcomes) == want


def test_only_pods_that_list_the_adapter_get_its_requests(objects: Any) -> None:
    router = make_router(
        objects.pool(), objects.pod("10.0.0.1"), objects.pod("10.0.0.2"), objects.model({"v2": 1})
    )
    router.scheduler.observe("10.0.0.1:8000", Load(models=frozenset({"v1"})), 100.0)

    assert {ask(router).endpoint.host for _ in range(10)} == {"10.0.0.2"}


@pytest.mark.parametrize(
    ("criticality", "status"), [("Critical", None), ("Standard", None), (None, None), ("Sheddable", 429)]
)
def test_only_sheddable_requests_are_dropped_when_all_pods_are_full(
    objects: Any, criticality: str | None, status: int | None
) -> None:
    router = make_router(
        objects.pool(), objects.pod("10.0.0.1"), objects.model(SPLIT, criticality=criticality)
    )
    before = ask(router)
    router.scheduler.observe("10.0.0.1:8000", Load(waiting=6), 100.0)

    assert isinstance(before, Decision)
    assert getattr(ask(router), "status", None) == status


@pytest.mark.parametrize(
    ("sentence", "rollout", "want"),
    [
        ("no Rollout", None, 0.0),
        ("a Rollout at rest", {"phase": "Healthy", "canary": False}, 0.05),
        ("a canary with a gate", {"steps": [{"analysis": {}}, {"analysis": {"metrics": [{}]}}]}, 1.0),
        ("a canary with background analysis", {"analysis": {"templates": [{"templateName": "x"}]}}, 1.0),
        ("a canary without any gate", {"steps": [{"setWeight": 5}]}, 0.05),
        ("an aborted canary", {"phase": "Aborted", "analysis": {"preset": "default"}}, 0.05),
    ],
)
def test_what_is_measured(objects: Any, sentence: str, rollout: Any, want: float) -> None:
    raw = [] if rollout is None else [objects.rollout(**rollout)]
    router = make_router(objects.pool(), objects.pod("10.0.0.1"), objects.model({"v1": 50, "v2": 50}), *raw)

    measured = Counter[str]()
    for number in range(4000):
        outcome = ask(router, headers={"x_request_id": b"id-%d" % number})
        measured[outcome.target] += outcome.measured

    for target in ("v1", "v2"):
        assert abs(measured[target] - 2000 * want) <= (0 if want in (0.0, 1.0) else 45)


def test_new_weights_begin_a_new_epoch_and_an_unchanged_rule_goes_on(objects: Any) -> None:
    base = [objects.pool(), objects.pod("10.0.0.1")]
    router = make_router(*base, objects.model({"v1": 9, "v2": 1}))
    first = [ask(router).target for _ in range(5)]
    router.update(read_snapshot([POOL], [*base, objects.model({"v1": 90, "v2": 10})]), 1.0, 1.0)
    rest = [ask(router).target for _ in range(5)]
    router.update(read_snapshot([POOL], [*base, objects.model({"v1": 1})]), 1.0, 1.0)

    assert Counter(first + rest) == {"v1": 9, "v2": 1}
    assert targets(router, 20) == {"v1": 20}
    assert router.shares() == {"travelhelper": {"v1": 20}}


PLACES = [
    "apiVersion",
    "kind",
    "metadata",
    "spec",
    "status",
    "name",
    "namespace",
    "labels",
    "selector",
    "targets",
    "rules",
    "matches",
    "model",
    "value",
    "weight",
    "targetModels",
    "modelName",
    "poolRef",
    "podIP",
    "conditions",
    "type",
    "creationTimestamp",
    "annotations",
    "strategy",
    "canary",
    "sticky",
    "traffic",
    "inferenceModel",
]
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.just("2026-99-01T00:00:00Z"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(PLACES), inner, max_size=4),
    max_leaves=12,
)
PATHS = st.lists(st.sampled_from(PLACES), min_size=1, max_size=4)


@given(junk=JUNK, path=PATHS, which=st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_a_hostile_object_never_stops_the_others(
    objects: Any, junk: Any, path: list[str], which: int
) -> None:
    victim = [
        objects.pool("other"), objects.pod("10.9.9.9"), objects.model({"v9": 1}, name="z", modelName="z"),
        objects.rewrite({"v9": 1}, name="z", model="z"), objects.rollout(sticky={"header": "x"}), junk,
    ][which]  # fmt: skip
    place = victim
    for key in path[:-1]:
        place = place[key] if isinstance(place, dict) and isinstance(place.get(key), dict) else place
    if isinstance(place, dict):
        place[path[-1]] = junk
    router = Router(Scheduler())
    raw = [victim, objects.pool(), objects.pod("10.0.0.1"), objects.model(SPLIT)]
    router.update(read_snapshot([POOL, PoolName("default", "other")], raw), 0.0, 0.0)

    outcome = ask(router)

    assert isinstance(outcome, Decision)
    assert outcome.target in ("v1", "v2", "v9")
