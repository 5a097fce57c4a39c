"""A workload and its pods as plain values: pods come, hang, start, die and end, as the tests say."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from rollouts.engine.observation import Blocker, Drained, Draining, DrainView, WorkloadView

__all__ = ["Fleet", "PodState"]


class PodState(Enum):
    """Of one pod."""

    PENDING = "Pending"
    STARTING = "Starting"
    WARMING = "Warming"
    """Ready, and not warmed up yet."""
    READY = "Ready"
    ENDING = "Terminating"


@dataclass
class Fleet:
    """A Deployment: ``scale`` makes pods Pending and ends the newest; ``settle`` lets all of them come and go."""

    name: str
    replicas: int = 0
    pods: list[PodState] = field(default_factory=list)
    in_flight: int | None = 0
    managed_by: str = ""
    used_by: str = ""
    refused: str = ""
    drain: DrainView | None = None
    """What is said of a drain; None: what ``in_flight`` says."""
    problem: Blocker | None = None
    gone: bool = False
    """Its pool is: ``problem`` says so."""
    selector: str = ""
    warms: bool = False
    """Its fresh pods are cold."""
    warm_waiting: int = 0
    warm_problem: str = ""
    accelerators: int = 0
    stops: bool = False
    """It is stopped and started as a whole; stopped by us where the last write of ours said so."""
    """Of each pod."""
    version: int = 1
    scales: list[int] = field(default_factory=list)
    """What it was scaled to, in order."""

    @classmethod
    def of(cls, name: str, replicas: int) -> Fleet:
        """With all of its pods Ready."""
        return cls(name=name, replicas=replicas, pods=[PodState.READY] * replicas)

    @property
    def ready(self) -> int:
        """Ready pods."""
        return self.pods.count(PodState.READY)

    @property
    def live(self) -> int:
        """All of them."""
        return len(self.pods)

    @property
    def ending(self) -> int:
        """Those that are being deleted."""
        return self.pods.count(PodState.ENDING)

    @property
    def taken(self) -> int:
        """What it takes of the GPUs, or is about to."""
        return max(self.replicas, self.live)

    def view(self, *, asked: bool = False) -> WorkloadView:
        """As the controller would gather it. ``asked``: some of the pods are to drain."""
        if self.problem is not None:
            return WorkloadView(
                problem=self.problem,
                gone=self.gone,
                replicas=self.live - self.ending,
                live=self.live,
                selector=self.selector,
            )
        pending = self.pods.count(PodState.PENDING)
        return WorkloadView(
            what=f"{'Service' if self.stops else 'Deployment'} {self.name}",
            resource_version=str(self.version),
            replicas=self.replicas,
            live=self.live,
            pending=pending,
            words="0/2 nodes are available: 2 Insufficient nvidia.com/gpu." if pending else "",
            managed_by=self.managed_by,
            in_flight=self.in_flight if self.pods else 0,
            used_by=self.used_by,
            refused=self.refused,
            selector=self.selector,
            cold=sum(pod not in (PodState.READY, PodState.ENDING) for pod in self.pods) if self.warms else 0,
            warming=self.pods.count(PodState.WARMING),
            warm_waiting=self.warm_waiting,
            warm_problem=self.warm_problem,
            accelerators=self.accelerators * (self.live - pending),
            drain=self.drain if self.drain is not None else self._gauges(drained=asked),
            stops=self.stops,
            stopped_by_us=self.stops and not self.replicas and self.scales[-1:] == [0],
        )

    def _gauges(self, *, drained: bool) -> DrainView | None:
        """The pods' own, where nothing else was said."""
        if not drained:
            return None
        return Drained() if self.in_flight == 0 else Draining(pods=1, requests=self.in_flight)

    def scale(self, replicas: int) -> None:
        """Write the scale subresource; the Deployment's controller follows at once."""
        self.scales.append(replicas)
        self.replicas, self.version = replicas, self.version + 1
        self.follow()

    def follow(self) -> None:
        """As many pods as replicas: the missing ones begin, the youngest that are too many end."""
        alive = [index for index, pod in enumerate(self.pods) if pod is not PodState.ENDING]
        for index in alive[self.replicas :]:
            self.pods[index] = PodState.ENDING
        self.pods += [PodState.PENDING] * (self.replicas - len(alive))

    def move(self, index: int, state: PodState | None) -> None:
        """One pod becomes this; None: it is gone, and replaced where it is missed."""
        if state is None:
            del self.pods[index]
        else:
            self.pods[index] = state
        self.follow()

    def settle(self) -> None:
        """Every pod that comes is Ready, and every one that goes is gone."""
        self.pods = [PodState.READY for pod in self.pods if pod is not PodState.ENDING]
        self.follow()
