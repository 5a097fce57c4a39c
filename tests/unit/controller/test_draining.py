"""Drains as they are carried out: what is marked, how far that is, and that every way back takes the marks off."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from rollouts.api.parsing import ParsedRollout, parse_rollout
from rollouts.controller.caches import Caches
from rollouts.controller.draining import PodDrains
from rollouts.controller.marking import Marking
from rollouts.controller.wakes import on_rollout_change
from rollouts.controller.workloads import find_workload
from rollouts.engine.actions import DrainPods, Plan
from rollouts.engine.observation import Drained, Draining, DrainView, NotControllable
from rollouts.engine.revision import revision_of
from rollouts.engine.rollout_status import Drain, RolloutStatus
from rollouts.engine.versions import Identity
from rollouts.kube.client import PatchKind, Resource
from rollouts.kube.errors import ApiUnavailable, Forbidden, KubeError, NotFound
from rollouts.lab.memoryapi.store import MemoryApi
from rollouts.objects import kinds
from rollouts.objects.leaving import BUSY, COST_ANNOTATION, IDLE
from rollouts.objects.pods import DRAINING_ANNOTATION
from rollouts.objects.workloads import WORKLOADS, Workload
from rollouts.runtime.fencing import NotLeading
from rollouts.runtime.objects import ObjectKey
from tests.kit.clock import Timeline, VirtualClock, virtual_time
from tests.kit.loads import KnownLoads
from tests.kit.memory_client import MemoryKubeClient
from tests.kit.work import calls
from tests.kit.world import START

V1 = Identity(kind="InferencePool", group=kinds.POOL_V1.group, name="v1")
OURS = "Rollout demo"
Object = dict[str, Any]


class Fleet:
    """A pool of pods behind an API server; a ``restarted`` controller has only what is stored."""

    def __init__(self, *counts: int, kind: str = "Deployment", start: int = 0) -> None:
        self.timeline = Timeline()
        self.clock = VirtualClock(self.timeline)
        self.api = MemoryApi(clock=self.clock)
        self.client = MemoryKubeClient(self.api)
        self.loads = KnownLoads()
        self.kind = kind
        self.start = start
        self.restart()
        self.scale(len(counts))
        for number, count in enumerate(counts, start):
            self.pod(f"v1-{number}")
            self.loads.by_pod[f"v1-{number}"] = count

    def restart(self) -> None:
        self.caches = Caches(self.client, self.clock, capacity_kinds=("Deployment", "StatefulSet"))
        self.drains = PodDrains(self.client, self.caches, self.clock, self.loads)
        spec = {"selector": {"matchLabels": {"app": "v1"}}, "targetPorts": [{"number": 8000}]}
        meta = {"name": "v1", "namespace": "default", "uid": "v1", "resourceVersion": "1"}
        pool = {
            "apiVersion": kinds.POOL_V1.api_version,
            "kind": "InferencePool",
            "metadata": meta,
            "spec": spec,
        }
        self.caches.pools[kinds.POOL_V1.group].apply(pool)
        for pod in self.api.list_page(kinds.POD, "default").items if hasattr(self, "made") else ():
            self.caches.pods.apply(pod)
        self.made = True
        if hasattr(self, "replicas"):
            self.scale(self.replicas)

    def scale(self, replicas: int) -> None:
        self.replicas = replicas
        self.version = getattr(self, "version", 1) + 1
        meta = {"name": "v1", "namespace": "default", "uid": "w", "resourceVersion": str(self.version)}
        spec: Object = {"replicas": replicas, "template": {"metadata": {"labels": {"app": "v1"}}}}
        if self.start:
            spec["ordinals"] = {"start": self.start}
        self.caches.workloads[WORKLOADS[self.kind]].apply({"metadata": meta, "spec": spec})

    def pod(
        self,
        name: str,
        template: str = "abc",
        *,
        ready: bool = True,
        ip: str = "10.0.0.1",
        seen: bool = True,
        **meta: Any,
    ) -> None:
        owner = ("ReplicaSet", f"v1-{template}") if self.kind == "Deployment" else (self.kind, "v1")
        refs = [{"apiVersion": "apps/v1", "kind": owner[0], "name": owner[1], "uid": "o", "controller": True}]
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "labels": {"app": "v1", "pod-template-hash": template},
                "ownerReferences": refs,
                **meta,
            },
            "spec": {"nodeName": "n", "containers": [{"name": "vllm", "image": "vllm"}]},
        }
        self.api.create(kinds.POD, "default", body)
        status = {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": str(ready)}]}
        how = {"content_type": PatchKind.MERGE.value, "subresource": "status", "manager": "kubelet"}
        stored = self.api.patch(kinds.POD, "default", name, {"status": status}, **how)
        if seen:
            self.caches.pods.apply(stored)

    def rollout(self, to: int | None, replicas: int | None = None, name: str = "demo") -> ParsedRollout:
        """The Rollout as it is stored, with a drain to so many replicas."""
        asked = () if to is None else (
            Drain(identity=V1, replicas=replicas or self.replicas, to=to, since=START),
        )  # fmt: skip
        parsed = parse_rollout({"metadata": {"name": name, "namespace": "default", "uid": "u"}})
        return replace(parsed, status=RolloutStatus(stable=revision_of(V1, ""), drains=asked))

    async def carry_out(self, to: int | None, *, stores: int | None = None) -> Marking:
        """A plan that asks for a drain, or only ``stores`` one."""
        parsed = self.rollout(to)
        actions = () if to is None else (DrainPods(identity=V1, to=to),)
        status = parsed.status if stores is None else self.rollout(stores).status
        return await self.drains.carry_out(parsed, Plan(status=status, actions=actions))

    def view(self, to: int | None, replicas: int | None = None) -> DrainView | None:
        parsed = self.rollout(to, replicas)
        pool = self.caches.pool(V1.group, "default", "v1")
        assert pool is not None
        workload = find_workload(self.caches, pool)
        assert isinstance(workload, Workload)
        return self.drains.view(parsed, V1, pool, workload)

    def annotations(self) -> dict[str, dict[str, str]]:
        pods = self.api.list_page(kinds.POD, "default").items
        found = {pod["metadata"]["name"]: pod["metadata"].get("annotations") or {} for pod in pods}
        return {name: annotations for name, annotations in found.items() if annotations}


def marked(*names: str, cost: int | None = BUSY) -> dict[str, dict[str, str]]:
    costs = {} if cost is None else {COST_ANNOTATION: str(cost)}
    return {name: {DRAINING_ANNOTATION: OURS, **costs} for name in names}


async def test_the_idlest_are_marked_and_drained_and_then_reported() -> None:
    fleet = Fleet(4, 0, 2, 9)
    before = fleet.view(2)
    await fleet.carry_out(2)
    chosen, told = fleet.annotations(), fleet.view(2)
    await fleet.carry_out(2)
    sorted_out = fleet.annotations()
    fleet.timeline.advance(3.0)
    fleet.view(2)
    fleet.timeline.advance(3.0)
    one_may_go = fleet.view(2)
    fleet.loads.by_pod["v1-2"] = 0
    done = fleet.view(2)

    assert before == Draining(pods=2, requests=None)
    assert chosen == marked("v1-1", "v1-2")
    assert told == Draining(pods=1, requests=2)
    assert sorted_out == marked("v1-1", cost=IDLE) | marked("v1-2")
    assert one_may_go == Draining(pods=1, requests=2, free=1)
    assert done == Drained()


async def test_marks_are_written_once_and_go_when_nobody_asks() -> None:
    fleet = Fleet(0, 0, 0)
    await fleet.carry_out(1)
    await fleet.carry_out(1)
    version = fleet.api.get(kinds.POD, "default", "v1-0")["metadata"]["resourceVersion"]
    await fleet.carry_out(1)
    same = fleet.api.get(kinds.POD, "default", "v1-0")["metadata"]["resourceVersion"] == version
    parsed = fleet.rollout(None)
    owed = fleet.drains.owes(parsed, Plan(status=parsed.status, actions=()))
    await fleet.carry_out(None)

    assert same
    assert owed
    assert fleet.annotations() == {}
    assert not fleet.drains.owes(parsed, Plan(status=parsed.status, actions=()))


@pytest.mark.parametrize(("to", "want"), [(2, {"v1-0"}), (1, {"v1-0", "v1-1"}), (3, set()), (None, set())])
async def test_a_new_process_goes_on_with_the_pods_that_were_chosen(to: int | None, want: set[str]) -> None:
    fleet = Fleet(0, 1, 7)
    await fleet.carry_out(2)
    fleet.restart()
    fleet.loads.by_pod = {"v1-0": 9, "v1-1": 0, "v1-2": 5}
    await fleet.carry_out(to)

    assert set(fleet.annotations()) == want


async def test_what_a_scale_takes_anyway_keeps_its_mark_until_it_is_gone() -> None:
    """Else the ReplicaSet, which is a moment late, would take other pods, with their requests."""
    fleet = Fleet(0, 0, 7)
    await fleet.carry_out(1)
    await fleet.carry_out(1)
    fleet.scale(1)
    await fleet.carry_out(None)
    while_they_are_there = fleet.annotations()
    fleet.scale(3)
    await fleet.carry_out(None)

    assert while_they_are_there == marked("v1-0", "v1-1", cost=IDLE)
    assert fleet.annotations() == {}


@pytest.mark.parametrize(("stores", "want"), [(0, {"v1-0", "v1-1"}), (1, {"v1-0", "v1-1"}), (2, {"v1-0"})])
async def test_a_drain_that_is_stored_to_be_asked_for_next_keeps_its_marks(
    stores: int, want: set[str]
) -> None:
    """More or fewer pods are to go: nobody gets requests again for a moment, and nobody new is marked yet."""
    fleet = Fleet(0, 1, 7)
    await fleet.carry_out(1)
    await fleet.carry_out(None, stores=stores)

    assert set(fleet.annotations()) == want


async def test_what_others_wrote_stays() -> None:
    fleet = Fleet(0, 0, 0)
    for name, written in (
        ("v1-0", {DRAINING_ANNOTATION: "true"}),
        ("v1-1", {COST_ANNOTATION: "100"}),
        ("bare", {DRAINING_ANNOTATION: "Rollout other"}),
    ):
        if name == "bare":
            fleet.pod(name, annotations=written, ownerReferences=[])
        else:
            body = {"metadata": {"annotations": written}}
            how = {"content_type": PatchKind.MERGE.value, "manager": "me"}
            fleet.caches.pods.apply(fleet.api.patch(kinds.POD, "default", name, body, **how))
    before = fleet.annotations()
    await fleet.carry_out(1)
    meanwhile = fleet.annotations()
    await fleet.carry_out(None)

    assert {name for name, now in meanwhile.items() if now != before.get(name)} == {"v1-1", "v1-2"}
    assert fleet.annotations() == before


async def test_a_statefulset_has_no_costs_and_loses_its_highest_ordinals() -> None:
    fleet = Fleet(0, 3, 0, kind="StatefulSet")
    await fleet.carry_out(1)
    told = fleet.view(1)
    fleet.loads.by_pod["v1-1"] = 0

    assert fleet.annotations() == marked("v1-1", "v1-2", cost=None)
    assert told == Draining(pods=1, requests=3, free=1)
    assert fleet.view(1) == Drained()


@pytest.mark.parametrize("start", [1, 2, 8])
async def test_a_statefulset_whose_ordinals_begin_later_loses_its_highest_ones(start: int) -> None:
    fleet = Fleet(0, 0, 3, 0, kind="StatefulSet", start=start)
    await fleet.carry_out(3)

    assert fleet.annotations() == marked(f"v1-{start + 3}", cost=None)
    assert fleet.view(3) == Drained()


async def test_a_busy_highest_ordinal_keeps_the_idle_ones_below_it() -> None:
    fleet = Fleet(0, 0, 3, kind="StatefulSet")
    await fleet.carry_out(1)

    assert fleet.view(1) == Draining(pods=1, requests=3, free=0)


async def test_a_pod_that_does_not_say_is_no_drained_one() -> None:
    fleet = Fleet(0, 0, 0)
    fleet.loads.silent = {"v1-0"}
    await fleet.carry_out(1)
    await fleet.carry_out(1)

    assert fleet.view(1) == Draining(pods=1, requests=None, free=0)
    assert fleet.annotations() == marked("v1-0") | marked("v1-1", cost=IDLE)


async def test_pods_without_an_address_go_first_and_answer_nothing() -> None:
    fleet = Fleet(0, 3)
    fleet.pod("v1-late", ready=False, ip="")
    fleet.scale(3)
    await fleet.carry_out(2)

    assert set(fleet.annotations()) == {"v1-late"}
    assert fleet.view(2) == Drained()


async def test_replicas_that_were_never_made_are_no_pods_that_go() -> None:
    fleet = Fleet(5, 5)
    fleet.scale(4)
    await fleet.carry_out(2)

    assert fleet.annotations() == {}
    assert fleet.view(2) == Drained()


async def test_pods_beyond_the_replicas_are_not_counted_as_free() -> None:
    """A scale to fewer than were asked for takes them, too."""
    fleet = Fleet(0, 0, 0, 4)
    fleet.scale(3)
    for _ in range(3):
        await fleet.carry_out(0)
        fleet.view(0, replicas=3)
        fleet.timeline.advance(3.0)

    assert fleet.view(0, replicas=3) == Draining(pods=1, requests=4, free=2)


async def test_in_the_middle_of_a_change_of_the_template_nobody_knows() -> None:
    fleet = Fleet(0, 0, 0)
    await fleet.carry_out(1)
    before = fleet.annotations()
    fleet.pod("v1-new", template="def")
    left = await fleet.carry_out(1)

    assert left is Marking.LEFT
    assert fleet.view(1) == Draining(pods=2, requests=None)
    assert fleet.annotations() == before


async def test_pods_that_nobody_knows_the_owner_of_are_not_taken_for_drained() -> None:
    """Somebody else's are left alone where the workload has all of its own."""
    fleet = Fleet(0, 0)
    fleet.pod("v1-2", ownerReferences=[])
    beside = fleet.view(1)
    await fleet.carry_out(1)
    marks = set(fleet.annotations())
    fleet.scale(3)
    left = await fleet.carry_out(1)

    assert beside == Draining(pods=1, requests=None)
    assert marks == {"v1-0"}
    assert left is Marking.LEFT
    assert fleet.view(1) == Draining(pods=2, requests=None)
    assert set(fleet.annotations()) == {"v1-0"}


