"""The Argo CD customisations: their own fixtures, in Argo CD's layout, and the engine at the other end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from rollouts.analysis.types import RunPhase, RunStatus
from rollouts.api.run_results import write_run_status
from rollouts.api.status import write_status
from rollouts.engine.commands import CommandAction, parse_command
from rollouts.engine.observation import Claim, GateOutcome, Problem, Refused, UnmatchedPods
from rollouts.engine.rollout_spec import (
    AnalysisStep,
    JobStep,
    OnDeadline,
    PauseStep,
    Step,
    TrafficMode,
    WeightStep,
)
from rollouts.engine.rollout_status import CommandResult, HoldReason, Phase, RolloutStatus
from tests.kit.argocd import NOW, LuaFailed, run_lua
from tests.kit.kstatus import Kstatus, kstatus
from tests.kit.world import World, analysis, job, pause, pool, spec, weight

ARGOCD = Path(__file__).resolve().parents[2] / "charts" / "inference-rollouts" / "argocd"
SCRIPTS = ARGOCD / "resource_customizations"
ROLLOUT = SCRIPTS / "inferencerollouts.dev" / "Rollout"
ACTIONS = ("promote", "promote-full", "abort", "retry", "pause", "resume")
COMMAND = "inferencerollouts.dev/command"


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def lua(path: Path) -> str:
    return path.read_text(encoding="utf-8")


# --- the machine itself ---


@pytest.mark.parametrize("name", ["string", "math", "io", "debug", "python", "jit", "ffi", "load", "dofile"])
def test_the_machine_has_no(name: str) -> None:
    assert run_lua(f"return {name} == nil") is True


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ('return require("io")', "not found"),
        ('return ("x"):upper()', "string"),
        ("while true do end", "too long"),
        ('error("no")', "no"),
    ],
)
def test_the_machine_refuses(script: str, message: str) -> None:
    with pytest.raises(LuaFailed, match=message):
        run_lua(script)


def test_the_machine_gives_values_back_as_they_were() -> None:
    value = {"a": [1, {"b": {}}], "c": [], "d": "x", "e": True}
    assert run_lua("return obj", obj=value) == value


# --- fixtures, as Argo CD's own tests read them ---


def health_cases() -> Iterator[Any]:
    for file in sorted(SCRIPTS.glob("*/*/health_test.yaml")):
        for case in load(file)["tests"]:
            yield pytest.param(file.parent, case, id=f"{'/'.join(file.parts[-3:-1])}/{case['inputPath']}")


@pytest.mark.parametrize(("folder", "case"), list(health_cases()))
def test_health(folder: Path, case: dict[str, Any]) -> None:
    assert run_lua(lua(folder / "health.lua"), obj=load(folder / case["inputPath"])) == case["healthStatus"]


def test_every_health_script_has_fixtures_and_every_fixture_is_used() -> None:
    folders = [file.parent for file in SCRIPTS.glob("*/*/health.lua")]
    assert len(folders) == 5
    for folder in folders:
        used = {(folder / case["inputPath"]).name for case in load(folder / "health_test.yaml")["tests"]}
        assert used == {file.name for file in (folder / "testdata").glob("*.yaml")}


def action_tests(key: str) -> list[Any]:
    cases = load(ROLLOUT / "actions" / "action_test.yaml")[key]
    return [pytest.param(case, id=f"{case.get('action', '')} {case['inputPath']}") for case in cases]


@pytest.mark.parametrize("case", action_tests("discoveryTests"))
def test_discovery(case: dict[str, Any]) -> None:
    folder = ROLLOUT / "actions"
    found = run_lua(lua(folder / "discovery.lua"), obj=load(folder / case["inputPath"]))
    assert found == {item.pop("name"): item for item in map(dict, case["result"])}


@pytest.mark.parametrize("case", action_tests("actionTests"))
def test_action(case: dict[str, Any]) -> None:
    folder = ROLLOUT / "actions"
    script, obj = lua(folder / case["action"] / "action.lua"), load(folder / case["inputPath"])
    if "expectedErrorMessage" in case:
        with pytest.raises(LuaFailed, match=case["expectedErrorMessage"]):
            run_lua(script, obj=obj)
    else:
        assert run_lua(script, obj=obj) == load(folder / case["expectedOutputPath"])


# --- the engine at the other end ---


def step_json(step: Step) -> dict[str, Any]:
    match step:
        case WeightStep(weight=weight_):
            return {"setWeight": weight_ / 100}
        case PauseStep():
            return {"pause": {}}
        case AnalysisStep():
            return {"analysis": {"preset": "default"}}
        case JobStep():
            return {"job": {"spec": {}}}
        case _:
            return {"setHeaderRoute": {"name": step.name}}


def rollout(world: World) -> dict[str, Any]:
    meta: dict[str, Any] = {"name": "demo", "generation": world.generation}
    steps = world.spec.canary.steps if world.spec is not None else ()
    return {
        "metadata": meta | ({"deletionTimestamp": NOW} if world.deleting else {}),
        "spec": {"strategy": {"canary": {"steps": [step_json(step) for step in steps]}}},
        "status": write_status(world.status),
    }


def click(world: World, action: str) -> None:
    """What a click in Argo CD does to the world, later than the click before."""
    changed = run_lua(lua(ROLLOUT / "actions" / action / "action.lua"), obj=rollout(world))
    raw = changed["metadata"]["annotations"][COMMAND]
    world.command = raw if raw != world.command else raw.replace(NOW, "2026-01-01T00:00:09Z")
    world.settle()


def offered(world: World) -> set[str]:
    found = run_lua(lua(ROLLOUT / "actions" / "discovery.lua"), obj=rollout(world))
    assert set(found) == set(ACTIONS)
    return {name for name, item in found.items() if not item["disabled"]}


def waiting() -> World:
    world = World(spec=spec(weight(10), pause(), weight(50)))
    world.pools[pool("v2")] = 0
    world.settle()
    return world


def at_pause() -> World:
    world = World(spec=spec(weight(10), pause(), weight(50)))
    world.settle()
    return world


def held() -> World:
    world = at_pause()
    click(world, "pause")
    return world


def aborted() -> World:
    world = at_pause()
    click(world, "abort")
    return world


def split() -> World:
    world = World(spec=spec(weight(10), pause(), target="v2"), rules=[{pool("v1"): 10, pool("v2"): 90}])
    world.settle()
    return world


def healthy() -> World:
    world = at_pause()
    click(world, "promote-full")
    return world


def at(*steps: Step, **fields: Any) -> Callable[[], World]:
    """A rollout as it comes to rest with these steps after the first weight."""

    def make() -> World:
        world = World(spec=spec(weight(10), *steps, weight(50), **fields))
        world.settle()
        return world

    return make


def in_force() -> World:
    """A weight that the gateway has not taken yet."""
    world = World(spec=spec(weight(10), pause()), programmed=False)
    world.settle()
    return world


def late() -> World:
    world = World(spec=spec(weight(10), pause(), on_deadline=OnDeadline.PAUSE), programmed=False)
    world.settle()
    world.advance(31 * 60)
    return world


def judged(outcome: GateOutcome) -> Callable[[], World]:
    def make() -> World:
        world = World(spec=spec(weight(10), analysis(), weight(50)), verdict=lambda _: outcome)
        world.settle()
        return world

    return make


def baking() -> World:
    world = World(spec=spec(weight(10), bake=timedelta(hours=1)))
    world.settle()
    return world


def lowered() -> World:
    """A person took weight off the canary."""
    world = at_pause()
    assert world.rules is not None
    world.rules = [{pool("v1"): 95, pool("v2"): 5}]
    world.writer, world.version = "kubectl-edit", world.version + 1
    world.settle()
    return world


def contended() -> World:
    """A GitOps tool resets the weights again and again."""
    world = at_pause()
    for _ in range(7):
        world.rules = [{pool("v1"): 100, pool("v2"): 0}]
        world.writer, world.gitops, world.version = "argocd-controller", True, world.version + 1
        world.advance(1)
    return world


def tied() -> World:
    world = World(spec=spec(weight(10)), rules=[{pool("v1"): 50, pool("v2"): 50}])
    world.settle()
    return world


def unmatched() -> World:
    """Pods serve that the first split would cut off."""
    world = World(spec=spec(weight(10), mode=TrafficMode.MANAGED), rules=None)
    world.unmatched = UnmatchedPods(pods=("vllm-0",), pool="pool")
    world.settle()
    return world


def with_problem(make: Callable[[], World]) -> Callable[[], World]:
    def changed() -> World:
        world = make()
        world.problems = (Problem(reason="Bad", message="bad"),)
        world.settle()
        return world

    return changed


def claimed(make: Callable[[], World]) -> Callable[[], World]:
    def changed() -> World:
        world = make()
        world.claim, world.claimed_by = Claim.OTHER, "other"
        world.settle()
        return world

    return changed


def leaving() -> World:
    world = at_pause()
    world.deleting, world.refuses = True, Refused(reason="TrafficRefused", message="no")
    world.settle()
    return world


WORLDS: dict[str, Callable[[], World]] = {
    "waiting": waiting,
    "at a pause": at_pause,
    "held": held,
    "aborted": aborted,
    "split at start": split,
    "healthy": healthy,
    "never looked at": lambda: World(spec=spec(weight(10))),
    "paused by spec": at(pause(), paused=True),
    "a weight not in force": in_force,
    "a missed deadline": late,
    "at a gate": at(analysis()),
    "a gate that failed": judged(GateOutcome.PAUSE),
    "a gate without an answer": judged(GateOutcome.INCONCLUSIVE),
    "at a job": at(job()),
    "baking": baking,
    "lowered by hand": lowered,
    "contended": contended,
    "tied": tied,
    "pods that match no variant": unmatched,
    "invalid": with_problem(at_pause),
    "invalid and held": with_problem(held),
    "invalid and aborted": with_problem(aborted),
    "invalid and waiting": with_problem(waiting),
    "claimed by another": claimed(at_pause),
    "claimed by another, held": claimed(held),
    "claimed by another, aborted": claimed(aborted),
    "being deleted": leaving,
}


def test_every_hold_and_every_phase_is_among_the_worlds() -> None:
    found = [make().status for make in WORLDS.values()]

    assert {status.hold for status in found} == {None, *HoldReason}
    assert {status.phase for status in found} == set(Phase)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("state", WORLDS)
def test_the_engine_does_what_is_offered_and_rejects_what_is_greyed_out(state: str, action: str) -> None:
    world = WORLDS[state]()
    enabled = action in offered(world)
    before = world.status.last_command
    if world.status.canary is None and world.status.stable is None:
        assert not enabled
        return
    click(world, action)
    last = world.status.last_command
    if state == "being deleted":
        assert (enabled, last) == (False, before)
        return
    assert last is not None
    assert (last.result is not CommandResult.REJECTED) is enabled, last.message
    assert last.by == "argocd"


def test_a_rejected_command_is_said_where_people_look_and_passes_by() -> None:
    world = in_force()
    plain = world.status.message
    click(world, "promote")
    shown = world.status.message
    world.settle()
    again = world.status.message
    world.programmed = True
    world.advance(60)

    assert shown == again
    assert shown.startswith(plain)
    assert "[promote was rejected: there is no pause or gate to leave" in shown
    assert "rejected" not in world.status.message


def test_an_obeyed_command_takes_the_rejection_of_the_one_before_away() -> None:
    world = held()
    click(world, "promote")
    assert "promote was rejected" in world.status.message
    click(world, "resume")

    assert "rejected" not in world.status.message


def test_a_rejection_is_not_kept_in_what_is_said_later() -> None:
    world = healthy()
    assert world.status.reason == "Promoted"
    click(world, "retry")
    world.advance(60)
    assert world.status.message.count("was rejected") == 1
    world.pools[pool("v3")] = 4
    world.edit(spec(weight(10), pause(), target="v3"))
    world.advance(60)

    assert "rejected" not in world.status.message


@pytest.mark.parametrize("action", ACTIONS)
def test_each_action_writes_its_own_command_bound_to_revision_attempt_and_step(action: str) -> None:
    world = at_pause()
    obj = rollout(world)
    changed = run_lua(lua(ROLLOUT / "actions" / action / "action.lua"), obj=obj)
    raw = changed["metadata"].pop("annotations")[COMMAND]
    command = parse_command(raw)
    assert command.action.value == action.replace("-full", "Full")
    assert world.status.canary is not None
    assert command.revision == world.status.canary.hash
    assert command.step == world.status.current_step == 1
    assert command.attempt == world.status.attempt == 1
    assert f'"at":"{NOW}"' in raw
    assert changed == obj


def test_there_is_an_action_for_every_command() -> None:
    assert {name.replace("-full", "Full") for name in ACTIONS} == {item.value for item in CommandAction}
    assert sorted(ACTIONS) == sorted(file.parent.name for file in ROLLOUT.glob("actions/*/action.lua"))


@pytest.mark.parametrize("phase", [item for item in Phase if item.value])
def test_every_phase_has_a_health(phase: Phase) -> None:
    status = write_status(RolloutStatus(phase=phase, message="so it is", observed_generation=3))
    obj = {"metadata": {"generation": 3}, "status": status}
    found = run_lua(lua(ROLLOUT / "health.lua"), obj=obj)
    assert found["message"] == "so it is"
    assert found["status"] in {"Healthy", "Progressing", "Suspended", "Degraded"}
    obj["metadata"] = {"generation": 4}
    assert run_lua(lua(ROLLOUT / "health.lua"), obj=obj)["status"] == "Progressing"


@pytest.mark.parametrize("gone", ["pool", "pods"])
@pytest.mark.parametrize("state", ["healthy", "at a pause", "waiting"])
def test_a_rollout_that_nobody_serves_is_degraded_whatever_its_phase(state: str, gone: str) -> None:
    world = WORLDS[state]()
    for name in list(world.pools):
        if gone == "pool" and (world.status.stable is None or name == world.status.stable.identity):
            del world.pools[name]
        else:
            world.pools[name] = 0
    world.settle()
    found = run_lua(lua(ROLLOUT / "health.lua"), obj=rollout(world))

    assert found["status"] == "Degraded"
    assert "NOBODY SERVES" in found["message"]


@pytest.mark.parametrize(
    ("state", "wanted"),
    [
        ("healthy", Kstatus.CURRENT),
        ("aborted", Kstatus.FAILED),
        ("at a pause", Kstatus.IN_PROGRESS),
        ("held", Kstatus.IN_PROGRESS),
        ("waiting", Kstatus.IN_PROGRESS),
        ("split at start", Kstatus.IN_PROGRESS),
    ],
)
def test_kstatus_agrees_with_the_phase_and_fails_what_nobody_serves(state: str, wanted: Kstatus) -> None:
    world = WORLDS[state]()
    before = kstatus(rollout(world))
    for name in list(world.pools):
        world.pools[name] = 0
    world.settle()

    assert before is wanted
    assert kstatus(rollout(world)) is Kstatus.FAILED


RUN_AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("phase", "wanted", "health"),
    [
        (RunPhase.PENDING, Kstatus.IN_PROGRESS, "Progressing"),
        (RunPhase.RUNNING, Kstatus.IN_PROGRESS, "Progressing"),
        (RunPhase.SUCCESSFUL, Kstatus.CURRENT, "Healthy"),
        (RunPhase.FAILED, Kstatus.FAILED, "Degraded"),
        (RunPhase.ERROR, Kstatus.FAILED, "Degraded"),
        (RunPhase.INCONCLUSIVE, Kstatus.FAILED, "Unknown"),
    ],
    ids=lambda value: getattr(value, "value", str(value)),
)
def test_a_run_is_to_kstatus_what_its_phase_says(phase: RunPhase, wanted: Kstatus, health: str) -> None:
    ended = RUN_AT + timedelta(minutes=5) if phase.terminal else None
    status = RunStatus(phase=phase, message="so it is", started_at=RUN_AT, completed_at=ended)
    obj = {"metadata": {"generation": 3}, "status": write_run_status(status)}
    moved = {
        item["type"]: item["lastTransitionTime"]
        for item in obj["status"]["conditions"]
        if item["lastTransitionTime"] != "2026-01-01T00:00:00Z"
    }

    assert kstatus(obj) is wanted
    script = lua(SCRIPTS / "inferencerollouts.dev" / "AnalysisRun" / "health.lua")
    assert run_lua(script, obj=obj)["status"] == health
    assert set(moved) == (
        {"Reconciling", "Ready" if wanted is Kstatus.CURRENT else "Stalled"} if ended else set()
    )


def test_every_phase_of_a_run_was_looked_at() -> None:
    assert len(RunPhase) == 6


def test_an_old_page_cannot_promote_a_newer_step() -> None:
    world = World(spec=spec(weight(10), pause(), weight(20), pause(), weight(50)))
    world.settle()
    old = rollout(world)
    click(world, "promote")
    assert world.status.current_step == 3
    changed = run_lua(lua(ROLLOUT / "actions" / "promote" / "action.lua"), obj=old)
    world.command = changed["metadata"]["annotations"][COMMAND].replace(NOW, "2026-01-01T00:00:09Z")
    world.settle()
    assert world.status.last_command is not None
    assert world.status.last_command.result is CommandResult.REJECTED
    assert world.status.current_step == 3


# --- the snippets ---


def test_the_snippet_for_argocd_cm_holds_these_very_scripts() -> None:
    data = load(ARGOCD / "argocd-cm-snippet.yaml")["data"]
    for file in SCRIPTS.glob("*/*/health.lua"):
        group, kind = file.parts[-3:-1]
        assert data[f"resource.customizations.health.{group}_{kind}"] == lua(file)
    actions = yaml.safe_load(data["resource.customizations.actions.inferencerollouts.dev_Rollout"])
    assert actions["discovery.lua"] == lua(ROLLOUT / "actions" / "discovery.lua")
    found = {item["name"]: item["action.lua"] for item in actions["definitions"]}
    assert found == {name: lua(ROLLOUT / "actions" / name / "action.lua") for name in ACTIONS}


def test_the_snippet_for_the_operator_says_the_same() -> None:
    data = load(ARGOCD / "argocd-cm-snippet.yaml")["data"]
    spec_ = load(ARGOCD / "argocd-operator-snippet.yaml")["spec"]
    for item in spec_["resourceHealthChecks"]:
        key = f"resource.customizations.health.{item['group']}_{item['kind']}"
        assert data[key] == item["check"]
    (action,) = spec_["resourceActions"]
    assert data["resource.customizations.actions.inferencerollouts.dev_Rollout"] == action["action"]


def test_no_shipped_setting_freezes_edits_of_routes() -> None:
    """RespectIgnoreDifferences and managedFieldsManagers keep Git's later edits of atomic lists from landing."""
    for name in ("argocd-cm-snippet.yaml", "argocd-operator-snippet.yaml", "application-example.yaml"):
        text = yaml.safe_dump_all(yaml.safe_load_all((ARGOCD / name).read_text(encoding="utf-8")))
        assert "managedFieldsManagers" not in text
        assert "RespectIgnoreDifferences" not in text
