"""Rollouts of variants at the assembled controller: who may serve, who is said to lack what, what is taken away."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from rollouts.controller.caches import Caches
from rollouts.controller.orphaned_splits import remove_orphaned_splits
from rollouts.controller.split_readers import ScrapedSplitReaders
from rollouts.objects import kinds
from rollouts.objects.picker_pages import POOL_SPLITS_READ
from rollouts.objects.pods import PickerPod
from rollouts.objects.pool_splits import split_name
from rollouts.runtime.clock import SystemClock
from rollouts.sources.base import ScrapeTarget
from rollouts.sources.scraper import PodScraper
from tests.kit.clock import virtual_time
from tests.kit.faults.cluster import NAMESPACE, Cluster
from tests.kit.faults.history import Record
from tests.kit.faults.moves import (
    at_step,
    begun,
    command,
    delete,
    edit_spec,
    healthy_on,
    phase,
    reason,
    scale,
)
from tests.kit.faults.objects import (
    CANARY,
    RELEASES,
    SHARED,
    STABLE,
    THIRD,
    base_objects,
    shared_objects,
    split_object,
    variant_of,
    variant_rollout,
)
from tests.kit.faults.process import Assembler
from tests.kit.faults.simulation import CLEAN, Act, Condition, Move, Scenario, Simulation
from tests.kit.memory_client import MemoryKubeClient

Object = dict[str, Any]
STEPS: list[Object] = [{"setWeight": 10}, {"pause": {}}]


def cluster_with(rollout: Object, *, weights: dict[str, int] | None = None) -> Callable[[Cluster], None]:
    def setup(cluster: Cluster) -> None:
        if weights is not None:
            cluster.create(kinds.POOL_SPLIT, split_object(weights))
        shared_objects(cluster)
        base_objects(cluster, copy.deepcopy(rollout), route=False)

    return setup


def run(
    setup: Callable[[Cluster], None],
    goal: Condition,
    *moves: Move,
    assembler: Assembler | None = None,
) -> Simulation:
    scenario = Scenario(name="variants", setup=setup, moves=moves, goal=goal, variants=True)
    made: list[Simulation] = []

    async def whole() -> bool:
        made.append(Simulation(scenario, CLEAN, assembler or Assembler()))
        return (await made[0].run()).converged

    with virtual_time() as loop:
        assert loop.run_until_complete(whole()), (made[0].status, made[0].history.problems)
    return made[0]


def split_records(simulation: Simulation) -> list[Record]:
    return list(simulation.history.ours(kinds.POOL_SPLIT))


def writes(simulation: Simulation) -> list[dict[str, int]]:
    found = split_records(simulation)
    return [{one["name"]: one["weight"] for one in record.after["spec"]["variants"]} for record in found]


def condition(simulation: Simulation, kind: str) -> Object:
    found = simulation.status["conditions"]
    return next(item for item in found if item["type"] == kind)


def of_model(model: str) -> Object:
    rollout = variant_rollout(STEPS)
    rollout["spec"]["target"]["variant"]["model"] = model
    return rollout


def test_no_weight_before_a_pod_lists_the_model_that_it_is_sent():
    held = run(cluster_with(of_model("deepseek"), weights={STABLE: 100}), reason("VariantModelMissing"))

    assert all(CANARY not in write for write in writes(held))
    assert "deepseek-r1-0, deepseek-r1-1 of variant" in held.status["message"]


def test_only_pods_that_list_the_model_count():
    def loaded(sim: Simulation) -> None:
        for pod in ("deepseek-r1-0", "deepseek-r1-1"):
            sim.adapters.hold(pod, "deepseek", "deepseek")
        sim.note_adapters()

    started = run(
        cluster_with(of_model("deepseek"), weights={STABLE: 100}),
        at_step(1),
        Move(when=reason("VariantModelMissing"), act=loaded, after=5),
    )

    assert writes(started)[-1] == {STABLE: 90, CANARY: 10}


def test_a_canary_keeps_its_weight_while_its_pods_say_nothing_of_their_models() -> None:
    """A new leader has asked nobody yet, and a server under load answers late."""
    canaries = [f"{RELEASES[CANARY]}-{number}" for number in range(2)]

    def loaded(sim: Simulation) -> None:
        for pod in canaries:
            sim.adapters.hold(pod, "deepseek", "deepseek")
        sim.note_adapters()

    def silent(sim: Simulation) -> None:
        sim.adapters.silent |= set(canaries)
        sim.note_adapters()

    def lost(sim: Simulation) -> None:
        sim.adapters.silent.clear()
        for pod in canaries:
            sim.adapters.loaded[pod].clear()
        sim.note_adapters()

    kept = run(
        cluster_with(of_model("deepseek"), weights={STABLE: 100}),
        lambda sim: writes(sim)[-1] == {STABLE: 100} and len(writes(sim)) > 1,
        Move(when=reason("VariantModelMissing"), act=loaded, after=5),
        Move(when=at_step(1), act=silent, after=5),
        Move(when=at_step(1), act=lost, after=100),
    )

    since = {
        CANARY in one: record.seconds for one, record in zip(writes(kept), split_records(kept), strict=True)
    }
    assert since[False] - since[True] > 100  # what lacks the model loses its weight, what is silent does not


def test_pods_that_do_not_answer_are_not_said_to_lack_the_model() -> None:
    def setup(cluster: Cluster) -> None:
        cluster_with(of_model("deepseek"), weights={STABLE: 100})(cluster)

    def silent(sim: Simulation) -> None:
        sim.adapters.silent |= {f"{RELEASES[CANARY]}-{number}" for number in range(2)}
        sim.note_adapters()

    held = run(
        setup,
        lambda sim: "have not said" in str(sim.status.get("message")),
        Move(when=reason("VariantModelMissing"), act=silent),
    )

    assert "/v1/models gives no answer" in held.status["message"]
    assert "do not list" not in held.status["message"]


class _Deaf(Assembler):
    """Pickers that say of PoolSplits what ``said`` is."""

    def __init__(self, said: bool | None) -> None:
        super().__init__()
        self.said = said

    def answers(self, namespace: str, pods: list[PickerPod]) -> dict[str, bool | None]:
        return {pod.name: self.said for pod in pods}

    def __call__(self, client: Any, clock: Any, caches: Caches, source: Any) -> Any:
        return self.assembled(client, clock, caches, source, readers=self)


@pytest.mark.parametrize(("said", "why"), [(False, "PickerDialect"), (None, "PickerNotReady")])
@pytest.mark.parametrize("weights", [None, {STABLE: 100}], ids=["first install", "a new version"])
def test_pickers_that_do_not_obey_hold_it_before_anything_is_written(
    said: bool | None, why: str, weights: dict[str, int] | None
) -> None:
    held = run(cluster_with(variant_rollout(STEPS), weights=weights), reason(why), assembler=_Deaf(said))

    assert held.status["phase"] == "WaitingForTarget"
    assert all(CANARY not in write for write in writes(held))


def test_a_picker_that_obeys_later_lets_it_begin_within_seconds():
    picker = _Deaf(None)

    def says_so(sim: Simulation) -> None:
        picker.said = True

    begun_at = run(
        cluster_with(variant_rollout(STEPS), weights={STABLE: 100}),
        at_step(1),
        Move(when=reason("PickerNotReady"), act=says_so),
        assembler=picker,
    )

    assert (
        next(
            r.seconds
            for r in begun_at.history.ours(kinds.POOL_SPLIT)
            if len(r.after["spec"]["variants"]) == 2
        )
        < 15
    )


RISING: list[Object] = [{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}, {"pause": {"duration": "20s"}}]


def test_no_weight_rises_while_a_picker_obeys_no_split() -> None:
    """Of a picker that was replaced by one of an older image in the middle of it."""
    picker = _Deaf(True)

    def says(obeys: bool) -> Act:
        return lambda sim: setattr(picker, "said", obeys)

    held = run(
        cluster_with(variant_rollout(RISING), weights={STABLE: 100}),
        phase("Aborted"),
        Move(when=at_step(1), act=says(obeys=False), after=5),
        Move(when=at_step(1), act=command("promote"), after=20),
        assembler=picker,
    )

    assert max(write.get(CANARY, 0) for write in writes(held)) == 10
    assert held.status["reason"] == "ProgressDeadlineExceeded"
    said = condition(held, "TrafficApplied")
    assert (said["status"], said["reason"]) == ("False", "PickerDialect")
    assert "obeys no PoolSplits" in said["message"]


def test_it_rises_when_the_picker_obeys_again() -> None:
    picker = _Deaf(True)

    def says(obeys: bool) -> Act:
        return lambda sim: setattr(picker, "said", obeys)

    done = run(
        cluster_with(variant_rollout(RISING), weights={STABLE: 100}),
        healthy_on(CANARY),
        Move(when=at_step(1), act=says(obeys=False), after=5),
        Move(when=at_step(1), act=command("promote"), after=20),
        Move(when=at_step(2), act=says(obeys=True), after=60),
        assembler=picker,
    )

    assert {STABLE: 50, CANARY: 50} in writes(done)
    assert condition(done, "TrafficApplied")["status"] == "True"


@pytest.mark.parametrize("ended", ["Aborted", "Healthy"])
def test_a_picker_that_stops_obeying_is_named_when_all_is_over(ended: str) -> None:
    picker = _Deaf(True)

    def deaf(sim: Simulation) -> None:
        picker.said = False

    steps = STEPS if ended == "Aborted" else [{"setWeight": 50}]
    found = run(
        cluster_with(variant_rollout(steps), weights={STABLE: 100}),
        after(SEEN),
        Move(when=at_step(1) if ended == "Aborted" else phase(ended), act=command("abort"), after=5),
        Move(when=phase(ended), act=deaf, after=5),
        Move(when=phase(ended), act=scale(RELEASES[THIRD], 1), after=10),
        assembler=picker,
    )

    said = condition(found, "TrafficApplied")
    assert found.status["phase"] == ended
    assert (said["status"], said["reason"]) == ("False", "PickerDialect")


def test_overlapping_labels_and_stables_own_name_are_refused_in_words():
    overlapping = variant_rollout(STEPS)
    overlapping["spec"]["target"]["variant"]["labels"] = {"app": "custom-serving"}
    held = run(cluster_with(overlapping, weights={STABLE: 100}), reason("VariantsOverlap"))
    assert "app=custom-serving" in held.status["message"]

    named = variant_rollout(STEPS)
    named["spec"]["target"]["variant"]["name"] = STABLE
    held = run(cluster_with(named, weights={STABLE: 100}), reason("VariantNameTaken"))
    split = held.cluster.get(kinds.POOL_SPLIT, SHARED)
    assert split is not None
    assert [one["labels"] for one in split["spec"]["variants"]] == [{"release": RELEASES[STABLE]}]


def test_pods_of_no_variant_are_named_while_a_split_exists():
    found = run(
        cluster_with(variant_rollout(STEPS), weights={STABLE: 100}),
        at_step(1),
        Move(when=at_step(1), act=scale("stranger", 2), after=5),
    )

    said = condition(found, "TargetReady")
    assert (said["status"], said["reason"]) == ("True", "UnmatchedPods")
    assert "stranger-0, stranger-1" in said["message"]
    assert "match no variant" in said["message"]


def test_it_is_said_what_becomes_of_the_split_while_the_picker_is_down() -> None:
    def setup(cluster: Cluster) -> None:
        cluster_with(variant_rollout(STEPS), weights={STABLE: 100})(cluster)
        cluster.scale(RELEASES[THIRD], 0)
        pool = cluster.get(kinds.POOL_X, SHARED)
        assert pool is not None
        fail_open = {"extensionRef": {**pool["spec"]["extensionRef"], "failureMode": "FailOpen"}}
        cluster.merge(kinds.POOL_X, SHARED, {"spec": fail_open}, manager="kubectl-edit")

    found = run(setup, at_step(1))

    said = condition(found, "TargetReady")
    assert said["status"] == "True"
    assert "FailOpen: while its endpoint picker is down the gateway takes any Ready pod" in said["message"]


def test_promote_of_unmatched_pods_never_overrides_readiness():
    held = run(
        cluster_with(of_model("deepseek")),
        reason("VariantModelMissing"),
        Move(when=begun, act=command("promote"), after=30),
    )

    assert writes(held) == []


def unreadable(spec: Object) -> None:
    """Nothing of this spec can be read."""
    spec["strategy"]["canary"]["steps"] = [{"setWeight": "ten"}]


def without_template(spec: Object) -> None:
    """This one can be read, and not executed."""
    spec["strategy"]["canary"]["analysis"] = {"templates": [{"templateName": "nope"}]}


def stables_name(spec: Object) -> None:
    """The canary's pods under stable's name: the canary is dropped, and nothing may start."""
    spec["target"]["variant"]["name"] = STABLE


def after(seconds: float) -> Condition:
    return lambda sim: sim.clock.monotonic() > seconds


def split_weights(simulation: Simulation) -> dict[str, int] | None:
    split = simulation.cluster.get(kinds.POOL_SPLIT, SHARED)
    return None if split is None else {one["name"]: one["weight"] for one in split["spec"]["variants"]}


SPLIT_GONE = delete(kinds.POOL_SPLIT, SHARED)
SEEN = 300.0
"""Seconds in which everything that a deleted split leads to has happened."""


@pytest.mark.parametrize(
    ("edit", "left"),
    [
        (unreadable, {STABLE: 90, CANARY: 10}),
        (without_template, {STABLE: 90, CANARY: 10}),
        (stables_name, {STABLE: 100}),
    ],
)
def test_a_split_that_is_deleted_while_the_spec_is_wrong_is_made_again(
    edit: Callable[[Object], None], left: dict[str, int]
) -> None:
    kept = run(
        cluster_with(variant_rollout(STEPS), weights={STABLE: 100}),
        after(SEEN),
        Move(when=at_step(1), act=edit_spec(edit), after=5),
        Move(when=phase("Invalid"), act=SPLIT_GONE, after=5),
    )

    assert split_weights(kept) == left
    assert kept.status["phase"] == "Invalid"


@pytest.mark.parametrize("role", [STABLE, CANARY], ids=["at rest", "with another target, which never began"])
@pytest.mark.parametrize("model", ["", "deepseek"])
def test_a_split_that_is_deleted_while_the_spec_is_unreadable_is_made_again_for_stable_alone(
    role: str, model: str
) -> None:
    """No attempt was recorded: the spec's traffic, which nobody may change, says which split, the status who serves."""
    rollout = variant_rollout(STEPS, role=STABLE)
    rollout["spec"]["traffic"]["inferencePool"]["modelName"] = model
    name = split_name(SHARED, model)

    def installed(cluster: Cluster) -> None:
        cluster_with(rollout)(cluster)
        for other in (CANARY, THIRD):
            cluster.scale(RELEASES[other], 0)

    def serve(sim: Simulation) -> None:
        for number in range(4):
            sim.adapters.hold(f"{RELEASES[STABLE]}-{number}", model, model)
        sim.note_adapters()

    def wrong(spec: Object) -> None:
        unreadable(spec)
        spec["target"]["variant"] = variant_of(role)

    kept = run(
        installed,
        after(SEEN),
        Move(when=begun, act=serve),
        Move(when=healthy_on(STABLE), act=edit_spec(wrong), after=5),
        Move(when=phase("Invalid"), act=delete(kinds.POOL_SPLIT, name), after=15),
    )

    split = kept.cluster.get(kinds.POOL_SPLIT, name)
    assert split is not None
    assert [(one["name"], one["weight"]) for one in split["spec"]["variants"]] == [(STABLE, 100)]
    assert split["spec"]["modelName"] == model
    assert split["metadata"]["labels"]["inferencerollouts.dev/rollout"] == "mymodel"
    assert kept.status["phase"] == "Invalid"