async def test_the_choice_waits_a_moment_for_the_first_figures() -> None:
    fleet = Fleet(0, 0, 0)
    fleet.loads.by_pod = {}
    early = await fleet.carry_out(2), fleet.annotations()
    fleet.timeline.advance(6.0)
    late = await fleet.carry_out(2), set(fleet.annotations())

    assert early == (Marking.LEFT, {})
    assert late == (Marking.DONE, {"v1-0"})


async def test_a_plan_marks_so_many_pods_and_the_next_one_the_rest() -> None:
    fleet = Fleet(*range(20))
    first = await fleet.carry_out(2), len(fleet.annotations())
    second = await fleet.carry_out(2), len(fleet.annotations())

    assert first == (Marking.LEFT, 16)
    assert second[1] == 18


@pytest.mark.parametrize(
    ("error", "left", "view"),
    [
        (ApiUnavailable("down"), Marking.LEFT, Draining(pods=1, requests=None)),
        (NotFound("gone", status=404), Marking.LEFT, Draining(pods=1, requests=None)),
        (
            Forbidden("no", status=403),
            Marking.REFUSED,
            NotControllable("the API server refuses to annotate pods: no"),
        ),
    ],
)
async def test_what_the_api_server_does_not_take(
    monkeypatch: pytest.MonkeyPatch, error: KubeError, left: Marking, view: DrainView
) -> None:
    fleet = Fleet(0, 0)
    with monkeypatch.context() as patched:
        patched.setattr(MemoryApi, "patch", raising(error))
        told = await fleet.carry_out(1)
        seen = fleet.view(1)
    fleet.timeline.advance(61.0)
    later = await fleet.carry_out(1)

    assert (told, seen) == (left, view)
    assert later is Marking.DONE
    assert set(fleet.annotations()) == {"v1-0"}
    assert fleet.view(1) == Drained()


