"""What users lose, simulated request by request: arrivals in, scrapes of a vLLM pod's counters out.

    python -m benchmarks.statistics.losses [--runs 60]           # the table of README.md
    python -m benchmarks.statistics.losses --record FOLDER       # the recordings in tests/recordings

Arrivals are Poisson and go to the canary with probability ``weight``, there to any of its pods. An answer takes a
lognormal time (median 4 s, sigma 0.9). Counted as vLLM does (measured on 0.32): the HTTP layer counts a request when
it ends, a client that gave up and a stream refused under 200 as 2xx; the engine counts what it finished, a few
milliseconds before; what runs is a gauge. A healthy canary differs from stable by chance alone.
"""

from __future__ import annotations

import heapq
import itertools
import json
import math
import random
import statistics
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from rollouts.analysis.backtest import backtest
from rollouts.analysis.evidence.model import Arm, HistogramSample, Mark, PodSample, Scrape
from rollouts.analysis.recording import Recording, header_line, mark_line, sample_line
from rollouts.api.gates_file import parse_gates

__all__ = ["SCENARIOS", "Fault", "Losses", "recording_of"]

_MEDIAN, _SIGMA = 4.0, 0.9
_E2E = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
        1920.0, 7680.0, math.inf)  # fmt: skip
_TTFT = (0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, math.inf)
_HISTORY = 600.0
_PACE = 20.0
"""Tokens per second of one answer."""
_AHEAD = 0.01
"""Seconds that the engine counts before the HTTP layer does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong with the canary from ``onset`` on.

    ``hang``: nothing that is in flight or comes ever ends. ``frozen``: its gauges stop as well. ``pods``: how many
    of its pods, None for all. ``refused``: share of streams that begin with 200 and end with an error event.
    """

    onset: float = 0.0
    hang: bool = False
    frozen: bool = False
    pods: int | None = None
    refused: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """One row. ``give_up``: seconds after which a client leaves, infinite for never; ``cancel``: share of requests
    that clients of both arms end on purpose, in streaks (``streak`` requests on average)."""

    name: str
    rate: float = 10.0
    weight: float = 0.10
    stable: int = 9
    canary: int = 2
    minutes: int = 30
    give_up: float = 60.0
    cancel: float = 0.0
    streak: float = 1.0
    long_share: float = 0.0
    """Share of requests that take thirty times as long, from ``long_from`` on."""
    long_from: float = -_HISTORY
    errors: float = 0.002
    stale: bool = False
    """After a client left, the gauge of what runs stays at 1 where it would be 0, until the next request."""
    unrouted: float = math.inf
    """From when on the gateway sends nothing to the canary."""
    fault: Fault | None = None


SCENARIOS = (
    Losses(name="nothing lost", errors=0.0),
    Losses(name="30% cancelled by design, both arms", cancel=0.30),
    Losses(name="30% cancelled in streaks, 1+9 pods", cancel=0.30, streak=20.0, canary=1),
    Losses(name="long answers, 1 request a second", rate=1.0, long_share=0.05, give_up=math.inf, canary=1),
    Losses(name="ten-minute jobs begin at minute 10", long_share=0.01, long_from=600.0, give_up=math.inf),
    Losses(name="hang, clients leave after 8 s", give_up=8.0, fault=Fault(hang=True)),
    Losses(name="hang, nobody leaves", give_up=math.inf, fault=Fault(hang=True)),
    Losses(name="hang from minute 15, nobody leaves", give_up=math.inf, fault=Fault(hang=True, onset=900.0)),
    Losses(name="one of two pods hangs, 60 s", fault=Fault(hang=True, pods=1)),
    Losses(name="hang with frozen gauges, from minute 10", give_up=math.inf,
           fault=Fault(hang=True, frozen=True, onset=600.0)),
    Losses(name="hang with frozen gauges, before the first request", give_up=math.inf,
           fault=Fault(hang=True, frozen=True)),
    Losses(name="one of two pods hangs with frozen gauges", give_up=math.inf,
           fault=Fault(hang=True, frozen=True, pods=1, onset=600.0)),
    Losses(name="hang with frozen gauges, 1 request in 5 s", rate=2.0, stable=1, canary=1, give_up=math.inf,
           fault=Fault(hang=True, frozen=True, onset=600.0)),
    Losses(name="gauges stay up, 1 canary request a minute", rate=1.0, weight=1 / 60, canary=1, cancel=0.3,
           stale=True, minutes=60),
    Losses(name="the gateway sends nothing from minute 10", unrouted=600.0),
    Losses(name="20% of streams refused under 200", fault=Fault(refused=0.2)),
    Losses(name="5% refused, 30% cancelled", cancel=0.30, minutes=60, fault=Fault(refused=0.05)),
)  # fmt: skip


