"""What the picker knows of each pod: the requests that it may have in flight, and whether it is about to go.

The controller reads both before it takes a pod away: that every picker knows of the drain, and that none has sent a
request which the pod's own gauges do not show yet. Names are constants, since the controller reads them, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rollouts.objects.picker_pages import DRAINING, IN_FLIGHT, TO_DRAINING
from rollouts.picker.core.routing import Router
from rollouts.picker.core.schedule import ScheduledPod

__all__ = ["EndpointMetrics"]

_LABELS = ("pool", "pod")


class EndpointMetrics(Collector):
    """Read off the scheduler when somebody asks, so that a pod that is gone has no series."""

    def __init__(self, router: Router, clock: Callable[[], float] = time.monotonic) -> None:
        self._router = router
        self._scheduler = router.scheduler
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """One series per pod, its ports together."""
        draining = GaugeMetricFamily(
            DRAINING, "Whether the pod gets no new request while another can serve", labels=_LABELS
        )
        in_flight = GaugeMetricFamily(
            IN_FLIGHT,
            "Requests that the pod's last page showed, and those sent to it since; absent while its page is old",
            labels=_LABELS,
        )
        for labels, pods in self._by_pod().items():
            draining.add_metric(labels, float(pods[0].endpoint.draining))
            now = self._clock()
            if all(self._scheduler.is_fresh(pod, now) for pod in pods):
                in_flight.add_metric(labels, sum(pod.in_flight for pod in pods))
        forced = CounterMetricFamily(
            TO_DRAINING, "Requests sent to pods about to go, as no other could serve them", labels=("pool",)
        )
        for pool in {pool.name for pool in self._router.snapshot.pools}:
            forced.add_metric((pool,), self._scheduler.to_draining[pool])
        yield from (draining, in_flight, forced)

    def _by_pod(self) -> dict[tuple[str, str], list[ScheduledPod]]:
        found: dict[tuple[str, str], list[ScheduledPod]] = {}
        for pod in self._scheduler.pods():
            found.setdefault((pod.endpoint.pool, pod.endpoint.pod), []).append(pod)
        return found
