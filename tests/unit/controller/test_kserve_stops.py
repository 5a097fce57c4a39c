"""Members of a KServe group that lost are stopped, as ``capacity.scaleDown`` asks, and started by who stopped them."""

from __future__ import annotations

from typing import Any

import pytest

from rollouts.objects import kinds
from rollouts.objects.llm_services import STOP_ANNOTATION
from rollouts.traffic.llm_service_stop import STOPPED_BY
from tests.kit.faults.cluster import Cluster
from tests.kit.faults.moves import (
    at_step,
    both,
    command,
    delete,
    edit_spec,
    gone,
    healthy_on,
    kserve,
    phase,
    reason,
    retarget,
)
from tests.kit.faults.objects import (
    CANARY,
    GROUP,
    STABLE,
    THIRD,
    base_objects,
    service_objects,
    service_rollout,
)
from tests.kit.faults.simulation import Act, Condition, Move, Simulation
from tests.unit.controller.test_kserve_groups import run, weights

Object = dict[str, Any]

ALL = [{"setWeight": 50}]
WAITING = [{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}]
TWO_MINUTES = {"scaleDown": {"delay": "2m"}}


def setup(steps: list[Object] | None = None, **fields: Any) -> Any:
    def start(cluster: Cluster) -> None:
        service_objects(cluster, {STABLE: 9, CANARY: 0, THIRD: 0}, {})
        canary = {"capacity": TWO_MINUTES, **fields.pop("canary", {})}
        base_objects(
            cluster, service_rollout(ALL if steps is None else steps, canary=canary, **fields), route=False
        )

    return start


def marks(sim: Simulation, member: str) -> Object:
    obj = sim.cluster.get(kinds.LLM_SERVICE, member)
    found = (obj or {"metadata": {}})["metadata"].get("annotations") or {}
    return {name: found[name] for name in (STOP_ANNOTATION, STOPPED_BY) if name in found}


def stopped(member: str) -> Condition:
    return lambda sim: STOP_ANNOTATION in marks(sim, member)


def annotate(member: str, **annotations: str | None) -> Act:
    names = {"stop": STOP_ANNOTATION, "by": STOPPED_BY, "consent": "inferencerollouts.dev/managed-by"}
    patch = {"metadata": {"annotations": {names[name]: value for name, value in annotations.items()}}}
    return lambda sim: sim.cluster.merge(kinds.LLM_SERVICE, member, patch, manager="kubectl-annotate")


def events(sim: Simulation, wanted: str) -> list[str]:
    return [one["message"] for one in sim.cluster.all(kinds.EVENT) if one["reason"] == wanted]


def settled(sim: Simulation) -> bool:
    """Healthy on the canary, and nothing is owed any more."""
    return bool(healthy_on(CANARY)(sim) and not sim.status.get("scaleDowns"))


OURS = {STOP_ANNOTATION: "true", STOPPED_BY: "mymodel"}


def test_the_old_version_is_stopped_after_the_delay_and_keeps_its_weight_field() -> None:
    waiting: list[str] = []

    def look(sim: Simulation) -> None:
        waiting.extend(one["message"] for one in sim.status["scaleDowns"])
        assert not marks(sim, STABLE)

    sim = run(Move(when=healthy_on(CANARY), act=look, after=60), goal=settled, start=setup())

    assert waiting[0].startswith(f"{STABLE} keeps its pods until ")
    assert marks(sim, STABLE) == OURS
    assert weights(sim)[STABLE] == 0
    assert f"LLMInferenceService {STABLE} is stopped" in events(sim, "Scaled")
    assert marks(sim, CANARY) == {}


def test_an_aborted_canary_is_stopped_and_a_retry_starts_it_and_waits_for_ready() -> None:
    sim = run(
        Move(when=at_step(1), act=command("abort"), after=3),
        Move(when=stopped(CANARY), act=kserve(works=False), after=20),
        Move(when=phase("Aborted"), act=command("retry"), after=1),
        Move(when=reason("ServiceNotReady"), act=kserve(works=True), after=30),
        Move(when=at_step(1), act=command("promote"), after=3),
        goal=healthy_on(CANARY),
        start=setup(WAITING),
    )

    assert marks(sim, CANARY) == {}
    assert f"LLMInferenceService {CANARY} is started again" in events(sim, "Scaled")


def test_a_rollback_starts_the_old_version_before_it_gets_weight() -> None:
    sim = run(
        Move(when=stopped(STABLE), act=retarget(STABLE), after=30),
        goal=healthy_on(STABLE),
        start=setup(rollbackWindow={"duration": "1h"}),
    )

    assert marks(sim, STABLE) == {}
    assert weights(sim)[STABLE] > 0


def test_a_stop_that_a_person_set_is_never_taken_away() -> None:
    sim = run(
        Move(when=healthy_on(CANARY), act=annotate(STABLE, stop="true"), after=5),
        Move(when=settled, act=retarget(STABLE), after=200),
        goal=reason("ServiceStopped"),
        start=setup(),
    )

    assert marks(sim, STABLE) == {STOP_ANNOTATION: "true"}


def test_a_stop_that_a_person_set_again_after_ours_is_theirs() -> None:
    sim = run(
        Move(when=both(stopped(STABLE), settled), act=annotate(STABLE, stop=None), after=20),
        Move(when=settled, act=annotate(STABLE, stop="true"), after=20),
        Move(when=settled, act=retarget(STABLE), after=20),
        goal=reason("ServiceStopped"),
        start=setup(),
    )

    assert marks(sim, STABLE) == OURS


