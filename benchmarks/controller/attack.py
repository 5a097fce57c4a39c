"""One tenant attacks, twenty others abort: ``python -m benchmarks.controller.attack`` (``make attack``).

The controller watches all namespaces. In 20 of them a Rollout stands at 50 %; in another one a tenant does what a
tenant may do. Then ten of the twenty are aborted by command, and the metric of the other ten turns bad. Printed is the
time from the command, or from the first bad answer, to 100 % stable in the stored route, for each attack:

- ``cel``: conditions within every static limit that need 6 s of CPU, evaluated each second by 20 runs
- ``conditions``: Rollouts of 128 long conditions each, replaced each second
- ``pages``: 24 pods with metrics pages of one endless line, of 4 MB, and of 49,000 series
- ``drip``: queries and pages that are answered a byte a second
- ``flood``: 200 Rollouts, touched 50 times a second; more would time the in-memory API server, which has no fairness

All servers listen on 127.0.0.0/8; each attack lasts 30 seconds at most.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import re
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from benchmarks.controller.attack_objects import (
    MALLORY,
    edited,
    flooding,
    hostile_pods,
    hostile_runs,
    small,
    team,
)
from rollouts.api.crds import all_crds
from rollouts.api.parsing import COMMAND_ANNOTATION
from rollouts.kube.client import KubeClient, PatchKind, Resource
from rollouts.kube.errors import KubeError
from rollouts.kube.http import HttpKubeClient, open_client
from rollouts.lab.controlplane.upstream import install_crds, install_upstream_crds
from rollouts.lab.environment import apply_objects
from rollouts.lab.loopback import loopback
from rollouts.lab.processes import ChildProcess, free_port
from rollouts.objects import kinds
from rollouts.runtime.clock import SystemClock
from rollouts.runtime.objects import ObjectKey
from rollouts.runtime.reflector import Reflector
from rollouts.runtime.store import Store
from tests.kit.polling import eventually
from tests.kit.stubgateway import stub_gateway

TARGET = 2.0
_TOUCHES = 50
_QUADRATIC = "result.all(a, result.all(b, a.value == b.value || true)) && false"
_ENDLESS = b'vllm:request_success_total{finished_reason="' + b"a" * 200_000
_MANY = b"".join(b'vllm:request_success_total{finished_reason="r%d"} 1\n' % n for n in range(49_000))
_LARGE = _MANY + b"# " + b"x" * (4_000_000 - len(_MANY)) + b"\n"
_PAGES = (_ENDLESS, _LARGE, _MANY)


@dataclass(slots=True)
class Servers:
    """A Prometheus for all, and Mallory's pods; ``bad`` teams, and when the first of each was told so."""

    bad: set[str] = field(default_factory=set)
    told: dict[str, float] = field(default_factory=dict)
    dripping: bool = False
    url: str = ""
    port: int = 0
    addresses: list[str] = field(default_factory=list)

    async def query(self, request: web.Request) -> web.StreamResponse:
        """``/api/v1/query``: 0 or 1 for a team; a byte a second, or a hundred series, for Mallory."""
        asked = (await request.post() if request.method == "POST" else request.query).get("query", "")
        if "drip" in str(asked):
            return await _drip(request)
        if "many" in str(asked):
            return _vector([({"pod": f"p{n}"}, "1") for n in range(100)])
        found = re.search(r'team="([^"]*)"', str(asked))
        name = found[1] if found else ""
        if name in self.bad:
            self.told.setdefault(name, time.monotonic())
        return _vector([({}, "1" if name in self.bad else "0")])

    async def page(self, request: web.Request) -> web.StreamResponse:
        """``/metrics`` of one of Mallory's pods."""
        if self.dripping:
            return await _drip(request)
        last = int(request.host.split(":")[0].rsplit(".", 1)[1])
        return web.Response(body=_PAGES[last % len(_PAGES)], content_type="text/plain")


