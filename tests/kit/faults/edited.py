"""The workloads of the class of edits, and its plans: each edit, in each pause, before each way back."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from rollouts.api.parsing import COMMAND_ANNOTATION
from rollouts.objects import kinds
from tests.kit.faults.cluster import NAMESPACE, Cluster
from tests.kit.faults.edits import CONSENT, EDITS, RULES, STEPS, Kind, older_crd
from tests.kit.faults.moves import answer, at_step, begun, command, delete, retarget
from tests.kit.faults.objects import (
    CANARY,
    GUARD,
    PARENTS,
    ROUTE,
    STABLE,
    THIRD,
    Carrier,
    adapter_rollout,
    backend_ref,
    base_objects,
    carrier_object,
    rollout_object,
    shared_objects,
    split_object,
    variant_rollout,
)
from tests.kit.faults.simulation import Act, FaultPlan, Move, Run, Scenario, Simulation
from tests.kit.faults.source import Answer

__all__ = ["EDITED", "edit_plans"]

Object = dict[str, Any]

PAUSES = (1, 3)
"""Where the edits come: in the pauses at 10 % and at 50 %."""


def _refs() -> list[Object]:
    return [backend_ref(STABLE, 100), backend_ref(CANARY, 0), backend_ref(THIRD, 0)]


def _adopted_route() -> Object:
    rules = [{**copy.deepcopy(rule), "backendRefs": _refs()} for rule in RULES]
    return {
        "apiVersion": kinds.HTTP_ROUTE.api_version,
        "kind": "HTTPRoute",
        "metadata": {"name": ROUTE, "namespace": NAMESPACE, "annotations": {CONSENT: "mymodel"}},
        "spec": {"parentRefs": PARENTS, "rules": rules},
    }


def _rollout(kind: Kind) -> Object:
    guarded = {"analysis": {**GUARD, "startingStep": 0}}
    if kind is Kind.MODEL:
        return adapter_rollout(STEPS, canary=guarded)
    if kind is Kind.REWRITE:
        return adapter_rollout(STEPS, carrier=Carrier.TARGETS, canary=guarded)
    if kind is Kind.SPLIT:
        return variant_rollout(STEPS, role=CANARY, canary=guarded)
    template = {"template": {"parentRefs": PARENTS, "rules": copy.deepcopy(RULES)}}
    route = template if kind is Kind.MANAGED else {"ruleNames": ["live", "chat"]}
    target = STABLE if kind is Kind.MANAGED else CANARY
    return rollout_object(STEPS, target=target, canary=guarded, route=route)


def _healthy(sim: Simulation) -> bool:
    return sim.status.get("phase") == "Healthy"


def _way_to(kind: Kind, step: int) -> tuple[Move, ...]:
    first = (Move(when=_healthy, act=retarget(CANARY), after=2),) if kind is Kind.MANAGED else ()
    passed = tuple(
        Move(when=at_step(pause), act=command("promote", tag=f"t{pause}"), after=2)
        for pause in PAUSES
        if pause < step
    )
    return first + passed


def _scenario(kind: Kind) -> Scenario:
    def setup(cluster: Cluster) -> None:
        if kind is Kind.ADOPTED:
            cluster.create(kinds.HTTP_ROUTE, _adopted_route())
        elif kind is Kind.MODEL:
            cluster.create(kinds.INFERENCE_MODEL, carrier_object(Carrier.MODEL, {STABLE: 100}))
        elif kind is Kind.REWRITE:
            cluster.create(kinds.REWRITE_X, carrier_object(Carrier.TARGETS, {STABLE: 100}))
        elif kind is Kind.SPLIT:
            cluster.create(kinds.POOL_SPLIT, split_object({STABLE: 100}))
            shared_objects(cluster)
        base_objects(cluster, _rollout(kind), route=False)

    # Deleted at the end, so that the clean run ends without a person.
    moves = (
        *_way_to(kind, PAUSES[-1]),
        Move(when=at_step(PAUSES[-1]), act=delete(kinds.ROLLOUT, "mymodel"), after=5),
    )
    return Scenario(
        name=f"edited: {kind.value}",
        setup=setup,
        moves=moves,
        goal=lambda sim: sim.cluster.get(kinds.ROLLOUT, "mymodel") is None,
        measured=True,
        variants=kind is Kind.SPLIT,
        adapters=kind in (Kind.MODEL, Kind.REWRITE),
        carrier=Carrier.TARGETS if kind is Kind.REWRITE else Carrier.MODEL,
        edited=True,
        reshape=older_crd,
    )


EDITED: tuple[Scenario, ...] = tuple(_scenario(kind) for kind in Kind)
"""The workloads that are edited."""


def _abort(sim: Simulation) -> None:
    """``abort`` as our CLI says it: bound to the revision that ran when the person looked."""
    rollout = sim.cluster.get(kinds.ROLLOUT, "mymodel")
    if rollout is None:
        return
    canary = (rollout.get("status") or {}).get("canary") or {}
    raw = f'{{"action":"abort","revision":"{canary.get("hash", "")}","at":"t9","by":"ann"}}'
    sim.cluster.merge(kinds.ROLLOUT, "mymodel", {"metadata": {"annotations": {COMMAND_ANNOTATION: raw}}})


ENDINGS: dict[str, Act] = {
    "the gate fails": answer(Answer.BAD),
    "abort": _abort,
    "deletion": delete(kinds.ROLLOUT, "mymodel"),
}


def edit_plans(clean: Run) -> Iterator[FaultPlan]:
    """Each edit in each pause, followed by each ending ten seconds later."""
    kind = next(kind for kind in Kind if clean.scenario.name == f"edited: {kind.value}")
    for step in PAUSES:
        for edit in EDITS:
            if kind not in edit.kinds:
                continue
            for words, end in ENDINGS.items():
                moves = (
                    *_way_to(kind, step),
                    Move(when=at_step(step), act=edit.act, after=3),
                    Move(when=begun, act=end, after=10),
                )
                yield FaultPlan(
                    name=f"{edit.name}, in step {step + 1}, then {words}",
                    moves=moves,
                    blocked=edit.blocked,
                    exact=False,
                )
