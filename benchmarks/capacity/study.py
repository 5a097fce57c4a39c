"""One rollout in virtual time: the whole controller, the lab's control plane, no gates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from benchmarks.capacity.fleet import TimedFleet
from tests.kit.clock import virtual_time
from tests.kit.faults.capacity_scenarios import settled
from tests.kit.faults.cluster import Cluster
from tests.kit.faults.deployments import DEPLOYMENT, deployment_object
from tests.kit.faults.moves import both, healthy_on
from tests.kit.faults.objects import CANARY, RELEASES, STABLE, base_objects, rollout_object
from tests.kit.faults.process import Assembler
from tests.kit.faults.simulation import CLEAN, Scenario, Simulation

__all__ = ["Outcome", "Question", "optimum", "rolled"]

Object = dict[str, Any]
_HORIZON = 7 * 24 * 3600.0
_STEP = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A fleet and its spare pods. ``starts``: seconds from a GPU to Ready; ``ends``: from a deletion to its end."""

    pods: int
    spare: int
    starts: float
    ends: float
    min_stable: str | int | None = None

    @property
    def capacity(self) -> Object:
        """``strategy.canary.capacity``; without ``min_stable`` stable keeps all of its pods, as in blue-green."""
        given = {} if self.min_stable is None else {"minStable": self.min_stable}
        return {"maxSurge": self.spare, "scaleDown": {"delay": "0s"}, "drainTimeout": "30m", **given}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a rollout took: until it is Healthy and nothing of the old fleet is left. ``end`` is its last status."""

    seconds: float
    gpu_hours: float
    most_gpus: int
    end: str


def optimum(question: Question) -> float:
    """Seconds that nobody can beat: each spare GPU is given to a new pod, which takes an old one's work, ceil(N / S)
    times in a row, and a pod starts and one ends each time."""
    waves = math.ceil(question.pods / question.spare)
    return waves * (question.starts + question.ends)


class _Timed(Simulation):
    """A simulation that ends when its goal is reached, and no later."""

    async def until_goal(self) -> float:
        """Virtual seconds until the scenario's goal holds; infinity where it does not within a week."""
        self.cluster.api.observers.append(self._record)
        self.feed.watch(self.watched())
        self.scenario.setup(self.cluster)
        self.cluster.react()
        self.feed.begin()
        self._boot(0, 0.0)
        while self.clock.monotonic() < _HORIZON:
            if await self._round():
                continue
            if self.scenario.goal(self):
                return self.clock.monotonic()
            await self._pass_time(_STEP)
        return math.inf


def rolled(question: Question) -> Outcome:
    """Roll a fleet out, once."""
    fleets: list[TimedFleet] = []
    spec = rollout_object(
        [{"setWeight": 100}],
        canary={"capacity": question.capacity, "progressDeadline": "24h", "targetDeadline": None},
    )

    def setup(cluster: Cluster) -> None:
        fleet = TimedFleet(
            cluster, gpus=question.pods + question.spare, starts=question.starts, ends=question.ends
        )
        fleets.append(fleet)
        cluster.deployments = fleet
        base_objects(cluster, spec, pods=False)
        for pool, release in RELEASES.items():
            body = deployment_object(release, question.pods if pool == STABLE else 0)
            container = body["spec"]["template"]["spec"]["containers"][0]
            container["resources"] = {"limits": {"nvidia.com/gpu": "1"}}
            cluster.create(DEPLOYMENT, body)
        fleet.react(at_once=True)

    def gone(_: Simulation) -> bool:
        return fleets[0].held == question.pods

    goal = both(both(healthy_on(CANARY), settled(stable=0, canary=question.pods)), gone)
    scenario = Scenario(name="capacity study", setup=setup, moves=(), goal=goal, capacity=True)
    with virtual_time() as loop:

        async def whole() -> tuple[float, str]:
            simulation = _Timed(scenario, CLEAN, Assembler())
            seconds = await simulation.until_goal()
            status = simulation.status
            return seconds, f"{status.get('phase')} {status.get('reason', '')}: {status.get('message', '')}"

        seconds, end = loop.run_until_complete(whole())
    fleet = fleets[0]
    return Outcome(seconds=seconds, gpu_hours=fleet.gpu_seconds / 3600.0, most_gpus=fleet.most_held, end=end)
