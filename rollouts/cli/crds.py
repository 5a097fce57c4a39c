"""``rollouts crds``."""

from __future__ import annotations

import click

from rollouts.api.crds import all_crds, crd_files
from rollouts.cli.connect import with_client
from rollouts.kube.client import KubeClient, PatchKind
from rollouts.kube.errors import NotFound
from rollouts.kube.kubeconfig import ContextChoice
from rollouts.objects import kinds
from rollouts.terminal import document, say

__all__ = ["apply_crds", "crds"]


async def apply_crds(client: KubeClient) -> list[str]:
    """Bring the cluster's CRDs to this version by server-side apply; answers a line for each. Raises KubeError.

    With force, since whoever installed them (Helm, kubectl) owns their fields. Versions of a CRD are an atomic list,
    so nothing of an earlier schema stays. Needs get, create and patch of these names, and no right on their objects.
    """
    said = []
    for crd in all_crds():
        name = crd["metadata"]["name"]
        try:
            before = (await client.get(kinds.CRD, None, name))["metadata"]["generation"]
        except NotFound:
            before = 0
        stored = await client.patch(kinds.CRD, None, name, crd, kind=PatchKind.APPLY, force=True)
        after = stored["metadata"]["generation"]
        said.append(f"{name}: {'unchanged' if before == after else 'updated' if before else 'created'}")
    return said


@click.command()
@click.option("--apply", is_flag=True, help="Write them to the cluster instead, by server-side apply.")
@click.option("--kubeconfig", help="Kubeconfig file; else $KUBECONFIG, the pod's account, ~/.kube/config.")
@click.option("--context", help="Context of the kubeconfig.")
def crds(apply: bool, kubeconfig: str | None, context: str | None) -> None:
    """Print the CRDs, ready for `kubectl apply --server-side -f -`.

    With --apply bring those of a cluster to this version: objects stay as they are stored.
    """
    if not apply:
        document("---\n".join(text for _, text in crd_files()), nl=False)
        return
    for line in with_client(kubeconfig, ContextChoice(context=context), apply_crds):
        say(line)
