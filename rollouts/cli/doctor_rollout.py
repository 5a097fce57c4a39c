"""What ``doctor`` says around one Rollout: its traffic object, the gateways behind that, the pools of its versions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from rollouts.api.parsing import ParsedRollout
from rollouts.carriers import ObjectTargetKind, TrafficKind, kind_of
from rollouts.cli.doctor_gateways import gateway_checks, unread_pool
from rollouts.cli.doctor_gitops import (
    object_checks,
    pool_checks,
)
from rollouts.cli.doctor_grants import grant_checks
from rollouts.cli.doctor_moving import groups_listed, moving_checks
from rollouts.cli.doctor_path import picker_checks, refusal_checks, route_checks, split_checks
from rollouts.cli.doctor_pickers import exposure_checks
from rollouts.cli.explain import deletion
from rollouts.cli.findings import Check, bad, fine, warn
from rollouts.cli.readable import get_or_none, list_or_none
from rollouts.controller.pickers import Gateway, gateways_of
from rollouts.engine.rollout_spec import (
    HttpRouteTraffic,
    PickerTraffic,
    Traffic,
    TrafficMode,
    VariantTraffic,
    WeightStep,
)
from rollouts.kube.client import KubeClient, Resource
from rollouts.objects import kinds
from rollouts.objects.fields import list_of, map_of, metadata_of, text_at
from rollouts.objects.grants import foreign_refs
from rollouts.objects.pools import read_pool
from rollouts.peers import GatewayPeer, peer_of
from rollouts.traffic.writes import CONSENT_ANNOTATION, ROLLOUT_LABEL, label_value

__all__ = ["TrafficPart", "carried", "is_managed", "rollout_checks"]

_NETWORK_POLICY = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
_GATEWAY_CLASS = Resource(
    "gateway.networking.k8s.io", "v1", "gatewayclasses", "GatewayClass", namespaced=False
)
_DEPLOYMENT = Resource("apps", "v1", "deployments", "Deployment")

Object = dict[str, Any]


async def rollout_checks(client: KubeClient, parsed: ParsedRollout) -> AsyncIterator[Check]:
    """Its spec, its traffic object with the gateways behind it, and the pools of its versions."""
    where = f"Rollout {parsed.name}"
    if parsed.deleting:
        yield warn(f"{where}: {deletion(parsed)}", "see whether the controller runs")
    for problem in parsed.problems:
        yield bad(f"{where}: {problem.message}", "correct the spec")
    if parsed.spec is None:
        return
    if parsed.status.observed_generation < parsed.generation and not parsed.deleting:
        yield warn(f"{where}: no controller has looked at its newest spec", "see whether the controller runs")
    async for check in _traffic(client, parsed):
        yield check
    names = {
        revision.identity.name
        for revision in parsed.status.arms
        if revision.identity.kind == kinds.POOL_V1.kind
    }
    traffic = parsed.spec.traffic
    if isinstance(traffic, HttpRouteTraffic):
        names.add(parsed.spec.target.name)
    elif isinstance(traffic, PickerTraffic) and traffic.pool_name:
        names.add(traffic.pool_name)
    gateways, peers, route = frozenset[Gateway](), list[GatewayPeer](), Object()
    if isinstance(traffic, HttpRouteTraffic):
        route = await get_or_none(client, kinds.HTTP_ROUTE, parsed.namespace, traffic.name) or {}
        gateways = gateways_of(route.get("spec"), parsed.namespace)
        controllers = await _controllers(client, route, gateways)
        peers = [peer for peer in map(peer_of, controllers) if peer is not None]
        images = await _images(client) if controllers else None
        for controller in controllers:
            for check in gateway_checks(traffic.name, controller, images):
                yield check
        for check in route_checks(route):
            yield check
        async for check in _grants(client, parsed.namespace, traffic.name, route):
            yield check
    for name in sorted(names):
        listed = groups_listed(route, parsed.namespace, name)
        asked = parsed.spec.target.group if name == parsed.spec.target.name else ""
        async for check in _pool(client, parsed.namespace, name, gateways, peers, listed, asked, traffic):
            yield check


async def _grants(client: KubeClient, namespace: str, name: str, route: Object) -> AsyncIterator[Check]:
    refs = foreign_refs(map_of(route.get("spec")), namespace)
    there = {ref.namespace: await list_or_none(client, kinds.REFERENCE_GRANT, ref.namespace) for ref in refs}
    for check in grant_checks(name, refs, there):
        yield check


async def _controllers(client: KubeClient, route: Object, gateways: frozenset[Gateway]) -> list[str]:
    """controllerNames of the route's gateways: by their classes, else by who reports on the route."""
    found = set[str]()
    for gateway in gateways:
        obj = await get_or_none(client, kinds.GATEWAY, gateway.namespace, gateway.name)
        name = text_at(map_of((obj or {}).get("spec")), "gatewayClassName")
        made = await get_or_none(client, _GATEWAY_CLASS, "", name) if name else None
        found.add(text_at(map_of((made or {}).get("spec")), "controllerName"))
    if found <= {""}:
        parents = list_of(map_of(route.get("status")).get("parents"))
        found = {text_at(map_of(parent), "controllerName") for parent in parents}
    return sorted(found - {""})


