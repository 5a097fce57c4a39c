"""The soak's judgements: a soak that calls everything right would be no soak."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.picker.soakchecks import (
    Epoch,
    Seen,
    Window,
    flipped_sessions,
    our_errors,
    share_without_session,
    slope,
    wrong_models,
)

EPOCHS = (Epoch(0, 0.1), Epoch(60, 1.0), Epoch(120, 0.0), Epoch(180, 0.5))


def seen(sent: float = 10, model: str = "v1", **fields: Any) -> Seen:
    values = {"ended": sent + 0.2, "asked": "travelhelper", "status": 200, **fields}
    return Seen(sent=sent, model=model, **values)


@pytest.mark.parametrize(
    ("sentence", "one", "wrong"),
    [
        ("both are allowed at 10 %", seen(10, "v2"), False),
        ("stable at 100 % canary", seen(80, "v1"), True),
        ("stable a moment after the change", seen(60.3, "v1"), False),
        ("canary at 0 %", seen(150, "v2"), True),
        ("a long request that began before the change", seen(119, "v2", ended=130), False),
        ("canary sent long after the change to 0 %", seen(120.6, "v2"), True),
        ("a third model", seen(10, "v3"), True),
        ("two models in one stream", seen(10, "several"), True),
        ("no model", seen(10, ""), True),
        ("an adapter asked for by its own name", seen(80, "v1", asked="v1"), False),
        ("another than the one asked for", seen(10, "v2", asked="v1"), True),
        ("errors have no model", seen(10, "", status=503), False),
        ("nor has an answer that was cut off", seen(10, "", whole=False), False),
    ],
)
def test_the_model_must_be_one_that_the_weights_allow(sentence: str, one: Seen, wrong: bool) -> None:
    assert bool(wrong_models([one], EPOCHS, stable="v1", canary="v2")) is wrong, sentence


@pytest.mark.parametrize(
    ("sentence", "requests", "flipped"),
    [
        ("stable below, canary above", [seen(10, "v1"), seen(200, "v2")], False),
        ("canary below, stable above", [seen(10, "v2"), seen(200, "v1")], True),
        ("both at one weight", [seen(190, "v1"), seen(200, "v2")], True),
        ("down again to stable", [seen(200, "v2"), seen(10, "v1")], False),
        ("just after a change nothing is proven", [seen(190, "v1"), seen(180.3, "v2")], False),
        ("across a change nothing is proven", [seen(59, "v2", ended=61), seen(200, "v1")], False),
        ("an adapter asked for by name", [seen(10, "v2", asked="v2"), seen(200, "v1")], False),
    ],
)
def test_every_session_has_one_threshold(sentence: str, requests: list[Seen], flipped: bool) -> None:
    named = [seen(one.sent, one.model, session="s", ended=one.ended, asked=one.asked) for one in requests]
    found = flipped_sessions(named, EPOCHS, canary="v2")

    assert found == (["s"] if flipped else []), sentence
    assert flipped_sessions(requests, EPOCHS, canary="v2") == [], "requests without a session have none"


@pytest.mark.parametrize(
    ("sentence", "one", "ours"),
    [
        ("a good answer", seen(), False),
        ("a 503 while a pod is killed", seen(100, status=503), False),
        ("a 503 at another time", seen(10, status=503), True),
        ("a 500 is never a pod's", seen(100, status=500), True),
        ("a refusal by the picker", seen(100, status=503, refused="no-endpoint"), True),
        ("a stream that a killed pod cut off", seen(100, whole=False), False),
        ("a stream that was cut off at another time", seen(10, whole=False), True),
        ("no answer at all", seen(100, status=0, whole=False), True),
        ("a 400", seen(10, status=400), True),
        ("a model that nobody has", seen(10, status=404, asked="unknown-model"), False),
        ("a model that somebody has is not found", seen(10, status=404), True),
        ("a request that was on its way when the pod was killed", seen(80, status=503, ended=96), False),
    ],
)
def test_only_a_killed_pod_excuses_an_error(sentence: str, one: Seen, ours: bool) -> None:
    assert bool(our_errors([one], [Window(95, 105)])) is ours, sentence


def test_the_share_counts_requests_without_a_session_well_inside_the_epoch() -> None:
    requests = [seen(at, "v2" if at % 10 == 0 else "v1") for at in range(60)]
    requests += [seen(30, "v2", session="s"), seen(30, "v2", asked="v2"), seen(30, "", status=503)]

    assert share_without_session(requests, EPOCHS[0], 60, canary="v2") == (5, 59)


def test_the_slope_is_that_of_the_line() -> None:
    assert slope([(0, 1), (1, 3), (2, 5)]) == pytest.approx(2)
    assert slope([(0, 7), (5, 7)]) == 0
    assert str(slope([(1, 1)])) == "nan"
