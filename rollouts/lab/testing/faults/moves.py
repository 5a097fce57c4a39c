"""What people, tools and nodes do to the cluster, and the moments at which they do it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from rollouts.controller import kinds
from rollouts.kube.client import Resource
from rollouts.lab.testing.faults.objects import ADAPTER_OF, MODEL, ROUTE, model_object, pool_object
from rollouts.lab.testing.faults.simulation import Act, Condition, Simulation
from rollouts.lab.testing.faults.source import Answer

__all__ = [
    "add_model",
    "answer",
    "at_step",
    "begun",
    "both",
    "clients",
    "command",
    "condition_says",
    "delete",
    "edit_spec",
    "edit_steps",
    "finish_job",
    "gateway",
    "gone",
    "has_job",
    "healthy_on",
    "jump",
    "lose_adapter",
    "overwrite_route",
    "phase",
    "reason",
    "recreate_pool",
    "regain_adapter",
    "restart_pods",
    "retarget",
    "retarget_adapter",
    "scale",
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
        model = sim.cluster.get(kinds.INFERENCE_MODEL, MODEL)
        if route is not None:
            rules = copy.deepcopy(route["spec"]["rules"])
            for rule in rules:
                for ref in rule["backendRefs"]:
                    ref["weight"] = weights.get(ref["name"], 0)
            sim.cluster.merge(kinds.HTTP_ROUTE, ROUTE, {"spec": {"rules": rules}}, manager=manager)
        if model is not None:
            targets = [
                {"name": ADAPTER_OF.get(name, name), "weight": weight}
                for name, weight in weights.items()
                if weight
            ]
            sim.cluster.merge(
                kinds.INFERENCE_MODEL, MODEL, {"spec": {"targetModels": targets}}, manager=manager
            )

    return act


def add_model(weights: dict[str, int]) -> Act:
    """Git has the adopted InferenceModel again; nothing happens when it is there."""

    def act(sim: Simulation) -> None:
        if sim.cluster.get(kinds.INFERENCE_MODEL, MODEL) is None:
            sim.cluster.create(kinds.INFERENCE_MODEL, model_object(weights), manager="argocd-controller")

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


def answer(what: Answer) -> Act:
    """From now on the metric source says this."""
    return lambda sim: sim.say(what)


def scale(release: str, ready: int, unready: int = 0) -> Act:
    """Pods of a release: so many Ready, so many not."""
    return lambda sim: sim.cluster.scale(release, ready, unready=unready)


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