async def _images(client: KubeClient) -> list[str] | None:
    deployments = await list_or_none(client, _DEPLOYMENT, None)
    if deployments is None:
        return None
    specs = (map_of(map_of(map_of(one.get("spec")).get("template")).get("spec")) for one in deployments)
    return [text_at(map_of(one), "image") for spec in specs for one in list_of(spec.get("containers"))]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficPart:
    """A traffic object of a Rollout, or a part of it that is the Rollout's to write."""

    resource: Resource
    obj: Object
    managed: bool


async def carried(client: KubeClient, parsed: ParsedRollout) -> list[TrafficPart]:
    """Those that exist."""
    assert parsed.spec is not None
    traffic = parsed.spec.traffic
    kind = kind_of(traffic.kind)
    assert kind is not None
    for resource in kind.resources:
        if kind.made_of:
            there = await list_or_none(client, resource, parsed.namespace) or []
            found = [one for one in there if kind.is_part(one, traffic.name) and _consents(one, parsed.name)]
        else:
            obj = await get_or_none(client, resource, parsed.namespace, traffic.name)
            found = [obj] if obj is not None else []
        if found:
            managed = is_managed(traffic)
            return [
                TrafficPart(resource=resource, obj=one, managed=managed or _is_ours(one, parsed.name))
                for one in found
            ]
    return []


def is_managed(traffic: Traffic) -> bool:
    """Whether the spec makes the traffic object."""
    return isinstance(traffic, HttpRouteTraffic) and traffic.mode is TrafficMode.MANAGED


def _consents(obj: Object, rollout: str) -> bool:
    return map_of(metadata_of(obj).get("annotations")).get(CONSENT_ANNOTATION) == rollout


def _is_ours(obj: Object, rollout: str) -> bool:
    labels = (obj.get("metadata") or {}).get("labels") or {}
    return bool(labels.get(ROLLOUT_LABEL) == label_value(rollout))


async def _traffic(client: KubeClient, parsed: ParsedRollout) -> AsyncIterator[Check]:
    assert parsed.spec is not None
    traffic = parsed.spec.traffic
    kind = kind_of(traffic.kind)
    assert kind is not None
    if kind.versions is not None:
        async for check in _members(client, parsed, kind, kind.versions):
            yield check
        return
    where, found = f"{kind.kind} {traffic.name}", await carried(client, parsed)
    if not found:
        if kind.absent and not is_managed(traffic):
            yield bad(f"{where} does not exist", kind.absent)
        return
    obj, managed = found[0].obj, found[0].managed
    consent = ((obj.get("metadata") or {}).get("annotations") or {}).get(CONSENT_ANNOTATION)
    if not _is_ours(obj, parsed.name) and consent != parsed.name:
        yield bad(
            f"{where} does not consent to be managed by {parsed.name}"
            + (f" (it names {consent})" if consent else ""),
            f"annotate it with {CONSENT_ANNOTATION}: {parsed.name}",
        )
    else:
        yield fine(f"{where} belongs to Rollout {parsed.name}")
    for check in object_checks(where, obj, managed=managed):
        yield check


