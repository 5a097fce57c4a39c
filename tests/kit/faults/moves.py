"""What people, tools and nodes do to the cluster, and the moments at which they do it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from rollouts.api.parsing import COMMAND_ANNOTATION, parse_rollout
from rollouts.engine.attempt import ProbeVerdict
from rollouts.engine.naming import Owner, step_run
from rollouts.kube.client import Resource
from rollouts.objects import kinds
from tests.kit.faults.objects import (
    ADAPTER_OF,
    CANARY,
    MODEL,
    ROUTE,
    SHARED,
    STABLE,
    THIRD,
    carried,
    carrier_object,
    pool_object,
    split_entries,
    variant_of,
)
from tests.kit.faults.replicas import Mood
from tests.kit.faults.simulation import Act, Condition, Simulation
from tests.kit.faults.source import Answer

__all__ = [
    "add_model",
    "answer",
    "at_step",
    "begun",
    "both",
    "clients",
    "command",
    "condition_says",
    "crash_pods",
    "delete",
    "delete_model",
    "edit_spec",
    "edit_steps",
    "finish_job",
    "gateway",
    "gone",
    "has_job",
    "healthy_on",
    "hold_other",
    "jump",
    "kserve",
    "lose_adapter",
    "make_anew",
    "merge_split",
    "old_command",
    "overwrite_route",
    "phase",
    "picker",
    "probes",
    "reason",
    "recreate_pool",
    "regain_adapter",
    "replica_joins",
    "replica_leaves",
    "replica_turns",
    "restart_pods",
    "retarget",
    "retarget_adapter",
    "scale",
    "serves_from",
    "set_weight",
    "squat",
    "stream",
    "unloaded",
]

Object = dict[str, Any]


# --- acts ------------------------------------------------------------------------------------------


def clients(**changes: Any) -> Act:
    """Requests, or what becomes of them, change (see ``Clients``)."""
    return lambda sim: sim.clients.change(sim.clock.monotonic(), **changes)


def edit_spec(change: Callable[[Object], None]) -> Act:
    """Edit the Rollout's spec, as a sync from Git does; nothing happens when it is gone."""

    def act(sim: Simulation) -> None:
        rollout = sim.cluster.get(kinds.ROLLOUT, "mymodel")
        if rollout is not None:
            spec = copy.deepcopy(rollout["spec"])
            change(spec)
            sim.cluster.merge(kinds.ROLLOUT, "mymodel", {"spec": spec}, manager="argocd-controller")

    return act


def retarget(name: str) -> Act:
    """The one line that changes in Git."""

    def change(spec: Object) -> None:
        if "adapter" in spec["target"]:
            spec["target"]["adapter"]["name"] = ADAPTER_OF.get(name, name)
        elif "variant" in spec["target"]:
            spec["target"]["variant"] = variant_of(name)
        elif "llmInferenceService" in spec["target"]:
            spec["target"]["llmInferenceService"]["name"] = name
        else:
            spec["target"]["pool"]["name"] = name

    return edit_spec(change)


def edit_steps(steps: list[Object]) -> Act:
    """Another list of steps."""

    def change(spec: Object) -> None:
        spec["strategy"]["canary"]["steps"] = copy.deepcopy(steps)

    return edit_spec(change)


def overwrite_route(weights: dict[str, int], manager: str) -> Act:
    """Somebody else writes the weights of the traffic object; the names of pools stand for their adapters."""

    def act(sim: Simulation) -> None:
        route = sim.cluster.get(kinds.HTTP_ROUTE, ROUTE)
        carrier = sim.scenario.carrier
        if route is not None:
            rules = copy.deepcopy(route["spec"]["rules"])
            for rule in rules:
                for ref in rule["backendRefs"]:
                    ref["weight"] = weights.get(ref["name"], 0) if "namespace" not in ref else 0
            sim.cluster.merge(kinds.HTTP_ROUTE, ROUTE, {"spec": {"rules": rules}}, manager=manager)
        if sim.scenario.services:
            for name in (STABLE, CANARY, THIRD):
                set_weight(name, weights.get(name, 0), manager)(sim)
        if sim.scenario.variants:
            merge_split(split_entries(weights), manager)(sim)
        if sim.scenario.adapters:
            sim.cluster.merge(carrier.resource, MODEL, {"spec": carried(carrier, weights)}, manager=manager)

    return act


def set_weight(member: str, weight: int, manager: str = "kubectl-edit") -> Act:
    """Somebody else writes the weight of a member of the group."""
    patch = {"spec": {"router": {"route": {"weight": weight}}}}
    return lambda sim: sim.cluster.merge(kinds.LLM_SERVICE, member, patch, manager=manager)


