"""The rules of a Rollout's life, each on every kind of version: pools, adapters, variants, services (design section 3).

A row is a rule: what befalls one rollout, and what has to be so at its end and in every write. What is particular to a
kind is in ``KINDS``. Of KServe's services some parts of rules have no row, since they cannot apply: Managed objects
(members are Adopted: 2 and 12), our pickers and adapters (3), and rules that disagree (2: a group has one share).
Faults are met by the plans of the other files, rules of one kind alone by that kind's own tests.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import pytest

from rollouts.carriers import target_kinds
from rollouts.objects import kinds
from tests.kit.faults.cluster import Cluster
from tests.kit.faults.endstate import is_carrier
from tests.kit.faults.invariants import check
from tests.kit.faults.moves import (
    answer,
    at_step,
    begun,
    command,
    delete,
    edit_spec,
    gone,
    healthy_on,
    lose_adapter,
    overwrite_route,
    phase,
    reason,
    regain_adapter,
    retarget,
    scale,
)
from tests.kit.faults.objects import (
    ADAPTER_OF,
    CANARY,
    GATE,
    RELEASES,
    SHARED,
    STABLE,
    THIRD,
    Carrier,
    adapter_rollout,
    base_objects,
    carrier_object,
    rollout_object,
    service_objects,
    service_rollout,
    shared_objects,
    split_object,
    variant_rollout,
)
from tests.kit.faults.simulation import Act, Condition, Move, Run, Scenario, Simulation, simulate
from tests.kit.faults.source import Answer
from tests.kit.faults.truth import shares_of

Object = dict[str, Any]
WAITING: list[Object] = [{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}]
GATED: list[Object] = [{"setWeight": 10}, {"analysis": GATE}, {"setWeight": 50}]
TENTH, HALF, ALL = Fraction(1, 10), Fraction(1, 2), Fraction(1)


# --- kinds -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What is particular to a kind of version; versions are named by their roles, as the pools are."""

    target: str
    rollout: Callable[..., Object]
    traffic: Callable[[Cluster], None]
    """Makes the traffic object with everything at stable, and what only this kind needs."""
    named: Callable[[str], str] = field(default=lambda role: role)
    unready: Act = field(default=scale(RELEASES[CANARY], 0, 2))
    ready: Act = field(default=scale(RELEASES[CANARY], 2))
    lose_stable: Act = field(default=delete(kinds.POOL_X, STABLE))
    """What stable's requests go to is deleted."""


def _split(cluster: Cluster) -> None:
    shared_objects(cluster)
    cluster.create(kinds.POOL_SPLIT, split_object({STABLE: 100}))


KINDS = {
    "pools": Kind(target="pool", rollout=rollout_object, traffic=lambda _: None),
    "adapters": Kind(
        target="adapter",
        rollout=adapter_rollout,
        traffic=lambda cluster: _created(cluster, Carrier.MODEL),
        named=ADAPTER_OF.__getitem__,
        unready=lose_adapter(f"{RELEASES[STABLE]}-1", ADAPTER_OF[CANARY]),
        ready=regain_adapter(f"{RELEASES[STABLE]}-1", ADAPTER_OF[CANARY]),
    ),
    "variants": Kind(
        target="variant",
        rollout=variant_rollout,
        traffic=_split,
        lose_stable=delete(kinds.POOL_X, SHARED),
    ),
    "services": Kind(
        target="llmInferenceService",
        rollout=service_rollout,
        traffic=lambda cluster: service_objects(cluster, {STABLE: 9, CANARY: 0, THIRD: 0}, {}),
        lose_stable=delete(kinds.LLM_SERVICE, STABLE),
    ),
}


def _created(cluster: Cluster, carrier: Carrier) -> None:
    cluster.create(carrier.resource, carrier_object(carrier, {STABLE: 100}))


