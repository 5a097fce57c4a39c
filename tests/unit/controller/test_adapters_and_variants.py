"""A rollout of an adapter and one of a variant, side by side on one pool: the adapter first, then the variant."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from rollouts.controller.loaded_weights import TrustedWeights
from rollouts.objects import kinds
from rollouts.objects.pool_splits import split_name
from tests.kit.clock import virtual_time
from tests.kit.faults.cluster import Cluster
from tests.kit.faults.moves import begun, edit_spec
from tests.kit.faults.objects import (
    ADAPTER_OF,
    CANARY,
    RELEASES,
    SHARED,
    STABLE,
    Carrier,
    adapter_rollout,
    base_objects,
    carrier_object,
    shared_objects,
    split_object,
    variant_rollout,
)
from tests.kit.faults.process import Assembler
from tests.kit.faults.simulation import CLEAN, Condition, Move, Scenario, Simulation

Object = dict[str, Any]
STEPS: list[Object] = [{"setWeight": 10}, {"setWeight": 50}]
WAIVED = {"allowNoTraffic": True}


def lora(model: str = "travelhelper", carrier: Carrier = Carrier.MODEL) -> Object:
    found = adapter_rollout(STEPS, name="lora", carrier=carrier, canary=WAIVED)
    field = found["spec"]["traffic"][carrier.field]
    field |= {"modelName": model, "poolRef": {"name": SHARED}}
    return found


def model_object(model: str, carrier: Carrier = Carrier.MODEL) -> Object:
    made = carrier_object(carrier, {STABLE: 100})
    made["metadata"]["annotations"] = {"inferencerollouts.dev/managed-by": "lora"}
    made["spec"]["poolRef"] = {"name": SHARED}
    if carrier is Carrier.MODEL:
        made["spec"]["modelName"] = model
    elif not model:
        del made["spec"]["rules"][0]["matches"]
    return made


def renaming(model: str, **traffic: str) -> Object:
    found = variant_rollout(STEPS, canary=WAIVED)
    found["spec"]["target"]["variant"]["model"] = model
    found["spec"]["traffic"]["inferencePool"] |= traffic
    return found


class _Uncounted(Assembler):
    """Nobody counts: the clients of the simulation know one traffic object."""

    def __init__(self) -> None:
        super().__init__()
        self.clients.countable = False

    def __call__(self, client: Any, clock: Any, caches: Any, source: Any) -> Any:
        return self.assembled(client, clock, caches, source, loaded=TrustedWeights())


def run(
    goal: Condition, *objects: tuple[Any, Object], rollout: Object, moves: tuple[Move, ...] = ()
) -> Simulation:
    def setup(cluster: Cluster) -> None:
        shared_objects(cluster)
        for resource, obj in objects:
            cluster.create(resource, copy.deepcopy(obj))
        base_objects(cluster, copy.deepcopy(rollout), route=False)

    scenario = Scenario(name="side by side", setup=setup, moves=moves, goal=goal, variants=True)
    made: list[Simulation] = []

    async def whole() -> bool:
        made.append(Simulation(scenario, CLEAN, _Uncounted()))
        return (await made[0].run()).converged

    with virtual_time() as loop:
        assert loop.run_until_complete(whole()), (made[0].status, status_of(made[0], "lora"))
    return made[0]


def status_of(sim: Simulation, name: str) -> Object:
    found: Object = (sim.cluster.get(kinds.ROLLOUT, name) or {}).get("status") or {}
    return found


def stable_of(sim: Simulation, name: str) -> str:
    return str((status_of(sim, name).get("stable") or {}).get("name", ""))


def both_promoted(sim: Simulation) -> bool:
    return (stable_of(sim, "mymodel"), stable_of(sim, "lora")) == (CANARY, ADAPTER_OF[CANARY])


LORA = (kinds.ROLLOUT, lora())
MODEL = (kinds.INFERENCE_MODEL, model_object("travelhelper"))
SPLIT = (kinds.POOL_SPLIT, split_object({STABLE: 100}))


def test_both_go_through_at_once_and_neither_writes_the_others_object() -> None:
    sim = run(both_promoted, MODEL, LORA, SPLIT, rollout=variant_rollout(STEPS, canary=WAIVED))

    split = sim.cluster.get(kinds.POOL_SPLIT, SHARED) or {}
    model = sim.cluster.get(kinds.INFERENCE_MODEL, "loramodel") or {}
    assert [(one["name"], one["weight"]) for one in split["spec"]["variants"]] == [(CANARY, 100)]
    assert [one["name"] for one in model["spec"]["targetModels"]] == [ADAPTER_OF[CANARY]]
    for record in sim.history.ours(kinds.POOL_SPLIT):
        assert all(one["name"] in (STABLE, CANARY) for one in record.after["spec"]["variants"])


def held(name: str) -> Condition:
    return lambda sim: status_of(sim, name).get("reason") == "NameContested"


def split_of(model: str, name: str) -> tuple[Any, Object]:
    """Everything at stable, for requests for a model; ``name`` is what its pods are sent."""
    made = split_object({STABLE: 100})
    made["metadata"]["name"] = split_name(SHARED, model)
    made["spec"] |= {"modelName": model}
    if name:
        made["spec"]["variants"][0]["model"] = name
    return kinds.POOL_SPLIT, made


def list_model(sim: Simulation) -> None:
    """The canary's pods serve under the name that they are sent."""
    for number in range(2):
        sim.adapters.hold(f"{RELEASES[CANARY]}-{number}", "deepseek", "deepseek")
    sim.note_adapters()


