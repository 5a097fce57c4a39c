"""Whole lists, page by page."""

from __future__ import annotations

from typing import Any

from rollouts.kube.client import KubeClient, Resource
from rollouts.kube.errors import ApiUnavailable, Gone

__all__ = ["list_all"]

_RESTARTS = 5
"""A continue token lasts five minutes, unless etcd is compacted meanwhile: then the list begins anew."""


async def list_all(
    client: KubeClient, resource: Resource, namespace: str | None, *, limit: int = 500
) -> list[dict[str, Any]]:
    """Every object of a kind, however many pages. Raises KubeError."""
    for _ in range(_RESTARTS):
        items: list[dict[str, Any]] = []
        token = ""
        try:
            while True:
                page = await client.list_page(resource, namespace, limit=limit, continue_token=token)
                items += page.items
                token = page.continue_token
                if not token:
                    return items
        except Gone:
            if not token:
                raise
    raise ApiUnavailable(f"the list of {resource.plural} was out of date {_RESTARTS} times before its end")
