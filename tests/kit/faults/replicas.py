"""Replicas of the pool's endpoint picker: what each goes by, and what its metrics page says of that.

A replica follows the stored object, until something befalls it. It answers for itself alone, and serves its part of the
requests, whatever the controller believes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction

from rollouts.controller.loaded_weights import Loads, differ, in_words
from rollouts.engine.observation import PickersView
from rollouts.engine.rollout_spec import PickerTraffic
from rollouts.objects.pods import PickerPod
from rollouts.runtime.objects import ObjectKey

__all__ = ["Mood", "Replica", "Replicas", "Split"]

Split = Mapping[str, Fraction]


class Mood(Enum):
    """What a replica does with the object that carries the weights."""

    FOLLOWS = "follows"
    STUCK = "its watch is broken, and it goes on by what it had"
    FORBIDDEN = "its role was taken away, which it says, and it goes on by what it had"
    MUTE = "its watch is broken, and its metrics page does not answer"
    OLD = "its image is of before there was the kind: every version gets as much"


@dataclass(slots=True)
class Replica:
    """One pod of the picker. ``split``: what it goes by."""

    mood: Mood = Mood.FOLLOWS
    split: Split = field(default_factory=dict)

    @property
    def knows_splits(self) -> bool | None:
        """What its page says of PoolSplits; None for no answer."""
        if self.mood is Mood.MUTE:
            return None
        return self.mood not in (Mood.OLD, Mood.FORBIDDEN)


class Replicas:
    """All replicas of one run; they outlive processes. It is also what asks them for the controller."""

    def __init__(self) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self.stored: Split = {}
        self.versions: set[str] = set()
        self.by_pod: dict[str, Replica] = {}

    def store(self, split: Split) -> None:
        """The traffic object says this from now on."""
        self.stored = split
        self.versions |= set(split)
        self._follow()

    def befall(self, pod: str, mood: Mood) -> None:
        """A replica, or one that joins, does otherwise from now on."""
        self.by_pod.setdefault(pod, Replica(split=self.stored)).mood = mood
        self._follow()
        self.on_change()

    def leave(self, pod: str) -> None:
        """A replica is gone."""
        self.by_pod.pop(pod, None)
        self.on_change()

    def _follow(self) -> None:
        for replica in self.by_pod.values():
            if replica.mood is Mood.FOLLOWS:
                replica.split = self.stored
            elif replica.mood is Mood.OLD:
                replica.split = {name: Fraction(1, len(self.versions)) for name in self.versions}

    def astray(self) -> dict[str, Split]:
        """Replicas that go by something else than what is stored."""
        return {
            pod: replica.split
            for pod, replica in self.by_pod.items()
            if self.stored and replica.split != self.stored
        }

    def mix(self, split: Split) -> Split:
        """What all of them make of it together, each with as many requests; ``split`` where none was named."""
        if not self.by_pod:
            return split
        found: dict[str, Fraction] = {}
        for replica in self.by_pod.values():
            for name, share in replica.split.items():
                found[name] = found.get(name, Fraction(0)) + share / len(self.by_pod)
        return found

    # --- as the controller asks ---

    def answers(self, namespace: str, pods: Sequence[PickerPod]) -> Mapping[str, bool | None]:
        """See ``SplitReaders``."""
        return {pod.name: self.by_pod.get(pod.name, Replica()).knows_splits for pod in pods}

    def view(
        self, key: ObjectKey, spec: PickerTraffic, pods: Sequence[PickerPod], stored: Loads
    ) -> PickersView:
        """See ``LoadedWeights``."""
        behind, silent = list[tuple[str, str]](), list[str]()
        for pod in pods:
            replica = self.by_pod.get(pod.name, Replica(split=self.stored))
            loads = (
                {}
                if replica.mood is Mood.OLD
                else {name: float(share) for name, share in replica.split.items()}
            )
            if replica.mood is Mood.MUTE:
                silent.append(pod.name)
            elif differ(loads, stored):
                behind.append((pod.name, f"goes by {in_words(loads)}" if loads else "has loaded no weights"))
        return PickersView(
            replicas=tuple(pod.name for pod in pods),
            behind=tuple(behind),
            silent=tuple(silent),
            stored=in_words(stored),
        )

    def forget(self, key: ObjectKey) -> None:
        """See ``LoadedWeights``."""
