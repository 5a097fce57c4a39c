"""The oracle: what must hold over the whole history of a run, whatever was broken.

Each checker reads nothing but stored objects, written by whomever, in order: it shares no code with the engine
beyond names of fields.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from enum import Enum
from fractions import Fraction
from itertools import islice
from typing import Any

from rollouts.objects import kinds
from tests.kit.faults.adapter_oracle import (
    early_unloads,
    remade_objects,
    unconfirmed_sources,
    unproven_weights,
)
from tests.kit.faults.capacity_oracle import (
    ended_elsewhere,
    podless_rises,
    share_without_pods,
    too_few_pods,
    too_many_pods,
    undrained,
    unstored_scales,
    wrong_workloads,
)
from tests.kit.faults.endstate import CARRIERS, differences, is_carrier, weights_of
from tests.kit.faults.groups import is_part
from tests.kit.faults.history import History, Record
from tests.kit.faults.path_oracle import dead_ends, left_on_dead_ends, probe_rules
from tests.kit.faults.replay import Replay, ready_pictures, share
from tests.kit.faults.replica_oracle import hushed_replicas, raised_past_replicas, wrongly_ended
from tests.kit.faults.service_oracle import wrong_stops
from tests.kit.faults.simulation import Run
from tests.kit.faults.source import Answer
from tests.kit.faults.truth import condition, untrue_statuses
from tests.kit.faults.wayback import hushed_refusals, open_ways_back

__all__ = ["OF_CAPACITY", "OF_GROUPS", "OF_REPLICAS", "Invariant", "Violation", "check"]

Object = dict[str, Any]

REQUESTS_PER_10_SECONDS = 120
"""Budget of one Rollout with its runs: a plan costs at most about ten requests, Events included."""
RETRIES_PER_SECOND = 5
_GRAIN = Fraction(1, 10_000)
"""Weights of a group are whole numbers, near enough to show the share to a hundredth of a percent."""
MOST_OF_A_KIND = 5
"""Violations of one invariant that a run reports: a person reads the first ones."""
_CLOCK_GRAIN = timedelta(seconds=1)


class Invariant(Enum):
    """What is asserted."""

    WEIGHTS = (
        "1 weights are in bounds, never all zero, the canary's share is one of the steps', others keep theirs"
    )
    EARNED = "2 weight rises only when every gate before the step has passed or was overridden by a person"
    ENDPOINTS = "3 weight rises only with enough Ready canary endpoints"
    PROVEN = "3b an adapter gets its first weight when every Ready pod of the pool really serves it"
    KEPT = "3c no adapter is unloaded that is stable, a canary, carries weight, answers requests or may come back"
    ADOPTED = "3d an adopted traffic object that was deleted is waited for, never made again"
    CONTENT = "3e no weight rises and nothing becomes stable for a source that the Ready pods do not confirm"
    PATH = "3f no weight rises towards, or is left on, a pool whose picker has no Ready pod"
    PROBED = "3g the rule of a probe is in a route only before the first weight, and in none at the end"
    ABORTED = "4 after an abort the next route write is 100 % stable, and no later one raises that revision"
    EPOCHS = "5 the epochs of the controller's writes never interleave"
    MONOTONE = "6 observedGeneration, attempt and history never go back"
    SAME_END = "7 the end state and the route writes are those of the clean run"
    QUIET = "8 at rest, resyncs write nothing"
    PAUSES = "9 a pause is left by time or command only, and every AnalysisRun ends"
    BUDGET = "10 requests stay within their budget"
    GARBAGE = "6f while the source says nothing useful, no measurement counts as successful"
    CONVERGED = "11 the goal is reached"
    COUNTED = "13 weight rises only when a request reached the canary since the last rise"
    NO_BUGS = "12 no reconcile raises what is not a transport error"
    TRUTH = (
        "13 a status says of weights what the stored traffic object says, and a command is Done when it is so"
    )
    RESTORED = "14 a way back that is due is gone within seconds, whatever else was edited"
    GPUS = (
        "16 no more pods than N + maxSurge, those that are being deleted included, by the controller's doing"
    )
    PODS_FIRST = "17 weight rises only when the pods that it needs are Ready"
    OURS = "18 stable is never scaled but where it gives pods, and what an autoscaler has never"
    STORED = "19 what a workload is scaled to is stored before"
    DRAINED = "20 no pod with weight is taken away, and none with work before the timeout"
    ENDED = "21 stable ends with its pods, and what lost with as many as scaleDown says"
    FLOOR = "22 no version gets fewer pods than minStable or its share needs, by the controller's doing"
    OBEYED = "23 no weight rises while a replica of the picker goes by other weights"
    HEARD = "24 a status says that a replica goes by other weights, and calls no abort done meanwhile"
    STOPPED = "25 a member of a group is stopped only when it lost, and started only by who stopped it"
    TOLD = "15 a refused traffic write is told of in the server's words and tried again within seconds"


OF_REPLICAS = frozenset({Invariant.OBEYED, Invariant.HEARD})
"""Those that need several replicas of a picker; the others hold of every Rollout."""

OF_GROUPS = frozenset({Invariant.STOPPED})
"""Those that need members of a group, with bugs planted in test_service_plans."""

OF_CAPACITY = frozenset(
    (
        Invariant.GPUS,
        Invariant.PODS_FIRST,
        Invariant.OURS,
        Invariant.STORED,
        Invariant.DRAINED,
        Invariant.ENDED,
        Invariant.FLOOR,
    )
)
"""Of workloads that are scaled: their plans and planted bugs are in a file of their own."""


class Violation(Exception):
    """One broken invariant, for tests to print."""

    def __init__(self, invariant: Invariant, text: str) -> None:
        super().__init__(f"[{invariant.name}] {text}")
        self.invariant = invariant
        self.text = text


def check(run: Run, clean: Run | None = None) -> list[Violation]:
    """All violations of one run; ``clean`` is the undisturbed run of the same scenario."""
    found: list[Violation] = []
    for invariant, checker in _CHECKERS.items():
        found += [Violation(invariant, text) for text in islice(checker(run), MOST_OF_A_KIND)]
    if clean is not None and run.plan.exact and run.converged:
        found += [Violation(Invariant.SAME_END, text) for text in _same_end(run, clean)]
    return found


# --- 1-4: route writes -----------------------------------------------------------------------------


def _route_writes(history: History) -> Iterator[tuple[Replay, Record]]:
    """The controller's route writes, each with the cluster's state just before it."""
    replay = Replay()
    for record in history.records:
        if record.ours and is_carrier(record) and record.after:
            yield replay, record
        replay.take(record)


def _weights(run: Run) -> Iterator[str]:
    for replay, record in _route_writes(run.history):
        allowed = replay.allowed_shares()
        after = weights_of(record.after, marked=False)
        for rule, before in zip(after, _padded(record.before), strict=False):
            values = [weight for _, weight in rule]
            if not rule:
                continue
            grouped = is_part(record.change)
            least = (
                0 if grouped or record.of(kinds.HTTP_ROUTE) else 1
            )  # model objects leave an arm without weight out
            if any(not least <= value <= 1_000_000 for value in values) or not sum(values):
                yield f"rule {rule} at {record.seconds:g} s"
            found = share(dict(rule), replay.canary_name)
            if grouped:  # one share is two objects: in between the canary has less, and never more
                allowed = {found} if found <= max(allowed, default=0) + _GRAIN else allowed
            if replay.canary_name and found not in allowed:
                yield f"canary share {found} of {rule} is none of {sorted(map(float, allowed))}"
            foreign = [[entry for entry in entries if "/" in entry[0]] for entries in (before, rule)]
            if before and foreign[0] != foreign[1] and not run.plan.moves:
                yield f"entries of others {foreign[0]} became {foreign[1]} at {record.seconds:g} s"
            # Rules may be others now, and a PoolSplit is the controller's whole.
            others = run.plan.moves or run.scenario.variants or grouped
            total = 0 if others else sum(weight for _, weight in before)
            if total and sum(values) % total and total % sum(values):
                yield f"joint weight of {before} became {rule}"


def _padded(route: Object) -> tuple[tuple[tuple[str, int], ...], ...]:
    return weights_of(route, marked=False) + ((),) * 16


def _rises(replay: Replay, record: Record) -> Fraction | None:
    """The canary's new share when the write raises it; None otherwise."""
    if not replay.canary_name:
        return None
    new = max(
        (share(dict(rule), replay.canary_name) for rule in weights_of(record.after, marked=False)),
        default=Fraction(0),
    )
    old = max(
        (share(dict(rule), replay.canary_name) for rule in weights_of(record.before, marked=False)),
        default=Fraction(0),
    )
    return new if new > old else None


