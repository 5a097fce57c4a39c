"""Between looks only requests are counted: what then says nothing new would have changed no decision."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hypothesis import event, given, settings
from hypothesis import strategies as st

from rollouts.engine.observation import RiseView, ShareCount, ShareView
from rollouts.engine.planning import plan
from rollouts.engine.watching import says_new
from rollouts.units import ZERO, Weight
from tests.kit.world import World, analysis, pause, spec, weight

STEPS = {
    "pause": (weight(10), pause()),
    "timed pause": (weight(10), pause(3600), weight(50)),
    "gate": (weight(10), analysis(), weight(50)),
    "half": (weight(50), pause(), weight(80)),
}
RISE = RiseView(
    weight_before=Weight(0),
    before=6000,
    canary_before=0,
    before_seconds=600.0,
    recent=3,
    canary_recent=0,
    recent_seconds=5.0,
)
SHARES = st.builds(
    ShareView,
    canary=st.sampled_from([0, 0, 1, 5, 60, 300, 900]),
    stable=st.sampled_from([0, 9, 45, 600, 2700, 9000]),
    seconds=st.sampled_from([1.0, 4.9, 5.0, 30.0, 119.0, 121.0, 400.0]),
    complete=st.sampled_from([True, True, True, False]),
    earlier=st.sampled_from([(), (), (ShareCount(weight=Weight(100), canary=10, stable=990),)]),
    path=st.sampled_from([None, RISE, replace(RISE, recent=50, canary_recent=5)]),
)


@settings(max_examples=500)
@given(
    steps=st.sampled_from(sorted(STEPS)),
    before=SHARES,
    now=SHARES,
    grown=st.sampled_from([None, 0, 1, 3]),
    waived=st.booleans(),
    after=st.sampled_from([5.0, 60.0]),
)
def test_a_share_that_says_nothing_new_changes_no_decision(
    steps: str, before: ShareView, now: ShareView, grown: int | None, waived: bool, after: float
) -> None:
    world = World(spec=spec(*STEPS[steps], allow_no_traffic=waived), share=before)
    world.settle()
    if world.status.canary is None:
        event("it ended")
        return
    if grown is not None:
        now = replace(now, canary=before.canary * (grown + 1) + grown, stable=before.stable * (grown + 1))
    world.share = before
    same = plan(world.observe(), world.now)
    applied = world.status.weight.applied or ZERO
    loud = says_new(before, now, applied, world.status.weight.observed, by_picker=False)
    if loud or same.actions or same.status != world.status or same.count_after is None:
        event("looked at")
        return
    event("only counted")

    world.now += timedelta(seconds=after)
    without = plan(world.observe(), world.now)
    world.share = now
    decided = plan(world.observe(), world.now)

    assert decided.actions == without.actions
    assert decided.status == without.status