@pytest.mark.parametrize("edit", [unreadable, without_template])
def test_an_abort_without_its_split_makes_it_with_stable_alone(edit: Callable[[Object], None]) -> None:
    def gone_and_aborted(sim: Simulation) -> None:
        SPLIT_GONE(sim)
        command("abort")(sim)

    back = run(
        cluster_with(variant_rollout(STEPS), weights={STABLE: 100}),
        after(SEEN),
        Move(when=at_step(1), act=edit_spec(edit), after=5),
        Move(when=phase("Invalid"), act=gone_and_aborted, after=5),
    )

    assert split_weights(back) == {STABLE: 100}
    assert (back.status["phase"], back.status["reason"]) == ("Aborted", "AbortedByCommand")


@pytest.mark.parametrize("edit", [unreadable, without_template])
def test_an_aborted_variant_gets_nothing_when_its_split_is_deleted(edit: Callable[[Object], None]) -> None:
    kept = run(
        cluster_with(variant_rollout(STEPS), weights={STABLE: 100}),
        after(SEEN),
        Move(when=at_step(1), act=command("abort"), after=5),
        Move(when=phase("Aborted"), act=edit_spec(edit), after=5),
        Move(when=phase("Aborted"), act=SPLIT_GONE, after=15),
    )

    assert split_weights(kept) == {STABLE: 100}


