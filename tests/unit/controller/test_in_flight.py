"""Requests in flight, as pods say: a pod that does not say counts as one that may answer."""

from __future__ import annotations

import pytest

from rollouts.analysis.exposition import ScrapedPage, parse_groups
from rollouts.controller.caches import Caches
from rollouts.controller.in_flight import NAMES, PodsInFlight
from rollouts.lab.memoryapi.store import MemoryApi
from rollouts.objects.pools import Pool
from rollouts.sources.scraper import PodScraper
from tests.kit.clock import Timeline, VirtualClock
from tests.kit.memory_client import MemoryKubeClient

POOL = Pool(namespace="default", name="v1", selector=(("app", "v1"),), ports=(8000,))
VLLM = 'vllm:num_requests_running{model_name="m"} %s\nvllm:num_requests_waiting{model_name="m"} %s\n'
SGLANG = "sglang:num_running_reqs %s\nsglang:num_queue_reqs %s\n"


def page(text: str) -> ScrapedPage:
    return parse_groups(text.encode(), NAMES, only=frozenset(), by="").get("", ScrapedPage())


def requests(*pages: str | None, age: float = 1.0, error: str = "") -> int | None:
    """What pods with these pages answer, sampled ``age`` seconds ago; None: a pod that was never sampled."""
    timeline = Timeline()
    clock = VirtualClock(timeline)
    caches = Caches(MemoryKubeClient(MemoryApi(clock=clock)), clock)
    for number, _ in enumerate(pages):
        meta = {"name": f"p{number}", "namespace": "default", "uid": str(number), "labels": {"app": "v1"}}
        status = {"podIP": f"10.0.0.{number}"}
        caches.pods.apply({"metadata": {**meta, "resourceVersion": str(number + 1)}, "status": status})
    scraper = PodScraper(clock)
    asked = PodsInFlight(scraper, caches, clock)
    asked.requests(POOL)
    for text, history in zip(pages, scraper._pods.values(), strict=True):
        if text is not None:
            history.keep(clock.monotonic(), page(text))
        history.error = error
    timeline.advance(age)
    return asked.requests(POOL)


@pytest.mark.parametrize(
    ("pages", "count"),
    [
        ((), 0),
        ((VLLM % (0, 0), VLLM % (0, 0)), 0),
        ((VLLM % (2, 1), VLLM % (0, 4)), 7),
        ((SGLANG % (1, 2),), 3),
        ((VLLM % (0, 0), None), None),
        (("process_start_time_seconds 1\n",), None),
    ],
)
def test_running_and_waiting_requests_of_all_pods(pages: tuple[str | None, ...], count: int | None) -> None:
    assert requests(*pages) == count


def test_what_was_said_long_ago_is_not_known() -> None:
    assert requests(VLLM % (0, 0), age=11.0) is None
    assert requests(VLLM % (0, 0), error="no answer") is None
