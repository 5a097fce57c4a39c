"""What is wrong around the workloads of a Rollout that scales: of files (``lint``) and of clusters (``doctor``)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rollouts.api.references import listed_companions, serving_pools
from rollouts.cli.drain_time import short_drain
from rollouts.cli.scaled_elsewhere import nothing_given
from rollouts.engine.rollout_spec import Capacity, WarmUp
from rollouts.objects.companions import (
    ROLE_LABEL,
    WITH_LABEL,
    Belongs,
    belongs,
    companions_of,
    roles_hint,
    within,
)
from rollouts.objects.fields import map_of, metadata_of, text_at, text_of
from rollouts.objects.gitops import GITOPS_MANAGERS
from rollouts.objects.managed_fields import managed_fields
from rollouts.objects.pools import ROLES_ANNOTATION, Pool, read_pool, read_roles
from rollouts.objects.warming import read_prompts
from rollouts.objects.workloads import (
    AUTOSCALER_KINDS,
    WORKLOAD_ANNOTATION,
    WORKLOADS,
    makes_pods_of,
    pod_labels,
    read_workload,
    scaled_by,
)

__all__ = [
    "GITOPS_FIX",
    "WorkloadFault",
    "kept_in_git",
    "prompt_faults",
    "workload_faults",
    "workloads_among",
]

Object = Mapping[str, Any]

_POOL = "InferencePool"
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
GITOPS_FIX = (
    "leave replicas out of Git from the start: taken out of one that runs, it falls to one pod unless `kubectl apply "
    "edit-last-applied` took it out first; or let Argo CD ignore it (ignoreDifferences with jsonPointers: "
    "[/spec/replicas], and the sync option RespectIgnoreDifferences=true in an Application without adopted routes and "
    "models, whose lists it freezes)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadFault:
    """``bad``: no pod is ever scaled. ``about`` is the object at which it shows, ``path`` the field in it."""

    bad: bool
    text: str
    fix: str
    about: Object
    path: tuple[str | int, ...] = ()


def workload_faults(
    rollout: Object, policy: Capacity | None, objects: Sequence[Object], *, everything: bool
) -> Iterator[WorkloadFault]:
    """Of the pools that the Rollout names, as far as they are among the objects. Nothing without a ``policy``, which
    may be that of a shared strategy.

    Objects have their kind; namespaces are the caller's to have looked at. ``everything``: a workload that is not among
    them is nowhere. Files often hold pools and their pickers alone: then it may be in the cluster.
    """
    if policy is None:
        return
    target = text_at(rollout, "spec", "target", "pool", "name")
    listed = [Belongs(pool=one.pool, of=one.of or target, role=one.role) for one in policy.companions]
    workloads, names = workloads_among(objects), serving_pools(rollout)
    said = [
        one for one in (belongs(pool) for pool in objects if pool.get("kind") == _POOL) if one is not None
    ]
    said += [one for pool in objects if pool.get("kind") == _POOL for one in within(pool)]
    yield from _of_companions(rollout, said, listed)
    if (kept := nothing_given(rollout, policy, objects)) is not None:
        waits = f"a rollout {'waits' if kept.certain else 'may wait'} as {kept.reason} until then"
        yield WorkloadFault(bad=kept.certain, text=kept.why, fix=f"{kept.fix}: {waits}", about=rollout)
    beside = any(one.of in names for one in (*said, *listed))
    if (short := short_drain(policy, companions=beside)) is not None:
        yield WorkloadFault(bad=False, text=short[0], fix=short[1], about=rollout)
    yield from _missing(rollout, listed, {_name(pool) for pool in objects if pool.get("kind") == _POOL})
    names |= {one.pool for one in (*said, *listed) if one.of in names}
    pools = [read_pool(dict(one)) for one in objects if one.get("kind") == _POOL]
    complete = everything or any(makes_pods_of(pod_labels(one), pool) for one in workloads for pool in pools)
    for pool in objects:
        if pool.get("kind") == _POOL and _name(pool) in names:
            scalers = [one for one in objects if one.get("kind") in AUTOSCALER_KINDS]
            read = read_pool(dict(pool))
            others = (read.role(role) for role in (read.roles.others if read.roles is not None else ()))
            yield from _of_roles(pool)
            for part in (read, *others):
                if part is not None:
                    yield from _of_pool(pool, part, workloads, scalers, complete=complete)


def _of_companions(
    rollout: Object, said: Sequence[Belongs], listed: Sequence[Belongs]
) -> Iterator[WorkloadFault]:
    """Pools that work for those of the Rollout's versions: which they are, and that each version has its own."""
    spec, status = map_of(rollout.get("spec")), map_of(rollout.get("status"))
    target, stable = text_at(spec, "target", "pool", "name"), text_at(status, "stable", "name")
    found = {name: companions_of(name, said, listed) for name in dict.fromkeys((target, stable)) if name}
    for wrong in (one for one in found.values() if isinstance(one, str)):
        yield WorkloadFault(bad=True, text=wrong, fix="nothing is scaled until then", about=rollout)
    mine, theirs = found.get(target, {}), found.get(stable, {})
    if not stable or isinstance(mine, str) or isinstance(theirs, str):
        return
    for role in sorted(mine.keys() ^ theirs.keys()):
        have, lack = (target, stable) if role in mine else (stable, target)
        pool = (mine if role in mine else theirs)[role]
        yield WorkloadFault(
            bad=True,
            text=f"{_POOL} {pool} belongs to {have}, and {lack} has no such companion",
            fix=f"label its pool {WITH_LABEL}: {lack}{f' and {ROLE_LABEL}: {role}' if role else ''}, or name it in "
            "capacity.with",
            about=rollout,
        )


