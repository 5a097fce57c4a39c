"""Which scrape job of a Prometheus server is read for each pod, whether it scrapes all of a pod's processes, and which
of these were there all the time of a window.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from rollouts.analysis.types import Labelled
from rollouts.sources.base import ScrapeTarget
from rollouts.sources.promql import IS, LOOKBACK, MOST_LATE, Is, PerJob, PodSelection, known_since

__all__ = ["Prepared", "Processes", "chosen_jobs", "processes", "unscraped"]

_Process = tuple[str, str, str]
"""Job, name of the pod, address."""


class Prepared:
    """What a server answered to ``promql.preparatory_queries`` about ``where``."""

    def __init__(self, told: Iterable[Labelled], where: PodSelection) -> None:
        self.now: list[Labelled] = []
        """Counts of series by job and process."""
        self.then = dict[_Process, float]()
        """Counts of series by process when the window began."""
        self.came = set[_Process]()
        """Processes that showed a series in the window that they had not shown when it began."""
        self.names = Counter[str]()
        """Series in the window by name."""
        self.pods = len({where.name(one) for one in where.endpoints})
        for item in told:
            labels = dict(item.labels)
            what = labels.pop(IS, "").rstrip("0")
            if what == Is.NOW:
                self.now.append(item)
            elif what == Is.THEN:
                self.then[_process(labels, where)] = item.value
            elif what == Is.CAME:
                self.came.add(_process(labels, where))
            elif what == Is.NAMES:
                self.names[labels.get("__name__", "")] += round(item.value)


def _process(labels: Mapping[str, str], where: PodSelection) -> _Process:
    return labels.get("job", ""), labels.get(where.pod_label, ""), labels.get("instance", "")


class Processes(NamedTuple):
    """``steady`` had all their series, and their names alone, when the window began; ``there``: any was there then."""

    steady: PerJob
    others: PerJob
    there: bool


def processes(per_job: PerJob, known: Prepared, where: PodSelection, begin: float) -> Processes:
    """Divide the pods by what they did since ``begin`` (seconds since 1970)."""
    there_then = {(job, name) for job, name, _ in known.then}
    changed = {(job, name) for job, name, _ in known.came}
    steady, others, there = [], [], False
    for job, endpoints in per_job:
        divided: dict[bool, list[ScrapeTarget]] = {True: [], False: []}
        for one in endpoints:
            key, since = (job or "", where.name(one)), known_since(one)
            there = there or (since <= begin and key in there_then)
            divided[since <= begin - LOOKBACK - MOST_LATE and key not in changed].append(one)
        steady.append((job, tuple(divided[True])))
        others.append((job, tuple(divided[False])))
    return Processes(_some(steady), _some(others), there)


def _some(per_job: Iterable[tuple[str | None, tuple[ScrapeTarget, ...]]]) -> PerJob:
    return tuple((job, some) for job, some in per_job if some)


def chosen_jobs(
    held: Iterable[Labelled], where: PodSelection, endpoints: Sequence[ScrapeTarget]
) -> tuple[PerJob, Mapping[str, int]]:
    """``held`` are counts of series by job and process (``Prepared.now``).

    One job for each pod, the one that holds most of its series, else the first by name; and by pod the processes
    that these jobs hold.
    """
    series, processes = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for item in held:
        labels = dict(item.labels)
        key = (labels.get(where.pod_label, ""), labels.get("job", ""))
        series[key] += round(item.value)
        processes[key] += 1
    best: dict[str, tuple[int, str]] = {}
    for (pod, job), count in series.items():
        best[pod] = min(best.get(pod, (-count, job)), (-count, job))
    found: dict[str, list[ScrapeTarget]] = {}
    scraped = Counter[str]()
    for endpoint in endpoints:
        chosen = best.get(where.name(endpoint))
        if chosen is not None:
            found.setdefault(chosen[1], []).append(endpoint)
            scraped[endpoint.owner] = max(scraped[endpoint.owner], processes[where.name(endpoint), chosen[1]])
    if where.pod_label == "instance":  # each process has a name of its own
        scraped = Counter(endpoint.owner for endpoint in endpoints if where.name(endpoint) in best)
    return tuple((job, tuple(found[job])) for job in sorted(found)), scraped


def unscraped(endpoints: Iterable[ScrapeTarget], scraped: Mapping[str, int]) -> str:
    """A pod of which some processes are scraped and some not: what is held of it is a part of its requests."""
    expected = Counter(endpoint.owner for endpoint in endpoints if endpoint.of)
    for pod, processes in sorted(expected.items()):
        if 0 < scraped.get(pod, 0) < processes:
            return (
                f"{scraped[pod]} of the {processes} processes of pod {pod}: let it scrape every port that the "
                "InferencePool names"
            )
    return ""
