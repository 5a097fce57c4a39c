"""The probe of the path on a real socket: what is asked, whom the controller may connect to, and what answers mean."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web

from rollouts.api.parsing import parse_rollout
from rollouts.controller.gateway_address import GatewayAddress, ProbeSettings, Unreachable, find_address
from rollouts.controller.probes import CanaryPods, Prober, judge
from rollouts.controller.settings import Settings, SettingsError, read_config
from rollouts.engine.attempt import ProbeVerdict
from rollouts.engine.observation import ParentsView, ProbeView, TrafficView
from rollouts.engine.probing import PROBE_HEADER, PROBE_ROUTE
from rollouts.engine.rollout_spec import HeaderMatch, HeaderRouteStep, TrafficMode
from rollouts.kube.errors import Forbidden, NotFound
from rollouts.objects import kinds
from rollouts.picker.credentials import self_signed_pair
from rollouts.runtime.clock import SystemClock
from rollouts.runtime.objects import ObjectKey
from rollouts.sources.base import ScrapeTarget
from rollouts.sources.scraper import PodScraper
from rollouts.traffic import httproute
from rollouts.traffic.probe import ProbeRequest, probe_request
from tests.kit.faults.objects import CANARY, NAMESPACE, STABLE, TEMPLATE, rollout_object
from tests.kit.polling import eventually

Object = dict[str, Any]
KEY = ObjectKey(NAMESPACE, "mymodel")
LOOPBACK = ProbeSettings(allow=(ip_network("127.0.0.0/8"),))
PROGRAMMED = {"type": "Programmed", "status": "True"}


def gateway_object(port: int = 8080, **status: Any) -> Object:
    return {
        "metadata": {"name": "inference-gateway", "namespace": NAMESPACE},
        "spec": {"listeners": [{"name": "llm-gw", "protocol": "HTTP", "port": port}]},
        "status": {
            "conditions": [PROGRAMMED],
            "addresses": [{"type": "IPAddress", "value": "127.0.0.1"}],
            **status,
        },
    }


def listening(*listeners: Object) -> Object:
    return gateway_object() | {"spec": {"listeners": [{"name": "llm-gw", **one} for one in listeners]}}


@dataclass
class Objects:
    """An API server that has one Gateway, or an error."""

    gateway: Object | Exception

    async def get(self, resource: Any, namespace: str, name: str) -> Object:
        assert resource == kinds.GATEWAY
        if isinstance(self.gateway, Exception):
            raise self.gateway
        return self.gateway


async def find(
    gateway: Object | Exception, settings: ProbeSettings = LOOPBACK, parents: Any = None
) -> GatewayAddress:
    return await find_address(
        cast("Any", Objects(gateway)), parents or TEMPLATE["parentRefs"], NAMESPACE, settings
    )


# --- whom the controller may connect to ------------------------------------------------------------


async def test_the_address_is_what_the_gateway_publishes_at_its_listeners_port() -> None:
    assert await find(gateway_object(9000)) == GatewayAddress(
        ip="127.0.0.1", port=9000, gateway="inference-gateway"
    )


@pytest.mark.parametrize(
    ("gateway", "why"),
    [
        (NotFound("no", status=404), "cannot be read (NotFound)"),
        (Forbidden("no", status=403), "cannot be read (Forbidden)"),
        (gateway_object(conditions=[]), "does not say Programmed"),
        (gateway_object(addresses=[]), "publishes no address"),
        (gateway_object(addresses="x", conditions=[PROGRAMMED, None]), "publishes no address"),
        (gateway_object(addresses=[{"type": "Hostname", "value": "no\x00name"}]), "publishes no address"),
        (listening({"protocol": "TLS", "port": 1}), "no HTTP listener"),
        (listening({"protocol": "HTTPS", "port": 1, "tls": {"mode": "Passthrough"}}), "no HTTP listener"),
        (
            listening(
                {"protocol": "HTTPS", "port": 1, "tls": {"frontendValidation": {"caCertificateRefs": [1]}}}
            ),
            "none that ends TLS and asks for no certificate",
        ),
        (listening({"name": "other", "protocol": "HTTP", "port": 1}), "no HTTP listener"),
        (gateway_object(port=0), "no HTTP listener"),
    ],
)
async def test_why_nobody_can_be_asked(gateway: Object | Exception, why: str) -> None:
    with pytest.raises(Unreachable) as raised:
        await find(gateway)
    assert why in str(raised.value)


HTTPS: Object = {"protocol": "HTTPS", "port": 8443, "hostname": "llm.example"}


@pytest.mark.parametrize(
    ("listeners", "port", "tls"),
    [
        ([HTTPS], 8443, True),
        ([{**HTTPS, "tls": {"mode": "Terminate"}}], 8443, True),
        ([HTTPS, {"protocol": "HTTP", "port": 8080}], 8080, False),
    ],
)
async def test_a_listener_that_ends_tls_is_asked_where_there_is_no_plain_one(
    listeners: list[Object], port: int, tls: bool
) -> None:
    found = await find(listening(*listeners))

    assert (found.port, found.tls, found.host) == (port, tls, "llm.example" if tls else "")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "169.254.169.254",
        "::1",
        "fe80::1",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "ff02::1",
    ],
)
async def test_special_addresses_are_never_connected_to_by_default(address: str) -> None:
    assert not ProbeSettings().allows(ip_address(address))
    with pytest.raises(Unreachable, match="none that probes may connect to"):
        await find(gateway_object(addresses=[{"value": address}]), ProbeSettings())


async def test_a_name_is_resolved_once_and_every_address_of_it_is_checked() -> None:
    named = gateway_object(addresses=[{"type": "Hostname", "value": "localhost"}])
    with pytest.raises(Unreachable, match="none that probes may connect to"):
        await find(named, ProbeSettings())

    found = await find(named, ProbeSettings(allow=(ip_network("127.0.0.0/8"), ip_network("::1/128"))))
    assert found.ip in ("127.0.0.1", "::1")


@pytest.mark.parametrize("address", ["10.1.2.3", "192.168.0.7", "203.0.114.9", "fd00::5"])
def test_private_addresses_are_where_gateways_are_unless_the_administrator_names_others(address: str) -> None:
    only = ProbeSettings(allow=(ip_network("172.16.0.0/12"),))

    assert (ProbeSettings().allows(ip_address(address)), only.allows(ip_address(address))) == (True, False)
    assert only.allows(ip_address("172.16.3.4"))


def test_the_administrators_choice_is_read_from_the_configuration(tmp_path: Any) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("pathProbe: {enabled: false, allow: [10.0.0.0/8, 'fd00::/8']}")
    read = read_config(str(config), Settings()).path_probe

    assert read == ProbeSettings(enabled=False, allow=(ip_network("10.0.0.0/8"), ip_network("fd00::/8")))
    for wrong in (
        "[1]",
        "{allow: 10.0.0.0/8}",
        "{allow: [10.0.0.1/8]}",
        "{allow: [{}]}",
        "{enabled: 1}",
        "{x: 1}",
    ):
        config.write_text(f"pathProbe: {wrong}")
        with pytest.raises(SettingsError, match="pathProbe"):
            read_config(str(config), Settings())


# --- what is asked ---------------------------------------------------------------------------------


def template(*rules: Object, **fields: Any) -> Object:
    return {"parentRefs": [{"name": "gw"}], "rules": list(rules), **fields}


def path(value: Any, kind: str = "PathPrefix", **match: Any) -> Object:
    return {"matches": [{"path": {"type": kind, "value": value}, **match}]}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (template({}), "/v1/models"),
        (template(path("/")), "/v1/models"),
        (template(path("/v1")), "/v1/models"),
        (template(path("/v1/models")), "/v1/models"),
        (template(path("/llama")), "/llama/v1/models"),
        (template(path("/team/llama/")), "/team/llama/v1/models"),
        (template({"backendRefs": [{"name": "x"}], **path("/x")}, path("/y")), "/y/v1/models"),
        (template(path("/v1/models", "Exact")), "/v1/models"),
    ],
)
def test_the_request_is_one_that_the_first_open_rule_matches(given: Object, wanted: str) -> None:
    assert probe_request(given) == ProbeRequest(path=wanted)


@pytest.mark.parametrize(
    ("names", "host"),
    [
        (["api.example.com"], "api.example.com"),
        (["*.example.com"], "probe.example.com"),
        (["a b\r\nx: y"], ""),
    ],
)
def test_the_host_is_the_routes_first(names: list[str], host: str) -> None:
    assert probe_request(template({}, hostnames=names)) == ProbeRequest(path="/v1/models", host=host)


@pytest.mark.parametrize(
    "given",
    [
        template(path("/v1/chat/completions", "Exact")),
        template(path("/v.*", "RegularExpression")),
        template(path("/x", headers=[{"name": "Metadata-Flavor", "value": "Google"}])),
        template(path("/", method="POST")),
        template(path("/", queryParams=[{"name": "a", "value": "b"}])),
        template(path("/../admin")),
        template(path("/a?b=c#d")),
        template(path("/a\r\nx: y")),
        template(path(7)),
        template(*({} for _ in range(16))),
    ],
)
def test_nothing_else_is_asked(given: Object) -> None:
    assert isinstance(probe_request(given), str)


# --- the rule in the route -------------------------------------------------------------------------


def probing(token: str) -> HeaderRouteStep:
    return HeaderRouteStep(name=PROBE_ROUTE, match=(HeaderMatch(name=PROBE_HEADER, value=token),))


def test_the_rule_is_one_rule_is_read_back_and_leaves_weights_and_structure_alone() -> None:
    from rollouts.engine.actions import DesiredTraffic
    from rollouts.engine.rollout_spec import HttpRouteTraffic
    from rollouts.engine.versions import Identity
    from rollouts.traffic.writes import Apply
    from rollouts.units import Weight

    two = path("/v1")
    two["matches"].append({"path": {"type": "PathPrefix", "value": "/v2"}})
    given = template(two, path("/other"))
    arms = [
        Identity(kind="InferencePool", group="inference.networking.k8s.io", name=name) for name in ("a", "b")
    ]
    spec = HttpRouteTraffic(name="r", mode=TrafficMode.MANAGED)
    target = httproute.RouteTarget(rollout="mymodel", namespace=NAMESPACE, spec=spec, template=given)
    desired = DesiredTraffic(
        stable=arms[0], canary=arms[1], weight=Weight(0), header_routes=(probing("t0k3n"),)
    )
    write = httproute.render(None, target, desired)
    assert isinstance(write, Apply)
    reader = httproute.Reader(rollout="mymodel", arms=tuple(arms))
    view = httproute.view(write.body, spec, given, reader)

    assert [len(rule["matches"]) for rule in write.body["spec"]["rules"]] == [1, 2, 1]
    assert write.body["spec"]["rules"][0]["matches"][0]["headers"] == [
        {"name": PROBE_HEADER, "type": "Exact", "value": "t0k3n"}
    ]
    assert (view.header_routes, view.structure_current) == ((probing("t0k3n"),), True)
    assert [dict(rule.entries) for rule in view.rules] == [{arms[0]: 100}, {arms[0]: 100}]


# --- the requests, on a real socket ----------------------------------------------------------------


@dataclass
class Plane:
    """A gateway and the canary's metrics page in one server; it answers ``codes`` in order, the last one for ever."""

    codes: list[int]
    counts: bool = True
    exposes: bool = True
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    counted: int = 0
    port: int = 0
    runner: Any = None

    async def models(self, request: web.Request) -> web.Response:
        code = self.codes[min(len(self.asked), len(self.codes) - 1)]
        self.asked.append((request.host, request.path, request.headers.get(PROBE_HEADER, "")))
        self.counted += self.counts and code < 300
        headers = {"Location": "http://169.254.169.254/"} if code == 302 else {}
        return web.Response(status=code, headers=headers)

    async def metrics(self, _: web.Request) -> web.Response:
        page = f'http_requests_total{{handler="/v1/models"}} {self.counted}\n' if self.exposes else "x 1\n"
        return web.Response(text=page)


