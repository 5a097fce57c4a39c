"""The query budget of a namespace, in virtual time."""

from __future__ import annotations

import pytest

from rollouts.controller.assembly import open_sources
from rollouts.controller.caches import Caches
from rollouts.sources.base import SourceUnavailable
from rollouts.sources.budget import QUERIES_PER_MINUTE, BudgetExceeded, QueryBudget
from rollouts.sources.prometheus import PrometheusConfig, PrometheusSource
from rollouts.sources.scraper import PodScraper
from tests.kit.clock import Timeline, VirtualClock

SERVERS = frozenset({"default", "thanos"})


@pytest.fixture
def timeline() -> Timeline:
    return Timeline()


def budget_of(timeline: Timeline, per_minute: int = 6) -> QueryBudget:
    return QueryBudget(VirtualClock(timeline), per_minute, SERVERS)


def spent(budget: QueryBudget, namespace: str, tries: int, source: str = "default") -> int:
    """How many of so many queries are let through."""
    allowed = 0
    for _ in range(tries):
        try:
            budget.spend(source, namespace)
        except BudgetExceeded:
            continue
        allowed += 1
    return allowed


def test_a_minutes_worth_may_be_sent_at_once_and_then_the_budget_fills_evenly(timeline: Timeline) -> None:
    budget = budget_of(timeline)

    first = spent(budget, "a", 10)
    timeline.advance(10.0)
    second = spent(budget, "a", 10)
    timeline.advance(3600.0)

    assert (first, second, spent(budget, "a", 10)) == (6, 1, 6)


def test_what_decides_nothing_is_asked_out_of_the_upper_half(timeline: Timeline) -> None:
    budget = budget_of(timeline)

    before = budget.spare("default", "a")
    spent(budget, "a", 4)
    after = (budget.spare("default", "a"), budget.spare("default", "b"), budget.spare("pods", "a"))
    timeline.advance(10.0)

    assert (before, after, budget.spare("default", "a")) == (True, (False, True, True), True)


def test_refused_queries_do_not_cost_anything(timeline: Timeline) -> None:
    budget = budget_of(timeline)
    spent(budget, "a", 1000)
    timeline.advance(20.0)

    assert spent(budget, "a", 10) == 2


def test_a_measurement_that_took_more_requests_makes_the_next_one_wait_for_longer(timeline: Timeline) -> None:
    budget = budget_of(timeline)
    spent(budget, "a", 3)

    budget.charge("default", "a", 8)  # five more than there is, of which half a minute's worth are owed
    budget.charge("default", "a", 8)
    budget.charge("pods", "a", 100)
    waits = []
    for _ in range(7):
        waits.append(spent(budget, "a", 10))
        timeline.advance(10.0)

    assert waits == [0, 0, 0, 0, 1, 1, 1]
    assert spent(budget, "b", 10) == 6


def test_nought_is_no_limit_for_what_more_is_asked_either(timeline: Timeline) -> None:
    budget = budget_of(timeline, per_minute=0)
    budget.charge("default", "a", 10_000)

    assert spent(budget, "a", 10) == 10


async def test_the_servers_of_a_controller_charge_what_it_has_for_all_of_them(timeline: Timeline) -> None:
    clock, budget = VirtualClock(timeline), budget_of(timeline)
    caches = Caches(None, clock)  # type: ignore[arg-type]  # no pod is asked for
    config = PrometheusConfig(url="http://127.0.0.1:1")
    sources = open_sources({"thanos": config}, caches, PodScraper(clock), clock, budget)
    thanos = sources["thanos"]
    assert isinstance(thanos, PrometheusSource)

    thanos._charge("a", 5)

    assert (spent(budget, "a", 10), spent(budget, "b", 10)) == (1, 6)
    for source in sources.values():
        await source.close()


def test_one_namespace_takes_nothing_from_another_one(timeline: Timeline) -> None:
    budget = budget_of(timeline)
    spent(budget, "greedy", 100)

    assert spent(budget, "modest", 3) == 3


def test_all_servers_share_the_budget_and_pods_and_pickers_cost_nothing(timeline: Timeline) -> None:
    budget = budget_of(timeline)

    assert spent(budget, "a", 100, source="pods") == 100
    assert spent(budget, "a", 4, source="thanos") + spent(budget, "a", 4, source="default") == 6


def test_the_default_has_room_for_what_its_description_reckons(timeline: Timeline) -> None:
    """Twenty Rollouts of sixteen metrics every 30 s, of four requests each; and 1,200 measurements of them."""
    assert (
        spent(budget_of(timeline, per_minute=QUERIES_PER_MINUTE), "a", 10_000) >= max(20 * 16 * 2, 1200) * 4
    )


def test_nought_is_no_limit(timeline: Timeline) -> None:
    assert spent(budget_of(timeline, per_minute=0), "a", 5000) == 5000


def test_the_message_names_the_budget_and_the_way_out(timeline: Timeline) -> None:
    budget = budget_of(timeline, per_minute=1)
    budget.spend("default", "team-a")

    with pytest.raises(
        SourceUnavailable,
        match=r"namespace team-a .* budget of 1 a minute, which counts requests to the servers.*--queries-per-minute",
    ):
        budget.spend("default", "team-a")


def test_many_namespaces_do_not_grow_it_without_end(timeline: Timeline) -> None:
    budget = budget_of(timeline)
    for number in range(10_050):
        budget.spend("default", f"team-{number}")

    assert len(budget._buckets) == 10_000