def test_a_stable_version_keeps_its_split_although_the_next_ones_spec_is_wrong() -> None:
    def installed(cluster: Cluster) -> None:
        cluster_with(variant_rollout(STEPS, role=STABLE))(cluster)
        for role in (CANARY, THIRD):
            cluster.scale(RELEASES[role], 0)

    kept = run(
        installed,
        after(SEEN),
        Move(when=healthy_on(STABLE), act=scale(RELEASES[CANARY], 2), after=5),
        Move(when=healthy_on(STABLE), act=edit_spec(without_template), after=5),
        Move(when=phase("Invalid"), act=SPLIT_GONE, after=15),
    )

    assert split_weights(kept) == {STABLE: 100}


def test_a_recorded_canary_goes_back_by_its_labels_although_the_spec_is_unreadable():
    back = run(
        cluster_with(variant_rollout(STEPS), weights={STABLE: 100}),
        phase("Aborted"),
        Move(when=at_step(1), act=edit_spec(unreadable), after=5),
        Move(when=phase("Invalid"), act=command("abort"), after=5),
    )

    assert writes(back)[-1] == {STABLE: 100}


def test_a_pool_that_is_gone_is_said_of_the_pool():
    def setup(cluster: Cluster) -> None:
        cluster_with(variant_rollout(STEPS))(cluster)
        cluster.delete(kinds.POOL_X, SHARED)

    held = run(setup, reason("PoolMissing"))

    assert f"InferencePool {SHARED} does not exist" in held.status["message"]