async def _members(
    client: KubeClient, parsed: ParsedRollout, kind: TrafficKind, versions: ObjectTargetKind
) -> AsyncIterator[Check]:
    """The parts of a traffic object: those of the Rollout consent, and what keeps the target back."""
    assert parsed.spec is not None
    group, target = parsed.spec.traffic.name, parsed.spec.target.name
    found = [
        one
        for resource in kind.resources
        for one in await list_or_none(client, resource, parsed.namespace) or []
    ]
    parts = {text_at(one, "metadata", "name"): one for one in found}
    wanted = dict.fromkeys([target, *(arm.identity.name for arm in parsed.status.arms)])
    stable = parsed.status.stable
    for name in wanted:
        where, obj = f"{kind.kind} {name}", parts.get(name)
        if obj is None:
            yield bad(f"{where} does not exist", "create it; the rollout waits for it")
            continue
        beside = parts.get(stable.identity.name) if stable is not None else None
        lacking = list(versions.lacks(obj, beside, parsed.spec.traffic, parsed.name))
        for blocker in lacking:
            text, _, advice = blocker.message.partition(": ")
            yield bad(text, advice or "see its status")
        if not lacking:
            yield fine(f"{where} is in group {group}, and consents to Rollout {parsed.name}")
        for check in object_checks(where, obj, managed=False):
            yield check
        weights = [step.weight for step in parsed.spec.canary.steps if isinstance(step, WeightStep)]
        text, _, advice = kind.reset_risk(obj, weights).rpartition("; ")
        if text and (stable is None or name == stable.identity.name):
            yield warn(text, f"{advice} in Git, or have the sync ignore weights")
    others = [name for name, one in parts.items() if kind.is_part(one, group) and name not in wanted]
    if others:
        yield fine(f"other members of group {group}, whose weights stay: {', '.join(sorted(others))}")


async def _pool(
    client: KubeClient,
    namespace: str,
    name: str,
    gateways: frozenset[Gateway],
    peers: Sequence[GatewayPeer],
    listed: frozenset[str],
    asked: str,
    traffic: Traffic,
) -> AsyncIterator[Check]:
    """``listed``: the groups in which the route lists it; that pool is looked at, where it exists. ``asked``: the group
    that the Rollout names."""
    answers = {one.group: await get_or_none(client, one, namespace, name) for one in kinds.POOLS}
    found = {group: obj for group, obj in answers.items() if obj is not None}
    if not found:
        yield bad(f"InferencePool {name} does not exist", "create it; the rollout waits for it")
        return
    for check in moving_checks(name, [read_pool(one) for one in found.values()], listed, asked):
        yield check
    obj = next((one for group, one in found.items() if group in listed), next(iter(found.values())))
    pool = read_pool(obj)
    service = None
    if pool.picker is not None:
        service = await get_or_none(client, kinds.SERVICE, namespace, pool.picker.name)
    pods = await list_or_none(client, kinds.POD, namespace) if service is not None else None
    for check in (
        *picker_checks(pool, service, pods),
        *(split_checks(pool) if isinstance(traffic, VariantTraffic) else ()),
        *refusal_checks(pool, gateways, service),
        *unread_pool(pool, peers),
    ):
        yield check
    if service is not None and pods is not None:
        for check in exposure_checks(service, pods, await list_or_none(client, _NETWORK_POLICY, namespace)):
            yield check
    for check in pool_checks(f"InferencePool {name}", obj):
        yield check