LISTED = Move(when=begun, act=list_model)


@pytest.mark.parametrize(
    ("model", "carrier", "kind"),
    [
        ("travelhelper", Carrier.MODEL, "InferenceModel"),
        ("travelhelper", Carrier.TARGETS, "InferenceModelRewrite"),
        ("", Carrier.TARGETS, "InferenceModelRewrite"),
    ],
)
def test_a_variant_that_is_sent_another_name_waits_for_a_rule_that_says_one(
    model: str, carrier: Carrier, kind: str
) -> None:
    """A rule without a match is for all requests, those for the split's model among them."""
    rule = (carrier.resource, model_object(model, carrier))
    rollout = renaming("deepseek", modelName="travelhelper")
    sim = run(held("mymodel"), rule, split_of("travelhelper", ""), rollout=rollout, moves=(LISTED,))

    message = status_of(sim, "mymodel")["message"]
    assert f"{kind} loramodel says under which name requests for 'travelhelper'" in message
    assert f"variant {CANARY} (model deepseek): leave target.variant.model out" in message


def test_it_begins_when_the_model_is_left_out() -> None:
    def leave_out(spec: Object) -> None:
        spec["target"]["variant"]["model"] = ""

    def serve_all(sim: Simulation) -> None:
        for number in range(2):
            sim.adapters.hold(f"{RELEASES[CANARY]}-{number}", "travelhelper", "travelhelper")
        edit_spec(leave_out)(sim)

    sim = run(
        lambda sim: stable_of(sim, "mymodel") == CANARY,
        MODEL,
        split_of("travelhelper", ""),
        rollout=renaming("deepseek", modelName="travelhelper"),
        moves=(LISTED, Move(when=held("mymodel"), act=serve_all, after=5)),
    )

    assert status_of(sim, "mymodel")["phase"] == "Healthy"


def test_a_rule_for_one_model_says_nothing_of_a_split_for_all() -> None:
    """Names that a pod lists as adapters stay what they are."""
    sim = run(
        lambda sim: stable_of(sim, "mymodel") == CANARY,
        MODEL,
        SPLIT,
        rollout=renaming("deepseek"),
        moves=(LISTED,),
    )

    assert status_of(sim, "mymodel")["phase"] == "Healthy"


def test_an_adapter_waits_while_a_split_says_another_name_for_the_same_requests() -> None:
    rollout = variant_rollout(STEPS, role=STABLE, name="idle")
    sim = run(held("lora"), MODEL, LORA, split_of("travelhelper", "qwen"), rollout=rollout)

    message = status_of(sim, "lora")["message"]
    assert "(variant mymodel-pool-v1: model qwen), and so would InferenceModel loramodel" in message
