"""Probing the path in the background: a few requests through the gateway by the probe's rule, and what they mean.

Bounds: at most ten requests in three seconds per round, one at a time, two seconds each; no body is read, no redirect
followed, no proxy used, and nothing of an answer is kept but its status. What the canary's own counters say tells
whether it was the canary that answered: it has no other requests before its first weight.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp
import structlog

from rollouts.api.parsing import ParsedRollout
from rollouts.controller.gateway_address import GatewayAddress, ProbeSettings, Unreachable, find_address
from rollouts.engine.attempt import Attempt, ProbeRecord, ProbeVerdict
from rollouts.engine.observation import ProbeView, TrafficView
from rollouts.engine.probing import PROBE_HEADER, PROBE_ROUTE, probe_open
from rollouts.engine.rollout_spec import HttpRouteTraffic, PathProbe, RolloutSpec, TrafficMode
from rollouts.kube.client import KubeClient
from rollouts.runtime.clock import Clock, Monotonic
from rollouts.runtime.objects import ObjectKey
from rollouts.sources.base import ScrapeTarget
from rollouts.sources.scraper import PodScraper
from rollouts.traffic.probe import ProbeRequest, probe_request
from rollouts.units import ZERO

__all__ = ["CanaryPods", "PathProbes", "Prober", "judge"]

_log = structlog.get_logger(__name__)

_ENOUGH = 3
"""Answers in a row that pass: replicas of a gateway and of a picker take over a rule one by one."""
_MOST = 10
_ROUND = 3.0
_SPACING = 0.3
_TIMEOUT = 2.0
_AGAIN = 5.0
"""Seconds between two rounds while a required probe holds, and between two looks at a Gateway that will not do."""
_PARALLEL = 8
_REQUESTS = "http_requests_total"
_NEVER = Monotonic(float("-inf"))


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryPods:
    """The canary, for messages and for its counters: its pool, that pool's picker, and its Ready pods."""

    pool: str
    picker: str
    endpoints: Sequence[ScrapeTarget]


class PathProbes(Protocol):
    """Who probes paths."""

    def view(
        self,
        key: ObjectKey,
        parsed: ParsedRollout,
        template: Mapping[str, Any],
        traffic: TrafficView,
        pods: CanaryPods,
    ) -> ProbeView | None:
        """What is known of the probe of a Managed route; None where there is nothing to probe."""
        ...

    def drop(self, key: ObjectKey) -> None:
        """The Rollout needs nothing any more."""
        ...


@dataclass(slots=True)
class _Probe:
    """One attempt's probe. ``offered`` is this process's secret for it."""

    attempt: tuple[str, int]
    offered: str
    address: GatewayAddress | None = None
    impossible: str = ""
    looked: Monotonic = _NEVER
    token: str = ""
    verdict: ProbeVerdict | None = None
    message: str = ""
    asked: Monotonic = _NEVER
    busy: bool = False


