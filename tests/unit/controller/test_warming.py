"""Warm-up as it is carried out: requests to simulated servers, the annotations, and what is measured after it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web

from rollouts.api.parsing import ParsedRollout, parse_rollout
from rollouts.controller import performing, warming
from rollouts.controller.arrivals import ARRIVAL_NAMES, pod_counts
from rollouts.controller.assembly import pool_endpoints
from rollouts.controller.caches import Caches
from rollouts.controller.draining import PodDrains
from rollouts.controller.gates import arm_ref
from rollouts.controller.marking import Marking
from rollouts.controller.model_server_calls import ModelServerCalls
from rollouts.controller.warm_prompts import FORMS, lengths_of, made_up
from rollouts.controller.warming import Warmth, WarmUps
from rollouts.engine.actions import Plan, WarmPods
from rollouts.engine.attempt import Attempt
from rollouts.engine.revision import revision_of
from rollouts.engine.rollout_status import HistoryEntry, Outcome, RolloutStatus, WeightStatus
from rollouts.engine.versions import Identity
from rollouts.kube.client import PatchKind
from rollouts.kube.errors import Forbidden
from rollouts.lab.loopback import loopback
from rollouts.lab.memoryapi.store import MemoryApi
from rollouts.lab.vllm.knobs import Hang, Knobs
from rollouts.lab.vllm.latency import LatencyProfile
from rollouts.lab.vllm.pod import Fleet
from rollouts.lab.vllm.spec import PodSpec
from rollouts.objects import kinds, pods
from rollouts.objects.groups import GROUP_INDEX, SET_NAME, SIZE_ANNOTATION, WORKER_INDEX
from rollouts.objects.pods import DRAINING_ANNOTATION, WARMED_ANNOTATION
from rollouts.objects.warming import read_prompts
from rollouts.runtime.clock import SystemClock
from rollouts.runtime.modelservers import ModelServerBook
from rollouts.runtime.objects import ObjectKey
from rollouts.sources.scraper import PodScraper
from rollouts.units import Weight
from tests.kit.memory_client import MemoryKubeClient
from tests.kit.polling import eventually
from tests.kit.world import START
from tests.unit.controller.test_workloads import Busy

V1, V2 = (Identity(kind="InferencePool", group=kinds.POOL_V1.group, name=name) for name in ("v1", "v2"))
KEY = ObjectKey("default", "demo")
MARK = {DRAINING_ANNOTATION: "Rollout demo warms it up"}
CONSENT = {"inferencerollouts.dev/prompts": "true"}
PORT = 8000
Object = dict[str, Any]


def spec_of(index: int, **fields: Any) -> PodSpec:
    return PodSpec(name=f"v2-{index}", address=loopback(11, index + 1), port=PORT, **fields)


class Place:
    """A pool of simulated servers behind an API server; ``restart`` leaves what is stored."""

    def __init__(self, servers: Fleet, warm_up: Object, **status: Any) -> None:
        self.servers = servers
        self.clock = SystemClock()
        self.client = MemoryKubeClient(MemoryApi(clock=self.clock))
        self.scraper = PodScraper(self.clock)
        self.status = status
        self.warm_up = warm_up
        self.told: list[ObjectKey] = []
        self.history: tuple[HistoryEntry, ...] = ()
        self.attempt: Attempt | None = Attempt(canary=revision_of(V2, ""), started_at=START)
        self.carrying: frozenset[Identity] = frozenset()
        self.restart()

    def restart(self) -> None:
        self.caches = Caches(self.client, self.clock, capacity_kinds=("Deployment",))
        self.warm_ups = WarmUps(
            self.client, self.caches, self.clock, self.scraper, ModelServerCalls(ModelServerBook())
        )
        self.warm_ups.on_change = self.told.append
        for name in ("v1", "v2"):
            spec = {"selector": {"matchLabels": {"app": name}}, "targetPorts": [{"number": PORT}]}
            meta = {"name": name, "namespace": "default", "uid": name, "resourceVersion": "1"}
            self.caches.pools[kinds.POOL_V1.group].apply({"metadata": meta, "spec": spec})
        for pod in self.client.api.list_page(kinds.POD, "default").items:
            self.caches.pods.apply(pod)

    def ports(self, numbers: tuple[int, ...]) -> None:
        """Of v2's pool."""
        ports = [{"number": number} for number in numbers]
        spec = {"selector": {"matchLabels": {"app": "v2"}}, "targetPorts": ports}
        meta = {"name": "v2", "namespace": "default", "uid": "v2", "resourceVersion": "2"}
        self.caches.pools[kinds.POOL_V1.group].apply({"metadata": meta, "spec": spec})

    def pod(self, name: str, *, ready: bool = True, annotations: Object | None = None) -> None:
        meta = {"name": name, "labels": {"app": "v2"}, "annotations": annotations or {}}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": []}}
        self.client.api.create(kinds.POD, "default", body)
        self.report(name, ready=ready)

    def report(self, name: str, *, ready: bool, address: str = "", restarts: int = 0) -> None:
        conditions = [{"type": "Ready", "status": str(ready)}]
        status = {
            "phase": "Running",
            "podIP": address or self.servers.pods[name].spec.address,
            "conditions": conditions,
            "containerStatuses": [{"name": "vllm", "restartCount": restarts}],
        }
        how = {"content_type": PatchKind.MERGE.value, "subresource": "status", "manager": "kubelet"}
        self.caches.pods.apply(self.client.api.patch(kinds.POD, "default", name, {"status": status}, **how))

    def label(self, name: str, labels: Object) -> None:
        how = {"content_type": PatchKind.MERGE.value, "manager": "lws"}
        body = {"metadata": {"labels": labels}}
        self.caches.pods.apply(self.client.api.patch(kinds.POD, "default", name, body, **how))

    @property
    def rollout(self) -> ParsedRollout:
        capacity = {"capacity": {"warmUp": self.warm_up}} if self.warm_up is not None else {}
        spec = {
            "rollbackWindow": {"duration": "1h"},
            "target": {"pool": {"name": "v2"}},
            "traffic": {"httpRoutes": [{"name": "r"}]},
            "strategy": {"canary": {"steps": [{"setWeight": 10}], **capacity}},
        }
        parsed = parse_rollout(
            {"metadata": {"name": "demo", "namespace": "default", "uid": "u"}, "spec": spec}
        )
        more = {
            "stable": revision_of(V1, ""),
            "current": self.attempt,
            "history": self.history,
            **self.status,
        }
        status = RolloutStatus(attempt=1, **more)
        return replace(parsed, status=status)

    async def carry_out(self, *, asked: bool = True) -> Marking:
        parsed = self.rollout
        assert parsed.spec is not None
        assert parsed.spec.canary.capacity is not None
        warm_up = parsed.spec.canary.capacity.warm_up
        assert warm_up is not None
        actions = (WarmPods(identity=V2, warm_up=warm_up),) if asked else ()
        plan = Plan(actions=actions, status=parsed.status)
        return await self.warm_ups.carry_out(parsed, plan, self.carrying)

    @property
    def warmth(self) -> Warmth:
        pool = self.caches.pool(V2.group, "default", "v2")
        assert pool is not None
        return self.warm_ups.warmth(self.rollout, V2, pool, self.carrying)

    def annotations(self, name: str) -> Object:
        return dict(self.client.api.get(kinds.POD, "default", name)["metadata"].get("annotations") or {})

    async def answered(self, name: str) -> float:
        pods = {target.pod: target for target in pool_endpoints(self.caches)("default", arm_ref(V2))}
        page = await self.scraper.read(pods[name], ARRIVAL_NAMES)
        assert page is not None
        counts = pod_counts(page[""])
        assert counts is not None
        return counts[0]

    async def warmed(self) -> None:
        async def done() -> bool:
            await self.carry_out()
            assert self.warmth.problem == ""
            return self.warmth == Warmth()

        await eventually(done)