def raising(error: Exception) -> Any:
    def patch(self: MemoryApi, resource: Resource, *place: Any, **how: Any) -> Any:
        raise error

    return patch


async def test_a_pod_that_is_gone_does_not_keep_the_others_from_their_marks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet = Fleet(0, 0, 5)
    real = MemoryApi.patch

    def patch(self: MemoryApi, resource: Resource, namespace: str, name: str, *rest: Any, **how: Any) -> Any:
        if name == "v1-0":
            raise NotFound("gone", status=404)
        return real(self, resource, namespace, name, *rest, **how)

    monkeypatch.setattr(MemoryApi, "patch", patch)

    assert await fleet.carry_out(1) is Marking.LEFT
    assert set(fleet.annotations()) == {"v1-1"}


@pytest.mark.parametrize("ends", [False, True])
async def test_no_annotation_reaches_the_next_pod_of_a_name(*, ends: bool) -> None:
    """Of a StatefulSet, or a LeaderWorkerSet, whose new pod the watch has not told of."""
    fleet = Fleet(0, 0, 5, kind="StatefulSet")
    if ends:
        await fleet.carry_out(2)
    fleet.api.delete(kinds.POD, "default", "v1-2", grace_period_seconds=0)
    by_hand = {DRAINING_ANNOTATION: "by hand"}
    fleet.pod("v1-2", seen=False, annotations=by_hand)

    with capture_logs() as logs:
        told = await (fleet.drains.release("default", "demo") if ends else fleet.carry_out(1))

    assert told is Marking.LEFT
    assert fleet.annotations() == {"v1-2": by_hand, **({} if ends else marked("v1-1", cost=None))}
    assert {entry["log_level"] for entry in logs} <= {"info"}
    assert not isinstance(fleet.view(1), NotControllable)