def _earned(run: Run) -> Iterator[str]:
    """Gates that lie before the current step, from where the steps were last edited, have a recorded pass."""
    for replay, record in _route_writes(run.history):
        raised = _rises(replay, record)
        if raised is None or raised <= replay.restored_up_to or replay.skips_gates():
            continue
        for index in replay.gates_before_current_step():
            if not replay.gate_passed(index):
                yield f"raised to {float(raised):.2%} at {record.seconds:g} s without gate {index + 1}"
        if replay.guard_failed():
            yield f"raised to {float(raised):.2%} at {record.seconds:g} s after the background run failed"


def _counted(run: Run) -> Iterator[str]:
    """What really reached the canary, not what was counted: the controller may know less, never more."""
    attempt: Any = None
    stored: Any = None
    reached, served = Fraction(0), 0.0
    for replay, record in _route_writes(run.history):
        status, name = replay.status, replay.canary_name
        now = ((status.get("canary") or {}).get("hash"), status.get("attempt"))
        if now != attempt:
            attempt, reached = now, Fraction(0)
        raised = _rises(replay, record)
        if raised is None or raised <= reached:
            continue
        if is_part(record.change) and status == stored:  # the second write of one rise
            reached = raised
            continue
        stored = status
        waived = status.get("skipGates") or replay.canary_field("allowNoTraffic", False)
        so_far = record.served.get(name, 0.0)
        if reached and not waived and so_far - served < 0.5:  # counts are rounded
            yield f"raised to {float(raised):.2%} at {record.seconds:g} s with {so_far - served:.2f} requests since"
        reached, served = raised, so_far


