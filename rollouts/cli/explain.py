"""``rollouts explain``: why a Rollout is where it is, what comes next, and what would move it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from rollouts.api.parsing import FINALIZER, ParsedRollout, parse_rollout
from rollouts.api.strategy_words import LiveStrategy, strategy_lines
from rollouts.cli.arm_pods import PodsSeen, fetch_pods, pods_line, pods_seen
from rollouts.cli.connect import (
    EXIT_CODES,
    connection_options,
    default_namespace,
    fetch,
    fetch_runs,
    with_client,
)
from rollouts.cli.rollout_argument import rollout_argument
from rollouts.cli.shown_pods import arm_counts, gpu_hours
from rollouts.cli.strategies import fetch_strategy
from rollouts.engine.attempt import ApprovalRecord, Attempt, PinnedStrategy
from rollouts.engine.finalizing import RELEASE_ANNOTATION
from rollouts.engine.naming import Owner, is_background, step_run
from rollouts.engine.rollout_spec import AnalysisStep, ApproveStep, JobStep, PauseStep, Step, WeightStep
from rollouts.engine.rollout_status import HoldReason, Phase, WaitingFor
from rollouts.engine.steps import describe, format_seconds, weight_at
from rollouts.kube.client import KubeClient
from rollouts.kube.kubeconfig import ContextChoice
from rollouts.objects.fields import map_of, text_at
from rollouts.terminal import say, shown
from rollouts.units import format_weight

__all__ = ["deletion", "explain", "explanation", "waits_for_approval"]

_HELD: Mapping[HoldReason, str] = {
    HoldReason.COMMAND: "`resume` releases it.",
    HoldReason.MANUAL_OVERRIDE: "`resume` goes on with the step's weight, `abort` gives all traffic to stable.",
    HoldReason.CONTENDED: "Stop the other writer of the weights (the Events name it), then `resume`.",
    HoldReason.SPLIT_AT_START: "`promote` completes the split that was found, `abort` gives it back to stable.",
    HoldReason.UNMATCHED_PODS: "Scale the unmatched pods down, or name their labels in `spec.stableHint`; `promote` "
    "writes the split all the same.",
    HoldReason.AMBIGUOUS_START: "Set `spec.stableHint` to the version that is stable.",
    HoldReason.GATE_FAILED: "`promote` overrides the gate, `abort` gives all traffic to stable.",
    HoldReason.GATE_INCONCLUSIVE: "`promote` overrides the gate, `abort` gives all traffic to stable.",
    HoldReason.DEADLINE: "Repair what keeps the step from ending, then `resume`; or `abort`.",
}


def explanation(
    obj: Mapping[str, Any],
    runs: list[dict[str, Any]],
    now: datetime,
    live: LiveStrategy = None,
    pods: Mapping[str, PodsSeen] | None = None,
) -> list[tuple[str, str]]:
    """(heading, sentence) pairs in reading order. ``live``: the shared strategy as it is now; ``pods`` by pool."""
    obj, runs = shown(obj), shown(runs)
    parsed = parse_rollout(obj)
    if parsed.strategy is None and isinstance(live, PinnedStrategy):
        parsed = parse_rollout(obj, strategy=live)
    lines = [("Where", _where(parsed))]
    if parsed.deleting:
        lines.append(("But", deletion(parsed)))
    if parsed.status.observed_generation < parsed.generation:
        lines.append(("But", "the newest spec is not looked at yet: is the controller running?"))
    if parsed.status.message:
        lines.append(("Why", parsed.status.message))
    lines += [("Why", problem.message) for problem in parsed.problems]
    lines += [("Strategy", line) for line in strategy_lines(parsed, obj.get("spec"), live)]
    lines += [("Pods", sentence) for sentence in _pods(map_of(obj.get("status")), pods or {}, now)]
    hours = gpu_hours(map_of(obj.get("status")), now)
    lines += [("GPU-hours", f"{hours.words}.")] if hours is not None else []
    lines += [("Judged", sentence) for sentence in _judged(parsed, runs)]
    lines += [("Next", sentence) for sentence in _next(parsed)]
    lines += [("Moves it", sentence) for sentence in _moves(parsed, now)]
    return lines


def deletion(parsed: ParsedRollout) -> str:
    """What a Rollout that is being deleted waits for, and the ways out where no controller comes."""
    return (
        f"it is being deleted and waits until a controller has given the traffic back (finalizer {FINALIZER}): "
        "start the controller. Without one, set the traffic object to 100 % stable by hand, then take the "
        f"finalizer off; a controller that is refused lets go with the annotation {RELEASE_ANNOTATION}: now"
    )


def _where(parsed: ParsedRollout) -> str:
    status = parsed.status
    name = f"{parsed.namespace}/{parsed.name}"
    if status.phase is Phase.NEW:
        return f"{name} has not been looked at by a controller."
    stable = status.stable.label if status.stable else "nothing yet"
    if status.canary is None:
        serves = " and serves" if status.phase is Phase.HEALTHY else ""
        return f"{name} is {status.phase.value}: {stable} is stable{serves}."
    step = min(status.current_step + 1, status.step_count)
    return (
        f"{name} is {status.phase.value} at step {step} of {status.step_count}, attempt {status.attempt}: "
        f"canary {status.canary.label} has {format_weight(status.weight.applied)}, stable is {stable}."
    )


def _pods(status: Mapping[str, Any], seen: Mapping[str, PodsSeen], now: datetime) -> Iterator[str]:
    """What is scaled, where the spec asks for capacity, by the pods that are there, else as the status has them."""
    counted = list(arm_counts(status))
    for one in counted:
        if one.name not in seen or one.role == "lost":
            yield f"{one.role} {one.name}: {one.words}"
        else:
            line = pods_line(f"{one.role} {one.name}", seen[one.name], one.wanted, now)
            yield f"{line} {one.note}".rstrip()
    if not counted:
        for role in ("canary", "stable"):
            name = text_at(status, role, "name")
            if name in seen:
                yield pods_line(f"{role} {name}", seen[name], None, now)


def _current(parsed: ParsedRollout) -> tuple[tuple[Step, ...], int]:
    return parsed.known_steps, parsed.status.current_step


def _judged(parsed: ParsedRollout, runs: list[dict[str, Any]]) -> Iterator[str]:
    """What the runs of this attempt say."""
    status = parsed.status
    if status.canary is None:
        return
    names = frozenset(run["metadata"]["name"] for run in runs)
    owner = Owner(name=parsed.name, uid=parsed.uid, present=names)
    current = step_run(owner, status, status.current_step)
    for run in runs:
        name = run["metadata"]["name"]
        if name != current and not is_background(name, owner, status):
            continue
        found = run.get("status") or {}
        for result in (*(found.get("metricResults") or []), *(found.get("comparisons") or [])):
            yield str(result.get("message") or f"{result.get('name')}: nothing measured yet")


def _next(parsed: ParsedRollout) -> Iterator[str]:
    status = parsed.status
    if status.phase is Phase.ABORTED:
        yield "Nothing: an abort is final for this revision until the spec changes or `retry`."
        return
    if status.canary is None or parsed.spec is None:
        yield "Nothing, until `spec.target` names another version."
        return
    steps, index = _current(parsed)
    for number in range(index + 1, len(steps)):
        yield f"step {number + 1}: {describe(steps[number])}"
    bake = parsed.spec.canary.bake if steps else timedelta(0)
    if bake.total_seconds() > 0:
        yield f"all traffic on the canary for {format_seconds(bake)} (bake)"
    yield f"promotion: {status.canary.label} becomes stable"


def _moves(parsed: ParsedRollout, now: datetime) -> Iterator[str]:
    status = parsed.status
    if status.hold is not None:
        yield _HELD[status.hold]
    elif status.phase is Phase.ABORTED:
        yield "Revert the commit, push a fix (a new target or `target.revision`), or `retry`."
    elif status.phase is Phase.INVALID or parsed.problems:
        yield "Correct what the message names; `rollouts lint FILE` checks a file before it is applied."
    elif status.waiting_for in (WaitingFor.FREEZE, WaitingFor.WINDOW):
        yield "Time, as the message says. `promote --full` goes on at once, `abort` gives all traffic to stable."
    elif status.waiting_for in (WaitingFor.DEPENDENCY, WaitingFor.TURN):
        yield "Other Rollouts, as the message says. `promote --full` begins at once, `abort` gives the target up."
    elif status.phase is Phase.WAITING:
        yield "The target itself: what the message names must exist and be Ready. `abort` gives the target up."
    elif parsed.spec is not None and parsed.spec.paused:
        yield "`spec.paused` is true: set it to false in Git."
    elif status.current is not None:
        yield _step_moves(parsed, status.current, now)


def waits_for_approval(asked: ApprovalRecord, now: datetime) -> str:
    """Who is waited for, since when, and what was answered last."""
    minutes = max(int((now - asked.since).total_seconds()), 0) // 60
    last = f"last answer: {asked.answer}" if asked.answer else "no answer yet"
    return f"Waits for approval by {asked.webhook} for {minutes}m: {last}."


def _endless(step: Step | None) -> bool:
    return isinstance(step, PauseStep) and step.duration is None


def _step_moves(parsed: ParsedRollout, current: Attempt, now: datetime) -> str:
    steps, index = _current(parsed)
    if not steps:
        return "The shared strategy that the attempt goes by, which is not known here."
    step = steps[index] if index < len(steps) else None
    asked = current.approval
    if asked is not None and not asked.granted and (isinstance(step, ApproveStep) or _endless(step)):
        return f"{waits_for_approval(asked, now)} `promote` goes on without it."
    match step:
        case PauseStep(duration=None):
            return "`promote` leaves the pause; it has no end of its own."
        case PauseStep(duration=duration) if duration is not None:
            begun = current.step_started_at
            left = duration if begun is None else begun + duration - now
            seconds = max(left.total_seconds(), 0.0)
            return f"Time: about {seconds:.0f} s are left; `promote` leaves the pause now."
        case AnalysisStep():
            return "The verdicts above; `promote` overrides the gate and is recorded."
        case JobStep():
            return "The end of the Job; `promote` overrides it and is recorded."
        case WeightStep():
            weight = format_weight(weight_at(steps, index))
            return (
                f"Enough Ready canary endpoints for {weight}, the gateway's acceptance of the weight, and an "
                "observed share that agrees with it."
            )
        case None:
            return "Time (bake) and then the swap of stable."
        case _:
            return "The gateway's acceptance of the route."


async def _seen(client: KubeClient, rollout: Mapping[str, Any]) -> dict[str, PodsSeen]:
    """Pods of the pools that a rollout in progress moves requests between, as far as they may be read."""
    parsed, found = parse_rollout(rollout), dict[str, PodsSeen]()
    if parsed.status.canary is None:
        return found
    for arm in parsed.status.arms:
        pods = await fetch_pods(client, parsed.namespace, arm.identity)
        if pods is not None:
            found[arm.identity.name] = pods_seen(shown(pods))
    capacity = parsed.status.current.capacity if parsed.status.current is not None else None
    for one in capacity.companions if capacity is not None else ():
        pods = await fetch_pods(client, parsed.namespace, one.canary)
        if pods is not None:
            found[one.canary.name] = pods_seen(shown(pods))
    return found


@click.command(epilog=EXIT_CODES)
@rollout_argument()
@connection_options
def explain(name: str, namespace: str | None, kubeconfig: str | None, context: ContextChoice) -> None:
    """Say why Rollout NAME is where it is, what comes next and what would move it."""
    where = namespace or default_namespace(kubeconfig, context)

    async def work(client: KubeClient) -> list[tuple[str, str]]:
        rollout = await fetch(client, where, name)
        runs, live = await fetch_runs(client, rollout), await fetch_strategy(client, rollout)
        return explanation(rollout, runs, datetime.now(UTC), live, await _seen(client, rollout))

    told = ""
    for heading, sentence in with_client(kubeconfig, context, work):
        say(f"{heading if heading != told else '':<10}{sentence}")
        told = heading
