"""A gateway that puts a weight in force late: what it did before speaks against it only until it does as it should."""

from __future__ import annotations

import pytest

from rollouts.engine.observation import ShareCount, ShareView
from rollouts.engine.share import refutes
from rollouts.units import FULL, ZERO, Weight

HALF = Weight(5000)


def since(canary: int, stable: int, weight: Weight = HALF) -> ShareCount:
    return ShareCount(weight=weight, canary=canary, stable=stable)


@pytest.mark.parametrize(
    ("weight", "whole", "later", "refuted"),
    [
        pytest.param(HALF, (100, 500), ((100, 100),), False, id="400 requests late"),
        pytest.param(HALF, (100, 500), ((100, 400), (100, 100)), False, id="seen at a second moment"),
        pytest.param(FULL, (500, 400), ((500, 0),), False, id="late at 100 %"),
        pytest.param(ZERO, (400, 500), ((0, 500),), False, id="late at 0 %"),
        pytest.param(HALF, (0, 600), (), True, id="never"),
        pytest.param(HALF, (0, 600), ((0, 100),), True, id="nothing changed"),
        pytest.param(HALF, (20, 580), ((20, 180),), True, id="changed, and still outside of the band"),
        pytest.param(HALF, (2, 600), ((2, 2),), True, id="a stray request among the last few"),
        pytest.param(HALF, (0, 600), ((0, 0),), True, id="nothing came since then"),
    ],
)
def test_a_share_that_came_into_force_late_is_not_held_against_the_gateway(
    weight: Weight, whole: tuple[int, int], later: tuple[tuple[int, int], ...], refuted: bool
) -> None:
    counts = tuple(since(*one, weight=weight) for one in later)
    view = ShareView(canary=whole[0], stable=whole[1], seconds=100.0, later=counts)

    assert refutes(view, weight) is refuted