class _Pod:
    """Counters of one pod; times of what is in flight are in the simulation's heap."""

    def __init__(self, arm: Arm, name: str) -> None:
        self.arm, self.name = arm, name
        self.answered = self.failed = self.finished = self.flying = self.tokens = 0
        self.frozen: int | None = None
        self.stale = 0.0
        self.hung = False
        self.e2e, self.e2e_sum = [0] * len(_E2E), 0.0
        self.ttft, self.ttft_sum = [0] * len(_TTFT), 0.0

    def generate(self, seconds: float) -> None:
        """The tokens of what is in flight; a hung engine has none."""
        if not self.hung:
            self.tokens += round(self.flying * seconds * _PACE)

    def first_token(self, seconds: float) -> None:
        self.tokens += 1
        self.ttft[next(i for i, bound in enumerate(_TTFT) if seconds <= bound)] += 1
        self.ttft_sum += seconds

    def sample(self) -> PodSample:
        def cumulative(bounds: tuple[float, ...], counts: list[int], total: float) -> HistogramSample:
            return HistogramSample(
                bounds=bounds, cumulative=tuple(map(float, itertools.accumulate(counts))), sum=round(total, 3)
            )

        return PodSample(
            arm=self.arm,
            pod=self.name,
            counters={
                "requests": float(self.answered),
                "errors": float(self.failed),
                "answered": float(self.answered),
                "finished": float(self.finished),
                "tokens": float(self.tokens),
            },
            gauges={"in_flight": float(self.flying if self.frozen is None else self.frozen) or self.stale},
            histograms={
                "e2e": cumulative(_E2E, self.e2e, self.e2e_sum),
                "ttft": cumulative(_TTFT, self.ttft, self.ttft_sum),
            },
        )


class _Simulation:
    """Events in order of time: arrivals, the engine's ends, the HTTP layer's ends."""

    def __init__(self, scenario: Losses, seed: int) -> None:
        self.scenario, self.rng = scenario, random.Random(seed)
        self.pods = {
            arm: [_Pod(arm, f"{arm.value}-{i}") for i in range(count)]
            for arm, count in ((Arm.STABLE, scenario.stable), (Arm.CANARY, scenario.canary))
        }
        self.events: list[tuple[float, int, str, _Pod, float]] = []
        self.order = itertools.count()
        self.cancelling = False

    def scrapes(self) -> Iterator[Scrape]:
        at, arrival = -_HISTORY, -_HISTORY
        end = self.scenario.minutes * 60.0
        while at <= end:
            while arrival < at:
                self._run(arrival)
                self._arrive(arrival)
                arrival += self.rng.expovariate(self.scenario.rate)
            self._run(at)
            for pod in itertools.chain(*self.pods.values()):
                pod.generate(30.0)
            arms = (Arm.STABLE, Arm.CANARY) if at >= 0 else (Arm.STABLE,)
            yield Scrape(at=at, pods=tuple(pod.sample() for arm in arms for pod in self.pods[arm]))
            at += 30.0

    def _arrive(self, at: float) -> None:
        scenario, rng = self.scenario, self.rng
        split = 0 <= at < scenario.unrouted and rng.random() < scenario.weight
        arm = Arm.CANARY if split else Arm.STABLE
        pod = rng.choice(self.pods[arm])
        self._break(pod, at)
        pod.flying += 1
        if pod.hung:
            if math.isfinite(scenario.give_up):
                self._later(at + scenario.give_up, "left", pod, 0.0)
            return
        fault = scenario.fault
        if fault is not None and arm is Arm.CANARY and at >= fault.onset and rng.random() < fault.refused:
            self._later(at + 0.05, "left", pod, 0.0)
            return
        if rng.random() < scenario.errors:
            self._later(at + 0.05, "failed", pod, 0.0)
            return
        takes = _MEDIAN * math.exp(rng.gauss(0.0, _SIGMA))
        if at >= scenario.long_from and rng.random() < scenario.long_share:
            takes = 600.0 if scenario.long_from > 0 else takes * 30.0
        pod.first_token(0.2 * math.exp(rng.gauss(0.0, 0.5)))
        if rng.random() < 1.0 / scenario.streak:
            self.cancelling = rng.random() < scenario.cancel
        leaves = rng.random() * takes if self.cancelling else scenario.give_up
        if leaves < takes:
            self._later(at + leaves, "left", pod, 0.0)
        else:
            self._later(at + takes, "finished", pod, takes)

    def _break(self, pod: _Pod, at: float) -> None:
        fault = self.scenario.fault
        if fault is None or not fault.hang or at < fault.onset or pod.arm is Arm.STABLE or pod.hung:
            return
        if fault.pods is None or int(pod.name.rpartition("-")[2]) < fault.pods:
            pod.hung = True
            if fault.frozen:
                pod.frozen = pod.flying

    def _later(self, at: float, what: str, pod: _Pod, takes: float) -> None:
        heapq.heappush(self.events, (at, next(self.order), what, pod, takes))

    def _run(self, until: float) -> None:
        while self.events and self.events[0][0] <= until:
            at, _, what, pod, takes = heapq.heappop(self.events)
            if pod.hung and what == "finished":
                if math.isfinite(self.scenario.give_up):
                    self._later(at + self.scenario.give_up, "left", pod, 0.0)
                continue
            if what == "finished":
                pod.finished += 1
                pod.e2e[next(i for i, bound in enumerate(_E2E) if takes <= bound)] += 1
                pod.e2e_sum += takes
                self._later(at + _AHEAD, "answered", pod, 0.0)
                continue
            pod.flying -= 1
            pod.stale = float(what == "left" and self.scenario.stale)
            pod.answered += 1
            pod.failed += what == "failed"


