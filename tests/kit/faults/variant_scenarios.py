"""Workloads: rollouts between variants of one pool's pods, whose PoolSplit is the controller's own."""

from __future__ import annotations

import copy
from typing import Any

from rollouts.objects import kinds
from tests.kit.faults.cluster import Cluster
from tests.kit.faults.moves import (
    answer,
    at_step,
    both,
    command,
    delete,
    edit_spec,
    gone,
    healthy_on,
    merge_split,
    overwrite_route,
    phase,
    reason,
    retarget,
    scale,
)
from tests.kit.faults.objects import (
    CANARY,
    GATE,
    GUARD,
    RELEASES,
    SHARED,
    STABLE,
    STEPS,
    THIRD,
    base_objects,
    shared_objects,
    split_entries,
    split_object,
    variant_of,
    variant_rollout,
)
from tests.kit.faults.simulation import Act, Condition, Move, Scenario
from tests.kit.faults.source import Answer

__all__ = ["VARIANT_SCENARIOS"]

Object = dict[str, Any]

_SHORT: list[Object] = [{"setWeight": 10}, {"pause": {"duration": "20s"}}, {"setWeight": 50}]
_WAITING: list[Object] = [{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}]
_GATED: list[Object] = [{"setWeight": 10}, {"analysis": GATE}, {"setWeight": 50}]
_CLAIMED = {STABLE: 100}


def _scenario(
    name: str,
    rollout: Object,
    moves: list[Move],
    goal: Condition,
    *,
    split: dict[str, int] | None = None,
    releases: tuple[str, ...] = (STABLE, CANARY, THIRD),
    core: bool = False,
) -> Scenario:
    """``split``: what an earlier Rollout left; ``releases``: the roles that have pods at first."""

    def setup(cluster: Cluster) -> None:
        if split is not None:
            cluster.create(kinds.POOL_SPLIT, split_object(split))
        shared_objects(cluster)
        base_objects(cluster, copy.deepcopy(rollout), route=False)
        for role, release in RELEASES.items():
            if role not in releases:
                cluster.scale(release, 0)

    return Scenario(
        name=f"variant: {name}",
        setup=setup,
        moves=tuple(moves),
        goal=goal,
        core=core,
        measured="analysis" in repr(rollout["spec"]["strategy"]),
        variants=True,
        stride=2,
    )


def _labels(labels: dict[str, str]) -> Act:
    """The same name for other pods."""
    return edit_spec(lambda spec: spec["target"]["variant"].update(labels=labels))


def _straight() -> list[Scenario]:
    promote = _scenario(
        "taken over, promoted",
        variant_rollout([*STEPS, {"pause": {}}]),
        [Move(when=at_step(5), act=command("promote"), after=7)],
        healthy_on(CANARY),
        split=_CLAIMED,
        core=True,
    )
    gate = _scenario(
        "gate failure aborts",
        variant_rollout(_GATED),
        [Move(when=at_step(1), act=answer(Answer.BAD), after=3)],
        phase("Aborted"),
        split=_CLAIMED,
    )
    first = _scenario(
        "first install, then a second target",
        variant_rollout(_SHORT, role=STABLE),
        [
            Move(when=healthy_on(STABLE), act=scale(RELEASES[CANARY], 2), after=5),
            Move(when=healthy_on(STABLE), act=retarget(CANARY), after=5),
        ],
        healthy_on(CANARY),
        releases=(STABLE,),
    )
    third = _scenario(
        "third target in the middle",
        variant_rollout(_WAITING),
        [
            Move(when=at_step(1), act=retarget(THIRD), after=5),
            Move(when=at_step(1), act=command("promote", tag="t2"), after=15),
        ],
        healthy_on(THIRD),
        split=_CLAIMED,
    )
    window = _scenario(
        "back within the rollback window",
        variant_rollout([{"setWeight": 50}], rollbackWindow={"duration": "1h"}),
        [Move(when=healthy_on(CANARY), act=retarget(STABLE), after=20)],
        healthy_on(STABLE),
        split=_CLAIMED,
    )
    renamed = _scenario(
        "other labels under the canary's name",
        variant_rollout(_WAITING),
        [
            Move(when=at_step(1), act=_labels({"release": RELEASES[THIRD]}), after=5),
            Move(when=at_step(1), act=command("promote", tag="t2"), after=15),
        ],
        healthy_on(CANARY),
        split=_CLAIMED,
    )
    return [promote, gate, first, third, window, renamed]