def _endpoints(run: Run) -> Iterator[str]:
    for replay, record in _route_writes(run.history):
        raised = _rises(replay, record)
        if raised is None:
            continue
        ratio = Fraction(replay.canary_field("endpointRatio", 0.5)).limit_denominator(1000)
        at_start = replay.status.get("stableEndpointsAtStart", 0)
        needed = max(1, math.ceil(raised * at_start * ratio))
        pictures = ready_pictures(run.history, replay, record.seconds)
        serving = record.serving(replay.canary_name, replay.canary_source)
        most = max(len(ready if serving is None else ready & serving) for ready in pictures)
        if most < needed:
            yield f"raised to {float(raised):.2%} at {record.seconds:g} s with {most} of {needed} endpoints"


def _pods_first(run: Run) -> Iterator[str]:
    writes = _route_writes(run.history) if run.scenario.capacity else ()
    return podless_rises(run, ((replay, record, _rises(replay, record)) for replay, record in writes))


def _obeyed(run: Run) -> Iterator[str]:
    writes = _route_writes(run.history) if run.history.astray else ()
    return raised_past_replicas(run, ((replay, record, _rises(replay, record)) for replay, record in writes))


def _heard(run: Run) -> Iterator[str]:
    if run.history.astray:
        yield from hushed_replicas(run)
        yield from wrongly_ended(run)


def _proven(run: Run) -> Iterator[str]:
    return unproven_weights(run.history, _route_writes(run.history))


def _kept(run: Run) -> Iterator[str]:
    return early_unloads(run.history)


def _content(run: Run) -> Iterator[str]:
    return unconfirmed_sources(run.history)


def _adopted(run: Run) -> Iterator[str]:
    return remade_objects(run.history)


def _path(run: Run) -> Iterator[str]:
    if run.scenario.adapters or run.scenario.variants or run.scenario.services:  # one picker, or none of ours
        return
    yield from dead_ends(
        run.history,
        (
            (replay, record, raised)
            for replay, record in _route_writes(run.history)
            if (raised := _rises(replay, record)) is not None
        ),
    )
    hold = (((run.end.get("rollout mymodel") or {}).get("status") or {}).get("hold") or {}).get("reason")
    yield from left_on_dead_ends(run.history, held=hold in ("ManualOverride", "TrafficContended"))


def _probed(run: Run) -> Iterator[str]:
    refusal = run.plan.refusal
    forever = refusal is not None and math.isinf(refusal.seconds)  # then TOLD asks for the reason
    return probe_rules(run.history, waits=forever or _final_reason(run) == "PathProbeFailed")


def _most(carrier: Object, name: str) -> Fraction:
    return max((share(dict(rule), name) for rule in weights_of(carrier)), default=Fraction(0))


def _aborted(run: Run) -> Iterator[str]:
    for replay, record in _route_writes(run.history):
        if not replay.abort_decided() or not replay.canary_name:
            continue
        left = max((share(dict(rule), replay.canary_name) for rule in weights_of(record.after)), default=0)
        if is_part(record.change) and left < _most(record.before, replay.canary_name):
            continue  # stable's weight is back first; RESTORED asks for the rest
        if left > share_without_pods(run, replay, record.seconds):
            yield f"route write at {record.seconds:g} s leaves {float(left):.2%} on an aborted revision"


# --- 5, 6, 9: the record of the Rollout ------------------------------------------------------------


