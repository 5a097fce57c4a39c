"""Real Envoy: shares follow the weights, live, and only the share of a broken backend is lost."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from rollouts.lab.gateway.service import GATEWAYS, POOLS_V1, POOLS_V1ALPHA2
from rollouts.lab.gateway.status import CONTROLLER_NAME
from rollouts.lab.traffic import Traffic, TrafficSpec
from tests.kit.dataplane import NAMESPACE, DataPlane, backend
from tests.kit.polling import eventually

BODY = {"model": "mymodel", "prompt": "hello", "max_tokens": 1}


async def ask(http: aiohttp.ClientSession, url: str, **headers: str) -> tuple[int, str]:
    """Status, and the pod that answered."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with http.post(f"{url}/v1/completions", json=BODY, headers=named) as answer:
        await answer.read()
        return answer.status, answer.headers.get("x-inference-pod", "")


async def sample(http: aiohttp.ClientSession, url: str, count: int) -> Counter[tuple[int, str]]:
    return Counter(await asyncio.gather(*(ask(http, url) for _ in range(count))))


def exists(pid: int) -> bool:
    """Whether a process of this id runs; one that only waits to be reaped has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def tail(hits: int, count: int, share: float) -> float:
    """The smaller exact binomial tail: probability of so few, or so many, hits."""
    mass = [math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(count + 1)]
    return min(sum(mass[: hits + 1]), sum(mass[hits:]))


@pytest.mark.parametrize("resource", [POOLS_V1, POOLS_V1ALPHA2], ids=["v1", "v1alpha2"])
async def test_shares_follow_the_weights(
    dataplane: DataPlane, http: aiohttp.ClientSession, resource: object
) -> None:
    assert resource in (POOLS_V1, POOLS_V1ALPHA2)
    group = POOLS_V1 if resource == POOLS_V1 else POOLS_V1ALPHA2
    for name in ("v1", "v2"):
        await dataplane.add_pool(name, resource=group)
    seen = {}
    for weights in ((100, 0), (90, 10), (0, 100)):
        pools = zip(("v1", "v2"), weights, strict=True)
        await dataplane.route(*(backend(name, weight, group.group) for name, weight in pools))
        seen[weights] = await sample(http, dataplane.url, 400)

    assert seen[100, 0] == {(200, "v1-0"): 400}
    assert seen[0, 100] == {(200, "v2-0"): 400}
    assert seen[90, 10].keys() == {(200, "v1-0"), (200, "v2-0")}
    assert tail(seen[90, 10][200, "v2-0"], 400, 0.1) > 1e-7


@pytest.mark.slow
async def test_weights_and_pools_that_change_under_load_drop_no_request(dataplane: DataPlane) -> None:
    for name in ("v1", "v2", "v3"):
        await dataplane.add_pool(name, pods=2)
    await dataplane.route(backend("v1", 100), backend("v2", 0))
    spec = TrafficSpec(url=dataplane.url, rate=150, seconds=4, max_tokens=8)
    async with Traffic(spec) as traffic:
        weight = 0
        while traffic.running:
            weight = (weight + 7) % 101
            # The second backend itself changes too, so clusters come and go, not only weights.
            other = ("v2", "v3")[weight % 2]
            await dataplane.route(backend("v1", 100 - weight), backend(other, weight))
            await asyncio.sleep(0.02)
    window = traffic.window(0)

    assert {result.status for result in window.results} == {200}, [
        result.error for result in window.results if result.failed
    ]
    assert window.failed == 0
    assert len(window) > 400
    assert {pod.partition("-")[0] for pod in {result.pod for result in window.results}} == {"v1", "v2", "v3"}


async def test_a_new_weight_is_in_force_when_the_status_says_so(
    dataplane: DataPlane, http: aiohttp.ClientSession
) -> None:
    for name in ("v1", "v2"):
        await dataplane.add_pool(name)
    for turn in range(10):
        first, second = ("v1", "v2") if turn % 2 else ("v2", "v1")
        await dataplane.route(backend(first, 0), backend(second, 100))
        assert await sample(http, dataplane.url, 16) == {(200, f"{second}-0"): 16}


async def test_a_pool_without_ready_pods_costs_503_for_its_share_only(
    dataplane: DataPlane, http: aiohttp.ClientSession
) -> None:
    for name in ("v1", "v2"):
        await dataplane.add_pool(name)
    await dataplane.route(backend("v1", 50), backend("v2", 50))
    await dataplane.set_ready("v2-0", False)

    async def without_v2() -> bool:
        return (200, "v2-0") not in await sample(http, dataplane.url, 32)

    await eventually(without_v2)
    seen = await sample(http, dataplane.url, 200)

    assert seen.keys() == {(200, "v1-0"), (503, "")}
    assert tail(seen[503, ""], 200, 0.5) > 1e-7

    await dataplane.set_ready("v2-0", True)
    await eventually(lambda: _all_good(http, dataplane.url))


async def _all_good(http: aiohttp.ClientSession, url: str) -> bool:
    return {status for status, _ in await sample(http, url, 32)} == {200}


async def test_a_missing_pool_is_reported_and_costs_500_for_its_share_only(
    dataplane: DataPlane, http: aiohttp.ClientSession
) -> None:
    await dataplane.add_pool("v1")
    parent = await dataplane.route(backend("v1", 50), backend("v2", 50))
    conditions = {c["type"]: (c["status"], c["reason"]) for c in parent["conditions"]}
    seen = await sample(http, dataplane.url, 200)

    assert conditions == {"Accepted": ("True", "Accepted"), "ResolvedRefs": ("False", "BackendNotFound")}
    assert seen.keys() == {(200, "v1-0"), (500, "")}

    await dataplane.add_pool("v2")
    await eventually(lambda: _all_good(http, dataplane.url))


async def test_a_pool_that_is_deleted_is_reported(dataplane: DataPlane) -> None:
    await dataplane.add_pool("v1")
    await dataplane.route(backend("v1", 1))
    await dataplane.client.delete(POOLS_V1ALPHA2, NAMESPACE, "v1")

    await eventually(lambda: _resolved_refs(dataplane, "BackendNotFound"))


async def _resolved_refs(dataplane: DataPlane, reason: str) -> bool:
    parent = await dataplane.parent_status("route")
    return any(c["type"] == "ResolvedRefs" and c["reason"] == reason for c in parent["conditions"])


async def test_no_weight_at_all_is_500(dataplane: DataPlane, http: aiohttp.ClientSession) -> None:
    await dataplane.add_pool("v1")
    await dataplane.route(backend("v1", 0))

    assert await sample(http, dataplane.url, 4) == {(500, ""): 4}


async def test_a_header_reaches_the_canary_whatever_the_weight(
    dataplane: DataPlane, http: aiohttp.ClientSession
) -> None:
    for name in ("v1", "v2"):
        await dataplane.add_pool(name)
    await dataplane.route_rules(
        [
            {"backendRefs": [backend("v1", 100), backend("v2", 0)]},
            {
                "matches": [{"headers": [{"name": "X-Canary", "value": "yes"}]}],
                "backendRefs": [backend("v2", 1)],
            },
        ]
    )
    asked = {value: await ask(http, dataplane.url, x_canary=value) for value in ("yes", "no")}

    assert asked == {"yes": (200, "v2-0"), "no": (200, "v1-0")}


async def test_filters_change_headers_and_paths(dataplane: DataPlane, http: aiohttp.ClientSession) -> None:
    await dataplane.add_pool("v1", api_key="secret")
    credentials = {"set": [{"name": "Authorization", "value": "Bearer secret"}]}
    filters = [
        {"type": "RequestHeaderModifier", "requestHeaderModifier": credentials},
        {
            "type": "ResponseHeaderModifier",
            "responseHeaderModifier": {"add": [{"name": "x-share", "value": "10%"}], "remove": ["server"]},
        },
        {
            "type": "URLRewrite",
            "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}},
        },
    ]
    rule = {"matches": [{"path": {"value": "/llm"}}], "filters": filters, "backendRefs": [backend("v1", 1)]}
    await dataplane.route_rules([rule])
    async with http.get(f"{dataplane.url}/llm/v1/models") as answer:
        assert (answer.status, answer.headers["x-share"]) == (200, "10%")
        assert [card["id"] for card in (await answer.json())["data"]] == ["mymodel"]
    async with http.get(f"{dataplane.url}/llmx/v1/models") as answer:
        assert answer.status == 404


@pytest.mark.parametrize(
    ("prefix", "replacement", "asked", "status"),
    [
        ("/llm", "/v1", "/llm/models", 200),
        ("/llm", "/v1/", "/llm/models", 200),
        ("/llm/models", "/v1/models", "/llm/models", 200),
        ("/", "/v1", "/models", 200),
        ("/l.m", "/v1", "/llm/models", 404),
    ],
)
async def test_prefixes_are_replaced_without_doubled_or_lost_slashes(
    dataplane: DataPlane,
    http: aiohttp.ClientSession,
    prefix: str,
    replacement: str,
    asked: str,
    status: int,
) -> None:
    await dataplane.add_pool("v1")
    path = {"type": "ReplacePrefixMatch", "replacePrefixMatch": replacement}
    rule = {
        "matches": [{"path": {"value": prefix}}],
        "filters": [{"type": "URLRewrite", "urlRewrite": {"path": path}}],
        "backendRefs": [backend("v1", 1)],
    }
    await dataplane.route_rules([rule])
    async with http.get(dataplane.url + asked) as answer:
        assert answer.status == status


async def test_a_broken_route_does_not_hold_up_the_others(
    dataplane: DataPlane, http: aiohttp.ClientSession
) -> None:
    await dataplane.add_pool("v1")
    bad = {"matches": [{"path": {"type": "RegularExpression", "value": "("}}]}
    refused = await dataplane.route_rules([bad], name="bad")
    await dataplane.route(backend("v1", 1))

    assert [(c["type"], c["reason"]) for c in refused["conditions"]] == [("Accepted", "UnsupportedValue")]
    assert await ask(http, dataplane.url) == (200, "v1-0")


async def test_a_crashed_pod_is_passed_over_for_another_of_its_pool(
    dataplane: DataPlane, http: aiohttp.ClientSession
) -> None:
    first, _ = await dataplane.add_pool("v1", pods=2)
    await dataplane.route(backend("v1", 1))
    first.crash()

    assert await sample(http, dataplane.url, 40) == {(200, "v1-1"): 40}


async def test_the_gateway_says_where_it_listens(dataplane: DataPlane) -> None:
    status = (await dataplane.gateway_status())["conditions"]

    assert {(c["type"], c["status"]) for c in status} == {("Accepted", "True"), ("Programmed", "True")}
    assert dataplane.url == dataplane.gateway.urls[NAMESPACE, "gw", 8080]


@pytest.mark.slow
async def test_envoy_is_started_again_when_it_dies(dataplane: DataPlane, http: aiohttp.ClientSession) -> None:
    await dataplane.add_pool("v1")
    await dataplane.route(backend("v1", 1))
    before = dataplane.gateway.envoy.pid
    os.kill(before, signal.SIGKILL)

    async def serves() -> bool:
        try:
            return await ask(http, dataplane.url) == (200, "v1-0")
        except aiohttp.ClientError:
            return False

    await eventually(lambda: dataplane.gateway.envoy.pid != before)
    await eventually(serves, timeout=20)


async def test_a_weight_is_in_force_within_a_tenth_of_a_second(dataplane: DataPlane) -> None:
    for name in ("v1", "v2"):
        await dataplane.add_pool(name)
    await dataplane.route(backend("v1", 1))
    took = []
    for weight in range(20):
        began = time.perf_counter()
        await dataplane.route(backend("v1", 100 - weight), backend("v2", weight))
        took.append(time.perf_counter() - began)

    assert sorted(took)[10] < 0.1


async def test_a_port_that_is_taken_is_replaced_and_reported(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with DataPlane(tmp_path, port=port) as plane:
            await plane.add_pool("v1")
            await plane.route(backend("v1", 1))

            assert plane.url != f"http://127.0.0.1:{port}"
            assert await ask(http, plane.url) == (200, "v1-0")


async def test_two_gateways_that_ask_for_one_port_get_two(dataplane: DataPlane) -> None:
    spec = {"listeners": [{"name": "http", "port": 8080, "protocol": "HTTP"}]}
    await dataplane.create(GATEWAYS, "second", {"spec": spec})
    await eventually(lambda: len(dataplane.gateway.urls) == 2)

    assert len(set(dataplane.gateway.urls.values())) == 2


async def test_no_envoy_is_left_behind(tmp_path: Path) -> None:
    async with DataPlane(tmp_path) as plane:
        pid = plane.gateway.envoy.pid
        assert exists(pid)

    assert not exists(pid)


@pytest.mark.slow
def test_no_envoy_outlives_a_killed_lab(tmp_path: Path) -> None:
    code = f"""