@asynccontextmanager
async def serving(plane: Plane) -> AsyncIterator[Plane]:
    app = web.Application()
    app.router.add_get("/metrics", plane.metrics)
    app.router.add_get("/{path:.*}", plane.models)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    plane.port, plane.runner = runner.addresses[0][1], runner
    try:
        yield plane
    finally:
        await runner.cleanup()


class Quick(SystemClock):
    """Real sockets, and no waiting between two requests: a tenth of a second passes with each."""

    def __init__(self) -> None:
        super().__init__()
        self.slept = 0.0

    async def sleep(self, seconds: float) -> None:
        self.slept += seconds
        await asyncio.sleep(0)

    def monotonic(self) -> Any:
        return super().monotonic() + self.slept


def rollout_status(**probe: Any) -> Object:
    revision = {"kind": "InferencePool", "group": "inference.networking.x-k8s.io"}
    record = {"since": "2030-01-01T00:00:00Z", **probe}
    return {
        "phase": "Progressing",
        "stable": {**revision, "name": STABLE, "hash": "1" * 64},
        "canary": {**revision, "name": CANARY, "hash": "2" * 64},
        "attempt": 1,
        "startedAt": "2030-01-01T00:00:00Z",
        "weight": {"desired": 0, "applied": 0},
        "probe": record,
    }


