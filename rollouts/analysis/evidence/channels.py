"""What every test of a metric does with its channels, whatever it bets on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from rollouts.analysis.evidence.channel import Channel
from rollouts.analysis.evidence.effect import Pace
from rollouts.analysis.evidence.noise import Exposure

__all__ = ["ChannelTest", "Shown"]


@dataclass(frozen=True, slots=True)
class Shown:
    """The channel whose shift people read: ``slope`` is shift per unit of natural log, the rest its noise."""

    channel: Channel
    slope: float
    phi: float
    sigma2: float


class ChannelTest(ABC):
    """A test whose evidence lies in channels; the noise of the first one tells how many pods are known."""

    warning: str = ""
    """What keeps the metric from being judged, empty when nothing does."""

    def __init__(self) -> None:
        self.exposure = Exposure()

    @property
    @abstractmethod
    def _channels(self) -> tuple[Channel, ...]: ...

    @property
    @abstractmethod
    def _shown(self) -> Shown: ...

    def part(self, start: int) -> str:
        """Which part of the metric holds the evidence since a start, empty where there is only one."""
        return ""

    @property
    def requests(self) -> tuple[float, float]:
        """Requests (of gauges: blocks of pods) judged so far, canary and stable."""
        return self.exposure.canary.total, self.exposure.stable.total

    @property
    def log_tau2(self) -> float:
        """Variance of lasting pod differences in squared natural log units."""
        shown = self._shown
        return shown.channel.dispersion.tau2(shown.slope) / shown.slope**2

    @property
    def settled_log_tau2(self) -> float:
        """The same as far as it is settled, for what is said to be impossible."""
        shown = self._shown
        return shown.channel.dispersion.settled_tau2(shown.slope) / shown.slope**2

    @property
    def phi(self) -> float:
        """Overdispersion in use."""
        return self._shown.phi

    @property
    def noise_pods(self) -> int:
        """How many pods the noise estimate rests on; 0 means priors alone."""
        return self._channels[0].dispersion.pods

    @property
    def pace(self) -> Pace:
        """What a forecast starts from."""
        shown = self._shown
        return Pace(info=shown.channel.info, slope=shown.slope, phi=shown.phi, sigma2=shown.sigma2)

    def restart(self) -> None:
        """Begin another start."""
        for channel in self._channels:
            channel.restart()

    def retire(self) -> None:
        """Drop the oldest restart."""
        for channel in self._channels:
            channel.retire()

    def forget(self, arm: str, pod: str) -> None:
        """A pod is gone."""
        self.exposure.forget(arm, pod)
        if arm == "stable":
            for channel in self._channels:
                channel.dispersion.forget(pod)