@contextlib.asynccontextmanager
async def place(*specs: PodSpec, warm_up: Object | None = None, **status: Any) -> AsyncIterator[Place]:
    async with Fleet(specs) as servers:
        made = Place(servers, {"requests": 5, **(warm_up or {})}, **status)
        try:
            yield made
        finally:
            await made.warm_ups.close()
            await made.scraper.close()


async def test_a_fresh_pod_is_marked_before_it_is_ready_and_answers_before_it_serves() -> None:
    async with place(spec_of(0)) as made:
        made.pod("v2-0", ready=False)
        assert made.warmth == Warmth(cold=1)
        await made.carry_out()
        assert made.annotations("v2-0") == MARK

        made.report("v2-0", ready=True)
        assert made.warmth == Warmth(cold=1, warming=1)
        await made.warmed()

        assert made.annotations("v2-0").keys() == {WARMED_ANNOTATION}
        assert await made.answered("v2-0") == 5
        assert made.told == [KEY]


async def test_nobody_measures_what_it_answers_meanwhile() -> None:
    async with place(spec_of(0)) as made:
        made.pod("v2-0", annotations=MARK)
        endpoints = pool_endpoints(made.caches)
        assert endpoints("default", arm_ref(V2)) == []

        early = replace(made.caches.endpoints(made.caches.pool(V2.group, "default", "v2"))[0])  # type: ignore[arg-type]
        assert early.warming
        await made.warmed()
        (target,) = endpoints("default", arm_ref(V2))
        assert target.warmed
        # Samples of before belong to nobody's history: what follows begins with the first one after it.
        (before,) = made.scraper.follow([replace(target, warmed=None)], ARRIVAL_NAMES, 0.0)
        await made.scraper.refresh([before])
        assert before.latest is not None
        (after,) = made.scraper.follow([target], ARRIVAL_NAMES, 0.0)
        assert after.latest is None


