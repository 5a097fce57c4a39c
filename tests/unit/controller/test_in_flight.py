"""Requests in flight, as pods say: a pod that does not say counts as one that may answer."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from rollouts.analysis.exposition import ScrapedPage, parse_groups
from rollouts.controller.caches import Caches
from rollouts.controller.in_flight import NAMES, ON_THE_WAY, PodsInFlight
from rollouts.lab.memoryapi.store import MemoryApi
from rollouts.objects.pods import DRAINING_ANNOTATION, METRICS_PORT_ANNOTATION
from rollouts.objects.pools import PickerRef, Pool
from rollouts.picker.core.objects import PoolName, read_snapshot
from rollouts.picker.core.routing import Router
from rollouts.picker.core.schedule import Load, Scheduler
from rollouts.picker.metrics import PickerMetrics
from rollouts.runtime.store import Store
from rollouts.sources.base import ScrapeTarget
from rollouts.sources.scraper import PodScraper
from tests.kit.clock import Timeline, VirtualClock
from tests.kit.memory_client import MemoryKubeClient

POOL = Pool(namespace="default", name="v1", selector=(("app", "v1"),), ports=(8000,))
VLLM = 'vllm:num_requests_running{model_name="m"} %s\nvllm:num_requests_waiting{model_name="m"} %s\n'
SGLANG = "sglang:num_running_reqs %s\nsglang:num_queue_reqs %s\n"

BY_PRIORITY = "".join(
    f'{name}{{priority="{priority}"}} {count}\n'
    for name, counts in (("sglang:num_running_reqs", (2, 1, 1)), ("sglang:num_queue_reqs", (1, 0, 1)))
    for priority, count in zip(("", "0", "5"), counts, strict=True)
)
"""With priority scheduling SGLang shows the sum with an empty label, and each priority beside it."""


def page(text: str) -> ScrapedPage:
    return parse_groups(text.encode(), NAMES, only=frozenset(), by="").get("", ScrapedPage())


def requests(*pages: str | None, age: float = 1.0, error: str = "") -> int | None:
    """What pods with these pages answer, sampled ``age`` seconds ago; None: a pod that was never sampled."""
    timeline = Timeline()
    clock = VirtualClock(timeline)
    caches = Caches(MemoryKubeClient(MemoryApi(clock=clock)), clock)
    for number, _ in enumerate(pages):
        meta = {"name": f"p{number}", "namespace": "default", "uid": str(number), "labels": {"app": "v1"}}
        status = {"podIP": f"10.0.0.{number}"}
        caches.pods.apply({"metadata": {**meta, "resourceVersion": str(number + 1)}, "status": status})
    scraper = PodScraper(clock)
    asked = PodsInFlight(scraper, caches, clock)
    asked.requests(POOL)
    for text, history in zip(pages, scraper._pods.values(), strict=True):
        if text is not None:
            history.keep(clock.monotonic(), page(text), history.names)
        history.error = error
    timeline.advance(age)
    return asked.requests(POOL)


@pytest.mark.parametrize(
    ("pages", "count"),
    [
        ((), 0),
        ((VLLM % (0, 0), VLLM % (0, 0)), 0),
        ((VLLM % (2, 1), VLLM % (0, 4)), 7),
        ((SGLANG % (1, 2),), 3),
        ((BY_PRIORITY,), 3),
        ((VLLM % (0, 0), None), None),
        (("process_start_time_seconds 1\n",), None),
    ],
)
def test_running_and_waiting_requests_of_all_pods(pages: tuple[str | None, ...], count: int | None) -> None:
    assert requests(*pages) == count


def test_what_was_said_long_ago_is_not_known() -> None:
    assert requests(VLLM % (0, 0), age=11.0) is None
    assert requests(VLLM % (0, 0), error="no answer") is None


# --- pods that are to go ---

PICKED = Pool(
    namespace="default",
    name="v1",
    selector=(("app", "v1"),),
    ports=(8000,),
    picker=PickerRef(name="picker", port=9002),
)
IDLE = VLLM % (0, 0)
KNOWS = 'inference_picker_requests_to_draining_total{pool="v1"} 0\n'


def said(draining: int, in_flight: int | None = 0, pod: str = "p0") -> str:
    labels = f'{{pool="v1",pod="{pod}"}}'
    count = "" if in_flight is None else f"inference_picker_endpoint_in_flight{labels} {in_flight}\n"
    return f"{KNOWS}inference_picker_endpoint_draining{labels} {draining}\n{count}"


class Watched:
    """One pod and ``pickers``, in virtual time; what they say is put into the scraper's histories."""

    def __init__(self, *, pickers: int = 1, ours: bool = True, ready: bool = True) -> None:
        self.timeline = Timeline()
        self.clock = VirtualClock(self.timeline)
        self.caches = Caches(MemoryKubeClient(MemoryApi(clock=self.clock)), self.clock)
        port = {METRICS_PORT_ANNOTATION: "9090"} if ours else {}
        self._put(self.caches.services, "picker", spec={"selector": {"app": "picker"}})
        self._put(self.caches.services, "elsewhere", spec={})
        self.pod("p0", "10.0.0.1", "v1", ready=ready)
        for number in range(pickers):
            self.pod(f"k{number}", f"10.0.1.{number}", "picker", annotations=port)
        self.scraper = PodScraper(self.clock)
        self.loads = PodsInFlight(self.scraper, self.caches, self.clock)

    def _put(self, store: Store, name: str, metadata: Any = None, **fields: Any) -> None:
        self.version = getattr(self, "version", 0) + 1
        meta = {"name": name, "namespace": "default", "uid": name, "resourceVersion": str(self.version)}
        store.apply({"metadata": meta | (metadata or {}), **fields})

    def pod(self, name: str, ip: str, app: str, *, ready: bool = True, **meta: Any) -> None:
        status = {"podIP": ip, "conditions": [{"type": "Ready", "status": str(ready)}]}
        self._put(self.caches.pods, name, {"labels": {"app": app}, **meta}, status=status)

    def say(self, text: str, *ips: str) -> None:
        for history in self.scraper._pods.values():
            if history.endpoint.ip in ips:
                page = parse_groups(text.encode(), history.names).get("", ScrapedPage())
                history.keep(self.clock.monotonic(), page, history.names)

    def fail(self, ip: str, *, refused: bool = False) -> None:
        for history in self.scraper._pods.values():
            if history.endpoint.ip == ip:
                history.error, history.refused = "no answer", refused
                history.tried = self.clock.monotonic()

    def leaving(self, hidden: float = 0.0) -> int | None:
        return self.loads.leaving(PICKED, {"p0"}, hidden=hidden)["p0"]


