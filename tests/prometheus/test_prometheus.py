"""Measures and comparisons against a real Prometheus with real scrapes, beside what the pods themselves say."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
import yaml
from aiohttp import web

from rollouts.analysis.catalogue import MEASURED
from rollouts.analysis.logical import wanted_of
from rollouts.analysis.offers import POD_OFFER
from rollouts.analysis.types import ArmRef, MeasureKind, MeasureSpec, Stat
from rollouts.api.gates_file import parse_gates
from rollouts.api.runs import parse_template
from rollouts.controller.pages import metrics_pages
from rollouts.lab.loopback import loopback
from rollouts.lab.prometheus import Job, Prometheus
from rollouts.lab.vllm.pod import Fleet
from rollouts.lab.vllm.spec import PodSpec
from rollouts.objects.pods import Pod
from rollouts.sources.base import Place, ScrapeTarget, SourceUnavailable
from rollouts.sources.prometheus import PrometheusConfig, PrometheusSource
from tests.kit.polling import eventually
from tests.prometheus.conftest import BODY, Ask

ROOT = Path(__file__).resolve().parents[2]
WINDOW = 8.0
NAMES = wanted_of(parse_gates({"preset": "default"}).spec).raw_names(POD_OFFER)


def preset(name: str, stat: Stat | None = None, window: float = WINDOW) -> MeasureSpec:
    return MeasureSpec(kind=MeasureKind.PRESET, name=name, stat=stat, window=timedelta(seconds=window))


def place(arm: str, namespace: str = "default") -> Place:
    return Place(namespace=namespace, arm=ArmRef(kind="InferencePool", group="g", name=arm))


def targets(fleet: Fleet, **labels: str) -> tuple[tuple[str, dict[str, str]], ...]:
    return tuple(
        (f"{pod.spec.address}:{pod.spec.port}", {"pod": name, "namespace": "default", **labels})
        for name, pod in fleet.pods.items()
    )


def source(server: Prometheus, fleet: Fleet, **config: str) -> PrometheusSource:
    def endpoints(_: str, arm: ArmRef) -> list[ScrapeTarget]:
        return [
            ScrapeTarget(pod=name, ip=pod.spec.address, port=pod.spec.port)
            for name, pod in fleet.pods.items()
            if name.startswith(arm.name)
        ]

    return PrometheusSource("p", PrometheusConfig(url=server.url, **config), endpoints)  # type: ignore[arg-type]


def now() -> datetime:
    return datetime.now(UTC)


async def scraped(found: PrometheusSource, since: datetime) -> datetime:
    """A moment at which every target's last scrape began after ``since``.

    Each target is scraped at times of its own, so that at one moment two of them, or two jobs of one pod, tell of
    different times. What is asked of the server at the moment returned holds all that happened before ``since``.
    """

    async def all_newer() -> datetime | None:
        at = now()
        oldest = await found.query("min(timestamp(up))", at)
        return at if isinstance(oldest, float) and oldest > since.timestamp() else None

    at = await eventually(all_newer, timeout=40, every=0.1)
    assert at is not None
    return at


def about(expected: float) -> object:
    """``increase`` extrapolates to the edges of its window: up to a scrape's interval on either side."""
    return pytest.approx(expected, rel=0.25, abs=0.01)


async def full_window(found: PrometheusSource, where: Place) -> None:
    async def says() -> bool:
        try:
            value = await found.measure(preset("kv-cache", Stat.MEAN), where, now())
        except SourceUnavailable:  # of a pod's ports one was scraped before the other
            return False
        return isinstance(value, float) and math.isfinite(value)

    await eventually(says, timeout=40, every=0.2)


