"""Unfinished uploads stay within the container's memory limit, and are told when their time is over."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.picker.uploads import measure
from rollouts.picker.memory import budget_of, memory_limit

MIB = 1 << 20
BOTH: tuple[str, ...] = ()
"""Nothing to exchange: the measurement starts a picker on the path that it is told."""


@pytest.mark.parametrize(
    ("files", "want"),
    [
        ({"memory.max": "536870912\n"}, 512 * MIB),
        ({"memory.max": "max\n"}, None),
        ({"memory/memory.limit_in_bytes": "268435456"}, 256 * MIB),
        ({"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ({"memory.max": "\udcff"}, None),
        ({}, None),
    ],
)
def test_the_limit_is_what_the_kernel_says(tmp_path: Path, files: dict[str, str], want: int | None) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode("utf-8", "surrogateescape"))

    assert memory_limit(tmp_path) == want


@pytest.mark.parametrize(("mib", "body", "total"), [(512, 64, 192), (1024, 64, 448), (200, 33, 36)])
def test_what_may_be_held_is_a_part_of_the_limit(mib: int, body: int, total: int) -> None:
    budget = budget_of(mib * MIB)

    assert (budget.body_limit // MIB, budget.total_limit // MIB) == (body, total)
    assert budget.take(budget.body_limit, budget.body_limit)


def test_a_limit_that_leaves_nothing_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="at least 144 MiB"):
        budget_of(130 * MIB)


@pytest.mark.slow
def test_unfinished_uploads_stay_below_a_small_limit_and_are_told(data_path: str) -> None:
    found = measure(clients=10, size=12_000_000, limit=256 * MIB, timeout=3.0, data_path=data_path)

    assert found.peak < found.limit
    assert found.after_timeout == {503: 5, 408: 5}


@pytest.mark.full
@pytest.mark.timeout(180)
def test_a_thousand_streams_and_then_ten_unfinished_uploads_of_60_mb_stay_below_512_mib(
    data_path: str,
) -> None:
    found = measure(timeout=20.0, opened=1000, data_path=data_path)

    assert found.peak < 512
    assert found.after_timeout == {503: 7, 408: 3}