async def test_what_fails_is_said_in_the_words_of_the_server_and_the_pod_stays_cold() -> None:
    async with place(spec_of(0, knobs=Knobs(errors=1.0))) as made:
        made.pod("v2-0", annotations=MARK)
        await made.carry_out()
        await eventually(lambda: made.warmth.problem != "")

        assert made.warmth.problem.startswith("pod v2-0: /v1/completions answers 500: ")
        assert len(made.warmth.problem) < 400
        assert (made.warmth.cold, made.warmth.warming) == (1, 1)
        assert made.annotations("v2-0") == MARK
        assert made.told == [KEY]


async def test_a_new_controller_goes_on_with_what_is_marked() -> None:
    async with place(spec_of(0)) as made:
        made.pod("v2-0", annotations=MARK)
        await made.carry_out()
        await made.warm_ups.close()
        made.restart()

        await made.warmed()
        assert made.annotations("v2-0").keys() == {WARMED_ANNOTATION}


async def test_a_pod_that_was_warmed_is_not_asked_again() -> None:
    async with place(spec_of(0)) as made:
        made.pod("v2-0", annotations={WARMED_ANNOTATION: "2026-01-01T00:00:00Z"})
        await made.carry_out()

        assert made.warmth == Warmth()
        assert await made.answered("v2-0") == 0


async def test_the_next_pod_of_a_name_is_not_warm_by_what_the_last_one_answered() -> None:
    async with place(spec_of(0)) as made:
        made.pod("v2-0", annotations=MARK)
        await made.carry_out()
        await eventually(lambda: made.told)
        old = made.caches.pods.get(ObjectKey("default", "v2-0"))
        made.client.api.delete(kinds.POD, "default", "v2-0", grace_period_seconds=0)
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "v2-0", "labels": {"app": "v2"}}}
        made.client.api.create(kinds.POD, "default", {**body, "spec": {"containers": []}})

        assert made.caches.pods.get(ObjectKey("default", "v2-0")) == old  # the watch has not told of it yet
        assert await made.carry_out() is Marking.LEFT
        assert made.annotations("v2-0") == {}


@pytest.mark.parametrize("gone", [False, True])
async def test_no_mark_outlives_what_asks_for_it(gone: bool) -> None:
    async with place(spec_of(0, knobs=Knobs(errors=1.0))) as made:
        made.pod("v2-0", annotations=MARK)
        await made.carry_out()
        parsed = made.rollout
        assert made.warm_ups.owes(parsed, Plan(actions=(), status=parsed.status))

        left = await (made.warm_ups.release(KEY) if gone else made.carry_out(asked=False))

        assert left is Marking.DONE
        assert made.annotations("v2-0") == {}


