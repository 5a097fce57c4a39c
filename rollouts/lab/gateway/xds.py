"""State-of-the-world aggregated discovery (ADS): pushes a snapshot to Envoy in a safe order.

Order of the xDS protocol ("Eventual consistency considerations"): clusters, endpoints, listeners,
routes; clusters that are gone from the snapshot are taken away only after Envoy has acknowledged the
routes that no longer use them. Clusters and their endpoints settle before listeners and routes move.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc
import structlog
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.protobuf import any_pb2

from rollouts.lab.gateway.resources import CLUSTER, ENDPOINTS, LISTENER, ROUTES, XdsSnapshot

__all__ = ["AdsServer", "ConfigRejectedError", "XdsStream"]

log = structlog.get_logger(__name__)

_ORDER = (CLUSTER, ENDPOINTS, LISTENER, ROUTES)
_BY_NAME = frozenset({ENDPOINTS, ROUTES})
# Envoy acknowledges clusters only when it has their endpoints, so a pair is on its way together.
_PAIRS = ((CLUSTER, ENDPOINTS), (LISTENER, ROUTES))
_FOLLOWER = dict(_PAIRS)

Content = dict[str, bytes]


class ConfigRejectedError(Exception):
    """Envoy refused a resource and goes on with what it had. The message is Envoy's."""


@dataclass(slots=True)
class _TypeState:
    """What one Envoy knows of one type. ``told`` is all it was given of what it still asks for."""

    subscribed: bool = False
    names: frozenset[str] = frozenset()
    told: Content | None = None
    nonce: str = ""
    in_flight: bool = False
    error: str = ""


@dataclass(slots=True, eq=False)
class XdsStream:
    """One Envoy's stream, as a state machine. ``receive`` takes its messages, ``next_push`` gives ours."""

    snapshot: XdsSnapshot
    types: dict[str, _TypeState] = field(default_factory=lambda: {url: _TypeState() for url in _ORDER})
    count: int = 0

    def receive(self, request: discovery_pb2.DiscoveryRequest) -> None:
        """Take a subscription, an acknowledgement or a refusal."""
        state = self.types.get(request.type_url)
        if state is None or (request.response_nonce and request.response_nonce != state.nonce):
            return  # a type we do not serve, or an answer to a push that a later one has replaced
        state.subscribed = True
        state.names = frozenset(request.resource_names)
        if not request.response_nonce:
            return
        state.in_flight = False
        if request.HasField("error_detail"):
            state.error = request.error_detail.message or "refused without a message"
            log.error("xds_config_rejected", type=request.type_url, error=state.error)

    def next_push(self) -> discovery_pb2.DiscoveryResponse | None:
        """The next message to send, None when everything is sent or an answer is awaited."""
        for url, follower in _PAIRS:
            for each in (url, follower):
                if self.types[each].subscribed and not self.types[each].in_flight and self._stale(each):
                    return self._push(each)
            if self.types[url].in_flight or self.types[follower].in_flight:
                return None
        return None

    def settled(self) -> bool:
        """Whether Envoy has answered everything, and has all of the snapshot or has refused a part."""
        if any(state.in_flight for state in self.types.values()):
            return False
        return bool(self.errors()) or (
            all(self.types[url].subscribed and not self._stale(url) for url, _ in _PAIRS)
            and all(
                self.types[url].names >= self.snapshot.of(url).keys() and not self._stale(url)
                for _, url in _PAIRS
            )
        )

    def errors(self) -> str:
        """What Envoy refused, empty when nothing."""
        return "; ".join(state.error for state in self.types.values() if state.error)

    def _stale(self, url: str) -> bool:
        """Whether Envoy lacks something. A name it no longer asks for is no reason to tell it anything."""
        wanted, told = self._wanted(url), self.types[url].told
        if url in _BY_NAME:
            return any((told or {}).get(name) != value for name, value in wanted.items())
        return wanted != told

    def _wanted(self, url: str) -> Content:
        content, state = self.snapshot.of(url), self.types[url]
        if url in _BY_NAME:
            return {name: content[name] for name in sorted(state.names & content.keys())}
        if url == CLUSTER and state.told and self.types[ROUTES].subscribed:
            routes = self.types[ROUTES]
            if routes.in_flight or routes.error or self._stale(ROUTES):
                return {**{k: v for k, v in state.told.items() if k not in content}, **content}
        return content

    def _push(self, url: str) -> discovery_pb2.DiscoveryResponse:
        state, wanted = self.types[url], self._wanted(url)
        told = state.told or {}
        changed = {name: value for name, value in wanted.items() if told.get(name) != value}
        if url in _FOLLOWER:
            # These wait for their endpoints or routes, even when those are what they were before.
            follower = self.types[_FOLLOWER[url]]
            follower.told = {k: v for k, v in (follower.told or {}).items() if k not in changed}
        self.count += 1
        state.told, state.in_flight, state.error, state.nonce = wanted, True, "", str(self.count)
        sent = changed if url in _BY_NAME else wanted
        return discovery_pb2.DiscoveryResponse(
            version_info=state.nonce,
            nonce=state.nonce,
            type_url=url,
            resources=[any_pb2.Any(type_url=url, value=value) for value in sent.values()],
        )


