"""What a version of the controller stored in the middle of rollouts, and how a later version is put in its place.

A corpus is one file per version of the controller, made with that version's code::

    PYTHONPATH=CHECKOUT python -m tests.upgrade.corpus tests/upgrade/corpus/DATE.json.gz

It holds, for some of the workloads of the fault plans, the Rollout, its AnalysisRuns, Jobs and traffic objects as they
were stored at the first moment of each phase and reason. What stands around them (pools, pods, templates) and what
people do next is the workload's.
"""

from __future__ import annotations

import copy
import gzip
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rollouts.kube.client import PatchKind, Resource
from rollouts.kube.errors import KindNotServed
from rollouts.lab.memoryapi.history import Change
from rollouts.objects import kinds
from tests.kit.clock import VirtualClock, virtual_time
from tests.kit.faults.cluster import CONTROLLER, NAMESPACE, Cluster
from tests.kit.faults.endstate import CARRIERS
from tests.kit.faults.moves import at_step, edit_spec, healthy_on, reason
from tests.kit.faults.objects import CANARY, GUARD, base_objects, rollout_object
from tests.kit.faults.process import Assembler
from tests.kit.faults.scenarios import SCENARIOS
from tests.kit.faults.simulation import CLEAN, Act, Move, Run, Scenario, Simulation
from tests.kit.faults.source import Answer

__all__ = ["WORKLOADS", "Moment", "continued", "moments"]

Object = dict[str, Any]

_CORPUS = Path(__file__).parent / "corpus"
_ROLLOUT = "mymodel"
_SPEC_PAUSED = "paused by the spec for a while"
_UNEARNED = "the background analysis has not measured yet"
_RECORDED = (
    "promote through pause, gate and manual pause",
    "gate failure aborts",
    "job step",
    "managed route with header route, second target",
    "back within the rollback window",
    "abort by command, then retry",
    "pause, resume and promoteFull by command",
    "third target in the middle",
    "steps edited in the middle",
    "spec invalid for a while",
    "a person lowers the canary, then resumes",
    "target Ready after a long pause",
    "path: probe fails, and is reported",
    "adapter: adopted at 90/10, promoted",
    "adapter: rewrite, third target in the middle",
    "no traffic until somebody sends some",
    _SPEC_PAUSED,
    _UNEARNED,
)
"""One of each kind: every traffic object, every sort of step, holds, edits, a way back."""


def _paused(*, paused: bool) -> Act:
    return edit_spec(lambda spec: spec.update(paused=paused))


def _own(name: str, rollout: Object, *moves: Move) -> Scenario:
    def setup(cluster: Cluster) -> None:
        base_objects(cluster, copy.deepcopy(rollout), route=True)

    return Scenario(name=name, setup=setup, moves=moves, goal=healthy_on(CANARY), measured=True)


