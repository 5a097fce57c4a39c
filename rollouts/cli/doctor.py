"""``rollouts doctor``: what is missing in the cluster, around a Rollout, and in the GitOps set-up. It only reads."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import click

from rollouts.api.parsing import ParsedRollout, parse_rollout
from rollouts.carriers import TRAFFIC_KINDS, ObjectTargetKind, TrafficKind, kind_of
from rollouts.cli.connect import connection_options, default_namespace, fetch, with_client
from rollouts.cli.doctor_controller import configuration_checks
from rollouts.cli.doctor_gates import gate_checks
from rollouts.cli.doctor_gateways import gateway_checks, unread_pool
from rollouts.cli.doctor_gitops import (
    Adopted,
    application_checks,
    configmap_checks,
    live_wave_checks,
    object_checks,
    operation_checks,
    pool_checks,
)
from rollouts.cli.doctor_grants import grant_checks
from rollouts.cli.doctor_moving import groups_listed, moving_checks
from rollouts.cli.doctor_path import picker_checks, refusal_checks, route_checks, split_checks
from rollouts.cli.doctor_pickers import exposure_checks
from rollouts.cli.doctor_released import ending_crd_checks, released_checks
from rollouts.cli.doctor_sources import source_checks
from rollouts.cli.explain import deletion
from rollouts.cli.findings import Check, Level, bad, fine, warn
from rollouts.cli.rollout_argument import rollout_argument
from rollouts.controller.pickers import Gateway, gateways_of
from rollouts.controller.settings import SettingsError, source_option
from rollouts.engine.rollout_spec import (
    HttpRouteTraffic,
    PickerTraffic,
    Traffic,
    TrafficMode,
    VariantTraffic,
    WeightStep,
)
from rollouts.kube.client import KubeClient, Resource
from rollouts.kube.errors import Forbidden, KindNotServed, NotFound
from rollouts.kube.kubeconfig import ContextChoice
from rollouts.kube.paging import list_all
from rollouts.objects import kinds
from rollouts.objects.fields import list_of, map_of, metadata_of, text_at
from rollouts.objects.grants import foreign_refs
from rollouts.objects.pools import read_pool
from rollouts.peers import GatewayPeer, peer_of
from rollouts.terminal import say
from rollouts.traffic.writes import CONSENT_ANNOTATION, ROLLOUT_LABEL, label_value

__all__ = ["diagnose", "doctor"]

_OURS = (
    kinds.ROLLOUT,
    kinds.ANALYSIS_RUN,
    kinds.ANALYSIS_TEMPLATE,
    kinds.CLUSTER_ANALYSIS_TEMPLATE,
    kinds.ROLLOUT_STRATEGY,
    kinds.CLUSTER_ROLLOUT_STRATEGY,
    kinds.ROLLOUT_FREEZE,
    kinds.POOL_SPLIT,
)
_ARGO_ROLLOUT = Resource("argoproj.io", "v1alpha1", "rollouts", "Rollout")
_APPLICATION = Resource("argoproj.io", "v1alpha1", "applications", "Application")
_NETWORK_POLICY = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
_GATEWAY_CLASS = Resource(
    "gateway.networking.k8s.io", "v1", "gatewayclasses", "GatewayClass", namespaced=False
)
_CRD = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
_DEPLOYMENT = Resource("apps", "v1", "deployments", "Deployment")
_ACCESS = Resource(
    "authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", namespaced=False
)
_NEEDED = (
    ("watch", kinds.ROLLOUT, ""),
    ("patch", kinds.ROLLOUT, "status"),
    ("create", kinds.ANALYSIS_RUN, ""),
    ("patch", kinds.ANALYSIS_RUN, "status"),
    ("watch", kinds.ANALYSIS_TEMPLATE, ""),
    ("watch", kinds.ROLLOUT_STRATEGY, ""),
    *(
        (verb, resource, "")
        for kind in TRAFFIC_KINDS
        for resource in kind.resources
        for verb in kind.asked_for
    ),
    ("watch", kinds.POD, ""),
    ("create", kinds.EVENT, ""),
)
"""What every rollout of base models needs; the chart's role has all of it."""

Object = dict[str, Any]


