"""The oracle catches planted bugs: for each invariant at least one mutant of the engine or of the shell.

A mutant replaces one function. The test fails when no plan of the given class makes the checker name the invariant
that the bug breaks: then it is the checker that is broken.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from rollouts.analysis import verdicts
from rollouts.analysis.types import Measurement, RunPhase
from rollouts.controller import adapter_content, adapter_views, gathering, indexes, performing
from rollouts.controller.adapter_content import Held
from rollouts.controller.caches import Caches
from rollouts.controller.gate_writing import GateWriter
from rollouts.controller.performing import Performer
from rollouts.controller.pickers import PickerPaths
from rollouts.controller.rollouts import RolloutReconciler
from rollouts.controller.traffic_writing import TrafficWriter
from rollouts.engine import (
    carrying,
    commanding,
    converging,
    deadlines,
    ending,
    naming,
    planning,
    probing,
    progressing,
    serving,
    watching,
    wayback,
)
from rollouts.engine.actions import CreateRun, TerminateRun, UnloadAdapter, WriteReason
from rollouts.engine.rollout_spec import TrafficMode
from rollouts.objects import kinds
from rollouts.objects.pods import PickerPod
from rollouts.traffic import backends, httproute, parents
from rollouts.traffic import wayback as way_back
from rollouts.units import ZERO, Weight
from tests.kit.faults.invariants import OF_CAPACITY, OF_GROUPS, OF_REPLICAS, Invariant, check
from tests.kit.faults.plans import FaultClass, enumerate_plans
from tests.kit.faults.scenarios import SCENARIOS
from tests.kit.faults.simulation import CLEAN, Run, simulate
from tests.kit.faults.transport import FaultyClient

Plant = Callable[[pytest.MonkeyPatch], None]

PROMOTE = "promote through pause, gate and manual pause"
GATE_ABORT = "gate failure aborts"
FLAP = "canary pods gone for half a minute"
ARGOCD = "argocd resets the route twice"
RETRY = "abort by command, then retry"
MISSING = "adapter: missing on a pod for a while"
WINDOW = "adapter: unloaded when the rollback window is over, and not before"
LEFT = "adapter: aborted, left and unloaded"
DELETED = "adapter: adopted model deleted, and added to Git a minute later"
UNCOUNTED = "no traffic until somebody sends some"
UNSPLIT = "split silently not programmed"
BROKEN = "a rise breaks the path"
ADAPTER_ABORT = "adapter: gate failure aborts"
OLD_COMMAND = "old promoteFull applied again by Git, two attempts later"
SQUATTED = "somebody else's run has the name of ours"
ELSEWHERE = "another tenant's pool of the same name in the route"
MADE_ANEW = "made anew under its name, beside its old runs"
SAME_NAME = "adapter: aborted, then a fix under the same name"
IN_FLIGHT = "adapter: same name while in-flight requests remain"
RESTART = "adapter: a pod restarts with the aborted content"
BAKING = "adapter: pods restart with other content while it bakes"
NEVER = "target never Ready"
LATE = "target Ready after a long pause"
PICKER_DIES = "path: picker pod dies mid-canary, and comes back"
PICKER_LATE = "path: picker not Ready at first"
CRASH_LOOP = "path: canary crash-loops"
MANAGED = "managed route with header route, second target"
PROBE_DELETED = "path: rollout deleted while it is probed"


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
        return Measurement(phase=RunPhase.SUCCESSFUL, at=at, message="no data")

    patch.setattr(verdicts, "_judge_silence", judge)


def _endpoints_unseen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(converging, "required_endpoints", lambda *_: 0)
    patch.setattr(planning, "watch_canary", lambda draft: None)


def _rises_unseen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(progressing, "note_rise", lambda draft: None)


def _never_programmed_unseen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(watching, "_not_programmed", lambda draft: None)


def _broken_unseen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(watching, "fell", lambda path: False)


def _abort_leaves_half(patch: pytest.MonkeyPatch) -> None:
    real = wayback.give_back

    def half(draft: Any, records: Any, reason: Any, limit: Weight = ZERO) -> bool:
        asked = draft.obs.status.weight.desired or ZERO
        return real(draft, records, reason, Weight(asked // 2) if reason is WriteReason.ABORT else limit)

    patch.setattr(wayback, "give_back", half)


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
    def retire(draft: Any, entry: Any, kept: set[Any]) -> None:
        identity = entry.revision.identity
        if identity.source and draft.obs.pools[identity].loaded:
            draft.actions.append(UnloadAdapter(identity=identity))

    patch.setattr(serving, "_retire", retire)


def _unloaded_before_it_is_stored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(serving, "_stored", lambda draft: set())
    patch.setattr(serving, "_carrying", lambda draft: set())


def _adopted_made_again(patch: pytest.MonkeyPatch) -> None:
    real = converging._recreate
    patch.setattr(
        converging,
        "_recreate",
        lambda draft, traffic, desired, may_raise: real(
            draft, replace(traffic, mode=TrafficMode.MANAGED), desired, may_raise=may_raise
        ),
    )


# --- bugs of what is told and taken back -----------------------------------------------------------


def _told_not_written(patch: pytest.MonkeyPatch) -> None:
    """Traffic writes are taken for done without a request."""

    async def send(*_: Any, **how: Any) -> None:
        return None

    patch.setattr(TrafficWriter, "_send", send)


def _way_back_lost(patch: pytest.MonkeyPatch) -> None:
    """Once a run has failed, the traffic object takes no write any more, and nobody hears of it."""
    real = FaultyClient.patch

    async def lost(self: Any, resource: Any, namespace: Any, name: str, body: Any, **how: Any) -> Any:
        runs = self._inner.api.list_page(kinds.ANALYSIS_RUN, None).items
        failed = any((run.get("status") or {}).get("phase") == "Failed" for run in runs)
        if failed and resource == kinds.HTTP_ROUTE:
            return self._inner.api.get(resource, namespace, name)
        return await real(self, resource, namespace, name, body, **how)

    patch.setattr(FaultyClient, "patch", lost)


def _gives_up_when_refused(patch: pytest.MonkeyPatch) -> None:
    """After one refusal the traffic object is not written any more."""
    real = TrafficWriter._send
    refused: weakref.WeakSet[Any] = weakref.WeakSet()

    async def send(self: Any, *what: Any, **how: Any) -> None:
        if self in refused:
            return
        try:
            await real(self, *what, **how)
        except Exception:
            refused.add(self)
            raise

    patch.setattr(TrafficWriter, "_send", send)


# --- bugs of the shell -----------------------------------------------------------------------------


def _weights_both_zero(patch: pytest.MonkeyPatch) -> None:
    real = httproute.split
    patch.setattr(httproute, "split", lambda *args: dict.fromkeys(real(*args), 0))


def _weight_off_by_one(patch: pytest.MonkeyPatch) -> None:
    real = httproute.split
    patch.setattr(httproute, "split", lambda *args: {key: value + 1 for key, value in real(*args).items()})


def _pods_not_asked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(adapter_views, "missing", lambda *_: [])


def _names_are_trusted(patch: pytest.MonkeyPatch) -> None:
    """Whatever a pod has under the name is the adapter, as if lists had no roots, and stays for the window."""
    patch.setattr(adapter_content, "_held", lambda *_: Held.RIGHT)
    patch.setattr(serving, "_retire", lambda *_: None)


def _requests_are_cut(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(adapter_views, "_is_idle", lambda state: True)


def _replaced_under_weight(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(serving, "_carrying", lambda draft: set())


def _promoted_unconfirmed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(progressing, "unserved", lambda *_: None)


def _target_waited_for_ever(patch: pytest.MonkeyPatch) -> None:
    stages = [stage for stage in planning._STAGES if stage is not planning.missed_target]
    patch.setattr(planning, "_STAGES", tuple(stages))


def _pauses_count(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(deadlines, "standing", lambda draft: "")


def _trusts_old_traffic(patch: pytest.MonkeyPatch) -> None:
    async def nothing(self: Any, gathered: Any) -> None:
        return None

    patch.setattr(TrafficWriter, "demand_fresh_traffic", nothing)


def _zero_is_an_entry(patch: pytest.MonkeyPatch) -> None:
    """What has no weight stays in targetModels, as in an HTTPRoute."""
    real = way_back._list

    def listed(rule: Any, roles: Any, record: Any, stable: int, canary: int) -> list[dict[str, Any]]:
        operations = real(rule, roles, record, stable, canary)
        operations[-1]["value"].append({"name": record.canary.name, "weight": 0})
        return operations

    patch.setattr(way_back, "_list", listed)


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
    real = performing.merge_patch

    def whole(old: Any, new: Any) -> Any:
        least = real(old, new)
        if not isinstance(new, dict) or "phase" not in new:
            return least
        return {**new, **{name: None for name, value in least.items() if value is None}}

    patch.setattr(performing, "merge_patch", whole)


def _run_name_of_the_process(patch: pytest.MonkeyPatch) -> None:
    """A crash makes a second run, since names are not deterministic."""
    number = itertools.count()
    real = Performer._act

    async def act(self: Any, gathered: Any, plan: Any, action: Any, **how: Any) -> Any:
        if isinstance(action, CreateRun):
            await real(self, gathered, plan, replace(action, name=f"{action.name}-{next(number)}"), **how)
        return await real(self, gathered, plan, action, **how)

    patch.setattr(Performer, "_act", act)


def _run_never_made(patch: pytest.MonkeyPatch) -> None:
    real = Performer._act

    async def act(self: Any, gathered: Any, plan: Any, action: Any, **how: Any) -> Any:
        return [] if isinstance(action, CreateRun) else await real(self, gathered, plan, action, **how)

    patch.setattr(Performer, "_act", act)


def _termination_lost(patch: pytest.MonkeyPatch) -> None:
    real = Performer._act

    async def act(self: Any, gathered: Any, plan: Any, action: Any, **how: Any) -> Any:
        return [] if isinstance(action, TerminateRun) else await real(self, gathered, plan, action, **how)

    patch.setattr(Performer, "_act", act)


def _hot_loop(patch: pytest.MonkeyPatch) -> None:
    real = RolloutReconciler.reconcile

    async def reconcile(self: Any, key: Any) -> float:
        await real(self, key)
        return 0.0

    patch.setattr(RolloutReconciler, "reconcile", reconcile)


def _trusts_types(patch: pytest.MonkeyPatch) -> None:
    real = gathering.gate_view

    def view(run: Any) -> Any:
        assert run["spec"]["rollout"] == "mymodel"
        return real(run)

    patch.setattr(gathering, "gate_view", view)


def _old_commands_obeyed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(commanding, "_demand_attempt", lambda status, command: None)


def _namesakes_are_one(patch: pytest.MonkeyPatch) -> None:
    """Runs are named after, and found by, their Rollout's name."""
    real = indexes.owner_of

    def by_name(obj: Any, kind: str) -> Any:
        found = real(obj, kind)
        return found and (found[0], "")

    async def taken_for_ours(self: Any, *_: Any) -> None:
        return None

    patch.setattr(naming.Owner, "digits", property(lambda self: ""))
    patch.setattr(indexes, "owner_of", by_name)
    patch.setattr(GateWriter, "_demand_ours", taken_for_ours)
    for owned in (Caches.owned_runs, Caches.owned_jobs):
        patch.setattr(Caches, owned.__name__, lambda self, key, uid, owned=owned: owned(self, key, ""))
    patch.setattr(Caches, "taken_names", lambda self, key, uid: frozenset())