def kserve(*, works: bool) -> Act:
    """KServe's controller says what it makes of its objects, or falls silent."""
    return lambda sim: sim.cluster.set_kserve(works=works)


def merge_split(entries: list[Object], manager: str) -> Act:
    """Somebody else writes the list of the PoolSplit."""
    patch = {"spec": {"variants": copy.deepcopy(entries)}}
    return lambda sim: sim.cluster.merge(kinds.POOL_SPLIT, SHARED, patch, manager=manager)


def add_model(weights: dict[str, int]) -> Act:
    """Git has the adopted model object again; nothing happens when it is there."""

    def act(sim: Simulation) -> None:
        carrier = sim.scenario.carrier
        if sim.cluster.get(carrier.resource, MODEL) is None:
            sim.cluster.create(
                carrier.resource, carrier_object(carrier, weights), manager="argocd-controller"
            )

    return act


def delete_model(sim: Simulation) -> None:
    """Somebody deletes the model object."""
    sim.cluster.delete(sim.scenario.carrier.resource, MODEL)


def hold_other(name: str, path: str, *pods: str) -> Act:
    """Pods come back from a restart with other content under the adapter's name."""

    def act(sim: Simulation) -> None:
        for pod in pods:
            sim.adapters.hold(pod, name, path)
        sim.note_adapters()

    return act


def stream(name: str, *pods: str) -> Act:
    """Requests for the adapter run on these pods, and on no others."""

    def act(sim: Simulation) -> None:
        for running in sim.adapters.in_flight.values():
            running.discard(name)
        for pod in pods:
            sim.adapters.in_flight[pod].add(name)
        sim.note_adapters()

    return act


def lose_adapter(pod: str, name: str) -> Act:
    """A pod lacks the adapter: it restarted, or the server evicted it."""

    def act(sim: Simulation) -> None:
        sim.adapters.lost[pod].add(name)
        sim.note_adapters()

    return act


def regain_adapter(pod: str, name: str) -> Act:
    """Somebody loaded it there again."""

    def act(sim: Simulation) -> None:
        sim.adapters.lost[pod].discard(name)
        sim.note_adapters()

    return act


def restart_pods(release: str, ready: int) -> Act:
    """Every pod of a release is made again: adapters that were loaded at run time are gone."""

    def act(sim: Simulation) -> None:
        sim.cluster.scale(release, 0)
        for pod in [pod for pod in sim.adapters.loaded if pod.startswith(f"{release}-")]:
            del sim.adapters.loaded[pod]
        sim.cluster.scale(release, ready)
        sim.note_adapters()

    return act


def retarget_adapter(name: str, source: str = "") -> Act:
    """Another adapter; ``source`` is the path that pods load it from, empty for none."""

    def change(spec: Object) -> None:
        # A merge patch keeps what it does not name.
        spec["target"]["adapter"] = {"name": name, "source": {"path": source} if source else None}

    return edit_spec(change)


def serves_from(name: str, source: str) -> Condition:
    """The adapter is stable, and it is the one from this path."""

    def holds(sim: Simulation) -> bool:
        return healthy_on(name)(sim) and (sim.status.get("stable") or {}).get("source") == source

    return holds


def unloaded(name: str) -> Condition:
    """No pod has an adapter that was loaded there."""
    return lambda sim: all(name not in names for names in sim.adapters.loaded.values())


def both(*conditions: Condition) -> Condition:
    """All of them hold."""
    return lambda sim: all(condition(sim) for condition in conditions)


def condition_says(text: str) -> Condition:
    """A condition of the Rollout has this reason."""
    return lambda sim: any(item.get("reason") == text for item in sim.status.get("conditions") or [])


def command(action: str, *, tag: str = "t1") -> Act:
    """Write the command annotation."""
    return lambda sim: sim.cluster.command(action, tag=tag)


def old_command(action: str) -> Act:
    """Git applies the annotation of an earlier attempt again: of a time long past, and without an attempt."""

    def act(sim: Simulation) -> None:
        revision = (sim.status.get("canary") or {}).get("hash", "")
        raw = f'{{"action":"{action}","revision":"{revision}","at":"2029-01-01T00:00:00Z","by":"ann"}}'
        patch = {"metadata": {"annotations": {COMMAND_ANNOTATION: raw}}}
        sim.cluster.merge(kinds.ROLLOUT, "mymodel", patch, manager="argocd-controller")

    return act


def make_anew(rollout: Object) -> Act:
    """A Rollout of the same name as one that was deleted."""

    def act(sim: Simulation) -> None:
        if sim.cluster.get(kinds.ROLLOUT, "mymodel") is None:
            sim.cluster.create(kinds.ROLLOUT, copy.deepcopy(rollout))

    return act


