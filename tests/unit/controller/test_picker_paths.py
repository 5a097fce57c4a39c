"""What lies between a gateway and an arm's pods, read from objects, and the health that our own pickers tell."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from aiohttp import web

from rollouts.analysis.types import ArmRef
from rollouts.controller.assembly import pool_endpoints
from rollouts.controller.caches import Caches
from rollouts.controller.crashes import CrashWatch
from rollouts.controller.pages import metrics_pages
from rollouts.controller.picker_health import HealthAnswer, PickerHealthWatch, ask
from rollouts.controller.pickers import PickerPaths, gateways_of
from rollouts.controller.wakes import on_rollout_change
from rollouts.engine.observation import PathView, PoolView
from rollouts.engine.versions import Identity
from rollouts.lab.processes import free_port
from rollouts.objects import kinds
from rollouts.objects.pods import PickerPod, Pod, health_port, read_pod
from rollouts.objects.pools import read_pool
from rollouts.picker.server import PickerServer, ServerConfig
from rollouts.runtime.clock import SystemClock
from rollouts.runtime.objects import ObjectKey
from rollouts.sources.scraper import PodHistory, PodScraper
from tests.kit.clock import Timeline, VirtualClock
from tests.kit.polling import eventually

Object = dict[str, Any]
KEY = ObjectKey("default", "demo")
X = kinds.POOL_X.group
ROUTE = {"parentRefs": [{"name": "gw"}]}


def pool_object(name: str, *, picker: str = "", status: Object | None = None, **ref: Any) -> Object:
    return {
        "apiVersion": f"{X}/v1alpha2",
        "kind": "InferencePool",
        "metadata": {"name": name, "namespace": "default", "uid": name, "resourceVersion": "1"},
        "spec": {"selector": {"release": name}, "extensionRef": {"name": picker or f"{name}-epp", **ref}},
        "status": status or {},
    }


def service_object(name: str, selector: Object) -> Object:
    meta = {"name": name, "namespace": "default", "uid": name, "resourceVersion": "1"}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"selector": selector}}


def pod_object(name: str, labels: Object, *, ready: bool = True) -> Object:
    meta = {"name": name, "namespace": "default", "uid": name, "resourceVersion": "1", "labels": labels}
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": meta,
        "status": {"podIP": "127.0.0.9", "conditions": [condition]},
    }


class Stage:
    """Caches with two pools; ``path`` is what the canary's view says."""

    def __init__(self) -> None:
        self.caches = Caches(cast("Any", None), VirtualClock(Timeline()), namespaces=("default",))
        self.put(pool_object("v1"), pool_object("v2"))
        for name in ("v1", "v2"):
            self.put(service_object(f"{name}-epp", {"app": f"{name}-epp"}))
            self.put(pod_object(f"{name}-epp-0", {"app": f"{name}-epp"}))

    def put(self, *objects: Object) -> None:
        stores = {
            "InferencePool": self.caches.pools[X],
            "Service": self.caches.services,
            "Pod": self.caches.pods,
        }
        for number, obj in enumerate(objects):
            store = stores[obj["kind"]]
            version = str(int(store.latest_version() or "0") + number + 1)
            obj["metadata"]["resourceVersion"] = version
            store.apply(obj)

    def path(self, route: Any = ROUTE) -> PathView:
        arms = [Identity(kind="InferencePool", group=X, name=name) for name in ("v1", "v2")]
        views = {arm: PoolView(identity=arm, exists=True, ready_endpoints=2) for arm in arms}
        paths = PickerPaths(self.caches)
        return paths.of_pools(KEY, views, arms[1], arms[0], gateways_of(route, "default"))[arms[1]].path

    def reasons(self) -> list[str]:
        return [problem.reason for problem in self.path().problems]


def test_a_picker_with_a_ready_pod_is_no_problem() -> None:
    assert Stage().path() == PathView()


