"""``lint --live``: files against a cluster: what they name, what the API server would say, and its CRDs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rollouts.api.crds import all_crds
from rollouts.api.references import template_names, traffic_names, version_names
from rollouts.api.strategies import strategy_ref
from rollouts.carriers import TRAFFIC_KINDS, object_targets
from rollouts.cli.controllers import fetch_reports
from rollouts.cli.lint_findings import Finding, at_document, hint, path_in, problem
from rollouts.cli.lint_kinds import API_VERSION, is_ours, name_of
from rollouts.cli.yaml_source import Path
from rollouts.controller.reporting import ControllerReport
from rollouts.kube.client import KubeClient, PatchKind, Resource
from rollouts.kube.errors import Forbidden, Invalid, KindNotServed, NotFound, RefusedError
from rollouts.objects import kinds
from rollouts.objects.fields import map_of, metadata_of, text_of
from rollouts.objects.pools import read_pool

__all__ = ["Live", "ask_cluster", "named_by"]

_CRD = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
_TRIED = {
    resource.kind: resource
    for resource in (
        kinds.ROLLOUT,
        kinds.ANALYSIS_TEMPLATE,
        kinds.CLUSTER_ANALYSIS_TEMPLATE,
        kinds.ROLLOUT_STRATEGY,
        kinds.CLUSTER_ROLLOUT_STRATEGY,
        kinds.ROLLOUT_FREEZE,
    )
}
_MOST = 200
"""Objects of the files that are looked up and tried: a repository with more is linted by parts."""

Object = Mapping[str, Any]
Placed = tuple[int, Path, Object]


@dataclass(slots=True, kw_only=True)
class Live:
    """What the cluster holds of what the files name, and what it said."""

    objects: list[Object] = field(default_factory=list)
    unread: set[tuple[str, str]] = field(default_factory=set)
    """(kind, name) that the user may not read: nothing is said of those."""
    findings: list[Finding] = field(default_factory=list)
    reports: list[ControllerReport] = field(default_factory=list)
    """What the cluster's controllers say of their configuration."""


async def ask_cluster(client: KubeClient, placed: Sequence[Placed], namespace: str) -> Live:
    """Look up what Rollouts of the files name, and try each object of ours on the server. Nothing is stored.

    ``namespace`` is that of objects that say none. Raises KubeError where the server cannot be asked at all.
    """
    live = Live(reports=await fetch_reports(client, [namespace]))
    live.findings += [found async for found in _crds(client)]
    ours = [one for one in placed if is_ours(one[2]) and one[2].get("kind") in _TRIED]
    if len(ours) > _MOST:
        live.findings.append(
            hint("", f"{len(ours)} objects: the first {_MOST} were looked at in the cluster", rule="live")
        )
    asked: set[tuple[str, str, str]] = set()
    for number, path, obj in ours[:_MOST]:
        space = text_of(metadata_of(obj).get("namespace")) or namespace
        async for finding in _tried(client, obj, space):
            live.findings.append(at_document(finding, number, path))
        if obj.get("kind") == "Rollout":
            await _named(client, obj, space, asked, live)
    return live


async def named_by(client: KubeClient, rollout: Object, namespace: str) -> Live:
    """What a Rollout of the cluster names there."""
    live = Live()
    await _named(client, rollout, namespace, set(), live)
    return live


async def _crds(client: KubeClient) -> Any:
    """Whether the cluster's CRDs are those of this version."""
    for wanted in all_crds():
        name = wanted["metadata"]["name"]
        try:
            found = await client.get(_CRD, None, name)
        except NotFound:
            yield problem(
                "",
                f"the cluster has no CRD {name}: `rollouts crds | kubectl apply --server-side -f -`",
                rule="live",
            )
            continue
        except (Forbidden, KindNotServed):
            yield hint(
                "",
                "the cluster's CRDs may not be read: whether they are of this version is not known",
                rule="live",
            )
            return
        if missing := sorted(_fields(wanted) - _fields(found)):
            text = f"the cluster's CRD {name} is older than this command, it lacks {', '.join(missing[:3])}"
            yield hint("", f"{text}: `rollouts crds | kubectl apply --server-side -f -`", rule="live")


