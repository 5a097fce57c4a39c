"""Clients that ask at a rate, a gateway that splits by the stored traffic object, and pods that count.

What reached whom is integrated from the stored objects alone, whatever the controller believes: it is both what the
controller may count, and what the oracle knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from rollouts.api.parsing import ParsedRollout
from rollouts.controller.arrivals import CANARY, STABLE, Arrivals, Reading
from rollouts.engine.observation import ShareView
from rollouts.engine.rollout_spec import PickerTraffic
from rollouts.runtime.clock import Clock, Monotonic
from rollouts.runtime.objects import ObjectKey
from rollouts.units import FULL, ZERO, Weight
from tests.kit.faults.endstate import weights_of
from tests.kit.faults.history import Record
from tests.kit.faults.replicas import Mood, Replicas

__all__ = ["Clients", "CountedShares"]

_RATE = 20.0


class Clients:
    """Requests and where they went; ``change`` is what scenarios do to them."""

    def __init__(self) -> None:
        self.rate = _RATE
        """Requests a second."""
        self.splits = True
        """False: a gateway that accepts two pools in a rule, and goes on with what it had."""
        self.only = ""
        """A backend that gets every request, whatever was stored; empty: as was stored."""
        self.lag = 0.0
        """Seconds until the gateway does what was stored; its report on the route does not wait for that."""
        self.breaks_above = Fraction(1)
        """Canary share (of the lesser weight) above which no request reaches anybody."""
        self.countable = True
        """Whether anybody can count."""
        self.replicas = Replicas()
        """Of the picker, where that splits; none of them is named while all follow what is stored."""
        self._asked: dict[str, Fraction] = {}
        self._split: dict[str, Fraction] = {}
        self._late: list[tuple[float, dict[str, Fraction]]] = []
        self._served: dict[str, float] = {}
        self._at = 0.0

    def change(self, seconds: float, **changes: Any) -> None:
        """From this moment on it is otherwise."""
        self._pass(seconds)
        for name, value in changes.items():
            setattr(self, name, value)
        self._program()

    def take(self, record: Record) -> None:
        """A traffic object was stored."""
        self._pass(record.seconds)
        # These clients send no header, and ask for what the first rule serves.
        plain = next((dict(rule) for rule in weights_of(record.after, marked=False) if rule), {})
        total = sum(plain.values())
        self._asked = {name: Fraction(value, total) for name, value in plain.items()} if total else {}
        self.replicas.store(self._asked)
        self._program()

    def befall(self, seconds: float, pod: str, mood: Mood | None) -> None:
        """A replica of the picker does otherwise from this moment on, joins, or leaves (None)."""
        self._pass(seconds)
        if mood is None:
            self.replicas.leave(pod)
        else:
            self.replicas.befall(pod, mood)
        self._program()

    def _program(self) -> None:
        carrying = [share for share in self._asked.values() if share]
        if self.only:
            self._late.append((self._at, {self.only: Fraction(1)}))
        elif self.splits or len(carrying) < 2:
            self._late.append((self._at + self.lag, dict(self.replicas.mix(self._asked))))

    def _pass(self, seconds: float) -> None:
        """What was in force until then; what the gateway has not done yet it does in the order of its moments."""
        while self._late and self._late[0][0] <= max(seconds, self._at):
            moment, split = self._late.pop(0)
            self._serve(moment)
            self._split = split
        self._serve(seconds)

    def _serve(self, seconds: float) -> None:
        least = min((share for share in self._split.values() if share), default=Fraction(0))
        lost = len([share for share in self._split.values() if share]) > 1 and least > self.breaks_above
        for name, share in self._split.items():
            rate = 0.0 if lost else self.rate * float(share)
            self._served[name] = self._served.get(name, 0.0) + rate * max(0.0, seconds - self._at)
        self._at = max(self._at, seconds)

    def served(self, seconds: float) -> Mapping[str, float]:
        """Requests that reached each backend so far."""
        self._pass(seconds)
        return dict(self._served)

    def share(self, name: str, other: str) -> Weight:
        """The part that the first has of both, as it is in force, or in the replica that is farthest from it."""
        splits = [self._split] + [
            replica.split for replica in self.replicas.by_pod.values() if replica.mood is not Mood.MUTE
        ]
        found = [_part(split, name, other) for split in splits]
        return max(found, key=lambda share: abs(share - _part(self.replicas.stored, name, other)))


def _part(split: Mapping[str, Fraction], name: str, other: str) -> Weight:
    both = sum(split.get(key, Fraction(0)) for key in (name, other))
    return Weight(round(split.get(name, Fraction(0)) / (both or Fraction(1)) * FULL))


class CountedShares:
    """``ShareSource`` of one process: counts what reached each arm, with nothing from before its start."""

    def __init__(self, clock: Clock, clients: Clients) -> None:
        self._clock = clock
        self._clients = clients
        self._counts: dict[ObjectKey, tuple[tuple[str, int], Arrivals]] = {}

    def view(
        self, key: ObjectKey, parsed: ParsedRollout, spec: PickerTraffic | None = None
    ) -> ShareView | None:
        """See ``ShareSource``."""
        status = parsed.status
        if status.canary is None or status.stable is None or not self._clients.countable:
            self._counts.pop(key, None)
            return None
        attempt, now = (status.canary.hash, status.attempt), self._clock.monotonic()
        known = self._counts.get(key)
        if known is None or known[0] != attempt:
            known = self._counts[key] = (attempt, Arrivals(now))
        arrivals, served = known[1], self._clients.served(now)
        names = {CANARY: status.canary.identity.name, STABLE: status.stable.identity.name}
        readings = [Reading(Monotonic(now), arm, name, served.get(name, 0.0)) for arm, name in names.items()]
        arrivals.take(readings, now)
        arrivals.enter(status.weight.applied or ZERO)
        present = arrivals.present()
        return ShareView(
            canary=present.canary,
            stable=present.stable,
            seconds=arrivals.seconds,
            earlier=arrivals.earlier(),
            later=arrivals.later(),
            loaded=None if spec is None else self._clients.share(names[CANARY], names[STABLE]),
            path=arrivals.path(),
        )
