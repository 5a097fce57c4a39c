"""Pods of one pool split among versions: exact, sticky, pinned, spilled or shed, and never mixed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollouts.picker.core.endpoints import parse_subset
from rollouts.picker.core.objects import PoolName, read_snapshot
from rollouts.picker.core.routing import Decision, Refusal, Request, Router, Unread, Unready
from rollouts.picker.core.schedule import Load, Scheduler
from tests.unit.picker.conftest import Objects

pytestmark = pytest.mark.usefixtures("data_path")
BOTH = ("Router",)

POOL = PoolName("default", "pool")
IPS = {"v1": ("10.0.1.1", "10.0.1.2"), "v2": ("10.0.2.1",), "v3": ("10.0.3.1",)}
STICKY = {"header": "x-session", "pinHeader": True}


def variant_pods(*names: str) -> list[Any]:
    return [Objects.variant_pod(ip, name) for name in names for ip in IPS.get(name, (f"10.0.9.{len(name)}",))]


def make_router(*raw: Any, unready: Unready = Unready.SPILL, **how: Any) -> Router:
    router = Router(Scheduler(), unready=unready, **how)
    router.update(read_snapshot([POOL], [Objects.pool(), *raw]), 0.0, 0.0)
    return router


def load(router: Router, **models: Iterable[str]) -> None:
    """What the pods of each variant list; names that begin with ``lora`` are adapters."""
    for variant, names in models.items():
        found = frozenset(names)
        adapters = frozenset(name for name in found if name.startswith("lora"))
        for ip in IPS[variant]:
            router.scheduler.observe(f"{ip}:8000", Load(models=found, adapters=adapters), 99.0)


def ask(router: Router, model: str = "m", **extra: Any) -> Decision | Refusal:
    headers = {name.replace("_", "-").encode(): value for name, value in extra.pop("headers", {}).items()}
    return router.route(Request(headers, model, has_body=True, **extra), 100.0)


def answered(router: Router, model: str = "m", **extra: Any) -> Decision:
    outcome = ask(router, model, **extra)
    assert isinstance(outcome, Decision), outcome
    return outcome


def variants(router: Router, count: int = 100, **extra: Any) -> Counter[str]:
    return Counter(answered(router, **extra).variant for _ in range(count))


def host(decision: Decision) -> str:
    return decision.endpoint.host


# --- the split ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [{}, {"model": ""}, {"model": "other"}], ids=str)
def test_the_split_is_exact_whatever_the_requests_name(extra: dict[str, Any]) -> None:
    router = make_router(*variant_pods("v1", "v2"), Objects.pool_split({"v1": 90, "v2": 10}))

    assert variants(router, 1000, **extra) == {"v1": 900, "v2": 100}


def test_requests_without_a_body_are_split_too() -> None:
    router = make_router(*variant_pods("v1", "v2"), Objects.pool_split({"v1": 3, "v2": 1}))

    found = Counter(router.route(Request({}), 100.0).variant for _ in range(100))

    assert found == {"v1": 75, "v2": 25}


def test_a_variant_with_weight_0_and_pods_that_match_none_serve_nothing() -> None:
    router = make_router(*variant_pods("v1", "v2", "old"), Objects.pool_split({"v1": 1, "v2": 0}))

    hosts = {host(answered(router)) for _ in range(100)}

    assert hosts == set(IPS["v1"])
    (rule,) = router.snapshot.variants
    assert rule.unmatched == ("pod-10.0.9.3",)


def test_only_requests_for_the_named_model_are_split() -> None:
    pods = variant_pods("v1", "v2", "old")
    router = make_router(*pods, Objects.pool_split({"v1": 1, "v2": 0}, modelName="m"))

    others = {(host(one), one.variant) for one in (answered(router, "n") for _ in range(50))}
    mine = {(host(one), one.variant) for one in (answered(router) for _ in range(50))}

    assert mine == {(ip, "v1") for ip in IPS["v1"]}
    assert others == {(ip, "") for ip in (*IPS["v1"], *IPS["v2"], "10.0.9.3")}


def test_a_split_for_the_model_comes_before_one_for_all() -> None:
    router = make_router(
        *variant_pods("v1", "v2"),
        Objects.pool_split({"v1": 1, "v2": 0}, name="all"),
        Objects.pool_split({"v1": 0, "v2": 1}, name="m", modelName="m"),
    )

    assert variants(router) == {"v2": 100}
    assert variants(router, model="n") == {"v1": 100}


def test_of_two_splits_for_the_same_requests_the_older_counts_and_the_other_is_named() -> None:
    old, new = "2025-01-01T00:00:00Z", "2026-01-01T00:00:00Z"
    raw = [
        Objects.pool_split({"v1": 0, "v2": 1}, name="a", created=new),
        Objects.pool_split({"v1": 1, "v2": 0}, name="b", created=old),
    ]
    for order in (raw, raw[::-1]):
        router = make_router(*variant_pods("v1", "v2"), *order)

        assert variants(router) == {"v1": 100}
        (rule,) = router.snapshot.variants
        assert any("PoolSplit a is ignored" in problem for problem in rule.problems)


def test_weights_that_did_not_change_go_on_where_they_were() -> None:
    split, pods = Objects.pool_split({"v1": 9, "v2": 1}), variant_pods("v1", "v2")
    plain, touched = make_router(*pods, split), make_router(*pods, split)
    want = [answered(plain).variant for _ in range(50)]

    got = []
    for step in range(50):
        raw = [Objects.pool(), *pods, Objects.pool_split({"v1": 90, "v2": 10})]
        touched.update(read_snapshot([POOL], raw), float(step), 0.0)
        got.append(answered(touched).variant)

    assert got == want


def test_requests_are_counted_since_the_weights_changed() -> None:
    pods = variant_pods("v1", "v2")
    router = make_router(*pods, Objects.pool_split({"v1": 3, "v2": 1}))
    variants(router, 40)
    (split,) = router.counted().by_key.values()
    before = dict(split.counts)
    for weights in ({"v1": 30, "v2": 10}, {"v1": 1, "v2": 1}):  # the first says the same
        router.update(read_snapshot([POOL], [Objects.pool(), *pods, Objects.pool_split(weights)]), 0.0, 0.0)
        variants(router, 40)

    (split,) = router.counted().by_key.values()
    assert before == {"v1": 30, "v2": 10}
    assert split.counts == {"v1": 20, "v2": 20}


# --- pods ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [{"v1": 90, "v2": 10}, {"v1": 10, "v2": 90}], ids=str)
def test_a_variant_without_ready_pods_is_spilled_or_shed(weights: dict[str, int]) -> None:
    raw = [*variant_pods("v1"), Objects.pool_split(weights)]
    spilling, shedding = make_router(*raw), make_router(*raw, unready=Unready.SHED)

    outcomes = [ask(shedding) for _ in range(100)]

    assert variants(spilling) == {"v1": 100}
    refused = [one for one in outcomes if isinstance(one, Refusal)]
    assert {(one.status, one.variant) for one in refused} == {(503, "v2")}
    assert "variant v2" in refused[0].message
    assert len(refused) == weights["v2"]


def test_without_a_ready_pod_of_any_weighted_variant_all_ready_pods_serve_and_it_is_said() -> None:
    pods = variant_pods("v2", "old")
    router = make_router(*pods, Objects.pool_split({"v1": 1, "v2": 0}, models={"v2": "m-2"}))
    load(router, v2=["m-2"])

    found = {(host(one), one.variant, one.target) for one in (answered(router) for _ in range(50))}

    assert found == {("10.0.2.1", "v2", "m-2"), ("10.0.9.3", "", "m")}
    (split,) = router.variants.by_key.values()
    assert split.without_pods
    raw = [Objects.pool(), *pods, *variant_pods("v1"), Objects.pool_split({"v1": 1, "v2": 0})]
    router.update(read_snapshot([POOL], raw), 100.0, 0.0)
    assert not split.without_pods
    assert {host(answered(router)) for _ in range(50)} == set(IPS["v1"])


def test_a_pod_that_two_variants_could_be_serves_neither() -> None:
    split = Objects.pool_split({"v1": 1, "v2": 1})
    split["spec"]["variants"][1]["labels"] = {"tier": "2"}
    both = Objects.pod("10.0.2.1", labels={"app": "pool", "release": "v1", "tier": "2"})
    router = make_router(*variant_pods("v1"), both, split)

    assert {host(answered(router)) for _ in range(50)} == set(IPS["v1"])
    (rule,) = router.snapshot.variants
    assert rule.unmatched == ("pod-10.0.2.1",)
    assert any("v1 and v2" in problem for problem in rule.problems)


def test_a_subset_hint_narrows_the_variants_pods_and_gives_no_other_ones() -> None:
    router = make_router(*variant_pods("v1", "v2"), Objects.pool_split({"v1": 1, "v2": 0}))

    one = answered(router, subset=parse_subset(["10.0.1.2:8000", "10.0.2.1:8000"]))
    none = ask(router, subset=parse_subset(["10.0.2.1:8000"]))

    assert host(one) == "10.0.1.2"
    assert isinstance(none, Refusal)
    assert none.status == 503


def test_a_split_is_none_of_another_pools_business() -> None:
    router = Router(Scheduler())
    raw = [
        *(Objects.pool(), Objects.pool("other")),
        *(*variant_pods("v1", "old"), Objects.pod("10.0.7.1", pool="other")),
        Objects.pool_split({"v1": 1}),
    ]
    router.update(read_snapshot([POOL, PoolName("default", "other")], raw), 0.0, 0.0)

    found = answered(router, subset=parse_subset(["10.0.7.1:8000"]))

    assert (host(found), found.variant) == ("10.0.7.1", "")
    assert {host(answered(router)) for _ in range(50)} == set(IPS["v1"])


# --- names --------------------------------------------------------------------------------------------------


def test_the_model_is_replaced_for_the_variants_that_have_another_name() -> None:
    split = Objects.pool_split({"v1": 1, "v2": 1}, models={"v2": "m-2"}, modelName="m")
    router = make_router(*variant_pods("v1", "v2"), split, restore_model=True)

    found = {(one.variant, one.model, one.target, one.restored) for one in map(answered, [router] * 20)}

    assert found == {("v1", "m", "m", False), ("v2", "m", "m-2", True)}


def test_adapters_keep_their_names_where_all_requests_are_split() -> None:
    router = make_router(
        *variant_pods("v1", "v2"), Objects.pool_split({"v1": 1, "v2": 1}, models={"v2": "m-2"})
    )
    load(router, v1=["m", "lora-a"], v2=["m-2", "lora-a"])

    assert {answered(router).target for _ in range(20)} == {"m", "m-2"}
    assert {answered(router, "lora-a").target for _ in range(20)} == {"lora-a"}
    assert {answered(router, "").target for _ in range(20)} == {""}  # whatever a pod has


UNLISTED = "no Ready pod of variant v2 has said which models it serves"


def renaming(**spec: Any) -> Router:
    """Two variants, of which v2 serves the model under another name."""
    return make_router(
        *variant_pods("v1", "v2"), Objects.pool_split({"v1": 1, "v2": 1}, models={"v2": "m-2"}, **spec)
    )


def sent(router: Router, model: str) -> dict[str, str]:
    """The name that each variant's pods are sent."""
    return {one.variant: one.target for one in (answered(router, model) for _ in range(20))}


