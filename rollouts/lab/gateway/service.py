"""The gateway as a running thing: watches the objects, keeps Envoy up to date, writes status."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from rollouts.kube.client import KubeClient, PatchKind, Resource
from rollouts.kube.errors import RefusedError, RetryableError
from rollouts.lab.gateway.backends import POOL_GROUPS
from rollouts.lab.gateway.envoy import EnvoyProcess
from rollouts.lab.gateway.hearing import LATE_SECONDS, heard
from rollouts.lab.gateway.httproute import GATEWAY_GROUP
from rollouts.lab.gateway.likeness import GatewayLike, played
from rollouts.lab.gateway.listeners import requested_ports
from rollouts.lab.gateway.model import GatewayConfig
from rollouts.lab.gateway.resources import render
from rollouts.lab.gateway.shims import PickerShims
from rollouts.lab.gateway.status import gateway_patch, pool_patch, route_patch
from rollouts.lab.gateway.translate import Translation, World, translate
from rollouts.lab.gateway.xds import AdsServer, ConfigRejectedError
from rollouts.lab.processes import ProcessStartError, free_port, port_is_free
from rollouts.runtime.clock import Clock, SystemClock
from rollouts.runtime.reflector import Reflector, ReflectorConfig
from rollouts.runtime.store import Store

__all__ = ["GATEWAYS", "HTTP_ROUTES", "POOLS_V1", "POOLS_V1ALPHA2", "LabGateway"]

log = structlog.get_logger(__name__)

GATEWAYS = Resource(GATEWAY_GROUP, "v1", "gateways", "Gateway")
HTTP_ROUTES = Resource(GATEWAY_GROUP, "v1", "httproutes", "HTTPRoute")
POOLS_V1 = Resource(POOL_GROUPS[0], "v1", "inferencepools", "InferencePool")
POOLS_V1ALPHA2 = Resource(POOL_GROUPS[1], "v1alpha2", "inferencepools", "InferencePool")
SERVICES = Resource("", "v1", "services", "Service")
PODS = Resource("", "v1", "pods", "Pod")
_WATCHED = (GATEWAYS, HTTP_ROUTES, POOLS_V1, POOLS_V1ALPHA2, SERVICES, PODS)

# Custom resources may be installed after the gateway has started; a lab need not wait half a minute.
_REFLECTOR = ReflectorConfig(not_served_retry=1.0)
_RETRY_SECONDS = 0.2


class LabGateway:
    """A Gateway API implementation for one machine, of any GatewayClass, on loopback only.

    A Gateway's listener gets the port it asks for when that is free, else another one; ``urls`` tells.
    ``directory`` takes Envoy's bootstrap and log; ``like`` names another gateway whose behaviour is played.
    """

    def __init__(
        self,
        client: KubeClient,
        *,
        directory: Path,
        namespace: str | None = None,
        clock: Clock | None = None,
        address: str = "127.0.0.1",
        like: GatewayLike = GatewayLike.STANDARD,
    ) -> None:
        self._client = client
        self._clock = clock or SystemClock()
        self._address = address
        self._like = like
        self._published = GatewayConfig()
        self._shims = PickerShims(like.speaks)
        self._late: asyncio.Task[None] | None = None
        self._directory = directory
        self._stores = {resource: Store() for resource in _WATCHED}
        self._reflectors = [
            Reflector(client, resource, store, self._clock, namespace=namespace, config=_REFLECTOR)
            for resource, store in self._stores.items()
        ]
        self._ads = AdsServer()
        self._envoy: EnvoyProcess | None = None
        self._ports: dict[tuple[str, str, int], int] = {}
        self._dirty = asyncio.Event()
        self._programmed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.reconciled = 0
        """How often the objects were looked at and Envoy and the status brought in line."""
        self.status_writes = 0

    @property
    def urls(self) -> Mapping[tuple[str, str, int], str]:
        """URL of each listener, by (namespace, gateway, requested port)."""
        return {key: f"http://{self._address}:{port}" for key, port in self._ports.items()}

    @property
    def url(self) -> str:
        """URL of the first listener. Raises LookupError while there is no Gateway with an HTTP listener."""
        if not self._ports:
            raise LookupError("no Gateway with an HTTP listener yet: create one, then wait_for_gateway()")
        return self.urls[min(self._ports)]

    @property
    def envoy(self) -> EnvoyProcess:
        """The Envoy process. Raises RuntimeError before ``start``."""
        if self._envoy is None:
            raise RuntimeError("the gateway was not started: call start() first")
        return self._envoy

    async def start(self) -> None:
        """Start Envoy and the watches. Raises ProcessStartError, EnvoyNotInstalledError."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self._envoy = EnvoyProcess(xds_port=await self._ads.start(), directory=self._directory)
        try:
            await self._envoy.start()
        except BaseException:
            await self._ads.stop()
            raise
        for store in self._stores.values():
            store.subscribe(lambda _: self._dirty.set())
        self._dirty.set()
        runs = [reflector.run() for reflector in self._reflectors]
        self._tasks = [
            asyncio.create_task(run) for run in (*runs, self._run(), self._keep_envoy(self._envoy))
        ]

    async def stop(self) -> None:
        """Stop the watches and Envoy."""
        tasks = [*self._tasks, *([self._late] if self._late is not None else [])]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._tasks = []
        if self._envoy is not None:
            await self._envoy.stop()
        await self._ads.stop()
        await self._shims.stop()

    async def wait_for_gateway(self, *, timeout: float = 15.0) -> str:
        """Wait until a listener is programmed; answers its URL. Raises TimeoutError."""
        async with asyncio.timeout(timeout):
            await self._programmed.wait()
        return self.url

    async def _run(self) -> None:
        for reflector in self._reflectors:
            await reflector.wait_for_sync()
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                await self._reconcile()
            except (TimeoutError, RetryableError) as error:
                log.warning("gateway_retry", error=type(error).__name__, reason=str(error)[:500])
                await self._clock.sleep(_RETRY_SECONDS)
                self._dirty.set()
            except Exception:
                # A bug in reading one object must not end the gateway for the others.
                log.exception("gateway_reconcile_failed")

    async def _reconcile(self) -> None:
        translation = translate(self._world())
        rejected = ""
        try:
            plan = played(self._like, translation.plan, self._published)
            await self._ads.publish(render(await self._shims.before(plan), address=self._address))
            self._published = plan
        except ConfigRejectedError as error:
            rejected = str(error)
        await self._write_status(translation, rejected)
        self.reconciled += 1
        if translation.plan.listeners and not rejected:
            self._programmed.set()

    def _world(self) -> World:
        gateways = list(self._stores[GATEWAYS].values())
        self._assign_ports(gateways)
        return World(
            gateways=gateways,
            routes=list(self._stores[HTTP_ROUTES].values()),
            pools={
                resource.group: list(self._stores[resource].values())
                for resource in (POOLS_V1, POOLS_V1ALPHA2)
            },
            services=list(self._stores[SERVICES].values()),
            pods=list(self._stores[PODS].values()),
            ports=dict(self._ports),
        )

    def _assign_ports(self, gateways: list[dict[str, Any]]) -> None:
        requested = frozenset[tuple[str, str, int]]().union(*(requested_ports(g) for g in gateways))
        self._ports = {key: port for key, port in self._ports.items() if key in requested}
        for key in sorted(requested - self._ports.keys()):
            wanted = key[2]
            taken = wanted in self._ports.values() or not port_is_free(wanted, self._address)
            port = free_port(self._address) if taken else wanted
            self._ports[key] = port
            log.info("listener_port", namespace=key[0], gateway=key[1], requested=wanted, port=port)

    async def _write_status(self, translation: Translation, rejected: str) -> None:
        now = self._clock.now()
        for gateway in translation.gateways:
            patch = gateway_patch(gateway, now, address=self._address, rejected=rejected)
            await self._patch_status(GATEWAYS, gateway.gateway, patch)
        if rejected:
            return  # Envoy goes on with the routes it had, so no route may claim this generation
        if self._like is GatewayLike.LATE:
            self._tell_later(translation)
        else:
            await self._write_routes(translation)
        for pool in translation.pools:
            resource = POOLS_V1 if pool.group == POOLS_V1.group else POOLS_V1ALPHA2
            await self._patch_status(resource, pool.pool, pool_patch(pool, now))

    async def _write_routes(self, translation: Translation) -> None:
        now = self._clock.now()
        for route in translation.routes:
            patch = heard(self._like, route.route, route_patch(route, now))
            await self._patch_status(HTTP_ROUTES, route.route, patch)

    def _tell_later(self, translation: Translation) -> None:
        """Of what is published now, unless something newer is by then."""
        if self._late is not None:
            self._late.cancel()

        async def tell() -> None:
            await self._clock.sleep(LATE_SECONDS)
            with contextlib.suppress(TimeoutError, RetryableError):
                await self._write_routes(translation)

        self._late = asyncio.create_task(tell())

    async def _patch_status(
        self, resource: Resource, obj: Mapping[str, Any], patch: dict[str, Any] | None
    ) -> None:
        if patch is None:
            return
        metadata = obj["metadata"]
        try:
            stored = await self._client.patch(
                resource,
                metadata.get("namespace"),
                metadata["name"],
                patch,
                kind=PatchKind.MERGE,
                subresource="status",
            )
        except RefusedError as error:
            # Deleted, or refused for good: trying again changes nothing until the object changes.
            log.info("status_not_written", kind=resource.kind, name=metadata["name"], reason=str(error)[:200])
        else:
            self.status_writes += 1
            self._stores[resource].record_write(stored)

    async def _keep_envoy(self, envoy: EnvoyProcess) -> None:
        while True:
            code = await envoy.wait()
            log.error("envoy_ended", code=code)
            await self._clock.sleep(_RETRY_SECONDS)
            try:
                await envoy.start()
            except ProcessStartError:
                log.exception("envoy_not_restarted")
            self._dirty.set()
