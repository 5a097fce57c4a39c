"""The driver of the election, each story told once; the sum of them is in the simulation."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

import pytest

from rollouts.kube.client import KubeClient, PatchKind, Resource
from rollouts.kube.errors import ApiTimeout, ApiUnavailable
from rollouts.runtime.election import LeaderElector, Leadership, unique_identity
from rollouts.runtime.fencing import FencedClient, NotLeading, WriteFence
from rollouts.runtime.lease import LEASES, LeaseConfig
from tests.kit.failover import ROUTES
from tests.kit.network import FakeApiServer, Network, SimulatedClient
from tests.kit.processes import Process, World

CONFIG = LeaseConfig(namespace="ns", name="controller")
Work = Callable[["Candidate", Leadership], Awaitable[None]]


async def write_for_ever(candidate: Candidate, leadership: Leadership) -> None:
    while not leadership.stopping.is_set():
        await candidate.write(leadership.epoch)
        await candidate.process.clock.sleep(0.1)


class Candidate:
    """One process with an elector; ``log`` is what happened in it, with the time."""

    def __init__(self, bed: Bed, name: str, work: Work = write_for_ever, *, drain: float = 10.0) -> None:
        self.log: list[tuple[float, str]] = []
        self.stuck: list[float] = []
        self.errors: list[BaseException] = []
        self.world = bed.world
        self.process: Process = bed.world.spawn(name)
        self.fence = WriteFence(self.process.clock)
        self.client = SimulatedClient(bed.world, bed.server, bed.network, self.process)
        client = cast("KubeClient", self.client)
        self.fenced = FencedClient(client, self.fence)
        self._work = work
        self.elector = LeaderElector(
            client,
            CONFIG,
            name,
            self.process.clock,
            self.fence,
            drain=drain,
            rng=random.Random(name),
            on_stuck=lambda: self.stuck.append(bed.world.now),
        )
        self.process.start(self._main())

    def note(self, what: str) -> None:
        self.log.append((self.world.now, what))

    def at(self, what: str) -> float:
        return next(time for time, noted in self.log if noted == what)

    def has(self, what: str) -> bool:
        return any(noted == what for _, noted in self.log)

    async def write(self, epoch: int) -> None:
        try:
            await self.fenced.patch(ROUTES, "ns", "route", epoch, kind=PatchKind.MERGE)
        except NotLeading:
            self.note("refused")
        except (ApiUnavailable, ApiTimeout):
            self.note("failed")

    async def _main(self) -> None:
        try:
            await self.elector.run(self._run_work)
            self.note("returned")
        except Exception as error:
            self.errors.append(error)
            self.note(type(error).__name__)

    async def _run_work(self, leadership: Leadership) -> None:
        self.note("leading")
        try:
            await self._work(self, leadership)
        except asyncio.CancelledError:
            self.note("work cancelled")
            raise
        finally:
            self.note("work ended")


class Bed:
    def __init__(self) -> None:
        self.world = World()
        self.server = FakeApiServer()
        self.network = Network(rng=random.Random(3), transit=CONFIG.settle * 0.9)
        self.server.create("controller", {"spec": {}})

    def run(self, seconds: float) -> None:
        end = self.world.now + seconds
        self.world.after(seconds, lambda: None)
        self.world.run(lambda: self.world.now >= end)

    def until(self, condition: Callable[[], bool], *, within: float = 60.0) -> None:
        assert self.world.run(condition, limit=self.world.now + within), "it did not happen in time"

    def leader(self, work: Work = write_for_ever, **kwargs: Any) -> Candidate:
        candidate = Candidate(self, "one", work, **kwargs)
        self.until(lambda: candidate.has("leading"))
        self.run(3)
        return candidate

    def spec(self) -> dict[str, Any]:
        return cast("dict[str, Any]", self.server.leases["controller"]["spec"])

    def last_write(self, writer: str) -> float:
        return max(write.stored for write in self.server.writes if write.writer == writer)

    def first_write(self, writer: str) -> float:
        return min(write.sent for write in self.server.writes if write.writer == writer)


@pytest.fixture
def bed() -> Iterator[Bed]:
    bed = Bed()
    yield bed
    bed.world.dispose()


def test_a_clean_stop_hands_over_within_a_second(bed: Bed, report: Callable[[str], None]) -> None:
    times = []
    leader = bed.leader()
    for number in range(20):
        other = Candidate(bed, f"next-{number}")
        bed.run(5)
        stopped = bed.world.now
        leader.process.deliver(leader.elector.stop)
        bed.until(lambda other=other: other.has("leading"))  # type: ignore[misc]  # bound on purpose
        times.append(other.at("leading") - stopped)
        bed.run(1)
        assert leader.has("returned")
        assert bed.last_write(leader.process.name) < bed.first_write(other.process.name)
        leader = other

    report(f"hand-over on a clean stop: at most {max(times):.2f} s of 20")
    assert max(times) < 1.0
    assert bed.spec()["leaseTransitions"] == 21


def test_a_stop_lets_the_work_finish_while_the_lease_is_renewed(bed: Bed) -> None:
    async def slow_to_end(candidate: Candidate, leadership: Leadership) -> None:
        await leadership.stopping.wait()
        for _ in range(50):
            await candidate.write(leadership.epoch)
            await candidate.process.clock.sleep(0.5)

    leader = bed.leader(slow_to_end, drain=30)
    leader.process.deliver(leader.elector.stop)
    bed.until(lambda: leader.has("returned"))

    assert not leader.has("work cancelled")
    assert not leader.has("refused")
    assert len(bed.server.writes) == 50
    assert bed.spec()["holderIdentity"] == ""


def test_a_stop_cancels_work_that_outlasts_its_drain(bed: Bed) -> None:
    async def never_ends(candidate: Candidate, leadership: Leadership) -> None:
        await candidate.process.clock.sleep(math.inf)

    leader = bed.leader(never_ends, drain=4)
    leader.process.deliver(leader.elector.stop)
    begun = bed.world.now
    bed.until(lambda: leader.has("returned"))

    assert 4 <= leader.at("work cancelled") - begun < 4.1
    assert bed.spec()["holderIdentity"] == ""


def test_a_candidate_stops_at_once(bed: Bed) -> None:
    bed.leader()
    other = Candidate(bed, "two")
    bed.run(5)
    other.process.deliver(other.elector.stop)
    bed.run(0.1)

    assert other.has("returned")
    assert bed.spec()["holderIdentity"] == "one"


def test_a_hung_api_server_ends_the_leadership_before_the_lease_expires(bed: Bed) -> None:
    """The known defect: requests without a deadline, and a leader for ever."""
    leader = bed.leader()
    renewed = bed.world.now  # the last renewal is at most a renew period older
    bed.network.hung_until = math.inf
    bed.until(lambda: leader.has("LeaseLost"))

    lost = bed.world.now
    assert CONFIG.renew_deadline - CONFIG.renew_period - 0.1 <= lost - renewed <= CONFIG.renew_deadline
    assert not leader.fence.may_write()
    assert leader.at("work ended") <= leader.at("LeaseLost")
    assert "not renewed for 10.0 seconds" in str(leader.errors[0])


@pytest.mark.parametrize("stopped_for", [9.0, 10.5, 14.0, 45.0, 300.0])
def test_a_paused_leader_that_wakes_writes_nothing_late(bed: Bed, stopped_for: float) -> None:
    """SIGSTOP. Asked before any of its tasks has run, the fence already refuses."""
    leader = bed.leader()
    other = Candidate(bed, "two")
    bed.run(2)
    bed.until(lambda: bed.server.writes[-1].stored > bed.world.now - 0.01)
    leader.process.suspend()
    suspended = bed.world.now
    asked: list[bool] = []
    bed.world.after(stopped_for, lambda: (asked.append(leader.fence.may_write()), leader.process.resume())[0])
    bed.run(stopped_for + 30)

    still_leads = stopped_for < CONFIG.renew_deadline - CONFIG.renew_period - 0.5
    after = [write for write in bed.server.writes if write.writer == "one" and write.sent > suspended]
    if still_leads or asked[0]:
        assert not other.has("leading")
    else:
        assert after == []
        assert other.has("leading")
        assert leader.has("LeaseLost")


def test_a_deleted_lease_is_made_again_by_its_leader(bed: Bed) -> None:
    leader = bed.leader()
    other = Candidate(bed, "two")
    bed.run(5)
    epoch = bed.spec()["leaseTransitions"]
    for _ in range(10):
        bed.server.delete("controller")
        bed.run(3)

    assert bed.spec()["holderIdentity"] == "one"
    assert bed.spec()["leaseTransitions"] == epoch
    assert leader.fence.may_write()
    assert not other.has("leading")


def test_a_lease_deleted_under_a_dead_leader_is_taken_after_a_whole_duration(bed: Bed) -> None:
    leader = bed.leader()
    leader.process.suspend()
    other = Candidate(bed, "two")
    bed.run(1)
    bed.server.delete("controller")
    deleted = bed.world.now
    bed.until(lambda: other.has("leading"))

    assert CONFIG.duration <= other.at("leading") - deleted < CONFIG.duration + 1.5


def test_work_that_fails_frees_the_lease_and_its_error_is_raised(bed: Bed) -> None:
    """The known defect: a lease that is renewed for ever by a process that does nothing."""

    async def fails(candidate: Candidate, leadership: Leadership) -> None:
        await candidate.process.clock.sleep(5)
        raise ValueError("bug")

    leader = bed.leader(fails)
    bed.until(lambda: leader.has("ValueError"))

    assert bed.spec()["holderIdentity"] == ""
    assert not leader.fence.may_write()


def test_an_exception_of_any_kind_is_a_renewal_that_failed(bed: Bed) -> None:
    """The known defect: an error that is no ApiException ends the loop, and the work goes on."""
    leader = bed.leader()
    calls = 0

    real = leader.client.patch

    async def patch(resource: Resource, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        if resource is not LEASES:
            return await real(resource, *args, **kwargs)
        calls += 1
        raise (OSError("reset"), KeyError("bug"), TimeoutError())[calls % 3]

    leader.client.patch = patch  # type: ignore[method-assign]  # breaks for a while
    bed.run(5)
    leader.client.patch = real  # type: ignore[method-assign]
    bed.run(60)

    assert calls >= 3
    assert leader.fence.may_write()
    assert not leader.errors


def test_work_that_cannot_be_ended_ends_the_process(bed: Bed) -> None:
    async def clings(candidate: Candidate, leadership: Leadership) -> None:
        while not candidate.stuck:
            try:
                await candidate.process.clock.sleep(1)
                await candidate.write(leadership.epoch)
            except asyncio.CancelledError:
                candidate.note("cancel ignored")

    leader = bed.leader(clings)
    bed.network.partitioned["one"] = math.inf
    bed.until(lambda: bool(leader.stuck))

    assert leader.has("cancel ignored")
    lost = leader.at("cancel ignored")
    assert leader.stuck[0] <= lost + CONFIG.settle + 0.1, "no later than others may lead"
    assert bed.last_write("one") < lost, "and not one write went through"
    assert leader.has("refused")


def test_a_cancelled_run_awaits_its_work_and_frees_the_lease(bed: Bed) -> None:
    async def tidies_up(candidate: Candidate, leadership: Leadership) -> None:
        try:
            await candidate.process.clock.sleep(math.inf)
        finally:
            await candidate.process.clock.sleep(1)
            await candidate.write(leadership.epoch)

    leader = bed.leader(tidies_up)
    leader.process.deliver(lambda: leader.process._main.cancel())  # type: ignore[arg-type, union-attr]
    bed.run(3)

    assert [write.writer for write in bed.server.writes] == ["one"]
    assert bed.spec()["holderIdentity"] == ""
    assert leader.process.ended


def test_a_release_waits_for_a_write_without_an_answer(bed: Bed) -> None:
    async def writes_once(candidate: Candidate, leadership: Leadership) -> None:
        await leadership.stopping.wait()
        bed.network.resets = 1.0
        await candidate.write(leadership.epoch)
        bed.network.resets = 0.0

    leader = bed.leader(writes_once)
    leader.process.deliver(leader.elector.stop)
    begun = bed.world.now
    bed.until(lambda: leader.has("returned"))

    assert leader.has("failed")
    assert bed.world.now - begun >= CONFIG.settle
    assert bed.spec()["holderIdentity"] == ""


def test_a_release_survives_an_annotation_in_between(bed: Bed) -> None:
    leader = bed.leader()
    bed.server.patch("controller", {"metadata": {}})
    leader.process.deliver(leader.elector.stop)
    bed.until(lambda: leader.has("returned"))

    assert bed.spec()["holderIdentity"] == ""


def test_a_release_never_frees_the_lease_of_somebody_else(bed: Bed) -> None:
    leader = bed.leader()
    bed.server.patch("controller", {"metadata": {}, "spec": {"holderIdentity": "another"}})
    leader.process.deliver(leader.elector.stop)
    bed.until(lambda: leader.process.ended)

    assert leader.has("returned"), "it stopped before it had noticed"
    assert bed.spec()["holderIdentity"] == "another"


def test_writes_are_forbidden_in_the_very_step_that_sees_another_holder(bed: Bed) -> None:
    leader = bed.leader()
    asked: list[bool] = []
    real = leader.client.get

    async def get(*args: Any) -> Any:
        lease = await real(*args)
        asyncio.get_running_loop().call_soon(lambda: asked.append(leader.fence.may_write()))
        return lease

    leader.client.get = get  # type: ignore[method-assign]  # asks the fence right after each answer
    bed.server.patch("controller", {"metadata": {}, "spec": {"holderIdentity": "another"}})
    bed.until(lambda: leader.has("LeaseLost"))

    assert asked == [False]
    assert "held by 'another'" in str(leader.errors[0])


def test_a_release_that_fails_only_costs_time(bed: Bed) -> None:
    leader = bed.leader()
    other = Candidate(bed, "two")
    bed.run(1)
    bed.network.partitioned["one"] = math.inf
    leader.process.deliver(leader.elector.stop)
    bed.until(lambda: other.has("leading") and leader.process.ended)

    assert bed.last_write("one") < bed.first_write("two")


def test_identities_differ_even_on_one_host() -> None:
    names = {unique_identity("pod-1") for _ in range(100)}

    assert len(names) == 100
    assert all(name.startswith("pod-1_") for name in names)
    assert "_" in unique_identity()