# --- what is left ----------------------------------------------------------------------------------


def left_behind(**meta: Any) -> tuple[Cluster, Caches]:
    """A split of a Rollout that is gone, and the caches of a controller that has heard of everything."""
    clock = SystemClock()
    cluster = Cluster(clock)
    shared_objects(cluster)
    split = split_object({STABLE: 100})
    split["metadata"] |= meta
    cluster.create(kinds.POOL_SPLIT, split)
    cluster.scale(RELEASES[STABLE], 2)
    return cluster, Caches(cluster.api, clock)  # type: ignore[arg-type]


async def removed(cluster: Cluster, caches: Caches) -> bool:
    for resource in (kinds.ROLLOUT, kinds.POOL_SPLIT, kinds.POD, kinds.POOL_X):
        for obj in cluster.all(resource):
            caches.by_resource()[resource].apply(obj)
    count = await remove_orphaned_splits(MemoryKubeClient(cluster.api), caches)
    gone = cluster.get(kinds.POOL_SPLIT, SHARED) is None
    assert count == int(gone)
    return gone


async def test_an_orphaned_split_goes_when_every_pod_is_of_one_variant():
    """A pod of the version that lost may restart just now: Ready again, it is to get nothing."""
    cluster, caches = left_behind()
    cluster.scale(RELEASES[CANARY], 1)
    assert not await removed(cluster, caches)

    cluster.scale(RELEASES[CANARY], 0, unready=1)
    assert not await removed(cluster, caches)

    cluster, caches = left_behind()
    assert await removed(cluster, caches)


