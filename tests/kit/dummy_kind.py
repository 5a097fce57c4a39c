"""A kind of traffic object that the product does not know: a file like this one, and a line in ``TRAFFIC_KINDS``.

``python -m tests.kit.dummy_kind`` adds it before anything has read that list, drives a Rollout over it in the simulated
cluster, and prints what was written as JSON.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import structlog

import rollouts.carriers
from rollouts.carriers.adapters import AdapterCarrier, AdapterKind
from rollouts.carriers.base import Carrier, Object, TrafficKind, TrafficPlace
from rollouts.engine.actions import DesiredTraffic
from rollouts.engine.observation import TrafficView
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import AdapterTraffic
from rollouts.lab.controlplane.upstream import CRDS
from rollouts.objects.fields import list_of, map_of
from rollouts.objects.resource import Resource
from rollouts.traffic.reading import Reader
from rollouts.traffic.targets import ModelTarget, guarded, retarget, view_targets, weights_of
from rollouts.traffic.wayback import EntryList
from rollouts.traffic.writes import JsonPatch, RenderRefusal, Write
from tests.kit.crds import crd

__all__ = ["RESOURCE"]

RESOURCE = Resource("serving.example.com", "v1", "modelshares", "ModelShare")


def _shares(obj: Object | None) -> list[Any]:
    return list(list_of(map_of(map_of(obj).get("spec")).get("shares")))


class _ModelShares(AdapterKind):
    kind = RESOURCE.kind
    field = "modelShare"
    help = "A ModelShare."
    resources = (RESOURCE,)

    def lists(self, obj: Object) -> list[EntryList]:
        return [EntryList("/spec/shares", _shares(obj), {}, "name")]

    def carrier(self, place: TrafficPlace, spec: AdapterTraffic, template: Object | None) -> Carrier:
        target = ModelTarget(rollout=place.rollout, namespace=place.namespace, spec=spec)
        return _ShareCarrier(target=target, resource=place.resource)


MODEL_SHARE = _ModelShares()


@dataclass(frozen=True, kw_only=True)
class _ShareCarrier(AdapterCarrier):
    target: ModelTarget
    resource: Resource
    kind: TrafficKind = MODEL_SHARE

    def view(self, raw: Object | None, reader: Reader) -> TrafficView:
        spec = self.target.spec
        if raw is None:
            return TrafficView(kind=spec.kind, name=spec.name, mode=self.mode(raw))
        entries = weights_of(_shares(raw), "name", spec.model_name)
        return view_targets(raw, spec, [entries], "shares", reader)

    def render(self, raw: Object | None, desired: DesiredTraffic) -> Write | RenderRefusal | None:
        if raw is None:
            return RenderRefusal(
                reason=Reason.ROUTE_MISSING, message=f"ModelShare {self.name} is gone: create it"
            )
        wanted = retarget(_shares(raw), "name", self.target.spec.model_name, desired)
        patch: JsonPatch = guarded(raw, {"op": "add", "path": "/spec/shares", "value": wanted})
        return None if _shares(raw) == wanted else patch


def _drive() -> dict[str, Any]:
    """Three stories: promoted; aborted; aborted after the spec was made unreadable, by the way back alone."""
    # Only now: these modules read the list of kinds when they are imported.
    from rollouts.objects import kinds
    from tests.kit.faults import cluster as clusters
    from tests.kit.faults.moves import at_step, command, healthy_on, phase
    from tests.kit.faults.objects import ADAPTER_OF, CANARY, MODEL, STABLE, adapter_rollout, base_objects
    from tests.kit.faults.simulation import Condition, Move, Scenario, Simulation, simulate

    steps: list[Any] = [{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}]
    share = {
        "apiVersion": RESOURCE.api_version,
        "kind": RESOURCE.kind,
        "metadata": {
            "name": MODEL,
            "namespace": clusters.NAMESPACE,
            "annotations": {"inferencerollouts.dev/managed-by": "mymodel"},
        },
        "spec": {
            "modelName": "travelhelper",
            "poolRef": {"name": STABLE},
            "shares": [{"name": ADAPTER_OF[STABLE], "weight": 100}],
        },
    }

    def setup(cluster: clusters.Cluster) -> None:
        cluster.api.create(CRDS, None, crd(RESOURCE), manager=clusters.USER)
        cluster.create(RESOURCE, share)
        rollout = adapter_rollout(steps)
        rollout["spec"]["traffic"] = {MODEL_SHARE.field: {"name": MODEL}}
        base_objects(cluster, rollout, route=False)

    def unreadable(sim: Simulation) -> None:
        sim.cluster.merge(
            kinds.ROLLOUT, "mymodel", {"spec": {"strategy": {"canary": {"steps": [{"setWeight": "ten"}]}}}}
        )

    def told(moves: list[Move], goal: Condition) -> dict[str, Any]:
        run = simulate(Scenario(name="dummy", setup=setup, moves=tuple(moves), goal=goal, adapters=True))
        written = [
            item for item in run.history.records if item.change.plural == RESOURCE.plural and item.ours
        ]
        return {
            "converged": run.converged,
            "problems": run.history.problems,
            "shares": [{one["name"]: one["weight"] for one in _shares(item.after)} for item in written],
        }

    paused = at_step(1)
    return {
        "promoted": told(
            [Move(when=paused, act=command("promote"), after=5)], healthy_on(ADAPTER_OF[CANARY])
        ),
        "aborted": told([Move(when=paused, act=command("abort"), after=5)], phase("Aborted")),
        "unreadable": told(
            [
                Move(when=paused, act=unreadable, after=5),
                Move(when=phase("Invalid"), act=command("abort"), after=5),
            ],
            phase("Aborted"),
        ),
        "schema": sorted(_traffic_schema()),
    }


def _traffic_schema() -> dict[str, Any]:
    from rollouts.api.crds import all_crds

    (rollouts_crd,) = [crd for crd in all_crds() if crd["spec"]["names"]["kind"] == "Rollout"]
    schema = rollouts_crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    found: dict[str, Any] = schema["properties"]["spec"]["properties"]["traffic"]["properties"]
    return found


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    rollouts.carriers.TRAFFIC_KINDS = (*rollouts.carriers.TRAFFIC_KINDS, MODEL_SHARE)
    sys.stdout.write(json.dumps(_drive()))