def test_what_may_be_an_adapter_keeps_its_name_until_the_pods_have_said_what_they_serve() -> None:
    router = renaming()

    assert sent(router, "lora-a") == {"v1": "lora-a", "v2": "lora-a"}
    (split,) = router.variants.by_key.values()
    assert any(UNLISTED in problem for problem in split.problems)
    load(router, v2=["m-2"])
    assert sent(router, "m") == {"v1": "m", "v2": "m-2"}
    assert not split.problems


def test_a_name_that_another_variants_pods_list_as_a_model_is_no_adapter() -> None:
    router = renaming()
    load(router, v1=["m", "lora-a"])

    assert sent(router, "m") == {"v1": "m", "v2": "m-2"}
    assert sent(router, "lora-a") == {"v1": "lora-a", "v2": "lora-a"}
    assert sent(router, "lora-b") == {"v2": "lora-b"}  # v2's pods alone may have it


def test_a_name_that_no_pod_lists_any_more_is_replaced() -> None:
    """After the promotion clients ask for the old name, which v1's pods took along."""
    router = renaming()
    load(router, v1=["m"], v2=["m-2"])
    raw = [Objects.pool(), *variant_pods("v2"), Objects.pool_split({"v2": 1}, models={"v2": "m-2"})]
    router.update(read_snapshot([POOL], raw), 100.0, 0.0)
    router.scheduler.observe("10.0.2.1:8000", Load(models=frozenset({"m-2"})), 101.0)

    assert sent(router, "m") == {"v2": "m-2"}


