"""What Argo CD would call a difference between Git and the cluster, in its two server-side modes.

Sources: argo-cd documentation "Diff Strategies"; gitops-engine ``pkg/diff``, ``structuredMergeDiff`` and
``serverSideDiff``. With ``ServerSideApply=true`` alone the merge is computed in Argo CD, which knows a custom
resource's structure and not the defaults of its schema; with ``ServerSideDiff=true`` the API server computes it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from rollouts.kube.client import PatchKind, Resource
from rollouts.kube.http import HttpKubeClient

__all__ = ["MANAGER", "merged_differences", "server_side_differences"]

MANAGER = "argocd-controller"
"""The field manager of Argo CD's applies, which are forced."""

_BOOKKEEPING = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp")


def merged_differences(git: Any, live: Any, path: str = "") -> Iterator[str]:
    """Paths at which an apply of ``git`` would change ``live``: maps are merged, a list is replaced whole.

    For kinds all of whose lists are atomic, as ours are in their spec.
    """
    if isinstance(git, Mapping) and isinstance(live, Mapping):
        for name, value in git.items():
            yield from merged_differences(value, live.get(name), f"{path}.{name}")
    elif git != live:
        yield path.lstrip(".")


async def server_side_differences(
    kube: HttpKubeClient, resource: Resource, namespace: str, git: Mapping[str, Any]
) -> list[str]:
    """Paths at which the server's own dry run of Argo CD's apply differs from what it has stored.

    Of one version of the object: what a controller stores between the two requests is no difference of Git's.
    """
    name = git["metadata"]["name"]
    where = namespace if resource.namespaced else None
    argo = kube.with_field_manager(MANAGER)
    live, after = await kube.get(resource, where, name), None
    while after is None or after["metadata"]["resourceVersion"] != live["metadata"]["resourceVersion"]:
        live = after or live
        predicted = await argo.patch(
            resource, where, name, dict(git), kind=PatchKind.APPLY, force=True, dry_run=True
        )
        after = await kube.get(resource, where, name)
    return list(merged_differences(_comparable(predicted), _comparable(live)))


def _comparable(obj: Mapping[str, Any]) -> dict[str, Any]:
    plain = copy.deepcopy(dict(obj))
    plain["metadata"] = {key: value for key, value in plain["metadata"].items() if key not in _BOOKKEEPING}
    return plain
