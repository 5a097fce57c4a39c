"""Pods about to go: they get nothing new while another can serve, and the split among versions does not notice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from rollouts.objects.picker_pages import DRAINING, IN_FLIGHT, TO_DRAINING
from rollouts.objects.pods import DRAINING_ANNOTATION, is_draining
from rollouts.picker.core.endpoints import Subset, parse_subset
from rollouts.picker.core.objects import PoolName, read_snapshot
from rollouts.picker.core.policies import PIN_HEADER
from rollouts.picker.core.routing import Decision, Refusal, Request, Router
from rollouts.picker.core.schedule import Load, Scheduler
from rollouts.picker.endpoint_metrics import EndpointMetrics
from rollouts.picker.main import Picker, PickerConfig

pytestmark = pytest.mark.usefixtures("data_path")
BOTH = ("Router",)

POOL = PoolName("default", "pool")
NOW = 100.0
DRAIN = {DRAINING_ANNOTATION: "true"}
IPS = tuple(f"10.0.0.{n}" for n in range(1, 5))


def make_router(objects: Any, draining: tuple[str, ...], *raw: Any, ips: tuple[str, ...] = IPS) -> Router:
    router = Router(Scheduler())
    drain(router, objects, draining, *raw, ips=ips)
    return router


def drain(
    router: Router, objects: Any, draining: tuple[str, ...], *raw: Any, ips: tuple[str, ...] = IPS
) -> None:
    pods = [objects.pod(ip, annotations=DRAIN if ip in draining else {}) for ip in ips]
    router.update(read_snapshot([POOL], [objects.pool(), *pods, *raw]), 0.0, 0.0)


def ask(router: Router, model: str = "travelhelper", **extra: Any) -> Decision | Refusal:
    return router.route(Request(extra.pop("headers", {}), model, **extra), NOW)


def hosts(router: Router, count: int = 40, **extra: Any) -> set[str]:
    return {ask(router, **extra).endpoint.host for _ in range(count)}


@pytest.mark.parametrize(
    ("annotations", "want"),
    [
        ({}, False),
        (None, False),
        ({DRAINING_ANNOTATION: "true"}, True),
        ({DRAINING_ANNOTATION: "since 10:00"}, True),
        ({DRAINING_ANNOTATION: True}, True),
        ({DRAINING_ANNOTATION: "false"}, False),
        ({DRAINING_ANNOTATION: " False "}, False),
        ({DRAINING_ANNOTATION: ""}, False),
        ({DRAINING_ANNOTATION: None}, False),
        ({"other/draining": "true"}, False),
    ],
)
def test_what_says_that_a_pod_is_about_to_go(annotations: Any, want: bool) -> None:
    assert is_draining({"metadata": {"annotations": annotations}}) is want


@pytest.mark.parametrize("model", ["travelhelper", "unsplit", ""])
def test_nothing_new_goes_to_a_pod_about_to_go(objects: Any, model: str) -> None:
    router = make_router(objects, IPS[:2], objects.model({"v1": 90, "v2": 10}))

    assert hosts(router, model=model) == set(IPS[2:])
    assert router.scheduler.to_draining == Counter()


def test_where_all_are_about_to_go_all_serve_and_it_is_counted(objects: Any) -> None:
    router = make_router(objects, IPS)

    assert hosts(router) == set(IPS)
    assert series(EndpointMetrics(router, lambda: NOW))[TO_DRAINING] == {"": 40.0}


def test_a_cached_prefix_does_not_call_a_pod_back(objects: Any) -> None:
    router = make_router(objects, (), objects.model({"v1": 1}))
    prompt = b"the same long beginning " * 200
    home = ask(router, prompt=prompt).endpoint.host
    before = hosts(router, 4, prompt=prompt)
    drain(router, objects, (home,), objects.model({"v1": 1}))
    while_draining = hosts(router, prompt=prompt)
    drain(router, objects, (), objects.model({"v1": 1}))

    assert before == {home}
    assert home not in while_draining
    assert hosts(router, 200, prompt=prompt) > while_draining  # withdrawn: it serves again


def test_a_pin_and_a_sticky_key_choose_versions_not_pods(objects: Any) -> None:
    sticky = objects.rollout(sticky={"header": "x-session", "pinHeader": True})
    router = make_router(objects, IPS[:3], objects.model({"v1": 50, "v2": 50}), sticky)
    keys = {f"{number}".encode() for number in range(30)}
    free = make_router(objects, (), objects.model({"v1": 50, "v2": 50}), sticky)

    for headers in [{b"x-session": key} for key in sorted(keys)] + [{PIN_HEADER: b"v2"}] * 3:
        decision = ask(router, headers=headers)
        assert decision.endpoint.host == IPS[3]
        assert decision.target == ask(free, headers=headers).target


def test_a_subset_that_allows_nothing_else_is_served_by_it(objects: Any) -> None:
    router = make_router(objects, IPS[:1])

    assert hosts(router, subset=parse_subset(f"{IPS[0]}:8000")) == {IPS[0]}
    assert hosts(router, subset=parse_subset(f"{IPS[0]}:8000,{IPS[1]}:8000")) == {IPS[1]}


V1, V2 = frozenset({"v1"}), frozenset({"v2"})


@pytest.mark.parametrize(
    ("sentence", "lists", "split", "unsplit"),
    [
        ("the only one that lists the model serves it", (V1, V2), IPS[:1], IPS[:2]),
        ("one that may list it is enough to spare it", (V1, None), IPS[1:2], IPS[1:2]),
        ("what nobody lists is refused as well by one that stays", (V2, V2), IPS[1:2], IPS[1:2]),
        ("a split needs one that may have the model", (None, V2), IPS[:1], IPS[1:2]),
    ],
)
def test_can_serve_means_the_model(
    objects: Any, sentence: str, lists: tuple[Any, Any], split: tuple[str, ...], unsplit: tuple[str, ...]
) -> None:
    found = []
    for model in ("travelhelper", "v1"):
        router = make_router(objects, IPS[:1], objects.model({"v1": 1}), ips=IPS[:2])
        for ip, models in zip(IPS, lists, strict=False):
            router.scheduler.observe(f"{ip}:8000", Load(models=models), NOW)
        found.append(hosts(router, model=model))

    assert found == [set(split), set(unsplit)]


def test_sheddable_requests_are_shed_by_what_those_that_stay_can_take(objects: Any) -> None:
    router = make_router(objects, IPS[:1], objects.model({"v1": 1}, criticality="Sheddable"), ips=IPS[:2])
    router.scheduler.observe(f"{IPS[0]}:8000", Load(), NOW)
    router.scheduler.observe(f"{IPS[1]}:8000", Load(waiting=50), NOW)

    refused = ask(router)

    assert isinstance(refused, Refusal)
    assert refused.status == 429


POD_LISTS = st.sampled_from([None, V1, V2, V1 | V2])
PODS = st.lists(st.tuples(POD_LISTS, st.booleans(), st.integers(0, 30)), min_size=1, max_size=5)


@example(pods=[(V1, True, 0), (V2, False, 0)], subset=set(), share=50, prompts=False)
@given(pods=PODS, subset=st.sets(st.integers(0, 4)), share=st.integers(1, 99), prompts=st.booleans())
@settings(max_examples=100, deadline=None)
def test_drains_move_requests_among_pods_and_never_among_versions(
    objects: Any, pods: Any, subset: set[int], share: int, prompts: bool
) -> None:
    ips = tuple(f"10.0.0.{n}" for n in range(1, len(pods) + 1))
    leaving = tuple(ip for ip, (_, drains, _) in zip(ips, pods, strict=True) if drains)
    model = objects.model({"v1": share, "v2": 100 - share})
    router, free = (make_router(objects, gone, model, ips=ips) for gone in (leaving, ()))
    for one in (router, free):
        for ip, (models, _, running) in zip(ips, pods, strict=True):
            one.scheduler.observe(f"{ip}:8000", Load(models=models, running=running), NOW)
    allowed = {ips[n] for n in subset if n < len(ips)} or set(ips)
    hint = Subset(frozenset(), frozenset(allowed))

    for number in range(40):
        request = Request(
            {}, "travelhelper", prompt=b"p" * 3000 if prompts and number % 2 else b"", subset=hint
        )
        decision, undrained = router.route(request, NOW), free.route(request, NOW)
        assert isinstance(decision, Decision)
        assert isinstance(undrained, Decision)
        assert decision.target == undrained.target
        host = decision.endpoint.host
        others = {
            ip
            for ip, (models, drains, _) in zip(ips, pods, strict=True)
            if ip in allowed and not drains and (models is None or decision.target in models)
        }
        assert host in allowed
        assert host not in leaving or not others


def test_what_each_pod_has_in_flight_is_exported_while_it_is_known(objects: Any) -> None:
    router = make_router(objects, IPS[:1], ips=IPS[:2])
    router.scheduler.observe(f"{IPS[0]}:8000", Load(running=3, waiting=2), NOW)
    router.scheduler.observe(f"{IPS[1]}:8000", Load(), NOW)
    ask(router)
    ask(router, subset=parse_subset(IPS[0]))

    known = series(EndpointMetrics(router, lambda: NOW + 5.0))
    old = series(EndpointMetrics(router, lambda: NOW + 60.0))

    assert known[DRAINING] == {f"pod-{IPS[0]}": 1.0, f"pod-{IPS[1]}": 0.0}
    assert known[IN_FLIGHT] == {f"pod-{IPS[0]}": 6.0, f"pod-{IPS[1]}": 1.0}
    assert known[TO_DRAINING] == {"": 1.0}
    assert old[DRAINING] == known[DRAINING]
    assert old[IN_FLIGHT] == {}


def series(collector: EndpointMetrics) -> dict[str, dict[str, float]]:
    return {
        family.name: {sample.labels.get("pod", ""): sample.value for sample in family.samples}
        for family in collector.collect()
    }


def test_the_ports_of_a_pod_count_together(objects: Any) -> None:
    pool = objects.pool(v1=True, ports=(8000, 8001))
    router = Router(Scheduler())
    router.update(read_snapshot([POOL], [pool, objects.pod("10.0.0.1", annotations=DRAIN)]), 0.0, 0.0)
    for port, running in ((8000, 2), (8001, 3)):
        router.scheduler.observe(f"10.0.0.1:{port}", Load(running=running), NOW)
    both = series(EndpointMetrics(router, lambda: NOW))
    router.scheduler.observe("10.0.0.1:8001", Load(), NOW - 60.0)
    one_is_old = series(EndpointMetrics(router, lambda: NOW))

    assert both[IN_FLIGHT] == {"pod-10.0.0.1": 5.0}
    assert one_is_old[IN_FLIGHT] == {}


async def test_the_page_has_them_and_the_log_says_when_all_drain(tmp_path: Path, objects: Any) -> None:
    picker = Picker(PickerConfig(pools=(POOL,), objects=tmp_path / "unused", secure_serving=False))
    with structlog.testing.capture_logs() as logs:
        for annotations in ({}, DRAIN, DRAIN, {}, DRAIN):
            picker.take([objects.pool(), objects.pod("10.0.0.1", annotations=annotations)])
    page = picker.metrics.expose("text/plain")[0].decode()
    found = {family.name: family.samples for family in text_string_to_metric_families(page)}

    assert [entry["pool"] for entry in logs if entry["event"] == "all_pods_draining"] == ["pool", "pool"]
    assert [(sample.labels["pod"], sample.value) for sample in found[DRAINING]] == [("pod-10.0.0.1", 1.0)]
    assert found[TO_DRAINING][0].value == 0.0
    await picker.settled()