def test_pods_of_a_pool_are_those_of_the_moment() -> None:
    """They are read once for all who ask, until a pod or the pool is another."""
    caches, endpoints = (stage := Stage()).caches, pool_endpoints(stage.caches)
    arm = ArmRef(kind="InferencePool", group=X, name="v1")

    def seen() -> tuple[list[tuple[str, bool]], int, list[tuple[str, int]]]:
        pool = caches.pool(X, "default", "v1")
        assert pool is not None
        pods = [(pod.name, pod.ready) for pod in caches.endpoints(pool)]
        return pods, caches.ready_units(pool), [(page.pod, page.port) for page in endpoints("default", arm)]

    assert seen() == ([], 0, [])
    stage.put(pod_object("a", {"release": "v1"}), pod_object("b", {"release": "v1"}, ready=False))
    assert seen() == ([("a", True), ("b", False)], 1, [("a", 8000)])
    stage.put(pod_object("b", {"release": "v1"}))
    assert seen() == ([("a", True), ("b", True)], 2, [("a", 8000), ("b", 8000)])

    moved = pool_object("v1")
    moved["spec"] |= {"selector": {"release": "v3"}, "targetPortNumber": 9000}
    stage.put(moved, pod_object("c", {"release": "v3"}))
    assert seen() == ([("c", True)], 1, [("c", 9000)])
    caches.pods.remove(pod_object("c", {"release": "v3"}))
    assert seen() == ([], 0, [])


def test_a_missing_service_and_a_service_without_a_ready_pod() -> None:
    stage = Stage()
    stage.put(pool_object("v2", picker="nowhere"))

    assert (stage.reasons(), stage.path().picker_down) == (["PickerMissing"], True)

    stage.put(pool_object("v2"), pod_object("v2-epp-0", {"app": "v2-epp"}, ready=False))

    assert (stage.reasons(), stage.path().picker_down) == (["PickerNotReady"], True)
    assert "no pod behind Service v2-epp" in stage.path().problems[0].message


def test_a_picker_that_both_arms_use_is_a_problem_that_pulls_nobody() -> None:
    stage = Stage()
    stage.put(pool_object("v1", picker="v2-epp"), pod_object("v2-epp-0", {"app": "v2-epp"}, ready=False))

    assert (stage.reasons(), stage.path().picker_down) == (["PickerNotReady"], False)


@pytest.mark.parametrize("mode", ["FailClose", "FailOpen"])
def test_of_stable_is_said_only_that_its_picker_has_no_ready_pod(mode: str) -> None:
    stage = Stage()
    stable = Identity(kind="InferencePool", group=X, name="v1")

    def down() -> bool:
        views = {stable: PoolView(identity=stable, exists=True, ready_endpoints=2)}
        found = PickerPaths(stage.caches).of_pools(KEY, views, None, stable, frozenset())
        return found[stable].path.picker_down

    stage.put(pool_object("v1", failureMode=mode))
    assert not down()

    stage.put(pod_object("v1-epp-0", {"app": "v1-epp"}, ready=False))
    assert down() is (mode == "FailClose")

    stage.put(pool_object("v1", picker="nowhere"))  # a gateway may bring one of its own
    assert not down()


@pytest.mark.parametrize("mode", ["FailClose", "FailOpen"])
def test_adapters_wait_for_their_one_picker_and_are_never_pulled_for_it(mode: str) -> None:
    """Nobody but a picker honours their weights, so failing open does not help; and it serves both arms."""
    stage = Stage()
    stage.put(pool_object("v2", failureMode=mode), pod_object("v2-epp-0", {"app": "v2-epp"}, ready=False))
    arms = [Identity(kind="Adapter", group="", name=name, source=f"/adapters/{name}") for name in ("a", "b")]
    views = {key: PoolView(identity=arm, exists=True) for arm in arms for key in (arm, arm.arm)}
    found = PickerPaths(stage.caches).of_adapters(KEY, views, arms[1], arms[0], read_pool(pool_object("v2")))

    for key in (arms[1], arms[1].arm):
        assert [problem.reason for problem in found[key].path.problems] == ["PickerNotReady"]
        assert not found[key].path.picker_down
    assert found[arms[0]].path == PathView(picker_down=True)  # then nobody serves


def test_fail_open_excuses_a_dead_picker() -> None:
    stage = Stage()
    stage.put(
        pool_object("v2", failureMode="FailOpen"), pod_object("v2-epp-0", {"app": "v2-epp"}, ready=False)
    )

    assert stage.path() == PathView()


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        (pool_object("v2", kind="WasmPlugin"), "is a WasmPlugin, not a Service: it is taken on trust"),
        (pool_object("v2", picker="bare"), "selects no pods: it is taken on trust"),
    ],
    ids=["another kind", "a Service without selector"],
)
def test_what_cannot_be_looked_at_is_taken_on_trust_and_said(pool: Object, said: str) -> None:
    stage = Stage()
    stage.put(service_object("bare", {}))
    stage.put(pool)

    assert stage.path().problems == ()
    assert said in stage.path().note


