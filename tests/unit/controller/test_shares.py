"""The observed share: what both arms' pods counted since the weight was applied, whenever one looks."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from rollouts.analysis.exposition import parse_exposition
from rollouts.analysis.types import ArmRef
from rollouts.api.parsing import parse_rollout
from rollouts.controller.shares import ShareCounter
from rollouts.engine.observation import ShareCount, ShareView
from rollouts.runtime.clock import Monotonic
from rollouts.runtime.objects import ObjectKey
from rollouts.sources.base import Place, RawPod, ScrapeTarget
from rollouts.sources.pods import REQUEST_NAMES
from rollouts.sources.scraper import PodScraper
from rollouts.units import Weight
from tests.kit.clock import EPOCH, Timeline, VirtualClock
from tests.kit.faults.objects import CANARY, NAMESPACE, STABLE, rollout_object

KEY = ObjectKey(NAMESPACE, "mymodel")


class Pods:
    """Two arms of pods whose counters are what the test says, and a counter that looks at them."""

    def __init__(self, *, per_arm: int = 1) -> None:
        self.timeline = Timeline()
        self.clock = VirtualClock(self.timeline)
        self.scraper = PodScraper(self.clock)
        self.per_arm = per_arm
        self.counter = ShareCounter(self.scraper, self.endpoints, self.endpoints, self.clock)
        self.weight = 10

    def endpoints(self, namespace: str, arm: ArmRef) -> list[ScrapeTarget]:
        return [
            ScrapeTarget(pod=f"{arm.name}-{n}", ip=f"{arm.name}.{n}", port=8000) for n in range(self.per_arm)
        ]

    def scrape(self, *, stable: float | None = None, canary: float | None = None, pod: int = 0) -> None:
        """One pod of each arm that is given is sampled now."""
        for arm, value in ((STABLE, stable), (CANARY, canary)):
            if value is None:
                continue
            (history,) = self.scraper.follow(
                [ScrapeTarget(pod=f"{arm}-{pod}", ip=f"{arm}.{pod}", port=8000)], REQUEST_NAMES, 24.0
            )
            page = f'http_requests_total{{handler="/v1/completions",method="POST",status="2xx"}} {value}\n'
            page += (
                f'http_requests_total{{handler="/v1/models",method="GET",status="2xx"}} {self.timeline.now}\n'
            )
            names = history.pod.names
            history.pod.keep(Monotonic(self.timeline.now), parse_exposition(page.encode(), names), names)

    def serve(self, seconds: int, *, already: float = 0) -> None:
        """Ten requests a second, one of them to the canary, and a sample of both arms each second."""
        for second in range(1, seconds + 1):
            self.timeline.advance(1)
            self.scrape(stable=already + 9 * second, canary=second)

    def silence(self) -> None:
        """No pod answers."""
        for arm in (STABLE, CANARY):
            endpoints = self.endpoints(NAMESPACE, ArmRef(kind="InferencePool", group="", name=arm))
            for history in self.scraper.follow(endpoints, REQUEST_NAMES, 24.0):
                history.pod.error = "no answer"

    def view(self) -> ShareView | None:
        """What was counted, but for the moments in between."""
        found = self.whole()
        return None if found is None else replace(found, later=())

    def whole(self) -> ShareView | None:
        revision = {"kind": "InferencePool", "group": "inference.networking.x-k8s.io", "hash": "1" * 64}
        started = EPOCH.strftime("%Y-%m-%dT%H:%M:%SZ")
        status: dict[str, Any] = {
            "phase": "Progressing",
            "stable": {**revision, "name": STABLE},
            "canary": {**revision, "name": CANARY, "hash": "2" * 64},
            "currentStep": 0,
            "startedAt": started,
            "stepStartedAt": started,
            "weight": {"desired": self.weight, "applied": self.weight},
        }
        rollout = rollout_object([{"setWeight": 10}, {"pause": {}}]) | {"status": status}
        return self.counter.view(KEY, parse_rollout(rollout))


def test_it_counts_from_the_first_sample_of_the_weight_not_from_the_first_look() -> None:
    """A Rollout is looked at every few seconds, its pods are sampled every second."""
    pods = Pods()
    assert pods.view() == ShareView(canary=0, stable=0, seconds=0.0)
    pods.serve(5, already=100)

    assert pods.view() == ShareView(canary=4, stable=36, seconds=4.0)


def test_what_was_counted_before_the_weight_is_the_baseline() -> None:
    pods = Pods()
    pods.scrape(stable=1000, canary=500)
    pods.timeline.advance(1)
    pods.view()
    pods.timeline.advance(1)
    pods.scrape(stable=1010, canary=501)
    pods.view()
    pods.timeline.advance(1)
    pods.scrape(stable=1019, canary=502)

    assert pods.view() == ShareView(canary=1, stable=9, seconds=1.0)


def test_no_request_is_counted_twice_however_often_one_looks() -> None:
    pods = Pods()
    pods.view()
    for second in range(1, 40):
        pods.timeline.advance(1)
        pods.scrape(stable=9 * second, canary=second)
        pods.view()
        pods.view()

    assert pods.view() == ShareView(canary=38, stable=342, seconds=38.0)


def test_a_counter_that_falls_was_reset_between_two_looks() -> None:
    pods = Pods()
    pods.view()
    for stable, canary in ((100, 10), (110, 11), (3, 1), (12, 2)):
        pods.timeline.advance(1)
        pods.scrape(stable=stable, canary=canary)

    assert pods.view() == ShareView(canary=1 + 1 + 1, stable=10 + 3 + 9, seconds=3.0)


def test_a_pod_that_comes_later_has_a_baseline_of_its_own() -> None:
    pods = Pods(per_arm=2)
    pods.view()
    for second in range(1, 5):
        pods.timeline.advance(1)
        pods.scrape(stable=10 * second, canary=second)
        if second > 2:
            pods.scrape(stable=5000 + second, canary=700 + second, pod=1)

    assert pods.view() == ShareView(canary=3 + 1, stable=30 + 1, seconds=3.0)


def test_a_new_weight_counts_anew_and_what_was_before_is_kept() -> None:
    pods = Pods()
    pods.view()
    pods.serve(3)
    assert pods.view() == ShareView(canary=2, stable=18, seconds=2.0)

    pods.weight = 50
    pods.view()
    pods.timeline.advance(1)
    pods.scrape(stable=40, canary=10)
    seen = pods.view()

    assert seen is not None
    assert (seen.canary, seen.stable, seen.seconds) == (7, 13, 1.0)
    assert seen.earlier == (ShareCount(weight=Weight(1000), canary=2, stable=18),)


def test_what_came_since_moments_after_a_weight_is_told_for_as_long_as_a_gateway_may_take() -> None:
    pods = Pods()
    pods.view()
    pods.serve(3)
    pods.weight = 50
    pods.view()
    for second in range(1, 1201):  # ten a second, and from the twentieth second on half of them to the canary
        pods.timeline.advance(1)
        late, now = min(second, 20), max(0, second - 20)
        pods.scrape(stable=27 + 9 * late + 5 * now, canary=3 + late + 5 * now)
        pods.view()
    seen = pods.whole()

    assert seen is not None
    assert len(seen.later) == 25
    assert seen.later[0].canary + seen.later[0].stable == 10 * 1195
    assert (seen.later[3].canary, seen.later[3].stable) == (5 * 1180, 5 * 1180)
    assert seen.later[-1].canary + seen.later[-1].stable == 10 * 1075
    pods.weight = 100
    assert (pods.whole() or seen).later == ()


def test_both_arms_are_counted_over_the_same_time_however_often_each_is_sampled() -> None:
    """One arm is sampled every second, the other one every five, because somebody measures over minutes there."""
    pods = Pods()
    pods.view()
    for second in range(1, 11):
        pods.timeline.advance(1)
        pods.scrape(stable=9 * second, canary=second if second in (4, 9) else None)

    assert pods.view() == ShareView(canary=5, stable=9 * 6, seconds=5.0)


def test_a_single_sample_of_each_arm_says_nothing_yet() -> None:
    pods = Pods()
    pods.view()
    pods.timeline.advance(1)
    pods.scrape(stable=900, canary=100)
    pods.timeline.advance(5)

    assert pods.view() == ShareView(canary=0, stable=0, seconds=0.0)


def test_an_arm_that_is_never_heard_of_holds_nothing_up_and_refutes_nothing() -> None:
    pods = Pods()
    for second in range(20):
        pods.timeline.advance(1)
        pods.scrape(stable=9 * second)
        seen = pods.view()

    assert seen is None


def test_whoever_counts_has_the_pods_sampled_every_second_for_a_while() -> None:
    pods = Pods()
    endpoints = pods.endpoints(NAMESPACE, ArmRef(kind="InferencePool", group="", name=CANARY))
    (history,) = pods.scraper.follow(endpoints, REQUEST_NAMES, 120.0)
    before = history.pod.spacing(Monotonic(pods.timeline.now))
    pods.view()
    hurried = history.pod.spacing(Monotonic(pods.timeline.now))
    pods.timeline.advance(30)

    assert (before, hurried, history.pod.spacing(Monotonic(pods.timeline.now))) == (5.0, 1.0, 5.0)


@pytest.mark.parametrize(("silent_for", "known"), [(1.0, True), (3.0, False)])
def test_pods_that_do_not_answer_hold_nothing_up_for_long(silent_for: float, known: bool) -> None:
    pods = Pods()
    pods.view()
    pods.silence()
    pods.timeline.advance(silent_for)

    assert (pods.view() is not None) is known


class Server:
    """A Prometheus that has scraped the pods which the controller cannot reach."""

    def __init__(self, pods: Pods) -> None:
        self._pods = pods

    async def raw(self, names: frozenset[str], place: Place, at: Any) -> dict[str, RawPod]:
        seconds, share = self._pods.timeline.now, 9 if place.arm.name == STABLE else 1
        page = (
            f'http_requests_total{{handler="/v1/completions",method="POST",status="2xx"}} {share * seconds}\n'
        )
        return {f"{place.arm.name}-0": RawPod(parse_exposition(page.encode(), names))}


def test_where_pods_cannot_be_scraped_the_server_counts() -> None:
    pods = Pods()
    pods.counter = ShareCounter(
        pods.scraper,
        pods.endpoints,
        pods.endpoints,
        pods.clock,
        server=Server(pods),  # type: ignore[arg-type]  # only raw is asked
    )
    for _ in range(4):
        pods.view()
        pods.silence()
        pods.timeline.advance(3)
    seen = []
    for _ in range(4):
        asyncio.run(pods.counter.ask_server())
        pods.timeline.advance(15)
        seen.append(pods.view())

    counted = seen[-1]
    assert counted is not None
    assert (counted.canary, counted.stable, counted.complete) == (45, 405, True)


def test_a_pod_that_does_not_answer_makes_the_counts_lower_bounds() -> None:
    pods = Pods(per_arm=2)
    pods.view()
    for second in range(1, 6):
        pods.timeline.advance(1)
        pods.scrape(stable=9 * second, canary=second)
        pods.scrape(stable=9 * second, pod=1)
    (mute,) = pods.scraper.follow(
        [ScrapeTarget(pod=f"{CANARY}-1", ip=f"{CANARY}.1", port=8000)], REQUEST_NAMES, 24.0
    )
    mute.pod.error = "no answer"
    seen = pods.view()

    assert seen is not None
    assert (seen.canary, seen.stable, seen.complete) == (4, 72, False)