def test_a_mark_of_a_rollout_that_is_gone_is_news() -> None:
    """As for a controller that starts after the one that was refused."""
    fleet, heard = Fleet(), list[ObjectKey]()
    on_rollout_change(fleet.caches, heard.append)
    fleet.pod("left", annotations={DRAINING_ANNOTATION: OURS})
    fleet.pod("other", annotations={DRAINING_ANNOTATION: "by hand"})
    rollout = {"metadata": {"name": "there", "namespace": "default", "uid": "r", "resourceVersion": "1"}}
    fleet.caches.rollouts.apply(rollout)
    heard.clear()
    fleet.pod("known", annotations={DRAINING_ANNOTATION: "Rollout there"})
    fleet.pod("again", annotations={DRAINING_ANNOTATION: OURS})

    assert heard == [ObjectKey("default", "demo")]


def test_a_plan_without_drains_looks_at_no_pods_because_somebody_else_drains() -> None:
    def work(others: int) -> int:
        with virtual_time() as loop:
            fleet = Fleet(0, 3, 5)
            for _ in range(2):
                loop.run_until_complete(fleet.carry_out(1))
                fleet.view(1)
            for number in range(others):
                fleet.pod(f"pod-{number}")
            other = fleet.rollout(None, name="other")
            return calls(
                lambda: loop.run_until_complete(
                    fleet.drains.carry_out(other, Plan(status=other.status, actions=()))
                )
            )

    assert work(50) < work(0) + 50