async def _list(client: KubeClient, resource: Resource, namespace: str | None) -> list[Object] | None:
    """All objects; None where the kind is not served or may not be read."""
    try:
        return await list_all(client, resource, namespace)
    except (KindNotServed, Forbidden):
        return None


async def _served(client: KubeClient, resource: Resource, namespace: str) -> bool:
    try:
        await client.list_page(resource, namespace, limit=1)
    except KindNotServed:
        return False
    except Forbidden:
        return True
    return True


async def _get(client: KubeClient, resource: Resource, namespace: str, name: str) -> Object | None:
    try:
        return await client.get(resource, namespace, name)
    except (NotFound, KindNotServed, Forbidden):
        return None


async def diagnose(
    client: KubeClient, namespace: str, name: str | None, account: str | None, argocd: str
) -> list[Check]:
    """Every finding. ``account`` is ``namespace/name`` of the controller's service account, if it is checked."""
    checks = [check async for check in _kinds(client, namespace)]
    if account is not None:
        checks += [check async for check in _rights(client, namespace, account)]
    if not await _served(client, kinds.ROLLOUT, namespace):
        return checks
    if name is not None:
        objects = [await fetch(client, namespace, name)]
    else:
        objects = await _list(client, kinds.ROLLOUT, namespace) or []
    rollouts = [parse_rollout(obj) for obj in objects]
    asked = [namespace, *([account.partition("/")[0]] if account else [])]
    checks += [check async for check in configuration_checks(client, objects, asked)]
    for parsed, obj in zip(rollouts, objects, strict=True):
        checks += [check async for check in _rollout(client, parsed)]
        checks += [check async for check in gate_checks(client, obj, parsed.namespace)]
        checks += [check async for check in _waves(client, parsed, obj)]
    if name is None:
        checks += [check async for check in _released(client, namespace, [one.name for one in rollouts])]
    return checks + [check async for check in _argocd(client, rollouts, argocd)]


async def _kinds(client: KubeClient, namespace: str) -> AsyncIterator[Check]:
    missing = [kind.kind for kind in _OURS if not await _served(client, kind, namespace)]
    if missing:
        yield bad(
            f"CRDs are missing: {', '.join(missing)}", "rollouts crds | kubectl apply --server-side -f -"
        )
    else:
        yield fine("the CRDs of inferencerollouts.dev are installed")
    crds = [await _get(client, _CRD, "", f"{kind.plural}.{kind.group}") for kind in _OURS]
    for check in ending_crd_checks(crd for crd in crds if crd is not None):
        yield check
    for kind in TRAFFIC_KINDS:
        if kind.unserved[0] and not any([await _served(client, one, namespace) for one in kind.resources]):
            yield warn(*kind.unserved)
    if not any([await _served(client, pool, namespace) for pool in kinds.POOLS]):
        yield bad("the cluster serves no InferencePool", "install the Gateway API Inference Extension")
    if await _served(client, _ARGO_ROLLOUT, namespace):
        yield warn(
            "Argo Rollouts is installed too: `kubectl get rollouts` may show its Rollouts",
            "use our short names iro, iat, icat, iar, or rollouts.inferencerollouts.dev",
        )


async def _rights(client: KubeClient, namespace: str, account: str) -> AsyncIterator[Check]:
    user = f"system:serviceaccount:{account.replace('/', ':')}"
    lacking = []
    for verb, resource, subresource in _NEEDED:
        wanted = {
            "namespace": namespace,
            "verb": verb,
            "group": resource.group,
            "resource": resource.plural,
            "subresource": subresource,
        }
        review = {"apiVersion": _ACCESS.api_version, "kind": _ACCESS.kind}
        try:
            answer = await client.create(
                _ACCESS, None, {**review, "spec": {"user": user, "resourceAttributes": wanted}}
            )
        except (KindNotServed, Forbidden):
            yield warn("the controller's rights cannot be asked for", "ask as a cluster administrator")
            return
        if not (answer.get("status") or {}).get("allowed"):
            lacking.append(f"{verb} {resource.plural}{'/' if subresource else ''}{subresource}")
    if lacking:
        yield bad(f"{account} may not {', '.join(lacking)} in {namespace}", "install the roles of the chart")
    else:
        yield fine(f"{account} has the rights that rollouts need in {namespace}")


