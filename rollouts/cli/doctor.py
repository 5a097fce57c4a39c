"""``rollouts doctor``: what is missing in the cluster, around a Rollout, and in the GitOps set-up. It only reads."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any

import click

from rollouts.api.parsing import ParsedRollout, parse_rollout
from rollouts.carriers import TRAFFIC_KINDS
from rollouts.cli.connect import connection_options, default_namespace, fetch, with_client
from rollouts.cli.doctor_cluster import kind_checks, right_checks
from rollouts.cli.doctor_controller import configuration_checks
from rollouts.cli.doctor_gates import gate_checks
from rollouts.cli.doctor_gitops import (
    Adopted,
    application_checks,
    configmap_checks,
    live_wave_checks,
    operation_checks,
)
from rollouts.cli.doctor_released import released_checks
from rollouts.cli.doctor_rollout import carried, rollout_checks
from rollouts.cli.doctor_sources import source_checks
from rollouts.cli.findings import Check, Level
from rollouts.cli.readable import get_or_none, is_served, list_or_none
from rollouts.cli.rollout_argument import rollout_argument
from rollouts.controller.settings import SettingsError, source_option
from rollouts.kube.client import KubeClient, Resource
from rollouts.kube.kubeconfig import ContextChoice
from rollouts.objects import kinds
from rollouts.objects.fields import text_at
from rollouts.terminal import say

__all__ = ["diagnose", "doctor"]

_APPLICATION = Resource("argoproj.io", "v1alpha1", "applications", "Application")

Object = dict[str, Any]


async def diagnose(
    client: KubeClient, namespace: str, name: str | None, account: str | None, argocd: str
) -> list[Check]:
    """Every finding. ``account`` is ``namespace/name`` of the controller's service account, if it is checked."""
    checks = [check async for check in kind_checks(client, namespace)]
    if account is not None:
        checks += [check async for check in right_checks(client, namespace, account)]
    if not await is_served(client, kinds.ROLLOUT, namespace):
        return checks
    if name is not None:
        objects = [await fetch(client, namespace, name)]
    else:
        objects = await list_or_none(client, kinds.ROLLOUT, namespace) or []
    rollouts = [parse_rollout(obj) for obj in objects]
    asked = [namespace, *([account.partition("/")[0]] if account else [])]
    checks += [check async for check in configuration_checks(client, objects, asked)]
    for parsed, obj in zip(rollouts, objects, strict=True):
        checks += [check async for check in rollout_checks(client, parsed)]
        checks += [check async for check in gate_checks(client, obj, parsed.namespace)]
        checks += [check async for check in _waves(client, parsed, obj)]
    if name is None:
        checks += [check async for check in _released(client, namespace, [one.name for one in rollouts])]
    return checks + [check async for check in _argocd(client, rollouts, argocd)]


async def _waves(client: KubeClient, parsed: ParsedRollout, obj: Object) -> AsyncIterator[Check]:
    """Sync waves of the Rollout and of what it needs."""
    if parsed.spec is None:
        return
    needed = list[tuple[str, Object]]()
    for found in await carried(client, parsed):
        if not found.managed:
            needed.append((f"{found.resource.kind} {text_at(found.obj, 'metadata', 'name')}", found.obj))
    names = {parsed.spec.target.name, getattr(parsed.spec.traffic, "pool_name", "")} - {""}
    for resource in kinds.POOLS:
        for name in sorted(names):
            pool = await get_or_none(client, resource, parsed.namespace, name)
            needed += [(f"InferencePool {name}", pool)] if pool is not None else []
    for check in live_wave_checks(obj, needed):
        yield check


async def _released(client: KubeClient, namespace: str, rollouts: list[str]) -> AsyncIterator[Check]:
    """Traffic objects whose Rollout is gone."""
    pools = [
        obj["metadata"]["name"]
        for resource in kinds.POOLS
        for obj in await list_or_none(client, resource, namespace) or []
    ]
    for resource in (one for kind in TRAFFIC_KINDS for one in kind.resources):
        for obj in await list_or_none(client, resource, namespace) or []:
            for check in released_checks(resource.kind, obj, rollouts, pools):
                yield check


async def _argocd(client: KubeClient, rollouts: list[ParsedRollout], namespace: str) -> AsyncIterator[Check]:
    applications = await list_or_none(client, _APPLICATION, None)
    if applications is None:
        return
    adopted = set[Adopted]()
    for parsed in rollouts:
        for found in await carried(client, parsed) if parsed.spec is not None else ():
            if not found.managed:
                group, kind, name = (
                    found.resource.group,
                    found.resource.kind,
                    text_at(found.obj, "metadata", "name"),
                )
                adopted.add(Adopted(group=group, kind=kind, namespace=parsed.namespace, name=name))
    configmap = await get_or_none(client, kinds.CONFIG_MAP, namespace, "argocd-cm")
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