class Look:
    """One Rollout whose probe is looked at as plans do."""

    def __init__(self, plane: Plane, *, mode: str = "Report", settings: ProbeSettings = LOOPBACK) -> None:
        self.scraper = PodScraper(Quick())
        self.told: list[ObjectKey] = []
        client = Objects(gateway_object(plane.port))
        self.prober = Prober(cast("Any", client), self.scraper, Quick(), settings)
        self.prober.on_change = self.told.append
        self.rollout = rollout_object(route={"template": TEMPLATE}, canary={"pathProbe": mode})
        self.traffic = TrafficView(kind="HTTPRoute", name="r", mode=TrafficMode.MANAGED, exists=True)
        endpoint = ScrapeTarget(pod="c-0", ip="127.0.0.1", port=plane.port)
        self.pods = CanaryPods(pool=CANARY, picker="Service v2-epp", endpoints=[endpoint])

    def view(self, token: str = "") -> ProbeView | None:
        parsed = parse_rollout({**self.rollout, "status": rollout_status(token=token)})
        assert not parsed.problems
        return self.prober.view(KEY, parsed, TEMPLATE, self.traffic, self.pods)

    def store(self, token: str, *, programmed: bool = True) -> None:
        parents = ParentsView(programmed=programmed)
        self.traffic = replace(self.traffic, header_routes=(probing(token),), parents=parents)

    async def come_to(self, what: Callable[[ProbeView], Any], token: str = "") -> ProbeView:
        def look() -> ProbeView | None:
            found = self.view(token)
            return found if found is not None and what(found) else None

        found = await eventually(look)
        assert found is not None
        return found

    async def verdict(self) -> tuple[ProbeVerdict | None, str]:
        token = (await self.come_to(lambda view: view.offered)).offered
        self.store(token)
        found = await self.come_to(lambda view: view.verdict, token)
        await self.scraper.close()
        return found.verdict, found.message


