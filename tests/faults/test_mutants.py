"""The oracle catches planted bugs: for each invariant at least one mutant of the engine or of the shell.

A mutant replaces one function. The test fails when no plan of the given class makes the checker name the invariant
that the bug breaks: then it is the checker that is broken.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from rollouts.analysis import verdicts
from rollouts.analysis.types import Measurement, Phase
from rollouts.controller import adapter_views, observing, performing
from rollouts.controller.performing import Performer
from rollouts.controller.rollouts import RolloutReconciler
from rollouts.engine import converging, ending, planning, progressing, serving
from rollouts.engine.actions import CreateRun, TerminateRun, UnloadAdapter
from rollouts.engine.types import TrafficMode, Weight
from rollouts.lab.testing.faults.invariants import Invariant, check
from rollouts.lab.testing.faults.plans import FaultClass, enumerate_plans
from rollouts.lab.testing.faults.scenarios import SCENARIOS
from rollouts.lab.testing.faults.simulation import CLEAN, Run, simulate
from rollouts.traffic import httproute, inference_model

Plant = Callable[[pytest.MonkeyPatch], None]

PROMOTE = "promote through pause, gate and manual pause"
GATE_ABORT = "gate failure aborts"
FLAP = "canary pods gone for half a minute"
ARGOCD = "argocd resets the route twice"
RETRY = "abort by command, then retry"
MISSING = "adapter: missing on a pod for a while"
WINDOW = "adapter: unloaded when the rollback window is over, and not before"
LEFT = "adapter: aborted, left and unloaded"
ADAPTER_ARGOCD = "adapter: argocd resets the model"
DELETED = "adapter: adopted model deleted, and added to Git a minute later"
ADAPTER_ABORT = "adapter: gate failure aborts"


@dataclass(frozen=True)
class Mutant:
    """A planted bug, where it shows, and the invariant that must name it."""

    bug: str
    plant: Plant
    caught_by: Invariant
    scenario: str = PROMOTE
    fault: FaultClass | None = None
    containing: str = ""


# --- bugs of the engine ----------------------------------------------------------------------------


def _gate_passes_unseen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(progressing, "_analyse", lambda draft: progressing._advance(draft, "passed"))


def _inconclusive_passes(patch: pytest.MonkeyPatch) -> None:
    def judge(metric: Any, at: Any, why: str) -> Measurement:
        return Measurement(phase=Phase.SUCCESSFUL, at=at, message="no data")

    patch.setattr(verdicts, "_judge_silence", judge)


def _endpoints_unseen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(converging, "required_endpoints", lambda *_: 0)
    patch.setattr(progressing, "_watch_endpoints", lambda draft: None)


def _abort_leaves_half(patch: pytest.MonkeyPatch) -> None:
    real = converging.step_weight

    def half(status: Any, spec: Any) -> Weight:
        if status.aborted is None:
            return real(status, spec)
        return Weight(real(replace(status, aborted=None), spec) // 2)

    patch.setattr(converging, "step_weight", half)


def _abort_forgotten(patch: pytest.MonkeyPatch) -> None:
    """The failed gate is looked at after traffic, not before."""
    stages = [stage for stage in planning._STAGES if stage is not planning._abort_triggers]
    patch.setattr(planning, "_STAGES", tuple(stages))


def _pause_cut_short(patch: pytest.MonkeyPatch) -> None:
    real = progressing._pause

    def pause(draft: Any, step: Any) -> None:
        short = step if step.duration is None else replace(step, duration=timedelta(seconds=3))
        real(draft, short)

    patch.setattr(progressing, "_pause", pause)


def _runs_never_end(patch: pytest.MonkeyPatch) -> None:
    for module in (planning, ending):
        patch.setattr(module, "terminate_runs", lambda draft: None)


def _raises_before_it_is_stored(patch: pytest.MonkeyPatch) -> None:
    """The next step's weight is written in the plan that enters the step."""
    real = progressing._advance

    def advance(draft: Any, message: str) -> None:
        real(draft, message)
        progressing.converge(draft)

    patch.setattr(progressing, "_advance", advance)
    patch.setattr(converging, "_may_raise", lambda draft, desired: True)


def _foreign_writes_kept(patch: pytest.MonkeyPatch) -> None:
    real = converging._settled
    patch.setattr(
        converging, "_settled", lambda traffic, desired: not traffic.written_by_us or real(traffic, desired)
    )


