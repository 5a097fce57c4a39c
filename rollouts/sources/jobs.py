"""Which scrape job of a Prometheus server is read for each pod, and whether it scrapes all of a pod's processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rollouts.analysis.types import Labelled
from rollouts.sources.base import ScrapeTarget
from rollouts.sources.promql import PerJob, PodSelection

__all__ = ["chosen_jobs", "unscraped"]


def chosen_jobs(
    held: Iterable[Labelled], where: PodSelection, endpoints: Sequence[ScrapeTarget]
) -> tuple[PerJob, Mapping[str, int]]:
    """``held`` are counts of series by job and process (``job_query``).

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