import asyncio, pathlib
from tests.kit.dataplane import DataPlane
async def main():
    async with DataPlane(pathlib.Path({str(tmp_path)!r})) as plane:
        print("pid", plane.gateway.envoy.pid, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as lab:
        assert lab.stdout is not None
        pid = next(int(line.split()[1]) for line in lab.stdout if line.startswith("pid "))
        assert exists(pid)
        lab.kill()
    deadline = time.monotonic() + 10
    while exists(pid) and time.monotonic() < deadline:
        os.sched_yield()

    assert not exists(pid)


async def test_the_pools_say_that_the_gateway_accepts_them(dataplane: DataPlane) -> None:
    await dataplane.add_pool("v1")
    await dataplane.add_pool("v2", resource=POOLS_V1)
    await dataplane.add_pool("unused")
    await dataplane.route(backend("v1", 1), backend("v2", 1, POOLS_V1.group))
    old = await eventually(lambda: dataplane.pool_status(POOLS_V1ALPHA2, "v1"))
    new = await eventually(lambda: dataplane.pool_status(POOLS_V1, "v2"))

    for entry in (old["parent"][0], new["parents"][0]):
        assert entry["parentRef"]["name"] == "gw"
        assert {(c["type"], c["status"], c["reason"]) for c in entry["conditions"]} == {
            ("Accepted", "True", "Accepted"),
            ("ResolvedRefs", "False", "InvalidExtensionRef"),
        }
    assert new["parents"][0]["controllerName"] == CONTROLLER_NAME
    assert await dataplane.pool_status(POOLS_V1ALPHA2, "unused") == {}