POD, PICKER, OTHER = "10.0.0.1", "10.0.1.0", "10.0.1.1"


def test_only_figures_from_after_every_picker_spares_the_pod_count() -> None:
    watched = Watched(pickers=2)
    found = [watched.leaving()]
    watched.say(IDLE, POD)
    watched.say(said(1), PICKER)
    watched.say(said(0), OTHER)
    found.append(watched.leaving())  # one picker still sends it requests
    watched.say(said(1), OTHER)
    found.append(watched.leaving())  # a request may be on its way
    watched.timeline.advance(ON_THE_WAY - 1)
    watched.say(IDLE, POD)
    found.append(watched.leaving())
    watched.timeline.advance(1)
    watched.say(VLLM % (1, 0), POD)
    found.append(watched.leaving())
    watched.say(IDLE, POD)
    found.append(watched.leaving())
    watched.say(said(0), OTHER)  # the annotation was gone for a moment
    found.append(watched.leaving())
    watched.say(said(1), OTHER)
    found.append(watched.leaving())

    assert found == [None, None, None, None, 1, 0, None, None]


def test_what_may_be_hidden_elsewhere_is_waited_for() -> None:
    watched = Watched()
    watched.leaving(60.0)
    watched.say(IDLE, POD)
    watched.say(said(1), PICKER)
    found = [watched.leaving(60.0)]
    for seconds in (ON_THE_WAY + 59, 1):
        watched.timeline.advance(seconds)
        watched.say(IDLE, POD)
        watched.say(said(1), PICKER)
        found.append(watched.leaving(60.0))

    assert found == [None, None, 0]


@pytest.mark.parametrize(
    ("page", "why"),
    [
        (said(0), ""),
        (said(0).replace('pool="v1"', 'pool="v9"'), "the endpoint picker of v1 (pod k0) does not pick"),
        (KNOWS, "the endpoint picker of v1 (pod k0) does not pick among its pods"),
        (None, ""),
    ],
)
def test_a_picker_that_picks_among_other_pods_keeps_nothing_from_these(page: str | None, why: str) -> None:
    watched = Watched()
    watched.loads.unlisted(PICKED)
    found = list[str]()
    for seconds in (0, 14, 1):
        watched.timeline.advance(seconds)
        if page is not None:
            watched.say(page, PICKER)
        found.append(watched.loads.unlisted(PICKED))

    assert found[:2] == ["", ""], "a picker opens its page before it has its pods"
    assert found[2].startswith(why)
    assert bool(found[2]) == bool(why)


def test_a_picker_that_listed_a_pod_meanwhile_is_given_its_time_again() -> None:
    watched = Watched()
    watched.loads.unlisted(PICKED)
    found = list[str]()
    for page in (KNOWS, said(0), KNOWS):
        watched.timeline.advance(10)
        watched.say(page, PICKER)
        found.append(watched.loads.unlisted(PICKED))

    assert found == ["", "", ""]


def test_a_pod_that_is_not_ready_yet_is_on_no_picker_s_page() -> None:
    watched = Watched(ready=False)
    for seconds in (0, 30):
        watched.timeline.advance(seconds)
        watched.loads.unlisted(PICKED)
        watched.say(KNOWS, PICKER)

        assert watched.loads.unlisted(PICKED) == ""


def test_of_a_pool_without_pods_no_picker_lists_any() -> None:
    watched = Watched()
    nobody = replace(PICKED, selector=(("app", "none"),))

    assert watched.loads.unlisted(nobody) == ""


