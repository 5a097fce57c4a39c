"""`python -m benchmarks.statistics`: the simulation study of the evidence engine, beside simpler rules."""

import argparse
import math
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat

from benchmarks.statistics.generate import Scenario
from benchmarks.statistics.scenarios import FAULTY, HEALTHY
from benchmarks.statistics.study import Outcome, Summary, run_one, summarize

_RIVALS = ("thresholds", "one shot", "peeking")


def main() -> None:
    """Run the study and print it."""
    arguments = _arguments()
    healthy = arguments.healthy or (400 if arguments.full else 36)
    faulty = arguments.faulty or (200 if arguments.full else 24)
    began = time.monotonic()
    print(f"margin {arguments.margin:g}, seed {arguments.seed}, false abort rate 5 %, 60 minutes each")
    print("aborted: share of runs (95 % exact bounds), median minutes; promoted: share, median minutes")
    print("forecast: predicted over actual time of the decision, asked at half time (10 %, median, 90 %)")
    with ProcessPoolExecutor(arguments.processes) as pool:
        for title, scenarios, runs in (("healthy", HEALTHY, healthy), ("faulty", FAULTY, faulty)):
            chosen = [one for one in scenarios if arguments.only in one.name]
            if chosen:
                print(
                    f"\n{title:28} runs  {'aborted':>26}  {'promoted':>14}  cover  {'forecast':>14}  ", end=""
                )
                print("  ".join(f"{name:>12}" for name in _RIVALS))
            for scenario in chosen:
                outcomes = list(_runs(pool, scenario, runs, arguments))
                print(_row(summarize(scenario, outcomes)), flush=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"\n{time.monotonic() - began:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of CPU")


def _runs(
    pool: ProcessPoolExecutor, scenario: Scenario, runs: int, arguments: argparse.Namespace
) -> Iterator[Outcome]:
    seeds = range(arguments.seed, arguments.seed + runs)
    rivals = not arguments.no_rivals
    yield from pool.map(
        run_one, repeat(scenario), seeds, repeat(arguments.margin), repeat(rivals), chunksize=5
    )


def _row(row: Summary) -> str:
    low, high = row.aborted_bounds
    forecast = "/".join(f"{value:.1f}" if math.isfinite(value) else "-" for value in row.forecast)
    cells = [
        f"{row.scenario.name:28} {row.runs:4}",
        f"{row.aborted:6.1%} ({low:5.1%}-{high:5.1%}) {_time(row.abort_minutes)}",
        f"{row.promoted:6.1%} {_time(row.promote_minutes)}",
        f"{row.coverage:4.0%}" if math.isfinite(row.coverage) else "   -",
        f"{forecast:>14}",
        *[f"{share:5.0%} {_time(minutes)}" for share, minutes in row.rivals],
    ]
    return "  ".join(cells)


def _time(minutes: float) -> str:
    return f"{minutes:5.1f}m" if math.isfinite(minutes) else "     -"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.statistics", description=__doc__)
    parser.add_argument("--full", action="store_true", help="400 healthy and 200 faulty runs per scenario")
    parser.add_argument("--healthy", type=int, default=0, help="runs per healthy scenario")
    parser.add_argument("--faulty", type=int, default=0, help="runs per faulty scenario")
    parser.add_argument("--only", default="", help="scenarios whose name contains this")
    parser.add_argument("--margin", type=float, default=0.0, help="growth of latency that is not yet harm")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--no-rivals", action="store_true", help="our engine only, about half the time")
    return parser.parse_args()


if __name__ == "__main__":
    main()
