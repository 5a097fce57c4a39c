"""What the LoRA story says of a weight that has ended."""

from __future__ import annotations

import io
import math
from typing import Any

from rich.console import Console

from rollouts.lab.loraclients import SessionlessAnswer, SteadyClient
from rollouts.lab.story_lora import _ADAPTERS, _Stage
from rollouts.lab.telling import Teller
from rollouts.lab.traffic import Result, Traffic, TrafficSpec

STABLE, CANARY = _ADAPTERS.stable, _ADAPTERS.canary


def stage(*weights: tuple[float, float], bad: bool = False) -> _Stage:
    """Ten answers a second from 0 to 100, every tenth by the canary; two sessions, one on the canary."""
    steady = SteadyClient("http://unused", "travelhelper")
    steady.answers = [SessionlessAnswer(at / 10, CANARY if at % 10 == 0 else STABLE) for at in range(1000)]
    traffic = Traffic(TrafficSpec(url="http://unused"))
    for session, model in (("a", STABLE), ("b", CANARY)):
        traffic.results.append(
            Result(sent_at=60, seconds=0.1, first_byte_seconds=0.1, status=200, session=session, model=model)
        )
    lab: Any = None
    made = _Stage(
        plot=_ADAPTERS,
        lab=lab,
        teller=Teller(Console(file=io.StringIO()), 0.0),
        traffic=traffic,
        steady=steady,
        bad=bad,
        weights=list(weights),
    )
    made.sticky_since = 0.0
    return made


def test_the_share_is_that_of_the_weight_that_ended() -> None:
    told = stage((0, 0.1), (50, 0.5)).seen(0.0)

    assert told.startswith("49 of 494 requests without a session (9.9%, 0.4 off)")
    assert told.endswith("1 of 2 sessions on the canary")


def test_a_wrong_share_is_remembered_until_the_end() -> None:
    running = stage((0, 0.1), (20, 0.5), (50, 1.0))
    running.seen(0.0)

    assert running.worst > 100
    assert stage((0, 0.1), (50, 0.5)).worst == 0.0


def test_a_change_that_was_not_seen_yet_is_no_epoch() -> None:
    running = stage((0, 0.1))

    assert running.seen(0.0) == "no change of the weights yet"
    assert running.worst == 0.0


def test_a_bad_canary_counts_until_the_verdict_and_requests_before_the_key_do_not() -> None:
    running = stage((0, 0.1), (50, 0.0), bad=True)
    running.sticky_since, running.failed_at = 10.0, 20.0

    assert "of 94 requests" in running.seen(0.0)
    assert math.isclose(running.worst, 0.4, abs_tol=0.3)