class AdsServer(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]  # untyped base class
    """gRPC server for any number of Envoys; all get the same snapshot."""

    def __init__(self) -> None:
        self._snapshot = XdsSnapshot()
        self._sessions: dict[XdsStream, asyncio.Event] = {}
        self._dropped: set[XdsStream] = set()
        self._changed = asyncio.Condition()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> int:
        """Listen on a free loopback port; answers the port."""
        self._server = grpc.aio.server()
        ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return int(port)

    async def stop(self) -> None:
        """Close all streams."""
        if self._server is not None:
            await self._server.stop(grace=0)

    async def publish(self, snapshot: XdsSnapshot, *, timeout: float = 10.0) -> None:
        """Make ``snapshot`` the configuration and wait until every Envoy acknowledged it.

        Raises ConfigRejectedError when one of them refused a part, TimeoutError after ``timeout`` seconds
        (also when no Envoy is connected).
        """
        self._snapshot = snapshot
        for session, wake in self._sessions.items():
            session.snapshot = snapshot
            wake.set()
        try:
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait_for(self._settled)
        except TimeoutError:
            self._drop_unsettled()
            raise
        errors = [session.errors() for session in self._sessions if session.errors()]
        if errors:
            raise ConfigRejectedError("; ".join(errors))

    def _drop_unsettled(self) -> None:
        """End the streams that stand still: Envoy comes back and asks for everything anew."""
        for session, wake in self._sessions.items():
            if not session.settled():
                log.warning("xds_stream_dropped", state=str(session.types)[:2000])
                self._dropped.add(session)
                wake.set()

    def _settled(self) -> bool:
        return bool(self._sessions) and all(session.settled() for session in self._sessions)

    async def StreamAggregatedResources(  # the name is given by the protocol
        self,
        requests: AsyncIterator[discovery_pb2.DiscoveryRequest],
        context: grpc.aio.ServicerContext,
    ) -> AsyncIterator[discovery_pb2.DiscoveryResponse]:
        """Serve one Envoy until it leaves."""
        session, wake = XdsStream(self._snapshot), asyncio.Event()
        self._sessions[session] = wake
        reader = asyncio.create_task(self._read(requests, session, wake))
        try:
            while not reader.done() and session not in self._dropped:
                await wake.wait()
                wake.clear()
                while (response := session.next_push()) is not None:
                    yield response
                await self._notify()
        finally:
            reader.cancel()
            self._sessions.pop(session, None)
            self._dropped.discard(session)
            await self._notify()

    async def _read(
        self, requests: AsyncIterator[discovery_pb2.DiscoveryRequest], session: XdsStream, wake: asyncio.Event
    ) -> None:
        try:
            async for request in requests:
                session.receive(request)
                wake.set()
        finally:
            wake.set()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