async def test_part_of_a_window_is_no_data_and_births_count_from_zero(prometheus, fleet, ask: Ask):
    prometheus.scrape([Job(name="pods", targets=targets(fleet))])
    await prometheus.start()
    found = source(prometheus, fleet)
    canary = fleet.pods["canary-0"]
    try:
        early = await found.measure(preset("error-rate"), place("canary"), now())
        assert isinstance(early, float)
        assert math.isnan(early)  # nothing was there when the window began
        await full_window(found, place("canary"))
        async with aiohttp.ClientSession() as session:
            await session.post(f"{canary.url}/lab/knobs", json={"errors": "100%"})
        await ask(
            canary.url, 10
        )  # a series of 5xx that was not there before: no increase() sees its first value
        async with aiohttp.ClientSession() as session:
            await session.post(f"{canary.url}/lab/knobs", json={"errors": 0})
        await ask(canary.url, 30)
        at = await scraped(found, now())
        assert await found.measure(preset("error-rate"), place("canary"), at) == about(0.25)
        assert await found.measure(preset("requests"), place("canary"), at) == about(40 / WINDOW)
        counted = await found.requests(preset("error-rate"), place("canary"), timedelta(seconds=WINDOW), at)
        assert counted == about(40)
        stable = await found.measure(preset("error-rate"), place("stable"), at)
        assert isinstance(stable, float)
        assert math.isnan(stable)  # no requests, no rate
    finally:
        await found.close()


async def test_every_preset_and_template_parses_and_gives_a_number(any_server, fleet, ask: Ask):
    any_server.scrape([Job(name="pods", targets=targets(fleet))])
    await any_server.start()
    found = source(any_server, fleet)
    try:
        await full_window(found, place("canary"))
        await ask(fleet.pods["canary-0"].url, 40)
        at = await scraped(found, now())
        assert await found.measure(preset("requests"), place("canary"), at) == about(40 / WINDOW)
        for name, known in MEASURED.items():
            stats = [None, Stat.MEAN] if known.kind is not MeasureKind.COUNTER else [None]
            for stat in stats:
                value = await found.measure(preset(name, stat), place("canary"), at)
                assert isinstance(value, float), name
                assert value >= 0, (name, stat)
        for path in sorted((ROOT / "analysis").glob("*.yaml")):
            template = parse_template(yaml.safe_load(path.read_text(encoding="utf-8")))
            assert not isinstance(template, str)
            for metric in template.metrics:
                if isinstance(metric.what, MeasureSpec):
                    assert isinstance(await found.measure(metric.what, place("canary"), at), float)
        raw = await found.raw(NAMES, place("canary"), at)
        assert raw["canary-0"].sample.total("vllm:request_params_n_count") == 40
    finally:
        await found.close()


RANKS = (8000, 8001)


def ranks_of(fleet: Fleet, ports: tuple[int, ...]) -> list[ScrapeTarget]:
    pods = [Pod(name=name, ip=pod.spec.address, ready=True) for name, pod in fleet.pods.items()]
    return metrics_pages(pods, ports, "default")


@pytest.mark.parametrize("ports", [RANKS, RANKS[:1]])
async def test_a_pod_of_several_engines_is_judged_by_all_of_them_or_not_at_all(prometheus, ask: Ask, ports):
    spec = PodSpec(name="canary-0", address=loopback(9, 30), port=RANKS[0], more_ports=RANKS[1:], speed=20.0)
    async with Fleet([spec]) as fleet:
        labels = {"pod": spec.name, "namespace": "default"}
        prometheus.scrape(
            [Job(name="p", targets=tuple((f"{spec.address}:{port}", labels) for port in ports))]
        )
        await prometheus.start()
        everything, some = ranks_of(fleet, RANKS), ranks_of(fleet, ports)
        config = PrometheusConfig(url=prometheus.url)
        found = PrometheusSource("p", config, lambda *_: everything)
        of_some = PrometheusSource("p", config, lambda *_: some)
        try:
            await full_window(of_some, place("canary"))
            bad = fleet.pods["canary-0"].ranks[0]
            async with aiohttp.ClientSession() as session:
                await session.post(f"{bad.url}/lab/knobs", json={"errors": "100%"})
            await asyncio.gather(ask(fleet.pods["canary-0"].url, 30), ask(bad.url, 10))
            at = await scraped(of_some, now())
            if ports == RANKS:
                assert await found.measure(preset("error-rate"), place("canary"), at) == about(0.25)
                pages = await found.raw(NAMES, place("canary"), at)
                assert set(pages) == {"canary-0:8000", "canary-0:8001"}
                return
            assert await of_some.measure(preset("error-rate"), place("canary"), at) == about(0.0)
            for asked in (
                found.raw(NAMES, place("canary"), at),
                found.measure(preset("error-rate"), place("canary"), at),
            ):
                with pytest.raises(SourceUnavailable, match="holds 1 of the 2 processes of pod canary-0"):
                    await asked
        finally:
            await found.close()
            await of_some.close()


