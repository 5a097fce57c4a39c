"""What of a cluster can be read: what is not served, not there or not allowed is None, and one goes on."""

from __future__ import annotations

from typing import Any

from rollouts.kube.client import KubeClient, Resource
from rollouts.kube.errors import Forbidden, KindNotServed, NotFound
from rollouts.kube.paging import list_all

__all__ = ["get_or_none", "is_served", "list_or_none", "listed"]

Object = dict[str, Any]


async def list_or_none(client: KubeClient, resource: Resource, namespace: str | None) -> list[Object] | None:
    """All objects; None where the kind is not served or may not be read."""
    try:
        return await list_all(client, resource, namespace)
    except (KindNotServed, Forbidden):
        return None


async def is_served(client: KubeClient, resource: Resource, namespace: str) -> bool:
    """Whether the API server serves the kind, as far as one may ask."""
    try:
        await client.list_page(resource, namespace, limit=1)
    except KindNotServed:
        return False
    except Forbidden:
        return True
    return True


async def get_or_none(client: KubeClient, resource: Resource, namespace: str, name: str) -> Object | None:
    """One object; None where there is none, the kind is not served, or it may not be read."""
    try:
        return await client.get(resource, namespace, name)
    except (NotFound, KindNotServed, Forbidden):
        return None


async def listed(client: KubeClient, resource: Resource, namespace: str | None) -> list[Object]:
    """All objects, as far as they may be read, each with its kind: items of a list do not say it."""
    found = await list_or_none(client, resource, namespace) or []
    return [{**one, "kind": resource.kind} for one in found]
