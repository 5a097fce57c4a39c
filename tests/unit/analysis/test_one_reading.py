"""One reading of a page, from every source: several engines behind a port, several ports of a pod."""

from __future__ import annotations

from typing import Any

import pytest

from rollouts.analysis.evidence.model import Arm, CompareMetric, EvidenceSpec, GaugeSeries
from rollouts.analysis.exposition import parse_exposition
from rollouts.analysis.logical import read, wanted_of
from rollouts.analysis.offers import POD_OFFER
from rollouts.analysis.types import ArmRef, MeasureKind, MeasureSpec
from rollouts.controller.assembly import pool_endpoints
from rollouts.controller.caches import Caches
from rollouts.objects import kinds
from rollouts.objects.pools import Pool, read_pool
from rollouts.sources.base import ScrapeTarget
from tests.kit.clock import VirtualClock

ENGINES = range(8)


def page(name: str, value: float) -> bytes:
    lines = "".join(f'{name}{{engine="{engine}",model_name="m"}} {value}\n' for engine in ENGINES)
    return f"# TYPE {name} gauge\n{lines}".encode()


@pytest.mark.parametrize(
    ("preset", "name", "expected"),
    [
        ("kv-cache", "vllm:kv_cache_usage_perc", 0.3),
        ("kv-cache", "vllm:gpu_cache_usage_perc", 0.3),
        ("waiting", "vllm:num_requests_waiting", 2.4),
        ("preemptions", "vllm:num_preemptions_total", 2.4),
    ],
)
def test_engines_are_added_up_or_averaged_as_is_right_for_each(preset, name, expected):
    statistic = POD_OFFER.statistic(MeasureSpec(kind=MeasureKind.PRESET, name=preset))
    found = read(parse_exposition(page(name, 0.3), statistic.names), statistic.alternatives)

    assert found == pytest.approx(expected)


@pytest.mark.parametrize(("name", "expected"), [("vllm:num_requests_waiting", 16.0), ("my_load", 2.0)])
def test_a_gauge_by_name_is_read_as_the_presets_read_it_and_else_averaged(name, expected):
    statistic = POD_OFFER.statistic(MeasureSpec(kind=MeasureKind.GAUGE, name=name))

    assert read(parse_exposition(page(name, 2.0), {name}), statistic.alternatives) == expected


def test_comparisons_read_gauges_alike():
    metric = CompareMetric(name="kv", series=GaugeSeries(name="kv_cache"), margin=0.1, tolerance=0.5)
    wanted = wanted_of(EvidenceSpec(metrics=(metric,)))
    sample = parse_exposition(page("vllm:kv_cache_usage_perc", 0.3), wanted.raw_names(POD_OFFER))

    assert wanted.sample(sample, POD_OFFER, Arm.CANARY, "p", None).gauges["kv_cache"] == pytest.approx(0.3)


def pool_object(*ports: object) -> dict[str, Any]:
    spec = {"selector": {"matchLabels": {"app": "x"}}, "targetPorts": [{"number": port} for port in ports]}
    meta = {"name": "dp", "namespace": "ns", "uid": "dp", "resourceVersion": "1"}
    return {"apiVersion": kinds.POOL_V1.api_version, "metadata": meta, "spec": spec}


def pool(*ports: object) -> Pool:
    return read_pool(pool_object(*ports))


def pod_object(name: str, ip: str, *, ready: bool) -> dict[str, Any]:
    meta = {"name": name, "namespace": "ns", "uid": name, "resourceVersion": "1", "labels": {"app": "x"}}
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {"metadata": meta, "spec": {}, "status": {"podIP": ip, "conditions": conditions}}


def scraped(*ports: object) -> list[ScrapeTarget]:
    """What is asked of a pool with these ports, a Ready pod and one that is not."""
    caches = Caches(None, VirtualClock())  # type: ignore[arg-type]
    caches.pools[kinds.POOL_V1.group].apply(pool_object(*ports))
    caches.pods.apply(pod_object("a", "10.0.0.1", ready=True))
    caches.pods.apply(pod_object("b", "10.0.0.2", ready=False))
    return pool_endpoints(caches)("ns", ArmRef(kind="InferencePool", group=kinds.POOL_V1.group, name="dp"))


def test_every_target_port_is_a_process_of_its_pod():
    assert [(one.pod, one.owner, one.port) for one in scraped(8000, 8001, 8002)] == [
        ("a:8000", "a", 8000),
        ("a:8001", "a", 8001),
        ("a:8002", "a", 8002),
    ]
    assert [one.pod for one in scraped(8000)] == ["a"]


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        ((8000, 8001), (8000, 8001)),
        ((8000, 8000), (8000,)),
        ((), (8000,)),
        (("x", 8001), (8001,)),
        ((9000, None), (9000,)),
    ],
)
def test_ports_are_read_from_anything(ports, expected):
    assert (pool(*ports).processes, pool(*ports).port) == (expected, expected[0])