def test_a_mark_of_another_rollout_is_no_mark_of_ours() -> None:
    sim = run(
        Move(when=both(stopped(STABLE), settled), act=annotate(STABLE, by="another"), after=20),
        Move(when=settled, act=retarget(STABLE), after=20),
        goal=reason("ServiceStopped"),
        start=setup(),
    )

    assert marks(sim, STABLE) == {**OURS, STOPPED_BY: "another"}


def _without_capacity(spec: Object) -> None:
    spec["strategy"]["canary"]["capacity"] = None  # as a merge takes it out


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (edit_spec(_without_capacity), "is not stopped: strategy.canary.capacity was taken out"),
        (
            annotate(STABLE, consent=None),
            "is not stopped: LLMInferenceService mymodel-pool-v1 does not consent",
        ),
    ],
)
def test_what_is_withdrawn_during_the_delay_stops_nobody_and_that_is_said(act: Act, words: str) -> None:
    sim = run(
        Move(when=healthy_on(CANARY), act=act, after=30),
        goal=settled,
        start=setup(canary={"capacity": {"scaleDown": {"delay": "2m"}, "drainTimeout": "1m"}}),
    )

    assert marks(sim, STABLE) == {}
    assert any(words in message for message in events(sim, "ScaleDownLeft"))


def test_a_target_that_goes_back_during_the_delay_is_not_stopped() -> None:
    sim = run(
        Move(when=healthy_on(CANARY), act=retarget(STABLE), after=30),
        goal=lambda sim: healthy_on(STABLE)(sim) and stopped(CANARY)(sim),
        start=setup(),
    )

    assert marks(sim, STABLE) == {}
    assert events(sim, "Scaled") == [f"LLMInferenceService {CANARY} is stopped"]


@pytest.mark.parametrize(("on_delete", "ends"), [("RestoreStable", OURS), ("KeepTraffic", {})])
def test_a_rollout_that_is_deleted_stops_its_loser_unless_all_is_to_stay(
    on_delete: str, ends: Object
) -> None:
    sim = run(
        Move(when=healthy_on(CANARY), act=delete(kinds.ROLLOUT, "mymodel"), after=10),
        goal=gone,
        start=setup(onDelete=on_delete),
    )

    assert marks(sim, STABLE) == ends


def test_a_rollout_deleted_in_the_middle_gives_weight_back_and_stops_the_canary() -> None:
    sim = run(
        Move(when=at_step(1), act=delete(kinds.ROLLOUT, "mymodel"), after=10), goal=gone, start=setup(WAITING)
    )

    assert weights(sim)[CANARY] == 0
    assert (marks(sim, CANARY), marks(sim, STABLE)) == (OURS, {})


@pytest.mark.parametrize(
    ("member", "whose"), [(CANARY, f"the route of LLMInferenceService {CANARY}"), (STABLE, "its own route")]
)
def test_a_member_to_which_kserve_still_sends_requests_is_not_stopped(member: str, whose: str) -> None:
    seen: list[str] = []

    def behind(sim: Simulation) -> None:
        """KServe's last words are of weights before the promotion."""
        sim.cluster.set_kserve(works=False)
        said = {"name": GROUP, "members": [{"name": STABLE, "weight": 9}, {"name": CANARY, "weight": 9}]}
        sim.cluster.write_status(kinds.LLM_SERVICE, member, {"router": {"group": said}}, manager="kserve")

    def look(sim: Simulation) -> None:
        assert not marks(sim, STABLE)
        seen.extend(one["message"] for one in sim.status["scaleDowns"])
        sim.cluster.set_kserve(works=True)

    sim = run(
        Move(when=healthy_on(CANARY), act=behind, after=10),
        Move(when=healthy_on(CANARY), act=look, after=400),
        goal=settled,
        start=setup(),
    )

    assert seen == [f"{whose}, by its status with weight 9, sends requests to {STABLE}"]
    assert marks(sim, STABLE) == OURS


def test_a_loser_that_answers_keeps_its_pods_until_it_does_not() -> None:
    seen: list[Object] = []

    def idle(sim: Simulation) -> None:
        seen.append(marks(sim, STABLE))
        sim.set_busy(STABLE, 0)

    sim = run(
        Move(when=at_step(0), act=lambda sim: sim.set_busy(STABLE, 3)),
        Move(when=healthy_on(CANARY), act=idle, after=400),
        goal=settled,
        start=setup(),
    )

    assert seen == [{}]
    assert marks(sim, STABLE) == OURS


def test_a_tool_that_takes_the_stop_away_is_named_and_its_revert_restored() -> None:
    def slowly(sim: Simulation) -> None:
        """Pods that take their time to end."""
        sim.cluster.set_kserve(works=False)

    sim = run(
        Move(when=healthy_on(CANARY), act=slowly, after=30),
        Move(when=stopped(STABLE), act=annotate(STABLE, stop="false"), after=5),
        Move(when=lambda sim: bool(events(sim, "ReplicasRestored")), act=kserve(works=True), after=20),
        goal=settled,
        start=setup(),
    )

    assert events(sim, "ReplicasRestored") == [
        f"somebody started LLMInferenceService {STABLE} again; it lost, and is stopped"
    ]
    assert marks(sim, STABLE) == OURS