def recording_of(scenario: Losses, seed: int) -> Recording:
    """One simulated rollout."""
    marks = (Mark(at=0.0, step=0, weight=scenario.weight),)
    return Recording(interval=30.0, scrapes=tuple(_Simulation(scenario, seed).scrapes()), marks=marks)


GATES: list[Mapping[str, object]] = [
    {"name": "error-rate", "compare": {"preset": "error-rate"}},
    {"name": "lost-rate", "compare": {"preset": "lost-rate"}},
    {"name": "ttft", "compare": {"preset": "ttft"}},
]
"""Of `preset: default` what these pods expose."""


def _table(runs: int, only: str) -> Iterator[str]:
    yield "| scenario | aborted | median min | within 5 min | by lost-rate | lost-rate passed |"
    yield "|---|---|---|---|---|---|"
    for scenario in SCENARIOS:
        if only and only not in scenario.name:
            continue
        minutes, blamed, passed = [], 0, 0
        for seed in range(runs):
            result = backtest(recording_of(scenario, seed), parse_gates([*GATES]))
            failed = [gate for gate in result.gates if gate.gate.verdict.value == "Fail"]
            onset = scenario.fault.onset if scenario.fault is not None else 0.0
            if failed:
                minutes.append(((failed[0].decided_at or 0.0) - onset) / 60.0)
            blamed += any(gate.report.name == "lost-rate" for gate in failed)
            passed += any(
                g.report.name == "lost-rate" and g.gate.verdict.value == "Pass" for g in result.gates
            )
        when = f"{statistics.median(minutes):.1f}" if minutes else "-"
        soon = sum(value <= 5.0 for value in minutes) / runs
        share = f"{len(minutes) / runs:.0%} | {when} | {soon:.0%} | {blamed / runs:.0%} | {passed / runs:.0%}"
        yield f"| {scenario.name} | {share} |"


RECORDED = {
    "hang-given-up": ("hang, clients leave", 3),
    "hang-patient": ("hang, nobody leaves", 3),
    "refused-streams": ("20% of streams refused", 3),
    "cancelled-by-design": ("30% cancelled by design", 3),
}
"""File, beginning of the scenario's name, seed."""


def _record(folder: Path) -> None:
    for name, (which, seed) in RECORDED.items():
        scenario = next(one for one in SCENARIOS if one.name.startswith(which))
        found = recording_of(scenario, seed)
        last = 1200.0 if scenario.fault is None else 600.0
        lines = [header_line(found.interval), *(mark_line(mark) for mark in found.marks)]
        lines += [
            json.dumps(json.loads(sample_line(scrape.at, pod)), separators=(",", ":"))
            for scrape in found.scrapes
            if -60.0 <= scrape.at <= last
            for pod in scrape.pods
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


@click.command(help=__doc__.splitlines()[0] if __doc__ else "")
@click.option("--runs", default=60, show_default=True, type=click.IntRange(1, 2000))
@click.option("--only", default="", help="Rows whose name holds this.")
@click.option("--record", type=click.Path(file_okay=False, exists=True, path_type=Path))
def main(runs: int, only: str, record: Path | None) -> None:
    """The table, or the recordings."""
    if record is not None:
        _record(record)
        return
    for line in _table(runs, only):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