@pytest.mark.parametrize(
    ("page", "want"),
    [
        (said(1, 2), 2),
        (said(1, None), None),
        (KNOWS, 0),  # it lists the pod no longer: no endpoint of it
        (said(1) + said(0, 7, pod="p1"), 0),
    ],
)
def test_what_a_picker_has_sent_counts_as_well(page: str, want: int | None) -> None:
    watched = Watched()
    watched.leaving()
    watched.say(page, PICKER)
    watched.leaving()
    watched.timeline.advance(ON_THE_WAY)
    watched.say(IDLE, POD)

    assert watched.leaving() == want


def test_a_picker_that_falls_silent_is_not_believed() -> None:
    watched = Watched()
    watched.leaving()
    watched.say(said(1), PICKER)
    watched.leaving()
    watched.timeline.advance(11.0)
    watched.say(IDLE, POD)

    assert watched.leaving() is None


def test_without_a_picker_nobody_keeps_requests_away() -> None:
    watched = Watched(pickers=0)
    watched.leaving()
    watched.timeline.advance(60.0)
    watched.say(IDLE, POD)

    assert watched.leaving() is None


@pytest.mark.parametrize(
    ("ready", "refused", "want"), [(False, True, 0), (True, True, None), (False, False, None)]
)
def test_where_nobody_listens_nothing_is_answered(ready: bool, refused: bool, want: int | None) -> None:
    watched = Watched(ready=ready)
    watched.leaving()
    watched.say(said(1), PICKER)
    watched.leaving()
    watched.timeline.advance(ON_THE_WAY)
    watched.say(said(1), PICKER)
    watched.fail(POD, refused=refused)

    assert watched.leaving() == want


def test_loads_are_those_of_pods_that_say() -> None:
    watched = Watched()
    watched.pod("p1", "10.0.0.2", "v1")
    watched.loads.loads(PICKED)
    watched.say(VLLM % (2, 1), POD)

    assert watched.loads.loads(PICKED) == {"p0": 3}


@pytest.mark.parametrize(
    ("sentence", "pool", "watched", "page", "want"),
    [
        ("ours", PICKED, {}, KNOWS, ""),
        ("not asked yet", PICKED, {}, "", ""),
        ("no pod of it is Ready", PICKED, {"pickers": 0}, "", ""),
        ("too old", PICKED, {}, "inference_picker_tokens_total 1\n", "too old to spare pods"),
        ("somebody else's", PICKED, {"ours": False}, "", "(pod k0) is not ours"),
        (
            "anywhere",
            replace(PICKED, picker=PickerRef(name="elsewhere", port=9002)),
            {},
            "",
            "selects no pods",
        ),
        ("none", replace(PICKED, picker=None), {}, "", "names nothing for an endpoint picker"),
        ("of another kind", replace(PICKED, picker=None, picker_kind="Pick"), {}, "", "names Pick for"),
    ],
)
def test_who_can_keep_requests_from_single_pods(
    sentence: str, pool: Pool, watched: dict[str, Any], page: str, want: str
) -> None:
    cluster = Watched(**watched)
    cluster.loads.uncontrollable(pool)
    if page:
        cluster.say(page, PICKER)
    found = cluster.loads.uncontrollable(pool)

    assert want in found
    assert bool(found) == bool(want)


def test_a_picker_that_was_never_reached_is_no_help_and_one_that_was_is_believed() -> None:
    watched = Watched()
    watched.loads.uncontrollable(PICKED)
    watched.fail(PICKER)
    never = watched.loads.uncontrollable(PICKED)
    watched.say(KNOWS, PICKER)
    watched.fail(PICKER)

    assert never == "the endpoint picker of v1 (pod k0) gives no answer"
    assert watched.loads.uncontrollable(PICKED) == ""


def test_a_page_that_was_read_for_others_says_nothing_about_drains() -> None:
    watched = Watched()
    page = ScrapeTarget(pod="k0", ip=PICKER, port=9090, namespace="default")
    watched.scraper.follow([page], {"inference_picker_tokens_total"}, 0.0)
    watched.say("inference_picker_tokens_total 1\n", PICKER)

    assert watched.loads.uncontrollable(PICKED) == ""


def test_the_page_of_our_picker_is_understood() -> None:
    """What the controller reads are the very series that a picker exports."""
    watched = Watched()
    condition = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "p0",
            "namespace": "default",
            "labels": {"app": "v1"},
            "annotations": {DRAINING_ANNOTATION: "Rollout demo"},
        },
        "status": {"podIP": POD, "conditions": [condition]},
    }
    pool = {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": "v1", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "v1"}}, "targetPorts": [{"number": 8000}]},
    }
    router = Router(Scheduler())
    router.update(read_snapshot([PoolName("default", "v1")], [pool, pod]), 0.0, 0.0)
    router.scheduler.observe(f"{POD}:8000", Load(running=2), time.monotonic())
    page = PickerMetrics(router).expose("")[0].decode()
    watched.leaving()
    watched.say(page, PICKER)
    watched.leaving()
    watched.timeline.advance(ON_THE_WAY)
    watched.say(IDLE, POD)
    watched.say(page, PICKER)

    assert watched.loads.uncontrollable(PICKED) == ""
    assert watched.leaving() == 2
