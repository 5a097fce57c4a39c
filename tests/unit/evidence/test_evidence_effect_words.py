"""The change in words: nothing is claimed by an interval that says nothing."""

from __future__ import annotations

import pytest

from rollouts.analysis.evidence.effect import Effect
from rollouts.analysis.evidence.words import describe_effect


@pytest.mark.parametrize(
    ("effect", "words"),
    [
        (None, "not seen yet"),
        (Effect(estimate=0.93, low=0.25, high=1.6), "+93 % (between +25 % and +160 %)"),
        (Effect(estimate=9.0, low=3.0, high=40.0), "x10 (between x4 and x41)"),
        (Effect(estimate=0.2, low=-1.0, high=1.5e5), "nothing known yet"),
        (Effect(estimate=0.2, low=-0.9, high=2.0), "nothing known yet"),
        (Effect(estimate=0.2, low=-1.0, high=float("inf")), "nothing known yet"),
    ],
)
def test_the_change_is_said_with_its_interval_where_that_says_anything(effect, words):
    assert describe_effect(effect) == words
