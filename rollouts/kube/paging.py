"""Whole lists, page by page."""

from __future__ import annotations

from typing import Any

from rollouts.kube.client import KubeClient, Resource
from rollouts.kube.errors import ApiUnavailable, Gone

__all__ = ["list_all", "list_from"]

_RESTARTS = 5
"""A continue token lasts five minutes, unless etcd is compacted meanwhile: then the list begins anew."""


async def list_all(
    client: KubeClient, resource: Resource, namespace: str | None, *, limit: int = 500
) -> list[dict[str, Any]]:
    """Every object of a kind, however many pages. Raises KubeError."""
    return (await list_from(client, resource, namespace, limit=limit))[0]


async def list_from(
    client: KubeClient,
    resource: Resource,
    namespace: str | None,
    *,
    limit: int = 500,
    label_selector: str = "",
    field_selector: str = "",
) -> tuple[list[dict[str, Any]], str]:
    """As ``list_all``, of those that are selected; and the resourceVersion from which to watch."""
    for _ in range(_RESTARTS):
        items: list[dict[str, Any]] = []
        token = ""
        try:
            while True:
                page = await client.list_page(
                    resource,
                    namespace,
                    limit=limit,
                    continue_token=token,
                    label_selector=label_selector,
                    field_selector=field_selector,
                )
                items += page.items
                token = page.continue_token
                if not token:
                    return items, page.resource_version
        except Gone:
            if not token:
                raise
    raise ApiUnavailable(f"the list of {resource.plural} was out of date {_RESTARTS} times before its end")
