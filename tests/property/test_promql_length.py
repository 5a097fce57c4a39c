"""However many pods an arm has, no query is longer than servers take, and each pod is asked about once."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollouts.analysis.catalogue import MEASURED
from rollouts.analysis.offers import PROMETHEUS_OFFER
from rollouts.analysis.types import MeasureKind, MeasureSpec
from rollouts.sources import promql
from rollouts.sources.asking import Asking
from rollouts.sources.base import ScrapeTarget

NOW = datetime(2026, 1, 1, tzinfo=UTC)
REFUSED = 16 * 1024
"""``-search.maxQueryLen`` of VictoriaMetrics: longer ones are refused."""
WINDOW = timedelta(minutes=5)
RAW = frozenset(f"vllm:metric_{number}_seconds" for number in range(40))
LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=63)


@st.composite
def selections(draw: st.DrawFn) -> promql.PodSelection:
    """Up to 400 processes of a few Deployments, in two jobs: some just warmed up, some with names as long as names get,
    some beside others in a pod.
    """
    owners = draw(st.lists(LABEL | st.just(".".join(["x" * 62] * 4)[:247]), min_size=1, max_size=3))
    count, ports = draw(st.integers(1, 400)), draw(st.sampled_from([1, 1, 2, 8]))
    ages = draw(st.lists(st.none() | st.floats(-100, 900), min_size=1, max_size=12))
    instance = draw(st.booleans())
    pods = []
    for number in range(max(1, count // ports)):
        name, age = f"{owners[number % len(owners)]}-{number:05}", ages[number % len(ages)]
        one = ScrapeTarget(
            pod=name,
            ip=f"2001:db8::{number:x}",
            port=8000,
            warmed=None if age is None else NOW.timestamp() - age,
        )
        several = [
            replace(one, pod=f"{name}:{8000 + port}", of=name, port=8000 + port) for port in range(ports)
        ]
        pods.append([one] if ports == 1 else several)
    return promql.PodSelection(
        namespace=draw(LABEL),
        pod_label="instance" if instance else "pod",
        namespace_label="namespace",
        per_job=tuple(
            (job, tuple(itertools.chain(*some)))
            for job, some in (("podmonitor/models/vllm", pods[::2]), ("other", pods[1::2]))
        ),
        enforced_label="tenant" if draw(st.booleans()) else "",
    )


def measured(name: str) -> Callable[[promql.PodSelection], list[promql.Queries]]:
    wanted = PROMETHEUS_OFFER.statistic(MeasureSpec(kind=MeasureKind.PRESET, name=name, window=WINDOW))
    held = {f"{one}{part}" for one in wanted.names for part in ("", "_bucket", "_sum", "_count")}
    held = {name for name in held if name.startswith(("vllm:", "http_"))}
    held |= {"process_start_time_seconds", "vllm:num_requests_running"}
    return lambda where: promql.measure_queries(wanted, held, WINDOW, where)


ASKED: dict[str, Callable[[promql.PodSelection], list[promql.Queries]]] = {
    "before": lambda where: promql.preparatory_queries(RAW, WINDOW, where, then=True),
    "samples": lambda where: _asked_samples(where),
    "raw": lambda where: promql.raw_queries(RAW, where, NOW),
    **{name: measured(name) for name in MEASURED if name in PROMETHEUS_OFFER.presets},
}


class Listening:
    """A server that notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[promql.Queries] = []

    async def ask(self, query: str, *more: Any) -> None:
        *_, sending = more
        sending()
        self.asked.append((query,))


def _asked_samples(where: promql.PodSelection) -> list[promql.Queries]:
    server = Listening()
    asking = Asking(server, NOW, where.namespace)  # type: ignore[arg-type]  # as much of it as is needed
    asyncio.run(asking.samples(RAW, WINDOW.total_seconds(), where, 3.0, lambda *_: None))
    assert asking.sent == len(server.asked)
    return server.asked


def _times_asked(asked: Iterable[promql.Queries], where: promql.PodSelection) -> dict[str, int]:
    """How often each pod is asked about."""
    found = {where.name(one): 0 for _, pods in where.per_job for one in pods}
    for queries in asked:
        texts = set(re.findall(rf'{where.pod_label}=~"((?:[^"\\]|\\.)*)"', " ".join(queries)))
        patterns = [re.compile(text.replace("\\\\", "\\")) for text in texts]
        for name in found:
            found[name] += any(pattern.fullmatch(name) for pattern in patterns)
    return found


@pytest.mark.parametrize("kind", ASKED)
@settings(max_examples=15, deadline=None)
@given(where=selections())
def test_no_query_is_too_long_and_each_pod_is_asked_about_once(kind: str, where: promql.PodSelection) -> None:
    queries = ASKED[kind](where)

    assert all(len(query.encode()) < REFUSED for query in itertools.chain(*queries))
    asked = _times_asked(queries, where)
    assert set(asked.values()) <= {0, 1}
    pods = [one for _, some in where.per_job for one in some]
    if kind in ("raw", "samples"):
        old = [one for one in pods if promql.users_seconds(one, NOW) >= 1.0]
        assert all(asked[where.name(one)] == 1 for one in old)
    elif queries:
        assert set(asked.values()) == {1}


@pytest.mark.parametrize("name", ["ttft", "error-rate", "kv-cache"])
@pytest.mark.parametrize("ports", [1, 8])
@pytest.mark.parametrize(
    ("ages", "most"), [([None], 1), ([60, 100, 140, 180, 220, 260, 290, 400, 700, None], 2)]
)
def test_two_hundred_pods_of_a_deployment_are_few_queries(
    name: str, ports: int, ages: list[float | None], most: int
) -> None:
    """Seventy characters of names, as of a ReplicaSet's pods; also where each was warmed up at a time of its own."""
    prefix = "deepseek-r1-distill-qwen-7b-canary-with-a-long-name-indeed-5f9c7d6b84"
    pods = []
    for number in range(200):
        owner, age = f"{prefix}-{number:05}", ages[number % len(ages)]
        warmed = None if age is None else NOW.timestamp() - age
        for port in range(8000, 8000 + ports):
            of = owner if ports > 1 else ""
            pods.append(
                ScrapeTarget(
                    pod=f"{owner}:{port}" if of else owner, ip="::1", port=port, of=of, warmed=warmed
                )
            )
    where = promql.PodSelection(
        namespace="models", pod_label="pod", namespace_label="namespace", per_job=(("vllm", tuple(pods)),)
    )

    assert sum(map(len, ASKED[name](where))) <= most


def test_a_query_that_is_not_divided_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promql, "LONGEST_QUERY", 1 << 30)
    with pytest.raises(AssertionError):
        test_two_hundred_pods_of_as_many_deployments_are_no_long_query()


def test_two_hundred_pods_of_as_many_deployments_are_no_long_query() -> None:
    pods = tuple(
        ScrapeTarget(pod=f"{number:05}-canary-of-a-model", ip="10.0.0.1", port=8000) for number in range(200)
    )
    where = promql.PodSelection(
        namespace="models", pod_label="pod", namespace_label="namespace", per_job=(("vllm", pods),)
    )

    assert all(len(query) < REFUSED for query in itertools.chain(*ASKED["error-rate"](where)))