def test_what_the_pods_said_counts_until_a_new_pod_of_the_variant_has_said_something() -> None:
    router = renaming()
    load(router, v2=["m-2"])
    split = Objects.pool_split({"v2": 1}, models={"v2": "m-2"})
    raw = [Objects.pool(), Objects.variant_pod("10.0.2.9", "v2"), split]
    router.update(read_snapshot([POOL], raw), 100.0, 0.0)

    assert sent(router, "m") == {"v2": "m-2"}


def test_what_a_pod_said_counts_when_it_refuses_its_list_before_anybody_asked() -> None:
    """Whether a request came in between must not matter."""
    router = renaming()
    load(router, v2=["m-2"])
    router.scheduler.observe("10.0.2.1:8000", Load(), 100.0)

    assert sent(router, "m") == {"v1": "m", "v2": "m-2"}


def test_pods_that_refuse_their_list_leave_the_name_unless_the_split_is_for_one_model() -> None:
    whole, one = renaming(), renaming(modelName="m")
    for router in (whole, one):
        for ips in IPS.values():
            for ip in ips:
                router.scheduler.observe(f"{ip}:8000", Load(), 99.0)

    assert sent(whole, "m") == {"v1": "m", "v2": "m"}
    assert sent(one, "m") == {"v1": "m", "v2": "m-2"}
    (split,) = one.variants.by_key.values()
    assert not split.problems


