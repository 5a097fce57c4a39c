"""What replicas of a picker say of the weights that they go by, against what is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from aiohttp import web

from rollouts.controller.loaded_weights import ScrapedWeights, differ, in_words, stored_loads
from rollouts.engine.observation import PickersView, RuleView
from rollouts.engine.rollout_spec import AdapterTraffic, PickerTraffic, VariantTraffic
from rollouts.engine.variants import variant_identity
from rollouts.objects.picker_pages import CONFIGURED_WEIGHT
from rollouts.objects.pods import PickerPod
from rollouts.runtime.objects import ObjectKey
from rollouts.sources.base import ScrapeTarget
from rollouts.sources.scraper import PodScraper
from rollouts.traffic.targets import adapter
from tests.kit.clock import Timeline, VirtualClock

KEY = ObjectKey("default", "mymodel")
VARIANTS = VariantTraffic(kind="PoolSplit", name="pool", model_name="", pool_name="pool")
ADAPTERS = AdapterTraffic(kind="InferenceModel", name="m", model_name="travel", pool_name="pool")


def variant_page(**shares: float) -> str:
    """Beside another split of the same pool, and rules of models."""
    lines = [
        f'{CONFIGURED_WEIGHT}{{model="*",pool="pool",variant="{name}",split="pool"}} {share}'
        for name, share in shares.items()
    ]
    lines += [f'{CONFIGURED_WEIGHT}{{model="m",pool="pool",variant="v2",split="pool-1"}} 1.0']
    return "\n".join([*lines, f'{CONFIGURED_WEIGHT}{{model="else",target_model="v2"}} 1.0', ""])


def rule_page(model: str, **shares: float) -> str:
    lines = [
        f'{CONFIGURED_WEIGHT}{{model="{model}",target_model="{name}"}} {share}'
        for name, share in shares.items()
    ]
    return "\n".join([*lines, variant_page(v2=1.0)])


class Page:
    """A picker's metrics page."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.status = 200
        self.pods: list[PickerPod] = []

    async def answer(self, _: web.Request) -> web.Response:
        return web.Response(text=self.text, status=self.status)


@asynccontextmanager
async def serving(text: str) -> AsyncIterator[Page]:
    page, app = Page(text), web.Application()
    app.router.add_get("/metrics", page.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    page.pods = [
        PickerPod(name="epp", ip=host, metrics_port=port),
        PickerPod(name="other", ip=host, metrics_port=None),
    ]
    try:
        yield page
    finally:
        await runner.cleanup()


class Asking:
    """Asks a page, with a clock that is turned by hand."""

    def __init__(self, page: Page, spec: PickerTraffic) -> None:
        self.page, self.spec = page, spec
        self.line = Timeline()
        self.clock = VirtualClock(self.line)
        self.scraper = PodScraper(self.clock)
        self.weights = ScrapedWeights(self.scraper, self.clock)

    def view(self, **stored: float) -> PickersView:
        return self.weights.view(KEY, self.spec, self.page.pods, stored)

    async def later(self, seconds: float, **stored: float) -> PickersView:
        """What is said when the page was read again after some seconds."""
        self.line.advance(seconds)
        (ours, _) = self.page.pods
        target = ScrapeTarget(pod=ours.name, ip=ours.ip, port=ours.metrics_port or 0, namespace=KEY.namespace)
        await self.scraper.refresh(self.scraper.follow([target], {CONFIGURED_WEIGHT}, 0.0))
        return self.view(**stored)


@pytest.mark.parametrize(
    ("spec", "page", "behind"),
    [
        (VARIANTS, variant_page(v1=0.9, v2=0.1), ""),
        (VARIANTS, variant_page(v1=0.95, v2=0.05), "goes by v1 95%, v2 5%"),
        (VARIANTS, variant_page(), "has loaded no weights"),
        (ADAPTERS, rule_page("travel", v1=0.9, v2=0.1), ""),
        (ADAPTERS, rule_page("*", v1=0.9, v2=0.1), ""),
        (ADAPTERS, rule_page("travel", v1=1.0), "goes by v1 100%"),
    ],
)
async def test_a_replica_that_says_otherwise_is_named(spec: PickerTraffic, page: str, behind: str) -> None:
    async with serving(page) as served:
        asking = Asking(served, spec)
        assert asking.view(v1=0.9, v2=0.1).asked == ("epp",)

        found = await asking.later(1.5, v1=0.9, v2=0.1)

        assert found.behind == ((("epp", behind),) if behind else ())
        assert (found.replicas, found.asked, found.silent) == (("epp",), (), ())
        await asking.scraper.close()


async def test_what_was_said_before_a_change_says_nothing_against_it() -> None:
    async with serving(variant_page(v1=0.9, v2=0.1)) as served:
        asking = Asking(served, VARIANTS)
        asking.view(v1=0.9, v2=0.1)
        assert (await asking.later(1.5, v1=0.9, v2=0.1)).asked == ()
        assert asking.view(v1=1.0).asked == ("epp",)

        served.text = variant_page(v1=1.0)
        assert await asking.later(1.5, v1=1.0) == PickersView(replicas=("epp",), stored="v1 100%")
        await asking.scraper.close()


async def test_who_does_not_answer_is_waited_for_and_then_called_silent() -> None:
    async with serving("") as served:
        served.status = 503
        asking = Asking(served, VARIANTS)
        asking.view(v1=1.0)

        assert (await asking.later(5.0, v1=1.0)).asked == ("epp",)
        assert (await asking.later(6.0, v1=1.0)).silent == ("epp",)

        asking.weights.forget(KEY)
        assert asking.view(v1=1.0).asked == ("epp",)
        await asking.scraper.close()


async def test_a_rule_without_targets_has_no_series_and_is_trusted() -> None:
    async with serving(rule_page("other", v1=1.0)) as served:
        asking = Asking(served, ADAPTERS)
        asking.view(travel=1.0)

        assert (await asking.later(1.5, travel=1.0)).behind == ()
        await asking.scraper.close()


def test_rules_that_differ_say_nothing_together() -> None:
    one, other = (RuleView(name=str(n), entries={adapter("a"): 1, adapter("b"): n}) for n in (1, 3))

    assert stored_loads([one, replace(one, name="2")]) == {"a": 0.5, "b": 0.5}
    assert stored_loads([one, other]) is None
    assert stored_loads([RuleView(name="0", entries={adapter("a"): 0})]) is None
    assert stored_loads([]) is None


def test_two_variants_of_one_name_are_told_apart_by_name_only_as_the_page_does() -> None:
    entries = {variant_identity("v", {"a": "1"}): 30, variant_identity("v", {"a": "2"}): 70}

    assert stored_loads([RuleView(name="0", entries=entries)]) == {"v": 1.0}


def test_rounding_is_no_difference() -> None:
    assert not differ({"a": 1 / 3}, {"a": 0.3333, "b": 0.00005})
    assert differ({"a": 0.99}, {"a": 1.0})
    assert in_words({"b": 0.005, "a": 0.995, "c": 0.0}) == "a 99.5%, b 0.5%"