async def test_a_split_stays_while_its_rollout_is_there_or_nobody_is_named_or_no_pod_is_ready():
    cluster, caches = left_behind()
    cluster.create(kinds.ROLLOUT, variant_rollout(STEPS))
    assert not await removed(cluster, caches)

    cluster, caches = left_behind(annotations={})
    assert not await removed(cluster, caches)

    cluster, caches = left_behind()
    cluster.scale(RELEASES[STABLE], 0)
    assert not await removed(cluster, caches)


async def test_a_split_of_which_no_pod_is_goes_and_not_while_one_may_be_ready_again():
    cluster, caches = left_behind()
    cluster.scale(RELEASES[STABLE], 0, unready=1)
    cluster.scale(RELEASES[CANARY], 2)  # of the version that lost, which the split does not list
    assert not await removed(cluster, caches)

    cluster, caches = left_behind()
    cluster.scale(RELEASES[STABLE], 0)
    cluster.scale(RELEASES[CANARY], 2)
    assert await removed(cluster, caches)


async def test_a_split_of_a_pool_that_is_gone_goes_with_the_pods():
    """A pool that is replaced is gone for a moment."""
    meta = {"annotations": {}, "labels": {"inferencerollouts.dev/rollout": "gone"}}
    cluster, caches = left_behind(**meta)
    cluster.delete(kinds.POOL_X, SHARED)
    assert not await removed(cluster, caches)

    cluster, caches = left_behind(**meta)
    cluster.delete(kinds.POOL_X, SHARED)
    cluster.scale(RELEASES[STABLE], 0)
    assert await removed(cluster, caches)