class Policy:
    """An admission policy that denies patches of some pods, or never answers them; it notes what was asked."""

    def __init__(self, fleet: Fleet, *names: str, answers: bool = True) -> None:
        self.real = fleet.client.patch
        self.names = set(names)
        self.answers = answers
        self.asked: list[str] = []
        fleet.client.patch = self.patch  # type: ignore[method-assign]

    async def patch(self, resource: Resource, namespace: str, name: str, *rest: Any, **how: Any) -> Any:
        self.asked.append(name)
        if name not in self.names:
            return await self.real(resource, namespace, name, *rest, **how)
        if not self.answers:
            await asyncio.Event().wait()
        raise Forbidden("a policy denies it", status=403)


async def test_a_pod_that_a_policy_holds_keeps_no_other_from_getting_requests_again() -> None:
    fleet = Fleet(0, 0, 0, 0)
    await fleet.carry_out(2)
    before, policy = set(fleet.annotations()), Policy(fleet, "v1-0")
    ended = await fleet.carry_out(None), set(fleet.annotations())
    again = await fleet.carry_out(None), policy.asked.count("v1-0")
    gone = await fleet.drains.release("default", "demo"), set(fleet.annotations())
    policy.names.clear()
    fleet.timeline.advance(61.0)
    later = await fleet.drains.release("default", "demo"), set(fleet.annotations())

    assert before == {"v1-0", "v1-1"}
    assert ended == (Marking.REFUSED, {"v1-0"})
    assert again == (Marking.REFUSED, 1)  # what was refused is not asked for by each plan
    assert gone == (Marking.REFUSED, {"v1-0"})
    assert later == (Marking.DONE, set())


