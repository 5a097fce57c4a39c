"""What the picker takes from Rollouts: sticky key, pins and the measured share, wherever a strategy says them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rollouts.objects.claims import CONSENT_ANNOTATION, ROLLOUT_LABEL, label_value
from rollouts.objects.stickiness import STICKY_ANNOTATION, kept_sticky, read_kept_sticky
from rollouts.picker.core.objects import PoolName, read_snapshot
from rollouts.picker.core.policies import KeySource, ModelPolicy, StickyKey, policies_of
from tests.unit.picker.conftest import Objects

SHARED = {
    "sticky": {"header": "X-Session", "pinHeader": True},
    "steps": [{"setWeight": 10}],
    "analysis": {"preset": "default"},
}
HEADER = StickyKey(KeySource.HEADER, "x-session")


def shared(rollout: Any, content: Any = SHARED, **own: Any) -> Any:
    """The Rollout with a shared strategy that its attempt has pinned; ``own``: fields of the Rollout itself."""
    strategy = {"canaryFrom": {"name": "house"}, **({"canary": own} if own else {})}
    pinned = {"kind": "RolloutStrategy", "name": "house", "hash": "0", "content": content}
    if not isinstance(content, str):
        pinned["content"] = json.dumps(content)
    rollout["spec"]["strategy"] = strategy
    rollout["status"]["strategy"] = pinned
    return rollout


def adapters(rollout: Any) -> ModelPolicy:
    return policies_of([rollout], {("default", "pool")})["travelhelper"]


def variants(rollout: Any) -> ModelPolicy:
    return policy_of(split_of("r1"), rollout)


KINDS = pytest.mark.parametrize(
    ("rollout", "policy"), [(Objects.rollout, adapters), (Objects.variant_rollout, variants)]
)


@KINDS
def test_a_shared_strategy_says_what_one_of_the_rollouts_own_says(rollout: Any, policy: Any) -> None:
    assert policy(shared(rollout())) == policy(rollout(**SHARED))
    assert policy(shared(rollout())).sticky == HEADER
    assert policy(shared(rollout())).measured == 1.0


@KINDS
def test_the_rollouts_own_fields_come_first_whole_and_null_included(rollout: Any, policy: Any) -> None:
    other = policy(shared(rollout(), sticky={"cookie": "s"}))
    none = policy(shared(rollout(), sticky=None, analysis=None))

    assert other.sticky == StickyKey(KeySource.COOKIE, "s")
    assert (other.pinned_by_header, other.measured) == (False, 1.0)
    assert (none.sticky, none.pinned_by_header, none.measured) == (None, False, 0.05)


@KINDS
def test_what_an_attempt_of_before_had_pinned_is_not_a_strategy_of_the_rollouts_own(
    rollout: Any, policy: Any
) -> None:
    left = shared(rollout())
    left["spec"]["strategy"] = {"canary": {}}

    assert policy(left) == policy(rollout())


@KINDS
@pytest.mark.parametrize("content", ["", "{", "[]", "null", "[" * 100_000, 7, {"sticky": 1, "steps": 2}])
def test_scribbled_content_is_none(rollout: Any, policy: Any, content: Any) -> None:
    assert policy(shared(rollout(), content)) == policy(rollout())


def test_gates_of_a_shared_strategy_measure_a_whole_pool() -> None:
    gate = {"analysis": {"metrics": [{"name": "e", "source": "picker", "query": "x"}]}}
    pools = Objects.rollout()
    pools["spec"]["target"] = {"pool": {"name": "pool"}}

    found = policies_of([shared(pools, gate)], {("default", "pool")})

    assert found[""].measured == 1.0


# --- whose Rollout a PoolSplit goes by ------------------------------------------------------------------------

LONG = "a-name-that-is-longer-than-the-value-of-a-label-may-be-" * 2 + "x"


def rollout_named(name: str, model: str = "", **strategy: Any) -> Any:
    rollout = Objects.variant_rollout(model=model, **strategy)
    rollout["metadata"]["name"] = name
    return rollout


def policy_of(split: Any, *rollouts: Any) -> ModelPolicy:
    objects = [Objects.pool(), Objects.variant_pod("10.0.1.1", "v1"), split, *rollouts]
    (rule,) = read_snapshot([PoolName("default", "pool")], objects).variants
    return rule.policy


def split_of(owner: str | None, *, consent: str | None = None, **spec: Any) -> Any:
    split = Objects.pool_split({"v1": 1, "v2": 1}, **spec)
    if owner is not None:
        split["metadata"]["labels"] = {ROLLOUT_LABEL: label_value(owner)}
    if consent is not None:
        split["metadata"]["annotations"] = {CONSENT_ANNOTATION: consent}
    return split


OWNED = pytest.mark.parametrize(
    "split",
    [
        split_of("r1"),
        split_of("r1", consent="a"),  # the label says who writes it
        split_of(None, consent="r1"),
    ],
)


@OWNED
@pytest.mark.parametrize("other", ["a", "z"])
def test_another_rollout_of_the_pool_changes_nothing(split: Any, other: str) -> None:
    mine = rollout_named("r1", **SHARED)
    theirs = rollout_named(other, sticky={"cookie": "theirs"})
    theirs["spec"]["target"]["variant"]["name"] = "theirs"
    for order in ([mine, theirs], [theirs, mine]):
        found = policy_of(split, *order)

        assert (found.sticky, found.pinned_by_header, found.measured) == (HEADER, True, 1.0)
        assert found.target is not None
        assert found.target.name == "v2"


@OWNED
def test_nobody_else_takes_the_place_of_a_rollout_that_is_gone(split: Any) -> None:
    assert policy_of(split, rollout_named("a", sticky={"cookie": "theirs"})) == ModelPolicy()


def test_a_name_that_is_too_long_for_a_label_is_found_by_what_the_label_says() -> None:
    assert policy_of(split_of(LONG), rollout_named(LONG, **SHARED)).sticky == HEADER
    assert policy_of(split_of(None, consent=LONG), rollout_named(LONG, **SHARED)).sticky == HEADER


def test_a_rollout_of_that_name_in_another_namespace_is_another_one() -> None:
    elsewhere = rollout_named("r1", **SHARED)
    elsewhere["metadata"]["namespace"] = "elsewhere"

    assert policy_of(split_of("r1"), elsewhere) == ModelPolicy()


def test_sessions_stay_while_the_rollout_asks_for_other_traffic_but_its_target_is_not_this_splits() -> None:
    moved = rollout_named("r1", model="m", **SHARED)

    found = policy_of(split_of("r1"), moved)

    assert (found.sticky, found.target) == (HEADER, None)


def test_an_object_that_names_nobody_goes_by_the_one_rollout_of_its_requests() -> None:
    split, mine = split_of(None), rollout_named("z", **SHARED)

    assert policy_of(split, mine, rollout_named("a", model="m")).sticky == HEADER
    assert policy_of(split, mine, rollout_named("a")) == ModelPolicy()


@pytest.mark.parametrize("labels", [7, {ROLLOUT_LABEL: 7}, {ROLLOUT_LABEL: ""}], ids=str)
def test_a_label_that_cannot_be_read_names_nobody(labels: Any) -> None:
    split = split_of(None)
    split["metadata"]["labels"] = split["metadata"]["annotations"] = labels

    assert policy_of(split, rollout_named("z", **SHARED)).sticky == HEADER


# --- whose Rollout an adapter split goes by ----------------------------------------------------------------------


def adapters_named(name: str, namespace: str = "default", **strategy: Any) -> Any:
    rollout = Objects.rollout(**strategy)
    rollout["metadata"] = {"name": name, "namespace": namespace}
    return rollout


def adapter_policy(model: Any, *rollouts: Any) -> ModelPolicy:
    found = read_snapshot([PoolName("default", "pool")], [Objects.pool(), model, *rollouts]).policies
    return found.get("travelhelper", ModelPolicy())


def claimed(model: Any, owner: str, *, consent: bool) -> Any:
    kind, value = ("annotations", owner) if consent else ("labels", label_value(owner))
    model["metadata"][kind] = {CONSENT_ANNOTATION if consent else ROLLOUT_LABEL: value}
    return model


@pytest.mark.parametrize("consent", [True, False])
@pytest.mark.parametrize("make", [Objects.model, Objects.rewrite])
@pytest.mark.parametrize("owner", ["r1", LONG])
def test_another_rollout_of_the_model_changes_nothing(make: Any, owner: str, consent: bool) -> None:
    model = claimed(make({"v1": 1, "v2": 1}), owner, consent=consent)
    theirs = [adapters_named(name, sticky={"cookie": "theirs"}) for name in ("0", "z")]
    elsewhere = adapters_named(owner, "a", sticky={"cookie": "theirs"})

    found = adapter_policy(model, *theirs, elsewhere, adapters_named(owner, **SHARED))

    assert (found.sticky, found.pinned_by_header, found.measured) == (HEADER, True, 1.0)
    assert adapter_policy(model, *theirs, elsewhere) == ModelPolicy()


def test_a_model_object_that_names_nobody_goes_by_the_first_rollout_of_its_model() -> None:
    model, mine = Objects.model({"v1": 1, "v2": 1}), adapters_named("b", **SHARED)

    assert adapter_policy(model, mine, adapters_named("c")).sticky == HEADER


def test_of_several_rollouts_of_whole_pools_the_one_counts_that_needs_most() -> None:
    gate = {"analysis": {"metrics": [{"name": "e", "source": "picker", "query": "x"}]}}
    pools = [adapters_named("a"), adapters_named("b", **gate), adapters_named("c")]
    for rollout in pools:
        rollout["spec"]["target"] = {"pool": {"name": "pool"}}

    found = read_snapshot([PoolName("default", "pool")], [Objects.pool(), *pools]).policies

    assert found[""].measured == 1.0


# --- what a Rollout that is gone left -------------------------------------------------------------------------


def left_on(split: Any, sticky: Any) -> Any:
    text = sticky if isinstance(sticky, str) else json.dumps(sticky)
    split["metadata"].setdefault("annotations", {})[STICKY_ANNOTATION] = text
    return split


def test_the_key_that_a_rollout_left_counts_while_it_is_gone_and_no_longer() -> None:
    split = left_on(split_of(None, consent="r1"), {"header": "X-Session", "pinHeader": True})

    assert policy_of(split) == ModelPolicy(sticky=HEADER, pinned_by_header=True)
    assert policy_of(split, rollout_named("a", sticky={"cookie": "theirs"})).sticky == HEADER
    assert policy_of(split, rollout_named("r1", sticky={"cookie": "s"})).sticky == StickyKey(
        KeySource.COOKIE, "s"
    )
    assert policy_of(split, rollout_named("r1")).sticky is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", "[" * 100_000, {"header": 7, "pinHeader": "yes"}], ids=len
)
def test_a_kept_key_that_cannot_be_read_is_none(text: Any) -> None:
    assert policy_of(left_on(split_of("r1"), text)) == ModelPolicy()


@pytest.mark.parametrize(
    ("sticky", "kept"),
    [
        ({"header": "x"}, {"header": "x"}),
        ({"cookie": "c", "pinHeader": True}, {"cookie": "c", "pinHeader": True}),
        ({"bodyField": "user", "pinHeader": False, "other": "x" * 9}, {"bodyField": "user"}),
        ({"pinHeader": True}, {"pinHeader": True}),
        ({"header": "x" * 254}, None),  # nobody's spec may make the annotation too large to write
        ({"header": 7}, None),
        ({}, None),
    ],
    ids=str,
)
def test_what_is_kept_is_small_and_reads_as_it_was(sticky: Any, kept: Any) -> None:
    text = kept_sticky(sticky)

    assert (read_kept_sticky(text) or None) == kept
    assert len(text) < 1000
