"""What people and tools may write in the middle of an attempt, and an API server takes.

Spec, template, rule names, claims, the traffic object itself, the target. Whatever it was, a way back that falls due
afterwards must be gone within seconds (``wayback``); where an edit rightly stands in its way, the status says so
(``Edit.blocked``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from rollouts.kube.client import Resource
from rollouts.objects import kinds
from tests.kit.faults.cluster import NAMESPACE, Cluster
from tests.kit.faults.endstate import CARRIERS
from tests.kit.faults.moves import edit_spec, edit_steps, retarget
from tests.kit.faults.objects import (
    CANARY,
    GATE,
    STABLE,
    THIRD,
    backend_ref,
    freeze_object,
    rollout_object,
    variant_of,
)
from tests.kit.faults.simulation import Act, Simulation

__all__ = ["CONSENT", "EDITS", "RULES", "STEPS", "Edit", "Kind", "older_crd"]

Object = dict[str, Any]
Change = Callable[[Object], Any]

_LABEL = "inferencerollouts.dev/rollout"
CONSENT = "inferencerollouts.dev/managed-by"
_OTHER = "somebody-else"
_LARGE = "x" * 4000
STEPS: list[Object] = [{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}, {"pause": {}}, {"setWeight": 80}]
RULES: list[Object] = [
    {"name": "live", "matches": [{"path": {"type": "PathPrefix", "value": "/"}}]},
    {"name": "chat", "matches": [{"path": {"type": "PathPrefix", "value": "/chat"}}]},
]


class Kind(Enum):
    """What carries the weights."""

    MANAGED = "Managed route"
    ADOPTED = "Adopted route"
    MODEL = "InferenceModel"
    REWRITE = "InferenceModelRewrite"
    SPLIT = "PoolSplit"


_ROUTES = (Kind.MANAGED, Kind.ADOPTED)
_CONSENTING = (Kind.ADOPTED, Kind.MODEL, Kind.REWRITE)
_OURS = (Kind.MANAGED, Kind.SPLIT)
_EVERY = tuple(Kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One edit; ``blocked`` is the reason that the status gives where the edit rightly holds up the way back."""

    name: str
    act: Act
    kinds: tuple[Kind, ...] = _EVERY
    blocked: str = ""
    older: bool = False
    """Objects like that may be stored from before a CRD was tightened, whether or not the present one takes them."""


def older_crd(crd: Object) -> Object:
    """The CRD of Rollouts from before some bounds were set: what it takes can be stored and not be read."""
    if crd["metadata"]["name"] != f"{kinds.ROLLOUT.plural}.{kinds.GROUP}":
        return crd
    crd = copy.deepcopy(crd)
    for version in crd["spec"]["versions"]:
        spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        canary = spec["strategy"]["properties"]["canary"]["properties"]
        canary["progressDeadline"] = {"type": "string"}
        canary["endpointRatio"] = {"x-kubernetes-preserve-unknown-fields": True}
    return crd


# --- edits of the Rollout --------------------------------------------------------------------------


def _canary(**fields: Any) -> Act:
    return edit_spec(lambda spec: spec["strategy"]["canary"].update(copy.deepcopy(fields)))


def _route_spec(change: Change) -> Act:
    return edit_spec(lambda spec: change(spec["traffic"]["httpRoutes"][0]))


def _template(change: Callable[[list[Object]], Any]) -> Act:
    return _route_spec(lambda route: change(route["template"]["rules"]))


def _rule_names(names: list[str] | None) -> Act:
    return _route_spec(lambda route: route.update(ruleNames=names) if names else route.pop("ruleNames"))


def _grow(spec: Object) -> None:
    """A spec of more than 256 KiB, each of whose fields is within its bounds."""
    metrics = [
        {"name": f"metric-{i}", "query": f"vector({i}) # {_LARGE}", "failureCondition": "result > 1e9"}
        for i in range(16)
    ]
    steps = STEPS + [{"analysis": {"metrics": metrics}}] * 5
    spec["strategy"]["canary"]["steps"] = copy.deepcopy(steps)


def _freeze(sim: Simulation) -> None:
    """Nothing rises any more, anywhere; the Rollout itself is not touched."""
    if sim.cluster.get(kinds.ROLLOUT_FREEZE, "all") is None:
        sim.cluster.create(kinds.ROLLOUT_FREEZE, freeze_object("all"))