def squat(resource: Resource) -> Act:
    """Somebody makes a successful run under the name that the next gate's will have."""

    def act(sim: Simulation) -> None:
        rollout = sim.cluster.get(kinds.ROLLOUT, "mymodel")
        if rollout is None:
            return
        parsed = parse_rollout(rollout)
        name = step_run(
            Owner(name=parsed.name, uid=parsed.uid), parsed.status, parsed.status.current_step + 1
        )
        if parsed.status.canary is None or sim.cluster.get(resource, name) is not None:
            return
        obj = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": name, "namespace": rollout["metadata"]["namespace"]},
            "spec": {"rollout": "mymodel", "attempt": parsed.status.attempt, "metrics": []},
        }
        sim.cluster.create(resource, obj, manager="kubectl-create")
        sim.cluster.write_status(resource, name, {"phase": "Successful"}, manager="kubectl-edit")

    return act


def answer(what: Answer) -> Act:
    """From now on the metric source says this."""
    return lambda sim: sim.say(what)


def scale(release: str, ready: int, unready: int = 0) -> Act:
    """Pods of a release: so many Ready, so many not."""
    return lambda sim: sim.cluster.scale(release, ready, unready=unready)


def picker(pool: str, *, ready: bool) -> Act:
    """The pod behind a pool's picker Service is Ready, or not."""
    return lambda sim: sim.cluster.set_picker(pool, ready=ready)


def replica_turns(pool: str, mood: Mood) -> Act:
    """What befalls the one replica of a pool's picker."""
    return lambda sim: sim.befall(f"{pool}-epp-0", mood)


def replica_joins(pool: str, mood: Mood) -> Act:
    """Another replica is Ready, and does so from its first request on."""

    def act(sim: Simulation) -> None:
        sim.cluster.set_picker(pool, ready=True, number=1)
        for number in range(2):
            sim.befall(f"{pool}-epp-{number}", Mood.FOLLOWS)
        sim.befall(f"{pool}-epp-1", mood)

    return act


def replica_leaves(pool: str) -> Act:
    """That other replica is gone."""

    def act(sim: Simulation) -> None:
        sim.cluster.delete(kinds.POD, f"{pool}-epp-1")
        sim.befall(f"{pool}-epp-1", None)

    return act


def probes(verdict: ProbeVerdict | None) -> Act:
    """From now on probes of the path come to this."""
    return lambda sim: sim.answer_probes(verdict)


def crash_pods(release: str) -> Act:
    """Every pod of a release crashes once and is back at once."""
    return lambda sim: sim.cluster.crash(release)


def delete(resource: Resource, name: str) -> Act:
    """Delete an object."""
    return lambda sim: sim.cluster.delete(resource, name)


def recreate_pool(name: str) -> Act:
    """Make an InferencePool again, under a new UID."""

    def act(sim: Simulation) -> None:
        if sim.cluster.get(kinds.POOL_X, name) is None:
            sim.cluster.create(kinds.POOL_X, pool_object(name))

    return act


def gateway(*, works: bool) -> Act:
    """The gateway reports on routes, or falls silent."""
    return lambda sim: sim.cluster.set_gateway(works=works)


def finish_job(*, succeeded: bool) -> Act:
    """End every Job."""

    def act(sim: Simulation) -> None:
        for job in sim.cluster.all(kinds.JOB):
            sim.cluster.finish_job(job["metadata"]["name"], succeeded=succeeded)

    return act


def jump(seconds: float) -> Act:
    """Move the wall clock; monotonic time goes on as ever."""
    return lambda sim: sim.clock.jump_wall(seconds)


# --- moments ---------------------------------------------------------------------------------------


def phase(*phases: str) -> Condition:
    """The Rollout is in one of these phases."""
    return lambda sim: sim.status.get("phase") in phases


def begun(_: Simulation) -> bool:
    """At once."""
    return True


def has_job(sim: Simulation) -> bool:
    """A Job exists."""
    return bool(sim.cluster.all(kinds.JOB))


def reason(text: str) -> Condition:
    """The Rollout gives this reason."""
    return lambda sim: sim.status.get("reason") == text


def at_step(step: int) -> Condition:
    """The attempt has reached this step (from 0), and is not held."""

    def holds(sim: Simulation) -> bool:
        status = sim.status
        running = status.get("phase") in ("Progressing", "Paused") and "hold" not in status
        return running and "startedAt" in status and bool(status.get("currentStep", 0) == step)

    return holds


def healthy_on(name: str) -> Condition:
    """The pool is stable and serves."""

    def holds(sim: Simulation) -> bool:
        status = sim.status
        return status.get("phase") == "Healthy" and (status.get("stable") or {}).get("name") == name

    return holds


def gone(sim: Simulation) -> bool:
    """The Rollout does not exist any more."""
    return sim.cluster.get(kinds.ROLLOUT, "mymodel") is None