def test_an_adapter_that_only_one_variant_serves_is_spilled_to_it_or_shed() -> None:
    raw = [*variant_pods("v1", "v2"), Objects.pool_split({"v1": 1, "v2": 1})]
    spilling, shedding = make_router(*raw), make_router(*raw, unready=Unready.SHED)
    for router in (spilling, shedding):
        load(router, v1=["m", "lora-a"], v2=["m"])

    assert variants(spilling, model="lora-a") == {"v1": 100}
    refused = [isinstance(ask(shedding, "lora-a"), Refusal) for _ in range(100)]
    assert sum(refused) == 50


@pytest.mark.parametrize("unready", Unready)
def test_a_name_that_nobody_lists_is_the_pods_to_answer(unready: Unready) -> None:
    router = make_router(*variant_pods("v1", "v2"), Objects.pool_split({"v1": 1, "v2": 1}), unready=unready)
    load(router, v1=["m"], v2=["m"])

    assert variants(router, model="gpt-99") == {"v1": 50, "v2": 50}


# --- with a split of adapters -------------------------------------------------------------------------------


@pytest.mark.parametrize("canary", [50, 20, 10])
def test_the_adapter_is_chosen_first_and_then_the_variant_and_neither_says_anything_of_the_other(
    canary: int,
) -> None:
    router = make_router(
        *variant_pods("v1", "v2"),
        Objects.pool_split({"v1": 100 - canary, "v2": canary}, models={"v2": "m-2"}),
        Objects.model({"lora-1": 100 - canary, "lora-2": canary}),
    )

    found = Counter(
        (one.target, one.variant) for one in (answered(router, "travelhelper") for _ in range(10_000))
    )

    stable = 100 - canary
    assert found == {
        ("lora-1", "v1"): stable * stable,
        ("lora-1", "v2"): stable * canary,
        ("lora-2", "v1"): canary * stable,
        ("lora-2", "v2"): canary * canary,
    }
    assert router.shares() == {"travelhelper": {"lora-1": stable * 100, "lora-2": canary * 100}}