CASES: list[tuple[Plane, ProbeVerdict, str]] = [
    (Plane([200]), ProbeVerdict.PASSED, "3 requests through Gateway inference-gateway answered"),
    (Plane([503, 404, 200]), ProbeVerdict.PASSED, "answered"),
    (Plane([200], exposes=False), ProbeVerdict.PASSED, "answered"),
    (Plane([500]), ProbeVerdict.FAILED, "DestinationRule"),
    (Plane([503]), ProbeVerdict.FAILED, "no endpoint"),
    (Plane([502]), ProbeVerdict.FAILED, "another protocol"),
    (Plane([504]), ProbeVerdict.FAILED, "in time"),
    (Plane([599]), ProbeVerdict.FAILED, "gateway's log"),
    (Plane([200], counts=False), ProbeVerdict.FAILED, "the canary's pods counted none"),
    (Plane([401]), ProbeVerdict.NOT_JUDGED, "answers 401: not judged"),
    (Plane([403]), ProbeVerdict.NOT_JUDGED, "answers 403"),
    (Plane([404]), ProbeVerdict.NOT_JUDGED, "answers 404"),
    (Plane([429]), ProbeVerdict.NOT_JUDGED, "answers 429"),
    (Plane([302]), ProbeVerdict.NOT_JUDGED, "answers 302"),
]