def parent(
    status: str, *, kind: str = "Gateway", name: str = "gw", reason: str = "NotSupportedByGateway"
) -> Object:
    condition = {"type": "Accepted", "status": status, "reason": reason, "message": "no"}
    return {"parentRef": {"kind": kind, "name": name}, "conditions": [condition]}


@pytest.mark.parametrize("field", ["parent", "parents"], ids=["v1alpha2", "v1"])
@pytest.mark.parametrize(
    ("entry", "refused"),
    [
        (parent("False"), True),
        (parent("Unknown"), False),
        (parent("True"), False),
        (parent("False", name="another"), False),
        (parent("False", kind="Status", name="default", reason="Pending"), False),
        (parent("False", reason="Pending"), False),
        ({"parentRef": None, "conditions": [None, 7]}, False),
    ],
    ids=["refused", "unknown", "accepted", "another gateway", "placeholder", "pending", "malformed"],
)
def test_only_a_parent_of_the_route_that_says_false_refuses_the_pool(
    field: str, entry: Object, refused: bool
) -> None:
    stage = Stage()
    stage.put(pool_object("v2", status={field: [entry]}))

    assert stage.reasons() == (["PoolRefused"] if refused else [])
    assert not stage.path().picker_down


@pytest.mark.parametrize(
    ("pool", "reasons"),
    [
        ({}, []),
        ({"picker": "absent"}, ["PickerMissing", "PoolRefused"]),
        ({"kind": "WasmPlugin"}, ["PoolRefused"]),
    ],
    ids=["the Service is there", "it is not", "another kind"],
)
def test_a_gateway_that_misses_the_pickers_service_is_believed_until_it_is_there(
    pool: Object, reasons: list[str]
) -> None:
    """istiod looks once, and says so until the pool or the route changes."""
    stage = Stage()
    condition = {
        "type": "ResolvedRefs",
        "status": "False",
        "reason": "InvalidExtensionRef",
        "message": "not found",
    }
    stale = {"parentRef": {"kind": "Gateway", "name": "gw"}, "conditions": [condition]}
    stage.put(pool_object("v2", status={"parents": [stale]}, **pool))

    assert stage.reasons() == reasons


def test_a_refusal_counts_for_the_namespace_of_the_parent() -> None:
    stage = Stage()
    stage.put(pool_object("v2", status={"parents": [parent("False")]}))
    elsewhere = {"parentRefs": [{"name": "gw", "namespace": "infra"}]}

    assert stage.path(elsewhere).problems == ()


def test_a_change_of_a_picker_pod_concerns_the_rollouts_of_its_pool() -> None:
    stage, heard = Stage(), set[ObjectKey]()
    spec = {
        "target": {"pool": {"name": "v2"}},
        "traffic": {"httpRoutes": [{"name": "route"}]},
        "strategy": {"canary": {"steps": [{"setWeight": 10}]}},
    }
    meta = {"name": "demo", "namespace": "default", "uid": "r", "resourceVersion": "1"}
    rollout = {"apiVersion": kinds.ROLLOUT.api_version, "kind": "Rollout", "metadata": meta, "spec": spec}
    stage.caches.rollouts.apply(rollout)
    on_rollout_change(stage.caches, heard.add)
    stage.put(pod_object("v2-epp-0", {"app": "v2-epp"}, ready=False))

    assert heard == {KEY}


@pytest.mark.parametrize("mangled", [None, "x", 7, [], [None], [{"ports": "x"}], {"a": 1}])
def test_hostile_pods_are_trimmed_and_read(mangled: Any) -> None:
    stage = Stage()
    pod = pod_object("odd", {"app": "v2-epp"})
    pod["spec"] = {"containers": mangled}
    pod["status"]["containerStatuses"] = mangled
    stage.put(pod)

    kept = stage.caches.pods.get(ObjectKey("default", "odd"))
    assert kept is not None
    endpoint = read_pod(kept)
    assert endpoint is not None
    assert (endpoint.restarts, health_port(kept)) == (0, None)