def test_sessions_of_a_canary_adapter_are_not_those_of_a_canary_variant_of_the_same_name() -> None:
    adapters = Objects.rollout(sticky=STICKY)
    router = make_router(
        *variant_pods("v1", "v2"),
        Objects.pool_split({"v1": 50, "v2": 50}),
        Objects.model({"v1": 50, "v2": 50}),
        Objects.variant_rollout(sticky=STICKY),
        adapters,
    )

    found = Counter(
        (one.target, one.variant)
        for one in (answered(router, "travelhelper", **key(number)) for number in range(800))
    )

    assert len(found) == 4
    assert all(150 < count < 250 for count in found.values()), found


def test_an_adapter_stays_and_its_variant_gives_way_where_only_one_serves_it() -> None:
    router = make_router(
        *variant_pods("v1", "v2"),
        Objects.pool_split({"v1": 50, "v2": 50}),
        Objects.model({"lora-1": 80, "lora-2": 20}),
    )
    load(router, v1=["m", "lora-1", "lora-2"], v2=["m", "lora-1"])

    found = Counter(
        (one.target, one.variant) for one in (answered(router, "travelhelper") for _ in range(500))
    )

    assert Counter({target: sum(n for (t, _), n in found.items() if t == target) for target, _ in found}) == {
        "lora-1": 400,
        "lora-2": 100,
    }
    assert ("lora-2", "v2") not in found
    assert ("lora-1", "v2") in found


def test_an_adapter_that_only_pods_without_weight_serve_is_one_that_no_pod_serves() -> None:
    router = make_router(
        *variant_pods("v1", "v2"),
        Objects.pool_split({"v1": 1, "v2": 0}),
        Objects.model({"lora-1": 50, "lora-2": 50}),
    )
    load(router, v1=["m", "lora-1"], v2=["m", "lora-2"])

    found = {(one.target, one.variant) for one in (answered(router, "travelhelper") for _ in range(50))}

    assert found == {("lora-1", "v1")}


def test_two_objects_that_both_say_the_name_are_said_and_the_rule_wins() -> None:
    router = make_router(
        *variant_pods("v1", "v2"),
        Objects.pool_split({"v1": 1, "v2": 1}, models={"v2": "m-2"}, modelName="travelhelper"),
        Objects.model({"lora-1": 1}),
    )

    assert {answered(router, "travelhelper").target for _ in range(20)} == {"lora-1"}
    assert variants(router, model="travelhelper") == {
        "v1": 50,
        "v2": 50,
    }  # the weights are obeyed all the same
    (rule,) = router.snapshot.variants
    assert rule.problems == (
        "spec.variants[].model is ignored: InferenceModel default/m says under which name requests for "
        "'travelhelper' are sent; leave out one of the two",
    )


# --- bodies that cannot be read -------------------------------------------------------------------------------

UNREAD = Refusal(415, "unsupported", "cannot be read")


