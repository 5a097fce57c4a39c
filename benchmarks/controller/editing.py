"""People and tools around one Rollout: they start it, edit it in a pause, and end it."""

from __future__ import annotations

import asyncio
import collections
import copy
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from benchmarks.controller.disturbing import Verdicts
from benchmarks.controller.judging import COMMAND, History
from rollouts.kube.client import KubeClient, PatchKind, Resource
from rollouts.kube.errors import KubeError, NotFound
from rollouts.objects import kinds

__all__ = ["Actor", "Kind", "Workload"]

Object = dict[str, Any]
Change = Callable[[Object], Any]

_NAMESPACE = "default"
_V1, _V2 = "mymodel-pool-v1", "mymodel-pool-v2"
_LABEL, _CONSENT = "inferencerollouts.dev/rollout", "inferencerollouts.dev/managed-by"
_OTHER = "somebody-else"
_PATIENCE = 90.0
"""Seconds that one waits for a pause before it is edited as it is."""
_SETTLED = 120.0
"""Seconds that one waits for the end before one goes on to the next round: longer than any way back may take."""


class Kind(Enum):
    """What carries the weights."""

    MANAGED = "managed"
    ADOPTED = "adopted"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class Workload:
    """One Rollout's objects. Its name, with a number for each round, is that of its traffic object, too."""

    kind: Kind
    index: int

    @classmethod
    def of(cls, index: int) -> Workload:
        """The kinds in turn."""
        return cls(list(Kind)[index % len(Kind)], index)

    @property
    def carrier(self) -> Resource:
        """The kind of the traffic object."""
        return kinds.INFERENCE_MODEL if self.kind is Kind.MODEL else kinds.HTTP_ROUTE

    def targets(self) -> tuple[str, str]:
        """Stable's name and the canary's."""
        return ("travel-helper-v1", "travel-helper-v2") if self.kind is Kind.MODEL else (_V1, _V2)

    def rollout(self, name: str, target: str) -> Object:
        """The Rollout."""
        bad = {"name": "bad", "query": f'bad{{rollout="{name}"}}', "failureCondition": "result > 0.5"}
        canary = {
            "steps": [{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}, {"pause": {}}],
            "analysis": {"startingStep": 0, "metrics": [{**bad, "interval": "5s", "failureLimit": 0}]},
            # Nobody sends requests here.
            "allowNoTraffic": True,
            "pathProbe": "Off",
        }
        return {
            "apiVersion": kinds.ROLLOUT.api_version,
            "kind": "Rollout",
            "metadata": {"name": name},
            "spec": {
                "target": {"adapter" if self.kind is Kind.MODEL else "pool": {"name": target}},
                "traffic": self._traffic(name),
                "allowMissingModels": True,
                "strategy": {"canary": canary},
            },
        }

    def _traffic(self, name: str) -> Object:
        if self.kind is Kind.MODEL:
            return {"inferenceModel": {"name": name, "modelName": name, "poolRef": {"name": _V1}}}
        route: Object = {"name": name}
        if self.kind is Kind.MANAGED:
            route["template"] = {"parentRefs": [{"name": "inference-gateway"}], "rules": _rules(name)}
        return {"httpRoutes": [route]}

    def adopted(self, name: str) -> Object | None:
        """The traffic object that Git brings; None where the controller makes it."""
        head = {"metadata": {"name": name, "annotations": {_CONSENT: name}}}
        if self.kind is Kind.MANAGED:
            return None
        if self.kind is Kind.MODEL:
            spec: Object = {
                "modelName": name,
                "criticality": "Critical",
                "poolRef": {"name": _V1},
                "targetModels": [{"name": "travel-helper-v1", "weight": 100}],
            }
            return {
                "apiVersion": kinds.INFERENCE_MODEL.api_version,
                "kind": "InferenceModel",
                **head,
                "spec": spec,
            }
        refs = [_ref(_V1, 100), _ref(_V2, 0)]
        rules = [{**rule, "backendRefs": copy.deepcopy(refs)} for rule in _rules(name)]
        spec = {"parentRefs": [{"name": "inference-gateway"}], "rules": rules}
        return {"apiVersion": kinds.HTTP_ROUTE.api_version, "kind": "HTTPRoute", **head, "spec": spec}


def _ref(name: str, weight: int) -> Object:
    return {
        "group": kinds.POOL_X.group,
        "kind": "InferencePool",
        "name": name,
        "port": 8000,
        "weight": weight,
    }


def _rules(name: str) -> list[Object]:
    return [
        {"name": rule, "matches": [{"path": {"type": "PathPrefix", "value": f"/{name}/{rule}"}}]}
        for rule in ("live", "chat")
    ]


# --- edits -----------------------------------------------------------------------------------------


def _canary(**fields: Any) -> Change:
    return lambda rollout: rollout["spec"]["strategy"]["canary"].update(fields)