async def test_pods_that_serve_and_those_of_others_are_left_alone() -> None:
    async with place(spec_of(0), spec_of(1), weight=WeightStatus(applied=Weight(1000))) as made:
        made.pod("v2-0")
        made.pod("v2-1", annotations={DRAINING_ANNOTATION: "Rollout other"})
        await made.carry_out()

        assert made.warmth == Warmth()
        assert made.annotations("v2-0") == {}
        assert made.annotations("v2-1") == {DRAINING_ANNOTATION: "Rollout other"}


async def test_prompts_of_a_config_map_are_asked() -> None:
    asked = {"requests": 3, "prompts": {"configMap": "prompts", "key": "lines"}}
    async with place(spec_of(0), warm_up=asked) as made:
        made.pod("v2-0", annotations=MARK)
        await made.carry_out()
        await eventually(lambda: made.warmth.problem != "")
        assert "ConfigMap prompts gives no prompts: " in made.warmth.problem

        meta = {"name": "prompts", "annotations": CONSENT}
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": meta,
            "data": {"lines": "one\n\ntwo words\n"},
        }
        made.client.api.create(kinds.CONFIG_MAP, "default", body)
        made.restart()
        await made.warmed()

        assert await made.answered("v2-0") == 3


async def test_few_config_maps_of_a_namespace_are_in_memory_at_a_time() -> None:
    """A megabyte each, for every pod that has its turn: sixty-four of them would end the controller."""
    names = [f"v2-{index}" for index in range(6)]
    reading, most = 0, 0
    asked = {"requests": 1, "prompts": {"configMap": "prompts", "key": "k"}}
    async with place(*map(spec_of, range(6)), warm_up=asked) as made:

        async def read(*_: Any) -> Object:
            nonlocal reading, most
            reading += 1
            most = max(most, reading)
            for _ in range(20):
                await asyncio.sleep(0)
            reading -= 1
            return {"metadata": {"annotations": CONSENT}, "data": {"k": "one \N{ROBOT FACE}"}}

        made.client.get = read  # type: ignore[method-assign]
        for name in names:
            made.pod(name, annotations=MARK)
        await made.carry_out()
        await eventually(lambda: made.told == 6 * [KEY])

    assert most == 2


async def test_who_may_read_no_config_map_says_what_gives_the_right() -> None:
    async with place(spec_of(0), warm_up={"prompts": {"configMap": "prompts", "key": "lines"}}) as made:

        async def refuse(*_: Any) -> Object:
            raise Forbidden("configmaps is forbidden")

        made.client.get = refuse  # type: ignore[method-assign]
        made.pod("v2-0", annotations=MARK)
        await made.carry_out()
        await eventually(lambda: made.warmth.problem != "")

        assert made.warmth.problem.endswith(
            "forbidden; the chart value capacity.promptConfigMaps gives the right to read it"
        )


@pytest.mark.parametrize(
    ("annotations", "text", "words"),
    [
        ({}, "a", "lacks the annotation inferencerollouts.dev/prompts"),
        (CONSENT, " \n", "no line under the key k"),
        (CONSENT, "a\n" * 201, "201 lines, and 200 are allowed"),
        (CONSENT, "a" * 32_769, "32769 characters, and 32768 are allowed"),
        (CONSENT, ("a" * 32_768 + "\n") * 9, "294912 bytes of prompts, and 262144 are allowed"),
        (CONSENT, ("\N{ROBOT FACE}" * 20_000 + "\n") * 4, "320000 bytes of prompts"),
        (CONSENT, 3, "no line under the key k"),
    ],
)
def test_prompts_that_cannot_be_used_are_refused(annotations: Object, text: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_prompts({"metadata": {"annotations": annotations}, "data": {"k": text}}, "k")


def test_prompts_are_as_long_as_those_of_users_and_never_longer_than_a_context() -> None:
    assert lengths_of(()) == (256, 16, 1024, 64)
    assert len(made_up(400, 0, "a").split()) == 300
    assert made_up(400, 0, "a") != made_up(400, 1, "a")


async def test_pods_that_fail_leave_their_turns_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warming, "OF_ONE_NAMESPACE", 1)
    asked = {"requests": 3, "concurrency": 1}
    async with place(spec_of(0, knobs=Knobs(errors=1.0)), spec_of(1), warm_up=asked) as made:
        made.pod("v2-0", annotations=MARK)
        made.pod("v2-1", annotations=MARK)
        await made.carry_out()
        await eventually(lambda: made.warmth.waiting == 1)
        assert made.told == [KEY]

        async def done() -> bool:
            await made.carry_out()
            return made.annotations("v2-1").keys() == {WARMED_ANNOTATION}

        await eventually(done)
        assert (made.warmth.waiting, made.warmth.cold) == (0, 1)
        assert made.warmth.problem.startswith("pod v2-0: ")