@pytest.mark.parametrize(
    ("spec", "hidden", "refused"),
    [
        ({}, True, False),  # whatever it names, it is split, and nothing has to change
        ({}, False, False),
        ({"modelName": "m"}, True, True),
        ({"modelName": "m"}, False, False),
        ({"models": {"v2": "m-2"}}, True, True),
        ({"models": {"v2": "m-2"}}, False, False),
    ],
    ids=str,
)
def test_a_body_that_cannot_be_read_is_refused_only_where_its_model_matters(
    spec: dict[str, Any], hidden: bool, refused: bool
) -> None:
    router = make_router(*variant_pods("v1", "v2"), Objects.pool_split({"v1": 0, "v2": 1}, **spec))

    outcome = ask(router, "", unread=Unread(UNREAD, hidden=hidden))

    assert (outcome == UNREAD) is refused
    if isinstance(outcome, Decision) and not spec.get("modelName"):
        assert (outcome.variant, outcome.target) == ("v2", "")


# --- keys and pins --------------------------------------------------------------------------------------------


def key(number: int) -> dict[str, Any]:
    return {"headers": {"x_session": b"user-%d" % number}}


def test_a_key_stays_with_its_variant_and_two_replicas_agree_on_every_key() -> None:
    raw = [
        *variant_pods("v1", "v2", "v3"),
        Objects.pool_split({"v1": 5, "v2": 3, "v3": 2}),
        Objects.variant_rollout(sticky=STICKY),
    ]
    first, second = make_router(*raw), make_router(*reversed(raw))
    for _ in range(7):  # of another age
        ask(second)

    found = [answered(first, **key(number)).variant for number in range(500)]

    assert found == [answered(second, **key(number)).variant for number in range(500)]
    assert found == [answered(first, "other", **key(number)).variant for number in range(500)]
    bare = [first.route(Request({b"x-session": b"user-%d" % n}), 100.0) for n in range(500)]
    assert [one.variant for one in bare] == found  # without a body, too
    assert all(abs(found.count(name) - share) < 60 for name, share in (("v1", 250), ("v2", 150), ("v3", 100)))


@given(
    first=st.integers(1, 98),
    others=st.integers(0, 50),
    steps=st.lists(st.integers(1, 400), min_size=1, max_size=6),
    keys=st.sets(st.binary(min_size=1, max_size=8).filter(bytes.strip), min_size=1, max_size=20),
)
@settings(max_examples=60, deadline=None)
def test_a_key_that_was_moved_to_the_canary_stays_while_its_weight_grows(
    first: int, others: int, steps: list[int], keys: set[bytes]
) -> None:
    pods = variant_pods("v1", "v2", "v3")
    weights = {"v1": first, "v2": 0, "v3": others}
    policy = Objects.variant_rollout(sticky=STICKY)
    router = make_router(*pods, Objects.pool_split(weights), policy)
    before = {one: answered(router, headers={"x_session": one}).variant for one in keys}
    for step in steps:
        weights["v2"] += step
        router.update(
            read_snapshot([POOL], [Objects.pool(), *pods, Objects.pool_split(weights), policy]), 0.0, 0.0
        )
        after = {one: answered(router, headers={"x_session": one}).variant for one in keys}

        assert all(after[one] in (before[one], "v2") for one in keys)
        before = after


@pytest.mark.parametrize(
    ("pin", "allowed", "want"),
    [
        (b"v2", True, {"v2"}),
        (b"v3", True, {"v3"}),  # without a weight: that is what pins are for
        (b"v2", False, {"v1"}),
        (b"v9", True, {"v1"}),
        (b"\xff", True, {"v1"}),
    ],
)
def test_the_pin_header_beats_weights_and_keys_where_the_rollout_allows_it(
    pin: bytes, allowed: bool, want: set[str]
) -> None:
    policy = Objects.variant_rollout(sticky={"header": "x-session", "pinHeader": allowed})
    router = make_router(
        *variant_pods("v1", "v2", "v3"), Objects.pool_split({"v1": 1, "v2": 0, "v3": 0}), policy
    )
    headers = {"x_rollout_pin": pin, "x_session": b"user"}

    assert set(variants(router, 20, headers=headers)) == want


