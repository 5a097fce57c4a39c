"""``rollouts picker-manifest``: YAML that runs our endpoint picker for a pool, without Helm."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import yaml

from rollouts.cli.connect import connection_options, default_namespace, with_client
from rollouts.cli.picker_objects import PickerInstallation, picker_objects
from rollouts.kube.client import KubeClient
from rollouts.kube.errors import KindNotServed, NotFound
from rollouts.kube.kubeconfig import ContextChoice
from rollouts.objects import kinds
from rollouts.objects.pools import Pool, read_pool
from rollouts.picker.core.routing import Unready
from rollouts.picker.filesource import ObjectsUnreadable, load_objects
from rollouts.terminal import document

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
def picker_manifest(
    pool: str,
    namespace: str | None,
    kubeconfig: str | None,
    context: ContextChoice,
    objects: Path | None,
    image: str | None,
    replicas: int,
    unready: str,
) -> None:
    """Print what runs an endpoint picker for POOL, under the Service name that the pool gives.

    \b
        rollouts picker-manifest mymodel-pool-v1 | kubectl apply -f -

    Service, Deployment, ServiceAccount, Role and RoleBinding, and a PodDisruptionBudget for several replicas:
    the same as the chart's value `pickers`. Exit status 2 when there is no such pool or it names no picker.
    """
    offline = objects is not None
    where = namespace or ("default" if offline else default_namespace(kubeconfig, context))
    found = (
        _from_files(objects, namespace, pool)
        if objects is not None
        else read_pool(with_client(kubeconfig, context, lambda client: _from_cluster(client, where, pool)))
    )
    what = _installation(found, where, image=image, replicas=replicas, unready=unready)
    document(yaml.safe_dump_all(picker_objects(what), sort_keys=False), nl=False)


async def _from_cluster(client: KubeClient, namespace: str, name: str) -> dict[str, Any]:
    for resource in kinds.POOLS:
        try:
            return await client.get(resource, namespace, name)
        except (NotFound, KindNotServed):
            continue
    raise _Unusable(f"there is no InferencePool {name} in namespace {namespace}")


def _from_files(path: Path, namespace: str | None, name: str) -> Pool:
    try:
        pools = [read_pool(item) for item in load_objects(path) if item.get("kind") == "InferencePool"]
    except ObjectsUnreadable as error:
        raise _Unusable(str(error)) from error
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
