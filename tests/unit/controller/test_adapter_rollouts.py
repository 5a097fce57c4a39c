"""Adapter rollouts at the assembled controller: the model object moves, pods gate it, and every dialect is spoken."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from rollouts.kube.client import Resource
from rollouts.lab.controlplane import minimal
from rollouts.objects import kinds
from tests.kit.clock import virtual_time
from tests.kit.faults.cluster import NAMESPACE, Cluster
from tests.kit.faults.moves import at_step, command, phase
from tests.kit.faults.objects import STABLE, base_objects, rollout_object
from tests.kit.faults.process import Assembler
from tests.kit.faults.simulation import CLEAN, Condition, Move, Scenario, Simulation

Object = dict[str, Any]
V1, V2 = "travel-helper-v1", "travel-helper-v2"
STEPS: list[Object] = [{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}]
CONSENT = {"inferencerollouts.dev/managed-by": "mymodel"}


def rollout(kind: str = "inferenceModel", *, target: Object | None = None, **fields: Any) -> Object:
    traffic = {"name": "loramodel", "modelName": "travelhelper", "poolRef": {"name": STABLE}}
    found = rollout_object(STEPS, **fields)
    found["spec"]["target"] = {"adapter": target or {"name": V2}}
    found["spec"]["traffic"] = {kind: traffic}
    return found


def model(*weights: tuple[str, int], **meta: Any) -> Object:
    targets = [{"name": name, "weight": weight} for name, weight in weights]
    return {
        "apiVersion": kinds.INFERENCE_MODEL.api_version,
        "kind": "InferenceModel",
        "metadata": {"name": "loramodel", "namespace": NAMESPACE, **meta},
        "spec": {
            "modelName": "travelhelper",
            "criticality": "Critical",
            "poolRef": {"name": STABLE},
            **({"targetModels": targets} if targets else {}),
        },
    }


def rewrite(resource: Resource, field: str, *weights: tuple[str, int]) -> Object:
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {"name": "loramodel", "namespace": NAMESPACE, "annotations": CONSENT},
        "spec": {
            "poolRef": {"name": STABLE},
            "rules": [
                {
                    "matches": [{"model": {"type": "Exact", "value": "travelhelper"}}],
                    field: [{"modelRewrite": name, "weight": weight} for name, weight in weights],
                },
                {"matches": [{"model": {"type": "Exact", "value": "other"}}], field: [{"modelRewrite": "x"}]},
            ],
        },
    }


def setup(*objects: tuple[Resource, Object]) -> Callable[[Cluster], None]:
    """The base model, a Rollout among ``objects``, in the order given."""

    def act(cluster: Cluster) -> None:
        first = next(obj for resource, obj in objects if resource == kinds.ROLLOUT)
        base_objects(cluster, first, route=False)
        for resource, obj in objects:
            if obj is not first:
                cluster.create(resource, obj)

    return act


def run(
    prepare: Callable[[Cluster], None],
    goal: Condition,
    *moves: Move,
    assembler: Assembler | None = None,
    reshape: Callable[[Object], Object] | None = None,
) -> Simulation:
    scenario = Scenario(name="adapter", setup=prepare, moves=moves, goal=goal, reshape=reshape)
    made: list[Simulation] = []

    async def whole() -> bool:
        made.append(Simulation(scenario, CLEAN, assembler or Assembler()))
        return (await made[0].run()).converged

    with virtual_time() as loop:
        assert loop.run_until_complete(whole()), (made[0].status, made[0].history.problems)
    return made[0]


def targets(simulation: Simulation) -> dict[str, int]:
    found = simulation.cluster.get(kinds.INFERENCE_MODEL, "loramodel")
    assert found is not None
    return {item["name"]: item["weight"] for item in found["spec"].get("targetModels", [])}


def history(simulation: Simulation, resource: Resource = kinds.INFERENCE_MODEL) -> list[Object]:
    """What we wrote, in order."""
    return [record.after["spec"] for record in simulation.history.ours(resource)]


def stable_is(name: str) -> Condition:
    return lambda sim: (
        sim.status.get("phase") == "Healthy" and (sim.status.get("stable") or {}).get("name") == name
    )


PROMOTE = Move(when=at_step(1), act=command("promote"), after=5)


def test_an_adopted_model_goes_from_90_10_over_the_steps_to_the_new_adapter_and_keeps_all_else():
    adopted = model((V1, 90), (V2, 10), annotations=CONSENT)
    simulation = run(
        setup((kinds.ROLLOUT, rollout()), (kinds.INFERENCE_MODEL, adopted)), stable_is(V2), PROMOTE
    )

    assert targets(simulation) == {V2: 100}  # a weight of 0 is illegal: the entry is left out
    specs = history(simulation)
    assert {spec["criticality"] for spec in specs} == {"Critical"}
    assert [[t["weight"] for t in spec["targetModels"]] for spec in specs] == [[50, 50], [100]]


def test_a_managed_model_is_made_with_our_label_and_without_an_owner():
    first = rollout(target={"name": V1})

    def retarget(simulation: Simulation) -> None:
        spec = copy.deepcopy(first["spec"])
        spec["target"]["adapter"]["name"] = V2
        simulation.cluster.merge(kinds.ROLLOUT, "mymodel", {"spec": spec})

    simulation = run(
        setup((kinds.ROLLOUT, first)),
        stable_is(V2),
        Move(when=stable_is(V1), act=retarget, after=5),
        PROMOTE,
    )

    made = simulation.cluster.get(kinds.INFERENCE_MODEL, "loramodel")
    assert made is not None
    assert made["metadata"]["labels"] == {"inferencerollouts.dev/rollout": "mymodel"}
    assert "ownerReferences" not in made["metadata"]
    assert targets(simulation) == {V2: 1} or targets(simulation) == {V2: 100}


def test_foreign_targets_of_the_list_keep_their_share():
    adopted = model((V1, 80), ("somebody-elses", 20), annotations=CONSENT)
    simulation = run(
        setup((kinds.ROLLOUT, rollout()), (kinds.INFERENCE_MODEL, adopted)), stable_is(V2), PROMOTE
    )
    found = targets(simulation)
    assert set(found) == {V2, "somebody-elses"}
    assert found["somebody-elses"] * 4 == found[V2]


def test_an_adopted_model_that_is_deleted_is_waited_for_and_not_made_again():
    adopted = model((V1, 90), (V2, 10), annotations=CONSENT)

    def delete(simulation: Simulation) -> None:
        simulation.cluster.delete(kinds.INFERENCE_MODEL, "loramodel")

    simulation = run(
        setup((kinds.ROLLOUT, rollout()), (kinds.INFERENCE_MODEL, adopted)),
        lambda sim: "RouteMissing" in str(sim.status.get("conditions")),
        Move(when=at_step(1), act=delete, after=5),
    )
    assert simulation.cluster.get(kinds.INFERENCE_MODEL, "loramodel") is None
    assert "add it to Git" in str(simulation.status["conditions"])


def without_consent(cluster: Cluster) -> None:
    setup((kinds.ROLLOUT, rollout()), (kinds.INFERENCE_MODEL, model((V1, 90), (V2, 10))))(cluster)


def test_a_model_without_consent_is_not_touched():
    simulation = run(without_consent, phase("Invalid"))
    assert targets(simulation) == {V1: 90, V2: 10}
    assert "does not consent" in simulation.status["message"]


def test_a_model_that_means_a_pool_of_the_other_group_is_told_which_group_has_it():
    adopted = model((V1, 90), (V2, 10), annotations=CONSENT)
    adopted["spec"]["poolRef"]["group"] = kinds.POOL_V1.group
    simulation = run(
        setup((kinds.ROLLOUT, rollout()), (kinds.INFERENCE_MODEL, adopted)), phase("WaitingForTarget")
    )

    assert simulation.status["reason"] == "PoolMissing"
    assert f"does not exist in {kinds.POOL_V1.group}" in simulation.status["message"]
    assert f"it does in {kinds.POOL_X.group}: set poolRef.group" in simulation.status["message"]


# --- pods ------------------------------------------------------------------------------------------


def with_adapters(change: Callable[[Assembler], None]) -> Assembler:
    assembler = Assembler()
    change(assembler)
    return assembler


ADOPTED = (kinds.INFERENCE_MODEL, model((V1, 100), annotations=CONSENT))


def test_no_traffic_until_every_ready_pod_lists_the_adapter_and_the_message_names_those_that_do_not():
    assembler = with_adapters(lambda a: a.adapters.lost["qwen-2"].add(V2))
    simulation = run(
        setup((kinds.ROLLOUT, rollout()), ADOPTED), phase("WaitingForTarget"), assembler=assembler
    )

    assert simulation.status["reason"] == "AdapterMissing"
    assert "missing on 1 of 4 Ready pods (qwen-2): load it there" in simulation.status["message"]
    assert history(simulation) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.adapters.broken.add(V2), "has not answered a probe on 4 of 4 Ready pods"),
        (lambda a: a.adapters.silent.add("qwen-0"), "/v1/models gives no answer"),
    ],
    ids=["it is listed and answers nothing", "a pod does not answer"],
)
def test_no_traffic_until_every_ready_pod_answered_a_probe(change, words):
    simulation = run(
        setup((kinds.ROLLOUT, rollout()), ADOPTED), phase("WaitingForTarget"), assembler=with_adapters(change)
    )
    assert simulation.status["reason"] == "AdapterUnproven"
    assert words in simulation.status["message"]
    assert history(simulation) == []


def test_an_adapter_with_a_source_is_loaded_on_every_pod_and_on_new_ones():
    wanted = rollout(target={"name": "travel-helper-v9", "source": {"path": "/adapters/v9"}})
    assembler = Assembler()

    def scale_up(simulation: Simulation) -> None:
        simulation.cluster.scale("qwen", 6)

    run(
        setup((kinds.ROLLOUT, wanted), ADOPTED),
        stable_is("travel-helper-v9"),
        Move(when=at_step(1), act=scale_up, after=5),
        Move(when=at_step(1), act=command("promote"), after=5),
        assembler=assembler,
    )
    loads = [call for call in assembler.adapters.calls if call[0] == "load"]
    assert sorted(pod for _, pod, _ in loads) == [f"qwen-{index}" for index in range(6)]


def test_the_loser_is_unloaded_after_the_rollback_window_and_not_before():
    old = {"name": "travel-helper-v8", "source": {"path": "/adapters/v8"}}
    first = rollout(target=old, rollbackWindow={"duration": "10m"})
    assembler = Assembler()
    unloaded: list[float] = []

    def retarget(simulation: Simulation) -> None:
        spec = copy.deepcopy(first["spec"])
        spec["target"]["adapter"] = {"name": V2, "source": None}  # a merge patch keeps what it does not name
        simulation.cluster.merge(kinds.ROLLOUT, "mymodel", {"spec": spec})

    promoted: list[float] = []

    def note(simulation: Simulation) -> None:
        promoted.append(simulation.clock.monotonic())

    def gone(simulation: Simulation) -> bool:
        if any(what == "unload" for what, _, _ in assembler.adapters.calls) and not unloaded:
            unloaded.append(simulation.clock.monotonic())
        return bool(unloaded)

    run(
        setup((kinds.ROLLOUT, first)),
        gone,
        Move(when=stable_is("travel-helper-v8"), act=retarget, after=5),
        PROMOTE,
        Move(when=stable_is(V2), act=note),
        assembler=assembler,
    )
    assert {pod for what, pod, _ in assembler.adapters.calls if what == "unload"} == {
        f"qwen-{index}" for index in range(4)
    }
    assert unloaded[0] - promoted[0] >= 595


def test_a_source_outside_the_allowed_prefixes_is_refused_and_nothing_is_loaded():
    assembler = Assembler()
    wanted = rollout(target={"name": "evil", "source": {"path": "/etc/shadow"}})
    simulation = run(setup((kinds.ROLLOUT, wanted), ADOPTED), phase("Invalid"), assembler=assembler)
    assert "is not under a prefix that the administrator allows (/adapters)" in simulation.status["message"]
    assert assembler.adapters.calls == []
    assert targets(simulation) == {V1: 100}


def test_a_pod_that_loses_the_adapter_in_the_middle_is_named():
    assembler = Assembler()

    def lose(simulation: Simulation) -> None:
        assembler.adapters.lost["qwen-1"].add(V2)

    simulation = run(
        setup((kinds.ROLLOUT, rollout()), ADOPTED),
        lambda sim: "AdapterMissing" in str(sim.status.get("conditions")),
        Move(when=at_step(1), act=lose, after=5),
        assembler=assembler,
    )
    assert f"{V2} is not loaded on qwen-1: they take none of its requests" in str(
        simulation.status["conditions"]
    )


# --- rules with others -----------------------------------------------------------------------------


def test_an_adapter_rollout_waits_while_its_pool_is_being_rolled():
    pool_rollout = rollout_object([{"setWeight": 10}, {"pause": {}}], name="base")
    pool_rollout["spec"]["allowMissingModels"] = True

    def prepare(cluster: Cluster) -> None:
        base_objects(cluster, pool_rollout)
        route = cluster.get(kinds.HTTP_ROUTE, "inference-route")
        assert route is not None
        cluster.merge(
            kinds.HTTP_ROUTE,
            "inference-route",
            {"metadata": {"annotations": {"inferencerollouts.dev/managed-by": "base"}}},
        )

    def begin(simulation: Simulation) -> None:
        simulation.cluster.create(*ADOPTED)
        simulation.cluster.create(kinds.ROLLOUT, rollout())

    def base_pauses(simulation: Simulation) -> bool:
        base = simulation.cluster.get(kinds.ROLLOUT, "base") or {}
        return (base.get("status") or {}).get("phase") == "Paused"

    simulation = run(prepare, phase("WaitingForTarget"), Move(when=base_pauses, act=begin, after=5))
    assert simulation.status["reason"] == "PoolInRollout"
    assert f"Rollout base is moving traffic of InferencePool {STABLE}" in simulation.status["message"]


def test_the_same_name_from_another_source_is_refused():
    first = rollout(target={"name": "travel-helper-v8", "source": {"path": "/adapters/v8"}})

    def change(simulation: Simulation) -> None:
        spec = copy.deepcopy(first["spec"])
        spec["target"]["adapter"]["source"]["path"] = "/adapters/v8-fixed"
        simulation.cluster.merge(kinds.ROLLOUT, "mymodel", {"spec": spec})

    simulation = run(
        setup((kinds.ROLLOUT, first)),
        phase("Invalid"),
        Move(when=stable_is("travel-helper-v8"), act=change, after=5),
    )
    assert "give the new one a name of its own" in simulation.status["message"]


def picker_pod(cluster: Cluster, *, ours: bool) -> None:
    labels = {"app": "picker"}
    annotations = {"inferencerollouts.dev/metrics-port": "9090"} if ours else {}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "picker-0",
            "namespace": NAMESPACE,
            "labels": labels,
            "annotations": annotations,
        },
        "spec": {"containers": [{"name": "picker", "image": "picker"}]},
    }
    cluster.create(kinds.POD, pod)
    ready = [{"type": "Ready", "status": "True"}]
    cluster.write_status(kinds.POD, "picker-0", {"podIP": "127.0.3.1", "conditions": ready})
    cluster.merge(kinds.SERVICE, f"{STABLE}-epp", {"spec": {"selector": labels}})


# --- dialects --------------------------------------------------------------------------------------


def with_targets(crd: Object) -> Object:
    """The rewrite CRD of the version that knows ``targets``."""
    return _rewrite_with(crd, "targets")


def with_split(crd: Object) -> Object:
    """The rewrite CRD of the version that knows ``split``."""
    return _rewrite_with(crd, "split")


def _rewrite_with(crd: Object, field: str) -> Object:
    if crd["spec"]["names"]["kind"] != kinds.REWRITE_X.kind:
        return crd
    return minimal.rewrite_crd(kinds.REWRITE_X.group, field)


@pytest.mark.parametrize(("field", "crds"), [("targets", with_targets), ("split", with_split)])
@pytest.mark.parametrize("managed", [False, True], ids=["adopted", "managed"])
def test_a_rewrite_is_written_in_the_dialect_that_the_server_keeps(field, crds, managed):
    objects: list[tuple[Resource, Object]] = [
        (kinds.ROLLOUT, rollout("inferenceModelRewrite", target={"name": V2}))
    ]
    if not managed:
        objects.append((kinds.REWRITE_X, rewrite(kinds.REWRITE_X, field, (V1, 100))))
    else:
        objects[0][1]["spec"]["stableHint"] = V1
    simulation = run(setup(*objects), stable_is(V2), PROMOTE, reshape=crds)

    found = simulation.cluster.get(kinds.REWRITE_X, "loramodel")
    assert found is not None
    rules = found["spec"]["rules"]
    assert [item["modelRewrite"] for item in rules[0][field]] == [V2]
    if not managed:
        assert rules[1][field] == [{"modelRewrite": "x"}]  # not ours


def test_a_rewrite_dialect_that_the_installed_picker_cannot_honour_is_reported():
    objects = (
        (kinds.ROLLOUT, rollout("inferenceModelRewrite")),
        (kinds.REWRITE_X, rewrite(kinds.REWRITE_X, "split", (V1, 100))),
    )

    def foreign(cluster: Cluster) -> None:
        setup(*objects)(cluster)
        picker_pod(cluster, ours=False)

    simulation = run(foreign, phase("WaitingForTarget"), reshape=with_split)
    assert simulation.status["reason"] == "PickerDialect"
    assert "no released picker reads the `split`" in simulation.status["message"]

    def ours(cluster: Cluster) -> None:
        setup(*objects)(cluster)
        picker_pod(cluster, ours=True)

    assert run(ours, stable_is(V2), PROMOTE, reshape=with_split).status["phase"] == "Healthy"


# --- one name, several contents --------------------------------------------------------------------

V9, BAD, FIXED = "travel-helper-v9", "/adapters/v9-bad", "/adapters/v9-fixed"


def from_source(path: str = BAD, **fields: Any) -> Object:
    return rollout(target={"name": V9, "source": {"path": path}}, **fields)


def asks_for(path: str | None) -> Callable[[Simulation], None]:
    """Git says the same name from another path, or without one."""

    def act(simulation: Simulation) -> None:
        source = None if path is None else {"path": path}
        target = {"adapter": {"name": V9, "source": source}}
        simulation.cluster.merge(kinds.ROLLOUT, "mymodel", {"spec": {"target": target}})

    return act


ABORT = Move(when=at_step(1), act=command("abort"), after=5)


def second_attempt(simulation: Simulation) -> bool:
    return simulation.status.get("attempt") == 2 and at_step(1)(simulation)


def roots(assembler: Assembler) -> set[str]:
    return {assembler.adapters.root(f"qwen-{index}", V9) for index in range(4)}


def test_a_fix_under_the_name_of_an_aborted_adapter_replaces_its_weights_within_the_rollback_window():
    assembler = Assembler()
    at_first_weight: list[set[str]] = []

    def promote(simulation: Simulation) -> None:
        at_first_weight.append(roots(assembler))
        command("promote", tag="t2")(simulation)

    simulation = run(
        setup((kinds.ROLLOUT, from_source(rollbackWindow={"duration": "24h"})), ADOPTED),
        stable_is(V9),
        ABORT,
        Move(when=phase("Aborted"), act=asks_for(FIXED), after=60),
        Move(when=second_attempt, act=promote, after=5),
        assembler=assembler,
    )
    assert at_first_weight == [{FIXED}]
    assert simulation.status["stable"]["source"] == FIXED
    pods = [f"qwen-{index}" for index in range(4)]
    assert [what for what, _, _ in assembler.adapters.calls] == ["load"] * 4 + ["unload"] * 4 + ["load"] * 4
    assert {pod for what, pod, _ in assembler.adapters.calls if what == "unload"} == set(pods)


def test_requests_in_flight_hold_the_replacement_up_and_are_named():
    assembler = Assembler()
    assembler.adapters.in_flight["qwen-2"].add(V9)
    simulation = run(
        setup((kinds.ROLLOUT, from_source()), ADOPTED),
        lambda sim: (
            sim.status.get("reason") == "AdapterContentMismatch" and "qwen-2" in sim.status["message"]
        ),
        ABORT,
        Move(when=phase("Aborted"), act=asks_for(FIXED), after=60),
        assembler=assembler,
    )
    assert "1 of 4 Ready pods (qwen-2) list adapter" in simulation.status["message"]
    assert "requests for it may still run on qwen-2" in simulation.status["message"]
    assert ("unload", "qwen-2", V9) not in assembler.adapters.calls


def test_content_that_is_not_ours_is_named_and_left_alone():
    assembler = Assembler()
    for index in range(4):
        assembler.adapters.hold(f"qwen-{index}", V9, "/adapters/of-somebody")
    simulation = run(
        setup((kinds.ROLLOUT, from_source()), ADOPTED), phase("WaitingForTarget"), assembler=assembler
    )
    assert simulation.status["reason"] == "AdapterContentMismatch"
    assert "from /adapters/of-somebody, not from /adapters/v9-bad" in simulation.status["message"]
    assert assembler.adapters.calls == []
    assert history(simulation) == []


def test_what_an_aborted_attempt_left_is_not_taken_for_an_adapter_without_a_source():
    assembler = Assembler()
    simulation = run(
        setup((kinds.ROLLOUT, from_source(rollbackWindow={"duration": "24h"})), ADOPTED),
        lambda sim: sim.status.get("reason") == "AdapterMissing",
        ABORT,
        Move(when=phase("Aborted"), act=asks_for(None), after=60),
        assembler=assembler,
    )
    assert [call[0] for call in assembler.adapters.calls] == ["load"] * 4 + ["unload"] * 4
    assert targets(simulation) == {V1: 100}


def test_a_name_without_a_root_is_no_proof_of_a_source():
    assembler = Assembler()
    assembler.adapters.rootless = True
    simulation = run(
        setup((kinds.ROLLOUT, from_source()), ADOPTED),
        lambda sim: sim.status.get("reason") == "AdapterUnproven",
        assembler=assembler,
    )
    assert "lists it without a root" in simulation.status["message"]
    assert history(simulation) == []


def test_an_adapter_without_effect_goes_on_with_a_warning_or_is_refused():
    def prepared() -> Assembler:
        return with_adapters(lambda a: a.adapters.ineffective.add(BAD))

    warned = run(setup((kinds.ROLLOUT, from_source()), ADOPTED), at_step(1), assembler=prepared())
    assert "AdapterWithoutEffect" in str(warned.status["conditions"])

    target = {"name": V9, "source": {"path": BAD}, "probe": {"mustDiffer": True}}
    refused = run(
        setup((kinds.ROLLOUT, rollout(target=target)), ADOPTED),
        lambda sim: sim.status.get("reason") == "AdapterWithoutEffect",
        assembler=prepared(),
    )
    assert refused.status["phase"] == "WaitingForTarget"
    assert history(refused) == []


def test_the_first_target_is_not_called_stable_while_pods_have_other_content_under_its_name():
    assembler = Assembler()
    for index in range(4):
        assembler.adapters.hold(f"qwen-{index}", V9, "/adapters/of-somebody")
    serving = (kinds.INFERENCE_MODEL, model((V9, 100), annotations=CONSENT))
    simulation = run(
        setup((kinds.ROLLOUT, from_source()), serving), phase("WaitingForTarget"), assembler=assembler
    )
    assert "stable" not in simulation.status
    assert "qwen-0 has /adapters/of-somebody" in simulation.status["message"]
    assert targets(simulation) == {V9: 100}


def test_an_adapter_that_another_rollout_names_is_not_taken_off():
    other = from_source()
    other["metadata"]["name"] = "other"
    other["spec"]["traffic"]["inferenceModel"]["name"] = "othermodel"
    assembler = Assembler()
    simulation = run(
        setup((kinds.ROLLOUT, from_source()), ADOPTED, (kinds.ROLLOUT, other)),
        lambda sim: sim.status.get("reason") == "AdapterContentMismatch",
        ABORT,
        Move(when=phase("Aborted"), act=asks_for(FIXED), after=60),
        assembler=assembler,
    )
    assert "or other Rollout needs it" in simulation.status["message"]
    assert not [call for call in assembler.adapters.calls if call[0] == "unload"]


def test_stable_is_counted_when_the_first_attempt_starts_with_the_first_look():
    """Both arms are on the pods already: the attempt starts in the plan that names stable."""
    simulation = run(setup((kinds.ROLLOUT, rollout()), ADOPTED), at_step(1))
    assert simulation.status["stableEndpointsAtStart"] == 4