def _template(change: Callable[[list[Object]], Any]) -> Change:
    return lambda rollout: change(rollout["spec"]["traffic"]["httpRoutes"][0]["template"]["rules"])


def _rule_names(*names: str) -> Change:
    return lambda rollout: rollout["spec"]["traffic"]["httpRoutes"][0].update(ruleNames=list(names))


def _meta(place: str, key: str, value: str | None) -> Change:
    def change(obj: Object) -> None:
        values = obj["metadata"].setdefault(place, {})
        values.pop(key, None)
        if value is not None:
            values[key] = value

    return change


def _drop_stable(route: Object) -> None:
    for rule in route["spec"]["rules"]:
        rule["backendRefs"] = [ref for ref in rule["backendRefs"] if ref["name"] != _V1]


def _abroad(route: Object) -> None:
    for ref in route["spec"]["rules"][0]["backendRefs"]:
        if ref["name"] == _V2:
            ref["namespace"] = "tenant-b"


def _twice(route: Object) -> None:
    again = copy.deepcopy(route["spec"]["rules"][0])
    again["name"] = "again"
    route["spec"]["rules"].append(again)


_SPEC: dict[str, Change] = {
    "other steps": _canary(steps=[{"setWeight": 20}, {"pause": {}}]),
    "an unreadable deadline": _canary(progressDeadline="9999h"),
    "an unknown template": _canary(steps=[{"analysis": {"templates": [{"templateName": "no"}]}}]),
    "a shared strategy that is not there": lambda rollout: rollout["spec"]["strategy"].update(
        canaryFrom={"name": "gone"}
    ),
    "no window is open": _canary(windows=[{"schedule": "0 0 29 2 *", "duration": "1m"}]),
    "behind one that is not there": lambda rollout: rollout["spec"].update(dependsOn=[{"name": "nobody"}]),
    "paused": lambda rollout: rollout["spec"].update(paused=True),
}
_TEMPLATE: dict[str, Change] = {
    "a field that the CRD lacks": _template(lambda rules: rules[0].update(retry={"attempts": 2})),
    "a path type that there is not": _template(
        lambda rules: rules[0]["matches"][0]["path"].update(type="Nonsense")
    ),
    "template rules reordered": _template(lambda rules: rules.reverse()),
    "a template rule less": _template(lambda rules: rules.pop(0)),
    "capacity of a managed route": _canary(capacity={"maxSurge": "50%"}),
}
_NAMES: dict[str, Change] = {
    "one rule name": _rule_names("live"),
    "a wrong rule name": _rule_names("gone"),
    "capacity of an adopted route": _canary(capacity={"maxSurge": "50%"}),
}
_ROUTE: dict[str, Change] = {
    "stable's entry removed": _drop_stable,
    "the canary abroad": _abroad,
    "rules reordered": lambda route: route["spec"]["rules"].reverse(),
    "a rule deleted": lambda route: route["spec"]["rules"].pop(0),
    "a rule twice": _twice,
}
_CLAIM: dict[Kind, dict[str, Change]] = {
    Kind.MANAGED: {
        "label stripped": _meta("labels", _LABEL, None),
        "label of nobody": _meta("labels", _LABEL, "nobody"),
        "label of another": _meta("labels", _LABEL, _OTHER),
    },
    Kind.ADOPTED: {
        "consent removed": _meta("annotations", _CONSENT, None),
        "consent to nobody": _meta("annotations", _CONSENT, "nobody"),
        "consent to another": _meta("annotations", _CONSENT, _OTHER),
    },
}
_CLAIM[Kind.MODEL] = _CLAIM[Kind.ADOPTED]


def _edits(kind: Kind) -> list[tuple[str, bool, Change]]:
    """(name, of the Rollout itself, change) of every edit that a kind meets."""
    of_rollout = _SPEC | {Kind.MANAGED: _TEMPLATE, Kind.ADOPTED: _NAMES, Kind.MODEL: {}}[kind]
    of_carrier = _CLAIM[kind] | ({} if kind is Kind.MODEL else _ROUTE)
    return [(name, True, change) for name, change in of_rollout.items()] + [
        (name, False, change) for name, change in of_carrier.items()
    ]