async def test_edited_requests_reach_pods_that_are_asked() -> None:
    async with place(spec_of(0), warm_up={"requests": 2, "prompts": {"configMap": "no", "key": "k"}}) as made:
        made.pod("v2-0", annotations=MARK)
        await made.carry_out()
        await eventually(lambda: "ConfigMap no " in made.warmth.problem)

        made.warm_up = {"requests": 3}
        await made.carry_out()
        assert made.warmth.problem == ""
        await made.warmed()
        assert await made.answered("v2-0") == 3


@pytest.mark.parametrize("how", ["address", "not ready", "restarted"])
async def test_nothing_is_sent_where_the_pod_is_not_any_more(how: str) -> None:
    """Before any plan: an address is given to somebody else's pod within seconds."""
    async with place(spec_of(0), warm_up={"requests": 1}) as made:
        made.pod("v2-0", annotations=MARK)
        await made.carry_out()  # has begun nothing yet: its task runs when we wait
        more: Object = {"address": {"address": loopback(11, 9)}, "restarted": {"restarts": 1}}.get(how, {})
        made.report("v2-0", ready=how != "not ready", **more)
        await eventually(lambda: made.told == [KEY])
        made.report("v2-0", ready=True)

        assert "it is not Ready any more, or has started anew" in made.warmth.problem
        await made.warm_ups.release(KEY)
        assert await made.answered("v2-0") == 0


async def test_a_pod_that_is_not_ready_any_more_is_asked_nothing_and_begins_anew() -> None:
    async with place(spec_of(0, knobs=Knobs(errors=1.0))) as made:
        made.pod("v2-0", annotations=MARK)
        await made.carry_out()
        await eventually(lambda: made.warmth.problem != "")

        made.report("v2-0", ready=False)
        await made.carry_out()
        assert made.warmth == Warmth(cold=1)


@pytest.mark.parametrize("case", ["arms not known", "split taken over", "requests by the object", "way back"])
async def test_no_pod_that_serves_is_cold(case: str) -> None:
    async with place(spec_of(0), spec_of(1)) as made:
        made.pod("v2-0")
        if case == "arms not known":
            made.attempt, made.status = None, {"stable": None}
        elif case == "split taken over":
            made.attempt = Attempt(canary=revision_of(V2, ""), adopted_split=True)
        elif case == "requests by the object":
            made.attempt, made.carrying = None, frozenset({V2})
        else:
            made.attempt = None
            now = made.clock.now()
            left = HistoryEntry(
                revision=revision_of(V2, ""), attempt=0, outcome=Outcome.PROMOTED, at=now, stable_until=now
            )
            made.history = (left,)

        assert made.warmth == Warmth()
        await made.carry_out()
        assert made.annotations("v2-0") == {}


async def test_a_pod_of_a_version_that_was_stable_long_ago_is_cold() -> None:
    async with place(spec_of(0)) as made:
        made.pod("v2-0")
        revision, at = revision_of(V2, ""), made.clock.now() - timedelta(hours=2)
        made.attempt = None
        made.history = (
            HistoryEntry(revision=revision, attempt=0, outcome=Outcome.PROMOTED, at=at, stable_until=at),
        )

        assert made.warmth == Warmth(cold=1, warming=1)


