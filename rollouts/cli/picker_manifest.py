"""``rollouts picker-manifest``: YAML that runs our endpoint picker for a pool, without Helm."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import yaml

from rollouts.cli.connect import connection_options, default_namespace, with_client
from rollouts.cli.picker_objects import ModelServerAccess, PickerInstallation, picker_objects
from rollouts.kube.client import KubeClient
from rollouts.kube.errors import Forbidden, KindNotServed, NotFound
from rollouts.kube.kubeconfig import ContextChoice
from rollouts.objects import kinds
from rollouts.objects.fields import dict_at, map_of, metadata_of
from rollouts.objects.pools import Pool, read_pool
from rollouts.objects.workloads import WORKLOADS
from rollouts.peers import PickerNeeds, gateway_peers
from rollouts.picker.core.routing import Unready
from rollouts.picker.filesource import ObjectsUnreadable, load_objects
from rollouts.runtime.modelservers import ModelServers
from rollouts.terminal import document, say

__all__ = ["picker_manifest"]

_MAX_LABEL = 63


class _Unusable(click.ClickException):
    """The pool is missing or cannot have a picker of ours."""

    exit_code = 2


@click.command("picker-manifest")
@click.argument("pool")
@connection_options
@click.option(
    "--objects",
    type=click.Path(path_type=Path, exists=True),
    help="YAML file or folder with the InferencePool, in place of a cluster.",
)
@click.option("--image", help="Image of the picker; else inference-rollouts and this version.")
@click.option("--replicas", type=click.IntRange(1, 50), default=2, show_default=True)
@click.option(
    "--unready",
    type=click.Choice([policy.value for policy in Unready]),
    default=Unready.SPILL.value,
    show_default=True,
    help="What happens to the share of a target that no pod can serve.",
)
@click.option(
    "--gateway",
    type=click.Choice([peer.key for peer in gateway_peers()]),
    help="Bring what this gateway needs, and say on stderr what is known of our picker there (docs/peers).",
)
@click.option("--keep-streams/--no-keep-streams", default=None, help="As in `rollouts picker`.")
@click.option(
    "--secure-serving/--no-secure-serving",
    default=True,
    show_default=True,
    help="TLS to the gateway, self-signed.",
)
@click.option(
    "--model-server-scheme", type=click.Choice(["http", "https"]), default="http", show_default=True
)
@click.option("--model-server-name", default="", metavar="NAME", help="The name in the pods' certificates.")
@click.option("--model-server-insecure-skip-verify", is_flag=True, help="Take any certificate from the pods.")
@click.option(
    "--model-server-secret",
    default="",
    metavar="SECRET[,ca=ENTRY][,api-key=ENTRY]",
    help="Secret to mount, with the entries that hold the authorities and the key of the pods.",
)
def picker_manifest(
    pool: str,
    namespace: str | None,
    kubeconfig: str | None,
    context: ContextChoice,
    objects: Path | None,
    image: str | None,
    replicas: int,
    unready: str,
    gateway: str | None,
    keep_streams: bool | None,
    secure_serving: bool,
    model_server_scheme: str,
    model_server_name: str,
    model_server_insecure_skip_verify: bool,
    model_server_secret: str,
) -> None:
    """Print what runs an endpoint picker for POOL, under the Service name that the pool gives.

    \b
        rollouts picker-manifest mymodel-pool-v1 | kubectl apply -f -

    Service, Deployment, ServiceAccount, Role and RoleBinding, a PodDisruptionBudget for several replicas, and with
    --gateway istio a DestinationRule: the same as the chart's value `pickers`.
    Exit status 2 when there is no such pool, it names no picker, or another picker has that name.
    """
    servers = _access(
        model_server_scheme, model_server_name, model_server_insecure_skip_verify, model_server_secret
    )
    offline = objects is not None
    where = namespace or ("default" if offline else default_namespace(kubeconfig, context))
    found = (
        _from_files(objects, namespace, pool)
        if objects is not None
        else read_pool(with_client(kubeconfig, context, lambda client: _from_cluster(client, where, pool)))
    )
    needs = _needs(gateway)
    what = replace(
        _installation(found, where, image=image, replicas=replicas, unready=unready),
        keep_streams=needs.keep_streams if keep_streams is None else keep_streams,
        secure_serving=secure_serving,
        destination_rule=needs.destination_rule,
        servers=servers,
    )
    there = (
        _objects(objects)
        if objects is not None
        else with_client(kubeconfig, context, lambda client: _named(client, what.namespace, what.service))
    )
    _spare_others(there, what)
    document(yaml.safe_dump_all(picker_objects(what), sort_keys=False), nl=False)


def _needs(gateway: str | None) -> PickerNeeds:
    """Of the gateway, after saying what is known of our picker there."""
    if gateway is None:
        return PickerNeeds()
    peer = next(peer for peer in gateway_peers() if peer.key == gateway)
    say(f"{peer.name}, our picker: {peer.picker}", err=True)
    return peer.needs


def _access(scheme: str, name: str, skip: bool, secret: str) -> ModelServerAccess:
    """The options, held against each other as the picker itself will do. Raises UsageError."""
    named, *parts = secret.split(",")
    entries = dict(part.partition("=")[::2] for part in parts)
    if set(entries) - {"ca", "api-key"} or not all(entries.values()) or (secret and not (named and parts)):
        raise click.UsageError(
            "--model-server-secret: write SECRET,ca=ENTRY,api-key=ENTRY, or one of the two"
        )
    ca, key = entries.get("ca", ""), entries.get("api-key", "")
    try:
        ModelServers(scheme=scheme, server_name=name, verify=not skip, ca=Path(ca) if ca else None).check()
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return ModelServerAccess(
        scheme=scheme, server_name=name, verify=not skip, secret=named, ca_key=ca, api_key_key=key
    )


async def _from_cluster(client: KubeClient, namespace: str, name: str) -> dict[str, Any]:
    for resource in kinds.POOLS:
        try:
            return await client.get(resource, namespace, name)
        except (NotFound, KindNotServed):
            continue
    raise _Unusable(f"there is no InferencePool {name} in namespace {namespace}")


def _objects(path: Path) -> list[Mapping[str, Any]]:
    try:
        return load_objects(path)
    except ObjectsUnreadable as error:
        raise _Unusable(str(error)) from error


async def _named(client: KubeClient, namespace: str, name: str) -> list[Mapping[str, Any]]:
    """The Deployment and Service of that name, as far as they are there and may be read."""
    found = list[Mapping[str, Any]]()
    for resource in (WORKLOADS["Deployment"], kinds.SERVICE):
        with contextlib.suppress(NotFound, KindNotServed, Forbidden):
            found.append({**await client.get(resource, namespace, name), "kind": resource.kind})
    return found


def _spare_others(objects: Iterable[Mapping[str, Any]], what: PickerInstallation) -> None:
    """Raises _Unusable where another picker has the name, as those of Inference Extension's charts have: its Service
    would lose its pods, and its Deployment, whose selector cannot change, refuse ours."""
    for one in objects:
        meta, spec = metadata_of(one), map_of(one.get("spec"))
        if meta.get("name") != what.service or meta.get("namespace", what.namespace) != what.namespace:
            continue
        selector = (
            spec.get("selector") if one.get("kind") == "Service" else dict_at(spec, "selector", "matchLabels")
        )
        if one.get("kind") in ("Deployment", "Service") and selector != what.selector:
            raise _Unusable(
                f"{one['kind']} {what.service} is there, and not of our picker: applied over it, ours would leave the "
                "pool without any. Write another name of a Service into the pool's file, print from that with "
                "--objects FILE, apply it, and the pool once its pods are Ready"
            )


def _from_files(path: Path, namespace: str | None, name: str) -> Pool:
    pools = [read_pool(item) for item in _objects(path) if item.get("kind") == "InferencePool"]
    groups = [resource.group for resource in kinds.POOLS]
    found = [pool for pool in pools if pool.name == name and pool.group in groups]
    found = [pool for pool in found if not namespace or pool.namespace in ("", namespace)]
    if not found:
        raise _Unusable(f"there is no InferencePool {name} in {path}")
    return min(found, key=lambda pool: groups.index(pool.group))


def _installation(
    pool: Pool, namespace: str, *, image: str | None, replicas: int, unready: str
) -> PickerInstallation:
    if pool.picker is None:
        raise _Unusable(
            f"InferencePool {pool.name} names no endpoint picker Service: set spec.endpointPickerRef.name (v1) or "
            "spec.extensionRef.name (v1alpha2) to the name that the Service is to have"
        )
    if len(pool.name) > _MAX_LABEL:
        raise _Unusable(
            f"the name of InferencePool {pool.name} is no label value: at most {_MAX_LABEL} characters"
        )
    return PickerInstallation(
        namespace=pool.namespace or namespace,
        pool=pool.name,
        service=pool.picker.name,
        port=pool.picker.port,
        image=image or f"inference-rollouts:{version('inference-rollouts')}",
        replicas=replicas,
        unready=unready,
    )