def test_a_canary_that_is_not_listed_yet_is_pinned_by_what_the_rollout_says_of_it() -> None:
    """A variant without weight may be left out of the object, as it has to be in those of adapters."""
    policy = Objects.variant_rollout(sticky=STICKY)
    policy["spec"]["target"]["variant"]["model"] = "m-2"
    router = make_router(*variant_pods("v1", "v2", "old"), Objects.pool_split({"v1": 1}), policy)
    load(router, v2=["m-2"])

    pinned = {
        (one.variant, one.target)
        for one in (answered(router, headers={"x_rollout_pin": b"v2"}) for _ in range(9))
    }

    assert pinned == {("v2", "m-2")}
    assert variants(router) == {"v1": 100}
    (rule,) = router.snapshot.variants
    assert rule.unmatched == ("pod-10.0.9.3",)


@pytest.mark.parametrize(
    ("labels", "want"),
    [({"release": "v1"}, {"v1"}), ({"app": "pool"}, {"v1"}), ({}, {"v1"}), ({"release": 2}, {"v1"})],
    ids=str,
)
def test_a_target_that_claims_a_listed_variants_pods_gets_none_of_them(
    labels: dict[str, Any], want: set[str]
) -> None:
    policy = Objects.variant_rollout(sticky=STICKY)
    policy["spec"]["target"]["variant"]["labels"] = labels
    router = make_router(*variant_pods("v1"), Objects.pool_split({"v1": 1}), policy)

    assert set(variants(router, 9, headers={"x_rollout_pin": b"v2"})) == want
    assert variants(router) == {"v1": 100}


def test_a_target_whose_name_is_listed_with_other_labels_has_the_pods_that_the_object_says() -> None:
    policy = Objects.variant_rollout(sticky=STICKY)
    policy["spec"]["target"]["variant"]["labels"] = {"release": "old"}
    router = make_router(*variant_pods("v1", "v2", "old"), Objects.pool_split({"v1": 1, "v2": 1}), policy)

    assert {host(answered(router)) for _ in range(50)} == {*IPS["v1"], *IPS["v2"]}
    (rule,) = router.snapshot.variants
    assert rule.unmatched == ("pod-10.0.9.3",)


@pytest.mark.parametrize("unready", Unready)
def test_a_pin_to_a_variant_without_pods_is_spilled_or_shed(unready: Unready) -> None:
    policy = Objects.variant_rollout(sticky=STICKY)
    split = Objects.pool_split({"v1": 1, "v2": 0})
    router = make_router(*variant_pods("v1"), split, policy, unready=unready)

    outcome = ask(router, headers={"x_rollout_pin": b"v2"})

    assert outcome.variant == ("v1" if unready is Unready.SPILL else "v2")
    assert isinstance(outcome, Refusal) is (unready is Unready.SHED)


def test_keys_in_the_body_are_read_for_splits_too() -> None:
    policy = Objects.variant_rollout(sticky={"bodyField": "user"})
    router = make_router(*variant_pods("v1", "v2"), Objects.pool_split({"v1": 1, "v2": 1}), policy)

    assert "user" in router.body_fields
    assert len(variants(router, 20, fields={"user": "a"})) == 1


def test_all_requests_are_measured_while_a_gate_reads_the_picker() -> None:
    gate = {"analysis": {"preset": "default"}}
    pods, split = variant_pods("v1"), Objects.pool_split({"v1": 1}, modelName="m")
    watched = make_router(*pods, split, Objects.variant_rollout(model="m", **gate))
    another = make_router(*pods, split, Objects.variant_rollout(model="n", **gate))

    assert answered(watched).measured
    assert not any(answered(another).measured for _ in range(20))


