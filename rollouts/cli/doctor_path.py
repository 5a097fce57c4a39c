"""What ``doctor`` says of the way from a gateway to a pool's pods: the picker behind its Service, and refusals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rollouts.cli.findings import Check, bad, fine, warn
from rollouts.controller.pickers import Gateway, picker_trust, refusal
from rollouts.objects.fields import map_of, metadata_of
from rollouts.objects.pods import read_pod
from rollouts.objects.pools import Pool
from rollouts.traffic.parents import parents_view

__all__ = ["picker_checks", "refusal_checks", "route_checks", "split_checks"]

Object = Mapping[str, Any]


def picker_checks(pool: Pool, service: Object | None, pods: Iterable[Object] | None) -> Iterator[Check]:
    """The picker that the pool names. ``pods`` None: they may not be read."""
    where = f"InferencePool {pool.name}"
    if pool.picker is None:
        trust = picker_trust(pool)
        if trust:
            yield fine(f"{where}: {trust}")
        else:
            yield bad(f"{where} names no endpoint picker", "set its endpointPickerRef / extensionRef")
        return
    named = f"its picker Service {pool.picker.name}"
    if service is None:
        yield bad(
            f"{where}: {named} does not exist",
            f"rollouts picker-manifest {pool.name} | kubectl apply -f -, or `pickers` of the chart",
        )
        return
    selector = (service.get("spec") or {}).get("selector") or {}
    if not selector or pods is None:
        why = "its pods may not be read" if selector else "it selects no pods"
        yield fine(f"{where} and {named} exist; {why}: that one serves is taken on trust")
        return
    behind = [
        pod for pod in pods if selector.items() <= ((pod.get("metadata") or {}).get("labels") or {}).items()
    ]
    ready = [found.name for pod in behind if (found := read_pod(pod)) is not None and found.ready]
    if ready:
        yield fine(f"{where} and {named} exist, {len(ready)} of {len(behind)} pods behind it are Ready")
        return
    text = f"{where}: {named} has 0 Ready endpoints ({len(behind)} pods behind it)"
    if pool.fail_open:
        yield warn(f"{text}; failureMode FailOpen serves without it", "see why they are not Ready")
    else:
        yield bad(
            f"{text}: gateways answer requests to it, and some all requests of the rule, with an error",
            f"see why they are not Ready, or install ours: rollouts picker-manifest {pool.name}",
        )


def split_checks(pool: Pool) -> Iterator[Check]:
    """A pool whose pods are split between variants."""
    what = pool.unsplit_when_down
    if what:
        yield warn(what, "leave failureMode out: FailClose refuses requests instead")


def refusal_checks(pool: Pool, gateways: Iterable[Gateway], service: Object | None) -> Iterator[Check]:
    """A gateway of the route that refuses the pool. ``service``: the picker's, where it exists."""
    refused = refusal(pool, gateways)
    if refused is None:
        return
    if refusal(pool, gateways, service_exists=service is not None) is None:
        yield warn(
            f"InferencePool {pool.name}: {refused.kind} {refused.name} still says that its picker Service was not "
            "found, and it is there: an old status, which keeps no rollout from working",
            f"kubectl annotate inferencepool {pool.name} looked-at-again=1: the gateway then looks once more",
        )
        return
    what = (
        "not Accepted"
        if refused.condition == "Accepted"
        else "accepted, but its references are not resolved,"
    )
    yield bad(
        f"InferencePool {pool.name} is {what} by {refused.kind} {refused.name} "
        f"({refused.condition}=False, {refused.reason}: {refused.message[:200]})",
        "see the gateway's documentation of InferencePool, and its log",
    )


def route_checks(route: Object) -> Iterator[Check]:
    """What the gateways say of the route itself, by the controller's own reading."""
    name = metadata_of(route).get("name")
    if not map_of(route.get("spec")).get("parentRefs"):
        return
    view = parents_view(route)
    if not view.programmed:
        yield bad(
            f"HTTPRoute {name} is not programmed: {view.message}",
            "see the gateway's log; docs/peers says what each gateway writes, and when",
        )