def _unmatched() -> list[Scenario]:
    """Pods that no variant matches serve before there is a split."""
    held = both(phase("Paused"), reason("UnmatchedPods"))
    hint = f"release={RELEASES[STABLE]}"
    waits = _scenario(
        "unmatched pods, until they are gone",
        variant_rollout(_SHORT, role=STABLE),
        [Move(when=held, act=scale(RELEASES[CANARY], 0), after=60)],
        healthy_on(STABLE),
        releases=(STABLE, CANARY),
    )
    hinted = _scenario(
        "unmatched pods, named by stableHint",
        variant_rollout(_SHORT),
        [Move(when=held, act=edit_spec(lambda spec: spec.update(stableHint=hint)), after=60)],
        healthy_on(CANARY),
        releases=(STABLE, CANARY),
    )
    promoted = _scenario(
        "unmatched pods, promoted",
        variant_rollout(_SHORT),
        [Move(when=held, act=command("promote"), after=60)],
        healthy_on(CANARY),
        releases=(STABLE, CANARY),
    )
    return [waits, hinted, promoted]


def _written_by_others() -> list[Scenario]:
    argocd = _scenario(
        "argocd resets the split",
        variant_rollout(_WAITING),
        [
            Move(when=at_step(1), act=overwrite_route({STABLE: 100}, "argocd-controller"), after=5),
            Move(when=at_step(1), act=command("promote"), after=20),
        ],
        healthy_on(CANARY),
        split=_CLAIMED,
    )
    lowered = _scenario(
        "a person lowers the canary, then resumes",
        variant_rollout(_WAITING),
        [
            Move(when=at_step(1), act=overwrite_route({STABLE: 97, CANARY: 3}, "kubectl-edit"), after=5),
            Move(when=reason("ManualOverride"), act=command("resume"), after=40),
            Move(when=at_step(1), act=command("promote", tag="t2"), after=20),
        ],
        healthy_on(CANARY),
        split=_CLAIMED,
    )
    entries = split_entries({STABLE: 90, CANARY: 10})
    other = [entries[0] | {"labels": {"release": "nobody"}}, entries[1]]
    labels = _scenario(
        "a person gives stable other labels",
        variant_rollout(_WAITING),
        [
            Move(when=at_step(1), act=merge_split(other, "kubectl-edit"), after=5),
            Move(when=at_step(1), act=command("promote"), after=20),
        ],
        healthy_on(CANARY),
        split=_CLAIMED,
    )
    added = _scenario(
        "a person adds a variant",
        variant_rollout(_WAITING),
        [
            Move(
                when=at_step(1),
                act=merge_split([*entries, variant_of(THIRD, weight=90)], "kubectl-edit"),
                after=5,
            ),
            Move(when=at_step(1), act=command("promote"), after=20),
        ],
        healthy_on(CANARY),
        split=_CLAIMED,
    )
    split_gone = _scenario(
        "a person deletes the split",
        variant_rollout(_WAITING),
        [
            Move(when=at_step(1), act=delete(kinds.POOL_SPLIT, SHARED), after=5),
            Move(when=at_step(1), act=command("promote"), after=20),
        ],
        healthy_on(CANARY),
        split=_CLAIMED,
    )
    deleted = _scenario(
        "rollout deleted in the middle",
        variant_rollout(_WAITING, canary={"analysis": GUARD}),
        [Move(when=at_step(1), act=delete(kinds.ROLLOUT, "mymodel"), after=15)],
        gone,
        split=_CLAIMED,
    )
    return [argocd, lowered, labels, added, split_gone, deleted]


VARIANT_SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario for scenario in (*_straight(), *_unmatched(), *_written_by_others())
}
"""By name. Their plans are in a file of their own, most of them for `make test-full`."""
