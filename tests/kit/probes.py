"""A prober without a network: it answers what the test says, a second after it saw the probe's rule in the route."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from rollouts.api.parsing import ParsedRollout
from rollouts.controller.probes import CanaryPods
from rollouts.engine.attempt import ProbeVerdict
from rollouts.engine.observation import ProbeView, TrafficView
from rollouts.engine.probing import PROBE_ROUTE
from rollouts.runtime.objects import ObjectKey

__all__ = ["FakeProbes"]


_SECONDS = 1.0


class FakeProbes:
    """``verdict`` None: no answer ever comes. The path outlives controllers, what they were offered does not."""

    def __init__(self) -> None:
        self.verdict: ProbeVerdict | None = ProbeVerdict.PASSED
        self.on_change: Callable[[ObjectKey], None] = lambda _: None
        self._seen: dict[str, float] = {}

    def view(
        self,
        key: ObjectKey,
        parsed: ParsedRollout,
        template: Mapping[str, Any],
        traffic: TrafficView,
        pods: CanaryPods,
    ) -> ProbeView | None:
        """See ``PathProbes.view``."""
        offered = f"secret-of-attempt-{parsed.status.attempt}"
        tokens = [route.match[0].value for route in traffic.header_routes if route.name == PROBE_ROUTE]
        if not tokens or not traffic.parents.programmed:
            return ProbeView(offered=offered)
        loop = asyncio.get_running_loop()
        if tokens[0] not in self._seen:
            self._seen[tokens[0]] = loop.time()
            loop.call_later(_SECONDS, lambda: self.on_change(key))
        if loop.time() - self._seen[tokens[0]] < _SECONDS:
            return ProbeView(offered=offered)
        return ProbeView(offered=offered, token=tokens[0], verdict=self.verdict, message="as the test says")

    def drop(self, key: ObjectKey) -> None:
        """Nothing to forget."""
