"""Namespaces that end, learned with no more rights than those of any release.

A Role cannot be relied on to read its Namespace. But whatever would be created in one that ends is refused, in dry runs
as well, and every release may create Events. Since Kubernetes 1.33 a namespace loses its Pods first (KEP-5080): our
own, if it is in there, is asked to stop before one Rollout is deleted; a Role in there goes beside the Rollouts. Who
waits for the deletion comes too late in both cases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Unpack

from rollouts.kube.client import CreateOptions, KubeClient, PatchKind, Resource
from rollouts.kube.errors import KubeError, NamespaceTerminating
from rollouts.kube.wrapping import Call, WrappedClient
from rollouts.objects import kinds

__all__ = ["TerminationNotice", "ask_whether_it_ends"]

Object = dict[str, Any]


class TerminationNotice(WrappedClient):
    """Wraps a client: ``on_termination`` hears of each namespace in which something was refused because it ends."""

    def __init__(self, inner: KubeClient, on_termination: Callable[[str], None]) -> None:
        super().__init__(inner)
        self._on_termination = on_termination

    def around(self, call: Call) -> AbstractAsyncContextManager[None]:
        """Nothing: what counts is the namespace, see ``create`` and ``patch``."""
        return nullcontext()

    async def create(
        self,
        resource: Resource,
        namespace: str | None,
        obj: Mapping[str, Any],
        **options: Unpack[CreateOptions],
    ) -> Object:
        """See ``KubeClient.create``."""
        try:
            return await super().create(resource, namespace, obj, **options)
        except NamespaceTerminating:
            self._on_termination(namespace or "")
            raise

    async def patch(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        patch: Any,
        *,
        kind: PatchKind,
        **options: Any,
    ) -> Object:
        """See ``KubeClient.patch``; a server-side apply may create."""
        try:
            return await super().patch(resource, namespace, name, patch, kind=kind, **options)
        except NamespaceTerminating:
            self._on_termination(namespace or "")
            raise


async def ask_whether_it_ends(client: KubeClient, namespace: str) -> None:
    """Have the client's ``TerminationNotice`` told if the namespace ends; otherwise nothing happens."""
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "inference-rollouts-leaving", "namespace": namespace},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Namespace",
            "name": namespace,
            "namespace": namespace,
        },
        "type": "Normal",
        "reason": "Leaving",
        "message": "a dry run, never stored",
    }
    try:
        await client.create(kinds.EVENT, namespace, event, dry_run=True)
    except KubeError:
        return  # who is refused because the namespace ends was told; nothing else matters