def _epochs(run: Run) -> Iterator[str]:
    last = 0
    for record in run.history.records:
        if not record.ours:
            continue
        if record.epoch < last:
            yield f"epoch {record.epoch} wrote after epoch {last}"
        last = record.epoch


def _statuses(history: History) -> Iterator[tuple[Record, Object, Object]]:
    for record in history.ours(kinds.ROLLOUT):
        before, after = record.before.get("status") or {}, record.after.get("status") or {}
        if before != after and record.after and record.change.name == "mymodel":
            yield record, before, after


def _monotone(run: Run) -> Iterator[str]:
    for record, before, after in _statuses(run.history):
        for name in ("observedGeneration", "attempt"):
            if after.get(name, 0) < before.get(name, 0):
                yield f"{name} fell from {before[name]} to {after.get(name, 0)} at {record.seconds:g} s"
        if len(after.get("history", ())) < len(before.get("history", ())):
            yield f"history shrank at {record.seconds:g} s"


def _pauses(run: Run) -> Iterator[str]:
    for record, before, after in _statuses(run.history):
        if _left_pause(record, before, after) and not _commanded(before, after):
            yield f"pause at step {before.get('currentStep', 0) + 1} left early at {record.seconds:g} s"
        hold = (before.get("hold") or {}).get("reason")
        lifted = hold == "PausedByCommand" and not after.get("hold") and _same_attempt(before, after)
        if lifted and not _commanded(before, after) and not after.get("aborted"):
            yield f"hold lifted without a command at {record.seconds:g} s"
    if _final_phase(run) in ("", "Healthy", "Aborted"):
        yield from _endless_runs(run)


def _same_attempt(before: Object, after: Object) -> bool:
    return all(before.get(name) == after.get(name) for name in ("canary", "attempt", "stepsHash"))


def _left_pause(record: Record, before: Object, after: Object) -> bool:
    steps = _steps(record.after)
    index = before.get("currentStep", 0)
    moved = after.get("currentStep", 0) > index and _same_attempt(before, after)
    if not moved or not before.get("startedAt") or index >= len(steps) or "pause" not in steps[index]:
        return False
    duration = steps[index]["pause"].get("duration")
    if duration is None:
        return True
    started = datetime.fromisoformat(before["stepStartedAt"])
    return record.now - started < timedelta(seconds=_seconds(duration)) - _CLOCK_GRAIN


def _commanded(before: Object, after: Object) -> bool:
    last = after.get("lastCommand") or {}
    return last != (before.get("lastCommand") or {}) and last.get("result") == "Done"


def _steps(rollout: Object) -> list[Object]:
    found = ((rollout.get("spec") or {}).get("strategy") or {}).get("canary", {}).get("steps") or []
    return found if isinstance(found, list) else []


def _seconds(duration: str) -> float:
    units = {"s": 1, "m": 60, "h": 3600}
    return float(duration[:-1]) * units[duration[-1]]


def _endless_runs(run: Run) -> Iterator[str]:
    for name, phase in run.end.items():
        if name.startswith("run ") and phase not in ("Successful", "Failed", "Inconclusive", "Error"):
            yield f"{name} is still {phase}"


def _garbage(run: Run) -> Iterator[str]:
    """A success may be stored later than it was measured, but there are no more of them than healthy answers."""
    history, counted = run.history, dict[str, int]()
    for number, record in enumerate(history.records):
        if not record.of(kinds.ANALYSIS_RUN) or _successes(record.after) <= _successes(record.before):
            continue
        counted[record.change.obj["metadata"]["uid"]] = _successes(record.after)
        said = [(answer, healthy) for since, answer, healthy in history.answers if since <= number]
        if said and said[-1][0] is not Answer.HEALTHY and sum(counted.values()) > said[-1][1]:
            yield f"{record.change.name} counts a success at {record.seconds:g} s: the source is {said[-1][0].value}"


def _successes(run: Object) -> int:
    results = (run.get("status") or {}).get("metricResults") or []
    return sum(item.get("successful", 0) for item in results if isinstance(item, dict))


# --- 7, 8, 10: the whole ---------------------------------------------------------------------------


def _same_end(run: Run, clean: Run) -> Iterator[str]:
    yield from differences(clean.end, run.end)
    if run.weights != clean.weights:
        yield f"route writes {_brief(run.weights)} instead of {_brief(clean.weights)}"
    for resource in (kinds.ANALYSIS_RUN, kinds.JOB, *(resource for resource, _ in CARRIERS)):
        for verb in ("ADDED", "DELETED"):
            counts = [
                sum(r.change.type.value == verb for r in each.history.ours(resource)) for each in (run, clean)
            ]
            if counts[0] != counts[1]:
                yield f"{counts[0]} {resource.plural} {verb} instead of {counts[1]}"