async def _rollout(client: KubeClient, parsed: ParsedRollout) -> AsyncIterator[Check]:
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
        route = await _get(client, kinds.HTTP_ROUTE, parsed.namespace, traffic.name) or {}
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
        async for check in _pool(client, parsed.namespace, name, gateways, peers, listed, traffic):
            yield check


async def _grants(client: KubeClient, namespace: str, name: str, route: Object) -> AsyncIterator[Check]:
    refs = foreign_refs(map_of(route.get("spec")), namespace)
    there = {ref.namespace: await _list(client, kinds.REFERENCE_GRANT, ref.namespace) for ref in refs}
    for check in grant_checks(name, refs, there):
        yield check


async def _controllers(client: KubeClient, route: Object, gateways: frozenset[Gateway]) -> list[str]:
    """controllerNames of the route's gateways: by their classes, else by who reports on the route."""
    found = set[str]()
    for gateway in gateways:
        obj = await _get(client, kinds.GATEWAY, gateway.namespace, gateway.name)
        name = text_at(map_of((obj or {}).get("spec")), "gatewayClassName")
        made = await _get(client, _GATEWAY_CLASS, "", name) if name else None
        found.add(text_at(map_of((made or {}).get("spec")), "controllerName"))
    if found <= {""}:
        parents = list_of(map_of(route.get("status")).get("parents"))
        found = {text_at(map_of(parent), "controllerName") for parent in parents}
    return sorted(found - {""})


async def _images(client: KubeClient) -> list[str] | None:
    deployments = await _list(client, _DEPLOYMENT, None)
    if deployments is None:
        return None
    specs = (map_of(map_of(map_of(one.get("spec")).get("template")).get("spec")) for one in deployments)
    return [text_at(map_of(one), "image") for spec in specs for one in list_of(spec.get("containers"))]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Carried:
    """A traffic object of a Rollout, or a part of it that is the Rollout's to write."""

    resource: Resource
    obj: Object
    managed: bool


async def _carried(client: KubeClient, parsed: ParsedRollout) -> list[_Carried]:
    """Those that exist."""
    assert parsed.spec is not None
    traffic = parsed.spec.traffic
    kind = kind_of(traffic.kind)
    assert kind is not None
    for resource in kind.resources:
        if kind.made_of:
            there = await _list(client, resource, parsed.namespace) or []
            found = [one for one in there if kind.is_part(one, traffic.name) and _consents(one, parsed.name)]
        else:
            obj = await _get(client, resource, parsed.namespace, traffic.name)
            found = [obj] if obj is not None else []
        if found:
            managed = _managed(traffic)
            return [
                _Carried(resource=resource, obj=one, managed=managed or _is_ours(one, parsed.name))
                for one in found
            ]
    return []


def _managed(traffic: Traffic) -> bool:
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
    where, found = f"{kind.kind} {traffic.name}", await _carried(client, parsed)
    if not found:
        if kind.absent and not _managed(traffic):
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
        one for resource in kind.resources for one in await _list(client, resource, parsed.namespace) or []
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


async def _waves(client: KubeClient, parsed: ParsedRollout, obj: Object) -> AsyncIterator[Check]:
    """Sync waves of the Rollout and of what it needs."""
    if parsed.spec is None:
        return
    needed = list[tuple[str, Object]]()
    for found in await _carried(client, parsed):
        if not found.managed:
            needed.append((f"{found.resource.kind} {text_at(found.obj, 'metadata', 'name')}", found.obj))
    names = {parsed.spec.target.name, getattr(parsed.spec.traffic, "pool_name", "")} - {""}
    for resource in kinds.POOLS:
        for name in sorted(names):
            pool = await _get(client, resource, parsed.namespace, name)
            needed += [(f"InferencePool {name}", pool)] if pool is not None else []
    for check in live_wave_checks(obj, needed):
        yield check


async def _released(client: KubeClient, namespace: str, rollouts: list[str]) -> AsyncIterator[Check]:
    """Traffic objects whose Rollout is gone."""
    pools = [
        obj["metadata"]["name"]
        for resource in kinds.POOLS
        for obj in await _list(client, resource, namespace) or []
    ]
    for resource in (one for kind in TRAFFIC_KINDS for one in kind.resources):
        for obj in await _list(client, resource, namespace) or []:
            for check in released_checks(resource.kind, obj, rollouts, pools):
                yield check