@asynccontextmanager
async def metrics_page(text: str) -> AsyncIterator[tuple[str, int]]:
    """A picker's page."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=text)

    app = web.Application()
    app.router.add_get("/metrics", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        yield host, port
    finally:
        await runner.cleanup()


# --- pickers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "obeys"),
    [(f"{POOL_SPLITS_READ} 1.0\n", True), (f"{POOL_SPLITS_READ} 0.0\n", False), ("other 1\n", False)],
)
async def test_a_picker_says_on_its_page_whether_it_obeys(page: str, obeys: bool) -> None:
    async with metrics_page(page) as (host, port):
        scraper = PodScraper(SystemClock())
        readers = ScrapedSplitReaders(scraper)
        pods = [
            PickerPod(name="p", ip=host, metrics_port=port),
            PickerPod(name="q", ip=host, metrics_port=None),
        ]
        assert readers.answers(NAMESPACE, pods) == {"p": None, "q": False}

        target = ScrapeTarget(pod="p", ip=host, port=port, namespace=NAMESPACE)
        await scraper.refresh(scraper.follow([target], {POOL_SPLITS_READ}, 0.0))

        assert readers.answers(NAMESPACE, pods) == {"p": obeys, "q": False}
        await scraper.close()


# --- claims ----------------------------------------------------------------------------------------


def test_of_two_rollouts_of_one_pools_requests_the_younger_writes_nothing() -> None:
    def setup(cluster: Cluster) -> None:
        cluster_with(variant_rollout(STEPS), weights={STABLE: 100})(cluster)
        other = variant_rollout(STEPS, name="other", role=THIRD)
        cluster.create(kinds.ROLLOUT, other)

    found = run(setup, at_step(1))

    other = found.cluster.get(kinds.ROLLOUT, "other")
    assert other is not None
    assert (other["status"]["phase"], other["status"]["reason"]) == ("Invalid", "ClaimedByOther")
    assert writes(found)[-1] == {STABLE: 90, CANARY: 10}


def by_hand(cluster: Cluster) -> None:
    """Somebody's older PoolSplit for the same pool, under another name."""
    made = split_object({STABLE: 100})
    made["metadata"] = {"name": "by-hand", "namespace": NAMESPACE}
    cluster.create(kinds.POOL_SPLIT, made)