async def _drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        for _ in range(60):
            await response.write(b" ")
            await asyncio.sleep(1.0)
    return response


def _vector(series: list[tuple[dict[str, str], str]]) -> web.Response:
    result = [{"metric": labels, "value": [time.time(), value]} for labels, value in series]
    return web.json_response({"status": "success", "data": {"resultType": "vector", "result": result}})


@contextlib.asynccontextmanager
async def _serving(pods: int) -> AsyncIterator[Servers]:
    servers = Servers()
    app = web.Application()
    app.router.add_route("*", "/api/v1/query", servers.query)
    app.router.add_get("/metrics", servers.page)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    servers.port = runner.addresses[0][1]
    servers.addresses = [loopback(200, 1 + n) for n in range(pods)]
    for address in servers.addresses:
        await web.TCPSite(runner, address, servers.port).start()
    servers.url = f"http://127.0.0.1:{servers.port}"
    try:
        yield servers
    finally:
        await runner.cleanup()


@dataclass(slots=True)
class Field:
    """The cluster with its teams."""

    client: HttpKubeClient
    servers: Servers
    teams: list[str]
    routes: Store
    """All routes by one watch: twenty polls would load the machine that is measured."""
    stable_since: dict[str, float] = field(default_factory=dict)

    def look(self, key: ObjectKey) -> None:
        """A route changed: note since when it is at 100 % stable."""
        if self.weight(key.namespace) == 0:
            self.stable_since.setdefault(key.namespace, time.monotonic())
        else:
            self.stable_since.pop(key.namespace, None)

    def weight(self, namespace: str) -> int:
        """The canary's weight in the stored route."""
        route = self.routes.get(ObjectKey(namespace, "route"))
        refs = route["spec"]["rules"][0]["backendRefs"] if route is not None else []
        return next((int(ref["weight"]) for ref in refs if ref["name"] == "v2"), 0)

    async def prepare(self) -> None:
        """Wait until every team stands at 50 %; aborted ones are retried."""
        self.servers.bad.clear()
        self.servers.told.clear()

        async def standing(namespace: str) -> None:
            async def paused() -> bool:
                found = (await self.client.get(kinds.ROLLOUT, namespace, "mymodel")).get("status") or {}
                if found.get("phase") == "Aborted":
                    await self.command(namespace, "retry")
                await asyncio.sleep(0.3)  # twenty of these ask the same server
                return found.get("phase") == "Paused" and self.weight(namespace) > 0

            await eventually(paused, timeout=120)

        await asyncio.gather(*map(standing, self.teams))

    async def command(self, namespace: str, action: str) -> None:
        """Write the command annotation."""
        status = (await self.client.get(kinds.ROLLOUT, namespace, "mymodel")).get("status") or {}
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 1)) + f"#{uuid.uuid4().hex[:8]}"
        raw = json.dumps({"action": action, "revision": status["canary"]["hash"], "at": at})
        body = {"metadata": {"annotations": {COMMAND_ANNOTATION: raw}}}
        await self.client.patch(kinds.ROLLOUT, namespace, "mymodel", body, kind=PatchKind.MERGE)

    async def abort(self, namespace: str, *, by_metric: bool) -> float:
        """Seconds from the decision to 100 % stable."""
        if by_metric:
            self.servers.bad.add(namespace)
            begun = math.inf
        else:
            await self.command(namespace, "abort")
            begun = time.monotonic()
        try:
            await eventually(lambda: self._ended(namespace), timeout=60)
        except TimeoutError:
            return 60.0
        decided = self.servers.told.get(namespace, begun) if by_metric else begun
        return max(0.0, self.stable_since[namespace] - decided)

    async def _ended(self, namespace: str) -> bool:
        await asyncio.sleep(0.1)
        return namespace in self.stable_since


# --- attacks: each prepares, and goes on until it is cancelled -------------------------------------