async def test_a_container_that_started_anew_is_warmed_again() -> None:
    async with place(spec_of(0)) as made:
        made.pod("v2-0", annotations={WARMED_ANNOTATION: "2026-01-01T00:00:00Z"})
        made.report("v2-0", ready=False, restarts=2)
        assert made.warmth == Warmth(cold=1)
        await made.carry_out()
        assert made.annotations("v2-0")[DRAINING_ANNOTATION] == MARK[DRAINING_ANNOTATION]

        made.report("v2-0", ready=True, restarts=2)
        await made.warmed()
        assert made.annotations("v2-0").keys() == {WARMED_ANNOTATION}
        assert made.annotations("v2-0")[WARMED_ANNOTATION].endswith("Z after 2 restarts")
        assert await made.answered("v2-0") == 5


async def test_of_a_group_that_is_not_whole_nothing_is_asked_and_its_leader_is_not_counted_as_ready() -> None:
    async with place(spec_of(0)) as made:
        made.pod("v2-0", annotations={**MARK, SIZE_ANNOTATION: "2"})
        labels = {SET_NAME: "set", GROUP_INDEX: "0", WORKER_INDEX: "0"}
        made.label("v2-0", labels)
        await made.carry_out()
        assert made.warmth == Warmth(cold=1)

        worker = {**labels, WORKER_INDEX: "1"}
        made.servers.pods["v2-1"] = made.servers.pods["v2-0"]
        made.pod("v2-1")
        made.label("v2-1", worker)
        assert made.warmth == Warmth(cold=1, warming=1)
        await made.warmed()
        assert made.annotations("v2-1") == {}