def test_what_counts_of_a_pod_survives_the_trimming() -> None:
    stage = Stage()
    pod = pod_object("crashed", {"release": "v2"})
    ports = [{"name": "http", "containerPort": 8000}, {"name": "grpc", "containerPort": 9002}]
    pod["spec"] = {"containers": [{"ports": ports}, {"ports": [{"name": "health", "containerPort": 9003}]}]}
    pod["status"]["containerStatuses"] = [{"restartCount": 2, "name": "a"}, {"restartCount": 1, "name": "b"}]
    stage.put(pod)

    (endpoint,) = stage.caches.endpoints(read_pool(pool_object("v2")))
    kept = stage.caches.pods.get(ObjectKey("default", "crashed"))
    assert kept is not None
    assert (endpoint.restarts, health_port(kept)) == (3, 9003)


# --- gRPC health -----------------------------------------------------------------------------------


async def test_health_is_what_our_picker_says() -> None:
    server = PickerServer(cast("Any", None), cast("Any", None), config=ServerConfig(address="127.0.0.1:0"))
    await server.start()
    before = await ask("127.0.0.1", server.port)
    await server.set_ready(True)
    after = await ask("127.0.0.1", server.port)
    await server.drain()

    assert (before, after) == (HealthAnswer.NOT_SERVING, HealthAnswer.SERVING)
    assert await ask("127.0.0.1", free_port("127.0.0.1")) is HealthAnswer.REFUSED


