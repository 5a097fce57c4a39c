"""Which target a request gets: exact without a key, sticky with one.

Without a key the sequence of requests is split like the chairs of a union among its states (R. Tijdeman,
"The chairman assignment problem", Discrete Mathematics 32, 1980): after any number of requests every target
has had its exact share, give or take less than one request. One ``Diffusion`` lives per rule and replica.

With a key, weighted rendezvous hashing (Thaler and Ravishankar 1998; weights as in Schindelhauer and
Schomaker 2005) gives it to the target with the smallest ``-ln(u) / weight``, where ``u`` in (0, 1) is the
fixed hash of (key, target). Growing one target's share can only move keys to it: nobody who was on it
leaves. It needs no order among targets, no state and no agreement between replicas.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["SEED", "Diffusion", "SplitTarget", "sticky"]

SEED = b"inference-rollouts/1"
"""Part of every hash. Changing it moves every session to a new place: never do."""


_GRAIN = 1 << 20
"""Debts between epochs are rounded to this, or the integers would grow with every weight change."""


@dataclass(frozen=True, slots=True)
class SplitTarget:
    """A model name and its weight, a positive integer whose sum over the targets is the whole."""

    name: str
    weight: int


def sticky(targets: tuple[SplitTarget, ...], key: bytes) -> str:
    """The target of ``key``. At least one weight must be positive; a weight of 0 gets no key."""
    best, name = math.inf, ""
    for target in targets:
        if target.weight > 0:
            digest = hashlib.blake2b(key, digest_size=8, key=SEED, person=_person(target.name)).digest()
            # 53 bits and a half: strictly between 0 and 1, and exact in a float.
            unit = ((int.from_bytes(digest, "big") >> 11) + 0.5) * 2.0**-53
            score = -math.log(unit) / target.weight
            if score < best or (score == best and target.name < name):
                best, name = score, target.name
    return name


def _person(name: str) -> bytes:
    """The 16 bytes that make a target's hash its own."""
    cached = _PERSONS.get(name)
    if cached is None:
        if len(_PERSONS) >= 10_000:  # names come from objects, which come and go
            _PERSONS.clear()
        cached = _PERSONS[name] = hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=16).digest()
    return cached


_PERSONS: dict[str, bytes] = {}


class Diffusion:
    """Splits a sequence of requests exactly. Not thread-safe: one event loop owns it.

    A change of weights begins a new epoch: counting starts again. Where the same two targets stay, what is
    owed from the epoch before is carried over, so that the sum over all epochs is exact too; with more
    targets no rule can keep both (the carried debt of one could push another more than a request off).
    """

    __slots__ = ("_given", "_quota", "_slack", "_step", "_targets", "_total")

    def __init__(self, targets: tuple[SplitTarget, ...]) -> None:
        self._targets: tuple[SplitTarget, ...] = ()
        self._given: list[int] = []
        self._start(targets, {})

    @property
    def targets(self) -> tuple[SplitTarget, ...]:
        """The targets of this epoch with their weights."""
        return self._targets

    def update(self, targets: tuple[SplitTarget, ...]) -> bool:
        """New weights; whether an epoch began. None does when the proportions are as before."""
        if _proportions(targets) == _proportions(self._targets):
            return False
        self._start(targets, self._debts())
        return True

    def _start(self, targets: tuple[SplitTarget, ...], debts: Mapping[str, int]) -> None:
        """Begin an epoch. Debts are in units of 1 / _GRAIN request."""
        active = tuple(target for target in targets if target.weight > 0)
        if not active:
            raise ValueError("a split needs a target with a positive weight")
        unit = math.gcd(*(target.weight for target in active))
        carried = debts if len(active) == 2 and set(debts) == {target.name for target in active} else {}
        scale = _GRAIN if carried else 1
        self._targets = active
        # All figures are integers in units of 1 / _total request.
        self._quota = [target.weight // unit * scale for target in active]
        self._total = sum(self._quota)
        self._given = [-carried.get(target.name, 0) * self._total // _GRAIN for target in active]
        self._step = 0
        self._slack = 2 * len(active) - 2

    def _debts(self) -> dict[str, int]:
        """What each of two targets is still owed, in units of 1 / _GRAIN request; the two cancel out."""
        if len(self._targets) != 2:
            return {}
        owed = self._quota[0] * self._step - self._given[0]
        debt = owed * _GRAIN // self._total
        first, second = self._targets
        return {first.name: debt, second.name: -debt}

    def take(self) -> str:
        """The target of the next request."""
        self._step += 1
        total, slack = self._total, self._slack
        if slack == 0:
            return self._targets[0].name
        chosen = 0
        best: tuple[int, int] | None = None  # deadline as a fraction, the smallest wins
        for index, (quota, given) in enumerate(zip(self._quota, self._given, strict=True)):
            owed = quota * self._step - given
            if slack * owed < total:
                continue  # giving it one now would put it more than its bound ahead
            left = (slack - 1) * total - slack * owed
            if best is None or left * best[1] < best[0] * quota:
                best, chosen = (left, quota), index
        self._given[chosen] += total
        if self._step == total:  # all debts are as at the start: keeps the integers small
            self._given = [
                given - quota * total for given, quota in zip(self._given, self._quota, strict=True)
            ]
            self._step = 0
        return self._targets[chosen].name


def _proportions(targets: tuple[SplitTarget, ...]) -> frozenset[tuple[str, int]]:
    active = [target for target in targets if target.weight > 0]
    unit = math.gcd(*(target.weight for target in active)) or 1
    return frozenset((target.name, target.weight // unit) for target in active)