def _taken_names_unseen(patch: pytest.MonkeyPatch) -> None:
    """What exists under our name is taken for ours, as far as creating it goes."""

    async def taken_for_ours(self: Any, *_: Any) -> None:
        return None

    patch.setattr(GateWriter, "_demand_ours", taken_for_ours)
    patch.setattr(Caches, "taken_names", lambda self, key, uid: frozenset())


def _namespaces_unseen(patch: pytest.MonkeyPatch) -> None:
    """A backendRef is known by its name."""
    real = backends.pool_of

    def pool_of(ref: Any, namespace: str) -> Any:
        return real({**ref, "namespace": namespace} if isinstance(ref, dict) else ref, namespace)

    for module in (backends, httproute):
        patch.setattr(module, "pool_of", pool_of)


def _generation_demanded(patch: pytest.MonkeyPatch) -> None:
    def is_old(condition: Any, generation: Any) -> bool:
        return bool(condition.get("observedGeneration") != generation)

    patch.setattr(parents, "_is_old", is_old)


def _gone_controllers_heard(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(parents, "_living", lambda entries, generation: entries)


def _picker_unseen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PickerPaths, "_picker_problem", lambda *_: None)


def _crashes_unseen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(planning, "crashing", lambda draft: None)


def _service_is_enough(patch: pytest.MonkeyPatch) -> None:
    """What was: the Service exists, whether or not a pod is behind it."""
    patch.setattr(Caches, "picker_pods", lambda self, pool: [PickerPod(name="p", ip="", metrics_port=9090)])


