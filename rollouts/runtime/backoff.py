"""Exponential back-off with jitter.

``BackoffPolicy`` is the arithmetic, ``Backoff`` the state of one thing that is retried. The reset rule is
that of client-go's reflector: not the first success ends a bad spell but a whole healthy minute, else a
server that accepts and drops connections is hammered at the lowest delay for ever.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from rollouts.runtime.clock import Monotonic

__all__ = ["Backoff", "BackoffPolicy", "bounded_wait"]

# 2 ** 64 seconds is beyond any maximum; a larger exponent would only overflow the float.
_MAX_EXPONENT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class BackoffPolicy:
    """Delays in seconds: ``initial``, times ``factor`` for each failure, at most ``maximum``.

    ``jitter`` spreads each delay uniformly over +-``jitter`` of itself (0.2: 80 % to 120 %).
    """

    initial: float = 0.8
    maximum: float = 30.0
    factor: float = 2.0
    jitter: float = 0.2

    def __post_init__(self) -> None:
        if not (0 < self.initial <= self.maximum and self.factor >= 1 and 0 <= self.jitter < 1):
            raise ValueError(
                f"{self} is not a back-off: need 0 < initial <= maximum, factor >= 1 and 0 <= jitter < 1"
            )

    def delay(self, failures: int, rng: random.Random) -> float:
        """Seconds to wait after the ``failures``-th failure in a row (counted from 1)."""
        exponent = min(max(failures - 1, 0), _MAX_EXPONENT)
        base = min(self.maximum, self.initial * self.factor**exponent)
        return base * (1 + self.jitter * (2 * rng.random() - 1))


class Backoff:
    """The back-off of one connection: grows with failures, resets after ``healthy_after`` seconds of health.

    Deterministic for a seeded ``rng``.
    """

    __slots__ = ("_healthy_after", "_healthy_since", "_policy", "_rng", "failures")

    def __init__(self, policy: BackoffPolicy, rng: random.Random, *, healthy_after: float = 60.0) -> None:
        self.failures = 0
        self._policy = policy
        self._rng = rng
        self._healthy_after = healthy_after
        self._healthy_since: Monotonic | None = None

    def healthy(self, now: Monotonic) -> None:
        """Note a sign of life. The first one starts the healthy spell."""
        if self._healthy_since is None:
            self._healthy_since = now

    def failed(self, now: Monotonic) -> float:
        """Note a failure; answers the seconds to wait before the next attempt."""
        if self._healthy_since is not None and now - self._healthy_since >= self._healthy_after:
            self.failures = 0
        self._healthy_since = None
        self.failures += 1
        return self._policy.delay(self.failures, self._rng)


def bounded_wait(seconds: float, maximum: float) -> float:
    """A server's Retry-After, made safe: within [0, ``maximum``], and 0 when it is not a finite number."""
    return min(max(seconds, 0.0), maximum) if math.isfinite(seconds) else 0.0