_UNKNOWN: Object = {"analysis": {"templates": [{"templateName": "no"}]}}
_SPEC = [
    Edit(name="fewer steps", act=edit_steps([{"setWeight": 5}, {"pause": {}}])),
    Edit(name="a gate more", act=edit_steps([*STEPS, {"analysis": GATE}])),
    Edit(name="a deadline nobody can read", act=_canary(progressDeadline="soon"), older=True),
    Edit(name="capacity that nobody may scale", act=_canary(capacity={"maxSurge": "50%"}), kinds=_ROUTES),
    Edit(name="a ratio nobody can read", act=_canary(endpointRatio=17), older=True),
    Edit(
        name="a step with an unknown template",
        act=edit_steps([{"analysis": {"templates": [{"templateName": "no"}]}}]),
    ),
    Edit(
        name="all of the strategy in a shared one that is not there",
        act=edit_spec(lambda spec: spec.update(strategy={"canaryFrom": {"name": "gone"}})),
    ),
    Edit(name="a spec of 300 KiB", act=edit_spec(_grow), older=True),
    Edit(name="paused by the spec", act=edit_spec(lambda spec: spec.update(paused=True))),
]

_WAITING = [
    Edit(name="windows: none is open", act=_canary(windows=[{"schedule": "0 0 1 6 *", "duration": "1m"}])),
    Edit(
        name="windows: one nobody can read",
        act=_canary(windows=[{"schedule": "99 9 * * *", "duration": "1m"}]),
        older=True,
    ),
    Edit(
        name="dependsOn: one that is not there",
        act=edit_spec(lambda spec: spec.update(dependsOn=[{"name": "nobody", "soak": "1h"}])),
    ),
    Edit(
        name="dependsOn: itself",
        act=edit_spec(lambda spec: spec.update(dependsOn=[{"name": "mymodel"}])),
    ),
    Edit(name="a freeze of everything", act=_freeze),
]

_TEMPLATE = [
    Edit(
        name="template: a hostname",
        act=_route_spec(lambda route: route["template"].update(hostnames=["a.example"])),
    ),
    Edit(
        name="template: a path type that the API server refuses",
        act=_template(lambda rules: rules[0]["matches"][0]["path"].update(type="Nonsense")),
    ),
    Edit(
        name="template: a field that the CRD lacks",
        act=_template(lambda rules: rules[0].update(retry={"attempts": 2})),
    ),
    Edit(
        name="template: a rule more",
        act=_template(
            lambda rules: rules.append({"name": "more", "matches": [{"path": {"value": "/more"}}]})
        ),
    ),
    Edit(name="template: a rule less", act=_template(lambda rules: rules.pop(0))),
    Edit(name="template: a rule renamed", act=_template(lambda rules: rules[0].update(name="renamed"))),
    Edit(name="template: rules reordered", act=_template(lambda rules: rules.reverse())),
    Edit(
        name="template: backendRefs in an open rule",
        act=_template(lambda rules: rules[0].update(backendRefs=[backend_ref(CANARY, 1)])),
    ),
    Edit(name="template: none any more", act=_route_spec(lambda route: route.pop("template"))),
]

_RULE_NAMES = [
    Edit(name="ruleNames: one of two", act=_rule_names(["live"])),
    Edit(name="ruleNames: one that is not there", act=_rule_names(["gone"])),
    Edit(name="ruleNames: removed", act=_rule_names(None)),
]

_TARGETS = [
    Edit(name="target: a third one", act=retarget(THIRD)),
    Edit(name="target: back to stable", act=retarget(STABLE)),
    Edit(name="target: one that is not there", act=retarget("no-such-pool")),
    Edit(name="target: with a revision", act=edit_spec(lambda spec: spec["target"].update(revision="again"))),
]


# --- edits of the traffic object -------------------------------------------------------------------


def _on_carrier(change: Change, *, first: Act | None = None) -> Act:
    """Edit the stored traffic object, as ``kubectl edit`` does."""

    def act(sim: Simulation) -> None:
        if first is not None:
            first(sim)
        for resource, name in CARRIERS:
            found = sim.cluster.get(resource, name)
            if found is not None:
                change(found)
                _replace(sim.cluster, resource, name, found)

    return act


def _replace(cluster: Cluster, resource: Resource, name: str, obj: Object) -> None:
    cluster.api.replace(resource, NAMESPACE, name, obj, manager="kubectl-edit")


def _claim(field: str, value: str | None) -> Change:
    place, key = {"label": ("labels", _LABEL), "consent": ("annotations", CONSENT)}[field]

    def change(obj: Object) -> None:
        values = obj["metadata"].setdefault(place, {})
        values.pop(key, None)
        if value is not None:
            values[key] = value

    return change


def _make_other(sim: Simulation) -> None:
    """Another Rollout, of a route that is not there."""
    other = rollout_object(name=_OTHER, route={"name": "another-route"})
    other["spec"]["paused"] = True
    if sim.cluster.get(kinds.ROLLOUT, _OTHER) is None:
        sim.cluster.create(kinds.ROLLOUT, other)