def _fields(crd: Object) -> set[str]:
    """Paths of all fields of the version that we write."""
    for version in map_of(crd.get("spec")).get("versions") or []:
        if map_of(version).get("name") == kinds.VERSION:
            return set(_paths(map_of(map_of(map_of(version).get("schema")).get("openAPIV3Schema")), ""))
    return set()


def _paths(schema: Object, path: str) -> Iterator[str]:
    for name, child in map_of(schema.get("properties")).items():
        yield f"{path}{name}"
        yield from _paths(map_of(child), f"{path}{name}.")
    items = map_of(schema.get("items"))
    if items:
        yield from _paths(items, path)


async def _tried(client: KubeClient, obj: Object, namespace: str) -> Any:
    """What the API server says to the object: server-side apply, as a dry run."""
    where, resource = name_of(obj), _TRIED[str(obj.get("kind"))]
    name = text_of(metadata_of(obj).get("name"))
    if not name or obj.get("apiVersion") != API_VERSION:
        return  # told without a server
    space = namespace if resource.namespaced else None
    try:
        await client.patch(resource, space, name, dict(obj), kind=PatchKind.APPLY, force=True, dry_run=True)
    except Forbidden as error:
        yield hint(where, f"the API server does not let you try it: {error}", rule="live")
    except NotFound as error:
        yield problem(
            where, f"the API server would refuse it: {error}", rule="live", path=("metadata", "namespace")
        )
    except KindNotServed:
        return  # its CRD is missing: told once
    except (Invalid, RefusedError) as error:
        text = str(error).partition(" is invalid: ")[2] or str(error)
        yield problem(where, f"the API server would refuse it: {text}", rule="live", path=path_in(text))


async def _named(
    client: KubeClient, rollout: Object, namespace: str, asked: set[tuple[str, str, str]], live: Live
) -> None:
    """Look up the pools, traffic objects and templates that a Rollout names, and the Services of its pools' pickers."""
    spec = {"spec": map_of(rollout.get("spec"))}
    with_pods = {kind.kind: kind.resources for kind in object_targets()}
    wanted: list[tuple[Sequence[Resource], str]] = [
        (with_pods[kind], name) for kind, name in version_names(spec)
    ]
    # What several objects are together has no name of its own.
    by_kind = {kind.kind: kind.resources for kind in TRAFFIC_KINDS if not kind.made_of}
    wanted += [(by_kind[kind], name) for kind, name in traffic_names(spec) if kind in by_kind]
    templates = {False: kinds.ANALYSIS_TEMPLATE, True: kinds.CLUSTER_ANALYSIS_TEMPLATE}
    wanted += [((templates[cluster],), name) for cluster, name in template_names(rollout)]
    named = strategy_ref(rollout.get("spec"))
    if named is not None:
        resource = kinds.CLUSTER_ROLLOUT_STRATEGY if named.cluster else kinds.ROLLOUT_STRATEGY
        for found in await _get(client, (resource,), namespace, named.name, live):
            live.objects.append(found)
            wanted += [((templates[cluster],), name) for cluster, name in template_names(found)]
    for resources, name in wanted:
        key = (resources[0].kind, namespace, name)
        if key in asked:
            continue
        asked.add(key)
        for found in await _get(client, resources, namespace, name, live):
            live.objects.append(found)
            if resources is kinds.POOLS:
                await _picker(client, found, namespace, name_of(rollout), live)


async def _get(
    client: KubeClient, resources: Iterable[Resource], namespace: str, name: str, live: Live
) -> list[Object]:
    found: list[Object] = []
    for resource in resources:
        try:
            found.append(await client.get(resource, namespace if resource.namespaced else None, name))
        except Forbidden:
            live.unread.add((resource.kind, name))
        except (NotFound, KindNotServed):
            pass
    return found


async def _picker(client: KubeClient, pool: Object, namespace: str, where: str, live: Live) -> None:
    """A pool whose picker has no Service serves nobody."""
    picker = read_pool(dict(pool)).picker
    if picker is None or await _get(client, (kinds.SERVICE,), namespace, picker.name, live):
        return
    if (kinds.SERVICE.kind, picker.name) not in live.unread:
        text = f"{name_of(pool)} names the endpoint picker {picker.name}, and the cluster has no such Service"
        live.findings.append(hint(where, f"{text}: `rollouts picker-manifest` prints one", rule="live"))
