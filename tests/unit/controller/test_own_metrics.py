"""What the controller publishes about a Rollout."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from rollouts.controller.metrics import ControllerMetrics
from rollouts.controller.pod_metrics import pod_counts
from rollouts.engine.attempt import AbortRecord, Attempt, AttemptCapacity, CompanionCapacity
from rollouts.engine.reasons import Reason
from rollouts.engine.revision import revision_of
from rollouts.engine.rollout_status import (
    AcceleratorUse,
    CompanionScale,
    Drain,
    Phase,
    RolloutStatus,
    StableScale,
    WaitingFor,
    WeightStatus,
)
from rollouts.engine.versions import Identity
from rollouts.units import Weight
from tests.kit.world import pool

FIRST = Attempt(canary=revision_of(pool("v2"), ""), current_step=1)
PAUSED = RolloutStatus(phase=Phase.PAUSED, current=FIRST, weight=WeightStatus(desired=Weight(1000)))


def read(metrics: ControllerMetrics, series: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(series, {"namespace": "ns", "rollout": "demo", **labels})


def test_every_change_of_phase_weight_and_step_is_shown():
    metrics = ControllerMetrics()
    metrics.show("ns", "demo", PAUSED)
    healthy = replace(
        PAUSED, phase=Phase.HEALTHY, current=None, step_count=2, weight=WeightStatus(desired=Weight(10_000))
    )
    metrics.show("ns", "demo", healthy)

    assert read(metrics, "rollouts_rollout_phase", phase="Paused") == 0
    assert read(metrics, "rollouts_rollout_phase", phase="Healthy") == 1
    assert read(metrics, "rollouts_rollout_weight_ratio", kind="desired") == 1.0
    assert read(metrics, "rollouts_rollout_step") == 2


SHOWN = {
    "paused": PAUSED,
    "raised": replace(PAUSED, weight=WeightStatus(desired=Weight(5000), applied=Weight(1000))),
    "next step": replace(PAUSED, current=replace(FIRST, current_step=2)),
    "on its way": replace(
        PAUSED,
        phase=Phase.PROGRESSING,
        reason=Reason.SETTING_WEIGHT,
        current=replace(FIRST, step_started_at=datetime(2026, 11, 29, 9, tzinfo=UTC)),
    ),
    "in line": RolloutStatus(
        phase=Phase.WAITING,
        reason=Reason.WAITING_FOR_TURN,
        waiting_for=WaitingFor.TURN,
        current=replace(FIRST, queued_at=datetime(2026, 11, 29, 9, tzinfo=UTC)),
        weight=PAUSED.weight,
    ),
    "with accelerators": replace(
        PAUSED,
        accelerators=AcceleratorUse(attempt=1, held=9, own=8, since=datetime(2026, 11, 29, 9, tzinfo=UTC)),
    ),
}


def samples(metrics: ControllerMetrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What is shown, but for the moments at which counters were made."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if family.name.startswith(("rollouts_rollout_", "rollouts_waiting"))
    }


@pytest.mark.parametrize("before", SHOWN)
@pytest.mark.parametrize("after", SHOWN)
def test_a_change_leaves_what_a_first_look_would_show(before: str, after: str) -> None:
    now = datetime(2026, 11, 29, 10, tzinfo=UTC)
    changed, fresh = ControllerMetrics(now=lambda: now), ControllerMetrics(now=lambda: now)
    for status in (SHOWN[before], replace(SHOWN[after], weight=SHOWN[before].weight), SHOWN[after]):
        changed.show("ns", "demo", status)
    if SHOWN[before].weight.applied is not None and SHOWN[after].weight.applied is None:
        fresh.show("ns", "demo", SHOWN[before])  # a weight that is not known any more stays as it was
    fresh.show("ns", "demo", SHOWN[after])

    assert samples(changed) == samples(fresh)


def test_a_rollout_that_is_made_again_is_shown_again():
    metrics = ControllerMetrics()
    metrics.show("ns", "demo", PAUSED)
    metrics.forget("ns", "demo")

    assert read(metrics, "rollouts_rollout_step") is None

    metrics.show("ns", "demo", PAUSED)

    assert read(metrics, "rollouts_rollout_step") == 1


def in_line(since: datetime | None) -> RolloutStatus:
    attempt = replace(FIRST, current_step=0, queued_at=since)
    return RolloutStatus(
        phase=Phase.WAITING, reason=Reason.WAITING_FOR_TURN, waiting_for=WaitingFor.TURN, current=attempt
    )


def waiting(metrics: ControllerMetrics, reason: Reason) -> float | None:
    return metrics.registry.get_sample_value("rollouts_waiting", {"reason": reason})


def test_who_waits_is_counted_until_it_begins_or_is_gone():
    metrics, since = ControllerMetrics(), datetime(2026, 11, 29, 9, tzinfo=UTC)
    assert waiting(metrics, Reason.WAITING_FOR_TURN) == 0
    for name in ("demo", "other"):
        metrics.show("ns", name, in_line(since))

    assert waiting(metrics, Reason.WAITING_FOR_TURN) == 2
    assert read(metrics, "rollouts_rollout_queue_start_time_seconds") == since.timestamp()

    frozen = replace(in_line(since), reason=Reason.FROZEN, waiting_for=WaitingFor.FREEZE)
    metrics.show("ns", "demo", frozen)
    metrics.forget("ns", "other")

    assert (waiting(metrics, Reason.WAITING_FOR_TURN), waiting(metrics, Reason.FROZEN)) == (0, 1)
    assert read(metrics, "rollouts_rollout_queue_start_time_seconds") is None

    metrics.show("ns", "demo", PAUSED)

    assert waiting(metrics, Reason.FROZEN) == 0


def test_pods_of_the_arms_are_shown_while_an_attempt_scales():
    metrics = ControllerMetrics()
    counts = AttemptCapacity(stable_at_start=8, wanted=4, ready=2, pending=2)
    stable = Identity(kind="InferencePool", group="", name="v1")
    scaling = replace(PAUSED, current=replace(FIRST, capacity=counts))
    lent = StableScale(identity=stable, full=8, wanted=6, most=9, ready=7)
    drain = Drain(identity=stable, replicas=7, to=6, since=datetime(2026, 11, 29, tzinfo=UTC))

    def shown(arm: str, state: str) -> float | None:
        return read(metrics, "rollouts_rollout_pods", arm=arm, state=state)

    metrics.show("ns", "demo", scaling)
    assert [shown("canary", state) for state in ("wanted", "ready", "pending", "draining")] == [4, 2, 2, 0]
    assert [shown("stable", state) for state in ("wanted", "ready")] == [8, None]

    metrics.show("ns", "demo", replace(scaling, stable_scale=lent, drains=(drain,)))
    assert [shown("stable", state) for state in ("wanted", "ready", "pending", "draining")] == [6, 7, 0, 1]

    metrics.show("ns", "demo", PAUSED)
    assert (shown("canary", "wanted"), shown("stable", "wanted")) == (None, None)

    metrics.show("ns", "demo", scaling)
    metrics.forget("ns", "demo")
    assert shown("canary", "wanted") is None


def test_pods_of_companions_have_series_of_their_own():
    metrics = ControllerMetrics()
    beside = CompanionCapacity(
        stable=pool("p1"), canary=pool("p2"), role="prefill", stable_at_start=4, wanted=2, ready=1, pending=1
    )
    counts = AttemptCapacity(stable_at_start=8, wanted=4, ready=4, companions=(beside,))
    scaling = replace(PAUSED, current=replace(FIRST, capacity=counts))

    def shown(arm: str) -> list[float | None]:
        states = ("wanted", "ready", "pending", "draining")
        return [read(metrics, "rollouts_rollout_pods", arm=arm, state=state) for state in states]

    metrics.show("ns", "demo", scaling)
    assert shown("canary/prefill") == [2, 1, 1, 0]
    assert shown("stable/prefill") == [4, None, None, None]

    gave = CompanionScale(identity=pool("p1"), role="prefill", full=4, wanted=3, most=5, ready=4)
    lent = StableScale(identity=pool("v1"), full=8, wanted=6, most=9, ready=7, companions=(gave,))
    drain = Drain(identity=pool("p1"), replicas=4, to=3, since=datetime(2026, 11, 29, tzinfo=UTC))
    metrics.show("ns", "demo", replace(scaling, stable_scale=lent, drains=(drain,)))
    assert shown("stable/prefill") == [3, 4, 0, 1]
    assert shown("canary") == [4, 4, 0, 0]

    metrics.show("ns", "demo", PAUSED)
    assert shown("canary/prefill") == shown("stable/prefill") == [None] * 4


def test_accelerator_seconds_go_on_between_changes_of_the_status():
    since = datetime(2026, 11, 29, 9, tzinfo=UTC)
    now = [since + timedelta(seconds=10)]
    metrics, use = (
        ControllerMetrics(now=lambda: now[0]),
        AcceleratorUse(attempt=1, held=9, own=8, since=since),
    )
    metrics.show("ns", "demo", replace(PAUSED, accelerators=use))
    series = "rollouts_rollout_accelerator_seconds"

    assert (read(metrics, series, part="all"), read(metrics, series, part="extra")) == (90, 10)
    now[0] += timedelta(seconds=10)
    assert (read(metrics, series, part="all"), read(metrics, series, part="extra")) == (180, 20)
    assert read(metrics, "rollouts_rollout_accelerators") == 9

    metrics.show("ns", "demo", PAUSED)
    assert read(metrics, series, part="all") is None
    assert read(metrics, "rollouts_rollout_accelerators") is None


def test_an_aborted_canary_wants_no_pods():
    capacity = AttemptCapacity(stable_at_start=8, wanted=4, ready=4)
    record = AbortRecord(
        hash=revision_of(pool("v2"), "").hash,
        step=0,
        at=datetime(2026, 1, 1, tzinfo=UTC),
        reason="",
        message="",
    )
    aborted = replace(PAUSED, phase=Phase.ABORTED, current=replace(FIRST, capacity=capacity, aborted=record))

    assert pod_counts(aborted) == (("stable", "wanted", 8),)