WORKLOADS = SCENARIOS | {
    _SPEC_PAUSED: _own(
        _SPEC_PAUSED,
        rollout_object([{"setWeight": 10}, {"pause": {"duration": "20s"}}, {"setWeight": 50}]),
        Move(when=at_step(1), act=_paused(paused=True), after=5),
        Move(when=reason("PausedBySpec"), act=_paused(paused=False), after=60),
    ),
    _UNEARNED: _own(
        _UNEARNED, rollout_object([{"setWeight": 10}, {"setWeight": 50}], canary={"analysis": GUARD})
    ),
}
_CONTENT: tuple[Resource, ...] = (
    *(resource for resource, _ in CARRIERS),
    kinds.ROLLOUT,
    kinds.ANALYSIS_RUN,
    kinds.JOB,
)
_SURROUNDINGS = (*kinds.POOLS, kinds.POD, kinds.SERVICE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Content of the API server in the middle of a workload, ``seconds`` after its start, after ``moves`` moves."""

    scenario: str
    seconds: float
    moves: int
    objects: dict[str, list[Object]]
    """By plural and group."""

    @property
    def status(self) -> Object:
        """The stored status."""
        found: Object = self.objects[_key(kinds.ROLLOUT)][0]["status"]
        return found

    def __str__(self) -> str:
        return f"{self.scenario} / {self.status['phase']} {self.status['reason']} at {self.seconds:.0f} s"


def _key(resource: Resource) -> str:
    return f"{resource.plural}.{resource.group}"


def _all(cluster: Cluster, resource: Resource) -> list[Object]:
    try:
        return cluster.all(resource)
    except KindNotServed:
        return []


Kind = tuple[str, ...]
"""Phase, reason, and which objects there are."""


# --- recording -------------------------------------------------------------------------------------


class _Recording(Simulation):
    """Notes the first moment of each kind, as long as the surroundings are those of the beginning."""

    def __init__(self, scenario: Scenario, found: dict[Kind, Moment]) -> None:
        super().__init__(scenario, CLEAN, Assembler())
        self.found = found
        self._began: list[list[Object]] = []
        self.cluster.api.observers.append(self._note)

    def _note(self, change: Change) -> None:
        if not self.epoch:
            self._began = self._surroundings()
        ours = change.plural == kinds.ROLLOUT.plural and change.manager == CONTROLLER
        status = change.obj.get("status") or {}
        if not ours or "phase" not in status or self.source.answer is not Answer.HEALTHY:
            return
        if self._surroundings() != self._began:
            return
        objects = {_key(kind): [_plain(obj) for obj in _all(self.cluster, kind)] for kind in _CONTENT}
        objects = {name: items for name, items in objects.items() if items}
        kind = (status["phase"], status["reason"], *objects)
        if kind not in self.found and (status.get("canary") or self.move < len(self._moves)):
            seconds = round(self.clock.monotonic(), 3)
            self.found[kind] = Moment(
                scenario=self.scenario.name, seconds=seconds, moves=self.move, objects=objects
            )

    def _surroundings(self) -> list[list[Object]]:
        return [[_plain(obj) for obj in _all(self.cluster, kind)] for kind in _SURROUNDINGS]


def _plain(obj: Object) -> Object:
    meta = {
        name: obj["metadata"][name]
        for name in ("name", "labels", "annotations", "finalizers", "ownerReferences", "uid")
        if name in obj["metadata"]
    }
    kept = {name: obj[name] for name in ("apiVersion", "kind", "spec", "status") if name in obj}
    return {**kept, "metadata": meta}


def _record(scenario: Scenario, found: dict[Kind, Moment]) -> None:
    with virtual_time() as loop:

        async def whole() -> None:
            await _Recording(scenario, found).run()

        loop.run_until_complete(whole())


def main(path: str) -> None:
    """Write the corpus of the code that runs."""
    found: dict[Kind, Moment] = {}
    for name in _RECORDED:
        _record(WORKLOADS[name], found)
    lines = (json.dumps(asdict(moment), sort_keys=True) for moment in found.values())
    Path(path).write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))


# --- continuing ------------------------------------------------------------------------------------


def moments() -> Iterator[tuple[str, Moment]]:
    """Every moment of every version, with the version's name."""
    for file in sorted(_CORPUS.glob("*.json.gz")):
        for line in gzip.decompress(file.read_bytes()).decode().splitlines():
            yield file.name.removesuffix(".json.gz"), Moment(**json.loads(line))


def continued(moment: Moment) -> Run:
    """Start the present controller where another version was, and let the workload come to its end."""
    scenario = WORKLOADS[moment.scenario]

    def setup(cluster: Cluster) -> None:
        assert isinstance(cluster.clock, VirtualClock)
        cluster.clock.jump_wall(moment.seconds)
        scenario.setup(cluster)
        _restore(cluster, moment)

    later = replace(scenario, setup=setup, moves=scenario.moves[moment.moves :])
    with virtual_time() as loop:

        async def whole() -> Run:
            return await Simulation(later, CLEAN, Assembler()).run()

        return loop.run_until_complete(whole())


def _restore(cluster: Cluster, moment: Moment) -> None:
    """Bring the stored objects in; whatever has a new UID is called by that, in all of them."""
    text = json.dumps(moment.objects)
    for resource in _CONTENT:
        for stored in moment.objects.get(_key(resource), ()):
            old = stored["metadata"]["uid"]
            obj = next(item for item in json.loads(text)[_key(resource)] if item["metadata"]["uid"] == old)
            new = _store(cluster, resource, obj)
            text = text.replace(old, new).replace(f"-{old[:5]}", f"-{new[:5]}")


def _store(cluster: Cluster, resource: Resource, obj: Object) -> str:
    name, status = obj["metadata"]["name"], obj.pop("status", None)
    del obj["metadata"]["uid"]
    if cluster.get(resource, name) is None:
        cluster.create(resource, obj, manager=CONTROLLER)
    else:
        changes = [{"op": "add", "path": "/spec", "value": obj["spec"]}]
        changes += [
            {"op": "add", "path": f"/metadata/{field}", "value": obj["metadata"][field]}
            for field in ("labels", "annotations", "finalizers")
            if field in obj["metadata"]
        ]
        cluster.api.patch(
            resource, NAMESPACE, name, changes, content_type=PatchKind.JSON.value, manager=CONTROLLER
        )
    if status is not None:
        cluster.write_status(resource, name, status, manager=CONTROLLER)
    uid: str = (cluster.get(resource, name) or {})["metadata"]["uid"]
    return uid


if __name__ == "__main__":
    main(*sys.argv[1:])
