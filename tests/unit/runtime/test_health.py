"""These tests open real sockets, on loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter

from rollouts.runtime.health import (
    HttpServer,
    ListenAddress,
    health_routes,
    liveness,
    metrics_routes,
    parse_address,
    readiness,
)
from rollouts.runtime.reflector import Reflector
from rollouts.runtime.supervisor import LoopMonitor

REAL_TIME = True


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("127.0.0.1:8080", ListenAddress("127.0.0.1", 8080)),
        (":8080", ListenAddress("127.0.0.1", 8080)),
        (":0", ListenAddress("127.0.0.1", 0)),
        ("0.0.0.0:9090", ListenAddress("0.0.0.0", 9090)),
        ("[::]:8080", ListenAddress("::", 8080)),
        ("[::1]:65535", ListenAddress("::1", 65535)),
        ("localhost:80", ListenAddress("localhost", 80)),
    ],
)
def test_addresses(text: str, want: ListenAddress) -> None:
    assert parse_address(text) == want


@pytest.mark.parametrize(
    "text",
    ["", "8080", "host", "host:", "host:x", "host:65536", "host:-1", "::1:8080", "[::1:80", "::]:80", "h:٣"],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="is no address: write"):
        parse_address(text)


def test_an_address_prints_as_it_is_written() -> None:
    assert [str(parse_address(text)) for text in ("[::]:80", "1.2.3.4:5")] == ["[::]:80", "1.2.3.4:5"]


@asynccontextmanager
async def serving(routes: list[web.RouteDef], address: str = ":0") -> AsyncIterator[int]:
    server = HttpServer(parse_address(address), routes)
    task = asyncio.create_task(server.run())
    try:
        yield await server.started()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def fetch(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, str, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{host}:{port}{path}") as answer,
    ):
        return answer.status, answer.headers["Content-Type"], await answer.text()


async def test_health_says_what_is_wrong() -> None:
    state = {"live": "", "ready": "not yet listed"}
    routes = health_routes(
        live={"loop": lambda: state["live"]}, ready={"pods": lambda: state["ready"], "routes": lambda: ""}
    )

    async with serving(routes) as port:
        live = [await fetch(port, path) for path in ("/livez", "/healthz")]
        not_ready = await fetch(port, "/readyz")
        state["live"], state["ready"] = "late by 7.0 s", ""
        not_live = await fetch(port, "/livez")
        ready = await fetch(port, "/readyz")
        unknown = await fetch(port, "/")

    assert [(status, text) for status, _, text in live] == [(200, "ok\n")] * 2
    assert (not_ready[0], not_ready[2]) == (503, "pods: not yet listed\n")
    assert (not_live[0], not_live[2]) == (503, "loop: late by 7.0 s\n")
    assert (ready[0], ready[2]) == (200, "ok\n")
    assert unknown[0] == 404


async def test_metrics_are_those_of_the_registry_given() -> None:
    registry = CollectorRegistry()
    Counter("writes", "Writes.", registry=registry).inc(3)

    async with serving(metrics_routes(registry)) as port:
        status, content_type, text = await fetch(port, "/metrics")

    assert status == 200
    assert content_type.startswith("text/plain; version=")
    assert "writes_total 3.0" in text
    assert "python_info" not in text


async def test_it_listens_on_loopback_unless_told_otherwise() -> None:
    async with serving([]) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            assert connection.getsockname()[0] == "127.0.0.1"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=5)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 on this machine")
async def test_all_interfaces_are_those_of_both_families() -> None:
    async with serving(health_routes(live={}, ready={}), "[::]:0") as port:
        assert (await fetch(port, "/livez"))[0] == 200
        assert (await fetch(port, "/livez", "[::1]"))[0] == 200


async def test_a_port_in_use_is_an_error_at_once() -> None:
    async with serving([]) as port:
        with pytest.raises(OSError, match="in use"):
            await HttpServer(ListenAddress("127.0.0.1", port), []).run()


async def test_the_port_is_free_after_the_end() -> None:
    async with serving([]) as port:
        pass
    async with serving([], f":{port}") as again:
        assert again == port


def fake_reflector(*, synced: bool = True, age: float = 1.0, name: str = "pods") -> Reflector:
    return cast("Reflector", SimpleNamespace(name=name, has_synced=synced, activity_age=lambda: age))


def fake_monitor(sustained: float) -> LoopMonitor:
    return cast("LoopMonitor", SimpleNamespace(sustained=lambda: sustained))


@pytest.mark.parametrize(
    ("sentence", "reflector", "lag", "want"),
    [
        ("all is well", {}, 0.0, {}),
        ("a loop that is always late", {}, 5.1, {"event-loop": "late by 5.1 s for a minute"}),
        ("a reflector at a standstill", {"age": 700.0}, 0.0, {"pods": "did nothing for 700 s"}),
        ("one that has not begun is for readiness", {"age": float("inf")}, 0.0, {}),
        ("an empty cache is no reason to restart", {"synced": False}, 0.0, {}),
    ],
)
def test_liveness(sentence: str, reflector: dict[str, Any], lag: float, want: dict[str, str]) -> None:
    checks = liveness([fake_reflector(**reflector)], fake_monitor(lag))

    assert {name: reason for name, check in checks.items() if (reason := check())} == want, sentence


def test_readiness_names_the_caches_that_are_empty() -> None:
    checks: dict[str, Callable[[], str]] = readiness(
        [fake_reflector(), fake_reflector(synced=False, name="routes")]
    )

    assert {name: check() for name, check in checks.items()} == {"pods": "", "routes": "not yet listed"}
