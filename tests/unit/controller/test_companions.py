"""Which pools work for those of a version: what pools and the Rollout say, and who looks again when they say else."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from rollouts.api.parsing import ParsedRollout, parse_rollout
from rollouts.controller import draining
from rollouts.controller.companions import companion_pools
from rollouts.controller.draining import PodDrains
from rollouts.controller.wakes import on_rollout_change
from rollouts.controller.workloads import WorkloadViews
from rollouts.engine.attempt import Attempt, AttemptCapacity, CompanionCapacity
from rollouts.engine.observation import Blocker, NotControllable, WorkloadView
from rollouts.engine.revision import revision_of
from rollouts.engine.rollout_spec import Capacity, PodCount
from rollouts.engine.rollout_status import (
    CompanionScale,
    Drain,
    HistoryEntry,
    KeptCompanion,
    Outcome,
    RolloutStatus,
    ScaleDown,
    StableScale,
)
from rollouts.engine.versions import Identity
from rollouts.objects import kinds
from rollouts.objects.companions import ROLE_LABEL, WITH_LABEL, roles_hint
from rollouts.objects.pools import ROLES_ANNOTATION, Roles, read_pool, read_roles
from rollouts.runtime.objects import ObjectKey
from tests.kit.loads import KnownLoads
from tests.unit.controller.test_workloads import GROUP, V1, V2, Busy, Cluster

P1, P2 = (Identity(kind="InferencePool", group=GROUP, name=name) for name in ("p1", "p2"))
Object = dict[str, Any]


def cluster(**labels: dict[str, str]) -> Cluster:
    """Two versions and two more pools, each with its Deployment; ``labels`` by pool."""
    made = Cluster()
    for name in ("v1", "v2", "p1", "p2"):
        label(made, name, **labels.get(name, {}))
        made.workload(f"vllm-{name}", labels={"app": name}, replicas=2)
    return made


def label(made: Cluster, name: str, of: str = "", role: str = "", group: str = GROUP) -> None:
    labels = {WITH_LABEL: of, ROLE_LABEL: role}
    resource = kinds.POOL_V1 if group == GROUP else kinds.POOL_X
    made.put(
        resource,
        name,
        metadata={"labels": {key: value for key, value in labels.items() if value}},
        spec={"selector": {"matchLabels": {"app": name}}, "targetPorts": [{"number": 8000}]},
    )


def rollout(*listed: Object, name: str = "demo", target: str = "v2") -> Object:
    spec = {
        "target": {"pool": {"name": target}},
        "traffic": {"httpRoutes": [{"name": "r"}]},
        "strategy": {"canary": {"steps": [{"setWeight": 10}], "capacity": {"with": list(listed)}}},
    }
    return {"metadata": {"name": name, "namespace": "default", "uid": name}, "spec": spec}


def parsed(*listed: Object, **status: Any) -> ParsedRollout:
    found = parse_rollout(rollout(*listed))
    assert found.problems == ()
    return replace(found, status=RolloutStatus(stable=revision_of(V1, ""), **status))


def views(made: Cluster) -> WorkloadViews:
    return WorkloadViews(made.caches, Busy(), {}, PodDrains(made.client, made.caches, made.clock, Busy()))


def found(made: Cluster, *listed: Object) -> dict[str, Any]:
    """By version, the pools by role; or what is wrong."""
    companions = views(made).companions(parsed(*listed), V2)
    return {
        arm.name: there.message
        if isinstance(there, Blocker)
        else {one.role: one.identity.name for one in there}
        for arm, there in companions.items()
    }


@pytest.mark.parametrize(
    ("labels", "listed"),
    [
        ({"p1": {"of": "v1"}, "p2": {"of": "v2"}}, []),
        ({}, [{"pool": "p1", "of": "v1"}, {"pool": "p2"}]),
        ({"p1": {"of": "v1"}}, [{"pool": "p2"}]),
        ({"p1": {"of": "v1"}, "p2": {"of": "v2"}}, [{"pool": "p2", "of": "v2"}]),
    ],
)
def test_each_version_finds_its_own(labels: dict[str, Any], listed: list[Object]) -> None:
    assert found(cluster(**labels), *listed) == {"v1": {"": "p1"}, "v2": {"": "p2"}}


def test_roles_come_from_the_label_or_from_the_list() -> None:
    made = cluster(p1={"of": "v2", "role": "prefill"}, p2={"of": "v2", "role": "x"})

    assert found(made, {"pool": "p2", "role": "encode"})["v2"] == {"prefill": "p1", "encode": "p2"}


@pytest.mark.parametrize(
    ("labels", "listed", "version", "words"),
    [
        (
            {},
            [{"pool": "p9"}],
            "v2",
            "InferencePool p9, which belongs to v2 by capacity.with, does not exist",
        ),
        (
            {"p1": {"of": "v2"}, "p2": {"of": "v2"}},
            [],
            "v2",
            "v2 has two companions: p1 and p2: give each a role",
        ),
        ({"p1": {"of": "v1"}}, [{"pool": "p1"}], "v1", "p1 belongs to v1 by its label"),
        ({"p1": {"of": "v1"}}, [{"pool": "p1"}], "v2", "p1 belongs to v1 by its label"),
        ({"v2": {"of": "v2"}}, [], "v2", "InferencePool v2 is its own companion"),
    ],
)
def test_what_nobody_can_tell_is_said(
    labels: dict[str, Any], listed: list[Object], version: str, words: str
) -> None:
    said = found(cluster(**labels), *listed)[version]

    assert words in said


def test_nine_are_too_many_and_hundreds_are_not_even_looked_at() -> None:
    made = cluster()
    for number in range(9):
        label(made, f"more-{number}", of="v2", role=f"r{number}")
    assert found(made)["v2"] == "v2 has 9 companions: 8 are the most"
    for number in range(9, 100):
        label(made, f"more-{number}", of="v2", role=f"r{number}")
    assert found(made)["v2"] == "100 pools are named as companions of v2: 8 are the most"


def test_the_group_of_the_version_comes_first() -> None:
    made = cluster(p2={"of": "v2"})
    label(made, "p2", of="v2", group=kinds.POOL_X.group)
    there = views(made).companions(parsed(), V2)[V2]

    assert not isinstance(there, Blocker)
    assert [one.identity for one in there] == [P2]


def test_workloads_of_companions_are_looked_at_and_what_they_answer_when_they_lost() -> None:
    made = cluster(p1={"of": "v1"}, p2={"of": "v2"})
    seen = views(made).views(parsed(), V2)

    assert {arm.name: view.what for arm, view in seen.items()} == {
        name: f"Deployment vllm-{name}" for name in ("v1", "v2", "p1", "p2")
    }
    assert seen[P1].in_flight is None
    lost = parsed(scale_downs=(ScaleDown(identity=P1, of=V1),))
    assert views(made).views(lost, V2)[P1].in_flight == 5


def aborted_with(companion: CompanionCapacity) -> ParsedRollout:
    capacity = AttemptCapacity(stable_at_start=1, companions=(companion,))
    return parsed(current=Attempt(canary=revision_of(V2, ""), capacity=capacity))


def test_the_attempts_own_are_looked_at_whatever_the_labels_say_and_its_pods_when_the_pool_is_gone() -> None:
    made = cluster()
    gone = replace(P2, name="gone")
    made.pod("left", app="gone", ownerReferences=[])
    recorded = CompanionCapacity(stable=P1, canary=gone, selector="app=gone")
    seen = views(made).views(aborted_with(recorded), V2)

    assert seen[P1].what == "Deployment vllm-p1"
    assert seen[gone].live == 1
    assert seen[gone].problem is not None


def test_pods_of_a_companion_that_stable_was_promoted_with_are_counted_when_its_pool_is_gone() -> None:
    made = cluster()
    gone = replace(P2, name="gone")
    made.pod("left", app="gone", ownerReferences=[])
    kept = KeptCompanion(identity=gone, pods=1, selector="app=gone")
    entry = HistoryEntry(
        revision=revision_of(V1, ""),
        attempt=1,
        outcome=Outcome.PROMOTED,
        at=datetime.now(UTC),
        companions=(kept,),
    )
    seen = views(made).views(parsed(history=(entry,)), V2)

    assert (seen[gone].live, seen[gone].gone) == (1, True)


def test_another_rollout_that_lists_the_pool_uses_it() -> None:
    made = cluster(p1={"of": "v1"})
    other = rollout({"pool": "p1", "of": "v9"}, name="other", target="v9")
    made.caches.rollouts.apply(other | {"apiVersion": "v1", "kind": "Rollout"})
    lost = parsed(scale_downs=(ScaleDown(identity=P1, of=V1),))

    assert views(made).views(lost, V2)[P1].used_by == "Rollout other"


@pytest.mark.parametrize("how", ["label", "attempt", "history", "aborted"])
def test_another_rollout_whose_version_has_the_pool_as_its_companion_uses_it(how: str) -> None:
    made = cluster(p1={"of": "v9" if how == "label" else ""})
    made.put(kinds.POOL_V1, "v9", spec={"selector": {"matchLabels": {"app": "v9"}}})
    other = rollout(name="other", target="v9")
    kept = {
        "stable": {"kind": "InferencePool", "name": "p8"},
        "canary": {"kind": "InferencePool", "name": "p1"},
    }
    if how == "history":
        past = {"kind": "InferencePool", "name": "v9", "companions": [kept["canary"]]}
        other["status"] = {"stable": {"kind": "InferencePool", "name": "v9"}, "history": [past]}
    elif how != "label":
        other["status"] = {"capacity": {"companions": [kept]}}
    if how == "aborted":
        other["status"]["aborted"] = {"hash": "h"}
    made.caches.rollouts.apply(other | {"apiVersion": "v1", "kind": "Rollout"})
    lost = parsed(scale_downs=(ScaleDown(identity=P1, of=V1),))

    assert views(made).views(lost, V2)[P1].used_by == ("" if how == "aborted" else "Rollout other")


def test_a_pool_that_belongs_to_ones_own_version_is_used_by_no_other() -> None:
    made = cluster(p1={"of": "v2"})
    made.caches.rollouts.apply(rollout() | {"apiVersion": "v1", "kind": "Rollout"})
    lost = parsed(scale_downs=(ScaleDown(identity=P1, of=V1),))

    assert views(made).views(lost, V2)[P1].used_by == ""


def test_who_belongs_to_a_version_and_its_pods_are_heard_of() -> None:
    made, heard = cluster(p1={"of": "v1"}), list[ObjectKey]()
    made.caches.rollouts.apply(rollout() | {"apiVersion": "v1", "kind": "Rollout"})
    on_rollout_change(made.caches, heard.append)
    demo = ObjectKey("default", "demo")

    label(made, "p2", of="v2")
    assert demo in heard
    heard.clear()
    made.pod("one", app="p2")
    assert demo in heard
    heard.clear()
    label(made, "p2")
    assert demo in heard
    heard.clear()
    made.pod("two", app="p2")
    assert heard == []


def test_without_workloads_to_scale_nobody_looks_for_companions() -> None:
    made = cluster(p2={"of": "v2"})
    made.caches.capacity_kinds = ()

    assert found(made)["v2"] == {}


def giving(made: Cluster, loads: KnownLoads) -> dict[Identity, WorkloadView]:
    """What is seen while stable, v1 with p1, gives pods to v2 with p2."""
    given = CompanionScale(identity=P1, full=2, wanted=1, most=3)
    lent = StableScale(identity=V1, full=2, wanted=1, most=3, companions=(given,))
    drains = tuple(
        Drain(identity=arm, replicas=2, to=1, since=datetime(2026, 1, 1, tzinfo=UTC)) for arm in (V1, P1)
    )
    rolled = parsed(stable_scale=lent, drains=drains)
    assert rolled.spec is not None
    capacity = replace(
        rolled.spec.canary.capacity or Capacity(), min_stable=PodCount(number=1), max_surge=PodCount(number=1)
    )
    rolled = replace(rolled, spec=replace(rolled.spec, canary=replace(rolled.spec.canary, capacity=capacity)))
    drained = PodDrains(made.client, made.caches, made.clock, loads)
    return WorkloadViews(made.caches, loads, {}, drained).views(rolled, V2)


def test_what_is_owed_is_looked_at_whatever_became_of_spec_and_label() -> None:
    made = cluster(p1={}, p2={"of": "v2"})
    given = CompanionScale(identity=P1, full=2, wanted=2, most=3)
    rolled = parsed(owed=StableScale(identity=V1, full=2, wanted=2, most=3, companions=(given,)))
    assert rolled.spec is not None
    without = replace(rolled, spec=replace(rolled.spec, canary=replace(rolled.spec.canary, capacity=None)))
    drained = PodDrains(made.client, made.caches, made.clock, KnownLoads())
    views = WorkloadViews(made.caches, KnownLoads(), {}, drained)

    for one in (rolled, without):
        assert views.views(one, V2)[P1].what == "Deployment vllm-p1"
    nothing = replace(without, status=replace(without.status, owed=None))
    assert views.views(nothing, V2) == {}


def test_a_companion_whose_picker_picks_elsewhere_cannot_be_drained() -> None:
    made, loads = cluster(p1={"of": "v1"}, p2={"of": "v2"}), KnownLoads()
    loads.unlisted_why = "it does not pick among its pods"
    seen = giving(made, loads)

    assert seen[P1].drain == NotControllable("it does not pick among its pods")
    assert not isinstance(seen[V1].drain, NotControllable), "its pool is what the gateway goes by"


def test_a_route_to_a_companions_own_pool_is_its_versions_way_to_it() -> None:
    made = cluster(p1={"of": "v1"}, p2={"of": "v2"})
    made.put(
        kinds.HTTP_ROUTE,
        "inside",
        spec={
            "rules": [{"backendRefs": [{"group": GROUP, "kind": "InferencePool", "name": "p1", "weight": 1}]}]
        },
    )

    assert giving(made, KnownLoads())[P1].used_by == ""


def test_pods_of_versions_with_companions_are_spared_for_longer() -> None:
    pair = CompanionCapacity(stable=P1, canary=P2)
    current = Attempt(canary=revision_of(V2, ""), capacity=AttemptCapacity(companions=(pair,)))
    runs = parsed(current=current)
    lost = parsed(scale_downs=(ScaleDown(identity=V2), ScaleDown(identity=P2, of=V2)))

    assert all(draining._works_in_two_places(runs, arm) for arm in (V1, V2, P1, P2))
    assert [draining._works_in_two_places(lost, arm) for arm in (V1, V2, P2)] == [False, True, True]
    assert not draining._works_in_two_places(parsed(), V1)


# --- one pool, two roles ---


def one_pool(made: Cluster, name: str, *, roles: str = "role=decode,prefill", **replicas: int) -> None:
    """An InferencePool that selects the pods of two Deployments, told apart by a label."""
    made.put(
        kinds.POOL_V1,
        name,
        metadata={"annotations": {ROLES_ANNOTATION: roles} if roles else {}},
        spec={"selector": {"matchLabels": {"app": name}}, "targetPorts": [{"number": 8000}]},
    )
    for role, number in replicas.items():
        made.workload(f"{name}-{role}", labels={"app": name, "role": role}, replicas=number)
        for index in range(number):
            ready = {"type": "Ready", "status": "True"}
            pod = {"labels": {"app": name, "role": role}}
            made.pod(f"{name}-{role}-{index}", conditions=[ready], **pod)


def both_roles() -> Cluster:
    made = Cluster()
    one_pool(made, "v1", decode=4, prefill=2)
    one_pool(made, "v2", decode=1, prefill=1)
    return made


def in_pool(arm: Identity, role: str = "prefill") -> Identity:
    return replace(arm, name=f"{arm.name}/{role}")


def test_pods_of_another_role_of_one_pool_are_a_companion() -> None:
    made = both_roles()

    assert found(made) == {"v1": {"prefill": "v1/prefill"}, "v2": {"prefill": "v2/prefill"}}
    seen = views(made).views(parsed(), V2)
    counted = {arm.name: (view.what, view.replicas, view.live) for arm, view in seen.items()}
    assert counted == {
        "v1": ("Deployment v1-decode", 4, 4),
        "v1/prefill": ("Deployment v1-prefill", 2, 2),
        "v2": ("Deployment v2-decode", 1, 1),
        "v2/prefill": ("Deployment v2-prefill", 1, 1),
    }


@pytest.mark.parametrize("how", ["rollout", "route"])
def test_who_uses_the_pool_uses_its_other_roles(how: str) -> None:
    made = both_roles()
    if how == "rollout":
        made.caches.rollouts.apply(rollout(name="other", target="v2"))
    else:
        ref = {"group": GROUP, "kind": "InferencePool", "name": "v2", "weight": 1}
        made.put(kinds.HTTP_ROUTE, "preview", spec={"rules": [{"backendRefs": [ref]}]})
    owed = parsed(scale_downs=(ScaleDown(identity=in_pool(V2), of=V2), ScaleDown(identity=V2)))
    seen = views(made).views(owed, V1)

    user = "Rollout other" if how == "rollout" else "HTTPRoute preview"
    assert {arm.name: view.used_by for arm, view in seen.items() if arm.name.startswith("v2")} == {
        "v2": user,
        "v2/prefill": user,
    }


def test_of_two_workloads_of_a_role_none_is_chosen_by_the_pool() -> None:
    made = both_roles()
    made.workload("v2-prefill-b", labels={"app": "v2", "role": "prefill"}, replicas=2)
    problem = views(made).views(parsed(), V2)[in_pool(V2)].problem

    assert problem is not None
    assert "annotation" not in problem.message
    assert "Deployment v2-prefill" in problem.message or "v2-prefill-b" in problem.message
    assert "give those another value of the role's label" in problem.message


def test_ready_are_the_pods_that_get_requests() -> None:
    made = both_roles()
    pools = [made.caches.pool(GROUP, "default", name) for name in ("v1", "v1/prefill", "v1/encode")]

    assert [pool and made.caches.ready_units(pool) for pool in pools] == [4, 2, None]


def test_without_the_annotation_the_message_says_how_to_name_them() -> None:
    made = Cluster()
    one_pool(made, "v1", roles="", decode=4, prefill=2)
    one_pool(made, "v2", decode=1, prefill=1)
    problem = views(made).views(parsed(), V2)[V1].problem

    assert problem is not None
    assert "several workloads make pods of v1" in problem.message
    assert f"say which pods get requests: {ROLES_ANNOTATION}: role=decode,prefill" in problem.message


@pytest.mark.parametrize("first", ["app", "zone"])
def test_a_pod_of_another_role_wakes_the_rollout_of_its_pool(first: str) -> None:
    made, woken = Cluster(), list[ObjectKey]()
    made.put(
        kinds.POOL_V1,
        "v2",
        metadata={"annotations": {ROLES_ANNOTATION: "role=decode,prefill"}},
        spec={"selector": {"matchLabels": {first: "v2"}}, "targetPorts": [{"number": 8000}]},
    )
    made.put(kinds.ROLLOUT, "demo", spec=rollout()["spec"])
    on_rollout_change(made.caches, woken.append)
    made.pod("a", labels={first: "v2", "role": "prefill"})

    assert ObjectKey("default", "demo") in woken


@pytest.mark.parametrize(
    ("said", "roles"),
    [
        ("llm-d.ai/role=decode,prefill", Roles(label="llm-d.ai/role", serves="decode", others=("prefill",))),
        ("role=d, p,e", Roles(label="role", serves="d", others=("p", "e"))),
        ("role=decode", None),
        ("role=decode,decode", None),
        ("role=decode,", None),
        (f"role=decode,{'p' * 64}", Roles(label="role", serves="decode", others=())),
        (f"role=decode,{'p' * 64},e", Roles(label="role", serves="decode", others=("e",))),
        (f"role={'d' * 64},prefill", None),
        ("decode,prefill", None),
        ("=decode,prefill", None),
        ("", None),
    ],
)
def test_roles_are_a_label_and_its_values(said: str, roles: Roles | None) -> None:
    assert read_roles({"metadata": {"annotations": {ROLES_ANNOTATION: said}}}) == roles


def test_a_role_that_no_pod_can_have_sends_no_requests_to_those_of_others() -> None:
    pool = {
        "metadata": {"name": "v1", "annotations": {ROLES_ANNOTATION: f"role=decode,{'p' * 64}"}},
        "spec": {"selector": {"matchLabels": {"app": "v1"}}},
    }

    assert not read_pool(pool).selects({"app": "v1", "role": "p" * 64})
    assert read_pool(pool).selects({"app": "v1", "role": "decode"})


def test_a_pool_that_selects_another_role_than_it_says_has_no_pods() -> None:
    pool = {
        "metadata": {"name": "v1", "annotations": {ROLES_ANNOTATION: "role=decode,prefill"}},
        "spec": {"selector": {"matchLabels": {"role": "prefill"}}},
    }

    assert read_pool(pool).selector == ()


def test_the_label_of_llm_d_is_named_first_and_decode_before_others() -> None:
    templates = [{"a": "1", "llm-d.ai/role": "prefill"}, {"a": "2", "llm-d.ai/role": "decode"}]

    assert roles_hint(templates).endswith("llm-d.ai/role=decode,prefill")
    assert roles_hint([{"a": "x"}, {"a": "x"}]).endswith("llm-d.ai/role=decode,prefill")
    assert roles_hint([{"a": "x"}, {"a": "w"}]).endswith("a=w,x")


def test_the_pools_of_stored_companions_are_looked_for_in_both_groups() -> None:
    made, other = cluster(), replace(P2, group=kinds.POOL_X.group)
    label(made, "p2", group=kinds.POOL_X.group)
    named = (ScaleDown(identity=P1, of=V1), ScaleDown(identity=other, of=V2), ScaleDown(identity=V2))

    assert companion_pools(made.caches, parsed(scale_downs=named)) == {P1, P2, other}
    assert companion_pools(made.caches, parsed()) == frozenset()