class Actor:
    """Whoever works with one Rollout, round after round under new names."""

    def __init__(
        self,
        client: KubeClient,
        workload: Workload,
        chance: random.Random,
        history: History,
        verdicts: Verdicts,
        counts: collections.Counter[str],
    ) -> None:
        self._client = client
        self._workload = workload
        self._chance = chance
        self._history = history
        self._verdicts = verdicts
        self._counts = counts
        self._name = ""

    async def act(self, until: float, now: Callable[[], float]) -> None:
        """Rounds until the time is over; the last one is left to end by itself."""
        await self._other()
        number = 0
        await asyncio.sleep(self._chance.uniform(0, 15))
        while now() < until:
            number += 1
            self._name = f"w{self._workload.index:02d}r{number}"
            self._counts["rounds"] += 1
            await self._start(now, until)
            if now() >= until:
                return
            await asyncio.sleep(self._chance.uniform(0, 5))
            await self._edit()
            await asyncio.sleep(self._chance.uniform(0, 10))
            await self._end()
            await self._wait(
                lambda status: status.get("phase") == "Aborted", now, min(until, now() + _SETTLED)
            )
            if now() < until:
                await self._clear()

    async def _other(self) -> None:
        """Another Rollout that exists and is idle: claims may name it."""
        other = Workload(Kind.ADOPTED, 0).rollout(_OTHER, _V1)
        other["spec"]["paused"] = True
        try:
            await self._client.create(kinds.ROLLOUT, _NAMESPACE, other)
        except KubeError:
            return  # another actor was first

    async def _start(self, now: Callable[[], float], until: float) -> None:
        stable, canary = self._workload.targets()
        carrier = self._workload.adopted(self._name)
        if carrier is not None:
            await self._client.create(self._workload.carrier, _NAMESPACE, carrier)
        await self._client.create(kinds.ROLLOUT, _NAMESPACE, self._workload.rollout(self._name, stable))
        await self._wait(lambda status: status.get("phase") == "Healthy", now, min(until, now() + _PATIENCE))

        def retarget(rollout: Object) -> None:
            for target in rollout["spec"]["target"].values():
                target["name"] = canary

        await self._change(kinds.ROLLOUT, retarget)
        pauses = self._chance.choice([1, 3])
        await self._wait(lambda status: _paused(status, 1), now, min(until, now() + _PATIENCE))
        if pauses == 3:
            await self._command("promote")
            await self._wait(lambda status: _paused(status, 3), now, min(until, now() + _PATIENCE))

    async def _edit(self) -> None:
        name, of_rollout, change = self._chance.choice(_edits(self._workload.kind))
        resource = kinds.ROLLOUT if of_rollout else self._workload.carrier
        if await self._change(resource, change):
            self._counts["edits"] += 1
            self._history.edits[self._name] = name
            if name.endswith("another"):
                self._history.blocked.add(self._name)
        else:
            self._counts["edits that the API refused"] += 1

    async def _end(self) -> None:
        how = self._chance.choice(["gate", "abort", "delete"])
        self._counts[f"ends by {how}"] += 1
        if how == "gate":
            self._verdicts.bad.add(self._name)
        elif how == "abort":
            await self._command("abort")
        else:
            await self._delete(kinds.ROLLOUT)

    async def _clear(self) -> None:
        """The next round has names of its own; what is left of this one is taken away."""
        await self._delete(kinds.ROLLOUT)
        await asyncio.sleep(3.0)

    # --- requests ---

    async def _status(self) -> Object | None:
        """The status; None when the Rollout is gone."""
        try:
            found = await self._client.get(kinds.ROLLOUT, _NAMESPACE, self._name)
        except NotFound:
            return None
        return dict(found.get("status") or {})

    async def _wait(self, holds: Callable[[Object], bool], now: Callable[[], float], until: float) -> None:
        while now() < until:
            status = await self._status()
            if status is None or holds(status):
                return
            await asyncio.sleep(0.5)

    async def _change(self, resource: Resource, change: Change) -> bool:
        """Read, change, replace as ``kubectl edit`` does; whether the server took it."""
        for _ in range(5):
            try:
                obj = await self._client.get(resource, _NAMESPACE, self._name)
                before = copy.deepcopy(obj)
                change(obj)
                await self._replace(resource, before, obj)
            except KubeError as error:
                if error.status != 409:
                    return False
            else:
                return True
        return False

    async def _replace(self, resource: Resource, before: Object, after: Object) -> None:
        operations: list[Object] = [
            {
                "op": "test",
                "path": "/metadata/resourceVersion",
                "value": before["metadata"]["resourceVersion"],
            }
        ]
        for path in ("labels", "annotations"):
            values = after["metadata"].get(path) or {}
            operations.append({"op": "add", "path": f"/metadata/{path}", "value": values})
        operations.append({"op": "replace", "path": "/spec", "value": after["spec"]})
        await self._client.patch(resource, _NAMESPACE, self._name, operations, kind=PatchKind.JSON)

    async def _command(self, action: str) -> None:
        status = await self._status() or {}
        revision = (status.get("canary") or {}).get("hash", "")
        asked = {
            "action": action,
            "revision": revision,
            "attempt": status.get("attempt"),
            "at": f"{self._chance.random()}",
        }
        await self._change(kinds.ROLLOUT, _meta("annotations", COMMAND, json.dumps(asked)))

    async def _delete(self, resource: Resource) -> None:
        try:
            await self._client.delete(resource, _NAMESPACE, self._name)
        except KubeError:
            self._counts["deletions of what was gone"] += 1


def _paused(status: Object, step: int) -> bool:
    return status.get("phase") == "Paused" and status.get("currentStep") == step