async def _nothing(field: Field) -> None:
    await asyncio.Event().wait()


async def _cel(field: Field) -> None:
    runs = hostile_runs(20, {"query": "many"}, _QUADRATIC)
    runs = [{**run, "spec": _varied(run["spec"], number)} for number, run in enumerate(runs)]
    await _apply(field.client, runs)
    await asyncio.Event().wait()


def _varied(spec: dict[str, Any], number: int) -> dict[str, Any]:
    """Another condition for each run: what was refused once is not tried again."""
    (metric,) = spec["metrics"]
    return {**spec, "metrics": [{**metric, "failureCondition": f"{_QUADRATIC} || {number} < 0"}]}


async def _conditions(field: Field) -> None:
    rollouts = flooding(6)
    for turn in range(30):
        await _apply(field.client, [edited(one, turn) for one in rollouts] if turn else rollouts)
        await asyncio.sleep(1.0)


async def _pages(field: Field) -> None:
    await _apply(field.client, hostile_pods(field.servers.addresses, field.servers.port))
    measure = {"source": "pods", "measure": {"preset": "error-rate", "window": "10s"}}
    await _apply(field.client, hostile_runs(10, measure, "result > 2.0"))
    await asyncio.Event().wait()


async def _dripping(field: Field) -> None:
    field.servers.dripping = True
    await _apply(field.client, hostile_pods(field.servers.addresses, field.servers.port))
    await _apply(field.client, hostile_runs(40, {"query": "drip"}, "result > 2.0"))
    await asyncio.Event().wait()


async def _flood(field: Field) -> None:
    rollouts = [{**one, "metadata": {"name": f"f{number}"}} for number, one in enumerate([small()] * 200)]
    await _apply(field.client, rollouts)
    end, turn = time.monotonic() + 30, 0
    while time.monotonic() < end:
        body = {"metadata": {"annotations": {"touched": str(turn)}}}
        await field.client.patch(kinds.ROLLOUT, MALLORY, f"f{turn % 200}", body, kind=PatchKind.MERGE)
        turn += 1
        await asyncio.sleep(1 / _TOUCHES)
    await asyncio.Event().wait()


ATTACKS: dict[str, Callable[[Field], Awaitable[None]]] = {
    "none": _nothing,
    "cel": _cel,
    "conditions": _conditions,
    "pages": _pages,
    "drip": _dripping,
    "flood": _flood,
}


async def _apply(client: KubeClient, objects: list[dict[str, Any]], namespace: str = MALLORY) -> None:
    await apply_objects(client, objects, namespace=namespace)
    for obj in objects:
        if "status" in obj:
            resource = Resource("", "v1", "pods", "Pod")
            body, name = {"status": obj["status"]}, obj["metadata"]["name"]
            await client.patch(resource, namespace, name, body, kind=PatchKind.MERGE, subresource="status")


async def _clean(field: Field) -> None:
    field.servers.dripping = False
    for resource in (kinds.ANALYSIS_RUN, kinds.ROLLOUT, kinds.POD, kinds.POOL_V1):
        page = await field.client.list_page(resource, MALLORY)
        for item in page.items:
            with contextlib.suppress(KubeError):
                await field.client.delete(resource, MALLORY, item["metadata"]["name"], grace_period_seconds=0)