async def test_twins_in_two_namespaces_and_two_jobs_for_one_pod(prometheus, fleet, ask: Ask):
    twin, canary = fleet.pods["stable-0"], fleet.pods["canary-0"]
    other = ((f"{twin.spec.address}:{twin.spec.port}", {"pod": "canary-0", "namespace": "other"}),)
    pods, twins = Job(name="pods", targets=targets(fleet)), Job(name="twin", targets=other)
    service = Job(name="service", targets=targets(fleet, endpoint="http"))
    prometheus.scrape([pods, twins])
    await prometheus.start()
    found = source(prometheus, fleet)
    jobs = 'count(group by (job) (vllm:num_requests_running{pod="canary-0",namespace="default"}))'

    async def scraped_twice() -> bool:
        return await found.query(jobs, now()) == 2.0

    try:
        await full_window(found, place("canary"))
        prometheus.scrape([pods, service, twins])
        await prometheus.reload()
        await eventually(scraped_twice, timeout=30, every=0.2)
        await asyncio.gather(ask(twin.url, 50), ask(canary.url, 20))
        at = await scraped(found, now())
        assert await found.measure(preset("requests"), place("canary"), at) == about(20 / WINDOW)
        raw = await found.raw(NAMES, place("canary"), at)
        assert raw["canary-0"].sample.total("vllm:request_params_n_count") == 20
        theirs = await found.raw(NAMES, place("canary", "other"), at)
        assert theirs["canary-0"].sample.total("vllm:request_params_n_count") == 50
    finally:
        await found.close()


RELABELLED = {
    "exported names": (
        {"pod_label": "exported_pod", "namespace_label": "exported_namespace"},
        {
            "exported_pod": "{name}",
            "exported_namespace": "default",
            "pod": "exporter",
            "namespace": "monitoring",
        },
    ),
    "addresses": ({"pod_label": "instance"}, {}),
    "addresses without a namespace": (
        {"pod_label": "instance", "namespace_label": ""},
        {"namespace": "monitoring"},
    ),
}


@pytest.mark.parametrize("case", RELABELLED)
async def test_relabelled_names(prometheus, fleet, ask: Ask, case):
    config, labels = RELABELLED[case]
    scraped = tuple(
        (target, {**own, **{key: text.format(name=own["pod"]) for key, text in labels.items()}})
        for target, own in targets(fleet)
    )
    prometheus.scrape([Job(name="pods", targets=scraped)])
    await prometheus.start()
    found, wrong = source(prometheus, fleet, **config), source(prometheus, fleet, pod_label="pod_name")
    try:
        await ask(fleet.pods["canary-0"].url, 20)

        async def counted() -> bool:
            try:
                raw = await found.raw(NAMES, place("canary"), now())
            except SourceUnavailable:
                return False
            return raw["canary-0"].sample.total("vllm:request_params_n_count") == 20

        await eventually(counted, timeout=30, every=0.2)
        with pytest.raises(SourceUnavailable, match=r"holds nothing of the 1 pods of canary.*podLabel"):
            await wrong.raw(NAMES, place("canary"), now())
    finally:
        await found.close()
        await wrong.close()


