"""What turns the noise of stable pods into the divisor of the evidence."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rollouts.analysis.evidence.collect import PodIncrement

__all__ = ["ArmMass", "Context", "Exposure", "strata"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What is known about one interval beyond its counts.

    `judge`: both arms present and nothing forbids learning about the canary; `certify`: the weight is high
    enough for a pass; `slack`: log growth of latency that unequal load per pod may explain; `coupled`: both
    arms run on the same pods, so compare inside each pod.
    """

    seconds: float
    judge: bool = True
    certify: bool = True
    slack: float = 0.0
    coupled: bool = False
    balanced: bool = True


class ArmMass:
    """Requests per pod of one arm, for the effective number of pods (sum n)^2 / sum n^2 (Kish 1965)."""

    __slots__ = ("_gone", "_pods", "pod_intervals", "total")

    def __init__(self) -> None:
        self._pods: dict[str, list[float]] = {}
        self._gone = 0.0
        self.total = 0.0
        self.pod_intervals = 0.0

    def add(self, rows: Iterable[tuple[str, int, float]]) -> None:
        """One interval: (pod, members, requests)."""
        for name, members, requests in rows:
            entry = self._pods.get(name)
            if entry is None:
                self._pods[name] = [requests, float(members)]
            else:
                entry[0] += requests
                entry[1] = float(members)
            self.total += requests
            self.pod_intervals += members

    def forget(self, name: str) -> None:
        """A pod is gone; its requests were still its own."""
        entry = self._pods.pop(name, None)
        if entry is not None:
            self._gone += entry[0] ** 2 / entry[1]

    @property
    def effective(self) -> float:
        """Effective number of pods, at least 1."""
        squares = self._gone
        for requests, members in self._pods.values():
            squares += requests * requests / members
        return max(self.total * self.total / squares, 1.0) if squares > 0 else 1.0

    def dump(self) -> list[object]:
        """Plain values for the checkpoint."""
        return [self._gone, self.total, self.pod_intervals, [[n, *v] for n, v in self._pods.items()]]

    def load(self, raw: Any) -> None:
        """Inverse of `dump`."""
        self._gone, self.total, self.pod_intervals, pods = raw
        self._pods = {row[0]: list(row[1:]) for row in pods}


class Exposure:
    """How the observations are spread over pods and arms since the attempt began."""

    __slots__ = ("canary", "coupled", "intervals", "stable")

    def __init__(self) -> None:
        self.stable = ArmMass()
        self.canary = ArmMass()
        self.intervals = 0
        self.coupled = False

    def add(
        self,
        canary: Iterable[tuple[str, int, float]],
        stable: Iterable[tuple[str, int, float]],
        coupled: bool,
    ) -> None:
        """One judged interval."""
        self.canary.add(canary)
        self.stable.add(stable)
        self.intervals += 1
        self.coupled = coupled

    def forget(self, arm: str, name: str) -> None:
        """A pod is gone."""
        (self.stable if arm == "stable" else self.canary).forget(name)

    @property
    def spread(self) -> float:
        """1/Kc + 1/Ks: what the variance of lasting pod shifts is multiplied by."""
        if self.coupled:
            return 1.0 / self.canary.effective
        return 1.0 / self.canary.effective + 1.0 / self.stable.effective

    def phi(self, phi: float) -> float:
        """Overdispersion for this split: phi - 1 grows with the requests a pod serves per interval.

        It was measured at n_s/Ks requests per stable pod; the comparison works at
        (1/Kc + 1/Ks) n_c n_s / N, which is n_c/Kc for a small canary.
        """
        n_c, n_s = self.canary.total, self.stable.total
        if self.coupled or n_c <= 0 or n_s <= 0:
            return phi
        k_c, k_s = self.canary.pod_intervals, self.stable.pod_intervals
        ratio = (1.0 / k_c + 1.0 / k_s) * n_c * n_s / (n_c + n_s) * k_s / n_s
        return 1.0 + (phi - 1.0) * min(max(ratio, 0.02), 4.0)

    def dump(self) -> list[object]:
        """Plain values for the checkpoint."""
        return [self.intervals, self.coupled, self.canary.dump(), self.stable.dump()]

    def load(self, raw: Any) -> None:
        """Inverse of `dump`."""
        self.intervals, self.coupled, canary, stable = raw
        self.canary.load(canary)
        self.stable.load(stable)


def strata(
    canary: list[PodIncrement], stable: list[PodIncrement], coupled: bool
) -> list[tuple[str, list[PodIncrement], list[PodIncrement]]]:
    """The strata of an interval: one for independent pods, one per shared pod where the arms are coupled."""
    if not coupled:
        return [("", canary, stable)]
    partners = {row.pod: row for row in stable}
    return [(row.pod, [row], [partners[row.pod]]) for row in canary if row.pod in partners]