@pytest.mark.parametrize("weights", [None, {STABLE: 100}], ids=["first install", "a new version"])
def test_another_older_split_of_the_same_requests_holds_it_and_is_named(
    weights: dict[str, int] | None,
) -> None:
    def setup(cluster: Cluster) -> None:
        by_hand(cluster)
        cluster_with(variant_rollout(STEPS), weights=weights)(cluster)
        if weights is None:
            for role in (STABLE, THIRD):
                cluster.scale(RELEASES[role], 0)

    done = run(
        setup,
        healthy_on(CANARY) if weights is None else at_step(1),
        Move(when=reason("SplitOverruled"), act=delete(kinds.POOL_SPLIT, "by-hand"), after=60),
    )

    (gone,) = (one.seconds for one in done.history.records if one.change.name == "by-hand" and not one.after)
    to_canary = [one for one in split_records(done) if CANARY in str(one.after["spec"]["variants"])]
    assert to_canary[0].seconds >= gone


def test_a_younger_split_of_the_same_requests_is_the_pickers_to_name() -> None:
    found = run(
        cluster_with(variant_rollout(RISING), weights={STABLE: 100}),
        healthy_on(CANARY),
        Move(when=at_step(1), act=lambda sim: by_hand(sim.cluster), after=5),
        Move(when=at_step(1), act=command("promote"), after=20),
    )

    assert condition(found, "TrafficApplied")["status"] == "True"


def test_rollouts_for_models_of_one_pool_have_splits_of_their_own() -> None:
    def setup(cluster: Cluster) -> None:
        cluster_with(variant_rollout(STEPS), weights={STABLE: 100})(cluster)
        for role in (CANARY, THIRD):
            cluster.scale(RELEASES[role], 0)
        other = variant_rollout(STEPS, name="other", role=STABLE)
        other["spec"]["traffic"]["inferencePool"]["modelName"] = "other-model"
        cluster.create(kinds.ROLLOUT, other)

    def listed(sim: Simulation) -> None:
        for number in range(4):
            sim.adapters.hold(f"{RELEASES[STABLE]}-{number}", "other-model", "other-model")
        sim.note_adapters()

    def both_written(sim: Simulation) -> bool:
        return len(sim.cluster.all(kinds.POOL_SPLIT)) == 2

    found = run(setup, both_written, Move(when=begun, act=listed, after=5))

    made = next(one for one in found.cluster.all(kinds.POOL_SPLIT) if one["metadata"]["name"] != SHARED)
    assert made["spec"]["modelName"] == "other-model"
    assert made["metadata"]["labels"] == {"inferencerollouts.dev/rollout": "other"}