def _brief(weights: tuple[Any, ...]) -> str:
    return " ".join("/".join(str(weight) for _, weight in rules[-1]) for rules in weights if rules)


def _quiet(run: Run) -> Iterator[str]:
    since, phase = run.history.quiet_from, _final_phase(run)
    if _refused_for_ever(run) and phase == "Progressing":  # the attempt goes on, its runs with it
        return
    yield from (text for text in run.history.problems if text.startswith("written at rest"))
    if since is None or phase == "Paused":  # a person is waited for: runs go on measuring
        return
    for request in run.history.requests:
        # What the server refuses is tried again for ever, and told of for as long.
        tried = request.refused or (_refused_for_ever(run) and request.plural == kinds.EVENT.plural)
        if request.seconds > since and request.verb != "get" and not tried:
            yield f"{request.verb} {request.plural} {request.name} at rest, at {request.seconds:g} s"
    for call in run.history.calls:
        if call.seconds > since:
            yield f"{call.what} {call.adapter} on {call.pod} at rest, at {call.seconds:g} s"


def _refused_for_ever(run: Run) -> bool:
    return run.plan.refusal is not None and math.isinf(run.plan.refusal.seconds)


def _no_bugs(run: Run) -> Iterator[str]:
    yield from (text for text in run.history.problems if text.startswith("bug"))


def _budget(run: Run) -> Iterator[str]:
    yield from (text for text in run.history.problems if text.startswith("busy"))
    moments = [request.seconds for request in run.history.requests]
    for index, moment in enumerate(moments):
        if (count := index + 1 - bisect_left(moments, moment - 10.0)) > REQUESTS_PER_10_SECONDS:
            yield f"{count} requests in the 10 s before {moment:g} s"
            return
    # A run's spec and its status have a writer each, with a back-off of its own.
    failed = [r for r in run.history.requests if r.failed and r.plural != "events"]
    for place in {(r.plural, r.name, r.subresource) for r in failed}:
        times = [r.seconds for r in failed if (r.plural, r.name, r.subresource) == place]
        for index, moment in enumerate(times):
            if (count := index + 1 - bisect_left(times, moment - 0.999)) > RETRIES_PER_SECOND:
                yield f"{count} failed requests for {'/'.join(place)} in the second before {moment:g} s"
                return


def _converged(run: Run) -> Iterator[str]:
    status = (run.end.get("rollout mymodel") or {}).get("status") or {}
    held = _refused_for_ever(run) and condition({"status": status}, "TrafficApplied").get("status") == "False"
    if not run.converged or (_final_phase(run) == "Progressing" and not held):
        yield f"not at rest: {status.get('phase')} {status.get('reason')} step {status.get('step')}"


def _final_phase(run: Run) -> str:
    rollout = run.end.get("rollout mymodel") or {}
    return str((rollout.get("status") or {}).get("phase", ""))


def _final_reason(run: Run) -> str:
    rollout = run.end.get("rollout mymodel") or {}
    return str((rollout.get("status") or {}).get("reason", ""))


_CHECKERS: dict[Invariant, Callable[[Run], Iterator[str]]] = {
    Invariant.WEIGHTS: _weights,
    Invariant.EARNED: _earned,
    Invariant.ENDPOINTS: _endpoints,
    Invariant.COUNTED: _counted,
    Invariant.PROVEN: _proven,
    Invariant.KEPT: _kept,
    Invariant.ADOPTED: _adopted,
    Invariant.CONTENT: _content,
    Invariant.PATH: _path,
    Invariant.PROBED: _probed,
    Invariant.ABORTED: _aborted,
    Invariant.EPOCHS: _epochs,
    Invariant.MONOTONE: _monotone,
    Invariant.PAUSES: _pauses,
    Invariant.GARBAGE: _garbage,
    Invariant.QUIET: _quiet,
    Invariant.BUDGET: _budget,
    Invariant.CONVERGED: _converged,
    Invariant.NO_BUGS: _no_bugs,
    Invariant.TRUTH: untrue_statuses,
    Invariant.RESTORED: open_ways_back,
    Invariant.OBEYED: _obeyed,
    Invariant.STOPPED: wrong_stops,
    Invariant.HEARD: _heard,
    Invariant.TOLD: hushed_refusals,
    Invariant.GPUS: too_many_pods,
    Invariant.PODS_FIRST: _pods_first,
    Invariant.OURS: wrong_workloads,
    Invariant.STORED: unstored_scales,
    Invariant.DRAINED: undrained,
    Invariant.ENDED: ended_elsewhere,
    Invariant.FLOOR: too_few_pods,
}
