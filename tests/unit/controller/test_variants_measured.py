"""What is measured of variants, on the very pages of our picker: requests of each, and the weights that are loaded."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
from prometheus_client import generate_latest

from rollouts.analysis.exposition import ScrapedPage, parse_exposition
from rollouts.api.parsing import parse_rollout
from rollouts.controller import shares
from rollouts.controller.assembly import pool_endpoints
from rollouts.controller.caches import Caches
from rollouts.controller.gates import arm_ref
from rollouts.engine.rollout_spec import VariantTraffic
from rollouts.engine.variants import variant_identity
from rollouts.objects import kinds
from rollouts.objects.picker_pages import CONFIGURED_WEIGHT
from rollouts.objects.pool_splits import split_name
from rollouts.picker.core.messages import BodyMode, Protocol, RequestBody, RequestHeaders, ResponseHeaders
from rollouts.picker.core.objects import PoolName, read_snapshot
from rollouts.picker.core.ports import BufferBudget
from rollouts.picker.core.protocol import Exchange
from rollouts.picker.core.routing import Router, Unready
from rollouts.picker.core.schedule import Scheduler
from rollouts.picker.metrics import PickerMetrics
from rollouts.runtime.clock import Monotonic, SystemClock
from rollouts.runtime.objects import ObjectKey
from rollouts.sources.base import MetricSource, Place, RawPod, ScrapeTarget
from rollouts.sources.picker import PICKER_REQUESTS, labels_of, picker_requests
from rollouts.sources.scraper import PodHistory, PodScraper, SampledPod
from rollouts.units import Weight
from tests.kit.clock import Timeline, VirtualClock
from tests.kit.faults.cluster import NAMESPACE, POOL_GROUP, Cluster
from tests.kit.faults.objects import CANARY, RELEASES, SHARED, STABLE, shared_objects, variant_rollout
from tests.unit.picker.conftest import Objects

MODES = Protocol(BodyMode.FULL_DUPLEX_STREAMED, BodyMode.FULL_DUPLEX_STREAMED)


def place(name: str, model: str = "") -> Place:
    """As the controller names the arm of a variant."""
    traffic = VariantTraffic(
        kind="PoolSplit", name=split_name("pool", model), model_name=model, pool_name="pool"
    )
    return Place(namespace="default", arm=arm_ref(variant_identity(name, {"release": name}), traffic))


def split_object(weights: dict[str, int], model: str = "") -> Any:
    """As the controller names it."""
    return Objects.pool_split(weights, name=split_name("pool", model), modelName=model)


def page_after(requests: int, model: str = "") -> bytes:
    """A real picker's page after requests to a pool whose variants v1 and v2 weigh 3 to 1."""
    return page_of(["m"] * requests, split_object({"v1": 3, "v2": 1}, model))


def page_of(models: list[str], *splits: Any) -> bytes:
    """A real picker's page after requests for these models, to a pool with the variants v1 and v2."""
    pods = [Objects.variant_pod("127.0.1.1", "v1"), Objects.variant_pod("127.0.2.1", "v2")]
    router = Router(Scheduler(), unready=Unready.SPILL)
    router.update(read_snapshot([PoolName("default", "pool")], [Objects.pool(), *pods, *splits]), 0.0, 0.0)
    metrics = PickerMetrics(router)
    for number, asked in enumerate(models):
        stream = Exchange(router, metrics, BufferBudget())
        headers = {b":method": b"POST", b"x-request-id": str(number).encode()}
        list(stream.receive(RequestHeaders(headers, protocol=MODES), 1.0))
        list(stream.receive(RequestBody(json.dumps({"model": asked}).encode(), True), 2.0))
        if not stream.closing:
            list(stream.receive(ResponseHeaders({b":status": b"200"}), 3.0))
    return bytes(generate_latest(metrics.registry))


def seen(page: bytes, where: Place) -> ScrapedPage:
    return parse_exposition(page, PICKER_REQUESTS | {CONFIGURED_WEIGHT}, labels_of(where))


@pytest.mark.parametrize("model", ["", "m"])
def test_requests_and_loaded_weights_are_told_apart_by_variant(model: str) -> None:
    page = page_after(40, model)

    counts = {name: picker_requests(seen(page, place(name, model))) for name in ("v1", "v2", "v3")}
    weights = {name: seen(page, place(name, model)).total(CONFIGURED_WEIGHT) for name in ("v1", "v2", "v3")}

    assert counts == {"v1": 30, "v2": 10, "v3": None}
    assert weights == {"v1": 0.75, "v2": 0.25, "v3": None}


def replica(pod: str, page: bytes) -> dict[str, list[PodHistory]]:
    """What the counter follows of one replica: a history of each arm."""
    arms = {}
    for arm, name in ((shares.CANARY, "v2"), (shares.STABLE, "v1")):
        names = PICKER_REQUESTS | {CONFIGURED_WEIGHT}
        sampled = SampledPod(endpoint=ScrapeTarget(pod=pod, ip=pod, port=1, namespace="default"))
        sampled.keep(Monotonic(1.0), seen(page, place(name)), names)
        arms[arm] = [PodHistory(sampled, names)]
    return arms