@pytest.mark.parametrize(
    ("plane", "verdict", "said"), CASES, ids=lambda item: str(getattr(item, "codes", ""))
)
async def test_what_the_answers_mean(plane: Plane, verdict: ProbeVerdict, said: str) -> None:
    fresh = replace(plane, asked=[], counted=0)
    async with serving(fresh):
        look = Look(fresh)
        found = await look.verdict()
        again = look.view(look.traffic.header_routes[0].match[0].value)

    assert found[0] is verdict
    assert said in found[1]
    assert 3 <= len(fresh.asked) <= 10
    assert {asked[1:] for asked in fresh.asked} == {
        ("/v1/models", look.traffic.header_routes[0].match[0].value)
    }
    assert KEY in look.told
    assert again is not None
    assert again.verdict is verdict


async def test_a_listener_with_tls_is_probed_whatever_its_certificate(tmp_path: Path) -> None:
    private, certificate = self_signed_pair("somebody.else")
    (tmp_path / "key.pem").write_bytes(private)
    (tmp_path / "cert.pem").write_bytes(certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    names: list[str | None] = []
    context.sni_callback = lambda _, name, __: names.append(name)
    async with serving(Plane([200])) as plane:
        site = web.TCPSite(plane.runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        look = Look(plane)
        port = plane.runner.addresses[-1][1]
        look.prober._client = cast("Any", Objects(listening({**HTTPS, "port": port})))
        verdict, message = await look.verdict()

    assert verdict is ProbeVerdict.PASSED, message
    assert set(names) == {"llm.example"}


async def test_a_gateway_that_does_not_answer_is_not_judged() -> None:
    async with serving(Plane([200])) as plane:
        look = Look(plane)
        offered = (await look.come_to(lambda view: view.offered)).offered
    look.store(offered)
    found = await look.come_to(lambda view: view.verdict, offered)
    await look.scraper.close()

    assert found.verdict is ProbeVerdict.NOT_JUDGED
    assert "refused" not in found.message


async def test_nothing_is_asked_before_the_rule_is_stored_and_taken_over() -> None:
    async with serving(Plane([200])) as plane:
        look = Look(plane)
        offered = (await look.come_to(lambda view: view.offered)).offered
        look.view(offered)
        look.store("somebody else's")
        look.view(offered)
        look.store(offered, programmed=False)
        look.view(offered)
        await asyncio.sleep(0)
        assert (plane.asked, look.prober._tasks) == ([], set())
        await look.scraper.close()


async def test_secrets_differ_and_a_required_probe_is_made_again_until_it_passes() -> None:
    async with serving(Plane([500] * 11 + [200])) as plane:
        look, other = Look(plane, mode="Require"), Look(plane)
        first = await look.verdict()
        token = look.traffic.header_routes[0].match[0].value
        look.prober._clock.slept += 10.0  # type: ignore[attr-defined]
        second = await look.come_to(lambda view: view.verdict is ProbeVerdict.PASSED, token)
        another = (await other.come_to(lambda view: view.offered)).offered
        await look.scraper.close()

    assert (first[0], second.verdict) == (ProbeVerdict.FAILED, ProbeVerdict.PASSED)
    assert len(token) == 32
    assert token != another


async def test_switched_off_or_hopeless_is_said() -> None:
    off = Look(Plane([200]), settings=ProbeSettings(enabled=False))
    view = off.view()
    assert view is not None
    assert "switched probes off" in view.impossible

    hidden = Look(Plane([200], port=8080), settings=ProbeSettings())
    found = await hidden.come_to(lambda view: view.impossible)
    assert "none that probes may connect to" in found.impossible


def test_no_message_is_longer_than_a_status_keeps() -> None:
    pods = CanaryPods(pool="p" * 253, picker=f"Service {'e' * 253}", endpoints=())
    for code in (None, 302, 404, 500, 502, 503, 504, 599):
        for elsewhere in (True, False):
            assert len(judge(code, pods, "g" * 253, elsewhere=elsewhere)[1]) <= 1024