# --- properties ---------------------------------------------------------------------------------------------

SHARES = st.integers(0, 1000)


@given(
    weights=st.tuples(SHARES, SHARES, SHARES).filter(any),
    count=st.integers(1, 150),
    skipped=st.integers(0, 100),
)
@settings(max_examples=60, deadline=None)
def test_three_variants_have_exact_shares_over_any_window(
    weights: tuple[int, int, int], count: int, skipped: int
) -> None:
    """Within a request over any prefix (Tijdeman), so within two over any window."""
    named = dict(zip(IPS, weights, strict=True))
    router = make_router(*variant_pods(*IPS), Objects.pool_split(named))
    for _ in range(skipped):
        ask(router)
    seen = variants(router, count)

    for name, weight in named.items():
        due = Fraction(weight * count, sum(weights))
        assert abs(seen[name] - due) <= (2 if skipped else 1)
        assert weight or not seen[name]


LABELS = st.sampled_from(["v1", "v2", "v3", "none", "both"])
POD = st.tuples(LABELS, st.booleans())


@given(
    pods=st.lists(POD, min_size=1, max_size=8),
    weights=st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)).filter(any),
    unready=st.sampled_from(Unready),
    pins=st.lists(st.sampled_from([b"", b"v1", b"v2", b"v3"]), min_size=1, max_size=12),
)
@settings(max_examples=150, deadline=None)
def test_pods_are_never_mixed(
    pods: list[tuple[str, bool]], weights: tuple[int, int, int], unready: Unready, pins: list[bytes]
) -> None:
    """A pod answers for its own variant or for none, and one without weight only a pin or an emergency."""
    named = dict(zip(IPS, weights, strict=True))
    split = Objects.pool_split(named)
    for variant in split["spec"]["variants"]:
        variant["labels"] = {f"is-{variant['name']}": "yes"}  # labels that overlap
    raw, real = [], {}
    for number, (label, ready) in enumerate(pods):
        ip = f"10.0.0.{number}"
        held = {"both": ["v1", "v2"], "none": []}.get(label, [label])
        labels = {"app": "pool", **{f"is-{name}": "yes" for name in held}}
        raw.append(Objects.pod(ip, ready="True" if ready else "False", labels=labels))
        if ready:
            real[ip] = label if label in IPS else ""
    router = make_router(*raw, split, Objects.variant_rollout(sticky=STICKY), unready=unready)
    emergency = not any(named[name] for name in real.values() if name)

    for pin in pins:
        outcome = ask(router, headers={"x_rollout_pin": pin})
        if isinstance(outcome, Refusal):
            assert not real or unready is Unready.SHED
            continue
        variant = real[host(outcome)]
        assert outcome.variant == variant
        assert emergency or (variant and (named[variant] or pin.decode() == variant))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
VARIANT = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["v1", "v2"]) | JSON,
        "labels": st.just({"release": "v1"}) | st.just({"app": "pool"}) | JSON,
        "weight": st.integers(-1, 5) | JSON,
        "model": st.just("m-2") | JSON,
    },
)
HOSTILE = st.fixed_dictionaries(
    {"poolRef": st.just({"name": "pool"}) | JSON},
    optional={"modelName": st.just("m") | JSON, "variants": st.lists(VARIANT | JSON, max_size=4) | JSON},
)


@given(spec=HOSTILE | JSON, metadata=st.just({"name": "s"}) | JSON)
@settings(max_examples=200, deadline=None)
def test_whatever_a_pool_split_holds_requests_are_answered(spec: Any, metadata: Any) -> None:
    """There is a Ready pod, so each request gets one; the most that a broken object does is choose which."""
    split = {**Objects.pool_split({}), "spec": spec, "metadata": metadata}
    router = make_router(*variant_pods("v1", "v2"), split)

    for model in ("m", "", "other"):
        outcome = answered(router, model)
        assert host(outcome) in (*IPS["v1"], *IPS["v2"])
