"""A prober without a network: it answers at once what the test says, once the probe's rule is in the route."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rollouts.api.parsing import ParsedRollout
from rollouts.controller.probes import CanaryPods
from rollouts.engine.observation import ProbeView, TrafficView
from rollouts.engine.probing import PROBE_ROUTE
from rollouts.engine.types import ProbeVerdict
from rollouts.runtime.objects import ObjectKey

__all__ = ["FakeProbes"]


class FakeProbes:
    """``verdict`` None: no answer ever comes. The path outlives controllers, what they were offered does not."""

    def __init__(self) -> None:
        self.verdict: ProbeVerdict | None = ProbeVerdict.PASSED

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
        return ProbeView(offered=offered, token=tokens[0], verdict=self.verdict, message="as the test says")

    def drop(self, key: ObjectKey) -> None:
        """Nothing to forget."""