# --- rules -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Story:
    """How a rollout of a kind went."""

    kind: Kind
    run: Run

    @property
    def status(self) -> Object:
        """Where it ended."""
        found: Object = (self.run.end.get("rollout mymodel") or {}).get("status") or {}
        return found

    def shares(self, role: str = CANARY) -> list[Fraction]:
        """What the controller's writes gave a version, one after the other, without repetitions.

        One share of a group is two objects: what counts is what is there when a status says so.
        """
        found: list[Fraction] = []
        share: Fraction | None = None
        for record in [*self.run.history.records, None]:
            if record is not None and record.ours and is_carrier(record) and record.after:
                share = max(shares_of(record.after, [self.kind.named(role)]), default=Fraction(0))
            elif share is not None and (record is None or (record.ours and record.of(kinds.ROLLOUT))):
                found += [share] if found[-1:] != [share] else []
                share = None
        return [share for index, share in enumerate(found) if index or share]

    @property
    def carrier(self) -> Object:
        """The traffic object at the end."""
        return [record.after for record in self.run.history.records if is_carrier(record)][-1]

    def says(self, role: str) -> str:
        """The name of a role's version in the status."""
        return str((self.status.get(role) or {}).get("name", ""))

    def statuses(self) -> Iterator[Object]:
        """Each one that was stored."""
        for record in self.run.history.ours(kinds.ROLLOUT):
            yield record.after.get("status") or {}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule of section 3: its number there, what befalls a rollout from STABLE to CANARY, and what holds then."""

    number: int
    goal: Callable[[Kind], Condition]
    holds: Callable[[Story], bool]
    steps: list[Object] = field(default_factory=lambda: WAITING)
    moves: Callable[[Kind], tuple[Move, ...]] = field(default=lambda _: ())
    first: Callable[[Kind], Act | None] = field(default=lambda _: None)
    """What is so before the first look."""
    role: str = CANARY


def _healthy(role: str) -> Callable[[Kind], Condition]:
    return lambda kind: healthy_on(kind.named(role))


def _in_phase(*names: str) -> Callable[[Kind], Condition]:
    return lambda _: phase(*names)


def _then(*moves: Move) -> Callable[[Kind], tuple[Move, ...]]:
    return lambda _: moves


_GO_ON = Move(when=at_step(1), act=command("promote"), after=5)


def _other_revision(sim: Simulation) -> None:
    raw = '{"action":"promote","revision":"0000000000000000","attempt":1,"at":"t","by":"ann"}'
    sim.cluster.merge(
        kinds.ROLLOUT, "mymodel", {"metadata": {"annotations": {"inferencerollouts.dev/command": raw}}}
    )


def _claimed(sim: Simulation) -> None:
    """The object names another Rollout, which exists."""
    other = rollout_object(name="other")
    other["spec"]["traffic"] = {"httpRoutes": [{"name": "elsewhere"}]}
    sim.cluster.create(kinds.ROLLOUT, other)
    for resource in (kinds.HTTP_ROUTE, kinds.INFERENCE_MODEL, kinds.POOL_SPLIT, kinds.LLM_SERVICE):
        for obj in sim.cluster.all(resource):
            named = {
                "metadata": {"annotations": {"inferencerollouts.dev/managed-by": "other"}, "labels": None}
            }
            sim.cluster.merge(resource, obj["metadata"]["name"], named)


def _left_alone(story: Story) -> bool:
    """A group is no object: nobody could own it, and its members have no label of ours."""
    meta = story.carrier.get("metadata") or {}
    labels = meta.get("labels") or {}
    return "ownerReferences" not in meta and (
        "inferencerollouts.dev/rollout" not in labels or story.kind.target == "variant"
    )


def _revised(sim: Simulation) -> None:
    edit_spec(lambda spec: spec["target"].update(revision="again"))(sim)
    edit_spec(lambda spec: spec["strategy"]["canary"].update(steps=GATED))(sim)


def _replaced(sim: Simulation) -> None:
    """``kubectl replace`` with a file, as Argo CD's Replace=true: what the file does not have is gone."""
    sim.cluster.merge(kinds.ROLLOUT, "mymodel", {"metadata": {"finalizers": None}})


