"""What the picker takes from Rollouts: sticky key, pins and the measured share, wherever a strategy says them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rollouts.picker.core.policies import KeySource, ModelPolicy, StickyKey, policies_of, variant_policies
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
    (policy,) = variant_policies([rollout]).values()
    return policy


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