def _missing(rollout: Object, listed: Sequence[Belongs], there: Collection[str]) -> Iterator[WorkloadFault]:
    """Pools that a shared strategy lists and that are not there; those of the Rollout itself are its references."""
    own = {one.pool for one in listed_companions(map_of(rollout.get("spec")))}
    for one in listed:
        if there and one.pool not in there and one.pool not in own:
            text = f"{_POOL} {one.pool}, which belongs to {one.of} by the shared capacity.with, is not there"
            fix = "create it, or take it out: nothing is scaled until then"
            yield WorkloadFault(bad=True, text=text, fix=fix, about=rollout)


def prompt_faults(
    warm_up: WarmUp | None, about: Object, objects: Sequence[Object]
) -> Iterator[WorkloadFault]:
    """Of the ConfigMap with prompts for the warm-up, where one of that name is among the objects."""
    for one in objects:
        if warm_up is None or one.get("kind") != "ConfigMap" or _name(one) != warm_up.config_map:
            continue
        try:
            read_prompts(one, warm_up.key)
        except ValueError as error:
            text = f"ConfigMap {warm_up.config_map} gives no prompts for warmUp: {error}"
            fix = "no pod of the canary gets warm until it does; without prompts they are made up"
            yield WorkloadFault(bad=True, text=text, fix=fix, about=about)


def workloads_among(objects: Sequence[Object]) -> list[Object]:
    """Each once: two files may have the same one, as overlays and examples beside each other. The first counts."""
    found: dict[str, Object] = {}
    for one in objects:
        if one.get("kind") in WORKLOADS:
            found.setdefault(_what(one), one)
    return list(found.values())


def _of_roles(pool: Object) -> Iterator[WorkloadFault]:
    """An annotation that nobody can read is as if there were none."""
    said = text_of(map_of(metadata_of(pool).get("annotations")).get(ROLES_ANNOTATION))
    roles = read_roles(pool)
    if said and roles is None:
        yield WorkloadFault(
            bad=True,
            text=f"{_POOL} {_name(pool)}: {ROLES_ANNOTATION}: {said:.120} names no roles",
            fix="write LABEL=VALUE,VALUE, as llm-d.ai/role=decode,prefill: first that of the pods that get requests",
            about=pool,
        )
    elif roles is not None and said.count(",") > len(roles.others):
        yield WorkloadFault(
            bad=True,
            text=f"{_POOL} {_name(pool)}: {ROLES_ANNOTATION} has a role of more than 63 characters",
            fix="write the value that the pods' label has, those of that role are not scaled until then",
            about=pool,
        )


def _of_pool(
    pool: Object, read: Pool, workloads: Sequence[Object], autoscalers: Sequence[Object], *, complete: bool
) -> Iterator[WorkloadFault]:
    makers = [one for one in workloads if makes_pods_of(pod_labels(one), read)]
    annotations = map_of(metadata_of(pool).get("annotations")) if read.name == _name(pool) else {}
    asked = text_of(annotations.get(WORKLOAD_ANNOTATION))
    chosen = [one for one in makers if not asked or _reference(one) == asked]
    if workloads and not makers:
        whose = "no workload" if complete else "no workload of these files"
        text = f"{_POOL} {read.name}: {whose} has a Pod template that matches its selector"
        fix = "correct the labels of the template"
        fix += "" if complete else ", where one of them is to make its pods; else that must be in the cluster"
        yield WorkloadFault(bad=complete, text=text, fix=fix, about=pool)
    elif asked and not chosen:
        text = f"{_POOL} {_name(pool)}: {WORKLOAD_ANNOTATION}: {asked:.120} names no workload whose pods are the pool's"
        yield WorkloadFault(
            bad=True, text=text, fix=f"write {_reference(makers[0])}" if makers else "", about=pool
        )
    elif len(chosen) > 1:
        both = " and ".join(_what(one) for one in chosen[:2])
        text = f"{_POOL} {read.name}: several workloads make its pods: {both}"
        fix = f"choose one with the annotation {WORKLOAD_ANNOTATION}: {_reference(chosen[0])} on the pool"
        fix += roles_hint([pod_labels(one) for one in chosen])
        yield WorkloadFault(bad=True, text=text, fix=fix, about=pool)
    for one in chosen:
        yield from _of_workload(one, autoscalers)


def _of_workload(workload: Object, autoscalers: Sequence[Object]) -> Iterator[WorkloadFault]:
    for scaler in autoscalers:
        if scaled_by(scaler) == (workload.get("kind"), _name(workload)):
            yield WorkloadFault(
                bad=False,
                text=f"{scaler['kind']} {_name(scaler)} scales {_what(workload)}, so that the controller does not: "
                "it waits for Ready pods, and scales neither up nor down",
                fix="raise its minReplicas for the rollout (an autoscaler does nothing at 0), or take it out",
                about=scaler,
            )


def kept_in_git(workload: Object) -> str:
    """Who writes ``spec.replicas`` of a workload of the cluster again and again; empty where nobody is known to."""
    meta = metadata_of(workload)
    for one in managed_fields(workload):
        writes = one.owns("spec", "replicas") and one.subresource != "scale"
        if writes and one.manager in GITOPS_MANAGERS:
            return one.manager
    # Applied on the client, by kubectl or by Argo CD: what was written stands in the annotation.
    return (
        "kubectl or Argo CD"
        if '"replicas":' in text_of(map_of(meta.get("annotations")).get(_APPLIED))
        else ""
    )


def _name(obj: Object) -> str:
    return text_of(metadata_of(obj).get("name"))


def _what(obj: Object) -> str:
    return f"{obj.get('kind')} {_name(obj)}"


def _reference(obj: Object) -> str:
    return read_workload(WORKLOADS[str(obj.get("kind"))], obj).reference
