"""A kind that the product does not know, of which several objects carry the weights together and each is a version.

All of it is here, and its line in ``TRAFFIC_KINDS``. ``python -m tests.kit.dummy_group`` adds it before anything has
read that list, rolls out over it in the simulated cluster, under faults and without, asks ``lint`` and ``doctor``, and
prints what they said as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import structlog

import rollouts.carriers
from rollouts.api.base import ApiModel
from rollouts.api.scalars import Name
from rollouts.carriers.base import Carrier, Object, Option, TrafficKind, TrafficPlace
from rollouts.carriers.target_kinds import ObjectTargetKind
from rollouts.engine.actions import DesiredTraffic
from rollouts.engine.observation import Blocker, Claim, RuleView, TrafficView
from rollouts.engine.reasons import Reason
from rollouts.engine.rollout_spec import GroupTraffic, TrafficMode
from rollouts.engine.rollout_status import WayBack
from rollouts.engine.versions import Identity, Target
from rollouts.objects.fields import dict_at, list_of, map_of, metadata_of, text_at, text_of
from rollouts.objects.pools import Pool
from rollouts.objects.resource import Resource
from rollouts.traffic.fields import claim_of, last_writer
from rollouts.traffic.reading import Reader
from rollouts.traffic.targets import guarded
from rollouts.traffic.wayback import EntryList
from rollouts.traffic.writes import JsonPatch, RenderRefusal, Write
from rollouts.units import FULL, ZERO, Weight

__all__ = ["MODEL_RING", "RESOURCE"]

RESOURCE = Resource("serving.example.com", "v1", "modelcells", "ModelCell")
_RING = "ring"
"""Index of the cells by their ring, by (namespace, name)."""


class CellTargetModel(ApiModel):
    """A cell."""

    name: Name
    """Its name."""


class RingTrafficModel(ApiModel):
    """A ring of cells."""

    name: Name
    """What `spec.ring` of its cells says."""


def _by_ring(obj: Object) -> Iterable[Hashable]:
    ring = text_at(obj, "spec", "ring")
    return [(text_at(obj, "metadata", "namespace"), ring)] if ring else []


def _share(cell: Object) -> int:
    share = map_of(cell.get("spec")).get("share")
    return share if isinstance(share, int) else 0


def _cell(name: str) -> Identity:
    return Identity(kind=RESOURCE.kind, group=RESOURCE.group, name=name)


# --- a cell as a version -----------------------------------------------------------------------------


class _Cells(ObjectTargetKind):
    field = "modelCell"
    help = "Serve from this cell."
    model = CellTargetModel
    called = "a modelCell"
    unscaled = "cells scale themselves"
    kind = RESOURCE.kind
    resources = (RESOURCE,)

    def identity(self, target: Target) -> Identity:
        return _cell(target.name)

    def pods(self, obj: Object) -> Pool:
        labels = dict_at(obj, "spec", "pods")
        return Pool(
            group=RESOURCE.group,
            namespace=text_at(obj, "metadata", "namespace"),
            name=text_at(obj, "metadata", "name"),
            selector=tuple(sorted((str(key), str(value)) for key, value in labels.items())),
            ports=(8000,),
        )

    def lacks(
        self, obj: Object, beside: Object | None, spec: GroupTraffic, rollout: str
    ) -> Iterator[Blocker]:
        name = text_at(obj, "metadata", "name")
        if text_at(obj, "spec", "ring") != spec.name:
            message = f"cell {name} is not in ring {spec.name}: set spec.ring"
            yield Blocker(reason=Reason.BACKEND_MISSING, message=message)
        if claim_of(obj, TrafficMode.ADOPTED, rollout)[0] is not Claim.CONSENTED:
            message = f"cell {name} does not consent: annotate it for {rollout}"
            yield Blocker(reason=Reason.ROUTE_NOT_CONSENTED, message=message)


# --- the ring as a traffic object --------------------------------------------------------------------


class _Rings(TrafficKind):
    kind = RESOURCE.kind
    field = "modelRing"
    help = "A ring of ModelCells."
    model = RingTrafficModel
    target = _Cells()
    resources = (RESOURCE,)
    verbs = ("get", "list", "watch", "patch")
    weights = (".spec.share",)
    indexes: ClassVar = {_RING: _by_ring}
    made_of = _RING
    membership = "spec.ring"
    option = Option(name="rings", help="Watch ModelCells.")

    def read(self, model: RingTrafficModel, fingerprint: Callable[[Any], str]) -> GroupTraffic:
        return GroupTraffic(kind=self.kind, name=model.name)

    def recorded(self, record: WayBack) -> GroupTraffic:
        return GroupTraffic(kind=self.kind, name=record.name)

    def joined(self, namespace: str, name: str, objects: Iterable[Object]) -> dict[str, Any] | None:
        cells = sorted(objects, key=lambda one: text_at(one, "metadata", "name"))
        versions = (text_at(one, "metadata", "resourceVersion") for one in cells)
        meta = {"name": name, "namespace": namespace, "resourceVersion": ",".join(versions)}
        return {"metadata": meta, "cells": cells} if cells else None

    def is_part(self, obj: Object, name: str) -> bool:
        return text_at(obj, "spec", "ring") == name

    def with_part(self, obj: Object, part: Object) -> dict[str, Any] | None:
        meta, name = metadata_of(obj), text_at(part, "metadata", "name")
        others = [one for other, one in _cells(obj).items() if other != name]
        return self.joined(text_of(meta.get("namespace")), text_of(meta.get("name")), [*others, part])

    def part(self, obj: Object, name: str) -> Object | None:
        return _cells(obj).get(name)

    def lists(self, obj: Object) -> list[EntryList]:
        entries = [{"name": name, "weight": _share(one)} for name, one in _cells(obj).items()]
        return [EntryList("/cells", entries, {})]

    def claimed(self, obj: Object, record: WayBack, rollout: str) -> tuple[Claim, str]:
        return _claim(obj, rollout, (record.stable.name, record.canary.name))

    def lowered(self, obj: Object, record: WayBack, limit: Weight) -> JsonPatch | None:
        stable, canary = record.stable.name, record.canary.name
        shares = {name: _share(one) for name, one in _cells(obj).items()}
        carried = shares.get(canary, 0)
        both = carried + shares.get(stable, 0)
        if not carried or Fraction(carried, both) <= Fraction(limit, FULL):
            return None
        return _next(obj, (stable, canary), limit)

    def carrier(self, place: TrafficPlace, spec: GroupTraffic, template: Object | None) -> Carrier:
        return _RingCarrier(target=_RingTarget(place=place, spec=spec), resource=place.resource)


MODEL_RING = _Rings()


def _cells(ring: Object | None) -> Mapping[str, Object]:
    cells = (map_of(one) for one in list_of((ring or {}).get("cells")))
    return {text_at(one, "metadata", "name"): one for one in cells}


def _claim(ring: Object, rollout: str, names: Iterable[str]) -> tuple[Claim, str]:
    claims = [
        claim_of(one, TrafficMode.ADOPTED, rollout) for name, one in _cells(ring).items() if name in names
    ]
    return next((one for one in claims if one[0] is not Claim.CONSENTED), (Claim.CONSENTED, rollout))


def _next(
    ring: Object, arms: tuple[str, str], weight: Weight, retired: Iterable[str] = ()
) -> JsonPatch | None:
    """Stable rises first, and falls last: in between the canary never has more than it is to have."""
    (stable, canary), cells = arms, _cells(ring)
    shares = {name: _share(one) for name, one in cells.items()}
    live, carried = shares.get(stable, 0), shares.get(canary, 0)
    wanted, part = FULL - weight, int(weight)
    steps = [(stable, wanted)] if live < wanted else []
    steps += [(canary, part)] if carried > part else []
    steps += [(name, 0) for name in retired if shares.get(name)]
    steps += [(canary, part)] if carried < part else []
    steps += [(stable, wanted)] if live > wanted else []
    for name, share in steps:
        if name in cells:
            patch = guarded(cells[name], {"op": "add", "path": "/spec/share", "value": share})
            beside = (stable if name == canary else canary) if share == 0 else ""
            return JsonPatch(operations=patch.operations, name=name, beside=beside if beside in cells else "")
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _RingTarget:
    place: TrafficPlace
    spec: GroupTraffic

    @property
    def rollout(self) -> str:
        return self.place.rollout

    @property
    def namespace(self) -> str:
        return self.place.namespace


@dataclass(frozen=True, kw_only=True)
class _RingCarrier(Carrier):
    target: _RingTarget
    resource: Resource
    kind: TrafficKind = MODEL_RING

    def mode(self, raw: Object | None) -> TrafficMode:
        return TrafficMode.ADOPTED

    def parts(self, raw: Object) -> Sequence[Object]:
        return list(_cells(raw).values())

    def view(self, raw: Object | None, reader: Reader) -> TrafficView:
        kind, name = MODEL_RING.called, self.target.spec.name
        if raw is None:
            return TrafficView(kind=kind, name=name, mode=TrafficMode.ADOPTED)
        arms, found = [arm.name for arm in reader.arms], _cells(raw)
        claim, claimed_by = _claim(raw, reader.rollout, [arm.name for arm in reader.stored] or arms)
        writers = [last_writer(found[name], "share", reader.field_manager) for name in arms if name in found]
        ours = reader.field_manager
        writer, at = max(writers, key=lambda one: (str(one[1] or ""), one[0] == ours), default=("", None))
        entries = {_cell(name): _share(one) for name, one in found.items()}
        return TrafficView(
            kind=kind,
            name=name,
            mode=TrafficMode.ADOPTED,
            exists=True,
            resource_version=text_of(metadata_of(raw).get("resourceVersion")),
            claim=claim,
            claimed_by=claimed_by,
            rules=(RuleView(name=name, entries=entries),),
            last_writer=writer,
            last_written_at=at,
            written_by_us=writer == ours,
            written_by_gitops=writer in reader.gitops_managers,
        )

    def render(self, raw: Object | None, desired: DesiredTraffic) -> Write | RenderRefusal | None:
        if raw is None:
            return RenderRefusal(reason=Reason.ROUTE_MISSING, message=f"ring {self.name} has no cells")
        retired = [arm.name for arm in (*desired.keep, *desired.drop)]
        if desired.canary is None:
            return _next(raw, (desired.stable.name, ""), ZERO, retired)
        return _next(raw, (desired.stable.name, desired.canary.name), desired.weight, retired)


# --- what the product makes of it --------------------------------------------------------------------


def _drive() -> dict[str, Any]:
    """Rollouts over it under faults, and what commands, the schema and the chart say of it."""
    # Only now: these modules read the list of kinds when they are imported.
    from rollouts.lab.controlplane.upstream import CRDS
    from rollouts.objects import kinds
    from tests.kit.crds import crd
    from tests.kit.faults import cluster as clusters
    from tests.kit.faults.invariants import check
    from tests.kit.faults.moves import at_step, command, edit_spec, healthy_on, phase
    from tests.kit.faults.objects import CANARY, GROUP, RELEASES, STABLE, THIRD, base_objects, rollout_object
    from tests.kit.faults.plans import FaultClass, enumerate_plans, heard_of_late
    from tests.kit.faults.simulation import FaultPlan, Move, Run, Scenario, simulate

    def cell(name: str, share: int) -> dict[str, Any]:
        return {
            "apiVersion": RESOURCE.api_version,
            "kind": RESOURCE.kind,
            "metadata": {
                "name": name,
                "namespace": clusters.NAMESPACE,
                "annotations": {"inferencerollouts.dev/managed-by": "mymodel"},
            },
            "spec": {"ring": GROUP, "share": share, "pods": {"release": RELEASES[name]}},
        }

    steps: list[Any] = [{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}]
    rollout = rollout_object(steps)
    rollout["spec"] |= {
        "target": {MODEL_RING.target.field: {"name": CANARY}},
        "traffic": {MODEL_RING.field: {"name": GROUP}},
    }
    cells = [cell(STABLE, 9), cell(CANARY, 0), cell(THIRD, 0)]

    def setup(cluster: clusters.Cluster) -> None:
        cluster.api.create(CRDS, None, crd(RESOURCE), manager=clusters.USER)
        for one in cells:
            cluster.create(RESOURCE, one)
        base_objects(cluster, json.loads(json.dumps(rollout)), route=False)

    def unreadable(spec: Any) -> None:
        spec["strategy"]["canary"]["steps"].append({"setWeight": "101%"})

    paused = at_step(1)
    abort = Move(when=paused, act=command("abort"), after=5)
    stories = {
        "promoted": ([Move(when=paused, act=command("promote"), after=5)], healthy_on(CANARY)),
        "aborted": ([abort], phase("Aborted")),
        "unreadable": (
            [
                Move(when=paused, act=edit_spec(unreadable), after=5),
                Move(when=phase("Invalid"), act=command("abort"), after=5),
            ],
            phase("Aborted"),
        ),
    }
    faults = (FaultClass.CRASH, FaultClass.STALE, FaultClass.EVENTS, FaultClass.ERRORS, FaultClass.REFUSED)

    def plans(clean: Run) -> list[FaultPlan]:
        found = [plan for fault in faults for plan in list(enumerate_plans(fault, clean))[::9]]
        return [*found, *heard_of_late(kinds.POD, RESOURCE)]

    told: dict[str, Any] = {}
    for name, (moves, goal) in stories.items():
        scenario = Scenario(
            name=f"ring: {name}", setup=setup, moves=tuple(moves), goal=goal, services=True, stride=2
        )
        clean = simulate(scenario)
        every = plans(clean) if name != "unreadable" else []
        broken = [f"clean: {one}" for one in check(clean)]
        broken += [f"{plan.name}: {one}" for plan in every for one in check(simulate(scenario, plan), clean)]
        shares = (one["spec"]["shares"] for one in _rings(clean))
        told[name] = {
            "converged": clean.converged,
            "problems": clean.history.problems,
            "broken": broken,
            "plans": len(every),
            "shares": [{one["name"]: one["weight"] for one in ring if one["weight"]} for ring in shares],
        }
    return told | _said(rollout, cells, setup)


def _rings(run: Any) -> Iterator[Any]:
    from tests.kit.faults.endstate import is_carrier

    return (one.after for one in run.history.records if one.ours and is_carrier(one))


def _said(rollout: Any, cells: list[Any], setup: Any) -> dict[str, Any]:
    from rollouts.api.crds import all_crds
    from rollouts.cli.arm_pods import fetch_pods
    from rollouts.cli.controller import controller
    from rollouts.cli.doctor import diagnose
    from rollouts.cli.lint import lint_documents
    from rollouts.cli.outcomes import wanted_of
    from rollouts.controller.caches import Caches
    from rollouts.runtime.clock import SystemClock
    from tests.kit.faults import cluster as clusters
    from tests.kit.faults.objects import CANARY
    from tests.kit.memory_client import MemoryKubeClient
    from tools.chart_rules import chart_rules

    def lint(*documents: Any) -> list[str]:
        return [one.text for one in lint_documents(list(documents))]

    def changed(cell: Any, **parts: Any) -> Any:
        return {**cell, **{field: {**cell[field], **value} for field, value in parts.items()}}

    stray = changed(cells[1], spec={"ring": "other"}, metadata={"annotations": {}})
    waves = {**cells[1]["metadata"]["annotations"], "argocd.argoproj.io/sync-wave": "3"}
    late = changed(cells[1], metadata={"annotations": waves})
    cluster = clusters.Cluster(SystemClock())
    setup(cluster)
    client = MemoryKubeClient(cluster.api)

    async def doctor() -> list[str]:
        found = await diagnose(client, clusters.NAMESPACE, "mymodel", None, "argocd")
        return [f"{one.level.name} {one.text}" for one in found if "ell" in one.text]

    async def pods() -> int:
        return len(await fetch_pods(client, clusters.NAMESPACE, _cell(CANARY)) or [])

    (ours,) = (one for one in all_crds() if one["spec"]["names"]["kind"] == "Rollout")
    spec = ours["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    without = Caches(client, SystemClock(), unwatched=["rings"])
    ((_, role),) = chart_rules()
    return {
        "lint": lint(rollout, *cells),
        "lint stray": lint(rollout, cells[0], stray),
        "lint late": lint(rollout, cells[0], late),
        "lint beside": lint({**rollout, "spec": {**rollout["spec"], "target": {"pool": {"name": "v"}}}}),
        "doctor": asyncio.run(doctor()),
        "pods": asyncio.run(pods()),
        "waited for": wanted_of(rollout).target,
        "target": list(spec["properties"]["target"]["properties"]),
        "traffic": list(spec["properties"]["traffic"]["properties"]),
        "options": [one for option in controller.params for one in option.opts if "rings" in one],
        "watched": [without.served(RESOURCE), Caches(client, SystemClock()).served(RESOURCE)],
        "chart": [line for line in role.splitlines() if "cells" in line or "rings" in line],
    }


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    rollouts.carriers.TRAFFIC_KINDS = (*rollouts.carriers.TRAFFIC_KINDS, MODEL_RING)
    sys.stdout.write(json.dumps(_drive()))
