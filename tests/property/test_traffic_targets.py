"""Any list of adapters: the share is exact, others keep theirs, no weight is 0, a second look changes nothing."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rollouts.engine.actions import DesiredTraffic
from rollouts.traffic.targets import adapter, retarget
from rollouts.traffic.weights import MAX_WEIGHT, WeightTooLarge
from rollouts.units import FULL, Weight

ENTRIES = st.lists(
    st.builds(
        lambda name, weight: {"name": name, "weight": weight},
        st.sampled_from(["a0", "a1", "a2", "x", "y"]),
        st.integers(1, 100),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda entry: entry["name"],
)


@given(entries=ENTRIES, weight=st.integers(0, FULL).map(Weight), retired=st.booleans())
def test_retarget(entries: list[dict[str, Any]], weight: Weight, retired: bool) -> None:
    desired = DesiredTraffic(
        stable=adapter("a1"), canary=adapter("a2"), weight=weight, drop=(adapter("a0"),) if retired else ()
    )
    ours = {"a1", "a2", "a0"} if retired else {"a1", "a2"}
    before = {entry["name"]: entry["weight"] for entry in entries}
    try:
        result = retarget(entries, "name", "model", desired)
    except WeightTooLarge:
        assert sum(before.values()) * FULL > MAX_WEIGHT
        return
    after = {entry["name"]: entry["weight"] for entry in result}
    assert len(after) == len(result)
    assert all(1 <= value <= MAX_WEIGHT for value in after.values())
    joint = after.get("a1", 0) + after.get("a2", 0)
    assert Fraction(after.get("a2", 0), joint) == Fraction(weight, FULL)
    assert not retired or "a0" not in after
    foreign = [name for name in before if name not in ours]
    assert [name for name in after if name in foreign] == foreign
    if any(name in ours for name in before):
        total, now = sum(before.values()), sum(after.values())
        assert all(Fraction(before[name], total) == Fraction(after[name], now) for name in foreign)
    assert retarget(result, "name", "model", desired) == result
