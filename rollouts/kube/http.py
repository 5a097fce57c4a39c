"""HttpKubeClient: the KubeClient protocol over HTTP, on aiohttp.

Authentication and TLS come from the ``kubernetes`` package (``credentials``); requests are our own,
because its request layer parses into strict models, ends watches on lines over 2 MiB, and guesses the
content type of a patch.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote

import aiohttp

from rollouts.kube import logs
from rollouts.kube.client import ListPage, PatchKind, Propagation, Resource, WatchEvent, WatchType
from rollouts.kube.connection import (
    ApiRequest,
    Connection,
    error_of,
    parse_object,
    reason_of,
)
from rollouts.kube.credentials import Credentials, Impersonation, load_credentials
from rollouts.kube.discovery import (
    AGGREGATED,
    group_versions,
    is_aggregated,
    resources_of_aggregated,
    resources_of_list,
)
from rollouts.kube.errors import ApiTimeout, ApiUnavailable, Invalid, KubeError
from rollouts.kube.kubeconfig import ContextChoice
from rollouts.kube.lines import LineSplitter
from rollouts.kube.statuses import error_from_status

__all__ = ["HttpKubeClient", "Impersonation", "open_client"]

Object = dict[str, Any]
# The server ends a watch after timeout_seconds; one that is silent for longer is half-open.
_WATCH_SLACK = 10.0


class HttpKubeClient:
    """A KubeClient. Use ``open_client``; close it when done, or use it as an async context manager.

    ``deadline`` is the total time of each request in seconds; of a watch, that of its first byte.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        field_manager: str = "inference-rollouts",
        deadline: float = 10.0,
        impersonate: Impersonation | None = None,
        connection: Connection | None = None,
    ) -> None:
        self._field_manager = field_manager
        self._owns_session = connection is None
        self._connection = connection or Connection(
            credentials=credentials, deadline=deadline, impersonate=impersonate
        )

    async def __aenter__(self) -> HttpKubeClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; of a client derived from another one, nothing."""
        if self._owns_session:
            await self._connection.pool.close()

    def with_field_manager(self, field_manager: str) -> HttpKubeClient:
        """The same client writing as another field manager, on the same connections."""
        connection = self._connection
        return HttpKubeClient(connection.credentials, field_manager=field_manager, connection=connection)

    # The protocol

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        """See ``KubeClient.get``."""
        return await self._answer("GET", _path(resource, namespace, name))

    async def list_page(
        self,
        resource: Resource,
        namespace: str | None,
        *,
        limit: int = 500,
        continue_token: str = "",
        label_selector: str = "",
        field_selector: str = "",
    ) -> ListPage:
        """See ``KubeClient.list_page``."""
        params = {
            "limit": str(limit),
            "continue": continue_token,
            "labelSelector": label_selector,
            "fieldSelector": field_selector,
        }
        body = await self._answer("GET", _path(resource, namespace), params)
        metadata = body.get("metadata") or {}
        items = [item for item in body.get("items") or () if isinstance(item, dict)]
        for item in items:
            # Lists of built-in kinds leave these out of the items.
            item.setdefault("apiVersion", resource.api_version)
            item.setdefault("kind", resource.kind)
        return ListPage(
            items=items,
            resource_version=str(metadata.get("resourceVersion") or ""),
            continue_token=str(metadata.get("continue") or ""),
        )

    async def watch(
        self,
        resource: Resource,
        namespace: str | None,
        *,
        resource_version: str,
        timeout_seconds: int,
        label_selector: str = "",
        field_selector: str = "",
    ) -> AsyncIterator[WatchEvent]:
        """See ``KubeClient.watch``."""
        params = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(timeout_seconds),
            "labelSelector": label_selector,
            "fieldSelector": field_selector,
        }
        request = ApiRequest(method="GET", path=_path(resource, namespace), params=params)
        silence = aiohttp.ClientTimeout(total=None, sock_read=timeout_seconds + _WATCH_SLACK)
        splitter = LineSplitter()
        try:
            async with asyncio.timeout(self._connection.deadline):
                response = await self._connection.send(request, silence)
                if response.status != 200:
                    async with response:
                        raise await error_of(response)
            async with response:
                try:
                    async for chunk in response.content.iter_any():
                        for line in splitter.feed(chunk):
                            yield _event(line)
                finally:
                    _abort(response)
        except TimeoutError:
            raise ApiTimeout(f"the watch of {resource.plural} is silent: given up as half-open") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ApiUnavailable(f"the watch of {resource.plural} broke: {reason_of(error)}") from error
        if splitter.incomplete:
            raise ApiUnavailable(f"the watch of {resource.plural} ended in the middle of an event")

    async def create(
        self,
        resource: Resource,
        namespace: str | None,
        obj: Mapping[str, Any],
        *,
        dry_run: bool = False,
        strict: bool = False,
    ) -> Object:
        """See ``KubeClient.create``."""
        params = {**self._write_params(dry_run), "fieldValidation": "Strict" if strict else ""}
        return await self._answer("POST", _path(resource, namespace), params, body=obj)

    async def patch(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        patch: Any,
        *,
        kind: PatchKind,
        subresource: str = "",
        force: bool = False,
        dry_run: bool = False,
    ) -> Object:
        """See ``KubeClient.patch``."""
        params = {**self._write_params(dry_run), "force": "true" if force else ""}
        path = _path(resource, namespace, name, subresource)
        return await self._answer("PATCH", path, params, body=patch, patch=kind)

    async def delete(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        *,
        uid: str = "",
        resource_version: str = "",
        grace_period_seconds: int | None = None,
        propagation: Propagation | None = None,
    ) -> None:
        """See ``KubeClient.delete``. Without a kubelet, a Pod goes only with a grace period of 0."""
        guards = {"uid": uid, "resourceVersion": resource_version}
        options: Object = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if preconditions := {key: value for key, value in guards.items() if value}:
            options["preconditions"] = preconditions
        if grace_period_seconds is not None:
            options["gracePeriodSeconds"] = grace_period_seconds
        if propagation is not None:
            options["propagationPolicy"] = propagation.value
        await self._answer("DELETE", _path(resource, namespace, name), body=options)

    async def discover(self) -> tuple[Resource, ...]:
        """See ``KubeClient.discover``. A group whose server is down is left out, with a warning."""
        accept = f"{AGGREGATED},application/json"
        core = await self._answer("GET", "/api", accept=accept)
        groups = await self._answer("GET", "/apis", accept=accept)
        if is_aggregated(core) and is_aggregated(groups):
            return (*resources_of_aggregated(core), *resources_of_aggregated(groups))
        found: list[Resource] = []
        pairs = [("", str(name)) for name in core.get("versions") or ()]
        for group, name in (*pairs, *group_versions(groups)):
            path = f"/apis/{quote(group)}/{quote(name)}" if group else f"/api/{quote(name)}"
            try:
                found += resources_of_list(await self._answer("GET", path), group, name)
            except KubeError as error:
                logs.warning("discovery_group_failed", group=group, version=name, error=str(error))
        return tuple(found)

    async def server_version(self) -> Object:
        """The ``/version`` document."""
        return await self._answer("GET", "/version")

    async def ready(self) -> bool:
        """Whether ``/readyz`` says ok. Raises ApiTimeout, ApiUnavailable."""
        return await self._connection.succeeds(ApiRequest(method="GET", path="/readyz", accept="*/*"))

    def _write_params(self, dry_run: bool) -> dict[str, str]:
        return {"fieldManager": self._field_manager, "dryRun": "All" if dry_run else ""}

    async def _answer(
        self, method: str, path: str, params: Mapping[str, str] | None = None, **more: Any
    ) -> Object:
        request = ApiRequest(method=method, path=path, params=params or {}, **more)
        return await self._connection.answer(request)


async def open_client(
    kubeconfig: str | None = None,
    context: ContextChoice | str | None = None,
    *,
    field_manager: str = "inference-rollouts",
    deadline: float = 10.0,
    impersonate: Impersonation | None = None,
) -> HttpKubeClient:
    """A client for ``kubeconfig``, else $KUBECONFIG, else the pod's ServiceAccount, else ~/.kube/config.

    Raises NotConfigured. Nothing is sent yet.
    """
    return HttpKubeClient(
        await load_credentials(kubeconfig, context),
        field_manager=field_manager,
        deadline=deadline,
        impersonate=impersonate,
    )


def _path(resource: Resource, namespace: str | None, name: str = "", subresource: str = "") -> str:
    """Path with quoted names: what is in an object never becomes another path."""
    space = quote(namespace, safe="") if namespace else None
    if name in (".", ".."):
        raise Invalid(f"{name!r} is not the name of an object")
    return resource.path(space, quote(name, safe="") or None, subresource)


def _abort(response: aiohttp.ClientResponse) -> None:
    """Drop a watch's connection at once; at the end of the stream it is already back in the pool."""
    if response.connection and response.connection.transport:
        response.connection.transport.abort()


def _event(line: bytes) -> WatchEvent:
    parsed = parse_object(line)
    kind, obj = parsed.get("type"), parsed.get("object")
    if not isinstance(obj, dict):
        raise ApiUnavailable("a watch event carries no object")
    if kind == "ERROR":
        code = obj.get("code")
        raise error_from_status(code if isinstance(code, int) else 500, obj)
    try:
        return WatchEvent(WatchType(kind), obj)
    except ValueError:
        raise ApiUnavailable(f"a watch event of unknown type {kind!r}") from None