async def _pool(
    client: KubeClient,
    namespace: str,
    name: str,
    gateways: frozenset[Gateway],
    peers: Sequence[GatewayPeer],
    listed: frozenset[str],
    traffic: Traffic,
) -> AsyncIterator[Check]:
    """``listed``: the groups in which the route lists it; that pool is looked at, where it exists."""
    answers = {one.group: await _get(client, one, namespace, name) for one in kinds.POOLS}
    found = {group: obj for group, obj in answers.items() if obj is not None}
    if not found:
        yield bad(f"InferencePool {name} does not exist", "create it; the rollout waits for it")
        return
    for check in moving_checks(name, [read_pool(one) for one in found.values()], listed):
        yield check
    obj = next((one for group, one in found.items() if group in listed), next(iter(found.values())))
    pool = read_pool(obj)
    service = None
    if pool.picker is not None:
        service = await _get(client, kinds.SERVICE, namespace, pool.picker.name)
    pods = await _list(client, kinds.POD, namespace) if service is not None else None
    for check in (
        *picker_checks(pool, service, pods),
        *(split_checks(pool) if isinstance(traffic, VariantTraffic) else ()),
        *refusal_checks(pool, gateways, service),
        *unread_pool(pool, peers),
    ):
        yield check
    if service is not None and pods is not None:
        for check in exposure_checks(service, pods, await _list(client, _NETWORK_POLICY, namespace)):
            yield check
    for check in pool_checks(f"InferencePool {name}", obj):
        yield check


async def _argocd(client: KubeClient, rollouts: list[ParsedRollout], namespace: str) -> AsyncIterator[Check]:
    applications = await _list(client, _APPLICATION, None)
    if applications is None:
        return
    adopted = set[Adopted]()
    for parsed in rollouts:
        for found in await _carried(client, parsed) if parsed.spec is not None else ():
            if not found.managed:
                group, kind, name = (
                    found.resource.group,
                    found.resource.kind,
                    text_at(found.obj, "metadata", "name"),
                )
                adopted.add(Adopted(group=group, kind=kind, namespace=parsed.namespace, name=name))
    configmap = await _get(client, kinds.CONFIG_MAP, namespace, "argocd-cm")
    names = frozenset((parsed.namespace, parsed.name) for parsed in rollouts)
    for application in applications:
        for check in application_checks(application, frozenset(adopted), configmap):
            yield check
        for check in operation_checks(application, names):
            yield check
    if configmap is not None:
        for check in configmap_checks(configmap):
            yield check


@click.command(
    epilog="Exit status: 0 nothing is missing, 1 problems, 2 no such Rollout, 3 no answer of the API server."
)
@rollout_argument(required=False)
@connection_options
@click.option("--account", metavar="NS/NAME", help="The controller's service account, to check its rights.")
@click.option("--argocd-namespace", default="argocd", show_default=True, help="Where argocd-cm is.")
@click.option(
    "--source", "sources", multiple=True, metavar="NAME=URL", help="A metric source, to say how late it is."
)
def doctor(
    name: str | None,
    namespace: str | None,
    kubeconfig: str | None,
    context: ContextChoice,
    account: str | None,
    argocd_namespace: str,
    sources: tuple[str, ...],
) -> None:
    """Say what is missing in the cluster and the GitOps set-up, for NAME or all Rollouts of the namespace."""
    if account is not None and account.count("/") != 1:
        raise click.UsageError("--account: write NAMESPACE/NAME")
    try:
        servers = dict(map(source_option, sources))
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
    where = namespace or default_namespace(kubeconfig, context)
    checks = with_client(
        kubeconfig, context, lambda client: diagnose(client, where, name, account, argocd_namespace)
    )
    checks = [*checks, *source_checks({name: one.url for name, one in servers.items()}, where)]
    for check in checks:
        say(f"{check.level.value + ':':<9} {check.text}")
        if check.fix:
            say(f"{'':<9}   -> {check.fix}")
    if any(check.level is Level.BAD for check in checks):
        sys.exit(1)