@pytest.mark.parametrize(
    "talk", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""], ids=["another protocol", "silence"]
)
async def test_whatever_else_a_pod_answers_proves_nothing(talk: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(cast("asyncio.Task[None]", asyncio.current_task()))
        writer.write(talk)
        await reader.read()
        writer.close()
        await writer.wait_closed()

    served: list[asyncio.Task[None]] = []
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    answer = await ask("127.0.0.1", port, 0.3)
    await asyncio.gather(*served, return_exceptions=True)
    server.close()

    assert answer is HealthAnswer.UNKNOWN


async def test_only_pickers_that_are_ours_and_all_down_count() -> None:
    watch, told = PickerHealthWatch(SystemClock()), list[ObjectKey]()
    watch.on_change = told.append
    server = PickerServer(cast("Any", None), cast("Any", None), config=ServerConfig(address="127.0.0.1:0"))
    await server.start()
    service = ObjectKey("default", "epp")

    def pod(port: int | None, *, ours: bool = True) -> PickerPod:
        return PickerPod(
            name=f"p{port}", ip="127.0.0.1", metrics_port=9090 if ours else None, health_port=port
        )

    down, gone = pod(server.port), pod(free_port("127.0.0.1"))
    running = asyncio.create_task(watch.run())
    try:
        assert watch.refused(KEY, service, [down, gone]) == ""  # not asked yet
        await eventually(lambda: watch.refused(KEY, service, [down, gone]) != "")
        both = watch.refused(KEY, service, [down, gone])
        with_foreign = watch.refused(KEY, service, [down, gone, pod(1, ours=False)])
        unasked = watch.refused(KEY, service, [down, pod(None)])
        await server.set_ready(True)
        await eventually(lambda: watch.refused(KEY, service, [down, gone]) == "")
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await server.drain()

    assert both == "says NOT_SERVING and refuses connections"
    assert (with_foreign, unasked) == ("", "")
    assert KEY in told


# --- pods that refuse connections, and their restarts ----------------------------------------------


class Page:
    """A metrics page on a port of 127.0.0.1 that can be closed and opened again."""

    def __init__(self) -> None:
        self.port = free_port("127.0.0.1")
        self.started = 1000.0
        self._runner: web.AppRunner | None = None

    async def open(self) -> None:
        async def metrics(_: web.Request) -> web.Response:
            return web.Response(text=f"process_start_time_seconds {self.started}\nhttp_requests_total 5\n")

        app = web.Application()
        app.router.add_get("/metrics", metrics)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None


async def test_a_canary_that_refuses_connections_is_told_and_its_restart_counted() -> None:
    canary, stable, clock = Page(), Page(), SystemClock()
    scraper = PodScraper(clock)
    watch, told = CrashWatch(scraper, clock), list[ObjectKey]()
    watch.on_change = told.append

    async def look() -> tuple[bool, int]:
        await scraper.refresh(PodHistory(pod, pod.names) for pod in scraper._pods.values())
        pods = [[Pod(name=name, ip="127.0.0.1", ready=True)] for name in ("c", "s")]
        ours, theirs = watch.views(KEY, pods[0], pods[1], ((canary.port,), (stable.port,)))
        assert not theirs.refusing
        return ours.refusing, ours.restarts

    async def say(expected: tuple[bool, int]) -> bool:
        return await look() == expected

    await canary.open()
    await stable.open()
    running = asyncio.create_task(watch.run())
    try:
        await look()
        serving = await look()
        await canary.close()
        await eventually(lambda: say((True, 0)))
        canary.started += 60
        await canary.open()
        await eventually(lambda: say((False, 1)))
        watch.drop(KEY)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await scraper.close()
        await canary.close()
        await stable.close()

    assert serving == (False, 0)


async def test_pods_with_several_processes_crash_once_and_refuse_when_all_of_them_do() -> None:
    """Whoever else follows the pages (the share, gates) names them alike, or each would forget what the other saw."""
    pages, clock = [Page(), Page(), Page()], SystemClock()
    scraper = PodScraper(clock)
    watch = CrashWatch(scraper, clock)
    canary, stable = [[Pod(name=name, ip="127.0.0.1", ready=True)] for name in ("c", "s")]
    ports = [page.port for page in pages]

    async def look() -> tuple[int, bool, int]:
        scraper.follow(metrics_pages(canary, ports[:2], "default"), {"http_requests_total"}, 0.0)
        await scraper.refresh(PodHistory(pod, pod.names) for pod in scraper._pods.values())
        ours, _ = watch.views(KEY, canary, stable, (ports[:2], ports[2:]))
        return ours.pods, ours.refusing, ours.restarts

    async def say(expected: tuple[int, bool, int]) -> bool:
        return await look() == expected

    async def one_is_silent() -> bool:
        await look()
        return any(history.refused for history in scraper._pods.values())

    for page in pages:
        await page.open()
    await look()
    serving = await look()
    await pages[0].close()
    await eventually(one_is_silent)
    one_gone = await look()
    await pages[1].close()
    await eventually(lambda: say((1, True, 0)))
    for page in pages[:2]:
        page.started += 60
        await page.open()
    await eventually(lambda: say((1, False, 1)))
    slots = {(history.endpoint.namespace, history.endpoint.owner) for history in scraper._pods.values()}
    await scraper.close()
    for page in pages:
        await page.close()

    assert serving == one_gone == (1, False, 0)
    assert slots == {("default", "c"), ("default", "s")}


async def test_followers_are_told_when_the_canary_begins_to_refuse() -> None:
    canary, stable, clock = Page(), Page(), SystemClock()
    scraper = PodScraper(clock)
    watch, told = CrashWatch(scraper, clock), list[ObjectKey]()
    watch.on_change = told.append
    pods = [[Pod(name=name, ip="127.0.0.1", ready=True)] for name in ("c", "s")]
    await canary.open()
    await stable.open()
    running = asyncio.create_task(watch.run())

    async def heard() -> bool:
        await scraper.refresh(PodHistory(pod, pod.names) for pod in scraper._pods.values())
        return bool(told)

    try:
        watch.views(KEY, pods[0], pods[1], ((canary.port,), (stable.port,)))
        before = await heard()
        await canary.close()
        await eventually(heard)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await scraper.close()
        await stable.close()

    assert (before, told[0]) == (False, KEY)


async def test_a_canary_that_never_answered_or_both_arms_gone_prove_nothing() -> None:
    canary, stable, clock = Page(), Page(), SystemClock()
    scraper = PodScraper(clock)
    watch = CrashWatch(scraper, clock)
    pods = [[Pod(name=name, ip="127.0.0.1", ready=True)] for name in ("c", "s")]

    async def look() -> bool:
        await scraper.refresh(PodHistory(pod, pod.names) for pod in scraper._pods.values())
        return watch.views(KEY, pods[0], pods[1], ((canary.port,), (stable.port,)))[0].refusing

    watch.views(KEY, pods[0], pods[1], ((canary.port,), (stable.port,)))
    await stable.open()
    never_answered = await look()
    await stable.close()
    both_gone = await look()
    await scraper.close()

    assert (never_answered, both_gone) == (False, False)
