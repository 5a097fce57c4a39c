"""Wall time against the optimum that pod start-up allows, and GPU-hours against blue-green.

``python -m benchmarks.capacity``: rollouts of 8, 32 and 128 pods with 1, 10 % and 25 % of spare GPUs, in virtual time,
with ``minStable: 1`` and no gates; ``--starts`` and ``--ends`` are seconds of a pod's start and end. Blue-green is the
same controller with as many spare GPUs as pods. GPU-hours are those above the fleet's own, which serves all the while.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Iterator, Sequence

import structlog

from benchmarks.capacity.study import Outcome, Question, optimum, rolled

FLEETS = (8, 32, 128)
SPARE = ("1", "10%", "25%")
_ROW = "{:>5} {:>6} {:>10} {:>10} {:>7} {:>9} {:>10} {:>11}"
_HEAD = ("pods", "spare", "wall", "optimum", "ratio", "most GPUs", "GPU-hours", "blue-green")


def questions(
    fleets: Sequence[int], spare: Sequence[str], *, starts: float, ends: float
) -> Iterator[Question]:
    """All of them, those with equal numbers once."""
    for pods in fleets:
        spares = [int(one) if one.isdigit() else math.ceil(pods * int(one[:-1]) / 100) for one in spare]
        for number in dict.fromkeys(spares):
            yield Question(pods=pods, spare=number, starts=starts, ends=ends, min_stable=1)


def extra(question: Question, outcome: Outcome) -> float:
    """GPU-hours above those of the fleet."""
    return outcome.gpu_hours - question.pods * outcome.seconds / 3600.0


def row(question: Question, outcome: Outcome, blue_green: float) -> str:
    """One line of the table."""
    best = optimum(question)
    return _ROW.format(
        question.pods,
        question.spare,
        _time(outcome.seconds),
        _time(best),
        f"{outcome.seconds / best:.2f}",
        outcome.most_gpus,
        f"{extra(question, outcome):.1f}",
        f"{blue_green:.1f}",
    )


def _time(seconds: float) -> str:
    if math.isinf(seconds):
        return "never"
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"


def main() -> None:
    """Print the table; each row as soon as it is known."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__)
    parser.add_argument("--starts", type=float, default=300.0, metavar="SECONDS")
    parser.add_argument("--ends", type=float, default=30.0, metavar="SECONDS")
    parser.add_argument("--pods", type=int, nargs="+", default=FLEETS)
    parser.add_argument("--spare", nargs="+", default=SPARE, metavar="N|N%%")
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    print(_ROW.format(*_HEAD), flush=True)
    beside: dict[int, float] = {}
    for question in questions(given.pods, given.spare, starts=given.starts, ends=given.ends):
        if question.pods not in beside:
            full = Question(
                pods=question.pods, spare=question.pods, starts=question.starts, ends=question.ends
            )
            beside[question.pods] = extra(full, rolled(full))
        outcome = rolled(question)
        print(row(question, outcome, beside[question.pods]), flush=True)
        if math.isinf(outcome.seconds):
            print(f"      {outcome.end}")


if __name__ == "__main__":
    main()
