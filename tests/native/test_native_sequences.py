"""Sequences of requests at given times give the same bytes, decisions, measurements and pages on both data paths."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip(
    "inference_rollouts_native",
    reason="the native data path is not built here: `make setup` does it where cargo is",
)

from benchmarks.native.sequences import Difference, run
from rollouts.picker import metrics
from rollouts.picker.core import measure, prefix, protocol, routing, schedule, split, variants, wire


def test_a_sample_of_sequences_is_the_same_on_both_paths() -> None:
    outcomes = run(800, 30)

    assert outcomes["dispatched"] > 150
    assert outcomes["dispatched among variants"] > 20
    assert outcomes["responses that say the variant"] > 5
    assert outcomes["measured"] > 5
    assert outcomes["rejected-no-endpoints"] > 20

    assert run(800, 24)["buffers-full"] > 20


def _carries_no_debts(_: Any) -> dict[str, int]:
    return {}


def _forgets(_: Any, adapter: str, now: float) -> None:
    """In place of ``work_on``."""


def _keeps(_: Any) -> None:
    """In place of ``_forget``."""


def _takes_no_hint(_: Any, metadata: bytes) -> int:
    return 0


def _takes_any(model: str, prompt: bytes) -> tuple[int, ...]:
    return (hash(prompt[:1024]),) if len(prompt) >= 1024 else ()


def compare(*seeds: int) -> None:
    for seed in seeds:
        run(10_000, seed)


@pytest.mark.full
@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        (split, "SEED", b"inference-rollouts/2"),
        (split.Diffusion, "_debts", _carries_no_debts),
        (schedule, "_TIE", 0.3),
        (schedule, "_RESIDENT", 1.0),
        (schedule.ScheduledPod, "work_on", _forgets),
        (prefix, "MAX_SLOTS", 1),
        (routing, "block_hashes", _takes_any),
        (variants, "_SALT", "variants/"),
        (measure, "TAIL", 10),
        (metrics, "MAX_MODELS", 1),
        (metrics, "_GONE_AFTER", 10.0),
        (protocol, "is_upgrade", lambda _: False),
        (protocol.Exchange, "_forget", _keeps),
        (protocol.Exchange, "_take_hint", _takes_no_hint),
        (wire, "PER_KEPT_LINE", 159),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_planted_bug_is_seen_in_the_first_fiftieth_of_a_long_run(
    monkeypatch: pytest.MonkeyPatch, where: Any, name: str, value: Any
) -> None:
    monkeypatch.setattr(where, name, value)

    with pytest.raises(Difference):
        compare(21, 22)