def _rules(change: Callable[[list[Object]], Any]) -> Act:
    return _on_carrier(lambda route: change(route["spec"]["rules"]))


def _without(name: str) -> Callable[[list[Object]], None]:
    def change(rules: list[Object]) -> None:
        for rule in rules:
            rule["backendRefs"] = [ref for ref in rule["backendRefs"] if ref["name"] != name]

    return change


def _abroad(name: str) -> Callable[[list[Object]], None]:
    """The entry now names a pool of another namespace."""

    def change(rules: list[Object]) -> None:
        for ref in rules[0]["backendRefs"]:
            if ref["name"] == name:
                ref["namespace"] = "tenant-b"

    return change


def _twice(rules: list[Object]) -> None:
    again = copy.deepcopy(rules[0])
    again.update(name="again", matches=[{"path": {"type": "PathPrefix", "value": "/again"}}])
    rules.append(again)


_CLAIMS = [
    Edit(name="claim: label stripped", act=_on_carrier(_claim("label", None)), kinds=_OURS),
    Edit(
        name="claim: label of a Rollout that is not there",
        act=_on_carrier(_claim("label", "nobody")),
        kinds=_OURS,
    ),
    Edit(
        name="claim: label of another Rollout",
        act=_on_carrier(_claim("label", _OTHER), first=_make_other),
        kinds=_OURS,
        blocked="AbortBlockedByClaim",
    ),
    Edit(
        name="claim: consent removed",
        act=_on_carrier(_claim("consent", None)),
        kinds=_CONSENTING,
    ),
    Edit(
        name="claim: consent to a Rollout that is not there",
        act=_on_carrier(_claim("consent", "nobody")),
        kinds=_CONSENTING,
    ),
    Edit(
        name="claim: consent to another Rollout",
        act=_on_carrier(_claim("consent", _OTHER), first=_make_other),
        kinds=_CONSENTING,
        blocked="AbortBlockedByClaim",
    ),
]

_BY_HAND = [
    Edit(name="by hand: the canary's entry removed", act=_rules(_without(CANARY)), kinds=_ROUTES),
    Edit(name="by hand: stable's entry removed", act=_rules(_without(STABLE)), kinds=_ROUTES),
    Edit(name="by hand: rules reordered", act=_rules(lambda rules: rules.reverse()), kinds=_ROUTES),
    Edit(name="by hand: a rule deleted", act=_rules(lambda rules: rules.pop(0)), kinds=_ROUTES),
    Edit(name="by hand: a rule twice", act=_rules(_twice), kinds=_ROUTES),
    Edit(name="by hand: the canary of another namespace", act=_rules(_abroad(CANARY)), kinds=_ROUTES),
    Edit(name="by hand: stable of another namespace", act=_rules(_abroad(STABLE)), kinds=_ROUTES),
]


def _entries(change: Callable[[list[Object]], Any]) -> Act:
    return _on_carrier(lambda split: change(split["spec"]["variants"]))


def _only(edits: list[Edit], *of: Kind) -> list[Edit]:
    return [replace(edit, kinds=of) for edit in edits]


_SPLITS = [
    Edit(name="split: the canary's entry removed", act=_entries(lambda entries: entries.pop())),
    Edit(name="split: stable's entry removed", act=_entries(lambda entries: entries.pop(0))),
    Edit(name="split: entries reordered", act=_entries(lambda entries: entries.reverse())),
    Edit(
        name="split: the canary's entry renamed", act=_entries(lambda found: found[1].update(name="renamed"))
    ),
    Edit(name="split: stable's entry renamed", act=_entries(lambda found: found[0].update(name="renamed"))),
    Edit(
        name="split: stable's entry for other pods",
        act=_entries(lambda found: found[0].update(labels={"release": "nobody"})),
    ),
    Edit(
        name="split: the canary's entry for other pods",
        act=_entries(lambda found: found[1].update(labels={"release": "nobody"})),
    ),
    Edit(
        name="split: a third variant", act=_entries(lambda found: found.append(variant_of(THIRD, weight=40)))
    ),
    Edit(name="split: another model", act=_on_carrier(lambda split: split["spec"].update(modelName="other"))),
]


EDITS: tuple[Edit, ...] = (
    *_SPEC,
    *_WAITING,
    *_only(_TEMPLATE, Kind.MANAGED),
    *_only(_RULE_NAMES, Kind.ADOPTED),
    *_CLAIMS,
    *_only(_SPLITS, Kind.SPLIT),
    *_BY_HAND,
    *_TARGETS,
)