def _unloaded_at_once(patch: pytest.MonkeyPatch) -> None:
    def retire(draft: Any, entry: Any, arms: set[Any]) -> None:
        identity = entry.revision.identity
        if identity.source and draft.obs.pools[identity].loaded:
            draft.actions.append(UnloadAdapter(identity=identity))

    patch.setattr(serving, "_retire", retire)


def _unloaded_before_it_is_stored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(serving, "_in_use", lambda draft: set())


def _adopted_made_again(patch: pytest.MonkeyPatch) -> None:
    real = converging._recreate
    patch.setattr(
        converging,
        "_recreate",
        lambda draft, traffic, desired: real(draft, replace(traffic, mode=TrafficMode.MANAGED), desired),
    )


# --- bugs of the shell -----------------------------------------------------------------------------


def _weights_both_zero(patch: pytest.MonkeyPatch) -> None:
    real = httproute.split
    patch.setattr(httproute, "split", lambda *args: dict.fromkeys(real(*args), 0))


def _weight_off_by_one(patch: pytest.MonkeyPatch) -> None:
    real = httproute.split
    patch.setattr(httproute, "split", lambda *args: {key: value + 1 for key, value in real(*args).items()})


def _pods_not_asked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(adapter_views, "_missing", lambda *_: [])


def _trusts_old_traffic(patch: pytest.MonkeyPatch) -> None:
    async def nothing(self: Any, gathered: Any) -> None:
        return None

    patch.setattr(Performer, "_demand_fresh_traffic", nothing)


def _zero_is_an_entry(patch: pytest.MonkeyPatch) -> None:
    """What has no weight stays in targetModels, as in an HTTPRoute."""
    real = inference_model.retarget

    def retarget(entries: Any, key: str, model: str, desired: Any) -> list[dict[str, Any]]:
        found = real(entries, key, model, desired)
        named = {item[key] for item in found}
        return found + [{**item, "weight": 0} for item in entries if item[key] not in named]

    patch.setattr(inference_model, "retarget", retarget)


def _history_lost(patch: pytest.MonkeyPatch) -> None:
    real = performing.write_status

    def write(status: Any) -> dict[str, Any]:
        found = real(status)
        return found if status.canary is not None else {**found, "history": None}

    patch.setattr(performing, "write_status", write)


def _generation_lost(patch: pytest.MonkeyPatch) -> None:
    real = performing.write_status
    patch.setattr(
        performing,
        "write_status",
        lambda status: {**real(status), "observedGeneration": 1 if status.canary is None else 7},
    )


def _writes_what_is_there(patch: pytest.MonkeyPatch) -> None:
    """The whole status is sent each time, whether or not it changed."""
    patch.setattr(performing, "merge_patch", lambda old, new: new)


def _run_name_of_the_process(patch: pytest.MonkeyPatch) -> None:
    """A crash makes a second run, since names are not deterministic."""
    number = itertools.count()
    real = Performer._act

    async def act(self: Any, gathered: Any, action: Any, **how: Any) -> Any:
        if isinstance(action, CreateRun):
            await real(self, gathered, replace(action, name=f"{action.name}-{next(number)}"), **how)
        return await real(self, gathered, action, **how)

    patch.setattr(Performer, "_act", act)


def _run_never_made(patch: pytest.MonkeyPatch) -> None:
    real = Performer._act

    async def act(self: Any, gathered: Any, action: Any, **how: Any) -> Any:
        return [] if isinstance(action, CreateRun) else await real(self, gathered, action, **how)

    patch.setattr(Performer, "_act", act)


def _termination_lost(patch: pytest.MonkeyPatch) -> None:
    real = Performer._act

    async def act(self: Any, gathered: Any, action: Any, **how: Any) -> Any:
        return [] if isinstance(action, TerminateRun) else await real(self, gathered, action, **how)

    patch.setattr(Performer, "_act", act)


def _hot_loop(patch: pytest.MonkeyPatch) -> None:
    real = RolloutReconciler.reconcile

    async def reconcile(self: Any, key: Any) -> float:
        await real(self, key)
        return 0.0

    patch.setattr(RolloutReconciler, "reconcile", reconcile)


def _trusts_types(patch: pytest.MonkeyPatch) -> None:
    real = observing.gate_view

    def view(run: Any) -> Any:
        assert run["spec"]["rollout"] == "mymodel"
        return real(run)

    patch.setattr(observing, "gate_view", view)


