"""A ``drainTimeout`` that is over before a pod's figures count: each pod then goes with whatever it still answers."""

from __future__ import annotations

from rollouts.controller.draining import spared_for
from rollouts.engine.rollout_spec import Capacity
from rollouts.engine.steps import format_seconds

__all__ = ["short_drain"]


def short_drain(policy: Capacity, *, companions: bool) -> tuple[str, str] | None:
    """What is wrong and what to do, where pods that may have requests are taken by the timeout alone.

    Stable gives pods, and a return takes the canary's; what lost without any weight is not spared first.
    """
    needs = spared_for(companions=companions)
    if not policy.gives or policy.drain_timeout > needs:
        return None
    whose = "of a version with companions " if companions else ""
    why = (
        f"drainTimeout {format_seconds(policy.drain_timeout)} is over before the figures of a pod {whose}count, "
        f"{format_seconds(needs)} after requests are kept from it: each pod that stable gives goes with what it answers"
    )
    return why, f"make it longer than {format_seconds(needs)}, by what the longest answer takes"