async def test_many_pods_that_a_policy_holds_keep_no_other_from_its_mark() -> None:
    fleet = Fleet(*range(40))
    Policy(fleet, *(f"v1-{number}" for number in range(20)))
    tries = [await fleet.carry_out(4) for _ in range(4)]

    assert tries == [Marking.LEFT, Marking.LEFT, Marking.REFUSED, Marking.REFUSED]
    assert set(fleet.annotations()) == {f"v1-{number}" for number in range(20, 36)}


async def test_a_refusal_to_give_a_pod_requests_again_is_none_to_mark_others() -> None:
    fleet = Fleet(0, 0, 0)
    await fleet.carry_out(1)
    Policy(fleet, "v1-0")
    await fleet.carry_out(None)

    assert set(fleet.annotations()) == {"v1-0"}
    assert isinstance(fleet.view(2), Drained)


async def test_pods_that_are_to_get_requests_again_come_first() -> None:
    fleet = Fleet(0, 5)
    mark = {DRAINING_ANNOTATION: OURS}
    fleet.pod("stray", template="of-another", annotations=mark, ownerReferences=[])
    policy = Policy(fleet)
    await fleet.carry_out(1)

    assert policy.asked == ["stray", "v1-0"]
    assert set(fleet.annotations()) == {"v1-0"}


def test_a_pod_whose_patch_is_never_answered_keeps_the_others_waiting_once() -> None:
    with virtual_time() as loop:
        fleet = Fleet(0, 0, 5)
        Policy(fleet, "v1-0", answers=False)
        tries = [loop.run_until_complete(fleet.carry_out(1)) for _ in range(2)]
        spent = loop.time()

    assert tries == [Marking.LEFT, Marking.LEFT]
    assert set(fleet.annotations()) == {"v1-1"}
    assert spent == pytest.approx(6.0, abs=0.1)


async def test_a_rollout_that_is_gone_keeps_requests_from_nobody() -> None:
    fleet = Fleet(*range(20))
    for _ in range(2):
        await fleet.carry_out(1)
    left = [await fleet.drains.release("default", name) for name in ("other", "demo", "demo")]

    assert left == [Marking.DONE, Marking.LEFT, Marking.DONE]
    assert fleet.annotations() == {}


async def test_one_that_does_not_lead_marks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(0, 0)
    monkeypatch.setattr(MemoryApi, "patch", raising(NotLeading("not the leader")))

    with pytest.raises(NotLeading):
        await fleet.carry_out(1)
    assert fleet.annotations() == {}


async def test_a_picker_that_is_not_ours_is_said_before_anything_is_to_go() -> None:
    fleet = Fleet(0, 0)
    fleet.loads.why = "not ours"

    assert fleet.view(None) == NotControllable("not ours")
    fleet.loads.why = ""
    assert fleet.view(None) is None


async def test_that_pods_which_go_anyway_lose_their_marks_would_be_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(PodDrains, "_going_anyway", lambda self, parsed: set())

    with pytest.raises(AssertionError):
        await test_what_a_scale_takes_anyway_keeps_its_mark_until_it_is_gone()


async def test_the_cache_has_a_mark_at_once() -> None:
    fleet = Fleet(0, 0)
    await fleet.carry_out(1)
    cached = fleet.caches.pods.get(ObjectKey("default", "v1-0"))

    assert cached is not None
    assert cached["metadata"]["annotations"] == marked("v1-0")["v1-0"]