async def test_an_outage_is_an_error_and_what_was_scraped_is_there_afterwards(prometheus, fleet, ask: Ask):
    prometheus.scrape([Job(name="pods", targets=targets(fleet))])
    await prometheus.start()
    found = source(prometheus, fleet)
    try:
        await full_window(found, place("canary"))
        await ask(fleet.pods["canary-0"].url, 20)
        asked = now()
        at = await scraped(found, asked)
        assert await found.measure(preset("requests"), place("canary"), at) == about(20 / WINDOW)
        await prometheus.stop()
        with pytest.raises(SourceUnavailable, match="source p"):
            await found.measure(preset("requests"), place("canary"), now())
        await prometheus.start()
        later = asked + timedelta(seconds=14)  # a window that begins before the requests and holds the outage
        at = await scraped(found, later)
        assert await found.measure(preset("requests", window=20.0), place("canary"), later) == about(20 / 20)
        raw = await found.raw(NAMES, place("canary"), at)
        assert raw["canary-0"].sample.total("vllm:request_params_n_count") == 20
    finally:
        await found.close()


async def test_two_hundred_pods_of_an_arm_are_read_whole(prometheus, fleet, ask: Ask):
    pod = fleet.pods["canary-0"]
    await ask(pod.url, 5)
    async with aiohttp.ClientSession() as session, session.get(f"{pod.url}/metrics") as answer:
        page = await answer.text()
    app = web.Application()

    async def expose(_: web.Request) -> web.Response:
        return web.Response(text=page)

    app.router.add_get("/{pod}", expose)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    names = [f"vllm-deepseek-r1-distill-qwen-7b-{number:03}" for number in range(200)]
    many = Prometheus(prometheus.directory, interval="5s")
    many.scrape(
        [
            Job(
                name="pods",
                targets=tuple(
                    (f"{host}:{port}", {"pod": name, "namespace": "default", "__metrics_path__": f"/{name}"})
                    for name in names
                ),
            )
        ]
    )
    found = PrometheusSource(
        "p",
        PrometheusConfig(url=many.url),
        lambda *_: [ScrapeTarget(pod=name, ip=str(host), port=int(port)) for name in names],
    )
    try:
        await many.start()

        async def whole() -> bool:
            try:
                raw = await found.raw(NAMES, place("stable"), now())
            except SourceUnavailable:
                return False
            return len(raw) == 200

        await eventually(whole, timeout=50, every=0.5)
        raw = await found.raw(NAMES, place("stable"), now())
        assert {item.sample.total("vllm:request_params_n_count") for item in raw.values()} == {5.0}
        assert await found.measure(preset("kv-cache"), place("stable"), now()) == pytest.approx(0.0, abs=0.2)
    finally:
        await found.close()
        await many.stop()
        await runner.cleanup()


async def test_no_errors_say_nothing_where_nothing_was_finished(prometheus, fleet, ask: Ask):
    """A hung engine fails nobody: its HTTP layer counts each client that leaves as 2xx."""
    prometheus.scrape([Job(name="pods", targets=targets(fleet))])
    await prometheus.start()
    found, hung, good = source(prometheus, fleet), fleet.pods["canary-0"], fleet.pods["stable-0"]
    try:
        await full_window(found, place("canary"))
        timeout = aiohttp.ClientTimeout(total=0.3)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            await session.post(f"{hung.url}/lab/knobs", json={"hang": "engine"})
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await session.post(f"{hung.url}/v1/chat/completions", json=BODY)
        await ask(good.url, 3)
        at = await scraped(found, now())
        assert await found.measure(preset("requests"), place("canary"), at) == about(3 / WINDOW)
        lost = await found.measure(preset("error-rate"), place("canary"), at)
        assert isinstance(lost, float)
        assert math.isnan(lost)
        assert await found.measure(preset("error-rate"), place("stable"), at) == 0.0
    finally:
        await found.close()