class Prober:
    """Looks for gateways and sends the requests. ``run`` works until cancelled; it owns the tasks.

    ``on_change`` is called with the key of a Rollout whose probe came to something.
    """

    def __init__(
        self, client: KubeClient, scraper: PodScraper, clock: Clock, settings: ProbeSettings
    ) -> None:
        self.on_change: Callable[[ObjectKey], None] = lambda _: None
        self._client = client
        self._scraper = scraper
        self._clock = clock
        self._settings = settings
        self._probes: dict[ObjectKey, _Probe] = {}
        self._slots = asyncio.Semaphore(_PARALLEL)
        self._tasks: set[asyncio.Task[None]] = set()

    def view(
        self,
        key: ObjectKey,
        parsed: ParsedRollout,
        template: Mapping[str, Any],
        traffic: TrafficView,
        pods: CanaryPods,
    ) -> ProbeView | None:
        """See ``PathProbes.view``."""
        current, spec = parsed.status.current, parsed.spec
        if current is None or spec is None or not _concerns(parsed, current, spec):
            self.drop(key)
            return None
        request = probe_request(template)
        if not self._settings.enabled:
            return ProbeView(impossible="the administrator switched probes off (pathProbe.enabled)")
        if isinstance(request, str):
            return ProbeView(impossible=request)
        attempt = (current.canary.hash, parsed.status.attempt)
        probe = self._probes.get(key)
        if probe is None or probe.attempt != attempt:
            probe = self._probes[key] = _Probe(attempt=attempt, offered=secrets.token_hex(16))
        now = self._clock.monotonic()
        if probe.address is None and not probe.busy and now - probe.looked >= _AGAIN:
            self._spawn(key, probe, self._find(probe, template, key.namespace))
        elif current.probe is not None and self._may_ask(current.probe, probe, traffic, spec):
            self._spawn(key, probe, self._ask(probe, current.probe.token, request, pods))
        offered = probe.offered if probe.address is not None else ""
        return ProbeView(
            offered=offered,
            impossible=probe.impossible,
            token=probe.token,
            verdict=probe.verdict,
            message=probe.message,
        )

    def drop(self, key: ObjectKey) -> None:
        """See ``PathProbes.drop``."""
        self._probes.pop(key, None)

    async def run(self) -> None:
        """Wait; the tasks end with it."""
        try:
            await asyncio.Event().wait()
        finally:
            for task in self._tasks:
                task.cancel()

    def _may_ask(self, record: ProbeRecord, probe: _Probe, traffic: TrafficView, spec: RolloutSpec) -> bool:
        """The rule is stored, and the gateways say that they took it over: before, stable would answer."""
        if not record.token or probe.busy or probe.address is None:
            return False
        live = any(
            route.name == PROBE_ROUTE and any(match.value == record.token for match in route.match)
            for route in traffic.header_routes
        )
        if not live or not traffic.parents.programmed:
            return False
        if probe.token != record.token or probe.verdict is None:
            return True
        again = self._clock.monotonic() - probe.asked >= _AGAIN
        required = spec.canary.path_probe is PathProbe.REQUIRE
        return required and probe.verdict is not ProbeVerdict.PASSED and again

    def _spawn(self, key: ObjectKey, probe: _Probe, work: Awaitable[None]) -> None:
        async def whole() -> None:
            async with self._slots:
                await work

        probe.busy = True
        task = asyncio.get_running_loop().create_task(whole())
        self._tasks.add(task)

        def ended(done: asyncio.Task[None]) -> None:
            self._tasks.discard(done)
            probe.busy = False
            if done.cancelled():
                return
            if done.exception() is not None:
                _log.error("path_probe_failed", rollout=key.name, exc_info=done.exception())
            if self._probes.get(key) is probe:
                self.on_change(key)

        task.add_done_callback(ended)

    async def _find(self, probe: _Probe, template: Mapping[str, Any], namespace: str) -> None:
        parents = template.get("parentRefs")
        try:
            probe.address = await find_address(
                self._client, parents if isinstance(parents, list) else [], namespace, self._settings
            )
            probe.impossible = ""
        except Unreachable as error:
            probe.impossible = str(error)
        finally:
            probe.looked = self._clock.monotonic()

    async def _ask(self, probe: _Probe, token: str, request: ProbeRequest, pods: CanaryPods) -> None:
        assert probe.address is not None
        verdict, message = await self._round(probe.address, token, request, pods)
        probe.token, probe.verdict, probe.message = token, verdict, message
        probe.asked = self._clock.monotonic()
        _log.info("path_probed", gateway=probe.address.gateway, pool=pods.pool, verdict=verdict.value)

    async def _round(
        self, address: GatewayAddress, token: str, request: ProbeRequest, pods: CanaryPods
    ) -> tuple[ProbeVerdict, str]:
        """Until enough answers in a row pass, or time or number is over: then the last other answer counts."""
        before, end = await self._count(pods), self._clock.monotonic() + _ROUND
        good, last, elsewhere = 0, None, False
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT)
        connector = aiohttp.TCPConnector(limit=1, force_close=True)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector, trust_env=False) as session:
            for _ in range(_MOST):
                code = await _send(session, address, token, request)
                good, last = (good + 1, last) if _passes(code) else (0, code)
                if good >= _ENOUGH:
                    after = await self._count(pods)
                    elsewhere = before is not None and after is not None and after <= before
                    if not elsewhere:
                        return (
                            ProbeVerdict.PASSED,
                            f"{good} requests through Gateway {address.gateway} answered",
                        )
                if self._clock.monotonic() >= end:
                    break
                await self._clock.sleep(_SPACING)
        return judge(last, pods, address.gateway, elsewhere=elsewhere and good > 0)

    async def _count(self, pods: CanaryPods) -> float | None:
        """Requests that the canary's pods have counted; None where one of them does not say."""
        pages = await asyncio.gather(
            *(self._scraper.read(endpoint, {_REQUESTS}) for endpoint in pods.endpoints)
        )
        totals = [page[""].total(_REQUESTS) if page and "" in page else None for page in pages]
        known = [total for total in totals if total is not None]
        return sum(known) if known and len(known) == len(totals) else None


