"""The headroom of a way back: what the spec says is said of the new version beside the old, not the other way round.

A canary that replaced eight pods with four (``headroom`` 0.5) is replaced by eight again. How many pods each version
had is in the history; the spec's own number, which a revert may have taken back with the target, says nothing about it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from fractions import Fraction

from rollouts.engine.capacity import most_pods
from rollouts.engine.observation import Observation, WorkloadView
from rollouts.engine.rollout_spec import Capacity, RolloutSpec
from rollouts.engine.versions import Identity

__all__ = ["for_way_back"]


def for_way_back(obs: Observation, now: datetime) -> Observation:
    """With the headroom by which the version that is asked for carried all traffic, where it is on its way back."""
    spec, stable = obs.spec, obs.status.stable
    policy = spec.canary.capacity if spec is not None else None
    if spec is None or policy is None or stable is None:
        return obs
    wanted = _wanted(obs, spec, now)
    entry = obs.status.promoted(wanted) if wanted is not None else None
    serving = obs.status.promoted(stable.identity)
    if entry is None or serving is None or entry.stable_until is None or not (entry.pods and serving.pods):
        return obs
    headroom = _within(policy, Fraction(entry.pods, serving.pods), _stable_pods(obs, stable.identity))
    capacity = replace(policy, headroom=float(headroom))
    # Every weight asks for Ready endpoints as well: never for more than there are to be pods (a rule of the spec).
    ratio = min(spec.canary.endpoint_ratio, float(headroom))
    canary = replace(spec.canary, capacity=capacity, endpoint_ratio=ratio)
    return replace(obs, spec=replace(spec, canary=canary))


def _wanted(obs: Observation, spec: RolloutSpec, now: datetime) -> Identity | None:
    """The version that is on its way back, or begins to be; None where steps are, or will be, walked."""
    current, target = obs.status.current, obs.target
    if current is not None:
        return current.canary.identity if current.skip_gates else None
    if target is None or not obs.status.was_stable(target, spec.rollback_window, now):
        return None
    return target


def _stable_pods(obs: Observation, stable: Identity) -> int:
    current = obs.status.current
    if current is not None and current.capacity is not None:
        return current.capacity.stable_at_start
    return max(obs.ready(stable), obs.workloads.get(stable, WorkloadView()).replicas)


def _within(policy: Capacity, back: Fraction, stable: int) -> Fraction:
    """No more than fits beside all of stable's pods: who is in a hurry takes what there is, and by the spec's number
    stable gives pods for the rest."""
    most, own = most_pods(stable, policy), Fraction(policy.headroom)
    if most is None or not stable or back <= own:
        return back
    return max(own, min(back, Fraction(most - stable, stable)))
