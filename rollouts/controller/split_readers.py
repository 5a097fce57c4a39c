"""Whether endpoint pickers obey PoolSplits: asked of their own metrics pages, in the background."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from rollouts.objects.picker_pages import POOL_SPLITS_READ
from rollouts.objects.pods import PickerPod
from rollouts.sources.base import ScrapeTarget
from rollouts.sources.scraper import PodHistory, PodScraper

__all__ = ["ScrapedSplitReaders", "SplitReaders", "TrustedSplitReaders"]

_HURRY = 10.0
"""Seconds for which one look asks for samples every ``_PACE`` seconds: a rollout waits for the answer."""
_PACE = 1.0


class SplitReaders(Protocol):
    """Who asks pickers whether they obey PoolSplits."""

    def answers(self, namespace: str, pods: Sequence[PickerPod]) -> Mapping[str, bool | None]:
        """By name of the pod; None while one has not said. A picker that is not ours obeys none."""
        ...


class TrustedSplitReaders:
    """Asks nobody: whatever is one of our pickers obeys."""

    def answers(self, namespace: str, pods: Sequence[PickerPod]) -> Mapping[str, bool | None]:
        """See ``SplitReaders``."""
        return {pod.name: pod.metrics_port is not None for pod in pods}


class ScrapedSplitReaders:
    """Reads the gauge ``POOL_SPLITS_READ``; a page without it is of a picker that knows no PoolSplit."""

    def __init__(self, scraper: PodScraper) -> None:
        self._scraper = scraper

    def answers(self, namespace: str, pods: Sequence[PickerPod]) -> Mapping[str, bool | None]:
        """See ``SplitReaders``."""
        found: dict[str, bool | None] = {pod.name: False for pod in pods}
        targets = [
            ScrapeTarget(pod=pod.name, ip=pod.ip, port=pod.metrics_port, namespace=namespace)
            for pod in pods
            if pod.metrics_port is not None
        ]
        for history in self._scraper.follow(targets, {POOL_SPLITS_READ}, 0.0, hurry=_HURRY, pace=_PACE):
            found[history.endpoint.pod] = _said(history)
        return found


def _said(history: PodHistory) -> bool | None:
    """What the newest sample says that was taken since the gauge is asked for."""
    if history.error or history.latest is None:
        return None
    return bool(history.latest[1].total(POOL_SPLITS_READ))