def _concerns(parsed: ParsedRollout, current: Attempt, spec: RolloutSpec) -> bool:
    """From the first sight of a canary to the end of its probe, or its first weight."""
    if current.aborted is not None or parsed.deleting:
        return False
    managed = isinstance(spec.traffic, HttpRouteTraffic) and spec.traffic.mode is TrafficMode.MANAGED
    waits = current.probe is None or probe_open(current)
    return (
        managed
        and waits
        and spec.canary.path_probe is not PathProbe.OFF
        and parsed.status.weight.applied == ZERO
    )


async def _send(
    session: aiohttp.ClientSession, address: GatewayAddress, token: str, request: ProbeRequest
) -> int | None:
    """The status of one answer; None without one. How the connection failed is nobody's to know."""
    place = f"[{address.ip}]" if ":" in address.ip else address.ip
    host = request.host or address.host
    headers = {PROBE_HEADER: token, **({"Host": host} if host else {})}
    url = f"{'https' if address.tls else 'http'}://{place}:{address.port}{request.path}"
    # Not verified: the certificate is the gateway's, for names that the controller need not trust, and the address is
    # the one that the Gateway's status publishes. The probe sends no secret and reads nothing but the status code.
    tls: dict[str, Any] = {"ssl": False, "server_hostname": host or None} if address.tls else {}
    try:
        async with session.get(url, headers=headers, allow_redirects=False, **tls) as answer:
            return answer.status
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return None


def _passes(code: int | None) -> bool:
    return code is not None and 200 <= code < 300


def judge(code: int | None, pods: CanaryPods, gateway: str, *, elsewhere: bool) -> tuple[ProbeVerdict, str]:
    """What the last answer means that did not pass; ``elsewhere``: the canary counted none of those that did."""
    via = f"through Gateway {gateway} to InferencePool {pods.pool}"
    if elsewhere:
        return ProbeVerdict.FAILED, (
            f"requests {via} are answered, but the canary's pods counted none of them: another rule or pool takes "
            "them; see the order of the route's rules, and the selector of the pool"
        )
    if code is None:
        return ProbeVerdict.NOT_JUDGED, f"no answer from Gateway {gateway}: the controller may not reach it"
    if code < 500:
        return ProbeVerdict.NOT_JUDGED, f"Gateway {gateway} answers {code}: not judged"
    causes = {
        500: f"the endpoint picker ({pods.picker}) fails, or the gateway speaks another protocol to it: with TLS "
        "some gateways need an object of their own (Istio: a DestinationRule with mode SIMPLE for its Service)",
        502: "the pod closes the connection or speaks another protocol: see the pool's port and the pods' TLS",
        503: f"the gateway finds no endpoint: see the pool's selector, its picker ({pods.picker}), and whether this "
        "gateway supports InferencePools in this route",
        504: "the pod or its picker does not answer in time",
    }
    cause = causes.get(code, f"see the gateway's log, the picker ({pods.picker}) and the pods")
    return ProbeVerdict.FAILED, f"requests {via} are answered {code}: {cause}"