def _probe_rule_stays(patch: pytest.MonkeyPatch) -> None:
    """The rule goes when the attempt ends, not when the probe does."""
    real = probing.probe_routes

    def routes(attempt: Any) -> Any:
        record = attempt.probe and replace(attempt.probe, verdict=None, token=attempt.probe.token or "kept")
        return real(replace(attempt, probe=record))

    patch.setattr(converging, "probe_routes", routes)


def _probe_rule_outlives_the_rollout(patch: pytest.MonkeyPatch) -> None:
    """Only weights go back: a header rule of ours is forgotten."""
    real = wayback.carries
    patch.setattr(
        wayback, "carries", lambda view, limit=ZERO: real(view and replace(view, pinned=False), limit)
    )


MUTANTS = [
    Mutant("a namesake elsewhere gets weight", _namespaces_unseen, Invariant.WEIGHTS, ELSEWHERE),
    Mutant("observedGeneration is demanded", _generation_demanded, Invariant.CONVERGED),
    Mutant("controllers that are gone are heard", _gone_controllers_heard, Invariant.CONVERGED),
    Mutant("a probe's rule stays", _probe_rule_stays, Invariant.PROBED, MANAGED),
    Mutant(
        "a deleted Rollout leaves its probe's rule",
        _probe_rule_outlives_the_rollout,
        Invariant.PROBED,
        PROBE_DELETED,
    ),
    Mutant("pickers are not looked at", _picker_unseen, Invariant.PATH, PICKER_DIES),
    Mutant("a picker is ready when its Service exists", _service_is_enough, Invariant.PATH, PICKER_LATE),
    Mutant(
        "a dead picker keeps its weight",
        _picker_unseen,
        Invariant.PATH,
        fault=FaultClass.OUTSIDE,
        containing="canary picker never Ready again",
    ),
    Mutant("crashes are not counted", _crashes_unseen, Invariant.CONVERGED, CRASH_LOOP),
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
        "a person lowers the canary, then resumes",
        fault=FaultClass.STALE,
    ),
    Mutant("the loser is unloaded at once", _unloaded_at_once, Invariant.KEPT, WINDOW),
    Mutant("unloaded before its end is stored", _unloaded_before_it_is_stored, Invariant.KEPT, LEFT),
    Mutant("a name is taken for its content", _names_are_trusted, Invariant.CONTENT, SAME_NAME),
    Mutant("an unload cuts requests off", _requests_are_cut, Invariant.KEPT, IN_FLIGHT),
    Mutant("content is replaced under live weight", _replaced_under_weight, Invariant.KEPT, RESTART),
    Mutant("promoted when no pod confirms it", _promoted_unconfirmed, Invariant.CONTENT, BAKING),
    Mutant("a target is waited for for ever", _target_waited_for_ever, Invariant.CONVERGED, NEVER),
    Mutant("pauses count against the target", _pauses_count, Invariant.CONVERGED, LATE),
    Mutant("an adopted model is made again", _adopted_made_again, Invariant.ADOPTED, DELETED),
    Mutant("an old command is obeyed", _old_commands_obeyed, Invariant.EARNED, OLD_COMMAND),
    Mutant("a name that others have is not seen", _taken_names_unseen, Invariant.CONVERGED, SQUATTED),
    Mutant("a namesake's verdict counts", _namesakes_are_one, Invariant.EARNED, MADE_ANEW),
    Mutant("a gate passes without a run", _gate_passes_unseen, Invariant.EARNED),
    Mutant(
        "endpoints are not counted",
        _endpoints_unseen,
        Invariant.ENDPOINTS,
        fault=FaultClass.OUTSIDE,
        containing="canary unready 30 s",
    ),
    Mutant("nobody waits for a request", _rises_unseen, Invariant.COUNTED, UNCOUNTED),
    Mutant(
        "a split that is not programmed is not seen", _never_programmed_unseen, Invariant.CONVERGED, UNSPLIT
    ),
    Mutant("a broken path is not undone", _broken_unseen, Invariant.CONVERGED, BROKEN),
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
        "weight follows a picker before a gateway can know of it",
        lambda patch: patch.setattr(carrying, "SETTLE", timedelta(0)),
        Invariant.PATH,
        "path: picker pod dies mid-canary, and comes back",
    ),
    Mutant("a write is told of, not made", _told_not_written, Invariant.TRUTH),
    Mutant("a way back gets lost", _way_back_lost, Invariant.RESTORED, GATE_ABORT),
    Mutant(
        "a refused write is given up",
        _gives_up_when_refused,
        Invariant.TOLD,
        GATE_ABORT,
        fault=FaultClass.REFUSED,
        containing="for ten minutes",
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

    assert caught == set(Invariant) - OF_CAPACITY - OF_GROUPS - OF_REPLICAS