def test_a_replica_that_knows_no_split_has_loaded_none() -> None:
    """Of an older image: it counts requests, and lists no weight."""
    new, old = replica("a", page_after(4)), replica("b", b'inference_picker_requests_total{pool="pool"} 5\n')
    both = {arm: new[arm] + old[arm] for arm in new}

    assert shares.loaded_weight(new, Weight(2500), every=True) == 2500
    assert shares.loaded_weight(both, Weight(2500), every=True) == 0
    assert (
        shares.loaded_weight(both, Weight(2500)) == 2500
    )  # of adapters a replica may have heard of no model yet
    assert shares.loaded_weight({}, Weight(2500), every=True) is None


class NoPickers:
    """A Prometheus server that has nothing of the pickers."""

    async def raw(self, *_: object) -> dict[str, RawPod]:
        return {}


async def test_pickers_that_did_not_answer_at_first_are_counted_when_they_do() -> None:
    """A server is asked for what the pods count; of pickers it is not, so it must not be believed about them."""
    timeline = Timeline()
    clock = VirtualClock(timeline)
    scraper = PodScraper(clock)
    picker = ScrapeTarget(pod="picker-0", ip="picker.0", port=9090, namespace=NAMESPACE)
    counter = shares.ShareCounter(
        scraper, lambda *_: [picker], lambda *_: [picker], clock, server=cast(MetricSource, NoPickers())
    )
    arms = {"stable": ("v1", "1" * 64), "canary": ("v2", "2" * 64)}
    rollout = variant_rollout([{"setWeight": 25}, {"pause": {}}])
    rollout["status"] = {
        "phase": "Progressing",
        "currentStep": 0,
        "startedAt": "2026-01-01T00:00:00Z",
        "stepStartedAt": "2026-01-01T00:00:00Z",
        "weight": {"desired": 25, "applied": 25},
        **{
            arm: {"kind": "Variant", "group": "", "name": name, "source": f"release={name}", "hash": digest}
            for arm, (name, digest) in arms.items()
        },
    }
    parsed = parse_rollout(rollout)
    traffic = VariantTraffic(kind="PoolSplit", name="s", model_name="", pool_name="pool")
    found = None
    for second in range(60):
        timeline.advance(1)
        found = counter.view(ObjectKey(NAMESPACE, "mymodel"), parsed, traffic)
        for name, _ in arms.values():
            where = place(name)
            (history,) = scraper.follow([picker], PICKER_REQUESTS, 0.0, only=labels_of(where))
            if second < 20:
                history.pod.error = "no answer"
            else:
                history.pod.keep(Monotonic(timeline.now), seen(page_after(second), where), history.pod.names)
        await counter.ask_server()

    assert found is not None
    assert found.canary > 0
    assert found.stable > found.canary


def test_two_splits_of_one_pool_are_told_apart_though_their_variants_have_the_same_names() -> None:
    page = page_of(["m", "x"] * 20, split_object({"v1": 3, "v2": 1}), split_object({"v1": 1, "v2": 4}, "m"))

    counts = {
        model: [picker_requests(seen(page, place(name, model))) for name in ("v1", "v2")]
        for model in ("", "m")
    }
    loaded = {
        model: [seen(page, place(name, model)).total(CONFIGURED_WEIGHT) for name in ("v1", "v2")]
        for model in ("", "m")
    }

    assert counts == {"": [15, 5], "m": [4, 16]}
    assert loaded == {"": [0.75, 0.25], "m": [0.2, 0.8]}


def test_of_another_model_nothing_is_counted() -> None:
    assert picker_requests(seen(page_after(8), place("v1", "other"))) is None


def test_the_pods_of_an_arm_are_those_of_its_labels_alone() -> None:
    clock = SystemClock()
    cluster = Cluster(clock)
    shared_objects(cluster)
    for role in (STABLE, CANARY):
        cluster.scale(RELEASES[role], 2)
    caches = Caches(cluster.api, clock)  # type: ignore[arg-type]
    for resource in (kinds.POOL_X, kinds.POD):
        for obj in cluster.all(resource):
            caches.by_resource()[resource].apply(obj)
    traffic = VariantTraffic(
        kind="PoolSplit", name=SHARED, model_name="", pool_name=SHARED, pool_group=POOL_GROUP
    )

    found = {
        role: [
            one.pod
            for one in pool_endpoints(caches)(NAMESPACE, arm_ref(variant_identity(role, labels), traffic))
        ]
        for role, labels in {
            STABLE: {"release": RELEASES[STABLE]},
            CANARY: {"release": RELEASES[CANARY]},
            "contradicts": {"app": "other"},
        }.items()
    }

    assert found == {
        STABLE: ["qwen-0", "qwen-1"],
        CANARY: ["deepseek-r1-0", "deepseek-r1-1"],
        "contradicts": [],
    }