MUTANTS = [
    Mutant("all weights are zero", _weights_both_zero, Invariant.WEIGHTS),
    Mutant("each weight is one too many", _weight_off_by_one, Invariant.WEIGHTS),
    Mutant(
        "an adapter without weight is an entry",
        _zero_is_an_entry,
        Invariant.WEIGHTS,
        ADAPTER_ABORT,
        fault=FaultClass.HOSTILE,  # its schemas admit what the real one refuses
        containing="a run of ours",
    ),
    Mutant("the pods are not asked for the adapter", _pods_not_asked, Invariant.PROVEN, MISSING),
    Mutant(
        "our own past is taken for a person's write",
        _trusts_old_traffic,
        Invariant.CONVERGED,
        ADAPTER_ARGOCD,
        fault=FaultClass.STALE,
    ),
    Mutant("the loser is unloaded at once", _unloaded_at_once, Invariant.KEPT, WINDOW),
    Mutant("unloaded before its end is stored", _unloaded_before_it_is_stored, Invariant.KEPT, LEFT),
    Mutant("an adopted model is made again", _adopted_made_again, Invariant.ADOPTED, DELETED),
    Mutant("a gate passes without a run", _gate_passes_unseen, Invariant.EARNED),
    Mutant(
        "endpoints are not counted",
        _endpoints_unseen,
        Invariant.ENDPOINTS,
        fault=FaultClass.OUTSIDE,
        containing="canary unready 30 s",
    ),
    Mutant("an abort leaves half the weight", _abort_leaves_half, Invariant.ABORTED, GATE_ABORT),
    Mutant("a failed gate does not abort", _abort_forgotten, Invariant.CONVERGED, GATE_ABORT),
    Mutant("history is dropped at the end", _history_lost, Invariant.MONOTONE, RETRY),
    Mutant("observedGeneration falls", _generation_lost, Invariant.MONOTONE),
    Mutant(
        "raised before it is stored", _raises_before_it_is_stored, Invariant.SAME_END, fault=FaultClass.CRASH
    ),
    Mutant(
        "a second run after each look", _run_name_of_the_process, Invariant.SAME_END, fault=FaultClass.CRASH
    ),
    Mutant("foreign writes are kept", _foreign_writes_kept, Invariant.CONVERGED, ARGOCD),
    Mutant("a status is written unchanged", _writes_what_is_there, Invariant.QUIET),
    Mutant("a pause is cut short", _pause_cut_short, Invariant.PAUSES),
    Mutant("runs are not terminated", _runs_never_end, Invariant.PAUSES),
    Mutant("termination is planned, not written", _termination_lost, Invariant.PAUSES),
    Mutant("a key is due again at once", _hot_loop, Invariant.BUDGET),
    Mutant("runs are never made", _run_never_made, Invariant.CONVERGED),
    Mutant(
        "no data counts as a pass",
        _inconclusive_passes,
        Invariant.GARBAGE,
        fault=FaultClass.GARBAGE,
        containing="not a number",
    ),
    Mutant(
        "a run is taken to be well formed",
        _trusts_types,
        Invariant.NO_BUGS,
        fault=FaultClass.HOSTILE,
        containing="a run of ours",
    ),
]


def _found(mutant: Mutant, clean: Run) -> bool:
    plans = [CLEAN]
    if mutant.fault is not None:
        plans = [p for p in enumerate_plans(mutant.fault, clean) if mutant.containing in p.name]
    scenario = SCENARIOS[mutant.scenario]
    return any(
        violation.invariant is mutant.caught_by
        for plan in plans
        for violation in check(simulate(scenario, plan), clean)
    )


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.bug)
def test_the_checker_catches_the_planted_bug(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = simulate(SCENARIOS[mutant.scenario])
    mutant.plant(monkeypatch)

    assert _found(mutant, clean), f"no plan shows {mutant.caught_by.value}"


def test_interleaved_epochs_are_caught() -> None:
    run = simulate(SCENARIOS[GATE_ABORT])
    ours = [index for index, record in enumerate(run.history.records) if record.ours]
    first = run.history.records[ours[0]]
    run.history.records[ours[0]] = replace(first, epoch=2)

    assert Invariant.EPOCHS in {violation.invariant for violation in check(run)}


def test_every_invariant_has_a_mutant() -> None:
    caught = {mutant.caught_by for mutant in MUTANTS} | {Invariant.EPOCHS}

    assert caught == set(Invariant)