@contextlib.asynccontextmanager
async def _field(directory: Path, teams: int) -> AsyncIterator[Field]:
    """API server and controller as processes, the teams' objects in place."""
    kubeconfig = directory / "kubeconfig"
    python = [sys.executable, "-m"]
    api = ChildProcess(
        "api",
        [*python, "rollouts.lab.memoryapi", f"--kubeconfig={kubeconfig}"],
        log_path=directory / "api.log",
    )
    await api.start()
    async with _serving(24) as servers:
        await eventually(lambda: kubeconfig.exists() and "current" in kubeconfig.read_text(), timeout=60)
        config, health = directory / "config.yaml", free_port()
        config.write_text(json.dumps({"sources": {"default": {"url": servers.url, "timeout": "10s"}}}))
        arguments = ["--all-namespaces", "--no-leader-elect", f"--config={config}", "--log-format=json"]
        arguments += [f"--health-address=127.0.0.1:{health}", "--metrics-address=127.0.0.1:0"]
        command = [*python, "rollouts.cli", "controller", f"--kubeconfig={kubeconfig}", *arguments]
        controller = ChildProcess("controller", command, log_path=directory / "controller.log")
        try:
            async with await open_client(str(kubeconfig), field_manager="kubectl") as client:
                await install_upstream_crds(client)
                await install_crds(client, all_crds())
                names = [f"team-{number:02d}" for number in range(teams)]
                for name in names:
                    await _apply(client, team(name, servers.port), name)
                await controller.start()
                await eventually(lambda: _ready(health), timeout=60)
                async with stub_gateway(client.with_field_manager("attack-gateway"), None):
                    routes = Store()
                    made = Field(client=client, servers=servers, teams=names, routes=routes)
                    routes.subscribe(made.look)
                    watch = Reflector(client, kinds.HTTP_ROUTE, routes, SystemClock(), namespace=None)
                    watching = asyncio.ensure_future(watch.run())
                    yield made
                    watching.cancel()
        finally:
            await controller.stop(grace=10)
            await api.stop(grace=5)


async def _ready(port: int) -> bool:
    await asyncio.sleep(0.2)
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{port}/readyz") as answer,
        ):
            return answer.status == 200
    except aiohttp.ClientError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Seconds of the aborts under one attack, ascending."""

    attack: str
    by_command: list[float]
    by_metric: list[float]

    @property
    def worst(self) -> float:
        """The 99th percentile of a few dozen is the largest."""
        return max([*self.by_command, *self.by_metric])


async def measure(*, attacks: list[str], teams: int = 20, head_start: float = 5.0) -> list[Outcome]:
    """All attacks in turn, each with every team's abort."""
    outcomes = []
    with tempfile.TemporaryDirectory() as directory:
        async with _field(Path(directory), teams) as field:
            for name in attacks:
                await field.prepare()
                attack = asyncio.ensure_future(ATTACKS[name](field))
                await asyncio.wait({attack}, timeout=head_start)
                aborts = [field.abort(one, by_metric=index % 2 == 1) for index, one in enumerate(field.teams)]
                seconds = await asyncio.gather(*aborts)
                attack.cancel()
                await asyncio.wait({attack})
                if not attack.cancelled() and attack.exception() is not None:
                    raise RuntimeError(f"attack {name} did not run") from attack.exception()
                await _clean(field)
                outcomes.append(
                    Outcome(attack=name, by_command=sorted(seconds[::2]), by_metric=sorted(seconds[1::2]))
                )
                found = outcomes[-1]
                print(
                    f"{name:<11} by command: median {_median(found.by_command):.2f} s, "
                    f"worst {found.by_command[-1]:.2f} s; by metric: median {_median(found.by_metric):.2f} s, "
                    f"worst {found.by_metric[-1]:.2f} s",
                    flush=True,
                )
    return outcomes


def _median(values: list[float]) -> float:
    return values[len(values) // 2]


def main() -> None:
    """Print the figures; exit status 1 when an abort took longer than 2 s."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("attacks", nargs="*", choices=[[], *ATTACKS], help="which; else all")
    parser.add_argument("--teams", type=int, default=20)
    options = parser.parse_args()
    outcomes = asyncio.run(measure(attacks=options.attacks or list(ATTACKS), teams=options.teams))
    worst = max(outcome.worst for outcome in outcomes)
    print(f"worst abort under attack: {worst:.2f} s (target: p99 <= {TARGET:g} s)")
    sys.exit(worst > TARGET)


if __name__ == "__main__":
    main()
