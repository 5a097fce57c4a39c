"""Workloads of the cluster that a Rollout scales: found, one, nobody else's, and not reset by Git."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from rollouts.api.parsing import ParsedRollout
from rollouts.cli.findings import Check, bad, warn
from rollouts.cli.readable import listed
from rollouts.cli.workload_faults import GITOPS_FIX, kept_in_git, prompt_faults, workload_faults
from rollouts.engine.rollout_spec import WarmUp
from rollouts.kube.client import KubeClient
from rollouts.kube.errors import KubeError, NotFound
from rollouts.objects import kinds
from rollouts.objects.fields import metadata_of, text_of
from rollouts.objects.pools import read_pool
from rollouts.objects.workloads import AUTOSCALERS, WORKLOADS, makes_pods_of, pod_labels

__all__ = ["workload_checks"]

Object = Mapping[str, Any]


async def workload_checks(client: KubeClient, rollout: Object, parsed: ParsedRollout) -> AsyncIterator[Check]:
    """Nothing of a Rollout that scales nobody."""
    if parsed.spec is None or parsed.spec.canary.capacity is None:
        return
    where = f"Rollout {parsed.name}"
    objects = list[Object]()
    for resource in (*kinds.POOLS, *WORKLOADS.values(), *AUTOSCALERS):
        objects += await listed(client, resource, parsed.namespace)
    for fault in workload_faults(rollout, parsed.spec.canary.capacity, objects, everything=True):
        yield (bad if fault.bad else warn)(f"{where}: {fault.text}", fault.fix)
    async for check in _prompts(client, where, parsed.namespace, parsed.spec.canary.capacity.warm_up):
        yield check
    pools = [read_pool(dict(one)) for one in objects if one.get("kind") == "InferencePool"]
    for obj in objects:
        by = kept_in_git(obj) if obj.get("kind") in WORKLOADS else ""
        if by and any(makes_pods_of(pod_labels(obj), pool) for pool in pools):
            what = f"{obj['kind']} {text_of(metadata_of(obj).get('name'))}"
            yield warn(f"{where}: {by} writes replicas of {what}, which the controller scales", GITOPS_FIX)


async def _prompts(
    client: KubeClient, where: str, namespace: str, warm_up: WarmUp | None
) -> AsyncIterator[Check]:
    """Of the ConfigMap that the warm-up names, as far as it may be read."""
    if warm_up is None or not warm_up.config_map:
        return
    try:
        found = await client.get(kinds.CONFIG_MAP, namespace, warm_up.config_map)
    except NotFound:
        found = {}
    except KubeError:
        return
    asked: Object = {
        **found,
        "kind": "ConfigMap",
        "metadata": {"name": warm_up.config_map, **metadata_of(found)},
    }
    if not found:
        yield bad(
            f"{where}: ConfigMap {warm_up.config_map} of warmUp does not exist",
            "create it, or leave prompts out",
        )
        return
    for fault in prompt_faults(warm_up, asked, [asked]):
        yield bad(f"{where}: {fault.text}", fault.fix)