async def test_marks_of_both_kinds_have_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an API server that answers no patch, nobody waits for longer than for the marks of one kind."""
    monkeypatch.setattr(performing, "PATIENCE", 0.2)
    async with place(spec_of(0), spec_of(1)) as made:
        made.pod("v2-0", annotations=MARK)
        made.pod("v2-1", annotations={DRAINING_ANNOTATION: "Rollout demo"})
        loop = asyncio.get_running_loop()

        async def never(*_: Any, **__: Any) -> Object:
            await asyncio.Event().wait()
            raise AssertionError

        made.client.patch = never  # type: ignore[method-assign]
        drains = PodDrains(made.client, made.caches, made.clock, Busy())
        unused = cast("Any", None)
        performer = performing.Performer(
            made.client, made.caches, unused, unused, unused, drains=drains, warm_ups=made.warm_ups
        )
        began = loop.time()

        assert await performer.release(KEY) is not None
        assert 0.15 < loop.time() - began < 0.35


# --- other people's servers ------------------------------------------------------------------------


async def test_every_process_of_a_pod_answers_before_it_serves() -> None:
    async with place(spec_of(0, more_ports=(PORT + 1,), api_key="k")) as made:
        made.ports((PORT, PORT + 1))
        made.pod("v2-0", annotations=MARK)
        await made.carry_out()
        await eventually(lambda: made.warmth.problem != "")
        assert "/v1/models answers 401" in made.warmth.problem
    async with place(spec_of(0, more_ports=(PORT + 1,))) as made:
        made.ports((PORT, PORT + 1))
        made.pod("v2-0", annotations=MARK)
        await made.warmed()

        targets = pool_endpoints(made.caches)("default", arm_ref(V2))
        pages = [await made.scraper.read(target, ARRIVAL_NAMES) for target in targets]
        counts = [pod_counts(page[""]) for page in pages if page is not None]
        assert [count[0] for count in counts if count is not None] == [5, 5]


class OtherServer:
    """A server of somebody else on the address of pod v2-0: lists a model without its context, answers some paths."""

    def __init__(
        self, path: str, *, words: int = 10_000, refusal: int = 404, said: str = "Not Found"
    ) -> None:
        self.path, self.words, self.refusal, self.said = path, words, refusal, said
        self.answered: list[int] = []
        """Words of each prompt."""
        self.refused = 0

    async def models(self, _: web.Request) -> web.Response:
        lora = {"id": "lora", "parent": "base"}
        return web.json_response({"data": [lora, {"id": "org/base-model", "parent": None}, {"id": "alias"}]})

    async def asked(self, request: web.Request) -> web.Response:
        body = await request.json()
        assert body.pop("model") == "org/base-model"
        said = (body.get(name) for name in ("prompt", "input", "text_2"))
        prompt = next(filter(None, said), None) or body["messages"][0]["content"]
        if request.path != self.path or len(prompt.split()) > self.words:
            self.refused += 1
            status = self.refusal if request.path != self.path else 400
            return web.json_response({"error": {"message": self.said}}, status=status)
        self.answered.append(len(prompt.split()))
        return web.json_response({})


@contextlib.asynccontextmanager
async def other_server(server: OtherServer, **warm_up: Any) -> AsyncIterator[Place]:
    app = web.Application()
    app.router.add_get("/v1/models", server.models)
    app.router.add_post("/{path:.*}", server.asked)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, loopback(11, 77), PORT).start()
        async with place(warm_up=warm_up) as made:
            body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "v2-0", "labels": {"app": "v2"}}}
            body["metadata"]["annotations"] = MARK  # type: ignore[index]
            made.client.api.create(kinds.POD, "default", {**body, "spec": {"containers": []}})
            made.report("v2-0", ready=True, address=loopback(11, 77))
            yield made
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("path", [form.path for form in FORMS])
@pytest.mark.parametrize(
    ("refusal", "said"), [(404, "Not Found"), (400, "The model does not support Completions API")]
)
async def test_a_server_is_asked_in_the_form_that_its_model_has(path: str, refusal: int, said: str) -> None:
    server = OtherServer(path, refusal=refusal, said=said)
    async with other_server(server) as made:
        await made.warmed()

    assert len(server.answered) == 5


async def test_an_embedding_model_gets_warm() -> None:
    async with place(spec_of(0, generates=False)) as made:
        made.pod("v2-0", annotations=MARK)
        await made.warmed()

        assert made.annotations("v2-0").keys() == {WARMED_ANNOTATION}


async def test_of_a_server_that_has_none_of_the_forms_all_are_named() -> None:
    async with other_server(OtherServer("/v1/audio/transcriptions")) as made:
        await made.carry_out()
        await eventually(lambda: made.warmth.problem != "")

        assert made.warmth.problem == (
            "pod v2-0: /v1/completions answers 404: Not Found; nor does it answer /v1/chat/completions or "
            "/v1/embeddings or /classify or /score"
        )
        assert made.annotations("v2-0") == MARK


async def test_prompts_are_made_shorter_where_a_server_takes_no_longer_ones() -> None:
    """It does not list its context, or its tokens are shorter than ours."""
    server = OtherServer("/v1/completions", words=60, said="longer than the maximum context length")
    async with other_server(server, requests=8) as made:
        await made.warmed()

    assert len(server.answered) == 8
    assert 30 <= max(server.answered) <= 60
    assert server.refused < 8  # what one prompt has shown counts for the others


async def test_what_somebody_wrote_is_asked_as_it_is_or_refused_in_words() -> None:
    server = OtherServer("/v1/completions", words=3, said="longer than the maximum context length")
    async with other_server(server, prompts={"configMap": "prompts", "key": "k"}) as made:
        meta = {"name": "prompts", "annotations": CONSENT}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"k": "a b c d e"}}
        made.client.api.create(kinds.CONFIG_MAP, "default", body)
        await made.carry_out()
        await eventually(lambda: made.warmth.problem != "")

        assert made.warmth.problem.endswith("answers 400: longer than the maximum context length")
    assert server.answered == []


async def test_a_pod_that_hangs_is_said_to_and_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warming, "_TIMEOUT", 0.3)
    monkeypatch.setattr(warming, "OF_ONE_NAMESPACE", 1)
    asked = {"requests": 2, "concurrency": 1}
    async with place(spec_of(0, knobs=Knobs(hang=Hang.ENGINE)), spec_of(1), warm_up=asked) as made:
        made.pod("v2-0", annotations=MARK)
        made.pod("v2-1", annotations=MARK)

        async def other_serves() -> bool:
            await made.carry_out()
            return made.annotations("v2-1").keys() == {WARMED_ANNOTATION}

        await eventually(other_serves)
        assert made.warmth.problem == "pod v2-0: /v1/completions gives no answer: within 0.3 s"
        assert made.annotations("v2-0") == MARK


async def test_no_user_meets_a_cold_server_that_was_warmed_up_and_without_that_the_first_ones_do() -> None:
    async def met_cold(made: Place, users: int) -> int:
        url = f"{made.servers.pods['v2-0'].url}/v1/completions"
        async with aiohttp.ClientSession() as session:
            asked = {"model": "mymodel", "prompt": "hi", "max_tokens": 1}
            met = 0
            for streamed in [True, False] * (users // 2):
                async with session.post(url, json={**asked, "stream": streamed}) as answer:
                    await answer.read()
                    assert answer.status == 200
                    met += "x-inference-cold" in answer.headers
        return met

    cold = spec_of(0, latency=LatencyProfile(cold_requests=3, cold=0.05))
    async with place(cold, warm_up={"requests": 3, "concurrency": 2}) as made:
        assert await met_cold(made, 6) == 3
    async with place(cold, warm_up={"requests": 3, "concurrency": 2}) as made:
        made.pod("v2-0", annotations=MARK)
        await made.warmed()
        assert await met_cold(made, 6) == 0


# --- planted bugs ----------------------------------------------------------------------------------


def _asked_in_one_form(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(warming, "FORMS", warming.FORMS[:1])


def _all_read_at_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(warming, "_READ_OF_ONE_NAMESPACE", 8)


def _as_long_as_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(warming, "_TOO_LONG", ())


def _an_address_is_the_pods_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WarmUps, "_is_there", lambda *_: True)


def _what_is_asked_is_read_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(warming._Job, "matter", ())


def _measured_all_the_while(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pods, "warmed_for", lambda _: "")


def _history_goes_on(patch: pytest.MonkeyPatch) -> None:
    real = PodScraper.follow

    def follow(self: PodScraper, endpoints: Any, *args: Any, **more: Any) -> Any:
        return real(self, [replace(one, warmed=None) for one in endpoints], *args, **more)

    patch.setattr(PodScraper, "follow", follow)


def _marks_stay(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(warming, "stops", dict)


def _warm_without_an_answer(patch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: Any) -> str:
        return ""

    patch.setattr(WarmUps, "_ask_process", nothing)


def _those_that_serve_are_marked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WarmUps, "_is_ours", staticmethod(lambda *_, **__: True))


@pytest.mark.parametrize(
    ("plant", "caught_by"),
    [
        (_measured_all_the_while, test_nobody_measures_what_it_answers_meanwhile),
        (_history_goes_on, test_nobody_measures_what_it_answers_meanwhile),
        (
            _an_address_is_the_pods_for_ever,
            lambda: test_nothing_is_sent_where_the_pod_is_not_any_more("address"),
        ),
        (_what_is_asked_is_read_once, test_edited_requests_reach_pods_that_are_asked),
        (
            _asked_in_one_form,
            lambda: test_a_server_is_asked_in_the_form_that_its_model_has("/v1/embeddings", 404, ""),
        ),
        (_all_read_at_once, test_few_config_maps_of_a_namespace_are_in_memory_at_a_time),
        (_as_long_as_ever, test_prompts_are_made_shorter_where_a_server_takes_no_longer_ones),
        (_marks_stay, lambda: test_no_mark_outlives_what_asks_for_it(False)),
        (
            _warm_without_an_answer,
            test_no_user_meets_a_cold_server_that_was_warmed_up_and_without_that_the_first_ones_do,
        ),
        (_warm_without_an_answer, test_a_fresh_pod_is_marked_before_it_is_ready_and_answers_before_it_serves),
        (_those_that_serve_are_marked, test_pods_that_serve_and_those_of_others_are_left_alone),
    ],
)
async def test_a_planted_bug_is_caught(plant: Any, caught_by: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)

    with pytest.raises(AssertionError):
        await caught_by()