RULES = {
    "an edit of revision, steps and strategy beside stable starts nothing": Rule(
        number=1,
        role=STABLE,
        goal=lambda kind: (
            lambda sim: (
                healthy_on(kind.named(STABLE))(sim)
                and "again" in str(sim.cluster.get(kinds.ROLLOUT, "mymodel"))
            )
        ),
        moves=lambda kind: (Move(when=healthy_on(kind.named(STABLE)), act=_revised, after=5),),
        holds=lambda story: not story.shares() and not story.status.get("attempt"),
    ),
    "the heaviest arm is stable at first sight, and the first write is the first step's weight": Rule(
        number=2,
        goal=lambda _: at_step(1),
        holds=lambda story: story.says("stable") == story.kind.named(STABLE) and story.shares() == [TENTH],
    ),
    "no weight before the target can serve": Rule(
        number=3,
        goal=lambda _: at_step(1),
        first=lambda kind: kind.unready,
        moves=lambda kind: (Move(when=phase("WaitingForTarget"), act=kind.ready, after=60),),
        holds=lambda story: (
            story.shares() == [TENTH]
            and any(one.get("phase") == "WaitingForTarget" for one in story.statuses())
        ),
    ),
    "the weights are those of the steps, in their order": Rule(
        number=4,
        goal=_healthy(CANARY),
        moves=_then(_GO_ON),
        holds=lambda story: story.shares() == [TENTH, HALF, ALL],
    ),
    "after the last step the canary is stable, and the old version is remembered": Rule(
        number=5,
        goal=_healthy(CANARY),
        moves=_then(_GO_ON),
        holds=lambda story: (
            story.says("stable") == story.kind.named(CANARY)
            and not story.says("canary")
            and story.kind.named(STABLE) in [entry["name"] for entry in story.status["history"]]
            and shares_of(story.carrier, [story.kind.named(CANARY)]) == (ALL,)
        ),
    ),
    "what a gate refuses is 100 % stable with the next write": Rule(
        number=6,
        steps=GATED,
        goal=_in_phase("Aborted"),
        moves=_then(Move(when=at_step(1), act=answer(Answer.BAD), after=3)),
        holds=lambda story: (
            story.shares() == [TENTH, 0] and story.status["aborted"]["reason"] == "GateFailed"
        ),
    ),
    "an aborted revision is not tried again, and retry is a new attempt": Rule(
        number=6,
        goal=lambda _: lambda sim: at_step(1)(sim) and sim.status.get("attempt") == 2,
        moves=_then(
            Move(when=at_step(1), act=command("abort"), after=5),
            Move(when=phase("Aborted"), act=command("retry", tag="t2"), after=400),
        ),
        holds=lambda story: story.shares() == [TENTH, 0, TENTH],
    ),
    "a revert is Healthy without steps": Rule(
        number=7,
        goal=_healthy(STABLE),
        moves=_then(Move(when=at_step(1), act=retarget(STABLE), after=20)),
        holds=lambda story: story.shares() == [TENTH, 0] and story.status["attempt"] == 1,
    ),
    "a third target drops the canary, and begins at the first step": Rule(
        number=7,
        goal=lambda kind: lambda sim: at_step(1)(sim) and sim.status["canary"]["name"] == kind.named(THIRD),
        moves=_then(Move(when=at_step(1), act=retarget(THIRD), after=20)),
        holds=lambda story: (
            (story.shares()[0], story.shares()[-1], story.shares(THIRD)) == (TENTH, 0, [TENTH])
            and story.says("stable") == story.kind.named(STABLE)
        ),
    ),
    "a command for another revision is rejected": Rule(
        number=8,
        goal=lambda _: lambda sim: (sim.status.get("lastCommand") or {}).get("result") == "Rejected",
        moves=_then(Move(when=at_step(1), act=_other_revision, after=5)),
        holds=lambda story: story.shares() == [TENTH],
    ),
    "without stable's pool nothing moves to what is not Ready": Rule(
        number=9,
        goal=lambda _: (
            lambda sim: (
                "NOBODY SERVES" in str(sim.status.get("conditions")) or "DOES NOT EXIST" in str(sim.status)
            )
        ),
        moves=lambda kind: (Move(when=healthy_on(kind.named(STABLE)), act=kind.lose_stable, after=5),),
        role=STABLE,
        holds=lambda story: not story.shares(),
    ),
    "an object that names another Rollout is not written": Rule(
        number=10,
        goal=lambda _: reason("ClaimedByOther"),
        first=lambda _: _claimed,
        holds=lambda story: story.shares() == [] and not any(map(is_ours, story.run.history.records)),
    ),
    "a person who lowers the canary is obeyed": Rule(
        number=11,
        goal=lambda _: reason("ManualOverride"),
        moves=_then(
            Move(when=at_step(1), act=overwrite_route({STABLE: 97, CANARY: 3}, "kubectl-edit"), after=5)
        ),
        holds=lambda story: shares_of(story.carrier, [story.kind.named(CANARY)]) == (Fraction(3, 100),),
    ),
    "what a GitOps tool sets back is restored": Rule(
        number=11,
        goal=_healthy(CANARY),
        moves=_then(
            Move(when=at_step(1), act=overwrite_route({STABLE: 100}, "argocd-controller"), after=5),
            Move(when=at_step(1), act=command("promote"), after=20),
        ),
        holds=lambda story: story.shares() == [TENTH, HALF, ALL],
    ),
    "what Argo CD's Replace=true and Helm's own client set back is restored": Rule(
        number=11,
        goal=_healthy(CANARY),
        moves=_then(
            Move(
                when=at_step(1), act=overwrite_route({STABLE: 100}, "argocd-application-controller"), after=5
            ),
            Move(when=at_step(1), act=overwrite_route({STABLE: 100}, "helm"), after=10),
            Move(when=at_step(1), act=command("promote"), after=20),
        ),
        holds=lambda story: story.shares() == [TENTH, HALF, ALL],
    ),
    "deleted after a replace took its finalizer off, it leaves stable everything": Rule(
        number=12,
        goal=lambda _: gone,
        moves=_then(
            Move(when=at_step(1), act=_replaced, after=5),
            Move(when=at_step(1), act=delete(kinds.ROLLOUT, "mymodel"), after=15),
        ),
        holds=lambda story: shares_of(story.carrier, [story.kind.named(STABLE)]) == (ALL,),
    ),
    "deleted, it leaves stable everything, and an object that nobody owns": Rule(
        number=12,
        goal=lambda _: gone,
        moves=_then(Move(when=at_step(1), act=delete(kinds.ROLLOUT, "mymodel"), after=15)),
        holds=lambda story: (
            shares_of(story.carrier, [story.kind.named(STABLE)]) == (ALL,) and _left_alone(story)
        ),
    ),
}


