"""How the processes of both arms' pods live: restarts, and pods that refuse connections (design rule 3).

Restarts are the kubelet's count, or those that the pods' own metrics pages show (another start time, counters that
fell), whichever is more: a supervisor inside of a container restarts a server without the kubelet's notice. What the
pages showed lives in memory only; the counts that matter are in the Rollout's status.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rollouts.controller.pages import metrics_pages
from rollouts.engine.observation import CrashView
from rollouts.objects.pods import Pod
from rollouts.runtime.clock import Clock, Monotonic
from rollouts.runtime.objects import ObjectKey
from rollouts.sources.pods import REQUEST_NAMES
from rollouts.sources.scraper import START_TIME, PodHistory, PodScraper

__all__ = ["CrashSource", "CrashWatch", "KubeletCrashes"]

_TICK = 0.5
_NAMES = REQUEST_NAMES | {START_TIME}
_WINDOW = 60.0
"""Sampled every 2.5 s while nobody asks for more: so long may a crash that the kubelet does not see go unseen."""
_HURRY = 10.0
"""Seconds for which all are sampled every second once the canary seems gone."""
_RENEW = 60.0
"""Seconds after which followed pods are asked for again."""
_FRESH = 6.0
"""Seconds within which an answer of stable counts as given now: two samples."""


class CrashSource(Protocol):
    """Who knows how pods live."""

    def views(
        self,
        follower: ObjectKey,
        canary: Sequence[Pod],
        stable: Sequence[Pod],
        ports: tuple[Sequence[int], Sequence[int]],
    ) -> tuple[CrashView, CrashView]:
        """Of all pods of the canary and of stable, Ready or not, with the ports of their pools' processes."""
        ...

    def drop(self, follower: ObjectKey) -> None:
        """The follower needs nothing any more."""
        ...


class KubeletCrashes:
    """Only what the API server says: restarts, and never that connections are refused."""

    def views(
        self,
        follower: ObjectKey,
        canary: Sequence[Pod],
        stable: Sequence[Pod],
        ports: tuple[Sequence[int], Sequence[int]],
    ) -> tuple[CrashView, CrashView]:
        """See ``CrashSource.views``."""
        both = [
            CrashView(pods=len(arm), restarts=sum(pod.restarts for pod in arm)) for arm in (canary, stable)
        ]
        return both[0], both[1]

    def drop(self, follower: ObjectKey) -> None:
        """Nothing to forget."""


@dataclass(slots=True)
class _Followed:
    canary: list[PodHistory]
    stable: list[PodHistory]
    renewed: Monotonic
    told: tuple[bool, int] = (False, 0)
    """What the follower was told: whether the canary refuses, and how many restarts the pages showed."""
    silent: bool = False
    """The canary is: only then does time alone say something new."""


class CrashWatch:
    """Follows the pods' pages through the scraper. ``run`` works until cancelled.

    ``on_change`` is called with the key of a follower for whom something changed.
    """

    def __init__(self, scraper: PodScraper, clock: Clock) -> None:
        self.on_change: Callable[[ObjectKey], None] = lambda _: None
        self._scraper = scraper
        self._clock = clock
        self._followed: dict[ObjectKey, _Followed] = {}

    def views(
        self,
        follower: ObjectKey,
        canary: Sequence[Pod],
        stable: Sequence[Pod],
        ports: tuple[Sequence[int], Sequence[int]],
    ) -> tuple[CrashView, CrashView]:
        """See ``CrashSource.views``."""
        known = self._followed.get(follower)
        suspect = not any(pod.ready for pod in canary) or (known is not None and _silent(known.canary))
        hurry = _HURRY if suspect else 0.0
        followed = _Followed(
            canary=self._follow(follower, canary, ports[0], hurry),
            stable=self._follow(follower, stable, ports[1], hurry),
            renewed=self._clock.monotonic(),
        )
        followed.told, followed.silent = self._state(followed), _silent(followed.canary)
        self._followed[follower] = followed
        refusing = followed.told[0]
        return (
            CrashView(pods=len(canary), restarts=_restarts(canary, followed.canary), refusing=refusing),
            CrashView(pods=len(stable), restarts=_restarts(stable, followed.stable)),
        )

    def drop(self, follower: ObjectKey) -> None:
        """The follower needs nothing any more."""
        self._followed.pop(follower, None)

    async def run(self) -> None:
        """Tell followers of what the pages show; pods of a canary that falls silent are sampled in a hurry."""
        turns = -1
        while True:
            now, calm, turns = self._clock.monotonic(), turns == self._scraper.turns, self._scraper.turns
            for follower, followed in list(self._followed.items()):
                if not calm or followed.silent or now - followed.renewed > _RENEW:
                    self._look(follower, followed, now)
            await self._clock.sleep(_TICK)

    def _look(self, follower: ObjectKey, followed: _Followed, now: Monotonic) -> None:
        followed.silent = _silent(followed.canary)
        if followed.silent or now - followed.renewed > _RENEW:
            followed.renewed = now
            self._renew(followed, _HURRY if followed.silent else 0.0)
        state = self._state(followed)
        if state != followed.told:
            followed.told = state
            self.on_change(follower)

    def _renew(self, followed: _Followed, hurry: float) -> None:
        """The scraper forgets whom nobody asks about; a plan may be minutes away."""
        endpoints = [history.endpoint for history in (*followed.canary, *followed.stable)]
        self._scraper.follow(endpoints, _NAMES, _WINDOW, hurry=hurry)

    def _follow(
        self, follower: ObjectKey, pods: Sequence[Pod], ports: Sequence[int], hurry: float
    ) -> list[PodHistory]:
        endpoints = metrics_pages(pods, ports, follower.namespace)
        return self._scraper.follow(endpoints, _NAMES, _WINDOW, hurry=hurry)

    def _state(self, followed: _Followed) -> tuple[bool, int]:
        restarts = sum(history.restarts for history in (*followed.canary, *followed.stable))
        return _refusing(followed, self._clock.monotonic()), restarts


def _silent(canary: list[PodHistory]) -> bool:
    return bool(canary) and all(history.error and history.latest is not None for history in canary)


def _refusing(followed: _Followed, now: Monotonic) -> bool:
    """Every canary pod refuses and answered before, and a pod of stable answers now: it is not our network."""
    gone = bool(followed.canary) and all(pod.refused and pod.latest is not None for pod in followed.canary)
    return gone and any(
        not pod.error and pod.latest is not None and now - pod.latest[0] <= _FRESH for pod in followed.stable
    )


def _restarts(pods: Sequence[Pod], histories: list[PodHistory]) -> int:
    """Per pod the greatest count: one crash shows in the kubelet's, and on the page of each of its processes."""
    shown: dict[str, int] = {}
    for history in histories:
        pod = history.endpoint.owner
        shown[pod] = max(shown.get(pod, 0), history.restarts)
    return sum(max(pod.restarts, shown.get(pod.name, 0)) for pod in pods)