def is_ours(record: Any) -> bool:
    """Whether the controller wrote traffic."""
    return bool(record.ours and is_carrier(record))


def tell(kind: Kind, rule: Rule) -> Story:
    rollout = (
        kind.rollout(rule.steps, role=rule.role)
        if kind.target != "pool"
        else kind.rollout(rule.steps, target=rule.role)
    )

    def setup(cluster: Cluster) -> None:
        kind.traffic(cluster)
        base_objects(cluster, copy.deepcopy(rollout), route=kind.target == "pool")

    first = rule.first(kind)
    moves = rule.moves(kind) if first is None else (Move(when=begun, act=first), *rule.moves(kind))
    scenario = Scenario(
        name=f"rule {rule.number}",
        setup=setup,
        moves=moves,
        goal=rule.goal(kind),
        measured="analysis" in repr(rule.steps),
        adapters=kind.target == "adapter",
        variants=kind.target == "variant",
        services=kind.target == "llmInferenceService",
    )
    return Story(kind=kind, run=simulate(scenario))


def test_every_rule_has_a_row() -> None:
    assert {rule.number for rule in RULES.values()} == set(range(1, 13))
    assert {kind.target for kind in KINDS.values()} == {kind.field for kind in target_kinds()}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_rule_holds(kind: str, name: str) -> None:
    story = tell(KINDS[kind], RULES[name])

    assert story.run.converged, (
        story.status.get("phase"),
        story.status.get("reason"),
        story.status.get("conditions"),
    )
    assert RULES[name].holds(story), (story.shares(), story.status)
    assert [str(one) for one in check(story.run)] == []
